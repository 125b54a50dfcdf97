//! What hints add to what scans have seen.

use std::path::Path;
use std::time::Duration;

use super::Settler;
use super::entry::{Entry, Heard, entry_of};
use crate::watch::hint::FileEvent;
use crate::watch::names::{self, FileKind};

impl Settler {
    pub(super) fn hear(&mut self, now: Duration, hints: &[FileEvent]) {
        // A file written between mkdir and the watch sends no event: look once more.
        match self.rescan_at {
            _ if !hints.is_empty() => self.rescan_at = Some(now.saturating_add(self.rules.quiet)),
            Some(at) if at <= now => self.rescan_at = None,
            _ => {}
        }
        for hint in hints {
            let path = match hint {
                FileEvent::Rescan => {
                    self.entries.values_mut().for_each(Entry::touched);
                    continue;
                }
                FileEvent::Touched(path) | FileEvent::Closed(path) | FileEvent::Removed(path) => {
                    path
                }
            };
            // A writer who closes one file may go on to its copy.
            if let Some(home) = path.parent().and_then(|home| self.homes.get_mut(home)) {
                home.changed_at = now;
            }
            match hint {
                FileEvent::Touched(_) => self.touch(now, path),
                FileEvent::Closed(_) => self.close(path),
                FileEvent::Removed(_) => self.removed(path),
                FileEvent::Rescan => {}
            }
        }
    }

    /// What was called unfinished is finished once nobody calls it so and it is still there.
    fn removed(&mut self, path: &Path) {
        let Some(name) = path.file_name().map(names::escape) else { return };
        let Some(whose) = names::unfinished(&name) else { return };
        for name in names::with_endings(whose) {
            if let Some(entry) = self.entries.get_mut(&path.with_file_name(name)) {
                entry.heard = Heard::Finished;
            }
        }
    }

    fn touch(&mut self, now: Duration, path: &Path) {
        if let Some(entry) = entry_of(&mut self.entries, path)
            && entry.is_content_file(path)
        {
            entry.changed_at = now;
            entry.touched();
        }
    }

    fn close(&mut self, path: &Path) {
        let Some(entry) = entry_of(&mut self.entries, path) else { return };
        if entry.found.path == path && !entry.is_file() {
            entry.heard = Heard::Finished;
        }
        if entry.heard != Heard::Finished && entry.is_content_file(path) {
            let name = entry.name_of(path);
            // A shard that is finished after the index may not be the one that the index names.
            let is_last = match entry.found.file(FileKind::Index) {
                Some(index) => index.name == name,
                None => entry.found.weights().count() == 1 && names::is_alone(&name),
            };
            entry.heard = if is_last { Heard::Closed } else { Heard::Nothing };
        }
    }
}
