//! Headers against the `safetensors` crate, and bytes that nobody wrote.

use std::fs;

use proptest::prelude::*;
use safetensors::tensor::{Dtype as TheirDtype, TensorView};
use safetensors::{SafeTensors, serialize};
use weightvane::checkpoint::{Dtype, ReadError, open};

use super::{WEIGHTS, check, dir_with, file_of};

#[test]
fn every_type_of_the_crate_is_read_as_it_was_written() {
    use TheirDtype as T;
    let all = [
        T::BOOL,
        T::F4,
        T::F6_E2M3,
        T::F6_E3M2,
        T::U8,
        T::I8,
        T::F8_E5M2,
        T::F8_E4M3,
        T::F8_E8M0,
        T::F8_E4M3FNUZ,
        T::F8_E5M2FNUZ,
        T::I16,
        T::U16,
        T::F16,
        T::BF16,
        T::I32,
        T::U32,
        T::F32,
        T::C64,
        T::F64,
        T::I64,
        T::U64,
    ];
    // Every code of the types of 8 and 16 bits.
    let data: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let views = all.map(|dtype| {
        // Whole bytes in rows of eight, for the types of 6 bits too.
        let n_columns = data.len() / dtype.bitsize();
        let part = &data[..n_columns * dtype.bitsize()];
        (dtype.to_string(), TensorView::new(dtype, vec![8, n_columns], part).unwrap())
    });
    let bytes = serialize(views.clone(), None).unwrap();
    let dir = dir_with(&[(WEIGHTS, &bytes)]);
    let manifest = open(dir.path()).unwrap();
    assert_eq!(manifest.tensors.len(), all.len());
    assert_eq!(manifest.n_bytes(), bytes.len() as u64);
    for (name, view) in &views {
        let info = manifest.find(name).unwrap();
        assert_eq!((info.dtype.name(), info.shape.as_slice()), (name.as_str(), view.shape()));
        assert_eq!(info.dtype.bits(), view.dtype().bitsize() as u64);
        let first = usize::try_from(info.place.offset()).unwrap();
        assert_eq!(&bytes[first..][..view.data().len()], view.data(), "{name}");
        match manifest.read(info) {
            Ok(tensor) => check_values(info.dtype, &tensor.values, view.data()),
            Err(error) => {
                assert!(!info.dtype.is_float(), "{name}: {error}");
                assert!(matches!(error, ReadError::NotFloat { .. }), "{error}");
            }
        }
    }
}

/// Compares with an independent reading of the same bytes.
fn check_values(dtype: Dtype, values: &[f32], data: &[u8]) {
    let n_bytes = usize::try_from(dtype.bits() / 8).unwrap();
    assert_eq!(values.len() * n_bytes, data.len());
    for (value, bytes) in values.iter().zip(data.chunks(n_bytes)) {
        let code = bytes.iter().rev().fold(0, |code, byte| code << 8 | u64::from(*byte));
        #[expect(clippy::cast_possible_truncation, reason = "the narrowing is what is tested")]
        let expected = by_formula(dtype, code) as f32;
        let same = value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan());
        assert!(same, "{dtype:?} {code:#x}: {value} is not {expected}");
    }
}

/// A float by its fields: exact in `f64` for every type here.
fn by_formula(dtype: Dtype, code: u64) -> f64 {
    let (n_exponent, n_fraction): (i32, i32) = match dtype {
        Dtype::F32 => return f64::from(f32::from_bits(u32::try_from(code).unwrap())),
        Dtype::F64 => return f64::from_bits(code),
        Dtype::F16 => (5, 10),
        Dtype::BF16 => (8, 7),
        Dtype::F8E4M3 => (4, 3),
        _ => (5, 2),
    };
    let field = |shift: i32, width: i32| i32::try_from(code >> shift & ((1 << width) - 1)).unwrap();
    let (exponent, fraction) = (field(n_fraction, n_exponent), field(0, n_fraction));
    let (top, full) = ((1 << n_exponent) - 1, (1 << n_fraction) - 1);
    let sign = if field(n_fraction + n_exponent, 1) == 0 { 1.0 } else { -1.0 };
    let bias = top / 2;
    match (dtype, exponent, fraction) {
        (Dtype::F8E4M3, e, f) if e == top => {
            if f == full {
                f64::NAN
            } else {
                sign * f64::from(8 + f) * 2f64.powi(e - bias - 3)
            }
        }
        (_, e, 0) if e == top => sign * f64::INFINITY,
        (_, e, _) if e == top => f64::NAN,
        (_, 0, f) => sign * f64::from(f) * 2f64.powi(1 - bias - n_fraction),
        (_, e, f) => sign * f64::from((1 << n_fraction) + f) * 2f64.powi(e - bias - n_fraction),
    }
}

/// A valid file of several types with metadata, shaped like a real one.
fn fixture() -> Vec<u8> {
    let data: Vec<u8> = (0..48).collect();
    let views = [
        ("model.layers.10.w", TensorView::new(TheirDtype::F16, vec![2, 4], &data[..16]).unwrap()),
        ("model.layers.2.w", TensorView::new(TheirDtype::BF16, vec![4], &data[16..24]).unwrap()),
        ("n", TensorView::new(TheirDtype::I64, vec![3], &data[24..]).unwrap()),
    ];
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    serialize(views, Some(metadata)).unwrap()
}

#[test]
fn each_truncation_is_incomplete() {
    let bytes = fixture();
    let dir = dir_with(&[]);
    let path = dir.path().join(WEIGHTS);
    for end in 0..bytes.len() {
        fs::write(&path, &bytes[..end]).unwrap();
        let _ = check(&format!("{end} bytes"), &path, "incomplete");
    }
}

#[test]
fn each_flipped_bit_of_the_header_is_refused_or_harmless() {
    let bytes = fixture();
    let n_header = 8 + usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
    let dir = dir_with(&[]);
    let path = dir.path().join(WEIGHTS);
    let mut n_ok = 0;
    for bit in 0..8 * n_header {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        let Ok(manifest) = open(&path) else { continue };
        n_ok += 1;
        assert!(SafeTensors::read_metadata(&flipped).is_ok(), "bit {bit} is accepted by us alone");
        for tensor in manifest.tensors.iter().filter(|tensor| tensor.dtype.is_float()) {
            assert_eq!(manifest.read(tensor).unwrap().values.len(), tensor.n_elements());
        }
    }
    // Names, metadata and padding can change without harm; structure cannot.
    assert!(n_ok > 50 && n_ok < 4 * n_header, "{n_ok} of {n_header} bytes");
}

const TYPES: [(&str, u64); 8] = [
    ("F64", 64),
    ("F32", 32),
    ("BF16", 16),
    ("F8_E4M3", 8),
    ("F8_E5M2", 8),
    ("I64", 64),
    ("BOOL", 8),
    ("F4", 4),
];

/// Files that are valid: tensors that tile the data, in any order of names, with or without
/// metadata, unknown keys and padding.
fn valid_file() -> impl Strategy<Value = Vec<u8>> {
    let tensor = ("[a-z0-9._\u{e9}]{0,8}", 0..TYPES.len(), prop::collection::vec(0..4_u64, 0..4));
    let tensors = prop::collection::vec(tensor, 0..6);
    let metadata =
        prop::option::of(prop::collection::btree_map("[a-z\"\\\\]{0,5}", ".{0,5}", 0..3));
    (tensors, metadata, 0..8_usize, any::<bool>()).prop_map(
        |(tensors, metadata, n_spaces, reverse)| {
            let mut entries = serde_json::Map::new();
            let mut at = 0;
            for (name, dtype, mut shape) in tensors {
                let (dtype, bits) = TYPES[dtype];
                shape.push(2);
                if entries.contains_key(&name) {
                    continue;
                }
                let end = at + shape.iter().product::<u64>() * bits / 8;
                let offsets = [at, end];
                entries.insert(
                    name,
                    serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
                );
                at = end;
            }
            let mut parts: Vec<String> = entries
                .iter()
                .map(|(name, entry)| format!("{}:{entry}", serde_json::json!(name)))
                .collect();
            if reverse {
                parts.reverse();
            }
            if let Some(metadata) = metadata {
                parts.push(format!("\"__metadata__\":{}", serde_json::json!(metadata)));
            }
            let json = format!("{{{}}}{}", parts.join(","), " ".repeat(n_spaces));
            file_of(json, usize::try_from(at).unwrap())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_valid_is_so_to_us_and_to_the_crate(bytes in valid_file()) {
        let dir = dir_with(&[(WEIGHTS, &bytes)]);
        let ours = open(dir.path());
        let theirs = SafeTensors::deserialize(&bytes);
        prop_assert!(theirs.is_ok(), "{theirs:?}");
        prop_assert!(ours.is_ok(), "{ours:?}");
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        prop_assert_eq!(ours.tensors.len(), theirs.len());
        for (name, view) in theirs.tensors() {
            let info = ours.find(&name).unwrap();
            prop_assert_eq!(&info.shape, view.shape());
            prop_assert_eq!(info.dtype.name(), view.dtype().to_string());
            let first = usize::try_from(info.place.offset()).unwrap();
            prop_assert_eq!(&bytes[first..][..view.data().len()], view.data());
        }
    }

    #[test]
    fn what_we_accept_the_crate_accepts(bytes in valid_file(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = bytes;
        let at = at.index(bytes.len());
        bytes[at] = to;
        let dir = dir_with(&[(WEIGHTS, &bytes)]);
        if open(dir.path()).is_ok() {
            let theirs = SafeTensors::read_metadata(&bytes);
            prop_assert!(theirs.is_ok(), "{theirs:?}");
        }
    }
}
