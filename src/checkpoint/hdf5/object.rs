//! The header of an object: messages, in one block or several.

use super::bytes::{Bytes, malformed, number, u16_at, u64_at};
use crate::checkpoint::one_file::Refusal;

/// Blocks of one header, and its messages.
const MAX_BLOCKS: usize = 64;
const MAX_MESSAGES: usize = 16_384;
/// Bytes of all blocks of one header.
const MAX_BYTES: u64 = 4 << 20;
/// Bytes of all that can stand in front of the messages.
const N_FRONT: u64 = 40;
/// Kind of the message that names a further block.
const CONTINUATION: u16 = 0x10;

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: u16,
    /// Whether it stands elsewhere, for several objects.
    pub(super) is_shared: bool,
    /// Where its data lies.
    pub(super) at: u64,
    pub(super) data: Vec<u8>,
}

/// All messages of the object there.
pub(super) fn read(bytes: &mut Bytes<'_, '_>, at: u64) -> Result<Vec<Message>, Refusal> {
    let n_front = bytes.size.saturating_sub(at).clamp(16, N_FRONT);
    let front = bytes.read(at, n_front, "an object header")?;
    let later = front.starts_with(b"OHDR");
    let (form, first) = if later { modern(&front, at)? } else { classic(&front, at)? };
    let mut blocks = vec![first];
    let mut messages = Vec::new();
    let mut n_done = 0;
    while let Some(&(at, n)) = blocks.get(n_done) {
        n_done = n_done.saturating_add(1);
        let block = bytes.read(at, n, "a part of an object header")?;
        let content = match (later, n_done) {
            // Behind the mark, before the check sum.
            (true, 2..) if block.starts_with(b"OCHK") => 4..block.len().saturating_sub(4),
            (true, 2..) => {
                return Err(malformed(format!("found no OCHK at {at}, expected more of a header")));
            }
            _ => 0..block.len(),
        };
        let n_before = content.start;
        let content = block.get(content).unwrap_or_default();
        let n_known = messages.len();
        form.split(content, at.saturating_add(n_before as u64), &mut messages)?;
        let fresh = messages.iter().skip(n_known);
        for message in fresh.filter(|message| message.kind == CONTINUATION) {
            let further = (u64_at(&message.data, 0), u64_at(&message.data, 8));
            if !blocks.contains(&further) {
                blocks.push(further);
            }
        }
        let n_bytes = blocks.iter().fold(0_u64, |sum, (_, n)| sum.saturating_add(*n));
        if blocks.len() > MAX_BLOCKS || messages.len() > MAX_MESSAGES || n_bytes > MAX_BYTES {
            let n = blocks.len();
            let text =
                format!("found an object header of {n_bytes} bytes in {n} parts, expected fewer");
            return Err(malformed(text));
        }
    }
    Ok(messages)
}

/// How messages stand in a block.
struct Form {
    /// Bytes of kind, of all in front of the data, and where the size and the flags stand.
    n_kind: usize,
    n_front: usize,
    at_size: usize,
    at_flags: usize,
}

/// A place and a length.
type Block = (u64, u64);

fn classic(front: &[u8], at: u64) -> Result<(Form, Block), Refusal> {
    if front.first() != Some(&1) {
        return Err(malformed(format!("found no object header at {at}, expected one")));
    }
    let form = Form { n_kind: 2, n_front: 8, at_size: 2, at_flags: 4 };
    Ok((form, (at.saturating_add(16), number(front, 8, 4))))
}

fn modern(front: &[u8], at: u64) -> Result<(Form, Block), Refusal> {
    let flags = front.get(5).copied().unwrap_or(0);
    if front.get(4) != Some(&2) {
        return Err(malformed(format!("found an object header of another version at {at}")));
    }
    let n_times = if flags & 0x20 == 0 { 0 } else { 16_u64 };
    let n_limits = if flags & 0x10 == 0 { 0 } else { 4_u64 };
    let n_size = 1_u64 << (flags & 3);
    let n_order = if flags & 4 == 0 { 0 } else { 2 };
    let form =
        Form { n_kind: 1, n_front: 4_usize.saturating_add(n_order), at_size: 1, at_flags: 3 };
    let at_size = 6_u64.saturating_add(n_times).saturating_add(n_limits);
    let start = at.saturating_add(at_size).saturating_add(n_size);
    let place = usize::try_from(at_size).unwrap_or(0);
    let size = number(front, place, usize::try_from(n_size).unwrap_or(0));
    Ok((form, (start, size)))
}

impl Form {
    fn split(&self, block: &[u8], at: u64, into: &mut Vec<Message>) -> Result<(), Refusal> {
        let mut place = 0_usize;
        loop {
            let rest = block.get(place..).unwrap_or_default();
            // What is left at the end may be too short for a message.
            if rest.len() < self.n_front || into.len() > MAX_MESSAGES {
                return Ok(());
            }
            let kind = u16::try_from(number(rest, 0, self.n_kind)).unwrap_or(0);
            let n = usize::from(u16_at(rest, self.at_size));
            let is_shared = rest.get(self.at_flags).is_some_and(|flags| flags & 2 != 0);
            let end = self.n_front.saturating_add(n);
            let Some(data) = rest.get(self.n_front..end) else {
                return Err(malformed(format!(
                    "found a message of {n} bytes in the object header at {at}, expected {}",
                    rest.len().saturating_sub(self.n_front)
                )));
            };
            let data_at = at.saturating_add(place.saturating_add(self.n_front) as u64);
            into.push(Message { kind, is_shared, at: data_at, data: data.to_vec() });
            place = place.saturating_add(end);
        }
    }
}
