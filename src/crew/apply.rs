//! `beehive broker apply`: puts the broker's files in place on its machine and restarts mosquitto if anything is new.
//!
//! A restart, because nothing less ends the connection of somebody who has been left out (mosquitto 2.0.11 reads rules
//! and certificates again at SIGHUP, keeps connections, and goes on trusting what it has trusted; tried). Everybody else
//! is back within seconds, and what is retained survives.
//!
//! An interruption between the files and the restart must not leave a restart undone: a mark is set before the first
//! file is touched, and taken away after the restart.

use super::broker::file;
use super::files::{self, Access};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a restarted broker may take until it listens. On a Pi with a large store it takes a second or two.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);
/// The wait between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The mark of a restart that is due.
const DUE: &str = ".restart-is-due";

/// Where everything goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The folder that came from the crew's folder.
    pub from: PathBuf,
    /// Where the files lie, as the configuration has it.
    pub into: PathBuf,
    /// Where mosquitto looks for further configuration.
    pub conf_d: PathBuf,
    /// What restarts the broker: a program and its arguments.
    pub restart: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Everything was as it should be already.
    Unchanged,
    /// Something was new, and the broker has been restarted and listens.
    Restarted,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A file.
    #[error("{0}")]
    File(#[from] io::Error),
    /// The files are for another place, or not complete.
    #[error("{path}: {why}; make the files again with `beehive broker config`")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The broker did not restart. The files are in place; the next `apply` restarts it.
    #[error("the files are in place, but {0}; see `journalctl -u mosquitto`, then run this again")]
    Restart(String),
}

/// Puts the files in place.
///
/// # Errors
/// Says what was not done. It may be called again.
pub fn apply(places: &Places) -> Result<Applied, ApplyError> {
    let Places { from, into, conf_d, restart } = places;
    let read = |name| files::read(&from.join(name));
    let config = read(file::CONFIG)?;
    let wanted = |line: &str| config.lines().any(|found| found == line);
    if !wanted(&format!("acl_file {}/{}", into.display(), file::ACL)) {
        let why = format!("it was not made for {}", into.display());
        return Err(ApplyError::Content { path: from.join(file::CONFIG), why });
    }
    let port = config.lines().find_map(|line| line.strip_prefix("listener ")?.parse::<u16>().ok());
    let Some(port) = port else {
        return Err(ApplyError::Content { path: from.join(file::CONFIG), why: "it names no listener".to_owned() });
    };
    let clients = read(file::CLIENTS)?;
    if !clients.contains("-----BEGIN CERTIFICATE-----") {
        let why = "it names nobody, so that everybody would be shut out".to_owned();
        return Err(ApplyError::Content { path: from.join(file::CLIENTS), why });
    }
    let (acl, certificate) = (read(file::ACL)?, read(file::CERTIFICATE)?);
    // a broker whose machine made its key itself has it already, and nobody else has
    let key = match (from.join(file::KEY).exists(), into.join(file::KEY).exists()) {
        (false, true) => files::read(&into.join(file::KEY))?,
        (true, _) | (false, false) => read(file::KEY)?,
    };
    // the configuration last: with it mosquitto begins to look at the others
    let all = [
        (into.join(file::ACL), Access::Private, &acl),
        (into.join(file::CLIENTS), Access::Public, &clients),
        (into.join(file::CERTIFICATE), Access::Public, &certificate),
        (into.join(file::KEY), Access::Private, &key),
        (conf_d.join(file::CONFIG), Access::Public, &config),
    ];
    fs::create_dir_all(into)?;
    // mosquitto passes through it as its own user, whatever the umask here
    fs::set_permissions(into, fs::Permissions::from_mode(0o755))?;
    let due = into.join(DUE);
    let old = |path: &Path| files::read(path).ok();
    let changed: Vec<_> = all.iter().filter(|(path, _, text)| old(path).as_ref() != Some(*text)).collect();
    if changed.is_empty() && !due.exists() {
        return Ok(Applied::Unchanged);
    }
    files::write(&due, Access::Public, b"")?;
    let owner = owner()?;
    for (path, access, text) in changed {
        files::write(path, *access, text.as_bytes())?;
        if let (Some((user, group)), Access::Private) = (owner, access) {
            chown(path, Some(user), Some(group))?;
        }
    }
    restarted(restart, port)?;
    fs::remove_file(&due)?;
    Ok(Applied::Restarted)
}

/// mosquitto drops root's rights before it reads keys and rules: they are its own. Not root, or no such user: as we are.
fn owner() -> io::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = files::read(Path::new("/etc/passwd"))?;
    Ok(passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some("mosquitto")).then_some(())?;
        let user = fields.nth(1)?.parse().ok()?;
        Some((user, fields.next()?.parse().ok()?))
    }))
}

fn restarted(restart: &[String], port: u16) -> Result<(), ApplyError> {
    let failed = |why: String| Err(ApplyError::Restart(why));
    let [program, arguments @ ..] = restart else { return failed("nothing says how to restart the broker".to_owned()) };
    match Command::new(program).args(arguments).status() {
        Err(error) => return failed(format!("{program} cannot be started: {error}")),
        Ok(status) if !status.success() => return failed(format!("{program} ended with {status}")),
        Ok(_) => {}
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let until = Instant::now() + LISTENS_WITHIN;
    while TcpStream::connect(address).is_err() {
        if Instant::now() >= until {
            return failed(format!("nothing listens on {address} after {} s", LISTENS_WITHIN.as_secs()));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}
