//! Where a value stands in the file, for errors.

use std::path::Path;

use super::ConfigError;

/// The file being checked.
pub(super) struct Place<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Place<'_> {
    pub(super) fn error(&self, key: &str, message: String) -> ConfigError {
        let starts = |line: &str| {
            // Keys of entries are indented, and the first of an entry stands behind a dash.
            let line = line.trim_start_matches([' ', '-']);
            line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':'))
        };
        let line = self.text.lines().position(starts).map_or(1, |at| at + 1);
        ConfigError::Value { path: self.path.to_owned(), line, key: key.to_owned(), message }
    }
}
