//! Bucket keys and data keys, and how the one wraps the other.
//!
//! A wrapped data key is 57 bytes: version (1) ‖ nonce tail (8) ‖ ciphertext (32) ‖ tag (16). Its
//! XAES-256-GCM nonce is the part id (16) ‖ the nonce tail: part ids are random and never used again, so
//! nonces under one bucket key do not repeat however many parts it has. The AAD names purpose and part.
//! Wrapping runs on the aes-gcm crate, bulk sealing on aws-lc-rs.

use std::fmt;

use aes_gcm::aead::{Aead as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _};
use granary_types::limits::TAG_BYTES;
use granary_types::{BucketId, PartId, WrappedKey};

use crate::error::{CryptoError, OpenError, Result};
use crate::provider::KeyProvider;
use crate::secret::{Secret32, fill_random};
use crate::xaes::{XNONCE_BYTES, XaesKey};

/// First byte of a wrapped data key.
const DATA_KEY_VERSION: u8 = 1;
/// Bytes of the random tail of a data key's wrapping nonce.
const NONCE_TAIL_BYTES: usize = 8;
/// Bytes of a wrapped data key.
pub const WRAPPED_DATA_KEY_BYTES: usize = 1 + NONCE_TAIL_BYTES + 32 + TAG_BYTES;

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

/// A bucket's key, opened and prepared: wrapping and unwrapping a data key costs about a microsecond.
/// Keep one per bucket behind an `Arc`.
pub struct BucketKey {
    secret: Secret32,
    xaes: XaesKey,
}

impl BucketKey {
    /// A fresh one.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_secret(Secret32::random())
    }

    /// From known bytes (tests, golden files).
    #[must_use]
    pub fn from_secret(secret: Secret32) -> Self {
        let xaes = XaesKey::new(&secret);
        Self { secret, xaes }
    }

    /// Wraps this key under the root key, for `bucket` only.
    ///
    /// # Errors
    /// The provider's.
    pub fn wrap(&self, provider: &dyn KeyProvider, bucket: BucketId) -> Result<WrappedKey> {
        provider.wrap(&bucket_context(bucket), &self.secret)
    }

    /// Opens a bucket's wrapped key. May block where the provider is a device or a service.
    ///
    /// # Errors
    /// The provider's; [`CryptoError::Open`] if it was wrapped for another bucket.
    pub fn unwrap(provider: &dyn KeyProvider, bucket: BucketId, wrapped: &WrappedKey) -> Result<Self> {
        provider.unwrap(&bucket_context(bucket), wrapped).map(Self::from_secret)
    }

    /// Wraps a part's data key.
    #[must_use]
    pub fn wrap_data_key(&self, key: &DataKey, part: PartId) -> WrappedKey {
        let mut tail = [0u8; NONCE_TAIL_BYTES];
        fill_random(&mut tail);
        let (message_key, nonce) = self.xaes.message_key(&data_key_nonce(part, tail));
        let sealed = wrap_bytes(&message_key, nonce, &data_key_aad(part), key.secret());
        let mut out = Vec::with_capacity(WRAPPED_DATA_KEY_BYTES);
        out.push(DATA_KEY_VERSION);
        out.extend_from_slice(&tail);
        out.extend_from_slice(&sealed);
        WrappedKey(out)
    }

    /// Opens a part's data key.
    ///
    /// # Errors
    /// [`CryptoError::Format`] for a form this program does not know, [`CryptoError::Open`] if it is
    /// damaged, of another bucket or of another part.
    pub fn unwrap_data_key(&self, wrapped: &WrappedKey, part: PartId) -> Result<DataKey> {
        const WHAT: &str = "data key";
        if wrapped.0.first().is_some_and(|version| *version != DATA_KEY_VERSION) {
            let why = format!("version {}, which this program does not know", wrapped.0[0]);
            return Err(CryptoError::Format { what: WHAT, why });
        }
        let body = wrapped.0.get(1..).unwrap_or_default();
        let Some((tail, sealed)) = body.split_first_chunk::<NONCE_TAIL_BYTES>() else {
            return Err(CryptoError::Format { what: WHAT, why: "cut short".into() });
        };
        let (message_key, nonce) = self.xaes.message_key(&data_key_nonce(part, *tail));
        unwrap_bytes(&message_key, nonce, &data_key_aad(part), sealed)
            .map(DataKey)
            .map_err(|OpenError| CryptoError::Open { what: WHAT })
    }
}

impl fmt::Debug for BucketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BucketKey(..)")
    }
}

fn bucket_context(bucket: BucketId) -> Vec<u8> {
    let mut context = b"granary bucket key ".to_vec();
    context.extend_from_slice(&bucket.0.to_le_bytes());
    context
}

fn data_key_aad(part: PartId) -> [u8; 32] {
    let mut aad = *b"granary data key................";
    aad[16..].copy_from_slice(part.as_bytes());
    aad
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
