//! The crew's folder on an operator's machine: certificates of everybody whom the manifest names, and the broker's files.
//!
//! | place | what |
//! | --- | --- |
//! | `ca.key`, `ca.crt` | the authority that signs the broker's certificate; the key stays here |
//! | `nodes/<name>/`, `operators/<name>/` | `ca.crt`, `tls.crt`, `tls.key` beside the identity's other files |
//! | `tools/<name>/` | the same for a program that signs nothing |
//! | `broker/` | what is copied to the broker's machine, for `beehive broker apply` there |
//!
//! Whoever is not in the manifest is left out of the broker's list, whatever folder is still there; who has a folder
//! under `tools/` is in it.

use super::broker::{Part, Plan, file};
use super::files::{self, Access};
use super::tls::{self, Authority, CertificateError, Identity, Pair, PrivateKey};
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
            let path = dir.join("tls.crt");
            if renew.contains(&who) || !path.exists() || !dir.join("tls.key").exists() {
                let Pair { certificate, key } = tls::identity(&who)?;
                // the key first: a certificate without its key would be taken for complete otherwise
                files::write(&dir.join("tls.key"), Access::Private, key.expose().as_bytes())?;
                files::write(&path, Access::Public, certificate.as_bytes())?;
            }
            files::write(&dir.join("ca.crt"), Access::Public, certificate.as_bytes())?;
            clients.push_str(&files::read(&path)?);
        }
        let dir = self.broker();
        fs::create_dir_all(&dir)?;
        let own = dir.join(file::CERTIFICATE);
        if !site.hosts.is_empty() || !own.exists() || !dir.join(file::KEY).exists() {
            let Pair { certificate, key } = authority.broker(&site.hosts)?;
            files::write(&dir.join(file::KEY), Access::Private, key.expose().as_bytes())?;
            files::write(&own, Access::Public, certificate.as_bytes())?;
        }
        files::write(&dir.join("ca.crt"), Access::Public, certificate.as_bytes())?;
        files::write(&dir.join(file::CLIENTS), Access::Public, clients.as_bytes())?;
        files::write(&dir.join(file::ACL), Access::Public, plan.acl().as_bytes())?;
        files::write(&dir.join(file::CONFIG), Access::Public, plan.config().as_bytes())?;
        Ok(plan)
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
        let (n0, n1) = (certificate("nodes/n0/tls.crt"), certificate("nodes/n1/tls.crt"));
        let clients = certificate("broker/clients.crt");
        assert!(clients.contains(&n0) && clients.contains(&n1));
        assert_eq!(clients.matches("BEGIN CERTIFICATE").count(), 7);

        manifest(dir.path(), &["n0", "n2"]);
        let renew = Identity::Node("n0".parse().unwrap());
        folder.write(&site(), &[renew]).unwrap();
        let clients = certificate("broker/clients.crt");
        assert_eq!(clients.matches("BEGIN CERTIFICATE").count(), 6);
        assert!(!clients.contains(&n1), "left out");
        assert!(!clients.contains(&n0) && clients.contains(&certificate("nodes/n0/tls.crt")), "a new one");
        assert!(!certificate("broker/beehive.acl").contains("user n1\n"));
    }

    #[test]
    fn private_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        manifest(dir.path(), &["n0"]);
        Folder::new(dir.path()).write(&site(), &[]).unwrap();
        for path in ["ca.key", "nodes/n0/tls.key", "operators/ann/tls.key", "broker/broker.key"] {
            let mode = fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{path}: {mode:o}");
        }
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
