//! What mosquitto is told: its configuration, who may read and write what, and whose certificate it lets in.
//!
//! Facts it rests on (mosquitto 2.0.11, tried):
//! - With `use_identity_as_username` the certificate's common name is the user, and no password is looked at. A user
//!   without a rule still connects; therefore the certificates themselves are listed (see [`super::tls`]).
//! - Rules and certificates are read again at SIGHUP, but a connection that is there stays, and a certificate that was
//!   trusted stays trusted. So whoever changes them restarts the broker (`beehive broker apply`); nodes are back
//!   within seconds.
//! - A refused publish is silent in MQTT 3.1.1, and a subscription is always granted and then left empty.
//! - Above `max_queued_messages` it drops messages of quality of service 1; above `message_size_limit` it ends the
//!   sender's connection, and a client meets its own limit in the same way, so the broker's is below the client's.

use super::tls::Identity;
use beehive_mqtt::codec::MAX_PACKET_BYTES;
use beehive_mqtt::{CrewName, LAYOUT, NodeName, UserName};
use std::fmt::Write;
use std::path::PathBuf;

/// MQTT over TLS, as registered with IANA.
pub const PORT: u16 = 8883;

/// Below the client's limit by more than a packet's header and topic take.
pub const MESSAGE_SIZE_LIMIT: usize = 120 * 1024;
const _: () = assert!(MESSAGE_SIZE_LIMIT + beehive_mqtt::topic::MAX_TOPIC_BYTES + 16 <= MAX_PACKET_BYTES);

/// A console that stalls for a minute while a crew of 64 starts misses nothing.
const MAX_QUEUED_MESSAGES: u32 = 10_000;

/// A crew has 64 nodes; a coordinator and some dozens of consoles and tools come on top. Bounds the broker's memory.
const MAX_CONNECTIONS: u32 = 256;

/// What one stalled client may hold of the broker's memory.
const MAX_QUEUED_BYTES: usize = 4 * 1024 * 1024;

/// The file names in the broker's folder.
pub mod file {
    /// The configuration.
    pub const CONFIG: &str = "beehive.conf";
    /// Who may read and write what.
    pub const ACL: &str = "beehive.acl";
    /// The certificates that are let in.
    pub const CLIENTS: &str = "clients.crt";
    /// The broker's certificate.
    pub const CERTIFICATE: &str = "broker.crt";
    /// The broker's private key.
    pub const KEY: &str = "broker.key";
}

/// What somebody may do at the broker. (What a signature may ask for is another matter: the manifest says that.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A node: it writes its own subtree and reads its own commands.
    Node(NodeName),
    /// The node that runs the coordinator, too.
    Master(NodeName),
    /// One who asks and watches.
    Operator(UserName),
    /// Asks for tools, and tells them what there is.
    Bridge(UserName),
    /// One who watches.
    Watcher(UserName),
    /// A program that speaks to a bridge.
    Tool(UserName),
}

impl Part {
    /// Whose part it is.
    pub fn identity(&self) -> Identity {
        match self {
            Self::Node(node) | Self::Master(node) => Identity::Node(node.clone()),
            Self::Operator(user) | Self::Bridge(user) | Self::Watcher(user) => Identity::User(user.clone()),
            Self::Tool(tool) => Identity::Tool(tool.clone()),
        }
    }

    /// The rules: below the crew's root unless they begin with a slash.
    fn rules(&self) -> Vec<(Right, String)> {
        use Right::{Read, Write};
        let watch =
            |user: &UserName| vec![(Read, "n/#".to_owned()), (Read, "c/#".to_owned()), (Read, format!("p/{user}/#"))];
        let node = |node: &NodeName| {
            vec![
                (Write, format!("n/{node}/#")),
                (Read, format!("n/{node}/presence")),
                (Read, format!("d/{node}/#")),
                (Read, format!("q/+/direct/{node}")),
                (Read, "c/presence".to_owned()),
                (Read, "c/state".to_owned()),
                (Read, "c/manifest".to_owned()),
            ]
        };
        let asks = |user: &UserName| [watch(user), vec![(Write, format!("q/{user}/#"))]].concat();
        match self {
            Self::Node(name) => node(name),
            Self::Master(name) => {
                let more =
                    [(Write, "c/#"), (Write, "d/#"), (Write, "p/#"), (Read, "n/#"), (Read, "q/#"), (Read, "c/#")];
                [node(name), more.map(|(right, tail)| (right, tail.to_owned())).to_vec()].concat()
            }
            // the crew's own key signs it, so whoever writes it can only hold it back, and the coordinator then writes its own
            Self::Operator(user) => [asks(user), vec![(Write, "c/manifest".to_owned())]].concat(),
            Self::Bridge(user) => {
                let more = vec![
                    (Read, "b/#".to_owned()),
                    (Write, format!("h/{user}/#")),
                    (Write, "/homeassistant/device/+/config".to_owned()),
                    (Read, "/homeassistant/device/+/config".to_owned()),
                    (Read, "/homeassistant/status".to_owned()),
                ];
                [asks(user), more].concat()
            }
            Self::Watcher(user) => watch(user),
            Self::Tool(tool) => vec![
                (Write, format!("b/{tool}/#")),
                (Read, "h/#".to_owned()),
                (Read, "n/+/presence".to_owned()),
                (Read, "n/+/telemetry".to_owned()),
                (Read, "c/presence".to_owned()),
                (Read, "/homeassistant/#".to_owned()),
                (Write, "/homeassistant/status".to_owned()),
            ],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    Read,
    Write,
}

/// A broker for one crew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The crew.
    pub crew: CrewName,
    /// The port of the one listener, [`PORT`] as a rule.
    pub port: u16,
    /// Where the files of [`file`] lie on the broker's machine. Without white space or quotes: mosquitto takes what
    /// stands to the end of the line as it is.
    pub dir: PathBuf,
    /// Everybody who may connect.
    pub parts: Vec<Part>,
}

impl Plan {
    /// `beehive.conf`, a file for mosquitto's `conf.d`: where the store lies and where it logs is the system's affair.
    pub fn config(&self) -> String {
        let Self { crew, port, dir, parts: _ } = self;
        let dir = dir.display();
        format!(
            "# Written by `beehive broker` for crew {crew}. Changes are lost at the next `beehive broker apply`.\n\
             # One listener, TLS alone. Who connects is who his certificate says; nobody is anonymous.\n\
             per_listener_settings false\n\
             allow_anonymous false\n\
             acl_file {dir}/{acl}\n\
             # What survives a restart of the broker.\n\
             persistence true\n\
             # A session that nobody comes back for is forgotten; beehive itself keeps none.\n\
             persistent_client_expiration 1h\n\
             # Below the limit of beehive's clients, which is {MAX_PACKET_BYTES}.\n\
             message_size_limit {MESSAGE_SIZE_LIMIT}\n\
             max_queued_messages {MAX_QUEUED_MESSAGES}\n\
             max_queued_bytes {MAX_QUEUED_BYTES}\n\
             set_tcp_nodelay true\n\
             \n\
             listener {port}\n\
             max_connections {MAX_CONNECTIONS}\n\
             tls_version tlsv1.2\n\
             certfile {dir}/{certificate}\n\
             keyfile {dir}/{key}\n\
             # The list of those who are let in: certificates of users and tools, and an anchor for each node. All else is refused.\n\
             cafile {dir}/{clients}\n\
             require_certificate true\n\
             use_identity_as_username true\n",
            acl = file::ACL,
            certificate = file::CERTIFICATE,
            key = file::KEY,
            clients = file::CLIENTS,
        )
    }

    /// `beehive.acl`: what is not granted there is refused.
    pub fn acl(&self) -> String {
        let crew = &self.crew;
        let mut text = format!("# Written by `beehive broker` for crew {crew}: one subtree a writer.\n");
        for part in &self.parts {
            // writing into a String does not fail
            let _ = writeln!(text, "\nuser {}", part.identity().common_name());
            for (right, tail) in part.rules() {
                let right = match right {
                    Right::Read => "read",
                    Right::Write => "write",
                };
                let _ = match tail.strip_prefix('/') {
                    Some(whole) => writeln!(text, "topic {right} {whole}"),
                    None => writeln!(text, "topic {right} beehive/{LAYOUT}/{crew}/{tail}"),
                };
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beehive_mqtt::{Audience, Topic};

    fn crew() -> CrewName {
        "c1".parse().unwrap()
    }

    fn plan(parts: Vec<Part>) -> Plan {
        Plan { crew: crew(), port: PORT, dir: "/etc/mosquitto/beehive".into(), parts }
    }

    /// Whether a filter holds for a topic, or for every topic of another filter.
    fn covers(filter: &str, topic: &str) -> bool {
        let (mut wanted, mut given) = (filter.split('/'), topic.split('/'));
        loop {
            match (wanted.next(), given.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(level)) if level != "#" => {}
                (Some(wanted), Some(given)) if wanted == given => {}
                (Some(_) | None, Some(_)) | (Some(_), None) => return false,
            }
        }
    }

    fn may(part: &Part, right: &str, topic: &str) -> bool {
        let acl = plan(vec![part.clone()]).acl();
        acl.lines().filter_map(|line| line.strip_prefix(&format!("topic {right} "))).any(|filter| covers(filter, topic))
    }

    fn parts() -> [Part; 6] {
        let user = || "u1".parse().unwrap();
        [
            Part::Node("n1".parse().unwrap()),
            Part::Master("n0".parse().unwrap()),
            Part::Operator(user()),
            Part::Bridge(user()),
            Part::Watcher(user()),
            Part::Tool(user()),
        ]
    }

    #[test]
    fn everybody_may_read_what_he_subscribes_to() {
        let [node, master, operator, bridge, watcher, _] = parts();
        for (part, audience) in [
            (&node, Audience::Node("n1".parse().unwrap())),
            (&master, Audience::Node("n0".parse().unwrap())),
            (&master, Audience::Coordinator),
            (&operator, Audience::Console("u1".parse().unwrap())),
            (&operator, Audience::Direct("n1".parse().unwrap())),
            (&bridge, Audience::Console("u1".parse().unwrap())),
            (&watcher, Audience::Console("u1".parse().unwrap())),
        ] {
            for wanted in audience.subscriptions(&crew()) {
                assert!(may(part, "read", &wanted.filter), "{part:?} {}", wanted.filter);
            }
        }
    }

    #[test]
    fn each_topic_has_its_writers_and_no_others() {
        let [node, master, operator, bridge, _, _] = parts();
        let (n0, n1) = (|| "n0".parse::<NodeName>().unwrap(), || "n1".parse::<NodeName>().unwrap());
        let user = || "u1".parse::<UserName>().unwrap();
        let id = || "o1".parse::<beehive_mqtt::OperationId>().unwrap();
        for (topic, writers) in [
            (Topic::Presence(n1()), &[&node][..]),
            (Topic::State(n1()), &[&node]),
            (Topic::Result(n1()), &[&node]),
            (Topic::Request(n1()), &[&node]),
            (Topic::State(n0()), &[&master]),
            (Topic::State("n2".parse().unwrap()), &[]),
            (Topic::Command(n1()), &[&master]),
            (Topic::CoordinatorPresence, &[&master]),
            (Topic::Manifest, &[&master, &operator]),
            (Topic::CoordinatorState, &[&master]),
            (Topic::Operation(id()), &[&master]),
            (Topic::OperationNode(id(), n1()), &[&master]),
            (Topic::CoordinatorEvent, &[&master]),
            (Topic::ConsoleResponse(user()), &[&master]),
            (Topic::ConsoleRequest(user()), &[&operator, &bridge]),
            (Topic::ConsoleRequest("u2".parse().unwrap()), &[]),
            // a bridge is refused by the node: its role is no operator's
            (Topic::Direct(user(), n1()), &[&operator, &bridge]),
            (Topic::Direct("u2".parse().unwrap(), n1()), &[]),
        ] {
            for part in &parts() {
                let expected = writers.contains(&part);
                assert_eq!(may(part, "write", &topic.name(&crew())), expected, "{part:?} {topic:?}");
            }
        }
    }

    #[test]
    fn nobody_but_its_node_and_nobody_asking_reads_a_command_or_an_answer() {
        let own = Topic::Command("n1".parse().unwrap()).name(&crew());
        let other = Topic::Command("n2".parse().unwrap()).name(&crew());
        let answer = Topic::ConsoleResponse("u2".parse().unwrap()).name(&crew());
        for part in &parts() {
            assert_eq!(may(part, "read", &own), *part == Part::Node("n1".parse().unwrap()), "{part:?}");
            assert!(!may(part, "read", &other), "{part:?}");
            assert!(!may(part, "read", &answer), "{part:?}");
        }
    }

    #[test]
    fn a_direct_request_is_read_by_its_node_alone_and_the_master() {
        let own = Topic::Direct("u1".parse().unwrap(), "n1".parse().unwrap()).name(&crew());
        let [node, master, ..] = parts();
        for part in &parts() {
            assert_eq!(may(part, "read", &own), *part == node || *part == master, "{part:?}");
        }
    }

    #[test]
    fn the_configuration_has_no_way_in_but_one() {
        let text = plan(parts().to_vec()).config();
        assert_eq!(text.lines().filter(|line| line.starts_with("listener ")).collect::<Vec<_>>(), ["listener 8883"]);
        for line in ["allow_anonymous false", "require_certificate true", "use_identity_as_username true"] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
        assert!(!text.contains("crlfile"), "a revocation list that has run out would lock everybody out");
    }
}
