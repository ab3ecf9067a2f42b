//! The Pis that were found, put together from what they say over mDNS, what the broker knows, and what the crew's folder says;
//! and what an operator should look at. Pure functions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use beehive_mqtt::sign::KeyId;
use beehive_mqtt::{CrewName, NodeName};
use serde_json::{Value, json};

use super::mdns::link_local;
use super::txt::Heard;
use crate::announce::{Serial, State};
use crate::console::model::Seen;
use crate::console::render::{clean, table};

/// How a Pi was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// It announces itself.
    Mdns,
    /// The broker knows it.
    Mqtt,
    /// Both.
    Both,
}

impl By {
    /// The word in tables and documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mdns => "mdns",
            Self::Mqtt => "mqtt",
            Self::Both => "mdns+mqtt",
        }
    }
}

/// A node as the broker knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub node: NodeName,
    /// Whether it is there.
    pub seen: Seen,
    /// Its model, as it said; nothing if it said nothing.
    pub model: Option<String>,
    /// beehive's version there.
    pub version: Option<String>,
}

/// What there is to compare with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// The crew that is meant.
    pub crew: Option<CrewName>,
    /// What its broker knows; empty where that was not asked.
    pub known: Vec<Known>,
    /// What the crew's folder says; nothing where there is none.
    pub folder: Option<InFolder>,
}

/// The crew, by its folder on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InFolder {
    /// The nodes in its manifest.
    pub nodes: BTreeSet<NodeName>,
    /// The cards that were made to enrol.
    pub cards: BTreeMap<NodeName, Card>,
}

/// The last card of a node that was made to enrol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// The id of its key, if it can be read.
    pub key: Option<KeyId>,
    /// Whether somebody has enrolled with it.
    pub used: Used,
}

/// Whether a card's secret was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// Its node is enrolled.
    Yes,
    /// It waits for its Pi.
    NotYet,
}

/// What an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// It is of another crew than the one that is meant.
    OtherCrew,
    /// This many have its name in its crew.
    SameName(usize),
    /// It waits for its enrolment.
    Waits,
    /// An alarm: it waits with a secret for a place that is taken.
    EnrolledAlready(Evidence),
    /// It waits with another card's key than the crew's folder has for its node.
    OtherCard,
    /// It says that it has this crew's keys, and the crew's folder does not know it.
    NotOfTheCrew,
    /// It says something that beehive does not say.
    Unreadable(Vec<&'static str>),
}

/// Why a node counts as enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The crew's folder says so.
    Folder,
    /// It is online at the broker, and that needs its keys.
    Online,
}

impl Remark {
    /// A stable word for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OtherCrew => "other-crew",
            Self::SameName(_) => "same-name",
            Self::Waits => "waits",
            Self::EnrolledAlready(_) => "enrolled-already",
            Self::OtherCard => "other-card",
            Self::NotOfTheCrew => "not-of-the-crew",
            Self::Unreadable(_) => "unreadable",
        }
    }

    /// Whether nobody should go on before it was looked at.
    pub fn is_alarm(&self) -> bool {
        match self {
            Self::EnrolledAlready(_) => true,
            Self::OtherCrew
            | Self::SameName(_)
            | Self::Waits
            | Self::OtherCard
            | Self::NotOfTheCrew
            | Self::Unreadable(_) => false,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::OtherCrew => "is of another crew".to_owned(),
            Self::SameName(count) => {
                format!("has a name that {count} Pis have: a copied card, or two cards made for one node")
            }
            Self::Waits => "waits for its enrolment".to_owned(),
            Self::EnrolledAlready(evidence) => {
                let why = match evidence {
                    Evidence::Folder => "the crew's folder says that this node is enrolled",
                    Evidence::Online => "a Pi with this node's keys is online at the broker",
                };
                format!(
                    "ALARM: waits for an enrolment although {why}. Somebody uses the secret of a card a second time, or this is \
                     an old card: do not enrol it before you know which"
                )
            }
            Self::OtherCard => {
                "waits with another card than the crew's folder has for this node: prepared before it was made anew, or elsewhere"
                    .to_owned()
            }
            Self::NotOfTheCrew => "says that it is a member of this crew, which does not know it".to_owned(),
            Self::Unreadable(what) => format!("says something that beehive does not say ({}): another program", what.join(", ")),
        }
    }
}

/// One Pi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pi {
    /// Its node's name.
    pub node: Option<NodeName>,
    /// Its crew.
    pub crew: Option<CrewName>,
    /// The board's serial number.
    pub serial: Option<Serial>,
    /// The board's model.
    pub model: Option<String>,
    /// beehive's version.
    pub version: Option<String>,
    /// What it says that it is.
    pub state: Option<State>,
    /// Whether the broker has it online.
    pub seen: Option<Seen>,
    /// The key with which it asks to be enrolled.
    pub key: Option<KeyId>,
    /// Where it is reached.
    pub addresses: Vec<SocketAddr>,
    /// How it was found.
    pub by: By,
    /// What to look at.
    pub remarks: Vec<Remark>,
}

/// Puts everything together: sorted by crew, node and serial number.
pub fn picture(heard: Vec<Heard>, context: &Context) -> Vec<Pi> {
    let mut pis: Vec<Pi> = heard.into_iter().map(|heard| of_heard(heard, context)).collect();
    for known in &context.known {
        let is_one = |pi: &Pi| pi.crew == context.crew && pi.node.as_ref() == Some(&known.node);
        let mut there = false;
        // one that has no keys is not the one that is connected
        for pi in pis.iter_mut().filter(|pi| is_one(pi) && pi.state == Some(State::Member)) {
            there = true;
            pi.by = By::Both;
            pi.seen = Some(known.seen);
        }
        if !there {
            pis.push(Pi {
                node: Some(known.node.clone()),
                crew: context.crew.clone(),
                serial: None,
                model: known.model.as_deref().map(clean),
                version: known.version.as_deref().map(clean),
                state: None,
                seen: Some(known.seen),
                key: None,
                addresses: Vec::new(),
                by: By::Mqtt,
                remarks: Vec::new(),
            });
        }
    }
    let names: Vec<_> = pis
        .iter()
        .filter(|pi| matches!(pi.by, By::Mdns | By::Both))
        .map(|pi| (pi.crew.clone(), pi.node.clone()))
        .collect();
    for pi in pis.iter_mut().filter(|pi| pi.node.is_some() && pi.by != By::Mqtt) {
        let same = names.iter().filter(|(crew, node)| *crew == pi.crew && *node == pi.node).count();
        if same > 1 {
            pi.remarks.push(Remark::SameName(same));
        }
    }
    pis.sort_by(|a, b| (&a.crew, &a.node, &a.serial).cmp(&(&b.crew, &b.node, &b.serial)));
    pis
}

fn of_heard(heard: Heard, context: &Context) -> Pi {
    let mut remarks = Vec::new();
    let ours = heard.crew.is_some() && heard.crew == context.crew;
    if heard.crew.is_some() && context.crew.is_some() && !ours {
        remarks.push(Remark::OtherCrew);
    }
    let folder = context.folder.as_ref().filter(|_| ours);
    let card = heard.node.as_ref().zip(folder).and_then(|(node, folder)| folder.cards.get(node));
    let online = |known: &Known| Some(&known.node) == heard.node.as_ref() && known.seen == Seen::Online;
    let online = ours && context.known.iter().any(online);
    match heard.state {
        Some(State::Waiting) => remarks.push(match card {
            Some(Card { used: Used::Yes, .. }) => Remark::EnrolledAlready(Evidence::Folder),
            Some(Card { used: Used::NotYet, .. }) | None if online => Remark::EnrolledAlready(Evidence::Online),
            Some(Card { used: Used::NotYet, key: Some(key) }) if heard.key.is_some_and(|said| said != *key) => {
                Remark::OtherCard
            }
            Some(Card { used: Used::NotYet, .. }) | None => Remark::Waits,
        }),
        Some(State::Member) => {
            let strange = |(node, folder): (&NodeName, &InFolder)| !folder.nodes.contains(node);
            if heard.node.as_ref().zip(folder).is_some_and(strange) {
                remarks.push(Remark::NotOfTheCrew);
            }
        }
        Some(State::Stranger) | None => {}
    }
    if !heard.unreadable.is_empty() {
        remarks.push(Remark::Unreadable(heard.unreadable));
    }
    Pi {
        node: heard.node,
        crew: heard.crew,
        serial: heard.serial,
        model: heard.model,
        version: heard.version,
        state: heard.state,
        seen: None,
        key: heard.key,
        addresses: heard.addresses,
        by: By::Mdns,
        remarks,
    }
}

/// An address as `ping` and `ssh` take it.
fn ip(address: &SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if link_local(address) && v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address.ip().to_string(),
    }
}

const UNKNOWN: &str = "-";

impl Pi {
    fn title(&self) -> String {
        let node = self.node.as_ref().map_or("a Pi without a name", NodeName::as_str);
        match &self.serial {
            Some(serial) => format!("{node} ({})", serial.as_str()),
            None => node.to_owned(),
        }
    }

    fn state_text(&self) -> String {
        let seen = self.seen.filter(|seen| *seen != Seen::Unknown).map(Seen::as_str);
        match (self.state, seen) {
            (Some(state), Some(seen)) => format!("{}, {seen}", state.word()),
            (Some(state), None) => state.word().to_owned(),
            (None, Some(seen)) => seen.to_owned(),
            (None, None) => UNKNOWN.to_owned(),
        }
    }

    fn document(&self) -> Value {
        json!({
            "node": self.node.as_ref().map(NodeName::as_str),
            "crew": self.crew.as_ref().map(CrewName::as_str),
            "serial": self.serial.as_ref().map(Serial::as_str),
            "model": self.model,
            "version": self.version,
            "state": self.state.map(State::word),
            "presence": self.seen,
            "key": self.key.map(|key| key.to_string()),
            "addresses": self.addresses.iter().map(ip).collect::<Vec<_>>(),
            "port": self.addresses.first().map(SocketAddr::port),
            "found": self.by.word(),
            "remarks": self.remarks.iter().map(|remark| json!({
                "code": remark.code(), "alarm": remark.is_alarm(), "text": remark.text()
            })).collect::<Vec<_>>(),
        })
    }
}

/// The table, and below it what to look at.
pub fn text(pis: &[Pi]) -> String {
    let known = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or(UNKNOWN).to_owned();
    let rows: Vec<Vec<String>> = pis
        .iter()
        .map(|pi| {
            let addresses: Vec<String> = pi.addresses.iter().map(ip).collect();
            vec![
                known(pi.node.as_ref().map(NodeName::as_str)),
                known(pi.crew.as_ref().map(CrewName::as_str)),
                pi.state_text(),
                known(pi.serial.as_ref().map(Serial::as_str)),
                known(pi.model.as_deref()),
                pi.by.word().to_owned(),
                known(Some(&addresses.join(" "))),
            ]
        })
        .collect();
    let mut text = table(&["NODE", "CREW", "STATE", "SERIAL", "MODEL", "FOUND", "ADDRESSES"], &rows);
    for pi in pis {
        for remark in &pi.remarks {
            text.push_str(&format!("{} {}\n", pi.title(), remark.text()));
        }
    }
    text
}

/// The same for programs.
pub fn document(pis: &[Pi], context: &Context) -> Value {
    json!({
        "crew": context.crew.as_ref().map(CrewName::as_str),
        "alarms": pis.iter().flat_map(|pi| &pi.remarks).filter(|remark| remark.is_alarm()).count(),
        "pis": pis.iter().map(Pi::document).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(crew: &str, node: &str, serial: &str, state: &str) -> Heard {
        let records = [("crew", crew), ("node", node), ("serial", serial), ("state", state)];
        let addresses = vec!["10.0.0.7:7884".parse().unwrap(), "[fe80::7%2]:7884".parse().unwrap()];
        Heard::parse("x", records.iter().map(|(key, value)| (*key, Some(value.as_bytes()))), addresses)
    }

    fn context(known: &[(&str, Seen)], folder: Option<InFolder>) -> Context {
        let known = known.iter().map(|(node, seen)| Known {
            node: node.parse().unwrap(),
            seen: *seen,
            model: Some("Pi\u{1b}".to_owned()),
            version: None,
        });
        Context { crew: Some("bee".parse().unwrap()), known: known.collect(), folder }
    }

    fn folder(nodes: &[&str], cards: &[(&str, u8, Used)]) -> InFolder {
        let card = |key: u8, used: Used| Card { key: Some(KeyId([key; 8])), used };
        InFolder {
            nodes: nodes.iter().map(|node| node.parse().unwrap()).collect(),
            cards: cards.iter().map(|(node, key, used)| (node.parse().unwrap(), card(*key, *used))).collect(),
        }
    }

    fn codes(pi: &Pi) -> Vec<&'static str> {
        pi.remarks.iter().map(Remark::code).collect()
    }

    #[test]
    fn what_an_operator_should_look_at_is_marked() {
        let all = vec![
            heard("bee", "pi-1", "01", "member"),
            heard("bee", "pi-2", "02", "waiting"),
            heard("bee", "pi-3", "03", "waiting"),
            heard("bee", "pi-3", "13", "member"),
            heard("wasp", "pi-1", "04", "waiting"),
            heard("bee", "pi-9", "05", "member"),
            heard("bee", "pi-8", "06", "stranger"),
            heard("bee", "pi-7", "07", "!"),
        ];
        let folder = folder(&["pi-1", "pi-2", "pi-3", "pi-4"], &[("pi-2", 2, Used::NotYet), ("pi-3", 3, Used::Yes)]);
        let pis = picture(all, &context(&[("pi-1", Seen::Online), ("pi-4", Seen::Offline)], Some(folder)));
        let got: Vec<(String, &str, Vec<&str>)> = pis.iter().map(|pi| (pi.title(), pi.by.word(), codes(pi))).collect();
        let expected: Vec<(String, &str, Vec<&str>)> = vec![
            ("pi-1 (01)".to_owned(), "mdns+mqtt", vec![]),
            ("pi-2 (02)".to_owned(), "mdns", vec!["waits"]),
            ("pi-3 (03)".to_owned(), "mdns", vec!["enrolled-already", "same-name"]),
            ("pi-3 (13)".to_owned(), "mdns", vec!["same-name"]),
            ("pi-4".to_owned(), "mqtt", vec![]),
            ("pi-7 (07)".to_owned(), "mdns", vec!["unreadable"]),
            ("pi-8 (06)".to_owned(), "mdns", vec![]),
            ("pi-9 (05)".to_owned(), "mdns", vec!["not-of-the-crew"]),
            ("pi-1 (04)".to_owned(), "mdns", vec!["other-crew", "waits"]),
        ];
        assert_eq!(got, expected);
        let shown = text(&pis);
        assert!(shown.contains("member, online") && shown.contains("10.0.0.7 fe80::7%2"), "{shown}");
        assert!(shown.contains("pi-3 (03) ALARM") && !shown.contains('\u{1b}'), "{shown}");
        let document = document(&pis, &context(&[], None));
        assert_eq!((document["alarms"].as_u64(), document["pis"].as_array().unwrap().len()), (Some(1), 9));
        assert_eq!(document["pis"][0]["presence"], "online");
    }

    #[test]
    fn a_pi_that_waits_is_not_the_one_that_is_connected() {
        let waiting = || vec![heard("bee", "pi-1", "01", "waiting")];
        let pis = picture(waiting(), &context(&[("pi-1", Seen::Online)], None));
        assert_eq!(pis.iter().map(|pi| pi.by).collect::<Vec<_>>(), [By::Mqtt, By::Mdns]);
        assert_eq!(pis[1].remarks, [Remark::EnrolledAlready(Evidence::Online)]);
        // one that is gone may have got a new card
        let pis = picture(waiting(), &context(&[("pi-1", Seen::Offline)], None));
        assert_eq!(pis[1].remarks, [Remark::Waits]);
        // a card that was made anew
        let with = |key: u8| {
            let mut one = waiting();
            one[0].key = Some(KeyId([key; 8]));
            let folder = folder(&["pi-1"], &[("pi-1", 1, Used::NotYet)]);
            picture(one, &context(&[], Some(folder)))[0].remarks.clone()
        };
        assert_eq!((with(1), with(2)), (vec![Remark::Waits], vec![Remark::OtherCard]));
        // without a crew that is meant nothing is compared
        let pis = picture(waiting(), &Context::default());
        assert_eq!(pis[0].remarks, [Remark::Waits]);
    }
}
