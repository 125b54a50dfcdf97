//! The names in a group, as the first form of the format keeps them (a tree over a heap of names) and
//! the newer one while they are few (a message each).

use std::collections::HashSet;

use super::bytes::{Bytes, NOWHERE, malformed, number, u16_at, u64_at};
use super::object::Message;
use crate::checkpoint::one_file::Refusal;
use crate::checkpoint::safetensors::MAX_NAME;

const LINK_INFO: u16 = 0x02;
const LINK: u16 = 0x06;
const SYMBOL_TABLE: u16 = 0x11;
/// Names in one group, and bytes of all of them: the names of a table can all be one long text.
const MAX_LINKS: usize = 65_536;
const MAX_LINKS_BYTES: usize = 8 << 20;
/// Bytes of an entry of a table of symbols.
const N_SYMBOL: usize = 40;

/// Names and places of what is in a group.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) found: Vec<(String, u64)>,
    /// Whether the group keeps its names in a way that is not read.
    pub(super) is_dense: bool,
}

/// Whether an object is a group.
pub(super) fn is_group(messages: &[Message]) -> bool {
    messages.iter().any(|m| matches!(m.kind, LINK_INFO | LINK | SYMBOL_TABLE))
}

/// What is in the group with these messages.
pub(super) fn links(bytes: &mut Bytes<'_, '_>, messages: &[Message]) -> Result<Links, Refusal> {
    let mut links = Links::default();
    for message in messages {
        match message.kind {
            SYMBOL_TABLE => {
                let (tree, heap) = (u64_at(&message.data, 0), u64_at(&message.data, 8));
                tabled(bytes, tree, heap, &mut links.found)?;
            }
            LINK => links.found.extend(link(&message.data)?),
            LINK_INFO => {
                let has_order = message.data.get(1).is_some_and(|flags| flags & 1 != 0);
                let heap = u64_at(&message.data, if has_order { 10 } else { 2 });
                links.is_dense |= heap != NOWHERE;
            }
            _ => {}
        }
    }
    Ok(links)
}

/// A link to an object of the file; `None` for any other.
fn link(data: &[u8]) -> Result<Option<(String, u64)>, Refusal> {
    let broken = || malformed("found a broken link in a group, expected name and place".to_owned());
    let [1, flags, ..] = data else { return Err(broken()) };
    let has = |bit: u8| flags & bit != 0;
    let mut at = 2_usize;
    if has(8) {
        let kind = data.get(at).copied();
        at = at.saturating_add(1);
        if kind != Some(0) {
            return Ok(None);
        }
    }
    at = at.saturating_add(if has(4) { 8 } else { 0 });
    at = at.saturating_add(usize::from(has(16)));
    let n_length = 1_usize << (flags & 3);
    let n = usize::try_from(number(data, at, n_length)).unwrap_or(usize::MAX);
    let start = at.saturating_add(n_length);
    let end = start.saturating_add(n);
    let place = data.get(end..end.saturating_add(8)).ok_or_else(broken)?;
    Ok(Some((name(data.get(start..end).unwrap_or_default())?, u64_at(place, 0))))
}

fn name(bytes: &[u8]) -> Result<String, Refusal> {
    let text = std::str::from_utf8(bytes).ok();
    let text =
        text.filter(|text| !text.is_empty() && text.len() <= MAX_NAME && !text.contains('/'));
    text.map(str::to_owned)
        .ok_or_else(|| malformed("found a name in a group that can be none".to_owned()))
}

/// The names of a tree whose leaves are tables of symbols.
fn tabled(
    bytes: &mut Bytes<'_, '_>,
    tree: u64,
    heap: u64,
    found: &mut Vec<(String, u64)>,
) -> Result<(), Refusal> {
    let head = bytes.marked(heap, 32, "HEAP")?;
    let texts = bytes.read(u64_at(&head, 24), u64_at(&head, 8), "the names of a group")?;
    let mut n_left = MAX_LINKS_BYTES;
    let mut seen = HashSet::new();
    let mut nodes = vec![tree];
    while let Some(at) = nodes.pop() {
        if !seen.insert(at) {
            return Err(malformed("found a tree of names that bites its tail".to_owned()));
        }
        let front = bytes.read(at, 8, "a node of a tree")?;
        let n = u64::from(u16_at(&front, 6));
        match front.as_slice() {
            // A key stands before every child and behind the last.
            [b'T', b'R', b'E', b'E', 0, ..] => {
                let node = bytes.marked(at, n.saturating_mul(16).saturating_add(32), "TREE")?;
                let children = node.get(32..).unwrap_or_default().chunks(16);
                let children: Vec<u64> = children.map(|child| u64_at(child, 0)).collect();
                nodes.extend(children.iter().rev());
            }
            [b'S', b'N', b'O', b'D', 1, ..] => {
                let n_table = n.saturating_mul(N_SYMBOL as u64);
                let table = bytes.read(at.saturating_add(8), n_table, "a table of symbols")?;
                for symbol in table.chunks_exact(N_SYMBOL) {
                    // A symbolic link has no place of its own.
                    if number(symbol, 16, 4) == 2 {
                        continue;
                    }
                    let start = usize::try_from(u64_at(symbol, 0)).unwrap_or(usize::MAX);
                    // No further than a name can go: the heap may hold no end of it.
                    let rest = texts.get(start..).unwrap_or_default();
                    let n_most = rest.len().min(MAX_NAME.saturating_add(1));
                    let text = rest.get(..n_most).unwrap_or_default().split(|byte| *byte == 0);
                    let text = text.into_iter().next().filter(|text| text.len() < n_most);
                    let text = text.unwrap_or_default();
                    let left = n_left.checked_sub(text.len()).filter(|_| found.len() < MAX_LINKS);
                    n_left = left.ok_or_else(|| {
                        let n = found.len();
                        malformed(format!("found more than {n} names in a group, expected fewer"))
                    })?;
                    found.push((name(text)?, u64_at(symbol, 8)));
                }
            }
            _ => {
                let text = format!("found no TREE or SNOD at {at}, expected names of a group");
                return Err(malformed(text));
            }
        }
    }
    Ok(())
}
