//! What of the coordinator's work goes into the audit log, once each: starts, who asked what and how it was answered,
//! operations that begin (also by a button) and end, manifests, and messages that were refused. Of the latter one record a
//! kind and minute, which counts the others, so that a flood costs a counter and not the card.

use crate::audit::{AuditError, Head, Log, What};
use beehive_mqtt::console::{Ask, ConsoleRequest, ConsoleResponse, Force, Mode, ResponseStatus};
use beehive_mqtt::coordinator::{CoordinatorEvent, CoordinatorEventKind, Session};
use beehive_mqtt::{KeyId, RequestId, UserName};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One record of refused messages a kind in this time.
const REFUSED_EVERY: Duration = Duration::from_secs(60);

/// The kinds of refused messages that are told apart.
const KINDS: usize = 32;

/// How many answered requests are known, so that a repeat is not recorded again.
const ANSWERED: usize = 256;

/// The longest part of a stranger's text that is recorded, in characters.
const RECORDED_CHARACTERS: usize = 200;

struct Refusals {
    kind: String,
    recorded: Instant,
    more: u64,
}

pub(super) struct Auditor {
    log: Log,
    /// What is being asked, until it is answered in the same step.
    asking: Option<(UserName, KeyId, ConsoleRequest)>,
    answered: VecDeque<(KeyId, RequestId, ResponseStatus)>,
    refusals: Vec<Refusals>,
}

impl Auditor {
    pub(super) fn new(log: Log) -> Self {
        Self { log, asking: None, answered: VecDeque::new(), refusals: Vec::new() }
    }

    pub(super) fn head(&self) -> Head {
        *self.log.head()
    }

    /// Records what nobody waits for. That it cannot be is said in the log of the program; the next record is tried anew.
    fn note(&mut self, what: What) {
        if let Err(error) = self.log.append(what) {
            tracing::error!("{error}");
        }
    }

    pub(super) fn started(&mut self, session: &Session) {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.note(What::Started { term: session.term, session: session.number, version });
    }

    pub(super) fn manifest(&mut self, revision: u64, term: u64) {
        self.note(What::Manifest { revision, term });
    }

    /// What is asked next.
    pub(super) fn asked(&mut self, user: &UserName, key: KeyId, request: &ConsoleRequest) {
        self.asking = Some((user.clone(), key, request.clone()));
    }

    /// Records the answer to it, the first time.
    pub(super) fn answered(&mut self, response: &ConsoleResponse) -> Result<(), AuditError> {
        let Some((user, key, request)) = self.asking.take().filter(|(_, _, asked)| asked.id == response.id) else {
            return Ok(());
        };
        let once = (key, response.id.clone(), response.status);
        if self.answered.contains(&once) {
            return Ok(());
        }
        self.log.append(What::Asked {
            who: format!("user:{user}"),
            key,
            request: request.id.to_string(),
            asked: words(&request),
            status: serde_json::to_value(response.status)
                .ok()
                .and_then(|status| status.as_str().map(str::to_owned))
                .unwrap_or_default(),
            code: response.code.as_str().to_owned(),
            operation: response.operation.as_ref().map(ToString::to_string),
        })?;
        if self.answered.len() >= ANSWERED {
            self.answered.pop_front();
        }
        self.answered.push_back(once);
        Ok(())
    }

    pub(super) fn event(&mut self, event: &CoordinatorEvent) {
        let operation = event.operation.as_ref().map(ToString::to_string).unwrap_or_default();
        let detail = event.detail.as_str().to_owned();
        match event.kind {
            CoordinatorEventKind::OperationStarted => self.note(What::Began { operation, detail }),
            CoordinatorEventKind::OperationEnded => self.note(What::Ended { operation, detail }),
            CoordinatorEventKind::Refused => {
                let whom = event.node.as_ref().map(ToString::to_string).unwrap_or_default();
                self.refused("rule", &whom, &detail);
            }
            CoordinatorEventKind::Started
            | CoordinatorEventKind::Step
            | CoordinatorEventKind::Membership
            | CoordinatorEventKind::Slot
            | CoordinatorEventKind::Other => {}
        }
    }

    /// A message was refused.
    pub(super) fn refused(&mut self, kind: &str, topic: &str, why: &str) {
        self.refused_at(Instant::now(), kind, topic, why);
    }

    fn refused_at(&mut self, now: Instant, kind: &str, topic: &str, why: &str) {
        let cut = |text: &str| text.chars().take(RECORDED_CHARACTERS).collect::<String>();
        let full = self.refusals.len() >= KINDS;
        let more = match self.refusals.iter_mut().find(|held| held.kind == kind) {
            Some(held) if now.saturating_duration_since(held.recorded) < REFUSED_EVERY => {
                held.more = held.more.saturating_add(1);
                return;
            }
            Some(held) => {
                held.recorded = now;
                std::mem::take(&mut held.more)
            }
            None if full => return,
            None => {
                self.refusals.push(Refusals { kind: kind.to_owned(), recorded: now, more: 0 });
                0
            }
        };
        self.note(What::Refused { topic: cut(topic), why: format!("{kind}: {}", cut(why)), more });
    }
}

/// What is asked, in a few words. There is nothing secret in a request.
fn words(request: &ConsoleRequest) -> String {
    let mut words = match &request.ask {
        Ask::Operation { kind, node, version, force } => {
            let node = node.as_ref().map(|node| format!(" {node}")).unwrap_or_default();
            let version = if version.is_empty() { String::new() } else { format!(", version {version}") };
            let force = match force {
                Force::Yes => ", forced",
                Force::No => "",
            };
            format!("{kind}{node}{version}{force}")
        }
        Ask::Abort => "abort".to_owned(),
        Ask::Resume => "resume".to_owned(),
        // whose keys, and what came of them, is nobody's to read here
        Ask::Kubeconfig { .. } => "kubeconfig".to_owned(),
    };
    match request.mode {
        Mode::Execute => {}
        Mode::DryRun => words.push_str(", dry run"),
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Limits, Writers, read};
    use crate::keys::SignKey;
    use beehive_mqtt::Text;
    use beehive_mqtt::coordinator::OperationKind;
    use std::path::Path;
    use std::sync::Arc;

    fn auditor(dir: &Path, key: &Arc<SignKey>) -> Auditor {
        Auditor::new(Log::open(dir, Arc::clone(key) as _, Limits::default()).unwrap())
    }

    fn records(dir: &Path, key: &SignKey) -> Vec<What> {
        let mut all = Vec::new();
        let report = read(dir, &Writers(vec![key.public()]), &[], |record| all.push(record.what.clone())).unwrap();
        assert_eq!(report.faults, []);
        all
    }

    #[test]
    fn each_question_is_recorded_once_with_its_answer() {
        let (dir, key) = (tempfile::tempdir().unwrap(), Arc::new(SignKey::generate().unwrap()));
        let mut auditor = auditor(dir.path(), &key);
        let (user, asker) = ("ann".parse().unwrap(), KeyId([7; 8]));
        let ask = Ask::Operation {
            kind: OperationKind::NodeReset,
            node: Some("pi-2".parse().unwrap()),
            version: Text::new(),
            force: Force::Yes,
        };
        let request =
            ConsoleRequest { id: "r-1".parse().unwrap(), nonce: "c1".parse().unwrap(), mode: Mode::DryRun, ask };
        let response = ConsoleResponse {
            id: request.id.clone(),
            status: ResponseStatus::Planned,
            code: Text::cut("planned"),
            text: Text::new(),
            operation: None,
            plan: Default::default(),
            audit: Head::NONE,
            sealed: None,
        };
        for _ in 0..3 {
            auditor.asked(&user, asker, &request);
            auditor.answered(&response).unwrap();
        }
        // an answer that nobody asked for now
        auditor.answered(&response).unwrap();
        let all = records(dir.path(), &key);
        let [What::Asked { who, asked, status, key: by, .. }] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((who.as_str(), *by, status.as_str()), ("user:ann", asker, "planned"));
        assert_eq!(asked, "node_reset pi-2, forced, dry run");
        assert_eq!(auditor.head().number, 1);
    }

    #[test]
    fn a_flood_of_refused_messages_is_one_record_a_minute_that_counts_them() {
        let (dir, key) = (tempfile::tempdir().unwrap(), Arc::new(SignKey::generate().unwrap()));
        let mut auditor = auditor(dir.path(), &key);
        let start = Instant::now();
        for number in 0..10_000 {
            auditor.refused_at(start + Duration::from_millis(number), "untrusted", "t", &"x".repeat(5_000));
        }
        auditor.refused_at(start, "malformed", "t", "y");
        auditor.refused_at(start + REFUSED_EVERY, "untrusted", "t", "z");
        let all = records(dir.path(), &key);
        let more: Vec<u64> = all
            .iter()
            .map(|what| if let What::Refused { more, .. } = what { *more } else { panic!("{what:?}") })
            .collect();
        assert_eq!(more, [0, 0, 9_999]);
        for kind in 0..2 * KINDS {
            auditor.refused_at(start, &format!("kind-{kind}"), "t", "w");
        }
        assert_eq!(auditor.refusals.len(), KINDS);
    }
}
