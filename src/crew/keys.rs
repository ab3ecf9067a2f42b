//! The crew's keys and its manifest: `beehive crew …`, on the crew's owner's machine.
//!
//! The folder has the crew's own key (`crew.key`), which signs the manifest, releases and the answers to nodes that enrol, and
//! nothing else, and never leaves that machine; the manifest (`manifest.json`); and a folder of an [`Identity`] for each node and user, to be copied to its
//! machine. Each change makes a new revision of the manifest and puts it into every folder. A running crew learns of it
//! when one of its members gets it: on the next start of the coordinator, which publishes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use beehive_mqtt::manifest::{Manifest, ManifestError, NodeEntry, UserEntry, UserRole};
use beehive_mqtt::sign::{PublicKey, SealKey};
use beehive_mqtt::{
    CrewName, EncodeError, MAX_NODES, NodeName, ProtocolVersion, Topic, UserName, decode, encode_in, verify,
};
use zeroize::Zeroizing;

use super::files::{self, Access};
use crate::keys::{Ed25519, Identity, IdentityError, Keyring, KeyringError, Opener, SealError, SignKey, Trust};

/// The file of the crew's own key.
pub(crate) const CREW_KEY: &str = "crew.key";

/// The file of the manifest.
const MANIFEST: &str = "manifest.json";

/// Why the crew's keys cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] io::Error),
    /// An identity cannot be written.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// There is a crew already.
    #[error("{path} has a crew's key already; nothing was changed. Another crew needs another folder", path = .0.display())]
    Exists(PathBuf),
    /// The key is none.
    #[error("{path} holds no key ({why}); restore it from your backup", path = .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The manifest is none, or this key did not sign it.
    #[error("{path}: {why}; restore it from your backup", path = .path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// What is asked cannot be.
    #[error("{0}")]
    Asked(String),
    /// The manifest cannot be written.
    #[error("{0}")]
    Encode(#[from] EncodeError),
    /// The manifest would not hold together.
    #[error("{0}")]
    Incoherent(#[from] ManifestError),
    /// A key cannot be used.
    #[error("{0}")]
    Seal(#[from] SealError),
    /// The keyring refuses what was just made.
    #[error("{0}")]
    Keyring(#[from] KeyringError),
    /// The system has no randomness.
    #[error("this system has no randomness: {0}")]
    Random(getrandom::Error),
}

/// What a new crew is to be.
#[derive(Debug, Clone)]
pub struct NewCrew {
    /// Its name.
    pub crew: CrewName,
    /// Its nodes; the first one coordinates.
    pub nodes: Vec<NodeName>,
    /// Its users.
    pub users: Vec<(UserName, UserRole)>,
}

/// A crew's keys, all of them, in memory.
#[derive(Debug)]
pub struct CrewKeys {
    key: SignKey,
    manifest: Manifest,
    nodes: Vec<(NodeName, SignKey, Opener)>,
    users: Vec<(UserName, SignKey)>,
}

fn random() -> Result<Zeroizing<[u8; 32]>, CrewError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut()).map_err(CrewError::Random)?;
    Ok(bytes)
}

fn new_sign_key() -> Result<SignKey, CrewError> {
    Ok(SignKey::from_seed(&*random()?))
}

fn full(what: &str, most: usize) -> CrewError {
    CrewError::Asked(format!("a crew has {most} {what} at most"))
}

impl CrewKeys {
    /// Makes all keys anew.
    ///
    /// # Errors
    /// If there are no nodes, too many of something, or no randomness.
    pub fn generate(new: &NewCrew) -> Result<Self, CrewError> {
        let Some(first) = new.nodes.first() else {
            return Err(CrewError::Asked("a crew has at least one node, its master".to_owned()));
        };
        let mut keys = Self {
            key: new_sign_key()?,
            manifest: Manifest {
                crew: new.crew.clone(),
                revision: 1,
                term: 1,
                coordinator: first.clone(),
                nodes: heapless::Vec::new(),
                users: heapless::Vec::new(),
            },
            nodes: Vec::new(),
            users: Vec::new(),
        };
        for node in &new.nodes {
            keys.put_node(node)?;
        }
        for (user, role) in &new.users {
            keys.put_user(user, *role)?;
        }
        keys.manifest.check()?;
        Ok(keys)
    }

    /// New keys for a node, which is new or has other ones.
    fn put_node(&mut self, name: &NodeName) -> Result<(), CrewError> {
        let (sign, opener) = (new_sign_key()?, Opener::from_seed(&*random()?)?);
        let entry = NodeEntry { name: name.clone(), sign: sign.public(), seal: opener.public() };
        match self.manifest.nodes.iter_mut().find(|node| node.name == *name) {
            Some(known) => *known = entry,
            None => self.manifest.nodes.push(entry).map_err(|_| full("nodes", MAX_NODES))?,
        }
        self.nodes.retain(|(known, _, _)| known != name);
        self.nodes.push((name.clone(), sign, opener));
        Ok(())
    }

    /// A new key for a user, who is new or has another one.
    fn put_user(&mut self, name: &UserName, role: UserRole) -> Result<(), CrewError> {
        let sign = new_sign_key()?;
        let entry = UserEntry { name: name.clone(), role, sign: sign.public() };
        match self.manifest.users.iter_mut().find(|user| user.name == *name) {
            Some(known) => *known = entry,
            None => {
                let most = beehive_mqtt::manifest::MAX_USERS;
                self.manifest.users.push(entry).map_err(|_| full("users", most))?;
            }
        }
        self.users.retain(|(known, _)| known != name);
        self.users.push((name.clone(), sign));
        Ok(())
    }

    fn signed(&self) -> Result<Vec<u8>, CrewError> {
        // it is kept and passed on for years, by and to programs that nobody has heard when it is signed
        let name = Topic::Manifest.name(&self.manifest.crew);
        Ok(encode_in(ProtocolVersion::BEFORE, &self.manifest, &name, &self.key)?)
    }

    fn identity(&self, name: &str, sign: &SignKey, opener: Option<&Opener>) -> Result<Identity, CrewError> {
        Ok(Identity {
            crew: self.manifest.crew.clone(),
            name: name.to_owned(),
            sign: SignKey::from_seed(&sign.seed()),
            opener: opener.map(|opener| Opener::from_seed(&opener.seed())).transpose()?,
            crew_key: self.key.public(),
            manifest: self.signed()?,
        })
    }

    /// A node's identity.
    ///
    /// # Errors
    /// If its keys are not here.
    pub fn node(&self, name: &NodeName) -> Result<Identity, CrewError> {
        let found = self.nodes.iter().find(|(known, _, _)| known == name);
        let (_, sign, opener) = found.ok_or_else(|| CrewError::Asked(format!("there is no node {name}")))?;
        self.identity(name.as_str(), sign, Some(opener))
    }

    /// A user's identity.
    ///
    /// # Errors
    /// If its key is not here.
    pub fn user(&self, name: &UserName) -> Result<Identity, CrewError> {
        let found = self.users.iter().find(|(known, _)| known == name);
        let (_, sign) = found.ok_or_else(|| CrewError::Asked(format!("there is no user {name}")))?;
        self.identity(name.as_str(), sign, None)
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// A change of a crew.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new node, or new keys for one.
    Node(NodeName),
    /// A node has made its own keys: these.
    Enrol(NodeName, PublicKey, SealKey),
    /// A new user, or a new key for one.
    User(UserName, UserRole),
    /// A node or user that is a member no more.
    Revoke(String),
    /// Another coordinator, or the same with a new term.
    Grant(NodeName),
    /// The coordinator's card is lost and may come back: this node coordinates in a new term, and the lost card's keys
    /// count no more.
    Replace(NodeName),
}

/// The crew's folder.
#[derive(Debug, Clone)]
pub struct KeyFolder(PathBuf);

impl KeyFolder {
    /// The folder at `root`.
    pub fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Makes a crew.
    ///
    /// # Errors
    /// If there is one already, or it cannot be made.
    pub fn init(&self, new: &NewCrew) -> Result<CrewKeys, CrewError> {
        let path = self.0.join(CREW_KEY);
        if path.exists() {
            return Err(CrewError::Exists(path));
        }
        let keys = CrewKeys::generate(new)?;
        fs::create_dir_all(&self.0)?;
        self.write(&keys)?;
        // last: as long as it is not there, nothing has happened
        let seed = Zeroizing::new(PublicKey(*keys.key.seed()).to_string());
        files::write(&path, Access::Private, format!("{}\n", seed.as_str()).as_bytes())?;
        Ok(keys)
    }

    fn load(&self) -> Result<CrewKeys, CrewError> {
        let path = self.0.join(CREW_KEY);
        let text = Zeroizing::new(files::read(&path)?);
        let seed: PublicKey = text
            .trim()
            .parse()
            .map_err(|_| CrewError::Key { path: path.clone(), why: "not 64 lower-case hexadecimal digits" })?;
        let key = SignKey::from_seed(&Zeroizing::new(seed.0));
        let path = self.0.join(MANIFEST);
        let signed = files::read(&path)?;
        let wrong = |why: String| CrewError::Manifest { path: path.clone(), why };
        let manifest: Manifest = decode(signed.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let topic = Topic::Manifest.name(&manifest.crew);
        let public = key.public();
        verify(signed.as_bytes(), &topic, |id, message, signature| {
            use beehive_mqtt::sign::{Distrust, Verdict, Verifier};
            match (id == public.id(), Ed25519.verify(&public, message, signature)) {
                (true, Verdict::Good) => Ok(()),
                (true, Verdict::Bad) => Err(Distrust::Forged),
                (false, _) => Err(Distrust::WrongKey),
            }
        })
        .map_err(|error| wrong(error.to_string()))?;
        Ok(CrewKeys { key, manifest, nodes: Vec::new(), users: Vec::new() })
    }

    /// The manifest as it is signed, checked with the crew's key.
    ///
    /// # Errors
    /// If there is no crew here, or the manifest is not right.
    pub fn signed_manifest(&self) -> Result<Vec<u8>, CrewError> {
        self.load()?.signed()
    }

    /// The manifest, checked with the crew's key.
    ///
    /// # Errors
    /// If there is no crew here, or the manifest is not right.
    pub fn manifest(&self) -> Result<Manifest, CrewError> {
        Ok(self.load()?.manifest)
    }

    /// The crew, and its own key to sign a release or the answer to a node's enrolment with.
    ///
    /// # Errors
    /// If there is no crew here, or the manifest is not right.
    pub fn signer(&self) -> Result<(CrewName, SignKey), CrewError> {
        let CrewKeys { key, manifest, .. } = self.load()?;
        Ok((manifest.crew, key))
    }

    /// Changes the crew, with a new revision of its manifest.
    ///
    /// # Errors
    /// If the change cannot be; nothing is changed then.
    pub fn change(&self, change: &Change) -> Result<Manifest, CrewError> {
        let mut keys = self.load()?;
        keys.manifest.revision += 1;
        match change {
            Change::Node(node) => keys.put_node(node)?,
            Change::Enrol(node, sign, seal) => {
                let Some(entry) = keys.manifest.nodes.iter_mut().find(|entry| entry.name == *node) else {
                    return Err(CrewError::Asked(format!(
                        "{node} is no node of this crew; add it first: `beehive crew add-node {node}`"
                    )));
                };
                if (entry.sign, entry.seal) == (*sign, *seal) {
                    keys.manifest.revision -= 1;
                    return Ok(keys.manifest);
                }
                (entry.sign, entry.seal) = (*sign, *seal);
                // the ones that were made here are nobody's any more
                files::remove(&self.0.join("nodes").join(node.as_str()).join(crate::keys::FILE))?;
            }
            Change::User(user, role) => keys.put_user(user, *role)?,
            Change::Revoke(name) => {
                if keys.manifest.coordinator.as_str() == name {
                    return Err(CrewError::Asked(format!(
                        "{name} coordinates this crew; grant that to another node first: `beehive crew grant-coordinator`"
                    )));
                }
                let before = (keys.manifest.nodes.len(), keys.manifest.users.len());
                keys.manifest.nodes.retain(|node| node.name.as_str() != name);
                keys.manifest.users.retain(|user| user.name.as_str() != name);
                if before == (keys.manifest.nodes.len(), keys.manifest.users.len()) {
                    return Err(CrewError::Asked(format!("there is no node and no user {name} in this crew")));
                }
            }
            Change::Grant(node) => {
                if keys.manifest.node(node).is_none() {
                    return Err(CrewError::Asked(format!("{node} is no node of this crew; add it first")));
                }
                keys.manifest.term += 1;
                keys.manifest.coordinator = node.clone();
            }
            Change::Replace(node) => {
                if keys.manifest.node(node).is_none() {
                    return Err(CrewError::Asked(format!(
                        "{node} is no node of this crew; add it first: `beehive crew add-node {node}`"
                    )));
                }
                let lost = keys.manifest.coordinator.clone();
                keys.put_node(&lost)?;
                keys.manifest.term += 1;
                keys.manifest.coordinator = node.clone();
            }
        }
        keys.manifest.check()?;
        self.write(&keys)?;
        Ok(keys.manifest)
    }

    /// Writes what is new: identities whose keys are here, and the manifest into every folder. The crew's own manifest comes
    /// last, so that what is cut short is done again.
    fn write(&self, keys: &CrewKeys) -> Result<(), CrewError> {
        for (name, _, _) in &keys.nodes {
            keys.node(name)?.save(&self.0.join("nodes").join(name.as_str()))?;
        }
        for (name, _) in &keys.users {
            keys.user(name)?.save(&self.0.join("operators").join(name.as_str()))?;
        }
        let signed = keys.signed()?;
        for (kind, names) in [
            ("nodes", keys.manifest.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>()),
            ("operators", keys.manifest.users.iter().map(|user| user.name.as_str()).collect()),
        ] {
            for name in names {
                files::write(&self.0.join(kind).join(name).join(MANIFEST), Access::Public, &signed)?;
            }
        }
        files::write(&self.0.join(MANIFEST), Access::Public, &signed)?;
        Ok(())
    }
}

impl Identity {
    /// Our key, and whom we believe.
    ///
    /// # Errors
    /// If the manifest is not right.
    pub fn trust(&self, store: Option<crate::store::Store>) -> Result<Trust, KeyringError> {
        Ok(Trust {
            signer: std::sync::Arc::new(SignKey::from_seed(&self.sign.seed())),
            keyring: Keyring::open(&self.crew, self.crew_key, &self.manifest, store)?,
            // the same bytes made the one that we have
            opener: self
                .opener
                .as_ref()
                .and_then(|opener| Opener::from_seed(&opener.seed()).ok())
                .map(std::sync::Arc::new),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> NewCrew {
        NewCrew {
            crew: "bee".parse().unwrap(),
            nodes: vec!["pi-1".parse().unwrap(), "pi-2".parse().unwrap()],
            users: vec![("ada".parse().unwrap(), UserRole::Operator)],
        }
    }

    #[test]
    fn a_crew_is_made_once_and_changed_by_new_revisions() {
        let dir = tempfile::tempdir().unwrap();
        let folder = KeyFolder::new(dir.path());
        folder.init(&new()).unwrap();
        assert!(matches!(folder.init(&new()), Err(CrewError::Exists(_))));
        let node = |name: &str| Identity::load(&dir.path().join("nodes").join(name)).unwrap();
        let before = node("pi-2");
        let trust = before.trust(None).unwrap();
        assert_eq!(trust.keyring.term(), (1, "pi-1".parse().unwrap()));

        // rotation: other keys under the same name; whoever has the old manifest takes the new one
        let manifest = folder.change(&Change::Node("pi-2".parse().unwrap())).unwrap();
        assert_eq!(manifest.revision, 2);
        assert_ne!(node("pi-2").sign.public(), before.sign.public());
        assert_eq!(trust.keyring.offer(&node("pi-1").manifest).unwrap(), crate::keys::Changed::Manifest);
        assert_eq!(trust.keyring.offer(&node("pi-1").manifest).unwrap(), crate::keys::Changed::Nothing);
        // the older one comes back: refused
        assert!(matches!(trust.keyring.offer(&before.manifest), Err(KeyringError::Succession(ManifestError::Older))));

        let manifest = folder.change(&Change::Grant("pi-2".parse().unwrap())).unwrap();
        assert_eq!((manifest.term, manifest.coordinator.as_str()), (2, "pi-2"));
        assert!(folder.change(&Change::Revoke("pi-2".into())).unwrap_err().to_string().contains("coordinates"));
        folder.change(&Change::Revoke("pi-1".into())).unwrap();
        folder.change(&Change::Revoke("ada".into())).unwrap();
        assert!(folder.change(&Change::Revoke("ada".into())).unwrap_err().to_string().contains("no node and no user"));
        assert!(folder.change(&Change::Grant("pi-9".parse().unwrap())).unwrap_err().to_string().contains("pi-9"));
        assert!(folder.change(&Change::Replace("pi-9".parse().unwrap())).unwrap_err().to_string().contains("pi-9"));
        // the card of the coordinator is lost: a new term, new keys, and nobody else's change
        let (lost, manifest) =
            (node("pi-2").sign.public(), folder.change(&Change::Replace("pi-2".parse().unwrap())).unwrap());
        assert_eq!((manifest.revision, manifest.term, manifest.coordinator.as_str()), (6, 3, "pi-2"));
        assert_ne!(node("pi-2").sign.public(), lost);
        assert_eq!(manifest.nodes[0].sign, node("pi-2").sign.public());
        let last = folder.change(&Change::User("bob".parse().unwrap(), UserRole::ReadOnly)).unwrap();
        assert_eq!((last.revision, last.nodes.len(), last.users.len()), (7, 1, 1));
    }

    #[test]
    fn another_crews_key_signs_nothing_here() {
        let (ours, theirs) = (CrewKeys::generate(&new()).unwrap(), CrewKeys::generate(&new()).unwrap());
        let ours = ours.node(&"pi-1".parse().unwrap()).unwrap().trust(None).unwrap();
        let theirs = theirs.node(&"pi-1".parse().unwrap()).unwrap();
        assert!(matches!(ours.keyring.offer(&theirs.manifest), Err(KeyringError::Message(_))));
    }

    #[test]
    fn a_newer_manifest_is_kept_over_a_restart_and_an_older_one_on_the_card_does_not_undo_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = KeyFolder::new(dir.path());
        let keys = folder.init(&new()).unwrap();
        let identity = keys.node(&"pi-1".parse().unwrap()).unwrap();
        let state = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(state.path()).unwrap();
        let trust = identity.trust(Some(store.clone())).unwrap();
        folder.change(&Change::Grant("pi-2".parse().unwrap())).unwrap();
        let newer = fs::read(dir.path().join(MANIFEST)).unwrap();
        trust.keyring.offer(&newer).unwrap();
        let again = identity.trust(Some(store)).unwrap();
        assert_eq!(again.keyring.term(), (2, "pi-2".parse().unwrap()));
    }
}
