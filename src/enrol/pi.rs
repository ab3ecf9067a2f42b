//! The Pi's part: it makes its own keys once, waits for the crew's owner, and takes its identity.
//!
//! | place, below /etc/beehive | what |
//! | --- | --- |
//! | `enrolment.toml` | the card's secret, until the identity is in place |
//! | `enrolment/keys.toml` | the node's own keys, from the moment that they are made |
//! | `enrolment/answer.json` | the owner's answer, from the moment that it is believed |
//! | `identity/` | the identity: in place as a whole, or not |
//! | `enrolment/broker/` | on the master: the broker's files, until they are applied |
//! | `enrolment/daemon-restarted` | that the daemon was started again with the identity |
//!
//! Every step can be done again with the same keys, and the next one is told by what is there: a power cut at any moment costs
//! nothing but time.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use beehive_mqtt::node::Role;
use beehive_mqtt::sign::PublicKey;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};
use zeroize::{Zeroize as _, Zeroizing};

use super::card::CardSecret;
use super::machine;
use super::wire::{self, Answer, Ask, Kind, PublicKeys, Receipt, Reply, Request, Signed};
use crate::cli::BROKER_DIR;
use crate::crew::apply::{self, Applied, ApplyError, apply};
use crate::crew::broker::file;
use crate::crew::files::{self, Access};
use crate::crew::tls::{self, PrivateKey};
use crate::keys::{Identity, Keyring, Opener, SignKey};
use crate::link::Tls;

/// The most peers at once: one is the owner, the others may be anybody.
const MAX_PEERS: usize = 4;

/// The most questions of one peer: who, take, and each once more.
const MAX_ASKS: usize = 4;

/// When a broker that is not installed is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// After a failure to accept a peer.
const BREATH: Duration = Duration::from_millis(200);

/// Where everything is: below /, or below a test's folder.
#[derive(Debug, Clone)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    /// Below `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The card's file.
    pub fn card(&self) -> PathBuf {
        self.at(super::CARD_FILE)
    }

    /// The identity.
    pub fn identity(&self) -> PathBuf {
        self.at("/etc/beehive/identity")
    }

    pub(super) fn pending(&self) -> PathBuf {
        self.at("/etc/beehive/enrolment")
    }

    fn waiting(&self) -> PathBuf {
        self.at(super::WAITING_FILE)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }
}

/// What a Pi made itself. It shows no key.
pub struct OwnKeys {
    sign: SignKey,
    opener: Opener,
    tls: PrivateKey,
    broker: Option<PrivateKey>,
    public: PublicKeys,
}

impl fmt::Debug for OwnKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnKeys").field("sign", &self.sign).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    sign: String,
    seal: String,
    tls: String,
    #[serde(default)]
    broker: Option<String>,
}

impl Drop for Written {
    fn drop(&mut self) {
        self.sign.zeroize();
        self.seal.zeroize();
        self.tls.zeroize();
        self.broker.zeroize();
    }
}

impl OwnKeys {
    fn of(written: &Written) -> anyhow::Result<Self> {
        let seed = |text: &str| -> anyhow::Result<Zeroizing<[u8; 32]>> {
            Ok(Zeroizing::new(text.parse::<PublicKey>().map_err(|_| anyhow::anyhow!("a seed is none"))?.0))
        };
        let sign = SignKey::from_seed(&*seed(&written.sign)?);
        let opener = Opener::from_seed(&*seed(&written.seal)?)?;
        let tls = PrivateKey::new(written.tls.clone());
        let broker = written.broker.clone().map(PrivateKey::new);
        let public = PublicKeys {
            sign: sign.public(),
            seal: opener.public(),
            tls: tls::public_half(&tls, "this node")?,
            broker: broker.as_ref().map(|key| tls::public_half(key, "the broker")).transpose()?,
        };
        Ok(Self { sign, opener, tls, broker, public })
    }

    /// The keys of before, or new ones: in one file, so that there are all or none.
    fn load_or_make(dir: &Path, role: Role) -> anyhow::Result<Self> {
        let path = dir.join("keys.toml");
        if path.exists() {
            let text = Zeroizing::new(files::read(&path)?);
            // the parser's message would show the line
            let written = toml::from_str::<Written>(&text).ok().and_then(|written| Self::of(&written).ok());
            return written
                .with_context(|| format!("{} holds no keys; remove it, and this Pi makes new ones", path.display()));
        }
        let mut seeds = Zeroizing::new([0; 64]);
        getrandom::fill(seeds.as_mut()).map_err(|error| anyhow::anyhow!("this system has no randomness: {error}"))?;
        let seed =
            |from: usize| -> String { seeds[from..from + 32].iter().map(|byte| format!("{byte:02x}")).collect() };
        let written = Written {
            sign: seed(0),
            seal: seed(32),
            tls: tls::new_key("this node")?.0.expose().to_owned(),
            broker: match role {
                Role::Master => Some(tls::new_key("the broker")?.0.expose().to_owned()),
                Role::Node => None,
            },
        };
        files::private_folder(dir)?;
        let text = Zeroizing::new(toml::to_string(&written)?);
        files::write(&path, Access::Private, text.as_bytes())?;
        Self::of(&written)
    }
}

/// A Pi that has a card's secret.
#[derive(Debug)]
pub struct Applicant {
    places: Places,
    secret: CardSecret,
    keys: OwnKeys,
    about: machine::About,
    receipt: Option<Signed>,
}

/// What is left to do on this Pi.
#[derive(Debug)]
pub enum Stage {
    /// Nothing: it has no card's secret, and nothing is under way.
    Nothing,
    /// It waits for the owner.
    Waiting(Box<Applicant>),
    /// It has its identity; what follows from that is not all done.
    Following,
}

impl Stage {
    /// Looks, and goes on where the Pi was cut off.
    ///
    /// # Errors
    /// If something cannot be read or written.
    pub fn find(places: &Places) -> anyhow::Result<Self> {
        if !places.card().exists() {
            return Ok(if places.pending().exists() { Self::Following } else { Self::Nothing });
        }
        let secret = CardSecret::load(&places.card())?;
        let keys = OwnKeys::load_or_make(&places.pending(), secret.role)?;
        let about = machine::About::read(places.root());
        let applicant = Applicant { places: places.clone(), secret, keys, about, receipt: None };
        let answer = places.pending().join("answer.json");
        if answer.exists() {
            // it was believed already; a card that has changed since has another crew's key
            let again = serde_json::from_str::<Signed>(&files::read(&answer)?).map_err(anyhow::Error::from);
            match again.and_then(|answer| Ok(applicant.believe(&answer)?)) {
                Ok(answer) => {
                    applicant.install(&answer)?;
                    return Ok(Self::Following);
                }
                Err(error) => {
                    tracing::warn!("an answer of before is of no use to this card: {error:#}");
                    files::remove(&answer)?;
                }
            }
        }
        Ok(Self::Waiting(Box::new(applicant)))
    }
}

/// Why an answer is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// Nobody of the crew said it.
    #[error("{0}")]
    Wire(#[from] wire::WireError),
    /// It is for somebody else.
    #[error("the answer is for {0}")]
    Another(&'static str),
    /// It does not hold together.
    #[error("the answer does not hold together: {0}")]
    Incoherent(String),
    /// It could not be kept.
    #[error("it cannot be kept: {0}")]
    Kept(String),
}

impl Applicant {
    /// What this Pi asks for.
    ///
    /// # Errors
    /// Never; the document is ours.
    pub fn request(&self, nonce: beehive_mqtt::sign::Digest) -> Result<Signed, wire::WireError> {
        let request = Request {
            crew: self.secret.crew.clone(),
            node: self.secret.node.clone(),
            serial: self.about.serial.clone(),
            model: self.about.model.clone(),
            keys: self.keys.public.clone(),
            nonce,
        };
        Signed::new(Kind::Request, &request, &self.secret.key)
    }

    fn believe(&self, answer: &Signed) -> Result<Answer, NotTaken> {
        let answer: Answer = answer.open(Kind::Answer, &self.secret.crew_key)?;
        if answer.crew != self.secret.crew {
            return Err(NotTaken::Another("another crew"));
        }
        if answer.node != self.secret.node {
            return Err(NotTaken::Another("another node"));
        }
        if answer.keys != self.keys.public {
            return Err(NotTaken::Another("other keys than this Pi's"));
        }
        let incoherent = |why: &dyn fmt::Display| NotTaken::Incoherent(why.to_string());
        let keyring = Keyring::open(&answer.crew, self.secret.crew_key, answer.manifest.as_bytes(), None)
            .map_err(|error| incoherent(&error))?;
        let named = keyring.manifest().node(&answer.node).map(|entry| (entry.sign, entry.seal));
        if named != Some((answer.keys.sign, answer.keys.seal)) {
            return Err(incoherent(&"its manifest has other keys for this node"));
        }
        Tls::new(&answer.crew, &answer.authority, &answer.certificate, &self.keys.tls)
            .map_err(|error| incoherent(&error))?;
        if answer.broker.is_some() != self.keys.broker.is_some() {
            return Err(incoherent(&"the broker's files belong to the master, and to nobody else"));
        }
        Ok(answer)
    }

    /// Puts everything in place. The secret goes when the identity is there.
    fn install(&self, answer: &Answer) -> anyhow::Result<()> {
        let pending = self.places.pending();
        let identity = self.places.identity();
        let new = identity.with_extension("new");
        files::remove_folder(&new)?;
        files::private_folder(&new)?;
        Identity {
            crew: answer.crew.clone(),
            name: answer.node.to_string(),
            sign: SignKey::from_seed(&self.keys.sign.seed()),
            opener: Some(Opener::from_seed(&self.keys.opener.seed())?),
            crew_key: self.secret.crew_key,
            manifest: answer.manifest.clone().into_bytes(),
        }
        .save(&new)?;
        files::write(&new.join("ca.crt"), Access::Public, answer.authority.as_bytes())?;
        files::write(&new.join("tls.crt"), Access::Public, answer.certificate.as_bytes())?;
        files::write(&new.join("tls.key"), Access::Private, self.keys.tls.expose().as_bytes())?;
        files::replace_folder(&new, &identity)?;
        if let (Some(broker), Some(key)) = (&answer.broker, &self.keys.broker) {
            let dir = pending.join("broker");
            files::private_folder(&dir)?;
            files::write(&dir.join(file::KEY), Access::Private, key.expose().as_bytes())?;
            for (name, text) in [
                (file::ACL, &broker.acl),
                (file::CLIENTS, &broker.clients),
                (file::CERTIFICATE, &broker.certificate),
                (file::CONFIG, &broker.config),
            ] {
                files::write(&dir.join(name), Access::Private, text.as_bytes())?;
            }
        }
        // of an enrolment before this one
        files::remove(&pending.join(TOLD))?;
        files::remove(&self.places.card())?;
        files::remove(&pending.join("answer.json"))?;
        files::remove(&pending.join("keys.toml"))?;
        Ok(())
    }

    /// Takes an answer. A second one changes nothing.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn take(&mut self, signed: &Signed) -> Result<Signed, NotTaken> {
        let answer = self.believe(signed)?;
        if let Some(receipt) = &self.receipt {
            return Ok(receipt.clone());
        }
        let kept = |error: &dyn fmt::Display| NotTaken::Kept(error.to_string());
        let text = serde_json::to_string(signed).map_err(|error| kept(&error))?;
        files::write(&self.places.pending().join("answer.json"), Access::Private, text.as_bytes())
            .map_err(|error| kept(&error))?;
        self.install(&answer).map_err(|error| kept(&format_args!("{error:#}")))?;
        let receipt = Receipt { node: self.secret.node.clone(), card: self.secret.key.public() };
        let receipt = Signed::new(Kind::Taken, &receipt, &self.keys.sign)?;
        self.receipt = Some(receipt.clone());
        Ok(receipt)
    }
}

/// What the service is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything is.
    pub places: Places,
    /// Where it listens.
    pub bind: IpAddr,
    /// What is asked to restart services.
    pub systemctl: PathBuf,
}

/// Waits until this Pi has its identity and what follows from it is done.
///
/// # Errors
/// If something cannot be read or written, or the port is taken.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    let places = &settings.places;
    match Stage::find(places)? {
        Stage::Nothing => {
            tracing::info!("nothing to do: there is no {}", places.card().display());
            return Ok(());
        }
        Stage::Waiting(applicant) => {
            let waiting = places.waiting();
            let told = announce(&applicant, &waiting);
            if let Err(error) = &told {
                tracing::warn!("{} is not there for others to see: {error}", waiting.display());
            }
            let served = serve(*applicant, settings.bind).await;
            files::remove(&waiting)?;
            served?;
        }
        Stage::Following => {}
    }
    follow(settings, &apply).await
}

/// Tells the daemon of discovery what may be known of the enrolment.
fn announce(applicant: &Applicant, path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let word = |name: &str, value: &Option<String>| {
        // printable and without a backslash: machine::About sees to it
        value.as_ref().map_or(String::new(), |value| format!("{name} = \"{value}\"\n"))
    };
    let text = format!(
        "key = \"{}\"\nport = {}\n{}{}",
        applicant.secret.key.public().id(),
        applicant.secret.port,
        word("serial", &applicant.about.serial),
        word("model", &applicant.about.model),
    );
    files::write(path, Access::Public, text.as_bytes())
}

/// Answers whoever asks, until the identity is there and its owner knows it.
async fn serve(applicant: Applicant, bind: IpAddr) -> anyhow::Result<()> {
    let port = applicant.secret.port;
    let (crew, node) = (applicant.secret.crew.clone(), applicant.secret.node.clone());
    let listener = match TcpListener::bind(SocketAddr::new(bind, port)).await {
        // a machine without IPv6
        Err(error) if bind == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(("0.0.0.0", port)).await
        }
        bound => bound,
    };
    let listener = listener.with_context(|| format!("cannot listen on port {port}"))?;
    tracing::info!(
        "waits on port {port} to be enrolled as {node} of crew {crew}: `beehive crew enrol` on the owner's machine"
    );
    let applicant = Arc::new(Mutex::new(applicant));
    let (slots, done) = (Arc::new(Semaphore::new(MAX_PEERS)), Arc::new(Notify::new()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = done.notified() => return Ok(()),
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!("cannot accept: {error}");
                sleep(BREATH).await;
                continue;
            }
        };
        // who comes when all slots are taken may come again
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (applicant, done) = (Arc::clone(&applicant), Arc::clone(&done));
        tokio::spawn(async move {
            match converse(stream, &applicant).await {
                Ok(End::Taken) => {
                    tracing::info!("enrolled by {peer}");
                    done.notify_one();
                }
                Ok(End::Asked) => {}
                Err(error) => tracing::info!("{peer}: {error}"),
            }
            drop(slot);
        });
    }
}

/// How a conversation ended.
enum End {
    /// With an identity.
    Taken,
    /// With nothing more to say.
    Asked,
}

async fn converse(mut stream: TcpStream, applicant: &Mutex<Applicant>) -> Result<End, wire::WireError> {
    for _ in 0..MAX_ASKS {
        let ask: Ask = match wire::receive(&mut stream, wire::MAX_ASK_BYTES).await {
            Err(wire::WireError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(End::Asked),
            asked => asked?,
        };
        let (reply, taken) = {
            let mut applicant = applicant.lock().unwrap_or_else(PoisonError::into_inner);
            match &ask {
                Ask::Who { nonce } => (Reply::Request(applicant.request(*nonce)?), false),
                Ask::Take { answer } => match applicant.take(answer) {
                    Ok(receipt) => (Reply::Taken(receipt), true),
                    Err(error) => {
                        tracing::warn!("an answer is not taken: {error}");
                        (Reply::Refused { why: error.to_string() }, false)
                    }
                },
            }
        };
        let sent = wire::send(&mut stream, &reply).await;
        if taken {
            // the owner ends the conversation when he has heard it; one who has not may ask again meanwhile
            let mut nothing = [0; 1];
            let _ = timeout(wire::EXCHANGE, stream.read(&mut nothing)).await;
            return Ok(End::Taken);
        }
        sent?;
    }
    Ok(End::Asked)
}

/// What is to be done where the broker's files cannot be put in place.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It is tried again here.
    TryAgain,
    /// In another process. This one's view of the file system is of when it began: what was not there then is read-only for it
    /// (`ReadWritePaths=` of a folder that came later).
    StartAnew,
}

fn next(error: &ApplyError) -> Next {
    match error {
        ApplyError::File(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Next::StartAnew,
        ApplyError::File(_) | ApplyError::Content { .. } | ApplyError::Restart(_) => Next::TryAgain,
    }
}

/// That the daemon was started again with its identity: a file beside the broker's.
const TOLD: &str = "daemon-restarted";

/// The daemon is started again with its identity, and the master's broker gets its files by `apply`.
async fn follow(
    settings: &Settings,
    apply: &dyn Fn(&apply::Places) -> Result<Applied, ApplyError>,
) -> anyhow::Result<()> {
    let places = &settings.places;
    let pending = places.pending();
    // what an interruption left of the secret's keys: the identity has them
    for name in ["answer.json", "keys.toml"] {
        files::remove(&pending.join(name))?;
    }
    let systemctl = settings.systemctl.display().to_string();
    // once, however often this is begun again
    if !pending.join(TOLD).exists() {
        match Command::new(&settings.systemctl).args(["--no-block", "restart", "beehive.service"]).status() {
            Ok(status) if status.success() => files::write(&pending.join(TOLD), Access::Public, b"")?,
            Ok(status) => tracing::warn!("{systemctl} restart beehive.service ended with {status}; restart it by hand"),
            Err(error) => tracing::warn!("{systemctl} cannot be started: {error}; restart beehive.service by hand"),
        }
    }
    let from = pending.join("broker");
    let conf_d = places.at("/etc/mosquitto/conf.d");
    let mut said = String::new();
    while from.exists() {
        let restart = [systemctl.as_str(), "restart", "mosquitto.service"].map(str::to_owned).to_vec();
        let into = places.at(BROKER_DIR);
        let places = apply::Places { from: from.clone(), into, conf_d: conf_d.clone(), restart };
        let trouble = if conf_d.exists() {
            match apply(&places) {
                Ok(Applied::Unchanged | Applied::Restarted) => {
                    tracing::info!("the crew's broker has its files");
                    files::remove_folder(&from)?;
                    continue;
                }
                Err(error) => match next(&error) {
                    Next::TryAgain => error.to_string(),
                    Next::StartAnew => anyhow::bail!(
                        "{error}. mosquitto came after this program was started, so its folder is read-only for it: it ends here, \
                         and beehive-enrol.service starts it anew"
                    ),
                },
            }
        } else {
            "mosquitto is not installed, and this master's crew needs it: apt-get install mosquitto".to_owned()
        };
        // once for each trouble, not twice a minute
        if trouble != said {
            tracing::error!("{trouble}; it is tried again every {} s", LOOK_AGAIN.as_secs());
            said = trouble;
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(files::remove_folder(&pending)?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A master that has its identity, with mosquitto's folder or without; and a systemctl that counts.
    fn master() -> (tempfile::TempDir, Settings) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/beehive/enrolment/broker")).unwrap();
        let systemctl = root.path().join("systemctl");
        fs::write(&systemctl, format!("#!/bin/sh\necho \"$*\" >>{}/asked\n", root.path().display())).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let places = Places::below(root.path());
        (root, Settings { places, bind: Ipv6Addr::LOCALHOST.into(), systemctl })
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_of_mosquittos_that_came_later_ends_this_process_and_the_next_one_goes_on() {
        let (root, settings) = master();
        let tries = Cell::new(0);
        let read_only = |_: &apply::Places| {
            tries.set(tries.get() + 1);
            let error = io::Error::from(rustix::io::Errno::ROFS);
            Err(ApplyError::File(files::named(Path::new("/etc/mosquitto/beehive/beehive.acl"), "write", &error)))
        };
        // mosquitto is not there: it is waited for
        assert!(timeout(10 * LOOK_AGAIN, follow(&settings, &read_only)).await.is_err());
        assert_eq!(tries.get(), 0);
        fs::create_dir_all(root.path().join("etc/mosquitto/conf.d")).unwrap();
        for _ in 0..2 {
            let ended =
                timeout(10 * LOOK_AGAIN, follow(&settings, &read_only)).await.expect("it does not go on for ever");
            let error = ended.unwrap_err().to_string();
            assert!(error.contains("starts it anew") && error.contains("/etc/mosquitto/beehive"), "{error}");
        }
        assert_eq!(tries.get(), 2);
        let applied = |_: &apply::Places| Ok(Applied::Restarted);
        follow(&settings, &applied).await.unwrap();
        assert!(!root.path().join("etc/beehive/enrolment").exists());
        let asked = fs::read_to_string(root.path().join("asked")).unwrap();
        assert_eq!(asked, "--no-block restart beehive.service\n", "the daemon is started again once");
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_right_later_is_tried_again_in_this_process() {
        let (root, settings) = master();
        fs::create_dir_all(root.path().join("etc/mosquitto/conf.d")).unwrap();
        let tries = Cell::new(0);
        let late = |_: &apply::Places| {
            tries.set(tries.get() + 1);
            match tries.get() {
                1 => Err(ApplyError::File(io::ErrorKind::PermissionDenied.into())),
                2 => Err(ApplyError::Restart("it does not listen".to_owned())),
                _ => Ok(Applied::Restarted),
            }
        };
        timeout(10 * LOOK_AGAIN, follow(&settings, &late)).await.unwrap().unwrap();
        assert_eq!(tries.get(), 3);
    }
}
