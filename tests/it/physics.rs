//! The demo trains for real: what theory says of gradient descent is measured in its weights.
//!
//! For neighbouring layers `W_1`, `W_2` let `A = W_2ᵀW_2` and `B = W_1W_1ᵀ`. Without anything in
//! between, a step of gradient descent with coupled L2 decay takes `G = A − B` exactly to
//! `(1 − ηλ)²G + η²(∇_2ᵀ∇_2 − ∇_1∇_1ᵀ)`, and with `max(0, x)` in between the diagonal obeys the same.

use faer::{Mat, Scale};
use tempfile::tempdir;
use weightvane::daemon::demo::network::{Activation, Mlp};
use weightvane::daemon::demo::save::CheckpointWriter;
use weightvane::daemon::demo::train::{Trainer, TrainerConfig};

const HIDDEN_WIDTH: f64 = 64.0;

/// Every step sees the same 128 images: no sampling noise hides what is measured.
fn full_batch(activation: Activation, learning_rate: f64, weight_decay: f64) -> Trainer {
    Trainer::new(TrainerConfig {
        learning_rate,
        weight_decay,
        n_samples: 128,
        batch_size: 128,
        ..TrainerConfig::demo(activation)
    })
}

fn advance(trainer: &mut Trainer, n_steps: usize) {
    for _ in 0..n_steps {
        trainer.step();
    }
}

/// `A` and `B` of every pair of neighbours.
fn grams(network: &Mlp) -> Vec<(Mat<f64>, Mat<f64>)> {
    let gram = |pair: &[Mat<f64>]| (pair[1].transpose() * &pair[1], &pair[0] * pair[0].transpose());
    network.weights.windows(2).map(gram).collect()
}

/// `A − B` of every pair of neighbours.
fn gaps(network: &Mlp) -> Vec<Mat<f64>> {
    grams(network).iter().map(|(reader, writer)| reader - writer).collect()
}

fn diagonal(matrix: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), 1, |row, _| matrix[(row, row)])
}

/// `‖[A, B]‖²` over its mean for randomly turned `A`: `2m‖A_0‖²‖B_0‖² / ((m − 1)(m + 2))`.
fn commutator_vs_chance((reader, writer): &(Mat<f64>, Mat<f64>)) -> f64 {
    let m = HIDDEN_WIDTH;
    let product = reader * writer;
    let commutator = &product - product.transpose();
    let traceless = |gram: &Mat<f64>| gram.squared_norm_l2() - diagonal(gram).sum().powi(2) / m;
    let chance = 2.0 * m * traceless(reader) * traceless(writer) / ((m - 1.0) * (m + 2.0));
    commutator.squared_norm_l2() / chance
}

/// Overlap of the leading eight directions written and read, 0 at chance and 1 for the same space.
fn overlap_excess_8(writer: &Mat<f64>, reader: &Mat<f64>) -> f64 {
    let svd = |weight: &Mat<f64>| weight.thin_svd().expect("finite weights have an SVD");
    let (written, read) = (svd(writer), svd(reader));
    let cosines = written.U().subcols(0, 8).transpose() * read.V().subcols(0, 8);
    let chance = 8.0 / HIDDEN_WIDTH;
    (cosines.squared_norm_l2() / 8.0 - chance) / (1.0 - chance)
}

/// Median of the slopes between all pairs of points, as Theil 1950 and Sen 1968.
fn theil_sen_slope(points: &[(f64, f64)]) -> f64 {
    let mut slopes: Vec<f64> = Vec::new();
    for (idx, (x, y)) in points.iter().enumerate() {
        slopes.extend(points[..idx].iter().map(|(before, value)| (y - value) / (x - before)));
    }
    slopes.sort_by(f64::total_cmp);
    slopes[slopes.len() / 2]
}

/// Both sides of the step identity, for every pair and over some steps, seen through `part`: the
/// whole matrix, or what is left of it behind an activation.
fn check_step_identity(mut trainer: Trainer, part: impl Fn(&Mat<f64>) -> Mat<f64>) {
    let (rate, decay) = (trainer.config().learning_rate, trainer.config().weight_decay);
    for step in 0..20 {
        let before = gaps(trainer.network());
        let slopes = trainer.step().weights;
        for (pair, after) in gaps(trainer.network()).iter().enumerate() {
            let (writer, reader) = (&slopes[pair], &slopes[pair + 1]);
            let forcing = reader.transpose() * reader - writer * writer.transpose();
            let shrink = (1.0 - rate * decay).powi(2);
            let expected = Scale(shrink) * &before[pair] + Scale(rate * rate) * forcing;
            let (after, expected) = (part(after), part(&expected));
            let error = (&after - &expected).norm_l2() / expected.norm_l2();
            assert!(error < 1e-10, "step {step}, pair {pair}: {error:e}");
        }
    }
}

#[test]
fn step_identity_holds_for_whole_gaps_without_activation() {
    check_step_identity(full_batch(Activation::Linear, 0.1, 0.0), Mat::clone);
    check_step_identity(full_batch(Activation::Linear, 0.1, 0.03), Mat::clone);
    check_step_identity(Trainer::new(TrainerConfig::demo(Activation::Linear)), Mat::clone);
}

#[test]
fn step_identity_holds_for_diagonals_behind_relu() {
    check_step_identity(full_batch(Activation::Relu, 0.1, 0.03), diagonal);
    check_step_identity(Trainer::new(TrainerConfig::demo(Activation::Relu)), diagonal);
}

/// How far each gap is moved by some steps, relative to its size at the start.
fn drift(mut trainer: Trainer, n_steps: usize, part: fn(&Mat<f64>) -> Mat<f64>) -> Vec<f64> {
    let before = gaps(trainer.network());
    advance(&mut trainer, n_steps);
    let moved = |(after, before): (&Mat<f64>, &Mat<f64>)| {
        (part(after) - part(before)).norm_l2() / part(before).norm_l2()
    };
    gaps(trainer.network()).iter().zip(&before).map(moved).collect()
}

#[test]
fn gap_is_conserved_without_decay() {
    let slow = drift(full_batch(Activation::Linear, 1e-4, 0.0), 100, Mat::clone);
    assert!(slow.iter().all(|change| *change < 1e-4), "{slow:?}");

    // What is left is of second order: half the rate, a quarter of the change a step.
    let whole = drift(full_batch(Activation::Linear, 2e-3, 0.0), 10, Mat::clone);
    let half = drift(full_batch(Activation::Linear, 1e-3, 0.0), 10, Mat::clone);
    for (whole, half) in whole.iter().zip(&half) {
        assert!((3.6..4.4).contains(&(whole / half)), "{whole:e} over {half:e}");
    }
}

#[test]
fn relu_conserves_the_diagonal_of_the_gap_alone() {
    // The same training time `ηt = 12` at two rates: a first-order change stays, a second-order
    // change halves.
    let coarse = || full_batch(Activation::Relu, 0.02, 0.0);
    let fine = || full_batch(Activation::Relu, 0.01, 0.0);
    let on_diagonal = (drift(coarse(), 600, diagonal), drift(fine(), 1200, diagonal));
    let on_whole = (drift(coarse(), 600, Mat::clone), drift(fine(), 1200, Mat::clone));
    for pair in 0..3 {
        let (coarse, fine) = (on_diagonal.0[pair], on_diagonal.1[pair]);
        assert!(coarse < 0.005, "pair {pair}: diagonal moved by {coarse}");
        assert!((1.8..2.2).contains(&(coarse / fine)), "pair {pair}: {coarse:e} over {fine:e}");
        let (coarse, fine) = (on_whole.0[pair], on_whole.1[pair]);
        assert!(coarse > 0.1, "pair {pair}: the whole moved by only {coarse}");
        assert!((0.9..1.1).contains(&(coarse / fine)), "pair {pair}: {coarse} over {fine}");
    }
}

/// Every gap against training time `ηλt`, from saves every `every` steps.
fn decay_rates(trainer: &mut Trainer, n_saves: usize, every: usize) -> Vec<f64> {
    let unit = trainer.config().learning_rate * trainer.config().weight_decay;
    let mut logs: Vec<Vec<(f64, f64)>> = vec![Vec::new(); trainer.network().weights.len() - 1];
    for save in 0..=n_saves {
        #[expect(clippy::cast_precision_loss, reason = "some thousand steps")]
        let time = unit * trainer.global_step() as f64;
        for (log, gap) in logs.iter_mut().zip(gaps(trainer.network())) {
            log.push((time, gap.norm_l2().ln()));
        }
        if save < n_saves {
            advance(trainer, every);
        }
    }
    logs.iter().map(|log| -theil_sen_slope(log) / 2.0).collect()
}

#[test]
fn gap_decays_at_twice_the_weight_decay() {
    let rates = decay_rates(&mut full_batch(Activation::Linear, 0.05, 1e-2), 20, 50);
    assert!(rates.iter().all(|rate| (rate - 1.0).abs() < 0.02), "{rates:?}");
}

/// The training of the demo, as long as the published trajectories: 6000 steps.
struct Course {
    loss_start: f64,
    loss_end: f64,
    decay_rates: Vec<f64>,
    commutators: Vec<f64>,
    excesses: Vec<f64>,
}

fn demo_course(activation: Activation) -> Course {
    let mut trainer = Trainer::new(TrainerConfig::demo(activation));
    let loss_start = trainer.loss();
    let decay_rates = decay_rates(&mut trainer, 30, 200);
    let weights = &trainer.network().weights;
    Course {
        loss_start,
        loss_end: trainer.loss(),
        decay_rates,
        commutators: grams(trainer.network()).iter().map(commutator_vs_chance).collect(),
        excesses: weights.windows(2).map(|pair| overlap_excess_8(&pair[0], &pair[1])).collect(),
    }
}

#[test]
fn layers_of_a_linear_network_come_to_commute() {
    let course = demo_course(Activation::Linear);
    assert!(course.loss_end < course.loss_start / 10.0, "{}", course.loss_end);
    assert!(course.commutators.iter().all(|kappa| *kappa < 0.01), "{:?}", course.commutators);
    assert!(course.excesses.iter().all(|excess| *excess > 0.98), "{:?}", course.excesses);
    // Mini-batches add their noise to the forcing, so the last saves decay a little slower.
    let rates = &course.decay_rates;
    assert!(rates.iter().all(|rate| (rate - 1.0).abs() < 0.02), "{rates:?}");
}

#[test]
fn relu_keeps_layers_from_commuting() {
    let course = demo_course(Activation::Relu);
    assert!(course.loss_end < course.loss_start / 10.0, "{}", course.loss_end);
    let hidden = &course.commutators[..2];
    assert!(hidden.iter().all(|kappa| *kappa > 0.1), "{hidden:?}");
    let aligned = &course.excesses;
    assert!(aligned.iter().all(|excess| (0.2..0.97).contains(excess)), "{aligned:?}");
}

#[test]
fn same_seed_saves_the_same_bytes() {
    let root = tempdir().unwrap();
    let weights_of = |name: &str, seed: u64| {
        let config = TrainerConfig { seed, ..TrainerConfig::demo(Activation::Relu) };
        let mut trainer = Trainer::new(config);
        advance(&mut trainer, 20);
        let mut writer = CheckpointWriter::new(root.path().join(name), None, None);
        std::fs::read(writer.save(&trainer).unwrap().join("model.safetensors")).unwrap()
    };
    let first = weights_of("first", 4);
    assert_eq!(first, weights_of("again", 4));
    assert_ne!(first, weights_of("other", 5));
}
