//! Which weight of the base model an adapter's module has.

use std::collections::HashMap;

use super::super::{Layout, Operand, Storage, View};
use super::{Adapter, AdapterSettings};
use crate::checkpoint::{Dtype, TensorInfo};

/// What may stand behind the name of a module in that of its weight.
const ENDS: [&str; 2] = [".base_layer.weight", ".weight"];

/// The weights of a base model by the ends of their modules' names: a model saved alone and the
/// same inside another differ in what stands before.
#[derive(Debug)]
pub struct BaseNames<'a> {
    /// The name of a module → its weight.
    whole: HashMap<&'a str, &'a TensorInfo>,
    /// The end of such a name, from some dot on → the only weight that has it, or `None`.
    ends: HashMap<&'a str, Option<&'a TensorInfo>>,
}

impl<'a> BaseNames<'a> {
    /// Of the tensors of a base model.
    #[must_use]
    pub fn new(tensors: &'a [TensorInfo]) -> Self {
        let (mut whole, mut ends) = (HashMap::new(), HashMap::new());
        for tensor in tensors {
            let stem = ENDS.iter().find_map(|end| tensor.name.strip_suffix(end));
            let Some(stem) = stem.filter(|_| tensor.shape.len() >= 2) else { continue };
            whole.entry(stem).or_insert(tensor);
            for (at, _) in stem.match_indices('.') {
                let several = |kept: &mut Option<&TensorInfo>| *kept = None;
                ends.entry(&stem[at + 1..]).and_modify(several).or_insert(Some(tensor));
            }
        }
        Self { whole, ends }
    }

    /// The weight of that module: by its whole name, by the end of it, or as the end of the weight's.
    fn weight(&self, module: &str) -> Option<&'a TensorInfo> {
        let behind = module.match_indices('.').map(|(at, _)| &module[at + 1..]);
        let shorter = || behind.clone().find_map(|end| self.whole.get(end).copied());
        let longer = || self.ends.get(module).copied().flatten();
        self.whole.get(module).copied().or_else(longer).or_else(shorter)
    }

    /// The weight that an adapter changes, output × input like B·A.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn operand(
        &self,
        adapter: &Adapter,
        settings: AdapterSettings<'_>,
    ) -> Result<Operand, String> {
        let Some(weight) = self.weight(&adapter.module) else {
            return Err("the base model has no weight of that module".into());
        };
        if matches!(weight.dtype, Dtype::Other(_)) {
            let dtype = weight.dtype.name();
            return Err(format!("the base model's weight is of type {dtype}, which is not read"));
        }
        let wanted = (adapter.b.shape().0, adapter.a.shape().1);
        let shape = weight.shape.as_slice();
        let upright = if shape.len() > 2 { Storage::Oihw } else { Storage::OutIn };
        let mut storages = [upright, Storage::InOut];
        if adapter.is_embedding || settings.is_in_out() {
            storages.reverse();
        }
        let fits = |storage: &Storage| {
            storage.fold(shape).filter(|folded| (folded.out, folded.cols) == wanted)
        };
        let Some(folded) = storages.iter().find_map(fits) else {
            let (out, cols) = wanted;
            return Err(format!(
                "the base model's weight has shape {shape:?}, expected {out} × {cols} like B·A"
            ));
        };
        let view = View {
            tensor: weight.name.clone(),
            layout: folded.layout,
            lead: folded.lead,
            rows: (0..folded.out).into(),
            cols: (0..folded.cols).into(),
        };
        debug_assert!(folded.layout == Layout::OutIn || shape.len() == 2);
        Ok(Operand::new(weight.name.clone(), view))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::checkpoint::{Place, Text};

    fn info(name: &str, shape: &[usize]) -> TensorInfo {
        TensorInfo {
            name: name.into(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            place: Place::default(),
            n_bytes: 4 * shape.iter().product::<usize>() as u64,
        }
    }

    fn adapter(module: &str, (out, cols): (usize, usize), is_embedding: bool) -> Adapter {
        let operand = |rows: usize, cols: usize| {
            let (rows, cols) = ((0..rows).into(), (0..cols).into());
            let view = View { tensor: "t".into(), layout: Layout::OutIn, lead: 1, rows, cols };
            Operand::new("t", view)
        };
        let (a, b) = (operand(2, cols), operand(out, 2));
        Adapter { module: module.into(), layer: None, a, b, is_embedding }
    }

    fn found(tensors: &[TensorInfo], adapter: &Adapter, record: &Value) -> (Text, Layout) {
        let settings = AdapterSettings::new(Some(record));
        let operand = BaseNames::new(tensors).operand(adapter, settings).unwrap();
        assert_eq!(operand.shape(), (adapter.b.shape().0, adapter.a.shape().1));
        (operand.parts[0].tensor.clone(), operand.parts[0].layout)
    }

    #[test]
    fn a_module_is_found_whatever_stands_before_it() {
        let same = [info("model.layers.0.q.weight", &[6, 4]), info("layers.0.q.bias", &[6])];
        let module = adapter("model.layers.0.q", (6, 4), false);
        assert_eq!(found(&same, &module, &json!({})).0, "model.layers.0.q.weight");
        let alone = [info("h.0.c_attn.weight", &[4, 12]), info("h.10.c_attn.weight", &[4, 12])];
        let module = adapter("transformer.h.0.c_attn", (12, 4), false);
        assert_eq!(found(&alone, &module, &json!({})), ("h.0.c_attn.weight".into(), Layout::InOut));
        let inside = [info("vlm.text.layers.0.q.base_layer.weight", &[6, 4])];
        let module = adapter("layers.0.q", (6, 4), false);
        assert_eq!(found(&inside, &module, &json!({})).0, inside[0].name);
    }

    #[test]
    fn of_a_square_weight_the_record_says_how_it_is_stored() {
        let square = [info("c_proj.weight", &[4, 4])];
        let module = adapter("c_proj", (4, 4), false);
        assert_eq!(found(&square, &module, &json!({})).1, Layout::OutIn);
        assert_eq!(found(&square, &module, &json!({"fan_in_fan_out": true})).1, Layout::InOut);
        let embedding = adapter("c_proj", (4, 4), true);
        assert_eq!(found(&square, &embedding, &json!({})).1, Layout::InOut);
        let kernel = [info("conv.weight", &[8, 3, 2, 2])];
        let module = adapter("conv", (8, 12), false);
        assert_eq!(found(&kernel, &module, &json!({})).1, Layout::OutIn);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let tensors = [
            info("vision.layers.0.q.weight", &[6, 4]),
            info("text.layers.0.q.weight", &[6, 4]),
            TensorInfo { dtype: Dtype::Other("U8"), ..info("packed.weight", &[12, 1]) },
        ];
        let names = BaseNames::new(&tensors);
        let why = |module: &str| {
            let adapter = adapter(module, (5, 4), false);
            names.operand(&adapter, AdapterSettings::new(None)).unwrap_err()
        };
        assert!(why("layers.0.q").contains("no weight of that module"), "two have that end");
        assert!(why("text.layers.0.q").contains("[6, 4], expected 5 × 4"));
        assert!(why("packed").contains("type U8"));
        assert!(why("layers.1.q").contains("no weight"));
    }
}
