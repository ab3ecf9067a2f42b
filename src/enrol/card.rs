//! The file that a card brings: `/etc/beehive/enrolment.toml`. `beehive image prepare` writes it, the first boot puts it in
//! place, and it is removed when it was used.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use beehive_mqtt::node::Role;
use beehive_mqtt::sign::PublicKey;
use beehive_mqtt::{CrewName, NodeName};
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use crate::crew::files;
use crate::keys::SignKey;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// It cannot be read.
    #[error("{0}")]
    File(#[from] io::Error),
    /// It holds something else. The reason never repeats a secret.
    #[error("{path} is no enrolment ({why}); prepare the card again with `beehive image prepare`")]
    Content {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Others may read the secret.
    #[error(
        "{path} may be read by others (mode {mode:03o}), and it holds this card's secret: `chmod 600` it, and prepare the \
         card again with --renew if somebody may have read it"
    )]
    Exposed {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
}

/// What a card brings.
pub struct CardSecret {
    /// The crew.
    pub crew: CrewName,
    /// The node.
    pub node: NodeName,
    /// Its part in the crew: the master gets the broker's files too.
    pub role: Role,
    /// The crew's public key.
    pub crew_key: PublicKey,
    /// The card's key.
    pub key: SignKey,
    /// Where the Pi listens.
    pub port: u16,
}

impl fmt::Debug for CardSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CardSecret").field("crew", &self.crew).field("node", &self.node).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    crew: CrewName,
    node: NodeName,
    role: Role,
    crew_key: PublicKey,
    /// The seed, in hexadecimal.
    secret: String,
    port: u16,
}

impl Drop for Written {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl CardSecret {
    /// Reads the file.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, CardError> {
        let text = Zeroizing::new(files::read(path)?);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path)?.permissions()) & 0o777;
        let path = path.display().to_string();
        if mode & 0o077 != 0 {
            return Err(CardError::Exposed { path, mode });
        }
        Self::parse(&text).map_err(|why| CardError::Content { path, why })
    }

    /// Reads its text. The error repeats nothing of it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let seed: PublicKey =
            written.secret.parse().map_err(|_| "`secret` is not 64 lower-case hexadecimal digits".to_owned())?;
        if written.port == 0 {
            return Err("`port` is 0".to_owned());
        }
        Ok(Self {
            crew: written.crew.clone(),
            node: written.node.clone(),
            role: written.role,
            crew_key: written.crew_key,
            key: SignKey::from_seed(&Zeroizing::new(seed.0)),
            port: written.port,
        })
    }

    /// Its text.
    pub fn to_toml(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(PublicKey(*self.key.seed()).to_string());
        let role = match self.role {
            Role::Master => "master",
            Role::Node => "node",
        };
        Zeroizing::new(format!(
            "# The enrolment of {node} in crew {crew}, to be used once. Nobody else may read this file.\ncrew = \"{crew}\"\n\
             node = \"{node}\"\nrole = \"{role}\"\ncrew_key = \"{crew_key}\"\nsecret = \"{seed}\"\nport = {port}\n",
            node = self.node,
            crew = self.crew,
            crew_key = self.crew_key,
            seed = seed.as_str(),
            port = self.port,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::files::Access;

    fn secret() -> CardSecret {
        CardSecret {
            crew: "bee".parse().unwrap(),
            node: "pi-1".parse().unwrap(),
            role: Role::Master,
            crew_key: PublicKey([3; 32]),
            key: SignKey::from_seed(&[0xab; 32]),
            port: 7884,
        }
    }

    #[test]
    fn it_is_read_back_and_shows_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("enrolment.toml");
        files::write(&path, Access::Private, secret().to_toml().as_bytes()).unwrap();
        let read = CardSecret::load(&path).unwrap();
        assert_eq!((read.node.as_str(), read.role, read.port), ("pi-1", Role::Master, 7884));
        assert_eq!(read.key.public(), secret().key.public());
        assert!(!format!("{read:?}").contains("abab"));
        for (from, to) in
            [("secret = \"ab", "secret = \"AB"), ("secret", "secrets"), ("7884", "0"), ("\"pi-1\"", "\"Pi\"")]
        {
            let error = CardSecret::parse(&secret().to_toml().replace(from, to)).unwrap_err();
            assert!(!error.to_lowercase().contains("abab"), "{error}");
        }
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        assert!(CardSecret::load(&path).unwrap_err().to_string().contains("640"));
    }
}
