//! An operator asks for a way into the cluster: a certificate for a key of the operator's own ([`Ask::Kubeconfig`]). Issuing and
//! sealing are the caller's ([`Action::Certify`]); here it is seen to that a request is worked on once, and that its answer
//! is given again to whoever missed it.
//!
//! What is sealed is kept in memory alone, and the last few only: after a restart the answer says that it is done, and who
//! asks asks anew. Nothing is lost by that: the key was made for one request.

use super::record::Room;
use super::requests::Reply;
use super::{Action, Coordinator};
use crate::Instant;
use crate::kube::KubeError;
use alloc::boxed::Box;
use beehive_mqtt::console::{ConsoleRequest, Mode, ResponseStatus, SealedAccess};
use beehive_mqtt::{KeyId, RequestId, Text, UserName};

/// How long the caller may take to have a certificate issued; an answer that comes later counts all the same.
pub const CERTIFY_MS: u64 = 30_000;

/// How many certificates are issued at a time: people ask for them one by one.
pub const CERTIFYING: usize = 4;

/// How many answers are kept for those who ask again. Each has 8 KiB.
pub const SEALED: usize = 4;

/// A request and who signed it.
type Asker = (KeyId, RequestId);

/// What is being issued, and what was.
#[derive(Debug, Clone, Default)]
pub(super) struct Accesses {
    asked: alloc::vec::Vec<(Asker, Instant)>,
    sealed: alloc::vec::Vec<(Asker, SealedAccess)>,
}

impl Accesses {
    /// What was sealed for this request, as far as it is still known.
    pub(super) fn of(&self, key: KeyId, id: &RequestId) -> Option<SealedAccess> {
        let held = self.sealed.iter().find(|((by, held), _)| (*by, held) == (key, id));
        held.map(|(_, sealed)| sealed.clone())
    }

    /// Nothing is being issued any more, as far as is known.
    pub(super) fn forget_asked(&mut self) {
        self.asked.clear();
    }
}

impl Coordinator {
    /// Has a certificate issued, or says why not; nothing while that is under way.
    pub(super) fn certify(
        &mut self,
        now: Instant,
        user: &UserName,
        key: KeyId,
        request: &ConsoleRequest,
    ) -> Option<Reply> {
        if self.record.cluster.is_none() {
            return Some(Reply::refused("no-cluster", format_args!("there is no cluster that could be opened")));
        }
        match request.mode {
            Mode::DryRun => {
                return Some(Reply::new(
                    ResponseStatus::Planned,
                    "planned",
                    format_args!("the cluster's authority would certify a key of {user}; nothing was done"),
                ));
            }
            Mode::Execute => {}
        }
        let asker = (key, request.id.clone());
        self.accesses.asked.retain(|(_, since)| now.since_ms(*since) < CERTIFY_MS);
        if self.accesses.asked.iter().any(|(held, _)| *held == asker) {
            return None;
        }
        if self.accesses.asked.len() >= CERTIFYING {
            return Some(Reply::refused(
                "busy",
                format_args!("{CERTIFYING} certificates are being issued; ask again in a moment"),
            ));
        }
        self.accesses.asked.push((asker, now));
        self.out.push(Action::Certify { user: user.clone(), key, request: Box::new(request.clone()) });
        None
    }

    /// It was issued and sealed, or not.
    pub(super) fn certified(
        &mut self,
        now: Instant,
        user: &UserName,
        key: KeyId,
        request: &ConsoleRequest,
        outcome: Result<SealedAccess, KubeError>,
    ) {
        let asker = (key, request.id.clone());
        self.accesses.asked.retain(|(held, _)| *held != asker);
        if self.record.answers.iter().any(|answered| (answered.key, &answered.id) == (key, &request.id)) {
            // asked for twice, because the first answer took too long
            return;
        }
        if self.record.make_room() == Room::Full {
            let reply = Reply::refused("busy", format_args!("too many requests in one session; ask again in a moment"));
            let code = Text::cut(reply.code);
            return self.respond(user, &request.id, reply, code);
        }
        let reply = match outcome {
            Ok(sealed) => {
                if self.accesses.sealed.len() >= SEALED {
                    self.accesses.sealed.remove(0);
                }
                self.accesses.sealed.push((asker, sealed.clone()));
                let mut reply = Reply::new(
                    ResponseStatus::Done,
                    "certified",
                    format_args!("the cluster's authority has certified the key of {user}"),
                );
                reply.sealed = Some(sealed);
                reply
            }
            Err(error) => Reply::new(ResponseStatus::Failed, error.code, format_args!("{}", error.reason)),
        };
        self.close_request(now, user, key, request, reply);
    }
}
