//! A record and the line that holds it.

use beehive_mqtt::Signer;
use beehive_mqtt::sign::{KeyId, RecordHash, Signature};
use serde::{Deserialize, Serialize};

use super::MAX_LINE_BYTES;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// The coordinator began to write: after each start.
    Started {
        /// Its term.
        term: u64,
        /// The number of its session.
        session: u64,
        /// The version of beehive.
        version: String,
    },
    /// Somebody asked something, and this was the answer.
    Asked {
        /// Who.
        who: String,
        /// With which key.
        key: KeyId,
        /// The request's id.
        request: String,
        /// What was asked, in a few words.
        asked: String,
        /// The answer in one word.
        status: String,
        /// The rule or fault that the answer names.
        code: String,
        /// The operation that it is about.
        operation: Option<String>,
    },
    /// An operation began.
    Began {
        /// Which.
        operation: String,
        /// What it is, and who asked for it.
        detail: String,
    },
    /// An operation ended.
    Ended {
        /// Which.
        operation: String,
        /// What it was, and how it ended.
        detail: String,
    },
    /// The crew's manifest changed.
    Manifest {
        /// Its revision.
        revision: u64,
        /// Its term.
        term: u64,
    },
    /// A message was refused that somebody may have forged.
    Refused {
        /// Its topic.
        topic: String,
        /// Why.
        why: String,
        /// How many more of this kind were refused since the last such record, and are not recorded.
        more: u64,
    },
    /// The log ended in a torn line.
    Mended {
        /// The file in which it is kept.
        torn: String,
    },
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, from 1.
    pub number: u64,
    /// The hash of the line before it.
    pub before: RecordHash,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// The text of a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    key: KeyId,
    body: String,
    sig: Signature,
}

/// A line that was read.
pub(super) struct Read {
    pub(super) record: Record,
    pub(super) key: KeyId,
    /// What the signature covers.
    pub(super) signed: Vec<u8>,
    pub(super) signature: Signature,
}

/// What a signature covers.
fn signed(key: KeyId, body: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in ["beehive audit 1", &key.to_string(), body] {
        bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    bytes
}

impl Line {
    /// The line for a record, without its end.
    pub(super) fn sign(record: &Record, signer: &dyn Signer) -> String {
        // strings, numbers and options of them: writing them cannot fail
        let body = serde_json::to_string(record).unwrap_or_default();
        let key = signer.key();
        let sig = signer.sign(&signed(key, &body));
        serde_json::to_string(&Self { key, body, sig }).unwrap_or_default()
    }

    /// Reads a line. Its signature is not checked yet.
    pub(super) fn read(line: &str) -> Result<Read, String> {
        if line.len() > MAX_LINE_BYTES {
            return Err(format!("{} bytes, more than the {MAX_LINE_BYTES} that a line may have", line.len()));
        }
        let Self { key, body, sig } = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let record = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        Ok(Read { record, key, signed: signed(key, &body), signature: sig })
    }
}
