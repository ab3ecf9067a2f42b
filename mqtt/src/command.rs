//! What a node is told: `d/<node>/command`.

use crate::codec::{Payload, Wrapping};
use crate::id::{BootId, ClusterId, CommandId, CrewName, NodeName, Nonce, OperationId, RequestId};
use crate::sign::Digest;
use crate::text::Text;
use crate::version::ProtocolVersion;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The longest secret that is sealed: k3s's node token has about 120 characters, kubeadm's with its hash about 100.
pub const MAX_SECRET_BYTES: usize = 256;

/// What lets one node join one cluster, sealed to that node's key and bound to a [`SealContext`]: hexadecimal digits that
/// nobody else can open, and that open for nothing else.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedCredential(Text<640>);

impl SealedCredential {
    /// Of sealed bytes. What is too long is cut, and then opens for nobody; [`MAX_SECRET_BYTES`] and what sealing adds fit.
    pub fn new(sealed: &[u8]) -> Self {
        Self(digits(sealed))
    }

    /// The sealed bytes; nothing if it is no hexadecimal.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        bytes_of(&self.0)
    }
}

/// Bytes as hexadecimal digits; what is too long is cut.
pub(crate) fn digits<const N: usize>(bytes: &[u8]) -> Text<N> {
    let mut text = heapless::String::<N>::new();
    for byte in bytes {
        if fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}")).is_err() {
            break;
        }
    }
    Text::cut(&text)
}

/// The bytes of hexadecimal digits; nothing if they are none.
pub(crate) fn bytes_of<const N: usize>(text: &Text<N>) -> Option<Vec<u8>> {
    let digits = text.as_str().as_bytes();
    if digits.len() % 2 != 0 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

impl fmt::Debug for SealedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedCredential({} bytes)", self.0.as_str().len() / 2)
    }
}

/// What a credential is sealed for. Both ends build it from what they know themselves, so that a credential that was
/// recorded opens for no other crew, node, operation, cluster or boot, and under no other command.
#[derive(Debug, Clone, Copy)]
pub struct SealContext<'a> {
    /// The crew.
    pub crew: &'a CrewName,
    /// The node that joins.
    pub node: &'a NodeName,
    /// The boot in which it joins.
    pub boot: &'a BootId,
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The operation.
    pub operation: Option<&'a OperationId>,
    /// The command.
    pub command: &'a CommandId,
}

impl SealContext<'_> {
    /// Its bytes: each part preceded by its length as 32 bits, big-endian.
    pub fn bytes(&self) -> Vec<u8> {
        crate::sign::lengths_before(&[
            self.crew.as_str().as_bytes(),
            self.node.as_str().as_bytes(),
            self.boot.as_str().as_bytes(),
            self.cluster.as_str().as_bytes(),
            self.operation.map_or("", OperationId::as_str).as_bytes(),
            self.command.as_str().as_bytes(),
        ])
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
        credential: SealedCredential,
    },
    /// Stop the engine, keep what it has.
    Stop,
    /// Remove everything that the engine left.
    Reset,
    /// Keep a copy of the cluster's state.
    Snapshot,
    /// Apply the add-ons.
    AddOns,
    /// Bring the engine of this member to another version, and let it run again.
    Upgrade {
        /// Which.
        version: Text<32>,
    },
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
    /// [`Verb::Upgrade`]
    Upgrade,
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
            Self::Upgrade => "upgrade",
            Self::Reboot => "reboot",
            Self::PowerOff => "power_off",
            Self::Identify => "identify",
            Self::Answer => "answer",
        }
    }

    /// The first version of the protocol that knows it. It is never sent to a node that speaks less.
    pub fn since(self) -> ProtocolVersion {
        match self {
            Self::Initialise
            | Self::Join
            | Self::Stop
            | Self::Reset
            | Self::Snapshot
            | Self::AddOns
            | Self::Reboot
            | Self::PowerOff
            | Self::Identify
            | Self::Answer => ProtocolVersion::V1,
            Self::Upgrade => ProtocolVersion::V2,
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
            | Self::Upgrade
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
            Self::Upgrade { .. } => VerbName::Upgrade,
            Self::Reboot => VerbName::Reboot,
            Self::PowerOff => VerbName::PowerOff,
            Self::Identify { .. } => VerbName::Identify,
            Self::Answer { .. } => VerbName::Answer,
        }
    }
}

/// A command. The coordinator sends the same id again until a final result comes or it expires; the node runs an id once,
/// and one that it does not know only in the session that `nonce` names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Its id.
    pub id: CommandId,
    /// The node's session, as it said in its state or request. It belongs to the id: a command is not sent again for another
    /// session.
    pub nonce: Nonce,
    /// The coordinator's term; a node refuses a lower one than the highest it has seen.
    pub term: u64,
    /// The number of the coordinator's session; a node refuses a lower one than the highest of that term.
    pub session: u64,
    /// The operation that it is a part of.
    pub operation: Option<OperationId>,
    /// How long it may take from when the node first sees it, in milliseconds.
    pub expires_ms: u64,
    /// What to do.
    pub verb: Verb,
}

impl Command {
    /// What it asks. Left out is what changes when it is sent again: the sessions, the time that is left, and the credential,
    /// which is sealed afresh.
    pub fn digest(&self) -> Digest {
        match &self.verb {
            Verb::Join { cluster, server, version, credential: _ } => {
                Digest::of(&(&self.operation, VerbName::Join, cluster, server, version))
            }
            Verb::Initialise { .. }
            | Verb::Stop
            | Verb::Reset
            | Verb::Snapshot
            | Verb::AddOns
            | Verb::Upgrade { .. }
            | Verb::Reboot
            | Verb::PowerOff
            | Verb::Identify { .. }
            | Verb::Answer { .. } => Digest::of(&(&self.operation, &self.verb)),
        }
    }
}

impl Payload for Command {
    const NAME: &'static str = "command";
    const WRAPPING: Wrapping = Wrapping::Envelope;
    const MAX_BODY_BYTES: usize = 4096;

    fn since(&self) -> ProtocolVersion {
        self.verb.name().since()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;

    #[test]
    fn a_credential_is_never_shown_not_even_sealed() {
        let verb = Verb::Join {
            cluster: "c".parse().unwrap(),
            server: Text::cut("s"),
            version: Text::new(),
            credential: SealedCredential::new(b"hunter2"),
        };
        let shown = std::format!("{verb:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("68756e") && shown.contains("7 bytes"), "{shown}");
    }

    #[test]
    fn a_sealed_credential_keeps_its_bytes_and_the_longest_fits() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(SealedCredential::new(&bytes).bytes(), Some(bytes));
        let longest = [0xab; MAX_SECRET_BYTES + 48];
        assert_eq!(SealedCredential::new(&longest).bytes().unwrap(), longest);
        assert_eq!(SealedCredential(Text::cut("0g")).bytes(), None);
        assert_eq!(SealedCredential(Text::cut("012")).bytes(), None);
    }

    #[test]
    fn a_repeat_has_the_same_digest_and_another_wish_another() {
        let command = |verb| Command {
            id: "c-1".parse().unwrap(),
            nonce: "n1".parse().unwrap(),
            term: 1,
            session: 1,
            operation: Some("o-1".parse().unwrap()),
            expires_ms: 1_000,
            verb,
        };
        let join = |secret: &[u8], server: &str| {
            let (cluster, server) = ("c".parse().unwrap(), Text::cut(server));
            command(Verb::Join { cluster, server, version: Text::new(), credential: SealedCredential::new(secret) })
        };
        let again = Command { nonce: "n2".parse().unwrap(), term: 2, session: 7, expires_ms: 5, ..join(b"b", "s") };
        assert_eq!(join(b"a", "s").digest(), again.digest());
        assert_ne!(join(b"a", "s").digest(), join(b"a", "t").digest());
        assert_ne!(command(Verb::Reset).digest(), command(Verb::Stop).digest());
        let other = Command { operation: None, ..command(Verb::Reset) };
        assert_ne!(command(Verb::Reset).digest(), other.digest());
        assert_ne!(command(Verb::Identify { seconds: 1 }).digest(), command(Verb::Identify { seconds: 2 }).digest());
    }

    #[test]
    fn the_parts_of_a_seal_cannot_be_moved() {
        let (boot, cluster, command) = ("b".parse().unwrap(), "k".parse().unwrap(), "c".parse().unwrap());
        let bytes = |crew: &str, node: &str| {
            let (crew, node) = (crew.parse().unwrap(), node.parse().unwrap());
            let (boot, cluster, command) = (&boot, &cluster, &command);
            SealContext { crew: &crew, node: &node, boot, cluster, operation: None, command }.bytes()
        };
        assert_ne!(bytes("ab", "c"), bytes("a", "bc"));
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
            VerbName::Upgrade,
            VerbName::Reboot,
            VerbName::PowerOff,
            VerbName::Identify,
            VerbName::Answer,
        ] {
            assert_eq!(serde_json::to_string(&name).unwrap(), std::format!("\"{name}\""));
        }
    }
}
