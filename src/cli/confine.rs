//! What `watch` gives up before it looks at the first save.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::{info, warn};

use super::failure::Failure;
use weightvane::config::{Confinement, Settings};
use weightvane::daemon::{Handle, Request, vital};
use weightvane::disk::within;
use weightvane::remote;
use weightvane::sandbox::{Confined, Held, Places, Sandbox};

/// How long file systems may take to say where the places lie. One that hangs does not keep a daemon
/// from starting.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was given up, as far as anything was.
#[derive(Debug, Clone)]
pub(super) struct Given {
    confined: Option<Arc<Confined>>,
    lost: Arc<OnceLock<PathBuf>>,
}

/// Gives up what the settings say, for this thread and those that it starts. To be called when ports are
/// open and the state directory is taken. `files` are read again later, and what lies beside them.
pub(super) fn confine(
    settings: &Settings,
    roots: &[PathBuf],
    files: &[&Path],
) -> Result<Given, Failure> {
    let lost = Arc::new(OnceLock::new());
    if settings.sandbox == Confinement::None {
        return Ok(Given { confined: None, lost });
    }
    if let Some(pins) = settings.pin_dir() {
        // What cannot be made is told when it is to be used.
        let _ = std::fs::create_dir_all(pins);
    }
    let places = places(settings, roots, files);
    let anywhere = Places { read: None, roots: vec!["/".into()], ..places.clone() };
    let prepared = within(PATIENCE, move || Sandbox::prepare(&places)).unwrap_or_else(|| {
        warn!("a file system does not answer, so reading is not confined");
        Sandbox::prepare(&anywhere)
    });
    let confined = prepared.map_err(|error| Failure::usage(error.to_string()))?.enforce();
    tell(&confined, settings.sandbox);
    Ok(Given { confined: Some(Arc::new(confined)), lost })
}

fn places(settings: &Settings, roots: &[PathBuf], files: &[&Path]) -> Places {
    let mut written: Vec<PathBuf> = settings.textfile.iter().flat_map(|f| beside(f)).collect();
    written.extend(settings.state_dir.clone());
    let linked: Vec<PathBuf> = settings.pin_dir().map(Path::to_owned).into_iter().collect();
    let (remote, local): (Vec<_>, Vec<_>) =
        roots.iter().cloned().partition(|root| remote::is_remote(root));
    let bases = settings.bases.iter().filter(|base| !remote::is_remote(base));
    let connects = !remote.is_empty() || bases.clone().count() < settings.bases.len();
    // Credentials, certificates and names of hosts lie in many places.
    let reads = settings.sandbox == Confinement::All && !connects;
    let read = reads.then(|| {
        let files = files.iter().flat_map(|file| beside(file));
        files.chain(settings.architectures_dir.clone()).chain(bases.cloned()).collect()
    });
    Places { written, linked, roots: local, read, connects }
}

/// The directory of a file, and that of the file that it leads to if it is a link: either may be
/// replaced.
fn beside(file: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let named = std::path::absolute(file).ok();
    let parents = named.into_iter().chain(file.canonicalize().ok());
    let parents = parents.filter_map(|file| file.parent().map(Path::to_owned));
    // Once, where it is no link.
    parents.collect::<BTreeSet<_>>().into_iter()
}

fn tell(confined: &Confined, wanted: Confinement) {
    let Confined { held, reads, unprotected, missing, .. } = confined;
    match held {
        Held::Whole => info!(reads, "confined by Landlock"),
        Held::Part(version) => {
            info!(reads, version, "confined by Landlock as far as this kernel knows it");
        }
        Held::Nothing(why) => {
            info!(why, "not confined");
            return;
        }
    }
    if wanted == Confinement::All && !reads {
        info!(
            "reading is not confined: a root lies in `/` or in an object store, or does not answer"
        );
    }
    for path in missing {
        warn!(?path, "not there, and out of reach until the next start");
    }
    for root in unprotected {
        warn!(?root, "lies in a directory that is written, so it is not protected");
    }
}

impl Given {
    /// For the page.
    pub(super) fn words(&self) -> String {
        let Some(confined) = &self.confined else { return "none".into() };
        let what = if confined.reads { "reads and writes" } else { "writes" };
        match &confined.held {
            Held::Whole => format!("{what} in its own places only"),
            Held::Part(version) => {
                format!("{what} in its own places only, as far as Landlock {version} goes")
            }
            Held::Nothing(why) => format!("none: {why}"),
        }
    }

    /// That what settings name can still be reached: what was given up does not come back.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), String> {
        let Some(confined) = &self.confined else { return Ok(()) };
        let refused = |what: &str, path: &Path, reach: &str| {
            let path = path.display();
            format!(
                "{what} {path}: found it outside of what this process may {reach} since its start, expected a restart"
            )
        };
        if let Some(file) = settings.textfile.as_deref().filter(|file| !confined.may_write(file)) {
            return Err(refused("textfile", file, "write"));
        }
        if let Some(pins) = settings.pin_dir().filter(|pins| !confined.may_link(pins)) {
            return Err(refused("pin_dir", pins, "write"));
        }
        let bases = settings.bases.iter().filter(|base| !remote::is_remote(base));
        let named = settings.architectures_dir.iter().map(|dir| ("architectures_dir", dir));
        for (what, path) in named.chain(bases.map(|base| ("bases", base))) {
            if !confined.may_read(path) {
                return Err(refused(what, path, "read"));
            }
        }
        Ok(())
    }

    /// Ends the daemon when what it is to watch is out of its reach, on a thread of its own, as file
    /// systems may hang: to watch nothing and say nothing would be worse.
    pub(super) fn guard(&self, handle: Handle, interval: Duration) -> Result<(), Failure> {
        let Some(confined) = self.confined.clone().filter(|confined| confined.reads) else {
            return Ok(());
        };
        let lost = Arc::clone(&self.lost);
        let interval = interval.max(Duration::from_secs(1));
        let spawned = vital("sandbox", move || {
            loop {
                std::thread::sleep(interval);
                if let Some(path) = confined.lost() {
                    let _ = lost.set(path.to_owned());
                    handle.send(Request::Stop);
                    return;
                }
            }
        });
        spawned.map(drop).map_err(|e| Failure::system("sandbox thread", &e))
    }

    /// Why the daemon ended, if it was not asked to.
    pub(super) fn end(&self) -> Result<(), Failure> {
        let Some(path) = self.lost.get() else { return Ok(()) };
        let said = std::io::Error::other(format!(
            "{} was made or mounted anew since the start, and `sandbox: all` keeps this process from reading it, expected to be started again",
            path.display()
        ));
        Err(Failure::system("sandbox", &said))
    }
}
