//! Envelope and sizes. Every message but telemetry and presence is an envelope `{"v":1,"body":"…"}`, where `body` is a
//! JSON *string* that holds the inner document's exact bytes: a later signature covers those bytes and needs no canonical
//! JSON. (Until then the fields `key` and `sig` are absent; a receiver ignores fields that it does not know.)
//!
//! The length is checked before anything is parsed, and `serde_json` stops at 128 levels of nesting, so that no message
//! can exhaust memory or stack. serde-json-core was tried and keeps escapes as they stand.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::PROTOCOL_VERSION;
use crate::text::Text;

/// How a payload travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// In an envelope, to be signed.
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
}

/// Room for the envelope's own fields, the later `key` and `sig` included.
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
                write!(f, "the {name} is of protocol version {version}; this program speaks version {PROTOCOL_VERSION}")
            }
            Self::Malformed { name, reason } => write!(f, "the {name} cannot be read: {reason}"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// Why a message cannot be written: it would be larger than its kind may be. A defect of the program that made it.
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
    body: &'a str,
}

#[derive(Deserialize)]
struct EnvelopeIn {
    body: String,
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

/// The bytes of `payload` on the wire.
///
/// # Errors
/// If it would be larger than its kind may be.
pub fn encode<P: Payload>(payload: &P) -> Result<Vec<u8>, EncodeError> {
    let fail =
        |reason: &dyn fmt::Display| EncodeError { name: P::NAME, reason: Text::format(format_args!("{reason}")) };
    let bytes = match P::WRAPPING {
        Wrapping::Plain => {
            serde_json::to_vec(&PlainOut { v: PROTOCOL_VERSION, payload }).map_err(|error| fail(&error))?
        }
        Wrapping::Envelope => {
            let body = serde_json::to_string(payload).map_err(|error| fail(&error))?;
            if body.len() > P::MAX_BODY_BYTES {
                return Err(fail(&format_args!("{} bytes, more than the {} allowed", body.len(), P::MAX_BODY_BYTES)));
            }
            serde_json::to_vec(&EnvelopeOut { v: PROTOCOL_VERSION, body: &body }).map_err(|error| fail(&error))?
        }
    };
    if bytes.len() > P::MAX_BYTES {
        return Err(fail(&format_args!("{} bytes, more than the {} allowed", bytes.len(), P::MAX_BYTES)));
    }
    Ok(bytes)
}

/// Reads `bytes` as a `P`. Fields that this version does not know are ignored.
///
/// # Errors
/// Says whether it is too large, of another version, or malformed.
pub fn decode<P: Payload>(bytes: &[u8]) -> Result<P, DecodeError> {
    if bytes.len() > P::MAX_BYTES {
        return Err(DecodeError::Oversized { name: P::NAME, bytes: bytes.len(), limit: P::MAX_BYTES });
    }
    let Version { v } = serde_json::from_slice(bytes).map_err(|error| malformed::<P>(&error))?;
    if v != u64::from(PROTOCOL_VERSION) {
        return Err(DecodeError::Version { name: P::NAME, version: v });
    }
    match P::WRAPPING {
        Wrapping::Plain => serde_json::from_slice(bytes).map_err(|error| malformed::<P>(&error)),
        Wrapping::Envelope => {
            let EnvelopeIn { body } = serde_json::from_slice(bytes).map_err(|error| malformed::<P>(&error))?;
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
        let error = decode::<ConsoleRequest>(br#"{"v":2,"body":"{}"}"#).unwrap_err();
        assert_eq!(error, DecodeError::Version { name: "console request", version: 2 });
        assert!(error.to_string().contains("version 2"));
    }
}
