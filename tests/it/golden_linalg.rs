//! The room `linalg` against numbers computed by an independent `f64` reference.

// So that the lints know this file for what it is.
#![cfg(test)]

use std::fs;
use std::path::PathBuf;

use faer::MatRef;
use safetensors::SafeTensors;
use serde_json::Value;
use weightvane::linalg::{
    PairMatrices, Side, Spectrum, classifier_geometry, flag_correlation, gram_stats, overlaps,
};

/// Relative tolerance, and absolute one in units of the quantity's scale.
const TOLERANCE: f64 = 1e-4;

/// The reference took every tensor as stored in f32.
const EPS_F32: f64 = 1.0 / 8_388_608.0;

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(name);
    fs::read(path).unwrap()
}

fn expected(name: &str) -> Value {
    serde_json::from_slice(&golden(name)).unwrap()
}

/// A tensor as row-major numbers, rows and columns.
fn matrix(file: &SafeTensors<'_>, name: &str) -> (Vec<f32>, usize, usize) {
    let view = file.tensor(name).unwrap();
    let numbers =
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (numbers, view.shape()[0], view.shape()[1])
}

/// Counts the numbers compared and keeps the largest error in units of the tolerance's scale.
#[derive(Default)]
struct Comparison {
    count: usize,
    worst: f64,
}

impl Comparison {
    /// `scale` is the size of the quantity's terms; golden null means undefined.
    fn check(&mut self, what: &str, found: Option<f64>, expected: &Value, scale: f64) {
        self.count += 1;
        match (found, expected.as_f64()) {
            (None, None) => assert!(expected.is_null(), "{what}: no number in the golden file"),
            (Some(found), Some(expected)) => {
                let error = (found - expected).abs() / expected.abs().max(scale);
                self.worst = self.worst.max(error);
                assert!(error <= TOLERANCE, "{what}: found {found:e}, expected {expected:e}");
            }
            (found, expected) => panic!("{what}: found {found:?}, expected {expected:?}"),
        }
    }

    fn check_flag(&mut self, what: &str, found: bool, expected: &Value) {
        self.count += 1;
        assert_eq!(Some(found), expected.as_bool(), "{what}");
    }

    fn check_count(&mut self, what: &str, found: usize, expected: &Value) {
        self.count += 1;
        assert_eq!(Some(found as u64), expected.as_u64(), "{what}");
    }
}

fn check_spectrum(to: &mut Comparison, name: &str, s: &Spectrum, want: &Value) {
    let at = |field: &str| format!("{name}.spectral.{field}");
    to.check_count(&at("rows"), s.rows, &want["rows"]);
    to.check_count(&at("cols"), s.cols, &want["cols"]);
    to.check_count(&at("num_rank"), s.numerical_rank().unwrap(), &want["num_rank"]);
    to.check(&at("fro"), Some(s.frobenius), &want["fro"], 0.0);
    to.check(&at("spec"), s.spectral_norm(), &want["spec"], 0.0);
    to.check(&at("stable_rank"), s.stable_rank(), &want["stable_rank"], 0.0);
    to.check(&at("erank_rv"), s.effective_rank(), &want["erank_rv"], 0.0);
    to.check(&at("entropy_norm"), s.spectral_entropy(), &want["entropy_norm"], 1.0);
    to.check(&at("noise_spec"), Some(s.noise), &want["noise_spec"], 0.0);
}

fn check_gram(to: &mut Comparison, name: &str, pair: &PairMatrices<'_>, want: &Value) {
    let found = gram_stats(pair).unwrap();
    // The scale of a difference of Grams is the Grams' own.
    let grams = match (want["gap"].as_f64(), want["gap_rel"].as_f64()) {
        (Some(gap), Some(rel)) if rel > 1e-3 => gap / rel,
        _ => 10.0,
    };
    let commutators = grams * grams;
    to.check_count(&format!("{name}.m"), found.dim, &want["m"]);
    for (field, value, scale) in [
        ("raw", Some(found.commutator_norm), commutators),
        ("chi", found.commutator, 1.0),
        ("kappa", found.commutator_vs_chance, 1.0),
        ("gram_cos", found.gram_cosine, 1.0),
        ("cgram_cos", found.gram_correlation, 1.0),
        ("comp", found.composition, 1.0),
        ("gap", Some(found.gap), grams),
        ("gap_rel", found.gap_ratio, 1.0),
        ("gap_diag", Some(found.gap_diagonal), grams),
        ("gap_diag_rel", found.gap_diagonal_ratio, 1.0),
        ("gap_trace", Some(found.gap_trace), grams),
        ("log_norm_ratio", found.log_norm_ratio, 1.0),
        ("gap_shape", found.gap_shape, 1.0),
        // Without biases the law's gap is the plain one.
        ("gap", found.law_gap_full, grams),
        ("gap_diag", found.law_gap_diagonal, grams),
    ] {
        to.check(&format!("{name}.{field}"), value, &want[field], scale);
    }
}

fn check_overlaps(
    to: &mut Comparison,
    name: &str,
    writer: &Spectrum,
    reader: &Spectrum,
    want: &Value,
) {
    let golden = want["ov"].as_object().unwrap();
    let ks: Vec<usize> = golden.keys().map(|k| k.parse().unwrap()).collect();
    let found = overlaps(writer, reader, &ks);
    assert_eq!(found.len(), golden.len(), "{name}: the k rule");
    let mut distinct = true;
    for o in &found {
        let want = &golden[&o.k.to_string()];
        let at = |field: &str| format!("{name}.ov[{}].{field}", o.k);
        to.check(&at("S"), Some(o.ratio), &want["S"], 1.0);
        to.check(&at("chance"), Some(o.chance), &want["chance"], 0.0);
        to.check(&at("chance_sd"), Some(o.chance_sd), &want["chance_sd"], 1.0);
        if o.chance_sd > 0.0 {
            to.check(&at("z"), Some(o.z), &want["z"], 1.0);
        }
        to.check(&at("excess"), Some(o.excess), &want["excess"], 1.0);
        to.check(&at("perm_null"), Some(o.permutation_chance), &want["perm_null"], 1.0);
        to.check_flag(&at("cut_ok"), o.cut_ok, &want["cut_ok"]);
        to.check_flag(&at("basis_ok"), o.basis_ok, &want["basis_ok"]);
        // Vectors inside a cluster are whatever the solver made of them.
        if o.cut_ok {
            to.check(&at("th_min"), Some(o.angle_min), &want["th_min"], 1.0);
            to.check(&at("th_mean"), Some(o.angle_mean), &want["th_mean"], 1.0);
            to.check(&at("th_max"), Some(o.angle_max), &want["th_max"], 1.0);
            to.check_count(&at("n_above"), o.n_above_chance, &want["n_above"]);
        }
        if o.basis_ok {
            to.check(&at("basis2"), Some(o.basis), &want["basis2"], 1.0);
        }
        let gaps = [(writer, "gap1"), (reader, "gap2")];
        for (side, field) in gaps {
            to.check(&at(field), side.relative_gap(o.k), &want[field], 1.0);
        }
        distinct &= o.cut_ok;
    }
    if distinct {
        let tau = flag_correlation(writer, reader, &ks);
        to.check(&format!("{name}.tau_b"), tau, &want["flag"]["tau_b"], 1.0);
    }
}

#[test]
fn pairs_agree_with_the_reference() {
    let bytes = golden("pairs.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut to = Comparison::default();
    for (name, want) in expected("pairs.expected.json").as_object().unwrap() {
        let (w1, m, n) = matrix(&file, &format!("{name}.W1"));
        let (w2, p, m2) = matrix(&file, &format!("{name}.W2"));
        let pair = PairMatrices {
            writer: MatRef::from_row_major_slice(&w1, m, n),
            reader: MatRef::from_row_major_slice(&w2, p, m2),
            writer_bias: None,
            reader_bias: None,
        };
        let k_max = want["ov"].as_object().unwrap().keys().filter_map(|k| k.parse().ok()).max();
        let k_max = k_max.unwrap_or(1);
        let writer = Spectrum::compute(pair.writer, Side::Left, k_max, EPS_F32).unwrap();
        let reader = Spectrum::compute(pair.reader, Side::Right, k_max, EPS_F32).unwrap();
        for (i, spectrum) in [&writer, &reader].into_iter().enumerate() {
            check_spectrum(&mut to, name, spectrum, &want["spectral"][i]);
            for (frac, field) in [(0.5, "k50"), (0.9, "k90"), (0.99, "k99")] {
                let found = spectrum.energy_rank(frac).unwrap();
                to.check_count(&format!("{name}.{field}"), found, &want[field][i]);
            }
        }
        check_gram(&mut to, name, &pair, want);
        check_overlaps(&mut to, name, &writer, &reader, want);
    }
    // Fewer means that a golden pair or field was passed over in silence.
    assert_eq!(to.count, 923, "worst error {:e}", to.worst);
}

#[test]
fn classifiers_agree_with_the_reference() {
    let bytes = golden("nc.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut to = Comparison::default();
    for (name, want) in expected("nc.expected.json").as_object().unwrap() {
        let (w, rows, cols) = matrix(&file, name);
        let found = classifier_geometry(MatRef::from_row_major_slice(&w, rows, cols)).unwrap();
        to.check_count(&format!("{name}.K"), found.classes, &want["K"]);
        to.check_count(&format!("{name}.d"), found.dim, &want["d"]);
        for (field, value) in [
            ("equinorm", found.equinorm),
            ("equiang", found.equiangle),
            ("maxang", found.max_angle),
            ("etf", found.simplex_deviation_uncentred),
            ("etf_c", found.simplex_deviation),
        ] {
            to.check(&format!("{name}.{field}"), Some(value), &want[field], 1.0);
        }
        to.check_flag(&format!("{name}.feasible"), found.feasible, &want["feasible"]);
    }
    assert_eq!(to.count, 16, "worst error {:e}", to.worst);
}
