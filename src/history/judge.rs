//! What begins and what ends with a save, from the saves before it alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::kind::{Anomaly, Jump, Kind, Rules, Severity, Subject};
use super::point::Point;
use super::stall;
use super::track::{Step, Track, WINDOW};

/// Saves that a judgement looks at, the judged one included: five windows, so that what was left out
/// of one as an outlier is settled by the ones before.
pub const HORIZON: usize = 5 * WINDOW;

/// Anomalies of one run that are open at a time; of more, the least far out are not told.
pub const MAX_OPEN: usize = 256;

/// What a save brings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judged {
    /// What begins with it, the most severe first.
    pub began: Vec<Anomaly>,
    /// Of those that were open: what is over, as indices in ascending order.
    pub ended: Vec<usize>,
    /// Kind and pair → the z of the increment that is farthest out in the direction of an alarm; the
    /// pair is empty for matrices. Nothing where there is no history enough.
    pub z: BTreeMap<(Kind, Arc<str>), f64>,
}

/// Without history enough for a z, a fall must exceed this many times the largest change so far.
const EARLY_PART: f64 = 2.0;

/// What moves half of all matrices counts from this part of the change of a single one on: their median
/// is far steadier.
const PART_OF_ALL: f64 = 0.7;

/// Values of one save.
type Values<'a> = Vec<(&'a Arc<Subject>, f64)>;

/// A value of which sudden changes are told.
struct Measure<'a> {
    kind: Kind,
    jump: Jump,
    /// Whether the logarithm is followed.
    is_ratio: bool,
    /// Whether it is of the steps between two saves: then it is followed over their root, or a save
    /// that was skipped would look like a shock.
    is_of_steps: bool,
    /// Direction of an alarm; 0 for both.
    sign: f64,
    values: fn(&'a Point) -> Values<'a>,
}

impl Measure<'_> {
    /// ln √steps from the save before this point, or to the next where it is the first.
    fn scale(&self, points: &[&Point], at: usize) -> f64 {
        let two = at.max(1) - 1..=at.max(1);
        let Some([before, point]) = points.get(two).filter(|_| self.is_of_steps) else {
            return 0.0;
        };
        #[expect(clippy::cast_precision_loss, reason = "steps between saves stay below 2^52")]
        let steps = point.place.step.saturating_sub(before.place.step).max(1) as f64;
        steps.ln() / 2.0
    }
}

/// Judges the last of `points` by those before it. They are in the order of their places; of those,
/// the last [`HORIZON`] count and only where they are of the same segment. `open` is what was open
/// after the save before.
#[must_use]
pub fn judge(points: &[Point], open: &[Anomaly], rules: &Rules) -> Judged {
    let Some(last) = points.last() else { return Judged::default() };
    let points = &points[points.len().saturating_sub(HORIZON)..];
    let of_segment = |p: &&Point| p.place.segment == last.place.segment;
    let points: Vec<&Point> = points.iter().filter(of_segment).collect();
    let mut judged = Judged::default();
    let mut holding: Vec<Anomaly> = Vec::new();
    holding.extend(nonfinite(&points, rules));
    holding.extend(frozen(&points, open, rules));
    holding.extend(stall::ridge(&points, rules));
    holding.extend(stall::plateaus(&points, rules));
    let sudden = jumps(&points, rules, &mut judged.z);

    // Non-finite weights are one anomaly, whichever matrix shows them first.
    let whole = Arc::new(Subject::whole());
    let key = |a: &Anomaly| {
        (a.kind, Arc::clone(if a.kind == Kind::Nonfinite { &whole } else { &a.subject }))
    };
    let held: BTreeMap<_, _> = holding.iter().map(|a| (key(a), a.severity)).collect();
    let again: BTreeSet<_> = sudden.iter().map(key).collect();
    let is_over = |a: &Anomaly| {
        a.segment != last.place.segment
            || if is_sudden(a.kind) {
                again.contains(&key(a)) || has_passed(a, &points)
            } else {
                // What has become more serious is told anew.
                held.get(&key(a)).is_none_or(|severity| *severity > a.severity)
            }
    };
    judged.ended = (0..open.len()).filter(|i| is_over(&open[*i])).collect();
    let still_open: BTreeSet<_> = open
        .iter()
        .enumerate()
        .filter(|(i, _)| !judged.ended.contains(i))
        .map(|(_, a)| key(a))
        .collect();
    judged.began =
        holding.into_iter().chain(sudden).filter(|a| !still_open.contains(&key(a))).collect();
    let far = |a: &Anomaly| a.z.map_or(0.0, f64::abs);
    judged.began.sort_by(|a, b| {
        b.severity.cmp(&a.severity).then(a.kind.cmp(&b.kind)).then(far(b).total_cmp(&far(a)))
    });
    // Of what follows a fault nothing is good, though it be finite.
    let is_of_segment = |a: &&Anomaly| a.segment == last.place.segment;
    let before = open.iter().filter(|a| a.may_damage()).filter(is_of_segment);
    let good_before = before.filter_map(|a| a.last_good_step).min().unwrap_or(u64::MAX);
    for anomaly in &mut judged.began {
        let own = last_good(&points, anomaly.onset_step);
        anomaly.last_good_step = own.map(|step| step.min(good_before));
    }
    judged.began.truncate(MAX_OPEN.saturating_sub(still_open.len()));
    judged
}

/// Whether a kind is told of a change, and not of a state that lasts.
fn is_sudden(kind: Kind) -> bool {
    use Kind::{AlignmentDrop, CommutatorSpike, ScaleJump, UpdateShock};
    matches!(kind, AlignmentDrop | CommutatorSpike | UpdateShock | ScaleJump)
}

/// The newest save before this step whose weights are all finite.
fn last_good(points: &[&Point], onset_step: u64) -> Option<u64> {
    let is_good = |p: &&&Point| p.place.step < onset_step && p.n_nonfinite == 0;
    points.iter().rev().find(is_good).map(|p| p.place.step)
}

fn nonfinite(points: &[&Point], rules: &Rules) -> Option<Anomaly> {
    let last = points.last().filter(|p| rules.nonfinite && p.n_nonfinite > 0)?;
    let subject = last.broken.clone().unwrap_or_else(|| Arc::new(Subject::whole()));
    let mut anomaly = last.begins(Kind::Nonfinite, subject, Severity::Critical);
    #[expect(clippy::cast_precision_loss, reason = "a count of weights")]
    let count = last.n_nonfinite as f64;
    anomaly.after = Some(count);
    anomaly.before = (points.len() > 1).then_some(0.0);
    Some(anomaly)
}

/// Matrices that have not changed at two saves in a row, though they or all others did before: what
/// never moved was frozen on purpose. Where nothing at all moves, that is told of the whole.
fn frozen(points: &[&Point], open: &[Anomaly], rules: &Rules) -> Vec<Anomaly> {
    let [.., before, last] = points else { return Vec::new() };
    if !rules.frozen {
        return Vec::new();
    }
    let unchanged = |point: &Point| -> (BTreeSet<Arc<Subject>>, usize) {
        let known = || point.matrices.iter().filter(|m| m.update.is_some());
        let still = known().filter(|m| m.update.is_some_and(|u| u <= 0.0));
        (still.map(|m| Arc::clone(&m.subject)).collect(), known().count())
    };
    let ((now, n_known), (then, _)) = (unchanged(last), unchanged(before));
    let still: BTreeSet<_> = now.intersection(&then).cloned().collect();
    let since = |subject: &Subject| {
        let is_still = |point: &&&Point| {
            let mut of =
                point.matrices.iter().filter(|m| subject.name.is_empty() || *m.subject == *subject);
            of.all(|m| m.update.is_some_and(|u| u <= 0.0))
        };
        points.iter().rev().take_while(is_still).last().map_or(last.place.step, |p| p.place.step)
    };
    let of = |subject: Arc<Subject>| {
        let mut anomaly = last.begins(Kind::Frozen, Arc::clone(&subject), Severity::Warning);
        anomaly.onset_step = since(&subject);
        anomaly.after = Some(0.0);
        anomaly
    };
    if n_known > 0 && still.len() == n_known {
        return vec![of(Arc::new(Subject::whole()))];
    }
    let mut moved: BTreeSet<&Subject> = BTreeSet::new();
    for point in points {
        moved.extend(
            point
                .matrices
                .iter()
                .filter(|m| m.update.is_some_and(|u| u > 0.0))
                .map(|m| &*m.subject),
        );
    }
    let was_open = |s: &Subject| open.iter().any(|a| a.kind == Kind::Frozen && *a.subject == *s);
    still.into_iter().filter(|s| moved.contains(&**s) || was_open(s)).map(of).collect()
}

fn measures<'a>(rules: &Rules) -> Vec<Measure<'a>> {
    let mut all = Vec::new();
    let mut add = |kind, jump: Option<Jump>, is_ratio, sign, values| {
        let is_of_steps = kind == Kind::UpdateShock;
        all.extend(jump.map(|jump| Measure { kind, jump, is_ratio, is_of_steps, sign, values }));
    };
    let whole = |jump: Jump| Jump { least: PART_OF_ALL * jump.least, ..jump };
    add(Kind::AlignmentDrop, rules.alignment_drop, false, -1.0, |p: &'a Point| {
        p.pairs.iter().filter_map(|x| Some((&x.subject, x.alignment?))).collect()
    });
    add(Kind::CommutatorSpike, rules.commutator_spike, true, 1.0, |p: &'a Point| {
        p.pairs.iter().filter_map(|x| Some((&x.subject, x.commutator?))).collect()
    });
    add(Kind::UpdateShock, rules.update_shock, true, 1.0, |p: &'a Point| {
        p.matrices.iter().filter_map(|x| Some((&x.subject, x.update?))).collect()
    });
    add(Kind::UpdateShock, rules.update_shock.map(whole), true, 1.0, |p: &'a Point| {
        p.median_update().map(|update| (&p.whole, update)).into_iter().collect()
    });
    add(Kind::ScaleJump, rules.scale_jump, true, 0.0, |p: &'a Point| {
        p.matrices.iter().filter_map(|x| Some((&x.subject, x.norm?))).collect()
    });
    all
}

/// Values that jump at the last point.
fn jumps(
    points: &[&Point],
    rules: &Rules,
    z: &mut BTreeMap<(Kind, Arc<str>), f64>,
) -> Vec<Anomaly> {
    let Some(last) = points.last() else { return Vec::new() };
    let mut found: Vec<Anomaly> = Vec::new();
    for measure in measures(rules) {
        for (subject, step) in last_steps(points, &measure) {
            let sign = if measure.sign == 0.0 { step.change().signum() } else { measure.sign };
            if let Some(score) = step.z {
                let pair = subject.pair.clone().unwrap_or_default();
                let far = z.entry((measure.kind, pair)).or_insert(score);
                if sign * score > sign * *far {
                    *far = score;
                }
            }
            let least = rules.alignment_drop_early.filter(|_| measure.kind == Kind::AlignmentDrop);
            // In the first saves alignment rises and overshoots by as much as some faults take.
            let least = least.map(|least| least.max(EARLY_PART * step.largest));
            let early = step.z.is_none() && least.is_some_and(|least| step.change() <= -least);
            let alarms = step.z.is_some_and(|z| sign * z >= measure.jump.z)
                && sign * step.change() >= measure.jump.least;
            if alarms || early {
                let mut anomaly = last.begins(measure.kind, Arc::clone(subject), Severity::Warning);
                // Both as over the steps to the last save.
                let scale = measure.scale(points, points.len() - 1);
                let shown = |x: f64| if measure.is_ratio { (x + scale).exp() } else { x };
                (anomaly.before, anomaly.after) =
                    (Some(shown(step.before)), Some(shown(step.after)));
                anomaly.z = step.z;
                found.push(anomaly);
            }
        }
    }
    let dropped: BTreeSet<Arc<Subject>> = found
        .iter()
        .filter(|a| a.kind == Kind::AlignmentDrop)
        .map(|a| Arc::clone(&a.subject))
        .collect();
    // Two signs of one fault.
    for anomaly in found.iter_mut().filter(|a| a.kind == Kind::CommutatorSpike) {
        if dropped.contains(&anomaly.subject) {
            anomaly.severity = Severity::Critical;
        }
    }
    found
}

/// How every value of a measure moved to the last point.
fn last_steps<'a>(points: &[&'a Point], measure: &Measure<'a>) -> Vec<(&'a Arc<Subject>, Step)> {
    let mut tracks: HashMap<&Subject, Track> = HashMap::new();
    let mut steps = Vec::new();
    for (i, point) in points.iter().enumerate() {
        for (subject, value) in (measure.values)(point) {
            let value =
                if measure.is_ratio { value.ln() - measure.scale(points, i) } else { value };
            if !value.is_finite() {
                continue;
            }
            let step =
                tracks.entry(subject).or_default().push(point.place.step, value, measure.jump);
            if i + 1 == points.len() {
                steps.extend(step.map(|step| (subject, step)));
            }
        }
    }
    steps
}

/// Whether a jump is history: the value came back at least halfway, or it has stayed for a window of
/// saves and is the new order.
fn has_passed(anomaly: &Anomaly, points: &[&Point]) -> bool {
    let since = points.iter().filter(|p| p.place.step > anomaly.onset_step).count();
    let value = points.last().and_then(|last| match anomaly.kind {
        Kind::AlignmentDrop => last.pairs.iter().find(|p| p.subject == anomaly.subject)?.alignment,
        Kind::CommutatorSpike => {
            last.pairs.iter().find(|p| p.subject == anomaly.subject)?.commutator
        }
        Kind::UpdateShock if *anomaly.subject == Subject::whole() => last.median_update(),
        Kind::UpdateShock => last.matrices.iter().find(|m| m.subject == anomaly.subject)?.update,
        _ => last.matrices.iter().find(|m| m.subject == anomaly.subject)?.norm,
    });
    let is_back = value
        .zip(anomaly.before)
        .zip(anomaly.after)
        .is_some_and(|((now, before), after)| (now - before).abs() <= (after - before).abs() / 2.0);
    is_back || since >= WINDOW
}

#[cfg(test)]
mod tests;
