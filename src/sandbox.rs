//! What this process may still do once it has started, held by the kernel (Landlock).
//!
//! The program reads files of strangers beside somebody else's training. What it needs is little and
//! known at the start, so everything else is given up before the first of those files is opened: what
//! is confined so stays so for all its threads, whatever happens to them later.

mod rules;

use std::path::{Path, PathBuf};

use landlock::{
    Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::io::Errno;

use rules::{ABI, Rules};

/// What a process needs once it has started.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Directories in which files are made, changed and removed.
    pub written: Vec<PathBuf>,
    /// Directories in which links to files below `roots` are made and removed, and nothing is written.
    pub linked: Vec<PathBuf>,
    /// Directories that are read and may be made anew: their parents count.
    pub roots: Vec<PathBuf>,
    /// Files and directories that are read besides; `None` leaves reading as it is.
    pub read: Option<Vec<PathBuf>>,
    /// Whether connections are made; ports are never opened.
    pub connects: bool,
}

/// Why what is needed cannot be held to.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A link would make a file writable that is not, which the kernel refuses.
    #[error(
        "{}: found it in {}, which is written, expected a directory outside of it",
        linked.display(), written.display()
    )]
    LinkedInWritten {
        /// The directory for links.
        linked: PathBuf,
        /// The directory that is written.
        written: PathBuf,
    },
}

/// How far the kernel holds what was asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// All of it.
    Whole,
    /// What this version of Landlock knows.
    Part(u32),
    /// Nothing, for this reason.
    Nothing(String),
}

/// What was given up, and what was kept.
#[derive(Debug)]
pub struct Confined {
    /// How far it is held.
    pub held: Held,
    /// Whether reading is confined as well.
    pub reads: bool,
    /// Roots that are not protected, as they lie in a directory that is written.
    pub unprotected: Vec<PathBuf>,
    /// Directories that were to be written, read or linked to and are not there.
    pub missing: Vec<PathBuf>,
    written: Vec<PathBuf>,
    linked: Vec<PathBuf>,
    read: Vec<PathBuf>,
    /// What could be read at the start.
    guarded: Vec<PathBuf>,
}

/// What would be given up; the places are looked up already.
#[derive(Debug)]
pub struct Sandbox {
    rules: Rules,
    connects: bool,
}

impl Sandbox {
    /// Looks up all places, which waits for file systems that do not answer.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub fn prepare(places: &Places) -> Result<Self, SandboxError> {
        Ok(Self { rules: Rules::of(places)?, connects: places.connects })
    }

    /// Gives up everything else, for this thread and those that it starts from now on. Where the kernel
    /// cannot hold it, the process goes on without.
    #[must_use]
    pub fn enforce(self) -> Confined {
        let Self { rules, connects } = self;
        let held = match restrict(&rules, connects) {
            Ok(held) => held,
            Err(error) => Held::Nothing(error.to_string()),
        };
        let paths = |allow: &dyn Fn(BitFlags<AccessFs>) -> bool| -> Vec<PathBuf> {
            let all = rules.all.iter().filter(|rule| allow(rule.access));
            all.map(|rule| rule.path.clone()).collect()
        };
        let writes = |access: BitFlags<AccessFs>| access.contains(AccessFs::WriteFile);
        let reads = |access: BitFlags<AccessFs>| access.contains(AccessFs::ReadDir);
        let guarded = rules.all.iter().filter(|rule| reads(rule.access) && rule.is_readable);
        Confined {
            held,
            reads: rules.handled.contains(AccessFs::ReadDir),
            written: paths(&writes),
            linked: paths(&|access| access.contains(AccessFs::MakeReg) && !writes(access)),
            read: paths(&reads),
            guarded: guarded.map(|rule| rule.path.clone()).collect(),
            unprotected: rules.unprotected,
            missing: rules.missing,
        }
    }
}

fn restrict(rules: &Rules, connects: bool) -> Result<Held, RulesetError> {
    let mut ruleset = Ruleset::default();
    if rules.all.iter().any(|rule| rule.is_linked_from) {
        // Without this right, which the first version did not know, no link is ever made across
        // directories: then rather links than a sandbox.
        ruleset = ruleset
            .set_compatibility(CompatLevel::SoftRequirement)
            .handle_access(AccessFs::Refer)?
            .set_compatibility(CompatLevel::BestEffort);
    }
    let net = if connects { AccessNet::BindTcp.into() } else { AccessNet::from_all(ABI) };
    let ruleset = ruleset.handle_access(rules.handled)?.handle_access(net)?;
    let mut ruleset = ruleset.scope(Scope::from_all(ABI))?.create()?;
    for rule in &rules.all {
        ruleset = ruleset.add_rule(rule.beneath())?;
    }
    let status = ruleset.restrict_self()?;
    let version = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as u32,
        LandlockStatus::NotEnabled => {
            return Ok(Held::Nothing("Landlock is not among the kernel's `lsm=`".into()));
        }
        LandlockStatus::NotImplemented => {
            return Ok(Held::Nothing(
                "Landlock, which came with Linux 5.13, is not there or refused".into(),
            ));
        }
    };
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Held::Whole,
        RulesetStatus::PartiallyEnforced => Held::Part(version),
        RulesetStatus::NotEnforced => Held::Nothing(format!(
            "Landlock {version} of this kernel allows no hard links, which came with Linux 5.19"
        )),
    })
}

impl Confined {
    /// Whether a file of this path may be made and changed.
    #[must_use]
    pub fn may_write(&self, path: &Path) -> bool {
        self.is_held_by_none_or_below(path, &self.written)
    }

    /// Whether links may be made in this directory.
    #[must_use]
    pub fn may_link(&self, path: &Path) -> bool {
        self.is_held_by_none_or_below(path, &self.linked)
    }

    /// Whether what has this path may be read.
    #[must_use]
    pub fn may_read(&self, path: &Path) -> bool {
        !self.reads || self.is_held_by_none_or_below(path, &self.read)
    }

    fn is_held_by_none_or_below(&self, path: &Path, places: &[PathBuf]) -> bool {
        let is_held = !matches!(self.held, Held::Nothing(_));
        let Some(resolved) = rules::resolved(path) else { return !is_held };
        !is_held || places.iter().any(|place| resolved.starts_with(place))
    }

    /// A directory that could be read at the start and that the kernel refuses now: what has this name
    /// was made, or mounted, after the start. Waits for file systems that do not answer.
    #[must_use]
    pub fn lost(&self) -> Option<&Path> {
        let refused =
            |place: &&PathBuf| rules::open(place).is_err_and(|error| error == Errno::ACCESS);
        self.guarded.iter().find(refused).map(PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests;
