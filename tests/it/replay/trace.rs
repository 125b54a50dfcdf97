//! A recorded trace: what a save did to the file system, in order.

use std::path::PathBuf;

use serde_json::Value;

/// One trace.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) name: String,
    pub(super) saves: Vec<Save>,
    pub(super) ops: Vec<Op>,
}

/// A save that the trace's header names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Save {
    pub(super) path: PathBuf,
    pub(super) step: Option<u64>,
}

/// One operation, with the number of the save that it belongs to.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) t_ms: u64,
    pub(super) save: usize,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    MakeDirectory(PathBuf),
    RemoveDirectory(PathBuf),
    Create(PathBuf),
    Open { path: PathBuf, truncated: bool },
    Write { path: PathBuf, offset: u64, length: u64 },
    Truncate { path: PathBuf, size: u64 },
    Close(PathBuf),
    Rename { path: PathBuf, to: PathBuf },
    Link { path: PathBuf, to: PathBuf },
    Symlink { path: PathBuf, to: String },
    Unlink(PathBuf),
    Saved,
    Nothing,
}

impl Trace {
    /// Reads a trace; everything before a mark `saved` belongs to that save.
    pub(super) fn parse(name: &str, text: &str) -> Self {
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let header = lines.next().unwrap();
        let save = |save: &Value| Save {
            path: save["path"].as_str().unwrap().into(),
            step: save["step"].as_u64(),
        };
        let saves = header["saves"].as_array().unwrap().iter().map(save).collect();
        let mut trace = Self { name: name.to_owned(), saves, ops: Vec::new() };
        let mut save = 0;
        for line in lines {
            let what = operation(&line);
            let is_saved = matches!(what, What::Saved);
            trace.ops.push(Op { t_ms: line["t_ms"].as_u64().unwrap(), save, what });
            save += usize::from(is_saved);
        }
        assert_eq!(save, trace.saves.len(), "{name}: marks and saves of the header");
        trace
    }

    /// Whether the next save goes on at once: another file of the same step.
    pub(super) fn is_followed(&self, save: usize) -> bool {
        let (this, next) = (&self.saves[save], self.saves.get(save + 1));
        next.is_some_and(|next| next.step == this.step && next.path != this.path)
    }
}

fn operation(line: &Value) -> What {
    let path = || PathBuf::from(line["path"].as_str().unwrap());
    let to = || line["to"].as_str().unwrap();
    let number = |key: &str| line[key].as_u64().unwrap();
    match line["op"].as_str().unwrap() {
        "mkdir" => What::MakeDirectory(path()),
        "rmdir" => What::RemoveDirectory(path()),
        "create" => What::Create(path()),
        "open_existing" => {
            What::Open { path: path(), truncated: line["truncated"] == Value::Bool(true) }
        }
        "write" => What::Write { path: path(), offset: number("offset"), length: number("length") },
        "truncate" => What::Truncate { path: path(), size: number("size") },
        "close" => What::Close(path()),
        "rename" => What::Rename { path: path(), to: to().into() },
        "link" => What::Link { path: path(), to: to().into() },
        "symlink" => What::Symlink { path: path(), to: to().into() },
        "unlink" => What::Unlink(path()),
        "saved" => What::Saved,
        "fsync" => What::Nothing,
        other => panic!("operation {other}"),
    }
}
