//! Messages that change nothing, counted by kind and logged once a kind and minute, so that a flood of them costs a
//! counter and not the disk.

use beehive_mqtt::codec::{DecodeError, Payload};
use beehive_mqtt::command::Command;
use beehive_mqtt::console::{ConsoleRequest, ConsoleResponse};
use beehive_mqtt::coordinator::{CoordinatorEvent, CoordinatorState, OperationNode, OperationSummary};
use beehive_mqtt::direct::DirectRequest;
use beehive_mqtt::node::{CommandResult, NodeEvent, NodeInfo, NodeRequest, NodeState, Presence, Refused, Telemetry};
use beehive_mqtt::topic::Retention;
use beehive_mqtt::{CrewName, Manifest, Topic, TopicError};
use std::fmt;
use std::time::{Duration, Instant};

/// One line a kind in this time.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The longest part of a stranger's text that goes to the log, in characters.
const LOGGED_CHARACTERS: usize = 120;

/// The kinds of refused messages, as [`Refused`] counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedKind {
    /// No JSON, or wrong fields.
    Malformed,
    /// Longer than allowed.
    Oversized,
    /// Another protocol version.
    UnknownVersion,
    /// A command, request or event that the broker had kept.
    Retained,
    /// Another crew's, or a topic that is not ours.
    Foreign,
    /// Not signed by whom it had to be.
    Untrusted,
}

impl RefusedKind {
    /// A stable word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::UnknownVersion => "unknown-version",
            Self::Retained => "retained",
            Self::Foreign => "foreign",
            Self::Untrusted => "untrusted",
        }
    }
}

impl From<&DecodeError> for RefusedKind {
    fn from(error: &DecodeError) -> Self {
        match error {
            DecodeError::Oversized { .. } => Self::Oversized,
            DecodeError::Version { .. } => Self::UnknownVersion,
            DecodeError::Malformed { .. } => Self::Malformed,
            DecodeError::Distrusted { .. } => Self::Untrusted,
        }
    }
}

/// Why the link did not pass a message on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its topic is not one of this crew and protocol version.
    Topic(TopicError),
    /// The broker had kept it, and its topic is one whose messages pass once.
    Retained,
    /// It is longer than a message of its topic may be.
    Oversized {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Its envelope cannot be read, or is not signed by whom it has to be.
    Envelope(DecodeError),
}

impl Refusal {
    /// How it is counted.
    pub fn kind(&self) -> RefusedKind {
        match self {
            Self::Topic(_) => RefusedKind::Foreign,
            Self::Retained => RefusedKind::Retained,
            Self::Oversized { .. } => RefusedKind::Oversized,
            Self::Envelope(error) => error.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(error) => write!(f, "{error}"),
            Self::Retained => {
                f.write_str("the broker had kept it, but messages of this topic are never retained; clear it there")
            }
            Self::Envelope(error) => write!(f, "{error}"),
            Self::Oversized { bytes, limit } => {
                write!(f, "it has {bytes} bytes, more than the {limit} that a message of this topic may have")
            }
        }
    }
}

/// The most bytes that a message of `topic` may have on the wire.
fn limit_bytes(topic: &Topic) -> usize {
    match topic {
        Topic::Presence(_) | Topic::CoordinatorPresence => Presence::MAX_BYTES,
        Topic::State(_) => NodeState::MAX_BYTES,
        Topic::Info(_) => NodeInfo::MAX_BYTES,
        Topic::Telemetry(_) => Telemetry::MAX_BYTES,
        Topic::Event(_) => NodeEvent::MAX_BYTES,
        Topic::Request(_) => NodeRequest::MAX_BYTES,
        Topic::Result(_) => CommandResult::MAX_BYTES,
        Topic::Command(_) => Command::MAX_BYTES,
        Topic::CoordinatorState => CoordinatorState::MAX_BYTES,
        Topic::Operation(_) => OperationSummary::MAX_BYTES,
        Topic::OperationNode(..) => OperationNode::MAX_BYTES,
        Topic::CoordinatorEvent => CoordinatorEvent::MAX_BYTES,
        Topic::Manifest => Manifest::MAX_BYTES,
        Topic::ConsoleRequest(_) => ConsoleRequest::MAX_BYTES,
        Topic::ConsoleResponse(_) => ConsoleResponse::MAX_BYTES,
        Topic::Direct(..) => DirectRequest::MAX_BYTES,
    }
}

/// Whether the broker had kept a message before this client subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retained {
    /// It had: the message may be old.
    Yes,
    /// It came as it was published.
    No,
}

/// Looks at a message before its content is touched.
pub(super) fn screen(crew: &CrewName, topic: &str, bytes: usize, retained: Retained) -> Result<Topic, Refusal> {
    let topic = Topic::parse(crew, topic).map_err(Refusal::Topic)?;
    match (retained, topic.retention()) {
        (Retained::Yes, Retention::Passing) => return Err(Refusal::Retained),
        (Retained::Yes, Retention::Retained) | (Retained::No, _) => {}
    }
    let limit = limit_bytes(&topic);
    if bytes > limit {
        return Err(Refusal::Oversized { bytes, limit });
    }
    Ok(topic)
}

#[derive(Debug, Clone, Copy, Default)]
struct Quiet {
    last: Option<Instant>,
    unlogged: u32,
}

/// The counters, and when each kind was last logged.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: Refused,
    quiet: [Quiet; 6],
}

impl Counters {
    /// Counts one. If a line is due, gives the number of those of its kind that were not logged since the last line.
    pub(super) fn count(&mut self, kind: RefusedKind, now: Instant) -> Option<u32> {
        let (count, quiet) = match kind {
            RefusedKind::Malformed => (&mut self.counts.malformed, &mut self.quiet[0]),
            RefusedKind::Oversized => (&mut self.counts.oversized, &mut self.quiet[1]),
            RefusedKind::UnknownVersion => (&mut self.counts.unknown_version, &mut self.quiet[2]),
            RefusedKind::Retained => (&mut self.counts.retained, &mut self.quiet[3]),
            RefusedKind::Foreign => (&mut self.counts.foreign, &mut self.quiet[4]),
            RefusedKind::Untrusted => (&mut self.counts.untrusted, &mut self.quiet[5]),
        };
        *count = count.saturating_add(1);
        if quiet.last.is_some_and(|last| now.saturating_duration_since(last) < LOG_EVERY) {
            quiet.unlogged = quiet.unlogged.saturating_add(1);
            return None;
        }
        quiet.last = Some(now);
        Some(std::mem::take(&mut quiet.unlogged))
    }

    pub(super) fn counts(&self) -> Refused {
        self.counts
    }
}

/// Writes the line.
pub(super) fn log(kind: RefusedKind, topic: &str, why: &dyn fmt::Display, unlogged: u32) {
    tracing::warn!(
        kind = kind.as_str(),
        topic = %shown(topic),
        why = %shown(&why.to_string()),
        unlogged,
        "refused a message; more of this kind are only counted for a minute"
    );
}

/// A stranger's text, short and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(LOGGED_CHARACTERS).flat_map(char::escape_debug).collect();
    if text.chars().nth(LOGGED_CHARACTERS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_kind_and_minute() {
        let start = Instant::now();
        let mut counters = Counters::default();
        assert_eq!(counters.count(RefusedKind::Malformed, start), Some(0));
        assert_eq!(counters.count(RefusedKind::Malformed, start + Duration::from_secs(1)), None);
        assert_eq!(counters.count(RefusedKind::Foreign, start + Duration::from_secs(1)), Some(0));
        assert_eq!(counters.count(RefusedKind::Malformed, start + Duration::from_secs(59)), None);
        assert_eq!(counters.count(RefusedKind::Malformed, start + Duration::from_secs(60)), Some(2));
        assert_eq!(counters.counts(), Refused { malformed: 4, foreign: 1, ..Refused::default() });
    }

    #[test]
    fn a_message_is_screened_by_topic_then_retention_then_length() {
        let crew: CrewName = "c1".parse().unwrap();
        let command = Topic::Command("n1".parse().unwrap()).name(&crew);
        let state = Topic::State("n1".parse().unwrap()).name(&crew);
        assert_eq!(screen(&crew, "c2", 1, Retained::No), Err(Refusal::Topic(TopicError::Foreign)));
        assert_eq!(screen(&crew, &command, usize::MAX, Retained::Yes), Err(Refusal::Retained));
        assert!(screen(&crew, &command, Command::MAX_BYTES, Retained::No).is_ok());
        assert!(screen(&crew, &state, 10, Retained::Yes).is_ok());
        let limit = NodeState::MAX_BYTES;
        assert_eq!(
            screen(&crew, &state, limit + 1, Retained::Yes),
            Err(Refusal::Oversized { bytes: limit + 1, limit })
        );
    }

    #[test]
    fn a_strangers_text_cannot_forge_a_line_of_the_log() {
        assert_eq!(shown("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        assert!(shown(&"x".repeat(10_000)).len() < 130);
    }
}
