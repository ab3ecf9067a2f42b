//! What waits to be sent, and what is on its way. No socket, no task: the link hands in the time and a way to send.
//!
//! rumqttc forgets what it has accepted when a connection is lost, so nothing is its alone before the broker has
//! acknowledged it:
//!
//! | messages | while connected | while not | after a loss |
//! | --- | --- | --- | --- |
//! | retained topics | sent; only the latest of a topic waits | the latest is kept | all are sent again, on each connection |
//! | events, results, answers | sent in order, held until acknowledged | the last [`MAX_KEPT`] wait | what was not acknowledged is sent again |
//! | telemetry, commands, requests | sent, if it can be within [`PATIENCE`] | dropped | dropped: their sender asks again, and a late command does harm |

use beehive_mqtt::Topic;
use beehive_mqtt::topic::{Delivery, Retention};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// The most events, results and answers that wait; the oldest goes first. An hour without a broker makes far fewer.
pub(super) const MAX_KEPT: usize = 256;

/// The most bytes that they may have together, those on their way included: every one of [`MAX_KEPT`] results at their
/// largest (some 4 KiB on the wire) fits, but not as many shown plans (112 KiB each), whose console asks again.
pub(super) const MAX_KEPT_BYTES: usize = 1024 * 1024;

/// The most telemetry, commands and requests that wait. A rebuild of the largest crew sends one command to each of 64
/// nodes; the rest is room for a burst.
pub(super) const MAX_PASSING: usize = 256;

/// How long telemetry, commands and requests wait for room in a connection. Shorter than any command's resend.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Whether there is a connection that can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Up,
    Down,
}

/// How a message is treated while it cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// The latest is kept and repeated on each connection.
    Retained,
    /// Waits its turn.
    Kept,
    /// Now or never.
    Passing,
}

fn care(topic: &Topic) -> Care {
    match topic.retention() {
        Retention::Retained => Care::Retained,
        Retention::Passing => match topic {
            Topic::Event(_) | Topic::CoordinatorEvent | Topic::Result(_) | Topic::ConsoleResponse(_) => Care::Kept,
            Topic::Telemetry(_)
            | Topic::Command(_)
            | Topic::Request(_)
            | Topic::ConsoleRequest(_)
            | Topic::Direct(..) => Care::Passing,
            // retained by their topic, so they do not come here
            Topic::Presence(_)
            | Topic::State(_)
            | Topic::Info(_)
            | Topic::CoordinatorPresence
            | Topic::CoordinatorState
            | Topic::Operation(_)
            | Topic::OperationNode(..)
            | Topic::Manifest => Care::Retained,
        },
    }
}

/// One message as it goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) topic: String,
    pub(super) delivery: Delivery,
    pub(super) retention: Retention,
    pub(super) payload: Vec<u8>,
}

/// The client takes no more for the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug, Clone)]
struct Message {
    /// Grows with each message, so that what was lost goes back to its place.
    sequence: u64,
    topic: String,
    delivery: Delivery,
    payload: Vec<u8>,
    /// When it is too late to send it.
    until: Option<Instant>,
}

#[derive(Debug)]
enum Entry {
    /// The latest of this retained topic.
    Retained(String),
    Message(Message),
}

/// What the client has taken and the broker has not acknowledged.
#[derive(Debug)]
enum Sent {
    /// A retained topic, and which message of it.
    Retained {
        topic: String,
        sequence: u64,
    },
    Kept(Message),
    Passing,
}

#[derive(Debug)]
struct Retained {
    /// Which message this is, so that the acknowledgement of an older one is not taken for this one's.
    sequence: u64,
    delivery: Delivery,
    /// Empty: the topic is to be cleared, and forgotten once the broker has acknowledged that.
    payload: Vec<u8>,
}

/// Messages that were given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Events, results and answers, for want of room while there was no connection.
    pub kept: u64,
    /// Telemetry, commands and requests, because there was no connection.
    pub passing: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outbox {
    line: Line,
    retained: BTreeMap<String, Retained>,
    queue: VecDeque<Entry>,
    /// Taken by the client, in order; not yet on the wire.
    handed: VecDeque<Sent>,
    /// On the wire, by packet id.
    in_flight: BTreeMap<u16, Sent>,
    next_sequence: u64,
    dropped: Dropped,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            line: Line::Down,
            retained: BTreeMap::new(),
            queue: VecDeque::new(),
            handed: VecDeque::new(),
            in_flight: BTreeMap::new(),
            next_sequence: 0,
            dropped: Dropped::default(),
        }
    }

    /// Takes a message.
    pub(super) fn put(&mut self, topic: &Topic, name: &str, payload: Vec<u8>, now: Instant) {
        match care(topic) {
            Care::Retained => {
                let waits = self.queue.iter().any(|entry| matches!(entry, Entry::Retained(held) if held == name));
                self.retain(topic, name, payload);
                match self.line {
                    Line::Up if !waits => self.queue.push_back(Entry::Retained(name.to_owned())),
                    Line::Up | Line::Down => {}
                }
            }
            Care::Kept => {
                self.push(topic, name, payload, None);
                self.trim();
            }
            Care::Passing => match self.line {
                Line::Up if self.count(Care::Passing) < MAX_PASSING => {
                    self.push(topic, name, payload, Some(now + PATIENCE));
                }
                Line::Up | Line::Down => self.dropped.passing += 1,
            },
        }
    }

    /// Clears a retained topic. Nothing happens for the others.
    pub(super) fn clear(&mut self, topic: &Topic, name: &str, now: Instant) {
        match topic.retention() {
            Retention::Retained => self.put(topic, name, Vec::new(), now),
            Retention::Passing => {}
        }
    }

    fn retain(&mut self, topic: &Topic, name: &str, payload: Vec<u8>) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.retained.insert(name.to_owned(), Retained { sequence, delivery: topic.delivery(), payload });
    }

    fn push(&mut self, topic: &Topic, name: &str, payload: Vec<u8>, until: Option<Instant>) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let message = Message { sequence, topic: name.to_owned(), delivery: topic.delivery(), payload, until };
        self.queue.push_back(Entry::Message(message));
    }

    fn count(&self, care: Care) -> usize {
        self.queue.iter().filter(|entry| entry.care() == care).count()
    }

    /// The bytes of what waits or is on its way and must not be lost.
    fn kept_bytes(&self) -> usize {
        let waiting = self.queue.iter().map(|entry| match entry {
            Entry::Message(Message { payload, until: None, .. }) => payload.len(),
            Entry::Message(_) | Entry::Retained(_) => 0,
        });
        let on_their_way = self.handed.iter().chain(self.in_flight.values()).map(|sent| match sent {
            Sent::Kept(message) => message.payload.len(),
            Sent::Retained { .. } | Sent::Passing => 0,
        });
        waiting.chain(on_their_way).sum()
    }

    /// Gives up the oldest of what waits, until the rest is within its bounds.
    fn trim(&mut self) {
        while self.count(Care::Kept) > MAX_KEPT || self.kept_bytes() > MAX_KEPT_BYTES {
            let Some(index) = self.queue.iter().position(|entry| entry.care() == Care::Kept) else { return };
            self.queue.remove(index);
            self.dropped.kept += 1;
        }
    }

    /// A connection is there. `presence` goes first, then every retained topic, then what waits.
    pub(super) fn connected(&mut self, presence: Option<(&Topic, &str, Vec<u8>)>) {
        self.line = Line::Up;
        let mut queue = VecDeque::with_capacity(self.queue.len() + self.retained.len() + 1);
        if let Some((topic, name, payload)) = presence {
            self.retain(topic, name, payload);
            queue.push_back(Entry::Retained(name.to_owned()));
            queue.extend(self.retained.keys().filter(|held| *held != name).cloned().map(Entry::Retained));
        } else {
            queue.extend(self.retained.keys().cloned().map(Entry::Retained));
        }
        queue.extend(self.queue.drain(..).filter(|entry| entry.care() != Care::Retained));
        self.queue = queue;
    }

    /// The connection is lost, and with it whatever the client held.
    pub(super) fn disconnected(&mut self) {
        self.line = Line::Down;
        let mut kept: Vec<Message> = Vec::new();
        let mut passing = 0;
        let lost = core::mem::take(&mut self.in_flight).into_values().chain(self.handed.drain(..));
        for sent in lost {
            match sent {
                Sent::Kept(message) => kept.push(message),
                // all retained topics are sent again anyway; a command that may have arrived is not lost for sure
                Sent::Retained { .. } | Sent::Passing => {}
            }
        }
        for entry in self.queue.drain(..) {
            match entry {
                Entry::Retained(_) => {}
                Entry::Message(message) => match message.until {
                    None => kept.push(message),
                    Some(_) => passing += 1,
                },
            }
        }
        kept.sort_by_key(|message| message.sequence);
        self.queue = kept.into_iter().map(Entry::Message).collect();
        self.trim();
        self.dropped.passing += passing;
    }

    /// Sends as much as `send` takes.
    pub(super) fn pump(&mut self, now: Instant, mut send: impl FnMut(&Outgoing) -> Result<(), Full>) {
        if self.line == Line::Down {
            return;
        }
        while let Some(entry) = self.queue.pop_front() {
            match entry {
                Entry::Retained(name) => {
                    let Some(Retained { sequence, delivery, payload }) = self.retained.get(&name) else { continue };
                    let out = Outgoing {
                        topic: name,
                        delivery: *delivery,
                        retention: Retention::Retained,
                        payload: payload.clone(),
                    };
                    match send(&out) {
                        Ok(()) => self.handed.push_back(Sent::Retained { topic: out.topic, sequence: *sequence }),
                        Err(Full) => return self.queue.push_front(Entry::Retained(out.topic)),
                    }
                }
                Entry::Message(message) => {
                    let Message { sequence, topic, delivery, payload, until } = message;
                    if until.is_some_and(|until| until < now) {
                        self.dropped.passing += 1;
                        continue;
                    }
                    let out = Outgoing { topic, delivery, retention: Retention::Passing, payload };
                    let sent = send(&out);
                    let message = Message { sequence, topic: out.topic, delivery, payload: out.payload, until };
                    match (sent, until) {
                        (Ok(()), None) => self.handed.push_back(Sent::Kept(message)),
                        (Ok(()), Some(_)) => self.handed.push_back(Sent::Passing),
                        (Err(Full), _) => return self.queue.push_front(Entry::Message(message)),
                    }
                }
            }
        }
    }

    /// The client has written its oldest message to the wire, under this packet id; 0 stands for at-most-once.
    pub(super) fn on_the_wire(&mut self, packet_id: u16) {
        if let (Some(sent), true) = (self.handed.pop_front(), packet_id != 0) {
            self.in_flight.insert(packet_id, sent);
        }
    }

    /// The broker has acknowledged a packet.
    pub(super) fn acknowledged(&mut self, packet_id: u16) {
        match self.in_flight.remove(&packet_id) {
            Some(Sent::Retained { topic, sequence }) => {
                if self.retained.get(&topic).is_some_and(|held| held.sequence == sequence && held.payload.is_empty()) {
                    self.retained.remove(&topic);
                }
            }
            Some(Sent::Kept(_) | Sent::Passing) | None => {}
        }
    }

    /// Whether nothing waits and nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.handed.is_empty() && self.in_flight.is_empty()
    }

    pub(super) fn dropped(&self) -> Dropped {
        self.dropped
    }
}

impl Entry {
    fn care(&self) -> Care {
        match self {
            Self::Retained(_) => Care::Retained,
            Self::Message(Message { until: None, .. }) => Care::Kept,
            Self::Message(Message { until: Some(_), .. }) => Care::Passing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beehive_mqtt::CrewName;
    use proptest::prelude::*;

    fn crew() -> CrewName {
        "c1".parse().unwrap()
    }

    fn node(leaf: fn(beehive_mqtt::NodeName) -> Topic) -> Topic {
        leaf("n1".parse().unwrap())
    }

    fn put(outbox: &mut Outbox, topic: &Topic, payload: &str, now: Instant) {
        outbox.put(topic, &topic.name(&crew()), payload.as_bytes().to_vec(), now);
    }

    /// Sends everything; gives `leaf payload` of each message.
    fn sent(outbox: &mut Outbox, now: Instant) -> Vec<String> {
        some(outbox, now, usize::MAX)
    }

    fn some(outbox: &mut Outbox, now: Instant, mut room: usize) -> Vec<String> {
        let mut all = Vec::new();
        outbox.pump(now, |out| {
            room = room.checked_sub(1).ok_or(Full)?;
            let leaf = out.topic.rsplit('/').next().unwrap();
            all.push(format!("{leaf} {}", String::from_utf8(out.payload.clone()).unwrap()));
            Ok(())
        });
        all
    }

    #[test]
    fn each_connection_begins_with_presence_and_all_that_is_retained() {
        let now = Instant::now();
        let mut outbox = Outbox::new();
        let presence = node(Topic::Presence);
        put(&mut outbox, &node(Topic::State), "s1", now);
        put(&mut outbox, &node(Topic::Event), "e1", now);
        put(&mut outbox, &node(Topic::Info), "i1", now);
        put(&mut outbox, &node(Topic::State), "s2", now);
        assert!(sent(&mut outbox, now).is_empty());
        for _ in 0..3 {
            outbox.connected(Some((&presence, &presence.name(&crew()), b"on".to_vec())));
            let first = ["presence on", "info i1", "state s2", "event e1"];
            assert_eq!(sent(&mut outbox, now), first);
            assert!(sent(&mut outbox, now).is_empty());
            outbox.disconnected();
        }
    }

    #[test]
    fn only_the_latest_of_a_retained_topic_waits() {
        let now = Instant::now();
        let mut outbox = Outbox::new();
        outbox.connected(None);
        for text in ["s1", "s2", "s3"] {
            put(&mut outbox, &node(Topic::State), text, now);
        }
        assert_eq!(sent(&mut outbox, now), ["state s3"]);
        put(&mut outbox, &node(Topic::State), "s4", now);
        assert_eq!(sent(&mut outbox, now), ["state s4"]);
    }

    #[test]
    fn an_event_leaves_only_when_it_is_acknowledged() {
        let now = Instant::now();
        let mut outbox = Outbox::new();
        outbox.connected(None);
        for text in ["e1", "e2", "e3", "e4"] {
            put(&mut outbox, &node(Topic::Event), text, now);
        }
        assert_eq!(some(&mut outbox, now, 3), ["event e1", "event e2", "event e3"]);
        outbox.on_the_wire(1);
        outbox.on_the_wire(2);
        outbox.acknowledged(1);
        // e1 is done, e2 on the wire, e3 with the client, e4 with us
        outbox.disconnected();
        put(&mut outbox, &node(Topic::Event), "e5", now);
        outbox.connected(None);
        assert_eq!(sent(&mut outbox, now), ["event e2", "event e3", "event e4", "event e5"]);
        for packet_id in 1..=4 {
            assert!(!outbox.is_idle());
            outbox.on_the_wire(packet_id);
            outbox.acknowledged(packet_id);
        }
        assert!(outbox.is_idle());
        assert_eq!(outbox.dropped(), Dropped::default());
    }

    #[test]
    fn commands_telemetry_and_requests_are_never_sent_late() {
        let now = Instant::now();
        let mut outbox = Outbox::new();
        let passing = [
            node(Topic::Command),
            node(Topic::Telemetry),
            node(Topic::Request),
            Topic::ConsoleRequest("u".parse().unwrap()),
            Topic::Direct("u".parse().unwrap(), "n1".parse().unwrap()),
        ];
        // without a connection
        for topic in &passing {
            put(&mut outbox, topic, "x", now);
        }
        assert_eq!(outbox.dropped().passing, 5);
        outbox.connected(None);
        assert!(sent(&mut outbox, now).is_empty());
        // with one that takes nothing and ends
        for topic in &passing {
            put(&mut outbox, topic, "x", now);
        }
        outbox.disconnected();
        outbox.connected(None);
        assert!(sent(&mut outbox, now).is_empty());
        assert_eq!(outbox.dropped().passing, 10);
        // taken by the client, lost with it
        put(&mut outbox, &passing[0], "x", now);
        assert_eq!(sent(&mut outbox, now), ["command x"]);
        outbox.disconnected();
        outbox.connected(None);
        assert!(sent(&mut outbox, now).is_empty());
        // with one that takes nothing for too long
        put(&mut outbox, &passing[0], "late", now);
        put(&mut outbox, &passing[0], "in time", now + Duration::from_millis(1));
        assert_eq!(sent(&mut outbox, now + PATIENCE + Duration::from_millis(1)), ["command in time"]);
        assert_eq!(outbox.dropped().passing, 11);
    }

    #[test]
    fn a_cleared_topic_is_cleared_once_the_broker_has_said_so_and_never_again() {
        let now = Instant::now();
        let topic = node(Topic::State);
        let name = topic.name(&crew());
        let mut outbox = Outbox::new();
        put(&mut outbox, &topic, "s1", now);
        outbox.clear(&topic, &name, now);
        for _ in 0..2 {
            // not acknowledged: once more
            outbox.connected(None);
            assert_eq!(sent(&mut outbox, now), ["state "]);
            outbox.on_the_wire(1);
            outbox.disconnected();
        }
        outbox.connected(None);
        sent(&mut outbox, now);
        outbox.on_the_wire(1);
        outbox.acknowledged(1);
        outbox.disconnected();
        outbox.connected(None);
        assert!(sent(&mut outbox, now).is_empty());
    }

    #[test]
    fn the_acknowledgement_of_an_older_message_does_not_forget_a_clearing() {
        let now = Instant::now();
        let topic = node(Topic::State);
        let mut outbox = Outbox::new();
        outbox.connected(None);
        put(&mut outbox, &topic, "s1", now);
        sent(&mut outbox, now);
        outbox.on_the_wire(1);
        outbox.clear(&topic, &topic.name(&crew()), now);
        sent(&mut outbox, now);
        outbox.on_the_wire(2);
        outbox.acknowledged(1);
        outbox.disconnected();
        outbox.connected(None);
        assert_eq!(sent(&mut outbox, now), ["state "]);
    }

    #[test]
    fn the_oldest_event_goes_first_when_too_many_wait() {
        let now = Instant::now();
        let mut outbox = Outbox::new();
        put(&mut outbox, &node(Topic::State), "s", now);
        for number in 0..MAX_KEPT + 3 {
            put(&mut outbox, &node(Topic::Event), &number.to_string(), now);
        }
        assert_eq!(outbox.dropped().kept, 3);
        outbox.connected(None);
        let all = sent(&mut outbox, now);
        assert_eq!(all.len(), MAX_KEPT + 1);
        assert_eq!(all[..2], ["state s", "event 3"]);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_also_while_the_broker_acknowledges_nothing() {
        let now = Instant::now();
        let topic = Topic::ConsoleResponse("u".parse().unwrap());
        let name = topic.name(&crew());
        let plan = vec![b'x'; 100 * 1024];
        let mut outbox = Outbox::new();
        for round in 0..3 {
            for _ in 0..40 {
                outbox.put(&topic, &name, plan.clone(), now);
                assert!(outbox.kept_bytes() <= MAX_KEPT_BYTES);
            }
            outbox.connected(None);
            // some are on the wire, some with the client, the others with us
            let sent = some(&mut outbox, now, 6).len();
            assert_eq!(sent, 6, "round {round}");
            outbox.on_the_wire(1);
            for _ in 0..40 {
                outbox.put(&topic, &name, plan.clone(), now);
                assert!(outbox.kept_bytes() <= MAX_KEPT_BYTES);
            }
            outbox.disconnected();
            assert!(outbox.kept_bytes() <= MAX_KEPT_BYTES);
        }
        assert_eq!(outbox.dropped().kept, 3 * 80 - 10, "ten of them fit");
        // a small one more costs a large old one
        put(&mut outbox, &node(Topic::Event), &"e".repeat(60 * 1024), now);
        assert_eq!((outbox.queue.len(), outbox.dropped().kept), (10, 3 * 80 - 9));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Event,
        State,
        Command,
        Telemetry,
        Connect,
        Disconnect,
        Pump(usize),
        Write,
        Acknowledge,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Event),
            2 => Just(Step::State),
            2 => Just(Step::Command),
            1 => Just(Step::Telemetry),
            1 => Just(Step::Connect),
            1 => Just(Step::Disconnect),
            4 => (0..4usize).prop_map(Step::Pump),
            6 => Just(Step::Write),
            6 => Just(Step::Acknowledge),
        ];
        proptest::collection::vec(step, 0..120)
    }

    proptest! {
        /// Whatever happens: once there is a lasting connection, the latest state and every event have been sent, the
        /// first sending of each event in order, and no command of an earlier connection.
        #[test]
        fn nothing_that_matters_is_lost(steps in steps()) {
            let now = Instant::now();
            let mut outbox = Outbox::new();
            let (mut events, mut states, mut commands) = (0, 0, 0);
            let mut connected = false;
            let mut client: VecDeque<bool> = VecDeque::new();
            let mut wire: VecDeque<u16> = VecDeque::new();
            let mut packet_id = 0;
            let mut log: Vec<String> = Vec::new();
            let mut oldest_command = 0;
            let closing = [Step::Disconnect, Step::Connect, Step::Pump(usize::MAX)];
            for step in steps.into_iter().chain(closing) {
                match step {
                    Step::Event => {
                        put(&mut outbox, &node(Topic::Event), &events.to_string(), now);
                        events += 1;
                    }
                    Step::State => {
                        states += 1;
                        put(&mut outbox, &node(Topic::State), &states.to_string(), now);
                    }
                    Step::Command => {
                        put(&mut outbox, &node(Topic::Command), &commands.to_string(), now);
                        commands += 1;
                    }
                    Step::Telemetry => put(&mut outbox, &node(Topic::Telemetry), "t", now),
                    Step::Connect if connected => {}
                    Step::Connect => {
                        connected = true;
                        oldest_command = commands;
                        outbox.connected(None);
                    }
                    Step::Disconnect => {
                        connected = false;
                        outbox.disconnected();
                        client.clear();
                        wire.clear();
                    }
                    Step::Pump(room) => {
                        let new = some(&mut outbox, now, room);
                        prop_assert!(connected || new.is_empty());
                        for line in new {
                            if let Some(number) = line.strip_prefix("command ") {
                                prop_assert!(number.parse::<u32>().unwrap() >= oldest_command);
                            }
                            client.push_back(!line.starts_with("telemetry"));
                            log.push(line);
                        }
                    }
                    Step::Write => if let Some(at_least_once) = client.pop_front() {
                        if at_least_once {
                            packet_id += 1;
                            wire.push_back(packet_id);
                            outbox.on_the_wire(packet_id);
                        } else {
                            outbox.on_the_wire(0);
                        }
                    },
                    Step::Acknowledge => if let Some(packet_id) = wire.pop_front() {
                        outbox.acknowledged(packet_id);
                    },
                }
            }
            if states > 0 {
                let last = log.iter().rev().find(|line| line.starts_with("state"));
                let newest = format!("state {states}");
                prop_assert_eq!(last, Some(&newest));
            }
            let mut seen = Vec::new();
            for line in log.iter().filter(|line| line.starts_with("event")) {
                if !seen.contains(line) {
                    seen.push(line.clone());
                }
            }
            let expected: Vec<String> = (0..events).map(|number| format!("event {number}")).collect();
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(outbox.dropped().kept, 0);
        }
    }
}
