//! From a place in a file to values in memory.

use super::source::{self, SourceError};
use super::{Manifest, ReadError, SourceFile, TensorInfo};

/// The values of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Values in row-major order, as many as the product of the dimensions.
    pub values: Vec<f32>,
    /// How many stored values are NaN.
    pub nan: u64,
    /// How many stored values are infinite.
    pub inf: u64,
    /// How many stored values are finite, but infinite as `f32`; only `F64` has such. They are
    /// infinite in `values` and not counted in `inf`.
    pub overflow: u64,
}

impl TensorInfo {
    /// Number of elements, at most `2^48`.
    #[must_use]
    pub fn n_elements(&self) -> usize {
        self.shape.iter().fold(1, |n, dim| n.saturating_mul(*dim))
    }
}

impl SourceFile {
    /// Whether its path still leads to the file whose header was read, in the same state.
    ///
    /// # Errors
    /// [`ReadError::Changed`], [`ReadError::Vanished`] or [`ReadError::Unreadable`].
    pub fn unchanged(&self) -> Result<(), ReadError> {
        source::expect(&self.path, &self.identity).map_err(|error| self.read_error(error))
    }

    pub(super) fn read_error(&self, error: SourceError) -> ReadError {
        let path = self.path.clone();
        match error {
            SourceError::Gone => ReadError::Vanished { path },
            SourceError::Changed | SourceError::NotAFile(_) => ReadError::Changed { path },
            SourceError::Io(source) => ReadError::Unreadable { path, source },
        }
    }
}

impl Manifest {
    /// Reads the values of one tensor, in bounded pieces and without keeping a descriptor.
    ///
    /// Needs four bytes of memory for each element and one MiB; ask [`TensorInfo::n_elements`]
    /// first where memory is short, as a sparse file can state any size.
    ///
    /// # Errors
    /// [`ReadError::Changed`] or [`ReadError::Vanished`] where the file is no longer the one that
    /// was opened, before or after the reading; what was read is then discarded.
    pub fn read(&self, tensor: &TensorInfo) -> Result<Tensor, ReadError> {
        self.read_paced(tensor, &mut |_| {})
    }

    /// As [`Manifest::read`]; `pause` is called whenever no descriptor is open, at least every
    /// 64 MiB or 2 s of reading, with the number of bytes read since. To keep an I/O budget it may
    /// sleep.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn read_paced(
        &self,
        tensor: &TensorInfo,
        pause: &mut dyn FnMut(u64),
    ) -> Result<Tensor, ReadError> {
        self.reader(tensor)?.values(pause)
    }

    /// A second look: whether every file of the checkpoint (weights, index, records) is by its path
    /// still what it was at [`open`](super::open). To be asked once more before results are
    /// published, since a save in place can follow the last read.
    ///
    /// # Errors
    /// [`ReadError::Changed`], [`ReadError::Vanished`] or [`ReadError::Unreadable`], with the file.
    pub fn unchanged(&self) -> Result<(), ReadError> {
        self.files.iter().chain(&self.sidecars).try_for_each(SourceFile::unchanged)
    }

    /// The tensor of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        let by_name = |tensor: &TensorInfo| super::natural_cmp(&tensor.name, name);
        self.tensors.binary_search_by(by_name).ok().and_then(|at| self.tensors.get(at))
    }

    /// Size of the weight files in bytes, headers included.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.files.iter().fold(0, |n, file| n.saturating_add(file.identity.size))
    }
}
