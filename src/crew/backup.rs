//! `beehive crew backup` and `restore`: what the coordinator knows, in one file, for the day on which the master's card dies.
//!
//! In it: the coordinator's record (cluster, operations, answers, the number of its session), its audit log, the agent's
//! start number, what the simulated engine keeps, and the manifest of that time. **No key**: those of every node are in the
//! crew's folder, which the owner keeps, and a lost master gets new ones (`beehive crew master replace`). Not in it either:
//! the node's own record, whose half-done command or shutdown has no meaning on another card.
//!
//! A file is one header line and a JSON document; both checks cover the document:
//! ```text
//! beehive-backup 1 bytes 20 sha256 9f86… sig 5d6c…
//! {"version":"0.1.0", …}
//! ```
//! The checksum tells damage. The signature is that of the coordinator that the manifest inside names, and that manifest is
//! signed by the crew's key, which the new card knows: a file of another crew, or one that somebody has edited, is refused.
//!
//! What is put back is old by definition. So whatever was under way is called off, and the start number goes on far above
//! the old one: a last will of the lost card must not count for more than what the new one says.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use beehive_cluster::coordinator::CoordinatorRecord;
use beehive_mqtt::manifest::{Manifest, ManifestError};
use beehive_mqtt::node::Role;
use beehive_mqtt::sign::{RecordHash, Signature, Verdict, Verifier as _};
use beehive_mqtt::{CrewName, NodeName, Signer as _, Text, Topic};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::{self, Access};
use crate::config::Config;
use crate::keys::{Ed25519, Identity, IdentityError, Keyring, Standing};
use crate::store::{Store, StoreError};
use crate::{agent, audit, coordinator, engine, kube};

/// The version of the header and of what the document has.
const FORMAT: u32 = 1;

/// The longest header: numbers, two hashes and their names.
const MAX_HEADER_BYTES: usize = 512;

/// The longest file: a full audit log, escaped, is some 12 MiB, and the records are below 1 MiB each.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What the signature covers before the document, so that it holds for nothing else.
const DOMAIN: &str = "beehive backup 1";

/// How far the start number goes on above the one in the backup: more starts than a Pi has between two backups.
const STARTS_SINCE: u32 = 100_000;

/// The documents of the store that are taken along.
const DOCUMENTS: [&str; 5] =
    [coordinator::RECORD, agent::START, engine::simulated::FILE, kube::simulated::FILE, kube::simulated::SNAPSHOT_FILE];

/// Why nothing was backed up or put back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] io::Error),
    /// The keys on this card are not right.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// A manifest is not right.
    #[error("the manifest in {place}: {why}; copy this node's folder of the crew's folder there again", place = .place.display())]
    Manifest {
        /// The folder.
        place: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The store refuses.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// There is a file of that name.
    #[error("{path} is there already and was left as it is; name another file, or move it away", path = .0.display())]
    Exists(PathBuf),
    /// This node has nothing to back up.
    #[error("there is nothing to back up here: {0}. Run it on the node that coordinates")]
    Nothing(String),
    /// The file is damaged.
    #[error("{path} is damaged: {why}; nothing was put back. Take another copy of it, or an older one", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Of another format.
    #[error(
        "{path} is of backup format {found}, and this program knows format {FORMAT}; install the version of beehive that wrote \
         it. Nothing was put back",
        path = .path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that it names.
        found: u32,
    },
    /// It is whole, but not for this card.
    #[error("{path} is not for this card: {why}. Nothing was put back", path = .path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The state folder is in use.
    #[error(
        "{path} has something in it ({found}), so this card is in use or was: nothing was put back. Is the daemon running? Stop \
         it (`systemctl stop beehive`) and move the folder away if this card really is to begin with the backup",
        path = .path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
}

/// What is in a backup.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    /// The version of beehive that wrote it.
    version: String,
    crew: CrewName,
    node: NodeName,
    /// As the crew's key signed it.
    manifest: String,
    documents: BTreeMap<String, Value>,
    /// The files of the audit log.
    audit: BTreeMap<String, String>,
}

fn signed(document: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DOMAIN.len() + document.len() + 8);
    for part in [DOMAIN.as_bytes(), document] {
        // far below 4 GiB
        bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

/// The file's bytes.
fn compose(backup: &Backup, identity: &Identity) -> io::Result<Vec<u8>> {
    let document = serde_json::to_vec(backup)?;
    let (hash, sig) = (RecordHash::of(&document), identity.sign.sign(&signed(&document)));
    let mut bytes = format!("beehive-backup {FORMAT} bytes {} sha256 {hash} sig {sig}\n", document.len()).into_bytes();
    bytes.extend(document);
    Ok(bytes)
}

/// A file that was read: it is whole, and who signed it is not looked at yet.
struct Whole {
    backup: Backup,
    document: Vec<u8>,
    signature: Signature,
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Whole, BackupError> {
    let damaged = |why: &str| BackupError::Damaged { path: path.to_owned(), why: why.to_owned() };
    let end = bytes.iter().take(MAX_HEADER_BYTES).position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| damaged("its first line does not end, so it is no backup"))?;
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| damaged("its first line is no text"))?;
    let mut words = line.split(' ');
    if words.next() != Some("beehive-backup") {
        return Err(damaged("it does not begin with \"beehive-backup\", so it is no backup"));
    }
    match words.next().and_then(|word| word.parse::<u32>().ok()) {
        None => return Err(damaged("its first line names no format")),
        Some(FORMAT) => {}
        Some(found) => return Err(BackupError::Format { path: path.to_owned(), found }),
    }
    let mut field = |name: &str| (words.next() == Some(name)).then(|| words.next()).flatten();
    let length = field("bytes").and_then(|word| word.parse::<usize>().ok());
    let hash = field("sha256").and_then(|word| word.parse::<RecordHash>().ok());
    let signature = field("sig").and_then(|word| word.parse::<Signature>().ok());
    let (Some(length), Some(hash), Some(signature)) = (length, hash, signature) else {
        return Err(damaged("its first line is incomplete"));
    };
    let document = &bytes[end + 1..];
    if document.len() != length {
        return Err(damaged(&format!("it holds {} of {length} bytes", document.len())));
    }
    if RecordHash::of(document) != hash {
        return Err(damaged("its checksum is wrong"));
    }
    let backup = serde_json::from_slice(document).map_err(|error| {
        damaged(&format!("it is whole, but cannot be read ({error}): another version may have written it"))
    })?;
    Ok(Whole { backup, document: document.to_vec(), signature })
}

/// Writes what the coordinator of this machine knows into `to`, and says what was done. The daemon may run: each document
/// is read whole, and the audit log after them.
///
/// # Errors
/// If this machine's node does not coordinate, something cannot be read, or `to` is there.
pub fn back_up(config: &Config, to: &Path) -> Result<String, BackupError> {
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let state = &config.state_dir;
    // opening a store makes its folder
    if !state.is_dir() {
        return Err(BackupError::Nothing(format!("the state folder {} is not there", state.display())));
    }
    let identity = Identity::load(&config.keys.dir)?;
    let store = Store::open(state)?;
    let keyring = Keyring::open(&identity.crew, identity.crew_key, &identity.manifest, Some(store.clone()))
        .map_err(|error| BackupError::Manifest { place: config.keys.dir.clone(), why: error.to_string() })?;
    let (term, coordinator) = keyring.term();
    match keyring.standing(&Topic::CoordinatorPresence, &identity.sign.public()) {
        Standing::Writer => {}
        Standing::Replaced | Standing::Vacant => {
            let why = format!("{coordinator} coordinates crew {}, with another key than this card's", identity.crew);
            return Err(BackupError::Nothing(why));
        }
    }
    let mut documents = BTreeMap::new();
    for name in DOCUMENTS {
        if let Some(document) = store.load::<Value>(name)? {
            documents.insert(name.to_owned(), document);
        }
    }
    if !documents.contains_key(coordinator::RECORD) {
        return Err(BackupError::Nothing(format!("{} has no coordinator's record", state.display())));
    }
    let audit = audit::copy(&state.join(audit::FOLDER))?;
    let backup = Backup {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        crew: identity.crew.clone(),
        node: config.node.clone(),
        manifest: String::from_utf8_lossy(&keyring.signed_manifest()).into_owned(),
        documents,
        audit,
    };
    let bytes = compose(&backup, &identity)?;
    match files::write_new(to, Access::Private, &bytes) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(BackupError::Exists(to.to_owned())),
        written => written?,
    }
    Ok(format!(
        "{}: what {} knows as coordinator of crew {} in term {term}: {} documents, {} files of the audit log.\nNo key is in it: \
         those are in the crew's folder. Keep it off this Pi; `beehive crew restore` puts it back onto another card\n",
        to.display(),
        config.node,
        identity.crew,
        backup.documents.len(),
        backup.audit.len(),
    ))
}

/// Puts the backup in the file `from` onto this card, and says what was done. All of it is there afterwards, or nothing.
///
/// # Errors
/// If the file is damaged or not for this card, or the card's state folder is in use.
pub fn restore(config: &Config, from: &Path) -> Result<String, BackupError> {
    // before the file: the most likely mistake, and the worst one
    must_be_empty(&config.state_dir)?;
    let Whole { backup, document, signature } = parse(from, &read(from)?)?;
    let identity = Identity::load(&config.keys.dir)?;
    let then = believed(config, &identity, from, &backup, &document, &signature)?;
    let in_place = put_back(config, from, &backup)?;
    let lost = then.node(&then.coordinator).map(|node| node.sign);
    let same_key = if lost == Some(identity.sign.public()) {
        "This card has the lost one's keys: if that one may come back, `beehive crew master replace` first, and begin again.\n"
    } else {
        ""
    };
    Ok(format!(
        "{}: what {} knew as coordinator of crew {} in term {} (beehive {}) is in {}. {}\n{same_key}Next: start the daemon \
         (`systemctl start beehive`), and see `beehive status`. Consoles that have seen more of the audit log than was saved \
         raise an alarm: docs/master-replace.md\n",
        from.display(),
        backup.node,
        backup.crew,
        then.term,
        backup.version,
        config.state_dir.display(),
        match in_place.called_off {
            0 => "Nothing was under way.".to_owned(),
            count => format!(
                "What was under way then is called off ({count}): what came of it is not known, and who wants it asks again."
            ),
        },
    ))
}

fn must_be_empty(state: &Path) -> Result<(), BackupError> {
    let mut entries = match fs::read_dir(state) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(files::named(state, "read", &error).into()),
        Ok(entries) => entries,
    };
    match entries.next() {
        None => Ok(()),
        Some(entry) => {
            let found =
                entry.map_or_else(|error| error.to_string(), |entry| entry.file_name().to_string_lossy().into_owned());
            Err(BackupError::InUse { path: state.to_owned(), found })
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| files::named(path, "read", &error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let error = io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {MAX_FILE_BYTES} bytes"));
        return Err(files::named(path, "read", &error));
    }
    Ok(bytes)
}

/// The manifest of the time of the backup, if the backup is of this crew and this node's, and may come before what this
/// card has.
fn believed(
    config: &Config,
    identity: &Identity,
    path: &Path,
    backup: &Backup,
    document: &[u8],
    signature: &Signature,
) -> Result<Manifest, BackupError> {
    let not_ours = |why: String| BackupError::NotOurs { path: path.to_owned(), why };
    let keys = config.keys.dir.display();
    if identity.crew != config.crew || identity.name != config.node.as_str() {
        let (crew, name) = (&identity.crew, &identity.name);
        return Err(not_ours(format!(
            "the keys in {keys} are of {name} in crew {crew}; copy those of {}",
            config.node
        )));
    }
    if backup.crew != config.crew {
        return Err(not_ours(format!("it is of crew {}, and this card is of crew {}", backup.crew, config.crew)));
    }
    let then = Keyring::open(&identity.crew, identity.crew_key, backup.manifest.as_bytes(), None).map_err(|error| {
        not_ours(format!("it is of another crew than this card's keys, although the name is the same ({error})"))
    })?;
    let then = then.manifest();
    let writer = then.node(&then.coordinator).filter(|node| node.name == backup.node).map(|node| node.sign);
    match writer.map(|key| Ed25519.verify(&key, &signed(document), signature)) {
        Some(Verdict::Good) => {}
        Some(Verdict::Bad) | None => {
            return Err(not_ours("the coordinator that it names did not sign it: somebody has altered it".to_owned()));
        }
    }
    if backup.node != config.node {
        return Err(not_ours(format!(
            "it is of node {}, and this card is {}'s; another node begins without a backup (`beehive cluster rebuild` makes \
             the cluster anew)",
            backup.node, config.node
        )));
    }
    match config.role {
        Role::Master => {}
        Role::Node => {
            return Err(not_ours("this card's configuration does not say role = \"master\"".to_owned()));
        }
    }
    let now = Keyring::open(&identity.crew, identity.crew_key, &identity.manifest, None)
        .map_err(|error| BackupError::Manifest { place: config.keys.dir.clone(), why: error.to_string() })?;
    match then.followed_by(&now.manifest()) {
        Ok(_) => {}
        Err(ManifestError::Older) => {
            return Err(not_ours(format!(
                "the keys in {keys} are older than it (revision {}, and {} when it was made); copy nodes/{} of the crew's \
                 folder there again",
                now.manifest().revision,
                then.revision,
                config.node
            )));
        }
        Err(error) => return Err(not_ours(format!("{error} (the one in {keys})"))),
    }
    let (_, coordinator) = now.term();
    match now.standing(&Topic::CoordinatorPresence, &identity.sign.public()) {
        Standing::Writer => Ok(then),
        Standing::Replaced | Standing::Vacant => Err(not_ours(format!(
            "the manifest in {keys} names {coordinator} as coordinator, with another key than the one there; `beehive crew \
             master replace {}` on the owner's machine, and copy nodes/{} of the crew's folder there again",
            config.node, config.node
        ))),
    }
}

/// What was put back.
struct InPlace {
    /// How many operations were called off.
    called_off: usize,
}

/// Writes everything into a folder beside the state folder, and gives it that name at the end: a daemon that starts in the
/// middle finds nothing, and so does the next attempt after a power cut.
fn put_back(config: &Config, from: &Path, backup: &Backup) -> Result<InPlace, BackupError> {
    let damaged = |why: String| BackupError::Damaged { path: from.to_owned(), why };
    let state = &config.state_dir;
    let mut name = state.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    let beside = state.with_file_name(name);
    match fs::remove_dir_all(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(files::named(&beside, "remove", &error).into());
        }
        Ok(()) | Err(_) => {}
    }
    let store = Store::open(&beside)?;
    let mut called_off = 0;
    for (name, document) in &backup.documents {
        match name.as_str() {
            coordinator::RECORD => {
                let mut record: CoordinatorRecord =
                    serde_json::from_value(document.clone()).map_err(|error| damaged(format!("{name}: {error}")))?;
                called_off = record.operations.iter().filter(|operation| !operation.phase.is_final()).count();
                record.call_off(&Text::cut(
                    "the coordinator was put back from a backup: what has come of this is not known",
                ));
                store.save(name, &record)?;
            }
            agent::START => {
                let start: u32 =
                    serde_json::from_value(document.clone()).map_err(|error| damaged(format!("{name}: {error}")))?;
                store.save(name, &start.saturating_add(STARTS_SINCE))?;
            }
            known if DOCUMENTS.contains(&known) => store.save(name, document)?,
            other => return Err(damaged(format!("it has a document {other:?}, which this version does not know"))),
        }
    }
    let log = beside.join(audit::FOLDER);
    DirBuilder::new().mode(0o700).create(&log).map_err(|error| files::named(&log, "make", &error))?;
    for (name, text) in &backup.audit {
        if !audit::is_segment(name) {
            return Err(damaged(format!("it has a file {name:?} of the audit log, and none is called so")));
        }
        files::write(&log.join(name), Access::Private, text.as_bytes())?;
    }
    File::open(&beside).and_then(|dir| dir.sync_all()).map_err(|error| files::named(&beside, "sync", &error))?;
    // takes the place of an empty folder, and of no other
    fs::rename(&beside, state).map_err(|error| files::named(state, "put everything in place at", &error))?;
    if let Some(parent) = state.parent() {
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(|error| files::named(parent, "sync", &error))?;
    }
    Ok(InPlace { called_off })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::keys::{Change, KeyFolder, NewCrew};
    use beehive_cluster::coordinator::{Operation, Scope, Step};
    use beehive_cluster::plan::Weight;
    use beehive_mqtt::coordinator::{OperationKind, OperationPhase, StepKind, StepState};
    use std::os::unix::fs::PermissionsExt as _;

    struct Card {
        dir: tempfile::TempDir,
        folder: KeyFolder,
    }

    impl Card {
        /// A crew's folder, and its master's card with a rebuild under way.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let folder = KeyFolder::new(&dir.path().join("crew"));
            let nodes = ["pi-1", "pi-2"].map(|node| node.parse().unwrap()).to_vec();
            folder.init(&NewCrew { crew: "bee".parse().unwrap(), nodes, users: Vec::new() }).unwrap();
            let card = Self { dir, folder };
            let store = Store::open(&card.config("old").state_dir).unwrap();
            let step = Step {
                kind: StepKind::Reset,
                node: "pi-2".parse().unwrap(),
                stage: 1,
                weight: Weight::Essential,
                state: StepState::Running,
                attempt: 1,
                reason: Text::new(),
                boot_before: None,
                nonce: None,
            };
            let rebuild = Operation {
                id: "op-1".parse().unwrap(),
                kind: OperationKind::Rebuild,
                node: None,
                scope: Scope::Exclusive,
                phase: OperationPhase::Running,
                revision: 3,
                requested_by: Text::cut("user:ann"),
                version: Text::new(),
                heeds: beehive_cluster::coordinator::Heeds::Blockers,
                request: None,
                steps: vec![step],
            };
            let record =
                CoordinatorRecord { term: 1, session: 7, operations: vec![rebuild], ..CoordinatorRecord::default() };
            store.save(coordinator::RECORD, &record).unwrap();
            store.save(agent::START, &41_u32).unwrap();
            store.save("node", &"stays").unwrap();
            let log = store.dir().join(audit::FOLDER);
            fs::create_dir(&log).unwrap();
            fs::write(log.join("audit-000001.jsonl"), "{\"one\":1}\n{\"two\":2}\n{\"thr").unwrap();
            card
        }

        fn config(&self, state: &str) -> Config {
            self.config_of("pi-1", state)
        }

        fn config_of(&self, node: &str, state: &str) -> Config {
            let path = |name: &str| self.dir.path().join(name).display().to_string();
            let keys = self.dir.path().join("crew/nodes").join(node).display().to_string();
            let text = format!(
                "crew = \"bee\"\nnode = {node:?}\nrole = \"master\"\nstate_dir = {:?}\nrun_dir = {:?}\n[broker]\nhost = \
                 \"127.0.0.1\"\n[cluster]\nnodes = [\"pi-3\"]\n[keys]\ndir = {keys:?}\n",
                path(state),
                path("run")
            );
            Config::parse(&text, "test").unwrap()
        }

        fn file(&self) -> PathBuf {
            self.dir.path().join("backup")
        }

        fn backed_up() -> Self {
            let card = Self::new();
            back_up(&card.config("old"), &card.file()).unwrap();
            card
        }

        /// Why it is refused; nothing may have been left on the new card.
        fn refused(&self, config: &Config) -> String {
            let error = restore(config, &self.file()).unwrap_err().to_string();
            assert!(!config.state_dir.exists(), "{error}");
            error
        }
    }

    #[test]
    fn what_is_put_back_is_old_so_nothing_goes_on_and_the_start_number_is_far_above() {
        let card = Card::backed_up();
        let mode = fs::metadata(card.file()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{mode:o}");
        card.folder.change(&Change::Replace("pi-1".parse().unwrap())).unwrap();
        let config = card.config("new");
        // an empty folder is as good as none, and what an earlier attempt left is in nobody's way
        fs::create_dir(&config.state_dir).unwrap();
        fs::create_dir(card.dir.path().join("new.restoring")).unwrap();
        let said = restore(&config, &card.file()).unwrap();
        assert!(said.contains("called off (1)"), "{said}");
        let store = Store::open(&config.state_dir).unwrap();
        let record: CoordinatorRecord = store.load(coordinator::RECORD).unwrap().unwrap();
        assert_eq!(record.session, 7);
        assert_eq!(record.operations[0].phase, OperationPhase::Aborting);
        assert_eq!(record.operations[0].steps[0].state, StepState::Failed);
        assert_eq!(store.counter(agent::START).unwrap(), 41 + STARTS_SINCE + 1);
        assert_eq!(store.load::<String>("node").unwrap(), None, "the node's own record is not taken along");
        let log = fs::read_to_string(config.state_dir.join("audit/audit-000001.jsonl")).unwrap();
        assert_eq!(log, "{\"one\":1}\n{\"two\":2}\n", "whole lines alone");
        // and not twice
        let error = restore(&config, &card.file()).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains("systemctl stop beehive"), "{error}");
    }

    #[test]
    fn no_file_is_overwritten_and_no_secret_is_in_it() {
        let card = Card::backed_up();
        let text = fs::read(card.file()).unwrap();
        let error = back_up(&card.config("old"), &card.file()).unwrap_err().to_string();
        assert!(error.contains("is there already"), "{error}");
        assert_eq!(fs::read(card.file()).unwrap(), text);
        let text = String::from_utf8(text).unwrap();
        let identity = fs::read_to_string(card.dir.path().join("crew/nodes/pi-1/identity.toml")).unwrap();
        let secrets: Vec<_> = identity.split('"').filter(|word| word.len() == 64).collect();
        assert_eq!(secrets.len(), 2);
        assert!(secrets.iter().all(|secret| !text.contains(secret)));
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_it_is_damaged() {
        let card = Card::backed_up();
        let (config, whole) = (card.config("new"), fs::read(card.file()).unwrap());
        for at in (0..whole.len()).step_by(7) {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            fs::write(card.file(), &altered).unwrap();
            card.refused(&config);
            fs::write(card.file(), &whole[..at]).unwrap();
            let error = card.refused(&config);
            assert!(error.contains("damaged"), "cut at {at}: {error}");
        }
        let later = String::from_utf8(whole).unwrap().replacen("beehive-backup 1", "beehive-backup 2", 1);
        fs::write(card.file(), later).unwrap();
        assert!(card.refused(&config).contains("format 2"));
    }

    #[test]
    fn a_file_that_somebody_has_edited_is_refused_although_its_checksum_is_right() {
        let card = Card::backed_up();
        let whole = String::from_utf8(fs::read(card.file()).unwrap()).unwrap();
        let (header, document) = whole.split_once('\n').unwrap();
        let edited = document.replacen("\"session\":7", "\"session\":8", 1);
        assert_ne!(edited, document);
        let (old, new) = (RecordHash::of(document.as_bytes()), RecordHash::of(edited.as_bytes()));
        let header = header.replace(&old.to_string(), &new.to_string());
        fs::write(card.file(), format!("{header}\n{edited}")).unwrap();
        assert!(card.refused(&card.config("new")).contains("altered"));
    }

    #[test]
    fn another_crews_another_nodes_and_an_earlier_cards_keys_are_refused() {
        let (card, other) = (Card::backed_up(), Card::new());
        fs::copy(card.file(), other.file()).unwrap();
        let error = other.refused(&other.config("new"));
        assert!(error.contains("another crew"), "{error}");

        let error = card.refused(&card.config_of("pi-2", "new"));
        assert!(error.contains("of node pi-1"), "{error}");

        // the keys on the new card are from before the last change that the old card knew of
        let keys = card.dir.path().join("crew/nodes/pi-1/manifest.json");
        let early = fs::read(&keys).unwrap();
        card.folder.change(&Change::Grant("pi-1".parse().unwrap())).unwrap();
        fs::remove_file(card.file()).unwrap();
        back_up(&card.config("old"), &card.file()).unwrap();
        fs::write(&keys, early).unwrap();
        let error = card.refused(&card.config("new"));
        assert!(error.contains("older") && error.contains("copy nodes/pi-1"), "{error}");
    }

    #[test]
    fn who_does_not_coordinate_has_nothing_to_back_up() {
        let card = Card::new();
        let to = card.file();
        let error = back_up(&card.config("nowhere"), &to).unwrap_err().to_string();
        assert!(error.contains("is not there") && !card.config("nowhere").state_dir.exists(), "{error}");
        let error = back_up(&card.config_of("pi-2", "old"), &to).unwrap_err().to_string();
        assert!(error.contains("pi-1 coordinates"), "{error}");
        fs::create_dir(card.dir.path().join("empty")).unwrap();
        let error = back_up(&card.config("empty"), &to).unwrap_err().to_string();
        assert!(error.contains("no coordinator's record"), "{error}");
        assert!(!to.exists());
    }
}
