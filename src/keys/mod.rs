//! Keys: who signs, whom to believe, what is sealed.
//!
//! - [`SignKey`] is an Ed25519 key (RFC 8032, `ed25519-dalek`, strict verification); [`Ed25519`] checks signatures.
//! - [`Identity`] is who we are: a name with its key, from a folder that the crew's owner made (`beehive crew init`).
//! - [`Keyring`] is whom we believe: the crew's public key and the newest [manifest](beehive_mqtt::manifest) that it
//!   signed.
//! - [`Trust`] is both, as a link needs them.
//!
//! A secret is overwritten when it is dropped, is shown by no `Debug`, and goes into files of mode 0600 alone.

mod certify;
mod identity;
mod keyring;
mod place;
mod seal;

pub use certify::{CertifyError, OPERATORS, OperatorKey, certification_request};
pub use identity::{FILE, Identity, IdentityError, crew_key};
pub use keyring::{Changed, Keyring, KeyringError, RECORD, Standing};
pub use place::{CREDENTIALS, KeyPlace};
pub use seal::{OVERHEAD_BYTES, Opener, SealError, seal};

use std::fmt;
use std::sync::Arc;

use beehive_mqtt::Nonce;
use beehive_mqtt::id::IdError;
use beehive_mqtt::sign::{Digest, KeyId, PublicKey, Signature, Signer, Verdict, Verifier};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

/// A key that signs.
pub struct SignKey {
    key: SigningKey,
    id: KeyId,
}

impl SignKey {
    /// A new one, from the system's randomness.
    ///
    /// # Errors
    /// If the system has none.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut())?;
        Ok(Self::from_seed(&seed))
    }

    /// The key of a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let id = PublicKey(key.verifying_key().to_bytes()).id();
        Self { key, id }
    }

    /// The seed, for its file.
    pub(crate) fn seed(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.key.to_bytes())
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }
}

impl fmt::Debug for SignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignKey({})", self.id)
    }
}

impl Signer for SignKey {
    fn key(&self) -> KeyId {
        self.id
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.key.sign(message).to_bytes())
    }
}

/// Checks Ed25519 signatures, strictly: no malleable ones, no keys of small order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ed25519;

impl Verifier for Ed25519 {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> Verdict {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        let good = VerifyingKey::from_bytes(&key.0).is_ok_and(|key| key.verify_strict(message, &signature).is_ok());
        if good { Verdict::Good } else { Verdict::Bad }
    }
}

/// A session that was never used before: 128 bits of the system's randomness.
///
/// # Errors
/// If the system has none.
pub fn new_nonce() -> Result<Nonce, NonceError> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits)?;
    Ok(Digest(bits).to_string().parse()?)
}

/// Why there is no new session.
#[derive(Debug, thiserror::Error)]
pub enum NonceError {
    /// The system has no randomness.
    #[error("the system gives no random bits: {0}")]
    Random(#[from] getrandom::Error),
    /// Cannot be: hexadecimal digits are no name.
    #[error("the session's name {0}")]
    Name(#[from] IdError),
}

/// Who we are and whom we believe. Clones share it.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Our key.
    pub signer: Arc<SignKey>,
    /// Whom we believe.
    pub keyring: Keyring,
    /// Opens what is sealed to us; a node has one.
    pub opener: Option<Arc<Opener>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_message_and_key_alone() {
        let (key, other) = (SignKey::generate().unwrap(), SignKey::generate().unwrap());
        let signature = key.sign(b"reboot");
        assert_eq!(Ed25519.verify(&key.public(), b"reboot", &signature), Verdict::Good);
        assert_eq!(Ed25519.verify(&key.public(), b"rebooT", &signature), Verdict::Bad);
        assert_eq!(Ed25519.verify(&other.public(), b"reboot", &signature), Verdict::Bad);
        let mut altered = signature;
        altered.0[63] ^= 1;
        assert_eq!(Ed25519.verify(&key.public(), b"reboot", &altered), Verdict::Bad);
        // no point of the curve, and the neutral one, for which some verifiers take any signature
        let mut neutral = [0; 32];
        neutral[0] = 1;
        for public in [[0xff; 32], neutral] {
            assert_eq!(Ed25519.verify(&PublicKey(public), b"reboot", &Signature([0; 64])), Verdict::Bad);
        }
    }

    /// RFC 8032, 7.1, test 2.
    #[test]
    fn it_is_the_ed25519_of_the_standard() {
        let seed: PublicKey = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb".parse().unwrap();
        let key = SignKey::from_seed(&seed.0);
        assert_eq!(key.public().to_string(), "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        assert!(
            key.sign(&[0x72])
                .to_string()
                .starts_with("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da")
        );
    }

    #[test]
    fn a_secret_is_not_shown() {
        let key = SignKey::from_seed(&[7; 32]);
        assert!(!format!("{key:?}").contains("0707"));
    }
}
