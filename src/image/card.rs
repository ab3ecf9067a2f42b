//! What goes onto a card: everything that tells this node's card from another's. Filled from the command line here; whoever
//! knows a whole crew can fill it from there.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use beehive_board::cut::Feed;
use beehive_mqtt::NodeName;
use beehive_mqtt::sign::PublicKey;
use zeroize::Zeroizing;

use super::config_txt::{POWEROFF_OVERLAY, SAFE_LEVELS, takes_a_shim_line};
use super::kind::Kind;
use super::{refused, unreadable, usage};
use crate::config::Config;
use crate::console::exit::Trouble;
use crate::crew::files;
use crate::enrol::owner::Drawn;
use crate::keys::Identity;

/// Where the node's keys lie unless its configuration says otherwise.
const KEYS_DIR: &str = "/etc/beehive/identity";

/// The largest package. Ours has a few megabytes; what is beyond this is something else.
const MAX_PACKAGE_BYTES: u64 = 64 * 1024 * 1024;

/// The most files of a node's key folder: it has six.
const MAX_SECRET_FILES: usize = 32;

/// What `ssh-keygen` calls its keys.
const SSH_KINDS: [&str; 6] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
];

/// A user of the system on the card: `[a-z_][a-z0-9_-]*`, at most 32 characters, and not root. It stands in a script
/// that root runs, so nothing else may be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login(String);

impl Login {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Login {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let first = |c: char| c.is_ascii_lowercase() || c == '_';
        let other = |c: char| first(c) || c.is_ascii_digit() || c == '-';
        if text.is_empty() || text.len() > 32 || !text.starts_with(first) || !text.chars().all(other) {
            return Err("a user has a-z, 0-9, '_' and '-', begins with a letter or '_', and has at most 32".to_owned());
        }
        match text {
            "root" | "beehive" => Err(format!("{text} is the system's own; name somebody who logs in")),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// A line of `authorized_keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey(String);

impl SshKey {
    /// The line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SshKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let line = text.trim();
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
        let blob = words.next().unwrap_or_default();
        if !SSH_KINDS.contains(&kind) || blob.len() < 32 || !blob.chars().all(base64) {
            return Err("it is no line of an SSH public key (\"ssh-ed25519 AAAA… comment\")");
        }
        if line.chars().any(char::is_control) {
            return Err("it has control characters in it");
        }
        Ok(Self(line.to_owned()))
    }
}

/// A file whose content nobody is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// Its name, without a folder.
    pub name: String,
    /// What is in it.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What makes the node a member of its crew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing: the keys come to the node by another way.
    None,
    /// The node's own keys, as `beehive crew init` made them. They stay on the card's flash after they were removed from the file
    /// system.
    NodeKeys(Vec<SecretFile>),
    /// A single-use secret, with which the node has keys of its own certified. It stays on the flash too, and is of no use then.
    Enrolment(Enrolment),
}

/// The file of a card's enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Its text.
    pub file: SecretFile,
    /// The card's public key: another one is another card.
    pub card: PublicKey,
}

/// What a crew's folder says of a node.
#[derive(Debug)]
pub struct OfCrew {
    /// Its configuration.
    pub config: String,
    /// Its card's secret.
    pub drawn: Drawn,
}

/// Whether the SHIM is on this Pi.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shim {
    /// Yes: its lines get safe levels.
    Fitted,
    /// No: its lines are anybody's.
    Absent,
}

/// Everything that goes onto a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The node, and the Pi's host name.
    pub node: NodeName,
    /// Who logs in, by SSH key alone.
    pub login: Login,
    /// With which keys.
    pub ssh_keys: Vec<SshKey>,
    /// The node's `beehive.toml`.
    pub config: Option<String>,
    /// Where its keys are to lie.
    pub keys_dir: String,
    /// What makes it a member.
    pub credentials: Credentials,
    /// Our Debian package.
    pub package: Option<Vec<u8>>,
    /// The lines of our section in `config.txt`.
    pub config_lines: Vec<String>,
    /// Whether the SHIM is there.
    pub shim: Shim,
}

/// What the command line says about a card.
#[derive(Debug, Clone)]
pub struct Sources<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// Who logs in.
    pub login: &'a Login,
    /// Files with SSH public keys.
    pub ssh_keys: &'a [PathBuf],
    /// The node's configuration.
    pub config: Option<&'a Path>,
    /// The node's key folder.
    pub keys: Option<&'a Path>,
    /// The package.
    pub package: Option<&'a Path>,
    /// Overlays, as after `dtoverlay=`.
    pub overlays: &'a [String],
    /// Whether the SHIM is there.
    pub shim: Shim,
    /// What cuts the power.
    pub cut: Cut,
    /// What the crew's folder says, where neither configuration nor keys are named.
    pub of_crew: Option<&'a OfCrew>,
}

/// What cuts the power of a Pi that the SHIM feeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The hook `beehive-cut`, which looks before it cuts.
    Hook,
    /// The kernel's `gpio-poweroff`, which does not.
    Overlay,
}

impl Card {
    /// Reads everything that the command line names, and refuses what does not belong together.
    ///
    /// # Errors
    /// Says which file is wrong.
    pub fn read(sources: &Sources<'_>) -> Result<Self, Trouble> {
        let Sources { node, login, ssh_keys, config, keys, package, overlays, shim, cut, of_crew } = sources;
        let (text, parsed) = match (config, of_crew) {
            (None, None) => (None, None),
            (None, Some(OfCrew { config, .. })) => {
                (Some(config.clone()), Some(parsed(config, "the crew's configuration of it", node)?))
            }
            (Some(path), _) => {
                let (text, parsed) = configuration(path, node)?;
                (Some(text), Some(parsed))
            }
        };
        let keys_dir = match &parsed {
            None => KEYS_DIR.to_owned(),
            Some(config) => plain_path(&config.keys.dir)?,
        };
        let credentials = match (keys, of_crew) {
            (None, None) => Credentials::None,
            (None, Some(OfCrew { drawn: Drawn { secret, .. }, .. })) => Credentials::Enrolment(Enrolment {
                file: SecretFile {
                    name: "enrolment.toml".to_owned(),
                    bytes: Zeroizing::new(secret.to_toml().as_bytes().to_vec()),
                },
                card: secret.key.public(),
            }),
            (Some(dir), _) => Credentials::NodeKeys(secrets(dir, node, parsed.as_ref())?),
        };
        let mut lines = Vec::new();
        match shim {
            Shim::Fitted => lines.extend(SAFE_LEVELS.into_iter().map(str::to_owned)),
            Shim::Absent => {}
        }
        match cut {
            Cut::Hook => {}
            Cut::Overlay => lines.push(poweroff_overlay(*shim, parsed.as_ref())?),
        }
        for overlay in *overlays {
            lines.push(overlay_line(overlay, *shim)?);
        }
        Ok(Self {
            node: (*node).clone(),
            login: (*login).clone(),
            ssh_keys: ssh_keys.iter().map(|path| public_keys(path)).collect::<Result<Vec<_>, _>>()?.concat(),
            config: text,
            keys_dir,
            credentials,
            package: package.map(debian_package).transpose()?,
            config_lines: lines,
            shim: *shim,
        })
    }

    /// What the operator should know before the card is used.
    pub fn warnings(&self, image: Kind) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.ssh_keys.is_empty() {
            warnings.push(format!("no SSH key: nobody can log in, for {} has no password", self.login.as_str()));
        }
        if self.config.is_none() {
            warnings.push(
                "no configuration: the agent does not start before /etc/beehive/beehive.toml is right".to_owned(),
            );
        }
        match &self.credentials {
            Credentials::None => {
                warnings.push(format!("no keys: {} obeys nobody until they are in {}", self.node, self.keys_dir));
            }
            Credentials::NodeKeys(_) => warnings.push(
                "this node's private keys are in the image, and stay on the card's flash after the first boot has removed \
                 them: keep the image and the card as you keep a key"
                    .to_owned(),
            ),
            Credentials::Enrolment(_) => warnings.push(format!(
                "the secret in this image lets one Pi in as {}: keep the image to yourself until it is enrolled; afterwards the secret \
                 is of no use",
                self.node
            )),
        }
        match (image.too_old(), &self.package) {
            (None, None) if image != Kind::Own => {
                warnings.push("no package: beehive itself has to come to the Pi by another way".to_owned());
            }
            (Some(why), None) => warnings.push(format!("no package: {why}; nobody has tried beehive there")),
            (None, None) | (_, Some(_)) => {}
        }
        warnings
    }
}

/// A path that stands in a script which root runs.
fn plain_path(path: &Path) -> Result<String, Trouble> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    match path.to_str() {
        Some(text) if text.starts_with('/') && text.chars().all(plain) => Ok(text.to_owned()),
        Some(_) | None => Err(refused(
            format!("the configuration's keys.dir is {}", path.display()),
            "the first boot copies the keys there, and takes only a full path of letters, digits, '.', '_' and '-'",
            "use /etc/beehive/identity",
        )),
    }
}

fn parsed(text: &str, origin: &str, node: &NodeName) -> Result<Config, Trouble> {
    Config::parse_on(text, origin, node.as_str())
        .map_err(|error| usage("the node's configuration is not valid", error.to_string(), "beehive config check FILE"))
}

fn configuration(path: &Path, node: &NodeName) -> Result<(String, Config), Trouble> {
    let text = files::read(path).map_err(|error| unreadable(&error))?;
    let config = parsed(&text, &path.display().to_string(), node)?;
    if config.node == *node {
        Ok((text, config))
    } else {
        Err(refused(
            format!("{} is the configuration of {}", path.display(), config.node),
            format!("the card is for {node}"),
            "give the configuration of this node, or one without `node`",
        ))
    }
}

/// The files of a node's key folder.
fn secrets(dir: &Path, node: &NodeName, config: Option<&Config>) -> Result<Vec<SecretFile>, Trouble> {
    let identity = Identity::load(dir).map_err(|error| {
        usage("the node's keys cannot be used", error.to_string(), "give the folder nodes/NODE of the crew")
    })?;
    // two Pis with the keys of one are what the copied card of old was
    if identity.name.as_str() != node.as_str() {
        return Err(refused(
            format!("{} has the keys of {}", dir.display(), identity.name),
            format!("the card is for {node}, and two Pis must not be one"),
            format!("give the folder nodes/{node} of the crew"),
        ));
    }
    if let Some(config) = config.filter(|config| config.crew != identity.crew) {
        return Err(refused(
            format!("{} has keys of crew {}", dir.display(), identity.crew),
            format!("the configuration is of crew {}", config.crew),
            "give keys and configuration of one crew",
        ));
    }
    let failed = |error: std::io::Error| unreadable(&files::named(dir, "read", &error));
    let mut secrets = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_type().map_err(failed)?.is_file() {
            continue;
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let name = entry.file_name().into_string().unwrap_or_default();
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) || secrets.len() == MAX_SECRET_FILES {
            return Err(refused(
                format!("{} is no node's key folder", dir.display()),
                format!("{} is in it", Path::new(&entry.file_name()).display()),
                "give the folder as `beehive crew init` made it",
            ));
        }
        let text = files::read(&entry.path()).map_err(|error| unreadable(&error))?;
        secrets.push(SecretFile { name, bytes: Zeroizing::new(text.into_bytes()) });
    }
    secrets.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(secrets)
}

fn public_keys(path: &Path) -> Result<Vec<SshKey>, Trouble> {
    let text = Zeroizing::new(files::read(path).map_err(|error| unreadable(&error))?);
    let hint = "give the file NAME.pub that ssh-keygen wrote";
    if text.contains("PRIVATE KEY") {
        return Err(refused(format!("{} is a private key", path.display()), "it must not go onto a card", hint));
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys = lines.map(SshKey::from_str).collect::<Result<Vec<_>, _>>();
    match keys {
        Ok(keys) if !keys.is_empty() => Ok(keys),
        Ok(_) => Err(usage(format!("{} has no SSH key", path.display()), "no line of it is one", hint)),
        Err(why) => Err(usage(format!("{} has no SSH key", path.display()), why, hint)),
    }
}

/// What a Debian package begins with: an archive of ar(1) whose first member is its format.
const DEBIAN_MAGIC: &[u8] = b"!<arch>\ndebian-binary";

fn debian_package(path: &Path) -> Result<Vec<u8>, Trouble> {
    let failed = |error: std::io::Error| unreadable(&files::named(path, "read", &error));
    if fs::metadata(path).map_err(failed)?.len() > MAX_PACKAGE_BYTES {
        return Err(usage(
            format!("{} is no package of beehive", path.display()),
            format!("it is larger than {MAX_PACKAGE_BYTES} bytes"),
            "give the .deb",
        ));
    }
    let bytes = fs::read(path).map_err(failed)?;
    if bytes.starts_with(DEBIAN_MAGIC) {
        Ok(bytes)
    } else {
        Err(usage(format!("{} is no Debian package", path.display()), "it does not begin like one", "give the .deb"))
    }
}

/// An overlay of the operator's own.
fn overlay_line(overlay: &str, shim: Shim) -> Result<String, Trouble> {
    let line = format!("dtoverlay={overlay}");
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '#' | '[' | ']');
    if overlay.is_empty() || overlay.len() > 90 || !overlay.chars().all(plain) {
        return Err(usage(
            format!("--overlay {overlay:?} is no overlay"),
            "it is NAME or NAME,PARAMETER=VALUE, of at most 90 characters without spaces",
            "see overlays/README in the boot partition",
        ));
    }
    match (shim, takes_a_shim_line(&line)) {
        (Shim::Fitted, Some(pin)) => Err(refused(
            format!("--overlay {overlay} takes BCM{pin}"),
            "the SHIM has that line",
            "give it another line; --power-off-overlay is the one way to have the kernel cut the power",
        )),
        (Shim::Fitted, None) | (Shim::Absent, _) => Ok(line),
    }
}

/// The kernel's own cut, where it can work.
fn poweroff_overlay(shim: Shim, config: Option<&Config>) -> Result<String, Trouble> {
    let shim_fed = config.is_some_and(|config| config.feed == Some(Feed::Shim));
    match (shim, shim_fed) {
        (Shim::Fitted, true) => Ok(POWEROFF_OVERLAY.to_owned()),
        (Shim::Fitted, false) | (Shim::Absent, _) => Err(refused(
            "--power-off-overlay on a Pi of which it is not known that the SHIM alone feeds it",
            "where the 5 V come from elsewhere the overlay cuts nothing and blocks the SoC's own reset",
            "say feed = \"shim\" in the node's configuration (--config), or leave the cut to the hook",
        )),
    }
}
