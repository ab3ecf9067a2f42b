//! Who we are: a folder with a name's keys, as `beehive crew init` makes it for each node and user.
//!
//! | file | content |
//! | --- | --- |
//! | `identity.toml` | crew, name, the seeds of the keys; mode 0600 |
//! | `crew.pub` | the crew's public key, in hexadecimal: whom the manifest must be signed by |
//! | `manifest.json` | the newest manifest when the folder was made |
//! | `ca.crt`, `tls.crt`, `tls.key` | for the broker |

use std::fs;
use std::path::{Path, PathBuf};

use beehive_mqtt::CrewName;
use beehive_mqtt::sign::PublicKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Opener, SealError, SignKey};
use crate::crew::files::{self, Access};

/// The file with the secrets.
pub const FILE: &str = "identity.toml";

/// The crew's public key.
const CREW_KEY: &str = "crew.pub";

/// The manifest.
const MANIFEST: &str = "manifest.json";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{0}; `beehive crew init` makes it on the crew's owner's machine, and it is copied to this one")]
    File(#[from] std::io::Error),
    /// A file holds something else.
    #[error("{path}: {why}; copy the files of this identity from the crew's folder again", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong. It never repeats a secret.
        why: String,
    },
    /// Others may read the secrets.
    #[error(
        "{path} may be read by others (mode {mode:03o}), and it holds the key with which this machine signs; \
         `chmod 600` it, and rotate the key if somebody may have read it",
        path = .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Who sees to it that nobody else reads the secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// The file's mode, which is looked at.
    Mode,
    /// systemd, which shows a unit's credentials to its user alone.
    ServiceManager,
}

/// Who we are.
#[derive(Debug)]
pub struct Identity {
    /// The crew.
    pub crew: CrewName,
    /// Our name: a node's or a user's.
    pub name: String,
    /// The key with which we sign.
    pub sign: SignKey,
    /// The key that opens what is sealed to us; a node has one.
    pub opener: Option<Opener>,
    /// The crew's public key.
    pub crew_key: PublicKey,
    /// The manifest as it was signed when the folder was made.
    pub manifest: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    crew: CrewName,
    name: String,
    /// The Ed25519 seed, in hexadecimal.
    sign: String,
    /// The X25519 key, in hexadecimal; users have none.
    #[serde(default)]
    seal: Option<String>,
}

impl Drop for Written {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.sign);
        zeroize::Zeroize::zeroize(&mut self.seal);
    }
}

/// The crew's public key, from an identity's folder. No secret is read.
///
/// # Errors
/// If the file is not as it should be.
pub fn crew_key(dir: &Path) -> Result<PublicKey, IdentityError> {
    let path = dir.join(CREW_KEY);
    files::read(&path)?
        .trim()
        .parse()
        .map_err(|error| IdentityError::Content { path, why: format!("the crew's public key {error}") })
}

impl Identity {
    /// Reads the identity in `dir`.
    ///
    /// # Errors
    /// Says which file is not as it should be.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        Self::load_under(dir, Guard::Mode)
    }

    /// The same, under this guard.
    pub(super) fn load_under(dir: &Path, guard: Guard) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        let text = Zeroizing::new(files::read(&path)?);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path)?.permissions()) & 0o777;
        match guard {
            Guard::Mode if mode & 0o077 != 0 => return Err(IdentityError::Exposed { path, mode }),
            Guard::Mode | Guard::ServiceManager => {}
        }
        // the parser's own message would show the line, and with it a secret
        let written: Written = toml::from_str(&text).map_err(|error| IdentityError::Content {
            path: path.clone(),
            why: format!("it is no identity: {}", error.message()),
        })?;
        let seed_of = |key: &str, text: &str| {
            let seed: Result<PublicKey, _> = text.parse();
            seed.map(|seed| Zeroizing::new(seed.0)).map_err(|_| IdentityError::Content {
                path: path.clone(),
                why: format!("`{key}` is not 64 lower-case hexadecimal digits"),
            })
        };
        let seed = seed_of("sign", &written.sign)?;
        let opener = match &written.seal {
            None => None,
            Some(text) => {
                let wrong = |error: SealError| IdentityError::Content { path: path.clone(), why: error.to_string() };
                Some(Opener::from_seed(&*seed_of("seal", text)?).map_err(wrong)?)
            }
        };
        let crew_key = crew_key(dir)?;
        Ok(Self {
            crew: written.crew.clone(),
            name: written.name.clone(),
            sign: SignKey::from_seed(&seed),
            opener,
            crew_key,
            manifest: files::read(&dir.join(MANIFEST))?.into_bytes(),
        })
    }

    /// Writes it into `dir`, which is made.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        fs::create_dir_all(dir)?;
        let seed = Zeroizing::new(PublicKey(*self.sign.seed()).to_string());
        let seal = Zeroizing::new(self.opener.as_ref().map_or(String::new(), |opener| {
            format!("seal = \"{}\"\n", Zeroizing::new(PublicKey(*opener.seed()).to_string()).as_str())
        }));
        let text = Zeroizing::new(format!(
            "# The keys of {name} in crew {crew}. Nobody else may read this file.\ncrew = \"{crew}\"\nname = \"{name}\"\n\
             sign = \"{seed}\"\n{seal}",
            crew = self.crew,
            name = self.name,
            seed = seed.as_str(),
            seal = seal.as_str(),
        ));
        files::write(&dir.join(FILE), Access::Private, text.as_bytes())?;
        files::write(&dir.join(CREW_KEY), Access::Public, format!("{}\n", self.crew_key).as_bytes())?;
        files::write(&dir.join(MANIFEST), Access::Public, &self.manifest)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            crew: "bee".parse().unwrap(),
            name: "pi-1".to_owned(),
            sign: SignKey::from_seed(&[0xab; 32]),
            opener: Some(Opener::from_seed(&[0xab; 32]).unwrap()),
            crew_key: PublicKey([3; 32]),
            manifest: b"{}".to_vec(),
        }
    }

    #[test]
    fn it_is_read_back_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        identity().save(dir.path()).unwrap();
        let read = Identity::load(dir.path()).unwrap();
        assert_eq!((read.name.as_str(), read.sign.public()), ("pi-1", identity().sign.public()));
        let path = dir.path().join(FILE);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        let error = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("640") && error.contains("identity.toml") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_shown() {
        let dir = tempfile::tempdir().unwrap();
        let error = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("identity.toml") && error.contains("crew init"), "{error}");
        identity().save(dir.path()).unwrap();
        for (from, to) in [("ab", "AB"), ("sign", "sing"), ("\"bee\"", "\"Bee\""), ("abab", "ab ab")] {
            let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
            files::write(&dir.path().join(FILE), Access::Private, text.replacen(from, to, 1).as_bytes()).unwrap();
            let error = Identity::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("identity.toml") && !error.to_lowercase().contains("abab"), "{error}");
            identity().save(dir.path()).unwrap();
        }
        files::write(&dir.path().join(CREW_KEY), Access::Public, b"key").unwrap();
        assert!(Identity::load(dir.path()).unwrap_err().to_string().contains("crew.pub"));
    }
}
