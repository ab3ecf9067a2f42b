//! Signatures: what is signed, by whom a topic may be written, and the traits behind which the cryptography lies.
//!
//! Every message but telemetry and presence is an envelope `{"v":2,"key":"…","body":"…","sig":"…"}`. The signature is
//! Ed25519 (RFC 8032, strict verification) over five parts, each preceded by its length as 32 bits, big-endian: a domain,
//! the message's protocol version, the key's id, the full topic, the body. Binding the topic stops a message of one node from
//! being played to another; the body is the exact bytes of the inner document, so no canonical JSON is needed.
//!
//! A key's id is the first eight bytes of the SHA-256 of the public key. It only says which key to try: what counts is
//! the key that the crew's [manifest](crate::manifest) names for the topic's [`Writer`].
//!
//! The algorithms are not here: [`Signer`] and [`Verifier`] are implemented by the program with Ed25519, and by
//! simulations with something faster.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;

use crate::id::{NodeName, UserName};
use crate::topic::Topic;
use crate::version::ProtocolVersion;

/// What stands before everything that is signed, so that no other protocol's signature passes here.
const DOMAIN: &[u8] = b"beehive";

/// Why a text is not bytes in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HexError {
    /// How many bytes were wanted.
    pub bytes: usize,
}

impl fmt::Display for HexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "is not {} lower-case hexadecimal digits", 2 * self.bytes)
    }
}

impl core::error::Error for HexError {}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let wrong = HexError { bytes: N };
    if text.len() != 2 * N {
        return Err(wrong);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(wrong) };
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

macro_rules! bytes {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $length]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // two digits at a time through the formatter are a tenth of what a message costs
                let mut text = [0; 2 * $length];
                for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
                    pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
                }
                f.write_str(core::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = HexError;
            fn from_str(text: &str) -> Result<Self, HexError> {
                from_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} hexadecimal digits", 2 * $length)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(|error| E::custom(format_args!(concat!("the ", stringify!($name), " {}"), error)))
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

bytes!(
    /// Which key signed: the first eight bytes of the SHA-256 of the public key.
    KeyId, 8
);
bytes!(
    /// An Ed25519 public key.
    PublicKey, 32
);
bytes!(
    /// An X25519 public key, to which a secret is sealed.
    SealKey, 32
);
bytes!(
    /// What a request or command asks, in short: the first sixteen bytes of a SHA-256. The same id with another digest is
    /// not a repeat.
    Digest, 16
);
bytes!(
    /// An Ed25519 signature.
    Signature, 64
);

bytes!(
    /// A public key on the curve P-256, uncompressed (SEC 1): one that a cluster's authority certifies.
    ClientKey, 65
);
bytes!(
    /// An ECDSA signature on the curve P-256 with SHA-256: two numbers of 32 bytes, big-endian.
    ClientProof, 64
);

bytes!(
    /// The SHA-256 of a line of the coordinator's audit log.
    RecordHash, 32
);

/// The parts, each preceded by its length as 32 bits, big-endian: what is bound to them is bound to nothing that reads alike.
pub(crate) fn lengths_before(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        // ids and keys are short
        bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(*part);
    }
    bytes
}

impl RecordHash {
    /// Of a line, without its end.
    pub fn of(line: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(&<Sha256 as sha2::Digest>::digest(line));
        Self(hash)
    }
}

impl Digest {
    /// The digest of what is asked, in its exact bytes on the wire.
    pub(crate) fn of(asked: &impl Serialize) -> Self {
        // what serialises for the wire serialises here; nothing of it has a map with other keys than strings
        let bytes = serde_json::to_vec(asked).unwrap_or_default();
        let hash = <Sha256 as sha2::Digest>::digest(&bytes);
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash[..16]);
        Self(digest)
    }
}

impl PublicKey {
    /// The key's id.
    pub fn id(&self) -> KeyId {
        let digest = <Sha256 as sha2::Digest>::digest(self.0);
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        KeyId(id)
    }
}

/// Signs with one key.
pub trait Signer {
    /// The key's id.
    fn key(&self) -> KeyId;

    /// The signature over `message`.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// Checks signatures.
pub trait Verifier {
    /// Whether `signature` is `key`'s over `message`.
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> Verdict;
}

/// What became of a signature's check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Good,
    /// It does not.
    Bad,
}

/// What is signed of a message that is written in `version`.
pub fn signed_bytes(version: ProtocolVersion, topic: &str, key: KeyId, body: &str) -> Vec<u8> {
    let version = [b'0' + version.number()];
    let mut bytes = Vec::with_capacity(DOMAIN.len() + 1 + 8 + topic.len() + body.len() + 5 * 4);
    for part in [DOMAIN, &version, &key.0, topic.as_bytes(), body.as_bytes()] {
        // a part is a message's body at most, which is far below 4 GiB
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// Whose signature a topic's messages need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer<'a> {
    /// This node.
    Node(&'a NodeName),
    /// The node that the manifest names as coordinator.
    Coordinator,
    /// This user.
    User(&'a UserName),
    /// The crew's own key, which is kept offline.
    Crew,
}

impl Topic {
    /// Whose signature its messages need.
    pub fn writer(&self) -> Writer<'_> {
        match self {
            Self::Presence(node)
            | Self::State(node)
            | Self::Info(node)
            | Self::Telemetry(node)
            | Self::Event(node)
            | Self::Request(node)
            | Self::Result(node) => Writer::Node(node),
            Self::Command(_)
            | Self::CoordinatorPresence
            | Self::CoordinatorState
            | Self::Operation(_)
            | Self::OperationNode(..)
            | Self::CoordinatorEvent
            | Self::ConsoleResponse(_) => Writer::Coordinator,
            Self::ConsoleRequest(user) | Self::Direct(user, _) => Writer::User(user),
            Self::Manifest => Writer::Crew,
        }
    }
}

/// Why a message is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// It bears no signature.
    Unsigned,
    /// The key that signed it is not the one that may write this topic, or nobody in the manifest may.
    WrongKey,
    /// The signature does not hold: the message or its topic was altered.
    Forged,
}

impl Distrust {
    /// A stable word for counters, logs and answers.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::WrongKey => "wrong-key",
            Self::Forged => "forged",
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsigned => "bears no signature",
            Self::WrongKey => "is signed with a key that may not write this topic",
            Self::Forged => "has a signature that does not hold",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn hexadecimal_is_read_back_and_nothing_else_is_read() {
        let key = PublicKey([0xab; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), key);
        for text in ["", "ab", &"AB".repeat(32), &"zz".repeat(32), &"ab".repeat(33), &"é".repeat(32)] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_part_is_bound_and_none_can_flow_into_the_next() {
        let key = KeyId([1; 8]);
        let of = |topic, key, body| signed_bytes(ProtocolVersion::V1, topic, key, body);
        let one = of("a/b", key, "{}");
        assert_ne!(one, of("a/", key, "b{}"));
        assert_ne!(one, of("a/c", key, "{}"));
        assert_ne!(one, of("a/b", KeyId([2; 8]), "{}"));
        assert_ne!(one, of("a/b", key, "{ }"));
        // pinned: another program has to make the same bytes
        let pinned = b"\0\0\0\x07beehive\0\0\0\x011\0\0\0\x08\x01\x01\x01\x01\x01\x01\x01\x01\0\0\0\x03a/b\0\0\0\x02{}";
        assert_eq!(one, pinned);
        // and the version is one of the parts
        let pinned = b"\0\0\0\x07beehive\0\0\0\x012\0\0\0\x08\x01\x01\x01\x01\x01\x01\x01\x01\0\0\0\x03a/b\0\0\0\x02{}";
        assert_eq!(signed_bytes(ProtocolVersion::V2, "a/b", key, "{}"), pinned);
    }

    #[test]
    fn the_id_is_of_the_public_key() {
        // sha256sum of 32 zero bytes begins with 66687aadf862bd77
        assert_eq!(PublicKey([0; 32]).id().to_string(), "66687aadf862bd77");
    }
}
