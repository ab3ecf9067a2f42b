//! `beehive engine serve` as a process, with the simulated engine.

#![allow(unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::hive::{NOBODY, Peer, SECRET, as_root, ask, frame, refused, until};
use beehive::engine::root::wire::{Outcome, Refusal};
use serde_json::json;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

const BEEHIVE: &str = env!("CARGO_BIN_EXE_beehive");

struct Program {
    dir: tempfile::TempDir,
    child: Child,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(dir: &tempfile::TempDir, daemon_user: &str) -> Command {
    let state = dir.path().join("state");
    fs::create_dir_all(&state).unwrap();
    let config = dir.path().join("beehive.toml");
    let text = format!(
        "crew = \"bee\"\nnode = \"pi-1\"\nrole = \"node\"\nstate_dir = \"{}\"\nrun_dir = \"{}\"\n\
         [engine]\nkind = \"simulated\"\ndaemon_user = \"{daemon_user}\"\n",
        state.display(),
        dir.path().display()
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(BEEHIVE);
    command
        .env_clear()
        .args(["engine", "serve", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.path().join("log")).unwrap());
    command
}

impl Program {
    /// Started as by hand, at a socket of its own.
    async fn start(daemon_user: &str, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let child = command(&dir, daemon_user).arg("--socket").arg(&socket).args(more).spawn().unwrap();
        let program = Self { dir, child };
        until("the root unit to listen", || program.log().contains("the root unit listens").then_some(())).await;
        program
    }

    /// Started as by systemd, with the listening socket as its standard input.
    async fn activated(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("engine.sock")).unwrap();
        let child = command(&dir, "beehive").args(more).stdin(Stdio::from(OwnedFd::from(listener))).spawn().unwrap();
        let program = Self { dir, child };
        until("the root unit to listen", || program.log().contains("the root unit listens").then_some(())).await;
        program
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("engine.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the root unit to end", || child.try_wait().unwrap()).await
    }

    fn terminate(&self) {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_serves_its_socket_and_takes_it_away() {
    as_root();
    let mut program = Program::start("nobody", &[]).await;
    let found = fs::metadata(program.socket()).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!((found.permissions().mode() & 0o777, found.uid()), (0o660, 0), "root's, and the daemon's group's");
    let state = ask(&json!("state")).to_string();
    // the configuration's user, by its name; and a stranger for whom even the file would be open
    fs::set_permissions(program.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(program.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(Peer::connect_as(&program.socket(), NOBODY).asks(state.as_bytes()).outcome, Outcome::State));
    assert_eq!(refused(&Peer::connect_as(&program.socket(), 4_711).reply().unwrap()), Refusal::NotAllowed);

    let join = json!({"join": {"cluster": "c1", "server": "pi-1", "version": "", "credential": SECRET}});
    let reply = Peer::connect(&program.socket()).asks(ask(&join).to_string().as_bytes());
    // the simulated engine has credentials of its own kind
    assert!(matches!(&reply.outcome, Outcome::Failed { code, .. } if code.as_str() == "bad-credential"), "{reply:?}");
    let garbage = format!("{{\"{SECRET}\": \"{SECRET}\"}}");
    assert_eq!(refused(&Peer::connect(&program.socket()).asks(garbage.as_bytes())), Refusal::BadRequest);
    let reply = Peer::connect(&program.socket()).asks(ask(&json!("reset")).to_string().as_bytes());
    assert!(matches!(&reply.outcome, Outcome::Done { code, .. } if code.as_str() == "unchanged"), "{reply:?}");
    let log = program.log();
    assert!(log.contains("join: begun") && log.contains("refused: bad-request"), "{log}");
    assert!(!log.contains("5ecre7"), "{log}");

    program.terminate();
    assert!(program.ended().await.success(), "{}", program.log());
    assert!(!program.socket().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_takes_the_socket_that_systemd_listens_on() {
    as_root();
    let mut program = Program::activated(&["--idle", "1"]).await;
    let state = ask(&json!("state")).to_string();
    assert!(matches!(Peer::connect(&program.socket()).asks(state.as_bytes()).outcome, Outcome::State));
    // nobody asks any more
    assert!(program.ended().await.success());
    assert!(program.log().contains("nobody needs it"), "{}", program.log());
    assert!(program.socket().exists(), "the socket is systemd's");

    let mut program = Program::activated(&[]).await;
    let other = json!({"v": 1, "release": "9.9.9", "do": "state"});
    assert!(matches!(Peer::connect(&program.socket()).asks(other.to_string().as_bytes()).outcome, Outcome::State));
    assert!(program.ended().await.success());
    assert!(program.log().contains("another release"), "{}", program.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_says_why_it_does_not_start() {
    as_root();
    let dir = tempfile::tempdir().unwrap();
    let mut nothing = command(&dir, "beehive");
    assert!(!nothing.status().unwrap().success());
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("beehive-engine.socket") && log.contains("--socket"), "{log}");

    let mut running = Program::start("beehive", &[]).await;
    let mut second = command(&running.dir, "beehive");
    second.stderr(File::create(running.dir.path().join("log-2")).unwrap()).arg("--socket").arg(running.socket());
    assert!(!second.status().unwrap().success());
    let log = fs::read_to_string(running.dir.path().join("log-2")).unwrap();
    assert!(log.contains("another root unit listens there"), "{log}");

    // killed, it leaves its socket behind, which is no hindrance
    running.child.kill().unwrap();
    running.ended().await;
    assert!(running.socket().exists());
    let mut third = command(&running.dir, "beehive");
    let log_3 = running.dir.path().join("log-3");
    let mut third = third.stderr(File::create(&log_3).unwrap()).arg("--socket").arg(running.socket()).spawn().unwrap();
    until("the third one to listen", || {
        fs::read_to_string(&log_3).unwrap().contains("the root unit listens").then_some(())
    })
    .await;
    let mut peer = Peer::connect(&running.socket());
    peer.sends(&frame(ask(&json!("state")).to_string().as_bytes()));
    assert!(peer.reply().is_some());
    third.kill().unwrap();
    third.wait().unwrap();

    let somebody = dir.path().join("somebody");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut as_nobody = command(&dir, "beehive");
    fs::set_permissions(dir.path().join("beehive.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::process::CommandExt::uid(&mut as_nobody, NOBODY).arg("--socket").arg(&somebody);
    match as_nobody.status() {
        Ok(status) => {
            assert!(!status.success());
            let log = fs::read_to_string(dir.path().join("log")).unwrap();
            assert!(log.contains("needs root"), "{log}");
        }
        // where the build's own folder is closed to others, nobody can run the program at all
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
    assert!(!somebody.exists());
}

/// The daemon itself, with a real engine in its configuration: without the root unit it starts and says what is missing, and
/// it finds the root unit when it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_lives_without_the_root_unit_and_finds_it() {
    as_root();
    let dir = tempfile::tempdir().unwrap();
    let (state, run) = (dir.path().join("daemon"), dir.path().join("run"));
    fs::create_dir_all(&state).unwrap();
    fs::create_dir_all(&run).unwrap();
    let config = dir.path().join("daemon.toml");
    // no broker listens at port 1, and there are no keys: what is left is the Pi itself
    let text = format!(
        "crew = \"bee\"\nnode = \"pi-1\"\nrole = \"node\"\nleds = \"off\"\nstate_dir = \"{}\"\nrun_dir = \"{}\"\n\
         [broker]\nport = 1\n[engine]\nkind = \"kubeadm\"\n[pins]\nbackend = \"none\"\n[poe_hat]\nbus = \"off\"\n\
         [keys]\ndir = \"{}\"\n",
        state.display(),
        run.display(),
        dir.path().join("keys").display()
    );
    fs::write(&config, text).unwrap();
    let log = dir.path().join("daemon-log");
    let child = Command::new(BEEHIVE)
        .env_clear()
        .args(["run", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut daemon = Program { dir, child };
    let said = |text: &str| fs::read_to_string(&log).unwrap().contains(text).then_some(());
    until("the daemon to miss the root unit", || said("the root unit cannot be reached at")).await;
    assert!(said("beehive-engine.socket").is_some(), "it says what to do");
    assert!(daemon.child.try_wait().unwrap().is_none(), "it has ended");

    let socket = run.join("engine.sock");
    let mut root_unit = command(&daemon.dir, "beehive").arg("--socket").arg(&socket).spawn().unwrap();
    until("the daemon to find the root unit", || said("the root unit answers again")).await;
    daemon.terminate();
    assert!(daemon.ended().await.success(), "{}", fs::read_to_string(&log).unwrap());
    root_unit.kill().unwrap();
    root_unit.wait().unwrap();
}
