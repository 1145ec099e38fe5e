//! What a bucket with deduplication stores of a second checkpoint, given the first: cut with the store's own code, and in fixed
//! pieces for comparison. Needs no cargo:
//!
//! ```sh
//! rustc --edition 2024 -O benches/dedup/simulate.rs -o /tmp/simulate && /tmp/simulate BEFORE AFTER
//! ```

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher as _};

#[allow(dead_code)]
#[path = "../../crates/granary-store/src/dedup/cut.rs"]
mod cut;

use cut::{Cutter, Limits};

type Block = (usize, usize);

fn name(bytes: &[u8]) -> (u64, usize) {
    let mut hash = DefaultHasher::new();
    hash.write(bytes);
    (hash.finish(), bytes.len())
}

fn by_content(data: &[u8], gear: &[u64; 256], average: usize, part: usize) -> Vec<Block> {
    let (mut blocks, mut base) = (Vec::new(), 0);
    for part in data.chunks(part) {
        let mut cutter = Cutter::new(gear, Limits::of(average as u64), part.len() as u64);
        let (mut at, mut start) = (0, 0);
        while at < part.len() {
            let (taken, ends) = cutter.take(&part[at..]);
            at += taken;
            if ends {
                blocks.push((base + start, base + at));
                start = at;
            }
        }
        base += part.len();
    }
    blocks
}

fn fixed(data: &[u8], size: usize, part: usize) -> Vec<Block> {
    let (mut blocks, mut base) = (Vec::new(), 0);
    for part in data.chunks(part) {
        blocks.extend((0..part.len()).step_by(size).map(|at| (base + at, base + (at + size).min(part.len()))));
        base += part.len();
    }
    blocks
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, before, after] = &args[..] else { panic!("usage: simulate BEFORE AFTER") };
    let (before, after) = (std::fs::read(before).expect("BEFORE"), std::fs::read(after).expect("AFTER"));
    // Any table will do; a bucket's is derived from its key.
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut bit = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 40 & 1
    };
    let gear: [u64; 256] = std::array::from_fn(|_| (0..64).fold(0, |value, _| value << 1 | bit()));
    for part in [usize::MAX, 64 << 20, 8 << 20] {
        for way in ["content", "fixed"] {
            print!("{way:8} parts of {:>5}:", if part == usize::MAX { "all".to_owned() } else { format!("{} MiB", part >> 20) });
            for size in [1usize << 19, 1 << 20, 2 << 20, 4 << 20] {
                let part = part.min(isize::MAX as usize);
                let cut = |data: &[u8]| match way {
                    "content" => by_content(data, &gear, size, part),
                    _ => fixed(data, size, part),
                };
                let mut known: HashSet<_> = cut(&before).into_iter().map(|(a, b)| name(&before[a..b])).collect();
                let new: usize =
                    cut(&after).into_iter().filter(|(a, b)| known.insert(name(&after[*a..*b]))).map(|(a, b)| b - a).sum();
                print!("  {} MiB {:.1} %", size as f64 / 1048576.0, new as f64 * 100.0 / after.len() as f64);
            }
            println!();
        }
    }
}
