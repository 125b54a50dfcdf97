//! Checkpoints as files: what is accepted, what is refused and as what, what is noticed.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod cases;
mod headers;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use tempfile::{TempDir, tempdir};
use weightvane::checkpoint::{Manifest, OpenError, Place, ReadError, open};

/// Names and contents of a directory.
type Files<'a> = &'a [(&'a str, &'a [u8])];
/// What is done to a file.
type Act<'a> = &'a dyn Fn(&Path);

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A file with that header and that many bytes of data.
fn file_of(json: impl AsRef<[u8]>, n_data: usize) -> Vec<u8> {
    let json = json.as_ref();
    [&(json.len() as u64).to_le_bytes(), json, &vec![0; n_data]].concat()
}

/// A small valid file with these tensors, one `F32` each.
fn small(names: &[&str]) -> Vec<u8> {
    let entry = |(i, name): (usize, &&str)| {
        format!(
            r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}"#,
            4 * i,
            4 * i + 4
        )
    };
    let entries: Vec<String> = names.iter().enumerate().map(entry).collect();
    file_of(format!("{{{}}}", entries.join(",")), 4 * names.len())
}

fn dir_with(files: Files) -> TempDir {
    let dir = tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// Writes in place, in a moment that no clock of a file system confuses with the one before.
fn rewrite(path: &Path, bytes: &[u8], second: u64) {
    fs::write(path, bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(second)).unwrap();
}

fn class(result: &Result<Manifest, OpenError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(OpenError::Missing { .. }) => "missing",
        Err(OpenError::Unreadable { .. }) => "unreadable",
        Err(OpenError::NotACheckpoint { .. }) => "not a checkpoint",
        Err(OpenError::NotWeights { .. }) => "not weights",
        Err(OpenError::Malformed { .. }) => "malformed",
        Err(OpenError::Incomplete { .. }) => "incomplete",
        Err(OpenError::Changed { .. }) => "changed",
        Err(OpenError::Vanished { .. }) => "vanished",
        Err(_) => "other",
    }
}

/// Opens and compares the class; an error must say where and what on one line.
fn check(case: &str, path: &Path, expected: &str) -> Result<Manifest, OpenError> {
    let result = open(path);
    assert_eq!(class(&result), expected, "{case}: {result:?}");
    if let Err(error) = &result {
        let text = error.to_string();
        assert!(text.contains(&*path.to_string_lossy()), "{case}: {text}");
        assert!(text.contains("found"), "{case}: {text}");
        assert!(!text.chars().any(char::is_control) && text.len() < 1000, "{case}: {text}");
    }
    result
}

/// An index that assigns tensors to shards.
fn index_of(entries: &[(&str, &str)]) -> Vec<u8> {
    let map: serde_json::Map<_, _> =
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    serde_json::json!({"metadata": {"total_size": 8}, "weight_map": map}).to_string().into_bytes()
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

#[test]
fn shards_must_be_what_the_index_says() {
    let index = index_of(&[("a", ONE), ("b", ONE), ("c", TWO)]);
    let (one, two) = (small(&["b", "a"]), small(&["c"]));
    let cut = &two[..two.len() - 1];
    let twice = format!(r#"{{"weight_map":{{"a":"{ONE}","a":"{ONE}"}}}}"#);
    let cases: &[(&str, Files, &str)] = &[
        ("whole", &[(INDEX, &index), (ONE, &one), (TWO, &two)], "ok"),
        ("missing shard", &[(INDEX, &index), (ONE, &one)], "incomplete"),
        ("no index yet", &[(ONE, &one), (TWO, &two)], "incomplete"),
        ("no index and one shard yet", &[(ONE, &one)], "incomplete"),
        ("short shard", &[(INDEX, &index), (ONE, &one), (TWO, cut)], "incomplete"),
        ("empty shard", &[(INDEX, &index), (ONE, &one), (TWO, b"")], "incomplete"),
        (
            "stale: another tensor",
            &[(INDEX, &index), (ONE, &one), (TWO, &small(&["d"]))],
            "incomplete",
        ),
        (
            "stale: one tensor more",
            &[(INDEX, &index), (ONE, &one), (TWO, &small(&["c", "d"]))],
            "incomplete",
        ),
        (
            "stale: one tensor less",
            &[(INDEX, &index), (ONE, &small(&["a"])), (TWO, &two)],
            "incomplete",
        ),
        (
            "stale: one tensor moved",
            &[(INDEX, &index), (ONE, &small(&["a"])), (TWO, &small(&["b", "c"]))],
            "incomplete",
        ),
        (
            "a tensor in two shards",
            &[(INDEX, &index), (ONE, &one), (TWO, &small(&["b", "c"]))],
            "malformed",
        ),
        ("malformed shard", &[(INDEX, &index), (ONE, &one), (TWO, &file_of("{}", 1))], "malformed"),
        ("index ends early", &[(INDEX, &index[..40]), (ONE, &one), (TWO, &two)], "incomplete"),
        ("empty index", &[(INDEX, b""), (ONE, &one), (TWO, &two)], "incomplete"),
        ("path in the index", &[(INDEX, &index_of(&[("a", "../x.safetensors")]))], "malformed"),
        ("absolute path", &[(INDEX, &index_of(&[("a", "/dev/zero")]))], "malformed"),
        ("index of nothing", &[(INDEX, b"{\"weight_map\":{}}")], "malformed"),
        ("index is a list", &[(INDEX, b"[]")], "malformed"),
        ("key twice", &[(INDEX, twice.as_bytes())], "malformed"),
    ];
    for (case, files, expected) in cases {
        let dir = dir_with(files);
        let _ = check(case, dir.path(), expected);
    }
}

#[test]
fn tensors_of_shards_come_in_natural_order_and_from_their_files() {
    let index = index_of(&[("h.10", ONE), ("h.9", TWO), ("h.1", TWO)]);
    let mut two = small(&["h.9", "h.1"]);
    let n = two.len();
    two[n - 8..n - 4].copy_from_slice(&1.5_f32.to_le_bytes());
    let dir = dir_with(&[(INDEX, &index), (ONE, &small(&["h.10"])), (TWO, &two)]);
    let manifest = open(dir.path()).unwrap();
    let names: Vec<&str> = manifest.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["h.1", "h.9", "h.10"]);
    assert_eq!(manifest.read(manifest.find("h.9").unwrap()).unwrap().values, [1.5]);
    assert_eq!(manifest.find("h.2"), None);
    assert_eq!((manifest.files.len(), manifest.step, manifest.format), (2, None, "safetensors"));
}

#[test]
fn directories_and_names() {
    let w = small(&["w"]);
    let cases: &[(&str, Files, &str)] = &[
        ("empty directory", &[], "not a checkpoint"),
        ("only config yet", &[("config.json", b"{}")], "incomplete"),
        ("torch begun", &[("pytorch_model.bin", b"PK"), ("config.json", b"{}")], "incomplete"),
        ("torch not begun", &[("scheduler.pt", b""), ("config.json", b"{}")], "not weights"),
        ("another name", &[("consolidated.safetensors", &w)], "ok"),
        ("a single shard", &[("model-00001-of-00001.safetensors", &w)], "ok"),
        ("two names", &[("a.safetensors", &w), ("b.safetensors", &w)], "not a checkpoint"),
        ("adapter only", &[("adapter_model.safetensors", &w)], "ok"),
        ("adapter beside", &[("adapter_model.safetensors", &w), (WEIGHTS, &w)], "ok"),
        ("temporary only", &[(".tmpAbCdEf.safetensors", &w)], "not a checkpoint"),
        ("deleted but open over NFS", &[(WEIGHTS, &w), (".nfs00000000a1", &w)], "incomplete"),
    ];
    for (case, files, expected) in cases {
        let dir = dir_with(files);
        let _ = check(case, dir.path(), expected);
    }
    let dir = dir_with(&[("adapter_model.safetensors", &w), ("w.bin", &w)]);
    let _ = check("adapter file", &dir.path().join("adapter_model.safetensors"), "ok");
    let _ = check("other ending", &dir.path().join("w.bin"), "not weights");
    let _ = check("nothing", &dir.path().join("checkpoint-1"), "missing");
    let _ = check("no file", &dir.path().join("model.safetensors"), "missing");
    let _ = check("file as directory", &dir.path().join("w.bin/model.safetensors"), "missing");
}

#[test]
fn of_one_file_and_shards_the_younger_are_the_save() {
    let shard = "model-00001-of-00001.safetensors";
    let index = index_of(&[("b", shard)]);
    let dir = dir_with(&[(shard, &small(&["b"]))]);
    let opened = |seconds: [u64; 2]| {
        rewrite(&dir.path().join(WEIGHTS), &small(&["a"]), seconds[0]);
        rewrite(&dir.path().join(INDEX), &index, seconds[1]);
        let manifest = check("both", dir.path(), "ok").unwrap();
        assert!(manifest.notes.iter().any(|note| note.contains("is younger")), "{manifest:?}");
        manifest.tensors[0].name.clone()
    };
    assert_eq!([opened([9, 5]), opened([5, 9]), opened([5, 5])], ["a", "b", "a"]);
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let make: [(&str, Act); 4] = [
        ("pipe", &|path| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                .unwrap();
        }),
        ("socket", &|path| drop(UnixListener::bind(path).unwrap())),
        ("directory", &|path| fs::create_dir(path).unwrap()),
        ("device", &|path| symlink("/dev/zero", path).unwrap()),
    ];
    for (case, make) in make {
        let dir = tempdir().unwrap();
        make(&dir.path().join(WEIGHTS));
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::NotACheckpoint { .. }), "{case}: {error}");
        assert!(error.to_string().contains("expected a regular file"), "{case}: {error}");

        let dir = dir_with(&[(WEIGHTS, &small(&["w"]))]);
        make(&dir.path().join("config.json"));
        make(&dir.path().join("trainer_state.json"));
        let manifest = open(dir.path()).unwrap();
        assert_eq!(manifest.notes.len(), 2, "{case}: {:?}", manifest.notes);
    }
    let dir = tempdir().unwrap();
    symlink(WEIGHTS, dir.path().join(WEIGHTS)).unwrap();
    let _ = check("loop of links", dir.path(), "unreadable");
}

#[test]
fn links_to_regular_files_are_followed() {
    let blobs = dir_with(&[("3fa9", &small(&["w"]))]);
    let dir = tempdir().unwrap();
    symlink(blobs.path().join("3fa9"), dir.path().join(WEIGHTS)).unwrap();
    let manifest = check("link", dir.path(), "ok").unwrap();
    fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
    assert!(matches!(manifest.unchanged(), Err(ReadError::Vanished { .. })));
}

#[test]
fn permissions_say_nothing_of_the_weights() {
    let dir = dir_with(&[(WEIGHTS, &small(&["w"]))]);
    let path = dir.path().join(WEIGHTS);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything.
    let expected = if rustix::process::geteuid().is_root() { "ok" } else { "unreadable" };
    let _ = check("mode 0", &path, expected);
}

#[test]
fn a_change_after_opening_is_noticed() {
    let (old, new) = (small(&["w"]), small(&["v"]));
    let longer = [&old[..], &[0]].concat();
    let cases: [(&str, Act); 5] = [
        ("rewritten in place", &|path| rewrite(path, &new, 1)),
        ("same bytes at another time", &|path| rewrite(path, &old, 2)),
        ("appended", &|path| rewrite(path, &longer, 3)),
        ("truncated", &|path| rewrite(path, b"", 4)),
        ("replaced", &|path| {
            fs::write(path.with_extension("new"), &new).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
    ];
    for (case, act) in cases {
        let dir = dir_with(&[(WEIGHTS, &old)]);
        let manifest = open(dir.path()).unwrap();
        manifest.unchanged().unwrap();
        manifest.read(&manifest.tensors[0]).unwrap();
        act(&dir.path().join(WEIGHTS));
        for result in [manifest.unchanged(), manifest.read(&manifest.tensors[0]).map(drop)] {
            assert!(matches!(result, Err(ReadError::Changed { .. })), "{case}: {result:?}");
        }
    }
    for name in ["config.json", "trainer_state.json"] {
        let dir = dir_with(&[(WEIGHTS, &old), (name, b"{}")]);
        let manifest = open(dir.path()).unwrap();
        rewrite(&dir.path().join(name), b"{} ", 1);
        assert!(matches!(manifest.unchanged(), Err(ReadError::Changed { .. })), "{name}");
    }
}

#[test]
fn a_directory_that_is_rotated_away_has_vanished() {
    let dir = dir_with(&[(WEIGHTS, &small(&["w"]))]);
    let manifest = open(dir.path()).unwrap();
    fs::remove_dir_all(dir.path()).unwrap();
    for result in [manifest.unchanged(), manifest.read(&manifest.tensors[0]).map(drop)] {
        assert!(matches!(result, Err(ReadError::Vanished { .. })), "{result:?}");
    }
    let _ = check("again", dir.path(), "missing");
}

#[test]
fn a_tensor_of_another_checkpoint_is_refused() {
    let dir = dir_with(&[(WEIGHTS, &small(&["w"]))]);
    let manifest = open(dir.path()).unwrap();
    let own = &manifest.tensors[0];
    for (file, offset, n_bytes, shape) in [
        (1, own.place.offset(), 4, vec![1]),
        (0, own.place.offset() + 1, 4, vec![1]),
        (0, u64::MAX - 1, 4, vec![1]),
        (0, own.place.offset(), 4, vec![2]),
        (0, own.place.offset(), 8, vec![2]),
        (0, own.place.offset(), 0, vec![usize::MAX, 2]),
    ] {
        let mut other = own.clone();
        (other.place, other.n_bytes, other.shape) = (Place::Run { file, offset }, n_bytes, shape);
        let result = manifest.read(&other);
        assert!(matches!(result, Err(ReadError::Foreign { .. })), "{other:?}: {result:?}");
    }
}

#[test]
fn trainer_state_tells_and_gates() {
    let w = small(&["w"]);
    let with = |text: &[u8]| dir_with(&[(WEIGHTS, &w), ("trainer_state.json", text)]);
    let text = br#"{"global_step": 42, "log_history": [{"loss": 1.0}, {"loss": NaN}]}"#;
    let manifest = check("nan", with(text).path(), "ok").unwrap();
    assert_eq!(manifest.step, Some(42));
    assert!(manifest.trainer.unwrap().loss.unwrap().is_nan());
    for end in 0..text.len() {
        let dir = with(&text[..end]);
        assert_eq!(class(&open(dir.path())), "incomplete", "{end} bytes");
    }
    let history = r#"{"loss": 0.5, "learning_rate": 1e-4},"#.repeat(100_000);
    let long = format!(r#"{{"log_history": [{history}{{"loss": 0.25}}], "max_steps": 9}}"#);
    let trainer = open(with(long.as_bytes()).path()).unwrap().trainer.unwrap();
    assert_eq!(
        (trainer.loss, trainer.learning_rate, trainer.max_steps),
        (Some(0.25), Some(1e-4), Some(9))
    );
}

#[test]
fn an_odd_config_is_noted_not_fatal() {
    let w = small(&["w"]);
    let bomb = format!("[{}0]", "0,".repeat(1 << 19));
    let deep = "[".repeat(100_000);
    let large = vec![b' '; (4 << 20) + 1];
    for (case, text, has_config, n_notes) in [
        ("plain", &br#"{"a": [1, "b", null, -1, 0.5, true]}"#[..], true, 0),
        ("not finite", br#"{"limit": [0.0, Infinity]}"#, true, 1),
        ("cut", b"{\"a\": ", false, 1),
        ("too large", &large, false, 1),
        ("many values", bomb.as_bytes(), false, 1),
        ("deep", deep.as_bytes(), false, 1),
        ("not UTF-8", b"{\"a\": \"\xff\"}", false, 1),
    ] {
        let dir = dir_with(&[(WEIGHTS, &w), ("config.json", text)]);
        let manifest = open(dir.path()).unwrap();
        assert_eq!(manifest.config.is_some(), has_config, "{case}");
        assert_eq!(manifest.notes.len(), n_notes, "{case}: {:?}", manifest.notes);
        if has_config && n_notes == 0 {
            assert_eq!(manifest.config, serde_json::from_slice(text).ok(), "{case}");
        }
    }
}

#[test]
fn the_step_comes_from_the_name_then_the_record_then_the_file() {
    let header = r#"{"__metadata__":{"step":"7"}}"#;
    let (w, state) = (file_of(header, 0), br#"{"global_step": 8}"#);
    let root = tempdir().unwrap();
    let make = |name: &str, with_state: bool| -> PathBuf {
        let dir = root.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(WEIGHTS), &w).unwrap();
        if with_state {
            fs::write(dir.join("trainer_state.json"), state).unwrap();
        }
        dir
    };
    let step = |path: &Path| open(path).unwrap().step;
    assert_eq!(step(&make("checkpoint-9", true)), Some(9));
    assert_eq!(step(&make("checkpoint-9", true).join(WEIGHTS)), Some(9));
    assert_eq!(step(&make("best", true)), Some(8));
    assert_eq!(step(&make("last", false)), Some(7));
    let named = root.path().join("model-500.safetensors");
    fs::write(&named, &w).unwrap();
    let manifest = open(&named).unwrap();
    assert_eq!((manifest.step, manifest.name.as_str()), (Some(500), "model-500.safetensors"));
    assert_eq!(manifest.files[0].metadata["step"], "7");
}

#[test]
fn opening_leaves_the_access_times_alone() {
    use std::os::unix::fs::MetadataExt;
    let dir = dir_with(&[(WEIGHTS, &small(&["w"])), ("config.json", b"{}")]);
    let paths = [dir.path().to_owned(), dir.path().join(WEIGHTS), dir.path().join("config.json")];
    // Older than the last write, so that even a file system with relatime would note an access.
    for path in &paths {
        let times = fs::FileTimes::new().set_accessed(UNIX_EPOCH + Duration::from_secs(1_000));
        fs::File::open(path).unwrap().set_times(times).unwrap();
    }
    let manifest = open(dir.path()).unwrap();
    manifest.read(&manifest.tensors[0]).unwrap();
    for path in &paths {
        assert_eq!(fs::metadata(path).unwrap().atime(), 1_000, "{}", path.display());
    }
}

#[test]
fn the_reference_checkpoints_open() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden");
    for name in ["layouts/gpt2", "layouts/llama_gqa", "series/healthy/checkpoint-1000"] {
        let manifest = open(&golden.join(name)).unwrap();
        assert!(!manifest.tensors.is_empty() && manifest.notes.is_empty(), "{name}");
        for tensor in manifest.tensors.iter().filter(|tensor| tensor.dtype.is_float()) {
            assert_eq!(manifest.read(tensor).unwrap().values.len(), tensor.n_elements());
        }
    }
    assert_eq!(open(&golden.join("series/healthy/checkpoint-1000")).unwrap().step, Some(1000));
}
