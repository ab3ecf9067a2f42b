//! Certificates: the broker's, which the crew's authority signs, and one for each identity, which the broker knows by
//! heart.
//!
//! Facts it rests on (mosquitto 2.0.11, tried; see `docs/decisions/12-certificates.md`):
//! - A certificate that is valid may connect; the access rules only decide what it may read and write. The one list that
//!   refuses a connection without ever running out is the list of certificates that the broker trusts (`cafile`). A user's
//!   or tool's certificate is signed by itself and stands in that list. A node has an [`Anchor`] of its own there, which
//!   signs that node's certificate and may sign no other name's, so that a node's new key asks for no change of the list. Who
//!   is in it neither way is not let in.
//! - A Pi has no clock until it has reached a time server, and the broker runs on a Pi: what begins later than 1970 is
//!   not valid yet there, and what ends is a day on which the whole crew stops. So certificates are valid from the first
//!   second of 1970 to the last of 9999 (RFC 5280, 4.1.2.5: no well-defined end).
//! - The host name of the broker says nothing in a crew whose addresses come and go; the broker's certificate bears
//!   [`server_name`], and the link asks for that one.

use beehive_mqtt::sign::ClientKey;
use beehive_mqtt::{CrewName, NodeName, UserName};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SignatureAlgorithm, date_time_ymd,
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

/// A public key of somebody else's, for its certificate.
struct Theirs<'a>(&'a ClientKey);

impl PublicKeyData for Theirs<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
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
        let key = KeyPair::generate().map_err(failed(BROKER))?;
        let certificate = self.certify_broker(&key, also)?;
        Ok(Pair { certificate, key: PrivateKey::new(key.serialize_pem()) })
    }

    /// The same for a key that the broker's machine made.
    ///
    /// # Errors
    /// As [`Authority::broker`].
    pub fn broker_with(&self, key: &ClientKey, also: &[String]) -> Result<String, CertificateError> {
        self.certify_broker(&Theirs(key), also)
    }

    fn certify_broker(&self, key: &impl PublicKeyData, also: &[String]) -> Result<String, CertificateError> {
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
            .map_err(failed(BROKER))?;
        let issuer = Issuer::new(Self::params(&self.crew), &self.key);
        Ok(params.signed_by(key, &issuer).map_err(failed(BROKER))?.pem())
    }
}

/// Whose certificate could not be made.
const BROKER: &str = "the broker";

/// The common name of every anchor; a space is in nobody's name at the broker. Whose it is stands beside it.
const ANCHOR: &str = "beehive anchor";

/// What vouches for one node, and for no other name: the broker trusts it, its key stays in the crew's folder. A node's key is
/// made on the node, and its certificate is signed here; revoking a node is leaving its anchor out of the broker's list.
pub struct Anchor {
    node: NodeName,
    key: KeyPair,
}

impl fmt::Debug for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anchor").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Anchor {
    /// A new one, and its pair for the crew's folder.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn generate(node: &NodeName) -> Result<(Self, Pair), CertificateError> {
        let key = KeyPair::generate().map_err(failed(node.as_str()))?;
        let certificate = Self::params(node).self_signed(&key).map_err(failed(node.as_str()))?.pem();
        let pair = Pair { certificate, key: PrivateKey::new(key.serialize_pem()) };
        Ok((Self { node: node.clone(), key }, pair))
    }

    /// The one whose key was kept.
    ///
    /// # Errors
    /// If that is no such key.
    pub fn load(node: &NodeName, key: &PrivateKey) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(key.expose()).map_err(failed(node.as_str()))?;
        Ok(Self { node: node.clone(), key })
    }

    fn params(node: &NodeName) -> CertificateParams {
        let mut params = named(ANCHOR);
        params.distinguished_name.push(DnType::OrganizationalUnitName, node.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.custom_extensions = vec![only(node)];
        params
    }

    /// The node's certificate, with a new key.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn node(&self) -> Result<Pair, CertificateError> {
        let key = KeyPair::generate().map_err(failed(self.node.as_str()))?;
        let certificate = self.certify(&key)?;
        Ok(Pair { certificate, key: PrivateKey::new(key.serialize_pem()) })
    }

    /// The same for a key that the node made.
    ///
    /// # Errors
    /// If the key cannot be certified.
    pub fn node_with(&self, key: &ClientKey) -> Result<String, CertificateError> {
        self.certify(&Theirs(key))
    }

    fn certify(&self, key: &impl PublicKeyData) -> Result<String, CertificateError> {
        let mut params = client(self.node.as_str());
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::new(Self::params(&self.node), &self.key);
        Ok(params.signed_by(key, &issuer).map_err(failed(self.node.as_str()))?.pem())
    }
}

/// Name constraints (RFC 5280, 4.2.1.10): whoever had this key could pass for this node and for nobody else. rcgen (0.14.7) writes a
/// directory's name without its outer sequence, and OpenSSL then refuses the whole certificate, so it is written here.
fn only(node: &NodeName) -> CustomExtension {
    // a name has 63 bytes at most, so that every length here fits into one byte
    let element = |kind: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
        [&[kind, length], content].concat()
    };
    let name = element(0x0c, node.as_str().as_bytes());
    let common_name = element(0x30, &[&[0x06, 3, 0x55, 0x04, 0x03], name.as_slice()].concat());
    // a set of one, a sequence of one, in the choice 4 (directoryName), as the one permitted subtree
    let directory = element(0xa4, &element(0x30, &element(0x31, &common_name)));
    let constraints = element(0x30, &element(0xa0, &element(0x30, &directory)));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraints);
    extension.set_criticality(true);
    extension
}

/// A new key for TLS, and its public half.
///
/// # Errors
/// If the system gives no randomness.
pub fn new_key(whose: &str) -> Result<(PrivateKey, ClientKey), CertificateError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed(whose))?;
    Ok((PrivateKey::new(key.serialize_pem()), public_of(&key, whose)?))
}

/// The public half of a key of [`new_key`].
///
/// # Errors
/// If it is no such key.
pub fn public_half(key: &PrivateKey, whose: &str) -> Result<ClientKey, CertificateError> {
    public_of(&KeyPair::from_pem(key.expose()).map_err(failed(whose))?, whose)
}

fn public_of(key: &KeyPair, whose: &str) -> Result<ClientKey, CertificateError> {
    let bytes = key.der_bytes().try_into().map_err(|_| failed(whose)(rcgen::Error::UnsupportedSignatureAlgorithm))?;
    Ok(ClientKey(bytes))
}

/// What the certificate of one who connects says: it can vouch for nobody else.
fn client(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A certificate for one who connects, with a new key, signed by itself. It can vouch for nobody else: it is no
/// authority, and says so.
///
/// # Errors
/// If the system gives no randomness.
pub fn identity(who: &Identity) -> Result<Pair, CertificateError> {
    let name = who.common_name();
    let params = client(&name);
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
