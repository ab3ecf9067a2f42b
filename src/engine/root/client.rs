//! The daemon's end: an [`Engine`] whose steps are done by the root unit.
//!
//! Each request has a connection of its own, so nothing has to be mended when the root unit was started anew. A future that
//! is dropped takes its request back. The state is that of the last answer; between answers it is asked for every
//! [`LOOK_EVERY`], which also keeps the root unit there: while the system stops, systemd would not start it any more, and the
//! stop of the engine is needed exactly then.
//!
//! Which cluster this Pi is in is kept in the daemon's store too: a daemon that starts before the root unit answers must
//! not take a member for a blank Pi.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use beehive_mqtt::node::{EngineRun, EngineState};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::wire::{
    self, Ask, Follows, FrameError, MAX_ACCESS_BYTES, MAX_ASK_BYTES, MAX_REPLY_BYTES, NotAdmitted, Outcome, Release,
    Reply, Standing, TAKE_BACK, VERSION, Verb, nothing_known,
};
use crate::engine::{Engine, EngineDone, EngineError, EngineWork, Half, KubeAccess};
use crate::store::Store;

/// How often it is asked how the engine stood last. A question costs well below a millisecond.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the root unit looks anew: an engine that somebody stopped by hand is seen within this time. It costs a program.
pub const LOOK_CLOSELY_EVERY: Duration = Duration::from_secs(60);
/// How long a question is waited for that waits for no step. systemd starts the root unit for the first one.
pub const LOOK_TIME: Duration = Duration::from_secs(10);
/// How long a daemon that starts waits for the first answer: the button is worth more.
pub const FIRST_TIME: Duration = Duration::from_secs(5);
/// The file in the daemon's store.
pub const FILE: &str = "engine-seen";

/// The most stable words that are remembered beyond those that this program has itself; see [`stable`].
const MOST_WORDS: usize = 64;

/// An engine in the root unit. Clones share it.
#[derive(Clone)]
pub struct RootEngine {
    inner: Arc<Inner>,
    /// Held by the clones and by no request: when it goes, the daemon is ending.
    _owner: Arc<Owner>,
}

/// While it lives, a request that is dropped is dropped because its asker gave it up.
struct Owner(Arc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.leaving.store(true, Ordering::Relaxed);
    }
}

struct Inner {
    kind: &'static str,
    socket: PathBuf,
    release: Release,
    store: Store,
    /// Whether the daemon is ending, and what it asked for is to be brought to its end without it.
    leaving: AtomicBool,
    /// Steps that are waited for.
    steps: AtomicUsize,
    known: Mutex<Known>,
}

struct Known {
    state: EngineState,
    /// When the root unit looked, so that an answer that was overtaken changes nothing.
    at_ns: u64,
    /// What was stored last: without whether it runs.
    kept: EngineState,
    /// Whether the last question was answered, so that the log says it once.
    answers: Answers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Yes,
    No,
}

impl RootEngine {
    /// The engine `kind` behind the socket at `socket`. It is asked once how it stands, for [`FIRST_TIME`] at most,
    /// and then every [`LOOK_EVERY`] as long as a clone lives. Where nobody answers the daemon starts all the same: the
    /// button works, and the state is the one that `store` has from before.
    ///
    /// # Errors
    /// If the stored state cannot be read.
    pub async fn open(kind: &'static str, socket: &Path, store: Store) -> Result<Self, EngineError> {
        let kept = store
            .load::<EngineState>(FILE)
            .map_err(|error| EngineError { code: "disk", reason: error.to_string(), half: Half::Clean })?
            .unwrap_or_else(nothing_known);
        let inner = Arc::new(Inner {
            kind,
            socket: socket.to_owned(),
            release: wire::own_release(),
            store,
            leaving: AtomicBool::new(false),
            steps: AtomicUsize::new(0),
            known: Mutex::new(Known { state: kept.clone(), at_ns: 0, kept, answers: Answers::Yes }),
        });
        inner.ask_state(FIRST_TIME).await;
        tokio::spawn(keep_looking(Arc::downgrade(&inner)));
        Ok(Self { _owner: Arc::new(Owner(Arc::clone(&inner))), inner })
    }
}

impl Engine for RootEngine {
    fn kind(&self) -> &'static str {
        self.inner.kind
    }

    fn perform(&self, work: EngineWork) -> BoxFuture<'static, Result<EngineDone, EngineError>> {
        let inner = Arc::clone(&self.inner);
        async move { inner.perform(&work).await }.boxed()
    }

    fn state(&self) -> EngineState {
        lock(&self.inner.known).state.clone()
    }

    fn access(&self) -> BoxFuture<'static, Result<Option<KubeAccess>, EngineError>> {
        let inner = Arc::clone(&self.inner);
        async move { inner.access().await }.boxed()
    }

    fn look(&self) -> BoxFuture<'static, Result<EngineState, EngineError>> {
        let inner = Arc::clone(&self.inner);
        async move { inner.look().await }.boxed()
    }

    fn restore(&self, generation: Option<u32>) -> BoxFuture<'static, Result<EngineDone, EngineError>> {
        let inner = Arc::clone(&self.inner);
        let verb = generation.map_or(Verb::RestoreNewest, |generation| Verb::Restore { generation });
        async move { inner.step(verb).await }.boxed()
    }
}

async fn keep_looking(engine: Weak<Inner>) {
    let mut closely = tokio::time::Instant::now();
    loop {
        {
            let Some(engine) = engine.upgrade() else { return };
            let due = closely <= tokio::time::Instant::now();
            if due && engine.answers() == Answers::Yes && engine.steps.load(Ordering::Relaxed) == 0 {
                closely = tokio::time::Instant::now() + LOOK_CLOSELY_EVERY;
                engine.look_closely().await;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(engine) = engine.upgrade() else { return };
        engine.ask_state(LOOK_TIME).await;
    }
}

/// A step that is waited for.
struct UnderWay(Arc<Inner>);

impl UnderWay {
    fn begin(engine: &Arc<Inner>) -> Self {
        engine.steps.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(engine))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.steps.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request on its way. Dropped before its answer, it is taken back, unless the whole daemon is ending.
struct Request {
    engine: Arc<Inner>,
    stream: UnixStream,
    answered: Answers,
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.answered == Answers::No && !self.engine.leaving.load(Ordering::Relaxed) {
            // fails where the root unit has ended, and then there is nothing to take back
            let _ = self.stream.try_write(&[TAKE_BACK]);
        }
    }
}

impl Inner {
    /// Asks how the engine stands, as last known.
    async fn ask_state(self: &Arc<Self>, within: Duration) {
        let found = match timeout(within, self.ask(Verb::State)).await {
            Ok(Ok((reply, _))) => match reply.outcome {
                Outcome::State => Ok(()),
                Outcome::Refused { code, reason } => Err(format!("{}: {}", code.word(), reason.as_str())),
                Outcome::Done { .. } | Outcome::Failed { .. } | Outcome::Access { .. } => Err(strange().reason),
            },
            Ok(Err(error)) => Err(error.reason),
            Err(_) => Err(format!(
                "the root unit does not answer within {} s; see `journalctl -u beehive-engine`",
                within.as_secs()
            )),
        };
        let answers = if found.is_ok() { Answers::Yes } else { Answers::No };
        let before = std::mem::replace(&mut lock(&self.known).answers, answers);
        match (before, found) {
            (Answers::Yes, Err(reason)) => tracing::error!("{reason}"),
            (Answers::No, Ok(())) => tracing::info!("the root unit answers again"),
            (Answers::Yes, Ok(())) | (Answers::No, Err(_)) => {}
        }
    }

    fn answers(&self) -> Answers {
        lock(&self.known).answers
    }

    /// Lets the root unit look how the engine stands now, if no step is in its way.
    async fn look_closely(self: &Arc<Self>) {
        match timeout(LOOK_TIME, self.look()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!("how the engine stands is not known: {error}"),
            // a step that another daemon asked for
            Err(_) => tracing::debug!("how the engine stands is not known: a step is in the way"),
        }
    }

    async fn look(self: &Arc<Self>) -> Result<EngineState, EngineError> {
        let (reply, _) = self.ask(Verb::Look).await?;
        match (reply.outcome, reply.standing) {
            (Outcome::State, Some(standing)) => Ok(standing.state),
            (outcome, _) => Err(failure(outcome)),
        }
    }

    async fn perform(self: &Arc<Self>, work: &EngineWork) -> Result<EngineDone, EngineError> {
        let verb = Verb::of(work).map_err(|error| not_sent(work, &error))?;
        self.step(verb).await
    }

    async fn step(self: &Arc<Self>, verb: Verb) -> Result<EngineDone, EngineError> {
        let _under_way = UnderWay::begin(self);
        let (reply, _) = self.ask(verb).await?;
        match reply.outcome {
            Outcome::Done { code, detail } => {
                Ok(EngineDone { code: stable(code.as_str()), detail: detail.as_str().to_owned() })
            }
            outcome => Err(failure(outcome)),
        }
    }

    async fn access(self: &Arc<Self>) -> Result<Option<KubeAccess>, EngineError> {
        let (reply, mut request) = match timeout(LOOK_TIME, self.ask(Verb::Access)).await {
            Ok(asked) => asked?,
            Err(_) => return Err(silent()),
        };
        match reply.outcome {
            Outcome::Access { kubeconfig: Follows::Nothing } => Ok(None),
            Outcome::Access { kubeconfig: Follows::Next } => {
                let frame = wire::read_frame(&mut request.stream, MAX_ACCESS_BYTES);
                let frame = timeout(LOOK_TIME, frame).await.map_err(|_| silent())?.map_err(|error| lost(&error))?;
                let text = std::str::from_utf8(&frame).map_err(|_| strange())?;
                Ok(Some(KubeAccess::new(Zeroizing::new(text.to_owned()))))
            }
            outcome => Err(failure(outcome)),
        }
    }

    /// Asks, waits for the answer however long it takes, and takes the state from it.
    async fn ask(self: &Arc<Self>, verb: Verb) -> Result<(Reply, Request), EngineError> {
        let ask = Ask { v: VERSION, release: self.release.clone(), verb };
        let bytes = wire::to_bytes(&ask, MAX_ASK_BYTES).map_err(|_| strange())?;
        drop(ask);
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.not_there(&error))?;
        self.is_root(&stream)?;
        let mut request = Request { engine: Arc::clone(self), stream, answered: Answers::No };
        wire::write_frame(&mut request.stream, &bytes).await.map_err(|error| lost(&error.into()))?;
        drop(bytes);
        let frame = wire::read_frame(&mut request.stream, MAX_REPLY_BYTES).await.map_err(|error| lost(&error))?;
        request.answered = Answers::Yes;
        let reply: Reply = serde_json::from_slice(&frame).map_err(|_| strange())?;
        if reply.v != VERSION {
            return Err(strange());
        }
        if let Some(standing) = &reply.standing {
            self.seen(standing.clone()).await;
        }
        Ok((reply, request))
    }

    /// A socket that is not root's is nobody's to be given a credential. (In a test both ends have the same user.)
    fn is_root(&self, stream: &UnixStream) -> Result<(), EngineError> {
        let own = rustix::process::geteuid().as_raw();
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == own => Ok(()),
            Ok(_) | Err(_) => Err(EngineError {
                code: "engine-unit",
                reason: format!("the socket {} is not root's; it is asked for nothing", self.socket.display()),
                half: Half::Clean,
            }),
        }
    }

    fn not_there(&self, error: &io::Error) -> EngineError {
        EngineError {
            code: "engine-unit",
            reason: format!(
                "the root unit cannot be reached at {}: {error}; start it with `systemctl enable --now \
                 beehive-engine.socket`, and look at `systemctl status beehive-engine`",
                self.socket.display()
            ),
            half: Half::Clean,
        }
    }

    /// Takes over how the engine stands, and stores it where a start without the root unit would need it.
    async fn seen(self: &Arc<Self>, standing: Standing) {
        let Standing { state, at_ns } = standing;
        let keep = {
            let mut known = lock(&self.known);
            if at_ns < known.at_ns {
                return;
            }
            known.at_ns = at_ns;
            known.state = state.clone();
            let keep = EngineState { run: EngineRun::Stopped, ..state };
            (keep != known.kept).then(|| {
                known.kept = keep.clone();
                keep
            })
        };
        let Some(keep) = keep else { return };
        let inner = Arc::clone(self);
        let stored = tokio::task::spawn_blocking(move || inner.store.save(FILE, &keep)).await;
        match stored {
            Ok(Ok(())) => {}
            // the next start asks the root unit first; only without an answer would it miss this
            Ok(Err(error)) => tracing::warn!("how the engine stands is not stored: {error}"),
            Err(error) => tracing::warn!("how the engine stands is not stored: {error}"),
        }
    }
}

/// What the root unit would refuse is not sent. The words are those that the engines have for it.
fn not_sent(work: &EngineWork, error: &NotAdmitted) -> EngineError {
    let (code, hint) = match error.what {
        "server" => ("bad-server", "correct server in [cluster] of the master"),
        "credential" => ("bad-credential", "ask for a new one"),
        "version" => ("bad-version", "ask for a version as its releases are named, such as v1.30.2+k3s1"),
        _ => ("bad-request", "ask for something else"),
    };
    EngineError { code, reason: format!("{}: {error}; {hint}", work.verb()), half: Half::Clean }
}

fn failure(outcome: Outcome) -> EngineError {
    match outcome {
        Outcome::Failed { code, reason, half } => {
            EngineError { code: stable(code.as_str()), reason: reason.as_str().to_owned(), half: half.into() }
        }
        Outcome::Refused { code, reason } => EngineError {
            code: code.word(),
            reason: format!("the root unit refused: {}", reason.as_str()),
            half: Half::Clean,
        },
        Outcome::State | Outcome::Done { .. } | Outcome::Access { .. } => strange(),
    }
}

fn silent() -> EngineError {
    EngineError {
        code: "engine-unit",
        reason: format!(
            "the root unit does not answer within {} s; see `journalctl -u beehive-engine`",
            LOOK_TIME.as_secs()
        ),
        half: Half::Clean,
    }
}

/// The connection ended before the answer: what was asked for may have been done, in part or not at all.
fn lost(error: &FrameError) -> EngineError {
    EngineError {
        code: "engine-unit",
        reason: format!(
            "the root unit ended before it answered ({error}); see `journalctl -u beehive-engine`, and ask again"
        ),
        half: Half::HalfDone,
    }
}

fn strange() -> EngineError {
    EngineError {
        code: "engine-unit",
        reason: "the root unit is of another version of beehive; restart beehive-engine.service".to_owned(),
        half: Half::HalfDone,
    }
}

/// The stable word as one that lives as long as the program. The few that an engine has are kept once each; an answer with
/// ever new ones, which no engine of ours gives, is called `engine` after [`MOST_WORDS`] of them.
fn stable(word: &str) -> &'static str {
    static WORDS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut words = lock(&WORDS);
    match words.iter().find(|known| **known == word) {
        Some(known) => known,
        None if words.len() >= MOST_WORDS => "engine",
        None => {
            let kept: &'static str = Box::leak(word.to_owned().into_boxed_str());
            words.push(kept);
            kept
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
