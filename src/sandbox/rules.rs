//! Places to rules: which rights below which directory.

use std::path::{Path, PathBuf};

use landlock::{Access as _, AccessFs, BitFlags, PathBeneath, PathFd};

use super::{Places, SandboxError};

/// The newest Landlock that this was tried on. Later ones also ask for rules about sockets in files,
/// of which the service manager's is one.
pub(super) const ABI: landlock::ABI = landlock::ABI::V7;

/// What is read by the program's own libraries: counts of this process, the machine's pressure, random
/// bytes. All of `/proc`, as the directory of one process may be made anew; others' memory and
/// environment are refused to a confined process anyway.
const SYSTEM: [&str; 3] = ["/proc", "/sys/fs/cgroup", "/dev/urandom"];

/// Rights below one directory, or to one file.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) path: PathBuf,
    pub(super) access: BitFlags<AccessFs>,
    /// Whether links are made to what lies there.
    pub(super) is_linked_from: bool,
    /// Whether it can be read by its owner and mode.
    pub(super) is_readable: bool,
    place: PathFd,
}

impl Rule {
    pub(super) fn beneath(&self) -> PathBeneath<&PathFd> {
        PathBeneath::new(&self.place, self.access)
    }
}

/// All rules.
#[derive(Debug)]
pub(super) struct Rules {
    /// The rights that nobody has without a rule.
    pub(super) handled: BitFlags<AccessFs>,
    pub(super) all: Vec<Rule>,
    pub(super) unprotected: Vec<PathBuf>,
    pub(super) missing: Vec<PathBuf>,
}

impl Rules {
    pub(super) fn of(places: &Places) -> Result<Self, SandboxError> {
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        let names =
            AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::RemoveFile | AccessFs::RemoveDir;
        let mut handled = AccessFs::from_all(ABI);
        let is_linked_from = !places.linked.is_empty();
        // Roots are asked for nothing that is not needed, as they may not answer.
        let needed = places.read.is_some() || is_linked_from;
        let parents = if needed { parents(&places.roots) } else { Vec::new() };
        let is_everywhere = parents.iter().any(|parent| parent.parent().is_none());
        if places.read.is_none() || is_everywhere {
            handled.remove(reading);
        }
        let mut rules =
            Self { handled, all: Vec::new(), unprotected: Vec::new(), missing: Vec::new() };
        let writing = reading | names | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::Refer;
        for place in &places.written {
            rules.need(nearest(place), place, writing);
        }
        rules.unprotected = unprotected(&rules.all, &places.roots);
        for place in &places.linked {
            rules.check_linked(place, &places.roots)?;
            // No right to write, as a file must not gain any by a link; so what is kept cannot be
            // changed through it either.
            rules.need(place.canonicalize().ok(), place, reading | names | AccessFs::Refer);
        }
        let rights = if is_linked_from { reading | AccessFs::Refer } else { reading };
        for parent in &parents {
            rules.need(Some(parent.clone()), parent, rights);
            if let Some(rule) = rules.all.last_mut().filter(|rule| rule.path == *parent) {
                rule.is_linked_from = is_linked_from;
            }
        }
        if rules.handled.contains(reading) {
            for place in places.read.iter().flatten() {
                rules.need(directory(place), place, reading);
            }
            for place in SYSTEM.map(PathBuf::from) {
                let rights = if place.is_dir() { reading } else { AccessFs::ReadFile.into() };
                rules.add(place, rights);
            }
        }
        Ok(rules)
    }

    /// Adds rights below what was found for a place, or tells that nothing was.
    fn need(&mut self, found: Option<PathBuf>, place: &Path, access: BitFlags<AccessFs>) {
        if !found.is_some_and(|found| self.add(found, access)) {
            self.missing.push(place.to_owned());
        }
    }

    /// Adds those of the rights that have to be given; whether it could.
    fn add(&mut self, path: PathBuf, access: BitFlags<AccessFs>) -> bool {
        let access = access & self.handled;
        if access.is_empty() {
            return true;
        }
        let Ok(place) = PathFd::new(&path) else { return false };
        let is_readable = open(&path).is_ok();
        self.all.push(Rule { path, access, is_linked_from: false, is_readable, place });
        true
    }

    fn check_linked(&self, place: &Path, roots: &[PathBuf]) -> Result<(), SandboxError> {
        let Some(linked) = resolved(place) else { return Ok(()) };
        let below =
            |path: &PathBuf, rule: &Rule| resolved(path).is_some_and(|p| p.starts_with(&rule.path));
        let mut around = self.all.iter().filter(|rule| linked.starts_with(&rule.path));
        match around.find(|rule| !roots.iter().all(|root| below(root, rule))) {
            Some(rule) => {
                let (linked, written) = (place.to_owned(), rule.path.clone());
                Err(SandboxError::LinkedInWritten { linked, written })
            }
            None => Ok(()),
        }
    }
}

/// The directories that hold the roots, as they are named and as links lead: a root may be removed and
/// made anew, moved, or mounted.
fn parents(roots: &[PathBuf]) -> Vec<PathBuf> {
    let mut parents = Vec::new();
    for root in roots {
        let named = std::path::absolute(root).ok();
        // The name itself may be a link: its directory is meant, not where it leads.
        let above = named.as_deref().map(|named| named.parent().unwrap_or(named));
        let above = above.and_then(|above| above.canonicalize().ok());
        let led = root.canonicalize().ok();
        let led = led.as_deref().map(|led| led.parent().unwrap_or(led).to_owned());
        parents.extend(above.into_iter().chain(led));
    }
    parents.sort();
    parents.dedup();
    parents
}

/// Roots in a directory that is written.
fn unprotected(written: &[Rule], roots: &[PathBuf]) -> Vec<PathBuf> {
    let is_written = |root: &&PathBuf| {
        // As it is named: where it leads need not be known.
        let named = std::path::absolute(root).unwrap_or_else(|_| (*root).clone());
        written.iter().any(|rule| named.starts_with(&rule.path))
    };
    roots.iter().filter(is_written).cloned().collect()
}

/// The directory of this path, or the nearest above that is there: what is missing may be made later,
/// but not for all of the machine's files.
fn nearest(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let found = absolute.ancestors().find_map(|above| above.canonicalize().ok())?;
    (found.is_dir() && found.parent().is_some()).then_some(found)
}

/// Opens to read, whatever it is.
pub(super) fn open(path: &Path) -> rustix::io::Result<rustix::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}

/// A directory itself, or that of a file, which may be replaced.
fn directory(path: &Path) -> Option<PathBuf> {
    let found = path.canonicalize().ok()?;
    if found.is_dir() { Some(found) } else { found.parent().map(Path::to_owned) }
}

/// Where a path leads, which need not be there.
pub(super) fn resolved(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let (above, found) = absolute.ancestors().find_map(|a| Some((a, a.canonicalize().ok()?)))?;
    let rest = absolute.strip_prefix(above).ok()?;
    // Joining nothing would add a slash.
    Some(if rest.as_os_str().is_empty() { found } else { found.join(rest) })
}
