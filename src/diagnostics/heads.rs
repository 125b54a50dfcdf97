//! Redundancy of attention heads, per layer and projection.

use super::HeadReport;
use super::options::Options;
use super::work::{Analysis, AnalyzeError, Missing};
use crate::linalg::{
    HeadOverlap, HeadSide, HeadStderr, Linear, estimate_head_overlap, head_overlap,
};
use crate::model::{HeadSet, Operand, View};

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
    if let Some((overlap, stderr)) = analysis.note(&name, compared)? {
        analysis.report.heads.push(HeadReport {
            layer: set.layer,
            projection,
            heads: overlap.heads,
            overlap_mean: overlap.mean,
            overlap_max: overlap.max,
            overlap_chance: Some(overlap.chance),
            overlap_excess: overlap.excess,
            effective_heads: overlap.effective_heads,
            overlap_stderr: stderr.mean,
        });
    }
    Ok(())
}

/// All pairs of heads exactly, or through probes where the model's width makes that long.
fn compare(
    analysis: &mut Analysis<'_>,
    set: &HeadSet,
) -> Result<(HeadOverlap, HeadStderr), Missing> {
    let side = if set.is_of_columns() { HeadSide::Column } else { HeadSide::Row };
    if is_small(analysis.options, set) {
        let mut blocks = Vec::with_capacity(set.heads.len());
        for view in &set.heads {
            blocks.push(analysis.store.view(view)?);
        }
        let heads: Vec<_> = blocks.iter().map(super::store::Dense::mat).collect();
        return Ok((head_overlap(&heads, side)?, HeadStderr::default()));
    }
    let mut large = Vec::with_capacity(set.heads.len());
    for view in &set.heads {
        large.push(analysis.store.large(&Operand::of_view(view))?);
    }
    let heads = large.iter().map(super::store::Large::linear).collect::<Result<Vec<_>, _>>()?;
    let estimated = estimate_head_overlap(&heads, side)?;
    analysis.flops += heads.iter().map(Linear::flops).sum::<u64>();
    Ok(estimated)
}

/// Whether all pairs of heads are compared exactly.
pub(super) fn is_small(options: &Options, set: &HeadSet) -> bool {
    let is_of_columns = set.is_of_columns();
    let width = |v: &View| if is_of_columns { v.n_rows() } else { v.n_cols() };
    let n_values = set.heads.iter().map(|v| v.n_rows() * v.n_cols()).sum();
    options.compares_heads(set.heads.first().map_or(0, width), n_values)
}
