//! Reads from several files, one descriptor at a time and none for long.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use super::SourceFile;
use super::error::ReadError;
use super::source::{OpenFile, SourceError, StaleTries, Stretch};

/// Reads from the files of a checkpoint in stretches: after so many bytes or so much time, or when
/// another file is asked for, the descriptor is closed, the file's identity is compared, and the
/// caller gets a pause. What was read counts only once [`Stretches::end`] is good.
pub(super) struct Stretches<'a> {
    files: &'a [SourceFile],
    stretch: Stretch,
    open: Option<Open<'a>>,
    /// What will be read in order, of which file.
    ahead: (usize, Range<u64>),
    n_read: u64,
    pause: &'a mut dyn FnMut(u64),
}

struct Open<'a> {
    index: usize,
    file: OpenFile<'a>,
    since: Instant,
}

impl<'a> Stretches<'a> {
    pub(super) fn new(
        files: &'a [SourceFile],
        stretch: Stretch,
        pause: &'a mut dyn FnMut(u64),
    ) -> Self {
        Self { files, stretch, open: None, ahead: (0, 0..0), n_read: 0, pause }
    }

    /// Says that this range of a file will be read in order; it matters where a read takes a request.
    pub(super) fn expect_reads(&mut self, index: usize, range: Range<u64>) {
        if let Some(open) = self.open.as_mut().filter(|open| open.index == index) {
            open.file.expect_reads(range.clone());
        }
        self.ahead = (index, range);
    }

    /// Fills the buffer from that place of that file.
    pub(super) fn read_exact_at(
        &mut self,
        index: usize,
        buf: &mut [u8],
        at: u64,
    ) -> Result<(), ReadError> {
        let fresh = |open: &Open<'_>| {
            self.n_read < self.stretch.n_bytes && open.since.elapsed() < self.stretch.longest
        };
        let is_fresh = self.open.as_ref().is_none_or(|open| open.index == index && fresh(open));
        if !is_fresh {
            self.rest(Some(index))?;
        }
        let Some(file) = self.files.get(index) else { return Ok(()) };
        let mut tries = StaleTries::default();
        loop {
            match self.try_read(index, file, buf, at) {
                Err(error) if tries.again(&error) => self.open = None,
                result => return result.map_err(|error| file.read_error(error)),
            }
        }
    }

    /// Path of a file, for messages.
    pub(super) fn path(&self, index: usize) -> PathBuf {
        self.files.get(index).map(|file| file.path.clone()).unwrap_or_default()
    }

    fn try_read(
        &mut self,
        index: usize,
        source: &'a SourceFile,
        buf: &mut [u8],
        at: u64,
    ) -> Result<(), SourceError> {
        if self.open.is_none() {
            let mut file = OpenFile::open_known(&source.path, &source.identity)?;
            if self.ahead.0 == index {
                file.expect_reads(self.ahead.1.clone());
            }
            self.open = Some(Open { index, file, since: Instant::now() });
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.file.read_exact_at(buf, at)?;
        self.n_read = self.n_read.saturating_add(buf.len() as u64);
        Ok(())
    }

    /// Ends a stretch; what holds nothing open stays for the `next` one if that is of the same file.
    fn rest(&mut self, next: Option<usize>) -> Result<(), ReadError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        if next == Some(open.index) && open.file.holds_nothing() {
            self.open = Some(Open { since: Instant::now(), ..open });
        } else if let Some(source) = self.files.get(open.index) {
            open.file.close().map_err(|error| source.read_error(error))?;
        }
        (self.pause)(std::mem::take(&mut self.n_read));
        Ok(())
    }

    /// The last look at the last file: whether all that was read holds.
    pub(super) fn end(mut self) -> Result<(), ReadError> {
        self.rest(None)
    }
}
