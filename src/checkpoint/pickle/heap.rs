//! What a pickle built: values by number, so that a pickle that contains itself is freed like any
//! other.

use super::globals::{Global, Kind};
use crate::checkpoint::safetensors::{MAX_NAME, MAX_RANK};

/// A value; what is larger than a number lies in the [`Heap`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::checkpoint) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A whole number beyond 64 bits.
    LargeInt,
    Float(f64),
    Text(TextId),
    /// Bytes, of which nothing is kept.
    Bytes,
    Global(Global),
    Node(NodeId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::checkpoint) struct NodeId(pub(super) u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) struct TextId {
    pub(super) start: u32,
    pub(super) len: u32,
}

/// A container or an object that would have been made.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::checkpoint) enum Node {
    /// Also `torch.Size`.
    Tuple(Vec<Value>),
    List(Vec<Value>),
    /// In the order in which they were set.
    Dict(Vec<(Value, Value)>),
    Set,
    /// What `class(*args)` would be, with the state that would be given to it.
    Object {
        class: Global,
        args: Value,
        state: Value,
    },
    /// A reference to a storage.
    Persistent(Value),
}

/// Nodes in blocks: a vector of half a million would be copied as it grows, and end half empty.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Nodes(Vec<Vec<Node>>);

/// Nodes of one block.
const BLOCK: usize = 4096;

impl Nodes {
    pub(super) fn len(&self) -> usize {
        let last = self.0.last().map_or(0, Vec::len);
        self.0.len().saturating_sub(1).saturating_mul(BLOCK).saturating_add(last)
    }

    pub(super) fn push(&mut self, node: Node) {
        if let Some(block) = self.0.last_mut().filter(|block| block.len() < BLOCK) {
            block.push(node);
            return;
        }
        // Most pickles are small, and the first block grows with them.
        let mut block = Vec::with_capacity(if self.0.is_empty() { 1 } else { BLOCK });
        block.push(node);
        self.0.push(block);
    }

    pub(super) fn get(&self, at: usize) -> Option<&Node> {
        self.0.get(at / BLOCK)?.get(at % BLOCK)
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Node> {
        self.0.get_mut(at / BLOCK)?.get_mut(at % BLOCK)
    }
}

/// Fields of one object; those that are read have some five.
const MAX_FIELDS: usize = 64;

/// All that a pickle built.
///
/// A pickle names what it built any number of times at a few bytes each, so whoever walks over it must
/// not do at every mention what takes as long as the thing is large: texts were checked when they
/// came, and lists of sizes and fields are looked at only while they are short.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Heap {
    pub(super) nodes: Nodes,
    pub(super) text: String,
}

impl Heap {
    pub(in crate::checkpoint) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.0.iter().flatten()
    }

    pub(in crate::checkpoint) fn node(&self, value: Value) -> Option<&Node> {
        let Value::Node(NodeId(at)) = value else { return None };
        self.nodes.get(at as usize)
    }

    pub(in crate::checkpoint) fn text(&self, value: Value) -> Option<&str> {
        let Value::Text(TextId { start, len }) = value else { return None };
        let (start, len) = (start as usize, len as usize);
        self.text.get(start..start.saturating_add(len))
    }

    /// A text that can be a name: one that is long is none.
    pub(in crate::checkpoint) fn name(&self, value: Value) -> Option<&str> {
        self.text(value).filter(|text| text.len() <= MAX_NAME)
    }

    pub(in crate::checkpoint) fn tuple(&self, value: Value) -> Option<&[Value]> {
        match self.node(value)? {
            Node::Tuple(items) | Node::List(items) => Some(items),
            _ => None,
        }
    }

    pub(in crate::checkpoint) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.node(value)? {
            Node::Dict(items) => Some(items),
            _ => None,
        }
    }

    /// The last value under that key.
    pub(in crate::checkpoint) fn get(&self, dict: Value, key: &str) -> Option<Value> {
        let mut items = self.dict(dict)?.iter().rev();
        items.find(|(k, _)| self.text(*k) == Some(key)).map(|(_, value)| *value)
    }

    /// Kind, arguments and state of an object.
    pub(in crate::checkpoint) fn object(&self, value: Value) -> Option<(Kind, &[Value], Value)> {
        match self.node(value)? {
            Node::Object { class, args, state } => {
                Some((class.kind(), self.tuple(*args).unwrap_or_default(), *state))
            }
            _ => None,
        }
    }

    /// A field of an object, from the state that would be given to it.
    pub(in crate::checkpoint) fn field(&self, object: Value, name: &str) -> Option<Value> {
        let (_, _, state) = self.object(object)?;
        // Classes with slots have their fields in the second of two.
        let state = match self.tuple(state) {
            Some([_, fields]) => *fields,
            _ => state,
        };
        self.dict(state).filter(|fields| fields.len() <= MAX_FIELDS)?;
        self.get(state, name)
    }

    /// Whole numbers that are no less than 0, as many as a tensor has dimensions.
    pub(in crate::checkpoint) fn sizes(&self, value: Value) -> Option<Vec<usize>> {
        let sizes = self.tuple(value).filter(|sizes| sizes.len() <= MAX_RANK)?;
        sizes.iter().map(|item| item.size()).collect()
    }
}

impl Value {
    pub(in crate::checkpoint) fn size(self) -> Option<usize> {
        match self {
            Self::Int(n) => usize::try_from(n).ok(),
            _ => None,
        }
    }

    pub(in crate::checkpoint) fn number(self) -> Option<f64> {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "a rate or a coefficient")]
            Self::Int(n) => Some(n as f64),
            Self::Float(x) => Some(x),
            _ => None,
        }
    }
}
