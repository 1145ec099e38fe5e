//! MD5 (RFC 1321) of one stream, or of eight at once.
//!
//! MD5 is a chain: every step waits for the one before it, so one stream leaves most of a core idle. Eight streams in the
//! eight lanes of a 256-bit register take about as long as one. [`compress_lanes`] does that; who gathers
//! the streams is not decided here. MD5 proves nothing against an adversary; S3's ETags are made of it.

use std::num::Wrapping;
use std::ops::{Add, BitAnd, BitOr, BitXor, Not};

use wide::u32x8;

/// Streams that [`compress_lanes`] takes at once.
pub const LANES: usize = 8;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 64;

/// The state of a stream between blocks.
pub type Chain = [u32; 4];

/// The state before the first block.
pub const START: Chain = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// RFC 1321's table: `floor(2^32 × |sin(i + 1)|)`.
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// What the rounds do with words: one, or a register of them.
trait Word:
    Copy + Add<Output = Self> + BitAnd<Output = Self> + BitOr<Output = Self> + BitXor<Output = Self> + Not<Output = Self>
{
    fn splat(word: u32) -> Self;
    fn rotate<const N: u32>(self) -> Self;
}

impl Word for Wrapping<u32> {
    #[inline(always)]
    fn splat(word: u32) -> Self {
        Self(word)
    }
    #[inline(always)]
    fn rotate<const N: u32>(self) -> Self {
        Self(self.0.rotate_left(N))
    }
}

impl Word for u32x8 {
    #[inline(always)]
    fn splat(word: u32) -> Self {
        Self::splat(word)
    }
    #[inline(always)]
    fn rotate<const N: u32>(self) -> Self {
        (self << N) | (self >> (32 - N))
    }
}

/// One step: `a = b + ((a + f + word + sine) <<< N)`.
#[inline(always)]
fn step<W: Word, const N: u32>(a: W, b: W, f: W, word: W, sine: u32) -> W {
    // What does not depend on the step before comes first.
    (a + (word + W::splat(sine)) + f).rotate::<N>() + b
}

/// Four steps with the same function and word stride.
macro_rules! four {
    ($w:ty, $f:expr, $a:ident $b:ident $c:ident $d:ident, $words:ident, $i:expr, [$w0:expr, $w1:expr, $w2:expr, $w3:expr],
     [$s0:literal, $s1:literal, $s2:literal, $s3:literal]) => {
        $a = step::<$w, $s0>($a, $b, $f($b, $c, $d), $words[$w0], SINES[$i]);
        $d = step::<$w, $s1>($d, $a, $f($a, $b, $c), $words[$w1], SINES[$i + 1]);
        $c = step::<$w, $s2>($c, $d, $f($d, $a, $b), $words[$w2], SINES[$i + 2]);
        $b = step::<$w, $s3>($b, $c, $f($c, $d, $a), $words[$w3], SINES[$i + 3]);
    };
}

/// The 64 steps over one block's sixteen words.
#[inline(always)]
fn rounds<W: Word>(chain: [W; 4], words: &[W; 16]) -> [W; 4] {
    let [mut a, mut b, mut c, mut d] = chain;
    let f = |x: W, y: W, z: W| z ^ (x & (y ^ z));
    // The halves share no bits, so that adding them is the same as or-ing.
    let g = |x: W, y: W, z: W| (y & !z) + (x & z);
    let h = |x: W, y: W, z: W| x ^ (y ^ z);
    let i = |x: W, y: W, z: W| y ^ (x | !z);
    four!(W, f, a b c d, words, 0, [0, 1, 2, 3], [7, 12, 17, 22]);
    four!(W, f, a b c d, words, 4, [4, 5, 6, 7], [7, 12, 17, 22]);
    four!(W, f, a b c d, words, 8, [8, 9, 10, 11], [7, 12, 17, 22]);
    four!(W, f, a b c d, words, 12, [12, 13, 14, 15], [7, 12, 17, 22]);
    four!(W, g, a b c d, words, 16, [1, 6, 11, 0], [5, 9, 14, 20]);
    four!(W, g, a b c d, words, 20, [5, 10, 15, 4], [5, 9, 14, 20]);
    four!(W, g, a b c d, words, 24, [9, 14, 3, 8], [5, 9, 14, 20]);
    four!(W, g, a b c d, words, 28, [13, 2, 7, 12], [5, 9, 14, 20]);
    four!(W, h, a b c d, words, 32, [5, 8, 11, 14], [4, 11, 16, 23]);
    four!(W, h, a b c d, words, 36, [1, 4, 7, 10], [4, 11, 16, 23]);
    four!(W, h, a b c d, words, 40, [13, 0, 3, 6], [4, 11, 16, 23]);
    four!(W, h, a b c d, words, 44, [9, 12, 15, 2], [4, 11, 16, 23]);
    four!(W, i, a b c d, words, 48, [0, 7, 14, 5], [6, 10, 15, 21]);
    four!(W, i, a b c d, words, 52, [12, 3, 10, 1], [6, 10, 15, 21]);
    four!(W, i, a b c d, words, 56, [8, 15, 6, 13], [6, 10, 15, 21]);
    four!(W, i, a b c d, words, 60, [4, 11, 2, 9], [6, 10, 15, 21]);
    [chain[0] + a, chain[1] + b, chain[2] + c, chain[3] + d]
}

fn word(bytes: &[u8], index: usize) -> u32 {
    let at = index * 4;
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Takes a run of whole blocks into one stream.
///
/// # Panics
/// If `blocks` is not a whole number of them.
pub fn compress(chain: &mut Chain, blocks: &[u8]) {
    assert!(blocks.len().is_multiple_of(BLOCK_BYTES), "whole blocks");
    for block in blocks.chunks_exact(BLOCK_BYTES) {
        let words: [Wrapping<u32>; 16] = std::array::from_fn(|index| Wrapping(word(block, index)));
        *chain = rounds(chain.map(Wrapping), &words).map(|word| word.0);
    }
}

/// Eight words of eight streams from `start` on: one register per word.
#[inline(always)]
fn half(blocks: &[&[u8]; LANES], start: usize) -> [u32x8; 8] {
    let eight = |lane: usize| -> u32x8 { bytemuck::pod_read_unaligned(&blocks[lane][start..start + 32]) };
    u32x8::transpose([eight(0), eight(1), eight(2), eight(3), eight(4), eight(5), eight(6), eight(7)])
}

// Words are read as they lie.
const _: () = assert!(cfg!(target_endian = "little"));

/// Takes equally long runs of whole blocks into eight streams, each into its own.
///
/// # Panics
/// If the runs are not equally long or not a whole number of blocks.
pub fn compress_lanes(chains: &mut [Chain; LANES], blocks: [&[u8]; LANES]) {
    let len = blocks[0].len();
    assert!(len.is_multiple_of(BLOCK_BYTES) && blocks.iter().all(|lane| lane.len() == len), "equal, whole blocks");
    let mut state: [u32x8; 4] = std::array::from_fn(|n| u32x8::new(std::array::from_fn(|lane| chains[lane][n])));
    for start in (0..len).step_by(BLOCK_BYTES) {
        let (low, high) = (half(&blocks, start), half(&blocks, start + BLOCK_BYTES / 2));
        let [a, b, c, d, e, f, g, h] = low;
        let [i, j, k, l, m, n, o, p] = high;
        let words = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
        state = rounds(state, &words);
    }
    for (n, register) in state.into_iter().enumerate() {
        for (chain, value) in chains.iter_mut().zip(register.to_array()) {
            chain[n] = value;
        }
    }
}

/// MD5 of one stream.
#[derive(Clone)]
pub struct Md5 {
    chain: Chain,
    /// The bytes of a block that is not whole yet.
    rest: [u8; BLOCK_BYTES],
    total_bytes: u64,
}

impl Default for Md5 {
    fn default() -> Self {
        Self { chain: START, rest: [0; BLOCK_BYTES], total_bytes: 0 }
    }
}

impl Md5 {
    /// A stream without bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let whole = self.fill(bytes);
        let (blocks, rest) = whole.split_at(whole.len() / BLOCK_BYTES * BLOCK_BYTES);
        self.take_blocks(blocks.len(), |chain| compress(chain, blocks));
        let rest = self.fill(rest);
        debug_assert!(rest.is_empty());
    }

    /// Takes bytes up to the next border of a block (none, if at one and `bytes` holds a whole block); returns the
    /// others.
    pub fn fill<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let filled = (self.total_bytes % BLOCK_BYTES as u64) as usize;
        if filled == 0 && bytes.len() >= BLOCK_BYTES {
            return bytes;
        }
        let (front, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - filled));
        self.rest[filled..filled + front.len()].copy_from_slice(front);
        self.total_bytes += front.len() as u64;
        if filled + front.len() == BLOCK_BYTES {
            compress(&mut self.chain, &self.rest);
        }
        rest
    }

    /// The state after the last whole block.
    #[must_use]
    pub const fn chain(&self) -> Chain {
        self.chain
    }

    /// At the border of a block: lets `work` take `bytes` bytes of whole blocks into the chain.
    ///
    /// # Panics
    /// If it is not at a border.
    pub fn take_blocks(&mut self, bytes: usize, work: impl FnOnce(&mut Chain)) {
        assert!(bytes == 0 || (self.total_bytes.is_multiple_of(64) && bytes.is_multiple_of(64)), "whole blocks");
        work(&mut self.chain);
        self.total_bytes += bytes as u64;
    }

    /// The digest.
    #[must_use]
    pub fn finish(mut self) -> [u8; 16] {
        let filled = (self.total_bytes % BLOCK_BYTES as u64) as usize;
        let bits = self.total_bytes.wrapping_mul(8);
        self.rest[filled] = 0x80;
        self.rest[filled + 1..].fill(0);
        if filled + 1 > BLOCK_BYTES - 8 {
            compress(&mut self.chain, &self.rest);
            self.rest.fill(0);
        }
        self.rest[BLOCK_BYTES - 8..].copy_from_slice(&bits.to_le_bytes());
        compress(&mut self.chain, &self.rest);
        let mut digest = [0; 16];
        for (out, word) in digest.chunks_exact_mut(4).zip(self.chain) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }
}

impl std::fmt::Debug for Md5 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Md5({} bytes)", self.total_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(bytes: &[u8]) -> [u8; 16] {
        use md5::Digest as _;
        md5::Md5::digest(bytes).into()
    }

    #[test]
    fn rfc_1321() {
        let hex = |digest: [u8; 16]| digest.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let of = |text: &str| {
            let mut md5 = Md5::new();
            md5.update(text.as_bytes());
            hex(md5.finish())
        };
        assert_eq!(of(""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(of("abc"), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            of("12345678901234567890123456789012345678901234567890123456789012345678901234567890"),
            "57edf4a22be3c955ac49da2e2107b67a"
        );
    }

    proptest! {
        #[test]
        fn as_another_implementation_has_it(bytes in proptest::collection::vec(any::<u8>(), 0..700), cuts in
            proptest::collection::vec(0usize..700, 0..5)) {
            let mut md5 = Md5::new();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut at = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                md5.update(&bytes[at..cut]);
                at = cut;
            }
            prop_assert_eq!(md5.finish(), reference(&bytes));
        }

        #[test]
        fn lanes_do_not_touch_each_other(seed: u64, blocks in 1usize..5) {
            let byte = |lane: usize, n: usize| (seed.rotate_left((lane * 7 + n) as u32 % 64) as u8) ^ (n * 31 + lane) as u8;
            let data: Vec<Vec<u8>> =
                (0..LANES).map(|lane| (0..blocks * BLOCK_BYTES).map(|n| byte(lane, n)).collect()).collect();
            let mut chains = [START; LANES];
            compress_lanes(&mut chains, std::array::from_fn(|lane| data[lane].as_slice()));
            for (lane, chain) in chains.into_iter().enumerate() {
                let mut md5 = Md5::new();
                md5.take_blocks(data[lane].len(), |own| *own = chain);
                prop_assert_eq!(md5.finish(), reference(&data[lane]));
            }
        }
    }
}
