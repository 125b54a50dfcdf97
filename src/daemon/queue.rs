//! Which save is analysed next. Pure.

use std::collections::BTreeMap;

use crate::watch::SettledSave;

/// Saves waiting in one run; of more, the oldest is given up and counted as outrun.
const MAX_WAITING: usize = 10_000;

/// Order of saves within a run: by step, saves without one by sequence.
pub(super) type Age = (Option<u64>, u64);

pub(super) fn age(save: &SettledSave) -> Age {
    (save.step, save.sequence)
}

/// Saves that wait for a worker.
#[derive(Debug, Default)]
pub(super) struct Queue {
    runs: BTreeMap<String, Waiting>,
    n_served: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    saves: BTreeMap<Age, SettledSave>,
    /// Newest ever handed out; a save beyond it is news.
    newest: Option<Age>,
    /// When the run was last served, in jobs handed out.
    served: u64,
}

impl Queue {
    /// Adds a save; returns those that it pushes out. A new version of a save takes the place of
    /// the one that waits.
    pub(super) fn push(&mut self, save: SettledSave) -> Vec<SettledSave> {
        let waiting = self.runs.entry(save.run.clone()).or_default();
        let replaced = waiting.saves.iter().find(|(_, s)| s.path == save.path).map(|(age, _)| *age);
        let mut out: Vec<_> =
            replaced.and_then(|age| waiting.saves.remove(&age)).into_iter().collect();
        waiting.saves.insert(age(&save), save);
        if waiting.saves.len() > MAX_WAITING {
            out.extend(waiting.saves.pop_first().map(|(_, save)| save));
        }
        out
    }

    /// The next save: the newest of a run that has news first, so that the page is current; then
    /// what lies behind it by ascending step. Runs take turns.
    pub(super) fn pop(&mut self) -> Option<SettledSave> {
        let has_news = |w: &Waiting| {
            w.saves.last_key_value().is_some_and(|(age, _)| w.newest.is_none_or(|n| *age > n))
        };
        let best = self
            .runs
            .iter_mut()
            .filter(|(_, w)| !w.saves.is_empty())
            .min_by_key(|(_, w)| (!has_news(w), w.served))?
            .1;
        self.n_served += 1;
        best.served = self.n_served;
        let news = has_news(best);
        let (age, save) = if news { best.saves.pop_last()? } else { best.saves.pop_first()? };
        if news {
            best.newest = Some(age);
        }
        Some(save)
    }

    /// Saves that wait in a run.
    pub(super) fn len(&self, run: &str) -> usize {
        self.runs.get(run).map_or(0, |w| w.saves.len())
    }

    /// Forgets a run.
    pub(super) fn forget(&mut self, run: &str) {
        self.runs.remove(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn save(run: &str, step: u64) -> SettledSave {
        SettledSave {
            run: run.into(),
            run_path: run.into(),
            path: format!("{run}/checkpoint-{step}").into(),
            step: Some(step),
            sequence: step,
            version: 1,
            supersedes: false,
            in_place: false,
            files: Vec::new(),
            waited: Duration::ZERO,
        }
    }

    fn drain(queue: &mut Queue) -> Vec<(String, u64)> {
        std::iter::from_fn(|| queue.pop()).map(|s| (s.run, s.step.unwrap())).collect()
    }

    fn named(wanted: &[(&str, u64)]) -> Vec<(String, u64)> {
        wanted.iter().map(|(run, step)| ((*run).to_owned(), *step)).collect()
    }

    #[test]
    fn the_newest_of_every_run_comes_first_then_ascending_steps_in_turns() {
        let mut queue = Queue::default();
        for step in [300, 100, 200] {
            assert!(queue.push(save("a", step)).is_empty());
            assert!(queue.push(save("b", step)).is_empty());
        }
        let wanted =
            named(&[("a", 300), ("b", 300), ("a", 100), ("b", 100), ("a", 200), ("b", 200)]);
        assert_eq!(drain(&mut queue), wanted);
    }

    #[test]
    fn news_overtakes_what_lies_behind() {
        let mut queue = Queue::default();
        for step in 1..=3 {
            queue.push(save("a", step));
        }
        assert_eq!(queue.pop().unwrap().step, Some(3));
        queue.push(save("a", 4));
        assert_eq!(drain(&mut queue), named(&[("a", 4), ("a", 1), ("a", 2)]));
    }

    #[test]
    fn a_new_version_replaces_the_one_that_waits() {
        let mut queue = Queue::default();
        queue.push(save("a", 1));
        let again = SettledSave { version: 2, sequence: 9, ..save("a", 1) };
        assert_eq!(queue.push(again).len(), 1);
        assert_eq!(queue.len("a"), 1);
        assert_eq!(queue.pop().unwrap().version, 2);
    }

    #[test]
    fn a_full_queue_gives_up_the_oldest() {
        let mut queue = Queue::default();
        let out: Vec<_> = (0..=MAX_WAITING as u64).flat_map(|s| queue.push(save("a", s))).collect();
        assert_eq!(out.iter().map(|s| s.step).collect::<Vec<_>>(), [Some(0)]);
        assert_eq!(queue.len("a"), MAX_WAITING);
    }
}
