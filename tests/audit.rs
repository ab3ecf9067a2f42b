//! The audit log, from the outside: a console asks, the coordinator's card has who asked what and what came of it, the head
//! is in the answer and in the state, and the console keeps it. Then somebody puts a hand into the log.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/crew.rs"]
mod crew;
#[path = "common/keys.rs"]
mod keys;

use beehive_mqtt::Topic;
use beehive_mqtt::console::{Ask, ConsoleRequest, ConsoleResponse, Force, Mode};
use beehive_mqtt::coordinator::{AuditHead, CoordinatorState, OperationKind};
use common::Retain;
use crew::{Crew, Ended, MASTER, beehive, read, wire};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const TWO: [&str; 2] = [MASTER, "pi-2"];

fn log_file(crew: &Crew) -> PathBuf {
    crew.state_file(MASTER, "audit").join("audit-000001.jsonl")
}

fn verify(crew: &Crew, head: &str) -> Ended {
    let config = crew.configure(MASTER);
    let mut args = vec!["--json", "audit", "verify", "--config", config.to_str().unwrap()];
    if !head.is_empty() {
        args.extend(["--head", head]);
    }
    beehive(&args)
}

fn records(crew: &Crew) -> Vec<Value> {
    let config = crew.configure(MASTER);
    let shown = beehive(&["--json", "audit", "show", "--config", config.to_str().unwrap()]);
    assert_eq!(shown.code, 0, "{shown:?}");
    shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What this console saw last.
fn kept(crew: &Crew) -> AuditHead {
    fs::read_to_string(crew.keys.user_dir("ann").join("audit-head")).unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asked_what_and_what_came_of_it_is_kept_and_a_hand_in_it_is_found() {
    let mut crew = Crew::started(&TWO, 0);
    let cluster = crew.create();
    let identify = crew.console(&["node", "identify", "pi-2"]).with(0);
    let head = kept(&crew);

    // an operation that a stranger forges, and one by a user who may not
    let mut stranger = crew.listener().await;
    let ann = "ann".parse().unwrap();
    let topic = Topic::ConsoleRequest("ann".parse().unwrap());
    stranger.publish(&wire(&topic), Retain::No, b"{\"v\":1,\"body\":\"{}\"}").await;
    let answer = Topic::ConsoleResponse(ann);
    let refused = stranger
        .find("the refusal", |message| {
            read::<ConsoleResponse>(message, &answer).is_some_and(|answer| answer.code.as_str() == "unsigned")
        })
        .await;
    let refused = read::<ConsoleResponse>(&refused, &answer).unwrap();
    assert!(refused.audit.number > head.number, "it is recorded before it is answered");

    let all = records(&crew);
    let of = |what: &str| all.iter().filter(|record| record["what"] == what).collect::<Vec<_>>();
    let asked = of("asked");
    let [create, blink] = asked.as_slice() else { panic!("{asked:#?}") };
    assert_eq!(
        (&create["who"], &create["asked"], &create["status"]),
        (&"user:ann".into(), &"create".into(), &"started".into())
    );
    assert_eq!((&create["operation"], &create["key"]), (&Value::from(cluster.as_str()), &blink["key"]));
    assert_eq!((&blink["asked"], &blink["request"]), (&"node_identify pi-2".into(), &identify["request"]));
    assert!(of("ended").iter().any(|record| record["operation"] == *cluster && record["detail"] == "create: done"));
    assert_eq!(of("refused").len(), 1);
    assert_eq!(of("started").len(), 1);

    // the head that the console kept is in the log; the state says the newest, in the next heartbeat at the latest
    let whole = verify(&crew, &head.to_string()).with(0);
    assert_eq!((&whole["whole"], &whole["faults"]), (&true.into(), &Value::Array(Vec::new())));
    let last = whole["head"].as_str().unwrap().to_owned();
    let state = |message: &rumqttc::Publish| read::<CoordinatorState>(message, &Topic::CoordinatorState);
    let said = stranger
        .find("the head in the state", |message| state(message).is_some_and(|state| state.audit.to_string() == last))
        .await;
    let session = state(&said).unwrap().session;

    // a repeat is answered with the log's head and is no second record
    let request = ConsoleRequest {
        id: "r-again".parse().unwrap(),
        nonce: session.nonce.clone(),
        mode: Mode::Execute,
        ask: Ask::Operation {
            kind: OperationKind::NodeUncordon,
            node: Some("pi-2".parse().unwrap()),
            version: "".into(),
            force: Force::No,
        },
    };
    for _ in 0..3 {
        stranger.publish(&wire(&topic), Retain::No, &crew.keys.signed(&topic, &request)).await;
        stranger
            .find("the answer", |message| {
                read::<ConsoleResponse>(message, &answer).is_some_and(|answer| answer.id == request.id)
            })
            .await;
    }
    let again = records(&crew).into_iter().filter(|record| record["request"] == "r-again").count();
    assert_eq!(again, 1);

    // a hand in the log: altered, removed, reordered, cut off, written anew
    crew.kill(MASTER);
    let good = fs::read_to_string(log_file(&crew)).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let put = |lines: &[&str]| fs::write(log_file(&crew), lines.join("\n") + "\n").unwrap();
    let seen = kept(&crew).to_string();
    let found = |what: &str| {
        let found = verify(&crew, &seen);
        assert_eq!(found.code, 1, "{what}: {found:?}");
        found.document()["faults"].to_string()
    };
    let altered: Vec<String> = lines.iter().map(|line| line.replace("user:ann", "user:eve")).collect();
    put(&altered.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(found("altered").contains("altered or forged"));
    put(&[&lines[..2], &lines[3..]].concat());
    assert!(found("removed").contains("removed or put into another order"));
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    put(&swapped);
    assert!(found("reordered").contains("another order"));
    put(&lines[..2]);
    assert!(found("cut off").contains("its end was cut off"));
    // as after a power cut
    fs::write(log_file(&crew), &good.as_bytes()[..good.len() - 7]).unwrap();
    let torn = verify(&crew, &head.to_string());
    assert_eq!(torn.code, 0, "{torn:?}");
    assert!(torn.stdout.contains("torn, as after a power cut"), "{torn:?}");

    // the coordinator goes on with a log that was cut off, as nothing on its card can know better; the console knows
    put(&lines[..2]);
    crew.start(MASTER);
    crew.logged(MASTER, "the coordinator is connected");
    stranger
        .find("the next session", |message| state(message).is_some_and(|state| state.session.number > session.number))
        .await;
    let alarmed = crew.console(&["node", "identify", "pi-2"]);
    assert!(alarmed.stderr.contains("ALARM") && alarmed.stderr.contains("audit verify --head"), "{alarmed:?}");
    assert_eq!(kept(&crew).to_string(), seen, "what was seen stays");
}
