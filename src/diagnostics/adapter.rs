//! What an adapter of low rank adds, ΔW = s·B·A, and how it lies to the base model's weights W:
//! ‖ΔW‖/‖W‖, and the overlap of their leading subspaces where they write (left vectors) and where
//! they read (right vectors), as Hu et al. (2021, §7) ask of it.
//!
//! The base does not change while the adapter is trained, so of its weights the leading vectors are
//! searched once and kept from save to save.

mod plan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::alignment::overlap_report;
use super::baseline::BaseSpace;
use super::observer::Observer;
use super::options::Options;
use super::tasks::Content;
use super::work::{Analysis, AnalyzeError, Missing, Previous};
use super::{MatrixReport, PairReport, Report, Skipped};
use crate::checkpoint::{self, Dtype, Manifest, ReadError};
use crate::linalg::{LinalgError, LowRank, Side, Spectrum, low_rank_product, overlaps};
use crate::model::{Adapter, AdapterSettings, BaseNames, Law, LayerGraph, Operand, PairName, Role};

/// Part of the memory limit that the base's vectors may take from save to save; those of others are
/// searched at every save.
const KEPT_PART: u64 = 8;

/// Opens the model that an adapter changes, from where the user says that such models lie, or from
/// below `within`; nothing for what is no adapter.
///
/// # Errors
/// What is to stand under what was not measured.
pub fn find_base(
    manifest: &Manifest,
    graph: &LayerGraph,
    bases: &[PathBuf],
    within: Option<&Path>,
) -> Result<Option<Manifest>, Skipped> {
    if graph.adapters.is_empty() {
        return Ok(None);
    }
    let name = AdapterSettings::new(manifest.adapter.as_ref()).base();
    let found = checkpoint::find_base(name, bases, within);
    found.map(Some).map_err(|reason| Skipped { name: "base model".into(), reason })
}

/// Measures all modules of an adapter, against the base model where there is one.
pub(super) fn measure<'a>(
    own: &mut Analysis<'a>,
    graph: &LayerGraph,
    base: Option<&'a Manifest>,
    observer: &'a dyn Observer,
    tick: &dyn Fn() -> Result<(), AnalyzeError>,
) -> Result<u64, AnalyzeError> {
    let settings = AdapterSettings::new(own.manifest.adapter.as_ref());
    let names = base.map(|base| BaseNames::new(&base.tensors));
    let options = base_options(own.options, graph);
    let mut wanted = BTreeMap::new();
    let mut places = Vec::with_capacity(graph.adapters.len());
    for adapter in &graph.adapters {
        let place = names.as_ref().map(|names| names.operand(adapter, settings));
        if let Some(Ok(operand)) = &place {
            wanted.insert(Content::of(operand).key, options.k.clone());
        }
        places.push(place);
    }
    let mut base = base.map(|manifest| Base::new(manifest, &options, &wanted, observer));
    for (adapter, place) in graph.adapters.iter().zip(places) {
        own.begin();
        let update = update(own, adapter, settings);
        if let Some((update, mut row)) = own.note(&update_name(adapter), update)?.flatten() {
            if let Some((base, place)) = base.as_mut().zip(place) {
                against(own, base, adapter, &update, place, &mut row)?;
            }
            own.report.matrices.push(row);
        }
        for operand in [&adapter.a, &adapter.b] {
            own.store.release(&operand.parts[0].tensor);
        }
        tick()?;
    }
    Ok(base.map_or(0, |base| base.analysis.store.read_bytes()))
}

fn update_name(adapter: &Adapter) -> String {
    format!("{} (update)", adapter.module)
}

/// Whether both factors, their orthonormal bases and the vectors of the product may be held in f64.
fn fits(options: &Options, rows: usize, rank: usize, cols: usize) -> bool {
    options.fits(rows.saturating_add(cols).saturating_mul(rank).saturating_mul(6))
}

/// The subspaces that an update of the adapter's ranks can be compared in.
fn base_options(options: &Options, graph: &LayerGraph) -> Options {
    let rank = graph.adapters.iter().map(|a| a.a.shape().0).max().unwrap_or(0);
    let mut k: Vec<usize> = options.k.iter().copied().filter(|k| *k <= rank).collect();
    if k.is_empty() {
        k.push(rank.max(1));
    }
    Options { k, rotation_k: Vec::new(), ..options.clone() }
}

/// ΔW and its row; nothing where a factor is not finite, which its own row tells.
fn update(
    own: &mut Analysis<'_>,
    adapter: &Adapter,
    settings: AdapterSettings<'_>,
) -> Result<Option<(LowRank, MatrixReport)>, Missing> {
    let (rows, rank) = adapter.b.shape();
    let cols = adapter.a.shape().1;
    let views = adapter.a.views().chain(adapter.b.views());
    if own.non_finite(views)? != (0, 0) {
        return Ok(None);
    }
    let name = update_name(adapter);
    if let Some(way) = settings.changes_base() {
        let why = format!("not measured: init_lora_weights {way} changes the base model as well");
        own.skip(&name, why);
        return Ok(None);
    }
    if !fits(own.options, rows, rank, cols) {
        own.skip(&name, "larger than memory_limit decoded".into());
        return Ok(None);
    }
    let scale = settings.scale(&adapter.module, rank);
    let (a, b) = (own.store.operand(&adapter.a)?, own.store.operand(&adapter.b)?);
    let eps = [&adapter.b, &adapter.a].map(|operand| own.store.storage_eps(&operand.parts));
    let known = scale.as_ref().ok().copied();
    let product = low_rank_product(b.mat(), a.mat(), known.unwrap_or(1.0), eps)?;
    if let Err(why) = &scale {
        own.skip(&name, format!("its size is not known: {why}"));
    } else if settings.is_dora() {
        own.skip(&name, "of DoRA, whose learnt norms are not part of it".into());
    }
    let spectrum = &product.left;
    let rotation_k = &own.options.rotation_k;
    let before = own.previous_basis(&name).map(|basis| crate::linalg::widen(basis.as_ref()));
    let turn = |k| {
        // Beyond the rank there is no direction that could turn.
        let now = spectrum.basis.as_ref().subcols(0, spectrum.numerical_rank()?);
        crate::linalg::rotation(before.as_ref()?.as_ref(), now, k)
    };
    let rotation = rotation_k.iter().map(|&k| (k, turn(k))).collect();
    own.keep_basis(&name, &spectrum.basis);
    let row = MatrixReport {
        name,
        layer: adapter.layer,
        role: Role::LORA_UPDATE.to_owned(),
        rows,
        cols,
        dtype: own.store.dtype(&adapter.b.parts[0].tensor).map_or("", Dtype::name),
        spectrum: Some("exact"),
        frobenius_norm: known.map(|_| spectrum.frobenius),
        spectral_norm: known.and_then(|_| spectrum.spectral_norm()),
        stable_rank: spectrum.stable_rank(),
        effective_rank: spectrum.effective_rank(),
        spectral_entropy: spectrum.spectral_entropy(),
        numerical_rank: spectrum.numerical_rank(),
        rotation,
        ..MatrixReport::default()
    };
    Ok(Some((product, row)))
}

/// The base model while it is compared with.
struct Base<'a> {
    analysis: Analysis<'a>,
    /// What its files are, and how they are searched.
    key: u128,
    /// Why it can be read no longer; told once.
    failed: bool,
}

impl<'a> Base<'a> {
    fn new(
        manifest: &'a Manifest,
        options: &'a Options,
        wanted: &'a BTreeMap<String, Vec<usize>>,
        observer: &'a dyn Observer,
    ) -> Self {
        let files: Vec<_> = manifest.files.iter().map(|f| (&f.path, &f.identity)).collect();
        let Options { k, exact_limit, memory_limit, .. } = options;
        let key = xxh3_128(format!("{files:?} {k:?} {exact_limit} {memory_limit}").as_bytes());
        let nothing = Previous::default();
        let analysis = Analysis::new(
            manifest,
            options,
            nothing,
            None,
            wanted,
            None,
            observer,
            Report::default(),
        );
        Self { analysis, key, failed: false }
    }

    /// The leading vectors of a weight.
    fn space(&mut self, operand: &Operand) -> Result<BaseSpace, Missing> {
        let analysis = &mut self.analysis;
        analysis.begin();
        if analysis.non_finite(operand.views())? != (0, 0) {
            return Err(LinalgError::NotFinite(crate::linalg::NotFinite).into());
        }
        let k = analysis.k_max();
        let left = analysis.spectrum(operand, Side::Left, k)?.spectrum(k);
        let right = analysis.spectrum(operand, Side::Right, k)?.spectrum(k);
        analysis.store.release(&operand.parts[0].tensor);
        analysis.manifest.unchanged()?;
        let (left, right) = (Spectrum::clone(&left), Spectrum::clone(&right));
        Ok(BaseSpace { left: turned(left), right })
    }
}

/// The same of the transpose.
fn turned(mut spectrum: Spectrum) -> Spectrum {
    std::mem::swap(&mut spectrum.rows, &mut spectrum.cols);
    spectrum
}

/// Compares an update with the weight that it changes. What is wrong with the base is told, and costs
/// the comparison alone.
fn against(
    own: &mut Analysis<'_>,
    base: &mut Base<'_>,
    adapter: &Adapter,
    update: &LowRank,
    place: Result<Operand, String>,
    row: &mut MatrixReport,
) -> Result<(), AnalyzeError> {
    if base.failed {
        return Ok(());
    }
    let operand = match place {
        Ok(operand) => operand,
        Err(why) => {
            own.skip(&row.name, format!("not compared with the base model: {why}"));
            return Ok(());
        }
    };
    let key = format!("{:032x} {}", base.key, Content::of(&operand).key);
    let kept = own.previous.baseline.and_then(|b| b.base.get(&key)).cloned();
    let space = match kept.map_or_else(|| base.space(&operand).map(Arc::new), Ok) {
        Ok(space) => space,
        Err(missing) => {
            let why = match missing {
                Missing::Linalg(LinalgError::Unread) => match base.analysis.store.failure() {
                    Some(error) => read_failure(base, &error),
                    None => return Err(AnalyzeError::Cancelled),
                },
                Missing::Read(error) => read_failure(base, &error),
                Missing::Linalg(LinalgError::NotFinite(_)) => {
                    "its weight holds values that are not finite".to_owned()
                }
                Missing::Linalg(error) => error.to_string(),
            };
            own.skip(&row.name, format!("not compared with the base model: {why}"));
            return Ok(());
        }
    };
    let norm = space.right.frobenius;
    row.base_ratio = row.frobenius_norm.filter(|_| norm > 0.0).map(|update| update / norm);
    let writes = &update.left;
    let reads = turned(update.right.clone());
    for (name, ours, theirs) in
        [(PairName::UpdateOut, writes, &space.left), (PairName::UpdateIn, &reads, &space.right)]
    {
        let ks = &base.analysis.options.k;
        let found = overlaps(ours, theirs, ks);
        own.report.pairs.push(PairReport {
            pair: name.as_str(),
            kind: name.kind(),
            layer: adapter.layer,
            writer: row.name.clone(),
            reader: operand.parts[0].tensor.to_string(),
            dim: ours.rows,
            law: Law::None.as_str(),
            overlap: found.iter().map(|o| (o.k, overlap_report(o))).collect(),
            ..PairReport::default()
        });
    }
    keep(own, key, space);
    Ok(())
}

fn read_failure(base: &mut Base<'_>, error: &ReadError) -> String {
    base.failed = true;
    format!("{error}; nor are the modules after it")
}

/// Keeps a weight's vectors for the next save, as far as they fit.
fn keep(own: &mut Analysis<'_>, key: String, space: Arc<BaseSpace>) {
    let total: u64 = own.baseline.base.values().map(|s| s.n_bytes()).sum();
    if total + space.n_bytes() <= own.options.memory_limit / KEPT_PART {
        own.baseline.base.insert(key, space);
    }
}
