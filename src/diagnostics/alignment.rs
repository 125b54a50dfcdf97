//! Per-pair measurements: overlaps, flags, Gram statistics, balancedness.

use std::collections::BTreeMap;

use super::store::Dense;
use super::work::{Analysis, AnalyzeError};
use super::{OverlapReport, PairReport, StderrReport};
use crate::linalg::{
    GramStats, LinalgError, Overlap, PairMatrices, Side, flag_correlation, gram_stats, overlaps,
};
use crate::model::{Law, Operand, Pair};

pub(super) fn measure(analysis: &mut Analysis<'_>, pair: &Pair) -> Result<(), AnalyzeError> {
    for operand in [&pair.writer, &pair.reader] {
        if analysis.too_large(&title(pair), &operand.parts) {
            return Ok(());
        }
    }
    let writer = analysis.store.operand(&pair.writer)?;
    let reader = analysis.store.operand(&pair.reader)?;
    for (dense, operand) in [(&writer, &pair.writer), (&reader, &pair.reader)] {
        let (nan, inf) = dense.non_finite();
        if nan + inf > 0 {
            let what = format!("`{}` holds {nan} NaN and {inf} infinite values", operand.label);
            analysis.skip(&title(pair), what);
            return Ok(());
        }
    }
    let biases = biases(analysis, pair)?;
    match pair_report(analysis, pair, (&writer, &reader), &biases) {
        Ok(report) => analysis.report.pairs.push(report),
        Err(error) => analysis.skip(&title(pair), error.to_string()),
    }
    Ok(())
}

/// A pair's name for people: `v_o layer 3 head 5`.
fn title(pair: &Pair) -> String {
    let part = |what: &str, n: Option<usize>| n.map_or(String::new(), |n| format!(" {what} {n}"));
    format!(
        "{}{}{}{}",
        pair.name.as_str(),
        part("layer", pair.layer),
        part("head", pair.head),
        part("group", pair.group)
    )
}

/// The biases of writer and reader that the pair's law needs, each of m elements or several times
/// m, one column a head.
struct Biases {
    writer: Option<Vec<f32>>,
    reader: Option<Vec<f32>>,
    /// Whether the pair has a law and the biases are finite.
    law_applies: bool,
}

fn biases(analysis: &mut Analysis<'_>, pair: &Pair) -> Result<Biases, AnalyzeError> {
    let mut read = |operand: &Operand| -> Result<Option<Vec<f32>>, AnalyzeError> {
        let mut values = Vec::new();
        for bias in &operand.bias {
            values.extend(analysis.store.bias(bias)?);
        }
        Ok((!values.is_empty()).then_some(values))
    };
    let (writer, reader) = (read(&pair.writer)?, read(&pair.reader)?);
    let finite = |b: &Option<Vec<f32>>| b.iter().flatten().all(|x| x.is_finite());
    if !finite(&writer) || !finite(&reader) {
        return Ok(Biases { writer: None, reader: None, law_applies: false });
    }
    Ok(Biases { writer, reader, law_applies: pair.law_gap && pair.law != Law::None })
}

fn pair_report(
    analysis: &mut Analysis<'_>,
    pair: &Pair,
    (writer, reader): (&Dense, &Dense),
    biases: &Biases,
) -> Result<PairReport, LinalgError> {
    let gram = gram_stats(&PairMatrices {
        writer: writer.mat(),
        reader: reader.mat(),
        writer_bias: biases.writer.as_deref(),
        reader_bias: biases.reader.as_deref(),
    })?;
    let (overlap, flag) = if pair.group.is_some() {
        Default::default()
    } else {
        subspaces(analysis, pair, writer, reader)?
    };
    let oriented = is_oriented(analysis, pair, &gram);
    Ok(PairReport {
        pair: pair.name.as_str(),
        kind: pair.name.kind(),
        layer: pair.layer,
        head: pair.head,
        group: pair.group,
        writer: pair.writer.label.clone(),
        reader: pair.reader.label.clone(),
        dim: pair.dim,
        law: pair.law.as_str(),
        norm_between: pair.norm_between,
        gram_correlation: gram.gram_correlation.filter(|_| oriented),
        gram_cosine: gram.gram_cosine,
        commutator: gram.commutator,
        commutator_vs_chance: gram.commutator_vs_chance.filter(|_| oriented),
        composition: gram.composition,
        gap: Some(gram.gap),
        gap_ratio: gram.gap_ratio,
        gap_diagonal_ratio: gram.gap_diagonal_ratio,
        gap_shape: gram.gap_shape,
        flag_correlation: flag,
        overlap,
        stderr: StderrReport { commutator: gram.stderr.commutator },
        law_gap: law_gap(pair.law, &gram).filter(|_| biases.law_applies),
    })
}

/// Whether both Grams prefer directions by more than the rounding of the stored type makes of an
/// isotropic one. With rounding errors of relative size ε/√12 an orthogonal W has a Gram whose
/// traceless part is √2 ε/√12 ≈ 0.4 ε of it; what is centred on that is a correlation of noise.
fn is_oriented(analysis: &Analysis<'_>, pair: &Pair, gram: &GramStats) -> bool {
    let eps = |operand: &Operand| analysis.store.storage_eps(&operand.parts);
    gram.writer_anisotropy > eps(&pair.writer) && gram.reader_anisotropy > eps(&pair.reader)
}

fn law_gap(law: Law, gram: &GramStats) -> Option<f64> {
    match law {
        Law::Full => gram.law_gap_full,
        Law::Diagonal => gram.law_gap_diagonal,
        Law::Rotary => gram.law_gap_rotary,
        Law::None => None,
    }
}

type Subspaces = (BTreeMap<usize, OverlapReport>, Option<f64>);

fn subspaces(
    analysis: &mut Analysis<'_>,
    pair: &Pair,
    writer: &Dense,
    reader: &Dense,
) -> Result<Subspaces, LinalgError> {
    let ks = &analysis.options.k;
    // K − 1 joins the overlaps of a classifier pair, not its flag: the flag's steps stay those of
    // every other pair.
    let extra = pair.classes.map(|classes| classes - 1).filter(|k| *k > 0);
    let mut all: Vec<usize> = ks.iter().copied().chain(extra).collect();
    all.sort_unstable();
    all.dedup();
    let k_max = all.last().copied().unwrap_or(1);
    let writes = analysis.spectrum(&pair.writer, writer, Side::Left, k_max)?;
    let reads = analysis.spectrum(&pair.reader, reader, Side::Right, k_max)?;
    let overlap = overlaps(&writes, &reads, &all);
    let flag = flag_correlation(&writes, &reads, &analysis.options.k);
    Ok((overlap.into_iter().map(|o| (o.k, overlap_report(&o))).collect(), flag))
}

fn overlap_report(o: &Overlap) -> OverlapReport {
    OverlapReport {
        ratio: o.ratio,
        chance: o.chance,
        excess: o.excess,
        z: o.z,
        angle_min: o.angle_min,
        angle_mean: o.angle_mean,
        angle_max: o.angle_max,
        basis: o.basis_ok.then_some(o.basis),
        cut_ok: o.cut_ok,
    }
}
