//! The files of a room do not go in circles.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::{Mention, mentions};
use super::{module, rust_files};

/// Module → modules beside it that it names, directly or through what their parent passes on.
type Graph = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

fn graph(sources: &[(Vec<String>, String)]) -> Graph {
    let modules: BTreeSet<Vec<String>> = sources.iter().map(|(module, _)| module.clone()).collect();
    let all: Vec<Mention> =
        sources.iter().flat_map(|(module, text)| mentions(module, text)).collect();
    // What a parent brings in from a child is named through the parent: name → where it is.
    let is_passed_on = |m: &&Mention| m.is_use && m.to.len() > m.from.len() + 1;
    let passed_on: BTreeMap<Vec<String>, Vec<String>> = all
        .iter()
        .filter(is_passed_on)
        .filter(|m| modules.contains(&m.to[..=m.from.len()]))
        .map(|m| ([m.from.as_slice(), &m.to[m.to.len() - 1..]].concat(), m.to.clone()))
        .collect();
    let mut graph = Graph::new();
    // Tests may look at everything.
    for mention in all.iter().filter(|m| modules.contains(&m.from) && !is_test(&m.from)) {
        let names_module = (1..=mention.to.len()).rev().any(|n| {
            n > mention.from.len().saturating_sub(1) && modules.contains(&mention.to[..n])
        });
        let passed = (1..=mention.to.len()).rev().find_map(|n| passed_on.get(&mention.to[..n]));
        let to = if names_module { &mention.to } else { passed.unwrap_or(&mention.to) };
        let common = mention.from.iter().zip(to).take_while(|(a, b)| a == b).count();
        // Rooms among themselves have floors.
        if common == 0 || common >= mention.from.len() || common >= to.len() {
            continue;
        }
        let (from, to) = (&mention.from[..=common], &to[..=common]);
        if modules.contains(to) && modules.contains(from) {
            graph.entry(from.to_vec()).or_default().insert(to.to_vec());
        }
    }
    graph
}

fn is_test(module: &[String]) -> bool {
    module.iter().any(|part| part == "tests")
}

/// A circle, if there is one: modules each of which names the next, the last the first.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| follow(graph, start, &mut Vec::new(), &mut done))
}

fn follow(
    graph: &Graph,
    at: &Vec<String>,
    way: &mut Vec<Vec<String>>,
    done: &mut BTreeSet<Vec<String>>,
) -> Option<Vec<String>> {
    if let Some(seen) = way.iter().position(|module| module == at) {
        return Some(way[seen..].iter().map(|module| module.join("::")).collect());
    }
    if !done.insert(at.clone()) {
        return None;
    }
    way.push(at.clone());
    let found =
        graph.get(at).and_then(|next| next.iter().find_map(|n| follow(graph, n, way, done)));
    way.pop();
    found
}

#[test]
fn files_of_a_room_name_each_other_without_circles() {
    let sources: Vec<_> =
        rust_files("src").into_iter().map(|(path, text)| (module(&path), text)).collect();
    let mut graph = graph(&sources);
    let n_named: usize = graph.values().map(BTreeSet::len).sum();
    assert!(n_named > 30, "the checker sees only {n_named} edges");
    let mut circles = Vec::new();
    while let Some(found) = circle(&graph) {
        let parts = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
        let next = found.get(1).unwrap_or(&found[0]);
        graph.entry(parts(&found[0])).or_default().remove(&parts(next));
        circles.push(found);
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn circles_are_found() {
    let check = |sources: &[(&str, &str)], wanted: Option<&[&str]>| {
        let parts = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
        let sources: Vec<_> =
            sources.iter().map(|(path, text)| (parts(path), (*text).to_owned())).collect();
        let wanted = wanted.map(|way| way.iter().map(|&m| m.to_owned()).collect::<Vec<_>>());
        assert_eq!(circle(&graph(&sources)), wanted, "{sources:?}");
    };
    let a_names_b = ("r::a", "use super::b::B;");
    check(&[("r", ""), a_names_b, ("r::b", "")], None);
    check(&[("r", ""), a_names_b, ("r::b", "fn f() { super::a::g() }")], Some(&["r::a", "r::b"]));
    // Through what the parent passes on.
    let parent = ("r", "mod a; mod b; pub use a::{A, X}; use b::B;");
    check(&[parent, a_names_b, ("r::b", "use super::A;")], Some(&["r::a", "r::b"]));
    check(
        &[parent, ("r::a", "use super::B;"), ("r::b", "use crate::r::X;")],
        Some(&["r::a", "r::b"]),
    );
    check(&[parent, ("r::a", "use super::B;"), ("r::b", "use super::Own;")], None);
    // By way of a third, and below a submodule.
    let third = ("r::c", "use super::a;");
    check(
        &[("r", ""), a_names_b, ("r::b", "use super::c;"), third],
        Some(&["r::a", "r::b", "r::c"]),
    );
    let below = ("r::b::deep", "use super::super::a::A;");
    check(&[("r", ""), a_names_b, ("r::b", "mod deep;"), below], Some(&["r::a", "r::b"]));
    // Tests look at everything, and a parent names its children.
    check(&[("r", ""), a_names_b, ("r::b", "mod tests { use crate::r::a; }")], None);
    check(&[("r", "use a::A;"), ("r::a", "use super::Own;")], None);
}
