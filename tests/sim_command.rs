//! `beehive sim` as a program. That violations are found and told is shown by the mutants (`tests/mutants/sim`): without one
//! there is none.

#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

fn sim(arguments: &[&str]) -> (i32, String, String) {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_beehive")).arg("sim").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn kept(change: impl FnOnce(&mut Value)) -> tempfile::NamedTempFile {
    let mut document = json!({
        "format": 1, "beehive": env!("CARGO_PKG_VERSION"), "seed": 1, "faults": ["loss"], "why": "", "log": [],
        "options": { "events": 50, "signing": "hashed", "mask": 1, "trace": "off" },
    });
    change(&mut document);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), document.to_string()).unwrap();
    file
}

#[test]
fn seeds_are_played_and_summed_up() {
    let (code, out, err) = sim(&["run", "--seeds", "1:3", "--events", "100", "--json"]);
    assert_eq!(code, 0, "{err}");
    let summary: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(summary["seeds"], 3);
    assert!(summary["least_events_of_a_seed"].as_u64().unwrap() >= 100);
    assert!(summary["median_operations"].as_u64().unwrap() >= 3);
    assert_eq!(summary["violations"], json!([]));
    let (code, out, _) = sim(&["run", "--seeds", "1", "--events", "100", "--real-signatures"]);
    assert_eq!(code, 0);
    assert!(out.contains("0 violations"), "{out}");
}

#[test]
fn a_replay_prints_what_happens_and_waits_for_nobody_without_a_terminal() {
    let file = kept(|_| ());
    let (code, out, err) = sim(&["replay", file.path().to_str().unwrap(), "--step"]);
    assert_eq!(code, 0);
    assert!(out.lines().count() > 20 && out.contains("crew-001 boots"), "{out}");
    assert!(err.contains("with these faults alone: loss") && err.contains("no rule was broken"), "{err}");
}

#[test]
fn what_is_no_replay_says_so() {
    let later = kept(|document| document["format"] = json!(2));
    let unknown = kept(|document| document["options"]["speed"] = json!(1));
    for (file, word) in [(&later, "format 2"), (&unknown, "unknown field")] {
        let (code, _, err) = sim(&["replay", file.path().to_str().unwrap()]);
        assert_eq!(code, 1);
        assert!(err.contains(word), "{err}");
    }
    let (code, _, err) = sim(&["run", "--seeds", "1:0"]);
    assert_eq!(code, 2);
    assert!(err.contains("FROM:COUNT"), "{err}");
}
