//! Tensors as the bytes that the file holds, to be decoded later and panel by panel.

use std::ops::Range;

use memmap2::MmapMut;

use super::{Dtype, Manifest, ReadError, TensorInfo};

/// The stored bytes of one tensor and their hash.
#[derive(Debug)]
pub struct Raw {
    pub(super) memory: Memory,
    pub(super) n_bytes: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) hash: u128,
}

/// Memory for one tensor at a time, from the kernel and not from the heap: tensors of many sizes
/// that come and go leave gaps there, a third of the whole. No file stands behind it, and none can:
/// to map one is `unsafe`.
#[derive(Debug)]
pub struct Memory(MmapMut);

impl Memory {
    /// So many bytes; `None` where there are not so many.
    #[must_use]
    pub fn new(n_bytes: usize) -> Option<Self> {
        let memory = MmapMut::map_anon(n_bytes.max(1)).ok()?;
        Some(Self(memory))
    }

    /// Its size in bytes.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.0.len()
    }

    /// The first bytes of it.
    pub(super) fn first(&mut self, n_bytes: usize) -> &mut [u8] {
        self.0.get_mut(..n_bytes).unwrap_or_default()
    }
}

impl Raw {
    /// Elements in row-major order, [`Dtype::n_bytes`] little-endian bytes each, from the beginning
    /// of a page on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.memory.0.get(..self.n_bytes).unwrap_or_default()
    }

    /// The memory of the bytes, for another tensor.
    #[must_use]
    pub fn into_memory(self) -> Memory {
        self.memory
    }

    /// Stored type, always a float; decodes any run of whole elements of [`Raw::bytes`].
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Dimensions, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// XXH3-128 of the bytes, without a seed. Against chance, not against forgery: who can write
    /// the checkpoint can make two tensors of one hash.
    #[must_use]
    pub fn hash(&self) -> u128 {
        self.hash
    }
}

impl Manifest {
    /// Reads the stored bytes of one tensor and hashes them as they come. They are put `into` this
    /// memory if it is large enough, and its contents are lost.
    ///
    /// Needs [`TensorInfo::n_bytes`] and one MiB of memory. `pause` is called as by
    /// [`Manifest::read_paced`].
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn read_raw(
        &self,
        tensor: &TensorInfo,
        into: Option<Memory>,
        pause: &mut dyn FnMut(u64),
    ) -> Result<Raw, ReadError> {
        self.reader(tensor)?.raw(into, pause)
    }

    /// The hash that [`Manifest::read_raw`] would give, in one MiB of memory.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn hash(&self, tensor: &TensorInfo, pause: &mut dyn FnMut(u64)) -> Result<u128, ReadError> {
        self.reader(tensor)?.hash(pause)
    }

    /// Hands the stored bytes of the elements with these row-major indices to `each`, in order and
    /// in pieces of whole elements and at most one MiB. For tensors that memory cannot hold.
    ///
    /// What `each` was given counts only if the result is good. `pause` is called as by
    /// [`Manifest::read_paced`].
    ///
    /// # Errors
    /// As [`Manifest::read`]; [`ReadError::Foreign`] also where the indices are not of the tensor.
    pub fn read_elements(
        &self,
        tensor: &TensorInfo,
        elements: Range<usize>,
        each: &mut dyn FnMut(&[u8]),
        pause: &mut dyn FnMut(u64),
    ) -> Result<(), ReadError> {
        self.reader(tensor)?.elements(elements, each, pause)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_128;

    use super::super::source::Stretch;
    use super::*;
    use crate::checkpoint::open;

    const SHAPE: [usize; 2] = [700, 1000];

    fn stored() -> Vec<u8> {
        let codes = 0..u32::try_from(SHAPE[0] * SHAPE[1]).unwrap();
        codes
            .flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 16).to_le_bytes()[..2].to_vec())
            .collect()
    }

    /// A checkpoint of one bf16 matrix of those bytes, behind another tensor.
    fn matrix(stored: &[u8]) -> (tempfile::TempDir, Manifest) {
        let end = 4 + stored.len();
        let json = format!(
            r#"{{"a":{{"dtype":"I32","shape":[1],"data_offsets":[0,4]}},"w":{{"dtype":"BF16","shape":[700,1000],"data_offsets":[4,{end}]}}}}"#
        );
        let dir = tempfile::tempdir().unwrap();
        let head = (json.len() as u64).to_le_bytes();
        let path = dir.path().join("model.safetensors");
        fs::write(&path, [&head, json.as_bytes(), &[7; 4], stored].concat()).unwrap();
        let manifest = open(&path).unwrap();
        (dir, manifest)
    }

    #[test]
    fn raw_is_what_the_file_holds() {
        let stored = stored();
        let (_dir, manifest) = matrix(&stored);
        let tensor = manifest.find("w").unwrap();
        let mut n_read = 0;
        let mut used = Memory::new(stored.len() + 5000).unwrap();
        used.0.fill(9);
        let raw = manifest.read_raw(tensor, Some(used), &mut |n_bytes| n_read += n_bytes).unwrap();
        assert_eq!(
            (raw.bytes() == stored, raw.dtype(), raw.shape()),
            (true, Dtype::BF16, &SHAPE[..])
        );
        assert_eq!((raw.hash(), n_read), (xxh3_128(&stored), tensor.n_bytes));
        assert_eq!(manifest.hash(tensor, &mut |_| {}).unwrap(), raw.hash());
        for memory in [None, Memory::new(3)] {
            let again = manifest.read_raw(tensor, memory, &mut |_| {}).unwrap();
            assert!(
                again.bytes() == stored,
                "memory of its own, where there is none or too little"
            );
        }
    }

    #[test]
    fn what_has_no_place_or_no_values_is_refused() {
        let (_dir, manifest) = matrix(&stored());
        let tensor = manifest.find("w").unwrap();
        let n_elements = tensor.n_elements();
        #[expect(clippy::reversed_empty_ranges, reason = "what a caller can get wrong")]
        for elements in [0..n_elements + 1, n_elements + 1..n_elements + 1, 5..4, 0..usize::MAX] {
            let mut each = |_: &[u8]| unreachable!("a piece of no tensor");
            let result = manifest.read_elements(tensor, elements, &mut each, &mut |_| {});
            assert!(matches!(result, Err(ReadError::Foreign { .. })), "{result:?}");
        }
        let integers = manifest.find("a").unwrap();
        let result = manifest.hash(integers, &mut |_| {});
        assert!(matches!(result, Err(ReadError::NotFloat { .. })), "{result:?}");
    }

    #[test]
    fn no_elements_of_a_file_that_is_gone_are_not_read() {
        let (dir, manifest) = matrix(&stored());
        let tensor = manifest.find("w").unwrap();
        let none = || manifest.read_elements(tensor, 3..3, &mut |_| {}, &mut |_| {});
        assert!(none().is_ok());
        drop(dir);
        assert!(matches!(none(), Err(ReadError::Vanished { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_elements_in_any_stretches_are_their_slice(
            ends in any::<[prop::sample::Index; 2]>(),
            stretch in 1..2_000_000_u64,
        ) {
            let stored = stored();
            let (_dir, manifest) = matrix(&stored);
            let tensor = manifest.find("w").unwrap();
            let mut ends = ends.map(|end| end.index(tensor.n_elements() + 1));
            ends.sort_unstable();
            let mut bytes = Vec::<u8>::new();
            let mut whole = true;
            let mut each = |piece: &[u8]| {
                whole &= piece.len().is_multiple_of(2) && piece.len() <= 1 << 20;
                bytes.extend(piece);
            };
            manifest.read_elements(tensor, ends[0]..ends[1], &mut each, &mut |_| {}).unwrap();
            prop_assert!(whole);
            prop_assert!(bytes == stored[2 * ends[0]..2 * ends[1]]);
            // Of a few bytes each, a stretch would take a second for the whole.
            let stretch = Stretch { n_bytes: stretch.max(20_000), longest: Duration::from_mins(1) };
            let mut reader = manifest.reader(tensor).unwrap();
            reader.stretch = stretch;
            prop_assert_eq!(reader.hash(&mut |_| {}).unwrap(), xxh3_128(&stored));
        }
    }
}
