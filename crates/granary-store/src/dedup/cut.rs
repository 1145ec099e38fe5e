//! Where a part is cut into blocks: by its content, so that bytes put in or taken out move the cuts with them.
//!
//! A gear hash over the last 64 bytes (FastCDC, Xia et al., USENIX ATC 2016, with its normalised chunking: cuts are made rarer
//! before the average size and commoner behind it). The table is secret and the bucket's own, which is why this is no library's:
//! those that are there cut by a table that everybody knows, or by one that a 64-bit seed is mixed into. A block never begins or
//! ends with less than the smallest size left of the part.

/// Bytes that the rolling hash reaches back: older ones are shifted out of its 64 bits.
const WINDOW_BYTES: u64 = 64;
/// Bits more before the average size, and less behind it.
const NORMALISATION_BITS: u32 = 2;

/// Stretches that are rolled over at once: one alone waits for its own last step, byte after byte. Six take 0.36 CPU-s/GB where one takes 0.81.
const LANES: usize = 6;
/// Bytes of each stretch.
const LANE_BYTES: usize = 2048;

/// Sizes of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The smallest, but for a part that is itself smaller.
    pub(crate) min: u64,
    /// What they come to on average.
    pub(crate) average: u64,
    /// The largest, but for the last of a part, which may be [`Limits::min`] longer.
    pub(crate) max: u64,
}

impl Limits {
    /// For an average that is a power of two.
    pub(crate) const fn of(average: u64) -> Self {
        Self { min: average / 4, average, max: average * 4 }
    }

    /// Bytes of a block, at most.
    pub(crate) const fn block_bytes_max(self) -> u64 {
        self.max + self.min
    }
}

/// Cuts one part.
pub(crate) struct Cutter<'t> {
    gear: &'t [u64; 256],
    limits: Limits,
    rare: u64,
    common: u64,
    hash: u64,
    /// Bytes of the open block.
    filled: u64,
    /// Bytes of the part behind the open block's.
    left: u64,
}

impl<'t> Cutter<'t> {
    pub(crate) fn new(gear: &'t [u64; 256], limits: Limits, part_bytes: u64) -> Self {
        let bits = limits.average.ilog2();
        // The high bits depend on the most bytes.
        let mask = |bits: u32| !(u64::MAX >> bits);
        let (rare, common) = (mask(bits + NORMALISATION_BITS), mask(bits - NORMALISATION_BITS));
        Self { gear, limits, rare, common, hash: 0, filled: 0, left: part_bytes }
    }

    /// How many of `bytes`, which follow what was given before, belong to the open block, and whether it ends with them.
    /// `bytes` must not go past the part's end.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        let Limits { min, average, max } = self.limits;
        // A cut behind this would leave less than the smallest block.
        let last = (self.filled + self.left).saturating_sub(min);
        let mut at = 0usize;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let filled = self.filled;
            let up_to = |size: u64| rest.len().min(usize::try_from(size - filled).unwrap_or(usize::MAX));
            // What the block's size would be with one byte more says what may happen there.
            let next = filled + 1;
            let (taken, is_cut) = if next > last {
                (rest.len(), false)
            } else if next + WINDOW_BYTES <= min {
                // Nothing before the window of the first possible cut matters.
                (up_to(min - WINDOW_BYTES), false)
            } else if next < min {
                let taken = up_to(min - 1);
                self.roll(&rest[..taken]);
                (taken, false)
            } else if next >= max {
                (1, true)
            } else {
                let (end, mask) = if next < average { (average - 1, self.rare) } else { (max - 1, self.common) };
                let window = &rest[..up_to(end.min(last))];
                self.find(window, mask).map_or((window.len(), false), |taken| (taken, true))
            };
            at += taken;
            self.filled += taken as u64;
            self.left -= taken as u64;
            if is_cut {
                return (at, self.end());
            }
        }
        let is_end = self.left == 0 && self.filled > 0;
        (at, is_end && self.end())
    }

    fn roll(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = self.step(self.hash, *byte);
        }
    }

    /// Rolls the hash over `bytes` up to and with the first byte behind which no bit of `mask` is set in it; says how many those are.
    fn find(&mut self, bytes: &[u8], mask: u64) -> Option<usize> {
        let mut at = 0;
        for tile in bytes.chunks(LANES * LANE_BYTES) {
            if !self.roll_whole(tile, mask)
                && let Some(found) = self.find_in_turn(tile, mask)
            {
                return Some(at + found);
            }
            at += tile.len();
        }
        None
    }

    /// Rolls over a whole tile, several stretches of it at once; `false` where that is not all there is to do (it is shorter, or there is a cut
    /// in it): then nothing was done.
    fn roll_whole(&mut self, tile: &[u8], mask: u64) -> bool {
        let (stretches, rest) = tile.as_chunks::<LANE_BYTES>();
        let Ok(stretches) = <&[[u8; LANE_BYTES]; LANES]>::try_from(stretches) else { return false };
        if !rest.is_empty() {
            return false;
        }
        // What the hash is where a stretch begins depends on the window before it alone.
        let mut hashes = [self.hash; LANES];
        for (hash, before) in hashes[1..].iter_mut().zip(stretches) {
            *hash = before[LANE_BYTES - WINDOW_BYTES as usize..].iter().fold(0, |hash, byte| self.step(hash, *byte));
        }
        let mut is_cut = false;
        for i in 0..LANE_BYTES {
            for (hash, stretch) in hashes.iter_mut().zip(stretches) {
                *hash = self.step(*hash, stretch[i]);
                is_cut |= *hash & mask == 0;
            }
        }
        if !is_cut {
            self.hash = hashes[LANES - 1];
        }
        !is_cut
    }

    fn step(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.gear[usize::from(byte)])
    }

    /// [`Cutter::find`], byte after byte.
    fn find_in_turn(&mut self, bytes: &[u8], mask: u64) -> Option<usize> {
        let mut hash = self.hash;
        let found = bytes.iter().position(|byte| {
            hash = self.step(hash, *byte);
            hash & mask == 0
        });
        self.hash = hash;
        found.map(|at| at + 1)
    }

    fn end(&mut self) -> bool {
        self.hash = 0;
        self.filled = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits::of(4096);

    fn gear() -> [u64; 256] {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        std::array::from_fn(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d)
        })
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 32) as u8
        };
        (0..len).map(|_| next(&mut state)).collect()
    }

    fn cut(bytes: &[u8], frames: &[usize]) -> Vec<Vec<u8>> {
        let gear = gear();
        let mut cutter = Cutter::new(&gear, LIMITS, bytes.len() as u64);
        let (mut blocks, mut open) = (Vec::new(), Vec::new());
        let mut rest = bytes;
        let mut frames = frames.iter().copied().cycle();
        while !rest.is_empty() {
            let (mut frame, later) = rest.split_at(frames.next().unwrap_or(1000).min(rest.len()));
            rest = later;
            while !frame.is_empty() {
                let (taken, ends) = cutter.take(frame);
                open.extend_from_slice(&frame[..taken]);
                frame = &frame[taken..];
                if ends {
                    blocks.push(std::mem::take(&mut open));
                }
            }
        }
        assert!(open.is_empty(), "the last block is closed");
        blocks
    }

    proptest! {
        #[test]
        fn cuts_depend_on_the_bytes_alone(seed: u64, len in 1usize..200_000, frames in proptest::collection::vec(1usize..30_000, 1..8)) {
            let bytes = noise(seed, len);
            let blocks = cut(&bytes, &frames);
            prop_assert_eq!(blocks.concat(), bytes.clone());
            prop_assert_eq!(&blocks, &cut(&bytes, &[usize::MAX]));
            for (i, block) in blocks.iter().enumerate() {
                let size = block.len() as u64;
                prop_assert!(size <= LIMITS.block_bytes_max());
                prop_assert!(size >= LIMITS.min || blocks.len() == 1, "block {i} has {size} bytes");
            }
        }
    }

    #[test]
    fn several_stretches_at_once_cut_where_one_does() {
        let (gear, bytes) = (gear(), noise(3, 1 << 20));
        for average in [1 << 12, 1 << 14, 1 << 20] {
            let new = || Cutter::new(&gear, Limits::of(average), bytes.len() as u64);
            let (mut one, mut several, mut at) = (new(), new(), 0);
            for len in [1, 70, 12_287, 12_288, 12_289, 65_520, 300_000].iter().cycle() {
                let frame = &bytes[at..bytes.len().min(at + len)];
                let found = one.find_in_turn(frame, one.common);
                assert_eq!(several.find(frame, several.common), found, "average {average}, at {at}");
                assert_eq!(several.hash, one.hash);
                at += found.unwrap_or(frame.len());
                if at == bytes.len() {
                    break;
                }
            }
        }
    }

    #[test]
    fn blocks_come_to_the_average() {
        let bytes = noise(7, 8 << 20);
        let average = bytes.len() / cut(&bytes, &[65_536]).len();
        assert!((3000..6500).contains(&average), "{average}");
    }

    #[test]
    fn what_is_put_in_moves_the_cuts_with_it() {
        let bytes = noise(1, 1 << 20);
        let moved = [b"some new header".as_slice(), &bytes].concat();
        let known: std::collections::HashSet<Vec<u8>> = cut(&bytes, &[10_000]).into_iter().collect();
        let blocks = cut(&moved, &[10_000]);
        let new: usize = blocks.iter().filter(|block| !known.contains(*block)).map(Vec::len).sum();
        assert!(new < 64 << 10, "{new} bytes of {} are in new blocks", moved.len());
    }

    #[test]
    fn zeros_are_cut_into_equal_blocks() {
        let blocks = cut(&vec![0; 1 << 20], &[3000]);
        let sizes: std::collections::BTreeSet<usize> = blocks[..blocks.len() - 1].iter().map(Vec::len).collect();
        assert_eq!(sizes.len(), 1);
    }
}
