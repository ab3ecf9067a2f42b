//! What is particular to children, and the end of the output. The contract of both ways is held in `tests/engine_units.rs`.

#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::engine::tool::ToolCall;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// Nothing here takes this long; what hangs is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

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
    match tools.run(ToolCall::new("/usr/bin/kubeadm", ["reset"])).await {
        Err(ToolError::NotStarted { program: "/usr/bin/kubeadm", .. }) => {}
        // qemu-user starts a child of its own before it looks at the program
        Ok(ran) if cfg!(target_arch = "arm") => assert_eq!(ran.code, Some(127), "{ran:?}"),
        other => panic!("{other:?}"),
    }
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
