//! The safetensors header: eight bytes of length, JSON, data.
//!
//! Stricter than the `safetensors` crate, which takes the last of two equal names, any rank, and
//! some twenty times the header's size in memory before it looks at it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::TensorInfo;
use super::dtype::Dtype;
use super::error::{one_line, shown};
use super::order::natural_cmp;
use super::place::Place;

/// Longest header in bytes; the largest published shards have a few hundred KiB.
pub(super) const MAX_HEADER: u64 = 16 << 20;
/// The header's length stands in front of it, as little-endian `u64`.
pub(super) const N_LENGTH: u64 = 8;
/// Dimensions of one tensor; PyTorch's own limit.
pub(super) const MAX_RANK: usize = 64;
/// Elements of one tensor, empty dimensions aside: products of any of its dimensions fit `usize`.
pub(super) const MAX_ELEMENTS: u64 = 1 << 48;
/// Bytes of one name.
pub(super) const MAX_NAME: usize = 4096;
/// Tensors of one file. A shard of the largest published models has a few thousand, and an archive
/// has no more entries; each costs up to 900 bytes, with what is made of it.
pub(super) const MAX_IN_FILE: usize = 1 << 16;
/// Tensors of one checkpoint; the largest published one, Kimi K2, has half of it.
pub(super) const MAX_TENSORS: usize = 1 << 18;

/// Keys of one `__metadata__`; each costs some twelve times its bytes.
const MAX_METADATA: usize = 65_536;

/// What a header says; the places of its tensors count from the start of the data, and their file
/// is 0.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// In natural order of the names.
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) metadata: BTreeMap<String, String>,
    /// Length of the data, which the tensors fill without hole or overlap.
    pub(super) n_data: u64,
}

/// Parses and checks the JSON of a header, without its length.
///
/// # Errors
/// What was found and expected, on one line.
pub(super) fn parse(json: &[u8]) -> Result<Header, String> {
    let text = std::str::from_utf8(json).map_err(|error| {
        format!(
            "found a byte that is not UTF-8 at {} of the header, expected JSON",
            error.valid_up_to()
        )
    })?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut header = serde::Deserializer::deserialize_map(&mut deserializer, HeaderVisitor)
        .and_then(|header| deserializer.end().map(|()| header))
        .map_err(|error| {
            format!(
                "found a bad header, expected safetensors JSON: {}",
                one_line(&error.to_string())
            )
        })?;
    header.n_data = check_places(&mut header.tensors)?;
    header.tensors.sort_unstable_by(|a, b| natural_cmp(&a.name, &b.name));
    let pairs = header.tensors.iter().zip(header.tensors.iter().skip(1));
    match pairs.into_iter().find(|(a, b)| a.name == b.name) {
        Some((twice, _)) => {
            Err(format!("found tensor {} twice, expected each name once", shown(&twice.name)))
        }
        None => Ok(header),
    }
}

/// Checks that the tensors fill the data from its start without hole or overlap, and returns its
/// length.
fn check_places(tensors: &mut [TensorInfo]) -> Result<u64, String> {
    tensors.sort_unstable_by_key(|tensor| (tensor.place.offset(), tensor.n_bytes));
    let mut n_data = 0_u64;
    for tensor in tensors {
        let TensorInfo { name, place, n_bytes, .. } = &*tensor;
        let offset = place.offset();
        if offset != n_data {
            return Err(format!(
                "found tensor {} at byte {offset} of the data, expected {n_data} without hole or overlap",
                shown(name)
            ));
        }
        let expected = stored_size(tensor)?;
        if *n_bytes != expected {
            return Err(format!(
                "found {n_bytes} bytes for tensor {}, expected {expected} by its shape and type",
                shown(name)
            ));
        }
        // The end itself was read as a number, so this cannot overflow.
        n_data = offset.saturating_add(*n_bytes);
    }
    Ok(n_data)
}

/// Bytes that shape and type ask for.
fn stored_size(tensor: &TensorInfo) -> Result<u64, String> {
    let too_large = || {
        format!(
            "found a shape of more than 2^48 elements for tensor {}, expected fewer",
            shown(&tensor.name)
        )
    };
    let mut n_elements = 1_u64;
    let mut empty = false;
    for dim in &tensor.shape {
        empty |= *dim == 0;
        n_elements = u64::try_from(*dim)
            .ok()
            .and_then(|dim| n_elements.checked_mul(dim.max(1)))
            .filter(|n| *n <= MAX_ELEMENTS)
            .ok_or_else(too_large)?;
    }
    let n_bits = if empty { 0 } else { n_elements.saturating_mul(tensor.dtype.bits()) };
    if n_bits % 8 == 0 {
        Ok(n_bits / 8)
    } else {
        Err(format!("found {n_bits} bits for tensor {}, expected whole bytes", shown(&tensor.name)))
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut has_metadata = false;
        while let Some(name) = map.next_key_seed(Name)? {
            if name == "__metadata__" {
                if has_metadata {
                    return Err(de::Error::custom("`__metadata__` twice, expected once"));
                }
                has_metadata = true;
                header.metadata = map.next_value::<Option<Metadata>>()?.unwrap_or_default().0;
                continue;
            }
            if header.tensors.len() >= MAX_IN_FILE {
                let text = "more than 65536 tensors in one file, expected at most as many";
                return Err(de::Error::custom(text));
            }
            header.tensors.push(map.next_value_seed(EntryOf(name))?);
        }
        Ok(header)
    }
}

/// A string of bounded length.
pub(super) struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a name of at most {MAX_NAME} bytes")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<String, E> {
        if name.len() > MAX_NAME {
            return Err(E::invalid_length(name.len(), &self));
        }
        Ok(name.to_owned())
    }
}

/// `__metadata__`: strings by key, each key once.
#[derive(Default)]
struct Metadata(BTreeMap<String, String>);

impl<'de> de::Deserialize<'de> for Metadata {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings as `__metadata__`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
        let mut metadata = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if metadata.len() >= MAX_METADATA {
                return Err(de::Error::custom("more than 65536 metadata keys, expected fewer"));
            }
            if metadata.contains_key(&key) {
                return Err(de::Error::custom(format!(
                    "metadata key {} twice, expected once",
                    shown(&key)
                )));
            }
            metadata.insert(key, value);
        }
        Ok(Metadata(metadata))
    }
}

/// The description of the tensor of that name.
struct EntryOf(String);

impl<'de> DeserializeSeed<'de> for EntryOf {
    type Value = TensorInfo;
    fn deserialize<D: de::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<TensorInfo, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntryOf {
    type Value = TensorInfo;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with dtype, shape and data_offsets for tensor {}", shown(&self.0))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TensorInfo, A::Error> {
        let (mut dtype, mut shape, mut places) = (None, None, None);
        while let Some(key) = map.next_key::<EntryKey>()? {
            let twice = match key {
                EntryKey::Dtype => dtype.replace(map.next_value::<DtypeName>()?.0).is_some(),
                EntryKey::Shape => shape.replace(map.next_value::<Dims<MAX_RANK>>()?.0).is_some(),
                EntryKey::DataOffsets => places.replace(map.next_value::<Dims<2>>()?.0).is_some(),
                EntryKey::Other => map.next_value::<IgnoredAny>().map(|_| false)?,
            };
            if twice {
                let text = format!("a key of tensor {} twice, expected once", shown(&self.0));
                return Err(de::Error::custom(text));
            }
        }
        let missing =
            |key: &str| de::Error::custom(format!("no {key} for tensor {}", shown(&self.0)));
        let places = places.ok_or_else(|| missing("data_offsets"))?;
        let [start, end] = places.as_slice() else {
            return Err(de::Error::invalid_length(places.len(), &"two data_offsets"));
        };
        let (start, end) = (*start as u64, *end as u64);
        let n_bytes = end.checked_sub(start).ok_or_else(|| {
            let name = shown(&self.0);
            de::Error::custom(format!(
                "tensor {name} from {start} to {end}, expected the end behind the start"
            ))
        })?;
        Ok(TensorInfo {
            dtype: dtype.ok_or_else(|| missing("dtype"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
            place: Place::Run { file: 0, offset: start },
            n_bytes,
            name: self.0.into(),
        })
    }
}

/// Keys of a tensor's description; what later versions of the format may add is ignored.
#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum EntryKey {
    Dtype,
    Shape,
    DataOffsets,
    #[serde(other)]
    Other,
}

struct DtypeName(Dtype);

impl<'de> de::Deserialize<'de> for DtypeName {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(DtypeVisitor)
    }
}

struct DtypeVisitor;

impl Visitor<'_> for DtypeVisitor {
    type Value = DtypeName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a type of safetensors 0.8 such as `BF16`")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<DtypeName, E> {
        let unknown = || {
            E::custom(format!(
                "type {}, expected one of safetensors 0.8 such as `BF16`",
                shown(name)
            ))
        };
        Dtype::named(name).map(DtypeName).ok_or_else(unknown)
    }
}

/// At most `N` unsigned integers.
struct Dims<const N: usize>(Vec<usize>);

impl<'de, const N: usize> de::Deserialize<'de> for Dims<N> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(DimsVisitor::<N>)
    }
}

struct DimsVisitor<const N: usize>;

impl<'de, const N: usize> Visitor<'de> for DimsVisitor<N> {
    type Value = Dims<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {N} unsigned integers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dims<N>, A::Error> {
        let mut dims = Vec::new();
        while let Some(dim) = seq.next_element()? {
            if dims.len() == N {
                return Err(de::Error::invalid_length(N.saturating_add(1), &self));
            }
            dims.push(dim);
        }
        dims.shrink_to_fit();
        Ok(Dims(dims))
    }
}
