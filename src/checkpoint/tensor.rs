//! From a place in a file to values in memory.

use super::dtype::Decoded;
use super::source::{self, SourceError, Span, Stretch};
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

    fn read_error(&self, error: SourceError) -> ReadError {
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
        self.read_in_stretches(tensor, Stretch::default(), pause)
    }

    fn read_in_stretches(
        &self,
        tensor: &TensorInfo,
        stretch: Stretch,
        pause: &mut dyn FnMut(u64),
    ) -> Result<Tensor, ReadError> {
        let TensorInfo { name, dtype, offset, n_bytes, .. } = tensor;
        if !dtype.is_float() {
            return Err(ReadError::NotFloat { name: name.clone(), dtype: *dtype });
        }
        let foreign = || ReadError::Foreign { name: name.clone() };
        let file = self.files.get(tensor.file).ok_or_else(foreign)?;
        let n_elements = tensor.n_elements();
        let expected = (n_elements as u64).checked_mul(dtype.bits() / 8);
        let end = offset.checked_add(*n_bytes);
        if expected != Some(*n_bytes) || end.is_none_or(|end| end > file.identity.size) {
            return Err(foreign());
        }
        let mut decoded = Decoded::with_room_for(n_elements)
            .ok_or_else(|| ReadError::TooLarge { name: name.clone(), n_elements })?;
        let span =
            Span { path: &file.path, identity: &file.identity, offset: *offset, n_bytes: *n_bytes };
        source::read_span(span, stretch, &mut |bytes| decoded.append(*dtype, bytes), pause)
            .map_err(|error| file.read_error(error))?;
        if *n_bytes == 0 {
            file.unchanged()?;
        }
        let Decoded { values, nan, inf, overflow, .. } = decoded;
        Ok(Tensor { shape: tensor.shape.clone(), values, nan, inf, overflow })
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::open;

    /// What happens to a file while it is read.
    type Act<'a> = &'a dyn Fn(&Path);

    const N: usize = 4096;
    const SMALL: Stretch = Stretch { n_bytes: 1024, longest: Duration::from_mins(1) };

    fn bytes(seed: u16) -> Vec<u8> {
        let json =
            format!(r#"{{"w":{{"dtype":"F32","shape":[{N}],"data_offsets":[0,{}]}}}}"#, 4 * N);
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.extend((0..4096_u16).flat_map(|i| f32::from(i ^ seed).to_le_bytes()));
        bytes
    }

    /// Reads in 16 stretches; `act` is done in the pause after the third.
    fn read(act: impl Fn(&Path)) -> (Result<Tensor, ReadError>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        fs::write(&path, bytes(0)).unwrap();
        let manifest = open(&path).unwrap();
        let mut n_pauses = 0;
        let mut pause = |n_bytes| {
            assert_eq!(n_bytes, 1024);
            assert!(!is_held(&path), "a descriptor is held in a pause");
            n_pauses += 1;
            if n_pauses == 3 {
                act(&path);
            }
        };
        let result = manifest.read_in_stretches(&manifest.tensors[0], SMALL, &mut pause);
        assert!(!is_held(&path), "a descriptor is held after reading");
        (result, n_pauses)
    }

    fn is_held(path: &Path) -> bool {
        let leads_there =
            |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(path));
        fs::read_dir("/proc/self/fd").unwrap().flatten().any(leads_there)
    }

    #[test]
    fn stretches_join_without_seam_and_hold_nothing() {
        let (result, n_pauses) = read(|_| {});
        let tensor = result.unwrap();
        assert_eq!(n_pauses, 16);
        assert!(tensor.values.iter().copied().eq((0..4096_u16).map(f32::from)));
        assert_eq!((tensor.nan, tensor.inf, tensor.overflow), (0, 0, 0));
    }

    #[test]
    fn what_is_read_of_two_files_is_discarded() {
        let cases: [(&str, Act); 5] = [
            ("replaced", &|path| {
                let fresh = path.with_extension("tmp");
                fs::write(&fresh, bytes(1)).unwrap();
                fs::rename(fresh, path).unwrap();
            }),
            ("rewritten", &|path| {
                fs::write(path, bytes(1)).unwrap();
                // The clock of a file system can stand still for some milliseconds.
                let file = fs::File::options().write(true).open(path).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }),
            ("appended", &|path| fs::write(path, [bytes(0), vec![0]].concat()).unwrap()),
            ("truncated", &|path| fs::write(path, []).unwrap()),
            ("a directory now", &|path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
        ];
        for (name, act) in cases {
            let (result, n_pauses) = read(act);
            assert!(matches!(result, Err(ReadError::Changed { .. })), "{name}: {result:?}");
            assert_eq!(n_pauses, 3, "{name}");
        }
    }

    #[test]
    fn a_deleted_file_is_let_go() {
        let (result, _) = read(|path| fs::remove_file(path).unwrap());
        assert!(matches!(result, Err(ReadError::Vanished { .. })), "{result:?}");
    }
}
