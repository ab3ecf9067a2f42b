//! A certification request (PKCS #10, RFC 2986) for an operator's key, of which only the key and the signature travel. Both ends
//! write the rest from what they know: the subject is the user who signed the request, so nobody asks in another one's name,
//! and no parser of foreign ASN.1 is needed.
//!
//! ```text
//! CertificationRequestInfo  version 0, subject O=beehive:operators CN=beehive:USER, the key, no attributes
//! signature                 ecdsa-with-SHA256 over it
//! ```

use beehive_mqtt::UserName;
use beehive_mqtt::sign::{ClientKey, ClientProof};
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use rustls::SignatureScheme;
use zeroize::Zeroizing;

/// The group that operators are in, for Kubernetes. The cluster has to be told what it may do; `system:masters` cannot be asked
/// for by anybody (kubernetes.io, "Certificate Signing Requests", admission plugin `CertificateSubjectRestriction`).
pub const OPERATORS: &str = "beehive:operators";

/// What stands before a user's name, for Kubernetes: no other authenticator's users are called so.
const USER: &str = "beehive:";

/// DER (X.690): the kinds of elements that are needed here.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTF8_STRING: u8 = 0x0c;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// No attributes: an empty set under the tag 0.
const NO_ATTRIBUTES: [u8; 2] = [0xa0, 0];

/// Whole elements: the object identifiers of RFC 5280 and RFC 5480.
const ORGANISATION: [u8; 5] = [0x06, 3, 0x55, 0x04, 0x0a];
const COMMON_NAME: [u8; 5] = [0x06, 3, 0x55, 0x04, 0x03];
const EC_PUBLIC_KEY: [u8; 9] = [0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P_256: [u8; 10] = [0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ECDSA_WITH_SHA256: [u8; 10] = [0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// Why there is no certification request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertifyError {
    /// The signature is not the key's.
    #[error("the key that is to be certified has not signed the request for it")]
    Proof,
    /// No key could be made.
    #[error("no key could be made: {0}")]
    Key(String),
}

/// An element of DER. Nothing here is longer than 65,535 bytes.
fn element(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut bytes = vec![kind];
    match (u8::try_from(content.len()), u16::try_from(content.len())) {
        (Ok(short), _) if short < 0x80 => bytes.push(short),
        (Ok(byte), _) => bytes.extend([0x81, byte]),
        (Err(_), length) => {
            bytes.push(0x82);
            bytes.extend(length.unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    bytes.extend(content);
    bytes
}

fn name(kind: &[u8], text: &str) -> Vec<u8> {
    let text = element(UTF8_STRING, &[text.as_bytes()]);
    element(SET, &[&element(SEQUENCE, &[kind, &text])])
}

/// What is signed.
fn info(user: &UserName, key: &ClientKey) -> Vec<u8> {
    let subject = element(SEQUENCE, &[&name(&ORGANISATION, OPERATORS), &name(&COMMON_NAME, &format!("{USER}{user}"))]);
    let algorithm = element(SEQUENCE, &[&EC_PUBLIC_KEY, &P_256]);
    let key = element(SEQUENCE, &[&algorithm, &element(BIT_STRING, &[&[0], &key.0])]);
    element(SEQUENCE, &[&element(INTEGER, &[&[0]]), &subject, &key, &NO_ATTRIBUTES])
}

/// A signature as certificates have it: two numbers of as many bytes as they need.
fn as_der(proof: &ClientProof) -> Vec<u8> {
    let number = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len().saturating_sub(1));
        let bytes = bytes.get(zeros..).unwrap_or_default();
        // the highest bit would make it negative
        let sign: &[u8] = if bytes.first().is_some_and(|byte| *byte >= 0x80) { &[0] } else { &[] };
        element(INTEGER, &[sign, bytes])
    };
    let (r, s) = proof.0.split_at(32);
    element(SEQUENCE, &[&number(r), &number(s)])
}

/// The two numbers of such a signature; none if it is none.
fn from_der(signature: &[u8]) -> Option<ClientProof> {
    let mut proof = [0; 64];
    let mut rest = signature.strip_prefix(&[SEQUENCE])?.split_first()?.1;
    for room in proof.chunks_exact_mut(32) {
        let (length, after) = rest.strip_prefix(&[INTEGER])?.split_first()?;
        let (number, after) = after.split_at_checked(usize::from(*length))?;
        rest = after;
        let number = match number {
            [0, number @ ..] => number,
            number => number,
        };
        let from = room.len().checked_sub(number.len())?;
        room.get_mut(from..)?.copy_from_slice(number);
    }
    rest.is_empty().then_some(ClientProof(proof))
}

fn is_signed(key: &ClientKey, message: &[u8], signature: &[u8]) -> bool {
    let provider = rustls::crypto::ring::default_provider();
    let known = provider.signature_verification_algorithms.mapping.iter();
    let fitting = known.filter(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256);
    fitting
        .flat_map(|(_, algorithms)| *algorithms)
        .any(|algorithm| algorithm.verify_signature(&key.0, message, signature).is_ok())
}

/// The certification request of `user` for `key`, in DER.
///
/// # Errors
/// If the proof is not the key's signature for this very user.
pub fn certification_request(user: &UserName, key: &ClientKey, proof: &ClientProof) -> Result<Vec<u8>, CertifyError> {
    let (info, signature) = (info(user, key), as_der(proof));
    if !is_signed(key, &info, &signature) {
        return Err(CertifyError::Proof);
    }
    let algorithm = element(SEQUENCE, &[&ECDSA_WITH_SHA256]);
    Ok(element(SEQUENCE, &[&info, &algorithm, &element(BIT_STRING, &[&[0], &signature])]))
}

/// A key of an operator's that is to be certified. It leaves this machine in nothing but the operator's own file.
pub struct OperatorKey {
    pair: KeyPair,
    public: ClientKey,
}

impl std::fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OperatorKey({})", self.public)
    }
}

impl OperatorKey {
    /// A new one, from the system's randomness.
    ///
    /// # Errors
    /// If none can be made.
    pub fn generate() -> Result<Self, CertifyError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256);
        let pair = pair.map_err(|error| CertifyError::Key(error.to_string()))?;
        let bytes = <[u8; 65]>::try_from(pair.der_bytes());
        let bytes = bytes.map_err(|_| CertifyError::Key("it is not of the curve P-256".to_owned()))?;
        Ok(Self { pair, public: ClientKey(bytes) })
    }

    /// The public key.
    pub fn public(&self) -> &ClientKey {
        &self.public
    }

    /// The signature of the certification request of `user`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn proof(&self, user: &UserName) -> Result<ClientProof, CertifyError> {
        let signature = self.pair.sign(&info(user, &self.public));
        let signature = signature.map_err(|error| CertifyError::Key(error.to_string()))?;
        from_der(&signature).ok_or(CertifyError::Proof)
    }

    /// The private key as PEM (PKCS #8), for the operator's file.
    pub fn pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.pair.serialize_pem())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn user(name: &str) -> UserName {
        name.parse().unwrap()
    }

    #[test]
    fn the_request_is_the_one_that_a_library_writes() {
        let key = OperatorKey::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, OPERATORS);
        params.distinguished_name.push(rcgen::DnType::CommonName, "beehive:ann");
        let library = params.serialize_request(&key.pair).unwrap();
        let ours = certification_request(&user("ann"), key.public(), &key.proof(&user("ann")).unwrap()).unwrap();
        // the signature is another one each time
        let info = info(&user("ann"), key.public());
        let holds = |bytes: &[u8]| bytes.windows(info.len()).position(|window| window == info);
        assert_eq!((holds(library.der()), holds(&ours)), (holds(&ours), holds(library.der())));
        assert!(holds(&ours).is_some_and(|at| at <= 4));
        let tail = [element(SEQUENCE, &[&ECDSA_WITH_SHA256])].concat();
        for request in [library.der().as_ref(), &ours] {
            let after = &request[holds(request).unwrap() + info.len()..];
            assert_eq!(&after[..tail.len()], tail);
        }
    }

    #[test]
    fn nobody_asks_in_another_ones_name_or_with_another_ones_key() {
        let (key, other) = (OperatorKey::generate().unwrap(), OperatorKey::generate().unwrap());
        let proof = key.proof(&user("ann")).unwrap();
        assert!(certification_request(&user("ann"), key.public(), &proof).is_ok());
        assert_eq!(certification_request(&user("bob"), key.public(), &proof), Err(CertifyError::Proof));
        assert_eq!(certification_request(&user("ann"), other.public(), &proof), Err(CertifyError::Proof));
        let mut altered = proof;
        altered.0[40] ^= 1;
        assert_eq!(certification_request(&user("ann"), key.public(), &altered), Err(CertifyError::Proof));
        let nothing = ClientProof([0; 64]);
        assert_eq!(certification_request(&user("ann"), &ClientKey([0; 65]), &nothing), Err(CertifyError::Proof));
    }

    #[test]
    fn signatures_keep_their_numbers_in_both_forms() {
        let mut proofs: Vec<ClientProof> = vec![ClientProof([0; 64]), ClientProof([0x80; 64]), ClientProof([0xff; 64])];
        let mut small = [0; 64];
        (small[31], small[60]) = (1, 0x80);
        proofs.push(ClientProof(small));
        let key = OperatorKey::generate().unwrap();
        // a number with a leading zero comes once in 128 signatures
        proofs.extend((0..600).map(|_| key.proof(&user("ann")).unwrap()));
        for proof in proofs {
            assert_eq!(from_der(&as_der(&proof)), Some(proof));
        }
        for wrong in [&[][..], &[SEQUENCE], &[SEQUENCE, 2, INTEGER, 9], &[SEQUENCE, 6, 2, 1, 1, 2, 1, 1, 0]] {
            assert_eq!(from_der(wrong), None);
        }
    }

    #[test]
    fn a_private_key_is_shown_by_no_debug() {
        let key = OperatorKey::generate().unwrap();
        assert!(key.pem().contains("PRIVATE KEY"));
        assert_eq!(format!("{key:?}"), format!("OperatorKey({})", key.public()));
    }
}
