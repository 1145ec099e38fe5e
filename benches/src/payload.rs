//! What objects contain: bytes that follow from a seed and a key, so that any range of any object
//! can be checked without having kept it.
//!
//! One pool of pseudo-random bytes is made at start; an object is the pool read in a circle from a
//! place that its key decides. Sending therefore touches no byte, and checking is one comparison
//! at memory speed. The pool's length is prime, so that no block, chunk or stripe size divides its
//! period: a block swapped within an object or between objects shows.
//! Leaves to others: the same key always has the same content, so an older version of a key cannot
//! be told from a newer one.

use bytes::Bytes;

/// Bytes in the pool: the largest prime below 2²³.
pub(crate) const POOL_BYTES: usize = 8_388_593;

/// Most bytes handed out as one frame.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, good enough to choose keys and fill bytes.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    /// The sequence that `seed` begins.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in `0..bound` (`bound` > 0), by multiplication; the bias is below 2⁻³² for bounds in use here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A bijection on 64 bits that scatters neighbours.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The content of every object under one seed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Payload {
    pool: Bytes,
    seed: u64,
}

impl Payload {
    /// Fills the pool from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = SplitMix::new(seed);
        let mut pool = Vec::with_capacity(POOL_BYTES + 8);
        while pool.len() < POOL_BYTES {
            pool.extend_from_slice(&random.next_u64().to_le_bytes());
        }
        pool.truncate(POOL_BYTES);
        Self { pool: Bytes::from(pool), seed }
    }

    /// Where in the pool the object `key` begins.
    pub(crate) fn origin(&self, key: &str) -> u64 {
        let mut hash = mix(self.seed ^ key.len() as u64);
        for piece in key.as_bytes().chunks(8) {
            let mut word = [0u8; 8];
            word[..piece.len()].copy_from_slice(piece);
            hash = mix(hash ^ u64::from_le_bytes(word)).wrapping_add(0x9E37_79B9_7F4A_7C15);
        }
        hash % POOL_BYTES as u64
    }

    /// The next run of bytes at `offset` of the object with this origin, at most `bytes_max` long.
    pub(crate) fn frame(&self, origin: u64, offset: u64, bytes_max: u64) -> Bytes {
        let at = ((origin + offset) % POOL_BYTES as u64) as usize;
        let run = (POOL_BYTES - at).min(FRAME_BYTES_MAX);
        let run = usize::try_from(bytes_max).map_or(run, |max| run.min(max));
        self.pool.slice(at..at + run)
    }

    /// The pieces of `offset .. offset + length`, in order.
    pub(crate) fn pieces(&self, origin: u64, offset: u64, length: u64) -> impl Iterator<Item = Bytes> + '_ {
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == length {
                return None;
            }
            let piece = self.frame(origin, offset + done, length - done);
            done += piece.len() as u64;
            Some(piece)
        })
    }

    /// Compares `got`, which came from `offset` of the object, with what should be there. The
    /// answer is the object offset of the first wrong byte.
    pub(crate) fn first_difference(&self, origin: u64, offset: u64, got: &[u8]) -> Option<u64> {
        let mut done = 0usize;
        while done < got.len() {
            let want = self.frame(origin, offset + done as u64, (got.len() - done) as u64);
            let have = &got[done..done + want.len()];
            if have != want.as_ref() {
                let place = have.iter().zip(want.iter()).position(|(a, b)| a != b).unwrap_or(0);
                return Some(offset + (done + place) as u64);
            }
            done += want.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(payload: &Payload, key: &str, length: u64) -> Vec<u8> {
        payload.pieces(payload.origin(key), 0, length).flatten().collect()
    }

    #[test]
    fn pool_length_is_prime_and_the_seed_decides() {
        assert!((2..3_000).all(|d| !POOL_BYTES.is_multiple_of(d)));
        let a = Payload::new(7);
        let b = Payload::new(7);
        let c = Payload::new(8);
        assert_eq!(object(&a, "k", 100_000), object(&b, "k", 100_000));
        assert_ne!(object(&a, "k", 100), object(&c, "k", 100));
        assert_ne!(object(&a, "k", 100), object(&a, "l", 100));
        // Fixed for good: an object written by one build must verify under the next.
        assert_eq!(a.origin("bench/4096/0000000001"), b.origin("bench/4096/0000000001"));
        assert_eq!(SplitMix::new(0).next_u64(), 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn any_range_is_the_same_bytes_as_the_whole() {
        let payload = Payload::new(1);
        let length = POOL_BYTES as u64 + 3_000_000;
        let whole = object(&payload, "big", length);
        assert_eq!(whole.len() as u64, length);
        let origin = payload.origin("big");
        for (offset, run) in [(0, 1), (POOL_BYTES as u64 - 5, 10), (2_999_999, 1_500_000)] {
            let part: Vec<u8> = payload.pieces(origin, offset, run).flatten().collect();
            assert_eq!(part, whole[offset as usize..(offset + run) as usize]);
            assert_eq!(payload.first_difference(origin, offset, &part), None);
        }
    }

    #[test]
    fn one_wrong_byte_is_found_where_it_is() {
        let payload = Payload::new(1);
        let origin = payload.origin("x");
        let mut bytes = object(&payload, "x", 2_500_000);
        bytes[2_100_001] ^= 1;
        assert_eq!(payload.first_difference(origin, 0, &bytes), Some(2_100_001));
        assert_eq!(payload.first_difference(origin, 0, &bytes[..2_100_001]), None);
        // Two 64 KiB chunks changing places shows too.
        let mut swapped = object(&payload, "x", 131_072);
        swapped.rotate_left(65_536);
        assert_eq!(payload.first_difference(origin, 0, &swapped), Some(0));
    }

    #[test]
    fn below_stays_below() {
        let mut random = SplitMix::new(3);
        let mut seen = [false; 7];
        for _ in 0..1_000 {
            seen[random.below(7) as usize] = true;
            assert!((0.0..1.0).contains(&random.unit()));
        }
        assert_eq!(seen, [true; 7]);
    }
}
