//! What a Pi says of itself over mDNS, taken apart. Anybody on the network may send anything there: what is not as
//! `beehive announce` writes it is left out and named, and nothing of it reaches a terminal unread.

use std::net::SocketAddr;

use beehive_mqtt::sign::KeyId;
use beehive_mqtt::{CrewName, NodeName};

use crate::announce::{Serial, State};
use crate::console::render::clean;

/// A model is 96 bytes at most where it is announced.
const MAX_TEXT_CHARS: usize = 96;

/// One Pi, as it was heard over mDNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The instance's name, cleaned.
    pub instance: String,
    /// Its crew.
    pub crew: Option<CrewName>,
    /// Its node's name.
    pub node: Option<NodeName>,
    /// The board's serial number.
    pub serial: Option<Serial>,
    /// The board's model, cleaned.
    pub model: Option<String>,
    /// beehive's version, cleaned.
    pub version: Option<String>,
    /// What it is to its crew.
    pub state: Option<State>,
    /// The key with which it asks to be enrolled.
    pub key: Option<KeyId>,
    /// Where it is reached, the enrolment's port with it; IPv4 first, link-local addresses last.
    pub addresses: Vec<SocketAddr>,
    /// The records that were not as they should be.
    pub unreadable: Vec<&'static str>,
}

/// Text for people: no control characters, and no longer than it may be.
fn text(bytes: &[u8]) -> String {
    clean(&String::from_utf8_lossy(bytes)).chars().take(MAX_TEXT_CHARS).collect()
}

impl Heard {
    /// Takes the TXT records apart. Of a key that comes twice the first counts (RFC 6763, 6.4).
    pub fn parse<'a>(
        instance: &str,
        records: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
        addresses: Vec<SocketAddr>,
    ) -> Self {
        const KEYS: [&str; 7] = ["crew", "node", "serial", "model", "version", "state", "key"];
        let mut values: [Option<Vec<u8>>; 7] = [const { None }; 7];
        for (name, value) in records {
            let known = KEYS.iter().position(|key| key.eq_ignore_ascii_case(name));
            if let Some(slot) = known.and_then(|at| values.get_mut(at)).filter(|slot| slot.is_none()) {
                *slot = Some(value.unwrap_or_default().to_vec());
            }
        }
        let [crew, node, serial, model, version, state, key] = values;
        let mut unreadable = Vec::new();
        Self {
            instance: text(instance.as_bytes()),
            crew: parsed("crew", crew, &mut unreadable),
            node: parsed("node", node, &mut unreadable),
            serial: parsed("serial", serial, &mut unreadable),
            model: model.map(|bytes| text(&bytes)),
            version: version.map(|bytes| text(&bytes)),
            state: parsed("state", state, &mut unreadable),
            key: parsed("key", key, &mut unreadable),
            addresses,
            unreadable,
        }
    }
}

/// A value that is there and is one; what is there and is none is noted.
fn parsed<T: std::str::FromStr>(
    name: &'static str,
    bytes: Option<Vec<u8>>,
    unreadable: &mut Vec<&'static str>,
) -> Option<T> {
    let value = std::str::from_utf8(&bytes?).ok().and_then(|text| text.parse().ok());
    if value.is_none() {
        unreadable.push(name);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heard(records: &[(&str, &[u8])]) -> Heard {
        Heard::parse("beehive 1", records.iter().map(|(key, value)| (*key, Some(*value))), Vec::new())
    }

    #[test]
    fn what_announce_writes_is_understood() {
        let heard = heard(&[
            ("crew", b"bee"),
            ("Node", b"pi-1"),
            ("serial", b"00000000abcdef01"),
            ("model", b"Raspberry Pi 4"),
            ("version", b"0.1.0"),
            ("state", b"waiting"),
            ("key", b"0707070707070707"),
            ("later", b"x"),
        ]);
        assert_eq!(heard.crew.unwrap().as_str(), "bee");
        assert_eq!(heard.node.unwrap().as_str(), "pi-1");
        assert_eq!(heard.serial.unwrap().as_str(), "00000000abcdef01");
        assert_eq!((heard.state, heard.key), (Some(State::Waiting), Some(KeyId([7; 8]))));
        assert_eq!((heard.model.as_deref(), heard.version.as_deref()), (Some("Raspberry Pi 4"), Some("0.1.0")));
        assert!(heard.unreadable.is_empty());
    }

    #[test]
    fn hostile_records_are_left_out_and_named() {
        let long = [b'a'; 255];
        let heard = heard(&[
            ("crew", b"../../etc"),
            ("node", b"pi-1\x1b[2J"),
            ("serial", &long),
            ("model", b"\x1b]0;owned\x07\xff\xfe"),
            ("version", &long),
            ("state", b"root"),
            ("key", b"zz"),
            ("node", b"pi-2"),
        ]);
        assert_eq!(heard.unreadable, ["crew", "node", "serial", "state", "key"]);
        assert_eq!((heard.crew, heard.node), (None, None), "the first of two counts, whatever it is");
        assert_eq!(heard.model.unwrap(), "\u{fffd}]0;owned\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(heard.version.unwrap().len(), MAX_TEXT_CHARS);
        let empty = Heard::parse("\x1b[31m", [("crew", None), ("", Some(b"x".as_slice()))], Vec::new());
        assert_eq!((empty.instance.as_str(), empty.unreadable), ("\u{fffd}[31m", vec!["crew"]));
    }

    proptest! {
        #[test]
        fn nothing_on_the_wire_reaches_a_terminal(
            records in prop::collection::vec(("[a-z]{0,8}|crew|node|model|version|state", prop::collection::vec(any::<u8>(), 0..255)), 0..12),
        ) {
            let heard = Heard::parse("x", records.iter().map(|(k, v)| (k.as_str(), Some(v.as_slice()))), Vec::new());
            let shown = [heard.model, heard.version].into_iter().flatten();
            prop_assert!(shown.flat_map(|text| text.chars().collect::<Vec<_>>()).all(|c| !c.is_control()));
        }
    }
}
