//! The task that keeps the view: it finds the API server, lists the nodes, watches them, and begins anew when that breaks.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::calls::{CallError, Change, NODES, Session, change};
use super::http::{Client, HttpError};
use super::{Access, Inner, Known, invite, objects};

/// How often a server whose watch says nothing is asked whether it is there and whose it is. A watch alone cannot tell: a server
/// that hangs says nothing either.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// How long that answer may take; it comes from the server's memory.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// The pauses between attempts to find a server: soon after a restart, and no burden while there is no cluster.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The pause after a watch that broke or ended at once.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// Keeps the view for ever.
pub(super) async fn keep(inner: Arc<Inner>) {
    let mut pause = FIRST_PAUSE;
    let mut told = String::new();
    loop {
        let (why, served) = match open(&inner).await {
            Err(why) => (why, Served::Never),
            Ok(session) => {
                let mut served = Served::Never;
                let Err(error) = serve(&inner, &Arc::new(session), &mut served).await;
                (error.to_string(), served)
            }
        };
        if served == Served::Once {
            pause = FIRST_PAUSE;
        }
        if told != why || served == Served::Once {
            tracing::info!("no view of Kubernetes: {why}");
            told.clone_from(&why);
        }
        inner.change(|state| {
            state.session = Err(why);
            state.nodes.clear();
        });
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether the view was ever shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    Never,
    Once,
}

/// Finds the API server.
async fn open(inner: &Inner) -> Result<Session, String> {
    let access = inner.engine.access().await.map_err(|error| error.reason)?;
    let Some(access) = access else {
        return Err("no control plane runs on this Pi".to_owned());
    };
    let access = Access::read(access.reveal()).map_err(|error| error.to_string())?;
    match Session::open(Client::new(access)).await {
        Ok(Some(session)) => Ok(session),
        Ok(None) => {
            Err("the API server does not say whose cluster it serves: the engine has not written the ConfigMap \
                         kube-system/beehive yet"
                .to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn serve(inner: &Inner, session: &Arc<Session>, served: &mut Served) -> Result<Infallible, CallError> {
    invite::adopt(session).await?;
    loop {
        let mut nodes = BTreeMap::new();
        let version = session
            .each(NODES, "", |object: objects::Node| {
                if let Some(known) = Known::of(&object) {
                    nodes.insert(known.node.node.clone(), known);
                }
            })
            .await?;
        inner.change(|state| {
            state.session = Ok(Arc::clone(session));
            state.nodes = nodes;
        });
        if *served == Served::Never {
            tracing::info!(cluster = %session.cluster, "the API server shows its nodes");
        }
        *served = Served::Once;
        sweep(inner, session).await;
        follow(inner, session, version).await?;
    }
}

/// Watches the nodes from `version` on; ends when the list has to be read anew.
async fn follow(inner: &Inner, session: &Arc<Session>, mut version: String) -> Result<(), CallError> {
    let mut look = Instant::now() + LOOK;
    loop {
        let begun = Instant::now();
        let mut lines = match session.watch(NODES, "", &version).await {
            Ok(lines) => lines,
            Err(error) if error.is(410) => return Ok(()),
            Err(error) => return Err(error),
        };
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = session.doubted.notified() => {
                    return Err(CallError::Odd("the API server no longer takes our credentials".to_owned()));
                }
                () = sleep_until(look) => {
                    still_there(session).await?;
                    sweep(inner, session).await;
                    look = Instant::now() + LOOK;
                    continue;
                }
            };
            match line {
                Ok(Some(line)) => match change::<objects::Node>(&line)? {
                    Change::Is(object) => {
                        version.clone_from(&object.metadata.resource_version);
                        inner.note(session, &object);
                        sweep(inner, session).await;
                    }
                    Change::Gone(object) => {
                        version.clone_from(&object.metadata.resource_version);
                        forget(inner, &object);
                    }
                    Change::Bookmark(at) => version = at,
                    // 410 comes this way too: the server has forgotten what was then
                    Change::Lost(status) => {
                        tracing::debug!(code = status.code, "the watch of the nodes cannot go on: {}", status.message);
                        return Ok(());
                    }
                },
                Ok(None) => break,
                Err(HttpError::Broken(why)) => {
                    tracing::debug!("the watch of the nodes broke: {why}");
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        // is it only the watch? then the view stands, and what was missed comes with the next one
        still_there(session).await?;
        look = Instant::now() + LOOK;
        if begun.elapsed() < WATCH_PAUSE {
            sleep(WATCH_PAUSE).await;
        }
    }
}

fn forget(inner: &Inner, object: &objects::Node) {
    inner.change(|state| state.nodes.retain(|_, known| known.uid != object.metadata.uid));
}

async fn still_there(session: &Session) -> Result<(), CallError> {
    let slow = |_| CallError::Odd(format!("the API server does not answer within {} s", LOOK_LIMIT.as_secs()));
    match timeout(LOOK_LIMIT, session.is_the_same()).await.map_err(slow)? {
        Ok(true) => Ok(()),
        Ok(false) => Err(CallError::Odd("the API server serves another cluster now".to_owned())),
        Err(error) => Err(error),
    }
}

async fn sweep(inner: &Inner, session: &Session) {
    if let Err(error) = invite::sweep(session, |node| inner.uid(node)).await {
        tracing::warn!("a join credential could not be revoked, and is tried again: {error}");
    }
}
