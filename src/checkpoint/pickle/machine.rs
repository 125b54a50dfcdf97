//! The stack machine.

use super::globals::{Global, Kind};
use super::heap::{Heap, Node, NodeId, TextId, Value};
use super::input::Input;
use super::opcode::Opcode;
use super::{Limits, PickleError};
use crate::checkpoint::error::{one_line, shown};

/// Newest protocol.
const MAX_PROTOCOL: u8 = 5;
/// Bytes of the two names of a global.
const MAX_GLOBAL: usize = 512;

pub(super) struct Machine {
    limits: Limits,
    heap: Heap,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: Vec<Value>,
    /// Values in containers.
    n_kept: usize,
    /// The empty tuple.
    empty: Option<Value>,
}

type Done = Result<(), PickleError>;

fn refused(text: &str) -> PickleError {
    PickleError::Refused(text.to_owned())
}

fn malformed() -> PickleError {
    refused("found a pickle whose instructions do not fit one another")
}

impl Machine {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            heap: Heap::default(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
            n_kept: 0,
            empty: None,
        }
    }

    pub(super) fn run(mut self, input: &mut Input<'_>) -> Result<(Heap, Value), PickleError> {
        for _ in 0..self.limits.opcodes {
            let byte = input.byte()?;
            let Some(opcode) = Opcode::of(byte) else {
                let text = format!(
                    "found pickle instruction {byte:#04x}, expected those of a state of tensors"
                );
                return Err(PickleError::Refused(text));
            };
            if opcode == Opcode::Stop {
                let value = self.pop()?;
                return Ok((self.heap, value));
            }
            self.step(opcode, input)?;
        }
        let text = format!("found more than {} instructions, expected fewer", self.limits.opcodes);
        Err(PickleError::Refused(text))
    }

    fn step(&mut self, opcode: Opcode, input: &mut Input<'_>) -> Done {
        match opcode {
            Opcode::Proto => match input.byte()? {
                0..=MAX_PROTOCOL => Ok(()),
                n => Err(PickleError::Refused(format!(
                    "found pickle protocol {n}, expected at most {MAX_PROTOCOL}"
                ))),
            },
            Opcode::Frame => input.bytes::<8>().map(drop),
            Opcode::Stop => Ok(()),
            Opcode::Mark => {
                Self::bounded(self.marks.len(), self.limits.stack())?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            Opcode::Pop => self.pop().map(drop),
            Opcode::PopMark => self.pop_mark().map(drop),
            Opcode::None => self.push(Value::None),
            Opcode::NewTrue => self.push(Value::Bool(true)),
            Opcode::NewFalse => self.push(Value::Bool(false)),
            Opcode::BinInt
            | Opcode::BinInt1
            | Opcode::BinInt2
            | Opcode::Long1
            | Opcode::Long4
            | Opcode::BinFloat => self.push_number(opcode, input),
            Opcode::BinUnicode
            | Opcode::BinUnicode8
            | Opcode::ShortBinUnicode
            | Opcode::BinString
            | Opcode::ShortBinString
            | Opcode::BinBytes
            | Opcode::BinBytes8
            | Opcode::ShortBinBytes => self.push_text(opcode, input),
            Opcode::BinPut
            | Opcode::LongBinPut
            | Opcode::Memoize
            | Opcode::BinGet
            | Opcode::LongBinGet => self.memo(opcode, input),
            Opcode::Global | Opcode::StackGlobal => self.push_global(opcode, input),
            Opcode::BinPersid => {
                let id = self.pop()?;
                self.push_node(Node::Persistent(id))
            }
            Opcode::Reduce | Opcode::NewObj | Opcode::NewObjEx | Opcode::Build => {
                self.object(opcode)
            }
            _ => self.container(opcode),
        }
    }

    /// One more than `n` must be within the bound.
    fn bounded(n: usize, bound: usize) -> Done {
        if n >= bound {
            let text = format!("found more than {bound} values, expected fewer");
            return Err(PickleError::Refused(text));
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> Done {
        Self::bounded(self.stack.len(), self.limits.stack())?;
        self.stack.push(value);
        Ok(())
    }

    fn push_node(&mut self, node: Node) -> Done {
        let n_nodes = self.heap.nodes.len();
        if n_nodes >= self.limits.nodes {
            let text = format!("found more than {n_nodes} objects, expected fewer");
            return Err(PickleError::Refused(text));
        }
        self.heap.nodes.push(node);
        self.push(Value::Node(NodeId(u32::try_from(n_nodes).unwrap_or(u32::MAX))))
    }

    /// The top of the stack, above the last mark.
    fn pop(&mut self) -> Result<Value, PickleError> {
        if self.marks.last().is_some_and(|mark| self.stack.len() <= *mark) {
            return Err(malformed());
        }
        self.stack.pop().ok_or_else(malformed)
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, PickleError> {
        let mark = self.marks.pop().ok_or_else(malformed)?;
        if mark > self.stack.len() {
            return Err(malformed());
        }
        Ok(self.stack.split_off(mark))
    }

    fn push_number(&mut self, opcode: Opcode, input: &mut Input<'_>) -> Done {
        let value = match opcode {
            Opcode::BinInt1 => Value::Int(input.byte()?.into()),
            Opcode::BinInt2 => Value::Int(u16::from_le_bytes(input.bytes()?).into()),
            Opcode::BinInt => Value::Int(i32::from_le_bytes(input.bytes()?).into()),
            Opcode::BinFloat => Value::Float(f64::from_be_bytes(input.bytes()?)),
            Opcode::Long1 => long(input.byte()?.into(), input)?,
            _ => long(u32::from_le_bytes(input.bytes()?).into(), input)?,
        };
        self.push(value)
    }

    fn push_text(&mut self, opcode: Opcode, input: &mut Input<'_>) -> Done {
        let n: u64 = match opcode {
            Opcode::ShortBinUnicode | Opcode::ShortBinString | Opcode::ShortBinBytes => {
                input.byte()?.into()
            }
            Opcode::BinUnicode8 | Opcode::BinBytes8 => u64::from_le_bytes(input.bytes()?),
            _ => u32::from_le_bytes(input.bytes()?).into(),
        };
        if matches!(opcode, Opcode::BinBytes | Opcode::BinBytes8 | Opcode::ShortBinBytes) {
            input.take(n, None)?;
            return self.push(Value::Bytes);
        }
        let start = self.heap.text.len();
        let len = usize::try_from(n).unwrap_or(usize::MAX);
        if start.saturating_add(len) > self.limits.text {
            let text = format!("found more than {} bytes of text", self.limits.text);
            return Err(PickleError::Refused(text));
        }
        let mut bytes = Vec::new();
        input.take(n, Some(&mut bytes))?;
        // Python 2 kept bytes in its texts.
        let Ok(text) = std::str::from_utf8(&bytes) else { return self.push(Value::Bytes) };
        self.heap.text.push_str(text);
        let (start, len) = (u32::try_from(start), u32::try_from(len));
        let (Ok(start), Ok(len)) = (start, len) else { return Err(malformed()) };
        self.push(Value::Text(TextId { start, len }))
    }

    fn memo(&mut self, opcode: Opcode, input: &mut Input<'_>) -> Done {
        let at = match opcode {
            Opcode::BinPut | Opcode::BinGet => input.byte()?.into(),
            Opcode::Memoize => self.memo.len(),
            _ => u32::from_le_bytes(input.bytes()?) as usize,
        };
        if matches!(opcode, Opcode::BinGet | Opcode::LongBinGet) {
            let value = self.memo.get(at).copied().ok_or_else(malformed)?;
            return self.push(value);
        }
        Self::bounded(at, self.limits.memo())?;
        let top = *self.stack.last().ok_or_else(malformed)?;
        if at >= self.memo.len() {
            self.memo.resize(at.saturating_add(1), Value::None);
        }
        if let Some(place) = self.memo.get_mut(at) {
            *place = top;
        }
        Ok(())
    }

    fn push_global(&mut self, opcode: Opcode, input: &mut Input<'_>) -> Done {
        let (module, name) = if opcode == Opcode::Global {
            let mut line = || {
                let line = input.line(MAX_GLOBAL)?;
                String::from_utf8(line).map_err(|_| malformed())
            };
            (line()?, line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            let text = |value| self.heap.text(value).map(str::to_owned).ok_or_else(malformed);
            (text(module)?, text(name)?)
        };
        let Some(global) = Global::named(&module, &name) else {
            let full = one_line(&format!("{module}.{name}"));
            let text = format!(
                "found a pickle that asks for {}, which no state_dict() needs (pickled objects are not read)",
                shown(&full)
            );
            return Err(PickleError::Refused(text));
        };
        self.push(Value::Global(global))
    }

    fn object(&mut self, opcode: Opcode) -> Done {
        if opcode == Opcode::Build {
            let state = self.pop()?;
            let Some(Value::Node(NodeId(at))) = self.stack.last() else { return Err(malformed()) };
            // What a dictionary carries beside its items is of no interest.
            if let Some(Node::Object { state: place, .. }) = self.heap.nodes.get_mut(*at as usize) {
                *place = state;
            }
            return Ok(());
        }
        if opcode == Opcode::NewObjEx {
            self.pop()?;
        }
        let (args, class) = (self.pop()?, self.pop()?);
        let Value::Global(class) = class else {
            return Err(refused("found a call of something that has no name"));
        };
        let Some(Node::Tuple(items)) = self.heap.node(args) else { return Err(malformed()) };
        match (class.kind(), items.as_slice()) {
            (Kind::Dict, [first]) if self.heap.dict(*first).is_some() => {
                let items = self.heap.dict(*first).map(<[_]>::to_vec).unwrap_or_default();
                self.keep(items.len().saturating_mul(2))?;
                self.push_node(Node::Dict(items))
            }
            (Kind::Dict, _) => self.push_node(Node::Dict(Vec::new())),
            (Kind::Set, _) => self.push_node(Node::Set),
            (Kind::Size, [sizes]) => {
                let sizes = *sizes;
                self.push(sizes)
            }
            (Kind::Size, _) => self.push(args),
            _ => self.push_node(Node::Object { class, args, state: Value::None }),
        }
    }

    /// Counts values that go into containers.
    fn keep(&mut self, n: usize) -> Done {
        self.n_kept = self.n_kept.saturating_add(n);
        Self::bounded(self.n_kept, self.limits.values)
    }

    fn container(&mut self, opcode: Opcode) -> Done {
        match opcode {
            Opcode::EmptyTuple => {
                // It cannot be changed, so one will do.
                if let Some(empty) = self.empty {
                    return self.push(empty);
                }
                self.push_node(Node::Tuple(Vec::new()))?;
                self.empty = self.stack.last().copied();
                Ok(())
            }
            Opcode::EmptyList => self.push_node(Node::List(Vec::new())),
            Opcode::EmptyDict => self.push_node(Node::Dict(Vec::new())),
            Opcode::EmptySet => self.push_node(Node::Set),
            Opcode::FrozenSet => {
                self.pop_mark()?;
                self.push_node(Node::Set)
            }
            Opcode::Tuple1 | Opcode::Tuple2 | Opcode::Tuple3 => {
                let n = match opcode {
                    Opcode::Tuple1 => 1,
                    Opcode::Tuple2 => 2,
                    _ => 3,
                };
                let mut items = Vec::with_capacity(n);
                for _ in 0..n {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.keep(n)?;
                self.push_node(Node::Tuple(items))
            }
            Opcode::Tuple | Opcode::List => {
                let items = self.pop_mark()?;
                self.keep(items.len())?;
                let is_list = opcode == Opcode::List;
                self.push_node(if is_list { Node::List(items) } else { Node::Tuple(items) })
            }
            Opcode::Dict => {
                let items = self.pop_mark()?;
                self.keep(items.len())?;
                let items = pairs(&items)?;
                self.push_node(Node::Dict(items))
            }
            Opcode::Append => {
                let item = self.pop()?;
                self.extend(vec![item])
            }
            Opcode::Appends | Opcode::AddItems => {
                let items = self.pop_mark()?;
                self.extend(items)
            }
            Opcode::SetItem => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend(vec![key, value])
            }
            _ => {
                let items = self.pop_mark()?;
                if !items.len().is_multiple_of(2) {
                    return Err(malformed());
                }
                self.extend(items)
            }
        }
    }

    /// Adds to the container on top of the stack; keys and values by turns where it is a dictionary.
    fn extend(&mut self, items: Vec<Value>) -> Done {
        self.keep(items.len())?;
        let Some(Value::Node(NodeId(at))) = self.stack.last() else { return Err(malformed()) };
        match self.heap.nodes.get_mut(*at as usize) {
            // Most are filled in one go: then without room for more.
            Some(Node::List(list)) if list.is_empty() => *list = items,
            Some(Node::List(list)) => list.extend(items),
            Some(Node::Dict(dict)) if dict.is_empty() => *dict = pairs(&items)?,
            Some(Node::Dict(dict)) => dict.extend(pairs(&items)?),
            // Items of a set or of an object of a class of its own are of no interest.
            Some(Node::Set | Node::Object { .. }) => {}
            _ => return Err(malformed()),
        }
        Ok(())
    }
}

fn pairs(items: &[Value]) -> Result<Vec<(Value, Value)>, PickleError> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(malformed());
    }
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

/// A whole number of so many bytes, little-endian two's complement.
fn long(n: u64, input: &mut Input<'_>) -> Result<Value, PickleError> {
    if n > 8 {
        input.take(n, None)?;
        return Ok(Value::LargeInt);
    }
    let mut bytes = Vec::new();
    input.take(n, Some(&mut bytes))?;
    let fill = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    bytes.resize(8, fill);
    Ok(bytes.first_chunk().map_or(Value::LargeInt, |bytes| Value::Int(i64::from_le_bytes(*bytes))))
}
