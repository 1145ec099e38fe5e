//! The fuzz targets without a fuzzer: every file of the corpus, and seeded mutations of each. libFuzzer needs a nightly
//! compiler (`fuzz/README.md`); this runs on any.
//!
//! `FUZZ_SEED` repeats a run; `FUZZ_ROUNDS` sets how many mutations of each file are tried, or `FUZZ_SECONDS` how long each target
//! is driven: then inputs whose answers are new are mutated further. (`make test` says 8 seconds, `make soak` half an hour.)
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::type_complexity)]

#[path = "../front/client.rs"]
mod client;
#[path = "../front/harness.rs"]
mod harness;
#[path = "../front/sign.rs"]
mod sign;
mod targets;
#[path = "../front/twin.rs"]
mod twin;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const ROUNDS: u32 = 150;
/// Inputs of one target that are mutated further, at most.
const POOL_MAX: usize = 5_000;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus for {target} in {}", folder.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One to four small changes: what a fuzzer does, without the guidance.
fn mutate(rng: &mut StdRng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=out.len());
        let end = rng.random_range(at..=out.len().min(at + 16));
        match rng.random_range(0..8) {
            0 if at < out.len() => out[at] ^= 1 << rng.random_range(0..8),
            1 if at < out.len() => out[at] = rng.random(),
            2 => drop(out.drain(at..end)),
            3 => out.insert(at, *b"\0\n\r<>&\"'%-;:,=/0".get(rng.random_range(0..16)).unwrap()),
            4 => {
                let copy = out[at..end].to_vec();
                out.splice(at..at, copy);
            }
            5 => {
                let from = rng.random_range(0..=other.len());
                out.splice(at..end, other[from..].iter().take(32).copied());
            }
            6 => {
                let numbers = ["0", "-1", "18446744073709551616", "9223372036854775807", "4294967296", "1e9", "\u{fc}"];
                out.splice(at..end, numbers[rng.random_range(0..numbers.len())].bytes());
            }
            _ => out.truncate(at),
        }
    }
    out
}

/// How long each target is driven.
enum Budget {
    /// So many mutations of each file.
    Rounds(u32),
    /// So long, whatever comes of it; inputs with answers that were not heard before are mutated further.
    Seconds(u64),
}

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Gives an input to a target; a panic is told with what repeats it.
fn drive(name: &str, target: fn(&[u8]), input: &[u8], seed: u64) {
    let caught = std::panic::catch_unwind(|| target(input));
    let shown = String::from_utf8_lossy(input);
    assert!(caught.is_ok(), "{name}: FUZZ_SEED={seed}: this input broke it:\n{shown:?}");
}

fn rounds(name: &str, target: fn(&[u8]), files: &[Vec<u8>], rounds: u32, seed: u64) {
    for (index, file) in files.iter().enumerate() {
        // A generator per file, so that one can be repeated alone.
        let mut rng = StdRng::seed_from_u64(seed ^ (index as u64) << 32 ^ u64::from(name.as_bytes()[0]));
        for _ in 0..rounds {
            let other = &files[rng.random_range(0..files.len())];
            drive(name, target, &mutate(&mut rng, file, other), seed);
        }
    }
}

fn seconds(name: &str, target: fn(&[u8]), mut pool: Vec<Vec<u8>>, seconds: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ u64::from(name.as_bytes()[0]));
    let mut heard = HashSet::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut tried, files) = (0_u64, pool.len());
    targets::heard();
    while Instant::now() < end {
        let (one, other) = (rng.random_range(0..pool.len()), rng.random_range(0..pool.len()));
        let input = mutate(&mut rng, &pool[one], &pool[other]);
        drive(name, target, &input, seed);
        tried += 1;
        if heard.insert(targets::heard()) && pool.len() < POOL_MAX {
            pool.push(input);
        }
    }
    println!("{name}: {tried} inputs, {} answers, {} inputs kept beside the corpus", heard.len(), pool.len() - files);
}

/// The corpus of one target, and mutations of it.
fn corpus_and_mutations(wanted: &str) {
    let (name, target) = targets::TARGETS.into_iter().find(|(name, _)| *name == wanted).expect("a target of that name");
    let seed = number("FUZZ_SEED").unwrap_or_else(rand::random::<u64>);
    let budget = number("FUZZ_SECONDS")
        .map(Budget::Seconds)
        .unwrap_or_else(|| Budget::Rounds(number("FUZZ_ROUNDS").unwrap_or(ROUNDS)));
    println!("FUZZ_SEED={seed} repeats this");
    let files = corpus(name);
    files.iter().for_each(|file| drive(name, target, file, seed));
    match budget {
        Budget::Rounds(count) => rounds(name, target, &files, count, seed),
        Budget::Seconds(count) => seconds(name, target, files, count, seed),
    }
}

/// A test for each target, so that they run beside each other.
macro_rules! tests {
    ($($name:ident),*) => {
        $(#[test] fn $name() { corpus_and_mutations(stringify!($name)); })*

        #[test]
        fn every_target_has_its_test() {
            assert_eq!(targets::TARGETS.map(|(name, _)| name), [$(stringify!($name)),*]);
        }
    };
}

tests!(sigv4, chunked, xml, form, policy, headers, records);
