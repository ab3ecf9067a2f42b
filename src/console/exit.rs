//! How the console ends: exit codes for scripts, and errors that say what, where, why, and what to do.

use std::fmt;

use beehive_mqtt::console::ResponseStatus;
use beehive_mqtt::coordinator::OperationPhase;
use serde::Serialize;

/// How the program ended, for scripts. The numbers are a contract: they are in `--help`, the man page and the docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// Done, or nothing had to be done.
    Done = 0,
    /// Failed; what was to be done is not done.
    Failed = 1,
    /// The command line is wrong, or a confirmation is needed and there is no terminal to ask on.
    Usage = 2,
    /// There is no such node in the crew.
    UnknownNode = 3,
    /// The coordinator does not let this user do that.
    NotAuthorised = 4,
    /// Refused by a safety rule, which the message names.
    Refused = 5,
    /// The time ran out; it may be done, half done or not done.
    OutcomeUnknown = 6,
    /// Done for some nodes, failed for others.
    PartlyDone = 7,
    /// The broker cannot be reached; nothing was asked.
    Unreachable = 8,
    /// A card's secret was used a second time, or waits to be; nothing was certified with it.
    Alarm = 9,
}

impl ExitCode {
    /// Every code, in the order of the numbers.
    pub const ALL: [Self; 10] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::UnknownNode,
        Self::NotAuthorised,
        Self::Refused,
        Self::OutcomeUnknown,
        Self::PartlyDone,
        Self::Unreachable,
        Self::Alarm,
    ];

    /// The number that the shell sees.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The word in `--json` documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::UnknownNode => "unknown_node",
            Self::NotAuthorised => "not_authorised",
            Self::Refused => "refused",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::PartlyDone => "partly_done",
            Self::Unreachable => "broker_unreachable",
            Self::Alarm => "alarm",
        }
    }

    /// What it means, as `--help` says it.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, or nothing had to be done",
            Self::Failed => "failed",
            Self::Usage => "usage: the command line is wrong, or it needs --yes because there is no terminal",
            Self::UnknownNode => "unknown node",
            Self::NotAuthorised => "not authorised",
            Self::Refused => "refused by a safety rule, which is named",
            Self::OutcomeUnknown => "timed out; the outcome is not known",
            Self::PartlyDone => "partly done: done for some nodes, failed for others",
            Self::Unreachable => "the broker cannot be reached",
            Self::Alarm => {
                "alarm: the secret of a node's card was used a second time, or waits to be; nothing was certified with it"
            }
        }
    }

    /// The list of all codes for `--help` and the man page.
    pub fn help() -> String {
        let mut text = String::from("Exit codes:\n");
        for code in Self::ALL {
            text.push_str(&format!("  {}  {}\n", code.number(), code.meaning()));
        }
        text
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

impl From<ResponseStatus> for ExitCode {
    /// The code of the coordinator's answer. An operation that has only started counts as done: the caller asked for no
    /// more, unless with `--wait`, and then its final phase decides.
    fn from(status: ResponseStatus) -> Self {
        match status {
            ResponseStatus::Started | ResponseStatus::Done | ResponseStatus::Unchanged | ResponseStatus::Planned => {
                Self::Done
            }
            ResponseStatus::Refused => Self::Refused,
            ResponseStatus::UnknownNode => Self::UnknownNode,
            ResponseStatus::NotAuthorised => Self::NotAuthorised,
            // the command line was right, or it would not have become a request
            ResponseStatus::Invalid | ResponseStatus::Failed => Self::Failed,
        }
    }
}

/// What the caller wanted of the operation that it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// That it is done.
    Completion,
    /// That it is called off.
    Abortion,
}

/// The code of an operation that has come to `phase`; nothing while more comes after it.
pub fn of_operation(phase: OperationPhase, wanted: Wanted) -> Option<ExitCode> {
    match (phase, wanted) {
        (OperationPhase::Running | OperationPhase::Paused | OperationPhase::Aborting, _) => None,
        (OperationPhase::Done, _) | (OperationPhase::Aborted, Wanted::Abortion) => Some(ExitCode::Done),
        (OperationPhase::PartlyDone, _) => Some(ExitCode::PartlyDone),
        (OperationPhase::Failed, _) | (OperationPhase::Aborted, Wanted::Completion) => Some(ExitCode::Failed),
    }
}

/// Why the console could not do what it was told: what and where, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// How the program ends.
    #[serde(skip)]
    pub exit: ExitCode,
    /// A stable word for the rule or fault, where there is one.
    pub code: String,
    /// What happened, and where.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl Trouble {
    /// A trouble without a word of its own: the exit code's is taken.
    pub fn new(exit: ExitCode, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { exit, code: exit.word().to_owned(), what: what.into(), why: why.into(), fix: fix.into() }
    }

    /// The same with a stable word for the rule or fault.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = code.into();
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if !self.why.is_empty() {
            write!(f, "\n  why:        {}", self.why)?;
        }
        if !self.fix.is_empty() {
            write!(f, "\n  what to do: {}", self.fix)?;
        }
        Ok(())
    }
}

impl std::error::Error for Trouble {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_documented_contract() {
        let numbers: Vec<u8> = ExitCode::ALL.iter().map(|code| code.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        for code in ExitCode::ALL {
            assert!(ExitCode::help().contains(&format!("  {}  {}\n", code.number(), code.meaning())));
        }
    }

    #[test]
    fn each_answer_has_its_code() {
        for (status, number) in [
            (ResponseStatus::Started, 0),
            (ResponseStatus::Done, 0),
            (ResponseStatus::Unchanged, 0),
            (ResponseStatus::Planned, 0),
            (ResponseStatus::Refused, 5),
            (ResponseStatus::UnknownNode, 3),
            (ResponseStatus::NotAuthorised, 4),
            (ResponseStatus::Invalid, 1),
            (ResponseStatus::Failed, 1),
        ] {
            assert_eq!(ExitCode::from(status).number(), number, "{status:?}");
        }
    }

    #[test]
    fn each_end_of_an_operation_has_its_code() {
        use OperationPhase::{Aborted, Aborting, Done, Failed, PartlyDone, Paused, Running};
        for (phase, completion, abortion) in [
            (Running, None, None),
            (Paused, None, None),
            (Aborting, None, None),
            (Done, Some(0), Some(0)),
            (Failed, Some(1), Some(1)),
            (Aborted, Some(1), Some(0)),
            (PartlyDone, Some(7), Some(7)),
        ] {
            assert_eq!(of_operation(phase, Wanted::Completion).map(ExitCode::number), completion, "{phase}");
            assert_eq!(of_operation(phase, Wanted::Abortion).map(ExitCode::number), abortion, "{phase}");
        }
    }

    #[test]
    fn a_trouble_says_what_why_and_what_to_do() {
        let trouble = Trouble::new(ExitCode::Failed, "it broke", "too old", "buy a new one");
        assert_eq!(trouble.to_string(), "it broke\n  why:        too old\n  what to do: buy a new one");
        assert_eq!(trouble.with_code("worn-out").code, "worn-out");
    }
}
