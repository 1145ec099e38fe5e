//! All keys of one bucket: the active one wraps new data keys, older ones open what they wrapped.
//!
//! In the bucket's record they are wrapped by the bucket's lock ([`crate::shelf`]):
//! version (1) ‖ count (1) ‖ per key, newest first: generation (4) ‖ nonce (24) ‖ ciphertext (32) ‖ tag (16).

use std::fmt;

use granary_types::{BucketId, PartId, WrappedKey};

use crate::error::{CryptoError, OpenError, Result};
use crate::keys::{BucketKey, DataKey, data_key_generation, unwrap_bytes, wrap_bytes};
use crate::locks::Lock;
use crate::secret::{Secret32, fill_random};
use crate::xaes::{XNONCE_BYTES, XaesKey};

const VERSION: u8 = 2;
const WHAT: &str = "bucket keys";
/// Bytes of one wrapped key.
const ENTRY_BYTES: usize = 4 + XNONCE_BYTES + 48;
/// Keys of one bucket, at most: how often it can be rotated while all are kept.
pub const BUCKET_KEYS_COUNT_MAX: usize = 255;

/// A bucket's keys, opened. Keep one per bucket behind an `Arc`.
pub struct BucketKeys {
    /// Newest first; never empty.
    keys: Vec<BucketKey>,
}

impl BucketKeys {
    /// One fresh key.
    #[must_use]
    pub fn generate() -> Self {
        Self { keys: vec![BucketKey::generate()] }
    }

    /// From known keys, the newest first (tests, golden files). `None` for none.
    #[must_use]
    pub fn from_keys(keys: Vec<BucketKey>) -> Option<Self> {
        (!keys.is_empty()).then_some(Self { keys })
    }

    /// The key that wraps.
    #[must_use]
    pub fn active(&self) -> &BucketKey {
        &self.keys[0]
    }

    /// How many keys there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// The same keys and a fresh one that wraps from now on.
    ///
    /// # Errors
    /// [`CryptoError::Format`] if there are too many already.
    pub fn rotated(&self) -> Result<Self> {
        if self.keys.len() >= BUCKET_KEYS_COUNT_MAX {
            let why = format!("there are {} of them already", self.keys.len());
            return Err(CryptoError::Format { what: WHAT, why });
        }
        let mut keys = vec![BucketKey::from_secret(self.active().generation().saturating_add(1), Secret32::random())];
        keys.extend(self.keys.iter().map(BucketKey::duplicate));
        Ok(Self { keys })
    }

    /// Wraps them under the bucket's lock.
    #[must_use]
    pub fn wrap(&self, lock: &Secret32, bucket: BucketId) -> WrappedKey {
        let xaes = XaesKey::new(lock);
        let count = u8::try_from(self.keys.len()).unwrap_or(u8::MAX);
        let mut out = vec![VERSION, count];
        for key in &self.keys {
            let mut nonce = [0u8; XNONCE_BYTES];
            fill_random(&mut nonce);
            let (message_key, short) = xaes.message_key(&nonce);
            out.extend_from_slice(&key.generation().to_le_bytes());
            out.extend_from_slice(&nonce);
            out.extend_from_slice(&wrap_bytes(
                &message_key,
                short,
                &aad(bucket, count, key.generation()),
                &key.secret(),
            ));
        }
        WrappedKey(out)
    }

    /// Opens a bucket's keys.
    ///
    /// # Errors
    /// [`CryptoError::Format`] for a form this program does not know, [`CryptoError::Open`] if they are damaged, of
    /// another bucket, or wrapped under another lock.
    pub fn unwrap(lock: &Secret32, bucket: BucketId, wrapped: &WrappedKey) -> Result<Self> {
        let format = |why: &str| CryptoError::Format { what: WHAT, why: why.into() };
        let (&[version, count], entries) = wrapped.0.split_first_chunk::<2>().ok_or_else(|| format("cut short"))?;
        if version != VERSION {
            return Err(format("a version that this program does not know"));
        }
        if count == 0 || entries.len() != usize::from(count) * ENTRY_BYTES {
            return Err(format("not as long as they say"));
        }
        let xaes = XaesKey::new(lock);
        let mut keys = Vec::with_capacity(usize::from(count));
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            let (generation, rest) = entry.split_first_chunk::<4>().ok_or_else(|| format("cut short"))?;
            let generation = u32::from_le_bytes(*generation);
            let (nonce, sealed) = rest.split_first_chunk::<XNONCE_BYTES>().ok_or_else(|| format("cut short"))?;
            let (message_key, short) = xaes.message_key(nonce);
            let secret = unwrap_bytes(&message_key, short, &aad(bucket, count, generation), sealed)
                .map_err(|OpenError| CryptoError::Open { what: WHAT })?;
            keys.push(BucketKey::from_secret(generation, secret));
        }
        Ok(Self { keys })
    }

    /// Wraps a part's data key under the active key, locked with `lock` first.
    #[must_use]
    pub fn wrap_data_key(&self, key: &DataKey, part: PartId, lock: &Lock<'_>) -> WrappedKey {
        self.active().wrap_data_key(key, part, lock)
    }

    /// Opens a part's data key, whichever of the keys wrapped it.
    ///
    /// # Errors
    /// As [`BucketKey::unwrap_data_key`].
    pub fn unwrap_data_key(&self, wrapped: &WrappedKey, part: PartId, lock: &Lock<'_>) -> Result<DataKey> {
        let generation = data_key_generation(wrapped)?;
        let key = self.keys.iter().find(|key| key.generation() == generation).unwrap_or_else(|| self.active());
        key.unwrap_data_key(wrapped, part, lock)
    }
}

impl fmt::Debug for BucketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(BucketKey::generation)).finish()
    }
}

fn aad(bucket: BucketId, count: u8, generation: u32) -> Vec<u8> {
    [&b"granary bucket key "[..], &bucket.0.to_le_bytes(), &[count], &generation.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: PartId = PartId([7; 16]);
    const BUCKET: BucketId = BucketId(9);

    #[test]
    fn old_keys_open_and_the_newest_wraps() {
        let first = BucketKeys::generate();
        let data_key = DataKey::generate();
        let old = first.wrap_data_key(&data_key, PART, &Lock::None);
        let second = first.rotated().unwrap();
        assert_eq!((second.active().generation(), second.count()), (2, 2));
        let new = second.wrap_data_key(&data_key, PART, &Lock::None);
        for wrapped in [&old, &new] {
            assert!(second.unwrap_data_key(wrapped, PART, &Lock::None).is_ok());
        }
        assert!(first.unwrap_data_key(&new, PART, &Lock::None).is_err());
    }

    #[test]
    fn they_unwrap_with_their_lock_and_for_their_bucket_only() {
        let lock = Secret32::random();
        let keys = BucketKeys::generate().rotated().unwrap();
        let wrapped = keys.wrap(&lock, BUCKET);
        assert_eq!(BucketKeys::unwrap(&lock, BUCKET, &wrapped).unwrap().active().generation(), 2);
        assert!(BucketKeys::unwrap(&lock, BucketId(10), &wrapped).is_err());
        assert!(BucketKeys::unwrap(&Secret32::random(), BUCKET, &wrapped).is_err());
        for bit in 0..wrapped.0.len() * 8 {
            let mut bad = wrapped.0.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(BucketKeys::unwrap(&lock, BUCKET, &WrappedKey(bad)).is_err(), "bit {bit}");
        }
        for cut in 0..wrapped.0.len() {
            assert!(BucketKeys::unwrap(&lock, BUCKET, &WrappedKey(wrapped.0[..cut].to_vec())).is_err());
        }
    }
}
