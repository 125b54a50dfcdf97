//! Per-matrix measurements: norms, ranks, non-finite elements, change since the save before.

use std::collections::BTreeMap;

use super::analysis::{Analysis, AnalyzeError};
use super::store::Dense;
use super::MatrixReport;
use crate::checkpoint::Dtype;
use crate::linalg::{Side, rotation, update_ratio};
use crate::model::{Matrix, Operand};

pub(super) fn measure(analysis: &mut Analysis<'_>, matrix: &Matrix) -> Result<(), AnalyzeError> {
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
        fill(analysis, matrix, &dense, &mut report)?;
    }
    analysis.report.matrices.push(report);
    Ok(())
}

fn fill(
    analysis: &mut Analysis<'_>,
    matrix: &Matrix,
    dense: &Dense,
    report: &mut MatrixReport,
) -> Result<(), AnalyzeError> {
    let operand = Operand::whole(matrix);
    let k_max = analysis.k_max();
    let spectrum = match analysis.spectrum(&operand, dense, Side::Left, k_max) {
        Ok(spectrum) => spectrum,
        Err(error) => {
            analysis.skip(&matrix.name, error.to_string());
            return Ok(());
        }
    };
    report.frobenius_norm = Some(spectrum.frobenius);
    report.spectral_norm = spectrum.spectral_norm();
    report.stable_rank = spectrum.stable_rank();
    report.effective_rank = spectrum.effective_rank();
    report.spectral_entropy = spectrum.spectral_entropy();
    report.numerical_rank = spectrum.numerical_rank();
    report.rotation = rotations(analysis, matrix, &spectrum.basis);
    analysis.keep_basis(&matrix.name, &spectrum);
    report.update_ratio = update(analysis, matrix, dense)?;
    Ok(())
}

fn rotations(
    analysis: &Analysis<'_>,
    matrix: &Matrix,
    now: &faer::Mat<f64>,
) -> BTreeMap<usize, Option<f64>> {
    let turn = |k: usize| {
        let then = analysis.previous_basis(&matrix.name)?;
        rotation(then.as_ref(), now.as_ref(), k)
    };
    analysis.options.rotation_k.iter().map(|&k| (k, turn(k))).collect()
}

/// ‖W − W_prev‖_F/‖W_prev‖_F, where the save before is still there and has the same shape. That it
/// is gone or changing is normal (rotation), so it costs this number only.
fn update(
    analysis: &mut Analysis<'_>,
    matrix: &Matrix,
    dense: &Dense,
) -> Result<Option<f64>, AnalyzeError> {
    let tensor = &matrix.view.tensor;
    let shape = |manifest: &crate::checkpoint::Manifest| {
        manifest.find(tensor).map(|t| (t.shape.clone(), t.dtype.is_float()))
    };
    let Some(before) = analysis.previous.manifest else { return Ok(None) };
    let now_shape = analysis.store.tensor(tensor)?.shape.clone();
    if shape(before) != Some((now_shape, true)) {
        return Ok(None);
    }
    let Some(store) = analysis.previous_store.as_mut() else { return Ok(None) };
    let Ok(then) = store.view(&matrix.view) else {
        // Gone for good: do not ask again for every matrix.
        analysis.previous_store = None;
        return Ok(None);
    };
    if then.non_finite() != (0, 0) {
        return Ok(None);
    }
    Ok(update_ratio(then.mat(), dense.mat()))
}
