//! Where each chunk of a part lies, by arithmetic alone. See `docs/format/stripe.md`.
//!
//! Full stripes have `k` blocks of 8 chunks of 64 KiB. What is left over makes one smaller stripe, the
//! tail: `c` chunks per block, each in a slot of `s` bytes. Every chunk but the last one is full
//! (`s − 16` bytes of payload); behind the last one up to the end of the grid, slots are empty: they hold
//! zeros, are not counted as chunks and not sealed. Offsets are the same in all shards of a part.

use std::ops::Range;

use granary_types::Scheme;
use granary_types::limits::{
    ALIGN_BYTES, BLOCK_BYTES, BLOCK_CHUNKS, CHUNK_BYTES, CHUNK_PAYLOAD_BYTES, COPIES_BYTES_MAX, DATA_BLOCKS_MAX,
    PARITY_BLOCKS_MAX, TAG_BYTES,
};

use crate::error::{Result, StripeError};

/// Longest part that a layout is made for: far over S3's 5 GiB, far below overflow.
pub const LAYOUT_BYTES_MAX: u64 = 1 << 50;

const _: () = {
    assert!(LAYOUT_BYTES_MAX > granary_types::limits::PART_BYTES_MAX);
    // Slots take at most 16 times the payload (a lone byte in 4 KiB is the tail's worst, and bounded).
    assert!(LAYOUT_BYTES_MAX < u64::MAX / 64);
};

/// The scheme that a part of this length is kept with where its bucket says `scheme`: whole copies when small.
#[must_use]
pub const fn scheme_for(payload_bytes: u64, scheme: Scheme) -> Scheme {
    if payload_bytes <= COPIES_BYTES_MAX { scheme.copies() } else { scheme }
}

/// The layout of one part: a value, made from its length and scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartLayout {
    scheme: Scheme,
    payload_bytes: u64,
    full_stripes: u64,
    tail: Option<Tail>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail {
    /// Chunk slots per block.
    block_chunks: usize,
    /// Bytes of a slot.
    slot_bytes: usize,
    /// Slots that hold payload, counted through the blocks.
    chunks: usize,
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlace {
    /// The stripe.
    pub stripe: u64,
    /// The data block, which is also the index of its shard.
    pub block: usize,
    /// Offset of its slot in the shard, in bytes.
    pub shard_offset: u64,
    /// Bytes of its slot, tag included.
    pub slot_bytes: usize,
    /// First byte of the part's payload that it holds.
    pub payload_start: u64,
    /// Bytes of payload that it holds: `slot_bytes − 16`, or fewer in the very last chunk.
    pub payload_bytes: usize,
}

/// The shape of a stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StripePlace {
    /// Index of its first chunk.
    pub first_chunk: u64,
    /// Chunks with payload: `k × block_chunks`, or fewer in the tail.
    pub chunks: usize,
    /// Slots per block.
    pub block_chunks: usize,
    /// Bytes of a slot.
    pub slot_bytes: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Offset of its block in every shard.
    pub shard_offset: u64,
}

impl PartLayout {
    /// The layout of a part.
    ///
    /// # Errors
    /// [`StripeError::Invalid`] if the scheme or the length is out of bounds.
    pub fn new(payload_bytes: u64, scheme: Scheme) -> Result<Self> {
        let (k, m) = (usize::from(scheme.k), usize::from(scheme.m));
        if k == 0 || k > DATA_BLOCKS_MAX || m > PARITY_BLOCKS_MAX {
            return Err(StripeError::Invalid(format!("scheme {scheme} is out of bounds")));
        }
        if payload_bytes > LAYOUT_BYTES_MAX {
            return Err(StripeError::Invalid(format!("a part of {payload_bytes} bytes is too long")));
        }
        let stripe_payload_bytes = (k * BLOCK_CHUNKS * CHUNK_PAYLOAD_BYTES) as u64;
        let rest = (payload_bytes % stripe_payload_bytes) as usize;
        let tail = (rest > 0).then(|| {
            let block_chunks = rest.div_ceil(k * CHUNK_PAYLOAD_BYTES);
            let slot_bytes = (rest.div_ceil(k * block_chunks) + TAG_BYTES).next_multiple_of(ALIGN_BYTES);
            Tail { block_chunks, slot_bytes, chunks: rest.div_ceil(slot_bytes - TAG_BYTES) }
        });
        Ok(Self { scheme, payload_bytes, full_stripes: payload_bytes / stripe_payload_bytes, tail })
    }

    /// The scheme.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Bytes of payload.
    #[must_use]
    pub const fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Chunks with payload; each is sealed.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.full_stripes * self.full_stripe_chunks() + self.tail.map_or(0, |t| t.chunks as u64)
    }

    /// Stripes.
    #[must_use]
    pub fn stripes(&self) -> u64 {
        self.full_stripes + u64::from(self.tail.is_some())
    }

    /// Exact bytes of every shard; a multiple of 4096.
    #[must_use]
    pub fn shard_bytes(&self) -> u64 {
        let tail_bytes = self.tail.map_or(0, |t| t.block_chunks * t.slot_bytes);
        self.full_stripes * BLOCK_BYTES as u64 + tail_bytes as u64
    }

    /// The shape of a stripe.
    ///
    /// # Panics
    /// If there is no such stripe.
    #[must_use]
    pub fn stripe(&self, stripe: u64) -> StripePlace {
        let first_chunk = stripe * self.full_stripe_chunks();
        let shard_offset = stripe * BLOCK_BYTES as u64;
        if stripe < self.full_stripes {
            return StripePlace {
                first_chunk,
                chunks: self.full_stripe_chunks() as usize,
                block_chunks: BLOCK_CHUNKS,
                slot_bytes: CHUNK_BYTES,
                block_bytes: BLOCK_BYTES,
                shard_offset,
            };
        }
        let tail = self.tail.filter(|_| stripe == self.full_stripes).expect("the stripe is one of the part's");
        StripePlace {
            first_chunk,
            chunks: tail.chunks,
            block_chunks: tail.block_chunks,
            slot_bytes: tail.slot_bytes,
            block_bytes: tail.block_chunks * tail.slot_bytes,
            shard_offset,
        }
    }

    /// Where a chunk is.
    ///
    /// # Panics
    /// If there is no such chunk.
    #[must_use]
    pub fn chunk(&self, chunk: u64) -> ChunkPlace {
        assert!(chunk < self.chunks(), "chunk {chunk} of {}", self.chunks());
        let stripe = self.stripe_of_chunk(chunk);
        let shape = self.stripe(stripe);
        let position = (chunk - shape.first_chunk) as usize;
        let slot_payload_bytes = shape.slot_bytes - TAG_BYTES;
        let stripe_start = stripe * self.full_stripe_chunks() * CHUNK_PAYLOAD_BYTES as u64;
        let payload_start = stripe_start + (position * slot_payload_bytes) as u64;
        ChunkPlace {
            stripe,
            block: position / shape.block_chunks,
            shard_offset: shape.shard_offset + (position % shape.block_chunks * shape.slot_bytes) as u64,
            slot_bytes: shape.slot_bytes,
            payload_start,
            payload_bytes: (self.payload_bytes - payload_start).min(slot_payload_bytes as u64) as usize,
        }
    }

    /// The stripe that a chunk is in (the tail, for chunks past the end).
    #[must_use]
    pub fn stripe_of_chunk(&self, chunk: u64) -> u64 {
        (chunk / self.full_stripe_chunks()).min(self.full_stripes)
    }

    /// The chunk that holds a byte of the payload.
    ///
    /// # Panics
    /// If the payload has no such byte.
    #[must_use]
    pub fn chunk_of(&self, payload_offset: u64) -> u64 {
        assert!(payload_offset < self.payload_bytes, "byte {payload_offset} of {}", self.payload_bytes);
        let full_bytes = self.full_stripes * self.full_stripe_chunks() * CHUNK_PAYLOAD_BYTES as u64;
        match self.tail {
            Some(tail) if payload_offset >= full_bytes => {
                let in_tail = (payload_offset - full_bytes) / (tail.slot_bytes - TAG_BYTES) as u64;
                self.full_stripes * self.full_stripe_chunks() + in_tail
            }
            _ => payload_offset / CHUNK_PAYLOAD_BYTES as u64,
        }
    }

    /// The chunks that hold a range of the payload; empty for an empty range.
    ///
    /// # Panics
    /// If the range goes past the payload's end.
    #[must_use]
    pub fn chunks_of(&self, payload: Range<u64>) -> Range<u64> {
        if payload.is_empty() {
            return 0..0;
        }
        self.chunk_of(payload.start)..self.chunk_of(payload.end - 1) + 1
    }

    const fn full_stripe_chunks(&self) -> u64 {
        self.scheme.k as u64 * BLOCK_CHUNKS as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

    fn layout(payload_bytes: u64, k: u8, m: u8) -> PartLayout {
        PartLayout::new(payload_bytes, Scheme { k, m }).unwrap()
    }

    /// Everything that has to hold of a layout, chunk by chunk.
    fn check(layout: &PartLayout) {
        let k = usize::from(layout.scheme().k);
        let shard_bytes = layout.shard_bytes();
        assert!(shard_bytes.is_multiple_of(4096));
        let mut payload_end = 0;
        let mut ends = vec![0u64; k];
        for chunk in 0..layout.chunks() {
            let place = layout.chunk(chunk);
            assert_eq!(place.payload_start, payload_end, "chunks tile the payload");
            assert!(place.payload_bytes > 0 && place.payload_bytes <= place.slot_bytes - TAG_BYTES);
            let last = chunk + 1 == layout.chunks();
            assert!(last || place.payload_bytes == place.slot_bytes - TAG_BYTES, "only the last may be short");
            payload_end += place.payload_bytes as u64;
            assert_eq!(place.shard_offset, ends[place.block], "slots follow each other in a shard");
            assert!(place.slot_bytes.is_multiple_of(4096) && place.slot_bytes <= CHUNK_BYTES);
            ends[place.block] = place.shard_offset + place.slot_bytes as u64;
            assert!(ends[place.block] <= shard_bytes);
            assert_eq!(layout.chunk_of(place.payload_start), chunk);
            assert_eq!(layout.chunk_of(payload_end - 1), chunk);
            let stripe = layout.stripe(place.stripe);
            assert_eq!(stripe.block_bytes, stripe.block_chunks * stripe.slot_bytes);
            assert!(chunk >= stripe.first_chunk && chunk < stripe.first_chunk + stripe.chunks as u64);
            assert!(place.shard_offset >= stripe.shard_offset);
            assert!(place.shard_offset + place.slot_bytes as u64 <= stripe.shard_offset + stripe.block_bytes as u64);
        }
        assert_eq!(payload_end, layout.payload_bytes());
        if layout.payload_bytes() > 0 {
            assert_eq!(ends[0], shard_bytes, "the first shard is full: its parity can start from it");
        }
        // Waste: tags, and less than 4 KiB a slot in the tail's grid.
        let tail_slots = match layout.stripes() {
            0 => 0,
            n => layout.stripe(n - 1).block_chunks * k,
        } as u64;
        let bound = layout.payload_bytes() + layout.chunks() * 16 + tail_slots * (4096 + 16);
        assert!(k as u64 * shard_bytes <= bound, "{} over {bound}", k as u64 * shard_bytes);
    }

    #[test]
    fn boundaries() {
        for (k, m) in [(1, 0), (1, 2), (2, 1), (3, 2), (4, 2), (8, 3), (16, 4)] {
            let chunk = CHUNK_PAYLOAD_BYTES as u64;
            let stripe = chunk * u64::from(k) * 8;
            for base in [0, 4080, chunk, chunk * u64::from(k), stripe, 2 * stripe, 131_072] {
                for len in base.saturating_sub(2)..base + 3 {
                    check(&layout(len, k, m));
                }
            }
        }
    }

    #[test]
    fn a_mebibyte_wastes_little() {
        let layout = layout(1 << 20, 4, 2);
        assert_eq!((layout.stripes(), layout.chunks(), layout.shard_bytes()), (1, 20, 5 * 53_248));
        assert!(layout.shard_bytes() * 4 < (1 << 20) * 1016 / 1000);
    }

    #[test]
    fn out_of_bounds_is_refused() {
        assert!(PartLayout::new(1, Scheme { k: 0, m: 2 }).is_err());
        assert!(PartLayout::new(1, Scheme { k: 17, m: 2 }).is_err());
        assert!(PartLayout::new(1, Scheme { k: 4, m: 5 }).is_err());
        assert!(PartLayout::new(u64::MAX, Scheme { k: 1, m: 0 }).is_err());
        assert_eq!(layout(0, 4, 2).stripes(), 0);
        assert_eq!(layout(0, 4, 2).shard_bytes(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn chunks_tile_the_payload(
            len in prop_oneof![1u64..200_000, 1u64..40_000_000, (0u64..6).prop_map(|n| n * 65_520 * 32)],
            k in 1u8..=16,
            m in 0u8..=4,
        ) {
            check(&layout(len, k, m));
        }

        #[test]
        fn ranges_map_to_chunks(len in 1u64..20_000_000, k in 1u8..=16, a: u64, b: u64) {
            let layout = layout(len, k, 2);
            let (a, b) = (a % len, b % len);
            let (start, end) = (a.min(b), a.max(b) + 1);
            let chunks = layout.chunks_of(start..end);
            let (first, last) = (layout.chunk(chunks.start), layout.chunk(chunks.end - 1));
            prop_assert!(first.payload_start <= start && start < first.payload_start + first.payload_bytes as u64);
            prop_assert!(last.payload_start < end && end <= last.payload_start + last.payload_bytes as u64);
            prop_assert_eq!(layout.chunks_of(start..start), 0..0);
        }
    }
}
