//! A save that is ready to be read, and the order in which to read many.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::save::FileStamp;

/// A save whose files have come to rest and look complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledSave {
    /// Name of its run.
    pub run: String,
    /// Path of its run.
    pub run_path: PathBuf,
    /// The directory or file to read.
    pub path: PathBuf,
    /// Step from the name; `None` for a save rewritten in place.
    pub step: Option<u64>,
    /// Order in which contents were first seen, unique; says which of two saves of one step is later.
    pub sequence: u64,
    /// 1 for the first content of this run and step (or path), then 2, 3, …
    pub version: u32,
    /// Whether an earlier version was handed out: what was said of it no longer holds.
    pub supersedes: bool,
    /// Whether the next save is written over this one.
    pub in_place: bool,
    /// Stamps that the files had when they came to rest.
    pub files: Vec<FileStamp>,
    /// Time from the first sight of this content to the hand-out.
    pub waited: Duration,
}

/// Puts saves in the order in which to analyse them: first the newest of every run (by step, then by
/// sequence), so that a page has something current to show; then all others by ascending step, as
/// measurements of change need the save before. Deterministic.
pub fn analysis_order(saves: &mut [SettledSave]) {
    let age = |save: &SettledSave| (save.step, save.sequence);
    let mut newest = HashMap::new();
    for save in saves.iter() {
        let best = newest.entry(save.run.clone()).or_insert_with(|| age(save));
        *best = age(save).max(*best);
    }
    saves.sort_by(|left, right| {
        let key = |save: &SettledSave| (newest.get(&save.run) != Some(&age(save)), age(save));
        key(left).cmp(&key(right)).then_with(|| left.run.cmp(&right.run))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_every_run_then_ascending() {
        let save = |&(run, step, sequence): &(&str, Option<u64>, u64)| SettledSave {
            run: run.to_owned(),
            run_path: run.into(),
            path: run.into(),
            step,
            sequence,
            version: 1,
            supersedes: false,
            in_place: step.is_none(),
            files: Vec::new(),
            waited: Duration::ZERO,
        };
        let found = [
            ("a", Some(30), 1),
            ("a", Some(4), 2),
            ("b", Some(9), 3),
            ("b", Some(5), 4),
            ("c", None, 5),
        ];
        let mut saves: Vec<_> = found.iter().map(save).collect();
        analysis_order(&mut saves);
        let order: Vec<_> = saves.iter().map(|save| (save.run.as_str(), save.step)).collect();
        let expected =
            [("c", None), ("b", Some(9)), ("a", Some(30)), ("a", Some(4)), ("b", Some(5))];
        assert_eq!(order, expected);
    }
}
