//! One contract for both ways, and what is particular to each.

#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::engine::tool::ToolCall;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// Nothing here takes this long; what hangs is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

fn sh(script: &str) -> ToolCall {
    ToolCall::new("/bin/sh", ["-c", script]).within(PATIENCE)
}

/// Waits until `file` has a line, which a program writes when it is under way.
async fn line_in(file: &Path) -> String {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match std::fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            Ok(_) | Err(_) => {}
        }
        assert!(tokio::time::Instant::now() < until, "{} stays empty", file.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until no process has that id, or only one that waits to be buried.
async fn gone(process: &str) {
    let until = tokio::time::Instant::now() + PATIENCE;
    let alive = || match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']),
        Err(_) => false,
    };
    while alive() {
        assert!(tokio::time::Instant::now() < until, "the process {process} lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A program that starts another one, tells the file who that is, and waits with it for ever.
fn family(file: &Path) -> ToolCall {
    sh(&format!("echo begun; /bin/sleep 1000 & echo $! > {}; wait", file.display()))
}

/// What both ways hold.
async fn contract(tools: &dyn Tools) {
    // how it ended, and what it said where
    let ran = tools.run(sh("echo out; echo err >&2; exit 3")).await.unwrap();
    assert_eq!(ran, Ran { code: Some(3), stdout: "out\n".into(), stderr: "err\n".into() });
    let ran = tools.run(sh("exit 0")).await.unwrap();
    assert!(ran.succeeded(), "{ran:?}");
    let ran = tools.run(sh("kill -9 $$")).await.unwrap();
    assert_eq!(ran.code, None, "a signal is no status");

    // its words are its words
    let words = ["$HOME ${HOME} $$", "%n %%", "a b", "'\"", "*", "", "; touch /x", "`id`", "\\n\n", "--", "-x"];
    let mut arguments = vec!["<%s>"];
    arguments.extend(words);
    let ran = tools.run(ToolCall::new("/usr/bin/printf", arguments).within(PATIENCE)).await.unwrap();
    let expected: String = words.iter().map(|word| format!("<{word}>")).collect();
    assert_eq!(ran.stdout, expected);

    // its environment is the call's
    let ran = tools.run(ToolCall::new("/usr/bin/env", [""; 0]).within(PATIENCE)).await.unwrap();
    assert_eq!(ran.stdout, "");
    let call = ToolCall::new("/usr/bin/env", [""; 0]).within(PATIENCE).with("PATH", "/sbin").with("A", "$b c\"'");
    let mut given: Vec<String> = tools.run(call).await.unwrap().stdout.lines().map(str::to_owned).collect();
    given.sort();
    assert_eq!(given, ["A=$b c\"'", "PATH=/sbin"]);

    // what it reads, to its end
    let secret = Zeroizing::new(b"s3cret".to_vec());
    let ran = tools.run(ToolCall::new("/bin/cat", [""; 0]).within(PATIENCE).reading(secret)).await.unwrap();
    assert_eq!(ran.stdout, "s3cret");
    let ran = tools.run(ToolCall::new("/bin/cat", [""; 0]).within(PATIENCE)).await.unwrap();
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    let more_than_a_pipe = Zeroizing::new(vec![b'x'; 1024 * 1024]);
    let ran = tools.run(sh("exit 4").reading(more_than_a_pipe)).await.unwrap();
    assert_eq!(ran.code, Some(4), "who does not read is not waited for");

    // the end of what it says
    let ran = tools.run(sh("yes no | head -c 1000000; echo; echo last; printf '\\033[1m\\377' >&2")).await.unwrap();
    assert!(ran.stdout.len() <= OUTPUT_BYTES && ran.stdout.len() > OUTPUT_BYTES / 2, "{}", ran.stdout.len());
    assert!(ran.stdout.ends_with("\nlast\n"), "{:?}", ran.stdout);
    assert_eq!(ran.stderr, "[1m\u{fffd}");

    // what is not there
    let missing = ToolError::Missing { program: "/usr/bin/beehive-no-such-program" };
    assert_eq!(tools.run(ToolCall::new("/usr/bin/beehive-no-such-program", [""; 0])).await, Err(missing));
    assert!(!tools.has("/usr/bin/beehive-no-such-program") && !tools.has("/etc/passwd") && !tools.has("/usr/bin"));
    assert!(tools.has("/bin/sh"));

    // whoever started it, its end is that of all
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("left");
    let ran = tools.run(sh(&format!("/bin/sleep 1000 & echo $! > {}; exit 5", left.display()))).await.unwrap();
    assert_eq!(ran.code, Some(5));
    gone(&line_in(&left).await).await;

    let late = dir.path().join("late");
    let deadline = Duration::from_millis(500);
    match tools.run(family(&late).within(deadline)).await {
        Err(ToolError::Deadline { program: "/bin/sh", deadline: said, last }) => {
            assert_eq!((said, last.as_str()), (deadline, "begun"));
        }
        other => panic!("{other:?}"),
    }
    gone(&line_in(&late).await).await;

    let dropped = dir.path().join("dropped");
    let work = tools.run(family(&dropped));
    let child = tokio::select! {
        ended = work => panic!("{ended:?}"),
        child = line_in(&dropped) => child,
    };
    gone(&child).await;
}

#[tokio::test]
async fn children_hold_the_contract() {
    contract(&ChildTools::below(Path::new("/"))).await;
}

#[tokio::test]
async fn transient_units_hold_the_contract() {
    if !sd_notify::booted().unwrap_or(false) {
        // no skipped test passes for one that ran: what can be held without systemd is below, and this line says the rest
        eprintln!(
            "NOT RUN: systemd does not manage this machine, so the contract was not held against transient units"
        );
        return;
    }
    contract(&UnitTools::open().await.unwrap()).await;
}

#[tokio::test]
async fn doubles_lie_below_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("usr/bin/kubeadm");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "#!/bin/sh\necho double \"$@\"\n").unwrap();
    let tools = ChildTools::below(dir.path());
    assert!(!tools.has("/usr/bin/kubeadm"), "what cannot be executed is no program");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(tools.has("/usr/bin/kubeadm") && !tools.has("/bin/sh"));
    let ran = tools.run(ToolCall::new("/usr/bin/kubeadm", ["reset", "-f"]).within(PATIENCE)).await.unwrap();
    assert_eq!(ran.stdout, "double reset -f\n");

    std::fs::write(&path, "no program\n").unwrap();
    let why = tools.run(ToolCall::new("/usr/bin/kubeadm", ["reset"])).await.unwrap_err();
    assert!(matches!(why, ToolError::NotStarted { program: "/usr/bin/kubeadm", .. }), "{why:?}");
}

#[test]
fn the_end_of_the_output_is_kept_within_its_bound() {
    let tail = Tail::default();
    assert_eq!(tail.text(), "");
    // bytes that are no text grow when they are shown
    tail.push(&[0xff; OUTPUT_BYTES * 2]);
    let text = tail.text();
    assert!(text.len() <= OUTPUT_BYTES && text.chars().all(|c| c == '\u{fffd}'));
    tail.push("€".repeat(OUTPUT_BYTES).as_bytes());
    tail.push(b"end");
    assert!(tail.text().ends_with("€end") && tail.text().len() <= OUTPUT_BYTES);
}
