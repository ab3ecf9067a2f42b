//! The link against the broker that the demo embeds. What that broker lacks is in the demo's documentation; here is what
//! the demo needs of it.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/keys.rs"]
mod keys;

use beehive::link::{Incoming, Link, LinkConfig, LinkEvent, Network, OwnPresence};
use beehive_mqtt::command::{Command, Verb};
use beehive_mqtt::node::{Connection, Presence};
use beehive_mqtt::{Audience, CrewName, NodeName, Topic, decode};
use keys::Keys;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use std::collections::HashMap;
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let nodes: Vec<String> = (0..60).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = std::iter::once("master").chain(nodes.iter().map(String::as_str)).collect();
    Keys::new("c1", &names, &["u"])
});

const PATIENCE: Duration = Duration::from_secs(20);

fn crew() -> CrewName {
    "c1".parse().unwrap()
}

fn name(number: usize) -> NodeName {
    format!("n{number}").parse().unwrap()
}

/// Starts a broker that lives as long as this process; it has no end.
fn embedded() -> u16 {
    for _ in 0..20 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listen = listener.local_addr().unwrap();
        drop(listener);
        let connections = ConnectionSettings {
            connection_timeout_ms: 5_000,
            max_payload_size: 128 * 1024,
            max_inflight_count: 200,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        };
        let server =
            ServerSettings { name: "demo".to_owned(), listen, tls: None, next_connection_delay_ms: 0, connections };
        let router = RouterConfig {
            max_connections: 200,
            max_outgoing_packet_count: 200,
            max_segment_size: 1024 * 1024,
            max_segment_count: 10,
            custom_segment: None,
            initialized_filters: None,
            shared_subscriptions_strategy: rumqttd::Strategy::default(),
        };
        let config = Config {
            id: 0,
            router,
            v4: Some(HashMap::from([("demo".to_owned(), server)])),
            v5: None,
            ws: None,
            cluster: None,
            console: None,
            bridge: None,
            prometheus: None,
            metrics: None,
        };
        let broker = std::thread::spawn(move || {
            let _ = Broker::new(config).start();
        });
        let deadline = Instant::now() + PATIENCE;
        while !broker.is_finished() && Instant::now() < deadline {
            if TcpStream::connect(listen).is_ok() {
                return listen.port();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    panic!("no free port");
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

fn spawn(port: u16, id: &str, audience: Audience, presence: Topic) -> (Link, Receiver<LinkEvent>) {
    let trust = match &audience {
        Audience::Node(node) => KEYS.node(node.as_str()),
        Audience::Coordinator | Audience::Console(_) | Audience::Direct(_) => KEYS.coordinator(),
    };
    Link::spawn(LinkConfig {
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        client_id: id.to_owned(),
        crew: crew(),
        audience,
        presence: Some(OwnPresence { topic: presence, start: 1 }),
        trust,
    })
}

fn node(port: u16, number: usize) -> (Link, Receiver<LinkEvent>) {
    let node = name(number);
    spawn(port, node.as_str(), Audience::Node(node.clone()), Topic::Presence(node.clone()))
}

/// Waits until the coordinator has seen node `number` as `wanted`.
async fn presence(events: &mut Receiver<LinkEvent>, number: usize, wanted: Connection) -> Presence {
    soon("a presence", async {
        loop {
            match events.recv().await.unwrap() {
                LinkEvent::Message(Incoming { topic: Topic::Presence(node), payload, .. }) if node == name(number) => {
                    let presence: Presence = decode(&payload).unwrap();
                    if presence.status == wanted {
                        return presence;
                    }
                }
                LinkEvent::Down { reason } => panic!("{reason}"),
                _ => {}
            }
        }
    })
    .await
}

async fn command(events: &mut Receiver<LinkEvent>, number: usize) -> Command {
    soon("a command", async {
        loop {
            if let LinkEvent::Message(Incoming { topic: Topic::Command(node), payload, .. }) =
                events.recv().await.unwrap()
            {
                assert_eq!(node, name(number));
                return decode(&payload).unwrap();
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crew_of_fifty_on_the_embedded_broker() {
    const NODES: usize = 50;
    let port = embedded();
    let mut nodes: Vec<_> = (0..NODES).map(|number| node(port, number)).collect();
    let (coordinator, mut seen) = spawn(port, "coordinator", Audience::Coordinator, Topic::CoordinatorPresence);
    let mut online = std::collections::BTreeSet::new();
    soon("fifty presences", async {
        while online.len() < NODES {
            if let LinkEvent::Message(Incoming { topic: Topic::Presence(node), payload, .. }) =
                seen.recv().await.unwrap()
            {
                if decode::<Presence>(&payload).unwrap().status == Connection::Online {
                    online.insert(node);
                }
            }
        }
    })
    .await;

    let order = |id: String| Command {
        id: id.parse().unwrap(),
        nonce: "s1".parse().unwrap(),
        term: 1,
        session: 1,
        operation: None,
        expires_ms: 1000,
        verb: Verb::Identify { seconds: 1 },
    };
    for round in 0..3 {
        for number in 0..NODES {
            coordinator.publish(&Topic::Command(name(number)), &order(format!("{round}-{number}"))).unwrap();
        }
        for (number, (_, events)) in nodes.iter_mut().enumerate() {
            assert_eq!(command(events, number).await.id.as_str(), format!("{round}-{number}"));
        }
    }

    // the mains of one, the network of another
    nodes[7].0.abandon();
    presence(&mut seen, 7, Connection::Offline).await;
    nodes[9].0.set_network(Network::Cut);
    presence(&mut seen, 9, Connection::Offline).await;
    nodes[9].0.set_network(Network::Up);
    assert_eq!(presence(&mut seen, 9, Connection::Online).await.order(), (1, 2));
    nodes[7] = node(port, 7);
    presence(&mut seen, 7, Connection::Online).await;
    soon("an orderly end", nodes[11].0.close("switched off")).await;
    assert_eq!(presence(&mut seen, 11, Connection::Offline).await.reason.as_str(), "switched off");

    // and the others never noticed
    for number in [0, 7, 9, 49] {
        coordinator.publish(&Topic::Command(name(number)), &order(format!("last-{number}"))).unwrap();
        assert_eq!(command(&mut nodes[number].1, number).await.id.as_str(), format!("last-{number}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mains_that_are_cut_while_connecting_do_not_stop_the_broker() {
    let port = embedded();
    let (_coordinator, mut seen) = spawn(port, "coordinator", Audience::Coordinator, Topic::CoordinatorPresence);
    for attempt in 0..300 {
        let (link, _events) = node(port, 1);
        // each time a little later, so that every stage of a connection is met
        let until = Instant::now() + Duration::from_micros(attempt * 5);
        while Instant::now() < until {
            tokio::task::yield_now().await;
        }
        link.abandon();
    }
    let (_link, _events) = node(port, 2);
    presence(&mut seen, 2, Connection::Online).await;
}
