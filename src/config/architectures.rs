//! Architecture rules: those built into the binary and those of a user's directory.

use std::path::Path;

use super::{ConfigError, read_bounded, syntax_error};
use crate::model::Rule;

/// The rules built in, by file name. Order matters where no `config.json` names the model: of two
/// rules with equal names, the one whose shapes or extra tensors are peculiar stands first.
const BUILT_IN: [(&str, &str); 47] = [
    ("gpt2.yaml", include_str!("../../config/architectures/gpt2.yaml")),
    ("nanogpt.yaml", include_str!("../../config/architectures/nanogpt.yaml")),
    ("litgpt.yaml", include_str!("../../config/architectures/litgpt.yaml")),
    ("gpt_neox.yaml", include_str!("../../config/architectures/gpt_neox.yaml")),
    ("bloom.yaml", include_str!("../../config/architectures/bloom.yaml")),
    ("falcon.yaml", include_str!("../../config/architectures/falcon.yaml")),
    ("gptj.yaml", include_str!("../../config/architectures/gptj.yaml")),
    ("bert.yaml", include_str!("../../config/architectures/bert.yaml")),
    ("electra.yaml", include_str!("../../config/architectures/electra.yaml")),
    ("distilbert.yaml", include_str!("../../config/architectures/distilbert.yaml")),
    ("deberta_v2.yaml", include_str!("../../config/architectures/deberta_v2.yaml")),
    ("olmo_core_olmo2.yaml", include_str!("../../config/architectures/olmo_core_olmo2.yaml")),
    ("olmo_core.yaml", include_str!("../../config/architectures/olmo_core.yaml")),
    ("torchtitan.yaml", include_str!("../../config/architectures/torchtitan.yaml")),
    ("megatron.yaml", include_str!("../../config/architectures/megatron.yaml")),
    ("gpt_oss.yaml", include_str!("../../config/architectures/gpt_oss.yaml")),
    ("llama4.yaml", include_str!("../../config/architectures/llama4.yaml")),
    ("deepseek.yaml", include_str!("../../config/architectures/deepseek.yaml")),
    ("moe.yaml", include_str!("../../config/architectures/moe.yaml")),
    ("olmo2.yaml", include_str!("../../config/architectures/olmo2.yaml")),
    ("llama.yaml", include_str!("../../config/architectures/llama.yaml")),
    ("gemma.yaml", include_str!("../../config/architectures/gemma.yaml")),
    // First by names, as it assumes least.
    ("gguf_other.yaml", include_str!("../../config/architectures/gguf_other.yaml")),
    ("gguf_llama.yaml", include_str!("../../config/architectures/gguf_llama.yaml")),
    ("gguf_qwen.yaml", include_str!("../../config/architectures/gguf_qwen.yaml")),
    ("phi.yaml", include_str!("../../config/architectures/phi.yaml")),
    ("cohere.yaml", include_str!("../../config/architectures/cohere.yaml")),
    ("t5.yaml", include_str!("../../config/architectures/t5.yaml")),
    ("fairseq.yaml", include_str!("../../config/architectures/fairseq.yaml")),
    ("bart.yaml", include_str!("../../config/architectures/bart.yaml")),
    ("torch_transformer.yaml", include_str!("../../config/architectures/torch_transformer.yaml")),
    ("torch_encoder.yaml", include_str!("../../config/architectures/torch_encoder.yaml")),
    ("mamba.yaml", include_str!("../../config/architectures/mamba.yaml")),
    ("mamba2.yaml", include_str!("../../config/architectures/mamba2.yaml")),
    ("clip.yaml", include_str!("../../config/architectures/clip.yaml")),
    ("open_clip.yaml", include_str!("../../config/architectures/open_clip.yaml")),
    ("vit.yaml", include_str!("../../config/architectures/vit.yaml")),
    ("vit_transformers.yaml", include_str!("../../config/architectures/vit_transformers.yaml")),
    ("flax_vit.yaml", include_str!("../../config/architectures/flax_vit.yaml")),
    ("flax_nnx.yaml", include_str!("../../config/architectures/flax_nnx.yaml")),
    ("flax_decoder.yaml", include_str!("../../config/architectures/flax_decoder.yaml")),
    ("keras_transformer.yaml", include_str!("../../config/architectures/keras_transformer.yaml")),
    ("resnet.yaml", include_str!("../../config/architectures/resnet.yaml")),
    (
        "resnet_transformers.yaml",
        include_str!("../../config/architectures/resnet_transformers.yaml"),
    ),
    ("convnext.yaml", include_str!("../../config/architectures/convnext.yaml")),
    ("convnext_timm.yaml", include_str!("../../config/architectures/convnext_timm.yaml")),
    (
        "convnext_transformers.yaml",
        include_str!("../../config/architectures/convnext_transformers.yaml"),
    ),
];

/// Most rule files read from a user's directory.
const MAX_USER_RULES: usize = 256;

/// The rules built into the binary.
///
/// # Errors
/// Never in a released binary: a test reads them all.
pub fn built_in() -> Result<Vec<Rule>, ConfigError> {
    BUILT_IN.iter().map(|(name, text)| parse(Path::new(name), text)).collect()
}

/// The built-in rules as a table in Markdown: file, what it covers, and the `model_type`s that name it.
/// README holds this text.
///
/// # Errors
/// As [`built_in`].
pub fn table() -> Result<String, ConfigError> {
    let mut text = String::from("| rule | covers | `model_type` |\n|---|---|---|\n");
    for ((file, _), rule) in BUILT_IN.iter().zip(built_in()?) {
        let types: Vec<String> = rule.model_types.iter().map(|t| format!("`{t}`")).collect();
        let types = if types.is_empty() { "by names".into() } else { types.join(", ") };
        let name = &rule.name;
        let row =
            format!("| [`{name}`](config/architectures/{file}) | {} | {types} |\n", rule.describes);
        text += &row;
    }
    Ok(text)
}

/// A user's rules (`*.yaml`, by name) before the built-in ones, so that they win.
///
/// # Errors
/// The first file that cannot be read or is not a rule.
pub fn load(directory: Option<&Path>) -> Result<Vec<Rule>, ConfigError> {
    let mut rules = Vec::new();
    if let Some(directory) = directory {
        let read_error = |source| ConfigError::Directory { path: directory.to_owned(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(read_error)? {
            let path = entry.map_err(read_error)?.path();
            if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
                files.push(path);
            }
        }
        files.sort();
        files.truncate(MAX_USER_RULES);
        for path in files {
            rules.push(parse(&path, &read_bounded(&path)?)?);
        }
    }
    rules.extend(built_in()?);
    Ok(rules)
}

fn parse(path: &Path, text: &str) -> Result<Rule, ConfigError> {
    let rule: Rule = serde_yaml::from_str(text).map_err(|e| syntax_error(path, text, &e))?;
    rule.check().map_err(|e| ConfigError::Value {
        path: path.to_owned(),
        line: 1,
        key: e.rule,
        message: e.problem,
    })?;
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_rules_parse_and_have_distinct_names() {
        let rules = built_in().unwrap();
        let names: std::collections::BTreeSet<_> = rules.iter().map(|r| r.name.clone()).collect();
        assert_eq!(names.len(), BUILT_IN.len());
        let types: Vec<_> = rules.iter().flat_map(|r| &r.model_types).collect();
        let distinct: std::collections::BTreeSet<_> = types.iter().collect();
        assert_eq!(types.len(), distinct.len(), "a model type stands in two rules");
    }

    #[test]
    fn a_users_rule_stands_before_the_built_in_ones() {
        let dir = tempfile::tempdir().unwrap();
        let mine = "name: mine\ndescribes: mine\nrequires: [w]\nmatrices: [{tensor: w, parts: [embed], layout: out_in}]\npairs: []\n";
        std::fs::write(dir.path().join("mine.yaml"), mine).unwrap();
        assert_eq!(load(Some(dir.path())).unwrap()[0].name, "mine");
        std::fs::write(dir.path().join("zz.yaml"), mine.replace("pairs", "pears")).unwrap();
        let message = load(Some(dir.path())).unwrap_err().to_string();
        assert!(message.contains("zz.yaml:") && message.contains("pears"), "{message}");
    }

    #[test]
    fn a_rule_that_contradicts_itself_is_refused() {
        let text = "name: x\ndescribes: x\nrequires: [w]\nmatrices: [{tensor: w, parts: [q], layout: out_in}]\npairs: []\n";
        let message = parse(Path::new("x.yaml"), text).unwrap_err().to_string();
        assert!(message.contains("{layer}"), "{message}");
    }
}
