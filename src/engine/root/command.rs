//! `beehive engine serve`: the root unit as a program.
//!
//! Its socket is its standard input where systemd listens for it (`StandardInput=socket` in `beehive-engine.service`): a
//! descriptor that is there by a name of the standard library, where that of `LISTEN_FDS` could be taken over only by unsafe
//! code. Elsewhere it binds the path that it is given.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use super::server::{self, Ended, ServerSettings};
use crate::config::{Config, EngineKind};
use crate::engine::run::{self, ChildTools};
use crate::engine::simulated::Settings;
use crate::engine::tool::Tools;
use crate::engine::{Engine, SimulatedEngine};
use crate::kube::ControlPlane;
use crate::store::Store;
use beehive_mqtt::node::Role;

/// How long a root unit that systemd started and that cannot work stays before it says so by its end: what is wrong (a mistake
/// in the configuration, no bus yet) is not mended within milliseconds, and each start costs a line of the journal.
pub const PAUSE: Duration = Duration::from_secs(5);

/// Where users are looked up. A system user stands there; nobody's directory service is asked by a root process.
const USERS: &str = "/etc/passwd";

/// The folder of the simulated engine's store, in the state folder.
const SIMULATED: &str = "engine";

/// What `beehive engine serve` is told.
#[derive(Debug, Clone)]
pub struct Serve {
    /// The configuration.
    pub config: Config,
    /// Where to listen, unless systemd does.
    pub socket: Option<PathBuf>,
    /// Programs are looked up below this folder and run as children: for tests.
    pub tools_below: Option<PathBuf>,
    /// How long it stays without work.
    pub idle: Duration,
}

/// Serves until SIGTERM or SIGINT, or until it is not needed.
///
/// # Errors
/// If it is not root, there is nothing to listen on, or the engine cannot be opened.
pub async fn serve(serve: Serve) -> anyhow::Result<()> {
    let Serve { config, socket, tools_below, idle } = serve;
    if !rustix::process::geteuid().is_root() {
        bail!(
            "beehive engine serve needs root: it runs what changes this machine; start beehive-engine.socket instead"
        );
    }
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let daemon = user(Path::new(USERS), &config.engine.daemon_user)?;
    if daemon.is_none() {
        tracing::warn!(
            "there is no user {:?} on this machine (daemon_user in [engine]): only root may ask",
            config.engine.daemon_user
        );
    }
    let (listener, bound) = match socket {
        None => (from_systemd()?, None),
        Some(path) => {
            let listener = bind(&path, daemon).with_context(|| format!("cannot listen at {}", path.display()))?;
            (listener, Some(path))
        }
    };
    let tools: Arc<dyn Tools> = match tools_below {
        Some(folder) => Arc::new(ChildTools::below(&folder)),
        None => run::here().await?,
    };
    let engine = engine(&config, tools)?;
    tracing::info!(engine = engine.kind(), "the root unit listens");
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let settings = ServerSettings::new(daemon.map(|user| user.id), idle);
    let ended = server::serve(listener, engine, settings, stop).await.context("the root unit's socket failed")?;
    tracing::info!(
        "the root unit ends: {}",
        match ended {
            Ended::Stopped => "it was told to",
            Ended::Idle => "nobody needs it",
            Ended::Outdated => "another release of beehive has asked, and gets its own",
        }
    );
    if let Some(path) = bound {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// The engine that the configuration names.
fn engine(config: &Config, tools: Arc<dyn Tools>) -> anyhow::Result<Arc<dyn Engine>> {
    match config.engine.kind {
        // the daemon has it in its own process; here it is for trying this unit, in a folder of its own
        EngineKind::Simulated => {
            let store = Store::open(&config.state_dir.join(SIMULATED))?;
            let plane = match config.role {
                Role::Master => {
                    Some(ControlPlane::open(store.clone()).map_err(|error| anyhow::anyhow!("{}", error.reason))?)
                }
                Role::Node => None,
            };
            let settings = Settings {
                step_ms: config.engine.step_ms,
                program: config.engine.step_program.clone(),
                ..Settings::default()
            };
            Ok(Arc::new(SimulatedEngine::new(config.node.clone(), store, plane, settings)?))
        }
        EngineKind::K3s | EngineKind::Kubeadm => Ok(crate::engine::open(config, tools)?),
    }
}

/// The socket that systemd listens on.
fn from_systemd() -> anyhow::Result<UnixListener> {
    let nothing = "standard input is no listening socket: let systemd start it (beehive-engine.socket), or name one with --socket";
    let socket = io::stdin().as_fd().try_clone_to_owned().context(nothing)?;
    if !rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false) {
        bail!(nothing);
    }
    let listener = StdListener::from(socket);
    listener.local_addr().context("standard input is a socket, but no local one")?;
    listener.set_nonblocking(true)?;
    Ok(UnixListener::from_std(listener)?)
}

/// Listens at `path` for root and the daemon's group.
fn bind(path: &Path, daemon: Option<User>) -> anyhow::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => bail!("something else is there; remove it first"),
        Ok(_) => {
            if StdStream::connect(path).is_ok() {
                bail!("another root unit listens there");
            }
            fs::remove_file(path).context("what a killed one left there cannot be removed")?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    // nobody gets in before it has its owner
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = StdListener::bind(path);
    rustix::process::umask(mask);
    let listener = listener?;
    if let Some(daemon) = daemon {
        chown(path, Some(0), Some(daemon.group))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    }
    listener.set_nonblocking(true)?;
    Ok(UnixListener::from_std(listener)?)
}

/// A user of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    id: u32,
    group: u32,
}

/// Looks `name` up in a file as of passwd(5).
fn user(users: &Path, name: &str) -> anyhow::Result<Option<User>> {
    let text = fs::read_to_string(users).with_context(|| format!("cannot read {}", users.display()))?;
    Ok(text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let (id, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some(User { id, group })
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("passwd");
        fs::write(
            &file,
            "root:x:0:0:root:/root:/bin/sh\nbeehive2:x:7:8::/:\nbeehive:x:990:991::/:/bin/false\nbad:x:y\n",
        )
        .unwrap();
        assert_eq!(user(&file, "beehive").unwrap(), Some(User { id: 990, group: 991 }));
        assert_eq!(user(&file, "bee").unwrap(), None);
        assert_eq!(user(&file, "bad").unwrap(), None);
        assert!(user(&dir.path().join("none"), "beehive").is_err());
    }

    #[tokio::test]
    async fn nothing_else_is_put_aside_for_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.sock");
        fs::write(&path, "a file").unwrap();
        assert!(bind(&path, None).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
        fs::remove_file(&path).unwrap();
        let first = bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(bind(&path, None).is_err(), "one that lives keeps its place");
        drop(first);
        bind(&path, None).unwrap();
    }
}
