//! What `adapter_config.json` says of the size and the side of an adapter's change.

use serde_json::Value;

use crate::checkpoint::shown;

/// The settings of an adapter that its numbers depend on, as PEFT records them.
#[derive(Debug, Clone, Copy)]
pub struct AdapterSettings<'a>(Option<&'a Value>);

impl<'a> AdapterSettings<'a> {
    /// Of the record; without one nothing is known.
    #[must_use]
    pub fn new(record: Option<&'a Value>) -> Self {
        Self(record.filter(|record| record.is_object()))
    }

    fn get(self, key: &str) -> Option<&'a Value> {
        self.0?.get(key).filter(|value| !value.is_null())
    }

    fn is_set(self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool) == Some(true)
    }

    /// The name or the path of the model that the adapter changes.
    #[must_use]
    pub fn base(self) -> Option<&'a str> {
        self.get("base_model_name_or_path")?.as_str().filter(|name| !name.is_empty())
    }

    /// s in W + s·B·A for a module whose A has `rank` rows: α/r, or α/√r where it is stabilised
    /// (Kalajdzievski 2023).
    ///
    /// # Errors
    /// Why it is not known, in words.
    pub fn scale(self, module: &str, rank: usize) -> Result<f64, String> {
        let alpha = match self.patterned("alpha_pattern", module)? {
            Some(alpha) => alpha,
            None => self.get("lora_alpha").ok_or("its adapter_config.json states no lora_alpha")?,
        };
        let found = || format!("lora_alpha {}, expected a number", shown(&alpha.to_string()));
        let alpha = alpha.as_f64().filter(|alpha| alpha.is_finite()).ok_or_else(found)?;
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let rank = rank as f64;
        Ok(alpha / if self.is_set("use_rslora") { rank.sqrt() } else { rank })
    }

    /// The value of the first key that is the module's name, or the end of it after a dot.
    fn patterned(self, key: &str, module: &str) -> Result<Option<&'a Value>, String> {
        let Some(patterns) = self.get(key).and_then(Value::as_object) else { return Ok(None) };
        for (pattern, value) in patterns {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if !pattern.chars().all(plain) {
                return Err(format!("{key} has a regular expression, {}", shown(pattern)));
            }
            let rest = module.strip_suffix(pattern.as_str());
            if rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.')) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Whether weights are stored input × output, as those of GPT-2.
    #[must_use]
    pub fn is_in_out(self) -> bool {
        self.is_set("fan_in_fan_out")
    }

    /// The way of initialising that changes the base model as well (`PiSSA`, `OLoRA`): what such an
    /// adapter changes is not s·B·A.
    #[must_use]
    pub fn changes_base(self) -> Option<&'a str> {
        let way = self.get("init_lora_weights")?.as_str()?;
        (!["gaussian", "eva", "orthogonal"].contains(&way)).then_some(way)
    }

    /// Whether every output's norm is learnt apart from its direction (`DoRA`), so that s·B·A is
    /// not all of the change.
    #[must_use]
    pub fn is_dora(self) -> bool {
        self.is_set("use_dora")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_scale_is_that_of_the_module() {
        let record = json!({
            "lora_alpha": 16, "use_rslora": null, "alpha_pattern": {"q_proj": 32, "layers.1.mlp.up": 4.0}
        });
        let settings = AdapterSettings::new(Some(&record));
        let scale = |module, rank| settings.scale(module, rank).unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(scale("model.layers.0.v_proj", 8), 2.0);
        close(scale("model.layers.0.q_proj", 8), 4.0);
        close(scale("q_proj", 8), 4.0);
        close(scale("model.layers.0.xq_proj", 8), 2.0);
        close(scale("model.layers.1.mlp.up", 2), 2.0);
        let stable = json!({"lora_alpha": 16, "use_rslora": true});
        close(AdapterSettings::new(Some(&stable)).scale("x", 16).unwrap(), 4.0);
    }

    #[test]
    fn ways_that_change_the_base_are_known() {
        let way = |way: Value| {
            let record = json!({"init_lora_weights": way});
            AdapterSettings::new(Some(&record)).changes_base().map(str::to_owned)
        };
        for harmless in [json!(true), json!(false), json!(null), json!("gaussian")] {
            assert_eq!(way(harmless), None);
        }
        assert_eq!(way(json!("pissa_niter_4")).as_deref(), Some("pissa_niter_4"));
        assert_eq!(way(json!("olora")).as_deref(), Some("olora"));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let why = |record: Value| AdapterSettings::new(Some(&record)).scale("x", 8).unwrap_err();
        assert!(why(json!({})).contains("no lora_alpha"));
        assert!(why(json!({"lora_alpha": "high"})).contains("expected a number"));
        let pattern = json!({"lora_alpha": 8, "alpha_pattern": {"^a.*": 2}});
        assert!(why(pattern).contains("regular expression"));
        let nothing = AdapterSettings::new(Some(&Value::Null));
        assert!(nothing.scale("x", 8).is_err());
        assert_eq!((nothing.base(), nothing.is_in_out(), nothing.is_dora()), (None, false, false));
        let named =
            json!({"base_model_name_or_path": "", "fan_in_fan_out": true, "use_dora": true});
        let named = AdapterSettings::new(Some(&named));
        assert_eq!((named.base(), named.is_in_out(), named.is_dora()), (None, true, true));
    }
}
