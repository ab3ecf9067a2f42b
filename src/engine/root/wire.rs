//! What is said between the daemon and the root unit, over a local socket: one request and one answer on each connection.
//!
//! A frame is its length in bytes (four bytes, big-endian) and that many bytes. The request is one frame of JSON, an
//! [`Ask`]; the answer is one frame of JSON, a [`Reply`], and after [`Outcome::Access`] a second frame with the
//! kubeconfig as it is. After its request the asker may send the one byte [`TAKE_BACK`].
//!
//! What each field admits is a type here, so that nothing else gets as far as an engine:
//!
//! | field | admits |
//! | --- | --- |
//! | `v` | [`VERSION`] |
//! | `release` | [`Release`]: 1 to 32 of `A-Z a-z 0-9 . + -`, a letter or digit first |
//! | the verb | one word of [`Verb`] |
//! | `cluster` | a [`ClusterId`]: 1 to 32 of `a-z 0-9 -`, no hyphen at an end |
//! | `server` | [`Server`]: a host's name or an IP address (IPv6 in brackets where a port follows), perhaps with `:PORT`; 128 bytes at most |
//! | `version` | [`Version`]: nothing, or 1 to 32 of `A-Z a-z 0-9 . + - _`, a letter or digit first, no `..` |
//! | `credential` | [`Credential`]: 1 to 256 of `A-Z a-z 0-9 . : _ -` and single blanks between, a letter or digit first |
//! | `generation` | a whole number from 0 to 4294967295 |
//!
//! A key that is not known is refused, and so is a key that is missing. No field is a path, a flag or a line for a shell.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use beehive_cluster::kube::JoinCredential;
use beehive_mqtt::command::MAX_SECRET_BYTES;
use beehive_mqtt::node::{EngineRun, EngineState};
use beehive_mqtt::{ClusterId, Text};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::engine::{EngineDone, EngineError, EngineWork, Half};

/// The version of what is said here. It grows with each change that the other side could not read.
pub const VERSION: u16 = 1;

/// The longest request: a join with everything at its longest takes less than half of it.
pub const MAX_ASK_BYTES: usize = 2 * 1024;
/// The longest answer: the longest reason, each character of it escaped, and what is around it.
pub const MAX_REPLY_BYTES: usize = 32 * 1024;
/// The longest kubeconfig. One of kubeadm with three embedded certificates has 6 KiB.
pub const MAX_ACCESS_BYTES: usize = 64 * 1024;
/// The most of a reason or detail; the agent takes far less, the log takes this.
pub const MAX_TEXT_BYTES: usize = 4 * 1024;
/// The longest stable word.
pub const MAX_WORD_BYTES: usize = 32;

/// Sent after a request, it takes the request back: what waits is not begun, what runs is dropped where it is.
pub const TAKE_BACK: u8 = b'!';

/// A text that is not what its field admits. The text itself is never shown: it may be secret, and it is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not as it has to be: {admits}")]
pub struct NotAdmitted {
    /// The field.
    pub what: &'static str,
    /// What it admits.
    pub admits: &'static str,
}

/// A field of text: checked when it is made and when it arrives.
macro_rules! field {
    ($(#[$doc:meta])* $name:ident, $what:literal, $admits:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(Zeroizing<String>);

        impl $name {
            /// Checks a text.
            ///
            /// # Errors
            /// If it is not what the field admits.
            pub fn new(text: &str) -> Result<Self, NotAdmitted> {
                if $check(text) {
                    Ok(Self(Zeroizing::new(text.to_owned())))
                } else {
                    Err(NotAdmitted { what: $what, admits: $admits })
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Checked;
                impl Visitor<'_> for Checked {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!($what, ": ", $admits))
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Checked)
            }
        }
    };
}

field!(
    /// The version of the program that asks or answers, so that a root unit of another release makes room for its own.
    Release,
    "release",
    "1 to 32 of A-Z a-z 0-9 . + -, a letter or digit first",
    is_release
);
field!(
    /// The control plane's address.
    Server,
    "server",
    "a host's name or an IP address, perhaps with :PORT, 128 bytes at most",
    is_server
);
field!(
    /// An engine's version; empty means the one that is installed.
    Version,
    "version",
    "nothing, or 1 to 32 of A-Z a-z 0-9 . + - _, a letter or digit first, no two dots together",
    is_version
);
field!(
    /// What lets this Pi in, once. `Debug` hides it; it is overwritten when it is dropped. What it may hold needs no escape
    /// in JSON, so no parser makes a copy of it.
    Credential,
    "credential",
    "1 to 256 of A-Z a-z 0-9 . : _ - and single blanks between, a letter or digit first",
    is_credential
);

macro_rules! shown {
    ($($name:ident),*) => { $(impl fmt::Debug for $name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:?}", self.as_str()) }
    })* };
}
shown!(Release, Server, Version);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// 1 to `most` bytes, a letter or digit first, the rest letters, digits and `others`.
fn is_word(text: &str, most: usize, others: &[u8]) -> bool {
    (1..=most).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

fn is_release(text: &str) -> bool {
    is_word(text, 32, b".+-")
}

fn is_version(text: &str) -> bool {
    text.is_empty() || (is_word(text, 32, b".+-_") && !text.contains(".."))
}

fn is_credential(text: &str) -> bool {
    is_word(text, MAX_SECRET_BYTES, b".:_- ") && !text.contains("  ") && !text.ends_with(' ')
}

fn is_server(text: &str) -> bool {
    if text.len() > 128 {
        return false;
    }
    if text.parse::<IpAddr>().is_ok() {
        return true;
    }
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return false };
        let port = after.is_empty() || after.strip_prefix(':').is_some_and(is_port);
        return address.parse::<Ipv6Addr>().is_ok() && port;
    }
    match text.split_once(':') {
        Some((host, port)) => is_host(host) && is_port(port),
        None => is_host(text),
    }
}

/// A port without a sign and leading noughts, which `u16::from_str` would take.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0') && text.parse::<u16>().is_ok()
}

/// As in RFC 1123.
fn is_host(text: &str) -> bool {
    text.split('.').all(|label| is_word(label, 63, b"-") && !label.ends_with('-'))
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// [`VERSION`].
    pub v: u16,
    /// The asker's release.
    pub release: Release,
    /// What is asked.
    #[serde(rename = "do")]
    pub verb: Verb,
}

/// What the root unit can be asked. Each names *what*; how it is done is the engine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verb {
    /// How the engine stands, as last known. It waits for nothing.
    State,
    /// How it stands now ([`Engine::look`](crate::engine::Engine::look)). It waits for its turn.
    Look,
    /// What opens the API server of this control plane. It waits for no step.
    Access,
    /// [`EngineWork::Initialise`]
    Initialise {
        /// The cluster's id.
        cluster: ClusterId,
        /// The wanted version.
        version: Version,
    },
    /// [`EngineWork::Join`]
    Join {
        /// Which cluster.
        cluster: ClusterId,
        /// Its control plane.
        server: Server,
        /// The wanted version.
        version: Version,
        /// What lets this Pi in.
        credential: Credential,
    },
    /// [`EngineWork::Stop`]
    Stop,
    /// [`EngineWork::Start`]
    Start,
    /// [`EngineWork::Reset`]
    Reset,
    /// [`EngineWork::Snapshot`]
    Snapshot,
    /// The control plane's state is put back from the copy of that number ([`Engine::restore`](crate::engine::Engine::restore)).
    Restore {
        /// Which.
        generation: u32,
    },
    /// The same from the newest copy.
    RestoreNewest,
    /// [`EngineWork::AddOns`]
    AddOns,
    /// [`EngineWork::Upgrade`]
    Upgrade {
        /// To which version.
        version: Version,
    },
}

/// What a verb means on this side of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// [`Verb::State`]
    State,
    /// [`Verb::Access`]
    Access,
    /// A step, which waits for its turn.
    Step(Step),
}

/// What waits for its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A piece of work.
    Work(EngineWork),
    /// A copy of the cluster's state is put back: that one or the newest.
    Restore(Option<u32>),
    /// [`Verb::Look`]
    Look,
}

impl Step {
    /// The word for the log.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Work(work) => work.verb().as_str(),
            Self::Restore(_) => "restore",
            Self::Look => "look",
        }
    }
}

impl Verb {
    /// As an engine is told.
    ///
    /// # Errors
    /// If the credential is longer than one can be, which its type excludes.
    pub fn asked(self) -> Result<Asked, NotAdmitted> {
        let version = |version: Version| Text::cut(version.as_str());
        Ok(Asked::Step(Step::Work(match self {
            Self::State => return Ok(Asked::State),
            Self::Access => return Ok(Asked::Access),
            Self::Look => return Ok(Asked::Step(Step::Look)),
            Self::Restore { generation } => return Ok(Asked::Step(Step::Restore(Some(generation)))),
            Self::RestoreNewest => return Ok(Asked::Step(Step::Restore(None))),
            Self::Initialise { cluster, version: wanted } => {
                EngineWork::Initialise { cluster, version: version(wanted) }
            }
            Self::Join { cluster, server, version: wanted, credential } => {
                let too_long = NotAdmitted { what: "credential", admits: "256 bytes at most" };
                EngineWork::Join {
                    cluster,
                    server: Text::cut(server.as_str()),
                    version: version(wanted),
                    credential: JoinCredential::new(credential.as_str()).ok_or(too_long)?,
                }
            }
            Self::Stop => EngineWork::Stop,
            Self::Start => EngineWork::Start,
            Self::Reset => EngineWork::Reset,
            Self::Snapshot => EngineWork::Snapshot,
            Self::AddOns => EngineWork::AddOns,
            Self::Upgrade { version: wanted } => EngineWork::Upgrade { version: version(wanted) },
        })))
    }

    /// As the daemon asks for a piece of work.
    ///
    /// # Errors
    /// If a field holds what the root unit would not admit.
    pub fn of(work: &EngineWork) -> Result<Self, NotAdmitted> {
        Ok(match work {
            EngineWork::Initialise { cluster, version } => {
                Self::Initialise { cluster: cluster.clone(), version: Version::new(version.as_str())? }
            }
            EngineWork::Join { cluster, server, version, credential } => Self::Join {
                cluster: cluster.clone(),
                server: Server::new(server.as_str())?,
                version: Version::new(version.as_str())?,
                credential: Credential::new(credential.reveal())?,
            },
            EngineWork::Stop => Self::Stop,
            EngineWork::Start => Self::Start,
            EngineWork::Reset => Self::Reset,
            EngineWork::Snapshot => Self::Snapshot,
            EngineWork::AddOns => Self::AddOns,
            EngineWork::Upgrade { version } => Self::Upgrade { version: Version::new(version.as_str())? },
        })
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// [`VERSION`].
    pub v: u16,
    /// The root unit's release.
    pub release: Release,
    /// How the engine stands after what was done. None where the asker may not know.
    pub standing: Option<Standing>,
    /// What came of it.
    pub outcome: Outcome,
}

/// How the engine stands, and when that was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// How.
    pub state: EngineState,
    /// When, in nanoseconds of the kernel's monotonic clock: two answers on two connections may overtake each other.
    pub at_ns: u64,
}

impl Standing {
    /// That state, now.
    pub fn now(state: EngineState) -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
        Self { state, at_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds) }
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// The state alone was asked for.
    State,
    /// The step is done.
    Done {
        /// [`EngineDone::code`]
        code: Word,
        /// [`EngineDone::detail`]
        detail: Said,
    },
    /// The step failed.
    Failed {
        /// [`EngineError::code`]
        code: Word,
        /// [`EngineError::reason`]
        reason: Said,
        /// [`EngineError::half`]
        half: WireHalf,
    },
    /// What opens the API server follows in a frame of its own, unless there is nothing to open.
    Access {
        /// Whether it follows.
        kubeconfig: Follows,
    },
    /// Nothing was begun.
    Refused {
        /// Why.
        code: Refusal,
        /// The same as a sentence.
        reason: Said,
    },
}

/// Whether a frame follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Follows {
    /// It does.
    Next,
    /// It does not.
    Nothing,
}

/// [`Half`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WireHalf {
    /// [`Half::Clean`]
    Clean,
    /// [`Half::HalfDone`]
    HalfDone,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The asker is neither root nor the daemon's user.
    NotAllowed,
    /// Too many are waiting or connected.
    Busy,
    /// No request came in time.
    TooSlow,
    /// A frame longer than [`MAX_ASK_BYTES`], or an empty one.
    Length,
    /// Another [`VERSION`].
    OtherVersion,
    /// It is no request, or a field holds what it does not admit.
    BadRequest,
    /// The root unit is ending.
    Ending,
}

impl Refusal {
    /// The word for the log and for [`EngineError::code`].
    pub fn word(self) -> &'static str {
        match self {
            Self::NotAllowed => "not-allowed",
            Self::Busy => "busy",
            Self::TooSlow => "too-slow",
            Self::Length => "length",
            Self::OtherVersion => "other-version",
            Self::BadRequest => "bad-request",
            Self::Ending => "ending",
        }
    }
}

/// A stable word: 1 to [`MAX_WORD_BYTES`] of `a-z 0-9 -`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Word(String);

impl Word {
    /// Takes a word, or `engine` where it is none.
    pub fn cut(word: &str) -> Self {
        Self(if is_stable(word) { word.to_owned() } else { "engine".to_owned() })
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_stable(word: &str) -> bool {
    (1..=MAX_WORD_BYTES).contains(&word.len())
        && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        if is_stable(&word) { Ok(Self(word)) } else { Err(D::Error::custom("no stable word")) }
    }
}

/// A text for people, of [`MAX_TEXT_BYTES`] at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Said(String);

impl Said {
    /// Takes a text; what is too long loses its middle: a sentence begins with what happened, and programs end with why.
    pub fn cut(text: &str) -> Self {
        if text.len() <= MAX_TEXT_BYTES {
            return Self(text.to_owned());
        }
        let half = MAX_TEXT_BYTES / 2 - 4;
        let head = (0..=half).rev().find_map(|at| text.get(..at)).unwrap_or_default();
        let tail = (text.len() - half..=text.len()).find_map(|at| text.get(at..)).unwrap_or_default();
        Self(format!("{head} … {tail}"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Said {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() <= MAX_TEXT_BYTES { Ok(Self(text)) } else { Err(D::Error::custom("too long")) }
    }
}

impl From<Result<EngineDone, EngineError>> for Outcome {
    fn from(ended: Result<EngineDone, EngineError>) -> Self {
        match ended {
            Ok(done) => Self::Done { code: Word::cut(done.code), detail: Said::cut(&done.detail) },
            Err(error) => Self::Failed {
                code: Word::cut(error.code),
                reason: Said::cut(&error.reason),
                half: match error.half {
                    Half::Clean => WireHalf::Clean,
                    Half::HalfDone => WireHalf::HalfDone,
                },
            },
        }
    }
}

impl From<WireHalf> for Half {
    fn from(half: WireHalf) -> Self {
        match half {
            WireHalf::Clean => Self::Clean,
            WireHalf::HalfDone => Self::HalfDone,
        }
    }
}

/// How an engine stands that nobody has heard of.
pub(super) fn nothing_known() -> EngineState {
    EngineState { cluster: None, run: EngineRun::Stopped, version: Text::new() }
}

/// This program's release.
pub(super) fn own_release() -> Release {
    // a package's version is a word of that kind; were it not, every release would be the same one
    Release::new(env!("CARGO_PKG_VERSION")).unwrap_or_else(|_| Release(Zeroizing::new("0".to_owned())))
}

/// Reads a request's bytes.
///
/// # Errors
/// If it is none. Where and which kind is told, never what stands there.
pub fn parse_ask(bytes: &[u8]) -> Result<Ask, (Refusal, String)> {
    /// Read before anything else, so that another version is named as such.
    #[derive(Deserialize)]
    struct Versioned {
        v: u16,
    }
    let bad = |error: &serde_json::Error| {
        let kind = match error.classify() {
            serde_json::error::Category::Data => "a key is missing or unknown, or a field holds what it does not admit",
            serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof
            | serde_json::error::Category::Io => "this is no JSON",
        };
        (Refusal::BadRequest, format!("{kind}, at byte {}", error.column()))
    };
    let Versioned { v } = serde_json::from_slice(bytes).map_err(|error| bad(&error))?;
    if v != VERSION {
        let reason =
            format!("the request is of version {v}, this root unit speaks {VERSION}; restart both after an upgrade");
        return Err((Refusal::OtherVersion, reason));
    }
    serde_json::from_slice(bytes).map_err(|error| bad(&error))
}

/// Why a frame did not come.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side ended.
    #[error("the other side ended before a whole frame was there")]
    Ended,
    /// Its length is nothing or beyond the limit.
    #[error("a frame of {0} bytes")]
    Length(u32),
    /// The socket failed.
    #[error("{0}")]
    Io(std::io::Error),
}

impl From<std::io::Error> for FrameError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => Self::Ended,
            _ => Self::Io(error),
        }
    }
}

/// Reads one frame of `most` bytes at most. It is overwritten when it is dropped.
///
/// # Errors
/// If none comes, or a longer one.
pub async fn read_frame(from: &mut (impl AsyncRead + Unpin), most: usize) -> Result<Zeroizing<Vec<u8>>, FrameError> {
    let length = from.read_u32().await?;
    match usize::try_from(length) {
        Ok(bytes @ 1..) if bytes <= most => {
            let mut frame = Zeroizing::new(vec![0; bytes]);
            from.read_exact(&mut frame).await?;
            Ok(frame)
        }
        Ok(_) | Err(_) => Err(FrameError::Length(length)),
    }
}

/// Writes one frame.
///
/// # Errors
/// If the socket fails, or it is longer than a frame can be.
pub async fn write_frame(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    to.write_all(&length.to_be_bytes()).await?;
    to.write_all(bytes).await?;
    to.flush().await
}

/// `message` as JSON in one buffer of `most` bytes, which is overwritten when it is dropped and never moved while it grows.
///
/// # Errors
/// If it does not fit.
pub fn to_bytes(message: &impl Serialize, most: usize) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    struct Bounded<'a> {
        bytes: &'a mut Vec<u8>,
        most: usize,
    }
    impl std::io::Write for Bounded<'_> {
        fn write(&mut self, more: &[u8]) -> std::io::Result<usize> {
            if self.bytes.len() + more.len() > self.most {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.bytes.extend_from_slice(more);
            Ok(more.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(most));
    serde_json::to_writer(Bounded { bytes: &mut bytes, most }, message)?;
    Ok(bytes)
}
