//! Labels that every series bears, such as the number of a job.

use std::collections::BTreeMap;

use super::catalog::CATALOG;

/// Longest label value in bytes.
pub const MAX_LABEL_BYTES: usize = 256;

/// Most labels: with the widest family's own, `job` and `instance` they stay below the `label_limit` of
/// the Prometheus configuration that is shipped.
pub const MAX_LABELS: usize = 8;

/// What Prometheus puts before the name of a label that the target has as well.
const EXPORTED: &str = "exported_";

/// Why something is no label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Not a name as Prometheus has them.
    #[error("found the name `{0}`, expected letters, digits and _, no digit first")]
    Name(String),
    /// Kept by Prometheus for itself.
    #[error("found the name `{0}`, expected one that does not begin with __")]
    Reserved(String),
    /// One that says something else here.
    #[error("found the name `{0}`, which weightvane's own series have, expected another")]
    Own(String),
    /// To Prometheus an empty label is none.
    #[error("found no value for `{0}`, expected NAME=VALUE")]
    Empty(String),
    /// Too many.
    #[error("found more than {MAX_LABELS} labels, expected at most that many")]
    TooMany,
}

/// Names and values, the values cut and cleaned as those of all labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Adds a label; one of this name that is there is replaced.
    ///
    /// # Errors
    /// When it is no label or one too many.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), LabelError> {
        let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
        let is_name =
            name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit());
        let is_own = |name: &str| CATALOG.iter().any(|family| family.labels.contains(&name));
        let name = match name {
            _ if !is_name => return Err(LabelError::Name(clean_label(name))),
            _ if name.starts_with("__") => return Err(LabelError::Reserved(clean_label(name))),
            // Those of histograms and summaries.
            "le" | "quantile" => return Err(LabelError::Own(name.to_owned())),
            _ if is_own(name) => return Err(LabelError::Own(name.to_owned())),
            _ if value.is_empty() => return Err(LabelError::Empty(clean_label(name))),
            _ => name.to_owned(),
        };
        if self.0.len() >= MAX_LABELS && !self.0.contains_key(&name) {
            return Err(LabelError::TooMany);
        }
        self.0.insert(name, clean_label(value));
        Ok(())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// As Prometheus stores them after a scrape of a target that has labels of these names itself.
    pub(super) fn beside(&self, target: &[(&str, &str)]) -> Vec<(String, &str)> {
        let is_taken = |name: &str| target.iter().any(|(theirs, _)| *theirs == name);
        let stored = |(name, value)| {
            let mut name: String = name;
            if is_taken(&name) {
                name.insert_str(0, EXPORTED);
                while self.0.contains_key(&name) {
                    name.insert_str(0, EXPORTED);
                }
            }
            (name, value)
        };
        self.iter().map(|(name, value)| stored((name.to_owned(), value))).collect()
    }
}

/// A label value with control characters replaced by U+FFFD, of at most [`MAX_LABEL_BYTES`].
pub(super) fn clean_label(value: &str) -> String {
    // U+2028 and U+2029 end lines for some readers, and the bidirectional controls reorder what
    // follows them on a screen; both come only from hostile names.
    let hostile =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let replaced = value.replace(hostile, "\u{fffd}");
    cut(&replaced, MAX_LABEL_BYTES).to_owned()
}

pub(super) fn cut(value: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(value.len())).rfind(|idx| value.is_char_boundary(*idx));
    &value[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(name: &str, value: &str) -> String {
        let error = Labels::default().set(name, value).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error:?}");
        error
    }

    #[test]
    fn only_names_that_are_free_are_labels() {
        for name in ["", "1a", "a-b", "a b", "ä", "a\n", "a{", "a:b"] {
            assert!(refused(name, "x").contains("letters, digits"), "{name:?}");
        }
        for name in ["__", "__name__", "__a"] {
            assert!(refused(name, "x").contains("begin with __"), "{name}");
        }
        for name in ["run", "layer", "pair", "k", "root", "le", "severity", "quantile"] {
            assert!(refused(name, "x").contains("own series"), "{name}");
        }
        assert!(refused("job", "").contains("no value for `job`"));
        let mut labels = Labels::default();
        for name in ["job", "_a", "slurm_job", "A9"] {
            labels.set(name, "x").unwrap();
        }
        labels.set("job", "y").unwrap();
        assert_eq!(labels.iter().find(|(name, _)| *name == "job"), Some(("job", "y")));
        for i in 0..MAX_LABELS - 4 {
            labels.set(&format!("l{i}"), "x").unwrap();
        }
        assert_eq!(labels.set("more", "x"), Err(LabelError::TooMany));
        labels.set("job", "z").unwrap();
    }

    #[test]
    fn values_are_cleaned_and_cut() {
        let mut labels = Labels::default();
        labels.set("a", &("x".repeat(300) + "y")).unwrap();
        labels.set("b", "two\nlines").unwrap();
        let values: Vec<_> = labels.iter().map(|(_, value)| value.to_owned()).collect();
        assert_eq!(values, ["x".repeat(256).as_str(), "two\u{fffd}lines"]);
    }

    #[test]
    fn what_the_target_has_too_is_called_exported() {
        let mut labels = Labels::default();
        for name in ["job", "cluster", "exported_job"] {
            labels.set(name, name).unwrap();
        }
        let stored = labels.beside(&[("instance", "a:1"), ("job", "weightvane")]);
        let names: Vec<&str> = stored.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cluster", "exported_job", "exported_exported_job"]);
    }

    proptest! {
        #[test]
        fn labels_are_short_and_without_controls(value in any::<String>()) {
            let clean = clean_label(&value);
            prop_assert!(clean.len() <= MAX_LABEL_BYTES);
            prop_assert!(!clean.chars().any(char::is_control));
            prop_assert_eq!(clean_label(&clean), clean);
        }
    }
}
