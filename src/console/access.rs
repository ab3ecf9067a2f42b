//! `beehive cluster kubeconfig`: a way into the cluster for the operator. The private key is made here and stays here; what
//! travels is the public one, and a certificate that comes back sealed to a key that is made for this one request.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use beehive_mqtt::console::{AccessContext, Ask, ConsoleResponse, Mode};
use beehive_mqtt::{CrewName, UserName};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use zeroize::Zeroizing;

use super::exit::{ExitCode, Trouble, Wanted};
use super::order::Order;
use crate::crew::files::{self, Access};
use crate::keys::{Opener, OperatorKey};
use crate::kube::Certified;

/// Who asks, with the two keys that were made for it.
#[derive(Debug)]
pub(super) struct Asker {
    crew: CrewName,
    user: UserName,
    opener: Opener,
    key: OperatorKey,
}

/// A kubeconfig: with it whoever has it administers the cluster.
pub(super) struct Kubeconfig {
    /// The file's text. kubectl reads JSON as it reads YAML.
    pub(super) text: Zeroizing<String>,
    /// The server's address.
    pub(super) server: String,
}

fn failed(code: &str, what: &str, why: impl Into<String>, fix: &str) -> Trouble {
    Trouble::new(ExitCode::Failed, what, why, fix).with_code(code)
}

impl Asker {
    /// Makes the keys.
    pub(super) fn new(crew: &CrewName, user: &UserName) -> Result<Self, Trouble> {
        let no_key = |why: String| failed("no-key", "no key can be made", why, "see whether the system has randomness");
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|error| no_key(error.to_string()))?;
        let opener = Opener::from_seed(&seed).map_err(|error| no_key(error.to_string()))?;
        let key = OperatorKey::generate().map_err(|error| no_key(error.to_string()))?;
        Ok(Self { crew: crew.clone(), user: user.clone(), opener, key })
    }

    /// What is asked of the coordinator.
    pub(super) fn order(&self) -> Result<Order, Trouble> {
        let proof = self
            .key
            .proof(&self.user)
            .map_err(|error| failed("no-key", "the key cannot be used", error.to_string(), "report this"))?;
        Ok(Order {
            ask: Ask::Kubeconfig { seal: self.opener.public(), client: *self.key.public(), proof },
            mode: Mode::Execute,
            title: format!("kubeconfig of crew {}", self.crew),
            wanted: Wanted::Completion,
            stake: None,
        })
    }

    /// What the answer holds, with the key that never travelled.
    pub(super) fn open(&self, response: &ConsoleResponse) -> Result<Kubeconfig, Trouble> {
        let Some(sealed) = response.sealed.as_ref().and_then(|sealed| sealed.bytes()) else {
            return Err(failed(
                "answer-lost",
                "the certificate was issued, and its answer is no longer there",
                "the coordinator has started again since",
                "ask once more: another certificate is issued",
            ));
        };
        let context =
            AccessContext { crew: &self.crew, user: &self.user, request: &response.id, client: self.key.public() };
        let odd = |why: &str| {
            failed("bad-answer", "the answer cannot be used", why, "compare `beehive version` here and on the master")
        };
        let opened = self.opener.open(&sealed, &context.bytes());
        let opened = opened.map_err(|_| odd("it was not sealed to this console for this request"))?;
        let certified: Certified =
            serde_json::from_slice(&opened).map_err(|_| odd("what was sealed is no certificate with its server"))?;
        if !certified.server.starts_with("https://") {
            return Err(odd("the server's address does not begin with https://"));
        }
        // a certificate of another key opens nothing, and nobody would see why
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(certified.certificate.as_bytes()).flatten().collect();
        let key = self.key.public().0;
        let ours = certificates.first().is_some_and(|leaf| leaf.windows(key.len()).any(|window| window == key));
        if !ours {
            return Err(odd("the certificate is not of the key that was to be certified"));
        }
        if CertificateDer::from_pem_slice(certified.authority.as_bytes()).is_err() {
            return Err(odd("the authority's certificate is no PEM"));
        }
        let (cluster, user) = (self.crew.as_str(), format!("{}@{}", self.user, self.crew));
        let private = Zeroizing::new(STANDARD.encode(self.key.pem().as_bytes()));
        let document = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": cluster, "cluster": {
                "server": certified.server,
                "certificate-authority-data": STANDARD.encode(&certified.authority),
            }}],
            "users": [{ "name": user, "user": {
                "client-certificate-data": STANDARD.encode(&certified.certificate),
                "client-key-data": private.as_str(),
            }}],
            "contexts": [{ "name": cluster, "context": { "cluster": cluster, "user": user } }],
            "current-context": cluster,
        });
        Ok(Kubeconfig { text: Zeroizing::new(format!("{document:#}\n")), server: certified.server.clone() })
    }
}

/// Writes it for its owner alone, and never over a file that is there: other clusters may be in it.
pub(super) fn write(path: &Path, kubeconfig: &Kubeconfig) -> Result<(), Trouble> {
    files::write_new(path, Access::Private, kubeconfig.text.as_bytes()).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => there(path),
        _ => failed(
            "file",
            "the kubeconfig is not written",
            error.to_string(),
            "name another file with -o, and ask once more",
        ),
    })
}

/// A file of that name is there.
pub(super) fn there(path: &Path) -> Trouble {
    Trouble::new(
        ExitCode::Refused,
        format!("{} is there already", path.display()),
        "rule file-exists: what is in it may open other clusters",
        "name another file with -o; KUBECONFIG=FILE1:FILE2 lets kubectl use both",
    )
    .with_code("file-exists")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::keys::seal;
    use beehive_mqtt::Text;
    use beehive_mqtt::console::{ResponseStatus, SealedAccess};
    use beehive_mqtt::coordinator::AuditHead;
    use serde_json::Value;
    use std::os::unix::fs::PermissionsExt as _;

    /// A certificate of the key, or of another one, as an authority would issue it.
    fn certificate(asker: &Asker) -> String {
        rcgen::CertificateParams::default().self_signed(&Signing(asker)).unwrap().pem()
    }

    struct Signing<'a>(&'a Asker);

    impl rcgen::PublicKeyData for Signing<'_> {
        fn der_bytes(&self) -> &[u8] {
            &self.0.key.public().0
        }

        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            &rcgen::PKCS_ECDSA_P256_SHA256
        }
    }

    impl rcgen::SigningKey for Signing<'_> {
        fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
            Ok(vec![0; 70])
        }
    }

    fn asker() -> Asker {
        Asker::new(&"bee".parse().unwrap(), &"ann".parse().unwrap()).unwrap()
    }

    fn answer(asker: &Asker, certified: &Value) -> Box<ConsoleResponse> {
        let (crew, user, request) = ("bee".parse().unwrap(), "ann".parse().unwrap(), "r-1".parse().unwrap());
        let context = AccessContext { crew: &crew, user: &user, request: &request, client: asker.key.public() };
        let sealed = seal(&asker.opener.public(), certified.to_string().as_bytes(), &context.bytes()).unwrap();
        Box::new(ConsoleResponse {
            id: request,
            status: ResponseStatus::Done,
            code: Text::cut("certified"),
            text: Text::new(),
            operation: None,
            plan: Default::default(),
            audit: AuditHead::NONE,
            sealed: Some(SealedAccess::new(&sealed)),
        })
    }

    #[test]
    fn the_kubeconfig_has_the_certificate_and_the_key_that_stayed_here() {
        let asker = asker();
        let own = certificate(&asker);
        let good = json!({ "server": "https://pi-1:6443", "authority": own, "certificate": own });
        let kubeconfig = asker.open(&answer(&asker, &good)).unwrap();
        let document: Value = serde_json::from_str(&kubeconfig.text).unwrap();
        let decoded = |pointer: &str| {
            String::from_utf8(STANDARD.decode(document.pointer(pointer).unwrap().as_str().unwrap()).unwrap()).unwrap()
        };
        assert_eq!(document["clusters"][0]["cluster"]["server"], "https://pi-1:6443");
        assert_eq!(decoded("/users/0/user/client-certificate-data"), own);
        assert_eq!(decoded("/users/0/user/client-key-data"), *asker.key.pem());
        assert_eq!(document["current-context"], "bee");
        assert_eq!(document["contexts"][0]["context"], json!({ "cluster": "bee", "user": "ann@bee" }));
    }

    #[test]
    fn what_was_sealed_to_another_or_is_of_another_key_is_refused() {
        let (ann, other) = (asker(), asker());
        let (own, theirs) = (certificate(&ann), certificate(&other));
        let with = |server: &str, authority: &str, certificate: &str| json!({ "server": server, "authority": authority, "certificate": certificate });
        let good = with("https://pi-1:6443", &own, &own);
        // one at a time: an answer has room for the longest plan
        let refuses = |response: Box<ConsoleResponse>, why: &str| {
            let trouble = ann.open(&response).map(|_| ()).unwrap_err();
            assert!(trouble.why.contains(why), "{why}: {trouble}");
            assert_eq!(trouble.exit, ExitCode::Failed);
        };
        refuses(answer(&other, &good), "not sealed to this console");
        let mut of_another_request = answer(&ann, &good);
        of_another_request.id = "r-2".parse().unwrap();
        refuses(of_another_request, "not sealed to this console");
        let mut empty = answer(&ann, &good);
        empty.sealed = None;
        refuses(empty, "started again");
        refuses(answer(&ann, &with("https://pi-1:6443", &own, &theirs)), "not of the key");
        refuses(answer(&ann, &with("https://pi-1:6443", &own, "")), "not of the key");
        refuses(answer(&ann, &with("https://pi-1:6443", "", &own)), "no PEM");
        refuses(answer(&ann, &with("http://pi-1:6443", &own, &own)), "https://");
        refuses(answer(&ann, &json!({ "server": 1 })), "no certificate");
    }

    #[test]
    fn it_is_written_for_its_owner_alone_and_over_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let kubeconfig = Kubeconfig { text: Zeroizing::new("x".to_owned()), server: String::new() };
        write(&path, &kubeconfig).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let trouble = write(&path, &kubeconfig).unwrap_err();
        assert_eq!((trouble.exit, trouble.code.as_str()), (ExitCode::Refused, "file-exists"));
        let trouble = write(&folder.path().join("no/config"), &kubeconfig).unwrap_err();
        assert_eq!(trouble.code, "file");
    }

    #[test]
    fn nothing_of_the_keys_is_in_a_debug_output() {
        let asker = asker();
        let shown = format!("{asker:?}");
        let secret = STANDARD.encode(asker.key.pem().as_bytes());
        assert!(!shown.contains("PRIVATE") && !shown.contains(&secret), "{shown}");
    }
}
