//! What Keras adds to HDF5: an archive around it, and names.
//!
//! Keras 3 numbers the variables of a layer; what they are follows from the class of the layer, which
//! is its name in the file, or from shapes that leave one choice.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::OpenError;
use super::fill::Fill;
use super::inflate::{InflateError, Inflater};
use super::one_file::{self, Contents, Refusal};
use super::sidecar::bounded_value;
use super::zip::{self, Entry, Method};
use super::{Manifest, hdf5};

const WEIGHTS: &str = "model.weights.h5";
const CONFIG: &str = "config.json";
/// Bytes of the description of the model, as stored and as they were.
const MAX_CONFIG: u64 = 4 << 20;

/// Layers by the names that the saver makes of their classes, and their variables in order.
const LAYERS: [(&str, &[&str]); 15] = [
    ("dense", &["kernel", "bias"]),
    ("einsum_dense", &["kernel", "bias"]),
    // Parts of MultiHeadAttention.
    ("query_dense", &["kernel", "bias"]),
    ("key_dense", &["kernel", "bias"]),
    ("value_dense", &["kernel", "bias"]),
    ("output_dense", &["kernel", "bias"]),
    ("conv1d", &["kernel", "bias"]),
    ("conv2d", &["kernel", "bias"]),
    ("conv3d", &["kernel", "bias"]),
    ("embedding", &["embeddings"]),
    ("batch_normalization", &["gamma", "beta", "moving_mean", "moving_variance"]),
    ("layer_normalization", &["gamma", "beta"]),
    ("group_normalization", &["gamma", "beta"]),
    ("unit_normalization", &[]),
    ("rms_normalization", &["scale"]),
];
/// Layers between which a network is still a chain of matrices and one activation.
const PLAIN: [&str; 5] = ["InputLayer", "Dense", "Dropout", "Flatten", "GaussianNoise"];

/// Adds an HDF5 file, under the names that Keras has for its arrays if it wrote it.
pub(super) fn add_hdf5(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
    one_file::add(manifest, path, |fill, size| {
        let mut contents = hdf5::read(fill, 0, size)?;
        name_all(&mut contents);
        Ok(contents)
    })
}

/// Adds an archive of Keras 3.
pub(super) fn add(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
    one_file::add(manifest, path, read)
}

fn read(fill: &mut Fill<'_>, size: u64) -> Result<Contents, Refusal> {
    let entries = zip::entries(fill, 0, size)?;
    let named = |name: &str| entries.iter().find(|entry| entry.name == name);
    let Some(weights) = named(WEIGHTS) else {
        let found = format!("an archive of {} entries without {WEIGHTS}", entries.len());
        return Err(Refusal::NotWeights(found));
    };
    if weights.method != Method::Stored {
        let found = format!("{WEIGHTS} compressed, where it is read as Keras stores it");
        return Err(Refusal::NotWeights(found));
    }
    let mut contents = hdf5::read(fill, weights.offset, weights.n_bytes)?;
    name_all(&mut contents);
    if let Some(entry) = named(CONFIG) {
        match config(fill, entry)? {
            Some(config) => {
                let activation = activation(&config).map(|activation| {
                    let map = Map::from_iter([("activation".to_owned(), activation.into())]);
                    (format!("{CONFIG} in the archive"), Value::Object(map))
                });
                contents.config = activation;
            }
            None => contents.notes.push(format!("{CONFIG} in the archive left out: no JSON")),
        }
    }
    Ok(contents)
}

/// The description of the model; none if it is not to be had.
fn config(fill: &mut Fill<'_>, entry: &Entry) -> Result<Option<Value>, Refusal> {
    if entry.n_bytes > MAX_CONFIG || entry.n_stored > MAX_CONFIG {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(entry.n_bytes).unwrap_or(0)];
    match entry.method {
        Method::Stored => fill(entry.offset, &mut bytes)?,
        Method::Deflated => {
            let mut inflater = Inflater::new(entry.offset, entry.n_stored);
            match inflater.read(fill, 0, &mut bytes) {
                Ok(()) => {}
                Err(InflateError::Source(error)) => return Err(error.into()),
                Err(InflateError::Broken) => return Ok(None),
            }
        }
        Method::Other(_) => return Ok(None),
    }
    Ok(bounded_value(&bytes).ok())
}

/// The one activation between the matrices of a network that is nothing but a chain of them.
fn activation(config: &Value) -> Option<String> {
    if config.get("class_name")?.as_str()? != "Sequential" {
        return None;
    }
    let layers = config.get("config")?.get("layers")?.as_array()?;
    let mut activations = Vec::new();
    for layer in layers {
        let class = layer.get("class_name")?.as_str()?;
        if !PLAIN.contains(&class) {
            return None;
        }
        if class == "Dense" {
            activations.push(layer.get("config")?.get("activation")?.as_str()?);
        }
    }
    // What the last one applies is behind the chain.
    activations.pop()?;
    let (first, rest) = activations.split_first()?;
    rest.iter().all(|other| other == first).then(|| (*first).to_owned())
}

/// Gives the variables of Keras the names of their roles, and takes away what is in front of all.
fn name_all(contents: &mut Contents) {
    let legacy = "model_weights/";
    if contents.tensors.iter().any(|tensor| tensor.name.starts_with(legacy)) {
        for tensor in &mut contents.tensors {
            if let Some(name) = tensor.name.strip_prefix(legacy) {
                tensor.name = name.into();
            }
        }
    }
    // Variables by layer: number in the file, place in the list.
    let mut layers: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    for (at, tensor) in contents.tensors.iter().enumerate() {
        let Some((layer, number)) = tensor.name.split_once("/vars/") else { continue };
        if let Ok(number) = number.parse() {
            layers.entry(layer.to_owned()).or_default().push((number, at));
        }
    }
    for (layer, mut variables) in layers {
        variables.sort_unstable();
        let is_all = variables.iter().enumerate().all(|(i, (number, _))| i == *number);
        let shapes = variables.iter().filter_map(|(_, at)| contents.tensors.get(*at));
        let shapes: Vec<&[usize]> = shapes.map(|tensor| tensor.shape.as_slice()).collect();
        let Some(roles) = roles(&layer, &shapes).filter(|_| is_all) else { continue };
        for ((_, at), role) in variables.iter().zip(roles) {
            if let Some(tensor) = contents.tensors.get_mut(*at) {
                tensor.name = format!("{layer}/{role}").into();
            }
        }
    }
}

/// What the variables of a layer are, by its class or their shapes.
fn roles(layer: &str, shapes: &[&[usize]]) -> Option<&'static [&'static str]> {
    let name = layer.rsplit('/').next().unwrap_or(layer);
    let numbered = name.rsplit_once('_').filter(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()));
    let class = numbered.map_or(name, |(class, _)| class);
    let of_class = LAYERS.iter().find(|(known, _)| *known == class).map(|(_, roles)| *roles);
    let kernel = &["kernel", "bias"];
    match (of_class, shapes) {
        // A bias is a vector of what the kernel writes; without it there is the kernel alone.
        (Some(roles), [kernel]) if roles.first() == Some(&"kernel") => {
            (kernel.len() > 1).then_some(roles)
        }
        (Some(["kernel", "bias"]), [kernel, bias]) => {
            (kernel.len() > 1 && bias.last() == kernel.last()).then_some(&["kernel", "bias"])
        }
        (Some(roles), shapes) => (roles.len() == shapes.len()).then_some(roles),
        // A layer that bears its own name, of a class that is not said.
        (None, [[_, out], [bias]]) if out == bias => Some(kernel),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_are_what_the_class_or_the_shapes_say() {
        let check = |layer: &str, shapes: &[&[usize]], expected: Option<&[&str]>| {
            assert_eq!(roles(layer, shapes), expected, "{layer} {shapes:?}");
        };
        let kernel: Option<&[&str]> = Some(&["kernel", "bias"]);
        check("layers/dense", &[&[3, 4], &[4]], kernel);
        check("layers/dense_12", &[&[3, 4]], kernel);
        check("layers/dense", &[&[3, 4], &[3]], None);
        check("layers/dense", &[&[3, 4], &[4], &[4]], None);
        check("encoder/fc1", &[&[3, 4], &[4]], kernel);
        check("multi_head_attention/query_dense", &[&[8, 2, 4], &[2, 4]], kernel);
        check("encoder/fc1", &[&[3, 4]], None);
        check("table", &[&[3, 4], &[3]], None);
        check("layers/embedding_1", &[&[3, 4]], Some(&["embeddings"]));
        check("layers/layer_normalization", &[&[4], &[4]], Some(&["gamma", "beta"]));
        check("layers/layer_normalization", &[&[4]], None);
    }

    #[test]
    fn only_a_plain_chain_has_one_activation() {
        let dense =
            |activation: &str| json!({"class_name": "Dense", "config": {"activation": activation}});
        let model =
            |layers: Vec<Value>| json!({"class_name": "Sequential", "config": {"layers": layers}});
        let of = |layers| activation(&model(layers));
        let hidden = || vec![dense("relu"), json!({"class_name": "Dropout"}), dense("relu")];
        let with = |last| [hidden(), vec![last]].concat();
        assert_eq!(of(with(dense("softmax"))).as_deref(), Some("relu"));
        assert_eq!(of([vec![dense("tanh")], with(dense("linear"))].concat()), None);
        assert_eq!(of(with(json!({"class_name": "BatchNormalization"}))), None);
        assert_eq!(of(vec![dense("relu")]), None);
        assert_eq!(activation(&json!({"class_name": "Functional"})), None);
    }
}
