//! Neural-collapse proxies of the classifier.

use super::ClassifierReport;
use super::work::{Analysis, AnalyzeError};
use crate::linalg::{CLASSES_LIMIT, classifier_geometry};
use crate::model::Matrix;

pub(super) fn measure(analysis: &mut Analysis<'_>, matrix: &Matrix) -> Result<(), AnalyzeError> {
    let classes = matrix.view.n_rows();
    if !analysis.options.fits(classes.saturating_mul(matrix.view.n_cols())) {
        analysis.skip(&matrix.name, "simplex deviation: larger than memory_limit decoded".into());
        return Ok(());
    }
    if analysis.store.non_finite(&matrix.view)? != (0, 0) || classes < 2 {
        return Ok(());
    }
    let dense = analysis.store.view(&matrix.view)?;
    let Some(geometry) = classifier_geometry(dense.mat()) else {
        let reason = if classes > CLASSES_LIMIT {
            format!("{classes} classes, expected at most {CLASSES_LIMIT} for the simplex deviation")
        } else {
            "a class has the mean row, so its direction is undefined".into()
        };
        analysis.skip(&matrix.name, reason);
        return Ok(());
    };
    let deviation = geometry.simplex_deviation;
    analysis.report.classifier = Some(ClassifierReport {
        classes,
        simplex_deviation: Some(deviation),
        simplex_deviation_vs_chance: (geometry.chance > 0.0).then(|| deviation / geometry.chance),
        equinorm: Some(geometry.equinorm),
        equiangle: Some(geometry.equiangle),
    });
    Ok(())
}
