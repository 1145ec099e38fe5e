//! What is counted of upstreams, by bucket, since start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use granary_types::BucketName;
use parking_lot::Mutex;

/// Counters of one bucket.
#[derive(Debug, Default)]
pub struct BucketStats {
    /// Reads answered from what the bucket has.
    pub hits: AtomicU64,
    /// Reads that the upstream was asked for.
    pub misses: AtomicU64,
    /// Objects fetched and stored.
    pub fetched: AtomicU64,
    /// Their bytes.
    pub fetched_bytes: AtomicU64,
    /// Copies that the upstream said are still right.
    pub revalidated: AtomicU64,
    /// Requests to the upstream that came to nothing.
    pub errors: AtomicU64,
    /// Of them, answers that did not hold: wrong lengths, checksums, listings.
    pub lies: AtomicU64,
    /// Keys written back.
    pub written: AtomicU64,
    /// Tries to write back that failed.
    pub write_failures: AtomicU64,
    /// Keys given up: the upstream refuses them.
    pub given_up: AtomicU64,
}

impl BucketStats {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// All by name.
    #[must_use]
    pub fn all(&self) -> [(&'static str, u64); 10] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("hits", read(&self.hits)),
            ("misses", read(&self.misses)),
            ("fetched", read(&self.fetched)),
            ("fetched_bytes", read(&self.fetched_bytes)),
            ("revalidated", read(&self.revalidated)),
            ("errors", read(&self.errors)),
            ("lies", read(&self.lies)),
            ("written", read(&self.written)),
            ("write_failures", read(&self.write_failures)),
            ("given_up", read(&self.given_up)),
        ]
    }
}

/// Counters of all buckets that have, or had, an upstream.
#[derive(Debug, Default)]
pub struct UpstreamStats {
    buckets: Mutex<BTreeMap<BucketName, Arc<BucketStats>>>,
}

impl UpstreamStats {
    pub(crate) fn of(&self, bucket: &BucketName) -> Arc<BucketStats> {
        let mut buckets = self.buckets.lock();
        match buckets.get(bucket) {
            Some(found) => Arc::clone(found),
            None => Arc::clone(buckets.entry(bucket.clone()).or_default()),
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<(BucketName, Arc<BucketStats>)> {
        self.buckets.lock().iter().map(|(name, stats)| (name.clone(), Arc::clone(stats))).collect()
    }
}
