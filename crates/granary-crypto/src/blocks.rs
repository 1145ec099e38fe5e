//! Names of shared blocks, and where they are cut: both depend on a key that is derived from the bucket's.
//!
//! A block's name is BLAKE3 of its payload, keyed (three times as fast as HMAC-SHA-256, even with SHA instructions). Without the key nobody can tell from a name whether a known payload is
//! stored, and two buckets name the same payload differently, so that nothing is shared between them. The table that a rolling hash
//! cuts by is secret as well: the sizes of blocks would otherwise be a fingerprint of what they hold.
//!
//! The key is derived from the bucket's *active* key: what is written after a rotation shares nothing with what was
//! written before, and depends on no older key.

use std::fmt;

use granary_types::BucketId;
use zeroize::{Zeroize as _, Zeroizing};

use crate::bucket::BucketKeys;

/// Entries of a cutting table: one for each byte there is.
pub const GEAR_ENTRIES: usize = 256;
/// Values that one derived secret gives.
const VALUES_PER_SECRET: usize = 4;

/// Names blocks of one bucket.
pub struct BlockNamer {
    key: Zeroizing<[u8; 32]>,
    gear: Box<Zeroizing<[u64; GEAR_ENTRIES]>>,
}

impl BucketKeys {
    /// What names the blocks of `bucket` that are written now.
    #[must_use]
    pub fn block_namer(&self, bucket: BucketId) -> BlockNamer {
        let secret = self.active().secret().derive("granary shared blocks", &bucket.0.to_be_bytes());
        let names = secret.derive("names", b"");
        let mut gear = Box::new(Zeroizing::new([0u64; GEAR_ENTRIES]));
        for (i, values) in (0u8..).zip(gear.chunks_exact_mut(VALUES_PER_SECRET)) {
            let drawn = secret.derive("gear", &[i]);
            for (value, bytes) in values.iter_mut().zip(drawn.expose().chunks_exact(8)) {
                let mut eight = [0u8; 8];
                eight.copy_from_slice(bytes);
                *value = u64::from_le_bytes(eight);
                eight.zeroize();
            }
        }
        BlockNamer { key: Zeroizing::new(*names.expose()), gear }
    }
}

impl BlockNamer {
    /// The name of a block with this payload.
    #[must_use]
    pub fn name(&self, payload: &[u8]) -> [u8; 32] {
        let mut hasher = Zeroizing::new(blake3::Hasher::new_keyed(&self.key));
        *hasher.update(payload).finalize().as_bytes()
    }

    /// The table of the rolling hash that cuts blocks.
    #[must_use]
    pub fn gear(&self) -> &[u64; GEAR_ENTRIES] {
        &self.gear
    }
}

impl fmt::Debug for BlockNamer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockNamer(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_depend_on_key_bucket_and_payload_alone() {
        let keys = BucketKeys::generate();
        let here = keys.block_namer(BucketId(1));
        assert_eq!(here.name(b"abc"), keys.block_namer(BucketId(1)).name(b"abc"));
        assert_ne!(here.name(b"abc"), here.name(b"abd"));
        assert_ne!(here.name(b"abc"), keys.block_namer(BucketId(2)).name(b"abc"));
        let rotated = keys.rotated().unwrap();
        assert_ne!(here.name(b"abc"), rotated.block_namer(BucketId(1)).name(b"abc"));
        assert_ne!(here.gear(), rotated.block_namer(BucketId(1)).gear());
    }

    #[test]
    fn the_table_has_no_value_twice() {
        let namer = BucketKeys::generate().block_namer(BucketId(1));
        let values: std::collections::BTreeSet<u64> = namer.gear().iter().copied().collect();
        assert_eq!(values.len(), GEAR_ENTRIES);
    }
}
