//! Redundancy of attention heads, per layer and projection.

use super::HeadReport;
use super::work::{Analysis, AnalyzeError};
use crate::linalg::{HeadSide, head_overlap};
use crate::model::{HeadSet, Role};

pub(super) fn measure(analysis: &mut Analysis<'_>, set: &HeadSet) -> Result<(), AnalyzeError> {
    let projection = set.projection.as_str();
    let name = format!("heads of {projection} in layer {}", set.layer);
    if analysis.too_large(&name, &set.heads) {
        return Ok(());
    }
    let mut blocks = Vec::with_capacity(set.heads.len());
    for view in &set.heads {
        blocks.push(analysis.store.view(view)?);
    }
    let side = if set.projection == Role::Output { HeadSide::Column } else { HeadSide::Row };
    if blocks.iter().any(|b| b.non_finite() != (0, 0)) {
        analysis.skip(&name, "a head holds NaN or infinite values".into());
        return Ok(());
    }
    let heads: Vec<_> = blocks.iter().map(super::store::Dense::mat).collect();
    match head_overlap(&heads, side) {
        Ok(overlap) => analysis.report.heads.push(HeadReport {
            layer: set.layer,
            projection,
            heads: overlap.heads,
            overlap_mean: overlap.mean,
            overlap_max: overlap.max,
            overlap_chance: Some(overlap.chance),
            overlap_excess: overlap.excess,
            effective_heads: overlap.effective_heads,
        }),
        Err(error) => analysis.skip(&name, error.to_string()),
    }
    Ok(())
}
