//! Access keys, their secrets, and who holds them.
//!
//! Guarantees: a look-up tells nothing but "unknown" about keys that do not exist; secrets are compared
//! in constant time, zeroized on drop and hidden from `Debug`. Leaves signatures to the front door.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, RwLock};

use granary_types::ClusterId;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::identity::Identity;

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

struct Entry {
    secret: Secret,
    identity: Arc<Identity>,
}

/// The known access keys. Cheap to read from many threads.
#[derive(Default)]
pub struct Credentials {
    by_access_key: RwLock<HashMap<String, Entry>>,
}

impl Credentials {
    /// No keys at all: everything is refused.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Just the root keys.
    ///
    /// # Errors
    /// [`AccessKeyError`] when the access key is malformed.
    pub fn with_root(access_key: &str, secret: Secret, owner: Owner) -> Result<Self, AccessKeyError> {
        let credentials = Self::new();
        credentials.put(access_key, secret, Arc::new(owner), true)?;
        Ok(credentials)
    }

    /// Adds an access key, or exchanges its secret.
    ///
    /// # Errors
    /// [`AccessKeyError::AccessKey`] when the access key is malformed.
    pub fn put(
        &self,
        access_key: &str,
        secret: Secret,
        owner: Arc<Owner>,
        is_root: bool,
    ) -> Result<(), AccessKeyError> {
        check_access_key(access_key)?;
        let identity = Arc::new(Identity { is_root, ..Identity::root(access_key, owner) });
        self.write().insert(access_key.to_owned(), Entry { secret, identity });
        Ok(())
    }

    /// Forgets an access key; whether there was one.
    pub fn remove(&self, access_key: &str) -> bool {
        self.write().remove(access_key).is_some()
    }

    /// The secret of an access key, to verify a signature with.
    #[must_use]
    pub fn secret(&self, access_key: &str) -> Option<Secret> {
        self.read().get(access_key).map(|entry| entry.secret.clone())
    }

    /// Who an access key stands for.
    #[must_use]
    pub fn identity(&self, access_key: &str) -> Option<Arc<Identity>> {
        self.read().get(access_key).map(|entry| Arc::clone(&entry.identity))
    }

    /// Who holds this key pair, if it is right (for the admin port; S3 requests are signed instead).
    #[must_use]
    pub fn verify(&self, access_key: &str, secret: &str) -> Option<Arc<Identity>> {
        self.read()
            .get(access_key)
            .filter(|entry| entry.secret.matches(secret))
            .map(|entry| Arc::clone(&entry.identity))
    }

    // A poisoned lock means a panic between two plain map operations; the map itself is whole.
    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Entry>> {
        self.by_access_key.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Entry>> {
        self.by_access_key.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} access keys)", self.read().len())
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

    fn credentials() -> Credentials {
        let owner = Owner::root(ClusterId([7; 16]));
        Credentials::with_root("AKIATEST", Secret::new("very-secret-key".into()).unwrap(), owner).unwrap()
    }

    #[test]
    fn knows_its_keys_and_no_others() {
        let known = credentials();
        let root = known.identity("AKIATEST").unwrap();
        assert!(root.is_root);
        assert_eq!(root.owner.id.len(), 64);
        assert_eq!(known.secret("AKIATEST").unwrap().expose(), "very-secret-key");
        assert!(known.secret("akiatest").is_none());
        assert!(known.verify("AKIATEST", "very-secret-key").is_some());
        assert!(known.verify("AKIATEST", "very-secret-kez").is_none());
        assert!(known.remove("AKIATEST"));
        assert!(known.identity("AKIATEST").is_none());
    }

    #[test]
    fn debug_shows_no_secret() {
        let known = credentials();
        let shown = format!("{known:?} {:?} {:?}", known.secret("AKIATEST"), known.identity("AKIATEST"));
        assert!(!shown.contains("very-secret"), "{shown}");
    }

    #[test]
    fn malformed_keys_are_refused_without_showing_them() {
        assert_eq!(Secret::new("short".into()).err(), Some(AccessKeyError::Secret));
        assert_eq!(Secret::new("has a space in it".into()).err(), Some(AccessKeyError::Secret));
        let owner = Arc::new(Owner::root(ClusterId([1; 16])));
        for bad in ["", "ab", "a/b/c", "späte"] {
            let secret = Secret::new("long-enough".into()).unwrap();
            assert_eq!(Credentials::new().put(bad, secret, Arc::clone(&owner), false), Err(AccessKeyError::AccessKey));
        }
    }
}
