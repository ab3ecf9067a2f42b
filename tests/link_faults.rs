//! The link and a real mosquitto with a bad network between them. The first tests are the rows of what is known of
//! rumqttc 0.25: what would break if the link left it to that client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/ends.rs"]
mod ends;
#[path = "common/keys.rs"]
mod keys;

use beehive::link::{Dropped, Link, LinkConfig, LinkEvent, OwnPresence, Refusal};
use beehive_mqtt::codec::MAX_PACKET_BYTES;
use beehive_mqtt::command::Command;
use beehive_mqtt::node::{CommandResult, Connection, NodeEvent, NodeState};
use beehive_mqtt::{Audience, Payload, Topic, decode};
use common::proxy::{Kind, Proxy, Side, Weather};
use common::{Mosquitto, PATIENCE, Plain, Retain, soon};
use ends::{End, KEYS, START, command, config, event, n1, name, presence, result, state, status, telemetry, wire};
use rumqttc::{AsyncClient, LastWill, MqttOptions, QoS};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A mosquitto and a network that leads to it.
async fn ground() -> (Mosquitto, Proxy) {
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port).await;
    (broker, proxy)
}

/// The sequence numbers of the events that come until `last` does, repeats left out.
async fn events_until(watcher: &mut Plain, last: u32) -> Vec<u32> {
    let mut seen = Vec::new();
    loop {
        let publish = watcher.next("an event").await;
        let sequence = decode::<NodeEvent>(&publish.payload).unwrap().sequence;
        if !seen.contains(&sequence) {
            seen.push(sequence);
        }
        if sequence == last {
            return seen;
        }
    }
}

fn publish_events(node: &End, range: std::ops::Range<u32>) {
    for sequence in range {
        node.link.publish(&n1(Topic::Event), &event(sequence)).unwrap();
    }
}

// ---- what is known of rumqttc, row by row

/// "Requests already accepted are dropped when the reconnect's session is not present."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_client_had_accepted_survives_the_loss_of_its_session() {
    let (broker, proxy) = ground().await;
    let mut watcher = Plain::connect(broker.port, "watcher", &[&wire(&n1(Topic::Event))]).await;
    let mut node = End::node(proxy.port, "n1");
    node.up().await;
    // written, acknowledged by nobody
    proxy.set(Weather::Deaf);
    publish_events(&node, 0..60);
    soon("all of them to be lost", proxy.lost().wait_for(|count| *count >= 60)).await.unwrap();
    proxy.set(Weather::Reset);
    node.down().await;
    proxy.set(Weather::Fair);
    assert_eq!(events_until(&mut watcher, 59).await, (0..60).collect::<Vec<_>>());
    assert_eq!(node.link.dropped(), Dropped::default());
}

/// "After a lost session a resend can collide on the packet id and then nothing is published any more."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packet_ids_that_were_in_use_when_the_session_went_stop_nothing() {
    let (broker, proxy) = ground().await;
    let mut watcher = Plain::connect(broker.port, "watcher", &[&wire(&n1(Topic::Event))]).await;
    let mut node = End::node(proxy.port, "n1");
    node.up().await;
    let mut next = 0;
    let mut swallowed = proxy.swallowed();
    for (round, acknowledged) in [0, 1, 7, 40].into_iter().enumerate() {
        // the first few are acknowledged, the others never: as many as the client's window of 100 has room for, whatever of
        // it was still open
        proxy.swallow(Side::Broker, Kind::PubAck, acknowledged);
        let before = *swallowed.borrow_and_update();
        publish_events(&node, next..next + 110 + u32::try_from(acknowledged).unwrap());
        soon("the window to be full", swallowed.wait_for(|count| *count >= before + 95)).await.unwrap();
        proxy.reset_all();
        proxy.clear();
        let reason = node.down().await;
        assert!(reason.starts_with("lost the broker"), "round {round}: {reason}");
        next += 110 + u32::try_from(acknowledged).unwrap();
        // and on: with what waits more than there are packet ids in the window, twice
        publish_events(&node, next..next + 50);
        next += 50;
        events_until(&mut watcher, next - 1).await;
        node.up().await;
    }
    assert_eq!(node.link.dropped(), Dropped::default());
}

/// "Default packet limit 10 KiB: one retained message of 20 KB is an endless reconnect loop."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_retained_message_is_refused_and_not_met_again_and_again() {
    let broker = Mosquitto::start();
    let mut stranger = Plain::connect(broker.port, "stranger", &[]).await;
    for bytes in [20_000, 100 * 1024] {
        let (topic, payload) = (wire(&n1(Topic::State)), vec![b'x'; bytes]);
        stranger.publish(&topic, Retain::Yes, &payload).await;
        let mut coordinator = End::coordinator(broker.port);
        let (found, why) = coordinator.refused().await;
        assert_eq!(found, topic);
        assert_eq!(why, Refusal::Oversized { bytes, limit: NodeState::MAX_BYTES });
        // the connection is still the first one
        let mut node = End::node(broker.port, "n2");
        node.link.publish(&Topic::State(name("n2")), &state(1)).unwrap();
        coordinator.message(&Topic::State(name("n2"))).await;
        node.up().await;
        soon("the end", coordinator.link.close("enough")).await;
        soon("the end", node.link.close("enough")).await;
    }
}

/// The same beyond our own limit, with a broker that was not given one: the link cannot live, but it says why and what to
/// do, does not hammer the broker, and is well once that is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_beyond_the_protocol_is_named_and_can_be_mended() {
    let broker = Mosquitto::with_limits(1000, 0);
    let proxy = Proxy::start(broker.port).await;
    let mut stranger = Plain::connect(broker.port, "stranger", &[]).await;
    let topic = wire(&n1(Topic::State));
    stranger.publish(&topic, Retain::Yes, &vec![b'x'; MAX_PACKET_BYTES + 1]).await;
    let begun = Instant::now();
    let mut coordinator = End::coordinator(proxy.port);
    let reason = coordinator.down().await;
    assert!(reason.contains("more than the 131072 of this protocol"), "{reason}");
    assert!(reason.contains("clear the topic if the message is retained"), "{reason}");
    soon("some attempts", proxy.accepted().wait_for(|count| *count >= 6)).await.unwrap();
    // half of 100, 200, 400, 800 and 1000 ms at least
    assert!(begun.elapsed() >= Duration::from_millis(1250), "{:?}", begun.elapsed());
    assert!(coordinator.link.refused().oversized >= 5);
    stranger.publish(&topic, Retain::Yes, b"").await;
    coordinator.up().await;
}

/// "`publish().await` blocks while the event loop is not polled": ours never waits, and does not grow either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_into_a_connection_that_takes_nothing_neither_waits_nor_grows() {
    let (broker, proxy) = ground().await;
    let mut node = End::node(proxy.port, "n1");
    node.up().await;
    proxy.set(Weather::StopReading(Side::Client));
    // it is no `async` function: that it returns is the test; 20,000 events and 40,000 others in this loop
    for sequence in 0..20_000 {
        node.link.publish(&n1(Topic::Event), &event(sequence)).unwrap();
        node.link.publish(&n1(Topic::Telemetry), &telemetry()).unwrap();
        node.link.publish(&n1(Topic::State), &state(sequence)).unwrap();
    }
    // 256 wait, at most 132 are with the client; the rest is given up and counted
    let dropped = node.link.dropped().kept;
    assert!((20_000 - 256 - 132..=20_000 - 256).contains(&dropped), "{dropped}");
    // nothing is answered, so it notices, and begins anew
    let reason = node.down().await;
    assert!(reason.contains("lost the broker"), "{reason}");
    let mut watcher = Plain::connect(broker.port, "watcher", &["beehive/v1/c1/n/n1/+"]).await;
    proxy.set(Weather::Fair);
    node.up().await;
    let mut left: BTreeSet<&str> = BTreeSet::from(["event", "state"]);
    while !left.is_empty() {
        let publish = watcher.next("the newest of each").await;
        if publish.topic == wire(&n1(Topic::Event)) {
            if decode::<NodeEvent>(&publish.payload).unwrap().sequence == 19_999 {
                left.remove("event");
            }
        } else if publish.topic == wire(&n1(Topic::State)) {
            assert_eq!(decode::<NodeState>(&publish.payload).unwrap(), state(19_999));
            left.remove("state");
        }
    }
}

/// "A half-open link is noticed after twice the keep-alive": within 20 s, in both directions, and with something to send
/// as well as without. In real time, for it is the kernel's sockets that are half open; all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_noticed_within_twenty_seconds() {
    const LIMIT: Duration = Duration::from_secs(20);
    let broker = Mosquitto::start();
    let mut all = Vec::new();
    for (number, weather) in
        [Weather::BlackHole, Weather::Deaf, Weather::StopReading(Side::Client), Weather::StopReading(Side::Broker)]
            .into_iter()
            .enumerate()
    {
        let proxy = Proxy::start(broker.port).await;
        let mut node = End::node(proxy.port, &format!("n{number}"));
        node.up().await;
        all.push((weather, proxy, node));
    }
    let begun = Instant::now();
    for (weather, proxy, _) in &all {
        proxy.set(*weather);
    }
    for (weather, proxy, mut node) in all {
        let reason = node.down().await;
        let noticed = begun.elapsed();
        assert!(noticed <= LIMIT, "{weather:?}: {noticed:?}");
        assert!(reason.contains("it stopped answering") || reason.contains("it closed the connection"), "{reason}");
        println!("half open ({weather:?}): noticed after {:.1} s: {reason}", noticed.as_secs_f64());
        proxy.set(Weather::Fair);
        node.up().await;
    }
}

/// "No resubscribe after a reconnect; QoS 2 cannot resume": on every ConnAck all subscriptions and all retained state.
/// (There is no QoS 2: `Delivery` has no such value.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_each_of_many_resets_it_is_subscribed_and_everything_retained_is_there() {
    let (mut broker, proxy) = ground().await;
    let mut node = End::node(proxy.port, "n1");
    node.link.publish(&n1(Topic::State), &state(1)).unwrap();
    for round in 1..6 {
        let connection = node.up().await;
        let mut coordinator = Plain::connect(broker.port, "other", &["beehive/v1/c1/n/n1/+"]).await;
        // who comes later finds the newest of everything
        let mut seen = BTreeSet::new();
        while seen.len() < 2 {
            let publish = coordinator.next("what is retained").await;
            if publish.topic == wire(&n1(Topic::Presence)) {
                if status(&publish.payload) == (Connection::Online, START, connection) {
                    seen.insert("presence");
                }
            } else if decode::<NodeState>(&publish.payload).unwrap() == state(round) {
                seen.insert("state");
            }
        }
        let id = format!("x-{round}");
        coordinator
            .publish(&wire(&n1(Topic::Command)), Retain::No, &KEYS.signed(&n1(Topic::Command), &command(&id)))
            .await;
        let message = node.message(&n1(Topic::Command)).await;
        assert_eq!(node.link.decode::<Command>(&message).unwrap().id.as_str(), id);
        drop(coordinator);
        if round % 2 == 0 {
            broker.restart();
        } else {
            proxy.reset_all();
        }
        node.down().await;
        node.link.publish(&n1(Topic::State), &state(round + 1)).unwrap();
    }
}

/// "TLS: ring, not aws-lc": what the lock file says is what is built.
#[test]
fn no_cryptography_that_wants_cmake_is_built_in() {
    let lock = include_str!("../Cargo.lock");
    let has = |package: &str| lock.contains(&format!("\nname = \"{package}\"\n"));
    assert!(has("rumqttc") && has("rustls") && has("ring"));
    for unwanted in ["aws-lc-rs", "aws-lc-sys", "cmake", "openssl", "openssl-sys", "native-tls"] {
        assert!(!has(unwanted), "{unwanted}");
    }
}

// ---- more that goes wrong

/// Wherever in the conversation the connection is cut, in the middle of whichever packet, in either direction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_in_the_middle_of_a_packet_loses_nothing() {
    let (broker, proxy) = ground().await;
    let mut watcher = Plain::connect(broker.port, "watcher", &[&wire(&n1(Topic::Event))]).await;
    let mut coordinator = End::coordinator(broker.port);
    coordinator.up().await;
    let mut cuts = proxy.cuts();
    // before there is a connection at all
    for (from, kind) in [
        (Side::Client, Kind::Connect),
        (Side::Broker, Kind::ConnAck),
        (Side::Client, Kind::Subscribe),
        (Side::Broker, Kind::SubAck),
    ] {
        proxy.cut_in_the_middle(from, kind, 0);
    }
    let mut node = End::node(proxy.port, "n1");
    node.up().await;
    // each rule is used up by one connection; cuts that come between are as good
    assert_eq!(*soon("four cuts", cuts.wait_for(|cuts| *cuts >= 4)).await.unwrap(), 4);
    let mut next = 0;
    for (number, (from, kind, after)) in [
        (Side::Client, Kind::Publish, 0),
        (Side::Client, Kind::Publish, 13),
        (Side::Broker, Kind::PubAck, 0),
        (Side::Broker, Kind::PubAck, 20),
        (Side::Broker, Kind::Publish, 0),
        (Side::Client, Kind::PubAck, 0),
    ]
    .into_iter()
    .enumerate()
    {
        proxy.cut_in_the_middle(from, kind, after);
        publish_events(&node, next..next + 40);
        next += 40;
        let id = format!("x-{number}");
        let deadline = Instant::now() + PATIENCE;
        // as the coordinator's core does: again until it is there
        loop {
            coordinator.link.publish(&n1(Topic::Command), &command(&id)).unwrap();
            let found = tokio::time::timeout(Duration::from_millis(200), async {
                loop {
                    if let LinkEvent::Message(message) = node.events.recv().await.unwrap() {
                        if message.topic == n1(Topic::Command)
                            && node.link.decode::<Command>(&message).unwrap().id.as_str() == id
                        {
                            return;
                        }
                    }
                }
            });
            if found.await.is_ok() {
                break;
            }
            assert!(Instant::now() < deadline, "{id} never came");
        }
        // what came before may come again, if its acknowledgement was lost
        let mut seen = events_until(&mut watcher, next - 1).await;
        seen.retain(|sequence| *sequence >= next - 40);
        assert_eq!(seen, (next - 40..next).collect::<Vec<_>>(), "{from:?} {kind:?} {after}");
        soon("the cut", cuts.wait_for(|cuts| *cuts >= 5 + u32::try_from(number).unwrap())).await.unwrap();
    }
    assert_eq!(node.link.dropped(), Dropped::default());
}

/// A burst that the broker's queue does not hold: QoS 1 or not, it drops; who repeats until it is answered gets through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_that_overflows_the_brokers_queue_costs_repeats_and_no_command() {
    const COMMANDS: usize = 400;
    let broker = Mosquitto::with_limits(50, common::MESSAGE_SIZE_LIMIT);
    let proxy = Proxy::start(broker.port).await;
    let mut coordinator = End::coordinator(broker.port);
    coordinator.up().await;
    let mut node = End::node(proxy.port, "n1");
    node.up().await;
    // the node is behind a network that has stopped; the broker queues for it, and then does not
    proxy.set(Weather::StopReading(Side::Broker));
    let mut stranger = Plain::connect(broker.port, "stranger", &[]).await;
    let large = vec![b'x'; 60 * 1024];
    for _ in 0..200 {
        stranger.publish(&wire(&n1(Topic::Command)), Retain::No, &large).await;
    }
    let first = KEYS.signed(&n1(Topic::Command), &command("x-0"));
    stranger.publish(&wire(&n1(Topic::Command)), Retain::No, &first).await;
    assert!(broker.log().contains("Outgoing messages are being dropped for client n1"), "the queue was large enough");
    proxy.set(Weather::Fair);

    // a node that answers, a coordinator that asks until it is answered
    let answering = tokio::spawn(async move {
        let mut ran = Vec::new();
        while let Some(event) = node.events.recv().await {
            let LinkEvent::Message(message) = event else { continue };
            if message.topic == n1(Topic::Command) {
                let Ok(command) = node.link.decode::<Command>(&message) else { continue };
                ran.push(command.id.as_str().to_owned());
                node.link.publish(&n1(Topic::Result), &result(command.id.as_str())).unwrap();
            }
        }
        ran
    });
    let mut open: BTreeSet<String> = (0..COMMANDS).map(|number| format!("x-{number}")).collect();
    let mut again = tokio::time::interval(Duration::from_millis(500));
    let begun = Instant::now();
    while !open.is_empty() {
        assert!(begun.elapsed() < 2 * PATIENCE, "{} are not answered", open.len());
        tokio::select! {
            _ = again.tick() => for id in open.iter().take(200) {
                coordinator.link.publish(&n1(Topic::Command), &command(id)).unwrap();
            },
            event = coordinator.events.recv() => if let Some(LinkEvent::Message(message)) = event {
                if message.topic == n1(Topic::Result) {
                    let id = coordinator.link.decode::<CommandResult>(&message).unwrap().id;
                    open.remove(id.as_str());
                }
            },
        }
    }
    answering.abort();
}

/// The last will of an earlier life that comes when the new one has long been announced. The earlier life's connection
/// is half open; the broker learns of its death late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_will_that_comes_after_the_new_birth_is_contradicted() {
    let (broker, proxy) = ground().await;
    let topic = n1(Topic::Presence);
    let mut watcher = Plain::connect(broker.port, "watcher", &[&wire(&topic)]).await;
    let earlier = LinkConfig { client_id: "n1-earlier".to_owned(), ..life(proxy.port, START) };
    let (link, events) = Link::spawn(earlier);
    let mut earlier = End { link, events };
    earlier.up().await;
    proxy.set(Weather::BlackHole);
    earlier.link.abandon();
    earlier.rest().await;

    let (link, events) = Link::spawn(life(broker.port, START + 1));
    let mut node = End { link, events };
    let connection = node.up().await;
    let ours = (Connection::Online, START + 1, connection);
    watcher.find("the birth", |publish| status(&publish.payload) == ours).await;
    // now it hears of it
    proxy.set(Weather::Fair);
    let will = watcher.find("the will", |publish| status(&publish.payload).0 == Connection::Offline).await;
    assert_eq!(status(&will.payload), (Connection::Offline, START, 1));
    assert_eq!(status(&watcher.next("the contradiction").await.payload), ours);
    let mut newcomer = Plain::connect(broker.port, "newcomer", &[&wire(&topic)]).await;
    assert_eq!(status(&newcomer.next("what is kept").await.payload), ours);
}

/// The same within one process: the will of connection 1 after the birth of connection 2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_will_of_an_earlier_connection_is_contradicted_too() {
    let (broker, proxy) = ground().await;
    let topic = n1(Topic::Presence);
    let mut node = End::node(proxy.port, "n1");
    assert_eq!(node.up().await, 1);
    proxy.reset_all();
    assert_eq!(
        {
            node.down().await;
            node.up().await
        },
        2
    );
    // somebody with the will of connection 1 dies now
    let mut options = MqttOptions::new("ghost", "127.0.0.1", broker.port);
    let will = KEYS.signed(&topic, &presence(Connection::Offline, START, 1));
    options.set_last_will(LastWill::new(wire(&topic), will, QoS::AtLeastOnce, true));
    let (_client, mut ghost) = AsyncClient::new(options, 1);
    soon("the ghost", ghost.poll()).await.unwrap();
    let mut watcher = Plain::connect(broker.port, "watcher", &[&wire(&topic)]).await;
    watcher.find("online", |publish| status(&publish.payload) == (Connection::Online, START, 2)).await;
    drop(ghost);
    assert_eq!(status(&watcher.next("the will").await.payload), (Connection::Offline, START, 1));
    assert_eq!(status(&watcher.next("the contradiction").await.payload), (Connection::Online, START, 2));
}

fn life(port: u16, start: u32) -> LinkConfig {
    let presence = Some(OwnPresence { topic: n1(Topic::Presence), start });
    LinkConfig { presence, ..config(port, "n1", Audience::Node(name("n1")), None) }
}

/// Two programs under one name throw each other out. Neither may spin, both say what it looks like, and when one ends the
/// other is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_taken_over_by_a_second_client_with_its_name_says_so_and_recovers() {
    let (broker, proxy) = ground().await;
    let begun = Instant::now();
    let mut node = End::node(proxy.port, "n1");
    node.up().await;
    let (link, events) = Link::spawn(life(proxy.port, START));
    let second = End { link, events };
    let reason = node
        .find("a suspicion", |event| match event {
            LinkEvent::Down { reason } if reason.contains("another program connects as \"n1\"") => Some(reason),
            LinkEvent::Down { .. } | LinkEvent::Up { .. } | LinkEvent::Message(_) | LinkEvent::Refused { .. } => None,
        })
        .await;
    assert!(reason.starts_with("lost the broker at 127.0.0.1:"), "{reason}");
    let mut accepted = proxy.accepted();
    soon("more of it", accepted.wait_for(|count| *count >= 12)).await.unwrap();
    // each pays half of 100, 200, 400 … ms at least between its connections: six each, so five delays
    assert!(begun.elapsed() >= Duration::from_millis(1250), "{:?}", begun.elapsed());
    second.link.abandon();
    second.rest().await;
    // it is well: commands come, and the last word on its presence is its own, although the other's connection may have had
    // a later number
    let (commands, presence) = (n1(Topic::Command), n1(Topic::Presence));
    let mut other = Plain::connect(broker.port, "other", &[&wire(&presence)]).await;
    let mut last = (Connection::Offline, 0, 0);
    let mut heard = false;
    soon("the node to recover", async {
        let mut again = tokio::time::interval(Duration::from_millis(200));
        let mut up = 0;
        while !(heard && last == (Connection::Online, START, up)) {
            tokio::select! {
                _ = again.tick() => {
                    heard = false;
                    let command = KEYS.signed(&commands, &command("x"));
                    other.publish_carelessly(&wire(&commands), Retain::No, &command).await;
                }
                event = node.events.recv() => match event.unwrap() {
                    LinkEvent::Up { connection } => up = connection,
                    LinkEvent::Message(message) => heard |= message.topic == commands,
                    LinkEvent::Down { .. } | LinkEvent::Refused { .. } => {}
                },
                publish = other.next("presence") => last = status(&publish.payload),
            }
        }
    })
    .await;
}

/// A copy of this card, connected for longer than we are, goes: its last will would be believed and we would not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_will_of_a_copy_with_a_later_number_is_outbid() {
    let broker = Mosquitto::start();
    let topic = n1(Topic::Presence);
    let mut node = End::node(broker.port, "n1");
    let connection = node.up().await;
    let mut watcher = Plain::connect(broker.port, "watcher", &[&wire(&topic)]).await;
    // alive it is left alone
    let alive = KEYS.signed(&topic, &presence(Connection::Online, START, connection + 40));
    watcher.publish(&wire(&topic), Retain::Yes, &alive).await;
    node.message(&topic).await;
    let dead = KEYS.signed(&topic, &presence(Connection::Offline, START, connection + 41));
    watcher.publish(&wire(&topic), Retain::Yes, &dead).await;
    assert!(node.down().await.contains("with the same start number"));
    assert_eq!(node.up().await, connection + 42);
    let ours = (Connection::Online, START, connection + 42);
    watcher.find("the birth", |publish| status(&publish.payload) == ours).await;
    // and its own last will counts
    node.link.abandon();
    let ours = (Connection::Offline, START, connection + 42);
    watcher.find("the will", |publish| status(&publish.payload) == ours).await;
}

/// Fifty nodes that all lose the network at once, on a slow one; with a refusal, a reset, and a broker that forgets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_nodes_at_once_come_back_after_whatever_hits_all_of_them() {
    const NODES: usize = 50;
    let (mut broker, proxy) = ground().await;
    let mut coordinator = End::coordinator(broker.port);
    coordinator.up().await;
    let names: Vec<String> = (0..NODES).map(|number| format!("n{number}")).collect();
    let nodes: Vec<End> = names.iter().map(|name| End::node(proxy.port, name)).collect();
    let mut accepted = proxy.accepted();
    for round in 1..=4u32 {
        match round {
            1 => {}
            2 => {
                proxy.set(Weather::Reset);
                soon("attempts", accepted.wait_for(|count| *count >= 3 * 50)).await.unwrap();
                proxy.set(Weather::Slow(Duration::from_millis(5)));
            }
            3 => proxy.reset_all(),
            _ => {
                broker.restart();
                coordinator.down().await;
            }
        }
        for (node, name) in nodes.iter().zip(&names) {
            node.link.publish(&Topic::State(ends::name(name)), &state(round)).unwrap();
        }
        let mut fresh = BTreeSet::new();
        coordinator
            .find("the state of every node", |event| {
                if let LinkEvent::Message(message) = event {
                    if let Topic::State(node) = &message.topic {
                        if decode::<NodeState>(&message.payload).unwrap() == state(round) {
                            fresh.insert(node.clone());
                        }
                    }
                }
                (fresh.len() == NODES).then_some(())
            })
            .await;
    }
}
