//! `weightvane watch`: the daemon.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::failure::Failure;
use super::places::{check_root, check_written};
use super::{ServeArgs, WatchArgs, logging, print, rules, settings};
use weightvane::config::Settings;
use weightvane::daemon::{Daemon, Handle, OnSave, Reload, Request, Setup, StateDir};
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
    let watched = roots.clone();
    let reload = config.map(|path| -> Reload {
        Box::new(move || {
            let (mut settings, rules) = read_again(&path, &serve, &watched)?;
            settings.bases.splice(..0, bases.clone());
            Ok((settings, rules))
        })
    });
    watch(settings, roots, reload, None)
}

/// Watches until a signal.
pub(super) fn watch(
    settings: Settings,
    roots: Vec<PathBuf>,
    reload: Option<Reload>,
    on_save: Option<OnSave>,
) -> Result<(), Failure> {
    let state = settings.state_dir.as_deref().map(StateDir::take).transpose();
    let state = state.map_err(|e| Failure::system("state directory", &e))?;
    let (daemon, address) = start(settings, roots, state, reload, on_save)?;
    print(&format!("weightvane: http://{address}/ (metrics at http://{address}/metrics)\n"))?;
    on_signal(daemon.handle())?;
    daemon.run();
    Ok(())
}

/// Binds and starts; the address is known before anything else happens.
pub(super) fn start(
    settings: Settings,
    roots: Vec<PathBuf>,
    state: Option<StateDir>,
    reload: Option<Reload>,
    on_save: Option<OnSave>,
) -> Result<(Daemon, std::net::SocketAddr), Failure> {
    // Where the size of files is limited a write is to fail, as on a full disk, and not to kill.
    signal_hook::flag::register(SIGXFSZ, Arc::default())
        .map_err(|e| Failure::system("signal handlers", &e))?;
    let rules = rules(&settings)?;
    let listening =
        |e: &std::io::Error| Failure::system(&format!("listen on {}", settings.listen), e);
    let listener = TcpListener::bind(settings.listen).map_err(|e| listening(&e))?;
    let address = listener.local_addr().map_err(|e| listening(&e))?;
    let setup = Setup { settings, rules, roots, listener, state, reload, on_save };
    let daemon = Daemon::start(setup).map_err(|e| Failure::system("daemon", &e))?;
    Ok((daemon, address))
}

/// Flags win over the file.
pub(super) fn apply(settings: &mut Settings, serve: &ServeArgs) {
    if let Some(listen) = serve.listen {
        settings.listen = listen;
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
