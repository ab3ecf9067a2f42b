//! What is told to a node itself, without the coordinator: `beehive node identify|reboot|shutdown NODE --direct`. It is sent
//! again under the same id until the node answers or the time is up; the node decides whether it may be.

use std::time::Duration;

use beehive_mqtt::direct::{DIRECT_ID_PREFIX, DirectRequest, DirectVerb};
use beehive_mqtt::node::{CommandResult, CommandStatus, PowerPhase};
use beehive_mqtt::{Audience, BootId, CommandId, NodeName, Nonce};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::exit::{ExitCode, Trouble};
use super::model::{CrewView, Seen};
use super::render::{clean, hand_text};
use super::session::{Heard, RESEND_MS, Session, interrupted};
use super::{ANSWER_S, Console, END_S, Failure, note, print, print_document};
use crate::cli::{NodeCommand, OnNodeOrDirect};

/// How long a Pi blinks, as when the coordinator tells it to.
const IDENTIFY_S: u16 = 30;

/// How often a node is asked again once it has taken it up, in milliseconds: seldom, in case the end got lost.
const RESEND_TAKEN_MS: u64 = 5_000;

/// What is told to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    node: NodeName,
    verb: DirectVerb,
    until: Until,
}

/// How long the console waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The node has taken it up.
    Taken,
    /// It is done; a Pi that goes off has gone.
    Done,
}

/// What a command tells a node directly; nothing if it does not.
pub(super) fn of(command: &NodeCommand) -> Option<Told> {
    let told = |asked: &OnNodeOrDirect, verb| {
        let until = if asked.on.acting.wait { Until::Done } else { Until::Taken };
        asked.direct.then(|| Told { node: asked.on.node.clone(), verb, until })
    };
    match command {
        NodeCommand::Identify(asked) => told(asked, DirectVerb::Identify { seconds: IDENTIFY_S }),
        NodeCommand::Reboot(asked) => told(asked, DirectVerb::Reboot),
        NodeCommand::Shutdown(asked) => told(asked, DirectVerb::PowerOff),
        NodeCommand::List
        | NodeCommand::Show { .. }
        | NodeCommand::Drain(_)
        | NodeCommand::Uncordon(_)
        | NodeCommand::Join(_)
        | NodeCommand::Leave(_)
        | NodeCommand::Reset(_) => None,
    }
}

/// One id, for one session of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attempt {
    id: CommandId,
    nonce: Nonce,
    boot: BootId,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    /// Taken up, and not at its end.
    Taken,
    /// Done.
    Done,
    /// It was for another session, and cannot have been done: another attempt for this one.
    Again(Nonce, BootId),
    /// Not done, or nobody knows.
    Trouble(Trouble),
}

impl Told {
    fn title(&self) -> String {
        let verb = match self.verb {
            DirectVerb::Identify { .. } => "identify",
            DirectVerb::Reboot => "reboot",
            DirectVerb::PowerOff => "shutdown",
        };
        format!("direct {verb} of {}", self.node)
    }

    fn judge(&self, attempt: &Attempt, result: &CommandResult) -> Said {
        let (code, reason) = (clean(result.code.as_str()), clean(result.reason.as_str()));
        let title = self.title();
        let trouble = |exit, what: String, fix: &str| {
            Said::Trouble(Trouble::new(exit, what, format!("rule {code}: {reason}"), fix).with_code(code.clone()))
        };
        match result.status {
            CommandStatus::Accepted | CommandStatus::InProgress => Said::Taken,
            CommandStatus::Succeeded => Said::Done,
            CommandStatus::Rejected if code == "stale-nonce" => {
                let harmless = match self.verb {
                    DirectVerb::Identify { .. } => true,
                    // in the same boot it has not gone down
                    DirectVerb::Reboot | DirectVerb::PowerOff => result.boot == attempt.boot,
                };
                if harmless {
                    return Said::Again(result.nonce.clone(), result.boot.clone());
                }
                let what =
                    format!("{} has started again since its last word; the {title} is not asked again", self.node);
                trouble(ExitCode::OutcomeUnknown, what, "see `beehive status`, and ask again if it is still wanted")
            }
            CommandStatus::Rejected if code == "not-authorised" => trouble(
                ExitCode::NotAuthorised,
                format!("not authorised: {title}"),
                "ask somebody who may, or as another user with --user",
            ),
            CommandStatus::Rejected => {
                let fix = match code.as_str() {
                    "coordinator-alive" => "ask the coordinator: the same command without --direct",
                    "command-unfinished" | "busy" | "going-down" => {
                        "wait for its end; `beehive status` shows it. The button works whatever runs"
                    }
                    _ => "see `beehive status`",
                };
                trouble(ExitCode::Refused, format!("refused by {}: {title}", self.node), fix)
            }
            CommandStatus::Failed | CommandStatus::TimedOut | CommandStatus::Interrupted | CommandStatus::Canceled => {
                trouble(
                    ExitCode::Failed,
                    format!("failed: {title}"),
                    "see `beehive status`, and ask again if it is still wanted",
                )
            }
        }
    }

    /// Whether a Pi that was to go off has gone, as far as its own signed word or the broker tells.
    fn has_gone(&self, view: &CrewView, now_ms: u64) -> bool {
        let Some(node) = view.node(&self.node) else { return false };
        let phase = node.state.as_ref().map(|state| state.power);
        let going = match phase {
            Some(PowerPhase::HandingOver | PowerPhase::Halted) => true,
            Some(PowerPhase::Running | PowerPhase::Grace | PowerPhase::Draining | PowerPhase::Stopping) | None => false,
        };
        self.verb == DirectVerb::PowerOff && (going || node.seen(now_ms) == Seen::Offline)
    }

    fn document(&self, attempt: Option<&Attempt>, last: Option<&CommandResult>, exit: ExitCode) -> Value {
        json!({
            "exit": exit.number(),
            "direct": attempt.map(|attempt| &attempt.id),
            "node": self.node,
            "verb": self.verb.name(),
            "status": last.map(|last| last.status),
            "code": last.map(|last| last.code.clone()),
            "reason": last.map(|last| last.reason.clone()),
        })
    }
}

impl Console<'_> {
    /// Tells a node something and waits for its answer.
    pub(super) async fn tell(&self, told: &Told) -> Result<ExitCode, Failure> {
        let limit = self.limit(match told.until {
            Until::Taken => ANSWER_S,
            Until::Done => END_S,
        });
        let mut session = Session::open_as(self.options, self.crew, Audience::Direct(told.node.clone()))?;
        let ended = self.tell_in(&mut session, told, limit).await;
        session.close().await;
        ended
    }

    async fn tell_in(&self, session: &mut Session, told: &Told, limit: Instant) -> Result<ExitCode, Failure> {
        session.connect(limit).await?;
        if !session.knows(&told.node) {
            return Err(Trouble::new(
                ExitCode::UnknownNode,
                format!("there is no node {} in crew {}", told.node, self.crew),
                "the crew's manifest does not name it",
                "check the name; `beehive node list` shows all of them",
            )
            .into());
        }
        if told.verb == DirectVerb::PowerOff {
            note(&format!("beehive: {}", hand_text(Some(std::slice::from_ref(&told.node)))));
        }
        let mut attempt: Option<Attempt> = None;
        let mut last: Option<CommandResult> = None;
        let mut taken = false;
        let mut resend = Instant::now();
        let run = uuid::Uuid::new_v4().simple().to_string();
        let mut number = 0_u32;
        let mut next_for = |nonce: Nonce, boot: BootId| {
            number += 1;
            let id = format!("{DIRECT_ID_PREFIX}{run}-{number}").parse().map_err(|error| {
                Trouble::new(ExitCode::Failed, "no id could be made", format!("it {error}"), "report this")
            })?;
            Ok::<_, Trouble>(Attempt { id, nonce, boot })
        };
        let failure = |trouble: Trouble, attempt: Option<&Attempt>, last: Option<&CommandResult>| {
            let mut document = told.document(attempt, last, trouble.exit);
            document["error"] = json!(trouble);
            Failure { trouble, document: Some(document) }
        };
        loop {
            if attempt.is_none() {
                let state = session.view.node(&told.node).and_then(|node| node.state.as_ref());
                if let Some(state) = state {
                    attempt = Some(next_for(state.nonce.clone(), state.boot.clone())?);
                    resend = Instant::now();
                }
            }
            if let (Some(attempt), true) = (&attempt, Instant::now() >= resend) {
                let request = DirectRequest { id: attempt.id.clone(), nonce: attempt.nonce.clone(), verb: told.verb };
                session.tell(&told.node, &request)?;
                let pause = if taken { RESEND_TAKEN_MS } else { RESEND_MS };
                resend = Instant::now() + Duration::from_millis(pause);
            }
            let until = if attempt.is_some() { limit.min(resend) } else { limit };
            let heard = session.next(until).await;
            for result in session.take_results() {
                let Some(of) = attempt.clone().filter(|of| of.id == result.id) else { continue };
                let said = told.judge(&of, &result);
                last = Some(result);
                match said {
                    Said::Taken => taken = true,
                    Said::Done => return Ok(self.told(told, &of, last.as_ref(), "is done")?),
                    Said::Again(nonce, boot) => {
                        attempt = Some(next_for(nonce, boot)?);
                        resend = Instant::now();
                    }
                    Said::Trouble(trouble) => return Err(failure(trouble, Some(&of), last.as_ref())),
                }
            }
            if let (Some(of), true) = (&attempt, taken) {
                match told.until {
                    Until::Taken => return Ok(self.told(told, of, last.as_ref(), "has begun")?),
                    Until::Done if told.has_gone(&session.view, session.now_ms()) => {
                        return Ok(self.told(told, of, last.as_ref(), "is done: it has gone")?);
                    }
                    Until::Done => {}
                }
            }
            match heard {
                Heard::Time if Instant::now() >= limit => {
                    let trouble = self.without_answer(session, told, attempt.as_ref(), taken);
                    return Err(failure(trouble, attempt.as_ref(), last.as_ref()));
                }
                Heard::Interrupt if attempt.is_none() => return Err(interrupted().into()),
                Heard::Interrupt => {
                    let trouble = Trouble::new(
                        ExitCode::OutcomeUnknown,
                        format!("interrupted before the end of the {}", told.title()),
                        "it was sent, and may have begun",
                        "`beehive status` shows whether it did",
                    )
                    .with_code("interrupted");
                    return Err(failure(trouble, attempt.as_ref(), last.as_ref()));
                }
                Heard::Up => resend = Instant::now(),
                Heard::Time | Heard::Down | Heard::Applied(_) | Heard::Response(_) => {}
            }
        }
    }

    fn told(
        &self,
        told: &Told,
        attempt: &Attempt,
        last: Option<&CommandResult>,
        how: &str,
    ) -> Result<ExitCode, Trouble> {
        if self.options.json {
            print_document(&told.document(Some(attempt), last, ExitCode::Done))?;
        } else {
            print(&format!("{} {how}\n", told.title()))?;
        }
        Ok(ExitCode::Done)
    }

    fn without_answer(&self, session: &Session, told: &Told, attempt: Option<&Attempt>, taken: bool) -> Trouble {
        let seen = session.view.node(&told.node).map_or(Seen::Unknown, |node| node.seen(session.now_ms()));
        let why = match (&session.down, seen) {
            (Some(reason), _) => format!("the connection to the broker was lost: {reason}"),
            (None, Seen::Offline) => format!("{} is not connected to the broker", told.node),
            (None, Seen::Unknown) => format!("{} was never heard at this broker", told.node),
            (None, Seen::Online | Seen::Silent) => format!("{} is connected but did not say so in time", told.node),
        };
        let title = told.title();
        match (attempt, taken) {
            (None, _) => Trouble::new(
                ExitCode::Unreachable,
                format!("the {title} was not asked for"),
                why,
                "see `beehive status`; a hand on its button needs no broker",
            ),
            (Some(_), false) => Trouble::new(
                ExitCode::OutcomeUnknown,
                format!("no answer on the {title}; whether it has begun is not known"),
                why,
                "see `beehive status`; a longer --timeout waits longer",
            ),
            (Some(_), true) => Trouble::new(
                ExitCode::OutcomeUnknown,
                format!("the {title} has begun; how it ends is not known"),
                why,
                "see `beehive status`; a longer --timeout waits longer",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beehive_mqtt::Text;
    use beehive_mqtt::command::VerbName;

    fn told(verb: DirectVerb) -> Told {
        Told { node: "pi-2".parse().unwrap(), verb, until: Until::Taken }
    }

    fn attempt() -> Attempt {
        Attempt { id: "direct-1".parse().unwrap(), nonce: "n1".parse().unwrap(), boot: "boot-a".parse().unwrap() }
    }

    fn result(status: CommandStatus, code: &str, boot: &str) -> CommandResult {
        CommandResult {
            id: "direct-1".parse().unwrap(),
            verb: VerbName::Reboot,
            status,
            code: Text::cut(code),
            reason: Text::cut("why"),
            boot: boot.parse().unwrap(),
            nonce: "n2".parse().unwrap(),
        }
    }

    fn exit(said: Said) -> (ExitCode, String) {
        match said {
            Said::Trouble(trouble) => (trouble.exit, trouble.code),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_answer_has_its_meaning() {
        let reboot = told(DirectVerb::Reboot);
        let judge = |status, code| reboot.judge(&attempt(), &result(status, code, "boot-a"));
        assert_eq!(judge(CommandStatus::InProgress, "stopping"), Said::Taken);
        assert_eq!(judge(CommandStatus::Succeeded, "done"), Said::Done);
        for (status, code, wanted) in [
            (CommandStatus::Rejected, "coordinator-alive", ExitCode::Refused),
            (CommandStatus::Rejected, "command-unfinished", ExitCode::Refused),
            (CommandStatus::Rejected, "busy", ExitCode::Refused),
            (CommandStatus::Rejected, "not-authorised", ExitCode::NotAuthorised),
            (CommandStatus::Interrupted, "same-boot", ExitCode::Failed),
        ] {
            assert_eq!(exit(judge(status, code)), (wanted, code.to_owned()));
        }
    }

    #[test]
    fn another_attempt_is_made_only_where_the_first_cannot_have_been_done() {
        let stale = |verb, boot| told(verb).judge(&attempt(), &result(CommandStatus::Rejected, "stale-nonce", boot));
        let again = |boot: &str| Said::Again("n2".parse().unwrap(), boot.parse().unwrap());
        assert_eq!(stale(DirectVerb::Reboot, "boot-a"), again("boot-a"));
        assert_eq!(stale(DirectVerb::Identify { seconds: 1 }, "boot-b"), again("boot-b"));
        let (code, _) = exit(stale(DirectVerb::Reboot, "boot-b"));
        assert_eq!(code, ExitCode::OutcomeUnknown);
    }
}
