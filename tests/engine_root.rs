//! The root unit: what a hostile daemon could send, who may ask, what becomes of a step when its asker goes, and that a
//! secret shows nowhere. The server runs in this process with an engine that runs a double of kubeadm, which writes down all
//! that reaches it; and as a process, `beehive engine serve`. As root: who asks is decided by user ids.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "engine_root/hive.rs"]
mod hive;
#[path = "engine_root/program.rs"]
mod program;

use beehive::engine::root::RootEngine;
use beehive::engine::root::server::{Ended, MOST_CONNECTIONS, MOST_WAITING};
use beehive::engine::root::wire::{
    Credential, MAX_ASK_BYTES, Outcome, Refusal, Release, Server, TAKE_BACK, Verb, Version, WireHalf,
};
use beehive::engine::{Engine, EngineWork, Half};
use beehive::store::Store;
use beehive_cluster::kube::JoinCredential;
use beehive_mqtt::Text;
use beehive_mqtt::node::EngineRun;
use hive::{Hive, NOBODY, Peer, SECRET, ask, cluster, refused, until};
use serde_json::{Value, json};
use std::time::Duration;

fn join(credential: &str) -> EngineWork {
    EngineWork::Join {
        cluster: cluster(),
        server: Text::cut("bee42-crew-01-001.local:6443"),
        version: Text::cut("v1.26.15"),
        credential: JoinCredential::new(credential).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_reaches_the_engine_as_it_was_asked_for() {
    let hive = Hive::start();
    let engine = hive.client().await;
    assert_eq!(engine.kind(), "kubeadm");
    let version: Text<32> = Text::cut("v1.26.15");
    for (work, words) in [
        (EngineWork::Initialise { cluster: cluster(), version: version.clone() }, "initialise c1 v1.26.15"),
        (join(SECRET), "join c1 bee42-crew-01-001.local:6443 v1.26.15"),
        (EngineWork::Stop, "stop"),
        (EngineWork::Start, "start"),
        (EngineWork::Snapshot, "snapshot"),
        (EngineWork::AddOns, "add-ons"),
        (EngineWork::Upgrade { version }, "upgrade v1.26.15"),
        (EngineWork::Reset, "reset"),
    ] {
        let done = engine.perform(work.clone()).await.unwrap();
        assert_eq!((done.code, done.detail.as_str()), ("done", words));
        let call = hive.calls().pop().unwrap();
        assert_eq!(call.arguments, words);
        let secret = if matches!(work, EngineWork::Join { .. }) { SECRET } else { "" };
        assert_eq!(call.input, secret);
        // the state of the answer is there with the answer
        let run =
            if matches!(work, EngineWork::Stop | EngineWork::Reset) { EngineRun::Stopped } else { EngineRun::Running };
        assert_eq!(engine.state().run, run, "{words}");
    }
    hive.fail("half");
    let failed = engine.perform(EngineWork::Reset).await.unwrap_err();
    assert_eq!((failed.code, failed.half), ("tool", Half::HalfDone));
    assert!(failed.reason.contains("it went wrong"), "{failed:?}");

    assert_eq!(engine.access().await.unwrap(), None);
    let kubeconfig = format!("apiVersion: v1\nusers:\n- \"{}\\\"\u{e9}\n", "x".repeat(20_000));
    hive.kubeconfig(&kubeconfig);
    assert_eq!(engine.access().await.unwrap().unwrap().reveal(), kubeconfig);
    hive.kubeconfig(&"x".repeat(70_000));
    assert_eq!(engine.access().await.unwrap_err().code, "kubeconfig");
}

/// Every text that has harmed a program somewhere.
fn bad_texts() -> Vec<String> {
    let mut bad: Vec<String> = [
        "-f",
        "--kubeconfig=/etc/shadow",
        "a;reboot",
        "$(reboot)",
        "`reboot`",
        "a|b",
        "a&b",
        "a>b",
        "a\nb",
        "a\rb",
        "a\tb",
        "a\0b",
        "\u{1b}[1m",
        "a\u{7f}",
        "../x",
        "a/../b",
        "/etc/shadow",
        "..",
        ".",
        "a'b",
        "a\"b",
        "a\\b",
        "a*b",
        "a=b",
        "a{b}",
        "a%sb",
        "~root",
        "é",
        "a\u{202e}b",
        "a\u{2028}b",
        " a",
        "a ",
        "a  b",
        "a#b",
        "a@b",
        "@a",
        "a,b",
    ]
    .map(str::to_owned)
    .to_vec();
    bad.push("a".repeat(129).replace("aaaa", "aaa."));
    bad.push("a".repeat(257));
    bad.push("a".repeat(1_500));
    bad
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_field_takes_what_it_does_not_admit() {
    let hive = Hive::start();
    let good = json!({"cluster": "c1", "server": "10.0.0.1:6443", "version": "v1.26.15", "credential": SECRET});
    let fields: [(&str, Value, &[&str]); 4] = [
        ("join", good, &["cluster", "server", "version", "credential"]),
        ("initialise", json!({"cluster": "c1", "version": ""}), &["cluster", "version"]),
        ("upgrade", json!({"version": "v1.26.15"}), &["version"]),
        ("restore", json!({"generation": 3}), &["generation"]),
    ];
    for (verb, good, keys) in &fields {
        for key in *keys {
            for text in bad_texts() {
                // what is no word may be fit for a longer kind of field
                let fits = match *key {
                    "version" => Version::new(&text).is_ok(),
                    "credential" => Credential::new(&text).is_ok(),
                    "server" => Server::new(&text).is_ok(),
                    _ => false,
                };
                // one that is too long for the others alone
                let credentials_alone = *key == "credential" && text.len() == 129;
                assert_eq!(fits, credentials_alone, "{key} admits {text:?}");
                if fits {
                    continue;
                }
                let mut body = good.clone();
                body[*key] = json!(text);
                let frame = ask(&json!({*verb: body}));
                let reply = Peer::connect(&hive.socket).asks(frame.to_string().as_bytes());
                assert_eq!(refused(&reply), Refusal::BadRequest, "{verb}.{key} = {text:?}");
                if text.len() > 3 {
                    let said = serde_json::to_string(&reply).unwrap();
                    assert!(!said.contains(text.as_str()), "the answer gives {text:?} back: {said}");
                }
            }
            let number = if *key == "generation" { json!(4_294_967_296_u64) } else { json!(1) };
            for other in [json!(null), number, json!(-1), json!([]), json!({}), json!(true), json!(["c1"])] {
                let mut body = good.clone();
                body[*key] = other.clone();
                let reply = Peer::connect(&hive.socket).asks(ask(&json!({*verb: body})).to_string().as_bytes());
                assert_eq!(refused(&reply), Refusal::BadRequest, "{verb}.{key} = {other}");
            }
            let mut body = good.clone();
            body.as_object_mut().unwrap().remove(*key);
            let reply = Peer::connect(&hive.socket).asks(ask(&json!({*verb: body})).to_string().as_bytes());
            assert_eq!(refused(&reply), Refusal::BadRequest, "{verb} without {key}");
        }
        for extra in ["path", "flags", "arguments", "shell", "environment", "Cluster"] {
            let mut body = good.clone();
            body[extra] = json!("x");
            let reply = Peer::connect(&hive.socket).asks(ask(&json!({*verb: body})).to_string().as_bytes());
            assert_eq!(refused(&reply), Refusal::BadRequest, "{verb} with {extra}");
        }
    }
    assert_eq!(hive.calls(), [], "something of it reached a tool");
    // and the same with what is admitted gets through
    let reply = Peer::connect(&hive.socket).asks(ask(&json!({"join": fields[0].1})).to_string().as_bytes());
    assert!(matches!(reply.outcome, Outcome::Done { .. }), "{reply:?}");
    assert_eq!(hive.calls().len(), 1);
    let reply = Peer::connect(&hive.socket).asks(ask(&json!({"restore": fields[3].1})).to_string().as_bytes());
    // an engine without copies says so itself
    assert!(matches!(&reply.outcome, Outcome::Failed { code, .. } if code.as_str() == "no-restore"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_is_refused_and_reaches_nothing() {
    let hive = Hive::start();
    let reset = ask(&json!("reset"));
    let with = |key: &str, value: Value| {
        let mut changed = reset.clone();
        changed[key] = value;
        changed.to_string()
    };
    let without = |key: &str| {
        let mut changed = reset.clone();
        changed.as_object_mut().unwrap().remove(key);
        changed.to_string()
    };
    let twice = r#"{"v":1,"release":"1","do":"stop","do":"reset"}"#;
    let deep = "[".repeat(1_500);
    let bad: Vec<Vec<u8>> = vec![
        b"x".to_vec(),
        b"\0\0\0\0".to_vec(),
        vec![0xff; 100],
        b"{}".to_vec(),
        b"null".to_vec(),
        b"\"reset\"".to_vec(),
        b"[1,\"1\",\"reset\"]".to_vec(),
        deep.into_bytes(),
        twice.as_bytes().to_vec(),
        format!("{reset} {reset}").into_bytes(),
        format!("{reset}\0").into_bytes(),
        with("do", json!("format")).into_bytes(),
        with("do", json!("Reset")).into_bytes(),
        with("do", json!("reset ")).into_bytes(),
        with("do", json!({"reset": {}})).into_bytes(),
        with("do", json!({"reset": null, "stop": null})).into_bytes(),
        with("do", json!({"reset": ["-f"]})).into_bytes(),
        with("do", json!("join")).into_bytes(),
        with("do", json!({"join": ["c1", "10.0.0.1", "", SECRET, "more"]})).into_bytes(),
        with("do", json!(["reset"])).into_bytes(),
        with("do", json!(7)).into_bytes(),
        with("path", json!("/bin/sh")).into_bytes(),
        with("release", json!("-1")).into_bytes(),
        with("release", json!("1;2")).into_bytes(),
        with("release", json!("1".repeat(33))).into_bytes(),
        with("v", json!("1")).into_bytes(),
        with("v", json!(-1)).into_bytes(),
        with("v", json!(1.5)).into_bytes(),
        without("v").into_bytes(),
        without("release").into_bytes(),
        without("do").into_bytes(),
    ];
    for frame in &bad {
        let reply = Peer::connect(&hive.socket).asks(frame);
        assert_eq!(refused(&reply), Refusal::BadRequest, "{}", String::from_utf8_lossy(frame));
    }
    for version in [0, 2, 65_535] {
        let reply = Peer::connect(&hive.socket).asks(with("v", json!(version)).as_bytes());
        assert_eq!(refused(&reply), Refusal::OtherVersion, "{version}");
    }
    // what a later version has beside that is no reason not to say so
    let reply = Peer::connect(&hive.socket).asks(br#"{"v":2,"do":{"dance":{"steps":3}},"new":true}"#);
    assert_eq!(refused(&reply), Refusal::OtherVersion);
    for length in [0, MAX_ASK_BYTES + 1, 0x7fff_ffff, 0xffff_ffff] {
        let mut peer = Peer::connect(&hive.socket);
        peer.sends(&u32::try_from(length).unwrap().to_be_bytes());
        assert_eq!(refused(&peer.reply().unwrap()), Refusal::Length, "{length}");
    }
    // halves of frames, with an end after each byte
    let whole = hive::frame(reset.to_string().as_bytes());
    for at in 0..whole.len() {
        let mut peer = Peer::connect(&hive.socket);
        peer.sends(&whole[..at]);
        peer.ends_its_side();
        assert!(peer.reply().is_none(), "an answer to {at} bytes of a request");
    }
    assert_eq!(hive.calls(), [], "something of it reached a tool");
    assert!(Peer::connect(&hive.socket).asks(ask(&json!("state")).to_string().as_bytes()).standing.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_is_dropped_after_a_time() {
    let hive = Hive::with(|settings| settings.ask_time = Duration::from_millis(300));
    let whole = hive::frame(ask(&json!("reset")).to_string().as_bytes());
    for at in [0, 3, 4, whole.len() - 1] {
        let mut peer = Peer::connect(&hive.socket);
        peer.sends(&whole[..at]);
        assert_eq!(refused(&peer.reply().unwrap()), Refusal::TooSlow, "after {at} bytes");
        assert!(peer.reply().is_none(), "the connection is still there");
    }
    // byte by byte is slow too, however regular
    let mut peer = Peer::connect(&hive.socket);
    let mut slow = 0;
    for byte in whole.iter().cycle() {
        if !peer.tries(&[*byte]) {
            break;
        }
        slow += 1;
        assert!(slow < 1_000, "it goes on for ever");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(hive.calls(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_root_and_the_daemons_user_may_ask() {
    hive::as_root();
    let state = ask(&json!("state")).to_string();
    for (daemon, user, may) in [
        (None, 0, true),
        (None, NOBODY, false),
        (Some(NOBODY), NOBODY, true),
        (Some(NOBODY), 0, true),
        (Some(NOBODY), 12_345, false),
        (Some(12_345), NOBODY, false),
    ] {
        let hive = Hive::with(|settings| settings.daemon = daemon);
        hive.open_to_all();
        let mut peer = Peer::connect_as(&hive.socket, user);
        if may {
            assert!(matches!(peer.asks(state.as_bytes()).outcome, Outcome::State), "{user} of {daemon:?}");
        } else {
            // told before it said anything, and nothing of the state
            let reply = peer.reply().unwrap();
            assert_eq!(refused(&reply), Refusal::NotAllowed, "{user} of {daemon:?}");
            assert_eq!(reply.standing, None);
            let mut peer = Peer::connect_as(&hive.socket, user);
            let _ = peer.tries(&hive::frame(ask(&json!("reset")).to_string().as_bytes()));
            assert_eq!(refused(&peer.reply().unwrap()), Refusal::NotAllowed);
            let known = Peer::connect(&hive.socket).asks(state.as_bytes());
            assert!(known.standing.is_some());
            assert_eq!(hive.calls(), []);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_steps_are_counted() {
    let hive = Hive::start();
    let state = ask(&json!("state")).to_string();
    {
        // asked once each, so that they are known to be accepted
        let mut open: Vec<Peer> = (0..MOST_CONNECTIONS).map(|_| Peer::connect(&hive.socket)).collect();
        let mut more = Peer::connect(&hive.socket);
        assert_eq!(refused(&more.reply().unwrap()), Refusal::Busy);
        let answer = open.pop().unwrap().asks(state.as_bytes());
        assert!(matches!(answer.outcome, Outcome::State));
    }
    until("the connections to end", || {
        let reply = Peer::connect(&hive.socket).asks(state.as_bytes());
        matches!(reply.outcome, Outcome::State).then_some(())
    })
    .await;

    hive.hold();
    let stop = hive::frame(ask(&json!("stop")).to_string().as_bytes());
    let mut at_work = Peer::connect(&hive.socket);
    at_work.sends(&stop);
    hive.wait_for_calls(1).await;
    let mut waiting: Vec<Peer> = Vec::new();
    for _ in 0..MOST_WAITING {
        let mut peer = Peer::connect(&hive.socket);
        peer.sends(&stop);
        waiting.push(peer);
        let asked = 1 + waiting.len();
        until("the steps to be asked for", || (hive.log().matches("stop: asked for").count() == asked).then_some(()))
            .await;
    }
    let reply = Peer::connect(&hive.socket).asks(ask(&json!("reset")).to_string().as_bytes());
    assert_eq!(refused(&reply), Refusal::Busy);
    // the state and the kubeconfig wait for no step
    assert!(matches!(
        Peer::connect(&hive.socket).asks(ask(&json!("access")).to_string().as_bytes()).outcome,
        Outcome::Access { .. }
    ));
    assert_eq!(hive.calls().len(), 1, "two steps at once");
    hive.let_go();
    for mut peer in waiting.into_iter().chain([at_work]) {
        assert!(matches!(peer.reply().unwrap().outcome, Outcome::Done { .. }));
    }
    assert_eq!(hive.calls().len(), 1 + MOST_WAITING);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_begun_is_ended_though_its_asker_is_gone() {
    let hive = Hive::start();
    hive.hold();
    let mut first = Peer::connect(&hive.socket);
    first.sends(&hive::frame(ask(&json!("reset")).to_string().as_bytes()));
    hive.wait_for_calls(1).await;
    let mut second = Peer::connect(&hive.socket);
    second.sends(&hive::frame(ask(&json!("stop")).to_string().as_bytes()));
    hive.wait_for_log("stop: asked for").await;
    drop(second);
    hive.wait_for_log("it is not begun").await;
    drop(first);
    hive.wait_for_log("it is brought to its end").await;
    assert_eq!(hive.ended(), 0);
    hive.let_go();
    until("the reset to end", || (hive.ended() == 1).then_some(())).await;
    // and what comes after it finds it done; what waited for its turn was not begun
    let reply = Peer::connect(&hive.socket).asks(ask(&json!("start")).to_string().as_bytes());
    assert!(matches!(reply.outcome, Outcome::Done { .. }));
    let calls: Vec<String> = hive.calls().into_iter().map(|call| call.arguments).collect();
    assert_eq!(calls, ["reset", "start"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_is_dropped_with_all_it_started() {
    let hive = Hive::start();
    hive.hold();
    let mut peer = Peer::connect(&hive.socket);
    peer.sends(&hive::frame(ask(&json!("reset")).to_string().as_bytes()));
    hive.wait_for_calls(1).await;
    let process = hive.process().await;
    peer.sends(&[TAKE_BACK]);
    hive::gone(&process).await;
    assert!(peer.reply().is_none());
    assert_eq!(hive.ended(), 0);

    // a request after the request is no way to a second step
    let mut peer = Peer::connect(&hive.socket);
    let reset = hive::frame(ask(&json!("reset")).to_string().as_bytes());
    peer.sends(&reset);
    hive.wait_for_calls(2).await;
    peer.sends(&reset);
    hive.wait_for_log("says more than one request").await;
    hive.let_go();
    until("the step to end", || (hive.ended() == 1).then_some(())).await;
    assert!(peer.reply().is_none());
    assert_eq!(hive.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_future_takes_its_request_back_and_a_daemon_that_ends_does_not() {
    let hive = Hive::start();
    hive.hold();
    let engine = hive.client().await;
    let deadline = tokio::time::timeout(Duration::from_millis(500), engine.perform(EngineWork::Reset));
    assert!(deadline.await.is_err());
    hive.wait_for_log("taken back by its asker").await;
    hive::gone(&hive.process().await).await;
    assert_eq!(hive.ended(), 0);

    let work = tokio::spawn(engine.perform(EngineWork::Reset));
    hive.wait_for_calls(2).await;
    // as when the daemon's main function returns: the engine goes, and then what still runs
    drop(engine);
    work.abort();
    assert!(work.await.unwrap_err().is_cancelled());
    hive.wait_for_log("it is brought to its end").await;
    hive.let_go();
    until("the reset to end", || (hive.ended() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_nobody_ends_has_an_end() {
    let hive = Hive::with(|settings| settings.longest_step = Duration::from_millis(300));
    hive.hold();
    let reply = Peer::connect(&hive.socket).asks(ask(&json!("reset")).to_string().as_bytes());
    match reply.outcome {
        Outcome::Failed { code, half, .. } => assert_eq!((code.as_str(), half), ("deadline", WireHalf::HalfDone)),
        other => panic!("{other:?}"),
    }
    hive::gone(&hive.process().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_when_it_is_not_needed_and_not_before() {
    let hive = Hive::with(|settings| settings.idle = Duration::from_millis(500));
    hive.hold();
    let mut peer = Peer::connect(&hive.socket);
    peer.sends(&hive::frame(ask(&json!("stop")).to_string().as_bytes()));
    hive.wait_for_calls(1).await;
    drop(peer);
    hive.wait_for_log("it is brought to its end").await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(hive.ended(), 0, "the step is still at work");
    assert!(!hive.is_over(), "it ended with a step at work");
    hive.let_go();
    assert_eq!(hive.over().await, Ended::Idle);

    let hive = Hive::start();
    let other = json!({"v": 1, "release": "0.0.1-other", "do": "state"});
    assert!(matches!(Peer::connect(&hive.socket).asks(other.to_string().as_bytes()).outcome, Outcome::State));
    assert_eq!(hive.over().await, Ended::Outdated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_shows_nowhere() {
    let hive = Hive::start();
    let engine = hive.client().await;
    hive.hold();
    let work = tokio::spawn(engine.perform(join(SECRET)));
    hive.wait_for_calls(1).await;
    // while the tool runs: everything of every process
    let process = hive.process().await;
    let seen = hive::everything_of_processes();
    assert!(seen.iter().any(|(id, _)| *id == process), "the tool itself was not looked at");
    for (id, text) in &seen {
        assert!(!text.contains(SECRET), "the arguments or environment of {id} hold the secret");
    }
    hive.fail("clean");
    hive.let_go();
    let error = work.await.unwrap().unwrap_err();
    let verb = Verb::of(&join(SECRET)).unwrap();
    // a bad request with a secret in it, too
    let bad = ask(&json!({"join": {"cluster": "c1", "server": "-", "version": "", "credential": SECRET}}));
    let reply = Peer::connect(&hive.socket).asks(bad.to_string().as_bytes());
    let misplaced = ask(&json!({ SECRET: { SECRET: SECRET } }));
    let misplaced = Peer::connect(&hive.socket).asks(misplaced.to_string().as_bytes());
    let said = format!("{error:?} {error} {verb:?} {reply:?} {misplaced:?}");
    assert!(!said.contains(SECRET), "{said}");
    assert_eq!(hive.calls().pop().unwrap().input, SECRET, "the tool itself read it");
    let log = hive.log();
    assert!(log.contains("join: begun") && log.contains("bad-request"), "{log}");
    assert!(!log.contains(SECRET), "the log holds the secret");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_without_a_root_unit_says_so_and_remembers_its_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let nowhere = dir.path().join("engine.sock");
    let engine = RootEngine::open("k3s", &nowhere, store.clone()).await.unwrap();
    assert_eq!((engine.state().cluster, engine.kind()), (None, "k3s"));
    let error = engine.perform(EngineWork::Reset).await.unwrap_err();
    assert_eq!((error.code, error.half), ("engine-unit", Half::Clean));
    assert!(error.reason.contains("beehive-engine.socket") && error.reason.contains("engine.sock"), "{error}");
    assert!(engine.access().await.is_err());
    drop(engine);

    {
        let hive = Hive::start();
        let engine = RootEngine::open("k3s", &hive.socket, store.clone()).await.unwrap();
        let work = EngineWork::Initialise { cluster: cluster(), version: Text::cut("v1.26.15") };
        engine.perform(work).await.unwrap();
        assert_eq!(engine.state().run, EngineRun::Running);
        // what the wire does not admit is not even sent
        let work = EngineWork::Upgrade { version: Text::cut("../1") };
        let error = engine.perform(work).await.unwrap_err();
        assert_eq!((error.code, error.half), ("bad-version", Half::Clean));
        assert_eq!(hive.calls().len(), 1);
    }
    let engine = RootEngine::open("k3s", &nowhere, store).await.unwrap();
    let state = engine.state();
    assert_eq!((state.cluster, state.version.as_str()), (Some(cluster()), "v1.26.15"));
    assert_eq!(state.run, EngineRun::Stopped, "nobody knows whether it runs");
}

#[test]
fn what_each_field_admits() {
    for good in ["10.0.0.1", "10.0.0.1:6443", "fd00::1", "[fd00::1]", "[fd00::1]:6443", "pi-1", "pi-1.local:1", "A.b"] {
        assert!(Server::new(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        ":6443",
        "pi:",
        "pi:0",
        "pi:65536",
        "pi:+1",
        "pi:01",
        "pi:1:2",
        "[pi]",
        "[fd00::1",
        "[fd00::1]x",
        "[10.0.0.1]",
        "-pi",
        "pi-",
        "pi..local",
        ".pi",
        "pi.",
        "pi_1",
        "http://pi",
        "a@pi",
        "fe80::1%eth0",
    ] {
        assert!(Server::new(bad).is_err(), "{bad}");
    }
    assert!(Server::new(&["a"; 64].join(".")).is_ok() && Server::new(&["a"; 65].join(".")).is_err());
    for good in ["", "v1.30.2+k3s1", "1.26.15", "simulated-1", "1"] {
        assert!(Version::new(good).is_ok(), "{good}");
    }
    for bad in ["-1", ".1", "v1..2", "1 2", "v1/2", "+1"] {
        assert!(Version::new(bad).is_err(), "{bad}");
    }
    assert!(Version::new(&"1".repeat(32)).is_ok() && Version::new(&"1".repeat(33)).is_err());
    let token = format!("beehive-token-1 abc123.0123456789abcdef {} {}", "a".repeat(64), "0".repeat(64));
    for good in [token.as_str(), "simulated:1:c:n:x", "a"] {
        assert!(Credential::new(good).is_ok(), "{good}");
    }
    for bad in ["", " ", "-a", "a  b", "a ", "a\"", "a\\", "a/b", "a\n"] {
        assert!(Credential::new(bad).is_err(), "{bad:?}");
    }
    assert!(Credential::new(&"a".repeat(256)).is_ok() && Credential::new(&"a".repeat(257)).is_err());
    assert!(Release::new("0.1.0").is_ok() && Release::new("").is_err() && Release::new("-").is_err());
}
