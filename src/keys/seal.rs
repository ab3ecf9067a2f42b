//! Secrets that only one node can open: HPKE (RFC 9180) with X25519, HKDF-SHA256 and ChaCha20-Poly1305, by the crate
//! `hpke` (not audited in this version). What is sealed is bound to a context: it opens nowhere else.

use std::fmt;

use beehive_mqtt::sign::SealKey;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _};
use zeroize::Zeroizing;

type Secret = <X25519HkdfSha256 as Kem>::PrivateKey;
type Public = <X25519HkdfSha256 as Kem>::PublicKey;
type Encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey;

/// An encapsulated key of X25519 in front of what is sealed.
const ENCAPSULATED_BYTES: usize = 32;

/// The tag behind it.
const TAG_BYTES: usize = 16;

/// What sealing adds to a secret.
pub const OVERHEAD_BYTES: usize = ENCAPSULATED_BYTES + TAG_BYTES;

/// What every seal of ours is bound to, beside its context.
const INFO: &[u8] = b"beehive seal 1";

/// Why something cannot be sealed or opened. It says nothing of the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key is none.
    #[error("the node's key to seal to is not a key of X25519; rotate that node's keys")]
    Key,
    /// It was sealed to another node, for another context, or it was altered.
    #[error("it was not sealed to this node for this purpose, or it was altered on the way")]
    Sealed,
}

/// The key that opens what is sealed to it.
pub struct Opener(Secret);

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({})", self.public())
    }
}

impl Opener {
    /// The key of 32 random bytes.
    ///
    /// # Errors
    /// If they are none; no 32 bytes are known for which that is so.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, SealError> {
        Secret::from_bytes(seed).map(Self).map_err(|_| SealError::Key)
    }

    /// The public key, for the manifest.
    pub fn public(&self) -> SealKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&X25519HkdfSha256::sk_to_pk(&self.0).to_bytes());
        SealKey(bytes)
    }

    /// The seed, for its file.
    pub(crate) fn seed(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(&self.0.to_bytes());
        bytes
    }

    /// Opens what was sealed to this key for `context`.
    ///
    /// # Errors
    /// If it was not, or was altered.
    pub fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if sealed.len() < OVERHEAD_BYTES {
            return Err(SealError::Sealed);
        }
        let (encapsulated, rest) = sealed.split_at(ENCAPSULATED_BYTES);
        let encapsulated = Encapsulated::from_bytes(encapsulated).map_err(|_| SealError::Sealed)?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.0,
            &encapsulated,
            INFO,
            rest,
            context,
        )
        .map(Zeroizing::new)
        .map_err(|_| SealError::Sealed)
    }
}

/// Seals `secret` to `key` for `context`.
///
/// # Errors
/// If `key` is none.
pub fn seal(key: &SealKey, secret: &[u8], context: &[u8]) -> Result<Vec<u8>, SealError> {
    let key = Public::from_bytes(&key.0).map_err(|_| SealError::Key)?;
    let (encapsulated, rest) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &key,
        INFO,
        secret,
        context,
    )
    .map_err(|_| SealError::Key)?;
    let mut sealed = encapsulated.to_bytes().to_vec();
    sealed.extend(rest);
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_opens_it_and_only_for_its_purpose() {
        let (node, other) = (Opener::from_seed(&[7; 32]).unwrap(), Opener::from_seed(&[8; 32]).unwrap());
        let sealed = seal(&node.public(), b"K10::hunter2", b"bee/pi-2/op1/boot1").unwrap();
        assert_eq!(sealed.len(), b"K10::hunter2".len() + OVERHEAD_BYTES);
        assert_eq!(node.open(&sealed, b"bee/pi-2/op1/boot1").unwrap().as_slice(), b"K10::hunter2");
        assert_eq!(node.open(&sealed, b"bee/pi-2/op2/boot1"), Err(SealError::Sealed));
        assert_eq!(other.open(&sealed, b"bee/pi-2/op1/boot1"), Err(SealError::Sealed));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(node.open(&altered, b"bee/pi-2/op1/boot1"), Err(SealError::Sealed), "byte {at}");
            assert_eq!(node.open(&sealed[..at], b"bee/pi-2/op1/boot1"), Err(SealError::Sealed), "cut at {at}");
        }
        // the same secret looks different each time
        assert_ne!(sealed, seal(&node.public(), b"K10::hunter2", b"bee/pi-2/op1/boot1").unwrap());
        assert!(!format!("{node:?}").contains("0707"));
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        // of small order: everybody could open what is sealed to it
        assert_eq!(seal(&SealKey([0; 32]), b"x", b""), Err(SealError::Key));
    }
}
