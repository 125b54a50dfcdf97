//! `trainer_state.json`: what a trainer says of its own run, in constant memory.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json::{MAX_TEXT, Scalar, mark_non_finite};

/// Largest record that is read. It is in memory as a whole; one of 300 000 logged steps has as many bytes.
pub(super) const MAX_TRAINER_STATE: u64 = 48 << 20;

/// Evaluation metrics that are kept of a record; of more, the first by name.
const MAX_EVALUATIONS: usize = 32;

/// What an evaluation says of its own cost, not of the model.
const COST: [&str; 5] = [
    "runtime",
    "samples_per_second",
    "steps_per_second",
    "jit_compilation_time",
    "model_preparation_time",
];

/// What one training run says of itself at a save (`trainer_state.json`); everything is optional.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainerState {
    /// Optimiser steps done at the save.
    pub global_step: Option<u64>,
    /// Planned number of steps.
    pub max_steps: Option<u64>,
    /// Name of the optimiser, lower case (`sgd`, `adamw`), where the job says it.
    pub optimizer: Option<String>,
    /// Weight decay coefficient λ, finite.
    pub weight_decay: Option<f64>,
    /// Momentum μ of SGD, finite.
    pub momentum: Option<f64>,
    /// Latest training loss; NaN and infinities are kept, they are news.
    pub loss: Option<f64>,
    /// First training loss in `log_history`, finite.
    pub first_loss: Option<f64>,
    /// Latest learning rate η, finite (the top-level key, else the optimiser's, else the last in
    /// `log_history`).
    pub learning_rate: Option<f64>,
    /// Latest gradient norm; NaN and infinities are kept.
    pub grad_norm: Option<f64>,
    /// Latest evaluation: what is logged as `eval_NAME`, by NAME, finite.
    pub eval: BTreeMap<String, f64>,
}

/// Parses a record. Of two equal keys the last counts, as in Python.
///
/// Python writes `NaN` and `Infinity` as bare tokens, which JSON does not know; they are rewritten
/// in place first, so `text` is changed.
///
/// # Errors
/// Where and why it is not JSON, or what it is instead of an object.
pub(super) fn parse(text: &mut [u8]) -> Result<TrainerState, serde_json::Error> {
    mark_non_finite(text);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let record = Record::default().deserialize(&mut deserializer)?;
    deserializer.end()?;
    let Record { mut state, optimizer_rate, log } = record;
    state.learning_rate = state.learning_rate.or(optimizer_rate).or(log.learning_rate);
    state.loss = log.loss;
    state.first_loss = log.first_loss;
    state.grad_norm = log.grad_norm;
    state.eval = log.eval;
    Ok(state)
}

#[derive(Default)]
struct Record {
    state: TrainerState,
    optimizer_rate: Option<f64>,
    log: LastLogged,
}

impl<'de> DeserializeSeed<'de> for Record {
    type Value = Self;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Record {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        let mut own = TrainerState::default();
        let mut optimizer = Optimizer::default();
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::GlobalStep => own.global_step = map.next_value::<Scalar>()?.whole(),
                Key::MaxSteps => own.max_steps = map.next_value::<Scalar>()?.whole(),
                Key::LearningRate => own.learning_rate = map.next_value::<Scalar>()?.finite(),
                Key::WeightDecay => own.weight_decay = map.next_value::<Scalar>()?.finite(),
                Key::Momentum => own.momentum = map.next_value::<Scalar>()?.finite(),
                Key::Optimizer => optimizer = map.next_value()?,
                Key::LogHistory => self.log = map.next_value()?,
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        own.optimizer = optimizer.name;
        own.weight_decay = own.weight_decay.or(optimizer.weight_decay);
        own.momentum = own.momentum.or(optimizer.momentum);
        self.optimizer_rate = optimizer.lr;
        self.state = own;
        Ok(self)
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Key {
    GlobalStep,
    MaxSteps,
    LearningRate,
    WeightDecay,
    Momentum,
    Optimizer,
    LogHistory,
    #[serde(other)]
    Other,
}

/// `"AdamW"`, or `{"name": "AdamW", "lr": …, "weight_decay": …, "momentum": …}`.
#[derive(Default)]
struct Optimizer {
    name: Option<String>,
    lr: Option<f64>,
    weight_decay: Option<f64>,
    momentum: Option<f64>,
}

impl<'de> de::Deserialize<'de> for Optimizer {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut kept = Self::default();
        deserializer.deserialize_any(Lenient(&mut kept))?;
        Ok(kept)
    }
}

/// The last values that were logged, whichever entry they stand in.
#[derive(Default)]
struct LastLogged {
    first_loss: Option<f64>,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    grad_norm: Option<f64>,
    eval: BTreeMap<String, f64>,
}

impl<'de> de::Deserialize<'de> for LastLogged {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut kept = Self::default();
        deserializer.deserialize_any(Lenient(&mut kept))?;
        Ok(kept)
    }
}

/// What keeps some scalars of objects, and possibly a bare name.
trait Keep: Default {
    fn keep(&mut self, key: &str, value: &Scalar);
    fn keep_name(&mut self, _name: &str) {}
}

impl Keep for Optimizer {
    fn keep(&mut self, key: &str, value: &Scalar) {
        match (key, value) {
            ("name", Scalar::Text(name)) => self.keep_name(name),
            ("lr", value) => self.lr = value.finite(),
            ("weight_decay", value) => self.weight_decay = value.finite(),
            ("momentum", value) => self.momentum = value.finite(),
            _ => {}
        }
    }

    fn keep_name(&mut self, name: &str) {
        self.name = Some(name.to_lowercase());
    }
}

impl Keep for LastLogged {
    fn keep(&mut self, key: &str, value: &Scalar) {
        // An entry without the value, or with null, does not unsay the one before.
        match key {
            "loss" => {
                self.loss = value.number().or(self.loss);
                self.first_loss = self.first_loss.or(value.finite());
            }
            "learning_rate" => self.learning_rate = value.finite().or(self.learning_rate),
            "grad_norm" => self.grad_norm = value.number().or(self.grad_norm),
            _ => self.keep_evaluation(key, value),
        }
    }
}

impl LastLogged {
    fn keep_evaluation(&mut self, key: &str, value: &Scalar) {
        let name = key.strip_prefix("eval_").filter(|name| !name.is_empty());
        let name = name.filter(|name| !COST.contains(name));
        let Some((name, value)) = name.zip(value.finite()) else { return };
        self.eval.insert(name.to_owned(), value);
        if self.eval.len() > MAX_EVALUATIONS {
            self.eval.pop_last();
        }
    }
}

/// Collects into `T` from an object, from a list of objects, or from a string; anything else is
/// read over: an odd record is no reason to lose the weights.
struct Lenient<'a, T>(&'a mut T);

impl<'de, T: Keep> DeserializeSeed<'de> for Lenient<'_, T> {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Keep> Visitor<'de> for Lenient<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, name: &str) -> Result<(), E> {
        if name.len() <= MAX_TEXT {
            self.0.keep_name(name);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Scalar>()? {
            let value = map.next_value::<Scalar>()?;
            if let Scalar::Text(key) = key {
                self.0.keep(&key, &value);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        // Depth is bounded by the parser's own limit of 128.
        while seq.next_element_seed(Lenient(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> TrainerState {
        parse(&mut text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_record_as_the_hf_trainer_writes_it() {
        let state = parsed(
            r#"{"best_metric": null, "epoch": 1.5, "global_step": 500, "max_steps": 1000,
            "is_hyper_param_search": false, "log_history": [
            {"epoch": 0.5, "grad_norm": 2.5, "learning_rate": 5e-05, "loss": 2.25, "step": 250},
            {"epoch": 1.5, "grad_norm": 1, "learning_rate": 2.5e-05, "loss": 1.75, "step": 500},
            {"eval_loss": 2.1, "eval_f1": 0.5, "step": 250},
            {"eval_loss": 1.9, "eval_runtime": 3.5, "eval_": 1, "step": 500}], "stateful_callbacks": {"a": {"b": [1, {}]}}}"#,
        );
        let expected = TrainerState {
            global_step: Some(500),
            max_steps: Some(1000),
            loss: Some(1.75),
            first_loss: Some(2.25),
            learning_rate: Some(2.5e-5),
            grad_norm: Some(1.0),
            eval: BTreeMap::from([("f1".to_owned(), 0.5), ("loss".to_owned(), 1.9)]),
            ..TrainerState::default()
        };
        assert_eq!(state, expected);
    }

    #[test]
    fn evaluations_are_bounded() {
        let entries: Vec<String> = (0..500).map(|i| format!(r#""eval_{i:03}": {i}"#)).collect();
        let long = "x".repeat(MAX_TEXT);
        let log = format!(r#"{{"log_history": [{{{}, "eval_{long}": 1}}]}}"#, entries.join(","));
        let eval = parsed(&log).eval;
        assert_eq!(eval.len(), MAX_EVALUATIONS);
        assert_eq!(eval.first_key_value(), Some((&"000".to_owned(), &0.0)));
    }

    #[test]
    fn what_a_job_can_add() {
        let object = parsed(
            r#"{"optimizer": {"name": "SGD", "lr": 0.1, "weight_decay": 1e-4, "momentum": 0.9},
            "weight_decay": 0.5, "log_history": [{"learning_rate": 3}], "global_step": 7.0}"#,
        );
        assert_eq!(object.optimizer.as_deref(), Some("sgd"));
        assert_eq!((object.weight_decay, object.momentum), (Some(0.5), Some(0.9)));
        assert_eq!((object.learning_rate, object.global_step), (Some(0.1), Some(7)));
        let text = parsed(r#"{"learning_rate": 2, "optimizer": "AdamW", "max_steps": -1}"#);
        assert_eq!(text.optimizer.as_deref(), Some("adamw"));
        assert_eq!((text.learning_rate, text.max_steps), (Some(2.0), None));
    }

    #[test]
    fn a_loss_that_is_not_finite_is_news_not_an_error() {
        let state = parsed(
            r#"{"log_history": [{"loss": NaN, "grad_norm": -Infinity, "learning_rate": Infinity},
            {"note": "NaN \" NaN", "loss": null}], "x": [NaN,-Infinity,Infinity]}"#,
        );
        assert!(state.loss.unwrap().is_nan());
        assert_eq!((state.grad_norm, state.learning_rate), (Some(f64::NEG_INFINITY), None));
    }

    #[test]
    fn odd_values_are_passed_over() {
        for odd in ["null", "true", "-3", "1.5", r#"[[1], "a"]"#, r#"{"a": {}}"#, "1e400"] {
            let text = format!(r#"{{"global_step": 3, "optimizer": {odd}, "log_history": {odd}}}"#);
            // JSON allows 1e400; serde_json does not, so that one is refused as a whole.
            match parse(&mut text.clone().into_bytes()) {
                Ok(state) => assert_eq!(state.global_step, Some(3), "{text}"),
                Err(error) => assert_eq!(odd, "1e400", "{error}"),
            }
        }
    }

    #[test]
    fn what_is_no_record() {
        for text in
            ["", "{", "[]", "5", "{} x", r#"{"global_step": nan}"#, r#"{"a": -NaN}"#, r#"{"a": N"#]
        {
            assert!(parse(&mut text.as_bytes().to_vec()).is_err(), "{text}");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let text =
            br#"{"global_step": 5, "log_history": [{"loss": NaN, "s": "\"\\"}], "z": -Infinity}"#;
        for end in 0..text.len() {
            let error = parse(&mut text[..end].to_vec()).unwrap_err();
            // A token cut in two is an odd character, all else is an early end.
            assert!(
                error.is_eof() || text[..end].ends_with(b"N") || error.is_syntax(),
                "{end}: {error}"
            );
        }
        assert!(parse(&mut text.to_vec()).is_ok());
    }

    #[test]
    fn a_long_history_costs_no_memory_of_its_own() {
        let entry = r#"{"loss": 0.5, "step": 1, "extra": [1, 2, 3]},"#;
        let text = format!(r#"{{"log_history": [{}{{"loss": 0.25}}]}}"#, entry.repeat(50_000));
        assert_eq!(parsed(&text).loss, Some(0.25));
    }
}
