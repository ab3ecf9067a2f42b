//! Where a daemon finds its keys. They are root's (`keys.dir` of the configuration), and the daemon is not: systemd reads them as
//! root and shows it copies in a folder of its own (`LoadCredential=` in `beehive.service`; systemd.exec(5), CREDENTIALS). A
//! daemon that was started without that reads the folder itself.
//!
//! The unit must start without keys too, so it gives a word in the place of each file that is missing ([`ABSENT`]).

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use beehive_mqtt::CrewName;

use super::identity::{FILE, Guard, Identity, IdentityError};
use crate::crew::files;
use crate::link::{Tls, TlsError};

/// What systemd calls the folder of a unit's credentials.
pub const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What the shipped unit gives in the place of a file that is missing (`SetCredential=`).
const ABSENT: &str = "absent";

/// The files of an identity that the broker wants.
const TLS_FILES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPlace {
    /// Where they are read.
    read: PathBuf,
    /// Where somebody would put them.
    kept: PathBuf,
    guard: Guard,
}

impl KeyPlace {
    /// The keys that are kept in `kept`. Credentials count where that is `usual`, the folder that the shipped unit reads, and
    /// the unit gives an identity.
    pub fn of(kept: &Path, usual: &Path, credentials: Option<OsString>) -> Self {
        let given = credentials.map(PathBuf::from).filter(|folder| kept == usual && folder.join(FILE).exists());
        match given {
            Some(read) => Self { read, kept: kept.to_owned(), guard: Guard::ServiceManager },
            None => Self { read: kept.to_owned(), kept: kept.to_owned(), guard: Guard::Mode },
        }
    }

    /// Where somebody puts the keys.
    pub fn kept(&self) -> &Path {
        &self.kept
    }

    /// Reads the identity.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        self.is_there(FILE)?;
        Identity::load_under(&self.read, self.guard)
    }

    /// Reads what the broker wants.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn tls(&self, crew: &CrewName) -> Result<Tls, TlsError> {
        for name in TLS_FILES {
            self.is_there(name)?;
        }
        Tls::load(&self.read, crew)
    }

    fn is_there(&self, name: &str) -> io::Result<()> {
        match self.guard {
            Guard::Mode => Ok(()),
            Guard::ServiceManager => match files::read(&self.read.join(name)) {
                Ok(text) if text == ABSENT => Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("there is no {} (or it came after this start)", self.kept.join(name).display()),
                )),
                Ok(_) | Err(_) => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::keys::{CrewKeys, NewCrew};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    const UNIT: &str = include_str!("../../hardware/rootfs/usr/lib/systemd/system/beehive.service");

    fn put_identity(dir: &Path) {
        let node: beehive_mqtt::NodeName = "bee-1".parse().unwrap();
        let crew = NewCrew { crew: "bee".parse().unwrap(), nodes: vec![node.clone()], users: Vec::new() };
        CrewKeys::generate(&crew).unwrap().node(&node).unwrap().save(dir).unwrap();
    }

    #[test]
    fn what_systemd_gives_counts_for_the_folder_that_it_reads() {
        let (kept, given) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = |usual: &Path| KeyPlace::of(kept.path(), usual, Some(given.path().into()));
        assert_eq!(place(kept.path()).guard, Guard::Mode, "a unit that gives something else alone");
        put_identity(given.path());
        assert_eq!(place(Path::new("/elsewhere")).read, kept.path());
        assert!(place(kept.path()).identity().is_ok());
        assert_eq!(KeyPlace::of(kept.path(), kept.path(), None).read, kept.path());
    }

    /// systemd may show who else may read by an access list, whose mask stands in the mode's bits of the group.
    #[test]
    fn the_mode_of_a_credential_is_systemds_and_that_of_a_file_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        put_identity(dir.path());
        fs::set_permissions(dir.path().join(FILE), fs::Permissions::from_mode(0o440)).unwrap();
        assert!(KeyPlace::of(dir.path(), dir.path(), Some(dir.path().into())).identity().is_ok());
        let error = KeyPlace::of(dir.path(), dir.path(), None).identity().unwrap_err();
        assert!(matches!(error, IdentityError::Exposed { .. }), "{error}");
    }

    #[test]
    fn the_word_for_a_missing_file_is_that_of_the_shipped_unit_and_names_the_folder() {
        let given = tempfile::tempdir().unwrap();
        for name in [FILE, "crew.pub", "manifest.json"].into_iter().chain(TLS_FILES) {
            assert!(UNIT.contains(&format!("\nLoadCredential={name}:/etc/beehive/identity/{name}\n")), "{name}");
            assert!(UNIT.contains(&format!("\nSetCredential={name}:{ABSENT}\n")), "{name}");
            fs::write(given.path().join(name), ABSENT).unwrap();
        }
        let usual = Path::new("/etc/beehive/identity");
        let place = KeyPlace::of(usual, usual, Some(given.path().into()));
        let error = place.identity().unwrap_err().to_string();
        assert!(error.contains("there is no /etc/beehive/identity/identity.toml"), "{error}");
        let error = place.tls(&"bee".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("there is no /etc/beehive/identity/ca.crt"), "{error}");
    }
}
