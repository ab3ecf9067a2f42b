//! The root unit's end: who may ask, how much, and what becomes of a step when its asker goes.
//!
//! - **Who**: root and the daemon's user, by what the kernel says of the peer (`SO_PEERCRED`, unix(7)). Everybody else is
//!   told so and cut off before a byte of theirs is read.
//! - **How much**: [`MOST_CONNECTIONS`] at once, one request on each, within [`ASK_TIME`]; one step at a time and
//!   [`MOST_WAITING`] waiting. More is answered with `busy`.
//! - **Whoever goes**: a step that has not begun when its asker goes is not begun. One that has begun is *ended*: a daemon
//!   that is killed or upgraded in the middle of a reset must not leave half a reset, and asked again the step answers
//!   `unchanged`. Only an asker that takes its request back in so many words ([`TAKE_BACK`]: its deadline passed) drops the
//!   step where it is, as [`Engine`] allows. [`LONGEST_STEP`] bounds a step that nobody waits for.
//! - **Its end**: after [`ServerSettings::idle`] without a connection and a step, or at once when it is free and another
//!   release of beehive has asked, so that an upgrade reaches the root unit too; systemd starts it anew at the next request.
//!
//! The log names verbs and outcomes. What a request held is never in it, whether it was good or not.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::wire::{
    self, Asked, Follows, FrameError, MAX_ACCESS_BYTES, MAX_ASK_BYTES, MAX_REPLY_BYTES, Outcome, Refusal, Release,
    Reply, Said, Standing, Step, TAKE_BACK, VERSION,
};
use crate::engine::{Engine, EngineDone, EngineError, Half, KubeAccess};

/// The daemon has one connection for its step, one for the state and one for the kubeconfig; a console's `doctor` may add some.
pub const MOST_CONNECTIONS: usize = 16;
/// The daemon asks for one step at a time; while one runs there may be the stop of a shutdown and what a restarted daemon asks.
pub const MOST_WAITING: usize = 4;
/// A request is a few hundred bytes that are there at once.
pub const ASK_TIME: Duration = Duration::from_secs(5);
/// An answer goes into the socket's buffer; who does not take it for this long is gone.
pub const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Longer than the longest deadline of any command (rebuilding a control plane with images from a slow card).
pub const LONGEST_STEP: Duration = Duration::from_secs(60 * 60);

/// How the root unit behaves.
#[derive(Debug, Clone, Copy)]
pub struct ServerSettings {
    /// The daemon's user; none where there is no such user, and then root alone may ask.
    pub daemon: Option<u32>,
    /// How long it stays without work.
    pub idle: Duration,
    /// In which time a request has to be there.
    pub ask_time: Duration,
    /// When a step is dropped that nobody ends.
    pub longest_step: Duration,
}

impl ServerSettings {
    /// As on a Pi.
    pub fn new(daemon: Option<u32>, idle: Duration) -> Self {
        Self { daemon, idle, ask_time: ASK_TIME, longest_step: LONGEST_STEP }
    }
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Nobody needed it.
    Idle,
    /// Another release of beehive is there.
    Outdated,
}

/// Serves `engine` until `stop` resolves or it is not needed any more.
///
/// # Errors
/// If no connection can be accepted.
pub async fn serve(
    listener: UnixListener,
    engine: Arc<dyn Engine>,
    settings: ServerSettings,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<Ended> {
    let shared = Arc::new(Shared {
        engine,
        settings,
        turn: Mutex::new(()),
        waiting: AtomicUsize::new(0),
        steps: AtomicUsize::new(0),
        outdated: AtomicBool::new(false),
        release: wire::own_release(),
    });
    let mut stop = pin!(stop);
    let mut connections = JoinSet::new();
    let mut steps = Steps::default();
    let (begin, mut begun) = tokio::sync::mpsc::unbounded_channel();
    loop {
        let free = connections.is_empty() && steps.work.is_empty();
        if free && shared.outdated.load(Ordering::Relaxed) {
            return Ok(Ended::Outdated);
        }
        tokio::select! {
            biased;
            () = &mut stop => return Ok(Ended::Stopped),
            Some(order) = begun.recv() => steps.begin(&shared, order),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < MOST_CONNECTIONS => {
                    connections.spawn(attend(Arc::clone(&shared), stream, begin.clone()));
                }
                Ok((stream, _)) => {
                    tracing::warn!(most = MOST_CONNECTIONS, "too many connections: one more is refused");
                    turn_away(&shared, &stream, Refusal::Busy, "too many connections; ask again");
                }
                Err(error) if is_passing(&error) => {
                    tracing::warn!("a connection could not be accepted: {error}");
                    // out of descriptors: those that are open end soon
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Some(_) = steps.work.join_next(), if !steps.work.is_empty() => {}
            () = tokio::time::sleep(settings.idle), if free => return Ok(Ended::Idle),
        }
    }
}

/// What accept(2) says of one connection or of a moment, not of the socket.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED | Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::INTR | Errno::PERM
        )
    )
}

struct Shared {
    engine: Arc<dyn Engine>,
    settings: ServerSettings,
    /// One step at a time, in the order in which they were asked for.
    turn: Mutex<()>,
    /// Steps that wait for their turn.
    waiting: AtomicUsize,
    /// Steps so far, for the log.
    steps: AtomicUsize,
    /// Whether another release has asked.
    outdated: AtomicBool,
    release: Release,
}

impl Shared {
    async fn carry_out(
        &self,
        number: usize,
        word: &str,
        work: BoxFuture<'static, Result<EngineDone, EngineError>>,
    ) -> Outcome {
        tracing::info!(number, "{word}: begun");
        let longest = self.settings.longest_step;
        logged(number, word, timeout(longest, work).await.unwrap_or_else(|_| Err(too_long(word, longest))))
    }
}

/// The steps at work. They belong to the server and not to the connections: a connection may end before its step.
#[derive(Default)]
struct Steps {
    work: JoinSet<()>,
}

/// A step, and whom to tell.
struct Order {
    step: Step,
    place: Place,
    begun: Arc<AtomicBool>,
    handle: oneshot::Sender<AbortHandle>,
    ended: oneshot::Sender<Outcome>,
}

/// A place among those that wait; given back however the waiting ends.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let more = |waiting| (waiting < MOST_WAITING).then_some(waiting + 1);
        shared.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Steps {
    fn begin(&mut self, shared: &Arc<Shared>, order: Order) {
        let Order { step, place, begun, handle, ended } = order;
        let shared = Arc::clone(shared);
        let number = shared.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let word = step.word();
        let work = async move {
            let _turn = shared.turn.lock().await;
            drop(place);
            begun.store(true, Ordering::Relaxed);
            let longest = shared.settings.longest_step;
            let outcome = match step {
                // asked every minute: only a failure is worth a line
                Step::Look => match timeout(longest, shared.engine.look()).await {
                    Ok(Ok(_)) => Outcome::State,
                    Ok(Err(error)) => logged(number, word, Err(error)),
                    Err(_) => logged(number, word, Err(too_long(word, longest))),
                },
                Step::Work(work) => shared.carry_out(number, word, shared.engine.perform(work)).await,
                Step::Restore(generation) => shared.carry_out(number, word, shared.engine.restore(generation)).await,
            };
            // fails where the asker went meanwhile; it finds the step done when it asks again
            let _ = ended.send(outcome);
        };
        let _ = handle.send(self.work.spawn(work));
    }
}

fn too_long(word: &str, longest: Duration) -> EngineError {
    EngineError {
        code: "deadline",
        reason: format!("{word} did not end within {} s", longest.as_secs()),
        half: Half::HalfDone,
    }
}

fn logged(number: usize, word: &str, ended: Result<EngineDone, EngineError>) -> Outcome {
    match &ended {
        Ok(done) => tracing::info!(number, "{word}: {}: {}", done.code, done.detail),
        Err(error) => tracing::warn!(number, "{word}: {}: {}", error.code, error.reason),
    }
    ended.into()
}

type Begin = tokio::sync::mpsc::UnboundedSender<Order>;

/// One connection, from its first byte to its last.
async fn attend(shared: Arc<Shared>, mut stream: UnixStream, begin: Begin) {
    let peer = match stream.peer_cred() {
        Ok(peer) => peer,
        Err(error) => return tracing::warn!("nobody knows who asks: {error}"),
    };
    let (user, process) = (peer.uid(), peer.pid());
    if user != 0 && Some(user) != shared.settings.daemon {
        tracing::warn!(user, process, "refused: neither root nor the daemon's user");
        return turn_away(&shared, &stream, Refusal::NotAllowed, "only root and the daemon's user may ask");
    }
    let ask = match timeout(shared.settings.ask_time, wire::read_frame(&mut stream, MAX_ASK_BYTES)).await {
        Ok(Ok(frame)) => wire::parse_ask(&frame),
        Ok(Err(FrameError::Ended)) => return tracing::debug!(user, process, "ended without a request"),
        Ok(Err(FrameError::Length(bytes))) => {
            Err((Refusal::Length, format!("a request has 1 to {MAX_ASK_BYTES} bytes, not {bytes}")))
        }
        Ok(Err(FrameError::Io(error))) => return tracing::warn!(user, process, "the connection failed: {error}"),
        Err(_) => Err((Refusal::TooSlow, "no whole request came in time".to_owned())),
    };
    let asked = ask.and_then(|ask| {
        if ask.release != shared.release {
            shared.outdated.store(true, Ordering::Relaxed);
        }
        ask.verb.asked().map_err(|error| (Refusal::BadRequest, error.to_string()))
    });
    let answered = match asked {
        Err((refusal, reason)) => {
            tracing::warn!(user, process, "refused: {}: {reason}", refusal.word());
            refuse(&shared, &mut stream, refusal, &reason).await
        }
        Ok(Asked::State) => answer(&shared, &mut stream, Outcome::State).await,
        Ok(Asked::Access) => access(&shared, &mut stream).await,
        Ok(Asked::Step(asked)) => {
            match &asked {
                Step::Look => {}
                Step::Work(_) | Step::Restore(_) => tracing::info!(user, process, "{}: asked for", asked.word()),
            }
            step(&shared, &mut stream, asked, &begin).await
        }
    };
    if let Err(error) = answered {
        tracing::warn!(user, process, "the answer was not taken: {error}");
    }
}

/// How the asker's side changed while its step was waited for.
enum Asker {
    /// It takes its request back.
    TakesBack,
    /// It is gone, or it says what is not to be said here.
    Gone,
}

async fn step(shared: &Arc<Shared>, stream: &mut UnixStream, step: Step, begin: &Begin) -> io::Result<()> {
    let word = step.word();
    let Some(place) = Place::take(shared) else {
        tracing::warn!("{word}: refused: {MOST_WAITING} steps are waiting");
        return refuse(shared, stream, Refusal::Busy, "too many steps are waiting; ask again").await;
    };
    let begun = Arc::new(AtomicBool::new(false));
    let (handle, handed) = oneshot::channel();
    let (ended, mut outcome) = oneshot::channel();
    let ordered = begin.send(Order { step, place, begun: Arc::clone(&begun), handle, ended });
    let (Ok(()), Ok(handle)) = (ordered, handed.await) else {
        return refuse(shared, stream, Refusal::Ending, "the root unit is ending; ask again").await;
    };
    let asker = tokio::select! {
        biased;
        outcome = &mut outcome => {
            return match outcome {
                Ok(outcome) => answer(shared, stream, outcome).await,
                // it ended without a word: a panic, or the end of the root unit
                Err(_) => answer(shared, stream, lost().into()).await,
            };
        }
        asker = heard(stream) => asker,
    };
    match (asker, begun.load(Ordering::Relaxed)) {
        (Asker::TakesBack, _) => {
            tracing::warn!("{word}: taken back by its asker; it is dropped");
            handle.abort();
        }
        (Asker::Gone, false) => {
            tracing::warn!("{word}: its asker is gone before it began; it is not begun");
            handle.abort();
        }
        (Asker::Gone, true) => {
            tracing::warn!("{word}: its asker is gone, or says more than one request; it is brought to its end")
        }
    }
    Ok(())
}

/// What a step leaves that ended without an outcome.
fn lost() -> Result<EngineDone, EngineError> {
    Err(EngineError {
        code: "internal",
        reason: "the step ended without an outcome; see the root unit's log".to_owned(),
        half: Half::HalfDone,
    })
}

/// Waits until the asker says something or goes.
async fn heard(stream: &mut UnixStream) -> Asker {
    match stream.read_u8().await {
        Ok(TAKE_BACK) => Asker::TakesBack,
        Ok(_) | Err(_) => Asker::Gone,
    }
}

async fn access(shared: &Shared, stream: &mut UnixStream) -> io::Result<()> {
    let found: BoxFuture<'_, _> = shared.engine.access();
    let found = match timeout(shared.settings.ask_time, found).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return answer(shared, stream, Err(error).into()).await,
        Err(_) => {
            let error = EngineError {
                code: "deadline",
                reason: "the kubeconfig could not be read in time; is the card failing?".to_owned(),
                half: Half::Clean,
            };
            return answer(shared, stream, Err(error).into()).await;
        }
    };
    match found {
        None => answer(shared, stream, Outcome::Access { kubeconfig: Follows::Nothing }).await,
        Some(kubeconfig) => {
            let bytes = KubeAccess::reveal(&kubeconfig).as_bytes();
            if bytes.is_empty() || bytes.len() > MAX_ACCESS_BYTES {
                let error = EngineError {
                    code: "kubeconfig",
                    reason: format!("the kubeconfig has {} bytes; 1 to {MAX_ACCESS_BYTES} are sent", bytes.len()),
                    half: Half::Clean,
                };
                return answer(shared, stream, Err(error).into()).await;
            }
            answer(shared, stream, Outcome::Access { kubeconfig: Follows::Next }).await?;
            in_time(wire::write_frame(stream, bytes)).await
        }
    }
}

async fn refuse(shared: &Shared, stream: &mut UnixStream, code: Refusal, reason: &str) -> io::Result<()> {
    answer(shared, stream, Outcome::Refused { code, reason: Said::cut(reason) }).await
}

async fn answer(shared: &Shared, stream: &mut UnixStream, outcome: Outcome) -> io::Result<()> {
    let bytes = reply(shared, Some(Standing::now(shared.engine.state())), outcome)?;
    in_time(wire::write_frame(stream, &bytes)).await
}

fn reply(shared: &Shared, standing: Option<Standing>, outcome: Outcome) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    let reply = Reply { v: VERSION, release: shared.release.clone(), standing, outcome };
    wire::to_bytes(&reply, MAX_REPLY_BYTES).map_err(io::Error::other)
}

async fn in_time(writing: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(ANSWER_TIME, writing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Tells somebody who gets nothing more, without waiting for anything: a fresh socket's buffer has room for this.
fn turn_away(shared: &Shared, stream: &UnixStream, code: Refusal, reason: &str) {
    let outcome = Outcome::Refused { code, reason: Said::cut(reason) };
    if let Ok(bytes) = reply(shared, None, outcome) {
        let length = u32::try_from(bytes.len()).unwrap_or_default();
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend_from_slice(&bytes);
        let _ = stream.try_write(&frame);
    }
}
