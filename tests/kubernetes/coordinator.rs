//! The coordinator with the client: one crew of five, whose cases follow one another. Each leaves the crew as it found it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde_json::Value;

use crate::crew::{Crew, NAMES, timed};
use crate::server::{Server, must, until};

#[test]
fn a_crew_with_hollow_kubelets() {
    let server = Server::here();
    server.unmark();
    let crew = Crew::start(&server);
    timed("created, with five real joins", || created(&crew));
    type Case = (&'static str, fn(&Crew));
    let cases: [Case; 8] = [
        ("a drain that a budget blocks", a_budget_blocks_a_drain),
        ("a drain of bare pods", bare_pods_are_not_evicted),
        ("two drains at once, one slot", two_drains_and_one_slot),
        ("the API server killed in a drain", the_api_server_dies_in_a_drain),
        ("a Ready that is stale", a_stale_ready_counts_for_nothing),
        ("a node deleted and joined again", a_node_leaves_and_joins_again),
        ("a rolling reboot of five", five_reboot_one_after_the_other),
        ("a drain of a hundred pods", a_hundred_pods),
    ];
    // one alone, by a part of its name, while it is worked on
    let only = std::env::var("BEEHIVE_KUBE_CASE").unwrap_or_default();
    let cases = cases.into_iter().filter(|(what, _)| what.contains(&only));
    let mut failed = Vec::new();
    for (what, case) in cases {
        if timed(what, || catch_unwind(AssertUnwindSafe(|| case(&crew)))).is_err() {
            eprintln!("FAILED: {what}: {:#}\n{}", crew.status(), crew.coordinator_log());
            failed.push(what);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// Why a step failed.
fn reason_of(document: &Value, step: &str, node: &str) -> String {
    let failures = document["outcome"]["failures"].as_array().cloned().unwrap_or_default();
    let found = failures.iter().find(|held| held["step"] == step && held["node"] == node);
    found.map(|held| held["reason"].as_str().unwrap().to_owned()).unwrap_or_else(|| format!("{document:#}"))
}

fn created(crew: &Crew) {
    crew.done(&["cluster", "create", "--wait"]);
    for name in NAMES {
        assert_eq!(crew.server.ready(name).unwrap(), ("True".to_owned(), crew.hollow(name).boot()), "{name}");
    }
    // each joined with a token of its own, which was really used and is worth nothing now
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    for name in &NAMES[1..] {
        let tokens = crew.hollow(name).tokens.lock().unwrap().clone();
        let [token] = tokens.as_slice() else { panic!("{name} joined {} times", tokens.len()) };
        until("the token to be revoked", || {
            crew.server.get(&format!("{secrets}/bootstrap-token-{}", token.id)).is_none().then_some(())
        });
        let bearer = crew.server.with_token(&format!("{}.{}", token.id, token.secret.as_str()));
        until("the token to be worth nothing", || (bearer.call("GET", "/api/v1/nodes", None)?.0 == 401).then_some(()));
    }
}

fn a_budget_blocks_a_drain(crew: &Crew) {
    let server = &crew.server;
    server.namespace("budget");
    server.pods("budget", "web", ("pi-2", "pi-3"), 2);
    server.budget("budget", "web-budget", "web", 2);
    let pods = server.pods_of("budget", "web", "Running");
    let (code, document, said) = crew.console_says(&["node", "drain", "pi-2", "--wait"]);
    assert_ne!(code, 0, "{document:#}");
    // how far it is, while it runs: what is in the way is named before the time is over
    let far = said.lines().find(|line| line.contains("0 of 2 pods gone") && line.contains("web-budget"));
    println!("  {}", far.unwrap_or_else(|| panic!("nobody was told how far the drain is: {said}")));
    let reason = reason_of(&document, "drain", "pi-2");
    println!("  {reason}");
    assert!(reason.contains("blocked-by-budget") && reason.contains("web-budget"), "{reason}");
    assert!(pods.iter().any(|pod| reason.contains(&format!("budget/{pod}"))), "{reason}: {pods:?}");
    until("pi-2 to be uncordoned", || (!server.is_cordoned("pi-2")).then_some(()));
    assert_eq!(server.pods_of("budget", "web", "Running"), pods, "nothing was evicted");
    server.delete("/apis/policy/v1beta1/namespaces/budget/poddisruptionbudgets/web-budget");
    server.delete("/apis/apps/v1/namespaces/budget/replicasets/web");
}

fn bare_pods_are_not_evicted(crew: &Crew) {
    let server = &crew.server;
    server.namespace("bare");
    server.pods("bare", "web", ("pi-2", "pi-3"), 2);
    server.bare_pod("bare", "alone", "pi-2");
    let (code, document) = crew.console(&["node", "drain", "pi-2", "--wait"]);
    assert_ne!(code, 0, "{document:#}");
    let reason = reason_of(&document, "drain", "pi-2");
    println!("  {reason}");
    assert!(reason.contains("refused") && reason.contains("bare/alone"), "{reason}");
    assert_eq!(server.pods_of("bare", "alone", "Running").len(), 1);
    for pod in server.pods_of("bare", "web", "Running") {
        let held = server.get(&format!("/api/v1/namespaces/bare/pods/{pod}")).unwrap();
        assert_eq!(held["spec"]["nodeName"], "pi-2", "it was evicted");
    }
    until("pi-2 to be uncordoned", || (!server.is_cordoned("pi-2")).then_some(()));
    server.delete("/api/v1/namespaces/bare/pods/alone");
    server.delete("/apis/apps/v1/namespaces/bare/replicasets/web");
}

fn two_drains_and_one_slot(crew: &Crew) {
    let server = &crew.server;
    server.namespace("slots");
    server.pods("slots", "web", ("pi-2", "pi-4"), 2);
    let drains: Vec<_> = ["pi-2", "pi-3"].map(|name| crew.console_beside(&["node", "drain", name, "--wait"])).into();
    let mut ends: Vec<(i32, Value)> = drains.into_iter().map(|drain| drain.join().unwrap()).collect();
    // one begins, and the other is told why it does not
    ends.sort_by_key(|(code, _)| *code);
    let [(0, done), (5, refused)] = ends.as_slice() else { panic!("{ends:#?}") };
    assert_eq!(done["outcome"]["phase"], "done", "{done:#}");
    assert_eq!(refused["code"], "one-operation-at-a-time", "{refused:#}");
    let cordoned: Vec<&str> = NAMES.into_iter().filter(|name| server.is_cordoned(name)).collect();
    let [drained] = cordoned.as_slice() else { panic!("{cordoned:?}") };
    // it is drained to stay so, and holds the slot
    let other = if *drained == "pi-2" { "pi-3" } else { "pi-2" };
    let (_, refused) = crew.console(&["node", "drain", other, "--wait"]);
    assert_eq!(refused["code"], "slot-held", "{refused:#}");
    assert!(!server.is_cordoned(other));
    crew.done(&["node", "uncordon", drained, "--wait"]);
    assert!(!server.is_cordoned(drained));
    crew.done(&["node", "drain", other, "--wait"]);
    crew.done(&["node", "uncordon", other, "--wait"]);
    server.delete("/apis/apps/v1/namespaces/slots/replicasets/web");
}

fn the_api_server_dies_in_a_drain(crew: &Crew) {
    let server = &crew.server;
    server.namespace("dies");
    server.pods("dies", "web", ("pi-2", "pi-3"), 3);
    server.budget("dies", "web-budget", "web", 3);
    let drain = crew.console_beside(&["node", "drain", "pi-2", "--wait"]);
    until("pi-2 to be cordoned", || server.is_cordoned("pi-2").then_some(()));
    must("down", &["apiserver"]);
    must("up", &["apiserver"]);
    server.delete("/apis/policy/v1beta1/namespaces/dies/poddisruptionbudgets/web-budget");
    let (code, document) = drain.join().unwrap();
    assert_eq!((code, &document["outcome"]["phase"]), (0, &"done".into()), "{document:#}");
    for pod in server.pods_of("dies", "web", "Running") {
        let held = server.get(&format!("/api/v1/namespaces/dies/pods/{pod}")).unwrap();
        assert_eq!(held["spec"]["nodeName"], "pi-3", "it was not evicted");
    }
    assert!(server.is_cordoned("pi-2"));
    crew.done(&["node", "uncordon", "pi-2", "--wait"]);
    server.delete("/apis/apps/v1/namespaces/dies/replicasets/web");
}

fn a_stale_ready_counts_for_nothing(crew: &Crew) {
    let hollow = crew.hollow("pi-3");
    *hollow.held_back.lock().unwrap() = true;
    let before = hollow.boot();
    let reboot = crew.console_beside(&["node", "reboot", "pi-3", "--wait"]);
    until("pi-3 to be in another boot", || (hollow.boot() != before).then_some(()));
    crew.until_node("pi-3", "back", |node| node["presence"] == "online");
    // its kubelet is dead, and the API server does not know that yet
    assert_eq!(crew.server.ready("pi-3").unwrap(), ("True".to_owned(), before));
    assert!(!reboot.is_finished(), "a Ready of the boot before was taken for one of this");
    assert!(crew.server.is_cordoned("pi-3"));
    until("the API server to notice", || (crew.server.ready("pi-3")?.0 == "Unknown").then_some(()));
    assert!(!reboot.is_finished());
    *hollow.held_back.lock().unwrap() = false;
    hollow.start_kubelet();
    let (code, document) = reboot.join().unwrap();
    assert_eq!((code, &document["outcome"]["phase"]), (0, &"done".into()), "{document:#}");
    assert_eq!(crew.server.ready("pi-3").unwrap(), ("True".to_owned(), hollow.boot()));
    assert!(!crew.server.is_cordoned("pi-3"));
}

fn a_node_leaves_and_joins_again(crew: &Crew) {
    let server = &crew.server;
    let uid = server.node("pi-4").unwrap()["metadata"]["uid"].clone();
    // as k3s keeps it
    let password = "/api/v1/namespaces/kube-system/secrets/pi-4.node-password.k3s";
    server.secret("kube-system", "pi-4.node-password.k3s");
    crew.done(&["node", "leave", "pi-4", "--yes", "--wait"]);
    assert!(server.node("pi-4").is_none());
    assert!(server.get(password).is_none());
    crew.done(&["node", "join", "pi-4", "--wait"]);
    let anew = server.node("pi-4").unwrap()["metadata"]["uid"].clone();
    assert_ne!(uid, anew);
    assert_eq!(server.ready("pi-4").unwrap().0, "True");
    assert_eq!(crew.hollow("pi-4").tokens.lock().unwrap().len(), 2);
}

fn a_hundred_pods(crew: &Crew) {
    let server = &crew.server;
    server.namespace("many");
    server.pods("many", "web", ("pi-5", "hollow-1"), 100);
    let (before, _) = crew.coordinator_memory();
    let drain = crew.console_beside(&["node", "drain", "pi-5", "--wait"]);
    let (mut most, mut most_own) = (0, 0);
    while !drain.is_finished() {
        let (all, own) = crew.coordinator_memory();
        (most, most_own) = (most.max(all), most_own.max(own));
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, document) = drain.join().unwrap();
    println!(
        "  the coordinator's process: {before} kB before, at most {most} kB in the drain, {most_own} kB of it its own data"
    );
    assert_eq!((code, &document["outcome"]["phase"]), (0, &"done".into()), "{document:#}");
    crew.done(&["node", "uncordon", "pi-5", "--wait"]);
    server.delete("/apis/apps/v1/namespaces/many/replicasets/web");
}

fn five_reboot_one_after_the_other(crew: &Crew) {
    crew.departures.lock().unwrap().clear();
    let before: Vec<String> = crew.hollows.iter().map(|hollow| hollow.boot()).collect();
    let rebooted = crew.console(&["cluster", "reboot", "--yes", "--wait"]);
    assert_eq!((rebooted.0, &rebooted.1["outcome"]["phase"]), (0, &"done".into()), "{:#}", rebooted.1);
    let departures = crew.departures.lock().unwrap().clone();
    println!("  {:?}", departures.iter().map(|departure| departure.node.as_str()).collect::<Vec<_>>());
    assert_eq!(departures.len(), NAMES.len(), "{departures:#?}");
    for departure in &departures {
        assert!(departure.others_away.is_empty(), "{departures:#?}");
    }
    for (hollow, before) in crew.hollows.iter().zip(&before) {
        assert_ne!(hollow.boot(), *before);
    }
    for name in NAMES {
        assert_eq!(crew.server.ready(name).unwrap(), ("True".to_owned(), crew.hollow(name).boot()), "{name}");
        until(&format!("{name} to be uncordoned"), || (!crew.server.is_cordoned(name)).then_some(()));
    }
}
