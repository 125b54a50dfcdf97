//! Which save is analysed next. Pure.

use std::collections::BTreeMap;

use crate::watch::SettledSave;

/// Saves waiting in one run; of more, the oldest is given up and counted as outrun.
const MAX_WAITING: usize = 10_000;

/// Order of saves within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    /// Counts the times that training went back to an earlier step.
    pub(super) segment: u32,
    /// Step from the name.
    pub(super) step: Option<u64>,
    /// Order of first sight, which decides between saves of one step or of none.
    pub(super) sequence: u64,
}

/// A save and its place in its run.
#[derive(Debug, Clone)]
pub(super) struct Queued {
    pub(super) age: Age,
    pub(super) save: SettledSave,
}

/// Saves that wait for a worker.
#[derive(Debug, Default)]
pub(super) struct Queue {
    runs: BTreeMap<String, Waiting>,
    n_served: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    saves: BTreeMap<Age, Queued>,
    /// Newest ever handed out; a save beyond it is news.
    newest: Option<Age>,
    /// When the run was last served, in jobs handed out.
    served: u64,
}

impl Queue {
    /// Adds a save to the run `name`; returns how many it pushes out. A new version of a save takes
    /// the place of the one that waits.
    pub(super) fn push(&mut self, name: &str, queued: Queued) -> usize {
        let waiting = self.runs.entry(name.to_owned()).or_default();
        let before = waiting.saves.len();
        if queued.save.supersedes {
            waiting.saves.retain(|_, waits| waits.save.path != queued.save.path);
        }
        let mut pushed_out = before - waiting.saves.len();
        waiting.saves.insert(queued.age, queued);
        if waiting.saves.len() > MAX_WAITING {
            waiting.saves.pop_first();
            pushed_out += 1;
        }
        pushed_out
    }

    /// The next save: the newest of a run that has news first, so that the page is current; then
    /// what lies behind it by ascending step. Runs take turns; those that may not are passed over.
    pub(super) fn pop(&mut self, may: impl Fn(&str) -> bool) -> Option<(String, Queued)> {
        let has_news = |w: &Waiting| {
            w.saves.last_key_value().is_some_and(|(age, _)| w.newest.is_none_or(|n| *age > n))
        };
        let (name, best) = self
            .runs
            .iter_mut()
            .filter(|(name, w)| !w.saves.is_empty() && may(name))
            .min_by_key(|(_, w)| (!has_news(w), w.served))?;
        self.n_served += 1;
        best.served = self.n_served;
        let news = has_news(best);
        let (age, save) = if news { best.saves.pop_last()? } else { best.saves.pop_first()? };
        if news {
            best.newest = Some(age);
        }
        Some((name.clone(), save))
    }

    /// Saves that wait in a run.
    pub(super) fn len(&self, run: &str) -> usize {
        self.runs.get(run).map_or(0, |w| w.saves.len())
    }

    /// The oldest save that waits in a run.
    pub(super) fn oldest(&self, run: &str) -> Option<Age> {
        self.runs.get(run)?.saves.first_key_value().map(|(age, _)| *age)
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

    fn save(step: u64) -> Queued {
        let save = SettledSave {
            run: "r".into(),
            run_path: "r".into(),
            path: format!("r/checkpoint-{step}").into(),
            step: Some(step),
            sequence: step,
            version: 1,
            supersedes: false,
            in_place: false,
            files: Vec::new(),
            waited: Duration::ZERO,
        };
        Queued { age: Age { segment: 0, step: Some(step), sequence: step }, save }
    }

    fn drain(queue: &mut Queue) -> Vec<(String, u64)> {
        std::iter::from_fn(|| queue.pop(|_| true))
            .map(|(run, q)| (run, q.save.step.unwrap()))
            .collect()
    }

    fn named(wanted: &[(&str, u64)]) -> Vec<(String, u64)> {
        wanted.iter().map(|(run, step)| ((*run).to_owned(), *step)).collect()
    }

    #[test]
    fn the_newest_of_every_run_comes_first_then_ascending_steps_in_turns() {
        let mut queue = Queue::default();
        for step in [300, 100, 200] {
            assert_eq!(queue.push("a", save(step)) + queue.push("b", save(step)), 0);
        }
        let wanted = [("a", 300), ("b", 300), ("a", 100), ("b", 100), ("a", 200), ("b", 200)];
        assert_eq!(queue.oldest("a").unwrap().step, Some(100));
        assert_eq!(drain(&mut queue), named(&wanted));
        assert_eq!((queue.oldest("a"), queue.oldest("c")), (None, None));
    }

    #[test]
    fn runs_that_may_not_have_a_turn_wait() {
        let mut queue = Queue::default();
        for step in [100, 200] {
            assert_eq!(queue.push("a", save(step)) + queue.push("b", save(step)), 0);
        }
        let b = |queue: &mut Queue| queue.pop(|run| run != "a").map(|(run, _)| run);
        assert_eq!([b(&mut queue), b(&mut queue)], [Some("b".into()), Some("b".into())]);
        assert_eq!(b(&mut queue), None);
        assert_eq!(drain(&mut queue), named(&[("a", 200), ("a", 100)]));
    }

    #[test]
    fn news_overtakes_what_lies_behind() {
        let mut queue = Queue::default();
        for step in 1..=3 {
            queue.push("a", save(step));
        }
        assert_eq!(queue.pop(|_| true).unwrap().1.save.step, Some(3));
        queue.push("a", save(4));
        // Training went back to step 2 and saves it anew: that is news as well.
        let mut again = save(2);
        again.age.segment = 1;
        again.save.supersedes = true;
        assert_eq!(queue.push("a", again), 1);
        assert_eq!(drain(&mut queue), named(&[("a", 2), ("a", 1), ("a", 4)]));
    }

    #[test]
    fn a_new_version_replaces_the_one_that_waits() {
        let mut queue = Queue::default();
        queue.push("a", save(1));
        let mut again = save(1);
        (again.save.version, again.save.supersedes, again.age.sequence) = (2, true, 9);
        assert_eq!(queue.push("a", again), 1);
        assert_eq!(queue.len("a"), 1);
        assert_eq!(queue.pop(|_| true).unwrap().1.save.version, 2);
    }

    #[test]
    fn a_full_queue_gives_up_the_oldest() {
        let mut queue = Queue::default();
        let pushed_out: usize = (0..=MAX_WAITING as u64).map(|s| queue.push("a", save(s))).sum();
        assert_eq!((pushed_out, queue.len("a")), (1, MAX_WAITING));
        queue.pop(|_| true);
        assert_eq!(queue.pop(|_| true).unwrap().1.save.step, Some(1), "0 was given up");
    }
}
