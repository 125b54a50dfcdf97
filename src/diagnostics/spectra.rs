//! Per-matrix measurements: norms, ranks, non-finite elements, change since the save before.

use std::collections::BTreeMap;

use faer::Mat;

use super::MatrixReport;
use super::store::Dense;
use super::work::{Analysis, AnalyzeError};
use crate::checkpoint::Dtype;
use crate::linalg::{Side, Spectrum, UpdateRatio, rotation};
use crate::model::{Matrix, Operand};

pub(super) fn measure(analysis: &mut Analysis<'_>, matrix: &Matrix) -> Result<(), AnalyzeError> {
    if analysis.too_large(&matrix.name, std::slice::from_ref(&matrix.view)) {
        return Ok(());
    }
    let dense = analysis.store.view(&matrix.view)?;
    let (nan, inf) = dense.non_finite();
    analysis.report.nan += nan;
    analysis.report.inf += inf;
    let dtype = analysis.store.dtype(&matrix.view.tensor).map_or("", Dtype::name);
    let mut report = MatrixReport {
        name: matrix.name.clone(),
        layer: matrix.layer,
        role: matrix.role.as_str().to_owned(),
        rows: matrix.view.n_rows(),
        cols: matrix.view.n_cols(),
        dtype,
        frobenius_norm: None,
        spectral_norm: None,
        stable_rank: None,
        effective_rank: None,
        spectral_entropy: None,
        numerical_rank: None,
        nan,
        inf,
        update_ratio: None,
        rotation: analysis.options.rotation_k.iter().map(|&k| (k, None)).collect(),
    };
    if nan + inf > 0 {
        analysis.skip(&matrix.name, format!("holds {nan} NaN and {inf} infinite values"));
    } else {
        fill(analysis, matrix, &dense, &mut report);
    }
    analysis.report.matrices.push(report);
    Ok(())
}

fn fill(analysis: &mut Analysis<'_>, matrix: &Matrix, dense: &Dense, report: &mut MatrixReport) {
    let operand = Operand::whole(matrix);
    let k_max = analysis.k_max();
    let spectrum = match analysis.spectrum(&operand, dense, Side::Left, k_max) {
        Ok(spectrum) => spectrum,
        Err(error) => {
            return analysis.skip(&matrix.name, error.to_string());
        }
    };
    report.frobenius_norm = Some(spectrum.frobenius);
    report.spectral_norm = spectrum.spectral_norm();
    report.stable_rank = spectrum.stable_rank();
    report.effective_rank = spectrum.effective_rank();
    report.spectral_entropy = spectrum.spectral_entropy();
    report.numerical_rank = spectrum.numerical_rank();
    let then = previous_matrix(analysis, matrix, dense);
    if then.is_none() && analysis.previous_store.is_some() {
        let why = "not compared: no finite tensor of this name and shape in the save before";
        analysis.skip(&matrix.name, why.into());
    }
    let basis = match analysis.previous_basis(&matrix.name) {
        Some(basis) => Some(basis.clone()),
        None => then.as_ref().and_then(|then| leading_basis(analysis, matrix, then)),
    };
    report.rotation = rotations(analysis, basis.as_ref(), &spectrum.basis);
    report.update_ratio = then.and_then(|then| update(&then, dense));
    analysis.keep_basis(&matrix.name, &spectrum);
}

fn rotations(
    analysis: &Analysis<'_>,
    then: Option<&Mat<f64>>,
    now: &Mat<f64>,
) -> BTreeMap<usize, Option<f64>> {
    let turn = |k: usize| rotation(then?.as_ref(), now.as_ref(), k);
    analysis.options.rotation_k.iter().map(|&k| (k, turn(k))).collect()
}

fn leading_basis(analysis: &Analysis<'_>, matrix: &Matrix, dense: &Dense) -> Option<Mat<f64>> {
    let k = analysis.options.rotation_k.last().copied()?;
    let eps = analysis.store.storage_eps(std::slice::from_ref(&matrix.view));
    Some(Spectrum::compute(dense.mat(), Side::Left, k, eps).ok()?.basis)
}

/// The matrix in the save before, where that is still there, finite, and has the same shape. That it
/// is gone or changing is normal (rotation), so it costs the comparison only.
fn previous_matrix(analysis: &mut Analysis<'_>, matrix: &Matrix, dense: &Dense) -> Option<Dense> {
    let before = analysis.previous.manifest?.find(&matrix.view.tensor)?;
    let now = analysis.manifest.find(&matrix.view.tensor)?;
    if before.shape != now.shape || !before.dtype.is_float() {
        return None;
    }
    let Ok(then) = analysis.previous_store.as_mut()?.view(&matrix.view) else {
        // Gone for good: do not ask again for every matrix.
        analysis.previous_store = None;
        return None;
    };
    let same = then.mat().shape() == dense.mat().shape();
    (same && then.non_finite() == (0, 0)).then_some(then)
}

/// ‖W − `W_prev`‖_`F/‖W_prev`‖_F.
fn update(then: &Dense, now: &Dense) -> Option<f64> {
    let mut sum = UpdateRatio::default();
    let (then, now) = (then.mat(), now.mat());
    for i in 0..now.nrows() {
        let (before, after): (Vec<f32>, Vec<f32>) =
            (0..now.ncols()).map(|j| (then[(i, j)], now[(i, j)])).unzip();
        sum.add(&before, &after);
    }
    sum.ratio()
}
