//! Which keys there are and in which order they are used.
//!
//! Key `i` of a key space is `<prefix><i, ten digits>`, so that keys sort by number and a listing
//! can be checked by arithmetic. Leaves to others: what the objects contain.

use crate::payload::{SplitMix, mix};
use clap::ValueEnum;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// The objects a run works on.
#[derive(Clone, Debug)]
pub(crate) struct KeySpace {
    pub(crate) prefix: String,
    pub(crate) count: u64,
    /// Object `i` has `sizes[i % sizes.len()]` bytes.
    pub(crate) sizes: Vec<u64>,
}

impl KeySpace {
    /// The key of object `index`.
    pub(crate) fn key(&self, index: u64) -> String {
        format!("{}{index:010}", self.prefix)
    }

    /// Bytes in object `index`.
    pub(crate) fn size_bytes(&self, index: u64) -> u64 {
        self.sizes[(index % self.sizes.len() as u64) as usize]
    }
}

/// How the next key is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Choice {
    /// Every key is as likely as every other.
    Uniform,
    /// A few keys take most of the requests (YCSB's distribution, hot keys scattered).
    Zipf,
    /// One after the other, round and round, shared by all workers.
    Sequential,
}

/// Chooses keys for one worker.
#[derive(Clone, Debug)]
pub(crate) enum Chooser {
    Uniform { count: u64 },
    Zipf(Zipf),
    Sequential { count: u64 },
}

impl Chooser {
    /// A chooser over `count` keys (at least 1).
    pub(crate) fn new(choice: Choice, count: u64, theta: f64) -> Self {
        let count = count.max(1);
        match choice {
            Choice::Uniform => Self::Uniform { count },
            Choice::Zipf => Self::Zipf(Zipf::new(count, theta)),
            Choice::Sequential => Self::Sequential { count },
        }
    }

    /// The index of the next key. `cursor` is shared by the workers and moves for sequential choice only.
    pub(crate) fn next(&self, random: &mut SplitMix, cursor: &AtomicU64) -> u64 {
        match self {
            Self::Uniform { count } => random.below(*count),
            Self::Zipf(zipf) => zipf.next(random),
            Self::Sequential { count } => cursor.fetch_add(1, Ordering::Relaxed) % count,
        }
    }
}

/// Zipf-distributed ranks by Gray et al., "Quickly Generating Billion-Record Synthetic Databases"
/// (SIGMOD 1994), scattered over the key space so that hot keys are not neighbours.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    count: u64,
    theta: f64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    /// Ranks `0..count` with exponent `theta` in (0, 1).
    pub(crate) fn new(count: u64, theta: f64) -> Self {
        let zeta: f64 = (1..=count).map(|i| (i as f64).powf(-theta)).sum();
        let zeta_two: f64 = (1..=count.min(2)).map(|i| (i as f64).powf(-theta)).sum();
        let eta =
            if count > 2 { (1.0 - (2.0 / count as f64).powf(1.0 - theta)) / (1.0 - zeta_two / zeta) } else { 0.0 };
        Self { count, theta, alpha: 1.0 / (1.0 - theta), zeta, eta }
    }

    /// The next rank: 0 is the hottest.
    pub(crate) fn rank(&self, random: &mut SplitMix) -> u64 {
        let u = random.unit();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(self.theta) {
            return 1.min(self.count - 1);
        }
        let rank = self.count as f64 * (self.eta * u - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count - 1)
    }

    fn next(&self, random: &mut SplitMix) -> u64 {
        mix(self.rank(random).wrapping_add(0x5EED)) % self.count
    }
}

/// Reads `4KiB`, `1MiB`, `64M`, `5GB`, `300`: binary units with `i` or a bare letter, decimal with `B` alone.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("'{text}' does not begin with a number"))?;
    let factor: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        unit => return Err(format!("'{unit}' is no unit of bytes; try KiB, MiB, GiB or MB, GB")),
    };
    number.checked_mul(factor).ok_or_else(|| format!("'{text}' is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_number_and_sizes_go_round() {
        let space = KeySpace { prefix: "p/".into(), count: 10, sizes: vec![1, 2, 3] };
        assert_eq!(space.key(42), "p/0000000042");
        assert!(space.key(9) < space.key(10));
        assert_eq!([space.size_bytes(0), space.size_bytes(4), space.size_bytes(8)], [1, 2, 3]);
    }

    #[test]
    fn sequential_visits_each_once() {
        let chooser = Chooser::new(Choice::Sequential, 5, 0.0);
        let cursor = AtomicU64::new(0);
        let mut random = SplitMix::new(0);
        let seen: Vec<u64> = (0..6).map(|_| chooser.next(&mut random, &cursor)).collect();
        assert_eq!(seen, [0, 1, 2, 3, 4, 0]);
    }

    #[test]
    fn zipf_is_skewed_as_it_should_be() {
        let zipf = Zipf::new(1_000, 0.99);
        let mut random = SplitMix::new(11);
        let mut hits = vec![0u32; 1_000];
        for _ in 0..100_000 {
            hits[zipf.rank(&mut random) as usize] += 1;
        }
        // P(rank 0) = 1 / zeta(1000, 0.99) = 0.1286...; rank 1 about half of it.
        assert!((12_000..13_800).contains(&hits[0]), "{}", hits[0]);
        assert!((5_800..7_200).contains(&hits[1]), "{}", hits[1]);
        let tail: u32 = hits[500..].iter().sum();
        assert!((6_000..12_000).contains(&tail), "{tail}");
        for count in [1, 2, 3] {
            let small = Zipf::new(count, 0.99);
            assert!((0..1_000).all(|_| small.next(&mut random) < count));
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("4KiB"), Ok(4096));
        assert_eq!(parse_bytes("64M"), Ok(64 << 20));
        assert_eq!(parse_bytes("5 GB"), Ok(5_000_000_000));
        assert_eq!(parse_bytes("300"), Ok(300));
        assert!(parse_bytes("4Kx").is_err());
        assert!(parse_bytes("x").is_err());
        assert!(parse_bytes("99999999999TiB").is_err());
    }
}
