//! What opens an API server: a kubeconfig, as k3s and kubeadm write it, becomes an address, an authority to check the server by and
//! something to show to it.
//!
//! It is read strictly, in the subset of YAML that those two write (block mappings and sequences, plain and quoted scalars, `{}`
//! and `[]`), or as JSON. What would need a file, a program or trust without a check is refused. An error never repeats a value.
//!
//! Sources: kubernetes.io, "Organizing Cluster Access Using kubeconfig Files" and its reference `kubeconfig (v1)`; the form of the
//! authority's hashes as [`crate::engine::token`] says.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::kube::sha256;

/// A kubeconfig is some kilobytes; a text beyond this is something else.
const MAX_BYTES: usize = 256 * 1024;

/// Nobody nests a kubeconfig deeper; a text that does is no reason for a deep stack.
const MAX_DEPTH: usize = 8;

/// Why a kubeconfig opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It is not of the form that is read here.
    #[error("line {line} of the kubeconfig: {why}")]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Something is missing in it or cannot be used.
    #[error("the kubeconfig {0}")]
    Unusable(String),
}

fn unusable(why: impl Into<String>) -> AccessError {
    AccessError::Unusable(why.into())
}

/// An API server and what it is opened with. `Debug` shows the address alone.
#[derive(Clone)]
pub struct Access {
    /// Its host.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
    /// The name that its certificate must bear.
    pub(super) name: ServerName<'static>,
    /// The authority and the client's certificate.
    pub(super) tls: Arc<ClientConfig>,
    /// A bearer's token, where it is no certificate that opens it.
    pub(super) token: Option<Zeroizing<String>>,
    /// The SHA-256 of the authority's certificate as PEM.
    pub(super) authority_pem_sha256: String,
    /// The SHA-256 of the authority's public key.
    pub(super) authority_key_sha256: String,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({}:{})", self.host, self.port)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    current_context: String,
    contexts: Vec<NamedContext>,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: Option<Value>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
}

impl Access {
    /// Reads a kubeconfig, and takes what its current context names.
    ///
    /// # Errors
    /// Says what is missing or not of the form that is read; never what it read.
    pub fn read(kubeconfig: &str) -> Result<Self, AccessError> {
        if kubeconfig.len() > MAX_BYTES {
            return Err(unusable(format!("has more than {MAX_BYTES} bytes")));
        }
        let tree = match kubeconfig.trim_start().starts_with('{') {
            // serde's error names the place, not what is there
            true => serde_json::from_str(kubeconfig).map_err(|error| AccessError::Malformed {
                line: error.line(),
                why: "it begins as JSON and is none here",
            })?,
            false => Yaml::read(kubeconfig)?,
        };
        let config: Kubeconfig = serde_json::from_value(tree)
            .map_err(|_| unusable("has no contexts, clusters and users as one has them"))?;
        let context = config.contexts.into_iter().find(|held| held.name == config.current_context);
        let context = context.ok_or_else(|| unusable("names no current-context of its contexts"))?.context;
        let cluster = config.clusters.into_iter().find(|held| held.name == context.cluster);
        let cluster = cluster.ok_or_else(|| unusable("does not hold the cluster of its current context"))?.cluster;
        let user = config.users.into_iter().find(|held| held.name == context.user);
        let user = user.ok_or_else(|| unusable("does not hold the user of its current context"))?.user;
        Self::of(&cluster, user)
    }

    fn of(cluster: &Cluster, user: User) -> Result<Self, AccessError> {
        match &cluster.insecure_skip_tls_verify {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(Value::String(said)) if said == "false" => {}
            Some(_) => return Err(unusable("asks not to check the server's certificate; that is never done")),
        }
        let (host, port) = address(&cluster.server)?;
        let name = ServerName::try_from(host.clone())
            .map_err(|_| unusable("has a server whose name is neither a host's name nor an address"))?;
        let authority = cluster.certificate_authority_data.as_deref();
        let authority = authority.ok_or_else(|| unusable("has no certificate-authority-data"))?;
        let authority = decoded(authority, "certificate-authority-data")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&authority) {
            let certificate = certificate.map_err(|_| unusable("has a certificate authority that is no PEM"))?;
            roots.add(certificate).map_err(|_| unusable("has a certificate authority that is no certificate"))?;
        }
        let anchor = roots.roots.first().ok_or_else(|| unusable("has an empty certificate authority"))?;
        let key = public_key(anchor.subject_public_key_info.as_ref());
        let hashes = sha256(&authority).zip(sha256(&key));
        let (pem_hash, key_hash) = hashes.ok_or_else(|| unusable("cannot be used by a build without SHA-256"))?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(roots);
        let token = user.token.map(Zeroizing::new).filter(|token| !token.is_empty());
        let key = user.client_key_data.map(Zeroizing::new);
        let tls = match (user.client_certificate_data, key) {
            (Some(certificate), Some(key)) => {
                let certificate = decoded(&certificate, "client-certificate-data")?;
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
                let chain = chain.map_err(|_| unusable("has a client certificate that is no PEM"))?;
                let key = decoded(&key, "client-key-data")?;
                let key =
                    PrivateKeyDer::from_pem_slice(&key).map_err(|_| unusable("has a client key that is no PEM"))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|_| unusable("has a client certificate and a key that cannot be used together"))?
            }
            (None, None) if token.is_some() => builder.with_no_client_auth(),
            (Some(_), None) | (None, Some(_) | None) => {
                return Err(unusable(
                    "has neither client-certificate-data with client-key-data nor a token; `kubectl config view --raw --flatten` \
                     writes one that has",
                ));
            }
        };
        Ok(Self {
            host,
            port,
            name,
            tls: Arc::new(tls),
            token,
            authority_pem_sha256: pem_hash,
            authority_key_sha256: key_hash,
        })
    }
}

/// Host and port of `https://host:port`.
fn address(server: &str) -> Result<(String, u16), AccessError> {
    let rest = server.strip_prefix("https://").ok_or_else(|| unusable("has a server that is no https:// address"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err(unusable("has a server with more in its address than host and port"));
    }
    let bad_port = |_| unusable("has a server whose port is no number");
    match (rest.strip_prefix('['), rest.rsplit_once(':')) {
        (Some(six), _) => {
            let (host, port) = six.split_once(']').ok_or_else(|| unusable("has a server whose address is cut off"))?;
            let port = port.strip_prefix(':').map_or(Ok(443), |port| port.parse().map_err(bad_port))?;
            Ok((host.to_owned(), port))
        }
        (None, Some((host, port))) => Ok((host.to_owned(), port.parse().map_err(bad_port)?)),
        (None, None) => Ok((rest.to_owned(), 443)),
    }
}

fn decoded(text: &str, what: &'static str) -> Result<Zeroizing<Vec<u8>>, AccessError> {
    STANDARD.decode(text).map(Zeroizing::new).map_err(|_| unusable(format!("has {what} that is no base64")))
}

/// A trust anchor holds the content of the SubjectPublicKeyInfo; its hash is one of the whole DER element.
fn public_key(content: &[u8]) -> Vec<u8> {
    const SEQUENCE: u8 = 0x30;
    let length = content.len().to_be_bytes();
    let length = length.get(length.iter().take_while(|byte| **byte == 0).count()..).unwrap_or_default();
    let mut whole = vec![SEQUENCE];
    match length {
        [] => whole.push(0),
        [short] if *short < 0x80 => whole.push(*short),
        long => {
            whole.push(0x80 | u8::try_from(long.len()).unwrap_or(0x7f));
            whole.extend_from_slice(long);
        }
    }
    whole.extend_from_slice(content);
    whole
}

/// The lines of a text in that subset of YAML.
struct Yaml<'a> {
    /// Number from 1, indent, content.
    lines: Vec<(usize, usize, &'a str)>,
    at: usize,
}

impl<'a> Yaml<'a> {
    fn read(text: &'a str) -> Result<Value, AccessError> {
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.trim_start_matches(' ');
            let indent = line.len() - content.len();
            let content = content.trim_end();
            if content.is_empty() || content.starts_with('#') || (content == "---" && lines.is_empty()) {
                continue;
            }
            if content.starts_with('\t') {
                return Err(AccessError::Malformed { line: index + 1, why: "a tab indents nothing in YAML" });
            }
            lines.push((index + 1, indent, content));
        }
        let mut reader = Self { lines, at: 0 };
        let indent = reader.lines.first().ok_or_else(|| unusable("is empty"))?.1;
        let value = reader.block(indent, 0)?;
        match reader.lines.get(reader.at) {
            None => Ok(value),
            Some((line, ..)) => Err(AccessError::Malformed { line: *line, why: "it belongs to nothing above it" }),
        }
    }

    fn here(&self) -> Option<(usize, usize, &'a str)> {
        self.lines.get(self.at).copied()
    }

    fn block(&mut self, indent: usize, depth: usize) -> Result<Value, AccessError> {
        match self.here() {
            Some((line, ..)) if depth > MAX_DEPTH => {
                Err(AccessError::Malformed { line, why: "it is nested too deeply" })
            }
            Some((_, _, content)) if item(content).is_some() => self.sequence(indent, depth),
            Some(_) => self.mapping(indent, depth),
            None => Ok(Value::Null),
        }
    }

    fn sequence(&mut self, indent: usize, depth: usize) -> Result<Value, AccessError> {
        let mut items = Vec::new();
        while let Some((line, at, content)) = self.here() {
            let Some(rest) = item(content).filter(|_| at == indent) else { break };
            let inner = indent + (content.len() - rest.len());
            if rest.is_empty() {
                self.at += 1;
                items.push(self.nested(indent + 1, depth)?);
            } else if entry(rest).is_some() {
                if let Some(held) = self.lines.get_mut(self.at) {
                    *held = (line, inner, rest);
                }
                items.push(self.block(inner, depth + 1)?);
            } else {
                self.at += 1;
                items.push(scalar(line, rest)?);
            }
        }
        Ok(Value::Array(items))
    }

    fn mapping(&mut self, indent: usize, depth: usize) -> Result<Value, AccessError> {
        let mut map = Map::new();
        while let Some((line, at, content)) = self.here() {
            if at < indent || item(content).is_some() {
                break;
            }
            let malformed = |why| AccessError::Malformed { line, why };
            if at > indent {
                return Err(malformed("it is indented further than what it stands under"));
            }
            let (key, rest) = entry(content).ok_or_else(|| malformed("it is no `key: value`"))?;
            self.at += 1;
            let value = match rest {
                "" => match self.here() {
                    // a sequence may stand as far left as its key
                    Some((_, next, content)) if next == indent && item(content).is_some() => {
                        self.block(indent, depth + 1)?
                    }
                    Some(_) | None => self.nested(indent + 1, depth)?,
                },
                rest => scalar(line, rest)?,
            };
            if map.insert(key.to_owned(), value).is_some() {
                return Err(malformed("this key stands there twice"));
            }
        }
        Ok(Value::Object(map))
    }

    /// What stands further right than what it belongs to; nothing if nothing does.
    fn nested(&mut self, least: usize, depth: usize) -> Result<Value, AccessError> {
        match self.here() {
            Some((_, indent, _)) if indent >= least => self.block(indent, depth + 1),
            Some(_) | None => Ok(Value::Null),
        }
    }
}

/// What stands behind a dash.
fn item(content: &str) -> Option<&str> {
    match content {
        "-" => Some(""),
        content => content.strip_prefix("- ").map(str::trim_start),
    }
}

/// Key and rest of `key: rest`.
fn entry(content: &str) -> Option<(&str, &str)> {
    let (key, rest) = match content.split_once(": ") {
        Some((key, rest)) => (key, rest.trim()),
        None => (content.strip_suffix(':')?, ""),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let rest = if rest.starts_with('#') { "" } else { rest };
    (!key.is_empty() && key.chars().all(plain)).then_some((key, rest))
}

fn scalar(line: usize, text: &str) -> Result<Value, AccessError> {
    let malformed = |why| AccessError::Malformed { line, why };
    match text.chars().next() {
        Some('"') => {
            serde_json::from_str(text).map_err(|_| malformed("a quoted value is not closed, or more follows it"))
        }
        Some('\'') => {
            let inner = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
            let inner = inner.filter(|inner| !inner.replace("''", "").contains('\''));
            let inner = inner.ok_or_else(|| malformed("a quoted value is not closed, or more follows it"))?;
            Ok(Value::String(inner.replace("''", "'")))
        }
        Some(_) if text == "{}" => Ok(Value::Object(Map::new())),
        Some(_) if text == "[]" => Ok(Value::Array(Vec::new())),
        Some('&' | '*' | '!' | '|' | '>' | '%' | '@' | '`' | '[' | '{' | ',' | '?') => Err(malformed(
            "this form of YAML is not read here; `kubectl config view --raw --flatten` writes a plain one",
        )),
        Some(_) => {
            let plain = text.split_once(" #").map_or(text, |(plain, _)| plain.trim_end());
            match plain {
                "null" | "~" => Ok(Value::Null),
                plain => Ok(Value::String(plain.to_owned())),
            }
        }
        None => Ok(Value::Null),
    }
}
