//! The owner's part: `beehive crew enrol`, in the crew's folder on the owner's machine.
//!
//! A card's secret is written down as used, on the disk, before anything is certified with it. From then on the same keys get
//! the same answer again, and other keys raise an alarm and get nothing.

pub mod command;
pub mod register;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use beehive_mqtt::manifest::Manifest;
use beehive_mqtt::node::Role;
use beehive_mqtt::{CrewName, NodeName};

use self::register::{Alarm, Judged, Known, Register, Renew, now};
use super::card::CardSecret;
use super::wire::{Answer, Kind, Receipt, Request, Signed};
use crate::crew::folder::Folder;
use crate::crew::keys::{Change, KeyFolder};
use crate::keys::SignKey;

/// Who hosts the crew's broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerPlace {
    /// The master.
    Master,
    /// Another machine, which this is no affair of.
    Elsewhere,
}

/// What a node's card is to bring, as it was drawn: the crew's folder knows nothing of it before it is kept.
#[derive(Debug)]
pub struct Drawn {
    /// The secret.
    pub secret: CardSecret,
    folder: PathBuf,
    known: Known,
}

/// Draws what a node's card is to bring. The same card gets the same secret until it is used. Nothing is written.
///
/// # Errors
/// If there is no such node, it is enrolled already, or something cannot be read.
pub fn draw(folder: &Path, node: &NodeName, port: u16, renew: Renew, broker: BrokerPlace) -> anyhow::Result<Drawn> {
    let keys = KeyFolder::new(folder);
    let (crew, crew_key) = keys.signer()?;
    let manifest = keys.manifest()?;
    if manifest.node(node).is_none() {
        anyhow::bail!("{node} is no node of crew {crew}; add it first: `beehive crew add-node {node}`");
    }
    let (key, known) = Register::of(folder).draw(node, renew)?;
    let role = match broker {
        BrokerPlace::Master if manifest.coordinator == *node => Role::Master,
        BrokerPlace::Master | BrokerPlace::Elsewhere => Role::Node,
    };
    let secret = CardSecret { crew, node: node.clone(), role, crew_key: crew_key.public(), key, port };
    Ok(Drawn { secret, folder: folder.to_owned(), known })
}

impl Drawn {
    /// Keeps it, in place of the card that the node had before: from now on `beehive crew enrol` knows this one alone.
    ///
    /// # Errors
    /// If the node's enrolment has changed since it was drawn, or something cannot be read or written.
    pub fn keep(&self) -> anyhow::Result<()> {
        let CardSecret { node, key, port, .. } = &self.secret;
        let register = Register::of(&self.folder);
        let _lock = register.lock()?;
        // the broker's list has to know the anchor before the node comes
        Folder::new(&self.folder).prepare_anchor(node)?;
        register.keep(node, key, *port, &self.known)
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// This is its answer.
    Answer(Box<Signed>),
    /// The secret was used by another one.
    Alarm(Alarm),
}

/// Certifies a node's own keys, once. The request has been verified with the card's key. It may be called again at any time.
///
/// # Errors
/// If something cannot be read or written; then it may be called again.
pub fn certify(folder: &Path, request: &Request, address: IpAddr) -> anyhow::Result<Outcome> {
    let node = &request.node;
    let register = Register::of(folder);
    let _lock = register.lock()?;
    let mut entry = register.load(node)?.with_context(|| format!("{node} has no enrolment here"))?;
    match entry.judge(request, address, &now()) {
        // on the disk before anything follows from it
        Judged::First => register.save(node, &entry)?,
        Judged::Again => {}
        Judged::Alarm(alarm) => {
            register.save(node, &entry)?;
            return Ok(Outcome::Alarm(alarm));
        }
    }
    let keys = KeyFolder::new(folder);
    let manifest = keys.change(&Change::Enrol(node.clone(), request.keys.sign, request.keys.seal))?;
    let (crew, signer) = keys.signer()?;
    Ok(Outcome::Answer(Box::new(answer(folder, request, &manifest, &crew, &signer)?)))
}

fn answer(
    folder: &Path,
    request: &Request,
    manifest: &Manifest,
    crew: &CrewName,
    signer: &SignKey,
) -> anyhow::Result<Signed> {
    let node = &request.node;
    let certificates = Folder::new(folder);
    let certificate = certificates.certify_node(node, &request.keys.tls)?;
    let broker = match &request.keys.broker {
        None => None,
        Some(key) if manifest.coordinator == *node => {
            Some(certificates.certify_broker(&certificates.site(crate::cli::BROKER_DIR.as_ref())?, key)?)
        }
        Some(_) => anyhow::bail!(
            "the card of {node} was prepared when it was the master, and {} is now: prepare it again with --renew",
            manifest.coordinator
        ),
    };
    let answer = Answer {
        crew: crew.clone(),
        node: node.clone(),
        keys: request.keys.clone(),
        manifest: String::from_utf8(KeyFolder::new(folder).signed_manifest()?)?,
        certificate,
        authority: certificates.authority_certificate(crew)?,
        broker,
    };
    Ok(Signed::new(Kind::Answer, &answer, signer)?)
}

/// The node's word that it has its identity, signed with the key that was certified.
///
/// # Errors
/// If it is somebody else's, or cannot be kept.
pub fn taken(folder: &Path, node: &NodeName, receipt: &Signed) -> anyhow::Result<()> {
    let register = Register::of(folder);
    let _lock = register.lock()?;
    let mut entry = register.load(node)?.with_context(|| format!("{node} has no enrolment here"))?;
    let card = entry.card;
    let used = entry.used.as_mut().with_context(|| format!("the secret of {node}'s card is not used"))?;
    let said: Receipt = receipt.open(Kind::Taken, &used.keys.sign)?;
    if said != (Receipt { node: node.clone(), card }) {
        anyhow::bail!("the receipt is of another enrolment");
    }
    if used.taken.is_none() {
        used.taken = Some(now());
        register.save(node, &entry)?;
    }
    Ok(())
}

/// The node has been heard with the keys that were certified, so it has its identity.
///
/// # Errors
/// If that cannot be kept.
pub fn speaks(folder: &Path, node: &NodeName) -> anyhow::Result<()> {
    let register = Register::of(folder);
    let _lock = register.lock()?;
    let Some(mut entry) = register.load(node)? else { return Ok(()) };
    if let Some(used) = entry.used.as_mut().filter(|used| used.taken.is_none()) {
        used.taken = Some(now());
        register.save(node, &entry)?;
    }
    Ok(())
}
