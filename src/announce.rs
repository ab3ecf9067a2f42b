//! What this Pi says of itself on the local network: a service file for avahi, which speaks mDNS for it.
//!
//! `beehive announce` runs at boot and whenever the files change that it is made of (`beehive-announce.service` and `.path`). The
//! program for the Pi has no mDNS of its own. What is announced is a hint for people who look for their Pis
//! (`beehive discover`): nobody signs it, and nothing is done because of it.
//!
//! | TXT record | what |
//! | --- | --- |
//! | `crew`, `node` | as configured; without a valid configuration the host's name alone |
//! | `serial`, `model` | the board's, from its device tree |
//! | `version` | beehive's |
//! | `state` | [`State`] |
//! | `key` | while it waits: the id of its card's public key |

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use beehive_mqtt::sign::KeyId;
use beehive_mqtt::{CrewName, NodeName};
use serde::Deserialize;

use crate::config::Config;
use crate::crew::files::{self, Access};
use crate::enrol::{CARD_FILE, WAITING_FILE};
use crate::host::linux::model;
use crate::keys::FILE as FILE_OF_KEYS;

/// The service's type; DNS-SD allows 15 characters.
pub const SERVICE: &str = "_beehive._tcp";

/// Where a Pi that waits for its enrolment listens. Announced in every state: DNS-SD wants a port.
pub const PORT: u16 = crate::enrol::PORT;

/// Where avahi looks for services.
pub const AVAHI_SERVICES: &str = "etc/avahi/services";

/// Our file there.
pub const FILE: &str = "beehive.service";

/// A TXT record's string is 255 bytes at most, with its key; the longest that is known of a model has 44.
const MAX_MODEL_BYTES: usize = 96;

/// What a Pi is to the crew that it is configured for, as far as it can say by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has an enrolment and no keys yet.
    Waiting,
    /// It has keys of the crew.
    Member,
    /// It has neither.
    Stranger,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Member, Self::Stranger];

    /// The word in the TXT record, in tables and documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Member => "member",
            Self::Stranger => "stranger",
        }
    }
}

impl FromStr for State {
    type Err = ();
    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.word() == word).ok_or(())
    }
}

/// A board's serial number, as its device tree has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

impl Serial {
    /// A Pi's has 16 digits; other boards' have letters too.
    pub const MAX_BYTES: usize = 32;

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Serial {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let fits = (1..=Self::MAX_BYTES).contains(&text.len());
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if fits && plain { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

/// What this Pi says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The crew; nothing without a valid configuration.
    pub crew: Option<CrewName>,
    /// The node.
    pub node: Option<NodeName>,
    /// The board's serial number.
    pub serial: Option<Serial>,
    /// The board's model.
    pub model: String,
    /// What it is to its crew.
    pub state: State,
    /// The id of its card's key, with which it asks to be enrolled.
    pub key: Option<KeyId>,
    /// Where the enrolment listens.
    pub port: u16,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// The file is written, and avahi takes it up.
    Written(PathBuf),
    /// It says the same already.
    Unchanged,
    /// There is no avahi here, so nobody is told.
    NoAvahi(PathBuf),
}

impl fmt::Display for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(path) => write!(f, "announced: {} is written", path.display()),
            Self::Unchanged => f.write_str("announced already"),
            Self::NoAvahi(folder) => {
                let folder = folder.display();
                write!(f, "not announced: there is no {folder}; install avahi-daemon to be found by `beehive discover`")
            }
        }
    }
}

/// Announces this Pi, whose file system is at `root`. What keeps the announcement from being complete is said to `note`.
///
/// # Errors
/// If the file cannot be written.
pub fn announce(root: &Path, config: &Path, note: &mut dyn FnMut(&str)) -> io::Result<Announced> {
    let folder = root.join(AVAHI_SERVICES);
    if !folder.is_dir() {
        return Ok(Announced::NoAvahi(folder));
    }
    let text = Announcement::of(root, config, note).service_file();
    let path = folder.join(FILE);
    // avahi would take the service back and announce it again, to no end
    if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(Announced::Unchanged);
    }
    files::write(&path, Access::Public, text.as_bytes())?;
    Ok(Announced::Written(path))
}

impl Announcement {
    /// Reads it from the machine at `root`.
    fn of(root: &Path, config: &Path, note: &mut dyn FnMut(&str)) -> Self {
        let (crew, node, keys) = match Config::load(config) {
            Ok(config) => (Some(config.crew), Some(config.node), config.keys.dir),
            Err(error) => {
                note(&format!("announced without a crew: {error}"));
                let host = fs::read_to_string(root.join("proc/sys/kernel/hostname")).unwrap_or_default();
                (None, host.trim().parse().ok(), PathBuf::from(crate::config::DEFAULT_KEYS_DIR))
            }
        };
        // below another root than `/` in tests alone
        let keys = below(root, &keys);
        let there = |path: &str| below(root, path).exists();
        let (state, waiting) = if keys.join(FILE_OF_KEYS).exists() {
            (State::Member, Waiting::default())
        } else if there(WAITING_FILE) || there(CARD_FILE) {
            (State::Waiting, Waiting::read(root))
        } else {
            (State::Stranger, Waiting::default())
        };
        let key = waiting.key.and_then(|key| key.parse().ok());
        let port = waiting.port.unwrap_or(PORT);
        Self { crew, node, serial: serial(root), model: model(root), state, key, port }
    }

    /// The TXT records, in the order of the file.
    fn records(&self) -> Vec<(&'static str, String)> {
        let text = |value: &dyn ToString| value.to_string();
        [
            ("crew", self.crew.as_ref().map(|crew| text(crew))),
            ("node", self.node.as_ref().map(|node| text(node))),
            ("serial", self.serial.as_ref().map(|serial| serial.as_str().to_owned())),
            ("model", Some(cut(&self.model, MAX_MODEL_BYTES))),
            ("version", Some(env!("CARGO_PKG_VERSION").to_owned())),
            ("state", Some(self.state.word().to_owned())),
            ("key", self.key.as_ref().map(|key| text(key))),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }

    /// The instance's name: the board's, not the node's, so that two Pis of one name are two. avahi numbers what is left.
    fn instance(&self) -> String {
        match (&self.serial, &self.node) {
            (Some(serial), _) => format!("beehive {}", serial.as_str()),
            (None, Some(node)) => cut(&format!("beehive {node}"), 63),
            (None, None) => "beehive".to_owned(),
        }
    }

    /// The file for avahi, avahi.service(5).
    pub fn service_file(&self) -> String {
        let mut text = format!(
            "<?xml version=\"1.0\" standalone=\"no\"?>\n<!DOCTYPE service-group SYSTEM \"avahi-service.dtd\">\n\
             <!-- written by `beehive announce`; changes are lost -->\n<service-group>\n  <name>{}</name>\n  <service>\n    \
             <type>{SERVICE}</type>\n    <port>{}</port>\n",
            escaped(&self.instance()),
            self.port
        );
        for (name, value) in self.records() {
            text.push_str("    <txt-record>");
            text.push_str(name);
            text.push('=');
            text.push_str(&escaped(&value));
            text.push_str("</txt-record>\n");
        }
        text.push_str("  </service>\n</service-group>\n");
        text
    }
}

/// What of that is announced.
#[derive(Default, Deserialize)]
struct Waiting {
    /// The id of the card's public key.
    key: Option<String>,
    /// Where the enrolment listens.
    port: Option<u16>,
}

impl Waiting {
    /// A file that is none, or not there yet, says nothing: that is the enrolment's own trouble to tell.
    fn read(root: &Path) -> Self {
        let text = files::read(&below(root, WAITING_FILE)).unwrap_or_default();
        toml::from_str(&text).unwrap_or_default()
    }
}

/// A path of the machine whose file system is at `root`.
fn below(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn serial(root: &Path) -> Option<Serial> {
    let text = fs::read(root.join("proc/device-tree/serial-number")).ok()?;
    String::from_utf8_lossy(&text).trim_matches(['\0', '\n', ' ']).parse().ok()
}

fn cut(text: &str, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or_default()].to_owned()
}

/// Text as XML takes it: what is markup is escaped, what XML does not allow at all is left out.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => {}
            plain => safe.push(plain),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = below(root, path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Announces, and says what was written and what was noted.
    fn said(root: &Path) -> (Announced, String, Vec<String>) {
        let mut notes = Vec::new();
        let done =
            announce(root, &root.join("etc/beehive/beehive.toml"), &mut |note| notes.push(note.to_owned())).unwrap();
        (done, fs::read_to_string(root.join(AVAHI_SERVICES).join(FILE)).unwrap_or_default(), notes)
    }

    #[test]
    fn a_pi_says_who_it_is_and_what_it_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, "proc/device-tree/serial-number", "00000000abcdef01\0");
        put(root, "proc/device-tree/model", "Raspberry Pi <3> & \u{7}\"more\"\0");
        put(root, "etc/beehive/beehive.toml", "crew = \"bee\"\nnode = \"pi-1\"\nrole = \"node\"\n");
        assert!(matches!(said(root).0, Announced::NoAvahi(_)), "without avahi it is no failure");

        fs::create_dir_all(root.join(AVAHI_SERVICES)).unwrap();
        let (done, text, notes) = said(root);
        assert!(matches!(done, Announced::Written(_)) && notes.is_empty(), "{done:?} {notes:?}");
        for record in [
            "<name>beehive 00000000abcdef01</name>",
            "<type>_beehive._tcp</type>",
            "<port>7884</port>",
            ">crew=bee<",
            ">node=pi-1<",
            ">serial=00000000abcdef01<",
            ">model=Raspberry Pi &lt;3&gt; &amp; &quot;more&quot;<",
            ">state=stranger<",
        ] {
            assert!(text.contains(record), "{record}: {text}");
        }
        assert!(!text.contains("key="), "{text}");
        assert_eq!(said(root).0, Announced::Unchanged);

        put(root, CARD_FILE, "secret = \"s3cret\"\nkey = \"0101010101010101\"\n");
        let (_, text, _) = said(root);
        assert!(text.contains(">state=waiting<"), "{text}");
        assert!(!text.contains("s3cret") && !text.contains("key="), "nothing of the secret file is told: {text}");
        put(root, WAITING_FILE, "key = \"0707070707070707\"\nserial = \"1\"\nmodel = \"x\"\nport = 7885\n");
        let (_, text, _) = said(root);
        assert!(text.contains(">key=0707070707070707<") && text.contains("<port>7885</port>"), "{text}");
        put(root, WAITING_FILE, "no file of ours");
        assert!(said(root).1.contains(">state=waiting<"));

        put(root, "etc/beehive/identity/identity.toml", "");
        let (_, text, _) = said(root);
        assert!(text.contains(">state=member<") && !text.contains("key="), "{text}");
    }

    #[test]
    fn without_a_valid_configuration_the_host_is_announced() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, "proc/sys/kernel/hostname", "raspberrypi\n");
        fs::create_dir_all(root.join(AVAHI_SERVICES)).unwrap();
        let (_, text, notes) = said(root);
        assert!(text.contains(">node=raspberrypi<") && !text.contains("crew="), "{text}");
        assert!(text.contains("<name>beehive raspberrypi</name>"), "{text}");
        assert!(notes.len() == 1 && notes[0].contains("beehive.toml"), "{notes:?}");
    }

    #[test]
    fn what_is_long_is_cut_between_characters() {
        assert_eq!(cut("aäb", 2), "a");
        assert_eq!(cut("aäb", 3), "aä");
        assert_eq!(cut("ab", 9), "ab");
        assert!(
            "".parse::<Serial>().is_err()
                && "a b".parse::<Serial>().is_err()
                && "x".repeat(33).parse::<Serial>().is_err()
        );
    }
}
