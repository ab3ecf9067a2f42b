//! The two doors through which a shutdown that somebody else started reaches the agent before it reaches the pods.
//!
//! - **logind's delay inhibitor** (org.freedesktop.login1(5), systemd-inhibit(1)): while it is held, a shutdown that was
//!   asked of logind (`systemctl poweroff`, a desktop, `shutdown +1` when its minute is over) waits after the signal
//!   `PrepareForShutdown(true)`, for `InhibitDelayMaxSec` at most: 5 s unless a drop-in says otherwise, and
//!   `hardware/rootfs` has one. A shutdown that is only scheduled sends no such signal, so taking it back (`shutdown -c`)
//!   leaves no trace here.
//! - **the drain unit** (`beehive-drain.service`): what goes past logind (root's `poweroff` and `reboot`, `shutdown -h
//!   now`) stops every unit, and this one first: its `ExecStop` is `beehive drain`, which connects to the socket below
//!   and waits until it is answered. It also gives the time that a short `InhibitDelayMaxSec` did not.
//!
//! Both say the same to the agent, [`Knock::Stopping`], and both are opened by [`Doors::let_go`]. The power sequencer sees
//! to it that the node is drained once, whichever knocks, and however often.
//!
//! The conversation on the socket: the client writes `drain\n`, the daemon answers `done\n` when systemd may go on, and
//! nothing at all if it ends before that. Only root and the daemon's own user are heard.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

/// The socket's name in the daemon's folder of `/run`.
pub const SOCKET: &str = "drain";

/// Knocks that may wait: one of each door is enough to act on.
const KNOCKS: usize = 4;

/// How long after a fault logind is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// How long logind may take to answer, with the way to it: as long as D-Bus itself waits for a service that it starts.
const LOGIND: Duration = Duration::from_secs(25);

/// How long a client of the socket may take to say what it wants.
const HELLO: Duration = Duration::from_secs(5);

/// What a client says.
const ASK: &[u8] = b"drain\n";

/// What it is answered.
const ANSWER: &[u8] = b"done\n";

/// The most of an answer that is read: root asks a daemon that is not root.
const MAX_ANSWER: u64 = 64;

/// A fixed path: what is run must not depend on an environment.
const SYSTEMCTL: &str = "/usr/bin/systemctl";

/// Which door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// logind's delay inhibitor.
    Inhibitor,
    /// The stop of the drain unit.
    DrainUnit,
}

impl Door {
    /// The word for it in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inhibitor => "logind",
            Self::DrainUnit => "drain unit",
        }
    }
}

/// What comes through a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knock {
    /// A shutdown has begun, and waits for us.
    Stopping(Door),
    /// logind has called off the shutdown that it announced.
    CalledOff,
}

/// Whether a shutdown has to wait for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Held,
    LetGo,
}

/// The agent's side of the doors: it lets a shutdown go on. Clones share it.
#[derive(Debug, Clone)]
pub struct Doors(watch::Sender<Hold>);

impl Doors {
    /// Doors at which nobody knocks: for the demo and for tests, which knock themselves through the sender.
    pub fn unattended() -> (Self, mpsc::Sender<Knock>, mpsc::Receiver<Knock>) {
        let (knock, knocks) = mpsc::channel(KNOCKS);
        (Self(watch::Sender::new(Hold::Held)), knock, knocks)
    }

    /// Attends to both doors until the process ends. A door that cannot be attended to is logged with what is lost by it;
    /// the inhibitor is tried again for ever, because D-Bus may start after us.
    ///
    /// `needed_ms` is how long a drain and the engine's stop may take together.
    pub fn attend(run_dir: &Path, needed_ms: u32) -> (Self, mpsc::Receiver<Knock>) {
        let (doors, knock, knocks) = Self::unattended();
        match listen(run_dir) {
            Ok(listener) => {
                tokio::spawn(attend_drain_unit(listener, doors.clone(), knock.clone()));
            }
            Err(error) => tracing::error!(
                "no socket at {}: {error}; a shutdown that goes past logind (root's `poweroff`) will not be drained",
                run_dir.join(SOCKET).display()
            ),
        }
        tokio::spawn(attend_inhibitor(doors.clone(), knock, needed_ms));
        (doors, knocks)
    }

    /// Lets the system's shutdown go on, and every later one.
    pub fn let_go(&self) {
        self.0.send_replace(Hold::LetGo);
    }

    /// Whether [`let_go`](Self::let_go) was called.
    pub fn is_open(&self) -> bool {
        *self.0.borrow() == Hold::LetGo
    }

    async fn opened(&self) {
        let mut hold = self.0.subscribe();
        // it cannot fail: this value holds a sender
        let _ = hold.wait_for(|hold| *hold == Hold::LetGo).await;
    }
}

// ---- logind

async fn attend_inhibitor(doors: Doors, knock: mpsc::Sender<Knock>, needed_ms: u32) {
    let mut told = String::new();
    loop {
        if let Err(error) = inhibit(&doors, &knock, needed_ms).await {
            let error = error.to_string();
            if error != told {
                tracing::warn!(
                    "logind's inhibitor is not held: {error}; a shutdown is then drained by beehive-drain.service alone; \
                     trying again"
                );
                told = error;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Holds the inhibitor, until the bus fails.
async fn inhibit(doors: &Doors, knock: &mpsc::Sender<Knock>, needed_ms: u32) -> zbus::Result<()> {
    if doors.is_open() {
        // let go already; the process is about to end
        std::future::pending::<()>().await;
    }
    let Held { mut signals, inhibitor, allowed_ms, shutdown } =
        ask_logind(zbus::connection::Builder::system()?).await?;
    let mut inhibitor = Some(inhibitor);
    if allowed_ms < u64::from(needed_ms) {
        tracing::warn!(
            "logind lets a shutdown wait for {allowed_ms} ms at most, and a drain with the engine's stop may take \
             {needed_ms} ms; what is left is done while beehive-drain.service stops; to mend it, set InhibitDelayMaxSec in \
             /etc/systemd/logind.conf.d/ (kubelet writes one there too; the last by name wins) and restart systemd-logind"
        );
    }
    match shutdown {
        // it began before we listened
        Shutdown::UnderWay => {
            let _ = knock.send(Knock::Stopping(Door::Inhibitor)).await;
        }
        Shutdown::None => {}
    }
    loop {
        tokio::select! {
            signal = signals.next() => {
                let Some(signal) = signal else {
                    return Err(zbus::Error::Failure("the bus ended".to_owned()));
                };
                let begins: bool = signal.body().deserialize()?;
                let what = if begins { Knock::Stopping(Door::Inhibitor) } else { Knock::CalledOff };
                // fails only when the agent has ended
                let _ = knock.send(what).await;
            }
            () = doors.opened(), if inhibitor.is_some() => inhibitor = None,
        }
    }
}

/// What logind has granted and said.
struct Held {
    signals: zbus::proxy::SignalStream<'static>,
    inhibitor: zbus::zvariant::OwnedFd,
    allowed_ms: u64,
    shutdown: Shutdown,
}

/// Whether logind is shutting the system down.
enum Shutdown {
    None,
    UnderWay,
}

/// Takes the inhibitor and listens.
///
/// # Errors
/// The bus or logind fails, or does not answer in time: a question without a limit would hold the door open for ever, and
/// nobody would be told.
async fn ask_logind(bus: zbus::connection::Builder<'_>) -> zbus::Result<Held> {
    let ask = async {
        let bus = bus.build().await?;
        let logind = zbus::Proxy::new(
            &bus,
            "org.freedesktop.login1",
            "/org/freedesktop/login1",
            "org.freedesktop.login1.Manager",
        )
        .await?;
        // subscribed first: no shutdown begins unseen between the two
        let signals = logind.receive_signal("PrepareForShutdown").await?;
        let inhibitor = take(&logind).await?;
        let allowed_us: u64 = logind.get_property("InhibitDelayMaxUSec").await?;
        let begun = logind.get_property::<bool>("PreparingForShutdown").await?;
        let shutdown = if begun { Shutdown::UnderWay } else { Shutdown::None };
        Ok(Held { signals, inhibitor, allowed_ms: allowed_us / 1_000, shutdown })
    };
    let late = |_| Err(zbus::Error::Failure(format!("no answer within {} s", LOGIND.as_secs())));
    tokio::time::timeout(LOGIND, ask).await.unwrap_or_else(late)
}

async fn take(logind: &zbus::Proxy<'_>) -> zbus::Result<zbus::zvariant::OwnedFd> {
    logind.call("Inhibit", &("shutdown", "beehive", "drains this node and stops its engine", "delay")).await
}

// ---- the drain unit

fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    fs::create_dir_all(run_dir)?;
    let path = run_dir.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn attend_drain_unit(listener: UnixListener, doors: Doors, knock: mpsc::Sender<Knock>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let (doors, knock) = (doors.clone(), knock.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve(client, &doors, &knock).await {
                        tracing::warn!("a client of the drain socket: {error}");
                    }
                });
            }
            Err(error) => {
                // no file descriptor is free, or the like
                tracing::warn!("the drain socket: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn serve(mut client: UnixStream, doors: &Doors, knock: &mpsc::Sender<Knock>) -> io::Result<()> {
    let user = client.peer_cred()?.uid();
    if user != 0 && user != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!("user {user} may not ask for a drain; only root may")));
    }
    let mut said = [0; ASK.len()];
    match tokio::time::timeout(HELLO, client.read_exact(&mut said)).await {
        Ok(Ok(_)) if said == *ASK => {}
        Ok(Ok(_)) => return Err(io::Error::other("it did not say what it wants")),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(io::Error::other("it said nothing")),
    }
    // fails only when the agent has ended
    let _ = knock.send(Knock::Stopping(Door::DrainUnit)).await;
    doors.opened().await;
    client.write_all(ANSWER).await
}

/// How the drain that `beehive drain` asked for went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drained {
    /// The system is not stopping: there is nothing to do.
    NotStopping {
        /// What systemd says of itself.
        state: String,
    },
    /// The daemon says that systemd may go on.
    Done,
    /// Nobody drained: there is no daemon, or it ended in the middle.
    Alone {
        /// Why.
        reason: String,
    },
    /// It took too long.
    TimedOut,
}

/// The client's side, for the drain unit's `ExecStop`: it asks the daemon to drain this node, if the system is stopping, and
/// waits for `limit_ms` at most. It blocks.
pub fn drain(run_dir: &Path, limit_ms: u32) -> Drained {
    let state = system_state();
    if state != "stopping" {
        return Drained::NotStopping { state };
    }
    ask(&run_dir.join(SOCKET), limit_ms)
}

/// What systemd says of itself: `stopping` as soon as a shutdown's transaction is queued (systemctl(1), is-system-running).
fn system_state() -> String {
    let output = Command::new(SYSTEMCTL).arg("is-system-running").env_clear().stdin(Stdio::null()).output();
    match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => format!("unknown ({SYSTEMCTL}: {error})"),
    }
}

fn ask(socket: &PathBuf, limit_ms: u32) -> Drained {
    let alone = |what: &str, error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Drained::TimedOut,
        _ => Drained::Alone { reason: format!("{what} {}: {error}", socket.display()) },
    };
    let mut stream = match BlockingStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) => return alone("the daemon does not listen at", error),
    };
    let limit = Some(Duration::from_millis(limit_ms.max(1).into()));
    let mut answer = Vec::new();
    let talk = stream
        .set_read_timeout(limit)
        .and_then(|()| stream.write_all(ASK))
        .and_then(|()| (&stream).take(MAX_ANSWER).read_to_end(&mut answer).map(|_| ()));
    match talk {
        Ok(()) if answer == ANSWER => Drained::Done,
        Ok(()) => Drained::Alone { reason: "the daemon ended before the node was drained".to_owned() },
        Err(error) => alone("the daemon does not answer at", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn door() -> (tempfile::TempDir, Doors, mpsc::Receiver<Knock>) {
        let dir = tempfile::tempdir().unwrap();
        let (doors, knock, knocks) = Doors::unattended();
        tokio::spawn(attend_drain_unit(listen(dir.path()).unwrap(), doors.clone(), knock));
        (dir, doors, knocks)
    }

    /// Asks beside the runtime, as another process would.
    fn asked(dir: &Path, limit_ms: u32) -> tokio::sync::oneshot::Receiver<Drained> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let socket = dir.join(SOCKET);
        thread::spawn(move || tell.send(ask(&socket, limit_ms)));
        told
    }

    #[tokio::test]
    async fn the_drain_unit_waits_until_it_is_let_go() {
        let (dir, doors, mut knocks) = door();
        assert_eq!(fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode() & 0o777, 0o600);
        let mut first = asked(dir.path(), 60_000);
        assert_eq!(knocks.recv().await, Some(Knock::Stopping(Door::DrainUnit)));
        assert!(first.try_recv().is_err(), "answered before it was let go");
        doors.let_go();
        assert_eq!(first.await, Ok(Drained::Done));
        // whoever comes later is not held up
        assert_eq!(asked(dir.path(), 60_000).await, Ok(Drained::Done));
        assert_eq!(knocks.recv().await, Some(Knock::Stopping(Door::DrainUnit)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_says_nothing_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let _silent = UnixListener::bind(&path).unwrap();
        let bus = zbus::connection::Builder::address(format!("unix:path={}", path.display()).as_str()).unwrap();
        let error = ask_logind(bus).await.err().unwrap();
        assert!(error.to_string().contains("no answer within 25 s"), "{error}");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_daemon_that_is_not_there_or_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let Ok(Drained::Alone { reason }) = asked(dir.path(), 60_000).await else { panic!("nobody listens") };
        assert!(reason.contains("does not listen"), "{reason}");
        // a listener that never accepts: a daemon that hangs
        let _hangs = listen(dir.path()).unwrap();
        assert_eq!(asked(dir.path(), 20).await, Ok(Drained::TimedOut));
    }

    #[tokio::test]
    async fn a_daemon_that_ends_in_the_middle_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let listener = listen(dir.path()).unwrap();
        let told = asked(dir.path(), 60_000);
        let (client, _) = listener.accept().await.unwrap();
        drop(client);
        let Ok(Drained::Alone { reason }) = told.await else { panic!("the daemon ended") };
        assert!(!reason.is_empty());
    }

    #[tokio::test]
    async fn what_is_no_request_opens_nothing() {
        let (dir, _doors, mut knocks) = door();
        let mut client = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
        client.write_all(b"reboot").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty() && knocks.try_recv().is_err());
    }
}
