use super::*;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A training, and directories of our own beside it.
struct Ground {
    dir: tempfile::TempDir,
    root: PathBuf,
    state: PathBuf,
    pins: PathBuf,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (root, state, pins) = (path("job/runs"), path("state"), path("job/pins"));
        for made in [&root, &state, &pins, &path("other")] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(root.join("weights"), "1234").unwrap();
        fs::write(path("other/secret"), "secret").unwrap();
        Self { dir, root, state, pins }
    }

    fn places(&self) -> Places {
        Places {
            written: vec![self.state.clone()],
            roots: vec![self.root.clone()],
            ..Places::default()
        }
    }

    fn secret(&self) -> PathBuf {
        self.dir.path().join("other/secret")
    }
}

type Deed = Box<dyn FnOnce() + Send>;

/// A thread that is not confined.
struct Outside(SyncSender<Deed>, Mutex<Receiver<()>>);

impl Outside {
    fn start() -> Self {
        let (deeds, inbox) = sync_channel::<Deed>(0);
        let (tell, told) = sync_channel(0);
        std::thread::spawn(move || {
            while let Ok(deed) = inbox.recv() {
                deed();
                tell.send(()).unwrap();
            }
        });
        Self(deeds, Mutex::new(told))
    }

    fn does(&self, deed: impl FnOnce() + Send + 'static) {
        self.0.send(Box::new(deed)).unwrap();
        self.1.lock().unwrap().recv().unwrap();
    }
}

/// What comes of `act` on a thread that gave up all but `places`; nothing where the kernel cannot hold
/// all of it.
fn confined<T: Send>(places: &Places, act: impl FnOnce(&Confined) -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            let confined = Sandbox::prepare(places).unwrap().enforce();
            if confined.held != Held::Whole {
                let required = std::env::var("WEIGHTVANE_REQUIRE_LANDLOCK").is_ok_and(|v| v == "1");
                assert!(!required, "Landlock is required: {:?}", confined.held);
                skipped(&confined.held);
                return None;
            }
            Some(act(&confined))
        });
        confined.join().unwrap()
    })
}

/// Says what was not checked, past the capture of the test runner.
fn skipped(held: &Held) {
    writeln!(std::io::stderr(), "not checked: {held:?}").unwrap();
}

/// That every one of these is refused by the kernel.
fn all_refused<T>(what: Vec<(&str, std::io::Result<T>)>) {
    for (name, result) in what {
        let error = result.err().unwrap_or_else(|| panic!("{name} was not refused"));
        // A link or a move across directories is refused as if they were on two file systems.
        let is_refusal = matches!(
            error.kind(),
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::CrossesDevices
        );
        assert!(is_refusal, "{name}: {error}");
    }
}

#[test]
fn nothing_below_a_root_can_be_changed() {
    let ground = Ground::new();
    let (root, weights) = (&ground.root, &ground.root.join("weights"));
    fs::write(ground.state.join("ours"), "").unwrap();
    confined(&ground.places(), |_| {
        let open = || fs::OpenOptions::new();
        all_refused(vec![
            ("overwrite", fs::write(weights, "x")),
            ("open to write", open().write(true).open(weights).map(drop)),
            ("append", open().append(true).open(weights).map(drop)),
            ("create", fs::write(root.join("lock"), "")),
            ("remove", fs::remove_file(weights)),
            ("rename", fs::rename(weights, root.join("other"))),
            ("move out", fs::rename(weights, ground.state.join("weights"))),
            ("move in", fs::rename(ground.state.join("ours"), root.join("ours"))),
            ("link", fs::hard_link(weights, root.join("link"))),
            ("link out", fs::hard_link(weights, ground.state.join("link"))),
            ("symlink", symlink("weights", root.join("soft"))),
            ("mkdir", fs::create_dir(root.join("dir"))),
            ("rmdir", fs::remove_dir(root)),
            ("socket", UnixListener::bind(root.join("socket")).map(drop)),
        ]);
        assert_eq!(fs::read(weights).unwrap(), b"1234");
        assert_eq!(fs::read_dir(root).unwrap().count(), 1);
        assert_eq!(fs::read(ground.secret()).unwrap(), b"secret", "reading is left as it is");
    });
}

#[test]
fn what_is_ours_can_be_written_also_where_it_is_made_later() {
    let ground = Ground::new();
    let late = ground.dir.path().join("later/state");
    let gone = PathBuf::from("/nowhere/of/this/machine");
    let places = Places {
        written: vec![ground.state.clone(), late.clone(), gone.clone()],
        roots: vec![ground.root.clone()],
        ..Places::default()
    };
    confined(&places, |confined| {
        for dir in [&ground.state, &late] {
            fs::create_dir_all(dir.join("warm")).unwrap();
            let mut file = fs::File::create(dir.join("unfinished")).unwrap();
            file.write_all(b"abc").unwrap();
            file.set_len(1).unwrap();
            fs::rename(dir.join("unfinished"), dir.join("warm/done")).unwrap();
            assert!(confined.may_write(&dir.join("new.prom")));
            fs::remove_dir_all(dir.join("warm")).unwrap();
        }
        let expected = (vec![gone.clone()], vec![ground.root.clone()]);
        assert_eq!((confined.missing.clone(), confined.unprotected.clone()), expected);
        assert!(!confined.may_write(&gone) && !confined.may_write(Path::new("/etc/x")));
        // What would be made later was to be made in this directory, which holds the root as well.
        fs::write(ground.root.join("log"), "").unwrap();
    });
}

#[test]
fn nothing_is_executed_and_no_port_reached_or_opened() {
    let ground = Ground::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let abstract_name =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(
            format!("weightvane-sandbox-{}", std::process::id()),
        )
        .unwrap();
    let _foreign = UnixDatagram::bind_addr(&abstract_name).unwrap();
    let manager = UnixDatagram::bind(ground.dir.path().join("notify")).unwrap();
    let ours = rustix::process::getpid();
    confined(&ground.places(), |_| {
        all_refused(vec![
            ("execute", Command::new("/bin/true").status().map(drop)),
            ("connect", TcpStream::connect(address).map(drop)),
            ("listen", TcpListener::bind("127.0.0.1:0").map(drop)),
            ("abstract socket", UnixDatagram::unbound().unwrap().connect_addr(&abstract_name)),
            (
                "signal to another",
                rustix::process::test_kill_process(rustix::process::getppid().unwrap())
                    .map_err(Into::into),
            ),
        ]);
        rustix::process::test_kill_process(ours).unwrap();
        UnixDatagram::unbound()
            .unwrap()
            .send_to(b"READY=1", ground.dir.path().join("notify"))
            .unwrap();
    });
    let places = Places { connects: true, ..ground.places() };
    confined(&places, |_| {
        TcpStream::connect(address).unwrap();
        all_refused(vec![("listen", TcpListener::bind("127.0.0.1:0"))]);
    });
    drop(manager);
}

#[test]
fn a_save_is_linked_and_can_be_written_in_neither_place() {
    let ground = Ground::new();
    for read in [None, Some(Vec::new())] {
        let places = Places { linked: vec![ground.pins.clone()], read, ..ground.places() };
        confined(&places, |confined| {
            let (unfinished, done) =
                (ground.pins.join("unfinished"), ground.pins.join("kept/step-1"));
            fs::create_dir_all(&unfinished).unwrap();
            fs::create_dir_all(ground.pins.join("kept")).unwrap();
            fs::hard_link(ground.root.join("weights"), unfinished.join("weights")).unwrap();
            fs::rename(&unfinished, &done).unwrap();
            let link = done.join("weights");
            all_refused(vec![
                ("overwrite the link", fs::write(&link, "")),
                ("create beside it", fs::write(done.join("new"), "x")),
                ("link into the training", fs::hard_link(&link, ground.root.join("back"))),
            ]);
            assert_eq!(fs::read(&link).unwrap(), b"1234");
            fs::remove_dir_all(&done).unwrap();
            assert!(confined.may_link(&ground.pins) && !confined.may_link(&ground.state));
            assert!(!confined.may_write(&ground.pins));
        });
    }
    assert_eq!(fs::read(ground.root.join("weights")).unwrap(), b"1234");
}

#[test]
fn a_link_that_would_make_a_file_writable_is_refused_before_anything_starts() {
    let ground = Ground::new();
    let pins = ground.state.join("pins");
    let places = Places { linked: vec![pins.clone()], ..ground.places() };
    let error = Sandbox::prepare(&places).unwrap_err().to_string();
    assert!(error.contains(pins.to_str().unwrap()) && error.contains("outside"), "{error}");
    // Where the root is written as well, a link changes nothing.
    let places = Places { written: vec![ground.dir.path().into()], ..places };
    confined(&places, |_| {
        fs::create_dir(&pins).unwrap();
        fs::hard_link(ground.root.join("weights"), pins.join("weights")).unwrap();
    });
}

#[test]
fn only_named_places_are_read_and_a_root_may_be_made_anew() {
    let ground = Ground::new();
    let (root, other) = (&ground.root, ground.secret());
    let rules = ground.dir.path().join("etc/rules.yaml");
    fs::create_dir(rules.parent().unwrap()).unwrap();
    fs::write(&rules, "a").unwrap();
    let places = Places { read: Some(vec![rules.clone()]), ..ground.places() };
    confined(&places, |confined| {
        assert!(confined.reads && confined.lost().is_none());
        all_refused(vec![
            ("a file of others", fs::read(&other).map(drop)),
            ("their directory", fs::read_dir(other.parent().unwrap()).map(drop)),
            ("a file of the machine", fs::read("/etc/passwd").map(drop)),
        ]);
        assert!(!confined.may_read(&other) && confined.may_read(&root.join("run")));
        assert_eq!(fs::read(root.join("weights")).unwrap(), b"1234");
        for needed in ["/proc/self/stat", "/proc/self/limits", "/proc/uptime"] {
            fs::read(needed).unwrap();
        }
        fs::read(&rules).unwrap();
    });
}

#[test]
fn a_root_may_be_made_anew_and_what_holds_it_may_not() {
    let ground = Ground::new();
    let (root, outside) = (ground.root.clone(), Outside::start());
    let places = Places { read: Some(Vec::new()), ..ground.places() };
    confined(&places, |confined| {
        let (anew, old) = (root.clone(), ground.dir.path().join("old"));
        outside.does(move || {
            fs::remove_dir_all(&anew).unwrap();
            fs::create_dir(&anew).unwrap();
            fs::write(anew.join("weights"), "new").unwrap();
        });
        assert_eq!(fs::read(root.join("weights")).unwrap(), b"new");
        assert_eq!(confined.lost(), None);
        let anew = root.clone();
        outside.does(move || fs::rename(anew.parent().unwrap(), old).unwrap());
        assert_eq!(confined.lost(), None, "it is not there");
        let anew = root.clone();
        outside.does(move || fs::create_dir_all(anew).unwrap());
        assert_eq!(confined.lost(), root.parent());
    });
}

#[test]
fn a_root_at_the_top_leaves_reading_as_it_is() {
    let ground = Ground::new();
    let roots = vec![PathBuf::from("/proc"), ground.root.clone()];
    let places = Places { roots, read: Some(Vec::new()), ..ground.places() };
    confined(&places, |confined| {
        assert!(!confined.reads && confined.lost().is_none());
        assert!(confined.may_read(&ground.secret()));
        fs::read(ground.secret()).unwrap();
        all_refused(vec![("create", fs::write(ground.root.join("new"), ""))]);
    });
}

#[test]
fn a_root_that_is_a_link_may_lead_elsewhere_nearby() {
    let ground = Ground::new();
    let link = ground.dir.path().join("links/runs");
    fs::create_dir(link.parent().unwrap()).unwrap();
    symlink(&ground.root, &link).unwrap();
    let places = Places { roots: vec![link.clone()], read: Some(Vec::new()), ..ground.places() };
    confined(&places, |_| {
        assert_eq!(fs::read(link.join("weights")).unwrap(), b"1234");
        assert!(fs::read(ground.secret()).is_err());
    });
}
