//! Plays a trace against scans and a settler, with a clock of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weightvane::watch::{
    FileEvent, FileKind, FoundSave, ScanLimits, SettleRules, SettledSave, Settler, scan,
};

use super::disk::Disk;
use super::trace::{Op, Trace, What};

/// How fast the writer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As recorded, and then nothing for long.
    Prompt,
    /// Up to the quiet time between any two operations, and then nothing for long.
    Stalling,
    /// As recorded, save upon save.
    Rushing,
}

/// When scans are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// After every operation and at every deadline.
    Always,
    /// As the daemon does: soon after a hint, at deadlines, and once a minute.
    Daemon,
    /// At random times up to 20 s from each other.
    Coarse,
}

/// Which hints arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hints {
    All,
    /// None, as on network file systems.
    None,
    /// None of files in a directory made since the last scan.
    FreshLost,
}

/// No stall lasts as long: the quiet time of the rules for local file systems.
const QUIET_MS: u64 = 2_000;

/// Nothing happens for this long after a save.
const PAUSE: Duration = Duration::from_secs(200);

/// A way to play a trace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) rules: SettleRules,
    pub(super) pace: Pace,
    pub(super) look: Look,
    pub(super) hints: Hints,
    pub(super) seed: u64,
}

/// A save that was handed out, with what its bytes say.
#[derive(Debug)]
pub(super) struct Handed {
    /// Operations done before.
    pub(super) at_op: usize,
    pub(super) save: SettledSave,
    /// The saves whose bytes are in the weight files, by file.
    pub(super) numbers: BTreeMap<String, BTreeSet<u8>>,
}

/// What came of playing a trace.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) handed: Vec<Handed>,
    /// What a scan found at the path of each save when the writer called it done.
    pub(super) done: Vec<Option<FoundSave>>,
    pub(super) n_scans: usize,
}

struct Player<'a> {
    disk: Disk,
    manner: Manner,
    settler: Settler,
    random: u64,
    hints: Vec<FileEvent>,
    /// Directories whose files send no hints yet.
    fresh: BTreeSet<PathBuf>,
    now: Duration,
    last_scan: Duration,
    next_look: Duration,
    at_op: usize,
    trace: &'a Trace,
    outcome: Outcome,
}

/// Plays it.
pub(super) fn play(trace: &Trace, manner: Manner) -> Outcome {
    let mut player = Player {
        disk: Disk::new(&trace.saves),
        manner,
        settler: Settler::new(manner.rules),
        random: manner.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        hints: Vec::new(),
        fresh: BTreeSet::new(),
        now: Duration::ZERO,
        last_scan: Duration::ZERO,
        next_look: Duration::ZERO,
        at_op: 0,
        trace,
        outcome: Outcome::default(),
    };
    player.look();
    let mut recorded = 0;
    for (idx, op) in trace.ops.iter().enumerate() {
        let wait = match manner.pace {
            Pace::Stalling => Duration::from_millis(player.below(QUIET_MS)),
            Pace::Prompt | Pace::Rushing => Duration::from_millis(op.t_ms - recorded),
        };
        recorded = op.t_ms;
        player.wait_until(player.now + wait);
        player.perform(op);
        player.at_op = idx + 1;
        let rests = matches!(op.what, What::Saved)
            && manner.pace != Pace::Rushing
            && !trace.is_followed(op.save);
        if rests {
            player.wait_until(player.now + PAUSE);
        }
    }
    player.wait_until(player.now + PAUSE);
    player.outcome
}

impl Player<'_> {
    fn perform(&mut self, op: &Op) {
        if matches!(op.what, What::Saved) {
            let path = self.disk.run().join(&self.trace.saves[op.save].path);
            // `.` is the run itself.
            let path: PathBuf = path.components().collect();
            let found = scan(&self.disk.root(), &ScanLimits::default());
            self.outcome.done.push(found.saves.into_iter().find(|save| save.path == path));
        }
        let events = self.disk.perform(&op.what, op.save, self.now);
        for event in events {
            let path = match &event {
                FileEvent::Touched(path) | FileEvent::Closed(path) | FileEvent::Removed(path) => {
                    path.clone()
                }
                FileEvent::Rescan => continue,
            };
            let is_heard = match self.manner.hints {
                Hints::All => true,
                Hints::None => false,
                Hints::FreshLost => !path.ancestors().skip(1).any(|dir| self.fresh.contains(dir)),
            };
            if path.is_dir() {
                self.fresh.insert(path);
            }
            self.hints.extend(is_heard.then_some(event));
        }
        if self.manner.look == Look::Always {
            self.look();
        }
    }

    /// Lets time pass, with the scans that fall into it.
    fn wait_until(&mut self, end: Duration) {
        loop {
            let deadline = self.settler.next_deadline().unwrap_or(Duration::MAX);
            let minute = self.last_scan + Duration::from_mins(1);
            let due = match self.manner.look {
                Look::Always => deadline.min(minute),
                Look::Daemon => {
                    let hinted = self.last_scan + Duration::from_millis(500);
                    let hinted = if self.hints.is_empty() { minute } else { hinted };
                    deadline.max(self.last_scan + Duration::from_millis(500)).min(hinted)
                }
                Look::Coarse => self.next_look,
            };
            if due > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(due);
            self.look();
        }
    }

    fn look(&mut self) {
        let found = scan(&self.disk.root(), &ScanLimits::default());
        assert!(found.errors.is_empty(), "{:?}", found.errors);
        self.outcome.n_scans += 1;
        self.fresh.clear();
        self.settler.observe(self.now, &found, &std::mem::take(&mut self.hints));
        for save in self.settler.take_settled(self.now) {
            let numbers = numbers(&save);
            self.outcome.handed.push(Handed { at_op: self.at_op, save, numbers });
        }
        self.last_scan = self.now;
        self.next_look = self.now + Duration::from_millis(100 + self.below(19_900));
    }

    /// A random number below `end` (xorshift).
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end
    }
}

/// The saves whose bytes the weight files hold.
fn numbers(save: &SettledSave) -> BTreeMap<String, BTreeSet<u8>> {
    let is_directory = save.path.is_dir();
    let weights = save.files.iter().filter(|file| file.kind == FileKind::Weights);
    let read = |name: &str| {
        let parent = save.path.parent().unwrap_or(Path::new("/"));
        let home = if is_directory { &save.path } else { parent };
        fs::read(home.join(name)).unwrap().into_iter().collect()
    };
    weights.map(|file| (file.name.clone(), read(&file.name))).collect()
}
