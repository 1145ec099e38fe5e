//! A drive's counters: plain atomics, read by whoever exports metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of a [`Latency`]: bucket `i` counts what took less than `2^i` microseconds (the last: anything longer).
pub const LATENCY_BUCKETS: usize = 24;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long operations took.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; LATENCY_BUCKETS],
    total_us: AtomicU64,
}

impl Latency {
    pub(crate) fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = ((u64::BITS - us.leading_zeros()) as usize).min(LATENCY_BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.total_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Counts per bucket; bucket `i` holds what took less than `2^i` µs and not less than half of that.
    #[must_use]
    pub fn buckets(&self) -> [u64; LATENCY_BUCKETS] {
        std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed))
    }

    /// All of them together, microseconds.
    #[must_use]
    pub fn total_us(&self) -> u64 {
        self.total_us.load(Ordering::Relaxed)
    }
}

/// What a drive has done since it was opened.
#[derive(Debug, Default)]
pub struct DriveStats {
    /// Read operations and the bytes they returned.
    pub reads: Counter,
    /// Bytes returned by reads.
    pub read_bytes: Counter,
    /// Write operations (a shard of at most 512 KiB is one).
    pub writes: Counter,
    /// Bytes written, headers included.
    pub write_bytes: Counter,
    /// Shards committed.
    pub commits: Counter,
    /// Calls of fdatasync for commits.
    pub syncs: Counter,
    /// Shards freed.
    pub frees: Counter,
    /// Holes punched.
    pub punches: Counter,
    /// Bytes given back by punching.
    pub punched_bytes: Counter,
    /// Segments used anew.
    pub recycled: Counter,
    /// Flushes of the drive's index.
    pub flushes: Counter,
    /// Chunks and headers whose checksum did not match.
    pub crc_failures: Counter,
    /// Operations that the system failed.
    pub io_errors: Counter,
    /// How long reads took.
    pub read_latency: Latency,
    /// How long writes took (without sync).
    pub write_latency: Latency,
    /// How long syncs took.
    pub sync_latency: Latency,
    /// How long commits took, from call to durable.
    pub commit_latency: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        let latency = Latency::default();
        for us in [0, 1, 2, 3, 4, 1_000, u64::MAX / 2] {
            latency.record(Duration::from_micros(us));
        }
        let buckets = latency.buckets();
        assert_eq!(buckets[..4], [1, 1, 2, 1]);
        assert_eq!(buckets[10], 1);
        assert_eq!(buckets[LATENCY_BUCKETS - 1], 1);
    }
}
