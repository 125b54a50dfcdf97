//! Reading foreign files without leaving a mark: no map, no lock, no lasting descriptor.
//!
//! A descriptor that outlives its file keeps the training disk full, and on NFS it makes the
//! trainer's own `rmtree` fail. So a file is opened for one stretch at a time, and what was read
//! counts only if the path still leads to the same file afterwards.

mod cache;

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::disk::{self, open_quietly, operation};
use crate::remote::{self, Object, RemoteError};
use cache::Cache;

/// A descriptor that an NFS server no longer knows is asked for again by path this often.
const MAX_STALE_TRIES: u32 = 3;
/// Entries of one directory that are looked at; a checkpoint has some dozens.
pub(super) const MAX_DIR_ENTRIES: usize = 65_536;
/// Which file it was, and in which state. Compared only with earlier looks at the same path, never
/// with a clock: inode numbers are reused at once and file servers have clocks of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last write, in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Time of the last change to content or inode, in nanoseconds since 1970.
    pub ctime_ns: i128,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        let ns =
            |s: i64, ns: i64| i128::from(s).saturating_mul(1_000_000_000).saturating_add(ns.into());
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl From<remote::Stat> for Identity {
    /// An object has no device and no inode; what tells its versions apart stands for the latter.
    fn from(stat: remote::Stat) -> Self {
        let mtime_ns = i128::from(stat.modified).saturating_mul(1_000_000_000);
        Self { dev: 0, ino: stat.tag, size: stat.size, mtime_ns, ctime_ns: mtime_ns }
    }
}

impl Identity {
    /// Of an object, as it was found.
    fn stat(&self) -> remote::Stat {
        let modified = i64::try_from(self.mtime_ns.div_euclid(1_000_000_000)).unwrap_or(0);
        remote::Stat { size: self.size, modified, tag: self.ino }
    }
}

/// Why bytes could not be had.
#[derive(Debug)]
pub(super) enum SourceError {
    /// Nothing has that name.
    Gone,
    /// It is something that cannot be read like a file; the words say what.
    NotAFile(&'static str),
    /// It is not the file that it was.
    Changed,
    /// The system's refusal.
    Io(io::Error),
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) if code == Errno::NOENT.raw_os_error() => Self::Gone,
            Some(code) if code == Errno::NOTDIR.raw_os_error() => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

impl From<RemoteError> for SourceError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Missing => Self::Gone,
            RemoteError::Changed => Self::Changed,
            RemoteError::Refused(error) => Self::Io(error),
        }
    }
}

/// Whether the path leads to a directory, or in an object store to what stands for one.
pub(super) fn is_directory(path: &Path) -> Result<bool, SourceError> {
    if remote::is_remote(path) {
        return Ok(remote::kind(path)? == remote::Kind::Prefix);
    }
    let _under_way = operation();
    Ok(std::fs::metadata(path)?.is_dir())
}

/// How much may be read, and for how long, before the descriptor is given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    pub(super) n_bytes: u64,
    pub(super) longest: Duration,
}

impl Default for Stretch {
    fn default() -> Self {
        // A second after its deletion nobody may hold a file, and on network file systems two at most.
        Self { n_bytes: 64 << 20, longest: Duration::from_millis(900) }
    }
}

/// The identity of what the path leads to now.
pub(super) fn look(path: &Path) -> Result<Identity, SourceError> {
    if remote::is_remote(path) {
        return Ok(remote::head(path)?.into());
    }
    let _under_way = operation();
    Ok(Identity::of(&regular(std::fs::metadata(path)?)?))
}

/// Whether the path still leads to that very file in that very state.
pub(super) fn expect(path: &Path, identity: &Identity) -> Result<(), SourceError> {
    match look(path) {
        Ok(now) if now == *identity => Ok(()),
        Ok(_) | Err(SourceError::NotAFile(_)) => Err(SourceError::Changed),
        Err(error) => Err(error),
    }
}

/// A regular file's metadata, or what it is instead.
fn regular(metadata: Metadata) -> Result<Metadata, SourceError> {
    let kind = metadata.file_type();
    let words = if kind.is_file() {
        return Ok(metadata);
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(SourceError::NotAFile(words))
}

/// A file that is open for one stretch of reads.
#[derive(Debug)]
pub(super) struct OpenFile<'a> {
    path: &'a Path,
    file: Handle,
    pub(super) identity: Identity,
    cache: Cache,
}

#[derive(Debug)]
enum Handle {
    Disk(File),
    /// Nothing is open, and whatever is read is of one version.
    Object(Object),
}

impl<'a> OpenFile<'a> {
    /// Opens a regular file, through symbolic links too (the caches of the HF hub are made of them).
    pub(super) fn open(path: &'a Path) -> Result<Self, SourceError> {
        if remote::is_remote(path) {
            let object = Object::open(path)?;
            let identity = object.stat().into();
            return Ok(Self {
                path,
                file: Handle::Object(object),
                identity,
                cache: Cache::default(),
            });
        }
        // Asked before opening, because opening alone can rewind a tape; and again after it,
        // because the path can lead elsewhere by then. Without O_NONBLOCK a pipe would wait.
        let _under_way = operation();
        regular(std::fs::metadata(path)?)?;
        let file = File::from(open_quietly(path, OFlags::NONBLOCK)?);
        let identity = Identity::of(&regular(file.metadata()?)?);
        Ok(Self { path, file: Handle::Disk(file), identity, cache: Cache::default() })
    }

    /// Opens the file that was seen before, as it was.
    pub(super) fn open_known(path: &'a Path, identity: &Identity) -> Result<Self, SourceError> {
        if remote::is_remote(path) {
            let file = Handle::Object(Object::of(path, identity.stat()));
            return Ok(Self { path, file, identity: *identity, cache: Cache::default() });
        }
        let file = Self::open(path)?;
        if file.identity == *identity { Ok(file) } else { Err(SourceError::Changed) }
    }

    /// Whether nothing is held open, so that there is no reason to close it.
    pub(super) fn holds_nothing(&self) -> bool {
        matches!(self.file, Handle::Object(_))
    }

    /// Says that this range will be read in order.
    pub(super) fn expect_reads(&mut self, range: Range<u64>) {
        if let Handle::Object(object) = &mut self.file {
            object.expect(range);
        }
    }

    /// Fills the buffer from that place; an end before that means that the file has shrunk.
    pub(super) fn read_exact_at(
        &mut self,
        mut buf: &mut [u8],
        mut at: u64,
    ) -> Result<(), SourceError> {
        if let Handle::Object(object) = &mut self.file {
            return Ok(object.read_exact_at(buf, at)?);
        }
        while !buf.is_empty() {
            let n_read = match self.read_at(buf, at) {
                Ok(0) => return Err(SourceError::Changed),
                Ok(n_read) => n_read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            buf = buf.get_mut(n_read..).unwrap_or_default();
            at = at.saturating_add(n_read as u64);
        }
        Ok(())
    }

    fn read_at(&mut self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let Handle::Disk(file) = &self.file else { return Ok(0) };
        let _under_way = operation();
        self.cache.read_at(file, buf, at)
    }

    /// Ends the stretch: both the open file and the path must still be what they were.
    pub(super) fn close(self) -> Result<(), SourceError> {
        let Handle::Disk(file) = &self.file else { return Ok(()) };
        expect(self.path, &self.identity)?;
        let _under_way = operation();
        let now = Identity::of(&file.metadata()?);
        if now == self.identity { Ok(()) } else { Err(SourceError::Changed) }
    }
}

/// Counts the times an NFS server had forgotten our handle; the cure is to ask by path again.
#[derive(Debug, Default)]
pub(super) struct StaleTries(u32);

impl StaleTries {
    /// Whether that failure is worth another try.
    pub(super) fn again(&mut self, error: &SourceError) -> bool {
        self.0 = self.0.saturating_add(1);
        let SourceError::Io(error) = error else { return false };
        error.raw_os_error() == Some(Errno::STALE.raw_os_error()) && self.0 < MAX_STALE_TRIES
    }
}

/// A whole small file and the identity that it had before and after; `None` if above `cap` bytes.
pub(super) fn read_whole(
    path: &Path,
    cap: u64,
) -> Result<(Option<Vec<u8>>, Identity), SourceError> {
    let mut tries = StaleTries::default();
    loop {
        match read_whole_once(path, cap) {
            Err(error) if tries.again(&error) => {}
            result => return result,
        }
    }
}

fn read_whole_once(path: &Path, cap: u64) -> Result<(Option<Vec<u8>>, Identity), SourceError> {
    let mut file = OpenFile::open(path)?;
    let identity = file.identity;
    if identity.size > cap {
        return Ok((None, identity));
    }
    let mut bytes = vec![0; usize::try_from(identity.size).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    file.close()?;
    Ok((Some(bytes), identity))
}

/// The names in a directory, at most [`MAX_DIR_ENTRIES`], in byte order.
pub(super) fn list(path: &Path) -> Result<Vec<OsString>, SourceError> {
    if remote::is_remote(path) {
        let entries = remote::list(path, MAX_DIR_ENTRIES)?;
        return Ok(entries.into_iter().map(|entry| entry.name.into()).collect());
    }
    let entries = disk::list(path)?.take(MAX_DIR_ENTRIES);
    let names: io::Result<Vec<OsString>> =
        entries.map(|entry| Ok(entry?.name().to_owned())).collect();
    let mut names = names?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// Reads of a file of 64 bytes; `act` is done while its descriptor is open.
    fn read(dir: &Path, act: impl Fn(&Path)) -> Result<Vec<u8>, SourceError> {
        let path = dir.join("file");
        fs::write(&path, [7; 64]).unwrap();
        let mut file = OpenFile::open(&path)?;
        let mut bytes = vec![0; 48];
        file.read_exact_at(&mut bytes, 8)?;
        act(&path);
        file.close()?;
        Ok(bytes)
    }

    #[test]
    fn a_change_under_an_open_descriptor_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), |_| {}).unwrap(), [7; 48]);
        let gone = read(dir.path(), |path| fs::remove_file(path).unwrap());
        assert!(matches!(gone, Err(SourceError::Gone)), "{gone:?}");
        let replaced = read(dir.path(), |path| {
            fs::write(path.with_extension("new"), [7; 64]).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        });
        assert!(matches!(replaced, Err(SourceError::Changed)), "{replaced:?}");
        let rewritten = read(dir.path(), |path| {
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(&[8; 64], 0).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        });
        assert!(matches!(rewritten, Err(SourceError::Changed)), "{rewritten:?}");
    }

    #[test]
    fn a_file_that_shrinks_has_changed_and_never_reads_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, [7; 64]).unwrap();
        let mut file = OpenFile::open(&path).unwrap();
        fs::write(&path, [7; 32]).unwrap();
        let mut bytes = [0; 64];
        let result = file.read_exact_at(&mut bytes, 0);
        assert!(matches!(result, Err(SourceError::Changed)), "{result:?}");
    }

    #[test]
    fn file_systems_that_cannot_read_past_the_cache_are_read_through_it() {
        // A tmpfs is one of them.
        let shm = Path::new("/dev/shm");
        if let Ok(dir) = tempfile::tempdir_in(shm) {
            assert_eq!(read(dir.path(), |_| {}).unwrap(), [7; 48]);
        }
    }

    #[test]
    fn whole_files_have_a_cap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, [7; 64]).unwrap();
        assert_eq!(read_whole(&path, 64).unwrap().0, Some(vec![7; 64]));
        let (none, identity) = read_whole(&path, 63).unwrap();
        assert_eq!((none, identity.size), (None, 64));
    }

    #[test]
    fn a_stale_handle_is_asked_for_again_but_not_for_ever() {
        let stale = || SourceError::Io(io::Error::from(Errno::STALE));
        let mut tries = StaleTries::default();
        assert_eq!([(); 4].map(|()| tries.again(&stale())), [true, true, false, false]);
        assert!(!StaleTries::default().again(&SourceError::Io(io::Error::from(Errno::IO))));
        assert!(!StaleTries::default().again(&SourceError::Gone));
    }
}
