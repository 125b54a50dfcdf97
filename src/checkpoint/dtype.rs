//! Element types of the format, and their way to `f32`.

use std::sync::LazyLock;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

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

/// Every type of safetensors 0.8 with its width in bits.
const KNOWN: [(Dtype, u64); 22] = [
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
    (Dtype::Other("I64"), 64),
    (Dtype::Other("U64"), 64),
];

impl Dtype {
    /// The type with that name in a safetensors header; names are upper case.
    pub(super) fn named(name: &str) -> Option<Self> {
        KNOWN.iter().map(|(dtype, _)| *dtype).find(|dtype| dtype.name() == name)
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

    /// Width of one element in bits, 4 to 64; 0 for an `Other` that the format does not know.
    #[must_use]
    pub fn bits(self) -> u64 {
        KNOWN.iter().find(|(dtype, _)| *dtype == self).map_or(0, |(_, bits)| *bits)
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

/// Values on their way to `f32`, with what was seen in the stored ones.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    pub(super) values: Vec<f32>,
    pub(super) nan: u64,
    pub(super) inf: u64,
    pub(super) overflow: u64,
    halves: Vec<f16>,
}

impl Decoded {
    /// Empty, with room for that many values, if memory has it.
    pub(super) fn with_room_for(n_elements: usize) -> Option<Self> {
        let mut decoded = Self::default();
        decoded.values.try_reserve_exact(n_elements).ok()?;
        Some(decoded)
    }

    /// Appends whole little-endian elements; bytes beyond the last whole one are left out, and so is
    /// everything of a type that is no float.
    pub(super) fn append(&mut self, dtype: Dtype, bytes: &[u8]) {
        let start = self.values.len();
        match dtype {
            Dtype::F64 => return self.append_f64(bytes),
            Dtype::F32 => {
                self.values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
            }
            Dtype::F16 => {
                // By the slice, because one element at a time asks the CPU for its features each.
                self.halves.clear();
                self.halves.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)));
                self.values.resize(start.saturating_add(self.halves.len()), 0.0);
                if let Some(fresh) = self.values.get_mut(start..) {
                    self.halves.convert_to_f32_slice(fresh);
                }
            }
            Dtype::BF16 => {
                let halves = bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b));
                self.values.extend(halves.map(bf16::to_f32));
            }
            Dtype::F8E4M3 => self.values.extend(bytes.iter().map(|b| look_up(&F8_E4M3, *b))),
            Dtype::F8E5M2 => self.values.extend(bytes.iter().map(|b| look_up(&F8_E5M2, *b))),
            Dtype::Other(_) => {}
        }
        // No widening makes or loses a NaN or an infinity, so the values tell of the stored ones.
        let fresh = self.values.get(start..).unwrap_or_default();
        self.nan = self.nan.saturating_add(count(fresh, f32::is_nan));
        self.inf = self.inf.saturating_add(count(fresh, f32::is_infinite));
    }

    /// `f64` is the one narrowing: a finite value beyond `f32` becomes infinite and is an overflow.
    fn append_f64(&mut self, bytes: &[u8]) {
        for bytes in bytes.as_chunks().0 {
            let stored = f64::from_le_bytes(*bytes);
            #[expect(clippy::cast_possible_truncation, reason = "the narrowing is the point")]
            let value = stored as f32;
            let add = |n: &mut u64, seen: bool| *n = n.saturating_add(u64::from(seen));
            add(&mut self.nan, stored.is_nan());
            add(&mut self.inf, stored.is_infinite());
            add(&mut self.overflow, stored.is_finite() && value.is_infinite());
            self.values.push(value);
        }
    }
}

fn count(values: &[f32], is: impl Fn(f32) -> bool) -> u64 {
    values.iter().map(|v| u64::from(is(*v))).sum()
}

/// The value of every code of an 8-bit type.
type Codes = LazyLock<[f32; 256]>;

static F8_E4M3: Codes = LazyLock::new(|| table(e4m3_to_f32));
static F8_E5M2: Codes = LazyLock::new(|| table(e5m2_to_f32));

fn table(decode: fn(u8) -> f32) -> [f32; 256] {
    std::array::from_fn(|code| u8::try_from(code).map_or(f32::NAN, decode))
}

fn look_up(codes: &[f32; 256], code: u8) -> f32 {
    // A code always lies in its table; the NaN is for the compiler.
    codes.get(usize::from(code)).copied().unwrap_or(f32::NAN)
}

/// `float8_e4m3fn` of Micikevicius et al. 2022 (arXiv 2209.05433): bias 7, no infinity, so the top
/// exponent is an ordinary one and only `S.1111.111` is NaN.
fn e4m3_to_f32(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((code >> 3) & 0xf);
    let fraction = f32::from(code & 7);
    match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => sign * fraction * 2f32.powi(-9),
        _ => sign * (8.0 + fraction) * 2f32.powi(exponent.saturating_sub(10)),
    }
}

/// `float8_e5m2` is the upper byte of an IEEE binary16.
fn e5m2_to_f32(code: u8) -> f32 {
    f16::from_bits(u16::from(code) << 8).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook formula `(-1)^s · 2^(e - bias) · (1 + m/2^p)`, `2^(1 - bias) · m/2^p` where
    /// `e = 0`, in `f64` and apart from the code above; the top exponent is special if `ieee`.
    fn by_formula(code: u32, n_exponent: u32, n_fraction: u32, ieee: bool) -> f64 {
        let exponent = (code >> n_fraction) & ((1 << n_exponent) - 1);
        let full = (1 << n_fraction) - 1;
        let fraction = f64::from(code & full) / f64::from(1 << n_fraction);
        let sign = if code >> (n_exponent + n_fraction) == 0 { 1.0 } else { -1.0 };
        let bias = (1i32 << (n_exponent - 1)) - 1;
        let top = exponent == (1 << n_exponent) - 1;
        if top && ieee {
            return if fraction == 0.0 { sign * f64::INFINITY } else { f64::NAN };
        }
        if top && code & full == full {
            return f64::NAN;
        }
        let power = |e: i32| 2f64.powi(e);
        match exponent {
            0 => sign * power(1 - bias) * fraction,
            e => sign * power(e.cast_signed() - bias) * (1.0 + fraction),
        }
    }

    fn check(dtype: Dtype, n_exponent: u32, n_fraction: u32, ieee: bool) {
        let bits = 1 + n_exponent + n_fraction;
        let n_bytes = usize::try_from(bits / 8).unwrap();
        let codes: Vec<u32> = (0..1 << bits).collect();
        let bytes: Vec<u8> =
            codes.iter().flat_map(|code| code.to_le_bytes().into_iter().take(n_bytes)).collect();
        let mut decoded = Decoded::default();
        decoded.append(dtype, &bytes);
        assert_eq!(decoded.values.len(), codes.len());
        let (mut nan, mut inf) = (0, 0);
        for (code, value) in codes.iter().zip(&decoded.values) {
            let expected = by_formula(*code, n_exponent, n_fraction, ieee);
            nan += u64::from(expected.is_nan());
            inf += u64::from(expected.is_infinite());
            let value = f64::from(*value);
            let same =
                value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan());
            assert!(same, "{dtype:?} {code:#x}: {value} is not {expected}");
        }
        assert_eq!((decoded.nan, decoded.inf, decoded.overflow), (nan, inf, 0), "{dtype:?}");
    }

    #[test]
    fn every_code_is_what_the_formula_says() {
        check(Dtype::F8E4M3, 4, 3, false);
        check(Dtype::F8E5M2, 5, 2, true);
        check(Dtype::F16, 5, 10, true);
        check(Dtype::BF16, 8, 7, true);
    }

    #[test]
    fn doubles_beyond_f32_are_overflows_not_infinities() {
        let stored = [1.5, 1e300, -1e300, f64::NAN, f64::INFINITY, 1e-300];
        let mut decoded = Decoded::default();
        decoded.append(Dtype::F64, &stored.map(f64::to_le_bytes).concat());
        assert_eq!((decoded.nan, decoded.inf, decoded.overflow), (1, 1, 2));
        assert_eq!(decoded.values[..3], [1.5, f32::INFINITY, f32::NEG_INFINITY]);
        assert_eq!(decoded.values[5].to_bits(), 0);
    }

    #[test]
    fn names_lead_back_to_their_types() {
        for (dtype, bits) in KNOWN {
            assert_eq!(Dtype::named(dtype.name()), Some(dtype));
            assert_eq!(dtype.bits(), bits);
        }
        for name in ["", "f32", "F128", "BOOL ", "float32"] {
            assert_eq!(Dtype::named(name), None, "{name}");
        }
    }

    #[test]
    fn grain_is_the_gap_above_one() {
        let next = |dtype, bytes: &[u8]| {
            let mut decoded = Decoded::default();
            decoded.append(dtype, bytes);
            f64::from(decoded.values[0]) - 1.0
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
