//! Certificates: the broker's, which the crew's authority signs, and one for each identity, which the broker knows by
//! heart.
//!
//! Facts it rests on (mosquitto 2.0.11, tried; see `docs/decisions/12-certificates.md`):
//! - A certificate that is valid may connect; the access rules only decide what it may read and write. The one list that
//!   refuses a connection without ever running out is the list of certificates that the broker trusts (`cafile`). So
//!   each identity's certificate is signed by itself and stands in that list; who is not in it is not let in.
//! - A Pi has no clock until it has reached a time server, and the broker runs on a Pi: what begins later than 1970 is
//!   not valid yet there, and what ends is a day on which the whole crew stops. So certificates are valid from the first
//!   second of 1970 to the last of 9999 (RFC 5280, 4.1.2.5: no well-defined end).
//! - The host name of the broker says nothing in a crew whose addresses come and go; the broker's certificate bears
//!   [`server_name`], and the link asks for that one.

use beehive_mqtt::{CrewName, NodeName, UserName};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use std::fmt;
use std::net::IpAddr;

/// Somebody who connects to the broker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Identity {
    /// A node's agent; on the master the coordinator, too.
    Node(NodeName),
    /// An operator, a bridge or a watcher.
    User(UserName),
    /// A program that signs nothing and speaks to the bridge, such as Home Assistant.
    Tool(UserName),
}

impl Identity {
    /// The common name of its certificate, which is its name at the broker. At most 63 characters, below the 64 that
    /// X.509 allows; a colon is in no name, so that no user passes for a node.
    pub fn common_name(&self) -> String {
        match self {
            Self::Node(node) => node.as_str().to_owned(),
            Self::User(user) => format!("user:{user}"),
            Self::Tool(tool) => format!("tool:{tool}"),
        }
    }
}

/// The name that the broker's certificate bears, whatever its address. `internal` is set aside for private use.
pub fn server_name(crew: &CrewName) -> String {
    format!("{crew}.beehive.internal")
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8). It goes into a file of mode 0600 and nowhere else.
    pub key: PrivateKey,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A private key in PEM; it is wiped when it is dropped, and shows itself to nobody.
#[derive(Clone)]
pub struct PrivateKey(zeroize::Zeroizing<String>);

impl PrivateKey {
    /// Takes a key.
    pub fn new(pem: String) -> Self {
        Self(zeroize::Zeroizing::new(pem))
    }

    /// The key itself, for its file or the handshake.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// Why no certificate could be made or a key not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the certificate of {whose}: {why}")]
pub struct CertificateError {
    whose: String,
    why: rcgen::Error,
}

fn failed(whose: &str) -> impl Fn(rcgen::Error) -> CertificateError + '_ {
    move |why| CertificateError { whose: whose.to_owned(), why }
}

/// What every certificate has in common: a name, and the validity that the module explains.
fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.not_before = date_time_ymd(1970, 1, 1);
    // the last second of 9999 as the RFC has it would be as good; a day earlier needs no finer constructor
    params.not_after = date_time_ymd(9999, 12, 31);
    params
}

/// The crew's authority: it signs the certificate of the broker and nothing else, so whoever shows one is the broker.
pub struct Authority {
    crew: CrewName,
    key: KeyPair,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("crew", &self.crew).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one, and its pair for `ca.crt` and `ca.key`.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn generate(crew: &CrewName) -> Result<(Self, Pair), CertificateError> {
        let whose = "the crew's authority";
        let key = KeyPair::generate().map_err(failed(whose))?;
        let certificate = Self::params(crew).self_signed(&key).map_err(failed(whose))?.pem();
        let pair = Pair { certificate, key: PrivateKey::new(key.serialize_pem()) };
        Ok((Self { crew: crew.clone(), key }, pair))
    }

    /// The one whose key was kept in `ca.key`.
    ///
    /// # Errors
    /// If that is no such key.
    pub fn load(crew: &CrewName, key: &PrivateKey) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(key.expose()).map_err(failed("the crew's authority"))?;
        Ok(Self { crew: crew.clone(), key })
    }

    fn params(crew: &CrewName) -> CertificateParams {
        let mut params = named(&format!("beehive {crew}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    /// A certificate for the broker, with a new key. `also` are the host names and addresses by which other tools reach
    /// it; the link needs none.
    ///
    /// # Errors
    /// If one of them is neither an address nor a host's name.
    pub fn broker(&self, also: &[String]) -> Result<Pair, CertificateError> {
        let whose = "the broker";
        let mut params = named(&server_name(&self.crew));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let names = std::iter::once(server_name(&self.crew)).chain(also.iter().cloned());
        params.subject_alt_names = names
            .map(|name| match name.parse::<IpAddr>() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => name.as_str().try_into().map(SanType::DnsName),
            })
            .collect::<Result<_, _>>()
            .map_err(failed(whose))?;
        let key = KeyPair::generate().map_err(failed(whose))?;
        let issuer = Issuer::new(Self::params(&self.crew), &self.key);
        let certificate = params.signed_by(&key, &issuer).map_err(failed(whose))?.pem();
        Ok(Pair { certificate, key: PrivateKey::new(key.serialize_pem()) })
    }
}

/// A certificate for one who connects, with a new key, signed by itself. It can vouch for nobody else: it is no
/// authority, and says so.
///
/// # Errors
/// If the system gives no randomness.
pub fn identity(who: &Identity) -> Result<Pair, CertificateError> {
    let name = who.common_name();
    let mut params = named(&name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().map_err(failed(&name))?;
    let certificate = params.self_signed(&key).map_err(failed(&name))?.pem();
    Ok(Pair { certificate, key: PrivateKey::new(key.serialize_pem()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_the_broker_are_short_enough_and_cannot_be_mistaken() {
        let longest = "n".repeat(NodeName::MAX_BYTES);
        assert_eq!(Identity::Node(longest.parse().unwrap()).common_name().len(), 63);
        let user: UserName = "u".repeat(UserName::MAX_BYTES).parse().unwrap();
        for identity in [Identity::User(user.clone()), Identity::Tool(user)] {
            let name = identity.common_name();
            assert!(name.len() <= 64 && name.parse::<NodeName>().is_err(), "{name}");
        }
    }

    #[test]
    fn private_keys_do_not_show_themselves() {
        let crew: CrewName = "c1".parse().unwrap();
        let (authority, pair) = Authority::generate(&crew).unwrap();
        let node = identity(&Identity::Node("n1".parse().unwrap())).unwrap();
        let shown = format!("{authority:?} {pair:?} {node:?} {:?}", authority.broker(&[]).unwrap());
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
        let secret = pair.key.expose().lines().nth(1).unwrap();
        assert!(!shown.contains(secret), "{shown}");
    }

    #[test]
    fn a_host_name_that_is_none_is_refused_and_two_keys_are_never_the_same() {
        let crew: CrewName = "c1".parse().unwrap();
        let (authority, _) = Authority::generate(&crew).unwrap();
        assert!(authority.broker(&["pi-1.local".to_owned(), "192.168.1.5".to_owned()]).is_ok());
        let error = authority.broker(&["pi\u{e4}".to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("cannot make the certificate of the broker: "), "{error}");
        let who = Identity::Node("n1".parse().unwrap());
        assert_ne!(identity(&who).unwrap().key.expose(), identity(&who).unwrap().key.expose());
    }
}
