//! `weightvane backfill`: the past as OpenMetrics.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGINT, SIGTERM};
use weightvane::daemon::backfill::{
    Backfill, BackfillError, BackfillRequest, FailedSave, FailureKind, backfill,
};
use weightvane::daemon::textfile;
use weightvane::diagnostics::Observer as _;
use weightvane::history::FILE;

use super::failure::Failure;
use super::places::{check_outside, check_root};
use super::progress::Bar;
use super::{BackfillArgs, rules, settings};

/// Younger samples lie in the block that Prometheus is writing; promtool's own advice.
const HEAD: Duration = Duration::from_hours(3);

/// Failed saves that are named; the others are counted.
const MAX_NAMED: usize = 20;

pub(super) fn run(args: BackfillArgs) -> Result<(), Failure> {
    let mut settings = settings(args.config.as_ref())?;
    args.labels.apply(&mut settings).map_err(Failure::usage)?;
    let shard = args.shard.shard(&settings)?;
    let labels = settings.labels.clone();
    let rules = rules(&settings)?;
    let until_ms = until(args.until.as_deref())?;
    check_root(&args.root)?;
    check_outside("output", args.output.as_deref(), &args.root).map_err(Failure::usage)?;
    if let Some(dir) = args.state_dir.as_ref().filter(|dir| !dir.join(FILE).is_file()) {
        let expected = format!("no {FILE} here, expected the state directory of a daemon");
        return Err(Failure::unreadable(dir, &expected));
    }
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&cancel))
            .map_err(|e| Failure::system("signal handlers", &e))?;
    }
    let BackfillArgs { root, output, state_dir, job, instance, .. } = args;
    let output = output.filter(|file| file.as_os_str() != "-");
    let cancelled = Arc::clone(&cancel);
    let request = BackfillRequest { root, shard, state_dir, settings, rules, until_ms, cancel };
    let past = measured(&request)?;
    let write = |out: &mut dyn Write| {
        past.timeline.write(&mut Stoppable { out, cancel: &cancelled }, (&job, &instance), &labels)
    };
    let written = match &output {
        // A pipe or a device is written to, not replaced.
        Some(file) if file.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) => {
            fs::File::options().write(true).open(file).and_then(|out| buffered(out, write))
        }
        Some(file) => textfile::replace(file, write),
        None => to_stdout(write),
    };
    match written {
        Err(_) if cancelled.load(Ordering::Relaxed) => Err(Failure::try_later(CANCELLED)),
        Err(error) => Err(match &output {
            Some(file) => Failure::system(&file.display().to_string(), &error),
            None => Failure::output(&error),
        }),
        Ok(()) => {
            tell(&past, until_ms);
            Ok(())
        }
    }
}

const CANCELLED: &str = "interrupted, nothing is written";

/// The past, if there is any.
fn measured(request: &BackfillRequest) -> Result<Backfill, Failure> {
    let bar = Bar::new();
    let past = backfill(request, &|done, total| bar.progress(done, total));
    drop(bar);
    let root = &request.root;
    let past = past.map_err(|error| match error {
        BackfillError::Root(_) => Failure::unreadable(root, &error.to_string()),
        BackfillError::Store(_) => {
            let dir = request.state_dir.as_deref().unwrap_or(root);
            Failure::unreadable(dir, &error.to_string())
        }
        BackfillError::Cancelled => Failure::try_later(CANCELLED),
        BackfillError::Timeline(_) => Failure::system("backfill", &error),
    })?;
    if past.n_saves > 0 {
        return Ok(past);
    }
    let n_failed = past.failed.len();
    Err(match past.failed.first() {
        Some(FailedSave { path, kind, why }) => {
            let none = format!("none of {n_failed} saves could be measured, the first: {why}");
            match kind {
                FailureKind::Malformed => Failure::malformed(none),
                FailureKind::Unreadable => Failure::unreadable(path, &none),
                FailureKind::Incomplete => Failure::try_later(none),
            }
        }
        None if past.n_late > 0 => {
            let (root, n, until) = (root.display(), past.n_late, time(request.until_ms));
            Failure::try_later(format!(
                "{root}: all {n} saves are newer than {until}, expected older ones or --until"
            ))
        }
        None => Failure::unreadable(root, "found no save, expected a directory that holds runs"),
    })
}

/// Ends a long write soon after a signal.
struct Stoppable<'a> {
    out: &'a mut dyn Write,
    cancel: &'a AtomicBool,
}

impl Write for Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(io::Error::other(CANCELLED));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A closed pipe (`| head`) is a normal end.
fn to_stdout(write: impl Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    buffered(io::stdout().lock(), write)
}

fn buffered(out: impl Write, write: impl Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    match write(&mut out).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// What is missing, a line each on stderr.
fn tell(past: &Backfill, until_ms: i64) {
    let mut text = String::new();
    let (failed, all) = (past.failed.len(), past.failed.len() + past.n_saves);
    if failed > 0 {
        let named: Vec<&str> = past.failed.iter().take(MAX_NAMED).map(|f| f.why.as_str()).collect();
        let more = failed - named.len();
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let named = named.join("; ").replace(['\n', '\r'], " ");
        let _ = writeln!(text, "weightvane: {failed} of {all} saves not measured: {named}{more}");
    }
    for (n, why) in [
        (past.n_late, format!("newer than {} and left out (--until)", time(until_ms))),
        (past.n_disordered, "not newer than one of an earlier step and left out".into()),
    ] {
        let (saves, are) = if n == 1 { ("save", "is") } else { ("saves", "are") };
        if n > 0 {
            let _ = writeln!(text, "weightvane: {n} {saves} {are} {why}");
        }
    }
    if past.n_left_out > 0 {
        let n = past.n_left_out;
        let _ = writeln!(text, "weightvane: {n} values of layers left out by series_limit");
    }
    if past.is_truncated {
        text += "weightvane: more files below the root than are looked at, saves may be missing\n";
    }
    // Nobody is left to tell if stderr is closed.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The end of the past, milliseconds since 1970.
fn until(text: Option<&str>) -> Result<i64, Failure> {
    let time = match text {
        None => SystemTime::now().checked_sub(HEAD),
        Some(text) => match text.parse::<u64>() {
            Ok(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
            Err(_) => humantime::parse_rfc3339_weak(text).ok(),
        },
    };
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_millis()).ok()).ok_or_else(|| {
        let found = text.unwrap_or("a clock before 1970");
        Failure::usage(format!(
            "until: found {found}, expected a time as 2026-01-31T12:00:00Z or Unix seconds"
        ))
    })
}

/// As people read it.
fn time(ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    match UNIX_EPOCH.checked_add(since).filter(|_| since < Duration::from_hours(24 * 365 * 1000)) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_or_unix_seconds() {
        let of = |text| until(Some(text)).ok();
        assert_eq!(of("1767225600"), Some(1_767_225_600_000));
        assert_eq!(of("2026-01-01T00:00:00Z"), Some(1_767_225_600_000));
        assert_eq!(of("2026-01-01T00:00:00.25Z"), Some(1_767_225_600_250));
        for wrong in ["", "yesterday", "-5", "2026-01-01T00:00:00+02:00", "99999999999999999999"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let ago = now - u128::try_from(until(None).ok().unwrap()).unwrap();
        assert!((10_800_000..10_810_000).contains(&ago), "{ago}");
        assert_eq!(time(1_767_225_600_250), "2026-01-01T00:00:00Z");
        let _ = time(i64::MAX);
    }
}
