//! Envelope and sizes. Every message but telemetry and presence is an envelope
//! `{"v":2,"key":"…","body":"…","sig":"…"}`, where `body` is a JSON *string* that holds the inner document's exact bytes:
//! the signature covers those bytes and needs no canonical JSON ([`crate::sign`]). A receiver ignores fields that it does
//! not know.
//!
//! The length is checked before anything is parsed, and `serde_json` stops at 128 levels of nesting, so that no message
//! can exhaust memory or stack. The signature is checked before the inner document is parsed. serde-json-core was tried
//! and keeps escapes as they stand.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::sign::{Distrust, KeyId, Signature, Signer, signed_bytes};
use crate::text::Text;
use crate::version::ProtocolVersion;

/// How a payload travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// In an envelope, signed.
    Envelope,
    /// As it is: telemetry and presence (the broker publishes the last will, so it cannot be fresh anyway).
    Plain,
}

/// A document of this protocol.
pub trait Payload: Serialize + DeserializeOwned {
    /// What it is called in logs and errors.
    const NAME: &'static str;
    /// How it travels.
    const WRAPPING: Wrapping;
    /// The most bytes that the inner document may have. The broker's and the client's packet limits are above
    /// [`MAX_PACKET_BYTES`], which holds the largest of them.
    const MAX_BODY_BYTES: usize;
    /// The most bytes on the wire: an envelope escapes quotes and backslashes, which at most doubles the inner document.
    const MAX_BYTES: usize = match Self::WRAPPING {
        Wrapping::Envelope => 2 * Self::MAX_BODY_BYTES + ENVELOPE_BYTES,
        Wrapping::Plain => Self::MAX_BODY_BYTES,
    };

    /// The first version of the protocol that knows what this document says.
    fn since(&self) -> ProtocolVersion {
        ProtocolVersion::V1
    }
}

/// Room for the envelope's own fields: `key` and `sig` are 144 digits, the names and quotes some 40 characters.
pub const ENVELOPE_BYTES: usize = 256;

/// The largest packet of this protocol, its topic included. The client is set to it, the broker to it or above.
pub const MAX_PACKET_BYTES: usize = 128 * 1024;

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// More bytes than a message of this kind may have; not parsed.
    Oversized {
        /// The kind of message.
        name: &'static str,
        /// Its length on arrival.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Written for another version of the protocol.
    Version {
        /// The kind of message.
        name: &'static str,
        /// The version that it names.
        version: u64,
    },
    /// Not signed by whom it has to be.
    Distrusted {
        /// The kind of message.
        name: &'static str,
        /// Why it is not believed.
        why: Distrust,
    },
    /// No JSON, or not the fields that this kind has.
    Malformed {
        /// The kind of message.
        name: &'static str,
        /// What is wrong, from the parser.
        reason: Text<80>,
    },
}

impl DecodeError {
    /// A stable word for counters and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Oversized { .. } => "oversized",
            Self::Version { .. } => "unknown-version",
            Self::Distrusted { why, .. } => why.kind(),
            Self::Malformed { .. } => "malformed",
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oversized { name, bytes, limit } => {
                write!(f, "the {name} has {bytes} bytes, more than the {limit} that it may have")
            }
            Self::Version { name, version } => {
                let (before, current) = (ProtocolVersion::BEFORE, ProtocolVersion::CURRENT);
                write!(
                    f,
                    "the {name} is of protocol version {version}; this program speaks versions {before} to {current}"
                )
            }
            Self::Distrusted { name, why } => write!(f, "the {name} {why}"),
            Self::Malformed { name, reason } => write!(f, "the {name} cannot be read: {reason}"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// Why a message cannot be written: it would be larger than its kind may be, or the version does not know what it says. A
/// defect of the program that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodeError {
    /// The kind of message.
    pub name: &'static str,
    /// What is wrong.
    pub reason: Text<80>,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} cannot be written: {}", self.name, self.reason)
    }
}

impl core::error::Error for EncodeError {}

#[derive(Serialize)]
struct EnvelopeOut<'a> {
    v: u8,
    key: KeyId,
    body: &'a str,
    sig: Signature,
}

#[derive(Deserialize)]
struct EnvelopeIn {
    #[serde(default)]
    key: Option<KeyId>,
    body: String,
    #[serde(default)]
    sig: Option<Signature>,
}

#[derive(Serialize)]
struct PlainOut<'a, P> {
    v: u8,
    #[serde(flatten)]
    payload: &'a P,
}

#[derive(Deserialize)]
struct Version {
    v: u64,
}

fn malformed<P: Payload>(error: &serde_json::Error) -> DecodeError {
    DecodeError::Malformed { name: P::NAME, reason: Text::format(format_args!("{error}")) }
}

/// As [`encode_in`], in the current version: for whoever knows that every reader speaks it.
///
/// # Errors
/// If it would be larger than its kind may be.
pub fn encode<P: Payload>(payload: &P, topic: &str, signer: &dyn Signer) -> Result<Vec<u8>, EncodeError> {
    encode_in(ProtocolVersion::CURRENT, payload, topic, signer)
}

/// The bytes of `payload` on the wire at `topic` in a version of the protocol, signed where this kind of message is.
///
/// # Errors
/// If it would be larger than its kind may be, or says what that version does not know ([`Payload::since`]).
pub fn encode_in<P: Payload>(
    version: ProtocolVersion,
    payload: &P,
    topic: &str,
    signer: &dyn Signer,
) -> Result<Vec<u8>, EncodeError> {
    let fail =
        |reason: &dyn fmt::Display| EncodeError { name: P::NAME, reason: Text::format(format_args!("{reason}")) };
    if payload.since() > version {
        return Err(fail(&format_args!("version {version} does not know what it says, {} does", payload.since())));
    }
    let v = version.number();
    let bytes = match P::WRAPPING {
        Wrapping::Plain => serde_json::to_vec(&PlainOut { v, payload }).map_err(|error| fail(&error))?,
        Wrapping::Envelope => {
            let body = serde_json::to_string(payload).map_err(|error| fail(&error))?;
            if body.len() > P::MAX_BODY_BYTES {
                return Err(fail(&format_args!("{} bytes, more than the {} allowed", body.len(), P::MAX_BODY_BYTES)));
            }
            let key = signer.key();
            let sig = signer.sign(&signed_bytes(version, topic, key, &body));
            let envelope = EnvelopeOut { v, key, body: &body, sig };
            serde_json::to_vec(&envelope).map_err(|error| fail(&error))?
        }
    };
    if bytes.len() > P::MAX_BYTES {
        return Err(fail(&format_args!("{} bytes, more than the {} allowed", bytes.len(), P::MAX_BYTES)));
    }
    Ok(bytes)
}

/// An envelope that is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The key that signed it.
    pub key: KeyId,
    /// The version that it was written in.
    pub version: ProtocolVersion,
}

/// The version that a message was written in.
fn version_of(name: &'static str, bytes: &[u8]) -> Result<ProtocolVersion, DecodeError> {
    let Version { v } = serde_json::from_slice(bytes)
        .map_err(|error| DecodeError::Malformed { name, reason: Text::format(format_args!("{error}")) })?;
    ProtocolVersion::of(v).ok_or(DecodeError::Version { name, version: v })
}

/// The version that a message without an envelope was written in. Of one with an envelope [`verify`] says it.
///
/// # Errors
/// Says whether it is too large, of another version, or malformed.
pub fn written_in<P: Payload>(bytes: &[u8]) -> Result<ProtocolVersion, DecodeError> {
    if bytes.len() > P::MAX_BYTES {
        return Err(DecodeError::Oversized { name: P::NAME, bytes: bytes.len(), limit: P::MAX_BYTES });
    }
    version_of(P::NAME, bytes)
}

/// Checks who signed an envelope that arrived at `topic`, before its document is parsed, and says which key it was.
/// `believe` is given the key's id, what was signed, and the signature.
///
/// The length has to be checked already: this knows no kind and so no limit but [`MAX_PACKET_BYTES`].
///
/// # Errors
/// Says whether it is too large, of another version, no envelope, or not believed.
pub fn verify(
    bytes: &[u8],
    topic: &str,
    mut believe: impl FnMut(KeyId, &[u8], &Signature) -> Result<(), Distrust>,
) -> Result<Verified, DecodeError> {
    const NAME: &str = "message";
    if bytes.len() > MAX_PACKET_BYTES {
        return Err(DecodeError::Oversized { name: NAME, bytes: bytes.len(), limit: MAX_PACKET_BYTES });
    }
    let malformed =
        |error: serde_json::Error| DecodeError::Malformed { name: NAME, reason: Text::format(format_args!("{error}")) };
    let version = version_of(NAME, bytes)?;
    let EnvelopeIn { key, body, sig } = serde_json::from_slice(bytes).map_err(malformed)?;
    let distrusted = |why| DecodeError::Distrusted { name: NAME, why };
    let (Some(key), Some(sig)) = (key, sig) else { return Err(distrusted(Distrust::Unsigned)) };
    believe(key, &signed_bytes(version, topic, key, &body), &sig).map_err(distrusted)?;
    Ok(Verified { key, version })
}

/// Reads `bytes` as a `P`. Fields that this version does not know are ignored. **Whoever acts on it has had its signature
/// checked before** ([`verify`]; the link does that to everything that arrives).
///
/// # Errors
/// Says whether it is too large, of another version, or malformed.
pub fn decode<P: Payload>(bytes: &[u8]) -> Result<P, DecodeError> {
    written_in::<P>(bytes)?;
    match P::WRAPPING {
        Wrapping::Plain => serde_json::from_slice(bytes).map_err(|error| malformed::<P>(&error)),
        Wrapping::Envelope => {
            let EnvelopeIn { body, .. } = serde_json::from_slice(bytes).map_err(|error| malformed::<P>(&error))?;
            if body.len() > P::MAX_BODY_BYTES {
                return Err(DecodeError::Oversized { name: P::NAME, bytes: body.len(), limit: P::MAX_BODY_BYTES });
            }
            serde_json::from_str(&body).map_err(|error| malformed::<P>(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::ConsoleRequest;
    use crate::node::Presence;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn nesting_and_size_end_in_an_error() {
        let deep = "[".repeat(1000);
        assert_eq!(decode::<Presence>(deep.as_bytes()).unwrap_err().kind(), "oversized");
        let deep = std::format!(r#"{{"v":1,"body":{}"#, "[".repeat(200));
        assert_eq!(decode::<ConsoleRequest>(deep.as_bytes()).unwrap_err().kind(), "malformed");
        let huge = std::vec![b'['; 1 << 20];
        assert_eq!(decode::<ConsoleRequest>(&huge).unwrap_err().kind(), "oversized");
    }

    #[test]
    fn another_version_is_named() {
        let error = decode::<ConsoleRequest>(br#"{"v":3,"body":"{}"}"#).unwrap_err();
        assert_eq!(error, DecodeError::Version { name: "console request", version: 3 });
        assert!(error.to_string().contains("version 3"));
    }

    struct Named(KeyId);

    impl Signer for Named {
        fn key(&self) -> KeyId {
            self.0
        }

        fn sign(&self, message: &[u8]) -> Signature {
            let mut bytes = [0; 64];
            for (at, byte) in message.iter().enumerate() {
                bytes[at % 64] ^= byte.rotate_left(u32::try_from(at % 7).unwrap());
            }
            Signature(bytes)
        }
    }

    fn request() -> ConsoleRequest {
        let ask = crate::console::Ask::Abort;
        let (id, nonce) = ("r1".parse().unwrap(), "s1".parse().unwrap());
        ConsoleRequest { id, nonce, mode: crate::console::Mode::Execute, ask }
    }

    #[test]
    fn what_is_believed_is_exactly_what_was_signed_and_before_it_is_parsed() {
        let signer = Named(KeyId([7; 8]));
        let bytes = encode(&request(), "t", &signer).unwrap();
        let check = |key: KeyId, message: &[u8], sig: &Signature| {
            if Named(key).sign(message) == *sig { Ok(()) } else { Err(Distrust::Forged) }
        };
        let current = Verified { key: KeyId([7; 8]), version: ProtocolVersion::CURRENT };
        assert_eq!(verify(&bytes, "t", check), Ok(current));
        let before = encode_in(ProtocolVersion::BEFORE, &request(), "t", &signer).unwrap();
        assert_eq!(verify(&before, "t", check), Ok(Verified { version: ProtocolVersion::BEFORE, ..current }));
        assert_eq!(decode::<ConsoleRequest>(&bytes), Ok(request()));
        let forged = |bytes: &[u8], topic: &str| verify(bytes, topic, check).unwrap_err().kind();
        assert_eq!(forged(&bytes, "u"), "forged");
        let text = std::string::String::from_utf8(bytes).unwrap();
        // nobody can take a message for one of another version
        assert_eq!(forged(text.replacen("\"v\":2", "\"v\":1", 1).as_bytes(), "t"), "forged");
        assert_eq!(forged(text.replace("r1", "r2").as_bytes(), "t"), "forged");
        assert_eq!(forged(text.replace("0707", "0807").as_bytes(), "t"), "forged");
        // a body that is no document is not looked at
        assert_eq!(forged(br#"{"v":1,"body":"{"}"#, "t"), "unsigned");
        assert_eq!(forged(text.replace("abort", "bogus").as_bytes(), "t"), "forged");
        // fields of a later version are no obstacle
        let later = text.replacen('{', r#"{"hops":3,"#, 1);
        assert!(verify(later.as_bytes(), "t", check).is_ok());
        let huge = std::vec![b'['; 1 << 20];
        assert_eq!(forged(&huge, "t"), "oversized");
        let deep = std::format!(r#"{{"v":1,"body":{}"#, "[".repeat(100_000));
        assert_eq!(forged(deep.as_bytes(), "t"), "malformed");
    }
}
