//! The one way from a tensor's place to its bytes, and what is made of them on the way.

use std::ops::Range;

use xxhash_rust::xxh3::Xxh3;

use super::coded::Decoder;
use super::decode::Scan;
use super::gather::Gather;
use super::place::Place;
use super::raw::{Memory, Raw};
use super::source::Stretch;
use super::stretches::Stretches;
use super::{Manifest, ReadError, Tensor, TensorInfo};

/// Bytes that are handed on at a time; a multiple of every element's width.
const CHUNK: usize = 1 << 20;

/// A float tensor whose place in its files was checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    manifest: &'a Manifest,
    tensor: &'a TensorInfo,
    pub(super) stretch: Stretch,
}

impl Manifest {
    pub(super) fn reader<'a>(&'a self, tensor: &'a TensorInfo) -> Result<Reader<'a>, ReadError> {
        let TensorInfo { name, dtype, place, n_bytes, .. } = tensor;
        if !dtype.is_float() {
            return Err(ReadError::NotFloat { name: name.to_string(), dtype: *dtype });
        }
        let size = |file: usize| self.files.get(file).map(|file| file.identity.size);
        let expected = (tensor.n_elements() as u64).checked_mul(dtype.n_bytes() as u64);
        let inside = match place {
            Place::Run { file, offset } => {
                let end = offset.checked_add(*n_bytes);
                size(*file).zip(end).is_some_and(|(size, end)| end <= size)
            }
            Place::Pieces(pieces) => {
                let n_frame = pieces.frame().iter().try_fold(1_usize, |n, dim| n.checked_mul(*dim));
                n_frame == Some(tensor.n_elements()) && pieces.is_sound(*dtype, size)
            }
        };
        if expected != Some(*n_bytes) || !inside {
            return Err(ReadError::Foreign { name: name.to_string() });
        }
        Ok(Reader { manifest: self, tensor, stretch: Stretch::default() })
    }
}

impl Reader<'_> {
    pub(super) fn values(&self, pause: &mut dyn FnMut(u64)) -> Result<Tensor, ReadError> {
        let mut values = Vec::new();
        values.try_reserve_exact(self.tensor.n_elements()).map_err(|_| self.too_large())?;
        let dtype = self.tensor.dtype;
        let mut scan = Scan::default();
        let mut sink = |bytes: &[u8]| {
            let start = values.len();
            let n_fresh = bytes.len().checked_div(dtype.n_bytes()).unwrap_or(0);
            values.resize(start.saturating_add(n_fresh), 0.0);
            dtype.decode(bytes, 1.0, values.get_mut(start..).unwrap_or_default());
            scan.merge(&dtype.scan(bytes));
        };
        self.whole(&mut sink, pause)?;
        let Scan { nan, inf, overflow, .. } = scan;
        Ok(Tensor { shape: self.tensor.shape.clone(), values, nan, inf, overflow })
    }

    pub(super) fn raw(
        &self,
        into: Option<Memory>,
        pause: &mut dyn FnMut(u64),
    ) -> Result<Raw, ReadError> {
        let n_bytes = usize::try_from(self.tensor.n_bytes).map_err(|_| self.too_large())?;
        let into = into.filter(|memory| memory.n_bytes() >= n_bytes);
        let mut memory = into.or_else(|| Memory::new(n_bytes)).ok_or_else(|| self.too_large())?;
        let mut hasher = Xxh3::new();
        let mut rest = memory.first(n_bytes);
        match &self.tensor.place {
            Place::Run { .. } => {
                let mut sink = |piece: &[u8]| {
                    hasher.update(piece);
                    // The pieces of a tensor are as long as it is.
                    if let Some((to, after)) =
                        std::mem::take(&mut rest).split_at_mut_checked(piece.len())
                    {
                        to.copy_from_slice(piece);
                        rest = after;
                    }
                };
                self.whole(&mut sink, pause)?;
            }
            // At once, as whatever order they are stored in is then read from front to end.
            Place::Pieces(pieces) => {
                let mut stretches = Stretches::new(&self.manifest.files, self.stretch, pause);
                let width = self.tensor.dtype.n_bytes();
                let decoder = Decoder::default();
                Gather { pieces, width, stretches: &mut stretches, decoder }.whole(rest)?;
                stretches.end()?;
                hasher.update(rest);
            }
        }
        let TensorInfo { dtype, shape, .. } = self.tensor;
        Ok(Raw { memory, n_bytes, dtype: *dtype, shape: shape.clone(), hash: hasher.digest128() })
    }

    pub(super) fn hash(&self, pause: &mut dyn FnMut(u64)) -> Result<u128, ReadError> {
        let mut hasher = Xxh3::new();
        self.whole(&mut |piece| hasher.update(piece), pause)?;
        Ok(hasher.digest128())
    }

    fn whole(
        &self,
        each: &mut dyn FnMut(&[u8]),
        pause: &mut dyn FnMut(u64),
    ) -> Result<(), ReadError> {
        self.elements(0..self.tensor.n_elements(), each, pause)
    }

    pub(super) fn elements(
        &self,
        elements: Range<usize>,
        each: &mut dyn FnMut(&[u8]),
        pause: &mut dyn FnMut(u64),
    ) -> Result<(), ReadError> {
        let TensorInfo { name, dtype, place, .. } = self.tensor;
        if elements.start > elements.end || elements.end > self.tensor.n_elements() {
            return Err(ReadError::Foreign { name: name.to_string() });
        }
        if elements.is_empty() {
            let mut files = place.files().filter_map(|file| self.manifest.files.get(file));
            return files.try_for_each(super::SourceFile::unchanged);
        }
        let width = dtype.n_bytes();
        let mut stretches = Stretches::new(&self.manifest.files, self.stretch, pause);
        match place {
            Place::Run { file, offset } => {
                // Neither can overflow: both lie in the tensor, and that in its file.
                let bytes_of = |n: usize| n.saturating_mul(width);
                let mut at = offset.saturating_add(bytes_of(elements.start) as u64);
                let mut n_left = bytes_of(elements.len());
                // Whole elements, also of a stretch that ends in the middle of one.
                let n_stretch = usize::try_from(self.stretch.n_bytes & !7).unwrap_or(CHUNK);
                let n_most = n_stretch.clamp(8, CHUNK);
                stretches.expect_reads(*file, at..at.saturating_add(n_left as u64));
                let mut chunk = vec![0; n_left.min(n_most)];
                while n_left > 0 {
                    let piece = chunk.get_mut(..n_left.min(n_most)).unwrap_or_default();
                    stretches.read_exact_at(*file, piece, at)?;
                    each(piece);
                    at = at.saturating_add(piece.len() as u64);
                    n_left = n_left.saturating_sub(piece.len());
                }
            }
            Place::Pieces(pieces) => {
                let decoder = Decoder::default();
                Gather { pieces, width, stretches: &mut stretches, decoder }
                    .elements(elements, each)?;
            }
        }
        stretches.end()
    }

    fn too_large(&self) -> ReadError {
        let name = self.tensor.name.to_string();
        ReadError::TooLarge { name, n_elements: self.tensor.n_elements() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use xxhash_rust::xxh3::xxh3_128;

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

    /// A way to read the tensor whole, and what it gives of it.
    type Route = (&'static str, fn(&Reader, &mut dyn FnMut(u64)) -> Result<Seen, ReadError>);

    /// What a route gives, for comparison.
    #[derive(Debug, PartialEq)]
    enum Seen {
        Values(Tensor),
        Bytes(Vec<u8>),
        Hash(u128),
    }

    const ROUTES: [Route; 4] = [
        ("values", |reader, pause| reader.values(pause).map(Seen::Values)),
        ("raw", |reader, pause| {
            reader.raw(None, pause).map(|raw| Seen::Bytes(raw.bytes().to_vec()))
        }),
        ("hash", |reader, pause| reader.hash(pause).map(Seen::Hash)),
        ("elements", |reader, pause| {
            let mut bytes = Vec::<u8>::new();
            reader.elements(0..N, &mut |piece| bytes.extend(piece), pause)?;
            Ok(Seen::Bytes(bytes))
        }),
    ];

    /// Reads in 16 stretches; `act` is done in the pause after the third.
    fn read(route: Route, act: impl Fn(&Path)) -> (Result<Seen, ReadError>, usize) {
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
        let reader = Reader { stretch: SMALL, ..manifest.reader(&manifest.tensors[0]).unwrap() };
        let result = (route.1)(&reader, &mut pause);
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
        let values: Vec<f32> = (0..4096_u16).map(f32::from).collect();
        let stored: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        for route in ROUTES {
            let (result, n_pauses) = read(route, |_| {});
            let expected = match result.as_ref().unwrap() {
                Seen::Values(_) => Seen::Values(Tensor {
                    shape: vec![N],
                    values: values.clone(),
                    nan: 0,
                    inf: 0,
                    overflow: 0,
                }),
                Seen::Bytes(_) => Seen::Bytes(stored.clone()),
                Seen::Hash(_) => Seen::Hash(xxh3_128(&stored)),
            };
            assert!(result.unwrap() == expected, "{}", route.0);
            assert_eq!(n_pauses, 16, "{}", route.0);
        }
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
        for ((name, act), route) in cases.iter().flat_map(|case| ROUTES.map(|r| (case, r))) {
            let (result, n_pauses) = read(route, act);
            let name = format!("{name}, {}", route.0);
            assert!(matches!(result, Err(ReadError::Changed { .. })), "{name}: {result:?}");
            assert_eq!(n_pauses, 3, "{name}");
        }
    }

    #[test]
    fn a_deleted_file_is_let_go() {
        for route in ROUTES {
            let (result, _) = read(route, |path| fs::remove_file(path).unwrap());
            let name = route.0;
            assert!(matches!(result, Err(ReadError::Vanished { .. })), "{name}: {result:?}");
        }
    }
}
