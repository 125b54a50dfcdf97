//! `weightvane watch`: the daemon.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use listenfd::ListenFd;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::confine::{Given, confine};
use super::failure::Failure;
use super::places::{check_root, check_written};
use super::{ServeArgs, WatchArgs, logging, print, rules, settings};
use weightvane::config::{Settings, WebConfig};
use weightvane::daemon::http::AccessError;
use weightvane::daemon::{
    Daemon, DaemonError, Handle, OnSave, Reload, Request, Setup, StateDir, vital,
};
use weightvane::remote;
use weightvane::watch::Shard;

pub(super) fn run(args: WatchArgs) -> Result<(), Failure> {
    logging::start(&args.serve.log);
    let mut settings = settings(args.config.as_ref())?;
    apply(&mut settings, &args.serve).map_err(Failure::usage)?;
    settings.sandbox = args.sandbox.unwrap_or(settings.sandbox);
    let shard = args.shard.shard(&settings)?;
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
    watch(settings, (roots, shard), args)
}

/// Watches until a signal.
fn watch(
    settings: Settings,
    (roots, shard): (Vec<PathBuf>, Shard),
    args: WatchArgs,
) -> Result<(), Failure> {
    let state = settings.state_dir.as_deref().map(StateDir::take).transpose();
    let state = state.map_err(|e| Failure::system("state directory", &e))?;
    let listener = listener(&args.serve, &settings)?;
    let web = settings.web_config_file.as_deref().map(WebConfig::load).transpose()?;
    let web = web.iter().flat_map(WebConfig::files);
    let files: Vec<&Path> = args.config.as_deref().into_iter().chain(web).collect();
    let given = confine(&settings, &roots, &files)?;
    let reload = reload(args, &roots, given.clone());
    let interval = settings.scan_interval;
    let parts = Parts { shard, state, reload, on_save: None, sandbox: Some(given.words()) };
    let daemon = start(listener, settings, roots, parts)?;
    let url = daemon.url();
    print(&format!("weightvane: {url}/ (metrics at {url}/metrics)\n"))?;
    on_signal(daemon.handle())?;
    given.guard(daemon.handle(), interval)?;
    daemon.run();
    given.end()
}

/// How to read the configuration again, if there is one.
fn reload(args: WatchArgs, roots: &[PathBuf], given: Given) -> Option<Reload> {
    let WatchArgs { config, serve, bases, .. } = args;
    let (path, roots) = (config?, roots.to_vec());
    Some(Box::new(move || {
        let (mut settings, rules) = read_again(&path, &serve, &roots)?;
        settings.bases.splice(..0, bases.clone());
        given.check(&settings)?;
        Ok((settings, rules))
    }))
}

/// What a daemon has besides its settings.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) shard: Shard,
    pub(super) state: Option<StateDir>,
    pub(super) reload: Option<Reload>,
    pub(super) on_save: Option<OnSave>,
    pub(super) sandbox: Option<String>,
}

/// Listens, or takes the socket that was handed over: the address is known, or refused, before anything
/// else happens.
pub(super) fn listener(serve: &ServeArgs, settings: &Settings) -> Result<TcpListener, Failure> {
    if serve.systemd_socket { handed_over() } else { listen(settings.listen) }
}

/// Starts.
pub(super) fn start(
    listener: TcpListener,
    settings: Settings,
    roots: Vec<PathBuf>,
    parts: Parts,
) -> Result<Daemon, Failure> {
    // Where the size of files is limited a write is to fail, as on a full disk, and not to kill.
    signal_hook::flag::register(SIGXFSZ, Arc::default())
        .map_err(|e| Failure::system("signal handlers", &e))?;
    let rules = rules(&settings)?;
    let Parts { shard, state, reload, on_save, sandbox } = parts;
    let setup = Setup { settings, rules, roots, shard, listener, state, reload, on_save, sandbox };
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
pub(super) fn apply(settings: &mut Settings, serve: &ServeArgs) -> Result<(), String> {
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
    serve.labels.apply(settings)
}

fn read_again(
    path: &Path,
    serve: &ServeArgs,
    roots: &[PathBuf],
) -> Result<(Settings, Vec<weightvane::model::Rule>), String> {
    let mut settings = Settings::load(path).map_err(|e| e.to_string())?;
    apply(&mut settings, serve)?;
    check_written(&settings, roots)?;
    let rules = rules(&settings).map_err(|e| e.to_string())?;
    Ok((settings, rules))
}

/// Turns signals into requests, on a thread of their own.
pub(super) fn on_signal(handle: Handle) -> Result<(), Failure> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]);
    let mut signals = signals.map_err(|e| Failure::system("signal handlers", &e))?;
    let spawned = vital("signals", move || {
        for signal in signals.forever() {
            handle.send(if signal == SIGHUP { Request::Reload } else { Request::Stop });
        }
    });
    spawned.map(drop).map_err(|e| Failure::system("signal thread", &e))
}
