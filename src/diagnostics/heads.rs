//! Redundancy of attention heads, per layer and projection.

use super::HeadReport;
use super::work::{Analysis, AnalyzeError, Missing};
use crate::linalg::{HeadOverlap, HeadSide, head_overlap};
use crate::model::{HeadSet, Role};

pub(super) fn measure(analysis: &mut Analysis<'_>, set: &HeadSet) -> Result<(), AnalyzeError> {
    let projection = set.projection.as_str();
    let tensors: Vec<&str> = set.heads.iter().map(|v| v.tensor.as_str()).collect();
    if let Some(row) = analysis.known.and_then(|k| k.heads(set))
        && analysis.store.unchanged(&tensors)?
    {
        analysis.report.heads.push(row.clone());
        return Ok(());
    }
    let name = format!("heads of {projection} in layer {}", set.layer);
    if analysis.non_finite(&set.heads)? != (0, 0) {
        analysis.skip(&name, "a head holds NaN or infinite values".into());
        return Ok(());
    }
    let compared = compare(analysis, set);
    if let Some(overlap) = analysis.note(&name, compared)? {
        analysis.report.heads.push(HeadReport {
            layer: set.layer,
            projection,
            heads: overlap.heads,
            overlap_mean: overlap.mean,
            overlap_max: overlap.max,
            overlap_chance: Some(overlap.chance),
            overlap_excess: overlap.excess,
            effective_heads: overlap.effective_heads,
            overlap_stderr: None,
        });
    }
    Ok(())
}

/// All pairs of heads.
fn compare(analysis: &mut Analysis<'_>, set: &HeadSet) -> Result<HeadOverlap, Missing> {
    let is_output = set.projection == Role::Output;
    let side = if is_output { HeadSide::Column } else { HeadSide::Row };
    let mut blocks = Vec::with_capacity(set.heads.len());
    for view in &set.heads {
        blocks.push(analysis.store.view(view)?);
    }
    let heads: Vec<_> = blocks.iter().map(super::store::Dense::mat).collect();
    Ok(head_overlap(&heads, side)?)
}
