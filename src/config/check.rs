//! What the types of the configuration cannot say.

use std::net::SocketAddr;
use std::time::Duration;

use super::place::Place;
use super::{ConfigError, Pin, Settings, Wire, fleet, runs};

impl Place<'_> {
    fn duration(
        &self,
        key: &str,
        given: Option<&str>,
        default: Duration,
    ) -> Result<Duration, ConfigError> {
        let Some(text) = given else { return Ok(default) };
        let bounds = Duration::from_millis(10)..=Duration::from_hours(24 * 366);
        match humantime::parse_duration(text) {
            Ok(found) if bounds.contains(&found) => Ok(found),
            Ok(_) => Err(self.error(key, format!("found `{text}`, expected 10ms to 366days"))),
            Err(_) => Err(self
                .error(key, format!("found `{text}`, expected a duration such as 30s, 5m or 24h"))),
        }
    }

    pub(super) fn count(
        &self,
        key: &str,
        given: Option<usize>,
        default: usize,
        bounds: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, ConfigError> {
        match given {
            None => Ok(default),
            Some(found) if bounds.contains(&found) => Ok(found),
            Some(found) => Err(self.error(
                key,
                format!("found {found}, expected {} to {}", bounds.start(), bounds.end()),
            )),
        }
    }

    /// A part of a whole, more than nothing of it.
    fn part(&self, key: &str, given: Option<f64>, default: f64) -> Result<f64, ConfigError> {
        match given {
            None => Ok(default),
            Some(found) if found > 0.0 && found <= 1.0 => Ok(found),
            Some(found) => {
                Err(self.error(key, format!("found {found}, expected more than 0, at most 1")))
            }
        }
    }

    fn ks(
        &self,
        key: &str,
        given: Option<Vec<usize>>,
        default: Vec<usize>,
    ) -> Result<Vec<usize>, ConfigError> {
        let Some(ks) = given else { return Ok(default) };
        let rising = ks.windows(2).all(|two| two[0] < two[1]);
        let sound = rising && ks.iter().all(|k| (1..=256).contains(k)) && ks.len() <= 16;
        if sound {
            return Ok(ks);
        }
        Err(self
            .error(key, format!("found {ks:?}, expected at most 16 rising numbers from 1 to 256")))
    }
}

impl Place<'_> {
    fn address(
        &self,
        key: &str,
        given: Option<&str>,
        default: SocketAddr,
    ) -> Result<SocketAddr, ConfigError> {
        let Some(text) = given else { return Ok(default) };
        text.parse().map_err(|_| {
            let found = format!("found `{text}`, ");
            self.error(key, found + "expected ADDRESS:PORT such as 127.0.0.1:10717")
        })
    }

    /// A size in bytes within the bounds, which are told in words as well.
    fn size(
        &self,
        key: &str,
        given: Option<&str>,
        (bounds, expected): &(std::ops::RangeInclusive<u64>, &str),
    ) -> Result<Option<u64>, ConfigError> {
        let Some(text) = given else { return Ok(None) };
        match text.parse::<bytesize::ByteSize>() {
            Ok(size) if bounds.contains(&size.as_u64()) => Ok(Some(size.as_u64())),
            _ => Err(self.error(key, format!("found `{text}`, {expected}"))),
        }
    }
}

impl Place<'_> {
    /// Bytes a second, `None` for as many as there are.
    fn rate(
        &self,
        key: &str,
        given: Option<&str>,
        default: Option<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let expected = "expected bytes a second, 1MiB to 1TiB such as 200MiB, or none";
        match given {
            Some("none") => Ok(None),
            given => Ok(self.size(key, given, &(1 << 20..=1 << 40, expected))?.or(default)),
        }
    }
}

/// Names of hosts without their ports, in lower case.
fn hosts(given: Option<Vec<String>>, at: &Place<'_>) -> Result<Vec<String>, ConfigError> {
    let host = |name: String| {
        let is_in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || !name.chars().all(is_in_name) {
            let expected = "expected a name without port such as metrics.example.org";
            return Err(at.error("allowed_hosts", format!("found `{name}`, {expected}")));
        }
        Ok(name.to_ascii_lowercase())
    };
    given.unwrap_or_default().into_iter().map(host).collect()
}

/// Whether the last good saves are kept, which needs a place.
fn pin(wire: &Wire, default: Pin, at: &Place<'_>) -> Result<Pin, ConfigError> {
    let pin = wire.pin.unwrap_or(default);
    if pin == Pin::Hardlink && wire.pin_dir.is_none() {
        return Err(at.error("pin", "found hardlink without pin_dir, expected both".into()));
    }
    Ok(pin)
}

/// How long a save must have been quiet: with a sign of completion, without one, and that on network
/// file systems.
fn waits(
    wire: &Wire,
    default: &Settings,
    at: &Place<'_>,
) -> Result<(Duration, Duration, Duration), ConfigError> {
    let duration =
        |key, given: &Option<String>, default| at.duration(key, given.as_deref(), default);
    let quiet = duration("quiet", &wire.quiet, default.quiet)?;
    let settle = duration("settle", &wire.settle, default.settle)?;
    let settle_network = duration("settle_network", &wire.settle_network, default.settle_network)?;
    for (key, wait) in [("settle", settle), ("settle_network", settle_network)] {
        if wait < quiet {
            let found = humantime::format_duration(wait);
            let least = humantime::format_duration(quiet);
            return Err(
                at.error(key, format!("found {found}, expected no less than quiet, {least}"))
            );
        }
    }
    Ok((quiet, settle, settle_network))
}

/// The settings that a file means.
pub(super) fn checked(wire: Wire, at: &Place<'_>) -> Result<Settings, ConfigError> {
    let default = Settings::default();
    let sizes = (16 << 20..=1 << 40, "expected a size of 16MiB to 1TiB such as 1GiB");
    let memory_limit = at.size("memory_limit", wire.memory_limit.as_deref(), &sizes)?;
    let warm_limit = at.size("warm_limit", wire.warm_limit.as_deref(), &sizes)?;
    let history_limit = at.size("history_limit", wire.history_limit.as_deref(), &sizes)?;
    let io_limit = at.rate("io_limit", wire.io_limit.as_deref(), default.io_limit)?;
    let duration =
        |key, given: &Option<String>, default| at.duration(key, given.as_deref(), default);
    let (quiet, settle, settle_network) = waits(&wire, &default, at)?;
    let pin = pin(&wire, default.pin, at)?;
    let (shard, total_shards) = fleet::shards(wire.shard, wire.total_shards, at)?;
    let anomalies = runs::rules(wire.anomalies, &default.anomalies, at)?;
    Ok(Settings {
        listen: at.address("listen", wire.listen.as_deref(), default.listen)?,
        web_config_file: wire.web_config_file,
        basic_auth_without_tls: wire
            .basic_auth_without_tls
            .unwrap_or(default.basic_auth_without_tls),
        allowed_hosts: hosts(wire.allowed_hosts, at)?,
        roots: wire.roots.unwrap_or(default.roots),
        state_dir: wire.state_dir,
        textfile: wire.textfile,
        sandbox: wire.sandbox.unwrap_or(default.sandbox),
        scan_interval: duration("scan_interval", &wire.scan_interval, default.scan_interval)?,
        scan_interval_network: duration(
            "scan_interval_network",
            &wire.scan_interval_network,
            default.scan_interval_network,
        )?,
        quiet,
        settle,
        settle_network,
        max_depth: at.count("max_depth", wire.max_depth, default.max_depth, 1..=16)?,
        threads: at.count("threads", wire.threads, default.threads, 1..=64)?,
        priority: wire.priority.unwrap_or(default.priority),
        io_limit,
        pressure_limit: at.part("pressure_limit", wire.pressure_limit, default.pressure_limit)?,
        memory_limit: memory_limit.unwrap_or(default.memory_limit),
        warm_limit: warm_limit.unwrap_or(default.warm_limit),
        history_limit: history_limit.unwrap_or(default.history_limit),
        history_age: duration("history_age", &wire.history_age, default.history_age)?,
        exact_limit: at.count("exact_limit", wire.exact_limit, default.exact_limit, 16..=16_384)?,
        k: at.ks("k", wire.k, default.k)?,
        rotation_k: at.ks("rotation_k", wire.rotation_k, default.rotation_k)?,
        series_limit: at.count(
            "series_limit",
            wire.series_limit,
            default.series_limit,
            100..=1_000_000,
        )?,
        idle_after: duration("idle_after", &wire.idle_after, default.idle_after)?,
        forget_after: duration("forget_after", &wire.forget_after, default.forget_after)?,
        architectures_dir: wire.architectures_dir,
        bases: wire.bases.unwrap_or(default.bases),
        pin,
        pin_dir: wire.pin_dir,
        reference: runs::reference(wire.reference.as_deref(), at)?,
        labels: fleet::labels(wire.labels, at)?,
        shard,
        total_shards,
        runs: runs::runs(wire.runs, &anomalies, at)?,
        anomalies,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::DEFAULTS_FILE;
    use crate::history::Jump;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("w.yaml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn the_shipped_file_holds_every_key_and_equals_the_defaults() {
        assert_eq!(parse(DEFAULTS_FILE), Ok(Settings::default()));
        // A key that is commented out still has to be one: uncommented, every line must parse.
        let uncommented: String = DEFAULTS_FILE
            .lines()
            .filter_map(|l| l.strip_prefix("#: ").or((!l.starts_with('#')).then_some(l)))
            .fold(String::new(), |all, line| all + line + "\n");
        assert!(parse(&uncommented).is_ok(), "{:?}", parse(&uncommented));
        let wire: serde_yaml::Value = serde_yaml::from_str(&uncommented).unwrap();
        let keys = wire.as_mapping().unwrap().len();
        // One key a field: serde names the expected ones when it meets a foreign one.
        let message = parse("no_such_key: 1").unwrap_err();
        let known = message.matches('`').count() / 2 - 1;
        assert_eq!(keys, known, "{message}");
    }

    #[test]
    fn the_first_entry_that_matches_a_run_counts() {
        let settings = parse(concat!(
            "anomalies: {z: 10, plateau: false, scale_jump: 0.2}\n",
            "reference: base-*\n",
            "runs:\n",
            "- match: llama-*\n",
            "  optimizer: {name: SGD, weight_decay: 0.1}\n",
            "  reference: llama-base\n",
            "  anomalies: {alignment_drop: false, plateau: true, z: 6}\n",
            "- match: '*'\n",
        ));
        let settings = settings.unwrap();
        let rules = &settings.anomalies;
        assert_eq!(rules.alignment_drop, Some(Jump { least: 0.04, z: 10.0 }));
        assert_eq!(rules.scale_jump, Some(Jump { least: 0.2, z: 10.0 }));
        assert_eq!((rules.plateau, rules.ridge_stall), (None, Some(0.5)));
        let llama = settings.of_run("llama-7b/seed-1").unwrap();
        assert_eq!(llama.optimizer.as_ref().unwrap().name, "sgd");
        assert_eq!(llama.anomalies.scale_jump, Some(Jump { least: 0.2, z: 6.0 }));
        assert_eq!((llama.anomalies.alignment_drop, llama.anomalies.plateau), (None, Some(0.01)));
        assert_eq!(settings.of_run("gpt").unwrap().anomalies, *rules);
        assert_eq!(parse("{}").unwrap().of_run("gpt"), None);
        let reference = |name: &str| settings.reference_of(name).map(ToString::to_string);
        assert_eq!(reference("llama-7b").as_deref(), Some("llama-base"));
        assert_eq!(reference("gpt").as_deref(), Some("base-*"));
    }

    #[test]
    fn labels_are_text_however_they_are_written() {
        let settings = parse("labels: {job: 4711, dry: true, team: a b}\n").unwrap();
        let labels: Vec<_> = settings.labels.iter().collect();
        assert_eq!(labels, [("dry", "true"), ("job", "4711"), ("team", "a b")]);
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        for text in ["", "# nothing\n", "---\n"] {
            assert_eq!(parse(text), Ok(Settings::default()), "{text:?}");
        }
    }

    #[test]
    fn errors_name_file_line_key_and_expectation() {
        let check = |text: &str, wanted: &[&str]| {
            let message = parse(text).unwrap_err();
            for part in wanted {
                assert!(message.contains(part), "{text:?}: {message:?} lacks {part:?}");
            }
            assert!(!message.contains('\n'), "{message:?}");
        };
        check("threads: 1\nquiett: 2s\n", &["w.yaml:2", "quiett", "expected"]);
        check("quiet: soon\n", &["w.yaml:1: quiet", "soon", "30s"]);
        check("\nthreads: 0\n", &["w.yaml:2: threads", "found 0", "1 to 64"]);
        check("k: [4, 2]\n", &["w.yaml:1: k", "[4, 2]", "rising"]);
        check("listen: 10717\n", &["w.yaml:1", "listen"]);
        check("listen: here\n", &["w.yaml:1: listen", "here", "ADDRESS:PORT"]);
        check("memory_limit: 1MiB\n", &["w.yaml:1: memory_limit", "16MiB"]);
        check("threads: many\n", &["w.yaml:1", "threads", "many"]);
        check("threads: 1\n\nthreads: 2\n", &["w.yaml:3", "duplicate", "threads"]);
        check("settle: 1s\nquiet: 5s\n", &["w.yaml:1: settle", "found 1s", "5s"]);
        check("max_depth: -1\n", &["w.yaml:1", "max_depth", "whole number"]);
        check("[]\n", &["w.yaml:1", "key: value"]);
        check("memory_limit: 99999999TiB\n", &["w.yaml:1: memory_limit", "1TiB"]);
        check("k: [1, 2\n", &["w.yaml"]);
        check("anomalies:\n  z: 0.5\n", &["w.yaml:2: z", "found 0.5", "1 to 1e6"]);
        check("anomalies:\n  plateau: high\n", &["w.yaml:2: plateau", "`high`", "false or"]);
        check("anomalies:\n  plateau: -1\n", &["w.yaml:2: plateau", "`-1`", "above 0"]);
        check("anomalies:\n  plateaus: 1\n", &["w.yaml:2", "plateaus", "expected"]);
        check("runs:\n- match: '[a'\n", &["w.yaml:2: match", "`[a`", "name of a run"]);
        check("reference: '[a'\n", &["w.yaml:1: reference", "`[a`", "name of a run"]);
        check("pin: hardlink\n", &["w.yaml:1: pin", "without pin_dir", "expected both"]);
        check("pin: copy\n", &["w.yaml:1", "copy", "hardlink"]);
        check(
            "allowed_hosts: ['a.b:80']\n",
            &["w.yaml:1: allowed_hosts", "`a.b:80`", "without port"],
        );
        check("allowed_hosts: a.b\n", &["w.yaml:1", "a.b", "expected a list"]);
        check("basic_auth_without_tls: yes please\n", &["w.yaml:1", "yes please"]);
        check("runs:\n- anomalies: {}\n", &["w.yaml", "match"]);
        check("labels: {run: a}\n", &["w.yaml:1: labels", "`run`", "own series"]);
        check("labels: {__a: b}\n", &["w.yaml:1: labels", "`__a`", "begin with __"]);
        check("labels:\n  job: [1]\n", &["w.yaml:1: labels", "`job`", "name: value"]);
        check("labels: [job]\n", &["w.yaml:1", "labels"]);
        check("total_shards: 0\n", &["w.yaml:1: total_shards", "found 0", "1 to 1024"]);
        check("total_shards: 3\nshard: 3\n", &["w.yaml:2: shard", "found 3", "which is 3"]);
        let sgd = "runs:\n- match: a\n  optimizer: {name: SGD}\n- match: b\n  optimizer:\n";
        check(
            &format!("{sgd}    name: sgd\n    momentum: 1\n"),
            &["w.yaml:7: momentum", "found 1", "less than 1"],
        );
        check(&"[".repeat(2000), &["w.yaml"]);
    }
}
