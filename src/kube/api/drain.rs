//! The drain of a node: its pods are evicted, which respects disruption budgets, and waited for.
//!
//! - Not touched: pods of daemon sets, mirror pods (the kubelet reads them from a file), pods that have finished.
//! - **Refused before anything is evicted**: pods without a controller (nobody makes them anew) and pods with an `emptyDir` (what is
//!   in it is lost), unless the configuration says `delete`.
//! - A pod that a budget holds is asked for again every 5 s, or after what the server says if that is longer.
//! - With `bypass_budget_after_ms` such a pod is deleted after so long; with `on_deadline = "delete"` whatever is left is deleted when
//!   the last quarter of the time begins, with what is left of it as grace. Without both, the drain ends at its deadline and names a
//!   pod and its budget.
//! - It may be dropped at any moment. Asked for again it finds what it has done: pods that end, and pods that are gone.
//!
//! The time to a bypass is counted from the first refusal within one drain.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use beehive_cluster::kube::{KubeDone, KubeError};
use beehive_mqtt::{NodeName, Text};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::calls::{CallError, Change, PODS, Session, change, error, of_node};
use super::http::HttpError;
use super::objects::{Heard, Pod};
use super::{Inner, Scheduling};

/// How often an eviction that was refused is asked for again, as kubectl does.
const AGAIN: Duration = Duration::from_secs(5);

/// The longest pause that a server may ask for; the drain's own deadline is in minutes.
const LONGEST_AGAIN: Duration = Duration::from_secs(60);

/// After a conflict: somebody has just changed the pod.
const CONFLICT_AGAIN: Duration = Duration::from_secs(1);

/// The pause after a watch that broke or ended at once.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// Between the deletion's grace and the deadline, for the kubelet to say that the pod is gone.
const GRACE_MARGIN: Duration = Duration::from_secs(2);

/// How many pods a sentence names.
const NAMED: usize = 3;

/// What happens to a pod that would lose something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLoss {
    /// The drain is refused before anything is evicted.
    #[default]
    Refuse,
    /// It is evicted like any other.
    Delete,
}

/// What happens when a drain's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDeadline {
    /// It ends without success, and the coordinator uncordons.
    #[default]
    GiveUp,
    /// In the last quarter of the time what is left is deleted, whatever budget holds it.
    Delete,
}

/// How nodes are drained: `[cluster.drain]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainSettings {
    /// Pods without a controller.
    pub bare_pods: OnLoss,
    /// Pods with an `emptyDir`.
    pub empty_dir: OnLoss,
    /// What happens at the deadline.
    pub on_deadline: OnDeadline,
    /// After how many milliseconds a pod that a disruption budget holds is deleted; never without.
    pub bypass_budget_after_ms: Option<u64>,
    /// How many seconds a pod gets to end; as many as it asks for without.
    pub grace_period_s: Option<u32>,
}

/// How far a drain is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainProgress {
    /// How many pods it had to evict, so far.
    pub pods: usize,
    /// How many of them are gone.
    pub gone: usize,
    /// How many of the others have been told to end.
    pub ending: usize,
    /// Why one of them is still there; empty if nothing is in the way.
    pub held: Text<120>,
}

impl fmt::Display for DrainProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pods, gone, ending, held } = self;
        write!(f, "{gone} of {pods} pods gone, {ending} ending")?;
        if !held.is_empty() {
            write!(f, "; {held}")?;
        }
        Ok(())
    }
}

/// What would be lost with a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Nothing,
    /// The pod itself.
    Pod,
    /// What is in an `emptyDir`.
    Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stay {
    /// It is to be evicted, not before this moment.
    Here(Instant),
    /// It was told to end.
    Ending,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaving {
    namespace: String,
    name: String,
    loss: Loss,
    stay: Stay,
    /// Why the last eviction was refused, and since when it is.
    held: Option<(Held, Instant)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Held {
    /// By a disruption budget; its name is empty where the server does not tell.
    Budget(String),
    /// By something else: the server's words.
    Other(String),
}

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

struct Drain<'a> {
    inner: &'a Inner,
    node: &'a NodeName,
    begun: Instant,
    deadline: Instant,
    /// By uid.
    pods: BTreeMap<String, Leaving>,
    gone: usize,
}

impl Drop for Drain<'_> {
    fn drop(&mut self) {
        self.inner.drains.send_if_modified(|drains| drains.remove(self.node).is_some());
    }
}

/// Drains a node, which is cordoned first.
pub(super) async fn drain(inner: &Inner, node: NodeName, deadline_ms: u64) -> Result<KubeDone, KubeError> {
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(deadline_ms);
    let mut drain = Drain { inner, node: &node, begun, deadline, pods: BTreeMap::new(), gone: 0 };
    match timeout_at(deadline, drain.run()).await {
        Ok(outcome) => outcome.map(|()| KubeDone::Done),
        Err(_) => Err(drain.late()),
    }
}

impl Drain<'_> {
    async fn run(&mut self) -> Result<(), KubeError> {
        let session = self.inner.session().map_err(|error| error.kube())?;
        let not_found = |failed: CallError| match failed.is(404) {
            true => error("not-found", &format!("the cluster has no node {}", self.node)),
            false => failed.kube(),
        };
        match session.node(self.node).await.map_err(not_found)?.heard() {
            Heard::Ready | Heard::NotReady => {}
            Heard::Silent => {
                let why =
                    format!("nobody hears of {}'s kubelet: it cannot confirm that its pods have ended", self.node);
                return Err(error("not-ready", &why));
            }
        }
        // before it is cordoned: what is refused should change nothing
        self.list(&session).await.map_err(|error| error.kube())?;
        if let Some(why) = self.refusal() {
            return Err(error("refused", &why));
        }
        self.inner.set_cordon(&session, self.node, Scheduling::Cordoned).await.map_err(|error| error.kube())?;
        loop {
            let begun = Instant::now();
            // again: what came between the look and the cordon is seen now, and nothing comes any more
            let version = self.list(&session).await.map_err(|error| error.kube())?;
            if self.pods.is_empty() {
                tracing::info!(node = %self.node, pods = self.gone, "drained");
                return Ok(());
            }
            self.until_the_watch_ends(&session, &version).await?;
            if self.pods.is_empty() {
                continue;
            }
            if begun.elapsed() < WATCH_PAUSE {
                sleep(WATCH_PAUSE).await;
            }
        }
    }

    /// Evicts and watches; ends when the list has to be read anew, or when no pod is left.
    async fn until_the_watch_ends(&mut self, session: &Session, version: &str) -> Result<(), KubeError> {
        let mut lines = match session.watch(PODS, &of_node(self.node), version).await {
            Ok(lines) => lines,
            Err(error) if error.is(410) => return Ok(()),
            Err(error) => return Err(error.kube()),
        };
        loop {
            if let Some(why) = self.refusal() {
                return Err(error("refused", &why));
            }
            self.evict(session).await.map_err(|error| error.kube())?;
            self.tell();
            if self.pods.is_empty() {
                return Ok(());
            }
            let due = self.next_due();
            tokio::select! {
                line = lines.next() => match line {
                    Ok(Some(line)) => match change::<Pod>(&line).map_err(|error| error.kube())? {
                        Change::Is(pod) => self.is(&pod),
                        Change::Gone(pod) => self.is_gone(&pod.metadata.uid),
                        Change::Bookmark(_) => {}
                        Change::Lost(_) => return Ok(()),
                    },
                    Ok(None) | Err(HttpError::Broken(_)) => return Ok(()),
                    Err(failed) => return Err(CallError::from(failed).kube()),
                },
                () = sleep_until(due) => {}
            }
        }
    }

    /// Reads all pods of the node anew; answers with the version from which they can be watched.
    async fn list(&mut self, session: &Session) -> Result<String, CallError> {
        let mut seen = std::collections::BTreeSet::new();
        let version = session
            .each(PODS, &of_node(self.node), |pod: Pod| {
                self.is(&pod);
                seen.insert(pod.metadata.uid);
            })
            .await?;
        let gone: Vec<String> = self.pods.keys().filter(|uid| !seen.contains(*uid)).cloned().collect();
        for uid in gone {
            self.is_gone(&uid);
        }
        self.tell();
        Ok(version)
    }

    /// A pod is there, like this.
    fn is(&mut self, pod: &Pod) {
        let meta = &pod.metadata;
        if pod.is_mirror() || pod.is_of_daemon_set() {
            return;
        }
        if pod.has_finished() {
            return self.is_gone(&meta.uid);
        }
        let loss = match (meta.controller(), pod.has_empty_dir()) {
            (None, _) => Loss::Pod,
            (Some(_), true) => Loss::Data,
            (Some(_), false) => Loss::Nothing,
        };
        let held = self.pods.entry(meta.uid.clone()).or_insert_with(|| Leaving {
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            loss,
            stay: Stay::Here(Instant::now()),
            held: None,
        });
        if pod.is_terminating() {
            held.stay = Stay::Ending;
            held.held = None;
        }
    }

    fn is_gone(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid) {
            self.gone += 1;
            tracing::info!(node = %self.node, %pod, left = self.pods.len(), "a pod is gone");
        }
    }

    /// Why nothing is evicted: something would be lost that is not ours to lose.
    fn refusal(&self) -> Option<String> {
        let settings = &self.inner.settings;
        let kinds = [
            (Loss::Pod, settings.bare_pods, "without a controller (bare_pods in [cluster.drain])"),
            (Loss::Data, settings.empty_dir, "with an emptyDir (empty_dir in [cluster.drain])"),
        ];
        for (loss, policy, what) in kinds {
            if policy == OnLoss::Delete {
                continue;
            }
            let lost: Vec<&Leaving> =
                self.pods.values().filter(|pod| pod.loss == loss && pod.stay != Stay::Ending).collect();
            if lost.is_empty() {
                continue;
            }
            for pod in &lost {
                tracing::warn!(node = %self.node, %pod, "not drained: this pod is {what} and would be lost");
            }
            return Some(format!("pods {what}: {}", Names(&lost)));
        }
        None
    }

    /// When the next pod is due.
    fn next_due(&self) -> Instant {
        let due = self.pods.values().filter_map(|pod| match pod.stay {
            Stay::Here(due) => Some(due),
            Stay::Ending => None,
        });
        let forced = Some(self.forced_from()).filter(|from| *from > Instant::now());
        due.chain(forced).min().unwrap_or(self.deadline)
    }

    /// From when on what is left is deleted; never if that is not wanted.
    fn forced_from(&self) -> Instant {
        match self.inner.settings.on_deadline {
            OnDeadline::GiveUp => self.deadline,
            OnDeadline::Delete => self.deadline - (self.deadline - self.begun) / 4,
        }
    }

    /// Evicts, or deletes, the pods that are due.
    async fn evict(&mut self, session: &Session) -> Result<(), CallError> {
        let now = Instant::now();
        let forced = self.inner.settings.on_deadline == OnDeadline::Delete && now >= self.forced_from();
        let due: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, pod)| match pod.stay {
                Stay::Here(due) => due <= now || forced,
                Stay::Ending => false,
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in due {
            let Some(pod) = self.pods.get(&uid) else { continue };
            let waited = pod.held.as_ref().map(|(_, since)| now - *since).unwrap_or_default();
            let bypass = self.inner.settings.bypass_budget_after_ms.map(Duration::from_millis);
            let bypassed =
                bypass.is_some_and(|after| waited >= after) && matches!(pod.held, Some((Held::Budget(_), _)));
            let outcome = if forced || bypassed {
                tracing::warn!(node = %self.node, %pod, "deleted whatever budget holds it, as [cluster.drain] says");
                session.delete_pod(&pod.namespace, &pod.name, self.options(&uid, forced)).await
            } else {
                session.evict(&pod.namespace, &pod.name, self.options(&uid, false)).await
            };
            self.answered(session, &uid, outcome).await?;
            self.tell();
        }
        Ok(())
    }

    /// The options of an eviction or a deletion: this very pod, not one of the same name that came after it.
    fn options(&self, uid: &str, last: bool) -> Value {
        let mut options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": uid } });
        let left = self.deadline.saturating_duration_since(Instant::now()).saturating_sub(GRACE_MARGIN);
        let grace = match (last, self.inner.settings.grace_period_s) {
            (true, asked) => Some(left.as_secs().clamp(1, asked.map_or(u64::MAX, u64::from).max(1))),
            (false, asked) => asked.map(u64::from),
        };
        if let (Some(grace), Some(map)) = (grace, options.as_object_mut()) {
            map.insert("gracePeriodSeconds".to_owned(), grace.into());
        }
        options
    }

    async fn answered(
        &mut self,
        session: &Session,
        uid: &str,
        outcome: Result<(), CallError>,
    ) -> Result<(), CallError> {
        let now = Instant::now();
        let failed = match outcome {
            Ok(()) => {
                if let Some(pod) = self.pods.get_mut(uid) {
                    tracing::info!(node = %self.node, %pod, "a pod was told to end");
                    pod.stay = Stay::Ending;
                    pod.held = None;
                }
                return Ok(());
            }
            Err(CallError::Status(status)) => status,
            Err(failed) => return Err(failed),
        };
        let Some(pod) = self.pods.get(uid) else { return Ok(()) };
        let later = failed.retry_after.unwrap_or(AGAIN).clamp(AGAIN, LONGEST_AGAIN);
        let (held, again) = match failed.code {
            404 => {
                self.is_gone(uid);
                return Ok(());
            }
            // it changed, or it is another one of that name
            409 => match session.pod(&pod.namespace, &pod.name).await {
                Ok(present) if present.metadata.uid == uid => (Held::Other(failed.message), CONFLICT_AGAIN),
                Ok(_) => {
                    self.is_gone(uid);
                    return Ok(());
                }
                Err(error) if error.is(404) => {
                    self.is_gone(uid);
                    return Ok(());
                }
                Err(error) => return Err(error),
            },
            403 if failed.namespace_goes() => {
                if let Some(pod) = self.pods.get_mut(uid) {
                    pod.stay = Stay::Ending;
                }
                return Ok(());
            }
            429 | 500..=599 => match failed.budget() {
                Some(budget) => (Held::Budget(budget.to_owned()), later),
                // a server that is busy or starting; one that is gone does not answer at all
                None => (Held::Other(failed.message), later),
            },
            _ => return Err(CallError::Status(failed)),
        };
        if let Some(pod) = self.pods.get_mut(uid) {
            let since = match &pod.held {
                Some((was, since)) if *was == held => *since,
                Some(_) | None => {
                    tracing::info!(node = %self.node, %pod, "not evicted yet: {}", Why(&held));
                    now
                }
            };
            let bypass = self.inner.settings.bypass_budget_after_ms.map(|ms| since + Duration::from_millis(ms));
            let again = bypass.filter(|at| *at > now).map_or(now + again, |at| at.min(now + again));
            pod.held = Some((held, since));
            pod.stay = Stay::Here(again);
        }
        Ok(())
    }

    /// Shows how far it is.
    fn tell(&self) {
        let held = self.pods.values().find_map(|pod| pod.held.as_ref().map(|(held, _)| (pod, held)));
        let held = held.map(|(pod, held)| Text::format(format_args!("{pod} is held by {}", Why(held))));
        let progress = DrainProgress {
            pods: self.gone + self.pods.len(),
            gone: self.gone,
            ending: self.pods.values().filter(|pod| pod.stay == Stay::Ending).count(),
            held: held.unwrap_or_default(),
        };
        self.inner.drains.send_if_modified(|drains| {
            let changed = drains.get(self.node) != Some(&progress);
            drains.insert(self.node.clone(), progress);
            changed
        });
    }

    /// What is said at the deadline.
    fn late(&self) -> KubeError {
        let budget = self.pods.values().find_map(|pod| match &pod.held {
            Some((held @ Held::Budget(_), _)) => Some((pod, held)),
            Some((Held::Other(_), _)) | None => None,
        });
        if let Some((pod, held)) = budget {
            let more = match self.pods.len().saturating_sub(1) {
                0 => String::new(),
                1 => "; one more pod is left".to_owned(),
                more => format!("; {more} more pods are left"),
            };
            return error("blocked-by-budget", &format!("{pod} is held by {}{more}", Why(held)));
        }
        let left: Vec<&Leaving> = self.pods.values().collect();
        let seconds = (self.deadline - self.begun).as_secs();
        let why = match left.is_empty() {
            true => format!("the API server told too little of {} within {seconds} s", self.node),
            false => format!("not ended within {seconds} s: {}", Names(&left)),
        };
        error("timed-out", &why)
    }
}

/// Some of the pods, and how many more.
struct Names<'a>(&'a [&'a Leaving]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pod) in self.0.iter().take(NAMED).enumerate() {
            write!(f, "{}{pod}", if index == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

struct Why<'a>(&'a Held);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Held::Budget(name) if name.is_empty() => {
                f.write_str("several disruption budgets, or one that is not named")
            }
            Held::Budget(name) => write!(f, "the disruption budget {name}"),
            Held::Other(words) => f.write_str(words),
        }
    }
}
