//! The element types of GGUF: numbers, names, and how many bytes a block of so many elements takes.

use super::super::Dtype;

/// A type of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) id: u32,
    pub(super) dtype: Dtype,
    /// Elements and bytes of a block.
    pub(super) n_elements: u64,
    pub(super) n_bytes: u64,
}

/// Number of the type that is read although it is quantised.
pub(super) const Q8_0: u32 = 8;

const fn of(id: u32, dtype: Dtype, n_elements: u64, n_bytes: u64) -> Type {
    Type { id, dtype, n_elements, n_bytes }
}

const fn only_listed(id: u32, name: &'static str, n_elements: u64, n_bytes: u64) -> Type {
    of(id, Dtype::Other(name), n_elements, n_bytes)
}

/// The types of ggml in 2026, as `GGML_QUANT_SIZES` of its Python package has them.
const TYPES: [Type; 34] = [
    of(0, Dtype::F32, 1, 4),
    of(1, Dtype::F16, 1, 2),
    only_listed(2, "Q4_0", 32, 18),
    only_listed(3, "Q4_1", 32, 20),
    only_listed(6, "Q5_0", 32, 22),
    only_listed(7, "Q5_1", 32, 24),
    of(Q8_0, Dtype::F32, 32, 34),
    only_listed(10, "Q2_K", 256, 84),
    only_listed(11, "Q3_K", 256, 110),
    only_listed(12, "Q4_K", 256, 144),
    only_listed(13, "Q5_K", 256, 176),
    only_listed(14, "Q6_K", 256, 210),
    only_listed(15, "Q8_K", 256, 292),
    only_listed(16, "IQ2_XXS", 256, 66),
    only_listed(17, "IQ2_XS", 256, 74),
    only_listed(18, "IQ3_XXS", 256, 98),
    only_listed(19, "IQ1_S", 256, 50),
    only_listed(20, "IQ4_NL", 32, 18),
    only_listed(21, "IQ3_S", 256, 110),
    only_listed(22, "IQ2_S", 256, 82),
    only_listed(23, "IQ4_XS", 256, 136),
    only_listed(24, "I8", 1, 1),
    only_listed(25, "I16", 1, 2),
    only_listed(26, "I32", 1, 4),
    only_listed(27, "I64", 1, 8),
    of(28, Dtype::F64, 1, 8),
    only_listed(29, "IQ1_M", 256, 56),
    of(30, Dtype::BF16, 1, 2),
    only_listed(34, "TQ1_0", 256, 54),
    only_listed(35, "TQ2_0", 256, 66),
    only_listed(39, "MXFP4", 32, 17),
    only_listed(40, "NVFP4", 64, 36),
    only_listed(41, "Q1_0", 128, 18),
    // Never seen in a file; ggml uses it while it multiplies.
    only_listed(9, "Q8_1", 32, 36),
];

/// The type with that number.
pub(super) fn numbered(id: u32) -> Option<Type> {
    TYPES.into_iter().find(|of| of.id == id)
}

impl Type {
    /// Bytes of rows of that many elements; `None` where a row is no whole number of blocks.
    pub(super) fn size(self, row: u64, n_elements: u64) -> Option<u64> {
        let blocks = |n: u64| n.checked_div(self.n_elements);
        let is_whole = row.checked_rem(self.n_elements) == Some(0);
        blocks(n_elements).filter(|_| is_whole)?.checked_mul(self.n_bytes)
    }
}
