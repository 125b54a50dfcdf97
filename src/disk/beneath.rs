//! Opening what lies below a directory, and nothing else: a link of a stranger's may lead anywhere, and
//! lead elsewhere a moment after it was looked at. The kernel is asked to follow no further than the
//! directory, in the same step in which it opens.

use std::fs::read_link;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags, open as open_plainly, openat2};
use rustix::io::{Errno, Result};

/// Times that the kernel is asked again where a directory on the way was renamed meanwhile.
const MAX_TRIES: u32 = 16;

/// Opens `path`, which is below `root` by its name, if it is so with all links followed.
///
/// # Errors
/// [`Errno::XDEV`] where it leads out of the root.
pub(super) fn open(root: &Path, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let below = path.strip_prefix(root).map_err(|_| Errno::XDEV)?;
    match below_of(root, below, flags, ResolveFlags::empty()) {
        // Also what a link says from the root directory on, although it may lead back.
        Err(Errno::XDEV) => follow(root, path, flags),
        // A kernel before 5.6, or a sandbox from before it.
        Err(Errno::NOSYS) => open_and_look(root, path, flags),
        Err(Errno::PERM) if !flags.contains(OFlags::NOATIME) => open_and_look(root, path, flags),
        result => result,
    }
}

fn below_of(root: &Path, below: &Path, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd> {
    let home =
        open_plainly(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | more;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..MAX_TRIES {
        result = openat2(&home, below, flags, Mode::empty(), how);
        if !matches!(result, Err(Errno::AGAIN)) {
            break;
        }
    }
    result
}

/// Resolves the links by name, and opens what is there if no link is left on the way.
fn follow(root: &Path, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let (root, path) = (real(root)?, real(path)?);
    let below = path.strip_prefix(&root).map_err(|_| Errno::XDEV)?;
    below_of(&root, below, flags, ResolveFlags::NO_SYMLINKS)
}

/// Where the kernel cannot be asked: resolved by name, opened, and looked at.
fn open_and_look(root: &Path, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let (root, path) = (real(root)?, real(path)?);
    if !path.starts_with(&root) {
        return Err(Errno::XDEV);
    }
    let opened = open_plainly(&path, flags | OFlags::NOFOLLOW, Mode::empty())?;
    let place = read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let is_below = place.is_ok_and(|place| place.starts_with(&root));
    if is_below { Ok(opened) } else { Err(Errno::XDEV) }
}

fn real(path: &Path) -> Result<std::path::PathBuf> {
    path.canonicalize()
        .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read as _;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tempfile::TempDir;

    use super::*;

    type Open = fn(&Path, &Path, OFlags) -> Result<OwnedFd>;
    const WAYS: [Open; 2] = [open, open_and_look];

    /// A root with a file in a directory, and a file outside.
    fn place() -> (TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("blobs")).unwrap();
        fs::create_dir(root.join("save")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(root.join("blobs/file"), "inside").unwrap();
        fs::write(outside.join("file"), "outside").unwrap();
        (dir, root, outside)
    }

    fn text(opened: OwnedFd) -> String {
        let mut text = String::new();
        File::from(opened).read_to_string(&mut text).unwrap();
        text
    }

    const HOW: OFlags = OFlags::CLOEXEC;

    #[test]
    fn links_are_followed_below_the_root_and_not_out_of_it() {
        let (_dir, root, outside) = place();
        let link = |target: &Path, name: &str| {
            let path = root.join("save").join(name);
            symlink(target, &path).unwrap();
            path
        };
        let inside = [
            root.join("blobs/file"),
            link(Path::new("../blobs/file"), "as-in-a-cache"),
            link(&root.join("blobs/file"), "absolute"),
            link(Path::new("as-in-a-cache"), "twice"),
            link(Path::new("../blobs"), "directory").join("file"),
        ];
        let out = [
            link(Path::new("../../outside/file"), "up"),
            link(&outside.join("file"), "absolute-out"),
            link(Path::new("up"), "twice-out"),
            link(&outside, "directory-out").join("file"),
            root.join("save/../../outside/file"),
            outside.join("file"),
        ];
        for open in WAYS {
            for path in &inside {
                assert_eq!(text(open(&root, path, HOW).unwrap()), "inside", "{path:?}");
            }
            for path in &out {
                assert_eq!(open(&root, path, HOW).unwrap_err(), Errno::XDEV, "{path:?}");
            }
            assert_eq!(open(&root, &root.join("none"), HOW).unwrap_err(), Errno::NOENT);
            assert!(open(&root, &root, HOW | OFlags::DIRECTORY).is_ok(), "the root itself");
        }
        let magic = link(Path::new("/proc/self/root/etc/hostname"), "magic");
        assert!(open(&root, &magic, HOW).is_err());
        let linked = root.with_file_name("linked-root");
        symlink(&root, &linked).unwrap();
        assert_eq!(text(open(&linked, &linked.join("save/twice"), HOW).unwrap()), "inside");
    }

    #[test]
    fn a_link_that_is_swapped_meanwhile_never_leads_out() {
        let (_dir, root, outside) = place();
        let path = root.join("save/file");
        symlink("../blobs/file", &path).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let swaps = {
            let (path, done) = (path.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let next = path.with_extension("next");
                while !done.load(Ordering::Relaxed) {
                    for target in [outside.join("file"), PathBuf::from("../blobs/file")] {
                        symlink(target, &next).unwrap();
                        fs::rename(&next, &path).unwrap();
                    }
                }
            })
        };
        for open in WAYS {
            for _ in 0..2000 {
                match open(&root, &path, HOW) {
                    Ok(opened) => assert_eq!(text(opened), "inside"),
                    Err(error) => assert!([Errno::XDEV, Errno::LOOP].contains(&error), "{error}"),
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        swaps.join().unwrap();
    }
}
