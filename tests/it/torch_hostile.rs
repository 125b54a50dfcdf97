//! Files of `torch.save` that are wrong, or made to do harm: each ends in a verdict, soon and in
//! little memory, and nothing in them is ever run.

mod bounds;
mod build;
mod damage;

use std::fs;
use std::path::Path;

use tempfile::tempdir;
use weightvane::checkpoint::{Manifest, OpenError, open};

use build::{NUMBERS, Pickle, Record, archive, big, body, legacy, little, records, zip, zip64};

/// The verdict on a file of that content, and its text on one line.
fn verdict(result: &Result<Manifest, OpenError>) -> &'static str {
    if let Err(error) = result {
        let text = error.to_string();
        assert!(!text.contains('\n') && text.contains("found"), "{text}");
    }
    match result {
        Ok(_) => "weights",
        Err(OpenError::NotWeights { .. }) => "not weights",
        Err(OpenError::Malformed { .. }) => "malformed",
        Err(OpenError::Incomplete { .. }) => "incomplete",
        Err(other) => panic!("{other:?}"),
    }
}

fn opened(content: &[u8]) -> Result<Manifest, OpenError> {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.pt");
    fs::write(&path, content).unwrap();
    let result = open(&path);
    if let Ok(manifest) = &result {
        let mut names: Vec<&str> = manifest.tensors.iter().map(|t| t.name.as_str()).collect();
        names.dedup();
        assert_eq!(names.len(), manifest.tensors.len(), "two tensors of one name: {names:?}");
        for tensor in manifest.tensors.iter().filter(|tensor| tensor.dtype.is_float()) {
            manifest.read(tensor).expect("what is listed can be read");
        }
    }
    result
}

fn check(what: &str, content: &[u8], expected: &str) {
    let result = opened(content);
    assert_eq!(verdict(&result), expected, "{what}: {result:?}");
}

/// The six numbers, as they are read from `weight`.
fn numbers(content: &[u8]) -> Vec<f32> {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.pt");
    fs::write(&path, content).unwrap();
    let manifest = open(&path).expect("it opens");
    manifest.read(&manifest.tensors[0]).expect("it is read").values
}

#[test]
fn calls_are_refused_and_not_made() {
    let dir = tempdir().unwrap();
    let witness = dir.path().join("ran");
    let command = format!("touch {}", witness.display());
    let open_it = format!("open({witness:?}, 'w')");
    let called = |module: &str, name: &str, argument: &str| {
        [
            Pickle::new().global(module, name).op(b"(").text(argument).op(b"tR").stop(),
            Pickle::new().text(module).text(name).op(b"\x93").text(argument).op(b"\x85R").stop(),
            Pickle::new().global(module, name).text(argument).op(b"\x85\x81").stop(),
            Pickle::new()
                .op(b"}")
                .text("weight")
                .global(module, name)
                .text(argument)
                .op(b"\x85Rs")
                .stop(),
        ]
    };
    for (module, name, argument) in [
        ("os", "system", &command),
        ("posix", "system", &command),
        ("subprocess", "getoutput", &command),
        ("builtins", "eval", &open_it),
        ("__builtin__", "eval", &open_it),
        ("builtins", "exec", &open_it),
        ("builtins", "getattr", &open_it),
        ("builtins", "__import__", &open_it),
        ("torch", "load", &command),
        ("torch.storage", "_load_from_bytes", &command),
        ("runpy", "_run_code", &open_it),
        ("torch._utils", "_rebuild_tensor_v2.__globals__", &open_it),
    ] {
        for pickle in called(module, name, argument) {
            check(name, &archive(&pickle), "not weights");
            check(name, &legacy(&pickle, true, 6, &little()), "not weights");
        }
    }
    assert!(!witness.exists());
}

#[test]
fn every_other_instruction_ends_the_reading() {
    let followed = b"ae\x90B\x8eGhJKMQqTX\x8db}]\x8f)\x95\x91cl\x8a\x8bjr(\x94\x89\x81\x92\x88N01\x80Rsu\xC2CU\x8c\x93.t\x85\x86\x87d";
    let denied = (0..=u8::MAX).filter(|byte| *byte == 0xc2 || !followed.contains(byte));
    let mut n = 0;
    for byte in denied {
        let pickle = Pickle::new().op([byte]).times(64, b"0").stop();
        let result = opened(&archive(&pickle));
        assert_eq!(verdict(&result), "not weights", "{byte:#04x}");
        let text = result.unwrap_err().to_string();
        assert!(text.contains(&format!("instruction {byte:#04x}")), "{byte:#04x}: {text}");
        n += 1;
    }
    assert_eq!(n, 256 - 51);
}

#[test]
fn instructions_that_do_not_fit_end_the_reading() {
    for (what, pickle) in [
        ("nothing on the stack", Pickle::new().stop()),
        ("reduce of nothing", Pickle::new().op(b"R").stop()),
        ("reduce of a number", Pickle::new().int(1).op(b")R").stop()),
        ("below a mark", Pickle::new().state().op(b"(0").stop()),
        ("a tuple without a mark", Pickle::new().state().op(b"t").stop()),
        ("an item of nothing", Pickle::new().text("a").text("b").op(b"s").stop()),
        ("an unknown memo", Pickle::new().op(b"h\x07").stop()),
        ("a far memo", Pickle::new().state().op(b"r\xff\xff\xff\xff").stop()),
        ("half an item", Pickle::new().op(b"}(").text("a").op(b"u").stop()),
        ("state of a number", Pickle::new().int(1).op(b"}b").stop()),
        ("a global of numbers", Pickle::new().int(1).int(2).op(b"\x93").stop()),
        ("protocol 99", Pickle(vec![0x80, 99]).state().stop()),
        ("no end", Pickle::new().state().0),
        ("a text without its bytes", Pickle::new().op(b"X\xff\xff\xff\x7f").0),
        ("a name without an end", Pickle::new().op(b"c").times(5000, b"x").0),
        ("a number of 4 GB", Pickle::new().op(b"\x8b\xff\xff\xff\xff").0),
    ] {
        check(what, &archive(&pickle), "not weights");
    }
    check("bytes behind the end", &archive(&Pickle::new().state().op(b"..").0), "malformed");
}

#[test]
fn places_that_cannot_be_are_malformed() {
    let tensor = |of: (&str, &str, i64), offset, shape: &[i64], strides: &[i64]| {
        archive(
            &Pickle::new()
                .op(b"}")
                .text("weight")
                .tensor(of, offset, shape, strides)
                .op(b"s")
                .stop(),
        )
    };
    let six = ("FloatStorage", "0", 6);
    let [max, half] = [i64::MAX, 1 << 62];
    for (what, content, expected) in [
        ("right", tensor(six, 0, &[2, 3], &[3, 1]), "weights"),
        ("transposed", tensor(six, 0, &[3, 2], &[1, 3]), "weights"),
        ("the last one", tensor(six, 5, &[1, 1], &[1, 1]), "weights"),
        ("nothing at the end", tensor(six, 6, &[0], &[1]), "not weights"),
        ("expanded", tensor(six, 0, &[4, 6], &[0, 1]), "weights"),
        (
            "more elements than there are",
            tensor(("FloatStorage", "0", 7), 0, &[2, 3], &[3, 1]),
            "malformed",
        ),
        (
            "fewer elements than there are",
            tensor(("FloatStorage", "0", 5), 0, &[2, 2], &[2, 1]),
            "malformed",
        ),
        (
            "elements of another width",
            tensor(("DoubleStorage", "0", 6), 0, &[2, 3], &[3, 1]),
            "malformed",
        ),
        ("no such storage", tensor(("FloatStorage", "1", 6), 0, &[2, 3], &[3, 1]), "malformed"),
        ("an offset beyond", tensor(six, 7, &[0], &[1]), "malformed"),
        ("the last one beyond", tensor(six, 1, &[2, 3], &[3, 1]), "malformed"),
        ("a stride beyond", tensor(six, 0, &[2, 3], &[4, 1]), "malformed"),
        ("negative offset", tensor(six, -1, &[2, 3], &[3, 1]), "malformed"),
        ("negative stride", tensor(six, 0, &[2, 3], &[3, -1]), "malformed"),
        ("negative size", tensor(six, 0, &[-2, 3], &[3, 1]), "malformed"),
        ("sizes without strides", tensor(six, 0, &[2, 3], &[1]), "malformed"),
        ("an overflow of offsets", tensor(six, max, &[2, 3], &[3, 1]), "malformed"),
        ("an overflow of sizes", tensor(six, 0, &[half, half], &[0, 0]), "malformed"),
        ("an overflow of strides", tensor(six, 0, &[3, 3], &[half, half]), "malformed"),
        (
            "an overflow of elements",
            tensor(("FloatStorage", "0", half), 0, &[2, 3], &[3, 1]),
            "malformed",
        ),
        ("a negative storage", tensor(("FloatStorage", "0", -6), 0, &[2, 3], &[3, 1]), "malformed"),
        ("2^40 times one", tensor(six, 0, &[1 << 20, 1 << 20], &[0, 0]), "not weights"),
        ("a hundred dimensions", tensor(six, 0, &[1; 100], &[1; 100]), "malformed"),
    ] {
        check(what, &content, expected);
    }
    for (what, n, data, expected) in [
        ("right", 6, little(), "weights"),
        ("another number of elements", 7, little(), "malformed"),
        ("2^63 elements", 1 << 63, little(), "malformed"),
        ("too short", 6, vec![0; 23], "incomplete"),
        ("too long", 6, vec![0; 25], "malformed"),
    ] {
        check(what, &legacy(&Pickle::new().state().stop(), true, n, &data), expected);
    }
}

#[test]
fn one_odd_tensor_does_not_hide_the_others() {
    let pickle = Pickle::new().state().text("repeated");
    let pickle = pickle.tensor(("FloatStorage", "0", 6), 0, &[1 << 20, 1 << 20], &[0, 0]).op(b"s");
    let manifest = opened(&archive(&pickle.stop())).unwrap();
    assert_eq!(manifest.tensors.len(), 1);
    assert!(
        manifest.notes.iter().any(|note| note.contains("repeated left out")),
        "{:?}",
        manifest.notes
    );
}

#[test]
fn both_byte_orders_are_read() {
    let state = Pickle::new().state().stop();
    for (what, content) in [
        ("little", zip(&records(&state, "little", &little()))),
        ("big", zip(&records(&state, "big", &big()))),
        ("older, little", legacy(&state, true, 6, &little())),
        ("older, big", legacy(&state, false, 6, &big())),
        ("large", zip64(&records(&state, "little", &little()), 0)),
    ] {
        assert_eq!(numbers(&content), NUMBERS, "{what}");
    }
    check("no such order", &zip(&records(&state, "middle", &little())), "malformed");
}

#[test]
fn archives_that_contradict_themselves_are_malformed() {
    let state = Pickle::new().state().stop();
    let right = records(&state, "little", &little());
    let with = |at: usize, change: &dyn Fn(&mut Record)| {
        let mut records = right.clone();
        change(&mut records[at]);
        zip(&records)
    };
    let twice = [right.clone(), vec![Record::new("a/data/0", &big())]].concat();
    let two_pickles = [right.clone(), vec![Record::new("b/data.pkl", &state)]].concat();
    let whole = zip(&right);
    let (inner, (n, n_bytes, at)) = body(&right);
    let ended = |n, n_bytes, at| [inner.clone(), end_of(n, n_bytes, at)].concat();
    for (what, content, expected) in [
        ("right", whole.clone(), "weights"),
        ("a record twice", zip(&twice), "malformed"),
        ("two pickles", zip(&two_pickles), "not weights"),
        ("no pickle", zip(&right[1..]), "not weights"),
        ("records upon each other", with(2, &|r| r.at = Some(0)), "malformed"),
        ("into the next one", with(1, &|r| r.more = 12), "malformed"),
        ("into the list", with(3, &|r| r.more = 1 << 20), "malformed"),
        ("another name in front", with(2, &|r| r.local_name = b"a/data/1".to_vec()), "malformed"),
        ("a longer name in front", with(2, &|r| r.local_name.push(b'x')), "malformed"),
        ("another method in front", with(2, &|r| r.local_method = 8), "malformed"),
        ("deflated", with(2, &|r| (r.method, r.local_method) = (8, 8)), "malformed"),
        ("an unknown method", with(2, &|r| (r.method, r.local_method) = (93, 93)), "malformed"),
        ("encrypted", with(2, &|r| r.flags = 1), "malformed"),
        ("a patch", with(2, &|r| r.flags = 1 << 5), "malformed"),
        ("a zero byte in a name", with(2, &|r| r.name = b"a/data/0\0".to_vec()), "malformed"),
        ("a name that is no text", with(2, &|r| r.name = b"a/data/\xff".to_vec()), "malformed"),
        ("bytes behind", [whole.clone(), vec![0; 5]].concat(), "malformed"),
        ("bytes in front", [vec![0; 5], whole.clone()].concat(), "not weights"),
        ("one more record than there are", ended(n + 1, n_bytes, at), "malformed"),
        ("one record fewer", ended(n - 1, n_bytes, at), "malformed"),
        ("a list elsewhere", ended(n, n_bytes, at + 1), "malformed"),
        ("a list beyond", ended(n, n_bytes, u32::MAX - 1), "malformed"),
        ("a longer list", ended(n, n_bytes + 1, at), "malformed"),
        ("two ends that disagree", zip64(&right, 1), "malformed"),
        ("an empty archive", end_of(0, 0, 0), "not weights"),
        ("an archive of nothing", zip(&[]), "not weights"),
    ] {
        check(what, &content, expected);
    }
}

fn end_of(n: u16, n_bytes: u32, at: u32) -> Vec<u8> {
    build::end(n, n_bytes, at)
}

#[test]
fn of_two_values_under_one_key_the_last_counts() {
    let pickle = Pickle::new().op(b"}").text("weight");
    let pickle = pickle.tensor(("FloatStorage", "0", 6), 0, &[1], &[1]).op(b"s").text("weight");
    let pickle = pickle.tensor(("FloatStorage", "0", 6), 0, &[2, 3], &[3, 1]).op(b"s");
    assert_eq!(numbers(&archive(&pickle.stop())), NUMBERS);
    // Not so of two keys that only make one name.
    let inner = |pickle: Pickle| {
        pickle.op(b"}").text("b").tensor(("FloatStorage", "0", 6), 0, &[1], &[1]).op(b"s")
    };
    let pickle = inner(Pickle::new().op(b"}").text("a")).op(b"s").text("a.b");
    let pickle = pickle.tensor(("FloatStorage", "0", 6), 1, &[1], &[1]).op(b"s");
    check("two ways to one name", &archive(&pickle.stop()), "malformed");
}

fn write(dir: &Path, content: &[u8]) -> std::path::PathBuf {
    let path = dir.join("model.pt");
    fs::write(&path, content).unwrap();
    path
}
