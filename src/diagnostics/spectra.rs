//! Per-matrix measurements: norms, ranks, non-finite elements, change since the save before.

use std::collections::BTreeMap;

use faer::Mat;

use super::MatrixReport;
use super::work::{Analysis, AnalyzeError, Missing, leading_left};
use crate::checkpoint::{Dtype, ReadError};
use crate::linalg::{Side, Sketch, UpdateRatio, rotation, widen};
use crate::model::{Matrix, Operand};

/// A save up to this size is read again to compare with: exact differences of 64 MiB cost a tenth
/// of a second. Of a larger one the sketch tells the update size.
const CHEAP_TO_READ: u64 = 1 << 26;

pub(super) fn measure(analysis: &mut Analysis<'_>, matrix: &Matrix) -> Result<(), AnalyzeError> {
    if unchanged(analysis, matrix)? {
        return Ok(());
    }
    let (nan, inf) = analysis.store.non_finite(&matrix.view)?;
    analysis.report.nan += nan;
    analysis.report.inf += inf;
    let dtype = analysis.store.dtype(&matrix.view.tensor).map_or("", Dtype::name);
    let mut report = MatrixReport {
        name: matrix.name.to_string(),
        layer: matrix.layer,
        stack: matrix.stack.as_ref().map(ToString::to_string),
        expert: matrix.expert,
        role: matrix.role.as_str().to_owned(),
        rows: matrix.view.n_rows(),
        cols: matrix.view.n_cols(),
        dtype,
        nan,
        inf,
        rotation: analysis.options.rotation_k.iter().map(|&k| (k, None)).collect(),
        ..MatrixReport::default()
    };
    if nan + inf > 0 {
        analysis.skip(&matrix.name, format!("holds {nan} NaN and {inf} infinite values"));
    } else {
        let filled = fill(analysis, matrix, &mut report);
        analysis.note(&matrix.name, filled)?;
    }
    analysis.report.matrices.push(report);
    Ok(())
}

/// Takes over the row of the save before if the tensor holds the same bytes.
fn unchanged(analysis: &mut Analysis<'_>, matrix: &Matrix) -> Result<bool, ReadError> {
    let (Some(known), Some(baseline)) = (analysis.known, analysis.previous.baseline) else {
        return Ok(false);
    };
    let Some(row) = known.matrix(matrix) else { return Ok(false) };
    if !analysis.store.unchanged(&[&matrix.view.tensor])? {
        return Ok(false);
    }
    let name = matrix.name.as_str();
    let mut row = row.clone();
    let basis = baseline.bases.get(name);
    if row.nan + row.inf > 0 {
        let (nan, inf) = (row.nan, row.inf);
        analysis.skip(name, format!("holds {nan} NaN and {inf} infinite values"));
    } else {
        row.update_ratio = Some(0.0);
        row.update_ratio_stderr = None;
        for (k, turn) in &mut row.rotation {
            *turn = basis.filter(|b| b.ncols() >= *k).map(|_| 0.0);
        }
    }
    analysis.report.nan += row.nan;
    analysis.report.inf += row.inf;
    analysis.report.matrices.push(row);
    if let Some(basis) = basis {
        analysis.baseline.bases.insert(name.to_owned(), basis.clone());
    }
    if let Some(sketch) = baseline.sketches.get(name) {
        analysis.baseline.sketches.insert(name.to_owned(), sketch.clone());
    }
    analysis.keep_warm(&Operand::whole(matrix));
    Ok(true)
}

fn fill(
    analysis: &mut Analysis<'_>,
    matrix: &Matrix,
    report: &mut MatrixReport,
) -> Result<(), Missing> {
    let operand = Operand::whole(matrix);
    let found = analysis.spectrum(&operand, Side::Left, analysis.k_max())?;
    let rotated = analysis.options.rotation_k.last().copied().unwrap_or(0);
    let spectrum = found.spectrum(rotated);
    report.spectrum = Some(found.method());
    report.frobenius_norm = Some(spectrum.frobenius);
    report.spectral_norm = spectrum.spectral_norm();
    report.stable_rank = spectrum.stable_rank();
    report.effective_rank = spectrum.effective_rank();
    report.spectral_entropy = spectrum.spectral_entropy();
    report.numerical_rank = spectrum.numerical_rank();
    let basis = match analysis.previous_basis(&matrix.name) {
        Some(basis) => Some(widen(basis.as_ref())),
        None => basis_of_the_file_before(analysis, matrix),
    };
    report.rotation = rotations(analysis, basis.as_ref(), &spectrum.basis);
    analysis.keep_basis(&matrix.name, &spectrum.basis);
    update(analysis, matrix, report)
}

fn rotations(
    analysis: &Analysis<'_>,
    then: Option<&Mat<f64>>,
    now: &Mat<f64>,
) -> BTreeMap<usize, Option<f64>> {
    let turn = |k: usize| rotation(then?.as_ref(), now.as_ref(), k);
    analysis.options.rotation_k.iter().map(|&k| (k, turn(k))).collect()
}

/// Whether the save before still has a finite matrix of this name and shape. That it is gone or
/// changing is normal (rotation), so it costs the comparison only.
fn is_comparable(analysis: &mut Analysis<'_>, matrix: &Matrix) -> bool {
    let tensor = matrix.view.tensor.as_str();
    let before = analysis.previous.manifest.and_then(|m| m.find(tensor));
    let Some((before, now)) = before.zip(analysis.manifest.find(tensor)) else { return false };
    if before.shape != now.shape || !before.dtype.is_float() {
        return false;
    }
    let Some(store) = analysis.previous_store.as_mut() else { return false };
    if let Ok(counts) = store.non_finite(&matrix.view) {
        return counts == (0, 0);
    }
    // Gone for good: do not ask again for every matrix.
    analysis.previous_store = None;
    false
}

/// Leading left vectors of the matrix in the save before, where nothing was kept of that.
fn basis_of_the_file_before(analysis: &mut Analysis<'_>, matrix: &Matrix) -> Option<Mat<f64>> {
    if !is_comparable(analysis, matrix) {
        return None;
    }
    let ks = analysis.options.rotation_k.clone();
    let (rows, cols) = (matrix.view.n_rows(), matrix.view.n_cols());
    let is_exact = analysis.options.is_exact(rows, cols);
    let store = analysis.previous_store.as_mut()?;
    leading_left(store, matrix, &ks, is_exact).ok()
}

/// ‖W − `W_prev`‖_`F/‖W_prev`‖_F: exact where the save before is at hand and cheap to read, else
/// from the sketches of both. The sketch is kept either way.
fn update(
    analysis: &mut Analysis<'_>,
    matrix: &Matrix,
    report: &mut MatrixReport,
) -> Result<(), Missing> {
    let name = matrix.name.as_str();
    let before = analysis.previous.baseline.and_then(|b| b.sketches.get(name));
    let is_cheap = analysis.previous.manifest.is_some_and(|m| m.n_bytes() <= CHEAP_TO_READ);
    let stored = analysis.store.stored(&matrix.view, 1.0)?;
    let mut sketch = Sketch::new(before.map_or(analysis.options.seed, |(then, _)| then.seed()));
    stored.for_slices(64, &mut |_, values| sketch.add(values))?;
    let mut estimate =
        before.and_then(|(then, norm)| sketch.distance(&then.whole()).zip(Some(*norm)));
    if before.is_none() || is_cheap {
        let has_before = analysis.previous_store.is_some();
        let n_values = matrix.view.n_rows().saturating_mul(matrix.view.n_cols());
        if is_comparable(analysis, matrix) {
            if analysis.options.fits(n_values) {
                report.update_ratio = exact_update(analysis, matrix)?;
            } else {
                estimate = estimate.or_else(|| sketch_before(analysis, matrix, &sketch));
            }
        } else if has_before {
            let why = "not compared: no finite tensor of this name and shape in the save before";
            analysis.skip(name, why.into());
        }
    }
    if report.update_ratio.is_none()
        && let Some(((distance, error), norm)) = estimate
        && norm > 0.0
    {
        report.update_ratio = Some(distance / norm);
        report.update_ratio_stderr = Some(error / norm);
    }
    let norm = report.frobenius_norm.unwrap_or(0.0);
    analysis.baseline.sketches.insert(name.to_owned(), (sketch.into(), norm));
    Ok(())
}

/// Distance from the save before with its standard error, and its own norm, for a matrix whose values
/// do not fit decoded: both files are sketched. `None` where the save before ends meanwhile.
fn sketch_before(
    analysis: &mut Analysis<'_>,
    matrix: &Matrix,
    now: &Sketch,
) -> Option<((f64, f64), f64)> {
    let store = analysis.previous_store.as_mut()?;
    let stored = store.stored(&matrix.view, 1.0).ok()?;
    let (mut then, mut squares) = (Sketch::new(now.seed()), 0.0f64);
    let sketched = stored.for_slices(64, &mut |_, values| {
        then.add(values);
        squares += values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    });
    if sketched.is_err() {
        analysis.previous_store = None;
        return None;
    }
    now.distance(&then).zip(Some(squares.sqrt()))
}

/// The difference of the values in both files; `None` where the save before ends meanwhile.
fn exact_update(analysis: &mut Analysis<'_>, matrix: &Matrix) -> Result<Option<f64>, Missing> {
    let Some(store) = analysis.previous_store.as_mut() else { return Ok(None) };
    let Ok(then) = store.view(&matrix.view) else {
        analysis.previous_store = None;
        return Ok(None);
    };
    let now = analysis.store.stored(&matrix.view, 1.0)?;
    let mut sum = UpdateRatio::default();
    let mut at = 0;
    now.for_slices(64, &mut |_, values| {
        sum.add(&then.values()[at..at + values.len()], values);
        at += values.len();
    })?;
    Ok(sum.ratio())
}
