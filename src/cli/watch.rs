//! `weightvane watch`: the daemon.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::confine::{Given, confine};
use super::failure::Failure;
use super::places::{check_root, check_written};
use super::{ServeArgs, WatchArgs, logging, print, rules, settings};
use weightvane::config::Settings;
use weightvane::daemon::{Daemon, Handle, OnSave, Reload, Request, Setup, StateDir};
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
    let listener = listen(&settings)?;
    let files: Vec<&Path> = args.config.as_deref().into_iter().collect();
    let given = confine(&settings, &roots, &files)?;
    let reload = reload(args, &roots, given.clone());
    let interval = settings.scan_interval;
    let parts = Parts { shard, state, reload, on_save: None, sandbox: Some(given.words()) };
    let (daemon, address) = start(listener, settings, roots, parts)?;
    print(&format!("weightvane: http://{address}/ (metrics at http://{address}/metrics)\n"))?;
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

/// Binds: the address is known, or refused, before anything else happens.
pub(super) fn listen(settings: &Settings) -> Result<TcpListener, Failure> {
    let listening = |e| Failure::system(&format!("listen on {}", settings.listen), &e);
    TcpListener::bind(settings.listen).map_err(listening)
}

/// Starts; and where it is served.
pub(super) fn start(
    listener: TcpListener,
    settings: Settings,
    roots: Vec<PathBuf>,
    parts: Parts,
) -> Result<(Daemon, SocketAddr), Failure> {
    let rules = rules(&settings)?;
    let address = listener.local_addr().map_err(|e| Failure::system("listen", &e))?;
    let Parts { shard, state, reload, on_save, sandbox } = parts;
    let setup = Setup { settings, rules, roots, shard, listener, state, reload, on_save, sandbox };
    let daemon = Daemon::start(setup).map_err(|e| Failure::system("daemon", &e))?;
    Ok((daemon, address))
}

/// Flags win over the file.
pub(super) fn apply(settings: &mut Settings, serve: &ServeArgs) -> Result<(), String> {
    if let Some(listen) = serve.listen {
        settings.listen = listen;
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
    let spawned = std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            handle.send(if signal == SIGHUP { Request::Reload } else { Request::Stop });
        }
    });
    spawned.map(drop).map_err(|e| Failure::system("signal thread", &e))
}
