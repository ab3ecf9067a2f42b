//! The connection to the broker: one task that polls rumqttc, and a handle that anybody may publish with.
//!
//! Facts it rests on (rumqttc 0.25.1, tried against mosquitto 2.0.11):
//! - after a lost session rumqttc drops what it had accepted, and a resend can stall it for good: **client and event loop
//!   are built anew after every error**, and what matters waits in an outbox of our own (`outbox`);
//! - `poll` is not cancel safe while it writes, so the task never abandons one that it means to continue;
//! - a packet above the client's limit ends the connection, and a retained one would do so for ever: subscriptions are by
//!   kind, never `#`, and the broker's `message_size_limit` has to be below
//!   [`beehive_mqtt::codec::MAX_PACKET_BYTES`];
//! - a half-open connection is noticed after two keep-alives of three seconds (`task` says why three).
//!
//! On each connection, in this order: subscribe, own presence, every retained topic, what waited. [`LinkEvent::Up`] comes
//! when the broker has confirmed the subscriptions, so an answer to what is asked after it is not missed.
//!
//! Versions of the protocol: everything that is spoken is read, and what is published is written in the version that
//! [`Link::write_in`] was told last, at first in the one before the current. What is not signed, presence and telemetry, is the
//! same in each version and is always written in the one before: a last will is made when nobody has been heard yet.
//!
//! Presence: the last will says offline, with the same (start, connection) as the online that follows. A broker may
//! publish an old will late; the link subscribes to its own presence (as its [`Audience`] does) and says online again.

mod outbox;
mod refused;
mod task;
mod tls;

pub use outbox::Dropped;
pub use refused::{Refusal, RefusedKind, Retained};
pub use tls::{Tls, TlsError};

use crate::keys::Trust;
use beehive_mqtt::codec::Wrapping;
use beehive_mqtt::node::Refused;
use beehive_mqtt::{
    Audience, CrewName, DecodeError, EncodeError, KeyId, Payload, ProtocolVersion, Text, Topic, decode, encode_in,
};
use outbox::{Full, Outbox, Outgoing};
use refused::Counters;
use rumqttc::AsyncClient;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// The most events that wait for the user of the link. Beyond it the link stops reading, and so does the broker in turn:
/// memory stays bounded and nothing is lost. Enough for the retained messages of the largest crew at once.
const EVENTS: usize = 512;

/// How long an orderly end may take: two round trips on a slow network, and well below systemd's patience.
const CLOSE_MS: u64 = 2_000;

/// Where to connect, and as whom.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// The broker's name or address.
    pub host: String,
    /// The broker's port.
    pub port: u16,
    /// TLS; without it the broker has to be on this machine.
    pub tls: Option<Tls>,
    /// Who we are at the broker. Of two clients with one id the broker throws out the older: it must be unique, and
    /// without a slash (which stops rumqttd).
    pub client_id: String,
    /// The crew.
    pub crew: CrewName,
    /// What is subscribed to.
    pub audience: Audience,
    /// The presence that is kept, if any.
    pub presence: Option<OwnPresence>,
    /// Our key, and whom we believe.
    pub trust: Trust,
}

/// The presence that a link keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPresence {
    /// Where it is published.
    pub topic: Topic,
    /// The number of this start of the process, as [`crate::store::Store::counter`] gives it.
    pub start: u32,
}

/// What a link tells its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Connected and subscribed.
    Up {
        /// The number of this connection within the process.
        connection: u32,
    },
    /// Not connected. It comes when a connection ends, when the first attempt fails, and whenever the reason changes;
    /// the link goes on trying by itself.
    Down {
        /// Why, for people.
        reason: String,
    },
    /// A message.
    Message(Incoming),
    /// A message was refused, counted and logged. Left out when the user is far behind.
    Refused {
        /// Its topic, shortened, without control characters.
        topic: String,
        /// Why.
        why: Refusal,
    },
}

/// A message that passed the screening: a topic of this crew, retained only where that is allowed, not too long, and
/// signed by whom that topic has to be. Its payload is not read yet; see [`Link::decode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Its topic.
    pub topic: Topic,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// Whether the broker had kept it.
    pub retained: Retained,
    /// Who signed it; nobody, where this kind of message is not signed.
    pub key: Option<KeyId>,
    /// The version of the protocol that it was written in; of what is not signed nobody has looked yet.
    pub version: Option<ProtocolVersion>,
}

impl Incoming {
    /// Whether this says that a retained topic has been cleared.
    pub fn is_cleared(&self) -> bool {
        self.payload.is_empty() && self.topic.retention() == beehive_mqtt::topic::Retention::Retained
    }
}

/// The state of the simulated network, for the demo and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// As usual.
    Up,
    /// No connection, and none is tried.
    Cut,
}

/// The highest version of the protocol that this process speaks: the current one.
///
/// With `BEEHIVE_TEST_PROTOCOL=1` in its environment it plays the program before: it reads and writes version 1 alone and says
/// nothing of versions. That is for the tests of a crew that is half-way through an upgrade, and changes nothing else.
pub fn speaks() -> ProtocolVersion {
    match std::env::var("BEEHIVE_TEST_PROTOCOL").as_deref() {
        Ok("1") => ProtocolVersion::V1,
        Ok(_) | Err(_) => ProtocolVersion::CURRENT,
    }
}

/// Whether the version that is written has become another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Another: what stays on the broker has to be published again.
    Otherwise,
    /// The same.
    AsBefore,
}

/// Whether `host` is this machine: a loopback address or `localhost`.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What the task is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Run,
    Cut,
    Close { reason: Text<64> },
    Abandon,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Control {
    mode: Mode,
    /// How often the network was cut: a short cut is not missed.
    cuts: u32,
}

/// What handle and task have in common.
struct Shared {
    crew: CrewName,
    trust: Trust,
    lane: Mutex<Lane>,
    counters: Mutex<Counters>,
    /// The highest version that is read and written.
    speaks: ProtocolVersion,
    /// The version that is written.
    writes: Mutex<ProtocolVersion>,
}

/// The outbox and the client that it feeds.
struct Lane {
    outbox: Outbox,
    client: Option<AsyncClient>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // what is inside is whole between any two statements, so a panic of somebody else does not spoil it
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    fn pump(&mut self) {
        let Some(client) = &self.client else { return };
        self.outbox.pump(Instant::now(), |out: &Outgoing| {
            let retain = match out.retention {
                beehive_mqtt::topic::Retention::Retained => true,
                beehive_mqtt::topic::Retention::Passing => false,
            };
            client
                .try_publish(out.topic.as_str(), task::quality(out.delivery), retain, out.payload.as_slice())
                .map_err(|_| Full)
        });
    }
}

impl Shared {
    fn put(&self, topic: &Topic, payload: Vec<u8>) {
        let name = topic.name(&self.crew);
        let mut lane = locked(&self.lane);
        lane.outbox.put(topic, &name, payload, Instant::now());
        lane.pump();
    }

    fn refuse(&self, kind: RefusedKind, topic: &str, why: &dyn fmt::Display) {
        let due = locked(&self.counters).count(kind, Instant::now());
        if let Some(unlogged) = due {
            refused::log(kind, topic, why, unlogged);
        }
    }
}

/// The handle of a link. When its last clone is dropped, the link ends without a farewell, as with [`Link::abandon`].
#[derive(Clone)]
pub struct Link(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    control: watch::Sender<Control>,
    /// The task holds the other half until it ends.
    ended: watch::Receiver<()>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("crew", &self.0.shared.crew).finish_non_exhaustive()
    }
}

impl Link {
    /// Starts the link's task. It has to be called within a tokio runtime. It connects, and connects again after every
    /// loss, until [`Link::close`] or [`Link::abandon`].
    ///
    /// The events have to be read: while 512 of them wait, the link stands still. Who does not care drops the
    /// receiver.
    pub fn spawn(config: LinkConfig) -> (Self, mpsc::Receiver<LinkEvent>) {
        let shared = Arc::new(Shared {
            crew: config.crew.clone(),
            trust: config.trust.clone(),
            lane: Mutex::new(Lane { outbox: Outbox::new(), client: None }),
            counters: Mutex::new(Counters::default()),
            speaks: speaks(),
            writes: Mutex::new(ProtocolVersion::BEFORE),
        });
        let (control, control_in) = watch::channel(Control { mode: Mode::Run, cuts: 0 });
        let (ended_out, ended) = watch::channel(());
        let (events, events_in) = mpsc::channel(EVENTS);
        let task = task::Task::new(config, Arc::clone(&shared), control_in, events);
        tokio::spawn(async move {
            task.run().await;
            drop(ended_out);
        });
        (Self(Arc::new(Handle { shared, control, ended })), events_in)
    }

    /// Publishes `payload` at `topic`, now or as soon as the topic's kind allows (see the table in `outbox`): the latest
    /// of each retained topic, and events, results and answers, outlive a lost connection; telemetry, commands and
    /// requests do not. It never waits.
    ///
    /// # Errors
    /// If the payload is larger than its kind may be. Nothing is sent then.
    pub fn publish<P: Payload>(&self, topic: &Topic, payload: &P) -> Result<(), EncodeError> {
        let version = match P::WRAPPING {
            Wrapping::Plain => ProtocolVersion::BEFORE,
            Wrapping::Envelope => *locked(&self.0.shared.writes),
        };
        // whoever is told what an older version does not know has spoken of it itself
        self.publish_in(version.max(payload.since()), topic, payload)
    }

    /// As [`Link::publish`], in this version of the protocol.
    ///
    /// # Errors
    /// If the payload is larger than its kind may be, or this version does not know what it says. Nothing is sent then.
    pub fn publish_in<P: Payload>(
        &self,
        version: ProtocolVersion,
        topic: &Topic,
        payload: &P,
    ) -> Result<(), EncodeError> {
        let name = topic.name(&self.0.shared.crew);
        self.0.shared.put(topic, encode_in(version, payload, &name, self.0.shared.trust.signer.as_ref())?);
        Ok(())
    }

    /// From now on writes in this version, or in the highest that is spoken.
    pub fn write_in(&self, version: ProtocolVersion) -> Writes {
        let mut writes = locked(&self.0.shared.writes);
        let before = std::mem::replace(&mut *writes, version.min(self.0.shared.speaks));
        if *writes == before { Writes::AsBefore } else { Writes::Otherwise }
    }

    /// The highest version that is read and written.
    pub fn speaks(&self) -> ProtocolVersion {
        self.0.shared.speaks
    }

    /// Publishes the crew's manifest as its owner signed it.
    pub fn publish_manifest(&self) {
        self.0.shared.put(&Topic::Manifest, self.0.shared.trust.keyring.signed_manifest());
    }

    /// Our key, and whom we believe.
    pub fn trust(&self) -> &Trust {
        &self.0.shared.trust
    }

    /// Removes the retained message at `topic` from the broker, and forgets it here. If there is no connection, with the
    /// next one.
    pub fn clear(&self, topic: &Topic) {
        let name = topic.name(&self.0.shared.crew);
        let mut lane = locked(&self.0.shared.lane);
        lane.outbox.clear(topic, &name, Instant::now());
        lane.pump();
    }

    /// Reads a message; what cannot be read is counted and logged once a kind and minute.
    ///
    /// # Errors
    /// Says why it cannot be read, for the answer where there is somebody to answer.
    pub fn decode<P: Payload>(&self, message: &Incoming) -> Result<P, DecodeError> {
        decode(&message.payload).inspect_err(|error| self.count_refused(&message.topic, error))
    }

    /// Counts a message that a user of the link could not read, and logs it once a kind and minute.
    pub fn count_refused(&self, topic: &Topic, error: &DecodeError) {
        self.0.shared.refuse(error.into(), &topic.name(&self.0.shared.crew), error);
    }

    /// The crew whose topics it speaks.
    pub fn crew(&self) -> &CrewName {
        &self.0.shared.crew
    }

    /// How many messages were refused since the start.
    pub fn refused(&self) -> Refused {
        locked(&self.0.shared.counters).counts()
    }

    /// How many outgoing messages were given up since the start.
    pub fn dropped(&self) -> Dropped {
        locked(&self.0.shared.lane).outbox.dropped()
    }

    /// Ends in order: says offline with `reason`, waits until the broker has everything, disconnects. It takes two
    /// seconds at most; without a connection it ends at once. What is published afterwards goes nowhere.
    pub async fn close(&self, reason: &str) {
        self.end(Mode::Close { reason: Text::cut(reason) });
        let mut ended = self.0.ended.clone();
        // an error is what we wait for: the task has ended and its half is dropped
        let patience = Duration::from_millis(CLOSE_MS) + Duration::from_millis(500);
        if tokio::time::timeout(patience, async { while ended.changed().await.is_ok() {} }).await.is_err() {
            self.abandon();
        }
    }

    /// Ends as if the power went: the connection is dropped, and the broker publishes the last will.
    pub fn abandon(&self) {
        self.end(Mode::Abandon);
    }

    fn end(&self, mode: Mode) {
        self.0.control.send_if_modified(|control| {
            let ends = match (&control.mode, &mode) {
                (Mode::Run | Mode::Cut, _) | (Mode::Close { .. }, Mode::Abandon) => true,
                (Mode::Close { .. } | Mode::Abandon, _) => false,
            };
            if ends {
                control.mode = mode.clone();
            }
            ends
        });
    }

    /// Cuts this link off the network, or lets it back. While cut it drops its connection and tries no other. (The broker
    /// sees the connection end at once; on a real network it would notice after its keep-alive.)
    pub fn set_network(&self, network: Network) {
        self.0.control.send_if_modified(|control| match (&control.mode, network) {
            (Mode::Run, Network::Cut) => {
                control.mode = Mode::Cut;
                control.cuts = control.cuts.wrapping_add(1);
                true
            }
            (Mode::Cut, Network::Up) => {
                control.mode = Mode::Run;
                true
            }
            (Mode::Run, Network::Up) | (Mode::Cut, Network::Cut) | (Mode::Close { .. } | Mode::Abandon, _) => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "10.0.0.1", "0.0.0.0", "::", "localhost.example", "127.0.0.1.example", "bee42-crew-01-001"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
