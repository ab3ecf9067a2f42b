//! The demo's little language: one statement a line, `#` begins a comment. `docs/demo.md` describes it for people.

use super::world::{Mains, Press};
use crate::link::Network;
use beehive_mqtt::coordinator::{ClusterPhase, Membership, OperationKind, OperationPhase};
use beehive_mqtt::node::{Connection, Lifecycle, PowerPhase};
use serde::de::DeserializeOwned;
use std::fmt;

/// The language in short, for `--help`.
pub(super) const HELP: &str = "\
Scripts: one statement a line, '#' begins a comment, NNN is a node's number
  create | rebuild | reboot | reset | shutdown | abort | resume
  node leave|join|drain|uncordon|reboot|shutdown|reset|identify NNN
      asks the coordinator, as the console does; the script ends if it is refused,
      unless 'try' stands before it
  press|hold|double|hold-reset NNN    handles a button
  mains NNN off|on                    pulls a plug, puts it back
  network NNN cut|back                pulls a network cable, puts it back
  restart console                     begins the console anew, with nothing known
  expect [within 10s] node NNN|all membership|power|presence|lifecycle|machine WORD
  expect [within 10s] cluster PHASE
  expect [within 10s] operation KIND PHASE
  expect [within 10s] event TEXT      waits, and fails when the time is up

Keys of the live view are shown in it.

Exit codes: 0 played or quit, 1 an expectation failed, 2 usage, 129, 130, 143 ended by SIGHUP, Ctrl-C, SIGTERM
";

/// How long an expectation waits where the script says nothing.
pub(super) const WITHIN_S: u32 = 10;

/// The longest that it may be told to wait.
const MOST_WITHIN_S: u32 = 600;

/// A script, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    /// The file's name, for messages.
    pub(super) name: String,
    pub(super) lines: Vec<Line>,
}

/// One statement and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: usize,
    /// As it was written, without the comment.
    pub(super) text: String,
    pub(super) statement: Statement,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// Ask the coordinator, as the ops console does.
    Ask { wish: Wish, refusal: Refusal },
    /// Handle a button.
    Press { press: Press, node: u8 },
    /// Handle a plug.
    Mains { node: u8, mains: Mains },
    /// Handle a network cable.
    Network { node: u8, network: Network },
    /// Begin the console anew, with nothing known.
    RestartConsole,
    /// Wait until something is seen.
    Expect { within_s: u32, what: Expectation },
}

/// What is asked of the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Operation { kind: OperationKind, node: Option<u8> },
    Abort,
    Resume,
}

/// Whether the script goes on when the coordinator says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    EndsTheScript,
    /// The line begins with `try`.
    IsPrinted,
}

/// What is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expectation {
    Node { which: Which, is: NodeIs },
    Cluster(ClusterPhase),
    Operation(OperationKind, OperationPhase),
    Event(String),
}

/// Of which nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    One(u8),
    All,
}

/// What a node is expected to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeIs {
    Membership(Membership),
    Power(PowerPhase),
    Presence(Connection),
    Lifecycle(Lifecycle),
    /// The simulated machine itself, not what it says: `on`, `off`, `booting` or `halted`.
    Machine(&'static str),
}

/// A line that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    file: String,
    line: usize,
    what: String,
    allowed: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; allowed: {}", self.file, self.line, self.what, self.allowed)
    }
}

impl std::error::Error for SyntaxError {}

/// What is wrong, and what would be right.
type Wrong = (String, String);

const STATEMENTS: &str = "create, rebuild, reboot, reset, shutdown, abort, resume, node, press, hold, double, \
                          hold-reset, mains, network, restart console, expect, and try before what is asked of the coordinator";
const NODE_VERBS: &str = "node leave|join|drain|uncordon|reboot|shutdown|reset|identify NNN";
const EXPECTATIONS: &str = "expect [within 10s] node NNN|all membership|power|presence|lifecycle|machine WORD, \
                            expect [within 10s] cluster PHASE, expect [within 10s] operation KIND PHASE, \
                            expect [within 10s] event TEXT";
const MEMBERSHIPS: &[&str] = &[
    "expected",
    "blank",
    "joining",
    "ready",
    "not_ready",
    "draining",
    "cordoned",
    "cordoned_by_others",
    "leaving",
    "broken",
    "lost",
];
const POWER_PHASES: &[&str] = &["running", "grace", "draining", "stopping", "handing_over", "halted"];
const CONNECTIONS: &[&str] = &["online", "offline"];
const LIFECYCLES: &[&str] = &["blank", "joining", "member", "leaving", "broken"];
const MACHINES: &[&str] = &["on", "off", "booting", "halted"];
const CLUSTER_PHASES: &[&str] = &["absent", "changing", "ready", "degraded"];
const KINDS: &[&str] = &[
    "create",
    "rebuild",
    "reset",
    "reboot",
    "shutdown",
    "node_drain",
    "node_uncordon",
    "node_join",
    "node_leave",
    "node_reset",
    "node_reboot",
    "node_shutdown",
    "node_identify",
];
const OPERATION_PHASES: &[&str] = &["running", "paused", "aborting", "done", "failed", "aborted", "partly_done"];

impl Script {
    /// Reads a script for a crew of `nodes` Pis.
    ///
    /// # Errors
    /// The first line that cannot be understood: where, what, and what is allowed there.
    pub(super) fn parse(name: &str, text: &str, nodes: u8) -> Result<Self, SyntaxError> {
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let text = line.split('#').next().unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            let words: Vec<&str> = text.split_whitespace().collect();
            let number = index + 1;
            let statement = Reader { words: &words, nodes }.statement().map_err(|(what, allowed)| SyntaxError {
                file: name.to_owned(),
                line: number,
                what,
                allowed,
            })?;
            lines.push(Line { number, text: text.to_owned(), statement });
        }
        Ok(Self { name: name.to_owned(), lines })
    }
}

/// What is left of a line.
struct Reader<'a> {
    words: &'a [&'a str],
    nodes: u8,
}

impl<'a> Reader<'a> {
    fn next(&mut self, allowed: &str) -> Result<&'a str, Wrong> {
        let (first, rest) =
            self.words.split_first().ok_or_else(|| ("the line ends too soon".to_owned(), allowed.to_owned()))?;
        self.words = rest;
        Ok(first)
    }

    fn end(&self, statement: Statement) -> Result<Statement, Wrong> {
        match self.words.first() {
            None => Ok(statement),
            Some(more) => Err((format!("{more:?} is too much"), "nothing more on this line".to_owned())),
        }
    }

    fn node(&mut self) -> Result<u8, Wrong> {
        let allowed = format!("001 to {:03}", self.nodes);
        let word = self.next(&allowed)?;
        match word.parse::<u8>() {
            Ok(number) if (1..=self.nodes).contains(&number) => Ok(number),
            Ok(_) | Err(_) => Err((format!("{word:?} is no node of this crew"), allowed)),
        }
    }

    fn word<T: DeserializeOwned>(&mut self, allowed: &[&str]) -> Result<T, Wrong> {
        let list = allowed.join(", ");
        let word = self.next(&list)?;
        let value = serde_json::Value::String(word.to_owned());
        serde_json::from_value(value).map_err(|_| (format!("{word:?} is not known here"), list))
    }

    fn statement(mut self) -> Result<Statement, Wrong> {
        let (refusal, first) = match self.next(STATEMENTS)? {
            "try" => (Refusal::IsPrinted, self.next("try before what is asked of the coordinator")?),
            first => (Refusal::EndsTheScript, first),
        };
        let wish = match first {
            "create" => Some(crew(OperationKind::Create)),
            "rebuild" => Some(crew(OperationKind::Rebuild)),
            "reboot" => Some(crew(OperationKind::Reboot)),
            "reset" => Some(crew(OperationKind::Reset)),
            "shutdown" => Some(crew(OperationKind::Shutdown)),
            "start" => Some(crew(OperationKind::Start)),
            "abort" => Some(Wish::Abort),
            "resume" => Some(Wish::Resume),
            "node" => Some(self.node_wish()?),
            _ => None,
        };
        if let Some(wish) = wish {
            return self.end(Statement::Ask { wish, refusal });
        }
        if refusal == Refusal::IsPrinted {
            let allowed = "try before create, rebuild, reboot, reset, shutdown, abort, resume, node".to_owned();
            return Err((format!("{first:?} asks nothing of the coordinator"), allowed));
        }
        let statement = match first {
            "press" => Statement::Press { press: Press::Short, node: self.node()? },
            "hold" => Statement::Press { press: Press::Hold, node: self.node()? },
            "double" => Statement::Press { press: Press::Double, node: self.node()? },
            "hold-reset" => Statement::Press { press: Press::Reset, node: self.node()? },
            "mains" => {
                let node = self.node()?;
                let mains = match self.next("off, on")? {
                    "off" => Mains::Off,
                    "on" => Mains::On,
                    other => return Err((format!("{other:?} is not known here"), "off, on".to_owned())),
                };
                Statement::Mains { node, mains }
            }
            "network" => {
                let node = self.node()?;
                let network = match self.next("cut, back")? {
                    "cut" => Network::Cut,
                    "back" => Network::Up,
                    other => return Err((format!("{other:?} is not known here"), "cut, back".to_owned())),
                };
                Statement::Network { node, network }
            }
            "restart" => match self.next("restart console")? {
                "console" => Statement::RestartConsole,
                other => return Err((format!("{other:?} cannot be restarted"), "restart console".to_owned())),
            },
            "expect" => return self.expectation(),
            other => return Err((format!("{other:?} is no statement"), STATEMENTS.to_owned())),
        };
        self.end(statement)
    }

    fn node_wish(&mut self) -> Result<Wish, Wrong> {
        let kind = match self.next(NODE_VERBS)? {
            "leave" => OperationKind::NodeLeave,
            "join" => OperationKind::NodeJoin,
            "drain" => OperationKind::NodeDrain,
            "uncordon" => OperationKind::NodeUncordon,
            "reboot" => OperationKind::NodeReboot,
            "shutdown" => OperationKind::NodeShutdown,
            "reset" => OperationKind::NodeReset,
            "identify" => OperationKind::NodeIdentify,
            other => return Err((format!("{other:?} is not known here"), NODE_VERBS.to_owned())),
        };
        Ok(Wish::Operation { kind, node: Some(self.node()?) })
    }

    fn expectation(mut self) -> Result<Statement, Wrong> {
        let mut first = self.next(EXPECTATIONS)?;
        let mut within_s = WITHIN_S;
        if first == "within" {
            let allowed = format!("1s to {MOST_WITHIN_S}s");
            let word = self.next(&allowed)?;
            within_s = match word.strip_suffix('s').and_then(|seconds| seconds.parse().ok()) {
                Some(seconds) if (1..=MOST_WITHIN_S).contains(&seconds) => seconds,
                Some(_) | None => return Err((format!("{word:?} is no time to wait"), allowed)),
            };
            first = self.next(EXPECTATIONS)?;
        }
        let what = match first {
            "node" => {
                let which = if self.words.first() == Some(&"all") {
                    self.words = &self.words[1..];
                    Which::All
                } else {
                    Which::One(self.node()?)
                };
                Expectation::Node { which, is: self.node_is()? }
            }
            "cluster" => Expectation::Cluster(self.word(CLUSTER_PHASES)?),
            "operation" => Expectation::Operation(self.word(KINDS)?, self.word(OPERATION_PHASES)?),
            "event" => {
                let text = self.words.join(" ");
                if text.is_empty() {
                    return Err(("the event's text is missing".to_owned(), "a part of the event's line".to_owned()));
                }
                self.words = &[];
                Expectation::Event(text)
            }
            other => return Err((format!("{other:?} cannot be expected"), EXPECTATIONS.to_owned())),
        };
        self.end(Statement::Expect { within_s, what })
    }

    fn node_is(&mut self) -> Result<NodeIs, Wrong> {
        let allowed = "membership, power, presence, lifecycle, machine";
        Ok(match self.next(allowed)? {
            "membership" => NodeIs::Membership(self.word(MEMBERSHIPS)?),
            "power" => NodeIs::Power(self.word(POWER_PHASES)?),
            "presence" => NodeIs::Presence(self.word(CONNECTIONS)?),
            "lifecycle" => NodeIs::Lifecycle(self.word(LIFECYCLES)?),
            "machine" => {
                let list = MACHINES.join(", ");
                let word = self.next(&list)?;
                let known = MACHINES.iter().find(|known| **known == word);
                NodeIs::Machine(known.ok_or_else(|| (format!("{word:?} is not known here"), list))?)
            }
            other => return Err((format!("{other:?} is not known here"), allowed.to_owned())),
        })
    }
}

fn crew(kind: OperationKind) -> Wish {
    Wish::Operation { kind, node: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Statement, String> {
        let script = Script::parse("t", line, 3).map_err(|error| error.to_string())?;
        assert_eq!(script.lines.len(), 1);
        Ok(script.lines[0].statement.clone())
    }

    #[test]
    fn each_statement_is_read() {
        let ask = |kind, node| Statement::Ask { wish: Wish::Operation { kind, node }, refusal: Refusal::EndsTheScript };
        for (line, statement) in [
            ("create", ask(OperationKind::Create, None)),
            ("node leave 002", ask(OperationKind::NodeLeave, Some(2))),
            ("try abort  # comment", Statement::Ask { wish: Wish::Abort, refusal: Refusal::IsPrinted }),
            ("hold 3", Statement::Press { press: Press::Hold, node: 3 }),
            ("hold-reset 3", Statement::Press { press: Press::Reset, node: 3 }),
            ("mains 003 off", Statement::Mains { node: 3, mains: Mains::Off }),
            ("network 001 back", Statement::Network { node: 1, network: Network::Up }),
            ("restart console", Statement::RestartConsole),
            (
                "expect within 12s node all membership ready",
                Statement::Expect {
                    within_s: 12,
                    what: Expectation::Node { which: Which::All, is: NodeIs::Membership(Membership::Ready) },
                },
            ),
            (
                "expect operation node_drain partly_done",
                Statement::Expect {
                    within_s: WITHIN_S,
                    what: Expectation::Operation(OperationKind::NodeDrain, OperationPhase::PartlyDone),
                },
            ),
            (
                "expect event gesture:  power_off",
                Statement::Expect { within_s: WITHIN_S, what: Expectation::Event("gesture: power_off".to_owned()) },
            ),
        ] {
            assert_eq!(one(line).unwrap(), statement, "{line}");
        }
    }

    #[test]
    fn an_error_says_where_what_and_what_is_allowed() {
        let wrong = |text| Script::parse("f", text, 3).unwrap_err().to_string();
        assert_eq!(wrong("create\n\nmains 002 up"), "f:3: \"up\" is not known here; allowed: off, on");
        assert_eq!(wrong("press 004"), "f:1: \"004\" is no node of this crew; allowed: 001 to 003");
        assert_eq!(wrong("create now"), "f:1: \"now\" is too much; allowed: nothing more on this line");
        assert!(wrong("explode").starts_with("f:1: \"explode\" is no statement; allowed: create, "));
        assert!(wrong("expect within 10 cluster ready").contains("allowed: 1s to 600s"));
        assert!(wrong("expect cluster fine").contains("allowed: absent, changing, ready, degraded"));
        assert!(wrong("try press 001").contains("asks nothing"));
        assert!(wrong("expect event").contains("missing"));
        assert!(wrong("node").contains("ends too soon"));
    }

    #[test]
    fn what_is_said_to_be_allowed_is() {
        for (before, words, after) in [
            ("expect node 1 membership", MEMBERSHIPS, ""),
            ("expect node 1 power", POWER_PHASES, ""),
            ("expect node 1 presence", CONNECTIONS, ""),
            ("expect node 1 lifecycle", LIFECYCLES, ""),
            ("expect node 1 machine", MACHINES, ""),
            ("expect cluster", CLUSTER_PHASES, ""),
            ("expect operation", KINDS, "done"),
            ("expect operation create", OPERATION_PHASES, ""),
        ] {
            for word in words {
                one(&format!("{before} {word} {after}")).unwrap();
            }
        }
    }
}
