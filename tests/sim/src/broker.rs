//! The broker: keeps the last message of a retained topic, and loses, repeats and delays deliveries.

use crate::world::{Happening, Heard, World};
use beehive_cluster::coordinator::{self, BrokerLink};
use beehive_mqtt::codec::Wrapping;
use beehive_mqtt::node::{Connection, Presence};
use beehive_mqtt::sign::Writer;
use beehive_mqtt::topic::Retention;
use beehive_mqtt::{CrewName, Payload, ProtocolVersion, Text, Topic};

/// How many messages are kept to be played again.
const ARCHIVE: usize = 500;

pub(crate) fn crew() -> CrewName {
    "bee42-crew-01".parse().unwrap()
}

impl World {
    pub(crate) fn publish(&mut self, topic: Topic, bytes: Vec<u8>) {
        let wire = topic.name(&crew());
        assert_eq!(Topic::parse(&crew(), &wire).unwrap(), topic);
        if let Topic::Presence(node)
        | Topic::State(node)
        | Topic::Result(node)
        | Topic::Request(node)
        | Topic::Command(node)
        | Topic::Direct(_, node) = &topic
        {
            let cut = self.pis.iter().any(|pi| pi.name == *node && pi.cut_until > self.now);
            // a will is the broker's own word
            if cut && !matches!(&topic, Topic::Presence(_)) {
                return;
            }
        }
        match topic.retention() {
            Retention::Retained => {
                self.retained.insert(wire.as_str().to_owned(), (topic.clone(), bytes.clone()));
            }
            Retention::Passing => {}
        }
        if self.broker_down {
            // what is kept its writer says again when the broker is back; the rest is asked for again by whoever needs it
            return;
        }
        let copies = if self.random.hits(self.faults.loss) {
            self.fault("loss");
            0
        } else if self.random.hits(self.faults.duplicate) {
            self.fault("duplicate");
            2
        } else {
            1
        };
        self.keep(&topic, &bytes);
        for _ in 0..copies {
            let after = if self.random.hits(self.faults.delay) {
                self.fault("delay");
                self.random.between(50, 3_000)
            } else {
                // one connection keeps its order
                5
            };
            self.later(after, Happening::Arrives(topic.clone(), bytes.clone()));
        }
    }

    /// Somebody keeps what passes and plays some of it again later, to whom it was once sent.
    fn keep(&mut self, topic: &Topic, bytes: &[u8]) {
        if self.faults.replay == 0 {
            return;
        }
        let kept = (topic.clone(), bytes.to_vec());
        if self.archive.len() < ARCHIVE {
            self.archive.push(kept);
        } else {
            let index = self.any_kept();
            self.archive[index] = kept;
        }
        if self.random.hits(self.faults.replay) {
            self.fault("replay");
            let index = self.any_kept();
            let (topic, bytes) = self.archive[index].clone();
            let after = self.random.between(1, 5_000);
            self.later(after, Happening::Arrives(topic, bytes));
        }
    }

    fn any_kept(&mut self) -> usize {
        usize::try_from(self.random.below(self.archive.len() as u64)).unwrap()
    }

    /// The coordinator's state on its way to one node.
    pub(crate) fn tell(&mut self, index: usize) {
        if self.broker_down {
            return;
        }
        if self.random.hits(self.faults.loss) {
            self.fault("loss");
            return;
        }
        let after = if self.random.hits(self.faults.delay) { self.random.between(50, 3_000) } else { 5 };
        let life = self.pis[index].life;
        if let Some(shown) = &self.shown {
            let heard = Heard { session: shown.session.clone(), written: self.shown_in };
            self.later(after, Happening::Hears(index, life, heard));
        }
    }

    /// Publishes what the topic's writer says, in the version in which it writes.
    pub(crate) fn say<P: Payload>(&mut self, topic: Topic, payload: &P) {
        let version = match (P::WRAPPING, topic.writer()) {
            (Wrapping::Plain, _) | (Wrapping::Envelope, Writer::Crew) => ProtocolVersion::BEFORE,
            (Wrapping::Envelope, Writer::Node(node)) => {
                let pi = self.pis.iter().find(|pi| pi.name == *node);
                pi.and_then(|pi| pi.core.as_ref()).map_or(ProtocolVersion::BEFORE, |core| core.writes())
            }
            (Wrapping::Envelope, Writer::Coordinator) => self.core_version(),
            (Wrapping::Envelope, Writer::User(_)) => self.shown_in,
        };
        self.say_in(version.max(payload.since()), topic, payload);
    }

    /// Publishes it in this version.
    pub(crate) fn say_in<P: Payload>(&mut self, version: ProtocolVersion, topic: Topic, payload: &P) {
        let speaks = match topic.writer() {
            Writer::Node(node) => self.pis.iter().find(|pi| pi.name == *node).map(|pi| pi.speaks),
            Writer::Coordinator => Some(self.pis[0].speaks),
            Writer::User(_) | Writer::Crew => None,
        };
        if speaks.is_some_and(|speaks| version > speaks) {
            self.fail(&format!("{topic:?} is written in version {version}, which its program does not speak"));
        }
        let bytes = self.keys.signed(version, &topic, payload);
        self.publish(topic, bytes);
    }

    pub(crate) fn presence(&mut self, index: usize, status: Connection, start: u32, connection: u32) {
        let presence = Presence { status, start, connection, reason: Text::new() };
        self.say(Topic::Presence(self.pis[index].name.clone()), &presence);
    }

    /// The network of a Pi is cut for a while; the broker notices after its keep-alive.
    pub(crate) fn partition(&mut self, index: usize) {
        let lasts = self.random.between(1_000, 90_000);
        let pi = &mut self.pis[index];
        // the broker is on the master itself
        if pi.master || pi.core.is_none() || pi.cut_until > self.now {
            return;
        }
        pi.cut_until = self.now + lasts;
        let (life, start, connection) = (pi.life, pi.start, pi.connection);
        if lasts > 15_000 {
            self.later(15_000, Happening::Will(index, start, connection));
        }
        self.later(lasts, Happening::Reconnects(index, life));
    }

    pub(crate) fn reconnects(&mut self, index: usize, life: u32) {
        let pi = &mut self.pis[index];
        if pi.life == life && pi.core.is_some() {
            pi.connection += 1;
            pi.connected_at = self.now;
            let (start, connection) = (pi.start, pi.connection);
            self.listens(index);
            self.presence(index, Connection::Online, start, connection);
            self.publish_state(index, true);
            self.tell(index);
        }
    }

    /// The broker restarts: what is under way is lost, wills of those who die meanwhile are never said.
    pub(crate) fn broker_stops(&mut self) {
        if self.broker_down {
            return;
        }
        self.fault("broker restart");
        self.note(|| "the broker restarts".into());
        self.broker_down = true;
        self.coordinate(coordinator::Event::Broker(BrokerLink::Down));
        self.queue.retain(|_, happening| !matches!(happening, Happening::Arrives(..) | Happening::Hears(..)));
        let after = self.random.between(200, 15_000);
        self.later(after, Happening::BrokerStarts);
    }

    /// Everybody connects anew, says again what is to be kept, and hears what is kept.
    pub(crate) fn broker_starts(&mut self) {
        self.broker_down = false;
        for index in 0..self.pis.len() {
            if self.pis[index].cut_until <= self.now {
                let life = self.pis[index].life;
                self.reconnects(index, life);
            }
        }
        if self.coordinator.is_some() {
            self.coordinator_subscribes();
        }
    }

    /// The last will of a connection that is gone.
    pub(crate) fn will(&mut self, index: usize, start: u32, connection: u32) {
        if self.broker_down {
            return;
        }
        self.presence(index, Connection::Offline, start, connection);
        let pi = &self.pis[index];
        if pi.core.is_some() && pi.cut_until <= self.now {
            // the node sees what is not its own and says that it is there
            let (start, connection) = (pi.start, pi.connection);
            self.presence(index, Connection::Online, start, connection);
        }
    }
}
