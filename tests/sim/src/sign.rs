//! Signatures in bulk: a keyed 64-bit hash behind the traits of the protocol, one key for each writer of the topic tree;
//! for some seeds Ed25519 itself. Here counts that everything that is said passes through what signs and what checks.

use crate::broker::crew;
use beehive_mqtt::command::{SealContext, SealedCredential};
use beehive_mqtt::node::Telemetry;
use beehive_mqtt::sign::{PublicKey, Signature, Writer};
use beehive_mqtt::{Distrust, KeyId, Payload, ProtocolVersion, Signer, Topic, Verified, encode_in, verify, written_in};
use ed25519_dalek::{Signer as _, SigningKey};
use std::collections::BTreeMap;

/// What signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signing {
    /// A keyed 64-bit hash.
    #[default]
    Hashed,
    /// Ed25519, strictly verified.
    Real,
}

/// FNV-1a, 64 bits: the same on every machine, whatever its words are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds some bytes, and where they end.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&u32::try_from(bytes.len()).unwrap().to_be_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }
}

fn hash(parts: &[&[u8]]) -> [u8; 8] {
    let mut hash = Fnv::new();
    parts.iter().for_each(|part| hash.add(part));
    hash.value().to_be_bytes()
}

struct Hashed(KeyId);

impl Signer for Hashed {
    fn key(&self) -> KeyId {
        self.0
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&hash(&[&self.0.0, message]));
        Signature(bytes)
    }
}

/// An Ed25519 key of a writer, made of its name: nobody forges in this world, so nobody has to be kept from guessing it.
struct Real {
    id: KeyId,
    key: SigningKey,
}

impl Real {
    fn of(name: &[u8]) -> Self {
        let mut seed = [0; 32];
        for (index, part) in seed.chunks_exact_mut(8).enumerate() {
            part.copy_from_slice(&hash(&[&[u8::try_from(index).unwrap()], name]));
        }
        let key = SigningKey::from_bytes(&seed);
        Self { id: PublicKey(key.verifying_key().to_bytes()).id(), key }
    }
}

impl Signer for Real {
    fn key(&self) -> KeyId {
        self.id
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.key.sign(message).to_bytes())
    }
}

/// The keys of all writers.
#[derive(Default)]
pub(crate) struct Keys {
    signing: Signing,
    real: BTreeMap<Vec<u8>, Real>,
}

fn name_of(topic: &Topic) -> Vec<u8> {
    match topic.writer() {
        Writer::Node(node) => [b"node ", node.as_str().as_bytes()].concat(),
        Writer::Coordinator => b"coordinator".to_vec(),
        Writer::User(user) => [b"user ", user.as_str().as_bytes()].concat(),
        Writer::Crew => b"crew".to_vec(),
    }
}

impl Keys {
    pub(crate) fn new(signing: Signing) -> Self {
        Self { signing, real: BTreeMap::new() }
    }

    fn real(&mut self, topic: &Topic) -> &Real {
        let name = name_of(topic);
        self.real.entry(name).or_insert_with_key(|name| Real::of(name))
    }

    /// A message of `topic` in a version, signed by whom it has to be.
    pub(crate) fn signed<P: Payload>(&mut self, version: ProtocolVersion, topic: &Topic, payload: &P) -> Vec<u8> {
        let wire = topic.name(&crew());
        match self.signing {
            Signing::Hashed => encode_in(version, payload, &wire, &Hashed::of(topic)).unwrap(),
            Signing::Real => encode_in(version, payload, &wire, self.real(topic)).unwrap(),
        }
    }

    /// The key of a topic's writer.
    pub(crate) fn key(&mut self, topic: &Topic) -> KeyId {
        match self.signing {
            Signing::Hashed => Hashed::of(topic).0,
            Signing::Real => self.real(topic).id,
        }
    }

    /// A message that arrived is from whom it has to be. In which version it was written.
    pub(crate) fn check(&mut self, topic: &Topic, bytes: &[u8]) -> ProtocolVersion {
        match topic.wrapping() {
            // the largest of those that are not signed
            beehive_mqtt::codec::Wrapping::Plain => written_in::<Telemetry>(bytes).unwrap(),
            beehive_mqtt::codec::Wrapping::Envelope => {
                let wire = topic.name(&crew());
                let right = self.key(topic);
                let hashed = Hashed::of(topic);
                let real = match self.signing {
                    Signing::Hashed => None,
                    Signing::Real => Some(self.real(topic)),
                };
                let believe = |key: KeyId, message: &[u8], signature: &Signature| {
                    let genuine = match real {
                        None => hashed.sign(message) == *signature,
                        Some(real) => {
                            let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
                            real.key.verifying_key().verify_strict(message, &signature).is_ok()
                        }
                    };
                    if key == right && genuine { Ok(()) } else { Err(Distrust::Forged) }
                };
                let Verified { key, version } = verify(bytes, &wire, believe).unwrap();
                assert_eq!(key, right);
                version
            }
        }
    }
}

impl Hashed {
    fn of(topic: &Topic) -> Self {
        Self(KeyId(hash(&[&name_of(topic)])))
    }
}

fn pad(context: &SealContext<'_>, length: usize) -> Vec<u8> {
    let byte = |index: usize| hash(&[&u32::try_from(index).unwrap().to_be_bytes(), &context.bytes()])[0];
    (0..length).map(byte).collect()
}

/// A secret that opens for this context alone; what HPKE does is tested with the keys.
pub(crate) fn seal(secret: &str, context: &SealContext<'_>) -> SealedCredential {
    let pad = pad(context, secret.len());
    let sealed: Vec<u8> = secret.bytes().zip(pad).map(|(byte, pad)| byte ^ pad).collect();
    SealedCredential::new(&sealed)
}

/// What was sealed; something else if it was for another context.
pub(crate) fn open(sealed: &SealedCredential, context: &SealContext<'_>) -> String {
    let sealed = sealed.bytes().unwrap();
    let pad = pad(context, sealed.len());
    let secret: Vec<u8> = sealed.iter().zip(pad).map(|(byte, pad)| byte ^ pad).collect();
    String::from_utf8_lossy(&secret).into_owned()
}
