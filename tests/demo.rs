//! `beehive demo` as a program: its built-in scenario, scripts that hold and that do not, fifty Pis, and Ctrl-C.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn demo(folder: &Path, arguments: &[&str]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_beehive"));
    command.env("TMPDIR", folder).env_remove("RUST_LOG").timeout(Duration::from_secs(120));
    command.arg("demo").args(arguments);
    command
}

/// The exit code, standard output, standard error; and no folder is left behind.
fn play(arguments: &[&str], script: Option<&str>) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let mut command = demo(state.path(), arguments);
    if let Some(script) = script {
        let path = folder.path().join("scene");
        std::fs::File::create(&path).unwrap().write_all(script.as_bytes()).unwrap();
        command.arg("--script").arg(path);
    }
    let output = command.output().unwrap();
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0, "a folder was left behind");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("ended by a signal"), text(output.stdout), text(output.stderr))
}

#[test]
fn the_built_in_scenario_holds() {
    let (code, out, err) = play(&[], None);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    for line in [
        "operation create: done",
        "operation rebuild: done",
        "rebuilt after ",
        "3 nodes ready",
        "002     gesture: power_off",
        "pi 002  the final hook cuts its power: off",
        "pi 003  mains cut",
        "pi 003  reboots",
        "pi 001  the final hook cuts its power: off",
    ] {
        assert!(out.contains(line), "{line:?} is missing in\n{out}");
    }
    let last = out.lines().rfind(|line| line.contains("the final hook")).unwrap();
    assert!(last.contains("pi 001"), "the master goes last:\n{out}");
}

#[test]
fn an_expectation_that_fails_names_its_line_and_what_was_seen() {
    let (code, out, err) =
        play(&[], Some("create\nexpect operation create done\nexpect within 1s node 002 power halted\n"));
    assert_eq!(code, 1, "{out}{err}");
    assert!(
        err.contains("scene:3: expect within 1s node 002 power halted: not within 1 s; instead: node 002: "),
        "{err}"
    );
    assert!(err.contains("power running, presence online"), "{err}");
}

#[test]
fn what_is_refused_ends_the_script_unless_it_was_tried() {
    let (code, out, err) = play(&[], Some("expect node all presence online\ntry rebuild\nrebuild\n"));
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains("scene:3: rebuild: the coordinator's answer is refused"), "{err}");
}

#[test]
fn a_script_that_cannot_be_read_is_refused_before_anything_starts() {
    let (code, out, err) = play(&[], Some("create\nmains 002 up\n"));
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("scene:2: \"up\" is not known here; allowed: off, on"), "{err}");
    let (code, _, err) = play(&["--nodes", "2"], None);
    assert_eq!(code, 2);
    assert!(err.contains("needs 3 nodes"), "{err}");
    let (code, _, err) = play(&["--script", "/nowhere/to/be/found"], None);
    assert_eq!(code, 2);
    assert!(err.contains("cannot read the script"), "{err}");
}

#[test]
fn fifty_nodes_are_right_after_a_restart_of_the_console() {
    let script = "expect within 30s node all presence online\n\
                  create\n\
                  expect within 60s operation create done\n\
                  expect within 30s node all membership ready\n\
                  restart console\n\
                  expect within 12s node all membership ready\n\
                  expect within 12s node all presence online\n\
                  expect within 12s node all lifecycle member\n\
                  expect within 12s node all power running\n";
    let (code, out, err) = play(&["--nodes", "50"], Some(script));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
}

#[test]
fn network_and_double_press_and_single_nodes() {
    let script = "expect node all presence online\n\
                  create\n\
                  expect operation create done\n\
                  expect node all membership ready\n\
                  network 003 cut\n\
                  expect node 003 presence offline\n\
                  network 003 back\n\
                  expect node 003 presence online\n\
                  expect node 003 membership ready\n\
                  node drain 002\n\
                  expect operation node_drain done\n\
                  expect node 002 membership cordoned\n\
                  node uncordon 002\n\
                  expect operation node_uncordon done\n\
                  expect node 002 membership ready\n\
                  double 002\n\
                  expect event gesture: double\n\
                  press 003\n\
                  expect event gesture: short\n";
    let (code, out, err) = play(&[], Some(script));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
}

/// Cuts at any moment, also of Pis whose link is just connecting: neither the embedded broker nor the crew is stopped by
/// them, and the rebuild comes to its end.
#[test]
fn a_rebuild_survives_power_cuts_of_a_node_and_of_the_master() {
    let script = "create\n\
                  expect operation create done\n\
                  mains 003 off\n\
                  mains 003 on\n\
                  press 003\n\
                  expect node 003 machine on\n\
                  mains 003 off\n\
                  mains 003 on\n\
                  press 003\n\
                  expect node 003 machine on\n\
                  mains 003 off\n\
                  expect node 003 presence offline\n\
                  mains 003 on\n\
                  press 003\n\
                  expect within 20s node 003 presence online\n\
                  expect within 20s node all membership ready\n\
                  rebuild\n\
                  mains 001 off\n\
                  expect node 001 presence offline\n\
                  mains 001 on\n\
                  press 001\n\
                  expect within 60s operation rebuild done\n\
                  expect within 20s node all membership ready\n\
                  rebuild\n\
                  mains 002 off\n\
                  expect node 002 presence offline\n\
                  mains 002 on\n\
                  press 002\n\
                  network 003 cut\n\
                  expect node 003 presence offline\n\
                  network 003 back\n\
                  expect within 60s operation rebuild done\n\
                  expect within 20s node all membership ready\n";
    let (code, out, err) = play(&[], Some(script));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
}

#[test]
fn the_gesture_for_a_reset_takes_a_node_out_of_the_cluster() {
    let script = "create\n\
                  expect operation create done\n\
                  expect node all membership ready\n\
                  hold-reset 002\n\
                  expect event gesture: reset_armed\n\
                  expect node 002 lifecycle blank\n\
                  expect node 002 membership blank\n\
                  expect node 003 membership ready\n";
    let (code, out, err) = play(&[], Some(script));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
}

#[test]
fn lines_that_cannot_be_written_are_a_failure() {
    let state = tempfile::tempdir().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_beehive"))
        .arg("demo")
        .env("TMPDIR", state.path())
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let err = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(err.contains("cannot be written to standard output"), "{err}");
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0, "a folder was left behind");
}

#[test]
fn ctrl_c_and_a_closed_terminal_end_it_cleanly() {
    use rustix::process::Signal;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        ends_cleanly(signal, code);
    }
}

fn ends_cleanly(signal: rustix::process::Signal, code: i32) {
    let state = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scene");
    std::fs::write(&path, "expect node all presence online\ncreate\nexpect within 600s event never\n").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_beehive"))
        .args(["demo", "--script"])
        .arg(&path)
        .env("TMPDIR", state.path())
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("operation create: done")));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, signal).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(code));
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0, "a folder was left behind");
}
