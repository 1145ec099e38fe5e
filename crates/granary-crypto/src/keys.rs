//! Bucket keys and data keys, and how the one wraps the other.
//!
//! A wrapped data key: version (1) ‖ bucket key generation (4) ‖ nonce tail (8) ‖ ciphertext (n) ‖ tag (16), where
//! the plaintext is what a [`Lock`] made of the data key: 33 bytes where nothing else locks it, 73 where something
//! does. The XAES-256-GCM nonce is the part id (16) ‖ the nonce tail: part ids are random and never used again, so
//! nonces under one bucket key do not repeat however many parts it has. The AAD names purpose, part and head.
//! Wrapping runs on the aes-gcm crate, bulk sealing on aws-lc-rs.

use std::fmt;

use aes_gcm::aead::{Aead as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _};
use granary_types::limits::TAG_BYTES;
use granary_types::{PartId, WrappedKey};

use crate::error::{CryptoError, OpenError, Result};
use crate::locked::Locked;
use crate::locks::Lock;
use crate::secret::{Secret32, fill_random};
use crate::xaes::{XNONCE_BYTES, XaesKey};

/// First byte of a wrapped data key.
const DATA_KEY_VERSION: u8 = 2;
/// Bytes before the ciphertext: version, generation, nonce tail.
const DATA_KEY_HEAD_BYTES: usize = 1 + 4 + NONCE_TAIL_BYTES;
const DATA_KEY: &str = "data key";
/// Bytes of the random tail of a data key's wrapping nonce.
const NONCE_TAIL_BYTES: usize = 8;
/// Bytes of a wrapped data key, at most: far above what the locks there are make.
pub const WRAPPED_DATA_KEY_BYTES_MAX: usize = 256;

/// The key that seals one part and nothing else.
pub struct DataKey(Secret32);

impl DataKey {
    /// A fresh one.
    #[must_use]
    pub fn generate() -> Self {
        Self(Secret32::random())
    }

    /// From known bytes (tests, golden files).
    #[must_use]
    pub const fn from_secret(secret: Secret32) -> Self {
        Self(secret)
    }

    pub(crate) const fn secret(&self) -> &Secret32 {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// One of a bucket's keys, opened and prepared: wrapping and unwrapping a data key costs about a microsecond.
pub struct BucketKey {
    generation: u32,
    /// On a page that is not swapped out: bucket keys stay in memory for minutes.
    key: Locked,
}

impl BucketKey {
    /// A fresh one, of the first generation.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_secret(1, Secret32::random())
    }

    /// From known bytes (tests, golden files).
    #[must_use]
    pub fn from_secret(generation: u32, secret: Secret32) -> Self {
        Self { generation, key: Locked::new(secret) }
    }

    /// Which of its bucket's keys it is: each rotation adds one.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// A copy, wiped when it is dropped.
    pub(crate) fn secret(&self) -> Secret32 {
        self.key.get()
    }

    /// A copy, wiped like this one.
    #[must_use]
    pub(crate) fn duplicate(&self) -> Self {
        Self::from_secret(self.generation, self.secret())
    }

    /// Wraps a part's data key, locked with `lock` first.
    #[must_use]
    pub fn wrap_data_key(&self, key: &DataKey, part: PartId, lock: &Lock<'_>) -> WrappedKey {
        self.wrap_locked(&lock.close(key.secret(), part), part)
    }

    fn wrap_locked(&self, locked: &[u8], part: PartId) -> WrappedKey {
        let mut tail = [0u8; NONCE_TAIL_BYTES];
        fill_random(&mut tail);
        let mut out = Vec::with_capacity(DATA_KEY_HEAD_BYTES + locked.len() + TAG_BYTES);
        out.push(DATA_KEY_VERSION);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&tail);
        let (message_key, nonce) = XaesKey::new(&self.key.get()).message_key(&data_key_nonce(part, tail));
        let sealed = Aes256Gcm::new(message_key.expose().into())
            .encrypt(&nonce.into(), Payload { msg: locked, aad: &data_key_aad(part, &out) })
            .expect("a locked key is far below AES-GCM's limit");
        out.extend_from_slice(&sealed);
        WrappedKey(out)
    }

    /// Opens a part's data key.
    ///
    /// # Errors
    /// [`CryptoError::Format`] for a form this program does not know or another generation of the key,
    /// [`CryptoError::Open`] if it is damaged, of another bucket or of another part, [`CryptoError::WrongKey`] if
    /// `lock` is not what it was locked with.
    pub fn unwrap_data_key(&self, wrapped: &WrappedKey, part: PartId, lock: &Lock<'_>) -> Result<DataKey> {
        lock.open(&self.unwrap_locked(wrapped, part)?, part).map(DataKey)
    }

    fn unwrap_locked(&self, wrapped: &WrappedKey, part: PartId) -> Result<zeroize::Zeroizing<Vec<u8>>> {
        let generation = data_key_generation(wrapped)?;
        if generation != self.generation {
            let why = format!("wrapped by generation {generation} of the bucket key, not {}", self.generation);
            return Err(CryptoError::Format { what: DATA_KEY, why });
        }
        let Some((head, sealed)) = wrapped.0.split_first_chunk::<DATA_KEY_HEAD_BYTES>() else {
            return Err(CryptoError::Format { what: DATA_KEY, why: "cut short".into() });
        };
        let mut tail = [0u8; NONCE_TAIL_BYTES];
        tail.copy_from_slice(&head[5..]);
        let (message_key, nonce) = XaesKey::new(&self.key.get()).message_key(&data_key_nonce(part, tail));
        Aes256Gcm::new(message_key.expose().into())
            .decrypt(&nonce.into(), Payload { msg: sealed, aad: &data_key_aad(part, head) })
            .map(zeroize::Zeroizing::new)
            .map_err(|_| CryptoError::Open { what: DATA_KEY })
    }

    /// The same data key wrapped by this bucket key, which `old` (an earlier generation) wrapped: what locks it
    /// beside the bucket key stays, and need not be at hand.
    ///
    /// # Errors
    /// As [`BucketKey::unwrap_data_key`] without the lock.
    pub fn rewrap_data_key(&self, old: &Self, wrapped: &WrappedKey, part: PartId) -> Result<WrappedKey> {
        Ok(self.wrap_locked(&old.unwrap_locked(wrapped, part)?, part))
    }
}

/// The generation of the bucket key that wrapped a data key.
///
/// # Errors
/// [`CryptoError::Format`] for a form this program does not know.
pub fn data_key_generation(wrapped: &WrappedKey) -> Result<u32> {
    let format = |why: String| CryptoError::Format { what: DATA_KEY, why };
    if wrapped.0.len() > WRAPPED_DATA_KEY_BYTES_MAX {
        return Err(format(format!("{} bytes are too many", wrapped.0.len())));
    }
    match wrapped.0.split_first_chunk::<5>() {
        Some((&[DATA_KEY_VERSION, a, b, c, d], _)) => Ok(u32::from_le_bytes([a, b, c, d])),
        Some((head, _)) => Err(format(format!("version {}, which this program does not know", head[0]))),
        None => Err(format("cut short".into())),
    }
}

impl fmt::Debug for BucketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BucketKey(..)")
    }
}

fn data_key_aad(part: PartId, head: &[u8]) -> Vec<u8> {
    [b"granary data key", &part.as_bytes()[..], head].concat()
}

fn data_key_nonce(part: PartId, tail: [u8; NONCE_TAIL_BYTES]) -> [u8; XNONCE_BYTES] {
    let mut nonce = [0u8; XNONCE_BYTES];
    nonce[..16].copy_from_slice(part.as_bytes());
    nonce[16..].copy_from_slice(&tail);
    nonce
}

/// AES-256-GCM over 32 secret bytes: 48 bytes out.
pub(crate) fn wrap_bytes(key: &Secret32, nonce: [u8; 12], aad: &[u8], secret: &Secret32) -> Vec<u8> {
    Aes256Gcm::new(key.expose().into())
        .encrypt(&nonce.into(), Payload { msg: secret.expose(), aad })
        .expect("32 bytes are far below AES-GCM's limit")
}

/// The inverse of [`wrap_bytes`].
pub(crate) fn unwrap_bytes(
    key: &Secret32,
    nonce: [u8; 12],
    aad: &[u8],
    sealed: &[u8],
) -> std::result::Result<Secret32, OpenError> {
    if sealed.len() != 32 + TAG_BYTES {
        return Err(OpenError);
    }
    let plain = Aes256Gcm::new(key.expose().into())
        .decrypt(&nonce.into(), Payload { msg: sealed, aad })
        .map_err(|_| OpenError)?;
    let plain = zeroize::Zeroizing::new(plain);
    let mut secret = [0u8; 32];
    secret.copy_from_slice(&plain);
    let out = Secret32::from_bytes(secret);
    zeroize::Zeroize::zeroize(&mut secret);
    Ok(out)
}
