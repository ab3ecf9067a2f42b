//! A root unit in this process, with an engine that runs a double of kubeadm; and what speaks to it byte by byte.

#![allow(unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use beehive::engine::root::RootEngine;
use beehive::engine::root::server::{Ended, ServerSettings, serve};
use beehive::engine::root::wire::{MAX_REPLY_BYTES, Outcome, Refusal, Reply, VERSION};
use beehive::engine::run::ChildTools;
use beehive::engine::tool::{ToolCall, Tools};
use beehive::engine::{Engine, EngineDone, EngineError, EngineWork, Half, KubeAccess};
use beehive::store::Store;
use beehive_mqtt::node::{EngineRun, EngineState};
use beehive_mqtt::{ClusterId, Text};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// How long anything may take that happens at once on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// A user that is neither root nor the daemon's.
pub const NOBODY: u32 = 65_534;
/// What must not show.
pub const SECRET: &str = "beehive-token-1 abc123.5ecre75ecre75ec0 more";

/// Writes down what reaches it; waits while there is a file `hold`; fails where there is a file `fail`.
const DOUBLE: &str = r#"#!/bin/sh
below=${0%/usr/bin/kubeadm}
printf '%s|%s\n' "$*" "$(cat)" >> "$below/calls"
echo $$ > "$below/process"
while [ -e "$below/hold" ]; do sleep 0.01; done
if [ -e "$below/fail" ]; then echo "it went wrong" >&2; exit 1; fi
echo >> "$below/ended"
"#;

pub fn cluster() -> ClusterId {
    "c1".parse().unwrap()
}

/// A request of `verb`, of this release.
pub fn ask(verb: &Value) -> Value {
    json!({"v": VERSION, "release": env!("CARGO_PKG_VERSION"), "do": verb})
}

pub fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(bytes);
    frame
}

pub fn refused(reply: &Reply) -> Refusal {
    match &reply.outcome {
        Outcome::Refused { code, .. } => *code,
        other => panic!("not refused: {other:?}"),
    }
}

/// Who asks is decided by user ids, which only root can change.
pub fn as_root() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root: it asks as other users");
}

pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until no process has that id, or only one that waits to be buried.
pub async fn gone(process: &str) {
    until("a process to end", || match fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']).then_some(()),
        Err(_) => Some(()),
    })
    .await;
}

/// The arguments and the environment of every process but this one, whose own are the test's.
pub fn everything_of_processes() -> Vec<(String, String)> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        if id.parse::<u32>().is_err() || id == own {
            continue;
        }
        let mut text = String::new();
        for file in ["cmdline", "environ", "comm"] {
            // a process may end meanwhile
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        found.push((id, text));
    }
    found
}

fn log_bytes() -> &'static Arc<Mutex<Vec<u8>>> {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&log);
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || Into(Arc::clone(&writer)))
            .init();
        log
    })
}

struct Into(Arc<Mutex<Vec<u8>>>);

impl Write for Into {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What reached the double.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub arguments: String,
    pub input: String,
}

/// An engine whose every step is one call of kubeadm.
struct Doubled {
    tools: ChildTools,
    state: Arc<Mutex<EngineState>>,
    kubeconfig: Arc<Mutex<Option<String>>>,
}

impl Engine for Doubled {
    fn kind(&self) -> &'static str {
        "kubeadm"
    }

    fn perform(&self, work: EngineWork) -> BoxFuture<'static, Result<EngineDone, EngineError>> {
        let mut words = vec![work.verb().as_str().to_owned()];
        let mut input = None;
        match &work {
            EngineWork::Initialise { cluster, version } => words.extend([cluster.to_string(), version.to_string()]),
            EngineWork::Join { cluster, server, version, credential } => {
                words.extend([cluster.to_string(), server.to_string(), version.to_string()]);
                input = Some(Zeroizing::new(credential.reveal().as_bytes().to_vec()));
            }
            EngineWork::Upgrade { version } => words.push(version.to_string()),
            _ => {}
        }
        let said = words.join(" ");
        // longer than any wait of a test: what ends it is what the test is about
        let mut call = ToolCall::new("/usr/bin/kubeadm", words).within(PATIENCE * 10);
        if let Some(input) = input {
            call = call.reading(input);
        }
        let (running, state) = (self.tools.run(call), Arc::clone(&self.state));
        async move {
            let ran = running.await.unwrap();
            if !ran.succeeded() {
                return Err(EngineError { code: "tool", reason: ran.stderr, half: Half::HalfDone });
            }
            *state.lock().unwrap() = match work {
                EngineWork::Stop | EngineWork::Reset => {
                    EngineState { cluster: None, run: EngineRun::Stopped, version: Text::new() }
                }
                _ => EngineState { cluster: Some(cluster()), run: EngineRun::Running, version: Text::cut("v1.26.15") },
            };
            Ok(EngineDone { code: "done", detail: said })
        }
        .boxed()
    }

    fn state(&self) -> EngineState {
        self.state.lock().unwrap().clone()
    }

    fn access(&self) -> BoxFuture<'static, Result<Option<KubeAccess>, EngineError>> {
        let found = self.kubeconfig.lock().unwrap().clone();
        Box::pin(std::future::ready(Ok(found.map(|text| KubeAccess::new(Zeroizing::new(text))))))
    }
}

/// A root unit of a test's own.
pub struct Hive {
    pub socket: PathBuf,
    dir: tempfile::TempDir,
    kubeconfig: Arc<Mutex<Option<String>>>,
    /// What the log had at the start.
    logged: usize,
    server: Option<JoinHandle<std::io::Result<Ended>>>,
    /// One at a time, so that the log is of one.
    _alone: MutexGuard<'static, ()>,
}

impl Drop for Hive {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

impl Hive {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ServerSettings)) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let logged = log_bytes().lock().unwrap().len();
        let dir = tempfile::tempdir().unwrap();
        let double = dir.path().join("usr/bin/kubeadm");
        fs::create_dir_all(double.parent().unwrap()).unwrap();
        fs::write(&double, DOUBLE).unwrap();
        fs::set_permissions(&double, fs::Permissions::from_mode(0o755)).unwrap();
        let socket = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let kubeconfig = Arc::new(Mutex::new(None));
        let state = EngineState { cluster: None, run: EngineRun::Stopped, version: Text::new() };
        let engine = Doubled {
            tools: ChildTools::below(dir.path()),
            state: Arc::new(Mutex::new(state)),
            kubeconfig: Arc::clone(&kubeconfig),
        };
        let mut settings = ServerSettings::new(None, Duration::from_secs(600));
        change(&mut settings);
        let server = tokio::spawn(serve(listener, Arc::new(engine), settings, std::future::pending()));
        Self { socket, dir, kubeconfig, logged, server: Some(server), _alone: alone }
    }

    pub async fn client(&self) -> RootEngine {
        let store = Store::open(&self.dir.path().join("store")).unwrap();
        RootEngine::open("kubeadm", &self.socket, store).await.unwrap()
    }

    /// Lets every user connect, so that the user id alone decides.
    pub fn open_to_all(&self) {
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&self.socket, fs::Permissions::from_mode(0o666)).unwrap();
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    pub fn calls(&self) -> Vec<Call> {
        let call = |line: &str| {
            let (arguments, input) = line.split_once('|').unwrap();
            Call { arguments: arguments.to_owned(), input: input.to_owned() }
        };
        self.file("calls").lines().map(call).collect()
    }

    pub async fn wait_for_calls(&self, count: usize) {
        until("a call of the tool", || (self.calls().len() == count).then_some(())).await;
    }

    /// What was logged since the start of this.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&log_bytes().lock().unwrap()[self.logged..]).into_owned()
    }

    /// Waits until the log has had that since the start of this.
    pub async fn wait_for_log(&self, text: &str) {
        until(text, || self.log().contains(text).then_some(())).await;
    }

    /// The process of the last call.
    pub async fn process(&self) -> String {
        let process = until("the tool's process", || Some(self.file("process")).filter(|text| text.ends_with('\n')));
        process.await.trim().to_owned()
    }

    pub fn ended(&self) -> usize {
        self.file("ended").lines().count()
    }

    pub fn hold(&self) {
        fs::write(self.dir.path().join("hold"), "").unwrap();
    }

    pub fn let_go(&self) {
        fs::remove_file(self.dir.path().join("hold")).unwrap();
    }

    pub fn fail(&self, why: &str) {
        fs::write(self.dir.path().join("fail"), why).unwrap();
    }

    pub fn kubeconfig(&self, text: &str) {
        *self.kubeconfig.lock().unwrap() = Some(text.to_owned());
    }

    pub fn is_over(&self) -> bool {
        self.server.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits until the server has ended by itself.
    pub async fn over(mut self) -> Ended {
        let server = self.server.take().unwrap();
        tokio::time::timeout(PATIENCE, server).await.expect("it does not end").unwrap().unwrap()
    }
}

/// Somebody who speaks to the socket, byte by byte.
pub struct Peer(UnixStream);

impl Peer {
    pub fn connect(socket: &Path) -> Self {
        Self::over(UnixStream::connect(socket).unwrap())
    }

    /// As that user. User ids are a thread's own on Linux, so the connection is made by a thread that gives up root.
    pub fn connect_as(socket: &Path, user: u32) -> Self {
        let socket = socket.to_owned();
        let connecting = std::thread::spawn(move || {
            let user = rustix::process::Uid::from_raw(user);
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            UnixStream::connect(socket).unwrap()
        });
        Self::over(connecting.join().unwrap())
    }

    fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub fn sends(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Whether they went out.
    pub fn tries(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    pub fn ends_its_side(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    /// One frame; none where the other side has ended.
    pub fn reply(&mut self) -> Option<Reply> {
        let mut length = [0; 4];
        match self.0.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer"),
            Err(_) => return None,
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap();
        assert!(length <= MAX_REPLY_BYTES);
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    pub fn asks(&mut self, bytes: &[u8]) -> Reply {
        self.sends(&frame(bytes));
        self.reply().expect("no answer")
    }
}
