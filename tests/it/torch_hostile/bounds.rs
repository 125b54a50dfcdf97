//! How long a file may keep the reader, and how much memory it may cost.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::tempdir;

use super::build::{Pickle, archive};
use super::{opened, verdict, write};

/// Memory over that of a run on a tiny file.
const MAX_MIB: u64 = 64;
/// Time on the processor.
const MAX_SECONDS: f64 = 2.0;
/// Ticks of the processor's clock in a second, as Linux counts for programs.
const TICKS: f64 = 100.0;

/// Highest memory in MiB and seconds on the processor of `weightvane explain` on that file.
fn cost(content: &[u8]) -> (u64, f64) {
    let dir = tempdir().unwrap();
    let path = write(dir.path(), content);
    let mut child = Command::new(env!("CARGO_BIN_EXE_weightvane"))
        .arg("explain")
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut peak, mut seconds) = (0, 0.0_f64);
    let began = Instant::now();
    loop {
        let proc = format!("/proc/{}", child.id());
        let status = fs::read_to_string(format!("{proc}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        let stat = fs::read_to_string(format!("{proc}/stat")).unwrap_or_default();
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = fields
            .get(11..13)
            .map(|both| both.iter().filter_map(|n| n.parse::<f64>().ok()).sum::<f64>());
        seconds = seconds.max(ticks.unwrap_or(0.0) / TICKS);
        if child.try_wait().unwrap().is_some() {
            return (peak / 1024, seconds);
        }
        if began.elapsed() > Duration::from_mins(1) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("no end after a minute");
        }
        sleep(Duration::from_micros(500));
    }
}

/// A dictionary in a dictionary, each under two keys, over so many levels and a state below.
fn doubled(levels: usize, key: &str) -> Vec<u8> {
    let mut pickle = Pickle::new().state().op(b"r\x01\0\0\0");
    for level in 0..levels {
        let n = u32::try_from(level).unwrap();
        let get = [b"j", &(n + 1).to_le_bytes()[..]].concat();
        let put = [b"r", &(n + 2).to_le_bytes()[..]].concat();
        let (one, two) = (format!("{key}0"), format!("{key}1"));
        pickle = pickle.op(b"}").text(&one).op(&get).op(b"s").text(&two).op(&get).op(b"s").op(&put);
    }
    pickle.stop()
}

/// What a file asks for: name, pickle, and the verdict on it, if it is to be that one.
fn greedy() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let state = || Pickle::new().state();
    let no = Some("not weights");
    let wide = |n: usize| (0..n).fold(Pickle::new().op(b"("), |p, _| p.op(b"N")).op(b"t").stop();
    let globals = (0..300_000).fold(Pickle::new(), |p, _| {
        p.global("deepspeed.utils.tensor_fragment", "fragment_address").op(b"0")
    });
    let mut grown = Pickle::new().op(b"(").times(1000, b"N").op(b"lq\0");
    for _ in 0..4000 {
        grown = grown.op(b"h\0\x85");
    }
    let dicts = Pickle::new().times(250_000, b"}NNs").op(b"t").stop();
    let mut everything = Pickle::new().text(&"t".repeat(8_000_000)).op(b"r\xff\xff\x05\0]");
    for _ in 0..260 {
        everything = everything.op(b"(").times(1000, b"}NNs").times(1000, b"N").op(b"e");
    }
    let copied = copies();
    vec![
        ("a million steps", state().times(1_000_000, b"N0").stop(), Some("weights")),
        ("two million steps", state().times(1_100_000, b"N0").stop(), no),
        ("a large memo", Pickle::new().state().op(b"r\xff\xff\x05\0").stop(), Some("weights")),
        ("a memo of 2^32", Pickle::new().state().op(b"r\xff\xff\xff\xff").stop(), no),
        ("memos without end", state().times(1_500_000, b"\x94").stop(), no),
        ("a stack without end", Pickle::new().times(1_500_000, b"N").stop(), no),
        ("marks without end", Pickle::new().times(1_500_000, b"(").stop(), no),
        ("a wide tuple", wide(1_000_000), no),
        ("a long tuple", wide(200_000), no),
        ("many dictionaries", dicts, no),
        ("all of it at once", everything.stop(), no),
        (
            "tuples 200 000 deep",
            state().text("deep").op(b"N").times(200_000, b"\x85").op(b"s").stop(),
            Some("weights"),
        ),
        ("only tuples 200 000 deep", Pickle::new().op(b"N").times(200_000, b"\x85").stop(), no),
        ("lists without end", Pickle::new().times(300_000, b"]").stop(), no),
        ("a dictionary of itself", state().op(b"q\0").text("self").op(b"h\0s").stop(), None),
        ("2^100 tensors", doubled(100, "a"), no),
        ("2^20 tensors with long names", doubled(20, &"n".repeat(49)), no),
        ("2^19 tensors with long names", doubled(19, &"n".repeat(49)), no),
        ("8 MiB of text", state().text("t").text(&"t".repeat(9 << 20)).op(b"s").stop(), no),
        ("names looked up", globals.stop(), no),
        ("a list in many tuples", grown.stop(), no),
        ("a dictionary copied again and again", copied, no),
    ]
}

/// `OrderedDict(d)` of a dictionary of a thousand items, again and again.
fn copies() -> Vec<u8> {
    let items = (0..1000).fold(Pickle::new().op(b"}("), |p, n| p.int(n).op(b"N"));
    let pickle = items.op(b"uq\0");
    (0..100_000).fold(pickle, |p, _| p.global("collections", "OrderedDict").op(b"h\0\x85R")).stop()
}

#[test]
fn greedy_files_get_their_verdict() {
    for (what, pickle, expected) in greedy() {
        let result = opened(&archive(&pickle));
        let found = verdict(&result);
        assert!(expected.is_none_or(|expected| found == expected), "{what}: {found}");
    }
}

#[test]
fn greedy_files_cost_little() {
    let (idle, _) = cost(&archive(&Pickle::new().state().stop()));
    let mut wrong = Vec::new();
    for (what, pickle, _) in greedy() {
        let (peak, seconds) = cost(&archive(&pickle));
        let over = peak.saturating_sub(idle);
        if over > MAX_MIB || seconds > MAX_SECONDS {
            wrong.push(format!("{what}: {over} MiB more, {seconds:.2} s"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
