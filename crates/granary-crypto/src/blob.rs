//! Sealing of things smaller than a part's chunks: shard-header metadata, inline parts, frames of the log.
//!
//! [`BlobKey`] takes care of nonces itself (XAES-256-GCM, random 192-bit nonces: 2^80 blobs under one
//! key before a repeat is to be feared). [`NonceKey`] leaves nonces to the caller, who has a counter.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use granary_types::limits::TAG_BYTES;

use crate::error::OpenError;
use crate::secret::{Secret32, fill_random};
use crate::xaes::{XNONCE_BYTES, XaesKey};

/// First byte of a blob.
const BLOB_VERSION: u8 = 1;
/// Bytes that sealing adds to a blob: version, nonce, tag.
pub const BLOB_OVERHEAD_BYTES: usize = 1 + XNONCE_BYTES + TAG_BYTES;

/// A key for blobs, prepared once. Cheap to use from many threads.
pub struct BlobKey {
    xaes: XaesKey,
}

impl BlobKey {
    /// Prepares a key.
    #[must_use]
    pub fn new(key: &Secret32) -> Self {
        Self { xaes: XaesKey::new(key) }
    }

    /// Seals `plaintext`, bound to `aad`: version (1) ‖ nonce (24) ‖ ciphertext ‖ tag (16).
    #[must_use]
    pub fn seal(&self, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut nonce = [0u8; XNONCE_BYTES];
        fill_random(&mut nonce);
        let mut blob = Vec::with_capacity(plaintext.len() + BLOB_OVERHEAD_BYTES);
        blob.push(BLOB_VERSION);
        blob.extend_from_slice(&nonce);
        blob.extend_from_slice(plaintext);
        let (key, short) = self.xaes.message_key(&nonce);
        let tag = NonceKey::new(&key).seal_in_place(short, aad, &mut blob[1 + XNONCE_BYTES..]);
        blob.extend_from_slice(&tag);
        blob
    }

    /// Opens what [`BlobKey::seal`] made.
    ///
    /// # Errors
    /// [`OpenError`] if it is not whole, not of this key or not of this `aad`.
    pub fn open(&self, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (version, rest) = blob.split_first().ok_or(OpenError)?;
        let (nonce, sealed) = rest.split_first_chunk::<XNONCE_BYTES>().ok_or(OpenError)?;
        if *version != BLOB_VERSION || sealed.len() < TAG_BYTES {
            return Err(OpenError);
        }
        let (key, short) = self.xaes.message_key(nonce);
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(OpenError)?;
        let mut plaintext = ciphertext.to_vec();
        NonceKey::new(&key).open_in_place(short, aad, &mut plaintext, tag)?;
        Ok(plaintext)
    }
}

impl fmt::Debug for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlobKey(..)")
    }
}

/// [`BlobKey::seal`] for a key that is used once.
#[must_use]
pub fn seal_blob(key: &Secret32, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    BlobKey::new(key).seal(aad, plaintext)
}

/// [`BlobKey::open`] for a key that is used once.
///
/// # Errors
/// As [`BlobKey::open`].
pub fn open_blob(key: &Secret32, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>, OpenError> {
    BlobKey::new(key).open(aad, blob)
}

/// AES-256-GCM with nonces that the caller chooses.
///
/// **A nonce must never seal two different plaintexts under one key**, or both are lost. A counter that
/// may go back after a crash (a log whose torn tail is written anew) needs a key of its own for every
/// start: see [`Secret32::derive`]. At most 2^32 − 2 blocks (64 GiB) per message.
pub struct NonceKey {
    key: LessSafeKey,
}

impl NonceKey {
    /// Prepares a key.
    #[must_use]
    pub fn new(key: &Secret32) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("the key has AES-256's length");
        Self { key: LessSafeKey::new(key) }
    }

    /// The nonce for a counter: four zero bytes, then the counter, little-endian.
    #[must_use]
    pub fn counter_nonce(counter: u64) -> [u8; 12] {
        let mut nonce = [0u8; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        nonce
    }

    /// Seals `bytes` in place, bound to `aad`; returns the tag.
    ///
    /// # Panics
    /// If `bytes` is longer than AES-GCM allows (64 GiB).
    #[must_use]
    pub fn seal_in_place(&self, nonce: [u8; 12], aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), bytes)
            .expect("sealing fails only above 64 GiB");
        let mut out = [0u8; TAG_BYTES];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Opens `bytes` in place.
    ///
    /// # Errors
    /// [`OpenError`]; `bytes` then holds nothing of use.
    pub fn open_in_place(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        bytes: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), OpenError> {
        self.key
            .open_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), tag, bytes)
            .map(|_| ())
            .map_err(|_| OpenError)
    }
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceKey(..)")
    }
}
