//! Reed-Solomon over the blocks of a stripe, on reed-solomon-erasure's SIMD code.
//!
//! With `k = 1` parity blocks are copies; with `m = 0` there are none. Codecs are made once per scheme.

use std::sync::{Arc, OnceLock};

use granary_drive::buf::{AlignedBuf, BufPool};
use granary_types::Scheme;
use granary_types::frame::ChunkCrcs;
use granary_types::limits::{CHUNK_BYTES, DATA_BLOCKS_MAX, PARITY_BLOCKS_MAX};
use reed_solomon_erasure::galois_8::ReedSolomon;
use smallvec::SmallVec;

// SIMD or no build: this table exists only when reed-solomon-erasure was built with `simd-accel`, and its
// SIMD code only on these architectures. Without it encoding is ten times slower.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("reed-solomon-erasure has SIMD code for x86-64 and aarch64 only");
const _: &[[u8; 16]; 256] = &reed_solomon_erasure::galois_8::MUL_TABLE_LOW;

/// Most blocks in a stripe.
pub const WIDTH_MAX: usize = DATA_BLOCKS_MAX + PARITY_BLOCKS_MAX;

/// Bytes of each block that are worked on at a time: a 4+2 stripe's tiles fit a core's first or second cache.
const TILE_BYTES: usize = 8 * 1024;

/// Encodes and decodes stripes of one scheme.
pub struct Codec {
    scheme: Scheme,
    /// `None` where there is nothing to compute: one data block, or no parity.
    rs: Option<ReedSolomon>,
}

impl Codec {
    fn new(scheme: Scheme) -> Self {
        let rs = (scheme.k > 1 && scheme.m > 0).then(|| {
            ReedSolomon::new(scheme.k.into(), scheme.m.into()).expect("20 blocks are far below the field's 256")
        });
        Self { scheme, rs }
    }

    /// Whether parity has to be computed (it is neither absent nor a copy).
    #[must_use]
    pub const fn computes(&self) -> bool {
        self.rs.is_some()
    }

    /// Computes the parity blocks (overwritten) and the CRC-32C of every 64 KiB of all blocks, data first, in one
    /// pass: every byte is brought into the cache once. `parity` is empty where nothing is computed.
    ///
    /// # Panics
    /// If there are not as many blocks as the scheme says, or their lengths differ.
    pub fn encode(&self, data: &[AlignedBuf], parity: &mut [AlignedBuf]) -> Vec<Vec<u32>> {
        let block_bytes = data.first().map_or(0, |block| block.len());
        let mut crcs: Vec<ChunkCrcs> =
            (0..data.len() + parity.len()).map(|_| ChunkCrcs::with_room(block_bytes.div_ceil(CHUNK_BYTES))).collect();
        for start in (0..block_bytes).step_by(TILE_BYTES) {
            let tile = start..block_bytes.min(start + TILE_BYTES);
            let data: SmallVec<[&[u8]; DATA_BLOCKS_MAX]> = data.iter().map(|block| &block[tile.clone()]).collect();
            let mut parity: SmallVec<[&mut [u8]; PARITY_BLOCKS_MAX]> =
                parity.iter_mut().map(|block| &mut block[tile.clone()]).collect();
            if let Some(rs) = &self.rs {
                rs.encode_sep(&data, &mut parity).expect("slices are equally long and as many as the scheme says");
            }
            let tiles = data.iter().copied().chain(parity.iter().map(|tile| &**tile));
            crcs.iter_mut().zip(tiles).for_each(|(crcs, tile)| crcs.update(tile));
        }
        crcs.into_iter().map(ChunkCrcs::finish).collect()
    }

    /// Fills in the blocks of `wanted` (bit `i`: block `i`) that are `None`, from any `k` that are there.
    /// Other blocks that are `None` stay so. All blocks are equally long. `false` if fewer than `k` are there.
    ///
    /// # Panics
    /// If `blocks` is not `k + m` long, or lengths differ.
    #[must_use]
    pub fn rebuild(&self, blocks: &mut [Option<AlignedBuf>], wanted: u32, pool: &Arc<BufPool>) -> bool {
        let (k, width) = (usize::from(self.scheme.k), self.scheme.width());
        assert_eq!(blocks.len(), width, "one entry per block");
        let wants = |index: usize| wanted & 1 << index != 0;
        let present = blocks.iter().flatten().count();
        let missing = (0..width).filter(|i| wants(*i) && blocks[*i].is_none()).count();
        if missing == 0 || present < k {
            return missing == 0;
        }
        let block_bytes = blocks.iter().flatten().next().map_or(0, |b| b.len());
        let Some(rs) = &self.rs else {
            // k = 1: every block is the same. (With m = 0 and a block missing, too few are present.)
            let source = blocks.iter().position(Option::is_some).expect("k blocks are present");
            for index in (0..width).filter(|i| wants(*i)) {
                if blocks[index].is_none() {
                    let mut copy = pool.take(block_bytes);
                    copy.copy_from_slice(blocks[source].as_deref().expect("found above"));
                    blocks[index] = Some(copy);
                }
            }
            return true;
        };
        let parity_wanted = (k..width).any(|i| wants(i) && blocks[i].is_none());
        let before: Vec<bool> = blocks.iter().map(Option::is_some).collect();
        // The decoder computes all missing data blocks, and all missing parity blocks if any is wanted.
        for block in blocks.iter_mut().take(if parity_wanted { width } else { k }) {
            block.get_or_insert_with(|| pool.take(block_bytes));
        }
        let mut slices: Vec<(&mut [u8], bool)> = blocks
            .iter_mut()
            .zip(&before)
            .map(|(block, present)| (block.as_deref_mut().unwrap_or_default(), *present))
            .collect();
        let result = if parity_wanted { rs.reconstruct(&mut slices) } else { rs.reconstruct_data(&mut slices) };
        result.expect("k blocks of equal length are present");
        for (index, block) in blocks.iter_mut().enumerate() {
            if !before[index] && !wants(index) {
                *block = None;
            }
        }
        true
    }

    /// Whether the parity blocks are those of the data blocks.
    ///
    /// # Panics
    /// If `blocks` is not `k + m` long, or lengths differ.
    #[must_use]
    pub fn is_consistent(&self, blocks: &[&[u8]]) -> bool {
        assert_eq!(blocks.len(), self.scheme.width(), "one entry per block");
        match &self.rs {
            Some(rs) => rs.verify(blocks).expect("blocks are equally long"),
            None if self.scheme.m == 0 => true,
            None => blocks.iter().all(|block| *block == blocks[0]),
        }
    }
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Codec({})", self.scheme)
    }
}

/// A codec per scheme, made when first asked for.
#[derive(Debug, Default)]
pub struct Codecs {
    made: [[OnceLock<Arc<Codec>>; PARITY_BLOCKS_MAX + 1]; DATA_BLOCKS_MAX + 1],
}

impl Codecs {
    /// The codec of a scheme.
    ///
    /// # Panics
    /// If the scheme is out of bounds; layouts are made first and refuse those.
    #[must_use]
    pub fn get(&self, scheme: Scheme) -> Arc<Codec> {
        let cell = &self.made[usize::from(scheme.k)][usize::from(scheme.m)];
        Arc::clone(cell.get_or_init(|| Arc::new(Codec::new(scheme))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_types::frame::crc32c;

    fn stripe(codec: &Codec, len: usize) -> Vec<Vec<u8>> {
        let (k, m) = (usize::from(codec.scheme.k), usize::from(codec.scheme.m));
        let data: Vec<Vec<u8>> =
            (0..k).map(|b| (0..len).map(|i| (i * 7 + b * 131 + i / 251) as u8).collect()).collect();
        let mut parity: Vec<AlignedBuf> = (0..m).map(|_| AlignedBuf::copy_from(&vec![0xaau8; len])).collect();
        let blocks: Vec<AlignedBuf> = data.iter().map(|block| AlignedBuf::copy_from(block)).collect();
        let crcs = codec.encode(&blocks, if codec.computes() { &mut parity } else { &mut [] });
        if !codec.computes() {
            parity.iter_mut().for_each(|p| p.copy_from_slice(&data[0]));
        }
        let all: Vec<Vec<u8>> = data.into_iter().chain(parity.iter().map(|p| p.to_vec())).collect();
        for (crcs, block) in crcs.iter().zip(&all) {
            assert_eq!(*crcs, block.chunks(CHUNK_BYTES).map(crc32c).collect::<Vec<_>>());
        }
        all
    }

    #[test]
    fn any_k_blocks_give_all_the_others() {
        let codecs = Codecs::default();
        let pool = BufPool::new(1 << 20);
        for (k, m) in [(1, 0), (1, 1), (1, 4), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (4, 0)] {
            let codec = codecs.get(Scheme { k, m });
            let _ = stripe(&codec, 3 * CHUNK_BYTES + 12_288);
            let blocks = stripe(&codec, 4096);
            let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
            assert!(codec.is_consistent(&slices));
            let width = blocks.len();
            // All ways to lose up to m blocks, capped for the widest scheme.
            for lost in (0u32..1 << width).filter(|l| l.count_ones() <= u32::from(m)).take(3_000) {
                let mut have: Vec<Option<AlignedBuf>> = blocks
                    .iter()
                    .enumerate()
                    .map(|(i, b)| (lost & 1 << i == 0).then(|| AlignedBuf::copy_from(b)))
                    .collect();
                let wanted = if lost.count_ones() > 1 { lost & (lost - 1) } else { lost };
                assert!(codec.rebuild(&mut have, wanted, &pool));
                for (i, block) in have.iter().enumerate() {
                    let expected = lost & 1 << i == 0 || wanted & 1 << i != 0;
                    assert_eq!(block.is_some(), expected);
                    if let Some(block) = block {
                        assert_eq!(&block[..], &blocks[i][..], "{k}+{m} lost {lost:b} block {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn too_few_blocks_are_refused_and_wrong_parity_is_seen() {
        let codecs = Codecs::default();
        let pool = BufPool::new(1 << 20);
        let codec = codecs.get(Scheme { k: 4, m: 2 });
        let mut blocks = stripe(&codec, 4096);
        let mut have: Vec<Option<AlignedBuf>> = blocks.iter().map(|b| Some(AlignedBuf::copy_from(b))).collect();
        have[0] = None;
        have[1] = None;
        have[5] = None;
        assert!(!codec.rebuild(&mut have, 1, &pool));
        for block in 0..6 {
            blocks[block][100] ^= 1;
            let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
            assert!(!codec.is_consistent(&slices));
            blocks[block][100] ^= 1;
        }
    }
}
