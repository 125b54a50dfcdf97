//! Pickles as inert data: an exact list of opcodes and of globals, and nothing is ever called.
//!
//! A pickle is a program. The machine here knows the instructions that `torch.save` and
//! `pickle.dump` write for states of models, and of those that build objects it keeps the name and
//! the arguments. Whatever else a pickle asks for ends the reading with the reason.

mod globals;
mod heap;
mod input;
mod machine;
mod opcode;

pub(super) use globals::Kind;
pub(super) use heap::{Heap, Node, Value};
pub(super) use input::Input;

use super::error::OpenError;

/// How much a pickle may ask for; each bounds memory or time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Instructions that are followed.
    pub(super) opcodes: usize,
    /// Containers and objects, 40 bytes each.
    pub(super) nodes: usize,
    /// Values in all containers, 16 bytes each.
    pub(super) values: usize,
    /// Bytes of all texts.
    pub(super) text: usize,
}

impl Limits {
    /// For the states of models: some 20 thousand tensors with those of their optimiser.
    pub(super) const STATE: Self =
        Self { opcodes: 1 << 21, nodes: 1 << 18, values: 1 << 20, text: 8 << 20 };
    /// For what says where the pieces of a distributed state lie: some forty thousand of them.
    pub(super) const PLACES: Self =
        Self { opcodes: 1 << 22, nodes: 1 << 19, values: 1 << 20, text: 8 << 20 };

    /// Values on the stack, from which containers are filled a thousand at a time.
    fn stack(self) -> usize {
        self.values / 4
    }

    /// Values in the memo: objects, and less than half as many names.
    fn memo(self) -> usize {
        self.nodes.saturating_add(self.nodes / 2)
    }
}

/// Why a pickle was not read to its end.
#[derive(Debug)]
pub(super) enum PickleError {
    /// It is none, or asks for more than a state does; the words say what was found and expected.
    Refused(String),
    /// It ends early.
    Short,
    /// Its file could not be read.
    Open(OpenError),
}

/// Reads one pickle, up to and with its STOP.
pub(super) fn read(input: &mut Input<'_>, limits: Limits) -> Result<(Heap, Value), PickleError> {
    machine::Machine::new(limits).run(input)
}
