//! Performs the operations of a trace on a real directory, at times of our choice.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use weightvane::watch::FileEvent;

use super::trace::{Save, What};

/// The disk that a trace writes to: all bytes of a save are its number, so that a mix shows.
pub(super) struct Disk {
    temp: TempDir,
    saves: Vec<Save>,
}

impl Disk {
    pub(super) fn new(saves: &[Save]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("root/run")).unwrap();
        fs::create_dir_all(temp.path().join("root/tmp")).unwrap();
        // What is written below TMPDIR lies outside of the watched root.
        fs::create_dir_all(temp.path().join("tmp")).unwrap();
        Self { temp, saves: saves.to_vec() }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    pub(super) fn run(&self) -> PathBuf {
        self.temp.path().join("root/run")
    }

    fn full(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("../tmp") {
            Ok(below) => self.temp.path().join("tmp").join(below),
            Err(_) => self.run().join(path),
        }
    }

    /// Performs an operation and returns what inotify says of it.
    ///
    /// Writing `length` bytes of a text file writes the text, whatever its length, at its start.
    pub(super) fn perform(&self, what: &What, save: usize, at: Duration) -> Vec<FileEvent> {
        let seen = |path: &Path, event: fn(PathBuf) -> FileEvent| {
            let full = self.full(path);
            full.starts_with(self.root()).then(|| event(full))
        };
        let (touched, closed) = (FileEvent::Touched as fn(PathBuf) -> _, FileEvent::Closed);
        let event = match what {
            What::MakeDirectory(path) => {
                // Some savers make their parents by name only.
                fs::create_dir_all(self.full(path)).unwrap();
                seen(path, touched)
            }
            What::RemoveDirectory(path) => {
                fs::remove_dir(self.full(path)).unwrap();
                seen(path, FileEvent::Removed)
            }
            What::Create(path) => {
                self.stamp(&File::create_new(self.full(path)).unwrap(), at);
                seen(path, touched)
            }
            What::Open { path, truncated } => {
                let file =
                    OpenOptions::new().write(true).truncate(*truncated).open(self.full(path));
                let file = file.unwrap();
                if *truncated {
                    self.stamp(&file, at);
                }
                seen(path, touched).filter(|_| *truncated)
            }
            What::Write { path, offset, length } => {
                let file = self.open(path);
                if let Some(text) = self.text(path, save) {
                    file.write_all_at(text.as_bytes(), 0).unwrap();
                } else {
                    let bytes = vec![number(save); usize::try_from(*length).unwrap()];
                    file.write_all_at(&bytes, *offset).unwrap();
                }
                self.stamp(&file, at);
                seen(path, touched)
            }
            What::Truncate { path, size } => {
                let file = self.open(path);
                file.set_len(*size).unwrap();
                self.stamp(&file, at);
                seen(path, touched)
            }
            What::Close(path) => seen(path, closed),
            What::Rename { path, to } => {
                fs::rename(self.full(path), self.full(to)).unwrap();
                let events = [seen(path, FileEvent::Removed), seen(to, closed)];
                return events.into_iter().flatten().collect();
            }
            What::Link { path, to } => {
                fs::hard_link(self.full(path), self.full(to)).unwrap();
                seen(to, touched)
            }
            What::Symlink { path, to } => {
                symlink(to, self.full(path)).unwrap();
                seen(path, touched)
            }
            What::Unlink(path) => {
                fs::remove_file(self.full(path)).unwrap();
                seen(path, FileEvent::Removed)
            }
            What::Saved | What::Nothing => None,
        };
        event.into_iter().collect()
    }

    fn open(&self, path: &Path) -> File {
        OpenOptions::new().write(true).open(self.full(path)).unwrap()
    }

    fn stamp(&self, file: &File, at: Duration) {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        file.set_times(FileTimes::new().set_modified(start + at)).unwrap();
        assert!(self.temp.path().exists());
    }

    /// What the files hold whose text is read.
    fn text(&self, path: &Path, save: usize) -> Option<String> {
        let step = self.saves[save].step.unwrap_or(0);
        match path.file_name()?.to_str()? {
            "latest" => Some(format!("global_step{step}")),
            "latest_checkpointed_iteration.txt" => Some(step.to_string()),
            _ => None,
        }
    }
}

/// What all bytes of a save are.
pub(super) fn number(save: usize) -> u8 {
    u8::try_from(save + 1).unwrap()
}
