//! When a save is complete. Pure: no I/O, and time is an argument.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hint::FileEvent;
use super::names::AliasRank;
use super::save::{Content, FoundSave, Pointer};
use super::scan::{ScanError, ScanOutcome};
use super::settled::SettledSave;
use copies::{Home, Originals, home};
use entry::{Entry, Known, Returned, RunState, Slot, known, slot_of};

mod copies;
mod entry;
mod hear;
mod rules;
mod signs;

pub use rules::{GiveBack, PendingSave, PendingState, SettleCounters, SettleRules};

/// Saves that are gone are remembered up to this number, so that a renamed directory is not counted
/// again and a step written anew gets its next version.
const MAX_DEPARTED: usize = 4096;

/// Longest wait before a save that was given back is handed out again.
const MAX_RETRY: Duration = Duration::from_mins(1);

/// Decides which of the saves that scans find are complete, each content once.
///
/// A save is settled when its stamps have not changed for [`SettleRules::quiet`] and there is a sign
/// that it is complete; without a sign, after [`SettleRules::settle`]. Signs are, if no shard is
/// missing and files did not just become fewer:
/// - `trainer_state.json` is not older than any weight file (the Hugging Face trainer writes it last);
/// - the index is not older than any shard, unless the directory is rewritten in place;
/// - what the framework writes last is not older than any weight file: `.metadata` of a distributed
///   checkpoint, `metadata.json` (Megatron), `.metadata.json` (OLMo-core), `meta.pt` (Lightning),
///   `commit_success.txt` (Orbax), `random_states_0.pkl` (Accelerate), `adapter_config.json` (PEFT);
/// - `latest` or `latest_checkpointed_iteration.txt` beside it is not older and names it or a later one;
/// - the index or the only weight file was closed by its writer or renamed to its name, or the whole
///   directory was renamed, or its `-unfinished` was taken away, since the last change;
/// - a later step of the run is complete and not older, or the file has a second hard link.
///
/// Of files that appear whole ([`SettleRules::whole_files`]) each counts as closed. Shards beside their
/// index do so only the first time: later they are replaced one by one.
///
/// Where the trainer's record is expected (a directory `checkpoint-N`, or a run that has shown one),
/// index, marks and close do not count before it is there.
///
/// Never settled is a distributed checkpoint without its metadata, one of OLMo-core without
/// `.metadata.json`, and what has lost a mark that its owner deletes first.
///
/// Names, sizes and times cannot tell for sure: how many ranks write `__r.metadata` (without
/// collectives), whether a file without a marker that nobody closed in our sight is whole (Accelerate
/// on a network file system, a lone `.pt`), and whether a writer over an old `.metadata` has stopped
/// or stalls. There the long wait decides, and whoever reads the save checks it.
///
/// A file called `last` or `best` waits until the files beside it have come to rest and the numbered
/// ones are handed out, at most twice as long as [`SettleRules::settle`], and is not handed out when
/// it is a copy of one of them.
///
/// One settler sees one root. All time arguments are of one clock; should it go backwards, it stands.
#[derive(Debug)]
pub struct Settler {
    rules: SettleRules,
    now: Duration,
    n_scans: u64,
    n_sequences: u64,
    entries: HashMap<PathBuf, Entry>,
    /// Contents handed out, with the sequence they had.
    contents: HashMap<Known, u64>,
    /// Last version handed out, with its sequence.
    versions: HashMap<Slot, (u32, u64)>,
    /// Saves that are gone, oldest first.
    departed: VecDeque<(Slot, Content, u64)>,
    runs: HashMap<String, RunState>,
    pointers: HashMap<PathBuf, Vec<Pointer>>,
    originals: Originals,
    homes: HashMap<PathBuf, Home>,
    rescan_at: Option<Duration>,
    counters: SettleCounters,
}

impl Settler {
    /// A settler that knows no save.
    #[must_use]
    pub fn new(rules: SettleRules) -> Self {
        Self {
            rules,
            now: Duration::ZERO,
            n_scans: 0,
            n_sequences: 0,
            entries: HashMap::new(),
            contents: HashMap::new(),
            versions: HashMap::new(),
            departed: VecDeque::new(),
            runs: HashMap::new(),
            pointers: HashMap::new(),
            originals: Originals::default(),
            homes: HashMap::new(),
            rescan_at: None,
            counters: SettleCounters::default(),
        }
    }

    /// Takes in a scan and the hints that came before it, oldest first.
    ///
    /// Saves that are missing from the scan are gone, unless the scan was truncated or could not look
    /// there.
    pub fn observe(&mut self, now: Duration, scan: &ScanOutcome, hints: &[FileEvent]) {
        let now = self.advance(now);
        self.n_scans += 1;
        for found in &scan.saves {
            self.see(now, found);
        }
        self.hear(now, hints);
        self.drop_vanished(scan);
        self.pointers.clear();
        for pointer in &scan.pointers {
            self.pointers.entry(pointer.directory.clone()).or_default().push(pointer.clone());
        }
        self.compare_runs();
        self.bound_pending();
        self.compare_homes();
    }

    /// The saves that have come to rest as of the last scan, by sequence; each content once, until it
    /// is given back.
    pub fn take_settled(&mut self, now: Duration) -> Vec<SettledSave> {
        let now = self.advance(now);
        let ready = self.entries.iter().filter(|(_, entry)| self.is_ready(entry));
        // Originals before their copies.
        let mut ready: Vec<_> =
            ready.map(|(path, entry)| (entry.rank, entry.sequence, path.clone())).collect();
        ready.sort_unstable();
        let mut settled: Vec<_> =
            ready.iter().filter_map(|(_, _, path)| self.hand_out(now, path)).collect();
        settled.sort_by_key(|save| save.sequence);
        self.compare_homes();
        settled
    }

    /// Returns a save that could not be read to the end. It is handed out again after 1, 2, 4, … 60 s,
    /// or once it has come to rest again after a change. Ignored if the save has vanished or a later
    /// content of it was handed out.
    pub fn give_back(&mut self, save: &SettledSave, now: Duration, why: GiveBack) {
        let now = self.advance(now);
        self.counters.given_back += 1;
        let slot = slot_of(&save.run, save.step, &save.path);
        if let Some(entry) = self.entries.get_mut(&save.path)
            && let Some(handed) = entry.handed.take_if(|_| entry.sequence == save.sequence)
        {
            self.contents.remove(&known(&entry.found, &handed));
            let n_times = entry.returned.as_ref().map_or(0, |returned| returned.n_times);
            let wait = Duration::from_secs(1 << n_times.min(6)).min(MAX_RETRY);
            let n_times = n_times.saturating_add(1);
            entry.returned = Some(Returned { why, n_times, retry_at: now.saturating_add(wait) });
            if self.versions.get(&slot).is_some_and(|last| *last == (save.version, save.sequence)) {
                match save.version {
                    0 | 1 => drop(self.versions.remove(&slot)),
                    version => drop(self.versions.insert(slot, (version - 1, save.sequence))),
                }
            }
        }
    }

    /// Forgets a run whose directory is gone: should it return, its saves are found for the first
    /// time.
    pub fn forget_run(&mut self, run: &str) {
        self.entries.retain(|_, entry| entry.found.run != run);
        self.contents.retain(|known, _| known.0 != run);
        self.versions.retain(|slot, _| slot.0 != run);
        self.departed.retain(|(slot, _, _)| slot.0 != run);
        self.originals.forget_run(run);
    }

    /// When to scan and observe again at the latest for a save to be settled on time; `None` if
    /// nothing waits. After [`Settler::observe`] and [`Settler::take_settled`] it lies ahead.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        // What the last scan could not see would be due again and again.
        let is_seen = |entry: &&Entry| entry.is_waiting() && entry.scan == self.n_scans;
        let waiting = self.entries.values().filter(is_seen);
        waiting.filter_map(|entry| self.due(entry)).chain(self.rescan_at).min()
    }

    /// The saves that wait, by sequence.
    #[must_use]
    pub fn pending(&self) -> Vec<PendingSave> {
        let mut waiting: Vec<_> =
            self.entries.values().filter(|entry| entry.is_waiting()).collect();
        waiting.sort_by_key(|entry| entry.sequence);
        let shown = waiting.into_iter().map(|entry| PendingSave {
            run: entry.found.run.clone(),
            run_path: entry.found.run_path.clone(),
            path: entry.found.path.clone(),
            step: entry.found.step,
            changed_at: entry.changed_at,
            state: match &entry.returned {
                _ if entry.found.is_pending() => PendingState::NoWeights,
                Some(returned) => PendingState::Returned(returned.why),
                None => PendingState::Writing,
            },
        });
        shown.collect()
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> SettleCounters {
        self.counters
    }

    fn advance(&mut self, now: Duration) -> Duration {
        self.now = self.now.max(now);
        self.now
    }

    fn see(&mut self, now: Duration, found: &FoundSave) {
        let content = found.content();
        let n_scans = self.n_scans;
        let sequence = self.n_sequences;
        let mut is_news = false;
        let entry = self.entries.entry(found.path.clone()).or_insert_with(|| {
            self.n_sequences += 1;
            is_news = true;
            Entry::new(now, sequence, found.clone(), content.clone())
        });
        entry.scan = n_scans;
        entry.seen_at = now;
        if entry.found != *found {
            entry.changed_at = now;
            entry.returned = None;
            is_news = true;
            if entry.replace(found, content) {
                // The time to weights does not count: a directory may wait long for its first file.
                entry.seen_first = now;
                entry.sequence = self.n_sequences;
                self.n_sequences += 1;
            }
        }
        if entry.is_waiting()
            && let Some(sequence) = self.contents.get(&known(&entry.found, &entry.content))
        {
            self.counters.renamed += 1;
            entry.sequence = *sequence;
            entry.handed = Some(entry.content.clone());
        }
        if let Some(home) = home(entry).filter(|_| is_news) {
            Home::changed(&mut self.homes, home, now);
        }
    }

    fn drop_vanished(&mut self, scan: &ScanOutcome) {
        if scan.truncated {
            return;
        }
        let n_scans = self.n_scans;
        let hidden = |path: &Path| {
            let mut blind = scan.errors.iter().map(ScanError::path);
            blind.any(|blind| path.starts_with(blind) || blind.starts_with(path))
        };
        let is_gone = |path: &PathBuf, entry: &mut Entry| entry.scan != n_scans && !hidden(path);
        for (_, entry) in self.entries.extract_if(is_gone) {
            if let Some(home) = home(&entry) {
                Home::changed(&mut self.homes, home, self.now);
            }
            self.counters.vanished += u64::from(entry.is_waiting());
            if let Some(handed) = &entry.handed {
                self.departed.push_back((entry.slot(), handed.clone(), entry.sequence));
            }
        }
        while self.departed.len() > MAX_DEPARTED {
            let Some((slot, content, sequence)) = self.departed.pop_front() else { return };
            let known = (slot.0.clone(), slot.1, content);
            if self.contents.get(&known) == Some(&sequence) {
                self.contents.remove(&known);
            }
            if self.versions.get(&slot).is_some_and(|last| last.1 == sequence) {
                self.versions.remove(&slot);
            }
        }
    }

    /// Gathers what saves of one run say of one another.
    fn compare_runs(&mut self) {
        self.runs.clear();
        for entry in self.entries.values() {
            let run = self.runs.entry(entry.found.run.clone()).or_default();
            run.has_trainer_state |= entry.found.has_trainer_state();
            let complete = entry.found.oldest_weights_ns().filter(|_| entry.found.looks_complete());
            run.complete.extend(entry.found.step.zip(complete));
        }
        for run in self.runs.values_mut() {
            run.complete.sort_unstable();
            let mut newest = i64::MIN;
            for (_, mtime) in run.complete.iter_mut().rev() {
                newest = newest.max(*mtime);
                *mtime = newest;
            }
        }
    }

    fn bound_pending(&mut self) {
        let waiting = self.entries.values().filter(|entry| entry.is_waiting());
        let excess = waiting.count().saturating_sub(self.rules.max_pending);
        if excess == 0 {
            return;
        }
        // By what the files say and not by when they were seen: the same saves stay at every scan.
        let waiting = self.entries.iter().filter(|(_, entry)| entry.is_waiting());
        let age = |entry: &Entry| (entry.found.newest_weights_ns(), entry.found.step);
        let mut by_age: Vec<_> = waiting.map(|(path, entry)| (age(entry), path.clone())).collect();
        by_age.sort_unstable();
        for (_, path) in by_age.into_iter().take(excess) {
            self.entries.remove(&path);
            self.counters.deferred += 1;
        }
    }

    /// Which files of each directory wait, for their copies to wait as well.
    fn compare_homes(&mut self) {
        let recent = self.now.saturating_sub(self.rules.settle.saturating_mul(2));
        self.homes.retain(|_, home| {
            home.waiting = None;
            home.changed_at >= recent
        });
        for entry in self.entries.values().filter(|entry| entry.is_waiting()) {
            if let Some(home) = home(entry) {
                let home = self.homes.entry(home.to_owned()).or_default();
                home.waiting = Some(home.waiting.map_or(entry.rank, |best| best.min(entry.rank)));
            }
        }
    }

    fn is_ready(&self, entry: &Entry) -> bool {
        entry.is_waiting()
            && entry.scan == self.n_scans
            && !entry.found.is_pending()
            && self.ready_at(entry).is_some_and(|at| entry.seen_at >= at)
    }

    /// When the save is handed out if nothing changes; `None` if something has to.
    fn ready_at(&self, entry: &Entry) -> Option<Duration> {
        let quiet_at = entry.changed_at.saturating_add(self.rules.quiet);
        let settle_at = entry.changed_at.saturating_add(self.rules.settle);
        if signs::is_barred(entry) {
            return None;
        }
        let at = match &entry.returned {
            Some(returned) => returned.retry_at.max(quiet_at),
            None if self.has_sign(entry) => quiet_at,
            None => settle_at.max(quiet_at),
        };
        let home = home(entry).filter(|_| entry.rank != AliasRank::Own && entry.returned.is_none());
        let Some(home) = home.and_then(|home| self.homes.get(home)) else { return Some(at) };
        // The file that it is a copy of may wait, or be written after it.
        let longest = settle_at.saturating_add(self.rules.settle);
        let is_original_waiting = home.waiting.is_some_and(|best| best < entry.rank);
        let rests_at = home.changed_at.saturating_add(self.rules.quiet);
        Some(if is_original_waiting { longest } else { rests_at.min(longest) }.max(at))
    }

    fn has_sign(&self, entry: &Entry) -> bool {
        let home = entry.found.path.parent();
        let pointers = home.and_then(|home| self.pointers.get(home));
        let run = self.runs.get(&entry.found.run);
        signs::has_sign(entry, run, pointers.into_iter().flatten(), self.rules.whole_files)
    }

    fn due(&self, entry: &Entry) -> Option<Duration> {
        if entry.found.is_pending() {
            // The first file may have come without an event; in the long run scans have to do.
            let again = entry.seen_at.saturating_add(self.rules.quiet);
            let settle_at = entry.changed_at.saturating_add(self.rules.settle);
            return (again < settle_at).then_some(again);
        }
        self.ready_at(entry)
    }

    fn hand_out(&mut self, now: Duration, path: &Path) -> Option<SettledSave> {
        let entry = self.entries.get_mut(path)?;
        let now_known = known(&entry.found, &entry.content);
        if let Some(sequence) = self.contents.get(&now_known) {
            // Two paths to one content came to rest together.
            self.counters.renamed += 1;
            entry.sequence = *sequence;
            entry.handed = Some(entry.content.clone());
            return None;
        }
        if entry.rank != AliasRank::Own && self.originals.has_copy(entry) {
            self.counters.copies += 1;
            entry.handed = Some(entry.content.clone());
            return None;
        }
        let last = self.versions.get(&entry.slot()).map_or(0, |last| last.0);
        let version = last.saturating_add(1);
        self.versions.insert(entry.slot(), (version, entry.sequence));
        if let Some(earlier) = entry.handed.replace(entry.content.clone()) {
            self.contents.remove(&known(&entry.found, &earlier));
        }
        self.contents.insert(now_known, entry.sequence);
        self.originals.add(entry);
        self.counters.settled += 1;
        let found = entry.found.clone();
        Some(SettledSave {
            run: found.run,
            run_path: found.run_path,
            path: found.path,
            step: found.step,
            sequence: entry.sequence,
            version,
            supersedes: version > 1,
            in_place: found.in_place,
            files: found.files,
            waited: now.saturating_sub(entry.seen_first),
        })
    }
}

#[cfg(test)]
mod tests;
