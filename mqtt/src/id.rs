//! Names and ids as newtypes, so that a node is never taken for a crew nor a command for an operation. All of them are
//! safe in a topic, a file name and a log line: letters, digits and hyphens.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a name or an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdError {
    /// Nothing at all.
    Empty,
    /// Longer than this kind may be; the limit in bytes.
    TooLong(usize),
    /// A character other than a lower-case letter, a digit or a hyphen.
    Character(char),
    /// A hyphen at one of the ends.
    Hyphen,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::TooLong(limit) => write!(f, "is longer than {limit} characters"),
            Self::Character(character) => {
                write!(f, "contains {character:?}; only a-z, 0-9 and '-' are allowed")
            }
            Self::Hyphen => f.write_str("begins or ends with '-'"),
        }
    }
}

impl core::error::Error for IdError {}

fn check(text: &str, limit: usize) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > limit {
        return Err(IdError::TooLong(limit));
    }
    if let Some(character) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(IdError::Character(character));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(IdError::Hyphen);
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $limit:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(heapless::String<$limit>);

        impl $name {
            /// The longest one, in bytes.
            pub const MAX_BYTES: usize = $limit;

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check(text, $limit)?;
                heapless::String::try_from(text).map(Self).map_err(|()| IdError::TooLong($limit))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a ", stringify!($name)))
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(|error| {
                            E::custom(format_args!(concat!("the ", stringify!($name), " {:?} {}"), text, error))
                        })
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

id!(
    /// A crew: one Kubernetes cluster of Pis, such as `bee42-crew-01`.
    CrewName, 40
);
id!(
    /// A node: a Pi's host name, such as `bee42-crew-01-002`; a DNS label, as Kubernetes wants it.
    NodeName, 63
);
id!(
    /// An operator, as the broker knows it.
    UserName, 32
);
id!(
    /// One request to the coordinator, from a console or a node. The same id is the same request.
    RequestId, 64
);
id!(
    /// One operation of the coordinator. It is the id of the request that asked for it.
    OperationId, 64
);
id!(
    /// One command to a node: the operation's id, the step's number and the attempt.
    CommandId, 80
);
id!(
    /// One boot of a node: the kernel's `/proc/sys/kernel/random/boot_id`.
    BootId, 40
);
id!(
    /// One session of a receiver: 128 random bits in hexadecimal, new at each of its starts and whenever its memory of ids
    /// has to make room. What names another session than the receiver's present one is old: it was recorded and is played
    /// again, or was long under way. A Pi has no clock at first, so no time of day could say that.
    Nonce, 32
);
id!(
    /// One machine: what tells two Pis apart whose cards are copies of each other. 64 bits in hexadecimal, made of the system's
    /// machine-id so that nobody finds that from it (machine-id(5) wants it kept within the machine).
    MachineMark, 16
);
id!(
    /// One life of a Kubernetes cluster, from `init` to `reset`.
    ClusterId, 64
);

impl From<RequestId> for OperationId {
    fn from(id: RequestId) -> Self {
        Self(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn names_are_checked() {
        assert!("bee42-crew-01-001".parse::<NodeName>().is_ok());
        for (text, error) in [
            ("", IdError::Empty),
            ("a/b", IdError::Character('/')),
            ("a+", IdError::Character('+')),
            ("#", IdError::Character('#')),
            ("Upper", IdError::Character('U')),
            ("-a", IdError::Hyphen),
            ("a-", IdError::Hyphen),
        ] {
            assert_eq!(text.parse::<NodeName>(), Err(error), "{text:?}");
        }
        assert_eq!("a".repeat(64).parse::<NodeName>(), Err(IdError::TooLong(63)));
        assert!("a".repeat(63).parse::<NodeName>().is_ok());
    }

    #[test]
    fn a_bad_name_from_the_wire_says_which_and_why() {
        let error = serde_json::from_str::<NodeName>("\"a b\"").unwrap_err().to_string();
        assert!(error.contains("NodeName") && error.contains("' '"), "{error}");
    }
}
