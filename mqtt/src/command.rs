//! What a node is told: `d/<node>/command`.

use crate::codec::{Payload, Wrapping};
use crate::id::{ClusterId, CommandId, OperationId, RequestId};
use crate::text::Text;
use core::fmt;
use serde::{Deserialize, Serialize};

/// What lets one node join one cluster. It is shown to nobody: `Debug` hides it, there is no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JoinCredential(Text<256>);

impl JoinCredential {
    /// Wraps a secret.
    pub fn new(secret: &str) -> Self {
        Self(Text::cut(secret))
    }

    /// The secret, for the engine alone.
    pub fn reveal(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for JoinCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinCredential(…)")
    }
}

/// The coordinator's answer to a node's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The node is empty: go on.
    Go,
    /// Go on, although it could not be emptied.
    GoUndrained,
    /// Heard; wait until your deadline.
    Wait,
}

/// What a node is told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Verb {
    /// Start a new cluster on this master.
    Initialise {
        /// The cluster's new id.
        cluster: ClusterId,
        /// The engine version that is wanted; empty means the one that is installed.
        version: Text<32>,
    },
    /// Join a cluster.
    Join {
        /// Which.
        cluster: ClusterId,
        /// The control plane's address.
        server: Text<128>,
        /// The engine version that is wanted; empty means the one that is installed.
        version: Text<32>,
        /// What lets it in.
        credential: JoinCredential,
    },
    /// Stop the engine, keep what it has.
    Stop,
    /// Remove everything that the engine left.
    Reset,
    /// Keep a copy of the cluster's state.
    Snapshot,
    /// Apply the add-ons.
    AddOns,
    /// Restart the Pi; it has been emptied.
    Reboot,
    /// Switch the Pi off; it has been emptied.
    PowerOff,
    /// Blink.
    Identify {
        /// For how long.
        seconds: u16,
    },
    /// The answer to a request of this node.
    Answer {
        /// Which request.
        request: RequestId,
        /// The answer.
        answer: Answer,
    },
}

/// A verb without its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerbName {
    /// [`Verb::Initialise`]
    Initialise,
    /// [`Verb::Join`]
    Join,
    /// [`Verb::Stop`]
    Stop,
    /// [`Verb::Reset`]
    Reset,
    /// [`Verb::Snapshot`]
    Snapshot,
    /// [`Verb::AddOns`]
    AddOns,
    /// [`Verb::Reboot`]
    Reboot,
    /// [`Verb::PowerOff`]
    PowerOff,
    /// [`Verb::Identify`]
    Identify,
    /// [`Verb::Answer`]
    Answer,
}

impl VerbName {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initialise => "initialise",
            Self::Join => "join",
            Self::Stop => "stop",
            Self::Reset => "reset",
            Self::Snapshot => "snapshot",
            Self::AddOns => "add_ons",
            Self::Reboot => "reboot",
            Self::PowerOff => "power_off",
            Self::Identify => "identify",
            Self::Answer => "answer",
        }
    }

    /// Whether it removes what cannot be brought back.
    pub fn destroys(self) -> bool {
        match self {
            Self::Reset => true,
            Self::Initialise
            | Self::Join
            | Self::Stop
            | Self::Snapshot
            | Self::AddOns
            | Self::Reboot
            | Self::PowerOff
            | Self::Identify
            | Self::Answer => false,
        }
    }
}

impl fmt::Display for VerbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Verb {
    /// The verb without its arguments.
    pub fn name(&self) -> VerbName {
        match self {
            Self::Initialise { .. } => VerbName::Initialise,
            Self::Join { .. } => VerbName::Join,
            Self::Stop => VerbName::Stop,
            Self::Reset => VerbName::Reset,
            Self::Snapshot => VerbName::Snapshot,
            Self::AddOns => VerbName::AddOns,
            Self::Reboot => VerbName::Reboot,
            Self::PowerOff => VerbName::PowerOff,
            Self::Identify { .. } => VerbName::Identify,
            Self::Answer { .. } => VerbName::Answer,
        }
    }
}

/// A command. The coordinator sends the same id again until a final result comes or it expires; the node runs an id once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Its id.
    pub id: CommandId,
    /// The coordinator's term; a node refuses a lower one than the highest it has seen.
    pub term: u64,
    /// The operation that it is a part of.
    pub operation: Option<OperationId>,
    /// How long it may take from when the node first sees it, in milliseconds.
    pub expires_ms: u64,
    /// What to do.
    pub verb: Verb,
}

impl Payload for Command {
    const NAME: &'static str = "command";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 4096;
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;

    #[test]
    fn a_credential_is_never_shown() {
        let verb = Verb::Join {
            cluster: "c".parse().unwrap(),
            server: Text::cut("s"),
            version: Text::new(),
            credential: JoinCredential::new("hunter2"),
        };
        assert!(!std::format!("{verb:?}").contains("hunter2"));
    }

    #[test]
    fn the_name_of_each_verb_is_its_word_on_the_wire() {
        for name in [
            VerbName::Initialise,
            VerbName::Join,
            VerbName::Stop,
            VerbName::Reset,
            VerbName::Snapshot,
            VerbName::AddOns,
            VerbName::Reboot,
            VerbName::PowerOff,
            VerbName::Identify,
            VerbName::Answer,
        ] {
            assert_eq!(serde_json::to_string(&name).unwrap(), std::format!("\"{name}\""));
        }
    }
}
