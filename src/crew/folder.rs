//! The crew's folder on an operator's machine: certificates of everybody whom the manifest names, and the broker's files.
//!
//! | place | what |
//! | --- | --- |
//! | `ca.key`, `ca.crt` | the authority that signs the broker's certificate; the key stays here |
//! | `nodes/<name>/`, `operators/<name>/` | `ca.crt`, `tls.crt`, `tls.key` beside the identity's other files; `tls.pub` instead of `tls.key` where the node made its key itself |
//! | `anchors/<node>/` | `ca.crt`, `ca.key`: what vouches for that node at the broker; the key stays here. `before.crt`: a certificate that was signed by itself and still counts |
//! | `broker.hosts` | names and addresses of the broker for other programs, one a line |
//! | `tools/<name>/` | the same for a program that signs nothing |
//! | `broker/` | what is copied to the broker's machine, for `beehive broker apply` there |
//!
//! Whoever is not in the manifest is left out of the broker's list, whatever folder is still there; who has a folder
//! under `tools/` is in it.

use super::broker::{Part, Plan, file};
use super::files::{self, Access};
use super::tls::{self, Anchor, Authority, CertificateError, Identity, Pair, PrivateKey};
use beehive_mqtt::sign::ClientKey;
use beehive_mqtt::{CrewName, NodeName, UserName};
use serde::Deserialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why the folder cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] io::Error),
    /// A certificate cannot be made.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    /// The manifest is none.
    #[error("{path} is not a crew's manifest ({why}); `beehive crew init` makes one")]
    Manifest {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Part of the folder is missing.
    #[error("{path} is missing; {hint}")]
    Missing {
        /// What.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
}

/// The public half of a key that is not here: `tls.pub` of a node, `broker.pub` of the broker.
const TLS_PUBLIC: &str = "tls.pub";
const BROKER_PUBLIC: &str = "broker.pub";

/// Names and addresses of the broker for other programs.
const HOSTS: &str = "broker.hosts";

/// A node's certificate that is signed by itself, of before it had an anchor.
const BEFORE: &str = "before.crt";

/// Of the manifest only what the broker has to know. Its signature is checked by those who act on it; whoever can change
/// this folder has the crew's key anyway.
#[derive(Debug, Deserialize)]
struct Manifest {
    crew: CrewName,
    coordinator: NodeName,
    nodes: Vec<Node>,
    users: Vec<User>,
}

#[derive(Debug, Deserialize)]
struct Node {
    name: NodeName,
}

#[derive(Debug, Deserialize)]
struct User {
    name: UserName,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    Operator,
    Bridge,
    ReadOnly,
}

#[derive(Debug, Deserialize)]
struct Envelope {
    body: String,
}

/// The crew's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    root: PathBuf,
}

/// What the broker's files are made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Where they will lie on the broker's machine.
    pub dir: PathBuf,
    /// The port.
    pub port: u16,
    /// Names and addresses by which other programs than beehive reach it; empty: those that it has.
    pub hosts: Vec<String>,
}

/// Whether somebody gets another certificate although there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renew {
    Yes,
    No,
}

/// The broker's files, without its key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerFiles {
    /// `beehive.conf`.
    pub config: String,
    /// `beehive.acl`.
    pub acl: String,
    /// `clients.crt`.
    pub clients: String,
    /// `broker.crt`.
    pub certificate: String,
}

/// The public key that a file names, if it is there.
fn public_key(path: &Path) -> Result<Option<ClientKey>, FolderError> {
    if !path.exists() {
        return Ok(None);
    }
    let wrong = |error: beehive_mqtt::sign::HexError| {
        let why = format!("{} {error}; remove it, and enrol its machine again", path.display());
        FolderError::File(io::Error::new(io::ErrorKind::InvalidData, why))
    };
    files::read(path)?.trim().parse().map(Some).map_err(wrong)
}

impl Folder {
    /// The folder at `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where the files of an identity are.
    pub fn of(&self, identity: &Identity) -> PathBuf {
        match identity {
            Identity::Node(node) => self.root.join("nodes").join(node.as_str()),
            Identity::User(user) => self.root.join("operators").join(user.as_str()),
            Identity::Tool(tool) => self.root.join("tools").join(tool.as_str()),
        }
    }

    /// Where the broker's files are.
    pub fn broker(&self) -> PathBuf {
        self.root.join("broker")
    }

    fn manifest(&self) -> Result<Manifest, FolderError> {
        let path = self.root.join("manifest.json");
        let text = files::read(&path)?;
        let wrong = |error: serde_json::Error| FolderError::Manifest { path: path.clone(), why: error.to_string() };
        let envelope: Envelope = serde_json::from_str(&text).map_err(wrong)?;
        serde_json::from_str(&envelope.body).map_err(wrong)
    }

    /// The nodes in the manifest: those that have keys.
    ///
    /// # Errors
    /// If the manifest cannot be read.
    pub fn nodes(&self) -> Result<Vec<NodeName>, FolderError> {
        Ok(self.manifest()?.nodes.into_iter().map(|node| node.name).collect())
    }

    fn tools(&self) -> Result<Vec<UserName>, FolderError> {
        let mut tools = Vec::new();
        let entries = match fs::read_dir(self.root.join("tools")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(tools),
            entries => entries?,
        };
        for entry in entries {
            // what has another kind of name was not made by beehive
            if let Some(tool) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                tools.push(tool);
            }
        }
        tools.sort();
        Ok(tools)
    }

    /// Who may connect: everybody in the manifest, and the tools.
    ///
    /// # Errors
    /// If the manifest cannot be read.
    pub fn plan(&self, site: &Site) -> Result<Plan, FolderError> {
        let Manifest { crew, coordinator, nodes, users } = self.manifest()?;
        let nodes = nodes.into_iter().map(
            |Node { name }| {
                if name == coordinator { Part::Master(name) } else { Part::Node(name) }
            },
        );
        let users = users.into_iter().map(|User { name, role }| match role {
            Role::Operator => Part::Operator(name),
            Role::Bridge => Part::Bridge(name),
            Role::ReadOnly => Part::Watcher(name),
        });
        let tools = self.tools()?.into_iter().map(Part::Tool);
        let parts = nodes.chain(users).chain(tools).collect();
        Ok(Plan { crew, port: site.port, dir: site.dir.clone(), parts })
    }

    /// Adds a tool; its certificate is made by [`Folder::write`].
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub fn add_tool(&self, tool: &UserName) -> Result<(), FolderError> {
        Ok(fs::create_dir_all(self.of(&Identity::Tool(tool.clone())))?)
    }

    /// Makes every certificate that is missing, new ones for `renew`, and the broker's files. The broker's own
    /// certificate is made anew where names for it are given.
    ///
    /// # Errors
    /// If something cannot be read or written.
    pub fn write(&self, site: &Site, renew: &[Identity]) -> Result<Plan, FolderError> {
        let plan = self.plan(site)?;
        let (authority, certificate) = self.authority(&plan.crew)?;
        let mut clients = String::new();
        for part in &plan.parts {
            let who = part.identity();
            let dir = self.of(&who);
            fs::create_dir_all(&dir)?;
            match &who {
                Identity::Node(node) => {
                    clients.push_str(&self.vouched(node, if renew.contains(&who) { Renew::Yes } else { Renew::No })?)
                }
                Identity::User(_) | Identity::Tool(_) => {
                    let path = dir.join("tls.crt");
                    if renew.contains(&who) || !path.exists() || !dir.join("tls.key").exists() {
                        let Pair { certificate, key } = tls::identity(&who)?;
                        // the key first: a certificate without its key would be taken for complete otherwise
                        files::write(&dir.join("tls.key"), Access::Private, key.expose().as_bytes())?;
                        files::write(&path, Access::Public, certificate.as_bytes())?;
                    }
                    clients.push_str(&files::read(&path)?);
                }
            }
            files::write(&dir.join("ca.crt"), Access::Public, certificate.as_bytes())?;
        }
        let dir = self.broker();
        fs::create_dir_all(&dir)?;
        if !site.hosts.is_empty() {
            files::write(&self.root.join(HOSTS), Access::Public, (site.hosts.join("\n") + "\n").as_bytes())?;
        }
        let own = dir.join(file::CERTIFICATE);
        match public_key(&dir.join(BROKER_PUBLIC))? {
            // the broker's machine made its key, and nobody else has it
            Some(key) if !site.hosts.is_empty() || !own.exists() => {
                files::write(&own, Access::Public, authority.broker_with(&key, &self.hosts()?)?.as_bytes())?;
            }
            Some(_) => {}
            None if !site.hosts.is_empty() || !own.exists() || !dir.join(file::KEY).exists() => {
                let Pair { certificate, key } = authority.broker(&self.hosts()?)?;
                files::write(&dir.join(file::KEY), Access::Private, key.expose().as_bytes())?;
                files::write(&own, Access::Public, certificate.as_bytes())?;
            }
            None => {}
        }
        files::write(&dir.join("ca.crt"), Access::Public, certificate.as_bytes())?;
        files::write(&dir.join(file::CLIENTS), Access::Public, clients.as_bytes())?;
        files::write(&dir.join(file::ACL), Access::Public, plan.acl().as_bytes())?;
        files::write(&dir.join(file::CONFIG), Access::Public, plan.config().as_bytes())?;
        Ok(plan)
    }

    fn anchors(&self, node: &NodeName) -> PathBuf {
        self.root.join("anchors").join(node.as_str())
    }

    /// What of the broker's list lets this node in; its certificate is made if there is none.
    fn vouched(&self, node: &NodeName, renew: Renew) -> Result<String, FolderError> {
        let (dir, anchors) = (self.of(&Identity::Node(node.clone())), self.anchors(node));
        let has_leaf = dir.join("tls.crt").exists() && (dir.join("tls.key").exists() || dir.join(TLS_PUBLIC).exists());
        match (renew, self.anchor(node)?) {
            // of before there were anchors: signed by itself
            (Renew::No, None) if has_leaf => return Ok(files::read(&dir.join("tls.crt"))?),
            (Renew::No, Some(_)) if has_leaf => {}
            (Renew::No, Some(anchor)) => self.leaf(node, &anchor)?,
            (Renew::No, None) | (Renew::Yes, _) => {
                // what is without a certificate is made again, whatever an interruption leaves
                files::remove(&dir.join("tls.crt"))?;
                files::remove(&anchors.join(BEFORE))?;
                let anchor = self.new_anchor(node)?;
                self.leaf(node, &anchor)?;
            }
        }
        let before = anchors.join(BEFORE);
        let before = if before.exists() { files::read(&before)? } else { String::new() };
        Ok(files::read(&anchors.join("ca.crt"))? + &before)
    }

    fn anchor(&self, node: &NodeName) -> Result<Option<Anchor>, FolderError> {
        let dir = self.anchors(node);
        if !dir.join("ca.crt").exists() || !dir.join("ca.key").exists() {
            return Ok(None);
        }
        Ok(Some(Anchor::load(node, &PrivateKey::new(files::read(&dir.join("ca.key"))?))?))
    }

    fn new_anchor(&self, node: &NodeName) -> Result<Anchor, FolderError> {
        let dir = self.anchors(node);
        fs::create_dir_all(&dir)?;
        files::remove(&dir.join("ca.crt"))?;
        let (anchor, pair) = Anchor::generate(node)?;
        files::write(&dir.join("ca.key"), Access::Private, pair.key.expose().as_bytes())?;
        files::write(&dir.join("ca.crt"), Access::Public, pair.certificate.as_bytes())?;
        Ok(anchor)
    }

    /// A certificate under `anchor`: for the node's own key where that is known, else with a new one.
    fn leaf(&self, node: &NodeName, anchor: &Anchor) -> Result<(), FolderError> {
        let dir = self.of(&Identity::Node(node.clone()));
        let certificate = match public_key(&dir.join(TLS_PUBLIC))? {
            Some(key) => anchor.node_with(&key)?,
            None => {
                let Pair { certificate, key } = anchor.node()?;
                files::write(&dir.join("tls.key"), Access::Private, key.expose().as_bytes())?;
                certificate
            }
        };
        Ok(files::write(&dir.join("tls.crt"), Access::Public, certificate.as_bytes())?)
    }

    /// Gives a node an anchor if it has none, so that a key which it makes itself is let in by the broker's list of then. A
    /// certificate of before goes on being let in until the node has the new one.
    ///
    /// # Errors
    /// If something cannot be read or written.
    pub fn prepare_anchor(&self, node: &NodeName) -> Result<(), FolderError> {
        if self.anchor(node)?.is_none() {
            let (old, dir) = (self.of(&Identity::Node(node.clone())).join("tls.crt"), self.anchors(node));
            fs::create_dir_all(&dir)?;
            if old.exists() {
                files::write(&dir.join(BEFORE), Access::Public, files::read(&old)?.as_bytes())?;
            }
            self.new_anchor(node)?;
        }
        Ok(())
    }

    /// The certificate of a node for a key that it made itself. What was here of a key before is removed: the node alone has
    /// its key from now on.
    ///
    /// # Errors
    /// If something cannot be read or written.
    pub fn certify_node(&self, node: &NodeName, key: &ClientKey) -> Result<String, FolderError> {
        self.prepare_anchor(node)?;
        let dir = self.of(&Identity::Node(node.clone()));
        let path = dir.join("tls.crt");
        if public_key(&dir.join(TLS_PUBLIC))?.as_ref() != Some(key) || !path.exists() {
            fs::create_dir_all(&dir)?;
            files::remove(&path)?;
            files::write(&dir.join(TLS_PUBLIC), Access::Public, format!("{key}\n").as_bytes())?;
            if let Some(anchor) = self.anchor(node)? {
                self.leaf(node, &anchor)?;
            }
        }
        files::remove(&dir.join("tls.key"))?;
        files::remove(&self.anchors(node).join(BEFORE))?;
        Ok(files::read(&path)?)
    }

    /// The broker's files, for a machine that made the broker's key itself, in the order of [`file`]: configuration, rules,
    /// list, certificate. A key of before that is here is removed.
    ///
    /// # Errors
    /// If something cannot be read or written.
    pub fn certify_broker(&self, site: &Site, key: &ClientKey) -> Result<BrokerFiles, FolderError> {
        let dir = self.broker();
        fs::create_dir_all(&dir)?;
        if public_key(&dir.join(BROKER_PUBLIC))?.as_ref() != Some(key) {
            files::remove(&dir.join(file::CERTIFICATE))?;
            files::write(&dir.join(BROKER_PUBLIC), Access::Public, format!("{key}\n").as_bytes())?;
        }
        files::remove(&dir.join(file::KEY))?;
        self.write(site, &[])?;
        let read = |name| files::read(&dir.join(name));
        Ok(BrokerFiles {
            config: read(file::CONFIG)?,
            acl: read(file::ACL)?,
            clients: read(file::CLIENTS)?,
            certificate: read(file::CERTIFICATE)?,
        })
    }

    /// What the broker's files were made for last.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn site(&self, default: &Path) -> Result<Site, FolderError> {
        let path = self.broker().join(file::CONFIG);
        let text = if path.exists() { files::read(&path)? } else { String::new() };
        let word = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        let dir = word("acl_file").and_then(|path| Path::new(path).parent()).unwrap_or(default).to_owned();
        let port = word("listener").and_then(|port| port.parse().ok()).unwrap_or(super::broker::PORT);
        Ok(Site { dir, port, hosts: Vec::new() })
    }

    /// The certificate of the authority that signs the broker's.
    ///
    /// # Errors
    /// If it cannot be read or made.
    pub fn authority_certificate(&self, crew: &CrewName) -> Result<String, FolderError> {
        Ok(self.authority(crew)?.1)
    }

    /// Names and addresses of the broker for other programs, as they were given last.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn hosts(&self) -> Result<Vec<String>, FolderError> {
        let path = self.root.join(HOSTS);
        if !path.exists() {
            return Ok(Vec::new());
        }
        Ok(files::read(&path)?.lines().map(str::to_owned).collect())
    }

    /// The authority, made where there is none, and its certificate.
    fn authority(&self, crew: &CrewName) -> Result<(Authority, String), FolderError> {
        let (key, certificate) = (self.root.join("ca.key"), self.root.join("ca.crt"));
        match (key.exists(), certificate.exists()) {
            (true, true) => {
                let authority = Authority::load(crew, &PrivateKey::new(files::read(&key)?))?;
                Ok((authority, files::read(&certificate)?))
            }
            // a key alone is what an interruption between the two leaves; nobody knows that authority yet
            (false | true, false) => {
                let (authority, pair) = Authority::generate(crew)?;
                files::write(&key, Access::Private, pair.key.expose().as_bytes())?;
                files::write(&certificate, Access::Public, pair.certificate.as_bytes())?;
                Ok((authority, pair.certificate))
            }
            (false, true) => Err(FolderError::Missing {
                path: key,
                hint: "bring it back from where it is kept; without it remove ca.crt too, and copy the new ca.crt to \
                       everybody",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn manifest(dir: &Path, nodes: &[&str]) {
        let nodes: Vec<_> = nodes.iter().map(|name| serde_json::json!({ "name": name, "sign": "00" })).collect();
        let users = [("ann", "operator"), ("door", "bridge"), ("eve", "read_only")]
            .map(|(name, role)| serde_json::json!({ "name": name, "role": role }));
        let body = serde_json::json!({
            "crew": "c1", "revision": 1, "term": 1, "coordinator": "n0", "nodes": nodes, "users": users
        });
        let text = serde_json::json!({ "v": 1, "key": "0", "body": body.to_string(), "sig": "0" });
        fs::write(dir.join("manifest.json"), text.to_string()).unwrap();
    }

    fn site() -> Site {
        Site { dir: "/etc/mosquitto/beehive".into(), port: 8883, hosts: vec!["pi-1.local".to_owned()] }
    }

    #[test]
    fn everybody_gets_a_certificate_once_and_who_is_left_out_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        manifest(dir.path(), &["n0", "n1", "n2"]);
        let folder = Folder::new(dir.path());
        folder.add_tool(&"ha".parse().unwrap()).unwrap();
        let plan = folder.write(&site(), &[]).unwrap();
        assert_eq!(plan.parts.len(), 7);
        let certificate = |name: &str| files::read(&dir.path().join(name)).unwrap();
        let (n0, n1) = (certificate("anchors/n0/ca.crt"), certificate("anchors/n1/ca.crt"));
        let leaf = certificate("nodes/n0/tls.crt");
        let clients = certificate("broker/clients.crt");
        assert!(clients.contains(&n0) && clients.contains(&n1));
        assert_eq!(clients.matches("BEGIN CERTIFICATE").count(), 7);

        manifest(dir.path(), &["n0", "n2"]);
        let renew = Identity::Node("n0".parse().unwrap());
        folder.write(&site(), &[renew]).unwrap();
        let clients = certificate("broker/clients.crt");
        assert_eq!(clients.matches("BEGIN CERTIFICATE").count(), 6);
        assert!(!clients.contains(&n1), "left out");
        assert!(!clients.contains(&n0) && clients.contains(&certificate("anchors/n0/ca.crt")), "a new one");
        assert_ne!(leaf, certificate("nodes/n0/tls.crt"));
        assert!(!certificate("broker/beehive.acl").contains("user n1\n"));
    }

    #[test]
    fn private_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        manifest(dir.path(), &["n0"]);
        Folder::new(dir.path()).write(&site(), &[]).unwrap();
        for path in ["ca.key", "anchors/n0/ca.key", "nodes/n0/tls.key", "operators/ann/tls.key", "broker/broker.key"] {
            let mode = fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{path}: {mode:o}");
        }
    }

    /// A crew of before there were anchors: its nodes' certificates are signed by themselves.
    #[test]
    fn a_certificate_of_before_counts_until_its_node_has_another() {
        let dir = tempfile::tempdir().unwrap();
        manifest(dir.path(), &["n0", "n1"]);
        let folder = Folder::new(dir.path());
        let node: NodeName = "n1".parse().unwrap();
        let old = tls::identity(&Identity::Node(node.clone())).unwrap();
        fs::create_dir_all(dir.path().join("nodes/n1")).unwrap();
        files::write(&dir.path().join("nodes/n1/tls.key"), Access::Private, old.key.expose().as_bytes()).unwrap();
        files::write(&dir.path().join("nodes/n1/tls.crt"), Access::Public, old.certificate.as_bytes()).unwrap();
        let clients = || {
            folder.write(&site(), &[]).unwrap();
            files::read(&dir.path().join("broker/clients.crt")).unwrap()
        };
        assert!(clients().contains(&old.certificate) && !dir.path().join("anchors/n1").exists());
        folder.prepare_anchor(&node).unwrap();
        let anchor = files::read(&dir.path().join("anchors/n1/ca.crt")).unwrap();
        let list = clients();
        assert!(list.contains(&old.certificate) && list.contains(&anchor), "both, until it is enrolled");
        let (_, key) = tls::new_key("n1").unwrap();
        let first = folder.certify_node(&node, &key).unwrap();
        assert_eq!(folder.certify_node(&node, &key).unwrap(), first, "the same key, the same certificate");
        let list = clients();
        assert!(!list.contains(&old.certificate) && list.contains(&anchor));
        assert!(!dir.path().join("nodes/n1/tls.key").exists(), "its key is its own");
        folder.write(&site(), &[Identity::Node(node.clone())]).unwrap();
        assert!(!dir.path().join("nodes/n1/tls.key").exists());
        assert_ne!(
            files::read(&dir.path().join("nodes/n1/tls.crt")).unwrap(),
            first,
            "renewed, for the node's own key"
        );
        assert!(!clients().contains(&anchor));
    }

    #[test]
    fn a_broker_that_made_its_key_itself_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        manifest(dir.path(), &["n0"]);
        let folder = Folder::new(dir.path());
        folder.write(&site(), &[]).unwrap();
        let (_, key) = tls::new_key("broker").unwrap();
        let files = folder.certify_broker(&Site { hosts: Vec::new(), ..site() }, &key).unwrap();
        assert!(!dir.path().join("broker/broker.key").exists());
        assert_eq!(folder.hosts().unwrap(), ["pi-1.local"], "names that were given once stay");
        assert_eq!(folder.certify_broker(&Site { hosts: Vec::new(), ..site() }, &key).unwrap(), files);
        folder.write(&site(), &[]).unwrap();
        assert!(!dir.path().join("broker/broker.key").exists(), "no key is made for it any more");
    }

    #[test]
    fn a_lost_authority_is_not_silently_replaced() {
        let dir = tempfile::tempdir().unwrap();
        manifest(dir.path(), &["n0"]);
        let folder = Folder::new(dir.path());
        folder.write(&site(), &[]).unwrap();
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        let error = folder.write(&site(), &[]).unwrap_err().to_string();
        assert!(error.contains("ca.key is missing"), "{error}");
        fs::write(dir.path().join("manifest.json"), "{}").unwrap();
        let error = folder.plan(&site()).unwrap_err().to_string();
        assert!(error.contains("is not a crew's manifest"), "{error}");
    }
}
