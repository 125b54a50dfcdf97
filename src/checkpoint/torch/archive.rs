//! The zip archive: `NAME/data.pkl`, `NAME/data/KEY`, `NAME/byteorder`.

use std::collections::HashMap;

use super::{Saved, Storages, TorchError};
use crate::checkpoint::error::one_line;
use crate::checkpoint::fill::Fill;
use crate::checkpoint::pickle::{self, Input, Limits};
use crate::checkpoint::zip::{self, Entry, Method};

/// Bytes of the pickle.
const MAX_PICKLE: u64 = 64 << 20;

pub(super) fn read(fill: &mut Fill<'_>, start: u64, end: u64) -> Result<Saved, TorchError> {
    let entries = zip::entries(fill, start, end)?;
    let pickles: Vec<&Entry> = entries.iter().filter(|e| e.name.ends_with("/data.pkl")).collect();
    let [pickle] = pickles.as_slice() else {
        let n = pickles.len();
        return Err(TorchError::NotWeights(format!(
            "a zip archive with {n} data.pkl, where torch.save writes one"
        )));
    };
    let folder = pickle.name.strip_suffix("data.pkl").unwrap_or_default();
    if entries.iter().any(|entry| entry.name.strip_prefix(folder) == Some("constants.pkl")) {
        return Err(TorchError::NotWeights("a TorchScript program".to_owned()));
    }
    if let Some(entry) = entries.iter().find(|entry| entry.method != Method::Stored) {
        return Err(TorchError::Malformed(format!(
            "found entry {} compressed, expected all of them stored as torch.save does",
            one_line(&entry.name)
        )));
    }
    if pickle.n_bytes > MAX_PICKLE {
        return Err(TorchError::NotWeights(format!(
            "a pickle of {} bytes, where at most {MAX_PICKLE} are read",
            pickle.n_bytes
        )));
    }
    let is_big = byte_order(fill, &entries, folder)?;
    let places: HashMap<String, (u64, u64)> = entries
        .iter()
        .filter_map(|entry| {
            let key = entry.name.strip_prefix(folder)?.strip_prefix("data/")?;
            Some((key.to_owned(), (entry.offset, entry.n_bytes)))
        })
        .collect();
    let pickle_end = pickle.offset.saturating_add(pickle.n_bytes);
    let mut input = Input::new(fill, pickle.offset, pickle_end);
    let (heap, root) = pickle::read(&mut input, Limits::STATE).map_err(|error| match error {
        // The archive is whole, so its pickle would be.
        pickle::PickleError::Short => {
            TorchError::NotWeights("a pickle that ends without its end mark".to_owned())
        }
        other => other.into(),
    })?;
    if input.n_left() > 0 {
        return Err(TorchError::Malformed(format!(
            "found {} bytes behind the end of data.pkl, expected none",
            input.n_left()
        )));
    }
    Ok(Saved { heap, root, storages: Storages { places, is_big } })
}

/// Whether the most significant byte stands first; archives before PyTorch 2.1 do not say.
fn byte_order(fill: &mut Fill<'_>, entries: &[Entry], folder: &str) -> Result<bool, TorchError> {
    let named = |entry: &&Entry| entry.name.strip_prefix(folder) == Some("byteorder");
    let Some(entry) = entries.iter().find(named) else { return Ok(false) };
    let mut text = vec![0; usize::try_from(entry.n_bytes).unwrap_or(0).min(16)];
    fill(entry.offset, &mut text).map_err(TorchError::Open)?;
    match text.as_slice() {
        b"little" => Ok(false),
        b"big" => Ok(true),
        _ => Err(TorchError::Malformed("found no byte order in `byteorder`".to_owned())),
    }
}
