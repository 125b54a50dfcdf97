//! The memory of one run: its last saves, what is unusual about them, and how often that was.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::judge::{HORIZON, judge};
use super::kind::{Anomaly, Kind, Rules};
use super::point::{Place, Point};

/// Anomalies that are over and still shown.
const MAX_OVER: usize = 100;

/// The last saves of a run and its anomalies.
///
/// Saves are judged in the order of their steps. The newest is often measured before those that lie
/// behind it: it waits for its turn.
#[derive(Debug, Clone, Default)]
pub struct Chronicle {
    /// Judged, at most [`HORIZON`].
    points: VecDeque<Point>,
    /// Measured, and not judged while an earlier save may still come.
    waiting: BTreeMap<Place, Point>,
    open: Vec<Anomaly>,
    /// Oldest first.
    over: VecDeque<Anomaly>,
    counts: BTreeMap<(Kind, Arc<str>), u64>,
    z: BTreeMap<(Kind, Arc<str>), f64>,
}

/// What changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct News {
    /// What began.
    pub began: Vec<Anomaly>,
    /// What is over.
    pub ended: Vec<Anomaly>,
}

impl Chronicle {
    /// As it was before a restart: the points that were judged and those that were not, oldest first,
    /// the anomalies, and the counts.
    #[must_use]
    pub fn restored(
        judged: Vec<Point>,
        unjudged: Vec<Point>,
        (open, over): (Vec<Anomaly>, Vec<Anomaly>),
        counts: BTreeMap<(Kind, Arc<str>), u64>,
        rules: &Rules,
    ) -> Self {
        // The scores of the last save do not depend on what was open before it.
        let z = judge(&judged, &[], rules).z;
        let mut chronicle = Self {
            points: judged.into(),
            waiting: BTreeMap::new(),
            open,
            over: over.into(),
            counts,
            z,
        };
        for point in unjudged {
            chronicle.add(point);
        }
        chronicle
    }

    /// Place of the last save that was judged.
    #[must_use]
    pub fn judged(&self) -> Option<Place> {
        self.points.back().map(|point| point.place)
    }

    /// Takes a measured save. Of one place, the last counts; a save before the last one judged comes
    /// too late for a judgement.
    pub fn add(&mut self, point: Point) {
        for pair in &point.pairs {
            let Some(name) = &pair.subject.pair else { continue };
            for kind in Kind::ALL.into_iter().filter(|kind| kind.is_of_pairs()) {
                self.counts.entry((kind, Arc::clone(name))).or_default();
            }
        }
        for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_of_pairs()) {
            self.counts.entry((kind, "".into())).or_default();
        }
        if self.points.back().is_none_or(|last| last.place < point.place) {
            self.waiting.insert(point.place, point);
        }
    }

    /// Judges what waits, as far as no earlier save is still to come: all before `frontier`.
    pub fn advance(&mut self, frontier: Option<Place>, rules: &Rules) -> News {
        let mut news = News::default();
        while let Some(first) = self.waiting.first_entry() {
            let is_due = frontier.is_none_or(|frontier| *first.key() < frontier);
            if !is_due && self.waiting.len() <= HORIZON {
                break;
            }
            if let Some((_, point)) = self.waiting.pop_first() {
                self.judge(point, rules, &mut news);
            }
        }
        news
    }

    fn judge(&mut self, point: Point, rules: &Rules, news: &mut News) {
        let step = point.place.step;
        let point = match self.points.back() {
            Some(before) => point.sharing(before),
            None => point,
        };
        self.points.push_back(point);
        if self.points.len() > HORIZON {
            self.points.pop_front();
        }
        let judged = judge(self.points.make_contiguous(), &self.open, rules);
        for index in judged.ended.into_iter().rev() {
            let mut anomaly = self.open.remove(index);
            anomaly.resolved_step = Some(step);
            news.ended.push(anomaly.clone());
            self.over.push_back(anomaly);
        }
        let excess = self.over.len().saturating_sub(MAX_OVER);
        self.over.drain(..excess);
        for anomaly in judged.began {
            let pair = anomaly.subject.pair.clone().unwrap_or_default();
            *self.counts.entry((anomaly.kind, pair)).or_default() += 1;
            news.began.push(anomaly.clone());
            self.open.push(anomaly);
        }
        self.z = judged.z;
    }

    /// What is unusual now, in the order in which it began.
    #[must_use]
    pub fn open(&self) -> &[Anomaly] {
        &self.open
    }

    /// What was unusual, oldest first, as far as it is remembered.
    #[must_use]
    pub fn over(&self) -> impl DoubleEndedIterator<Item = &Anomaly> {
        self.over.iter()
    }

    /// Kind and pair → anomalies so far, from 0 for all that could be; the pair is empty for
    /// matrices and the whole.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<(Kind, Arc<str>), u64> {
        &self.counts
    }

    /// Kind and pair → z of the last save judged, farthest out.
    #[must_use]
    pub fn z(&self) -> &BTreeMap<(Kind, Arc<str>), f64> {
        &self.z
    }

    /// Steps of the last `n` judged saves of the current segment whose weights are finite, rising; none
    /// while an anomaly is open by which weights may be damaged.
    #[must_use]
    pub fn good_steps(&self, n: usize) -> Vec<u64> {
        let Some(segment) = self.judged().map(|place| place.segment) else { return Vec::new() };
        if self.open.iter().any(Anomaly::may_damage) {
            return Vec::new();
        }
        let good = |p: &&Point| p.place.segment == segment && p.n_nonfinite == 0;
        let mut steps: Vec<u64> =
            self.points.iter().rev().filter(good).take(n).map(|p| p.place.step).collect();
        steps.reverse();
        steps
    }

    /// The newest finite save before every open anomaly by which weights may be damaged.
    #[must_use]
    pub fn last_good_step(&self) -> Option<u64> {
        let serious = self.open.iter().filter(|a| a.may_damage());
        serious.filter_map(|a| a.last_good_step).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::kind::{Severity, Subject};
    use super::*;

    fn point(segment: u32, step: u64, n_nonfinite: u64) -> Point {
        Point { n_nonfinite, ..Point::at(Place { segment, step }) }
    }

    fn place(step: u64) -> Place {
        Place { segment: 0, step }
    }

    fn steps(anomalies: &[Anomaly]) -> Vec<u64> {
        anomalies.iter().map(|a| a.onset_step).collect()
    }

    #[test]
    fn saves_are_judged_in_order_whichever_is_measured_first() {
        let rules = Rules::default();
        let mut chronicle = Chronicle::default();
        chronicle.add(point(0, 500, 1));
        assert_eq!(chronicle.advance(Some(place(100)), &rules), News::default());
        for step in [100, 200, 300] {
            chronicle.add(point(0, step, u64::from(step == 200)));
            let news = chronicle.advance(Some(place(step + 100)), &rules);
            assert_eq!(steps(&news.began), if step == 200 { vec![200] } else { vec![] });
            assert_eq!(steps(&news.ended), if step == 300 { vec![200] } else { vec![] });
        }
        // The save at 400 could not be read: nothing more is waited for.
        let news = chronicle.advance(None, &rules);
        assert_eq!(steps(&news.began), [500]);
        assert_eq!(news.began[0].last_good_step, Some(300));
        assert_eq!(chronicle.last_good_step(), Some(300));
        assert_eq!(chronicle.counts()[&(Kind::Nonfinite, "".into())], 2);
        assert_eq!(chronicle.over().map(|a| a.resolved_step).collect::<Vec<_>>(), [Some(300)]);
        chronicle.add(point(0, 450, 0));
        assert_eq!(chronicle.advance(None, &rules), News::default(), "too late");
        chronicle.add(point(1, 450, 0));
        assert_eq!(steps(&chronicle.advance(None, &rules).ended), [500], "resumed from before");
        assert_eq!(chronicle.last_good_step(), None);
    }

    #[test]
    fn what_only_stands_still_makes_no_save_worse() {
        let rules = Rules::default();
        let mut chronicle = Chronicle::default();
        chronicle.add(point(0, 100, 0));
        chronicle.advance(None, &rules);
        let plateau = Anomaly {
            last_good_step: Some(50),
            ..point(0, 60, 0).begins(Kind::Plateau, Arc::new(Subject::whole()), Severity::Warning)
        };
        chronicle.open.push(plateau);
        assert_eq!((chronicle.last_good_step(), chronicle.good_steps(1)), (None, vec![100]));
        chronicle.open[0].kind = Kind::ScaleJump;
        assert_eq!((chronicle.last_good_step(), chronicle.good_steps(1)), (Some(50), vec![]));
    }

    #[test]
    fn no_more_waits_than_is_looked_at() {
        let mut chronicle = Chronicle::default();
        for step in 1..=200 {
            chronicle.add(point(0, step, 1));
            chronicle.advance(Some(place(0)), &Rules::default());
            assert!(chronicle.waiting.len() <= HORIZON && chronicle.points.len() <= HORIZON);
        }
        assert_eq!(steps(chronicle.open()), [1]);
    }

    #[test]
    fn what_is_over_is_forgotten_in_the_end_and_still_counted() {
        let mut chronicle = Chronicle::default();
        for step in 0..600 {
            chronicle.add(point(0, step, step % 2));
            chronicle.advance(None, &Rules::default());
        }
        assert_eq!(chronicle.over().count(), MAX_OVER);
        assert_eq!(chronicle.over().next_back().map(|a| a.onset_step), Some(597));
        assert_eq!(chronicle.counts()[&(Kind::Nonfinite, "".into())], 300);
    }
}
