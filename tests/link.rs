//! The link against a real mosquitto that is killed, restarted, and fed by strangers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/keys.rs"]
mod keys;

mod common;
#[path = "common/ends.rs"]
mod ends;

use beehive::link::{Incoming, Link, LinkConfig, LinkEvent, Network, Refusal, RefusedKind, Retained};
use beehive_mqtt::command::Command;
use beehive_mqtt::console::{ConsoleResponse, MAX_PLAN_STEPS, PlanStep, ResponseStatus};
use beehive_mqtt::coordinator::StepKind;
use beehive_mqtt::node::{CommandResult, Connection, NodeEvent, NodeState, Presence, Refused};
use beehive_mqtt::{Audience, NodeName, Payload, Topic, TopicError, decode, encode};
use common::{MESSAGE_SIZE_LIMIT, Mosquitto, Plain, Retain, soon};
use ends::{End, KEYS, START, command, config, event, n1, name, presence, result, state, status, telemetry, wire};
use keys::Keys;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ends_talk_through_the_broker() {
    let broker = Mosquitto::start();
    let mut coordinator = End::coordinator(broker.port);
    let mut node = End::node(broker.port, "n1");
    assert_eq!(coordinator.up().await, 1);
    assert_eq!(node.up().await, 1);

    coordinator.link.publish(&n1(Topic::Command), &command("x-1")).unwrap();
    let message = node.message(&n1(Topic::Command)).await;
    assert_eq!(message.retained, Retained::No);
    assert_eq!(node.link.decode::<Command>(&message).unwrap(), command("x-1"));

    node.link.publish(&n1(Topic::Result), &result("x-1")).unwrap();
    let message = coordinator.message(&n1(Topic::Result)).await;
    assert_eq!(coordinator.link.decode::<CommandResult>(&message).unwrap(), result("x-1"));

    node.link.publish(&n1(Topic::State), &state(1)).unwrap();
    let message = coordinator.message(&n1(Topic::State)).await;
    assert_eq!(coordinator.link.decode::<NodeState>(&message).unwrap(), state(1));
    assert_eq!(node.link.refused(), Refused::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_message_of_the_protocol_passes() {
    let broker = Mosquitto::start();
    let mut coordinator = End::coordinator(broker.port);
    coordinator.up().await;
    let (link, events) = Link::spawn(config(broker.port, "u", Audience::Console("u".parse().unwrap()), None));
    let mut console = End { link, events };
    console.up().await;
    let step = PlanStep { step: StepKind::Snapshot, node: name(&"n".repeat(NodeName::MAX_BYTES)), stage: u16::MAX };
    let response = ConsoleResponse {
        id: "r-1".parse().unwrap(),
        status: ResponseStatus::Planned,
        code: "x".repeat(48).as_str().into(),
        text: "\"".repeat(240).as_str().into(),
        operation: None,
        plan: std::iter::repeat_n(step, MAX_PLAN_STEPS).collect(),
        audit: beehive_mqtt::coordinator::AuditHead::NONE,
        sealed: None,
    };
    assert!(
        KEYS.signed(&Topic::ConsoleResponse("u".parse().unwrap()), &response).len() > 30 * 1024,
        "larger than rumqttc's own limit of 10 KiB"
    );
    let topic = Topic::ConsoleResponse("u".parse().unwrap());
    coordinator.link.publish(&topic, &response).unwrap();
    let message = console.message(&topic).await;
    assert!(console.link.decode::<ConsoleResponse>(&message).unwrap() == response);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_results_come_in_order_however_many() {
    let broker = Mosquitto::start();
    let mut watcher = Plain::connect(broker.port, "watcher", &["beehive/v1/c1/n/n1/event"]).await;
    let mut node = End::node(broker.port, "n1");
    node.up().await;
    for batch in 0..10 {
        for sequence in batch * 200..(batch + 1) * 200 {
            node.link.publish(&n1(Topic::Event), &event(sequence)).unwrap();
        }
        for sequence in batch * 200..(batch + 1) * 200 {
            let publish = watcher.next("an event").await;
            assert_eq!(decode::<NodeEvent>(&publish.payload).unwrap().sequence, sequence);
        }
    }
    assert_eq!(node.link.dropped().kept, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_it_says_why_and_goes_on_trying() {
    let mut broker = Mosquitto::start();
    broker.kill();
    let mut node = End::node(broker.port, "n1");
    assert_eq!(
        node.down().await,
        format!("cannot connect to the broker at 127.0.0.1:{}: Connection refused (os error 111)", broker.port)
    );
    broker.restart();
    let connection = node.up().await;
    assert!(connection > 1, "each attempt has a number of its own: {connection}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_gets_everything_that_is_retained_again() {
    let mut broker = Mosquitto::start();
    let mut node = End::node(broker.port, "n1");
    node.link.publish(&n1(Topic::State), &state(1)).unwrap();
    node.up().await;
    node.link.publish(&n1(Topic::State), &state(2)).unwrap();
    for round in 2..4u32 {
        broker.kill();
        let reason = node.down().await;
        assert!(reason.starts_with("lost the broker at 127.0.0.1:"), "{reason}");
        // what happens meanwhile
        node.link.publish(&n1(Topic::State), &state(round * 10)).unwrap();
        broker.restart();
        node.up().await;
        // a newcomer finds it: this mosquitto has no memory of its own
        let mut watcher = Plain::connect(broker.port, "watcher", &["beehive/v1/c1/n/n1/+"]).await;
        let (mut state_found, mut online) = (None, None);
        while state_found.is_none() || online.is_none() {
            let found = watcher.next("state and presence").await;
            if found.topic == wire(&n1(Topic::State)) {
                state_found = Some(decode::<NodeState>(&found.payload).unwrap());
            } else {
                let found = status(&found.payload);
                online = (found.0 == Connection::Online).then_some((found.1, found.2));
            }
        }
        assert_eq!(state_found, Some(state(round * 10)));
        assert!(online.is_some_and(|(start, connection)| start == START && connection >= round), "{online:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_broker_is_down_events_wait_and_commands_do_not() {
    let mut broker = Mosquitto::start();
    let mut coordinator = End::coordinator(broker.port);
    coordinator.up().await;
    broker.kill();
    coordinator.down().await;

    // one link may publish everything here: the broker has no access rules
    let link = &coordinator.link;
    for sequence in 0..100 {
        link.publish(&n1(Topic::Event), &event(sequence)).unwrap();
        link.publish(&n1(Topic::Command), &command("late")).unwrap();
        link.publish(&n1(Topic::Telemetry), &telemetry()).unwrap();
    }
    assert_eq!(link.dropped().passing, 200);
    broker.restart();
    // the watcher must be there before the link comes back: while it is not, nothing is sent
    link.set_network(Network::Cut);
    let mut watcher =
        Plain::connect(broker.port, "watcher", &["beehive/v1/c1/n/n1/+", "beehive/v1/c1/d/+/command"]).await;
    link.publish(&n1(Topic::Event), &event(100)).unwrap();
    link.set_network(Network::Up);
    coordinator.up().await;
    coordinator.link.publish(&n1(Topic::Command), &command("in-time")).unwrap();

    let mut seen = Vec::new();
    loop {
        let publish = watcher.next("an event or command").await;
        if publish.topic == wire(&n1(Topic::Event)) {
            seen.push(decode::<NodeEvent>(&publish.payload).unwrap().sequence);
        } else {
            // and nothing but this one: the hundred others were dropped, and so was the telemetry
            assert_eq!(publish.topic, wire(&n1(Topic::Command)));
            assert_eq!(decode::<Command>(&publish.payload).unwrap(), command("in-time"));
            break;
        }
    }
    // if the link had come back between restart and cut, the first of them went to nobody; the order holds
    assert_eq!(seen.last(), Some(&100));
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_link_leaves_its_last_will() {
    let broker = Mosquitto::start();
    let mut node = End::node(broker.port, "n1");
    let connection = node.up().await;
    let mut watcher = Plain::connect(broker.port, "watcher", &["beehive/v1/c1/n/n1/presence"]).await;
    let online = watcher.next("online").await;
    assert!(online.retain);
    assert_eq!(status(&online.payload), (Connection::Online, START, connection));

    node.link.abandon();
    let offline = watcher.find("the last will", |publish| status(&publish.payload).0 == Connection::Offline).await;
    assert_eq!(status(&offline.payload), (Connection::Offline, START, connection));
    assert_eq!(decode::<Presence>(&offline.payload).unwrap().reason.as_str(), "connection lost");
    node.rest().await;
    // and it is kept for those who come later
    let mut newcomer = Plain::connect(broker.port, "newcomer", &["beehive/v1/c1/n/n1/presence"]).await;
    let kept = newcomer.next("the kept will").await;
    assert!(kept.retain);
    assert_eq!(status(&kept.payload).0, Connection::Offline);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_handle_is_a_power_cut() {
    let broker = Mosquitto::start();
    let mut node = End::node(broker.port, "n1");
    node.up().await;
    let mut watcher = Plain::connect(broker.port, "watcher", &["beehive/v1/c1/n/n1/presence"]).await;
    node.rest().await;
    watcher.find("the last will", |publish| status(&publish.payload).0 == Connection::Offline).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_link_says_goodbye_and_delivers_everything_first() {
    let broker = Mosquitto::start();
    let mut watcher = Plain::connect(broker.port, "watcher", &["beehive/v1/c1/n/n1/+"]).await;
    let mut node = End::node(broker.port, "n1");
    let connection = node.up().await;
    for sequence in 0..200 {
        node.link.publish(&n1(Topic::Event), &event(sequence)).unwrap();
    }
    soon("the link to close", node.link.close("switched off")).await;
    node.rest().await;
    let mut sequence = 0;
    let offline = loop {
        let publish = watcher.next("the events and the farewell").await;
        if publish.topic == wire(&n1(Topic::Event)) {
            assert_eq!(decode::<NodeEvent>(&publish.payload).unwrap().sequence, sequence);
            sequence += 1;
        } else if status(&publish.payload).0 == Connection::Offline {
            break publish;
        }
    };
    assert_eq!(sequence, 200);
    let offline: Presence = decode(&offline.payload).unwrap();
    assert_eq!((offline.order(), offline.reason.as_str()), ((START, connection), "switched off"));
    // no last will after it: what the watcher sees next is its own message
    watcher.publish("beehive/v1/c1/n/n1/mark", Retain::No, b"mark").await;
    assert_eq!(watcher.next("the mark").await.payload.as_ref(), b"mark");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_without_a_broker_takes_no_time() {
    let mut broker = Mosquitto::start();
    broker.kill();
    let mut node = End::node(broker.port, "n1");
    node.down().await;
    soon("the link to close", node.link.close("switched off")).await;
    node.rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_that_others_write_is_put_right() {
    let broker = Mosquitto::start();
    let mut node = End::node(broker.port, "n1");
    let connection = node.up().await;
    let topic = wire(&n1(Topic::Presence));
    let mut watcher = Plain::connect(broker.port, "watcher", &[topic.as_str()]).await;
    let ours = (Connection::Online, START, connection);
    assert_eq!(status(&watcher.next("online").await.payload), ours);

    let wrong: [Vec<u8>; 5] = [
        // the last will of this connection, of an older one, of an older start; nothing; nonsense
        KEYS.signed(&n1(Topic::Presence), &presence(Connection::Offline, START, connection)),
        KEYS.signed(&n1(Topic::Presence), &presence(Connection::Offline, START, 0)),
        KEYS.signed(&n1(Topic::Presence), &presence(Connection::Online, START - 1, 99)),
        Vec::new(),
        b"nonsense".to_vec(),
    ];
    for payload in wrong {
        watcher.publish(&topic, Retain::Yes, &payload).await;
        assert_eq!(watcher.next("the wrong presence").await.payload.as_ref(), payload);
        assert_eq!(status(&watcher.next("the correction").await.payload), ours);
    }
    // a later start is not ours to contradict
    let later = KEYS.signed(&n1(Topic::Presence), &presence(Connection::Offline, START + 1, 1));
    watcher.publish(&topic, Retain::Yes, &later).await;
    assert_eq!(watcher.next("the later presence").await.payload.as_ref(), later);
    node.message(&n1(Topic::Presence)).await;
    watcher.publish(&topic, Retain::No, b"mark").await;
    assert_eq!(watcher.next("the mark").await.payload.as_ref(), b"mark");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_messages_are_counted_and_change_nothing() {
    let broker = Mosquitto::start();
    let mut stranger = Plain::connect(broker.port, "stranger", &[]).await;
    // on topics that are not subscribed to: larger than rumqttc's own limit of 10 KiB
    let large = vec![b'x'; 20 * 1024];
    for topic in ["zigbee2mqtt/x", "beehive/v1/c1/c/other", "beehive/v1/c2/d/n1/command", "beehive/v1/c1/d/n2/command"]
    {
        stranger.publish(topic, Retain::Yes, &large).await;
    }
    // a command that the broker keeps
    stranger
        .publish(&wire(&n1(Topic::Command)), Retain::Yes, &KEYS.signed(&n1(Topic::Command), &command("kept")))
        .await;
    // above the broker's limit it does not even arrive
    stranger.publish_carelessly(&wire(&n1(Topic::Command)), Retain::No, &vec![b'x'; MESSAGE_SIZE_LIMIT + 1]).await;

    let mut node = End::node(broker.port, "n1");
    let mut coordinator = End::coordinator(broker.port);
    assert_eq!(node.refused().await, (wire(&n1(Topic::Command)), Refusal::Retained));
    coordinator.up().await;

    let mut stranger = Plain::connect(broker.port, "stranger-2", &[]).await;
    let state_topic = wire(&n1(Topic::State));
    let long = vec![b'x'; NodeState::MAX_BYTES + 1];
    stranger.publish(&state_topic, Retain::Yes, &long).await;
    let (topic, why) = coordinator.refused().await;
    assert_eq!(topic, state_topic);
    assert_eq!(why, Refusal::Oversized { bytes: long.len(), limit: NodeState::MAX_BYTES });
    stranger.publish("beehive/v1/c1/n/Not A Name/state", Retain::No, b"{}").await;
    assert_eq!(coordinator.refused().await.1, Refusal::Topic(TopicError::Unknown));

    for (payload, kind) in [
        ("", RefusedKind::Malformed),
        ("{", RefusedKind::Malformed),
        ("[]", RefusedKind::Malformed),
        (r#"{"v":1}"#, RefusedKind::Malformed),
        (r#"{"v":3,"body":"{}"}"#, RefusedKind::UnknownVersion),
        (r#"{"v":1,"body":"{}"}"#, RefusedKind::Untrusted),
    ] {
        stranger.publish(&wire(&n1(Topic::Result)), Retain::No, payload.as_bytes()).await;
        assert_eq!(coordinator.refused().await.1.kind(), kind, "{payload}");
    }
    // what a member signed, but no result
    let nonsense = KEYS.signed(&n1(Topic::Result), &command("x"));
    stranger.publish(&wire(&n1(Topic::Result)), Retain::No, &nonsense).await;
    let message = coordinator.message(&n1(Topic::Result)).await;
    assert!(coordinator.link.decode::<CommandResult>(&message).is_err());
    let counted = Refused { malformed: 5, oversized: 1, unknown_version: 1, foreign: 1, retained: 0, untrusted: 1 };
    assert_eq!(coordinator.link.refused(), counted);
    assert_eq!(node.link.refused(), Refused { retained: 1, ..Refused::default() });

    // and both are as well as before
    node.link.publish(&n1(Topic::State), &state(5)).unwrap();
    let message = coordinator.message(&n1(Topic::State)).await;
    assert_eq!(coordinator.link.decode::<NodeState>(&message).unwrap(), state(5));
    coordinator.link.publish(&n1(Topic::Command), &command("x-1")).unwrap();
    let message = node.message(&n1(Topic::Command)).await;
    assert_eq!(node.link.decode::<Command>(&message).unwrap(), command("x-1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_network_is_a_lost_connection_that_comes_back() {
    let broker = Mosquitto::start();
    let mut watcher = Plain::connect(broker.port, "watcher", &["beehive/v1/c1/n/n1/+"]).await;
    let mut node = End::node(broker.port, "n1");
    assert_eq!(node.up().await, 1);
    let presence = wire(&n1(Topic::Presence));
    let is = |wanted: Connection, publish: &rumqttc::Publish| {
        publish.topic == presence && status(&publish.payload).0 == wanted
    };

    node.link.set_network(Network::Cut);
    assert_eq!(node.down().await, "the network is cut");
    watcher.find("the last will", |publish| is(Connection::Offline, publish)).await;
    node.link.publish(&n1(Topic::State), &state(8)).unwrap();
    node.link.set_network(Network::Up);
    assert_eq!(node.up().await, 2);
    let online = watcher.find("online", |publish| is(Connection::Online, publish)).await;
    assert_eq!(status(&online.payload), (Connection::Online, START, 2));
    let found = watcher.find("the state", |publish| publish.topic == wire(&n1(Topic::State))).await;
    assert_eq!(decode::<NodeState>(&found.payload).unwrap(), state(8));

    // a cut too short to be seen as a state is still a cut
    node.link.set_network(Network::Cut);
    node.link.set_network(Network::Up);
    assert_eq!(node.up().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cleared_topic_is_gone_also_when_it_was_cleared_without_a_connection() {
    let broker = Mosquitto::start();
    let mut node = End::node(broker.port, "n1");
    node.up().await;
    let topic = wire(&n1(Topic::State));
    let mut watcher = Plain::connect(broker.port, "watcher", &[topic.as_str()]).await;
    for round in 1..3 {
        node.link.publish(&n1(Topic::State), &state(round)).unwrap();
        assert_eq!(decode::<NodeState>(&watcher.next("the state").await.payload).unwrap(), state(round));
        if round == 2 {
            node.link.set_network(Network::Cut);
            node.down().await;
            node.link.clear(&n1(Topic::State));
            node.link.set_network(Network::Up);
        } else {
            node.link.clear(&n1(Topic::State));
        }
        assert!(watcher.next("the clearing").await.payload.is_empty());
    }
    // a newcomer finds nothing; the first that it sees is its own message
    let mut newcomer = Plain::connect(broker.port, "newcomer", &[topic.as_str()]).await;
    newcomer.publish(&topic, Retain::No, b"mark").await;
    assert_eq!(newcomer.find("the mark", |publish| !publish.payload.is_empty()).await.payload.as_ref(), b"mark");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_does_not_read_loses_nothing() {
    let broker = Mosquitto::start();
    let mut node = End::node(broker.port, "n1");
    node.up().await;
    let mut stranger = Plain::connect(broker.port, "stranger", &[]).await;
    // more than the link holds for its user; the broker's answer to a ping must not wait behind more than an emulated
    // processor verifies within a keep-alive
    let payload = KEYS.signed(&n1(Topic::Command), &command("x"));
    for _ in 0..700 {
        stranger.publish(&wire(&n1(Topic::Command)), Retain::No, &payload).await;
    }
    for _ in 0..700 {
        node.message(&n1(Topic::Command)).await;
    }
    // and while it does not read, the end does not wait for it
    for _ in 0..700 {
        stranger.publish(&wire(&n1(Topic::Command)), Retain::No, &payload).await;
    }
    soon("the link to close", node.link.close("enough")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crew_of_fifty_comes_back_after_a_restart_of_the_broker() {
    let mut broker = Mosquitto::start();
    let nodes: Vec<End> = (0..50).map(|number| End::node(broker.port, &format!("n{number}"))).collect();
    for (number, node) in nodes.iter().enumerate() {
        node.link.publish(&Topic::State(name(&format!("n{number}"))), &state(3)).unwrap();
    }
    let mut coordinator = End::coordinator(broker.port);
    for round in 0..2 {
        if round == 1 {
            broker.restart();
            coordinator.down().await;
        }
        let mut seen = std::collections::BTreeSet::new();
        coordinator
            .find("the state of every node", |event| {
                if let LinkEvent::Message(Incoming { topic: Topic::State(node), payload, .. }) = event {
                    assert_eq!(decode::<NodeState>(&payload).unwrap(), state(3));
                    seen.insert(node);
                }
                (seen.len() == 50).then_some(())
            })
            .await;
    }
}

/// Whoever may publish anything at the broker, but has no key of the crew, or another member's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_signed_by_its_writer_is_refused_and_counted() {
    let broker = Mosquitto::start();
    let mut node = End::node(broker.port, "n1");
    let mut coordinator = End::coordinator(broker.port);
    node.up().await;
    coordinator.up().await;
    let mut hostile = Plain::connect(broker.port, "hostile", &[]).await;
    let commands = n1(Topic::Command);
    let good = KEYS.signed(&commands, &command("x"));
    let text = String::from_utf8(good.clone()).unwrap();
    let stranger = beehive::keys::SignKey::generate().unwrap();
    let forgeries = [
        // another node's command, played to this one
        KEYS.signed(&Topic::Command(name("n2")), &command("x")),
        // a node that plays the coordinator
        encode(&command("x"), &wire(&commands), KEYS.node("n2").signer.as_ref()).unwrap(),
        // somebody of no crew
        encode(&command("x"), &wire(&commands), &stranger).unwrap(),
        // one byte of the body, and of the signature
        text.replace("x", "y").into_bytes(),
        {
            let mut altered = good.clone();
            let at = altered.len() - 10;
            altered[at] = if altered[at] == b'0' { b'1' } else { b'0' };
            altered
        },
    ];
    for forgery in &forgeries {
        hostile.publish(&wire(&commands), Retain::No, forgery).await;
        assert_eq!(node.refused().await.1.kind(), RefusedKind::Untrusted);
    }
    assert_eq!(node.link.refused(), Refused { untrusted: 5, ..Refused::default() });
    // a node's state by another node
    let state_topic = n1(Topic::State);
    let forged = encode(&state(1), &wire(&state_topic), KEYS.node("n2").signer.as_ref()).unwrap();
    hostile.publish(&wire(&state_topic), Retain::Yes, &forged).await;
    assert_eq!(coordinator.refused().await.1.kind(), RefusedKind::Untrusted);
    // and what its writer signed passes, whoever publishes it
    hostile.publish(&wire(&commands), Retain::No, &good).await;
    let message = node.message(&commands).await;
    assert_eq!(message.key, Some(beehive_mqtt::Signer::key(KEYS.coordinator().signer.as_ref())));
}

/// A newer manifest on the broker counts at once; an older one, another crew's and a forged one change nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_manifest_changes_whom_a_node_believes() {
    let broker = Mosquitto::start();
    let keys = Keys::new("c1", &["master", "n1", "n2"], &["u"]);
    let spawn =
        |id: &str, audience, trust| Link::spawn(LinkConfig { trust, ..config(broker.port, id, audience, None) });
    let (link, events) = spawn("n1", Audience::Node(name("n1")), keys.node("n1"));
    let mut node = End { link, events };
    node.up().await;
    let first = keys.node("n1").keyring.signed_manifest();
    let folder = beehive::crew::keys::KeyFolder::new(keys.folder.path());
    folder.change(&beehive::crew::keys::Change::Grant(name("n2"))).unwrap();
    let second = std::fs::read(keys.folder.path().join("manifest.json")).unwrap();

    let mut hostile = Plain::connect(broker.port, "hostile", &[]).await;
    let place = wire(&Topic::Manifest);
    let commands = n1(Topic::Command);
    let by = |name: &str| encode(&command("x"), &wire(&commands), keys.node(name).signer.as_ref()).unwrap();
    let term = |node: &End| node.link.trust().keyring.term();

    hostile.publish(&place, Retain::Yes, &KEYS.node("n1").keyring.signed_manifest()).await;
    assert_eq!(node.refused().await.1.kind(), RefusedKind::Untrusted, "another crew's key");
    hostile.publish(&wire(&commands), Retain::No, &by("n2")).await;
    assert_eq!(node.refused().await.1.kind(), RefusedKind::Untrusted, "not yet");
    hostile.publish(&place, Retain::Yes, &second).await;
    node.message(&Topic::Manifest).await;
    assert_eq!(term(&node), (2, name("n2")));
    hostile.publish(&wire(&commands), Retain::No, &by("n2")).await;
    node.message(&commands).await;
    hostile.publish(&wire(&commands), Retain::No, &by("master")).await;
    assert_eq!(node.refused().await.1.kind(), RefusedKind::Untrusted, "the coordinator of the term before");
    // rolled back
    hostile.publish(&place, Retain::Yes, &first).await;
    node.message(&Topic::Manifest).await;
    assert_eq!(term(&node), (2, name("n2")));
}
