//! Signatures that others can check without this node: Ed25519 (RFC 8032).
//!
//! The private key leaves this crate only sealed. What is signed always begins with a line that says what for, so that a
//! signature made for one purpose is none for another.

use std::fmt;

use aws_lc_rs::encoding::AsBigEndian as _;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::blob::BlobKey;
use crate::error::{CryptoError, OpenError, Result};

/// Bytes of a public key.
pub const PUBLIC_KEY_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;
const WHAT: &str = "the signing key";
const AAD: &[u8] = b"granary signing key v1";

/// A key that signs.
pub struct Signer {
    pair: Ed25519KeyPair,
}

impl Signer {
    /// A new key.
    ///
    /// # Errors
    /// [`CryptoError::Format`] if the library makes none.
    pub fn generate() -> Result<Self> {
        let pair = Ed25519KeyPair::generate().map_err(|_| failed("could not be made"))?;
        Ok(Self { pair })
    }

    /// The key, sealed.
    ///
    /// # Errors
    /// [`CryptoError::Format`] if the library does not give it out.
    pub fn seal(&self, key: &BlobKey) -> Result<Vec<u8>> {
        let seed = self.pair.seed().map_err(|_| failed("has no seed"))?;
        let bytes: aws_lc_rs::encoding::Curve25519SeedBin<'_> =
            seed.as_be_bytes().map_err(|_| failed("has no seed"))?;
        Ok(key.seal(AAD, bytes.as_ref()))
    }

    /// The inverse of [`Signer::seal`].
    ///
    /// # Errors
    /// [`CryptoError::Open`], [`CryptoError::Format`].
    pub fn open(key: &BlobKey, sealed: &[u8]) -> Result<Self> {
        let seed = key.open(AAD, sealed).map_err(|OpenError| CryptoError::Open { what: WHAT })?;
        let seed = zeroize::Zeroizing::new(seed);
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| failed("is not a key"))?;
        Ok(Self { pair })
    }

    /// The public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; PUBLIC_KEY_BYTES] {
        let mut out = [0; PUBLIC_KEY_BYTES];
        out.copy_from_slice(self.pair.public_key().as_ref());
        out
    }

    /// Signs `message` for `purpose`.
    #[must_use]
    pub fn sign(&self, purpose: &str, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut out = [0; SIGNATURE_BYTES];
        out.copy_from_slice(self.pair.sign(&framed(purpose, message)).as_ref());
        out
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(..)")
    }
}

/// Whether `signature` is one of `message` for `purpose` by the holder of `public_key`.
#[must_use]
pub fn is_signature(public_key: &[u8], purpose: &str, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(&framed(purpose, message), signature).is_ok()
}

fn framed(purpose: &str, message: &[u8]) -> Vec<u8> {
    [purpose.as_bytes(), b"\n", message].concat()
}

fn failed(why: &str) -> CryptoError {
    CryptoError::Format { what: WHAT, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret32;

    #[test]
    fn signatures_are_of_one_message_for_one_purpose_by_one_key() {
        let signer = Signer::generate().unwrap();
        let public = signer.public_key();
        let signature = signer.sign("p", b"message");
        assert!(is_signature(&public, "p", b"message", &signature));
        assert!(!is_signature(&public, "q", b"message", &signature));
        assert!(!is_signature(&public, "p", b"massage", &signature));
        assert!(!is_signature(&Signer::generate().unwrap().public_key(), "p", b"message", &signature));
        assert!(!is_signature(&[], "p", b"message", &signature));
        assert!(!is_signature(&public, "p", b"message", &signature[1..]));
    }

    #[test]
    fn a_sealed_key_comes_back() {
        let key = BlobKey::new(&Secret32::random());
        let signer = Signer::generate().unwrap();
        let sealed = signer.seal(&key).unwrap();
        assert_eq!(Signer::open(&key, &sealed).unwrap().public_key(), signer.public_key());
        assert!(Signer::open(&BlobKey::new(&Secret32::random()), &sealed).is_err());
    }
}
