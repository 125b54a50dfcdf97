//! The training directory stays as it is.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use super::process::{Daemon, FAST, PROGRAM, Place, skipped};
use super::saves::{chain, copy_series, write_save};

/// Inode, size, mode, owner, mtime and ctime.
type Stamp = [u64; 8];

/// The stamps of a directory and of everything below it.
fn stamps(root: &Path) -> Vec<(PathBuf, Stamp)> {
    let mut all = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let times = [stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()];
        let [mtime, mtime_ns, ctime, ctime_ns] = times.map(i64::cast_unsigned);
        let (mode, owner) = (stat.mode().into(), stat.uid().into());
        all.push((path, [stat.ino(), stat.size(), mode, owner, mtime, mtime_ns, ctime, ctime_ns]));
    }
    all.sort();
    all
}

/// Calls that change what a path names.
const CHANGES: &[&str] = &[
    "creat(",
    "mkdir",
    "rmdir",
    "unlink",
    "rename",
    "link(",
    "linkat(",
    "symlink",
    "truncate",
    "chmod",
    "chown",
    "utime",
    "setxattr",
    "removexattr",
    "mknod",
];

fn writes(call: &str) -> bool {
    let opened =
        ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| call.contains(flag));
    let name = call.split_once(' ').map_or(call, |(_, call)| call.trim_start());
    opened || CHANGES.iter().any(|change| name.starts_with(change))
}

#[test]
fn the_calls_that_write_are_told_from_those_that_read() {
    for (call, wanted) in [
        (r#"7 openat(AT_FDCWD, "/r/m", O_RDONLY|O_NOATIME|O_CLOEXEC) = 5"#, false),
        (r#"7 openat(AT_FDCWD, "/r/m", O_WRONLY|O_CREAT, 0666) = 5"#, true),
        (r#"7 unlink("/r/m") = 0"#, true),
        (r#"7 readlink("/r/m", "x", 4096) = 1"#, false),
        (r#"7 renameat2(AT_FDCWD, "/r/m", AT_FDCWD, "/r/n", 0) = 0"#, true),
    ] {
        assert_eq!(writes(call), wanted, "{call}");
    }
}

#[test]
fn a_watched_directory_is_only_read() {
    let place = Place::new(FAST);
    copy_series("healthy", &place.root.join("healthy"), 1800);
    write_save(&place.root.join("broken/checkpoint-1"), b"no safetensors");
    fs::write(place.root.join("model-7.safetensors"), chain(2, 16, 7)).unwrap();
    let before = stamps(&place.root);
    let trace = place.dir.path().join("trace");
    let traced = can_trace();
    let plain = place.command();
    let command = if traced {
        let mut command = Command::new("strace");
        // With -D the daemon stays our own child.
        command.args(["-D", "-f", "-qq", "-s", "4096", "-y", "-e", "trace=%file", "-o"]);
        command.arg(&trace).arg(PROGRAM).args(plain.get_args());
        command
    } else {
        plain
    };
    let daemon = Daemon::start(command);
    daemon.wait_analyzed("healthy", 3);
    daemon.wait("the broken save", |m| m.count("checkpoint_failures_total", "broken") == 1);
    daemon.wait("the plain file", |m| {
        m.all("checkpoints_analyzed_total", &[]).iter().map(|(_, v)| v).sum::<f64>() >= 4.0
    });
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().0.code(), Some(0));
    assert_eq!(before, stamps(&place.root));
    if traced {
        let calls = fs::read_to_string(&trace).unwrap();
        let root = place.root.to_str().unwrap();
        let below: Vec<&str> = calls.lines().filter(|call| call.contains(root)).collect();
        let is_read = |call: &&str| call.contains("model.safetensors") && call.contains("O_RDONLY");
        assert!(below.iter().any(is_read), "the trace shows no read: {below:#?}");
        let written: Vec<_> = below.into_iter().filter(|call| writes(call)).collect();
        assert!(written.is_empty(), "{written:#?}");
    }
}

/// Whether strace is here and may trace.
pub(super) fn can_trace() -> bool {
    let tried =
        Command::new("strace").args(["-D", "-f", "-qq", "-o", "/dev/null", "true"]).output();
    let can = tried.as_ref().is_ok_and(|out| out.status.success());
    if !can {
        skipped(&format!("what the daemon calls: strace does not work: {tried:?}"));
    }
    can
}
