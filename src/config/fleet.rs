//! What tells one of many daemons: its labels, and its part of the runs.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::place::Place;
use super::{ConfigError, Settings};
use crate::metrics::Labels;
use crate::watch::{MAX_SHARDS, Shard};

/// The labels that a file means.
pub(super) fn labels(
    wire: Option<BTreeMap<String, Value>>,
    at: &Place<'_>,
) -> Result<Labels, ConfigError> {
    let mut labels = Labels::default();
    for (name, value) in wire.unwrap_or_default() {
        let text = match &value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => {
                let found = format!("found no text for `{name}`, expected lines of `name: value`");
                return Err(at.error("labels", found));
            }
        };
        labels.set(&name, &text).map_err(|error| at.error("labels", error.to_string()))?;
    }
    Ok(labels)
}

/// The number and the total of shards. The number may come by the command line.
pub(super) fn shards(
    shard: Option<usize>,
    total: Option<usize>,
    at: &Place<'_>,
) -> Result<(Option<u32>, u32), ConfigError> {
    let total = at.count("total_shards", total, 1, 1..=MAX_SHARDS as usize)?;
    if let Some(found) = shard.filter(|found| *found >= total) {
        return Err(at.error("shard", format!("found {found}, {}", expected(total))));
    }
    let small = |n: usize| u32::try_from(n).unwrap_or(MAX_SHARDS);
    Ok((shard.map(small), small(total)))
}

fn expected(total: impl std::fmt::Display) -> String {
    format!("expected a number from 0 on and below total_shards, which is {total}")
}

impl Settings {
    /// Which of the runs are this daemon's own; what a command line says wins over the file.
    ///
    /// # Errors
    /// When the number is not below the total, or there is none and more than one shard: several daemons
    /// that all take the first part would leave the others to nobody. One line.
    pub fn own_shard(&self, ordinal: Option<u32>, total: Option<u32>) -> Result<Shard, String> {
        let total = total.unwrap_or(self.total_shards);
        let Some(ordinal) = ordinal.or(self.shard).or((total == 1).then_some(0)) else {
            return Err(format!("shard: found none, {}", expected(total)));
        };
        Shard::new(ordinal, total)
            .ok_or_else(|| format!("shard: found {ordinal}, {}", expected(total)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_wins_and_more_than_one_shard_needs_a_number() {
        let file = Settings { total_shards: 3, ..Settings::default() };
        assert_eq!(Settings::default().own_shard(None, None), Ok(Shard::default()));
        assert_eq!(file.own_shard(Some(2), None), Ok(Shard::new(2, 3).unwrap()));
        assert_eq!(file.own_shard(Some(3), Some(4)), Ok(Shard::new(3, 4).unwrap()));
        assert_eq!(file.own_shard(None, Some(1)), Ok(Shard::default()));
        for (ordinal, total, found) in [
            (None, None, "found none"),
            (Some(3), None, "found 3"),
            (Some(1), Some(1), "found 1"),
            (None, Some(2), "found none"),
        ] {
            let said = file.own_shard(ordinal, total).unwrap_err();
            assert!(said.starts_with("shard: ") && said.contains(found), "{said}");
            assert!(said.contains("below total_shards, which is "), "{said}");
        }
    }
}
