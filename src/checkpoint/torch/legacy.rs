//! The format before PyTorch 1.6: five pickles one after another, then the storages.

use std::collections::HashMap;

use super::tensor::storages_of;
use super::{Saved, Storages, TorchError};
use crate::checkpoint::fill::Fill;
use crate::checkpoint::pickle::{self, Heap, Input, Limits, Value};

/// The only protocol there was.
const PROTOCOL: i64 = 1001;
/// How the first pickle begins: protocol 2, then a whole number of ten bytes, `torch`'s mark.
const START: [u8; 15] =
    [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];

/// Bounds for the four pickles that say little.
const LITTLE: Limits = Limits { opcodes: 1000, nodes: 1000, values: 1000, text: 4096 };

pub(super) fn read(fill: &mut Fill<'_>, start: u64, end: u64) -> Result<Saved, TorchError> {
    let mut input = Input::new(fill, start, end);
    let mark: [u8; 15] = if input.n_left() < 15 {
        let short = "found fewer bytes than a file of torch.save has, expected more";
        return Err(TorchError::Short(short.to_owned()));
    } else {
        input.bytes()?
    };
    if mark != START {
        let [first, ..] = mark;
        return Err(TorchError::NotWeights(if first == 0x80 {
            "a pickle that torch.save did not write".to_owned()
        } else {
            "no file that torch.save wrote".to_owned()
        }));
    }
    let (_, protocol) = pickle::read(&mut input, LITTLE)?;
    if protocol != Value::Int(PROTOCOL) {
        return Err(TorchError::NotWeights("an unknown protocol of torch.save".to_owned()));
    }
    let (system, of_system) = pickle::read(&mut input, LITTLE)?;
    let is_big = system.get(of_system, "little_endian") == Some(Value::Bool(false));
    let (heap, root) = pickle::read(&mut input, Limits::STATE)?;
    let keys = pickle::read(&mut input, Limits::STATE)?;
    let places = places(&mut input, &heap, keys)?;
    if input.n_left() > 0 {
        return Err(TorchError::Malformed(format!(
            "found {} bytes behind the last storage, expected none",
            input.n_left()
        )));
    }
    Ok(Saved { heap, root, storages: Storages { places, is_big } })
}

/// Walks over the storages in the order of their keys; each begins with its number of elements.
fn places(
    input: &mut Input<'_>,
    heap: &Heap,
    (list, keys): (Heap, Value),
) -> Result<HashMap<String, (u64, u64)>, TorchError> {
    let stated: HashMap<&str, (u64, u64)> = storages_of(heap);
    let malformed = |text: &str| TorchError::Malformed(text.to_owned());
    let mut places = HashMap::new();
    let keys = list.tuple(keys).ok_or_else(|| malformed("found no list of storages"))?;
    for key in keys {
        let key = list.name(*key).ok_or_else(|| malformed("found a storage without a key"))?;
        let (n_elements, width) = *stated
            .get(key)
            .ok_or_else(|| malformed("found a storage that no tensor names, expected none"))?;
        let short = || TorchError::Short("found no end of the storages, expected it".to_owned());
        if input.n_left() < 8 {
            return Err(short());
        }
        let n_found = u64::from_le_bytes(input.bytes()?);
        if n_found != n_elements {
            return Err(TorchError::Malformed(format!(
                "found a storage of {n_found} elements, expected {n_elements} as its tensors say"
            )));
        }
        let n_bytes = n_elements.saturating_mul(width);
        if input.n_left() < n_bytes {
            return Err(short());
        }
        let at = input.position();
        if places.insert(key.to_owned(), (at, n_bytes)).is_some() {
            return Err(malformed("found a storage twice, expected it once"));
        }
        input.skip_to(at.saturating_add(n_bytes));
    }
    Ok(places)
}
