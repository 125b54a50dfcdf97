//! A dataset: shape, type, and where its elements lie.

use super::bytes::{Bytes, NOWHERE, malformed, number, u16_at, u64_at};
use super::object::Message;
use crate::checkpoint::one_file::{Refusal, n_elements};
use crate::checkpoint::place::{Coding, Place, Stored, row_major};
use crate::checkpoint::safetensors::MAX_RANK;
use crate::checkpoint::{Dtype, TensorInfo, Text};

const DATASPACE: u16 = 0x01;
const DATATYPE: u16 = 0x03;
const ELSEWHERE: u16 = 0x07;
const LAYOUT: u16 = 0x08;

/// Whether an object is a dataset.
pub(super) fn is_array(messages: &[Message]) -> bool {
    messages.iter().any(|message| message.kind == LAYOUT)
}

/// An array without its name and whether its type is a guess, or why it is left out.
pub(super) type Array = Result<(TensorInfo, bool), String>;

/// The dataset with these messages.
pub(super) fn read(bytes: &Bytes<'_, '_>, messages: &[Message]) -> Result<Array, Refusal> {
    let of = |kind| messages.iter().find(|message| message.kind == kind);
    let (Some(space), Some(kind), Some(layout)) = (of(DATASPACE), of(DATATYPE), of(LAYOUT)) else {
        return Err(malformed("found a dataset without shape, type or place".to_owned()));
    };
    if of(ELSEWHERE).is_some() {
        return Ok(Err("its elements lie in other files".to_owned()));
    }
    if space.is_shared || kind.is_shared {
        return Ok(Err("its type or shape is kept for several, which is not read".to_owned()));
    }
    let Some(shape) = shape(&space.data)? else {
        return Ok(Err("it has no elements".to_owned()));
    };
    let Some(element) = element(&kind.data) else {
        return Ok(Err("its elements are no plain numbers".to_owned()));
    };
    let (dtype, is_big, is_opaque) = element;
    let n_elements = n_elements(&shape);
    let n_bytes = n_elements.map(|n| n.saturating_mul(dtype.bits() / 8));
    let Some(n_bytes) = n_bytes else {
        return Err(malformed(format!("found a shape of {shape:?}, expected fewer elements")));
    };
    let (at, n_stored) = match place(layout) {
        Ok(place) => place,
        Err(why) => return Ok(Err(why)),
    };
    if n_stored != n_bytes {
        let text = format!("found {n_stored} bytes of shape {shape:?}, expected {n_bytes}");
        return Err(malformed(text));
    }
    if at.checked_add(n_bytes).is_none_or(|end| end > bytes.size) {
        let text =
            format!("found elements at {at}, expected {n_bytes} bytes within {}", bytes.size);
        return Err(malformed(text));
    }
    let coding = if is_big { Coding::Big } else { Coding::Little };
    let stored = Stored { file: 0, offset: bytes.in_file(at), n_bytes, coding };
    let place = Place::strided(&shape, &row_major(&shape), stored);
    Ok(Ok((TensorInfo { name: Text::default(), dtype, shape, place, n_bytes }, is_opaque)))
}

/// Dimensions; none of a dataset that is declared to hold nothing.
fn shape(data: &[u8]) -> Result<Option<Vec<usize>>, Refusal> {
    let broken = || malformed("found a broken shape of a dataset, expected dimensions".to_owned());
    let (rank, start) = match data {
        [1, rank, ..] => (usize::from(*rank), 8),
        [2, _, _, 2, ..] => return Ok(None),
        [2, rank, ..] => (usize::from(*rank), 4_usize),
        _ => return Err(broken()),
    };
    let end = start.saturating_add(rank.saturating_mul(8));
    let dims = data.get(start..end).filter(|_| rank <= MAX_RANK).ok_or_else(broken)?;
    let dims = dims.chunks(8).map(|dim| usize::try_from(u64_at(dim, 0)).ok());
    dims.collect::<Option<_>>().map(Some).ok_or_else(broken)
}

/// Type, whether the most significant byte stands first, and whether it is a run of bytes.
fn element(data: &[u8]) -> Option<(Dtype, bool, bool)> {
    let class = data.first()? & 0x0f;
    let flags = *data.get(1)?;
    let size = number(data, 4, 4);
    let is_big = flags & 1 != 0 && size > 1;
    let dtype = match class {
        0 => {
            let whole = (u16_at(data, 8), u64::from(u16_at(data, 10))) == (0, size.checked_mul(8)?);
            match (size, flags & 8 != 0) {
                _ if !whole => return None,
                (1, true) => Dtype::Other("I8"),
                (2, true) => Dtype::Other("I16"),
                (4, true) => Dtype::Other("I32"),
                (8, true) => Dtype::Other("I64"),
                (1, false) => Dtype::Other("U8"),
                (2, false) => Dtype::Other("U16"),
                (4, false) => Dtype::Other("U32"),
                (8, false) => Dtype::Other("U64"),
                _ => return None,
            }
        }
        // Place and width of exponent and fraction, and the bias.
        1 => match (size, data.get(8..20)?) {
            (2, [0, 0, 16, 0, 10, 5, 0, 10, 15, 0, 0, 0]) => Dtype::F16,
            (2, [0, 0, 16, 0, 7, 8, 0, 7, 127, 0, 0, 0]) => Dtype::BF16,
            (4, [0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0]) => Dtype::F32,
            (8, [0, 0, 64, 0, 52, 11, 0, 52, 255, 3, 0, 0]) => Dtype::F64,
            _ => return None,
        },
        // Keras writes its bfloat16 so.
        5 if size == 2 => return Some((Dtype::BF16, false, true)),
        // A truth value of h5py is one of two names.
        8 if size == 1 => return Some((Dtype::Other("BOOL"), false, false)),
        _ => return None,
    };
    Some((dtype, is_big, false))
}

/// First byte and length, or why it has no such.
fn place(layout: &Message) -> Result<(u64, u64), String> {
    let data = layout.data.as_slice();
    match data {
        [3 | 4, 0, ..] => Ok((layout.at.saturating_add(4), u16_at(data, 2).into())),
        [3 | 4, 1, ..] => match u64_at(data, 2) {
            NOWHERE => Err("nothing was written there yet".to_owned()),
            at => Ok((at, u64_at(data, 10))),
        },
        [3 | 4, 2, ..] => {
            Err("it is kept in chunks, where arrays in one piece are read".to_owned())
        }
        _ => Err("it lies in a way that is not read".to_owned()),
    }
}
