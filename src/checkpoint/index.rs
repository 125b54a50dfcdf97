//! `model.safetensors.index.json`: which tensor lies in which shard.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::error::shown;
use super::safetensors::{MAX_TENSORS, Name};

/// Largest index that is read; that of a model of 10^12 weights has about 12 MiB.
pub(super) const MAX_INDEX: u64 = 24 << 20;
/// Shards of one checkpoint.
const MAX_SHARDS: usize = 4096;
/// Longest file name that Linux takes.
const MAX_FILE_NAME: usize = 255;

/// The tensor names of every shard, by the shard's plain file name; names in plain order, each
/// once over all shards.
pub(super) type Shards = BTreeMap<String, Vec<String>>;

/// Parses an index whose shards have names of that ending.
///
/// # Errors
/// The parser's complaint; `is_eof` says that the text ends early.
pub(super) fn parse(json: &[u8], ending: &'static str) -> Result<Shards, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let visitor = IndexVisitor { ending };
    let shards = serde::Deserializer::deserialize_map(&mut deserializer, visitor)?;
    deserializer.end()?;
    Ok(shards)
}

struct IndexVisitor {
    ending: &'static str,
}

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = Shards;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shards, A::Error> {
        let mut shards = None;
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::WeightMap if shards.is_some() => {
                    return Err(de::Error::custom("weight_map twice, expected once"));
                }
                Key::WeightMap => {
                    shards = Some(map.next_value_seed(WeightMap { ending: self.ending })?);
                }
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        shards.ok_or_else(|| de::Error::custom("no weight_map"))
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Key {
    WeightMap,
    #[serde(other)]
    Other,
}

struct WeightMap {
    ending: &'static str,
}

impl<'de> DeserializeSeed<'de> for WeightMap {
    type Value = Shards;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Shards, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap {
    type Value = Shards;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of file names by tensor name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shards, A::Error> {
        let mut shards = Shards::new();
        let mut n_tensors = 0_usize;
        while let Some(tensor) = map.next_key_seed(Name)? {
            n_tensors = n_tensors.saturating_add(1);
            if n_tensors > MAX_TENSORS {
                return Err(de::Error::custom("more than 2^18 tensors, expected fewer"));
            }
            let shard = map.next_value_seed(Name)?;
            if let Some(tensors) = shards.get_mut(&shard) {
                tensors.push(tensor);
                continue;
            }
            if !is_plain(&shard, self.ending) {
                let text =
                    format!("shard {}, expected a plain {} file name", shown(&shard), self.ending);
                return Err(de::Error::custom(text));
            }
            if shards.len() == MAX_SHARDS {
                return Err(de::Error::custom("more than 4096 shards, expected fewer"));
            }
            shards.insert(shard, vec![tensor]);
        }
        if shards.is_empty() {
            return Err(de::Error::custom("an empty weight_map, expected tensors"));
        }
        refuse_twice(&mut shards)?;
        Ok(shards)
    }
}

/// A name that cannot lead out of the checkpoint's directory.
fn is_plain(name: &str, ending: &str) -> bool {
    let has_path = name.contains(['/', '\0']) || name.starts_with('.');
    !has_path && name.len() <= MAX_FILE_NAME && name.ends_with(ending)
}

/// Sorts the names and refuses those that stand in the index twice.
fn refuse_twice<E: de::Error>(shards: &mut Shards) -> Result<(), E> {
    for tensors in shards.values_mut() {
        tensors.sort();
    }
    let mut all: Vec<&str> = shards.values().flatten().map(String::as_str).collect();
    all.sort_unstable();
    let mut pairs = all.iter().zip(all.iter().skip(1));
    match pairs.find(|(a, b)| a == b) {
        Some((twice, _)) => Err(E::custom(format!("tensor {} twice, expected once", shown(twice)))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &[u8]) -> Result<Shards, serde_json::Error> {
        super::parse(json, ".safetensors")
    }

    #[test]
    fn names_by_shard() {
        let shards = parse(
            br#"{"metadata": {"total_size": 1e9}, "weight_map":
            {"b": "m-2.safetensors", "c": "m-1.safetensors", "a": "m-2.safetensors"}}"#,
        );
        let expected = [("m-1.safetensors", vec!["c"]), ("m-2.safetensors", vec!["a", "b"])];
        let expected =
            expected.map(|(k, v)| (k.to_owned(), v.into_iter().map(str::to_owned).collect()));
        assert_eq!(shards.unwrap(), BTreeMap::from(expected));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = format!("{}.safetensors", "a".repeat(250));
        for name in [
            "../x.safetensors",
            "/etc/x.safetensors",
            "a/x.safetensors",
            "..",
            ".",
            "",
            "x.bin",
            ".x.safetensors",
            "x\0.safetensors",
            &long,
        ] {
            let json = serde_json::json!({"weight_map": {"w": name}}).to_string();
            let error = parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("expected a plain"), "{name}: {error}");
        }
    }

    #[test]
    fn an_index_that_contradicts_itself_is_refused() {
        let shard = "m.safetensors";
        for (json, words) in [
            (format!(r#"{{"weight_map": {{"w": "{shard}", "w": "{shard}"}}}}"#), "twice"),
            (
                format!(r#"{{"weight_map": {{"w": "{shard}", "\u0077": "n.safetensors"}}}}"#),
                "twice",
            ),
            (format!(r#"{{"weight_map": {{"w": "{shard}"}}, "weight_map": {{}}}}"#), "twice"),
            (r#"{"weight_map": {}}"#.into(), "empty"),
            (r#"{"weight_map": []}"#.into(), "invalid type"),
            (r#"{"weight_map": {"w": 1}}"#.into(), "invalid type"),
            ("{}".into(), "no weight_map"),
            ("[]".into(), "expected an object"),
            (format!(r#"{{"weight_map": {{"w": "{shard}"}}}} x"#), "trailing"),
        ] {
            let error = parse(json.as_bytes()).unwrap_err();
            assert!(!error.is_eof() && error.to_string().contains(words), "{json}: {error}");
        }
        assert!(parse(br#"{"weight_map": {"w": "m.safe"#).unwrap_err().is_eof());
    }

    #[test]
    fn shards_are_counted() {
        let entry = |i: usize| format!(r#""{i}": "{i}.safetensors""#);
        let json = |n: usize| {
            let entries: Vec<String> = (0..n).map(entry).collect();
            format!(r#"{{"weight_map": {{{}}}}}"#, entries.join(","))
        };
        assert_eq!(parse(json(MAX_SHARDS).as_bytes()).unwrap().len(), MAX_SHARDS);
        let error = parse(json(MAX_SHARDS + 1).as_bytes()).unwrap_err().to_string();
        assert!(error.contains("4096 shards"), "{error}");
    }
}
