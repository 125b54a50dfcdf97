//! The records beside the weights: `config.json` and `trainer_state.json`.

use std::cell::Cell;
use std::path::Path;

use serde::de::DeserializeSeed;

use super::error::{OpenError, one_line};
use super::json::{BoundedValue, mark_non_finite};
use super::source::{self, SourceError};
use super::trainer::{self, MAX_TRAINER_STATE};
use super::{Manifest, SourceFile};

/// Largest `config.json` that is read.
const MAX_CONFIG: u64 = 4 << 20;
/// Values in a `config.json`; the label lists of ImageNet-21k need 50 thousand.
const MAX_CONFIG_VALUES: usize = 1 << 18;

/// The name of an adapter's description.
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The model's description; without it the names and shapes must do.
pub(super) fn add_config(manifest: &mut Manifest, path: &Path) {
    let config = description(manifest, path, "config.json");
    manifest.config = config.or(manifest.config.take());
}

/// The description of an adapter; without it its scale and its base are not known.
pub(super) fn add_adapter(manifest: &mut Manifest, directory: &Path) {
    let config = description(manifest, &directory.join(ADAPTER_CONFIG), ADAPTER_CONFIG);
    manifest.adapter = config.or(manifest.adapter.take());
}

/// A small JSON file of that name, or a note of why it is left out.
fn description(manifest: &mut Manifest, path: &Path, name: &str) -> Option<serde_json::Value> {
    let told = match source::read_whole(path, MAX_CONFIG) {
        Err(SourceError::Gone) => return None,
        Ok((Some(json), identity)) => Ok((json, identity)),
        Ok((None, identity)) => {
            Err(format!("found {} bytes, expected at most {MAX_CONFIG}", identity.size))
        }
        Err(error) => Err(words(&error)),
    };
    let read = told.and_then(|(mut json, identity)| {
        let n_marked = mark_non_finite(&mut json);
        let value = bounded_value(&json).map_err(|error| one_line(&error.to_string()))?;
        Ok((value, identity, n_marked))
    });
    match read {
        Ok((value, identity, n_marked)) => {
            if n_marked > 0 {
                let text = format!("{name}: numbers that are not finite read as null");
                manifest.notes.push(text);
            }
            let path = path.to_owned();
            manifest.sidecars.push(SourceFile { path, identity, ..SourceFile::default() });
            Some(value)
        }
        Err(why) => {
            manifest.notes.push(format!("{name} left out: {why}"));
            None
        }
    }
}

/// A JSON text as a value, of a bounded number of parts.
pub(super) fn bounded_value(json: &[u8]) -> Result<serde_json::Value, serde_json::Error> {
    let n_left = Cell::new(MAX_CONFIG_VALUES);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let config = BoundedValue(&n_left).deserialize(&mut deserializer)?;
    deserializer.end().map(|()| config)
}

/// The model's description inside the weight file, as nanoGPT's `model_args`: a JSON object in the
/// metadata.
pub(super) fn add_config_of_metadata(manifest: &mut Manifest) {
    let stated = |file: &SourceFile| {
        ["model_args", "config"].iter().find_map(|key| file.metadata.get(*key).cloned())
    };
    let Some(text) = manifest.files.iter().find_map(stated) else { return };
    match bounded_value(text.as_bytes()) {
        Ok(config) if config.is_object() => {
            manifest.config = Some(config);
            manifest
                .notes
                .push("model description taken from the metadata of the weight file".into());
        }
        _ => manifest
            .notes
            .push("metadata of the weight file: model description is no JSON object".into()),
    }
}

/// The trainer's record. Trainers write it last and in place, so one that ends early means that the
/// save goes on.
pub(super) fn add_trainer(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
    let (mut json, identity) = match source::read_whole(path, MAX_TRAINER_STATE) {
        Err(SourceError::Gone) => return Ok(()),
        Err(SourceError::Changed) => return Err(OpenError::Changed { path: path.to_owned() }),
        Ok((Some(json), identity)) => (json, identity),
        Ok((None, identity)) => {
            let n_bytes = identity.size;
            manifest.notes.push(format!(
                "trainer_state.json left out: found {n_bytes} bytes, expected at most {MAX_TRAINER_STATE}"
            ));
            return Ok(());
        }
        Err(error) => {
            manifest.notes.push(format!("trainer_state.json left out: {}", words(&error)));
            return Ok(());
        }
    };
    let trainer = trainer::parse(&mut json).map_err(|error| OpenError::Incomplete {
        path: path.to_owned(),
        what: format!("found no whole record, expected JSON: {}", one_line(&error.to_string())),
    })?;
    manifest.trainer = Some(trainer);
    manifest.sidecars.push(SourceFile { path: path.to_owned(), identity, ..SourceFile::default() });
    Ok(())
}

fn words(error: &SourceError) -> String {
    match error {
        SourceError::Gone => "found nothing".to_owned(),
        SourceError::NotAFile(found) => format!("found {found}, expected a regular file"),
        SourceError::Changed => "found it changed while it was read".to_owned(),
        SourceError::Io(error) => one_line(&error.to_string()),
    }
}
