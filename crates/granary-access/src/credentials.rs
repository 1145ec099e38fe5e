//! Forms of access keys and secrets, and who owns what they make.
//!
//! Guarantees: secrets are compared in constant time, zeroized on drop and hidden from `Debug`. Leaves signatures to
//! the front door.

use std::fmt;

use granary_types::ClusterId;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Characters in an access key.
const ACCESS_KEY_LEN: std::ops::RangeInclusive<usize> = 3..=128;
/// Characters in a secret.
const SECRET_LEN: std::ops::RangeInclusive<usize> = 8..=128;

/// Why an access key or a secret was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessKeyError {
    /// Length or characters of the access key.
    #[error("an access key has 3 to 128 letters, digits, `-`, `_` or `.`")]
    AccessKey,
    /// Length or characters of the secret (which is never shown).
    #[error("a secret key has 8 to 128 printable ASCII characters without spaces")]
    Secret,
}

/// A secret key. Wiped when dropped; `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over a secret.
    ///
    /// # Errors
    /// [`AccessKeyError::Secret`] when its length or characters are out of bounds.
    pub fn new(text: String) -> Result<Self, AccessKeyError> {
        let text = Zeroizing::new(text);
        if !SECRET_LEN.contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(AccessKeyError::Secret);
        }
        Ok(Self(text))
    }

    /// The secret itself, for signing. Do not log or copy it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `other` is the same secret, in time that depends on the length only.
    #[must_use]
    pub fn matches(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Who owns buckets and objects: S3's canonical user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Canonical id: 64 hexadecimal digits.
    pub id: String,
    /// A name to show beside it.
    pub display_name: String,
}

impl Owner {
    /// The owner behind the root keys. It is made of the cluster's id and not of the access key, so that
    /// exchanging the root keys does not orphan buckets.
    #[must_use]
    pub fn root(cluster: ClusterId) -> Self {
        Self { id: format!("{cluster}{cluster}"), display_name: "root".to_owned() }
    }
}

pub(crate) fn check_access_key(access_key: &str) -> Result<(), AccessKeyError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if ACCESS_KEY_LEN.contains(&access_key.len()) && access_key.bytes().all(fine) {
        Ok(())
    } else {
        Err(AccessKeyError::AccessKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let secret = Secret::new("very-secret-key".into()).unwrap();
        assert!(!format!("{secret:?}").contains("very"));
        assert!(secret.matches("very-secret-key") && !secret.matches("very-secret-kez"));
    }

    #[test]
    fn malformed_keys_are_refused_without_showing_them() {
        assert_eq!(Secret::new("short".into()).err(), Some(AccessKeyError::Secret));
        assert_eq!(Secret::new("has a space in it".into()).err(), Some(AccessKeyError::Secret));
        for bad in ["", "ab", "a/b/c", "späte"] {
            assert_eq!(check_access_key(bad), Err(AccessKeyError::AccessKey));
        }
    }
}
