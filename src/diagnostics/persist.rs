//! A [`Baseline`] as a file, so that a restart does not begin every search anew: safetensors for the
//! arrays, JSON in its metadata for the rest, and a checksum over both. What is read back is the
//! same to the bit; whatever is damaged or foreign is refused.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use faer::{Mat, MatRef};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, View};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::baseline::{Baseline, Mark};
use super::options::Options;
use crate::linalg::{Bulk, HalfBasis, KeptSketch, Sketch, WarmStart};

/// Version of the format; files of another one are refused.
const FORMAT: u32 = 3;

/// Key of the metadata.
const KEY: &str = "weightvane";

/// Largest dimension believed.
const MAX_DIM: usize = 1 << 31;

/// Which save a kept baseline was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Path of its run.
    pub run: String,
    /// Path of the save.
    pub save: String,
    /// Step from its name.
    pub step: Option<u64>,
    /// Latest modification of its files, nanoseconds of Unix time: tells it from another save
    /// that was written over it.
    pub modified_ns: Option<i64>,
}

/// Why a kept baseline cannot be used, or not be written.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// The container is none, or damaged.
    #[error("not readable as safetensors, expected a kept baseline")]
    Container(#[source] SafeTensorError),
    /// The metadata cannot be read.
    #[error("not readable as JSON, expected the record of a kept baseline")]
    Record(#[source] serde_json::Error),
    /// What stands in it cannot be.
    #[error("found {found}, expected {expected}")]
    Content {
        /// What was found.
        found: String,
        /// What a sound file has there.
        expected: &'static str,
    },
    /// The file could not be written.
    #[error("cannot be written")]
    Write(#[source] SafeTensorError),
}

fn wrong<T>(found: impl Into<String>, expected: &'static str) -> Result<T, PersistError> {
    Err(PersistError::Content { found: found.into(), expected })
}

/// What stands in the metadata: names in the order of the numbered arrays, and whole numbers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    origin: Origin,
    k: Vec<usize>,
    rotation_k: Vec<usize>,
    exact_limit: usize,
    bases: Vec<String>,
    warm: Vec<String>,
    sketches: Vec<SketchRecord>,
    marks: Vec<MarkRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SketchRecord {
    matrix: String,
    seed: u64,
    n_elements: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkRecord {
    tensor: String,
    /// 32 hexadecimal digits.
    hash: String,
    nan: u64,
    inf: u64,
    overflow: u64,
}

/// Where the values of an array to be written are. They become bytes one array at a time.
enum Values<'a> {
    F32(MatRef<'a, f32>),
    Half(&'a HalfBasis),
    List(Vec<f64>),
    Short(Vec<f32>),
}

/// An array to be written. A matrix is stored column by column.
struct Array<'a> {
    shape: Vec<usize>,
    values: Values<'a>,
}

impl<'a> Array<'a> {
    fn new(values: Values<'a>) -> Self {
        let shape = match &values {
            Values::F32(mat) => vec![mat.ncols(), mat.nrows()],
            Values::Half(basis) => vec![basis.shape().1, basis.shape().0],
            Values::List(list) => vec![list.len()],
            Values::Short(list) => vec![list.len()],
        };
        Self { shape, values }
    }

    fn bytes(&self) -> Vec<u8> {
        match &self.values {
            Values::F32(mat) => columns(*mat).flat_map(f32::to_le_bytes).collect(),
            Values::Half(basis) => basis.values().iter().flat_map(|x| x.to_le_bytes()).collect(),
            Values::List(list) => list.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Values::Short(list) => list.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }
}

impl View for &Array<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::List(_) => Dtype::F64,
            Values::F32(_) | Values::Short(_) => Dtype::F32,
            Values::Half(_) => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes().into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype().bitsize() / 8
    }
}

fn columns<T: Copy>(mat: MatRef<'_, T>) -> impl Iterator<Item = T> {
    (0..mat.ncols()).flat_map(move |j| (0..mat.nrows()).map(move |i| mat[(i, j)]))
}

impl Baseline {
    /// The content of the file that [`Baseline::write`] writes.
    ///
    /// # Errors
    /// [`PersistError::Write`] where it would have more arrays than a file can name.
    pub fn to_bytes(&self, origin: &Origin, options: &Options) -> Result<Vec<u8>, PersistError> {
        let arrays = self.arrays();
        let record = self.record(origin, options, &arrays)?;
        safetensors::serialize(&arrays, Some(record)).map_err(PersistError::Write)
    }

    /// Writes the file, array by array, without a second copy of the whole. The measurements
    /// themselves are not part of it.
    ///
    /// # Errors
    /// [`PersistError::Write`] where the disk refuses.
    pub fn write(
        &self,
        path: &Path,
        origin: &Origin,
        options: &Options,
    ) -> Result<(), PersistError> {
        let arrays = self.arrays();
        let record = self.record(origin, options, &arrays)?;
        safetensors::serialize_to_file(&arrays, Some(record), path).map_err(PersistError::Write)
    }

    /// A baseline that was written, and the save that it was made of. Where it was made for other
    /// dimensions k or another `exact_limit` its search starts are left out.
    ///
    /// # Errors
    /// [`PersistError`] for a file that is damaged, foreign, or holds what cannot be.
    pub fn from_bytes(bytes: &[u8], options: &Options) -> Result<(Self, Origin), PersistError> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(PersistError::Container)?;
        let arrays = SafeTensors::deserialize(bytes).map_err(PersistError::Container)?;
        let text = header.metadata().as_ref().and_then(|m| m.get(KEY));
        let Some((sum, text)) = text.and_then(|text| text.split_once(' ')) else {
            return wrong("other metadata", "the record of a kept baseline");
        };
        let found: BTreeMap<&str, _> = arrays.iter().collect();
        if sum != checksum(text, found.iter().map(|(n, a)| (*n, a.shape(), a.data().into()))) {
            return wrong("another checksum", "that of the content");
        }
        let record: Record = serde_json::from_str(text).map_err(PersistError::Record)?;
        if record.format != FORMAT {
            return wrong(format!("format {}", record.format), "format 2");
        }
        let reader = Reader { arrays: &arrays };
        let mut baseline = reader.baseline(&record)?;
        let made_for = (&record.k, &record.rotation_k, record.exact_limit);
        if made_for != (&options.k, &options.rotation_k, options.exact_limit) {
            baseline.warm.clear();
        }
        Ok((baseline, record.origin))
    }

    fn arrays(&self) -> BTreeMap<String, Array<'_>> {
        let mut arrays = BTreeMap::new();
        let mut add = |name: String, values| drop(arrays.insert(name, Array::new(values)));
        for (i, basis) in self.bases.values().enumerate() {
            add(format!("bases.{i}"), Values::F32(basis.as_ref()));
        }
        for (i, start) in self.warm.values().enumerate() {
            add(format!("warm.{i}.basis"), Values::Half(&start.basis));
            add(format!("warm.{i}.sigma"), Values::List(start.bulk.sigma.clone()));
            add(format!("warm.{i}.weight"), Values::List(start.bulk.weight.clone()));
            add(format!("warm.{i}.reached"), Values::List(start.reached.clone()));
        }
        for (i, (sketch, _)) in self.sketches.values().enumerate() {
            add(format!("sketches.{i}"), Values::List(sketch.whole().buckets().to_vec()));
        }
        let moments = self.warm.values().map(|w| w.bulk.second_moment).collect();
        add("moments".into(), Values::List(moments));
        add("norms".into(), Values::List(self.sketches.values().map(|(_, norm)| *norm).collect()));
        add("max_abs".into(), Values::Short(self.marks.values().map(|m| m.max_abs).collect()));
        arrays
    }

    fn record(
        &self,
        origin: &Origin,
        options: &Options,
        arrays: &BTreeMap<String, Array<'_>>,
    ) -> Result<HashMap<String, String>, PersistError> {
        let sketch = |(matrix, (sketch, _)): (&String, &(KeptSketch, f64))| SketchRecord {
            matrix: matrix.clone(),
            seed: sketch.seed(),
            n_elements: sketch.n_elements(),
        };
        let mark = |(tensor, mark): (&String, &Mark)| MarkRecord {
            tensor: tensor.clone(),
            hash: format!("{:032x}", mark.hash),
            nan: mark.nan,
            inf: mark.inf,
            overflow: mark.overflow,
        };
        let record = Record {
            format: FORMAT,
            origin: origin.clone(),
            k: options.k.clone(),
            rotation_k: options.rotation_k.clone(),
            exact_limit: options.exact_limit,
            bases: self.bases.keys().cloned().collect(),
            warm: self.warm.keys().cloned().collect(),
            sketches: self.sketches.iter().map(sketch).collect(),
            marks: self.marks.iter().map(mark).collect(),
        };
        let text = serde_json::to_string(&record).map_err(PersistError::Record)?;
        let content = arrays.iter().map(|(name, array)| (name.as_str(), array));
        let sum = checksum(&text, content.map(|(n, a)| (n, a.shape.as_slice(), a.bytes().into())));
        Ok(HashMap::from([(KEY.to_owned(), format!("{sum} {text}"))]))
    }
}

/// Over the record and every array's name, shape and bytes, in the order of the names.
fn checksum<'a>(
    record: &str,
    arrays: impl Iterator<Item = (&'a str, &'a [usize], Cow<'a, [u8]>)>,
) -> String {
    let mut sum = Xxh3::new();
    sum.update(record.as_bytes());
    for (name, shape, bytes) in arrays {
        sum.update(format!("{name}{shape:?}").as_bytes());
        sum.update(&bytes);
    }
    format!("{:032x}", sum.digest128())
}

/// The arrays of a file whose checksum is right; what they hold need not be.
struct Reader<'a> {
    arrays: &'a SafeTensors<'a>,
}

impl Reader<'_> {
    fn baseline(&self, record: &Record) -> Result<Baseline, PersistError> {
        let Record { bases, warm, sketches, marks, .. } = record;
        let n_arrays = bases.len() + 4 * warm.len() + sketches.len() + 3;
        if self.arrays.len() != n_arrays {
            return wrong(format!("{} arrays", self.arrays.len()), "as many as are named");
        }
        let moments = self.numbers("moments", warm.len())?;
        let norms = self.numbers("norms", sketches.len())?;
        let max_abs = self.matrix::<4, f32>("max_abs", Dtype::F32, f32::from_le_bytes)?;
        let max_abs: Vec<f32> = columns(max_abs.as_ref()).collect();
        if max_abs.len() != marks.len() || max_abs.iter().any(|x| !x.is_finite()) {
            return wrong("other magnitudes", "a finite one for each tensor");
        }
        let mut baseline = Baseline::default();
        for (i, name) in bases.iter().enumerate() {
            let basis = self.basis(&format!("bases.{i}"))?;
            once(&mut baseline.bases, name, basis)?;
        }
        for (i, (name, second_moment)) in warm.iter().zip(moments).enumerate() {
            once(&mut baseline.warm, name, self.start(i, second_moment)?)?;
        }
        for (i, (note, norm)) in sketches.iter().zip(norms).enumerate() {
            let buckets = self.numbers(&format!("sketches.{i}"), Sketch::BUCKETS)?;
            let Some(sketch) = Sketch::from_buckets(note.seed, note.n_elements, buckets) else {
                return wrong("another number of sums", "those of a sketch");
            };
            once(&mut baseline.sketches, &note.matrix, (sketch.into(), norm))?;
        }
        for (note, max_abs) in marks.iter().zip(max_abs) {
            let MarkRecord { tensor, nan, inf, overflow, .. } = note;
            let mark =
                Mark { hash: hash(note)?, nan: *nan, inf: *inf, overflow: *overflow, max_abs };
            once(&mut baseline.marks, tensor, mark)?;
        }
        Ok(baseline)
    }

    fn start(&self, i: usize, second_moment: f64) -> Result<WarmStart, PersistError> {
        let name = format!("warm.{i}.basis");
        let values = self.matrix::<2, f16>(&name, Dtype::F16, f16::from_le_bytes)?;
        let basis = HalfBasis::from_values(values.nrows(), columns(values.as_ref()).collect());
        let Some(basis) = basis.filter(|b| b.values().iter().all(|x| x.is_finite())) else {
            return wrong(format!("no number in {name}"), "finite ones");
        };
        let sigma = self.list(&format!("warm.{i}.sigma"))?;
        let weight = self.numbers(&format!("warm.{i}.weight"), sigma.len())?;
        // An infinite error says that a cut was not reached at all.
        let reached = self.list(&format!("warm.{i}.reached"))?;
        let is_size = |x: &f64| x.is_finite() && *x >= 0.0;
        let sizes = sigma.iter().chain(&weight).chain([&second_moment]);
        if !sizes.into_iter().all(is_size) || !reached.iter().all(|e| *e >= 0.0) {
            return wrong(format!("no sizes in warm.{i}"), "finite numbers from 0 on");
        }
        Ok(WarmStart { basis, bulk: Bulk { sigma, weight, second_moment }, reached })
    }

    fn basis(&self, name: &str) -> Result<Mat<f32>, PersistError> {
        let basis = self.matrix::<4, f32>(name, Dtype::F32, f32::from_le_bytes)?;
        if columns(basis.as_ref()).any(|x| !x.is_finite()) {
            return wrong(format!("no number in {name}"), "finite ones");
        }
        Ok(basis)
    }

    /// So many finite numbers.
    fn numbers(&self, name: &str, n: usize) -> Result<Vec<f64>, PersistError> {
        let list = self.list(name)?;
        if list.len() != n || list.iter().any(|x| !x.is_finite()) {
            return wrong(format!("{} numbers in {name}", list.len()), "other ones, all finite");
        }
        Ok(list)
    }

    fn list(&self, name: &str) -> Result<Vec<f64>, PersistError> {
        let list = self.matrix::<8, f64>(name, Dtype::F64, f64::from_le_bytes)?;
        if list.ncols() != 1 {
            return wrong(format!("a matrix in {name}"), "a list");
        }
        Ok(columns(list.as_ref()).collect())
    }

    /// An array of one dimension as one column, of two as a matrix.
    fn matrix<const N: usize, T: Copy>(
        &self,
        name: &str,
        dtype: Dtype,
        value: fn([u8; N]) -> T,
    ) -> Result<Mat<T>, PersistError> {
        let array = self.arrays.tensor(name).map_err(PersistError::Container)?;
        let (n_cols, n_rows) = match *array.shape() {
            [n] => (1, n),
            [n_cols, n_rows] => (n_cols, n_rows),
            _ => return wrong(format!("{:?} of {name}", array.shape()), "one or two dimensions"),
        };
        let (values, rest) = array.data().as_chunks::<N>();
        let n = n_cols.checked_mul(n_rows);
        let sound = n_cols.max(n_rows) <= MAX_DIM && n == Some(values.len()) && rest.is_empty();
        if array.dtype() != dtype || !sound {
            return wrong(format!("{:?} {:?} of {name}", array.dtype(), array.shape()), "its type");
        }
        Ok(Mat::from_fn(n_rows, n_cols, |i, j| value(values[j * n_rows + i])))
    }
}

fn hash(note: &MarkRecord) -> Result<u128, PersistError> {
    let digits = note.hash.len() == 32 && note.hash.bytes().all(|b| b.is_ascii_hexdigit());
    let hash = u128::from_str_radix(&note.hash, 16).ok().filter(|_| digits);
    hash.map_or_else(|| wrong("another hash", "32 hexadecimal digits"), Ok)
}

fn once<T>(into: &mut BTreeMap<String, T>, name: &str, value: T) -> Result<(), PersistError> {
    match into.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => wrong("a name twice", "every name once"),
    }
}

#[cfg(test)]
mod tests;
