//! Whom we believe: the newest manifest that the crew's own key signed.

use std::sync::{Arc, PoisonError, RwLock};

use beehive_mqtt::manifest::{Manifest, ManifestError, Succession, UserRole};
use beehive_mqtt::sign::{Distrust, KeyId, PublicKey, Signature, Verdict, Verifier, Writer};
use beehive_mqtt::{CrewName, DecodeError, NodeName, Topic, UserName, decode, verify};

use super::Ed25519;
use crate::store::{Store, StoreError};

/// The name of the manifest in the store.
pub const RECORD: &str = "manifest";

/// Why a manifest is not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// It cannot be read, or the crew's key did not sign it.
    #[error("{0}")]
    Message(#[from] DecodeError),
    /// It may not follow the one that is known.
    #[error("{0}")]
    Succession(#[from] ManifestError),
    /// It cannot be kept, so it is not acted on.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// What an offered manifest changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// Nothing: it is the one that is known.
    Nothing,
    /// It is newer, and known from now on.
    Manifest,
}

/// What a key is to a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its messages there are believed.
    Writer,
    /// Another key has that place: whoever holds this one was replaced.
    Replaced,
    /// Nobody has that place.
    Vacant,
}

/// Whom we believe. Clones share it.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    crew: CrewName,
    crew_key: PublicKey,
    store: Option<Store>,
    known: RwLock<Known>,
}

struct Known {
    manifest: Manifest,
    signed: Vec<u8>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Keyring").field("crew", &self.0.crew).field("revision", &known.manifest.revision).finish()
    }
}

fn read(crew: &CrewName, crew_key: &PublicKey, signed: &[u8]) -> Result<Manifest, KeyringError> {
    let topic = Topic::Manifest.name(crew);
    verify(signed, &topic, |key, message, signature| check(crew_key, key, message, signature))?;
    let manifest: Manifest = decode(signed)?;
    manifest.check()?;
    if manifest.crew != *crew {
        return Err(ManifestError::Crew.into());
    }
    Ok(manifest)
}

fn check(expected: &PublicKey, key: KeyId, message: &[u8], signature: &Signature) -> Result<(), Distrust> {
    if expected.id() != key {
        return Err(Distrust::WrongKey);
    }
    match Ed25519.verify(expected, message, signature) {
        Verdict::Good => Ok(()),
        Verdict::Bad => Err(Distrust::Forged),
    }
}

impl Keyring {
    /// The keyring of a crew, from the manifest that came with the identity; where there is a store, from a newer one that
    /// was kept there.
    ///
    /// # Errors
    /// If neither is right.
    pub fn open(
        crew: &CrewName,
        crew_key: PublicKey,
        given: &[u8],
        store: Option<Store>,
    ) -> Result<Self, KeyringError> {
        let mut known = Known { manifest: read(crew, &crew_key, given)?, signed: given.to_vec() };
        if let Some(store) = &store {
            if let Some(kept) = store.load::<String>(RECORD)? {
                let manifest = read(crew, &crew_key, kept.as_bytes())?;
                match known.manifest.followed_by(&manifest) {
                    Ok(Succession::Newer) => known = Known { manifest, signed: kept.into_bytes() },
                    // the card was given a newer one than it had kept
                    Ok(Succession::Same) | Err(ManifestError::Older) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(Self(Arc::new(Inner { crew: crew.clone(), crew_key, store, known: RwLock::new(known) })))
    }

    fn with<T>(&self, look: impl FnOnce(&Manifest) -> T) -> T {
        look(&self.0.known.read().unwrap_or_else(PoisonError::into_inner).manifest)
    }

    /// The manifest.
    pub fn manifest(&self) -> Manifest {
        self.with(Manifest::clone)
    }

    /// The manifest as it was signed, to be published.
    pub fn signed_manifest(&self) -> Vec<u8> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).signed.clone()
    }

    /// The coordinator's term, and its node.
    pub fn term(&self) -> (u64, NodeName) {
        self.with(|manifest| (manifest.term, manifest.coordinator.clone()))
    }

    /// What a user may do; nothing if there is no such user.
    pub fn role(&self, user: &UserName) -> Option<UserRole> {
        self.with(|manifest| manifest.user(user).map(|user| user.role))
    }

    /// Whether a message of `topic` is from whom it has to be.
    ///
    /// # Errors
    /// Why not.
    pub fn believe(&self, topic: &Topic, key: KeyId, message: &[u8], signature: &Signature) -> Result<(), Distrust> {
        check(&self.writer(topic).ok_or(Distrust::WrongKey)?, key, message, signature)
    }

    /// What `key` is to a topic. Of two cards with one name only one has the key that the manifest names; the other one
    /// has to keep silent, or the broker throws out one for the other for ever.
    pub fn standing(&self, topic: &Topic, key: &PublicKey) -> Standing {
        match self.writer(topic) {
            Some(writer) if writer == *key => Standing::Writer,
            Some(_) => Standing::Replaced,
            None => Standing::Vacant,
        }
    }

    fn writer(&self, topic: &Topic) -> Option<PublicKey> {
        self.with(|manifest| match topic.writer() {
            Writer::Node(node) => manifest.node(node).map(|node| node.sign),
            Writer::Coordinator => manifest.node(&manifest.coordinator).map(|node| node.sign),
            Writer::User(user) => manifest.user(user).map(|user| user.sign),
            Writer::Crew => Some(self.0.crew_key),
        })
    }

    /// Takes a manifest that somebody offers, if the crew's key signed it and it is newer. It is kept before it counts.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn offer(&self, signed: &[u8]) -> Result<Changed, KeyringError> {
        let manifest = read(&self.0.crew, &self.0.crew_key, signed)?;
        match self.with(|known| known.followed_by(&manifest))? {
            Succession::Same => return Ok(Changed::Nothing),
            Succession::Newer => {}
        }
        if let Some(store) = &self.0.store {
            store.save(RECORD, &String::from_utf8_lossy(signed))?;
        }
        *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = Known { manifest, signed: signed.to_vec() };
        Ok(Changed::Manifest)
    }
}
