//! How far a run is from others of its kind at equal steps. Pure.

use super::kind::{Jump, Rules};
use super::track::{NORMAL, WINDOW, median};

/// What a run is compared in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compared {
    /// Mean gram correlation of a kind of pairs.
    Alignment,
    /// Mean ln κ of a kind of pairs.
    Commutator,
    /// ln of the median update ratio.
    Update,
    /// ln of the norm of all matrices.
    Norm,
    /// ln of the training loss.
    Loss,
}

/// The least change of ln loss that counts: a twentieth.
const LOSS: Jump = Jump { least: 0.05, z: 8.0 };

impl Compared {
    /// All.
    pub const ALL: [Self; 5] =
        [Self::Alignment, Self::Commutator, Self::Update, Self::Norm, Self::Loss];

    /// Value of the label `metric`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alignment => "alignment",
            Self::Commutator => "commutator",
            Self::Update => "update",
            Self::Norm => "norm",
            Self::Loss => "loss",
        }
    }

    /// Least spread of the references. It is such that at the z of an anomaly the deviation is no
    /// smaller than the least change worth one, however alike the references are.
    #[must_use]
    pub fn floor(self, rules: &Rules) -> f64 {
        let default = Rules::default();
        let jump = match self {
            Self::Alignment => rules.alignment_drop.or(default.alignment_drop),
            Self::Commutator => rules.commutator_spike.or(default.commutator_spike),
            Self::Update => rules.update_shock.or(default.update_shock),
            Self::Norm => rules.scale_jump.or(default.scale_jump),
            Self::Loss => Some(LOSS),
        };
        jump.map_or(f64::MIN_POSITIVE, |jump| jump.least / jump.z)
    }
}

/// Robust z of `value` at `step` against the curves of reference runs, each (step, value) by rising
/// steps; the points near `step` suffice. `None` where no curve reaches over that step.
///
/// Each curve is interpolated between its saves. The centre is their median. The spread is that
/// between the curves (1.4826·MAD, 0 for one) and the noise within them (the same of the saves near
/// by, each against its two neighbours), added as variances, and at least `floor`.
#[must_use]
pub fn deviation(curves: &[Vec<(u64, f64)>], step: u64, value: f64, floor: f64) -> Option<f64> {
    let mut there: Vec<f64> = curves.iter().filter_map(|curve| at(curve, step)).collect();
    let center = median(&mut there)?;
    let mut apart: Vec<f64> = there.iter().map(|x| (x - center).abs()).collect();
    let between = NORMAL * median(&mut apart)?;
    let mut noises: Vec<f64> = curves.iter().filter_map(|curve| noise(curve, step)).collect();
    let within = median(&mut noises).unwrap_or(0.0);
    let z = (value - center) / between.hypot(within).max(floor);
    z.is_finite().then_some(z)
}

/// The curve at a step, on the line between the saves around it.
fn at(curve: &[(u64, f64)], step: u64) -> Option<f64> {
    let after = curve.partition_point(|(s, _)| *s < step);
    let right = curve.get(after)?;
    if right.0 == step {
        return Some(right.1);
    }
    let left = curve.get(after.checked_sub(1)?)?;
    Some(between(*left, *right, step))
}

fn between(left: (u64, f64), right: (u64, f64), step: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "steps stay below 2^52")]
    let part = (step - left.0) as f64 / (right.0 - left.0) as f64;
    left.1 + part * (right.1 - left.1)
}

/// Standard deviation of the values near a step around a smooth curve: of a window of saves, each
/// is compared with the line between its neighbours, which for independent noise has half its
/// variance.
fn noise(curve: &[(u64, f64)], step: u64) -> Option<f64> {
    let middle = curve.partition_point(|(s, _)| *s < step);
    let from = middle.saturating_sub(WINDOW / 2 + 1);
    let window = &curve[from..(middle + WINDOW / 2 + 1).min(curve.len())];
    let off = |three: &[(u64, f64)]| (three[1].1 - between(three[0], three[2], three[1].0)).abs();
    let mut off: Vec<f64> = window.windows(3).map(off).collect();
    Some(NORMAL * median(&mut off)? / 1.5_f64.sqrt())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values at every hundredth step.
    fn curve(values: &[f64]) -> Vec<(u64, f64)> {
        (0..).map(|i| 100 * i).zip(values.iter().copied()).collect()
    }

    #[test]
    fn by_hand() {
        // On a straight line there is no noise: the floor is the spread.
        let line = curve(&[0.0, 1.0, 2.0, 3.0]);
        assert_eq!(deviation(std::slice::from_ref(&line), 150, 2.5, 0.5), Some(2.0));
        assert_eq!(deviation(&[line], 200, 1.0, 0.5), Some(-2.0));
        // Every save is 1 from the line between its neighbours, which are on the other side.
        let saw = curve(&[0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        let sd = 1.4826 / 1.5_f64.sqrt();
        assert!((deviation(&[saw], 200, 3.0, 0.0).unwrap() - 3.0 / sd).abs() < 1e-12);
        // Three flat references: median 2, deviations 1, 0, 4, their median 1.
        let flat = [1.0, 2.0, 6.0].map(|value| curve(&[value; 5]));
        assert!((deviation(&flat, 100, 5.0, 0.0).unwrap() - 3.0 / 1.4826).abs() < 1e-12);
    }

    #[test]
    fn nothing_is_said_where_no_reference_reaches() {
        let line = curve(&[0.0, 1.0]);
        assert_eq!(deviation(&[], 50, 1.0, 1.0), None);
        assert_eq!(deviation(&[Vec::new()], 50, 1.0, 1.0), None);
        assert_eq!(deviation(std::slice::from_ref(&line), 101, 1.0, 1.0), None);
        assert_eq!(deviation(&[line[1..].to_vec()], 99, 1.0, 1.0), None);
        // One save is a reference at its own step.
        assert_eq!(deviation(&[line[1..].to_vec()], 100, 4.0, 1.0), Some(3.0));
        // Those that reach count alone.
        assert_eq!(deviation(&[line, curve(&[9.0, 9.0, 9.0])], 200, 10.0, 1.0), Some(1.0));
        let nan = curve(&[f64::NAN; 3]);
        assert_eq!(deviation(&[nan], 100, 1.0, 1.0), None);
        assert_eq!(deviation(&[curve(&[0.0; 3])], 100, 0.0, 0.0), None, "no spread at all");
    }

    #[test]
    fn at_the_z_of_an_anomaly_the_deviation_is_worth_one() {
        let rules = Rules::default();
        let flat = [curve(&[0.3; 9])];
        for compared in Compared::ALL {
            let least = compared.floor(&rules) * 8.0;
            let z = deviation(&flat, 300, 0.3 - least, compared.floor(&rules)).unwrap();
            assert!((z + 8.0).abs() < 1e-9, "{compared:?}: {z}");
        }
        let off = Rules { alignment_drop: None, ..rules.clone() };
        assert!(
            (Compared::Alignment.floor(&off) - Compared::Alignment.floor(&rules)).abs() < 1e-15
        );
    }

    proptest! {
        #[test]
        fn units_and_offsets_do_not_matter(
            values in proptest::collection::vec(-1.0..1.0_f64, 12),
            value in -2.0..2.0_f64, unit in 0.1..10.0_f64, offset in -5.0..5.0_f64, step in 0..1100_u64,
        ) {
            let z = deviation(&[curve(&values)], step, value, 0.01).unwrap();
            let moved: Vec<f64> = values.iter().map(|x| unit * x + offset).collect();
            let again = deviation(&[curve(&moved)], step, unit * value + offset, unit * 0.01).unwrap();
            prop_assert!((z - again).abs() < 1e-6 * z.abs().max(1.0), "{} {}", z, again);
            prop_assert!(z.abs() <= 3.0 / 0.01);
        }
    }
}
