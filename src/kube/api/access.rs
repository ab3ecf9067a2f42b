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
    /// The authority's certificate as PEM.
    pub(super) authority_pem: String,
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
            authority_pem: String::from_utf8_lossy(&authority).into_owned(),
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
    // a comment may follow a closed quote
    let text = match text.chars().next().filter(|quote| matches!(quote, '"' | '\'')).and_then(|quote| text.rfind(quote))
    {
        Some(end) if text.get(end + 1..).is_some_and(|rest| rest.trim_start().starts_with('#')) => {
            text.get(..=end).unwrap_or(text)
        }
        Some(_) | None => text,
    };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    /// An authority as k3s makes them (a P-256 key), which is its own client here; made with OpenSSL, as are the hashes.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBiDCCAS2gAwIBAgIUUO1/6LHMmubmSPeBDGJyPROxxEkwCgYIKoZIzj0EAwIw\n\
GDEWMBQGA1UEAwwNazNzLXNlcnZlci1jYTAgFw0yNjExMjgxNjUyMDZaGA8yMTI2\n\
MTEwNDE2NTIwNlowGDEWMBQGA1UEAwwNazNzLXNlcnZlci1jYTBZMBMGByqGSM49\n\
AgEGCCqGSM49AwEHA0IABKv1Amr0kwhCpBCQ19624HZnU1Q971Qtst0+wzXZNRQq\n\
8jz8SUMgWpyTfn+qYNdlSLYwzAl9Ga30xkMVseMgWn+jUzBRMB0GA1UdDgQWBBT+\n\
jNI9HypLBWArE8XOHikYBTtB2DAfBgNVHSMEGDAWgBT+jNI9HypLBWArE8XOHikY\n\
BTtB2DAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQC+hOtom37G\n\
CSx+gImYZ92bONJKnzRewapNUF+GEHoLjgIhAIDUFEUv9gokKhH2TyAWq1CBqFhQ\n\
ddnqjyzDiuBSE8jl\n\
-----END CERTIFICATE-----\n";
    /// Its key in the form that k3s writes (SEC 1). It opens nothing.
    const KEY: &str = "\
-----BEGIN EC PRIVATE KEY-----\n\
MHcCAQEEIAV/ccqiaKbmkuqK61beE4R9gWOfMxEPd61hOsDFvtLzoAoGCCqGSM49\n\
AwEHoUQDQgAEq/UCavSTCEKkEJDX3rbgdmdTVD3vVC2y3T7DNdk1FCryPPxJQyBa\n\
nJN+f6pg12VItjDMCX0ZrfTGQxWx4yBafw==\n\
-----END EC PRIVATE KEY-----\n";
    const PEM_SHA256: &str = "80b175291f839f2fb3cf45e5892b7e063f3f8b646da44f65386ed6144a938757";
    const KEY_SHA256: &str = "7396a32e2286dfbc2765d9d7096144bdd97b24802ee396d5611b9814b800bd6a";

    /// A kubeconfig as k3s writes it.
    fn kubeconfig() -> String {
        let [certificate, key] = [CERTIFICATE, KEY].map(|pem| STANDARD.encode(pem));
        format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {certificate}\n    server: \
             https://127.0.0.1:6443\n  name: default\ncontexts:\n- context:\n    cluster: default\n    user: default\n  \
             name: default\ncurrent-context: default\nkind: Config\npreferences: {{}}\nusers:\n- name: default\n  user:\n    \
             client-certificate-data: {certificate}\n    client-key-data: {key}\n"
        )
    }

    #[test]
    fn what_k3s_writes_opens_its_server_and_names_its_authority() {
        let access = Access::read(&kubeconfig()).unwrap();
        assert_eq!((access.host.as_str(), access.port), ("127.0.0.1", 6443));
        assert_eq!(
            (access.authority_pem_sha256.as_str(), access.authority_key_sha256.as_str()),
            (PEM_SHA256, KEY_SHA256)
        );
        assert_eq!(format!("{access:?}"), "Access(127.0.0.1:6443)");
        assert!(access.token.is_none());
    }

    #[test]
    fn the_same_is_read_as_json_and_in_other_indents_and_quotes() {
        let data = |key: &str| {
            let text = kubeconfig();
            text.lines().find_map(|line| line.trim().strip_prefix(key).map(|rest| rest.trim().to_owned())).unwrap()
        };
        let (certificate, key) = (data("certificate-authority-data:"), data("client-key-data:"));
        let json = serde_json::json!({
            "clusters": [{ "name": "c", "cluster": { "server": "https://[::1]:1/", "certificate-authority-data": certificate,
                "extensions": [1, {}] } }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "users": [{ "name": "u", "user": { "client-certificate-data": certificate, "client-key-data": key } }],
            "current-context": "x",
        });
        let access = Access::read(&json.to_string()).unwrap();
        assert_eq!((access.host.as_str(), access.port), ("::1", 1));
        let indented = format!(
            "---\n# of kubectl\nclusters:\n  - name: \"c\"   \n    cluster:\n      server: 'https://k8s.local' # here\n      \
             certificate-authority-data: {certificate}\ncontexts:\n  -\n    name: x\n    context: \n      cluster: c\n      user: u\n\
             current-context: x\nusers:\n  - name: u\n    user:\n      token: abc\n"
        );
        let access = Access::read(&indented).unwrap();
        assert_eq!((access.host.as_str(), access.port), ("k8s.local", 443));
        assert_eq!(access.token.unwrap().as_str(), "abc");
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_is_repeated() {
        let good = kubeconfig();
        for (from, to, word) in [
            ("current-context: default", "current-context: other", "current-context"),
            ("    cluster: default", "    cluster: other", "the cluster of its current context"),
            ("    user: default", "    user: other", "the user of its current context"),
            ("https://127", "http://127", "https://"),
            ("6443", "6443/path", "more in its address"),
            ("6443", "no", "no number"),
            ("https://127.0.0.1", "https://a b", "neither a host's name"),
            ("    certificate-authority-data", "    certificate-authority", "certificate-authority-data"),
            ("    client-key-data", "    client-key", "--flatten"),
            ("    client-certificate-data: LS", "    client-certificate-data: !!", "line 18"),
            ("    client-certificate-data: LS", "    client-certificate-data: (", "no base64"),
            ("    server:", "    insecure-skip-tls-verify: true\n    server:", "never done"),
            ("preferences: {}", "preferences: {a: b}", "line 14"),
            ("preferences: {}", "preferences: &anchor x", "line 14"),
            ("preferences: {}", "preferences: \"open", "line 14"),
            ("preferences: {}", "preferences: 'open", "line 14"),
            ("preferences: {}", "preferences:\n\tx: y", "line 15"),
            ("preferences: {}", "kind: Config", "twice"),
            ("preferences: {}", "preferences", "key: value"),
            ("preferences: {}", "preferences: {}\n    more: x", "further"),
            ("  name: default\ncontexts", "  name: {}\ncontexts", "as one has them"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            let error = Access::read(&bad).err().unwrap_or_else(|| panic!("{to}: it was read")).to_string();
            assert!(error.contains(word), "{to}: {error}");
            assert!(!error.contains("LS0t"), "{error}");
        }
        for (bad, word) in [
            (String::new(), "is empty"),
            ("{\"clusters\": [1".to_owned(), "JSON"),
            ("x".repeat(MAX_BYTES + 1), "more than"),
            (
                "a:\n".to_owned() + &(1..40).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>(),
                "deep",
            ),
            ("- - - -".to_owned(), "as one has them"),
        ] {
            let error = Access::read(&bad).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_key_and_a_certificate_that_do_not_belong_together_are_refused() {
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let key = STANDARD.encode(KEY);
        let error = Access::read(&kubeconfig().replace(&key, &STANDARD.encode(other))).unwrap_err().to_string();
        assert!(error.contains("cannot be used together"), "{error}");
    }

    #[test]
    fn a_public_keys_length_is_written_as_der_wants_it() {
        for (length, head) in
            [(0, vec![0x30, 0]), (127, vec![0x30, 127]), (128, vec![0x30, 0x81, 128]), (294, vec![0x30, 0x82, 1, 38])]
        {
            let whole = public_key(&vec![7; length]);
            assert_eq!((whole.len(), whole.get(..head.len()).unwrap()), (head.len() + length, head.as_slice()));
        }
    }
}
