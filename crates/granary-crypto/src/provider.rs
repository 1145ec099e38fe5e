//! Root keys and who keeps them. A provider never gives a root key away: it wraps and unwraps.
//!
//! [`crate::FileKeyProvider`] and [`MemoryKeyProvider`] keep root keys in memory ([`RootKeys`]); a PKCS#11
//! token or Vault's transit engine implements [`KeyProvider`] without ever having them. A local wrapped
//! key is 81 bytes: version (1) ‖ root key id (8) ‖ XAES nonce (24) ‖ ciphertext (32) ‖ tag (16).

use std::fmt;
use std::str::FromStr;

use granary_types::WrappedKey;

use crate::error::{CryptoError, OpenError, Result};
use crate::keys::{unwrap_bytes, wrap_bytes};
use crate::locked::Locked;
use crate::secret::{Secret32, fill_random};
use crate::xaes::{XNONCE_BYTES, XaesKey};

/// First byte of a key wrapped by a root key in memory.
const LOCAL_WRAP_VERSION: u8 = 1;
/// Root keys in one set, at most: the active one and those being rotated out.
pub const ROOT_KEYS_COUNT_MAX: usize = 64;

/// Wraps and unwraps keys with a root key that never leaves it.
///
/// `context` says what the key is for and is authenticated: a key wrapped for one purpose does not unwrap
/// for another. Calls may block on a device or the network and belong off the hot path (bucket keys are
/// cached above).
pub trait KeyProvider: Send + Sync + 'static {
    /// Wraps `key` under the active root key.
    ///
    /// # Errors
    /// [`CryptoError::Provider`] where the device or service fails.
    fn wrap(&self, context: &[u8], key: &Secret32) -> Result<WrappedKey>;

    /// Unwraps what `wrap` made, with whichever root key made it.
    ///
    /// # Errors
    /// [`CryptoError::Open`] if it is damaged or for another context, [`CryptoError::UnknownRootKey`] if
    /// its root key is not here, [`CryptoError::Format`] if it is none of this provider's.
    fn unwrap(&self, context: &[u8], wrapped: &WrappedKey) -> Result<Secret32>;

    /// What it is, for logs and `granary status`; no secrets.
    fn describe(&self) -> String;

    /// Makes a fresh root key that wraps from now on; older ones still unwrap.
    ///
    /// # Errors
    /// [`CryptoError::Unsupported`] where root keys are not this provider's to make, or the provider's.
    fn rotate(&self) -> Result<()> {
        Err(CryptoError::Unsupported("make a new root key where it is kept, then restart"))
    }

    /// Forgets all root keys but the one that wraps: what they wrapped is lost.
    ///
    /// # Errors
    /// As [`KeyProvider::rotate`].
    fn retire(&self) -> Result<()> {
        Err(CryptoError::Unsupported("remove older root keys where they are kept, then restart"))
    }

    /// Whether calls may block on a device or the network: they are then made on threads of their own.
    fn blocks(&self) -> bool {
        false
    }
}

/// Names a root key; 16 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootKeyId(pub [u8; 8]);

impl fmt::Display for RootKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for RootKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "root key {self}")
    }
}

impl FromStr for RootKeyId {
    type Err = CryptoError;

    fn from_str(text: &str) -> Result<Self> {
        let valid = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let value = valid.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        value
            .map(|v| Self(v.to_be_bytes()))
            .ok_or_else(|| CryptoError::Format { what: "root key id", why: "expected 16 hexadecimal digits".into() })
    }
}

/// Root keys in memory: several, of which the first is active (wraps); all unwrap.
pub struct RootKeys {
    keys: Vec<(RootKeyId, Locked)>,
}

impl RootKeys {
    /// One fresh key.
    #[must_use]
    pub fn generate() -> Self {
        let mut id = [0u8; 8];
        fill_random(&mut id);
        Self { keys: vec![(RootKeyId(id), Locked::new(Secret32::random()))] }
    }

    /// From known keys, the active one first.
    ///
    /// # Errors
    /// [`CryptoError::Format`] for no keys, too many, or one id twice.
    pub fn from_keys(keys: Vec<(RootKeyId, Secret32)>) -> Result<Self> {
        let format = |why: String| CryptoError::Format { what: "root keys", why };
        if keys.is_empty() || keys.len() > ROOT_KEYS_COUNT_MAX {
            return Err(format(format!("{} keys; expected 1 to {ROOT_KEYS_COUNT_MAX}", keys.len())));
        }
        for (at, (id, _)) in keys.iter().enumerate() {
            if keys[..at].iter().any(|(other, _)| other == id) {
                return Err(format(format!("key {id} is there twice")));
            }
        }
        Ok(Self { keys: keys.into_iter().map(|(id, secret)| (id, Locked::new(secret))).collect() })
    }

    /// The same keys and a fresh one, which is active.
    ///
    /// # Errors
    /// [`CryptoError::Format`] for too many.
    pub fn rotated(&self) -> Result<Self> {
        let fresh = Self::generate();
        Self::from_keys(fresh.iter().chain(self.iter()).collect())
    }

    /// The active key alone.
    #[must_use]
    pub fn retired(&self) -> Self {
        let (id, key) = &self.keys[0];
        Self { keys: vec![(*id, Locked::new(key.get()))] }
    }

    /// The active key's id.
    #[must_use]
    pub fn active(&self) -> RootKeyId {
        self.keys[0].0
    }

    /// Ids and copies of the secrets, the active one first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RootKeyId, Secret32)> {
        self.keys.iter().map(|(id, key)| (*id, key.get()))
    }

    pub(crate) fn wrap(&self, context: &[u8], key: &Secret32) -> WrappedKey {
        let (id, held) = &self.keys[0];
        let xaes = XaesKey::new(&held.get());
        let mut nonce = [0u8; XNONCE_BYTES];
        fill_random(&mut nonce);
        let mut out = vec![LOCAL_WRAP_VERSION];
        out.extend_from_slice(&id.0);
        let aad = aad(&out, context);
        let (message_key, short) = xaes.message_key(&nonce);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&wrap_bytes(&message_key, short, &aad, key));
        WrappedKey(out)
    }

    pub(crate) fn unwrap(&self, context: &[u8], wrapped: &WrappedKey) -> Result<Secret32> {
        const WHAT: &str = "key wrapped by the root key";
        let format = |why: &str| CryptoError::Format { what: WHAT, why: why.into() };
        let (head, rest) = wrapped.0.split_first_chunk::<9>().ok_or_else(|| format("cut short"))?;
        if head[0] != LOCAL_WRAP_VERSION {
            return Err(format("a version this key provider does not know"));
        }
        let (nonce, sealed) = rest.split_first_chunk::<XNONCE_BYTES>().ok_or_else(|| format("cut short"))?;
        let mut id = RootKeyId([0; 8]);
        id.0.copy_from_slice(&head[1..]);
        let (_, held) = self.keys.iter().find(|(known, _)| *known == id).ok_or(CryptoError::UnknownRootKey(id))?;
        let xaes = XaesKey::new(&held.get());
        let (message_key, short) = xaes.message_key(nonce);
        unwrap_bytes(&message_key, short, &aad(head, context), sealed)
            .map_err(|OpenError| CryptoError::Open { what: WHAT })
    }
}

/// What is authenticated beside a wrapped key: purpose, version, root key id, context.
fn aad(head: &[u8], context: &[u8]) -> Vec<u8> {
    [b"granary root wrap", head, context].concat()
}

impl fmt::Debug for RootKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(id, ..)| id)).finish()
    }
}

/// Root keys that live and die with the process: for tests.
#[derive(Debug)]
pub struct MemoryKeyProvider {
    keys: RootKeys,
}

impl MemoryKeyProvider {
    /// One fresh root key.
    #[must_use]
    pub fn generate() -> Self {
        Self { keys: RootKeys::generate() }
    }

    /// With known root keys.
    #[must_use]
    pub const fn new(keys: RootKeys) -> Self {
        Self { keys }
    }
}

impl KeyProvider for MemoryKeyProvider {
    fn wrap(&self, context: &[u8], key: &Secret32) -> Result<WrappedKey> {
        Ok(self.keys.wrap(context, key))
    }

    fn unwrap(&self, context: &[u8], wrapped: &WrappedKey) -> Result<Secret32> {
        self.keys.unwrap(context, wrapped)
    }

    fn describe(&self) -> String {
        format!("root key {} in memory, lost with the process", self.keys.active())
    }
}
