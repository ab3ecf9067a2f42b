//! Signatures in bulk: a keyed 64-bit hash behind the traits of the protocol, one key for each writer of the topic tree.
//! Whether Ed25519 holds is tested with the keys; here counts that everything that is said passes through what signs and
//! what checks.

use super::broker::crew;
use beehive_mqtt::command::{SealContext, SealedCredential};
use beehive_mqtt::sign::{Signature, Writer};
use beehive_mqtt::{Distrust, KeyId, Payload, Signer, Topic, encode, verify};

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

fn writer(topic: &Topic) -> Hashed {
    Hashed(KeyId(match topic.writer() {
        Writer::Node(node) => hash(&[b"node", node.as_str().as_bytes()]),
        Writer::Coordinator => hash(&[b"coordinator"]),
        Writer::User(user) => hash(&[b"user", user.as_str().as_bytes()]),
        Writer::Crew => hash(&[b"crew"]),
    }))
}

/// A message of `topic`, signed by whom it has to be.
pub(super) fn signed<P: Payload>(topic: &Topic, payload: &P) -> Vec<u8> {
    encode(payload, &topic.name(&crew()), &writer(topic)).unwrap()
}

/// The key of a topic's writer.
pub(super) fn key(topic: &Topic) -> KeyId {
    writer(topic).0
}

fn pad(context: &SealContext<'_>, length: usize) -> Vec<u8> {
    let byte = |index: usize| hash(&[&u32::try_from(index).unwrap().to_be_bytes(), &context.bytes()])[0];
    (0..length).map(byte).collect()
}

/// A secret that opens for this context alone; what HPKE does is tested with the keys.
pub(super) fn seal(secret: &str, context: &SealContext<'_>) -> SealedCredential {
    let pad = pad(context, secret.len());
    let sealed: Vec<u8> = secret.bytes().zip(pad).map(|(byte, pad)| byte ^ pad).collect();
    SealedCredential::new(&sealed)
}

/// What was sealed; something else if it was for another context.
pub(super) fn open(sealed: &SealedCredential, context: &SealContext<'_>) -> String {
    let sealed = sealed.bytes().unwrap();
    let pad = pad(context, sealed.len());
    let secret: Vec<u8> = sealed.iter().zip(pad).map(|(byte, pad)| byte ^ pad).collect();
    String::from_utf8_lossy(&secret).into_owned()
}

/// A message that arrived is from whom it has to be: nobody forges in this world.
pub(super) fn check(topic: &Topic, bytes: &[u8]) {
    match topic.wrapping() {
        beehive_mqtt::codec::Wrapping::Plain => {}
        beehive_mqtt::codec::Wrapping::Envelope => {
            let right = writer(topic);
            let believe = |key: KeyId, message: &[u8], signature: &Signature| {
                if key == right.0 && right.sign(message) == *signature { Ok(()) } else { Err(Distrust::Forged) }
            };
            assert_eq!(verify(bytes, &topic.name(&crew()), believe), Ok(right.0));
        }
    }
}
