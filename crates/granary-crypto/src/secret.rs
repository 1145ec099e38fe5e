//! 32 secret bytes that are wiped when dropped and never printed.

use std::fmt;

use aws_lc_rs::hkdf;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A 256-bit secret. Not `Clone`, not `Copy`, not serialisable: it leaves this crate wrapped or by
/// [`Secret32::expose`], which is easy to find.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret32([u8; 32]);

impl Secret32 {
    /// A fresh one from the system's random generator.
    ///
    /// # Panics
    /// If the system has no randomness to give; nothing safe can be done then.
    #[must_use]
    pub fn random() -> Self {
        let mut secret = Self([0; 32]);
        fill_random(&mut secret.0);
        secret
    }

    /// From bytes that the caller wipes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Takes these bytes instead, of which there must be 32.
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        self.0.copy_from_slice(bytes);
    }

    /// The bytes. For ciphers only: not to be stored or logged.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Another secret for one purpose: HKDF-SHA-256 (RFC 5869) with `label` as salt and `context` as info.
    /// Different labels or contexts give independent secrets, none of which tells of this one.
    #[must_use]
    pub fn derive(&self, label: &str, context: &[u8]) -> Self {
        let mut derived = Self([0; 32]);
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, label.as_bytes()).extract(&self.0);
        let info = [context];
        prk.expand(&info, hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut derived.0))
            .expect("32 bytes are one HKDF-SHA-256 block");
        derived
    }

    /// A copy, wiped like this one.
    #[must_use]
    pub const fn duplicate(&self) -> Self {
        Self(self.0)
    }
}

impl PartialEq for Secret32 {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret32 {}

impl fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret32(..)")
    }
}

/// Random bytes from aws-lc's generator.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the system gives randomness");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_and_derivation_separates() {
        let secret = Secret32::from_bytes([0x5a; 32]);
        let shown = format!("{secret:?} {secret:#?}");
        assert!(!shown.contains("5a") && !shown.contains("90"), "{shown}");
        let a = secret.derive("log", b"1");
        assert_eq!(a, secret.derive("log", b"1"));
        assert_ne!(a, secret.derive("log", b"2"));
        assert_ne!(a, secret.derive("index", b"1"));
        assert_ne!(Secret32::random(), Secret32::random());
        assert_eq!(secret.duplicate(), secret);
    }
}
