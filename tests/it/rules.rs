//! The alert rules and their surroundings in `config/prometheus`, as Prometheus' and Alertmanager's own
//! tools read them, and what these do not check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use weightvane::metrics::{CATALOG, Family, Tier};

/// Where an alert leads; its name in lower case comes after the `#`.
const RUNBOOK: &str =
    "https://github.com/weightvane/weightvane/blob/main/config/prometheus/RUNBOOK.md";

#[derive(Deserialize)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: Option<String>,
    expr: String,
    keep_firing_for: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct TestFile {
    tests: Vec<TestGroup>,
}

#[derive(Deserialize)]
struct TestGroup {
    alert_rule_test: Vec<AlertTest>,
}

#[derive(Deserialize)]
struct AlertTest {
    alertname: String,
    exp_alerts: Vec<serde_yaml::Value>,
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(dir().join(name)).unwrap()
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    serde_yaml::from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn rules() -> Vec<Rule> {
    let file: RuleFile = read("weightvane.rules.yml");
    file.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// Alerts by name.
fn alerts() -> BTreeMap<String, Rule> {
    let named = rules().into_iter().filter_map(|mut rule| Some((rule.alert.take()?, rule)));
    named.collect()
}

/// Files of unit tests, below the directory.
fn tests() -> Vec<String> {
    let entries = std::fs::read_dir(dir().join("tests")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut tests: Vec<String> = names.map(|name| format!("tests/{name}")).collect();
    tests.sort();
    assert!(!tests.is_empty());
    tests
}

/// What a tool prints when it succeeds, `None` where it is not here; that is a failure with
/// `WEIGHTVANE_REQUIRE_PROMTOOL=1`.
fn tool(program: &str, args: &[&str]) -> Option<String> {
    let out = match Command::new(program).args(args).current_dir(dir()).output() {
        Ok(out) => out,
        Err(error) => {
            let required = std::env::var("WEIGHTVANE_REQUIRE_PROMTOOL").is_ok_and(|v| v == "1");
            assert!(!required, "{program} is required: {error}");
            not_checked(&format!("{program} is not here: {error}"));
            return None;
        }
    };
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {said}");
    Some(said)
}

/// Says what was not checked, past the capture of the test runner.
#[expect(clippy::explicit_write, reason = "eprintln! is captured where the test passes")]
fn not_checked(reason: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "not checked: {reason}").unwrap();
}

#[test]
fn promtool_finds_nothing_in_rules_and_configuration() {
    let lint = ["--lint=all", "--lint-fatal"];
    tool("promtool", &["check", "rules", lint[0], lint[1], "weightvane.rules.yml"]);
    tool("promtool", &["check", "config", lint[0], lint[1], "prometheus.yml"]);
}

#[test]
fn alerts_fire_hold_and_resolve_as_their_tests_say() {
    let files = tests();
    let args = ["test", "rules"].into_iter().chain(files.iter().map(String::as_str));
    tool("promtool", &args.collect::<Vec<_>>());
}

#[test]
fn every_alert_has_a_test_that_it_fires_and_one_that_it_does_not() {
    let mut fires: BTreeMap<String, [bool; 2]> =
        alerts().into_keys().map(|name| (name, [false; 2])).collect();
    for file in tests() {
        let file: TestFile = read(&file);
        for test in file.tests.into_iter().flat_map(|group| group.alert_rule_test) {
            let of = fires.get_mut(&test.alertname);
            let of = of.unwrap_or_else(|| panic!("no alert {}", test.alertname));
            of[usize::from(test.exp_alerts.is_empty())] = true;
        }
    }
    let lacking: Vec<_> = fires.into_iter().filter(|(_, of)| *of != [true; 2]).collect();
    assert!(lacking.is_empty(), "[fires, does not]: {lacking:?}");
}

#[test]
fn every_alert_says_what_it_is_and_where_to_read_on() {
    for (name, alert) in alerts() {
        assert!(name.starts_with("Weightvane"), "{name}");
        let severity = alert.labels.get("severity").map(String::as_str);
        assert!(matches!(severity, Some("critical" | "warning")), "{name}: {severity:?}");
        let summary = &alert.annotations["summary"];
        // Alerts that are grouped have one summary.
        assert!(!summary.contains("{{") && summary.ends_with('.'), "{name}: {summary}");
        let description = &alert.annotations["description"];
        let labels = ["run", "instance", "job"].map(|label| format!("$labels.{label}"));
        let says = labels.iter().any(|label| description.contains(label));
        assert!(says || name == "WeightvaneAbsent", "{name}: of what? {description}");
        // Label values come with quotes and backslashes.
        assert!(!description.contains("'%s'") && !description.contains("\\\"%s"), "{name}");
        let url = format!("{RUNBOOK}#{}", name.to_lowercase());
        assert_eq!(alert.annotations["runbook_url"], url, "{name}");
    }
}

#[test]
fn every_alert_has_its_section_in_the_runbook_and_every_section_its_alert() {
    let runbook = text("RUNBOOK.md");
    let sections: Vec<_> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let unique: BTreeSet<_> = sections.iter().copied().map(str::to_owned).collect();
    assert_eq!(unique, alerts().into_keys().collect());
    assert_eq!(unique.len(), sections.len());
    for section in runbook.split("\n## ").skip(1) {
        let (name, body) = section.split_once('\n').unwrap();
        let severity = &alerts()[name].labels["severity"];
        let said = body.trim_start().to_lowercase();
        assert!(said.starts_with(severity.as_str()), "{name} is {severity}");
    }
}

/// What stands between quotes in the runbook is a panel, or one of these.
#[test]
fn panels_that_the_runbook_names_exist() {
    const OTHERS: [&str; 6] = [
        "Weightvane / Run",
        "Weightvane / Fleet",
        "Targets",
        "NAME",
        "resolved",
        "Resume from the last good save",
    ];
    let mut titles = BTreeSet::new();
    for board in ["run", "fleet"] {
        let path = format!("../../grafana/weightvane-{board}.json");
        let board: serde_json::Value = serde_json::from_str(&text(&path)).unwrap();
        let panels = board["panels"].as_array().unwrap();
        let of_panels = panels.iter().filter_map(|panel| panel["title"].as_str());
        // What a panel is of stands behind a colon.
        titles.extend(of_panels.map(|title| title.split(':').next().unwrap().to_owned()));
    }
    let words: Vec<_> = text("RUNBOOK.md").split_whitespace().map(str::to_owned).collect();
    let words = words.join(" ");
    let quoted: Vec<_> = words.split('"').skip(1).step_by(2).collect();
    assert!(quoted.len() > 10, "{quoted:?}");
    let unknown: Vec<_> =
        quoted.into_iter().filter(|q| !titles.contains(*q) && !OTHERS.contains(q)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Queries over every layer of every run are slow.
#[test]
fn expressions_ask_no_metric_of_layers() {
    let layers = CATALOG.iter().filter(|family| family.tier == Tier::Layer);
    let layers: Vec<_> = layers.map(Family::full_name).collect();
    for rule in rules() {
        let words = rule.expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let slow: Vec<_> = words.filter(|word| layers.iter().any(|name| name == word)).collect();
        assert!(slow.is_empty(), "{slow:?} in {}", rule.expr);
    }
}

/// A daemon that stops must not look like a fault that is over.
#[test]
fn alerts_of_runs_outlast_a_daemon_that_stops() {
    for (name, alert) in alerts() {
        let about_silence = matches!(name.as_str(), "WeightvaneDown" | "WeightvaneAbsent");
        let holds = alert.keep_firing_for.as_deref() == Some("10m");
        let looks_back = alert.expr.contains("last_over_time(") && alert.expr.contains("[10m])");
        assert!(about_silence || holds != looks_back, "{name}: {}", alert.expr);
    }
}

#[test]
fn alertmanager_sends_each_alert_where_it_belongs() {
    if tool("amtool", &["check-config", "alertmanager.yml"]).is_none() {
        return;
    }
    for (name, alert) in alerts() {
        let severity = &alert.labels["severity"];
        let receiver = if severity == "critical" { "pager" } else { "chat" };
        let labels = [format!("alertname={name}"), format!("severity={severity}")];
        let route = ["config", "routes", "test", "--config.file=alertmanager.yml"];
        let verify = format!("--verify.receivers={receiver}");
        tool("amtool", &[&route[..], &[&verify, &labels[0], &labels[1], "run=r"]].concat());
    }
}

#[derive(Deserialize)]
struct Alertmanager {
    inhibit_rules: Vec<Inhibition>,
}

#[derive(Deserialize)]
struct Inhibition {
    source_matchers: Vec<String>,
    target_matchers: Vec<String>,
    #[serde(default)]
    equal: Vec<String>,
}

/// Alerts that a matcher of names with one group of alternatives, or none, names.
fn named(matcher: &str) -> Vec<String> {
    let name = matcher.split('"').nth(1).unwrap();
    match name.split_once('(') {
        None => vec![name.to_owned()],
        Some((prefix, rest)) => {
            let rest = rest.strip_suffix(')').unwrap();
            rest.split('|').map(|end| format!("{prefix}{end}")).collect()
        }
    }
}

#[test]
fn what_hides_an_alert_is_told_at_least_as_loudly_and_of_the_same_run() {
    let alerts = alerts();
    let is_critical = |name: &String| alerts[name].labels["severity"] == "critical";
    let config: Alertmanager = read("alertmanager.yml");
    assert!(!config.inhibit_rules.is_empty());
    for Inhibition { source_matchers, target_matchers, equal } in config.inhibit_rules {
        for source in source_matchers.iter().flat_map(|matcher| named(matcher)) {
            for target in target_matchers.iter().flat_map(|matcher| named(matcher)) {
                assert!(is_critical(&source) || !is_critical(&target), "{source} hides {target}");
                let of_runs = alerts[&target].expr.contains("run");
                assert_eq!(of_runs, equal == ["job", "instance", "run"], "{source}, {target}");
            }
        }
    }
}
