//! Tensor names: prefixes that wrappers add, and patterns with a `{layer}` place.

/// Prefixes that wrappers put before a model's own names.
const WRAPPERS: [&str; 3] = ["_orig_mod.", "module.", "model."];

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

/// Where a name that matches a pattern stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Depth index; `None` for a pattern without one.
    pub(super) layer: Option<usize>,
}

/// Whether `name` is `pattern`, and with which layer.
pub(super) fn match_pattern(pattern: &str, name: &str) -> Option<Place> {
    let Some((before, after)) = pattern.split_once("{layer}") else {
        return (pattern == name).then_some(Place { layer: None });
    };
    let digits = name.strip_prefix(before)?.strip_suffix(after)?;
    let plain =
        !digits.is_empty() && digits.len() <= 6 && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok().map(|layer| Place { layer: Some(layer) }) } else { None }
}

/// The pattern with a layer in its place, and the layer before in that of `{previous}`.
pub(super) fn fill(pattern: &str, layer: usize) -> String {
    let filled = pattern.replace("{layer}", &layer.to_string());
    match layer.checked_sub(1) {
        Some(previous) => filled.replace("{previous}", &previous.to_string()),
        None => filled,
    }
}

/// Whether `name` is `pattern`, where `*` stands for any run of characters and `{layer}` for digits.
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
    fn patterns_take_whole_numbers_only() {
        let check = |pattern, name, want: Option<Option<usize>>| {
            assert_eq!(match_pattern(pattern, name).map(|place| place.layer), want, "{name}");
        };
        check("h.{layer}.w", "h.12.w", Some(Some(12)));
        check("h.{layer}.w", "h.12.b", None);
        check("h.{layer}.w", "h..w", None);
        check("h.{layer}.w", "h.1.1.w", None);
        check("h.{layer}.w", "h.99999999999999999999.w", None);
        check("wte", "wte", Some(None));
        check("wte", "wte2", None);
    }

    #[test]
    fn globs_match_ends() {
        assert!(match_glob("*.bias", "h.0.attn.bias"));
        assert!(match_glob("h.*.attn.*", "h.0.attn.bias"));
        assert!(!match_glob("*.bias", "h.0.attn.weight"));
        assert!(match_glob("h.{layer}.attn.bias", "h.3.attn.bias"));
    }
}
