//! The instructions that are followed; all others end the reading.

/// An instruction, as the `pickle` module of Python names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Append,
    Appends,
    AddItems,
    BinBytes,
    BinBytes8,
    BinFloat,
    BinGet,
    BinInt,
    BinInt1,
    BinInt2,
    BinPersid,
    BinPut,
    BinString,
    BinUnicode,
    BinUnicode8,
    Build,
    Dict,
    EmptyDict,
    EmptyList,
    EmptySet,
    EmptyTuple,
    Frame,
    FrozenSet,
    Global,
    List,
    Long1,
    Long4,
    LongBinGet,
    LongBinPut,
    Mark,
    Memoize,
    NewFalse,
    NewObj,
    NewObjEx,
    NewTrue,
    None,
    Pop,
    PopMark,
    Proto,
    Reduce,
    SetItem,
    SetItems,
    ShortBinBytes,
    ShortBinString,
    ShortBinUnicode,
    StackGlobal,
    Stop,
    Tuple,
    Tuple1,
    Tuple2,
    Tuple3,
}

/// Every instruction that is followed, with its byte.
pub(super) const OPCODES: [(u8, Opcode); 51] = [
    (b'a', Opcode::Append),
    (b'e', Opcode::Appends),
    (0x90, Opcode::AddItems),
    (b'B', Opcode::BinBytes),
    (0x8e, Opcode::BinBytes8),
    (b'G', Opcode::BinFloat),
    (b'h', Opcode::BinGet),
    (b'J', Opcode::BinInt),
    (b'K', Opcode::BinInt1),
    (b'M', Opcode::BinInt2),
    (b'Q', Opcode::BinPersid),
    (b'q', Opcode::BinPut),
    (b'T', Opcode::BinString),
    (b'X', Opcode::BinUnicode),
    (0x8d, Opcode::BinUnicode8),
    (b'b', Opcode::Build),
    (b'd', Opcode::Dict),
    (b'}', Opcode::EmptyDict),
    (b']', Opcode::EmptyList),
    (0x8f, Opcode::EmptySet),
    (b')', Opcode::EmptyTuple),
    (0x95, Opcode::Frame),
    (0x91, Opcode::FrozenSet),
    (b'c', Opcode::Global),
    (b'l', Opcode::List),
    (0x8a, Opcode::Long1),
    (0x8b, Opcode::Long4),
    (b'j', Opcode::LongBinGet),
    (b'r', Opcode::LongBinPut),
    (b'(', Opcode::Mark),
    (0x94, Opcode::Memoize),
    (0x89, Opcode::NewFalse),
    (0x81, Opcode::NewObj),
    (0x92, Opcode::NewObjEx),
    (0x88, Opcode::NewTrue),
    (b'N', Opcode::None),
    (b'0', Opcode::Pop),
    (b'1', Opcode::PopMark),
    (0x80, Opcode::Proto),
    (b'R', Opcode::Reduce),
    (b's', Opcode::SetItem),
    (b'u', Opcode::SetItems),
    (b'C', Opcode::ShortBinBytes),
    (b'U', Opcode::ShortBinString),
    (0x8c, Opcode::ShortBinUnicode),
    (0x93, Opcode::StackGlobal),
    (b'.', Opcode::Stop),
    (b't', Opcode::Tuple),
    (0x85, Opcode::Tuple1),
    (0x86, Opcode::Tuple2),
    (0x87, Opcode::Tuple3),
];

/// The instruction of every byte.
const BY_BYTE: [Option<Opcode>; 256] = by_byte();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated when built"
)]
const fn by_byte() -> [Option<Opcode>; 256] {
    let mut table = [None; 256];
    let mut at = 0;
    while at < OPCODES.len() {
        table[OPCODES[at].0 as usize] = Some(OPCODES[at].1);
        at += 1;
    }
    table
}

impl Opcode {
    pub(super) fn of(byte: u8) -> Option<Self> {
        BY_BYTE.get(usize::from(byte)).copied().flatten()
    }
}
