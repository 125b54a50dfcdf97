//! Who an analysis reports to.

/// Told of progress, asked whether to go on.
pub trait Observer: Sync {
    /// `done` of `total` parts are measured.
    fn progress(&self, done: usize, total: usize);

    /// Whether the result is still wanted.
    fn cancelled(&self) -> bool {
        false
    }

    /// So many bytes were read, and no file is open: may sleep to keep to a rate.
    fn has_read(&self, _bytes: u64) {}
}

/// An observer that does not care.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&self, _done: usize, _total: usize) {}
}
