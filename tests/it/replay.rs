//! Recorded saves of every framework, played against scans and the settler: each save is handed out
//! once, never torn, never early; see `tests/fixtures/traces/README.md`.
#![expect(clippy::print_stdout, reason = "what was counted is told to whoever asks: --nocapture")]

mod disk;
mod player;
mod trace;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use disk::number;
use player::{Handed, Hints, Look, Manner, Outcome, Pace, play};
use trace::Trace;
use weightvane::watch::{FileKind, FileStamp, SettleRules};
use written::written;

/// Plays of each manner that has chance in it; more with `WEIGHTVANE_REPLAYS=20`.
const SEEDS: u64 = 1;

/// Traces of formats that are not read: nothing may be handed out.
const UNREAD: [&str; 2] = ["numpy_npy", "tf_checkpoint"];

/// Traces in which files of earlier saves stay for good in the directory of a later one.
const LEFTOVERS: [&str; 1] = ["hf_save_pretrained_existing"];

/// Traces of files with holes, which no write covers: 0 is of no save there.
const HOLED: [&str; 2] = ["keras_backup", "keras_weights_h5"];

/// Traces in which several saves of the header are one: the file of a step and its copy.
const COPIED: [&str; 2] = ["lightning_topk_last", "lightning_xdev"];

/// What was counted over all replays of a trace.
#[derive(Debug, Default)]
struct Tally {
    replays: usize,
    scans: usize,
    handed: usize,
    faults: Vec<String>,
}

fn recorded() -> Vec<Trace> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/traces");
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "jsonl"));
    paths.sort();
    let parse = |path: &std::path::PathBuf| {
        Trace::parse(
            path.file_stem().unwrap().to_str().unwrap(),
            &fs::read_to_string(path).unwrap(),
        )
    };
    paths.iter().map(parse).collect()
}

fn manners(rules: SettleRules) -> Vec<Manner> {
    let asked = std::env::var("WEIGHTVANE_REPLAYS").ok().and_then(|n| n.parse().ok());
    let n_seeds = asked.unwrap_or(SEEDS);
    let mut manners = Vec::new();
    for pace in [Pace::Prompt, Pace::Stalling, Pace::Rushing] {
        for look in [Look::Always, Look::Daemon, Look::Coarse] {
            for hints in [Hints::All, Hints::None, Hints::FreshLost] {
                let is_random = pace == Pace::Stalling || look == Look::Coarse;
                let seeds = 0..if is_random { n_seeds } else { 1 };
                manners.extend(seeds.map(|seed| Manner { rules, pace, look, hints, seed }));
            }
        }
    }
    manners
}

/// The content of a save, as far as it is what makes one save differ from another.
fn content(files: &[FileStamp]) -> BTreeSet<(&str, u64, i64)> {
    let counts = |kind| matches!(kind, FileKind::Weights | FileKind::Index | FileKind::Metadata);
    let files = files.iter().filter(|file| counts(file.kind));
    files.map(|file| (file.name.as_str(), file.size, file.mtime_ns)).collect()
}

/// The number of the save that was handed out, or what is wrong with it.
fn judge(trace: &Trace, outcome: &Outcome, handed: &Handed) -> Result<u8, String> {
    let mut numbers = handed.numbers.clone();
    if HOLED.contains(&trace.name.as_str()) {
        for numbers in numbers.values_mut() {
            numbers.remove(&0);
        }
    }
    let all: BTreeSet<u8> = numbers.values().flatten().copied().collect();
    let path = &handed.save.path;
    let newest = *all.last().ok_or_else(|| format!("{}: empty", path.display()))?;
    let has_leftovers = LEFTOVERS.contains(&trace.name.as_str());
    if numbers.values().any(|file| file.len() != 1) || (all.len() != 1 && !has_leftovers) {
        return Err(format!("{}: torn: {:?}", path.display(), numbers));
    }
    let save = usize::from(newest - 1);
    let named = &trace.saves[save];
    if handed.save.step.is_some() && handed.save.step != named.step {
        return Err(format!(
            "{}: step {:?}, not {:?}",
            path.display(),
            handed.save.step,
            named.step
        ));
    }
    // Its content when the writer was done; nothing, if that was not to be seen or never came.
    if let Some(Some(done)) = outcome.done.get(save)
        && done.path == *path
        && content(&done.files) != content(&handed.save.files)
    {
        let (ours, theirs) = (content(&handed.save.files), content(&done.files));
        return Err(format!("{}: early or late: {ours:?}, not {theirs:?}", path.display()));
    }
    Ok(newest)
}

fn faults(trace: &Trace, manner: Manner, outcome: &Outcome) -> Vec<String> {
    let mut faults = Vec::new();
    let mut handed: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    for one in &outcome.handed {
        match judge(trace, outcome, one) {
            Ok(number) => {
                let name = format!("{} at {}", one.save.path.display(), one.at_op);
                handed.entry(number).or_default().push(name);
            }
            Err(fault) => faults.push(fault),
        }
    }
    if UNREAD.contains(&trace.name.as_str()) {
        faults.extend(handed.values().map(|paths| format!("unread, yet handed out: {paths:?}")));
        return faults;
    }
    let lasts = manner.pace != Pace::Rushing;
    // Copies of one step count together.
    let mut groups: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (save, named) in trace.saves.iter().enumerate() {
        let group = match named.step {
            Some(step) if COPIED.contains(&trace.name.as_str()) => format!("step {step}"),
            _ => format!("save {}", save + 1),
        };
        groups.entry(group).or_default().push(number(save));
    }
    for (group, members) in groups {
        let found: Vec<_> =
            members.iter().filter_map(|number| handed.get(number)).flatten().collect();
        if found.len() > 1 {
            faults.push(format!("{group}: more than once: {found:?}"));
        }
        if found.is_empty() && lasts {
            faults.push(format!("{group}: never"));
        }
    }
    faults
}

/// Plays a trace in all manners.
fn tally(trace: &Trace, rules: SettleRules) -> Tally {
    let mut tally = Tally::default();
    for manner in manners(rules) {
        let outcome = play(trace, manner);
        tally.replays += 1;
        tally.scans += outcome.n_scans;
        tally.handed += outcome.handed.len();
        let Manner { pace, look, hints, seed, .. } = manner;
        let told = |fault| format!("{} {pace:?} {look:?} {hints:?} {seed}: {fault}", trace.name);
        tally.faults.extend(faults(trace, manner, &outcome).into_iter().map(told));
    }
    tally
}

/// Plays all traces, on two threads; only those with `WEIGHTVANE_TRACE` in their names, if set.
fn all(traces: Vec<Trace>) -> Tally {
    let only = std::env::var("WEIGHTVANE_TRACE").unwrap_or_default();
    let waiting = Mutex::new(traces.into_iter().filter(|trace| trace.name.contains(&only)));
    let sum = Mutex::new(Tally::default());
    let work = || {
        loop {
            let Some(trace) = waiting.lock().unwrap().next() else { return };
            let tally = tally(&trace, SettleRules::default());
            let Tally { replays, scans, handed, faults } = tally;
            let (name, n_faults) = (&trace.name, faults.len());
            println!("{name}: {replays} replays, {scans} scans, {handed} saves, {n_faults} faults");
            let mut sum = sum.lock().unwrap();
            sum.replays += replays;
            sum.scans += scans;
            sum.handed += handed;
            sum.faults.extend(faults);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    sum.into_inner().unwrap()
}

#[test]
fn every_recorded_save_is_handed_out_once_whole_and_in_time() {
    let sum = all(recorded());
    println!("{} replays, {} scans, {} saves handed out", sum.replays, sum.scans, sum.handed);
    assert!(sum.faults.is_empty(), "{} faults: {:#?}", sum.faults.len(), first(&sum.faults));
}

#[test]
fn savers_that_nobody_recorded_are_followed_by_their_sources() {
    let sum = all(written());
    println!("{} replays, {} scans, {} saves handed out", sum.replays, sum.scans, sum.handed);
    assert!(sum.faults.is_empty(), "{} faults: {:#?}", sum.faults.len(), first(&sum.faults));
}

/// A few faults of each trace.
fn first(faults: &[String]) -> Vec<&String> {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    let is_told = |fault: &&String| {
        let n = told.entry(fault.split(' ').take(1).collect()).or_default();
        *n += 1;
        *n <= 3
    };
    faults.iter().filter(is_told).collect()
}

#[test]
fn a_settler_that_does_not_wait_is_caught() {
    let rules =
        SettleRules { quiet: Duration::ZERO, settle: Duration::ZERO, ..SettleRules::default() };
    let wanted = ["nanogpt_inplace", "hf_trainer_shards", "deepspeed_zero1", "fairseq"];
    for trace in recorded().iter().filter(|trace| wanted.contains(&trace.name.as_str())) {
        let faults = tally(trace, rules).faults;
        let has = |what: &str| faults.iter().any(|fault| fault.contains(what));
        assert!(has("torn") || has("early") || has("more than once"), "{}", trace.name);
    }
}
