use proptest::prelude::*;

use super::*;

fn origin() -> Origin {
    Origin {
        run: "/runs/a".into(),
        save: "/runs/a/checkpoint-100".into(),
        step: Some(100),
        modified_ns: Some(-1_700_000_000_123_456_789),
    }
}

fn options() -> Options {
    Options { k: vec![1, 2], exact_limit: 8, ..Options::default() }
}

/// With numbers that no decimal notation holds and names that JSON must escape.
fn baseline() -> Baseline {
    let mut baseline = Baseline::default();
    let third = |i: usize, j: usize| {
        let n = u16::try_from(3 + i + 7 * j).unwrap();
        1.0 / f32::from(n)
    };
    let fifth = |i: usize| f32::from(u8::try_from(i).unwrap()) / 5.0 - 0.1;
    baseline.bases.insert("a \"b\"\n.weight".into(), Mat::from_fn(5, 2, third));
    baseline.bases.insert("zero".into(), Mat::zeros(4, 0));
    for (i, name) in ["x[0..2]*g", "yT"].into_iter().enumerate() {
        let basis = Mat::from_fn(6, 3, |r, c| fifth(r + i + 6 * c));
        let bulk = Bulk {
            sigma: vec![0.1, 0.3],
            weight: vec![1.0 / 3.0, 5e-324],
            second_moment: 0.7 / 3.0,
        };
        let basis = HalfBasis::new(basis.as_ref());
        let start = WarmStart { basis, bulk, reached: vec![1e-17, f64::INFINITY] };
        baseline.warm.insert(name.into(), start);
    }
    let mut sketch = Sketch::new(u64::MAX);
    sketch.add(&[0.1, -0.2, f32::MIN_POSITIVE]);
    baseline.sketches.insert("a \"b\"\n.weight".into(), (sketch.into(), 1.0 / 7.0));
    let mark = Mark { hash: u128::MAX - 5, nan: 1, inf: u64::MAX, overflow: 0, max_abs: 0.3 };
    baseline.marks.insert("a".into(), mark);
    baseline.marks.insert("b".into(), Mark { hash: 7, ..mark });
    baseline
}

fn same(a: &Baseline, b: &Baseline) -> bool {
    a.bases == b.bases && a.warm == b.warm && a.sketches == b.sketches && a.marks == b.marks
}

fn bytes_of(baseline: &Baseline) -> Vec<u8> {
    baseline.to_bytes(&origin(), &options()).unwrap()
}

#[test]
fn a_baseline_comes_back_to_the_bit() {
    for baseline in [baseline(), Baseline::default()] {
        let (back, from) = Baseline::from_bytes(&bytes_of(&baseline), &options()).unwrap();
        assert!(same(&back, &baseline) && from == origin());
        assert!(back.measured.is_none());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    baseline().write(&path, &origin(), &options()).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes_of(&baseline()));
}

#[test]
fn starts_made_for_other_searches_are_left_out() {
    let bytes = bytes_of(&baseline());
    for (options, holds) in [
        (Options { threads: 7, memory_limit: 1, ..options() }, true),
        (Options { k: vec![1, 3], ..options() }, false),
        (Options { rotation_k: vec![4], ..options() }, false),
        (Options { exact_limit: 9, ..options() }, false),
    ] {
        let (back, _) = Baseline::from_bytes(&bytes, &options).unwrap();
        assert_eq!(back.warm.len(), if holds { 2 } else { 0 }, "{options:?}");
        assert_eq!(back.sketches, baseline().sketches);
    }
}

/// Refused with this in the message, though the checksum is right.
fn refused(baseline: &Baseline, what: &str) {
    let error = Baseline::from_bytes(&bytes_of(baseline), &options()).unwrap_err().to_string();
    assert!(error.contains(what) && error.contains("expected"), "{error}");
}

#[test]
fn what_is_not_finite_is_refused() {
    for value in [f32::NAN, f32::INFINITY] {
        let mut odd = baseline();
        odd.bases.insert("a".into(), Mat::from_fn(2, 2, |_, _| value));
        refused(&odd, "bases");
        let mut odd = baseline();
        let start = odd.warm.get_mut("yT").unwrap();
        start.basis = HalfBasis::from_values(2, vec![f16::ONE, f16::from_f32(value)]).unwrap();
        refused(&odd, "warm.1");
        let mut odd = baseline();
        odd.warm.get_mut("yT").unwrap().bulk.second_moment = value.into();
        refused(&odd, "moments");
        let mut odd = baseline();
        odd.warm.get_mut("yT").unwrap().bulk.weight[1] = value.into();
        refused(&odd, "weight");
        let mut odd = baseline();
        odd.warm.get_mut("yT").unwrap().bulk.sigma[0] = value.into();
        refused(&odd, "warm.1");
        let mut odd = baseline();
        odd.sketches.values_mut().for_each(|(_, norm)| *norm = value.into());
        refused(&odd, "norms");
        let mut odd = baseline();
        odd.marks.get_mut("a").unwrap().max_abs = f32::INFINITY;
        refused(&odd, "magnitudes");
    }
    let mut odd = baseline();
    odd.warm.get_mut("yT").unwrap().reached[0] = f64::NAN;
    refused(&odd, "warm.1");
    odd.warm.get_mut("yT").unwrap().reached[0] = -1.0;
    refused(&odd, "warm.1");
}

/// A file with a right checksum over this record and these arrays.
fn forged(
    change: impl Fn(&mut serde_json::Value),
    arrays: &BTreeMap<String, Array<'_>>,
) -> Vec<u8> {
    let whole = baseline();
    let metadata = whole.record(&origin(), &options(), &whole.arrays()).unwrap();
    let mut record = serde_json::from_str(metadata[KEY].split_once(' ').unwrap().1).unwrap();
    change(&mut record);
    let text = record.to_string();
    let content = arrays.iter().map(|(n, a)| (n.as_str(), a.shape.as_slice(), a.bytes().into()));
    let sum = checksum(&text, content);
    let metadata = HashMap::from([(KEY.to_owned(), format!("{sum} {text}"))]);
    safetensors::serialize(arrays, Some(metadata)).unwrap()
}

#[test]
fn hostile_records_and_arrays_are_refused() {
    let whole = baseline();
    let read = |bytes: &[u8]| Baseline::from_bytes(bytes, &options()).map(drop);
    let record = |change: &dyn Fn(&mut serde_json::Value)| forged(change, &whole.arrays());
    read(&record(&|_| {})).unwrap();
    for (what, bytes) in [
        ("another format", record(&|r| r["format"] = 1.into())),
        ("an unknown key", record(&|r| r["more"] = 1.into())),
        ("a key less", record(&|r| drop(r.as_object_mut().unwrap().remove("origin")))),
        ("a name twice", record(&|r| r["warm"] = serde_json::json!(["a", "a"]))),
        ("a name more", record(&|r| r["bases"].as_array_mut().unwrap().push("more".into()))),
        ("a short hash", record(&|r| r["marks"][0]["hash"] = "12".into())),
        (
            "a signed hash",
            record(&|r| r["marks"][0]["hash"] = format!("+{}", "1".repeat(31)).into()),
        ),
        ("a tensor less", record(&|r| drop(r["marks"].as_array_mut().unwrap().pop()))),
        ("a fraction", record(&|r| r["sketches"][0]["seed"] = 0.5.into())),
    ] {
        assert!(read(&bytes).is_err(), "{what}");
    }
    let ten = || Array::new(Values::List(vec![1.0; 10]));
    let shaped = |shape: &[usize], values| Array { shape: shape.to_vec(), values };
    for (name, array) in [
        ("norms", ten()),
        ("moments", ten()),
        ("max_abs", ten()),
        ("sketches.0", ten()),
        ("warm.0.basis", ten()),
        ("warm.0.weight", ten()),
        ("more", ten()),
        ("bases.0", shaped(&[2, 5, 1], Values::Short(vec![1.0; 10]))),
        ("bases.0", shaped(&[], Values::Short(vec![1.0]))),
        ("bases.1", shaped(&[0, 1 << 40], Values::Short(Vec::new()))),
        ("bases.0", Array::new(Values::List(vec![1.0; 10]))),
        ("norms", shaped(&[2, 1], Values::List(vec![1.0; 2]))),
    ] {
        let mut arrays = whole.arrays();
        arrays.insert(name.into(), array);
        assert!(read(&forged(|_| {}, &arrays)).is_err(), "{name}");
    }
    for foreign in
        [&b""[..], b"{}", &[0xff; 64], &safetensors::serialize(&whole.arrays(), None).unwrap()]
    {
        assert!(read(foreign).is_err());
    }
}

#[test]
fn the_size_counts_what_is_large() {
    let mut large = baseline();
    let small = large.n_bytes();
    large.bases.insert("large".into(), Mat::zeros(1000, 8));
    assert!((32_000..33_000).contains(&(large.n_bytes() - small)));
}

proptest! {
    #[test]
    fn damage_is_refused_or_harmless(
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
        cut in any::<bool>(),
    ) {
        let mut bytes = bytes_of(&baseline());
        // Half of the damage goes to the header, where a byte means most.
        let header = 8 + usize::from(bytes[0]) + 256 * usize::from(bytes[1]);
        let at = at.index(if flip % 2 == 0 { header } else { bytes.len() });
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= flip;
        }
        if let Ok((back, from)) = Baseline::from_bytes(&bytes, &options()) {
            prop_assert!(!cut && same(&back, &baseline()) && from == origin());
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Baseline::from_bytes(&bytes, &options()).is_err());
    }
}
