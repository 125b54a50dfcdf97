//! Reading without changing what the system keeps of a file in memory: the training job may have
//! brought it there, and may want it again.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

/// `RWF_DONTCACHE` (Linux 6.14), which rustix does not name: drops the pages that this very read
/// brought in and leaves those that the trainer had there.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// Bytes read at a time around the cache: of a piece that is not there from its beginning, all is
/// dropped.
const PIECE: usize = 256 << 10;
/// Smallest page of any machine.
const PAGE: u64 = 4096;

/// How a file that is open is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Cache {
    /// Past the cache.
    #[default]
    Past,
    /// What it holds from it, and what it does not is dropped again after it was read.
    Around {
        /// A place that was not there when last asked for.
        missing: Option<u64>,
    },
    /// The file system does not say what it holds: the pages stay. To drop them could be to drop the
    /// trainer's.
    Through,
}

impl Cache {
    /// Reads up to a buffer's length from there; 0 bytes at the end of the file.
    pub(super) fn read_at(&mut self, file: &File, buf: &mut [u8], at: u64) -> io::Result<usize> {
        if *self == Self::Past {
            match preadv2(file, &mut [IoSliceMut::new(buf)], at, DONTCACHE) {
                Err(error) if cannot(error) => self.go_around(file),
                result => return Ok(result?),
            }
        }
        if let Self::Around { missing } = self {
            match around(file, buf, at, missing) {
                Err(error) if cannot(error) => *self = Self::Through,
                result => return Ok(result?),
            }
        }
        file.read_at(buf, at)
    }

    fn go_around(&mut self, file: &File) {
        // What the kernel reads ahead would look as if the trainer had brought it in.
        let _ = fadvise(file, 0, None, Advice::Random);
        *self = Self::Around { missing: None };
    }
}

/// Whether the kernel or the file system does not know a way of reading.
fn cannot(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
}

fn around(file: &File, buf: &mut [u8], at: u64, missing: &mut Option<u64>) -> Result<usize, Errno> {
    // What begins or ends within a page is read by itself, so that all else are whole pages.
    let within = at.rem_euclid(PAGE);
    let rest = usize::try_from(PAGE.saturating_sub(within)).unwrap_or(PIECE);
    let whole = buf.len().min(PIECE) & !0xfff;
    let most = if within == 0 && whole > 0 { whole } else { rest.min(buf.len()) };
    let piece = buf.get_mut(..most).unwrap_or_default();
    // Newer kernels begin to read what is asked for and is not there: it must not be asked for twice.
    if missing.take() != Some(at) {
        match preadv2(file, &mut [IoSliceMut::new(piece)], at, ReadWriteFlags::NOWAIT) {
            Err(Errno::AGAIN) => {}
            result => {
                let n_read = result?;
                *missing = (n_read < piece.len()).then(|| at.saturating_add(n_read as u64));
                return Ok(n_read);
            }
        }
    }
    let n_read = pread(file, piece, at)?;
    let (first, end) = (at.saturating_sub(within), at.saturating_add(n_read as u64));
    let n_bytes = end.next_multiple_of(PAGE).saturating_sub(first);
    let _ = fadvise(file, first, NonZeroU64::new(n_bytes), Advice::DontNeed);
    Ok(n_read)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const N: u64 = 4 << 20;

    /// Bytes of a file that are in the cache, by util-linux; `None` where that is not installed, which
    /// it must be where all checks run.
    fn cached(path: &Path) -> Option<u64> {
        let mut fincore = std::process::Command::new("fincore");
        let out = fincore.args(["--bytes", "--noheadings", "--output", "RES"]).arg(path).output();
        let is_required = std::env::var_os("WEIGHTVANE_REQUIRE_PROMTOOL").is_some();
        let out = out.inspect_err(|error| assert!(!is_required, "fincore: {error}")).ok()?;
        Some(String::from_utf8(out.stdout).unwrap().trim().parse().unwrap())
    }

    /// Reads a file in chunks as the readers of tensors do, from a place within a page.
    fn read_all(file: &File, cache: &mut Cache) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(N).unwrap() - 100];
        for (i, chunk) in bytes.chunks_mut(1 << 20).enumerate() {
            let (mut at, mut rest) = (50 + ((i as u64) << 20), chunk);
            while !rest.is_empty() {
                let n_read = cache.read_at(file, rest, at).unwrap();
                assert!(n_read > 0);
                at += n_read as u64;
                rest = &mut rest[n_read..];
            }
        }
        bytes
    }

    #[test]
    fn the_page_cache_is_left_as_it_was_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..N).map(|i| (i / PAGE % 251) as u8).collect();
        fs::write(&path, &content).unwrap();
        let trainer = File::open(&path).unwrap();
        trainer.sync_all().unwrap();
        fadvise(&trainer, 0, None, Advice::Random).unwrap();
        for way in [Cache::Past, Cache::Around { missing: None }] {
            fadvise(&trainer, 0, None, Advice::DontNeed).unwrap();
            if cached(&path) != Some(0) {
                // A file system in memory.
                return;
            }
            // The trainer has a quarter of it in memory.
            let quarter = usize::try_from(N / 4).unwrap();
            trainer.read_exact_at(&mut vec![0; quarter], N / 4).unwrap();
            assert_eq!(cached(&path), Some(N / 4));
            let file = File::open(&path).unwrap();
            let mut cache = way;
            if way != Cache::Past {
                cache.go_around(&file);
            }
            assert!(read_all(&file, &mut cache) == content[50..content.len() - 50]);
            assert_eq!(cached(&path), Some(N / 4), "{way:?}");
            for at in [N / 4, N / 2 - 1] {
                let now = ReadWriteFlags::NOWAIT;
                let read = preadv2(&trainer, &mut [IoSliceMut::new(&mut [0])], at, now);
                assert_eq!(read, Ok(1), "{way:?} dropped what the trainer had");
            }
        }
    }
}
