//! Two saves of a run against one another, and the memory budget.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use weightvane::checkpoint::{self, Manifest};
use weightvane::config::architectures;
use weightvane::diagnostics::{
    AnalyzeError, Observer, Options, Outcome, Previous, Unobserved, analyze,
};
use weightvane::linalg::{Side, Spectrum};
use weightvane::model;

use crate::support::{read_arrays, tests_dir};

fn outcome(
    manifest: &Manifest,
    previous: Previous<'_>,
    memory_limit: u64,
    observer: &dyn Observer,
) -> Result<Outcome, AnalyzeError> {
    let rules = architectures::built_in().unwrap();
    let graph = model::recognize(&manifest.tensors, manifest.config.as_ref(), &rules);
    let options = Options {
        k: vec![1, 2, 4, 8, 16],
        rotation_k: vec![1, 8],
        memory_limit,
        ..Options::default()
    };
    analyze(manifest, &graph, &[], &options, previous, None, observer)
}

fn open(step: u64) -> Manifest {
    checkpoint::open(&tests_dir(&format!("it/golden/series/healthy/checkpoint-{step}"))).unwrap()
}

fn plain(manifest: &Manifest) -> Outcome {
    outcome(manifest, Previous::default(), 1 << 30, &Unobserved).unwrap()
}

#[test]
fn update_sizes_and_rotations_are_those_of_the_definitions() {
    let (before, now) = (open(100), open(200));
    let previous = Previous { manifest: Some(&before), baseline: None };
    let report = outcome(&now, previous, 1 << 30, &Unobserved).unwrap().report;
    let (old, new) = (read_arrays(&before.path), read_arrays(&now.path));
    for matrix in &report.matrices {
        let (a, b) = (&old[&matrix.name], &new[&matrix.name]);
        let square = |v: f32| f64::from(v) * f64::from(v);
        let difference: f64 = a.values.iter().zip(&b.values).map(|(a, b)| square(b - a)).sum();
        let size: f64 = a.values.iter().map(|a| square(*a)).sum();
        let wanted = (difference / size).sqrt();
        assert!((matrix.update_ratio.unwrap() - wanted).abs() < 1e-6 * wanted, "{}", matrix.name);
        let basis = |a: &crate::support::Array| {
            let w = faer::MatRef::from_row_major_slice(&a.values, a.shape[0], a.shape[1]);
            Spectrum::compute(w, Side::Left, 8, f64::from(f32::EPSILON)).unwrap().basis
        };
        let (u, v) = (basis(a), basis(b));
        for k in [1, 8] {
            let mut shared = 0.0;
            for (i, j) in (0..k).flat_map(|i| (0..k).map(move |j| (i, j))) {
                let dot: f64 = (0..u.nrows()).map(|r| u[(r, i)] * v[(r, j)]).sum();
                shared += dot * dot;
            }
            #[expect(clippy::cast_precision_loss, reason = "k is at most 8")]
            let wanted = 1.0 - shared / k as f64;
            assert!((matrix.rotation[&k].unwrap() - wanted).abs() < 1e-9, "{} k={k}", matrix.name);
        }
    }
}

#[test]
fn remembered_subspaces_give_the_same_rotations_as_the_files() {
    let (before, now) = (open(100), open(200));
    let baseline = plain(&before).baseline;
    let rotations = |previous| {
        let report = outcome(&now, previous, 1 << 30, &Unobserved).unwrap().report;
        report.matrices.iter().map(|m| (m.rotation.clone(), m.update_ratio)).collect::<Vec<_>>()
    };
    let from_files = rotations(Previous { manifest: Some(&before), baseline: None });
    let from_memory = rotations(Previous { manifest: None, baseline: Some(&baseline) });
    for ((files, update), (memory, sketched)) in from_files.iter().zip(&from_memory) {
        // Kept in single precision.
        for (files, memory) in files.values().zip(memory.values()) {
            assert!((files.unwrap() - memory.unwrap()).abs() < 1e-6, "{files:?} and {memory:?}");
        }
        // From sketches of both saves, 1.6 % off where the matrix has more elements than buckets.
        let (exact, sketched) = (update.unwrap(), sketched.unwrap());
        assert!((sketched / exact - 1.0).abs() < 0.05, "{sketched} for {exact}");
    }
}

#[test]
fn without_a_save_before_nothing_is_said_of_change() {
    for matrix in &plain(&open(100)).report.matrices {
        assert_eq!((matrix.update_ratio, matrix.rotation[&8]), (None, None));
    }
    // The same save again: nothing moved.
    let save = open(300);
    let previous = Previous { manifest: Some(&save), baseline: None };
    for matrix in &outcome(&save, previous, 1 << 30, &Unobserved).unwrap().report.matrices {
        assert_eq!(matrix.update_ratio, Some(0.0));
        assert!(matrix.rotation[&8].unwrap() < 1e-12);
    }
}

#[test]
fn a_save_of_another_shape_is_not_compared() {
    let now = open(100);
    let other = checkpoint::open(&tests_dir("fixtures/mlp_fc")).unwrap();
    let previous = Previous { manifest: Some(&other), baseline: None };
    let report = outcome(&now, previous, 1 << 30, &Unobserved).unwrap().report;
    assert!(report.matrices.iter().all(|m| m.update_ratio.is_none()));
}

#[test]
fn the_memory_budget_changes_no_number() {
    let save = checkpoint::open(&tests_dir("fixtures/llama")).unwrap();
    let wanted = serde_json::to_string(&plain(&save).report).unwrap();
    // Room for a few tensors only: they are read again where they are needed again.
    let tight = outcome(&save, Previous::default(), 8 << 10, &Unobserved).unwrap();
    assert_eq!(serde_json::to_string(&tight.report).unwrap(), wanted);
    assert!(tight.read_bytes > plain(&save).read_bytes);
}

#[test]
fn tensors_larger_than_memory_are_read_in_blocks_to_the_same_bits() {
    let save = checkpoint::open(&tests_dir("fixtures/llama")).unwrap();
    let rules = architectures::built_in().unwrap();
    let graph = model::recognize(&save.tensors, save.config.as_ref(), &rules);
    let measured = |memory_limit, threads| {
        let ks = vec![1, 2, 4];
        let options =
            Options { k: ks, memory_limit, threads, exact_limit: 16, ..Options::default() };
        let outcome =
            analyze(&save, &graph, &[], &options, Previous::default(), None, &Unobserved).unwrap();
        (serde_json::to_string(&outcome.report).unwrap(), outcome.read_bytes)
    };
    let (wanted, least) = measured(1 << 30, 1);
    assert!(wanted.contains("block Lanczos"), "nothing was searched");
    // Half of 1 KiB holds no matrix of the model: every pass reads its file.
    let (found, read) = measured(1 << 10, 1);
    assert_eq!(found, wanted);
    assert!(read > 3 * least, "{read} bytes read, {least} with room for all");
    for threads in 2..=4 {
        assert_eq!(measured(1 << 30, threads).0, wanted, "{threads} threads");
    }
}

#[test]
fn work_that_nobody_waits_for_ends_at_the_next_step() {
    struct After(std::sync::atomic::AtomicUsize);
    impl Observer for After {
        fn progress(&self, done: usize, total: usize) {
            assert!(done <= total && done == self.0.load(Relaxed) + 1);
            self.0.store(done, Relaxed);
        }
        fn cancelled(&self) -> bool {
            self.0.load(Relaxed) == 3
        }
    }
    let observer = After(std::sync::atomic::AtomicUsize::new(0));
    let result = outcome(&open(100), Previous::default(), 1 << 30, &observer);
    assert!(matches!(result, Err(AnalyzeError::Cancelled)));
    assert_eq!(observer.0.load(Relaxed), 3);
}

#[test]
fn a_save_that_changed_since_it_was_opened_gives_no_report() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: &Path| {
        for name in ["model.safetensors", "trainer_state.json"] {
            std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
        }
    };
    copy(&open(100).path);
    let manifest = checkpoint::open(dir.path()).unwrap();
    copy(&open(200).path);
    let result = outcome(&manifest, Previous::default(), 1 << 30, &Unobserved);
    assert!(matches!(result, Err(AnalyzeError::Read(checkpoint::ReadError::Changed { .. }))));
    let manifest = checkpoint::open(dir.path()).unwrap();
    std::fs::remove_dir_all(dir.path()).unwrap();
    let result = outcome(&manifest, Previous::default(), 1 << 30, &Unobserved);
    assert!(matches!(result, Err(AnalyzeError::Read(checkpoint::ReadError::Vanished { .. }))));
}

/// Cancelled is asked before every pass over a large matrix, not only between measurements.
#[test]
fn a_search_that_nobody_waits_for_ends_within_its_passes() {
    struct Nth(std::sync::atomic::AtomicUsize, usize);
    impl Observer for Nth {
        fn progress(&self, _done: usize, _total: usize) {}
        fn cancelled(&self) -> bool {
            self.0.fetch_add(1, Relaxed) >= self.1
        }
    }
    let save = checkpoint::open(&tests_dir("fixtures/llama")).unwrap();
    let rules = architectures::built_in().unwrap();
    let graph = model::recognize(&save.tensors, save.config.as_ref(), &rules);
    let options = Options { exact_limit: 16, ..Options::default() };
    let run = |observer: &Nth| {
        analyze(&save, &graph, &[], &options, Previous::default(), None, observer).map(|_| ())
    };
    let whole = Nth(0.into(), usize::MAX);
    run(&whole).unwrap();
    let asked = whole.0.load(Relaxed);
    let n_tasks = graph.matrices.len() + graph.pairs.len() + graph.heads.len();
    assert!(asked > 2 * n_tasks, "asked {asked} times in {n_tasks} measurements");
    for after in (0..asked).step_by(7) {
        let result = run(&Nth(0.into(), after));
        assert!(matches!(result, Err(AnalyzeError::Cancelled)), "after {after}: {result:?}");
    }
}

/// Every pair has its overlaps on the searched route, too, the transposed embedding among them, and
/// they are those of the whole decomposition.
#[test]
fn searched_pairs_have_the_overlaps_of_exact_ones() {
    let save = checkpoint::open(&tests_dir("fixtures/llama")).unwrap();
    let rules = architectures::built_in().unwrap();
    let graph = model::recognize(&save.tensors, save.config.as_ref(), &rules);
    let measured = |exact_limit| {
        let options = Options { k: vec![1, 2, 4], exact_limit, ..Options::default() };
        analyze(&save, &graph, &[], &options, Previous::default(), None, &Unobserved)
            .unwrap()
            .report
    };
    let (exact, searched) = (measured(512), measured(16));
    assert_eq!(exact.pairs.len(), searched.pairs.len());
    let mut n_searched = 0;
    for (a, b) in exact.pairs.iter().zip(&searched.pairs) {
        let what = format!("{} layer {:?}", a.pair, a.layer);
        assert_eq!(a.overlap.len(), b.overlap.len(), "{what}");
        n_searched += usize::from(b.stderr.gram_correlation.is_some());
        for (k, found) in b.overlap.iter().filter(|(_, o)| o.cut_ok) {
            let off = (found.ratio - a.overlap[k].ratio).abs();
            assert!(off < 0.05, "{what} k = {k}: off by {off}");
        }
        let flags = a.flag_correlation.is_some() == b.flag_correlation.is_some();
        assert!(flags, "{what}: flag correlation");
    }
    assert!(n_searched >= 10 && searched.pairs.iter().any(|p| p.pair == "embed_qkv"));
}

/// A copy of the save before costs its reading alone: every number is taken over, nothing moved.
#[test]
fn a_copy_of_the_save_before_is_read_once_and_taken_over() {
    let save = checkpoint::open(&tests_dir("fixtures/llama")).unwrap();
    let first = plain(&save);
    let previous = Previous { manifest: None, baseline: Some(&first.baseline) };
    let again = outcome(&save, previous, 1 << 30, &Unobserved).unwrap();
    assert_eq!(again.flops, 0);
    assert!(again.read_bytes <= first.read_bytes + 4096, "{} bytes", again.read_bytes);
    let mut taken = again.report.clone();
    for matrix in &mut taken.matrices {
        assert_eq!(matrix.update_ratio, Some(0.0), "{}", matrix.name);
        assert!(matrix.rotation.values().all(|turn| turn.is_none_or(|t| t == 0.0)));
        matrix.update_ratio = None;
        matrix.rotation.values_mut().for_each(|turn| *turn = None);
    }
    let json = |report| serde_json::to_string(report).unwrap();
    assert_eq!(json(&taken), json(&first.report));
}
