//! What the owner knows of each node's enrolment: `enrolments/NODE.toml` in the crew's folder. Not in the node's own folder,
//! which may be copied to a Pi.

use std::fmt;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use beehive_mqtt::NodeName;
use beehive_mqtt::sign::PublicKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::crew::files::{self, Access};
use crate::enrol::wire::{PublicKeys, Request};
use crate::keys::SignKey;

/// The most alarms that are kept of one node; the newest ones count.
const MAX_ALARMS: usize = 32;

/// One node's enrolment.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The card's public key.
    pub card: PublicKey,
    /// Where its Pi listens.
    pub port: u16,
    /// The card's secret, until it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// With what it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Used>,
    /// Second uses.
    #[serde(default, rename = "alarm", skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Alarm>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("card", &self.card).field("used", &self.used).finish_non_exhaustive()
    }
}

/// The one use of a card's secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// When, by this machine's clock.
    pub at: String,
    /// From where.
    pub address: IpAddr,
    /// The Pi's serial number, by its own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// What kind it is, by its own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// When the node said, signed, that it has its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<String>,
    /// The node's keys.
    pub keys: PublicKeys,
}

/// Somebody came with a secret that was used already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alarm {
    /// When it was seen first.
    pub at: String,
    /// From where.
    pub address: IpAddr,
    /// The machine's serial number, by its own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The key that it wanted to have certified.
    pub sign: PublicKey,
    /// When somebody took note of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<String>,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let serial = self.serial.as_deref().unwrap_or("not known");
        write!(f, "{} from {}, serial number {serial}, with the key {}", self.at, self.address, self.sign.id())
    }
}

impl Entry {
    /// Alarms that nobody took note of.
    pub fn open_alarms(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.iter().filter(|alarm| alarm.acknowledged.is_none())
    }

    /// The card's key, while it is not used.
    fn key(&self) -> Option<SignKey> {
        let seed: PublicKey = self.secret.as_ref()?.parse().ok()?;
        Some(SignKey::from_seed(&Zeroizing::new(seed.0)))
    }

    /// Takes a request into account.
    pub(super) fn judge(&mut self, request: &Request, address: IpAddr, now: &str) -> Judged {
        match &self.used {
            None => {
                self.used = Some(Used {
                    at: now.to_owned(),
                    address,
                    serial: request.serial.clone(),
                    model: request.model.clone(),
                    taken: None,
                    keys: request.keys.clone(),
                });
                self.secret.zeroize();
                self.secret = None;
                Judged::First
            }
            Some(used) if used.keys == request.keys => Judged::Again,
            Some(_) => {
                let known = |alarm: &&Alarm| (alarm.sign, alarm.address) == (request.keys.sign, address);
                match self.alarms.iter().find(known) {
                    Some(alarm) => Judged::Alarm(alarm.clone()),
                    None => {
                        let alarm = Alarm {
                            at: now.to_owned(),
                            address,
                            serial: request.serial.clone(),
                            sign: request.keys.sign,
                            acknowledged: None,
                        };
                        if self.alarms.len() >= MAX_ALARMS {
                            self.alarms.remove(0);
                        }
                        self.alarms.push(alarm.clone());
                        Judged::Alarm(alarm)
                    }
                }
            }
        }
    }
}

/// What a request is to what is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judged {
    /// The one use.
    First,
    /// The same Pi asks again.
    Again,
    /// Another one has the secret.
    Alarm(Alarm),
}

/// Whether a node that has an enrolment gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renew {
    /// It does.
    Yes,
    /// It keeps the one that it has.
    No,
}

/// What was known of a node when its card's key was drawn: its card, and whether that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known(Option<(PublicKey, bool)>);

/// The folder `enrolments` of a crew's folder.
#[derive(Debug, Clone)]
pub struct Register(PathBuf);

/// While it lives nobody else changes the register.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

/// The time now, by this machine's clock.
pub(super) fn now() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = seconds.ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0);
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

fn new_key() -> anyhow::Result<SignKey> {
    SignKey::generate().map_err(|error| anyhow::anyhow!("this system has no randomness: {error}"))
}

/// The card's key that waits to be used, if there is one and no other is wanted.
fn waiting(node: &NodeName, known: Option<&Entry>, renew: Renew) -> anyhow::Result<Option<SignKey>> {
    match (renew, known.map(|entry| (entry.key(), &entry.used))) {
        (Renew::Yes, _) | (Renew::No, None) => Ok(None),
        (Renew::No, Some((Some(key), _))) => Ok(Some(key)),
        (Renew::No, Some((None, used))) => {
            let when = used.as_ref().map_or(String::new(), |used| {
                let taken = if used.taken.is_some() { "" } else { "; it did not say that it has its keys" };
                format!(" since {} (serial number {}{taken})", used.at, used.serial.as_deref().unwrap_or("not known"))
            });
            anyhow::bail!(
                "{node} is enrolled already{when}, and its card's secret is used up. --renew makes another one: the keys that \
                 {node} has now count no more as soon as the new card's Pi is enrolled"
            )
        }
    }
}

impl Register {
    /// The one of the crew in `crew`.
    pub fn of(crew: &Path) -> Self {
        Self(crew.join("enrolments"))
    }

    fn path(&self, node: &NodeName) -> PathBuf {
        self.0.join(format!("{node}.toml"))
    }

    /// Waits until nobody else changes it.
    ///
    /// # Errors
    /// If it cannot be locked.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        files::private_folder(&self.0)?;
        let path = self.0.join(".lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| files::named(&path, "open", &error))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| files::named(&path, "lock", &error.into()))?;
        Ok(Lock(file))
    }

    /// What is known of a node.
    ///
    /// # Errors
    /// If the file is not right. The error repeats no secret.
    pub fn load(&self, node: &NodeName) -> anyhow::Result<Option<Entry>> {
        let path = self.path(node);
        if !path.exists() {
            return Ok(None);
        }
        let text = Zeroizing::new(files::read(&path)?);
        let entry = toml::from_str(&text).map_err(|error| anyhow::anyhow!("{}", error.message().to_owned()));
        entry.map(Some).with_context(|| format!("{} is no enrolment; restore it from your backup", path.display()))
    }

    /// Keeps it: it is on the disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, node: &NodeName, entry: &Entry) -> anyhow::Result<()> {
        let text = Zeroizing::new(format!(
            "# The enrolment of {node}. Written by beehive; nobody else may read it.\n{}",
            Zeroizing::new(toml::to_string(entry)?).as_str()
        ));
        Ok(files::write(&self.path(node), Access::Private, text.as_bytes())?)
    }

    /// Every node of which something is known.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn nodes(&self) -> anyhow::Result<Vec<NodeName>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut nodes = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            // what has another kind of name was not made by beehive
            let node = name.to_str().and_then(|name| name.strip_suffix(".toml")?.parse().ok());
            nodes.extend(node);
        }
        nodes.sort();
        Ok(nodes)
    }

    /// The card's key of a node: the one that waits, or a new one. Nothing is kept of it before [`Register::keep`].
    ///
    /// # Errors
    /// If the node is enrolled already and `renew` does not say so; or something cannot be read.
    pub fn draw(&self, node: &NodeName, renew: Renew) -> anyhow::Result<(SignKey, Known)> {
        let known = self.load(node)?;
        let key = match waiting(node, known.as_ref(), renew)? {
            Some(key) => key,
            None => new_key()?,
        };
        Ok((key, Known(known.map(|entry| (entry.card, entry.used.is_some())))))
    }

    /// Keeps a card's key that was drawn. The caller holds the lock.
    ///
    /// # Errors
    /// If the node's enrolment is another one than when the key was drawn; or something cannot be read or written.
    pub fn keep(&self, node: &NodeName, key: &SignKey, port: u16, drawn_at: &Known) -> anyhow::Result<()> {
        let known = self.load(node)?;
        if known.as_ref().map(|entry| (entry.card, entry.used.is_some())) != drawn_at.0 {
            anyhow::bail!("the enrolment of {node} has changed meanwhile, so this card's secret would be of no use");
        }
        match known {
            Some(entry) if entry.card == key.public() && entry.port == port => Ok(()),
            Some(mut entry) if entry.card == key.public() => {
                entry.port = port;
                self.save(node, &entry)
            }
            known => {
                let secret = Some(PublicKey(*key.seed()).to_string());
                let alarms = known.map(|entry| entry.alarms.clone()).unwrap_or_default();
                self.save(node, &Entry { card: key.public(), port, secret, used: None, alarms })
            }
        }
    }

    /// Takes note of a node's alarms, and says how many there were.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn acknowledge(&self, node: &NodeName) -> anyhow::Result<usize> {
        let _lock = self.lock()?;
        let Some(mut entry) = self.load(node)? else { return Ok(0) };
        let mut count = 0;
        for alarm in entry.alarms.iter_mut().filter(|alarm| alarm.acknowledged.is_none()) {
            alarm.acknowledged = Some(now());
            count += 1;
        }
        if count > 0 {
            self.save(node, &entry)?;
        }
        Ok(count)
    }

    /// Every alarm that nobody took note of.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn open_alarms(&self) -> anyhow::Result<Vec<(NodeName, Alarm)>> {
        let mut found = Vec::new();
        for node in self.nodes()? {
            if let Some(entry) = self.load(&node)? {
                found.extend(entry.open_alarms().map(|alarm| (node.clone(), alarm.clone())));
            }
        }
        Ok(found)
    }
}
