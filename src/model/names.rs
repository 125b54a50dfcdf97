//! Tensor names: what wrappers and frameworks add, and patterns with places for numbers.

use std::borrow::Cow;

/// Prefixes that wrappers put before a model's own names.
const WRAPPERS: [&str; 4] = ["_orig_mod.", "module.", "model.", "params."];

/// Parts that wrappers put inside names: FSDP, activation checkpointing, `torch.compile` of a block.
const INSIDE: [&str; 3] = ["_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod."];

/// The name without wrapper prefixes and without those of the rule.
pub(super) fn strip_prefixes<'a>(name: &'a str, of_rule: &[String]) -> &'a str {
    let mut rest = name;
    // Each turn strips one prefix, so the loop ends with the name.
    loop {
        let known = WRAPPERS.iter().copied().chain(of_rule.iter().map(String::as_str));
        match known.filter(|p| !p.is_empty()).find_map(|p| rest.strip_prefix(p)) {
            Some(shorter) => rest = shorter,
            None => return rest,
        }
    }
}

/// The first part of all these names, with its dot: what a module calls the model that it holds (`net.`
/// of a Lightning module). None where they differ, where one has no further part, and where numbers
/// come next, as those count layers.
pub(super) fn root<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let starts_with_digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let first = names.next()?;
    let root = &first[..=first.find('.')?];
    let is_below = |name: &str| {
        name.strip_prefix(root).is_some_and(|rest| !rest.is_empty() && !starts_with_digit(rest))
    };
    let is_root = !starts_with_digit(root) && is_below(first) && names.all(is_below);
    is_root.then_some(root)
}

/// A name in the writing of torch.
#[derive(Debug, Clone)]
pub(super) struct Plain<'a> {
    pub(super) name: Cow<'a, str>,
    /// Whether it was a `kernel`, which is stored the other way round.
    pub(super) is_kernel: bool,
}

/// Whether names are those of Flax or Keras, whose last parts differ from torch's.
pub(super) fn are_of_flax<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.any(|name| leaf(name) == "kernel")
}

/// The name as torch would write it: dots, no wrappers inside, and with `flax` the last part of
/// kernels, gains and tables as `weight`.
pub(super) fn plain(name: &str, flax: bool) -> Plain<'_> {
    let mut name = Cow::Borrowed(name);
    if name.contains(['/', ':']) {
        let dotted = name.strip_suffix(":0").unwrap_or(&name).replace('/', ".");
        name = Cow::Owned(dotted.replace("_._", "."));
    }
    for part in INSIDE {
        if name.contains(part) {
            name = Cow::Owned(name.replace(part, ""));
        }
    }
    if !flax {
        return Plain { name, is_kernel: false };
    }
    let is_kernel = leaf(&name) == "kernel";
    if is_kernel || matches!(leaf(&name), "scale" | "gamma" | "embedding" | "embeddings") {
        let stem = name.len() - leaf(&name).len();
        name = Cow::Owned(format!("{}weight", &name[..stem]));
    }
    Plain { name, is_kernel }
}

/// The last component, without TensorFlow's `:0`.
pub(super) fn leaf(name: &str) -> &str {
    let leaf = name.rfind(['.', '/']).map_or(name, |at| &name[at + 1..]);
    leaf.strip_suffix(":0").unwrap_or(leaf)
}

/// The numbers in a name, each where a pattern has a place for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// `{layer}`: depth index.
    pub(super) layer: Option<u32>,
    /// `{stage}` of blocks.
    pub(super) stage: Option<u32>,
    /// `{block}` of a stage.
    pub(super) block: Option<u32>,
    /// `{expert}` of a layer.
    pub(super) expert: Option<u32>,
    /// `{nth}` among the matrices of one role in a block.
    pub(super) nth: Option<u32>,
}

/// Words for numbers in a pattern.
const WORDS: [&str; 5] = ["{layer}", "{stage}", "{block}", "{expert}", "{nth}"];

impl Place {
    /// A number of it as an index.
    pub(super) fn index(number: Option<u32>) -> Option<usize> {
        number.and_then(|n| usize::try_from(n).ok())
    }

    fn slot(&mut self, word: &str) -> &mut Option<u32> {
        match word {
            "{layer}" => &mut self.layer,
            "{stage}" => &mut self.stage,
            "{block}" => &mut self.block,
            "{expert}" => &mut self.expert,
            _ => &mut self.nth,
        }
    }
}

/// Most digits of a number in a name.
const MAX_DIGITS: usize = 6;

/// Whether `name` is `pattern`, and with which numbers. `a | b` is `a` or `b`.
pub(super) fn match_pattern(pattern: &str, name: &str) -> Option<Place> {
    pattern.split(" | ").find_map(|one| match_one(one, name))
}

fn match_one(pattern: &str, name: &str) -> Option<Place> {
    let mut place = Place::default();
    let (mut pattern, mut rest) = (pattern, name);
    while let Some(open) = pattern.find('{') {
        rest = rest.strip_prefix(&pattern[..open])?;
        let word = WORDS.into_iter().find(|word| pattern[open..].starts_with(word))?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > MAX_DIGITS {
            return None;
        }
        let number: u32 = rest[..digits].parse().ok()?;
        // A word that stands twice is the same number.
        if place.slot(word).is_some_and(|before| before != number) {
            return None;
        }
        *place.slot(word) = Some(number);
        (pattern, rest) = (&pattern[open + word.len()..], &rest[digits..]);
    }
    (pattern == rest).then_some(place)
}

/// The pattern with the numbers in their places, and the layer before in that of `{previous}`.
pub(super) fn fill(pattern: &str, place: &Place) -> String {
    let mut filled = pattern.to_owned();
    let mut place = *place;
    for word in WORDS {
        if let Some(number) = *place.slot(word) {
            filled = filled.replace(word, &number.to_string());
        }
    }
    match place.layer.and_then(|layer| layer.checked_sub(1)) {
        Some(previous) => filled.replace("{previous}", &previous.to_string()),
        None => filled,
    }
}

/// Whether `name` is `pattern`, where `*` stands for any run of characters and words in braces for
/// numbers.
pub(super) fn match_glob(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    if !pattern.contains('*') {
        return match_pattern(pattern, name).is_some();
    }
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = "";
    for piece in pieces {
        last = piece;
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.is_empty() || last.is_empty() || name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_come_off_in_any_order() {
        let rule = vec!["transformer.".to_owned()];
        for name in ["h.0.w", "transformer.h.0.w", "_orig_mod.module.transformer.h.0.w"] {
            assert_eq!(strip_prefixes(name, &rule), "h.0.w");
        }
        assert_eq!(strip_prefixes("lm_head.weight", &rule), "lm_head.weight");
    }

    #[test]
    fn a_root_is_before_all_names() {
        let of = |names: &[&'static str]| root(names.iter().copied());
        assert_eq!(of(&["net.h.0.w", "net.wte.w"]), Some("net."));
        for names in [
            &["net.h.0.w", "wte.w"][..],
            &["net.h.0.w", "nets.wte.w"],
            &["layers.0.w", "layers.1.w"],
            &["0.layers.w", "0.head.w"],
            &["net.w", "net."],
            &["weight"],
            &[],
        ] {
            assert_eq!(of(names), None, "{names:?}");
        }
    }

    #[test]
    fn names_of_other_frameworks_are_written_as_torch_writes_them() {
        for (name, wanted, kernel) in [
            ("h.0._fsdp_wrapped_module.mlp.weight", "h.0.mlp.weight", false),
            (
                "layers.3._orig_mod._checkpoint_wrapped_module.wq.weight",
                "layers.3.wq.weight",
                false,
            ),
            ("params/h/0/ln_1/scale", "params.h.0.ln_1.weight", false),
            ("params/h/0/attn/c_attn/kernel", "params.h.0.attn.c_attn.weight", true),
            ("bert/encoder/layer_._1/key/kernel:0", "bert.encoder.layer.1.key.weight", true),
            ("wte.embedding", "wte.weight", false),
        ] {
            let found = plain(name, true);
            assert_eq!((found.name.as_ref(), found.is_kernel), (wanted, kernel), "{name}");
        }
        assert_eq!(plain("blocks.0.gamma", false).name, "blocks.0.gamma", "layer scale, in torch");
        assert!(are_of_flax(["a/bias", "a/kernel:0"].into_iter()));
        assert!(!are_of_flax(["a.weight", "kernel.bias"].into_iter()));
    }

    #[test]
    fn patterns_take_whole_numbers_only() {
        let check = |pattern, name, want: Option<Option<u32>>| {
            assert_eq!(match_pattern(pattern, name).map(|place| place.layer), want, "{name}");
        };
        check("h.{layer}.w", "h.12.w", Some(Some(12)));
        check("h.{layer}.w", "h.12.b", None);
        check("h.{layer}.w", "h..w", None);
        check("h.{layer}.w", "h.1.1.w", None);
        check("h.{layer}.w", "h.99999999999999999999.w", None);
        check("h.{layer}.w{layer}", "h.2.w2", Some(Some(2)));
        check("h.{layer}.w{layer}", "h.2.w3", None);
        check("h.{depth}.w", "h.2.w", None);
        check("wte", "wte", Some(None));
        check("wte", "wte2", None);
        check("a.w | h.{layer}.w", "h.3.w", Some(Some(3)));
        check("a.w | h.{layer}.w", "a.w", Some(None));
    }

    #[test]
    fn each_word_has_its_number() {
        let place = match_pattern("s{stage}.{block}.e.{expert}.conv{nth}", "s4.11.e.63.conv2");
        let wanted =
            Place { layer: None, stage: Some(4), block: Some(11), expert: Some(63), nth: Some(2) };
        assert_eq!(place, Some(wanted));
        assert_eq!(fill("s{stage}.{block}.norm", &wanted), "s4.11.norm");
        let layer = Place { layer: Some(3), ..Place::default() };
        assert_eq!(fill("{previous}.n {layer}", &layer), "2.n 3");
    }

    #[test]
    fn globs_match_ends() {
        assert!(match_glob("*.bias", "h.0.attn.bias"));
        assert!(match_glob("h.*.attn.*", "h.0.attn.bias"));
        assert!(!match_glob("*.bias", "h.0.attn.weight"));
        assert!(match_glob("h.{layer}.attn.bias", "h.3.attn.bias"));
    }
}
