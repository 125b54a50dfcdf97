//! What the types of a rule cannot say.

use super::{MatrixRule, PairName, PairRule, Role, Rule, RuleError, Split, Stack};

/// Parts of attention that several heads can share a tensor in.
const OF_HEADS: [Role; 5] =
    [Role::Query, Role::Key, Role::Value, Role::QueryRotary, Role::KeyRotary];

impl Rule {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(&self) -> Result<(), RuleError> {
        self.problem().map_or(Ok(()), |problem| {
            let rule = self.name.clone();
            Err(RuleError { rule, problem })
        })
    }

    fn problem(&self) -> Option<String> {
        if self.requires.is_empty() || self.stacks.iter().all(|s| s.matrices.is_empty()) {
            let expected = "expected at least one entry in `requires` and one in `matrices`";
            return Some(expected.into());
        }
        let names: std::collections::BTreeSet<_> = self.stacks.iter().map(|s| &s.name).collect();
        if names.len() < self.stacks.len() {
            return Some("two stacks of one name".into());
        }
        self.stacks.iter().find_map(stack)
    }
}

fn stack(stack: &Stack) -> Option<String> {
    if stack.heads.default_head_dim == Some(0) {
        return Some("default_head_dim is 0, expected at least 1".into());
    }
    if stack.heads.default_heads.values().any(|heads| *heads == 0) {
        return Some("default_heads holds 0, expected at least 1".into());
    }
    let matrices = || stack.matrices.iter();
    matrices().find_map(matrix).or_else(|| stack.pairs.iter().find_map(pair))
}

fn matrix(matrix: &MatrixRule) -> Option<String> {
    let MatrixRule { tensor, parts, split, sizes, .. } = matrix;
    let fail = |problem: String| Some(format!("tensor `{tensor}`: {problem}"));
    let (Some(first), n_parts) = (parts.first(), parts.len()) else {
        return fail("no parts, expected at least one".into());
    };
    let mut sorted = parts.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < n_parts {
        return fail("a part stands twice".into());
    }
    for name in tensor.split(" | ") {
        let count = |word: &str| name.matches(word).count();
        let in_stack = count("{layer}") + count("{stage}");
        let wanted = usize::from(!first.is_outside());
        if in_stack.min(1) != wanted || count("{layer}").min(1) + count("{stage}").min(1) > 1 {
            return fail(format!(
                "{in_stack} times {{layer}} or {{stage}}, expected {wanted} for its parts"
            ));
        }
    }
    let of_heads = parts.iter().all(|p| OF_HEADS.contains(p));
    if matches!(split, Split::Interleaved | Split::Grouped) && !of_heads {
        return fail("split by heads, expected parts of q, k, v".into());
    }
    if !sizes.is_empty() && (sizes.len() != n_parts || n_parts == 1) {
        return fail(format!("{} sizes, expected one for each of several parts", sizes.len()));
    }
    if !sizes.is_empty() && matches!(split, Split::Grouped | Split::Alternating) {
        return fail("sizes, expected a concatenated or interleaved split".into());
    }
    None
}

fn pair(rule: &PairRule) -> Option<String> {
    let name = rule.pair.as_str();
    if rule.pair == PairName::Chain {
        return Some("pair `chain`, expected a pair of named roles".into());
    }
    let names_roles = rule.writer.is_some() && !rule.reader.is_empty();
    let is_silent = rule.writer.is_none() && rule.reader.is_empty() && !rule.next;
    match rule.pair {
        PairName::Stream if !names_roles => {
            Some(format!("pair `{name}`, expected a `writer` and a `reader`"))
        }
        PairName::Stream => None,
        _ if is_silent => None,
        _ => Some(format!(
            "pair `{name}` with `writer`, `reader` or `next`, expected none: it knows its own"
        )),
    }
}
