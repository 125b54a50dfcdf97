//! The flat vectors, and how parameters lie in them.

use std::path::Path;

use super::Shapes;
use super::ranks::Rank;
use crate::checkpoint::error::OpenError;
use crate::checkpoint::pickle::{Heap, Node, Value};
use crate::checkpoint::place::{Piece, Stored};
use crate::checkpoint::torch::{self, Found, Saved, Stated};
use crate::checkpoint::{Dtype, Manifest};

/// Flat vectors of one rank: groups of parameters, and parts of them that fit into memory at once.
const MAX_FLATS: usize = 4096;
/// Numbers of elements that stand behind parameters.
const MAX_PADDINGS: usize = 1 << 17;
/// Parameters times the vectors in which each may lie.
const MAX_TURNS: usize = 1 << 27;

/// A flat vector of a rank.
#[derive(Debug, Clone)]
pub(super) struct Flat {
    /// Index into the manifest's files.
    pub(super) file: usize,
    pub(super) stated: Stated,
}

impl Flat {
    fn len(&self) -> Option<usize> {
        let [n] = self.stated.shape.as_slice() else { return None };
        (*n == 0 || self.stated.strides == [1]).then_some(*n)
    }

    /// The elements from `first` on, as those of a tensor from number `corner` on.
    fn piece(&self, first: usize, n: usize, corner: usize) -> Piece {
        let Stored { file, offset, n_bytes, coding } = self.stated.stored(self.file);
        let skipped = (first as u64).saturating_mul(self.stated.dtype.n_bytes() as u64);
        Piece {
            corner: [corner].into(),
            size: [n].into(),
            strides: [1].into(),
            stored: Stored {
                file,
                offset: offset.saturating_add(skipped),
                n_bytes: n_bytes.saturating_sub(skipped),
                coding,
            },
        }
    }
}

/// Name, shape and pieces of a parameter.
type Placed = (String, Vec<usize>, Vec<Piece>);

/// The flat vectors of all ranks.
#[derive(Debug)]
pub(super) struct Vectors {
    pub(super) stage: usize,
    pub(super) n_ranks: usize,
    /// By rank, then by group.
    flats: Vec<Vec<Flat>>,
    /// Elements that stand behind each parameter, by group.
    paddings: Option<Vec<Vec<usize>>>,
}

impl Vectors {
    /// Reads what the optimiser's files say, and adds them to the manifest.
    pub(super) fn read(
        manifest: &mut Manifest,
        directory: &Path,
        ranks: &[Rank<'_>],
    ) -> Result<Self, OpenError> {
        let mut vectors =
            Self { stage: 0, n_ranks: ranks.len(), flats: Vec::new(), paddings: None };
        for (at, rank) in ranks.iter().enumerate() {
            let path = directory.join(rank.name);
            let (file, saved) = torch::read_file(&path)?;
            let malformed = |reason: String| OpenError::Malformed { path: path.clone(), reason };
            if at == 0 {
                vectors.take_head(&saved).map_err(&malformed)?;
                add_optimizer(manifest, &saved);
            }
            if rank.data != at || n_parts(&saved).is_some_and(|n| n != ranks.len()) {
                let what = format!(
                    "found optimiser states of {} ranks, expected those of {}",
                    ranks.len(),
                    n_parts(&saved).unwrap_or(ranks.len())
                );
                return Err(OpenError::Incomplete { path: directory.to_owned(), what });
            }
            let index = manifest.files.len();
            manifest.files.push(file);
            let flats = flats(&saved, vectors.stage, index).map_err(&malformed)?;
            vectors.flats.push(flats);
        }
        Ok(vectors)
    }

    fn take_head(&mut self, saved: &Saved) -> Result<(), String> {
        let heap = &saved.heap;
        let state = optimizer(saved).ok_or("found no optimizer_state_dict, expected one")?;
        let stage = heap.get(state, "zero_stage").and_then(|value| match value {
            Value::Int(_) => value.size(),
            _ => heap.object(value).and_then(|(_, args, _)| args.first()?.size()),
        });
        self.stage =
            stage.filter(|stage| *stage <= 3).ok_or("found no stage of ZeRO, expected 1 to 3")?;
        let paddings = heap.get(state, "param_alignment_paddings");
        let groups = paddings.and_then(|value| heap.tuple(value));
        let groups: Option<Vec<&[Value]>> =
            groups.and_then(|groups| groups.iter().map(|group| heap.tuple(*group)).collect());
        let n = groups
            .iter()
            .flatten()
            .fold(0_usize, |n, group| n.saturating_add(group.len()).saturating_add(1));
        if n > MAX_PADDINGS {
            return Err(format!("found {n} paddings of parameters, expected fewer"));
        }
        let sizes = |group: &&[Value]| group.iter().map(|padding| padding.size()).collect();
        self.paddings = groups.and_then(|groups| groups.iter().map(sizes).collect());
        Ok(())
    }

    /// ZeRO-1 and 2: the vectors of a group stand end to end, parameters lie in them one by one.
    pub(super) fn whole(&self, groups: &[Shapes]) -> Result<Vec<Placed>, String> {
        let mut placed = Vec::new();
        for (at, shapes) in groups.iter().enumerate() {
            let flats: Option<Vec<&Flat>> = self.flats.iter().map(|rank| rank.get(at)).collect();
            let flats = flats.ok_or("found fewer flat vectors than groups of parameters")?;
            let paddings = self.paddings.as_ref().and_then(|groups| groups.get(at));
            let mut offset = 0_usize;
            for (number, (name, shape)) in shapes.iter().enumerate() {
                let n = n_elements(shape);
                placed.push((name.clone(), shape.clone(), across(&flats, offset, n)?));
                let padding = paddings.and_then(|p| p.get(number)).copied().unwrap_or(0);
                offset = offset.saturating_add(n).saturating_add(padding);
            }
            let n_found = total(&flats)?;
            // As the saver says of it: padded to twice the number of ranks.
            let align = self.n_ranks.saturating_mul(2).max(1);
            if offset.div_ceil(align) != n_found.div_ceil(align) {
                return Err(format!("found {n_found} elements in group {at}, expected {offset}"));
            }
        }
        Ok(placed)
    }

    /// ZeRO-3: of every parameter each rank has an equal part, rounded up; the last is padded.
    pub(super) fn cut(&self, shapes: &Shapes) -> Result<Vec<Placed>, String> {
        let n_flats = self.flats.iter().fold(0_usize, |n, flats| n.saturating_add(flats.len()));
        if n_flats.saturating_mul(shapes.len()) > MAX_TURNS {
            let n = shapes.len();
            return Err(format!("found {n} parameters in {n_flats} flat vectors, expected fewer"));
        }
        let mut placed = Vec::new();
        let mut offset = 0_usize;
        for (name, shape) in shapes {
            let n = n_elements(shape);
            let n_part = n.div_ceil(self.n_ranks.max(1));
            let mut pieces = Vec::new();
            for (rank, flats) in self.flats.iter().enumerate() {
                let from = rank.saturating_mul(n_part).min(n);
                let n_own = n_part.min(n.saturating_sub(from));
                let flats: Vec<&Flat> = flats.iter().collect();
                let own = across(&flats, offset, n_own)?;
                pieces.extend(own.into_iter().map(|piece| shifted(piece, from)));
            }
            placed.push((name.clone(), shape.clone(), pieces));
            offset = offset.saturating_add(n_part);
        }
        for flats in &self.flats {
            let n_found = total(&flats.iter().collect::<Vec<_>>())?;
            let align = self.n_ranks.saturating_mul(2).max(1);
            if offset.div_ceil(align) != n_found.div_ceil(align) {
                return Err(format!("found {n_found} elements of a rank, expected {offset}"));
            }
        }
        Ok(placed)
    }
}

/// A parameter that no optimiser works on, of parts of all ranks.
pub(super) fn frozen(
    shape: &[usize],
    ranks: &[Flat],
) -> Result<(Dtype, Vec<Piece>, usize), String> {
    let n = n_elements(shape);
    let n_part = n.div_ceil(ranks.len().max(1));
    let mut pieces = Vec::new();
    for (rank, flat) in ranks.iter().enumerate() {
        let from = rank.saturating_mul(n_part).min(n);
        let n_own = n_part.min(n.saturating_sub(from));
        pieces.extend(across(&[flat], 0, n_own)?.into_iter().map(|piece| shifted(piece, from)));
    }
    let dtype = ranks.first().map_or(Dtype::F32, |flat| flat.stated.dtype);
    Ok((dtype, pieces, n))
}

/// Elements `first..first + n` of vectors that stand end to end.
fn across(flats: &[&Flat], first: usize, n: usize) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let end = first.saturating_add(n);
    let mut passed = 0_usize;
    for flat in flats {
        let len = flat.len().ok_or("found a flat vector of several dimensions, expected one")?;
        let until = passed.saturating_add(len);
        let (from, to) = (first.max(passed), end.min(until));
        if from < to {
            let inside = from.saturating_sub(passed);
            let corner = from.saturating_sub(first);
            pieces.push(flat.piece(inside, to.saturating_sub(from), corner));
        }
        passed = until;
    }
    Ok(pieces)
}

fn shifted(mut piece: Piece, by: usize) -> Piece {
    if let Some(corner) = piece.corner.first_mut() {
        *corner = corner.saturating_add(by);
    }
    piece
}

fn total(flats: &[&Flat]) -> Result<usize, String> {
    let mut lens = flats.iter().map(|flat| flat.len());
    let total = lens.try_fold(0_usize, |sum, len| Some(sum.saturating_add(len?)));
    total.ok_or_else(|| "found a flat vector of several dimensions, expected one".to_owned())
}

fn n_elements(shape: &[usize]) -> usize {
    shape.iter().fold(1_usize, |n, dim| n.saturating_mul(*dim))
}

fn optimizer(saved: &Saved) -> Option<Value> {
    saved.heap.get(saved.root, "optimizer_state_dict")
}

/// Over how many ranks the states are cut, as they say themselves.
fn n_parts(saved: &Saved) -> Option<usize> {
    let heap: &Heap = &saved.heap;
    let count = heap.get(optimizer(saved)?, "partition_count")?;
    // Of several groups the widest: experts are cut over fewer ranks.
    count.size().or_else(|| heap.tuple(count)?.iter().filter_map(|n| n.size()).max())
}

fn flats(saved: &Saved, stage: usize, file: usize) -> Result<Vec<Flat>, String> {
    let heap = &saved.heap;
    let key = if stage < 3 { "single_partition_of_fp32_groups" } else { "fp32_flat_groups" };
    let list = optimizer(saved).and_then(|state| heap.get(state, key));
    let Some(Node::List(list)) = list.and_then(|list| heap.node(list)) else {
        return Err(format!("found no flat vectors, expected {key}"));
    };
    if list.len() > MAX_FLATS {
        return Err(format!("found {} flat vectors, expected at most {MAX_FLATS}", list.len()));
    }
    let flat = |value: &Value| match torch::tensor_of(saved, *value) {
        Found::Tensor(stated) if stated.dtype == Dtype::F32 => Ok(Flat { file, stated }),
        Found::Tensor(stated) => {
            Err(format!("found a flat vector of {}, expected F32", stated.dtype.name()))
        }
        _ => Err(format!("found something else than a tensor in {key}")),
    };
    list.iter().map(flat).collect()
}

/// Learning rate and weight decay, from the state of the optimiser that DeepSpeed wraps.
fn add_optimizer(manifest: &mut Manifest, saved: &Saved) {
    let wrapped = |key| optimizer(saved).and_then(|state| saved.heap.get(state, key));
    let inner = wrapped("base_optimizer_state").or_else(|| wrapped("optimizer_state_dict"));
    if let Some(inner) = inner {
        torch::add_optimizer(manifest, saved, inner);
    }
}
