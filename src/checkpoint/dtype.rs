//! Element types of the format.

/// How one tensor element is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// 8-bit float, 4 exponent bits (`float8_e4m3fn`: no infinity, NaN at `0x7f` and `0xff`).
    F8E4M3,
    /// 8-bit float, 5 exponent bits.
    F8E5M2,
    /// Any other type of the format (integers, booleans, sub-byte floats), by its name there; its
    /// tensors are listed and left out of the diagnostics.
    Other(&'static str),
}

/// The one type here that safetensors has not.
const TORCH_ONLY: Dtype = Dtype::Other("C128");
/// Every type of safetensors 0.8 with its width in bits, and that of `PyTorch`.
const KNOWN: [(Dtype, u64); 23] = [
    (Dtype::F64, 64),
    (Dtype::F32, 32),
    (Dtype::F16, 16),
    (Dtype::BF16, 16),
    (Dtype::F8E4M3, 8),
    (Dtype::F8E5M2, 8),
    (Dtype::Other("BOOL"), 8),
    (Dtype::Other("F4"), 4),
    (Dtype::Other("F6_E2M3"), 6),
    (Dtype::Other("F6_E3M2"), 6),
    (Dtype::Other("U8"), 8),
    (Dtype::Other("I8"), 8),
    (Dtype::Other("F8_E8M0"), 8),
    (Dtype::Other("F8_E4M3FNUZ"), 8),
    (Dtype::Other("F8_E5M2FNUZ"), 8),
    (Dtype::Other("I16"), 16),
    (Dtype::Other("U16"), 16),
    (Dtype::Other("I32"), 32),
    (Dtype::Other("U32"), 32),
    (Dtype::Other("C64"), 64),
    (TORCH_ONLY, 128),
    (Dtype::Other("I64"), 64),
    (Dtype::Other("U64"), 64),
];

impl Dtype {
    /// The type with that name in a safetensors header; names are upper case.
    pub(super) fn named(name: &str) -> Option<Self> {
        let mut known = KNOWN.iter().map(|(dtype, _)| *dtype).filter(|dtype| *dtype != TORCH_ONLY);
        known.find(|dtype| dtype.name() == name)
    }

    /// Its name in a safetensors header (`BF16`).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::Other(name) => name,
        }
    }

    /// Width of one element in bits, 4 to 128; 0 for an `Other` that the format does not know.
    #[must_use]
    pub fn bits(self) -> u64 {
        KNOWN.iter().find(|(dtype, _)| *dtype == self).map_or(0, |(_, bits)| *bits)
    }

    /// Width of one element in bytes, 1 to 8; 0 where [`Dtype::is_float`] is false.
    #[must_use]
    pub fn n_bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::Other(_) => 0,
        }
    }

    /// Whether its tensors can be read as `f32` values.
    #[must_use]
    pub fn is_float(self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// Relative spacing of neighbouring values just above 1 (`2^-(p-1)` for `p` significant bits),
    /// the grain of the rounding noise that storage adds to weights; none where
    /// [`Dtype::is_float`] is false.
    #[must_use]
    pub fn storage_eps(self) -> Option<f64> {
        let exponent = match self {
            Self::F64 => -52,
            Self::F32 => -23,
            Self::F16 => -10,
            Self::BF16 => -7,
            Self::F8E4M3 => -3,
            Self::F8E5M2 => -2,
            Self::Other(_) => return None,
        };
        Some(2f64.powi(exponent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_types() {
        for (dtype, bits) in KNOWN {
            assert_eq!(Dtype::named(dtype.name()), Some(dtype).filter(|d| *d != TORCH_ONLY));
            assert_eq!(dtype.bits(), bits);
        }
        for name in ["", "f32", "F128", "BOOL ", "float32"] {
            assert_eq!(Dtype::named(name), None, "{name}");
        }
    }

    #[test]
    fn grain_is_the_gap_above_one() {
        let next = |dtype: Dtype, bytes: &[u8]| {
            let mut value = [0.0];
            dtype.decode(bytes, 1.0, &mut value);
            f64::from(value[0]) - 1.0
        };
        assert_eq!(Dtype::F32.storage_eps(), Some(f64::from(f32::EPSILON)));
        assert_eq!(Dtype::F64.storage_eps(), Some(f64::EPSILON));
        assert_eq!(Dtype::F16.storage_eps(), Some(next(Dtype::F16, &[0x01, 0x3c])));
        assert_eq!(Dtype::BF16.storage_eps(), Some(next(Dtype::BF16, &[0x81, 0x3f])));
        assert_eq!(Dtype::F8E4M3.storage_eps(), Some(next(Dtype::F8E4M3, &[0x39])));
        assert_eq!(Dtype::F8E5M2.storage_eps(), Some(next(Dtype::F8E5M2, &[0x3d])));
        assert_eq!(Dtype::Other("I64").storage_eps(), None);
    }
}
