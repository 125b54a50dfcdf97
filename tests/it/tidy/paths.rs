//! Paths that a source text names, found by its tokens.

/// A path and the module in which it stands, both from the crate's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mention {
    pub(super) from: Vec<String>,
    pub(super) to: Vec<String>,
    /// Whether a `use` brings it in.
    pub(super) is_use: bool,
}

/// Every path of `text` that begins with `crate`, `weightvane`, `super` or `self`, and every `use` of
/// something else as a path below its module. Comments and texts are passed over.
pub(super) fn mentions(module: &[String], text: &str) -> Vec<Mention> {
    let tokens = tokens(&code(text));
    let mut found = Vec::new();
    // Inline modules that are open, each with the depth of its braces.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let (mut depth, mut at) = (0, 0);
    while at < tokens.len() {
        let token = tokens[at].as_str();
        let before = at.checked_sub(1).map_or("", |before| tokens[before].as_str());
        match token {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.pop_if(|(_, opened)| *opened > depth);
            }
            "mod" if tokens.get(at + 2).is_some_and(|next| next == "{") => {
                inline.push((tokens[at + 1].clone(), depth + 1));
            }
            "crate" | "weightvane" | "super" | "self" if before != "::" && before != "." => {
                let mut paths = Vec::new();
                let end = tree(&tokens, at, &[], &mut paths);
                add(&mut found, module, &inline, paths, before == "use");
                // The braces of a group are part of the path.
                at = end.max(at + 1);
                continue;
            }
            _ if before == "use" && is_name(token) => {
                let mut paths = Vec::new();
                at = tree(&tokens, at, &["self".to_owned()], &mut paths);
                add(&mut found, module, &inline, paths, true);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn add(
    found: &mut Vec<Mention>,
    module: &[String],
    inline: &[(String, usize)],
    paths: Vec<Vec<String>>,
    is_use: bool,
) {
    let mut from = module.to_vec();
    from.extend(inline.iter().map(|(name, _)| name.clone()));
    for path in paths {
        let mut to = from.clone();
        for (idx, part) in path.iter().enumerate() {
            match part.as_str() {
                "crate" | "weightvane" if idx == 0 => to.clear(),
                "super" => drop(to.pop()),
                "self" => {}
                name => to.push(name.to_owned()),
            }
        }
        found.push(Mention { from: from.clone(), to, is_use });
    }
}

/// Collects the paths of a `use` tree or of a plain path; returns the index after it.
fn tree(tokens: &[String], at: usize, prefix: &[String], out: &mut Vec<Vec<String>>) -> usize {
    let next = |at: usize| tokens.get(at).map_or("", String::as_str);
    if next(at) == "{" {
        let mut at = at + 1;
        while at < tokens.len() && next(at) != "}" {
            at = tree(tokens, at, prefix, out).max(at + 1);
            // `as name`, and the comma.
            while !matches!(next(at), "," | "}" | "") {
                at += 1;
            }
            at += usize::from(next(at) == ",");
        }
        return at + 1;
    }
    let mut path = prefix.to_vec();
    if is_name(next(at)) {
        path.push(next(at).to_owned());
        if next(at + 1) == "::" && (is_name(next(at + 2)) || next(at + 2) == "{") {
            return tree(tokens, at + 2, &path, out);
        }
    }
    out.push(path);
    at + 1
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut left = code.trim_start();
    while let Some(first) = left.chars().next() {
        let end = if first.is_alphanumeric() || first == '_' {
            left.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(left.len())
        } else if left.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(left[..end].to_owned());
        left = left[end..].trim_start();
    }
    tokens
}

/// The text without comments; strings and characters are empty.
pub(super) fn code(text: &str) -> String {
    let mut out = String::new();
    let mut left = text;
    while let Some(c) = left.chars().next() {
        let skip = if left.starts_with("//") {
            left.find('\n').unwrap_or(left.len())
        } else if left.starts_with("/*") {
            left.find("*/").map_or(left.len(), |end| end + 2)
        } else if let Some(end) = raw_string(left).filter(|_| !out.ends_with(is_word)) {
            out.push_str("\"\"");
            end
        } else if c == '"' {
            out.push_str("\"\"");
            1 + quoted(&left[1..], '"')
        } else if let Some(end) = character(left) {
            out.push_str("' '");
            end
        } else {
            out.push(c);
            c.len_utf8()
        };
        left = &left[skip..];
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length up to and with the closing quote, from behind the opening one.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of a raw string at the start of `text`.
fn raw_string(text: &str) -> Option<usize> {
    let start = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = start.len() - start.trim_start_matches('#').len();
    let body = start[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close).map_or(body.len(), |end| end + close.len());
    Some(text.len() - body.len() + end)
}

/// Length of a character literal at the start of `text`; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let mut chars = body.char_indices();
    let (_, first) = chars.next()?;
    let (at, second) = chars.next()?;
    if first == '\\' {
        Some(1 + quoted(body, '\''))
    } else {
        (second == '\'').then_some(1 + at + 1)
    }
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let check = |text: &str, wanted: &[&str]| {
        let module = ["room".to_owned(), "file".to_owned()];
        let found: Vec<_> = mentions(&module, text).iter().map(|m| m.to.join("::")).collect();
        assert_eq!(found, wanted, "{text}");
    };
    check("use crate::linalg::gram;", &["linalg::gram"]);
    check("use crate::{model::{self, Rule}, watch as w};", &["model", "model::Rule", "watch"]);
    check(
        "fn f() -> crate::model::Rule { weightvane::config::x() }",
        &["model::Rule", "config::x"],
    );
    check("use super::{a, b::C}; use super::super::d;", &["room::a", "room::b::C", "d"]);
    check("pub use child::{A, deep::B};", &["room::file::child::A", "room::file::child::deep::B"]);
    check(
        "mod tests { use super::*; fn f() { super::g(); } } use self::h;",
        &["room::file", "room::file::g", "room::file::h"],
    );
    check("// crate::a\n/* crate::b */ \"crate::c\" r#\"crate::\"d\"# '\"' crate::e '\\''", &["e"]);
    check(
        "pub(crate) fn f<'a>(self) { self.x::<crate::y>() }",
        &["", "room::file", "room::file", "y"],
    );
    check("use std::fs;", &["room::file::std::fs"]);
}
