//! Which files a card gets in its boot partition, by the kind of image. A plan is made of what is there and what is wanted,
//! and touches nothing.
//!
//! | file | images | what |
//! | --- | --- | --- |
//! | `cmdline.txt` | all | the memory cgroup's words; where systemd runs our script, the three words for that |
//! | `config.txt` | all | our section |
//! | `beehive-*` | all | ours alone: configuration, secret or keys, package, SSH keys; what is not wanted any more is removed |
//! | `firstrun.sh` | those with systemd | our script |
//! | `beehive-first-boot.sh` | those with cloud-init | the same |
//! | `user-data`, `meta-data` | those with cloud-init | host name, user, SSH keys, and that our script is run until it has ended well |
//! | `network-config` | Raspberry Pi OS trixie | DHCP on the wire |
//! | `ssh` | Raspberry Pi OS | empty: switches the SSH server on |
//! | `sysconf.txt` | Debian | its own `hostname=` |
//!
//! What somebody else wrote into a file that is replaced whole is kept as `NAME.before-beehive`.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::card::{Card, Credentials, Shim};
use super::cmdline::{self, CmdlineError};
use super::config_txt::{self, ConfigTxtError};
use super::kind::{FirstBoot, Kind};
use crate::doctor::kernel::MEMORY_WORDS;

/// What the names of our files begin with.
pub const OWN: &str = "beehive-";

const SCRIPT: &str = include_str!("first-boot.sh");
/// What our own `user-data` says of itself.
const OURS: &str = "written by `beehive image prepare`";
/// The programs that cloud-init runs in the last stage of each boot.
const PER_BOOT: &str = "/var/lib/cloud/scripts/per-boot";
/// Words of the command line that say what systemd runs instead of an ordinary start.
const RUN_KEYS: [&str; 2] = ["systemd.run=", "systemd.unit="];

/// A file as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Where.
    pub path: String,
    /// What is to be in it; nothing, if it is to be gone.
    pub bytes: Option<Zeroizing<Vec<u8>>>,
    /// What it is for.
    pub what: &'static str,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The kernel's command line.
    #[error("{0}")]
    Cmdline(#[from] CmdlineError),
    /// The firmware's configuration.
    #[error("{0}")]
    ConfigTxt(#[from] ConfigTxtError),
    /// The package cannot be installed there.
    #[error(
        "{why}; take Raspberry Pi OS, Debian's or our own image, or leave --package out and bring beehive there yourself, which \
         nobody has tried"
    )]
    TooOld {
        /// Why.
        why: &'static str,
    },
    /// Another tool's first boot.
    #[error("{name} is there, and it is not ours: another tool has prepared this image; take a stock one")]
    Taken {
        /// The file.
        name: &'static str,
    },
}

/// What is there, as far as a plan depends on it.
pub trait Present {
    /// A file's bytes.
    fn file(&self, path: &str) -> Option<&[u8]>;
    /// All files whose names begin with [`OWN`].
    fn ours(&self) -> Vec<String>;
}

/// The words of `cmdline.txt` that let systemd run our script.
fn run_words(kind: Kind) -> Vec<String> {
    match kind.first_boot() {
        FirstBoot::CloudInit => Vec::new(),
        FirstBoot::SystemdRun => vec![
            format!("systemd.run={}/firstrun.sh", kind.mounted_at()),
            "systemd.run_success_action=reboot".to_owned(),
            "systemd.run_failure_action=reboot".to_owned(),
            "systemd.unit=kernel-command-line.target".to_owned(),
        ],
    }
}

fn script(kind: Kind, card: &Card) -> String {
    let (first_boot, run) = match kind.first_boot() {
        FirstBoot::SystemdRun => ("systemd-run", run_words(kind).join(" ")),
        FirstBoot::CloudInit => ("cloud-init", "none".to_owned()),
    };
    let regenerated = match kind {
        Kind::DebianRaspi | Kind::Own => "yes",
        Kind::RaspberryPiOsBullseye | Kind::RaspberryPiOsBookworm | Kind::RaspberryPiOsTrixie | Kind::HypriotOs => "no",
    };
    SCRIPT
        .replace("@BOOT@", kind.mounted_at())
        .replace("@NODE@", card.node.as_str())
        .replace("@LOGIN@", card.login.as_str())
        .replace("@KEYS_DIR@", &card.keys_dir)
        .replace("@FIRST_BOOT@", first_boot)
        .replace("@REGENERATED@", regenerated)
        .replace("@MARK@", &mark(card))
        .replace("@RUN_WORDS@", &run)
        .replace("@WORDS@", &MEMORY_WORDS.join(" "))
}

/// A string as YAML reads it: JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn user_data(kind: Kind, card: &Card) -> String {
    let mut text = format!(
        "#cloud-config\n# Node {}, {OURS}.\nhostname: {}\nmanage_etc_hosts: true\nssh_pwauth: false\nusers:\n  - name: {}\n    \
         groups: \"sudo,adm\"\n    shell: /bin/bash\n    sudo: \"ALL=(ALL) NOPASSWD:ALL\"\n    lock_passwd: true\n",
        card.node,
        quoted(card.node.as_str()),
        quoted(card.login.as_str()),
    );
    if !card.ssh_keys.is_empty() {
        text.push_str("    ssh_authorized_keys:\n");
        for key in &card.ssh_keys {
            let _ = writeln!(text, "      - {}", quoted(key.as_str()));
        }
    }
    let script = format!("{}/{OWN}first-boot.sh", kind.mounted_at());
    let _ = write!(text, "{}runcmd:\n  - [sh, {script}]\n", each_boot(&script));
    text
}

/// That cloud-init runs the script at the end of each boot, until it has ended well. `runcmd` and `write_files` are done once for
/// each instance, and cloud-init writes down that they were before it does them: a power cut in the middle would be the end of it.
/// `bootcmd` is done at each boot, early; it writes the file that the last stage runs (`scripts-per-boot`) in the same boot, so
/// that nothing depends on what an earlier one left. Debian's configuration of cloud-init and HypriotOS' have both; `runcmd` stays
/// for an image whose configuration leaves one of them out.
fn each_boot(script: &str) -> String {
    let file = format!("{PER_BOOT}/beehive-first-boot");
    let write = format!(
        "mkdir -p {PER_BOOT} && printf '#!/bin/sh\\n[ ! -f {script} ] || exec sh {script}\\n' >{file} && chmod 755 {file}"
    );
    format!("bootcmd:\n  - [sh, -c, {}]\n", quoted(&write))
}

/// What tells this card from others: what is to be done once for each card is done again when it is another one. It follows
/// from what is on the card; secrets are no part of it, but the public key that belongs to a secret is.
fn mark(card: &Card) -> String {
    let mut hash = Sha256::new();
    let keys = card.ssh_keys.iter().map(super::card::SshKey::as_str);
    let texts = [card.node.as_str(), card.login.as_str(), card.config.as_deref().unwrap_or_default(), &card.keys_dir];
    let lines = card.config_lines.iter().map(String::as_str);
    let card_key: &[u8] = match &card.credentials {
        Credentials::Enrolment(enrolment) => &enrolment.card.0,
        Credentials::None | Credentials::NodeKeys(_) => &[],
    };
    let last = [card.package.as_deref().unwrap_or_default(), card_key];
    for part in texts.into_iter().chain(lines).chain(keys).map(str::as_bytes).chain(last) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let short: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{short}", card.node)
}

/// cloud-init does its work once for each instance, and each card is one.
fn meta_data(card: &Card) -> String {
    format!("# {OURS}\ndsmode: local\ninstance-id: {}\nlocal-hostname: {}\n", mark(card), card.node)
}

const NETWORK: &str = "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n    optional: true\n";

/// Debian's `sysconf.txt` with our host name; every other line stays.
fn sysconf(text: &str, node: &str) -> String {
    let ours = format!("hostname={node}");
    let is_host = |line: &str| line.split_once('=').is_some_and(|(key, _)| key.trim() == "hostname");
    if text.lines().filter(|line| is_host(line)).eq([ours.as_str()]) {
        return text.to_owned();
    }
    let mut edited: String = text.split_inclusive('\n').filter(|line| !is_host(line)).collect();
    if !edited.is_empty() && !edited.ends_with('\n') {
        edited.push('\n');
    }
    edited.push_str(&ours);
    edited.push('\n');
    edited
}

fn text<'a, E>(present: &'a impl Present, path: &str, error: E) -> Result<&'a str, E> {
    std::str::from_utf8(present.file(path).unwrap_or_default()).map_err(|_| error)
}

/// Every file that is to be as the card wants it.
///
/// # Errors
/// If `cmdline.txt` or `config.txt` cannot be edited, another tool has prepared the image, or the package is not for its system.
pub fn wishes(kind: Kind, card: &Card, present: &impl Present) -> Result<Vec<Wish>, PlanError> {
    if let (Some(why), Some(_)) = (kind.too_old(), &card.package) {
        return Err(PlanError::TooOld { why });
    }
    let mut wishes = Vec::new();
    let mut wish = |path: &str, what: &'static str, bytes: Vec<u8>| {
        wishes.push(Wish { path: path.to_owned(), bytes: Some(Zeroizing::new(bytes)), what });
    };

    // what belongs to nobody else first: without the last word in cmdline.txt none of it is acted on
    let mut wanted = Vec::new();
    let mut ours = |name: &str, what: &'static str, bytes: &[u8], wish: &mut dyn FnMut(&str, &'static str, Vec<u8>)| {
        let path = format!("{OWN}{name}");
        wish(&path, what, bytes.to_vec());
        wanted.push(path);
    };
    let mut lines: String = card.ssh_keys.iter().flat_map(|key| [key.as_str(), "\n"]).collect();
    ours("authorized-keys", "the user's SSH keys", lines.as_bytes(), &mut wish);
    if let Some(config) = &card.config {
        ours("node.toml", "the node's configuration", config.as_bytes(), &mut wish);
    }
    match &card.credentials {
        Credentials::None => {}
        Credentials::NodeKeys(files) => {
            for file in files {
                ours(&format!("key-{}", file.name), "the node's keys (secret)", &file.bytes, &mut wish);
            }
        }
        Credentials::Enrolment(enrolment) => {
            ours(&enrolment.file.name, "the single-use secret", &enrolment.file.bytes, &mut wish);
        }
    }
    if let Some(package) = &card.package {
        ours("package.deb", "the package", package, &mut wish);
    }
    match kind {
        Kind::DebianRaspi | Kind::Own if !card.config_lines.is_empty() => {
            lines = card.config_lines.iter().flat_map(|line| [line, "\n"]).collect();
            ours(
                "config-lines.txt",
                "our lines, for the file that Debian makes config.txt of",
                lines.as_bytes(),
                &mut wish,
            );
        }
        Kind::DebianRaspi
        | Kind::RaspberryPiOsBullseye
        | Kind::RaspberryPiOsBookworm
        | Kind::RaspberryPiOsTrixie
        | Kind::HypriotOs
        | Kind::Own => {}
    }
    let script = script(kind, card).into_bytes();
    match kind.first_boot() {
        FirstBoot::CloudInit => {
            ours("first-boot.sh", "what runs at the first boot", &script, &mut wish);
            for (name, what, new) in [
                ("user-data", "cloud-init: host name, user, SSH keys", user_data(kind, card)),
                ("meta-data", "cloud-init: which card this is", meta_data(card)),
            ] {
                keep(present, name, &mut wish);
                wish(name, what, new.into_bytes());
            }
        }
        FirstBoot::SystemdRun => {
            match present.file("firstrun.sh") {
                Some(bytes) if !String::from_utf8_lossy(bytes).contains(OURS) => {
                    return Err(PlanError::Taken { name: "firstrun.sh" });
                }
                Some(_) | None => {}
            }
            wish("firstrun.sh", "what runs at the first boot", script);
        }
    }
    match kind {
        Kind::RaspberryPiOsTrixie => {
            keep(present, "network-config", &mut wish);
            wish("network-config", "cloud-init: DHCP on the wire", format!("# {OURS}\n{NETWORK}").into_bytes());
            wish("ssh", "switches the SSH server on", Vec::new());
        }
        Kind::RaspberryPiOsBullseye | Kind::RaspberryPiOsBookworm => {
            if present.file("custom.toml").is_some() {
                return Err(PlanError::Taken { name: "custom.toml" });
            }
            wish("ssh", "switches the SSH server on", Vec::new());
        }
        Kind::DebianRaspi => {
            let before = String::from_utf8_lossy(present.file("sysconf.txt").unwrap_or_default()).into_owned();
            wish("sysconf.txt", "Debian's own: host name", sysconf(&before, card.node.as_str()).into_bytes());
        }
        // ours brings its network and its SSH server along
        Kind::HypriotOs | Kind::Own => {}
    }

    let config = text(present, "config.txt", ConfigTxtError::NoText)?;
    match card.shim {
        Shim::Fitted => config_txt::refuse_other_users(config)?,
        Shim::Absent => {}
    }
    let config = config_txt::put(config, &card.config_lines)?;
    wish("config.txt", "our section: pin levels and overlays", config.into_bytes());
    let words: Vec<String> = MEMORY_WORDS.into_iter().map(str::to_owned).chain(run_words(kind)).collect();
    let line = cmdline::add(text(present, "cmdline.txt", CmdlineError::NoText)?, &words, &RUN_KEYS)?;
    wish("cmdline.txt", "the memory cgroup, and what runs at the first boot", line.into_bytes());

    for path in present.ours().into_iter().filter(|path| !wanted.contains(path)) {
        wishes.push(Wish { path, bytes: None, what: "of an earlier run, not wanted any more" });
    }
    Ok(wishes)
}

/// Keeps what somebody else wrote into a file that is replaced.
fn keep(present: &impl Present, name: &str, wish: &mut dyn FnMut(&str, &'static str, Vec<u8>)) {
    let kept = format!("{name}.before-beehive");
    match present.file(name) {
        Some(bytes) if !String::from_utf8_lossy(bytes).contains(OURS) && present.file(&kept).is_none() => {
            wish(&kept, "as it was before", bytes.to_vec());
        }
        Some(_) | None => {}
    }
}
