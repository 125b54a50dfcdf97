//! `weightvane watch`: the daemon.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::failure::Failure;
use super::places::{check_root, check_written};
use super::{ServeArgs, WatchArgs, logging, print, rules, settings};
use weightvane::config::Settings;
use weightvane::daemon::http::AccessError;
use weightvane::daemon::{Daemon, DaemonError, Handle, OnSave, Reload, Request, Setup, StateDir};
use weightvane::remote;

pub(super) fn run(args: WatchArgs) -> Result<(), Failure> {
    logging::start(&args.serve.log);
    let mut settings = settings(args.config.as_ref())?;
    apply(&mut settings, &args.serve);
    settings.bases.splice(..0, args.bases.clone());
    let roots = if args.roots.is_empty() { settings.roots.clone() } else { args.roots.clone() };
    // As it is told everywhere else: with two slashes, and none at the end.
    let told = |root: PathBuf| remote::canonical(&root).unwrap_or(root);
    let roots: Vec<PathBuf> = roots.into_iter().map(told).collect();
    if roots.is_empty() {
        return Err(Failure::usage(
            "no directory to watch, expected ROOT or `roots` in --config FILE",
        ));
    }
    roots.iter().try_for_each(|root| check_root(root))?;
    check_written(&settings, &roots).map_err(Failure::usage)?;
    let WatchArgs { config, serve, bases, .. } = args;
    let (watched, is_handed) = (roots.clone(), serve.systemd_socket);
    let reload = config.map(|path| -> Reload {
        Box::new(move || {
            let (mut settings, rules) = read_again(&path, &serve, &watched)?;
            settings.bases.splice(..0, bases.clone());
            Ok((settings, rules))
        })
    });
    watch(settings, roots, is_handed, reload)
}

/// Watches until a signal.
fn watch(
    settings: Settings,
    roots: Vec<PathBuf>,
    is_handed: bool,
    reload: Option<Reload>,
) -> Result<(), Failure> {
    let state = settings.state_dir.as_deref().map(StateDir::take).transpose();
    let state = state.map_err(|e| Failure::system("state directory", &e))?;
    let daemon = start(settings, roots, is_handed, state, (reload, None))?;
    let url = daemon.url();
    print(&format!("weightvane: {url}/ (metrics at {url}/metrics)\n"))?;
    on_signal(daemon.handle())?;
    daemon.run();
    Ok(())
}

/// Listens, or takes the socket that was handed over, and starts; the address is known before anything
/// else happens.
pub(super) fn start(
    settings: Settings,
    roots: Vec<PathBuf>,
    is_handed: bool,
    state: Option<StateDir>,
    (reload, on_save): (Option<Reload>, Option<OnSave>),
) -> Result<Daemon, Failure> {
    let rules = rules(&settings)?;
    let listener = if is_handed { handed_over()? } else { listen(settings.listen)? };
    let setup = Setup { settings, rules, roots, listener, state, reload, on_save };
    Daemon::start(setup).map_err(|error| match error {
        DaemonError::Access(AccessError::Config(error)) => error.into(),
        error => Failure::system("daemon", &error),
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|e| Failure::system(&format!("listen on {address}"), &e))
}

/// The one socket that systemd hands over (`LISTEN_FDS` and `LISTEN_PID`).
fn handed_over() -> Result<TcpListener, Failure> {
    let refused = |found: String| {
        let expected = "expected one of a .socket unit with ListenStream=ADDRESS:PORT";
        Failure::system(
            "--web.systemd-socket",
            &std::io::Error::other(format!("{found}, {expected}")),
        )
    };
    let mut handed = ListenFd::from_env();
    match handed.len() {
        0 => return Err(refused("found no socket for this process in LISTEN_FDS".into())),
        1 => {}
        n => return Err(refused(format!("found {n} sockets in LISTEN_FDS"))),
    }
    let listener =
        handed.take_tcp_listener(0).map_err(|e| refused(format!("found another socket: {e}")))?;
    listener.ok_or_else(|| refused("found no socket".into()))
}

/// Flags win over the file.
pub(super) fn apply(settings: &mut Settings, serve: &ServeArgs) {
    if let Some(listen) = serve.listen {
        settings.listen = listen;
    }
    if let Some(file) = &serve.web_config_file {
        settings.web_config_file = Some(file.clone());
    }
    if let Some(dir) = &serve.state_dir {
        settings.state_dir = Some(dir.clone());
    }
    if let Some(file) = &serve.textfile {
        settings.textfile = Some(file.clone());
    }
}

fn read_again(
    path: &Path,
    serve: &ServeArgs,
    roots: &[PathBuf],
) -> Result<(Settings, Vec<weightvane::model::Rule>), String> {
    let mut settings = Settings::load(path).map_err(|e| e.to_string())?;
    apply(&mut settings, serve);
    check_written(&settings, roots)?;
    let rules = rules(&settings).map_err(|e| e.to_string())?;
    Ok((settings, rules))
}

/// Turns signals into requests, on a thread of their own.
pub(super) fn on_signal(handle: Handle) -> Result<(), Failure> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]);
    let mut signals = signals.map_err(|e| Failure::system("signal handlers", &e))?;
    let spawned = std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            handle.send(if signal == SIGHUP { Request::Reload } else { Request::Stop });
        }
    });
    spawned.map(drop).map_err(|e| Failure::system("signal thread", &e))
}
