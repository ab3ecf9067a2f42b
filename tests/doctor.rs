//! `beehive doctor` as a program, on this very machine: what it finds depends on the machine, how it says it does not. What
//! it finds on a Pi is tested with trees of files, beside the checks.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use serde_json::Value;

fn doctor(arguments: &[&str]) -> (i32, String, String) {
    let output =
        assert_cmd::Command::new(env!("CARGO_BIN_EXE_beehive")).arg("doctor").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn config(folder: &Path, text: &str) -> String {
    let path = folder.join("beehive.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn this_machine_is_looked_at_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let toml =
        format!("crew = \"bee\"\nnode = \"bee-2\"\nrole = \"node\"\nstate_dir = {:?}\n", state.to_str().unwrap());
    let config = config(folder.path(), &toml);
    // a port that nobody has: the answer is a refusal at once, without a name to look up
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let line = ["--config", &config, "--engine", "kubeadm", "--server", &free, "--registry", &free];
    let (code, out, err) = doctor(&[&line[..], &["--dry-run", "--json"]].concat());
    assert_eq!(code, 5, "{err}");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&document["format"], &document["role"], &document["engine"]),
        (&1.into(), &"node".into(), &"kubeadm".into())
    );
    assert_eq!((&document["node"], &document["result"]), (&"bee-2".into(), &"refused".into()));
    let findings = document["findings"].as_array().unwrap();
    let has = |id: &str| findings.iter().any(|finding| finding["id"] == id);
    assert!(has("api-server") && has("registry"), "{out}");
    for finding in findings {
        for key in ["evidence", "remedy"] {
            assert!(!finding[key].as_str().unwrap().is_empty(), "{finding}");
        }
    }
    for change in document["changes"].as_array().unwrap() {
        assert_eq!(change["outcome"], "would", "{change}");
    }
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "the probe of the card leaves nothing");
    let (code, out, _) = doctor(&line);
    assert_eq!(code, 5);
    assert!(out.starts_with("as a node with kubeadm\n") && out.contains("error    api-server: "), "{out}");
}

#[test]
fn what_is_not_clear_is_a_matter_of_usage() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = config(folder.path(), "crew = \"bee\"\nrole = \"queen\"\n");
    let absent = folder.path().join("absent").to_str().unwrap().to_owned();
    for (line, word) in [
        (&["--config", &wrong][..], "queen"),
        (&["--config", &absent], "cannot read the configuration"),
        (&["--role", "node", "--server", "a b"], "--server cannot be used"),
        (&["--role", "queen"], "possible values"),
        (&["--role", "node", "--engine-version", "v1;rm"], "letters, digits"),
    ] {
        let (code, out, err) = doctor(line);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains(word), "{err}");
    }
}
