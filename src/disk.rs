//! Looks at file systems that are not ours: without a trace, and never trusting that they answer.
//!
//! Whatever is asked of a directory of a training job goes through [`operation`], so that a thread
//! that waits for a file server which is gone can be told from one that works.

mod beneath;
mod operations;

use std::ffi::{OsStr, OsString};
use std::fs::FileType;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::fs::{Dir, FileType as Kind, Mode, OFlags};
use rustix::io::Errno;

pub use operations::{Confined, Here, Operation, Operations, adopt, confine, current, operation};

/// Opens for reading with no trace in the access time where the system lets us (owner or root).
///
/// While this thread is [`confine`]d to a directory, what is below it by its name must be so with all
/// links followed.
///
/// # Errors
/// The system's.
pub fn open_quietly(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let _under_way = operation();
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let root = operations::root_of(path);
    let open = |flags| match &root {
        Some(root) => beneath::open(root, path, flags),
        None => rustix::fs::open(path, flags, Mode::empty()),
    };
    let opened = match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        result => result,
    };
    opened.map_err(|error| match error {
        Errno::XDEV if root.is_some() => {
            io::Error::new(io::ErrorKind::PermissionDenied, "it links out of the watched root")
        }
        other => other.into(),
    })
}

/// One name in a directory.
#[derive(Debug)]
pub struct Entry {
    directory: PathBuf,
    name: OsString,
    kind: Kind,
}

impl Entry {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// What has that name; a link is a link.
    ///
    /// # Errors
    /// Where the directory does not say and the file cannot be asked.
    pub fn kind(&self) -> io::Result<EntryKind> {
        Ok(match self.kind {
            Kind::RegularFile => EntryKind::File,
            Kind::Directory => EntryKind::Directory,
            Kind::Symlink => EntryKind::Link,
            Kind::Unknown => {
                let _under_way = operation();
                let stat = std::fs::symlink_metadata(self.directory.join(&self.name))?;
                EntryKind::of(stat.file_type())
            }
            _ => EntryKind::Other,
        })
    }
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A pipe, a socket, a device.
    Other,
}

impl EntryKind {
    fn of(kind: FileType) -> Self {
        if kind.is_file() {
            Self::File
        } else if kind.is_dir() {
            Self::Directory
        } else if kind.is_symlink() {
            Self::Link
        } else {
            Self::Other
        }
    }
}

/// The names in a directory as the file system gives them, without `.` and `..`. The descriptor
/// lives as long as the iterator.
///
/// # Errors
/// When it cannot be opened as a directory.
pub fn list(path: &Path) -> io::Result<impl Iterator<Item = io::Result<Entry>> + use<>> {
    let mut names = Dir::new(open_quietly(path, OFlags::DIRECTORY)?)?;
    let directory = path.to_owned();
    Ok(std::iter::from_fn(move || {
        let _under_way = operation();
        loop {
            let entry = match names.read()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let (directory, kind) = (directory.clone(), entry.file_type());
            return Some(Ok(Entry { directory, name: OsStr::from_bytes(name).to_owned(), kind }));
        }
    }))
}

/// Whether a name is what is left of a deleted file that somebody still holds open: NFS and FUSE keep
/// it so, and the directory cannot be removed before it is closed.
#[must_use]
pub fn is_left_open(name: &OsStr) -> bool {
    let is_hex = |rest: &[u8]| !rest.is_empty() && rest.iter().all(u8::is_ascii_hexdigit);
    let after = |prefix: &[u8]| name.as_bytes().strip_prefix(prefix);
    [&b".nfs"[..], b".fuse_hidden"].into_iter().filter_map(after).any(is_hex)
}

/// The answer of a question to a file system, or `None` if there is none in time: then its thread is
/// left to wait by itself.
#[must_use]
pub fn within<T: Send + 'static>(
    limit: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = sync_channel(1);
    let asked = std::thread::Builder::new().name("ask".into()).spawn(move || {
        // Nobody may listen any more.
        drop(tell.send(ask()));
    });
    asked.ok()?;
    told.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_directory_is_listed_with_its_kinds_and_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::write(path.join("file"), "").unwrap();
        fs::create_dir(path.join("sub")).unwrap();
        std::os::unix::fs::symlink("file", path.join("link")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap());
        // Older than the last change, so that even relatime would note a look.
        let old = fs::File::open(path).unwrap();
        let times = fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH);
        old.set_times(times).unwrap();
        let mut found: Vec<_> = list(path)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.name().to_owned(), entry.kind().unwrap()))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("file", EntryKind::File),
            ("link", EntryKind::Link),
            ("socket", EntryKind::Other),
            ("sub", EntryKind::Directory),
        ];
        assert_eq!(found, expected.map(|(name, kind)| (name.into(), kind)));
        assert_eq!(fs::metadata(path).unwrap().atime(), 0, "a look left a trace");
        assert!(list(&path.join("file")).is_err() && list(&path.join("none")).is_err());
        let unknown = Entry { directory: path.into(), name: "sub".into(), kind: Kind::Unknown };
        assert_eq!(unknown.kind().unwrap(), EntryKind::Directory);
    }

    #[test]
    fn who_is_confined_opens_nothing_outside_under_a_name_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir(&root).unwrap();
        fs::write(&outside, "").unwrap();
        let link = root.join("link");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        let open = |path: &Path| open_quietly(path, OFlags::empty());
        let _here = adopt(Some(std::sync::Arc::default()));
        assert!(open(&link).is_ok(), "whoever named it may mean it");
        let confined = confine(&root);
        let error = open(&link).unwrap_err();
        assert!(error.to_string().contains("links out of the watched root"), "{error}");
        assert!(open(&outside).is_ok(), "a path of its own was named by the user");
        assert!(list(&root).is_ok());
        let helper = current();
        let helped = std::thread::scope(|scope| {
            let ask = || {
                let _here = adopt(helper);
                open(&link).is_ok()
            };
            scope.spawn(ask).join().unwrap()
        });
        assert!(!helped, "threads that help are confined as well");
        drop(confined);
        assert!(open(&link).is_ok());
    }

    #[test]
    fn what_is_held_open_after_its_end_is_known_by_its_name() {
        let held = [".nfs000000000000a1b200000001", ".fuse_hidden0000000a00000001"];
        let other = [".nfs", ".nfsroot", "nfs00", ".fuse_hidden", "model.safetensors"];
        assert!(held.iter().all(|name| is_left_open(OsStr::new(name))));
        assert!(!other.iter().any(|name| is_left_open(OsStr::new(name))));
    }

    #[test]
    fn a_question_without_an_answer_ends_in_time() {
        assert_eq!(within(Duration::from_mins(1), || 7), Some(7));
        let (_never, wait) = sync_channel::<()>(0);
        let asked = within(Duration::from_millis(20), move || wait.recv().is_ok());
        assert_eq!(asked, None);
    }
}
