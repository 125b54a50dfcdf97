//! From stored elements to `f32`, at the speed of memory on any CPU.
//!
//! Plain loops, compiled once for every instruction set and chosen when the program runs: what
//! vectorises them is that no element takes a branch or a call.

#![expect(clippy::inline_always, reason = "only inside of a dispatched function is it vectorised")]

use pulp::{Arch, Simd, WithSimd};

use super::Dtype;

/// Elements that a scan decodes at a time: its values stay in the nearest cache.
const BLOCK: usize = 1024;
/// Bits of the positive infinity; as integers, magnitudes are ordered as the floats they are.
const INF: u32 = 0x7f80_0000;
/// All bits but the sign.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// What a stretch of stored elements is: counts and magnitudes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scan {
    /// How many are NaN.
    pub nan: u64,
    /// How many are infinite.
    pub inf: u64,
    /// How many are finite, but infinite as `f32`; only `F64` has such. They are not counted in
    /// `inf`.
    pub overflow: u64,
    /// Largest magnitude of those that are finite as `f32`; 0 if there are none.
    pub max_abs: f32,
}

impl Scan {
    /// Adds what was seen in another stretch.
    pub fn merge(&mut self, other: &Self) {
        self.nan = self.nan.saturating_add(other.nan);
        self.inf = self.inf.saturating_add(other.inf);
        self.overflow = self.overflow.saturating_add(other.overflow);
        self.max_abs = self.max_abs.max(other.max_abs);
    }
}

impl Dtype {
    /// Decodes stored little-endian elements into `f32` and multiplies them by `scale`, exactly if
    /// that is a power of two and the product is a normal number.
    ///
    /// `bytes` holds `into.len()` elements; of two different numbers, the smaller is decoded and
    /// the rest of `into` stays as it was, as does all of it where [`Dtype::is_float`] is false.
    /// An `F64` is rounded to `f32` before it is scaled.
    pub fn decode(self, bytes: &[u8], scale: f32, into: &mut [f32]) {
        Arch::new().dispatch(Decoding { dtype: self, bytes, scale, into });
    }

    /// What the stored elements are. Bytes beyond the last whole element are left out, and so is
    /// everything where [`Dtype::is_float`] is false. The same bytes give the same on every
    /// machine.
    #[must_use]
    pub fn scan(self, bytes: &[u8]) -> Scan {
        Arch::new().dispatch(Scanning { dtype: self, bytes })
    }
}

struct Decoding<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
    scale: f32,
    into: &'a mut [f32],
}

impl WithSimd for Decoding<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { dtype, bytes, scale, into } = self;
        decode(dtype, bytes, scale, into);
    }
}

struct Scanning<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

impl WithSimd for Scanning<'_> {
    type Output = Scan;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Scan {
        let Self { dtype, bytes } = self;
        let mut scan = Scan::default();
        let mut max = 0;
        let mut block = [0.0; BLOCK];
        for bytes in bytes.chunks(BLOCK.saturating_mul(dtype.n_bytes().max(1))) {
            let n_elements = bytes.len().checked_div(dtype.n_bytes()).unwrap_or(0);
            let values = block.get_mut(..n_elements).unwrap_or_default();
            decode(dtype, bytes, 1.0, values);
            if largest(values) >= INF {
                take_out(dtype, bytes, values, &mut scan);
            }
            max = max.max(largest(values));
        }
        scan.max_abs = f32::from_bits(max);
        scan
    }
}

#[inline(always)]
fn decode(dtype: Dtype, bytes: &[u8], scale: f32, into: &mut [f32]) {
    match dtype {
        #[expect(clippy::cast_possible_truncation, reason = "the narrowing is the point")]
        Dtype::F64 => each(bytes, into, |b| f64::from_le_bytes(b) as f32 * scale),
        Dtype::F32 => each(bytes, into, |b| f32::from_le_bytes(b) * scale),
        Dtype::F16 => {
            each(bytes, into, |b| widen::<5, 10>(u16::from_le_bytes(b).into(), true) * scale);
        }
        Dtype::BF16 => {
            let widen = |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
            each(bytes, into, |b| widen(b) * scale);
        }
        // Micikevicius et al. 2022 (arXiv 2209.05433): e4m3 has no infinity, so its top exponent is
        // an ordinary one and only `S.1111.111` is NaN.
        Dtype::F8E4M3 => each(bytes, into, |[b]| widen::<4, 3>(b.into(), false) * scale),
        Dtype::F8E5M2 => each(bytes, into, |[b]| widen::<5, 2>(b.into(), true) * scale),
        Dtype::Other(_) => {}
    }
}

#[inline(always)]
fn each<const N: usize>(bytes: &[u8], into: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    for (bytes, value) in bytes.as_chunks().0.iter().zip(into) {
        *value = decode(*bytes);
    }
}

/// The value of a float of `E` exponent and `M` fraction bits, both fewer than those of `f32`; the
/// top exponent holds the infinities and NaNs if `ieee`, else numbers and one NaN. All three kinds
/// are computed and one is chosen, since a branch would stop the vectorisation.
#[expect(clippy::arithmetic_side_effects, reason = "constants, and sums below 2^31")]
#[inline(always)]
fn widen<const E: u32, const M: u32>(code: u32, ieee: bool) -> f32 {
    let bias = (1 << (E - 1)) - 1;
    let magnitude = code & ((1 << (E + M)) - 1);
    let shifted = magnitude << (23 - M);
    let normal = shifted + ((127 - bias) << 23);
    // A count of the smallest steps, `2^(1 - bias - M)`.
    #[expect(clippy::cast_precision_loss, reason = "at most 10 bits where it is chosen")]
    let subnormal = magnitude as f32 * f32::from_bits((127 + 1 - bias - M) << 23);
    let top = if ieee { ((1 << E) - 1) << M } else { (1 << (E + M)) - 1 };
    let number = if magnitude >= 1 << M { normal } else { subnormal.to_bits() };
    let bits = if magnitude >= top { shifted | INF } else { number };
    f32::from_bits(bits | ((code >> (E + M)) << 31))
}

#[inline(always)]
fn largest(values: &[f32]) -> u32 {
    values.iter().fold(0, |max, value| max.max(value.to_bits() & MAGNITUDE))
}

/// Counts the values that are not finite and puts zeros in their places.
#[cold]
fn take_out(dtype: Dtype, bytes: &[u8], values: &mut [f32], scan: &mut Scan) {
    let add = |n: &mut u64, seen: bool| *n = n.saturating_add(u64::from(seen));
    let mut doubles = bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
    for value in values {
        // No widening makes or loses a NaN or an infinity; the one narrowing can make an infinity.
        let made = dtype == Dtype::F64 && doubles.next().is_some_and(f64::is_finite);
        add(&mut scan.nan, value.is_nan());
        add(&mut scan.overflow, value.is_infinite() && made);
        add(&mut scan.inf, value.is_infinite() && !made);
        if !value.is_finite() {
            *value = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLOATS: [Dtype; 6] =
        [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8E4M3, Dtype::F8E5M2];

    fn decoded(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![f32::MIN; bytes.len() / dtype.n_bytes()];
        dtype.decode(bytes, 1.0, &mut values);
        values
    }

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
        assert_eq!(dtype.n_bytes(), n_bytes);
        let codes: Vec<u32> = (0..1 << bits).collect();
        let bytes: Vec<u8> =
            codes.iter().flat_map(|code| code.to_le_bytes().into_iter().take(n_bytes)).collect();
        let mut expected_scan = Scan::default();
        for (code, value) in codes.iter().zip(decoded(dtype, &bytes)) {
            let expected = by_formula(*code, n_exponent, n_fraction, ieee);
            let value = f64::from(value);
            let same =
                value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan());
            assert!(same, "{dtype:?} {code:#x}: {value} is not {expected}");
            expected_scan.nan += u64::from(expected.is_nan());
            expected_scan.inf += u64::from(expected.is_infinite());
            if value.is_finite() {
                let stored = decoded(dtype, &code.to_le_bytes()[..n_bytes])[0];
                expected_scan.max_abs = expected_scan.max_abs.max(stored.abs());
            }
        }
        let scan = dtype.scan(&bytes);
        assert_eq!(scan, expected_scan, "{dtype:?}");
    }

    #[test]
    fn every_code_is_what_the_formula_says() {
        check(Dtype::F8E4M3, 4, 3, false);
        check(Dtype::F8E5M2, 5, 2, true);
        check(Dtype::F16, 5, 10, true);
        check(Dtype::BF16, 8, 7, true);
    }

    #[test]
    fn single_precision_goes_through_bit_by_bit() {
        let stored = [0.0, -0.0, 1e-45, -1e-40, f32::MIN_POSITIVE, f32::MAX, f32::NEG_INFINITY];
        let values = decoded(Dtype::F32, &stored.map(f32::to_le_bytes).concat());
        assert_eq!(
            values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
            stored.map(f32::to_bits)
        );
        assert!(decoded(Dtype::F32, &f32::NAN.to_le_bytes())[0].is_nan());
    }

    #[test]
    fn doubles_beyond_f32_are_overflows_not_infinities() {
        let stored = [1.5, 1e300, -1e300, f64::NAN, f64::INFINITY, 1e-300];
        let bytes = stored.map(f64::to_le_bytes).concat();
        let expected = Scan { nan: 1, inf: 1, overflow: 2, max_abs: 1.5 };
        assert_eq!(Dtype::F64.scan(&bytes), expected);
        let values = decoded(Dtype::F64, &bytes);
        assert_eq!(values[..3], [1.5, f32::INFINITY, f32::NEG_INFINITY]);
        assert_eq!(values[5].to_bits(), 0);
    }

    #[test]
    fn what_does_not_fit_is_left_alone() {
        let mut values = [7.0; 3];
        Dtype::BF16.decode(&[0x80, 0x3f, 0], 1.0, &mut values);
        assert_eq!(values[..], [1.0, 7.0, 7.0]);
        Dtype::BF16.decode(&[0x80, 0xbf, 0x80, 0x3f], 0.5, &mut values[..1]);
        assert_eq!(values[..], [-0.5, 7.0, 7.0]);
        Dtype::Other("U8").decode(&[1, 2, 3], 1.0, &mut values);
        assert_eq!(values[..], [-0.5, 7.0, 7.0]);
        assert_eq!(Dtype::Other("U8").scan(&[1; 4096]), Scan::default());
        assert_eq!(Dtype::BF16.scan(&[0x80]), Scan::default());
    }

    proptest! {
        #[test]
        fn parts_decode_and_scan_as_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..24_576),
            cut in any::<prop::sample::Index>(),
            dtype in prop::sample::select(FLOATS.to_vec()),
            exponent in -12..12_i32,
        ) {
            let width = dtype.n_bytes();
            let n_elements = bytes.len() / width;
            let whole = decoded(dtype, &bytes);
            let (left, right) = bytes.split_at(cut.index(n_elements + 1) * width);
            let scale = 2f32.powi(exponent);
            let mut parts = vec![f32::MIN; n_elements];
            let (first, second) = parts.split_at_mut(left.len() / width);
            dtype.decode(left, scale, first);
            dtype.decode(right, scale, second);
            for (whole, part) in whole.iter().zip(&parts) {
                let expected = whole * scale;
                prop_assert!(expected.to_bits() == part.to_bits() || expected.is_nan() && part.is_nan());
            }
            let whole_scan = dtype.scan(&bytes);
            let mut scan = dtype.scan(left);
            scan.merge(&dtype.scan(right));
            prop_assert_eq!(scan, whole_scan);
            let finite = whole.iter().filter(|v| v.is_finite());
            let max_abs = finite.fold(0.0, |max: f32, v| max.max(v.abs()));
            prop_assert_eq!(scan.max_abs.to_bits(), max_abs.to_bits());
            let n_odd = whole.iter().filter(|v| !v.is_finite()).count();
            prop_assert_eq!(scan.nan + scan.inf + scan.overflow, n_odd as u64);
        }
    }
}
