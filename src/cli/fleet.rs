//! What tells one of many daemons, on the command line.

use clap::Args;

use super::Failure;
use weightvane::config::Settings;
use weightvane::watch::{MAX_SHARDS, Shard};

/// Which part of the runs.
#[derive(Debug, Clone, Args)]
pub(super) struct ShardArgs {
    /// Of several daemons on the same directories the number of this one, from 0, or a name that ends
    /// with it, such as that of a pod in a stateful set: it measures its own part of the runs
    #[arg(long, value_name = "I", value_parser = ordinal)]
    shard: Option<u32>,
    /// How many there are [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    total_shards: Option<u32>,
}

impl ShardArgs {
    pub(super) fn shard(&self, settings: &Settings) -> Result<Shard, Failure> {
        settings.own_shard(self.shard, self.total_shards).map_err(Failure::usage)
    }
}

/// What every series bears.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct LabelArgs {
    /// A label for every series, such as `job=$SLURM_JOB_ID`; may be given several times, besides `labels`
    /// in the file
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

impl LabelArgs {
    /// Adds them to those of the file.
    pub(super) fn apply(&self, settings: &mut Settings) -> Result<(), String> {
        for (at, (name, value)) in self.labels.iter().enumerate() {
            if self.labels[..at].iter().any(|(before, _)| before == name) {
                return Err(format!("label: found `{name}` twice, expected once"));
            }
            settings.labels.set(name, value).map_err(|error| format!("label: {error}"))?;
        }
        Ok(())
    }
}

fn ordinal(text: &str) -> Result<u32, String> {
    let named = text.rsplit_once('-').filter(|(name, _)| !name.is_empty());
    let number = named.map_or(text, |(_, number)| number);
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let found = is_number.then(|| number.parse().ok()).flatten();
    found.ok_or_else(|| {
        "expected a number from 0 on, or a name that ends with one such as weightvane-2".to_owned()
    })
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_a_number_or_ends_a_name() {
        for (text, wanted) in [("0", 0), ("12", 12), ("weightvane-2", 2), ("a-b-1-03", 3)] {
            assert_eq!(ordinal(text), Ok(wanted), "{text}");
        }
        for text in ["", "weightvane", "weightvane-", "-", "-1", "a-1b", "+1", "99999999999", "1-"]
        {
            assert!(ordinal(text).is_err(), "{text}");
        }
    }
}
