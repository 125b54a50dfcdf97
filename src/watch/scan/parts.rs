//! Files of a save that lie in directories below it.

use std::path::{Path, PathBuf};

use super::Walk;
use super::list::{Listing, Member};
use crate::watch::names;

/// Files of one save that are stamped; more do not show whether they change.
const MAX_MEMBERS: usize = 16_384;

/// Directories of an Orbax step that are looked into, one in another.
const MAX_ORBAX_DEPTH: usize = 6;

/// Items of an Orbax step that are looked into to know it as one.
const MAX_ITEMS: usize = 8;

impl Walk<'_> {
    /// Weights and marks in the directories that a framework makes for parts of a save.
    pub(super) fn parts(&mut self, directory: &Path, listing: &Listing) -> Vec<Member> {
        let mut members = Vec::new();
        for part in
            listing.directories.iter().filter(|part| names::is_part(&part.text, &listing.text))
        {
            let below = PathBuf::from(&part.name);
            let inside = self.list(&directory.join(&below), names::kind_of);
            members.extend(inside.files.into_iter().map(|file| within(&below, &part.text, file)));
            members.truncate(MAX_MEMBERS);
        }
        members
    }

    /// All data and marks of a step that Orbax wrote, except those at its top; none if it did not.
    pub(super) fn orbax(&mut self, directory: &Path, listing: &Listing) -> Vec<Member> {
        let mut members = Vec::new();
        let mut is_orbax = listing.has_orbax;
        let mut stack = Vec::new();
        for item in listing.directories.iter().take(MAX_ITEMS) {
            let inside =
                self.list(&directory.join(&item.name), |name| names::orbax_kind(name, &item.text));
            is_orbax |= inside.has_orbax;
            stack.push((PathBuf::from(&item.name), item.text.clone(), inside, 1));
        }
        if !is_orbax {
            return members;
        }
        while let Some((below, text, inside, depth)) = stack.pop() {
            members.extend(inside.files.into_iter().map(|file| within(&below, &text, file)));
            if members.len() >= MAX_MEMBERS {
                members.truncate(MAX_MEMBERS);
                break;
            }
            for inner in inside.directories.iter().filter(|_| depth < MAX_ORBAX_DEPTH) {
                let below = below.join(&inner.name);
                let listed =
                    self.list(&directory.join(&below), |name| names::orbax_kind(name, &inner.text));
                stack.push((below, format!("{text}/{}", inner.text), listed, depth + 1));
            }
        }
        members.sort_by(|left, right| left.below.cmp(&right.below));
        members
    }
}

fn within(below: &Path, text: &str, file: Member) -> Member {
    let name = format!("{text}/{}", file.name);
    Member { below: below.join(file.below), name, kind: file.kind }
}
