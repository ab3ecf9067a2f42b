//! The credential with which a Pi joins a real cluster: a bootstrap token, which k3s and kubeadm both know as a Secret of the
//! kind `bootstrap.kubernetes.io/token`, and what the joining Pi needs to know the cluster's authority by. The coordinator
//! mints it through the API; the engine of the joining Pi takes from it what its program wants.
//!
//! Sources: kubernetes.io, "Authenticating with Bootstrap Tokens" and `kubeadm join`
//! (`--discovery-token-ca-cert-hash`); docs.k3s.io, "k3s token" (secure format `K10<sha256 of the CA's PEM>::<credential>`).

use std::fmt;

use beehive_cluster::kube::JoinCredential;
use zeroize::Zeroizing;

/// What such a credential begins with, so that one of another engine is named as such.
const SCHEME: &str = "beehive-token-1";

/// A bootstrap token and the authority of the cluster that it opens. `Debug` hides the token.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    /// Six characters of `[a-z0-9]`; not secret.
    pub id: String,
    /// Sixteen characters of `[a-z0-9]`.
    pub secret: Zeroizing<String>,
    /// The SHA-256 of the authority's certificate as PEM, as the file has it: 64 lower-case hexadecimal digits. k3s wants it.
    pub authority_pem_sha256: String,
    /// The SHA-256 of the authority's public key (SubjectPublicKeyInfo): 64 lower-case hexadecimal digits. kubeadm wants it.
    pub authority_key_sha256: String,
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootstrapToken({}.…)", self.id)
    }
}

impl BootstrapToken {
    /// As it travels, sealed.
    pub fn credential(&self) -> Option<JoinCredential> {
        let text = Zeroizing::new(format!(
            "{SCHEME} {}.{} {} {}",
            self.id,
            self.secret.as_str(),
            self.authority_pem_sha256,
            self.authority_key_sha256
        ));
        Self::parse(&JoinCredential::new(&text)?)?;
        JoinCredential::new(&text)
    }

    /// What [`Self::credential`] made; none if anything of it is not as it has to be.
    pub fn parse(credential: &JoinCredential) -> Option<Self> {
        let mut words = credential.reveal().split(' ');
        let (scheme, token, pem, key) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let (id, secret) = token.split_once('.')?;
        let is_token = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let good = scheme == SCHEME && is_token(id, 6) && is_token(secret, 16) && is_hash(pem) && is_hash(key);
        (good && words.next().is_none()).then(|| Self {
            id: id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
            authority_pem_sha256: pem.to_owned(),
            authority_key_sha256: key.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_token_travels_as_it_is_and_nothing_else_passes_for_one() {
        let token = BootstrapToken {
            id: "abc123".to_owned(),
            secret: Zeroizing::new("0123456789abcdef".to_owned()),
            authority_pem_sha256: "a".repeat(64),
            authority_key_sha256: "0".repeat(64),
        };
        let credential = token.credential().unwrap();
        assert_eq!(BootstrapToken::parse(&credential).unwrap(), token);
        assert_eq!(format!("{token:?}"), "BootstrapToken(abc123.…)");

        let text = credential.reveal().to_owned();
        for bad in [
            String::new(),
            text.replace(SCHEME, "beehive-simulated-1"),
            text.replace("abc123", "abc12"),
            text.replace("abc123", "abc12;"),
            text.replace("abcdef", "abcdeF"),
            text.replace(&"0".repeat(64), &"0".repeat(63)),
            format!("{text} more"),
        ] {
            assert_eq!(BootstrapToken::parse(&JoinCredential::new(&bad).unwrap()), None, "{bad}");
        }
        assert!(BootstrapToken { id: "UPPER1".to_owned(), ..token }.credential().is_none());
    }
}
