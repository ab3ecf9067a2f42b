//! What a Pi and the crew's owner say to each other: JSON documents over TCP, each preceded by its length as 32 bits, big-endian.
//!
//! ```text
//! owner → Pi  ask {nonce}            Pi → owner  request: crew, node, machine, public keys, nonce; signed with the card's key
//! owner → Pi  take {answer}          Pi → owner  taken: signed with the node's own new key; or refused {why}
//! ```
//!
//! The answer is signed with the crew's key over everything in it, the node's public keys among it, so that it fits this Pi
//! alone. What is signed is five parts, each preceded by its length: domain, kind, body.

use std::io;
use std::time::Duration;

use beehive_mqtt::sign::{ClientKey, Digest, PublicKey, SealKey, Signature, Signer as _, Verdict, Verifier as _};
use beehive_mqtt::{CrewName, NodeName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::crew::folder::BrokerFiles;
use crate::keys::{Ed25519, SignKey};

/// What stands before everything that is signed here, so that no signature of another protocol passes.
const DOMAIN: &[u8] = b"beehive enrolment 1";

/// The largest document that a Pi takes. The broker's files of a crew of 64 are some 120 KiB, the manifest 26; twice as much
/// does no harm, and four peers at once are the most.
pub const MAX_ASK_BYTES: usize = 384 * 1024;

/// The largest document that the owner takes: a request has less than 1 KiB.
pub const MAX_REPLY_BYTES: usize = 8 * 1024;

/// The longest text about a machine: /proc/device-tree has some 40 bytes.
const MAX_ABOUT_BYTES: usize = 96;

/// How long one exchange may take, whatever the peer does.
pub const EXCHANGE: Duration = Duration::from_secs(10);

/// Why a document is not believed or not read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Too large.
    #[error("it announces {bytes} bytes; {most} are the most")]
    Large {
        /// How many.
        bytes: usize,
        /// How many may be.
        most: usize,
    },
    /// No document.
    #[error("it is no such document: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Somebody else's signature.
    #[error("its signature is not the one of the {0}")]
    Forged(&'static str),
    /// Took too long.
    #[error("it took longer than {} s", EXCHANGE.as_secs())]
    Slow,
}

/// What is signed, and so by whose key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By the card's key.
    Request,
    /// By the crew's key.
    Answer,
    /// By the node's new key.
    Taken,
}

impl Kind {
    fn word(self) -> &'static [u8] {
        match self {
            Self::Request => b"request",
            Self::Answer => b"answer",
            Self::Taken => b"taken",
        }
    }

    fn signer(self) -> &'static str {
        match self {
            Self::Request => "card",
            Self::Answer => "crew",
            Self::Taken => "node",
        }
    }
}

/// A document with its signature. The body is the exact text that is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    body: String,
    sig: Signature,
}

fn message(kind: Kind, body: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [DOMAIN, kind.word(), body.as_bytes()] {
        // no body is as long as that
        bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

impl Signed {
    /// Signs `body`.
    ///
    /// # Errors
    /// If it is no document; ours are.
    pub fn new(kind: Kind, body: &impl Serialize, key: &SignKey) -> Result<Self, WireError> {
        let body = serde_json::to_string(body)?;
        let sig = key.sign(&message(kind, &body));
        Ok(Self { body, sig })
    }

    /// What is in it, if `key` signed it.
    ///
    /// # Errors
    /// If it did not, or it is something else.
    pub fn open<T: DeserializeOwned>(&self, kind: Kind, key: &PublicKey) -> Result<T, WireError> {
        match Ed25519.verify(key, &message(kind, &self.body), &self.sig) {
            Verdict::Good => Ok(serde_json::from_str(&self.body)?),
            Verdict::Bad => Err(WireError::Forged(kind.signer())),
        }
    }
}

/// A node's own public keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKeys {
    /// With which it signs.
    pub sign: PublicKey,
    /// To which secrets are sealed.
    pub seal: SealKey,
    /// For TLS.
    pub tls: ClientKey,
    /// The broker's for TLS, on the master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<ClientKey>,
}

/// What a Pi asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The crew that its card is of.
    pub crew: CrewName,
    /// The node that its card is of.
    pub node: NodeName,
    /// The Pi's serial number, if it has one.
    pub serial: Option<String>,
    /// What kind of Pi it is.
    pub model: Option<String>,
    /// Its keys.
    pub keys: PublicKeys,
    /// The asker's, so that it is no older one that is played again.
    pub nonce: Digest,
}

/// What the owner answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The crew.
    pub crew: CrewName,
    /// The node.
    pub node: NodeName,
    /// The keys that are certified.
    pub keys: PublicKeys,
    /// The manifest that names them, as the crew's key signed it.
    pub manifest: String,
    /// `tls.crt`.
    pub certificate: String,
    /// `ca.crt`.
    pub authority: String,
    /// On the master.
    pub broker: Option<BrokerFiles>,
}

/// That the node has its identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The node.
    pub node: NodeName,
    /// The card's public key.
    pub card: PublicKey,
}

/// What the owner says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Who are you?
    Who {
        /// Never used before.
        nonce: Digest,
    },
    /// Be that.
    Take {
        /// Signed with the crew's key.
        answer: Signed,
    },
}

/// What the Pi says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// This one.
    Request(Signed),
    /// It has its identity.
    Taken(Signed),
    /// It has not.
    Refused {
        /// Why.
        why: String,
    },
}

/// A text about the machine as it may stand in a log: short, printable.
pub fn about(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_ABOUT_BYTES).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Sends a document.
///
/// # Errors
/// If the peer does not take it in time.
pub async fn send(to: &mut (impl AsyncWrite + Unpin), document: &impl Serialize) -> Result<(), WireError> {
    let bytes = serde_json::to_vec(document)?;
    let mut framed = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    framed.extend(bytes);
    timeout(EXCHANGE, async {
        to.write_all(&framed).await?;
        to.flush().await
    })
    .await
    .map_err(|_| WireError::Slow)??;
    Ok(())
}

/// Reads a document of at most `most` bytes. Nothing is set aside for what is only announced.
///
/// # Errors
/// If it is too large, none, or does not come in time.
pub async fn receive<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin), most: usize) -> Result<T, WireError> {
    let read = async {
        let length = from.read_u32().await?;
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > most {
            return Err(WireError::Large { bytes, most });
        }
        let mut document = Vec::new();
        from.take(length.into()).read_to_end(&mut document).await?;
        if document.len() != bytes {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(serde_json::from_slice(&document)?)
    };
    timeout(EXCHANGE, read).await.map_err(|_| WireError::Slow)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_kind_and_body_alone() {
        let (key, other) = (SignKey::from_seed(&[1; 32]), SignKey::from_seed(&[2; 32]));
        let receipt = Receipt { node: "pi-1".parse().unwrap(), card: key.public() };
        let signed = Signed::new(Kind::Taken, &receipt, &key).unwrap();
        assert_eq!(signed.open::<Receipt>(Kind::Taken, &key.public()).unwrap(), receipt);
        for (kind, public) in [(Kind::Answer, key.public()), (Kind::Taken, other.public())] {
            assert!(matches!(signed.open::<Receipt>(kind, &public), Err(WireError::Forged(_))));
        }
        let altered = Signed { body: signed.body.replace("pi-1", "pi-2"), ..signed };
        assert!(matches!(altered.open::<Receipt>(Kind::Taken, &key.public()), Err(WireError::Forged(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_large_cut_short_or_slow_is_no_document() {
        let mut large = &[0xff, 0xff, 0xff, 0xff, b'{'][..];
        assert!(matches!(receive::<Ask>(&mut large, 100).await, Err(WireError::Large { most: 100, .. })));
        let mut cut = &[0, 0, 0, 9, b'{'][..];
        assert!(matches!(receive::<Ask>(&mut cut, 100).await, Err(WireError::Io(_))));
        let mut garbage = &[0, 0, 0, 2, b'{', b'}'][..];
        assert!(matches!(receive::<Ask>(&mut garbage, 100).await, Err(WireError::Syntax(_))));
        let (mut here, _there) = tokio::io::duplex(16);
        assert!(matches!(receive::<Ask>(&mut here, 100).await, Err(WireError::Slow)));
    }

    #[test]
    fn what_a_peer_says_of_itself_is_short_and_printable() {
        assert_eq!(about("10000000abcdef\0\n").as_deref(), Some("10000000abcdef"));
        assert_eq!(about("\u{1b}[31m\0").as_deref(), Some("[31m"));
        assert_eq!(about("\0"), None);
        assert_eq!(about(&"x".repeat(1000)).unwrap().len(), MAX_ABOUT_BYTES);
    }
}
