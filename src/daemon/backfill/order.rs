//! Which saves of a run make its past, in which order. Pure.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::daemon::path_text;
use crate::daemon::runs::{key, modified_ns};
use crate::history::{SaveKey, StoredSave};
use crate::watch::{FileKind, FileStamp, SettledSave};

/// A save of the past.
#[derive(Debug)]
pub(super) struct PastSave {
    pub(super) save: SettledSave,
    /// Times that training went back before it.
    pub(super) segment: u32,
    /// What the store knows of it.
    pub(super) stored: Option<StoredSave>,
    /// Whether this content is still on disk.
    pub(super) is_there: bool,
    /// When it was complete, milliseconds since 1970.
    pub(super) at_ms: i64,
}

/// The past of one run, in order.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) saves: Vec<PastSave>,
    /// Time of the first save that is too new, milliseconds since 1970.
    pub(super) next_ms: Option<i64>,
    pub(super) n_late: usize,
    pub(super) n_disordered: usize,
}

/// The saves of a run up to `until_ms`, each content once, in the order of their segments and steps.
///
/// Times must rise with it. Where they do not (a directory copied without its times, saves left from
/// before training went back), as few saves as possible are left out: what is written cannot have two
/// values at a time, and the daemon as well orders saves that it finds together by their steps.
pub(super) fn past(found: Vec<SettledSave>, stored: Vec<StoredSave>, until_ms: i64) -> Past {
    let mut past = Past::default();
    let mut all = merged(found, stored);
    all.retain(|save| {
        let is_late = save.at_ms > until_ms;
        if is_late {
            past.n_late += 1;
            past.next_ms = Some(past.next_ms.map_or(save.at_ms, |next| next.min(save.at_ms)));
        }
        !is_late
    });
    all.sort_by_key(|save| (save.segment, save.save.step, save.at_ms, save.save.sequence));
    let times: Vec<i64> = all.iter().map(|save| save.at_ms).collect();
    let rising = longest_rising(&times);
    past.n_disordered = times.len() - rising.iter().filter(|rises| **rises).count();
    let rising = all.into_iter().zip(rising).filter(|(_, rises)| *rises);
    for (sequence, (mut save, _)) in (0..).zip(rising) {
        save.save.sequence = sequence;
        past.saves.push(save);
    }
    past
}

/// What is on disk with what is known of it, and what is known of saves that are gone.
fn merged(found: Vec<SettledSave>, stored: Vec<StoredSave>) -> Vec<PastSave> {
    let mut segments: Vec<(i64, u32)> =
        stored.iter().map(|s| (s.key.modified_ns, s.age.segment)).collect();
    segments.sort_unstable();
    let run = found.first().map(|save| (save.run.clone(), save.run_path.clone()));
    let mut known: HashMap<SaveKey, StoredSave> =
        stored.into_iter().map(|s| (s.key.clone(), s)).collect();
    let mut all = Vec::new();
    for save in found {
        // Without a time there is no place for it.
        let Some(ns) = modified_ns(&save) else { continue };
        let stored = key(&save).and_then(|key| known.remove(&key));
        let before = segments.partition_point(|(at, _)| *at <= ns).checked_sub(1);
        let segment = match &stored {
            Some(stored) => stored.age.segment,
            None => before.map_or(0, |i| segments[i].1),
        };
        all.push(PastSave { save, segment, stored, is_there: true, at_ms: milliseconds(ns) });
    }
    let (run, run_path) = run.unwrap_or_default();
    let gone = known.into_values().map(|stored| PastSave {
        save: as_it_was(&stored, run.clone(), run_path.clone()),
        segment: stored.age.segment,
        at_ms: milliseconds(stored.key.modified_ns),
        stored: Some(stored),
        is_there: false,
    });
    all.extend(gone);
    all
}

/// A save that is gone, as far as the store tells.
fn as_it_was(stored: &StoredSave, run: String, run_path: PathBuf) -> SettledSave {
    let stamp = FileStamp {
        name: String::new(),
        kind: FileKind::Weights,
        dev: 0,
        ino: 0,
        size: stored.key.size_bytes,
        mtime_ns: stored.key.modified_ns,
        ctime_ns: stored.key.modified_ns,
        nlink: 0,
    };
    SettledSave {
        run,
        run_path,
        path: path_text::decode(&stored.key.path),
        step: stored.age.step,
        sequence: stored.age.sequence,
        version: 1,
        supersedes: false,
        in_place: stored.age.step.is_none(),
        files: vec![stamp],
        waited: std::time::Duration::ZERO,
    }
}

fn milliseconds(ns: i64) -> i64 {
    ns.div_euclid(1_000_000)
}

/// Marks the most values that rise from each to the next; where there is a choice, later ones.
fn longest_rising(values: &[i64]) -> Vec<bool> {
    // By length − 1: where the sequence of that length ends that ends lowest.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(values.len());
    for (at, value) in values.iter().enumerate() {
        let length = ends.partition_point(|end| values[*end] < *value);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        if length == ends.len() {
            ends.push(at);
        } else {
            ends[length] = at;
        }
    }
    let mut chosen = vec![false; values.len()];
    let mut at = ends.last().copied();
    while let Some(here) = at {
        chosen[here] = true;
        at = before[here];
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn save(step: u64, at_s: i64) -> SettledSave {
        let stamp = FileStamp {
            name: "model.safetensors".into(),
            kind: FileKind::Weights,
            dev: 1,
            ino: step,
            size: 10,
            mtime_ns: at_s * 1_000_000_000,
            ctime_ns: 0,
            nlink: 1,
        };
        SettledSave {
            run: "r".into(),
            run_path: "/r".into(),
            path: format!("/r/checkpoint-{step}").into(),
            step: Some(step),
            sequence: step,
            version: 1,
            supersedes: false,
            in_place: false,
            files: vec![stamp],
            waited: Duration::ZERO,
        }
    }

    fn steps(past: &Past) -> Vec<u64> {
        past.saves.iter().filter_map(|save| save.save.step).collect()
    }

    fn of(saves: &[(u64, i64)], until_s: i64) -> Past {
        let found = saves.iter().map(|(step, at)| save(*step, *at)).collect();
        past(found, Vec::new(), until_s * 1000)
    }

    #[test]
    fn saves_come_by_step_up_to_a_time() {
        let all = of(&[(300, 30), (100, 10), (200, 20)], 30);
        assert_eq!((steps(&all), all.n_late, all.next_ms), (vec![100, 200, 300], 0, None));
        let some = of(&[(300, 30), (100, 10), (200, 20), (400, 40)], 29);
        assert_eq!((steps(&some), some.n_late, some.next_ms), (vec![100, 200], 2, Some(30_000)));
    }

    #[test]
    fn as_few_as_possible_are_left_out_where_times_do_not_rise() {
        // Left from before training went back to 200.
        let resumed = of(&[(100, 1), (200, 2), (300, 6), (400, 7), (500, 5)], 99);
        assert_eq!((steps(&resumed), resumed.n_disordered), (vec![100, 200, 300, 400], 1));
        // One was touched later.
        let touched = of(&[(100, 50), (200, 2), (300, 3)], 99);
        assert_eq!((steps(&touched), touched.n_disordered), (vec![200, 300], 1));
        let copied = of(&[(100, 5), (200, 5), (300, 5)], 99);
        assert_eq!((copied.saves.len(), copied.n_disordered), (1, 2));
    }

    proptest! {
        #[test]
        fn what_is_chosen_rises_and_nothing_longer_does(
            values in proptest::collection::vec(0_i64..12, 0..12)
        ) {
            let chosen = longest_rising(&values);
            let picked: Vec<i64> =
                values.iter().zip(&chosen).filter(|(_, c)| **c).map(|(v, _)| *v).collect();
            prop_assert!(picked.is_sorted_by(|a, b| a < b));
            let rises = |mask: &u32| {
                let some = (0..values.len()).filter(|i| mask >> i & 1 == 1).map(|i| values[i]);
                some.collect::<Vec<_>>().is_sorted_by(|a, b| a < b)
            };
            let most = (0_u32..1 << values.len()).filter(rises).map(u32::count_ones).max();
            prop_assert_eq!(most.map(|n| n as usize), Some(picked.len()));
        }
    }
}
