//! Per-pair measurements: overlaps, flags, Gram statistics, balancedness.

use std::collections::BTreeMap;

use super::options::Options;
use super::tasks::Task;
use super::work::{Analysis, AnalyzeError, Missing};
use super::{OverlapReport, PairReport, StderrReport};
use crate::checkpoint::ReadError;
use crate::linalg::{
    GramStats, Overlap, PairMatrices, PairOperators, Side, Spectrum, estimate_gram_stats,
    flag_correlation, gram_stats, gram_stats_and_spectra, overlaps,
};
use crate::model::{Law, Operand, Pair};

pub(super) fn measure(analysis: &mut Analysis<'_>, pair: &Pair) -> Result<(), AnalyzeError> {
    if unchanged(analysis, pair)? {
        return Ok(());
    }
    for operand in [&pair.writer, &pair.reader] {
        let (nan, inf) = analysis.non_finite(operand.views())?;
        if nan + inf > 0 {
            let what = format!("`{}` holds {nan} NaN and {inf} infinite values", operand.label);
            analysis.skip(&title(pair), what);
            return Ok(());
        }
    }
    let biases = biases(analysis, pair)?;
    let report = pair_report(analysis, pair, &biases);
    if let Some(report) = analysis.note(&title(pair), report)? {
        analysis.report.pairs.push(report);
    }
    Ok(())
}

/// Takes over the row of the save before if all its tensors hold the same bytes.
fn unchanged(analysis: &mut Analysis<'_>, pair: &Pair) -> Result<bool, ReadError> {
    let Some(row) = analysis.known.and_then(|k| k.pair(pair)) else { return Ok(false) };
    if !analysis.store.unchanged(&Task::Pair(pair).tensors())? {
        return Ok(false);
    }
    analysis.report.pairs.push(row.clone());
    analysis.keep_warm(&pair.writer);
    analysis.keep_warm(&pair.reader);
    Ok(true)
}

/// A pair's name for people: `v_o layer 3 head 5`.
pub(super) fn title(pair: &Pair) -> String {
    let part = |what: &str, n: Option<usize>| n.map_or(String::new(), |n| format!(" {what} {n}"));
    format!(
        "{}{}{}{}{}",
        pair.name.as_str(),
        part("layer", pair.layer),
        part("expert", pair.expert),
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

impl Biases {
    /// Norm of bbᵀ, over all columns, or of its diagonal where the law is about that.
    fn size(&self, law: Law) -> Option<f64> {
        self.writer.as_ref().or(self.reader.as_ref())?;
        let squares = || {
            let all = self.writer.iter().chain(&self.reader).flatten();
            all.map(|b| f64::from(*b) * f64::from(*b))
        };
        Some(match law {
            Law::Diagonal => squares().map(|square| square * square).sum::<f64>().sqrt(),
            _ => squares().sum(),
        })
    }
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
    biases: &Biases,
) -> Result<PairReport, Missing> {
    let (gram, (overlap, flag)) = measured(analysis, pair, biases)?;
    let oriented = is_oriented(analysis, pair, &gram);
    let stderr = gram.stderr;
    Ok(PairReport {
        pair: pair.name.as_str(),
        kind: pair.name.kind(),
        layer: pair.layer,
        stack: pair.stack.as_ref().map(ToString::to_string),
        expert: pair.expert,
        head: pair.head,
        group: pair.group,
        writer: pair.writer.label.to_string(),
        reader: pair.reader.label.to_string(),
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
        stderr: StderrReport {
            gram_correlation: stderr.gram_correlation.filter(|_| oriented),
            gram_cosine: stderr.gram_cosine,
            commutator: stderr.commutator,
            commutator_vs_chance: stderr.commutator_vs_chance.filter(|_| oriented),
            composition: stderr.composition,
            gap_ratio: stderr.gap_ratio,
        },
        law_gap: law_gap(pair.law, &gram).filter(|_| biases.law_applies),
        law_bias: biases.size(pair.law).filter(|_| biases.law_applies),
    })
}

/// Whether the pair's Grams are formed. Told by shapes alone, so that a pair is measured in the same
/// way at every save.
pub(super) fn is_small(options: &Options, pair: &Pair) -> bool {
    options.forms_grams(pair.dim, pair.writer.shape().1, pair.reader.shape().0)
}

/// Statistics and overlaps by the route that the shapes allow.
fn measured(
    analysis: &mut Analysis<'_>,
    pair: &Pair,
    biases: &Biases,
) -> Result<(GramStats, Subspaces), Missing> {
    if !is_small(analysis.options, pair) {
        let stats = estimated_stats(analysis, pair, biases)?;
        return Ok((stats, searched_subspaces(analysis, pair)?));
    }
    let writer = analysis.store.operand(&pair.writer)?;
    let reader = analysis.store.operand(&pair.reader)?;
    let matrices = PairMatrices {
        writer: writer.mat(),
        reader: reader.mat(),
        writer_bias: biases.writer.as_deref(),
        reader_bias: biases.reader.as_deref(),
    };
    if pair.group.is_some() {
        return Ok((gram_stats(&matrices)?, Subspaces::default()));
    }
    if pair.dim > analysis.options.exact_limit {
        return Ok((gram_stats(&matrices)?, searched_subspaces(analysis, pair)?));
    }
    let eps = [&pair.writer, &pair.reader].map(|o| analysis.store.storage_eps(&o.parts));
    let ks = wanted_ks(analysis, pair);
    let k_max = ks.last().copied().unwrap_or(1).max(analysis.k_max());
    let (stats, writes, reads) = gram_stats_and_spectra(&matrices, k_max, eps)?;
    Ok((stats, subspaces(analysis, pair, &writes, &reads)))
}

fn estimated_stats(
    analysis: &mut Analysis<'_>,
    pair: &Pair,
    biases: &Biases,
) -> Result<GramStats, Missing> {
    let k_max = analysis.k_max();
    let writes = analysis.spectrum(&pair.writer, Side::Left, k_max)?;
    let reads = analysis.spectrum(&pair.reader, Side::Right, k_max)?;
    let bases = (writes.basis(), reads.basis());
    let writer = analysis.store.large(&pair.writer)?;
    let reader = analysis.store.large(&pair.reader)?;
    let (writer, reader) = (writer.linear()?, reader.linear()?);
    let stats = estimate_gram_stats(&PairOperators {
        writer: &writer,
        reader: &reader,
        writer_bias: biases.writer.as_deref(),
        reader_bias: biases.reader.as_deref(),
        writer_leading: bases.0.as_ref(),
        writer_values: writes.values(),
        reader_leading: bases.1.as_ref(),
        reader_values: reads.values(),
    })?;
    analysis.flops = analysis.flops.saturating_add(writer.flops()).saturating_add(reader.flops());
    Ok(stats)
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

fn searched_subspaces(analysis: &mut Analysis<'_>, pair: &Pair) -> Result<Subspaces, Missing> {
    if pair.group.is_some() {
        return Ok(Subspaces::default());
    }
    let k_max = wanted_ks(analysis, pair).last().copied().unwrap_or(1);
    // A cluster of values at the cut takes vectors beyond k.
    let all = usize::MAX;
    let writes = analysis.spectrum(&pair.writer, Side::Left, k_max)?.spectrum(all);
    let reads = analysis.spectrum(&pair.reader, Side::Right, k_max)?.spectrum(all);
    Ok(subspaces(analysis, pair, &writes, &reads))
}

/// Dimensions of a pair's overlaps, rising.
fn wanted_ks(analysis: &Analysis<'_>, pair: &Pair) -> Vec<usize> {
    // K − 1 joins the overlaps of a classifier pair, not its flag: the flag's steps stay those of
    // every other pair.
    let extra = pair.classes.map(|classes| classes - 1).filter(|k| *k > 0);
    let mut all: Vec<usize> = analysis.options.k.iter().copied().chain(extra).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn subspaces(
    analysis: &Analysis<'_>,
    pair: &Pair,
    writes: &Spectrum,
    reads: &Spectrum,
) -> Subspaces {
    let overlap = overlaps(writes, reads, &wanted_ks(analysis, pair));
    let flag = flag_correlation(writes, reads, &analysis.options.k);
    (overlap.into_iter().map(|o| (o.k, overlap_report(&o))).collect(), flag)
}

pub(super) fn overlap_report(o: &Overlap) -> OverlapReport {
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
