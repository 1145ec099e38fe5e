//! The shelf: for every bucket the key that locks its bucket keys, wrapped by the root key, in one small file beside
//! the drives (`bucket-keys.json`). See `docs/format/keyring.md`.
//!
//! It is the only thing that is needed to read a bucket and that is in neither log, index nor checkpoints: taking a
//! bucket's lock off the shelf makes every copy of its bucket keys, wherever it lies, useless.
//!
//! Guarantees: a shelf is whole (CRC-32C over its content) and each lock is authentic (its bucket is the wrapping's
//! context) or it is refused. Left to others: writing the copies, and writing them again where one is older.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use granary_types::frame::crc32c;
use granary_types::{BucketId, ClusterId, WrappedKey};
use serde::{Deserialize, Serialize};

use crate::error::{CryptoError, Result};
use crate::provider::KeyProvider;
use crate::secret::Secret32;

const FORMAT: &str = "granary-bucket-keys";
const VERSION: u32 = 1;
/// 10,000 buckets are about 2 MiB; anything much longer is not a shelf.
const SHELF_BYTES_MAX: usize = 64 << 20;
const WHAT: &str = "bucket-keys.json";

/// The locks of all buckets, wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelf {
    cluster: ClusterId,
    generation: u64,
    locks: BTreeMap<BucketId, WrappedKey>,
    destroyed: BTreeMap<BucketId, u64>,
}

/// What the checksum is over. Field order is the order in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: String,
    version: u32,
    cluster: String,
    generation: u64,
    /// Bucket id (hexadecimal) to the wrapped lock (base64).
    locks: BTreeMap<String, String>,
    /// Bucket id to when its lock was destroyed (microseconds).
    destroyed: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    shelf: Content,
    crc32c: String,
}

impl Shelf {
    /// An empty one.
    #[must_use]
    pub const fn new(cluster: ClusterId) -> Self {
        Self { cluster, generation: 0, locks: BTreeMap::new(), destroyed: BTreeMap::new() }
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// [`CryptoError::Format`] if it is damaged or of a version this program does not know.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > SHELF_BYTES_MAX {
            return Err(format(format!("{} bytes are too many", bytes.len())));
        }
        let Stored { shelf, crc32c: crc } = serde_json::from_slice(bytes).map_err(|e| format(e.to_string()))?;
        if shelf.format != FORMAT || shelf.version != VERSION {
            return Err(format(format!("format `{}` version {} is not known", shelf.format, shelf.version)));
        }
        if crc != content_crc(&shelf) {
            return Err(format("the checksum does not match".into()));
        }
        let cluster = shelf.cluster.parse::<ClusterId>().map_err(|e| format(e.to_string()))?;
        let mut locks = BTreeMap::new();
        for (id, text) in &shelf.locks {
            let wrapped = BASE64.decode(text).map_err(|_| format(format!("the lock of {id} is not base64")))?;
            locks.insert(bucket_id(id)?, WrappedKey(wrapped));
        }
        let destroyed = shelf.destroyed.iter().map(|(id, at)| Ok((bucket_id(id)?, *at))).collect::<Result<_>>()?;
        Ok(Self { cluster, generation: shelf.generation, locks, destroyed })
    }

    /// The newest valid copy of several, which must all be of `cluster`; an empty shelf where there is none.
    ///
    /// # Errors
    /// [`CryptoError::ForeignKeyring`] for a copy of another cluster; [`CryptoError::Format`] where there are copies
    /// and none is valid.
    pub fn newest<'a>(copies: impl IntoIterator<Item = &'a [u8]>, cluster: ClusterId) -> Result<Self> {
        let mut newest: Option<Self> = None;
        let mut last = None;
        for bytes in copies {
            match Self::parse(bytes) {
                Ok(shelf) if shelf.cluster != cluster => {
                    return Err(CryptoError::ForeignKeyring(cluster, shelf.cluster));
                }
                Ok(shelf) if newest.as_ref().is_none_or(|known| known.generation < shelf.generation) => {
                    newest = Some(shelf);
                }
                Ok(_) => {}
                Err(error) => last = Some(error),
            }
        }
        match (newest, last) {
            (Some(shelf), _) => Ok(shelf),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(Self::new(cluster)),
        }
    }

    /// The file's bytes: the same on every drive.
    ///
    /// # Panics
    /// Never: strings and numbers always serialise.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let shelf = Content {
            format: FORMAT.into(),
            version: VERSION,
            cluster: self.cluster.to_string(),
            generation: self.generation,
            locks: self.locks.iter().map(|(id, wrapped)| (text(*id), BASE64.encode(&wrapped.0))).collect(),
            destroyed: self.destroyed.iter().map(|(id, at)| (text(*id), *at)).collect(),
        };
        let crc32c = content_crc(&shelf);
        let mut bytes =
            serde_json::to_vec_pretty(&Stored { shelf, crc32c }).expect("strings and numbers always serialise");
        bytes.push(b'\n');
        bytes
    }

    /// Counts up with every change; the highest valid one wins.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// A bucket's lock, wrapped.
    #[must_use]
    pub fn lock(&self, bucket: BucketId) -> Option<&WrappedKey> {
        self.locks.get(&bucket)
    }

    /// Buckets that have a lock.
    pub fn buckets(&self) -> impl Iterator<Item = (BucketId, &WrappedKey)> {
        self.locks.iter().map(|(id, wrapped)| (*id, wrapped))
    }

    /// When the bucket's lock was destroyed (microseconds), if it was.
    #[must_use]
    pub fn destroyed(&self, bucket: BucketId) -> Option<u64> {
        self.destroyed.get(&bucket).copied()
    }

    /// With the lock of a new bucket, or another wrapping of a known one.
    #[must_use]
    pub fn with(&self, locks: impl IntoIterator<Item = (BucketId, WrappedKey)>) -> Self {
        let mut next = self.next();
        next.locks.extend(locks);
        next
    }

    /// Without a bucket's lock, because the bucket is gone.
    #[must_use]
    pub fn without(&self, bucket: BucketId) -> Self {
        let mut next = self.next();
        next.locks.remove(&bucket);
        next.destroyed.remove(&bucket);
        next
    }

    /// Without a bucket's lock, and with a note that it was destroyed.
    #[must_use]
    pub fn destroying(&self, bucket: BucketId, at_us: u64) -> Self {
        let mut next = self.next();
        next.locks.remove(&bucket);
        next.destroyed.entry(bucket).or_insert(at_us);
        next
    }

    /// The same, under a number that was used for something else: it is passed over.
    #[must_use]
    pub fn passing(&self, generation: u64) -> Self {
        Self { generation: self.generation.max(generation), ..self.clone() }
    }

    fn next(&self) -> Self {
        Self { generation: self.generation.saturating_add(1), ..self.clone() }
    }
}

/// Wraps a bucket's lock under the root key, for this bucket only.
///
/// # Errors
/// The provider's.
pub fn wrap_lock(provider: &dyn KeyProvider, bucket: BucketId, lock: &Secret32) -> Result<WrappedKey> {
    provider.wrap(&context(bucket), lock)
}

/// Opens a bucket's lock. May block where the provider is a device or a service.
///
/// # Errors
/// The provider's; [`CryptoError::Open`] if it is another bucket's.
pub fn unwrap_lock(provider: &dyn KeyProvider, bucket: BucketId, wrapped: &WrappedKey) -> Result<Secret32> {
    provider.unwrap(&context(bucket), wrapped)
}

fn context(bucket: BucketId) -> Vec<u8> {
    [&b"granary bucket lock "[..], &bucket.0.to_le_bytes()].concat()
}

fn text(bucket: BucketId) -> String {
    format!("{:016x}", bucket.0)
}

fn bucket_id(text: &str) -> Result<BucketId> {
    let valid = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let id = valid.then(|| u64::from_str_radix(text, 16).ok()).flatten();
    id.map(BucketId).ok_or_else(|| format(format!("`{text}` is not a bucket id")))
}

fn content_crc(content: &Content) -> String {
    let bytes = serde_json::to_vec(content).expect("strings and numbers always serialise");
    format!("{:08x}", crc32c(&bytes))
}

const fn format(why: String) -> CryptoError {
    CryptoError::Format { what: WHAT, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::MemoryKeyProvider;

    const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

    #[test]
    fn the_newest_copy_wins_and_damage_is_found() {
        let old =
            Shelf::new(CLUSTER).with([(BucketId(1), WrappedKey(vec![1; 81])), (BucketId(2), WrappedKey(vec![2]))]);
        let new = old.destroying(BucketId(1), 77);
        let (old_bytes, new_bytes) = (old.to_bytes(), new.to_bytes());
        assert_eq!(Shelf::parse(&new_bytes).unwrap(), new);
        for copies in [[&old_bytes[..], &new_bytes], [&new_bytes, &old_bytes], [b"rubbish", &new_bytes]] {
            let newest = Shelf::newest(copies, CLUSTER).unwrap();
            assert_eq!((newest.lock(BucketId(1)), newest.destroyed(BucketId(1))), (None, Some(77)));
            assert!(newest.lock(BucketId(2)).is_some());
        }
        assert_eq!(Shelf::newest([], CLUSTER).unwrap(), Shelf::new(CLUSTER));
        assert!(Shelf::newest([&b"rubbish"[..]], CLUSTER).is_err(), "damage is not taken for a new cluster");
        assert!(Shelf::newest([&new_bytes[..]], ClusterId([1; 16])).is_err());
        let at = new_bytes.windows(4).position(|w| w == b"\"77\"" || w == b": 77").unwrap_or(200);
        let mut bad = new_bytes.clone();
        bad[at + 3] ^= 1;
        assert!(Shelf::parse(&bad).is_err());
    }

    #[test]
    fn a_lock_is_its_buckets_only() {
        let provider = MemoryKeyProvider::generate();
        let lock = Secret32::random();
        let wrapped = wrap_lock(&provider, BucketId(5), &lock).unwrap();
        assert_eq!(unwrap_lock(&provider, BucketId(5), &wrapped).unwrap(), lock);
        assert!(unwrap_lock(&provider, BucketId(6), &wrapped).is_err());
    }
}
