//! Which Pi this card is in. The first Pi's serial number is written down on the card; where another one is found there, the card
//! was copied or moved, and two Pis must not be one: machine-id and SSH host keys are made anew and the node's keys are set
//! aside, before anything uses them. `beehive enrol --keep-keys` says that the card was moved on purpose.
//!
//! Facts it rests on: the firmware hands the board's serial number to the kernel's device tree, where it is
//! `/proc/device-tree/serial-number` (Raspberry Pi documentation, "/proc/cpuinfo and the device tree"; it ends with a NUL). A
//! virtual machine has none; there nothing is compared.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::wire::about;
use crate::crew::files::{self, Access};

/// Which Pi the card is in, below the root.
pub const RECORD: &str = "etc/beehive/machine.toml";

/// What is the node's own, and so is set aside in another Pi: its identity, and the keys of an enrolment under way.
const OWN: [&str; 2] = ["etc/beehive/identity", "etc/beehive/enrolment"];

/// What is added to the name of what is set aside.
const ASIDE: &str = "of-another-pi";

/// Every program that is started: with a full path, without a shell.
const SSH_KEYGEN: &str = "/usr/bin/ssh-keygen";

/// What a Pi says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// Its serial number.
    pub serial: Option<String>,
    /// What kind it is.
    pub model: Option<String>,
}

impl About {
    /// Reads the device tree below `root`.
    pub fn read(root: &Path) -> Self {
        let word = |name: &str| {
            let bytes = fs::read(root.join("proc/device-tree").join(name)).ok()?;
            // it goes into files that a parser reads
            about(&String::from_utf8_lossy(&bytes).replace(['"', '\\'], ""))
        };
        Self { serial: word("serial-number"), model: word("model") }
    }
}

/// What is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The Pi that this card is in.
    pub serial: String,
    /// The Pi that it was in before, if it was copied or moved and nobody has said that this is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<String>,
}

impl Record {
    /// Reads it, if it is there.
    ///
    /// # Errors
    /// If it cannot be read, or holds something else.
    pub fn load(root: &Path) -> anyhow::Result<Option<Self>> {
        let path = root.join(RECORD);
        if !path.exists() {
            return Ok(None);
        }
        let text = files::read(&path)?;
        let record = toml::from_str(&text);
        record
            .map(Some)
            .with_context(|| format!("{} is no record of a Pi; remove it if this card is in its Pi", path.display()))
    }

    fn save(&self, root: &Path) -> anyhow::Result<()> {
        let path = root.join(RECORD);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = format!("# Which Pi this card is in; beehive compares it at each boot.\n{}", toml::to_string(self)?);
        Ok(files::write(&path, Access::Public, text.as_bytes())?)
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// This machine has no serial number, so nothing can be compared.
    NoSerial,
    /// The card is in a Pi for the first time.
    First,
    /// It is in its Pi.
    Same,
    /// It is in another one. What was the first one's is set aside.
    Other {
        /// The first one.
        before: String,
        /// This one.
        now: String,
    },
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ASIDE);
    path.with_file_name(name)
}

fn filled(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

/// Looks which Pi this is, and makes what is a machine's own anew where the card is another's. It may be cut off anywhere and
/// called again: the record is written last.
///
/// # Errors
/// If something cannot be read or written.
pub fn look(root: &Path) -> anyhow::Result<Looked> {
    let Some(now) = About::read(root).serial else { return Ok(Looked::NoSerial) };
    let before = match Record::load(root)? {
        None => {
            Record { serial: now, copied_from: None }.save(root)?;
            return Ok(Looked::First);
        }
        Some(record) if record.serial == now => return Ok(Looked::Same),
        Some(record) => record.serial,
    };
    for path in OWN.map(|path| root.join(path)) {
        if filled(&path) {
            // an older one that was set aside gives way: it is of a Pi before the one before
            files::remove_folder(&aside(&path))?;
            files::replace_folder(&path, &aside(&path))?;
        }
    }
    fresh_machine_id(root)?;
    fresh_host_keys(root)?;
    Record { serial: now.clone(), copied_from: Some(before.clone()) }.save(root)?;
    Ok(Looked::Other { before, now })
}

/// The card was moved on purpose, and the first Pi is out of use: its keys are this Pi's. What was said here is said no more.
///
/// # Errors
/// If nothing was set aside, or this Pi has got keys of its own meanwhile.
pub fn keep_keys(root: &Path) -> anyhow::Result<String> {
    let record = Record::load(root)?.filter(|record| record.copied_from.is_some());
    let record = record.context("this card was found in no other Pi, so there are no keys to bring back")?;
    let mut kept = 0;
    for path in OWN.map(|path| root.join(path)) {
        let set_aside = aside(&path);
        if !set_aside.exists() {
            continue;
        }
        if filled(&path) {
            anyhow::bail!(
                "{} has keys of this Pi already; to have those of the other one again, move it away first",
                path.display()
            );
        }
        files::replace_folder(&set_aside, &path)?;
        kept += 1;
    }
    Record { copied_from: None, ..record.clone() }.save(root)?;
    let what = if kept == 0 { "nothing had been set aside; " } else { "the node's keys are back in place; " };
    Ok(format!(
        "{what}this card belongs to the Pi {} from now on. Never start another Pi with a copy of it\n",
        record.serial
    ))
}

/// machine-id(5): 32 hexadecimal digits; of a random UUID, as systemd makes them. What runs already has the old one until the next
/// boot.
fn fresh_machine_id(root: &Path) -> anyhow::Result<()> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let path = root.join("etc/machine-id");
    files::write(&path, Access::Public, format!("{id}\n").as_bytes())?;
    // a copy of its own, on older systems; a link to the other one everywhere else
    let bus = root.join("var/lib/dbus/machine-id");
    if fs::symlink_metadata(&bus).is_ok_and(|found| found.is_file()) {
        files::write(&bus, Access::Public, format!("{id}\n").as_bytes())?;
    }
    Ok(())
}

/// Removes the host keys and lets OpenSSH's own program make all kinds of them. No SSH server is there: nothing to do.
fn fresh_host_keys(root: &Path) -> anyhow::Result<()> {
    let folder = root.join("etc/ssh");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("ssh_host_") && (name.ends_with("_key") || name.ends_with("_key.pub")) {
            files::remove(&entry.path())?;
        }
    }
    let made = Command::new(SSH_KEYGEN).arg("-A").arg("-f").arg(root).output();
    let made = made.with_context(|| format!("{SSH_KEYGEN} cannot be started"))?;
    if !made.status.success() {
        anyhow::bail!("{SSH_KEYGEN} -A made no host keys: {}", String::from_utf8_lossy(&made.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::files::faults::{Side, cut, mend};

    struct Pi(tempfile::TempDir);

    impl Pi {
        fn new() -> Self {
            let pi = Self(tempfile::tempdir().unwrap());
            for folder in ["etc/beehive/identity", "etc/ssh", "proc/device-tree", "var/lib/dbus"] {
                fs::create_dir_all(pi.0.path().join(folder)).unwrap();
            }
            pi.put("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
            pi.put("etc/ssh/ssh_host_ed25519_key", "the image's");
            pi.put("etc/ssh/ssh_host_ed25519_key.pub", "the image's");
            pi.put("etc/ssh/sshd_config", "Port 22\n");
            pi.put("etc/beehive/identity/identity.toml", "keys");
            pi
        }

        fn put(&self, path: &str, text: &str) {
            fs::write(self.0.path().join(path), text).unwrap();
        }

        fn get(&self, path: &str) -> Option<String> {
            fs::read_to_string(self.0.path().join(path)).ok()
        }

        fn board(&self, serial: &str) {
            self.put("proc/device-tree/serial-number", &format!("{serial}\0"));
        }

        fn look(&self) -> anyhow::Result<Looked> {
            look(self.0.path())
        }
    }

    #[test]
    fn a_card_in_its_own_pi_is_left_alone_and_so_is_one_without_a_number() {
        let pi = Pi::new();
        assert_eq!(pi.look().unwrap(), Looked::NoSerial);
        assert_eq!(pi.get(RECORD), None);
        pi.board("100000001234abcd");
        assert_eq!(pi.look().unwrap(), Looked::First);
        assert_eq!(pi.look().unwrap(), Looked::Same);
        assert_eq!(pi.get("etc/ssh/ssh_host_ed25519_key").as_deref(), Some("the image's"));
        assert_eq!(pi.get("etc/beehive/identity/identity.toml").as_deref(), Some("keys"));
        let error = keep_keys(pi.0.path()).unwrap_err().to_string();
        assert!(error.contains("no other Pi"), "{error}");
    }

    fn is_another_machine(pi: &Pi) {
        let id = pi.get("etc/machine-id").unwrap();
        assert!(id.len() == 33 && id != "0123456789abcdef0123456789abcdef\n", "{id}");
        let key = pi.get("etc/ssh/ssh_host_ed25519_key").unwrap();
        assert!(key.contains("OPENSSH PRIVATE KEY"), "{key}");
        assert_eq!(pi.get("etc/ssh/sshd_config").as_deref(), Some("Port 22\n"));
        assert_eq!(pi.get("etc/beehive/identity/identity.toml"), None, "the first one's keys are not used");
        assert_eq!(pi.get("etc/beehive/identity.of-another-pi/identity.toml").as_deref(), Some("keys"));
    }

    #[test]
    fn a_copied_card_becomes_another_machine_and_keeps_no_keys_unless_it_is_told_to() {
        let pi = Pi::new();
        pi.board("a");
        pi.look().unwrap();
        pi.board("b");
        assert_eq!(pi.look().unwrap(), Looked::Other { before: "a".to_owned(), now: "b".to_owned() });
        is_another_machine(&pi);
        let record = Record::load(pi.0.path()).unwrap().unwrap();
        assert_eq!(record, Record { serial: "b".to_owned(), copied_from: Some("a".to_owned()) });
        assert_eq!(pi.look().unwrap(), Looked::Same, "once");
        // it was moved on purpose
        keep_keys(pi.0.path()).unwrap();
        assert_eq!(pi.get("etc/beehive/identity/identity.toml").as_deref(), Some("keys"));
        assert_eq!(Record::load(pi.0.path()).unwrap().unwrap().copied_from, None);
    }

    #[test]
    fn keys_that_this_pi_has_got_meanwhile_are_not_overwritten() {
        let pi = Pi::new();
        pi.board("a");
        pi.look().unwrap();
        pi.board("b");
        pi.look().unwrap();
        fs::create_dir_all(pi.0.path().join("etc/beehive/identity")).unwrap();
        pi.put("etc/beehive/identity/identity.toml", "new");
        assert!(keep_keys(pi.0.path()).unwrap_err().to_string().contains("already"));
        assert_eq!(pi.get("etc/beehive/identity/identity.toml").as_deref(), Some("new"));
    }

    #[test]
    fn a_cut_at_any_step_leaves_nothing_half_done_at_the_next_boot() {
        for side in [Side::Before, Side::After] {
            for nth in 0.. {
                let pi = Pi::new();
                pi.board("a");
                pi.look().unwrap();
                pi.board("b");
                cut(nth, side);
                let ended = pi.look();
                if !mend() {
                    ended.unwrap();
                    assert!(nth >= 5, "{nth}: the operations are seen");
                    break;
                }
                assert!(ended.is_err());
                pi.look().unwrap();
                is_another_machine(&pi);
            }
        }
    }

    #[test]
    fn what_the_device_tree_says_is_only_text() {
        let pi = Pi::new();
        pi.board("1\"\n[x]\\");
        assert_eq!(About::read(pi.0.path()).serial.as_deref(), Some("1[x]"));
    }
}
