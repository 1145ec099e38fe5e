//! Chunks: what a part's payload is sealed in. See `docs/format/chunk.md`.
//!
//! A chunk's slot is sealed whole: `slot[..len − 16]` (payload, then zeros) is encrypted in place and the
//! tag goes into its last 16 bytes. Nonce: four zero bytes ‖ chunk index (u64 LE). AAD: part id ‖ chunk
//! index (u64 LE). The data key seals this one part, each index once, so nonces cannot repeat; the AAD
//! pins every chunk to its part and place.

use std::fmt;

use granary_types::PartId;
use granary_types::limits::TAG_BYTES;

use crate::blob::NonceKey;
use crate::error::OpenError;
use crate::keys::DataKey;

/// Seals and opens the chunks of one part. Cheap to use from many threads.
pub struct ChunkCipher {
    key: NonceKey,
    part: PartId,
}

impl ChunkCipher {
    /// The cipher of `part` under its data key.
    #[must_use]
    pub fn new(key: &DataKey, part: PartId) -> Self {
        Self { key: NonceKey::new(key.secret()), part }
    }

    /// The part whose chunks this seals.
    #[must_use]
    pub const fn part(&self) -> PartId {
        self.part
    }

    /// Seals the chunk with this index in place. Each index once per part: a second, different plaintext
    /// under one index would give both away.
    ///
    /// # Panics
    /// If `slot` has no room for the tag: slots come from the part's layout, which gives 4 KiB at least.
    pub fn seal(&self, index: u64, slot: &mut [u8]) {
        let (payload, tag) = slot.split_last_chunk_mut::<TAG_BYTES>().expect("a slot has room for its tag");
        *tag = self.key.seal_in_place(NonceKey::counter_nonce(index), &self.aad(index), payload);
    }

    /// Verifies and decrypts the chunk with this index in place: on success the payload (and the zeros
    /// behind a short one) is `slot[..len − 16]`.
    ///
    /// # Errors
    /// [`OpenError`]; `slot` then holds nothing of use and the chunk is to be rebuilt from other shards.
    pub fn open(&self, index: u64, slot: &mut [u8]) -> Result<(), OpenError> {
        let (payload, tag) = slot.split_last_chunk_mut::<TAG_BYTES>().ok_or(OpenError)?;
        self.key.open_in_place(NonceKey::counter_nonce(index), &self.aad(index), payload, tag)
    }

    fn aad(&self, index: u64) -> [u8; 24] {
        let mut aad = [0u8; 24];
        aad[..16].copy_from_slice(self.part.as_bytes());
        aad[16..].copy_from_slice(&index.to_le_bytes());
        aad
    }
}

impl fmt::Debug for ChunkCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkCipher").field("part", &self.part).finish_non_exhaustive()
    }
}
