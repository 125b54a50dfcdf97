//! Tensors of one checkpoint as matrices, under a memory budget.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use faer::MatRef;

use super::baseline::Mark;
use super::observer::Observer;
use super::spares::Spares;
use super::stored::{Bytes, Feed, Stored};
use super::sums::Sums;
use crate::checkpoint::{Dtype, Manifest, Raw, ReadError, TensorInfo};
use crate::linalg::{Block, LinalgError, Linear, Panels};
use crate::model::{BiasView, Operand, Span, View};

/// Largest exponent of a scale: 2^126 brings every subnormal to a normal number.
const MAX_EXPONENT: i32 = 126;

/// Matrices whose largest element is within this power of two of 1 are used as they are stored.
const NEAR_ONE: i32 = 16;

/// The stored bytes of one checkpoint's tensors: read once, hashed as they are read, kept while
/// they are needed and fit the budget.
pub(super) struct Store<'a> {
    manifest: &'a Manifest,
    /// Bytes kept from measurement to measurement; one measurement may need twice that.
    budget: u64,
    /// Oldest use first.
    kept: Vec<Kept>,
    /// Measurements begun.
    turn: usize,
    marks: BTreeMap<String, Mark>,
    /// Marks of the save before.
    before: Option<&'a BTreeMap<String, Mark>>,
    /// Whether the latest tensor was that of the save before: then the next one is probably, too,
    /// and is hashed without being kept. Not known before the first.
    expects_unchanged: Option<bool>,
    feed: Rc<Feed<'a>>,
    sums: Rc<RefCell<Sums>>,
    /// The memory of tensors that were given up, for others.
    spares: Spares,
}

/// The bytes of one tensor.
struct Kept {
    name: String,
    raw: Arc<Raw>,
    /// The measurement that used it last.
    turn: usize,
}

/// An operand whose products are made from stored bytes.
pub(super) struct Large<'a> {
    parts: Vec<(Stored<'a>, bool)>,
    gain: Option<Vec<f32>>,
    exponent: i32,
}

impl Large<'_> {
    /// The operand as a linear map.
    pub(super) fn linear(&self) -> Result<Linear<'_>, LinalgError> {
        let mut blocks = Vec::with_capacity(self.parts.len());
        for (source, transposed) in &self.parts {
            blocks.push(Block { source: source as &dyn Panels, transposed: *transposed });
        }
        Linear::new(blocks, self.gain.clone(), self.exponent)
    }
}

impl<'a> Store<'a> {
    pub(super) fn new(
        manifest: &'a Manifest,
        budget: u64,
        before: Option<&'a BTreeMap<String, Mark>>,
        observer: &'a dyn Observer,
    ) -> Self {
        Self {
            manifest,
            budget,
            kept: Vec::new(),
            turn: 0,
            marks: BTreeMap::new(),
            before,
            expects_unchanged: None,
            feed: Rc::new(Feed {
                failure: RefCell::default(),
                read_bytes: Cell::default(),
                observer,
            }),
            sums: Rc::default(),
            spares: Spares::default(),
        }
    }

    /// Bytes of tensors read from files so far.
    pub(super) fn read_bytes(&self) -> u64 {
        self.feed.read_bytes.get()
    }

    /// What was seen of the tensors so far.
    pub(super) fn into_marks(self) -> BTreeMap<String, Mark> {
        self.marks
    }

    pub(super) fn info(&self, tensor: &str) -> &'a TensorInfo {
        self.manifest.find(tensor).expect("the graph names tensors of this manifest")
    }

    pub(super) fn dtype(&self, tensor: &str) -> Option<Dtype> {
        self.manifest.find(tensor).map(|t| t.dtype)
    }

    /// Spacing of the stored type, of the coarsest tensor of the operand. Values are measured as
    /// f32, so f64 tensors are no finer than that.
    pub(super) fn storage_eps(&self, views: &[Arc<View>]) -> f64 {
        let of = |v: &Arc<View>| self.dtype(&v.tensor).and_then(Dtype::storage_eps);
        views.iter().filter_map(of).fold(f64::from(f32::EPSILON), f64::max)
    }

    /// Why a product ended early, as the reader of the file told it.
    pub(super) fn failure(&self) -> Option<ReadError> {
        self.feed.failure.borrow_mut().take()
    }

    /// Whether every tensor holds the bytes of the save before.
    pub(super) fn unchanged(&mut self, tensors: &[&str]) -> Result<bool, ReadError> {
        let Some(before) = self.before else { return Ok(false) };
        for tensor in tensors {
            let mark = self.mark(tensor)?;
            if before.get(*tensor).is_none_or(|b| b.hash != mark.hash) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hash and counts of a tensor, which is read for it if need be.
    pub(super) fn mark(&mut self, tensor: &str) -> Result<Mark, ReadError> {
        if let Some(mark) = self.marks.get(tensor) {
            return Ok(*mark);
        }
        let info = self.info(tensor);
        let before = self.before.and_then(|b| b.get(tensor)).copied();
        let too_large = info.n_bytes > self.budget;
        if too_large || (before.is_some() && self.expects_unchanged()?) {
            let hash = self.manifest.hash(info, &mut |n| self.feed.took(n))?;
            if let Some(same) = before.filter(|b| b.hash == hash) {
                self.marks.insert(tensor.to_owned(), same);
                return Ok(same);
            }
            self.expects_unchanged = Some(false);
            if too_large {
                let mark = self.scan_file(info, hash)?;
                self.marks.insert(tensor.to_owned(), mark);
                return Ok(mark);
            }
        }
        let raw = self.raw(tensor)?;
        let same = before.filter(|b| b.hash == raw.hash());
        self.expects_unchanged = Some(same.is_some());
        let mark = same.unwrap_or_else(|| Mark::new(raw.hash(), info.dtype.scan(raw.bytes())));
        self.marks.insert(tensor.to_owned(), mark);
        Ok(mark)
    }

    /// Whether the next tensor is probably that of the save before; the smallest one tells of the
    /// first, which is often the largest.
    fn expects_unchanged(&mut self) -> Result<bool, ReadError> {
        if let Some(expects) = self.expects_unchanged {
            return Ok(expects);
        }
        let known = |t: &&TensorInfo| t.dtype.is_float() && t.n_bytes > 0;
        let smallest = self.manifest.tensors.iter().filter(known).min_by_key(|t| t.n_bytes);
        let before = smallest.and_then(|t| self.before?.get(t.name.as_str()));
        let expects = match smallest.zip(before) {
            None => false,
            Some((info, mark)) => {
                self.manifest.hash(info, &mut |n| self.feed.took(n))? == mark.hash
            }
        };
        self.expects_unchanged = Some(expects);
        Ok(expects)
    }

    fn scan_file(&mut self, info: &TensorInfo, hash: u128) -> Result<Mark, ReadError> {
        let mut scan = crate::checkpoint::Scan::default();
        let mut each = |bytes: &[u8]| scan.merge(&info.dtype.scan(bytes));
        self.manifest.read_elements(info, 0..info.n_elements(), &mut each, &mut |n| {
            self.feed.took(n);
        })?;
        Ok(Mark::new(hash, scan))
    }

    /// A tensor's bytes, read or kept.
    fn raw(&mut self, name: &str) -> Result<Arc<Raw>, ReadError> {
        if let Some(at) = self.kept.iter().position(|kept| kept.name == name) {
            let entry = self.kept.remove(at);
            let raw = Arc::clone(&entry.raw);
            self.kept.push(Kept { turn: self.turn, ..entry });
            return Ok(raw);
        }
        let info = self.info(name);
        self.make_room(info.n_bytes);
        let into = self.spares.take(info.n_bytes);
        let raw = Arc::new(self.manifest.read_raw(info, into, &mut |n| self.feed.took(n))?);
        let kept = Kept { name: name.to_owned(), raw: Arc::clone(&raw), turn: self.turn };
        self.kept.push(kept);
        Ok(raw)
    }

    /// A new measurement begins: what the ones before used may go.
    pub(super) fn begin(&mut self) {
        self.turn += 1;
    }

    /// Gives up the tensors used longest ago until `wanted` more bytes fit.
    fn make_room(&mut self, wanted: u64) {
        let mut total: u64 = self.kept.iter().map(|kept| kept.raw.bytes().len() as u64).sum();
        let mut gone = 0;
        // Two tensors of one measurement must not push each other out: each fits the budget, so both
        // fit twice that.
        let room = |kept: &Kept| self.budget * if kept.turn == self.turn { 2 } else { 1 };
        while let Some(oldest) = self.kept.get(gone).filter(|kept| total + wanted > room(kept)) {
            total -= oldest.raw.bytes().len() as u64;
            gone += 1;
        }
        for kept in self.kept.drain(..gone) {
            self.spares.set_aside(kept.raw);
        }
    }

    /// Gives up a tensor that will not be asked for again.
    pub(super) fn release(&mut self, tensor: &str) {
        self.sums.borrow_mut().release(tensor);
        if let Some(at) = self.kept.iter().position(|kept| kept.name == tensor) {
            let kept = self.kept.remove(at);
            self.spares.set_aside(kept.raw);
        }
    }

    /// NaN and infinite elements of a view; values infinite as f32 alone count as infinite.
    pub(super) fn non_finite(&mut self, view: &View) -> Result<(u64, u64), ReadError> {
        if self.mark(&view.tensor)?.is_finite() {
            return Ok((0, 0));
        }
        let mut counts = (0, 0);
        let stored = self.stored(view, 1.0)?;
        let counted = stored.for_slices(64, &mut |_, values| {
            for x in values {
                counts.0 += u64::from(x.is_nan());
                counts.1 += u64::from(x.is_infinite());
            }
        });
        self.read_or(counted)?;
        Ok(counts)
    }

    /// The reader's own error in place of [`LinalgError::Unread`].
    pub(super) fn read_or<T>(&self, result: Result<T, LinalgError>) -> Result<T, ReadError> {
        result.map_err(|_| {
            self.failure().expect("only a read that failed ends a pass over stored bytes")
        })
    }

    /// A view as it is stored; its values will be times `scale`.
    pub(super) fn stored(&mut self, view: &View, scale: f32) -> Result<Stored<'a>, ReadError> {
        let info = self.info(&view.tensor);
        let bytes = if info.n_bytes > self.budget {
            Bytes::File(self.manifest)
        } else {
            Bytes::Memory(self.raw(&view.tensor)?)
        };
        let (feed, sums) = (Rc::clone(&self.feed), Rc::clone(&self.sums));
        Ok(Stored::new(bytes, feed, info, view, scale, sums))
    }

    /// An operand for products.
    pub(super) fn large(&mut self, operand: &Operand) -> Result<Large<'a>, ReadError> {
        let mut largest = 0.0f32;
        for part in &operand.parts {
            largest = largest.max(self.mark(&part.tensor)?.max_abs);
        }
        let (scale, mut exponent) = scale(largest);
        let mut parts = Vec::with_capacity(operand.parts.len());
        for part in &operand.parts {
            let stored = self.stored(part, scale)?;
            let transposed = stored.transposed != operand.transposed;
            parts.push((stored, transposed));
        }
        let mut gain = self.gain(operand)?;
        if let Some(gain) = &mut gain {
            let largest = gain.iter().fold(0.0f32, |max, g| max.max(g.abs()));
            let (scale, more) = self::scale(largest);
            for g in gain {
                *g *= scale;
            }
            exponent += more;
        }
        Ok(Large { parts, gain, exponent })
    }

    /// A whole view as a decoded matrix.
    pub(super) fn view(&mut self, view: &View) -> Result<Dense, ReadError> {
        let stored = self.stored(view, 1.0)?;
        let values = self.read_or(stored.values())?;
        let (rows, cols) = (stored.rows(), stored.cols());
        Ok(Dense { values, rows, cols, transposed: stored.transposed })
    }

    /// An operand as a decoded matrix: blocks transposed, stacked, gain folded in.
    pub(super) fn operand(&mut self, operand: &Operand) -> Result<Dense, ReadError> {
        if let ([only], None) = (&*operand.parts, &operand.gain) {
            let dense = self.view(only)?;
            return Ok(if operand.transposed { dense.transposed() } else { dense });
        }
        let gain = self.gain(operand)?;
        let (rows, cols) = operand.shape();
        let mut values = Vec::with_capacity(rows * cols);
        for part in &operand.parts {
            let dense = self.view(part)?;
            let view = if operand.transposed { dense.mat().transpose() } else { dense.mat() };
            for i in 0..view.nrows() {
                let row = view.row(i);
                match &gain {
                    None => values.extend(row.iter().copied()),
                    Some(gain) => values.extend(row.iter().zip(gain).map(|(x, g)| x * g)),
                }
            }
        }
        Ok(Dense { values, rows, cols, transposed: false })
    }

    fn gain(&mut self, operand: &Operand) -> Result<Option<Vec<f32>>, ReadError> {
        let Some(gain) = &operand.gain else { return Ok(None) };
        let plus = if gain.one_plus { 1.0 } else { 0.0 };
        Ok(Some(self.vector(&gain.tensor)?.iter().map(|g| g + plus).collect()))
    }

    /// A bias as a vector.
    pub(super) fn bias(&mut self, bias: &BiasView) -> Result<Vec<f32>, ReadError> {
        let values = self.vector(&bias.tensor)?;
        let plus = if bias.plus_one { 1.0 } else { 0.0 };
        Ok(bias.rows.iter().flat_map(Span::positions).map(|i| values[i] + plus).collect())
    }

    fn vector(&mut self, tensor: &str) -> Result<Vec<f32>, ReadError> {
        let raw = self.raw(tensor)?;
        let info = self.info(tensor);
        let mut values = vec![0.0; info.n_elements()];
        info.dtype.decode(raw.bytes(), 1.0, &mut values);
        Ok(values)
    }
}

/// `2^-e` and e, so that the largest magnitude comes into `[1, 2)` as far as `f32` reaches; nothing
/// where it is near enough for products of four matrices to stay in range.
fn scale(largest: f32) -> (f32, i32) {
    if largest == 0.0 || !largest.is_finite() {
        return (1.0, 0);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the logarithm of an f32")]
    let exponent = (f64::from(largest).log2().floor() as i32).clamp(-MAX_EXPONENT, MAX_EXPONENT);
    if exponent.abs() <= NEAR_ONE { (1.0, 0) } else { (2f32.powi(-exponent), exponent) }
}

/// A decoded matrix.
#[derive(Debug, Clone)]
pub(super) struct Dense {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl Dense {
    fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Values, row by row as stored.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// The matrix.
    pub(super) fn mat(&self) -> MatRef<'_, f32> {
        let stored = MatRef::from_row_major_slice(&self.values, self.rows, self.cols);
        if self.transposed { stored.transpose() } else { stored }
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype::F32;
    use safetensors::tensor::TensorView;

    use super::super::observer::Unobserved;
    use super::*;

    const N_BYTES: u64 = 400;

    /// A checkpoint of four tensors of that size.
    fn four() -> (tempfile::TempDir, Manifest) {
        let dir = tempfile::tempdir().unwrap();
        let bytes = [7; 400];
        let tensor = |name| (name, TensorView::new(F32, vec![10, 10], &bytes).unwrap());
        let path = dir.path().join("model.safetensors");
        safetensors::serialize_to_file(["a", "b", "c", "d"].map(tensor), None, &path).unwrap();
        let manifest = crate::checkpoint::open(&path).unwrap();
        (dir, manifest)
    }

    /// How many tensors are read for measurements that use these in turn.
    fn n_read(measurements: &[&str], budget: u64) -> u64 {
        let (_dir, manifest) = four();
        let mut store = Store::new(&manifest, budget, None, &Unobserved);
        for tensors in measurements {
            store.begin();
            for tensor in tensors.chars() {
                store.raw(&tensor.to_string()).unwrap();
            }
        }
        store.read_bytes() / N_BYTES
    }

    #[test]
    fn tensors_are_kept_from_measurement_to_measurement_as_far_as_the_budget_goes() {
        let two = 2 * N_BYTES;
        assert_eq!(n_read(&["ab", "ab", "a"], two), 2);
        assert_eq!(n_read(&["a", "b", "a", "c", "a"], two), 3, "the one used longest ago goes");
        assert_eq!(n_read(&["a", "b", "c", "a"], two), 4);
    }

    #[test]
    fn one_measurement_may_keep_twice_as_much() {
        let two = 2 * N_BYTES;
        assert_eq!(n_read(&["abcdabcd"], two), 4);
        assert_eq!(n_read(&["abcd", "d", "c"], two), 4, "and they stay while nothing comes");
        assert_eq!(n_read(&["abcabc"], N_BYTES), 6, "but no more than that");
        assert_eq!(n_read(&["abab"], N_BYTES), 2);
    }
}
