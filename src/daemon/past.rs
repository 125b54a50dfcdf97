//! Runs that are no longer there, as far as others are compared with them.

use std::collections::BTreeMap;

use super::trend::Trend;

/// Runs remembered; of more, the first by name is forgotten.
const MAX_RUNS: usize = 1000;

/// Name → what the saves of a run that is gone said together.
#[derive(Debug, Default)]
pub(super) struct Past {
    runs: BTreeMap<String, Trend>,
}

impl Past {
    /// Remembers a run; of two with one name, the later.
    pub(super) fn keep(&mut self, name: &str, trend: Trend) {
        self.runs.insert(name.to_owned(), trend);
        if self.runs.len() > MAX_RUNS {
            self.runs.pop_first();
        }
    }

    /// Those whose names are wanted.
    pub(super) fn matching(&self, wanted: &dyn Fn(&str) -> bool) -> impl Iterator<Item = &Trend> {
        self.runs.iter().filter(move |(name, _)| wanted(name)).map(|(_, trend)| trend)
    }
}
