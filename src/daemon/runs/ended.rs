//! What people say of the end of a run.

use tracing::info;

use super::{Run, save_time, seconds};
use crate::watch::EndMark;

impl Run {
    /// Takes in the end marks of a scan of its root; one that was there before is gone only if the scan
    /// saw everything.
    pub(in crate::daemon) fn marked(&mut self, marks: &[EndMark], is_whole: bool) {
        let mine = marks.iter().filter(|mark| self.path.starts_with(&mark.directory));
        let newest = mine.map(|mark| seconds(mark.mtime_ns)).reduce(f64::max);
        let was_ended = self.ended_at().is_some();
        if newest.is_some() || is_whole {
            self.end_mark = newest;
        }
        if !was_ended && self.ended_at().is_some() {
            info!(run = self.name, "run has ended, as its mark says");
        }
    }

    /// When someone said that it had ended, Unix seconds, if nothing was saved since. Both times are
    /// those of files of one file system, never of a clock.
    pub(super) fn ended_at(&self) -> Option<f64> {
        let newest = self.latest_save().map_or(self.analyzed_time, save_time);
        self.end_mark.filter(|mark| newest.is_none_or(|saved| *mark >= saved))
    }
}
