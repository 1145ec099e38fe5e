//! The drives there are, and how quick each one is. The table is swapped whole, so readers never wait.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use granary_drive::api::ShardStore;
use granary_types::DriveNo;

/// A drive in the table.
pub struct DriveEntry {
    no: DriveNo,
    store: Arc<dyn ShardStore>,
    latency: Latency,
    in_flight: AtomicUsize,
}

impl DriveEntry {
    /// Its number.
    #[must_use]
    pub const fn no(&self) -> DriveNo {
        self.no
    }

    /// The drive itself.
    #[must_use]
    pub fn store(&self) -> &dyn ShardStore {
        &*self.store
    }

    /// How quick its reads are.
    #[must_use]
    pub const fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Reads running on it now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a read as running until the guard is dropped.
    pub(crate) fn begin_read(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

impl fmt::Debug for DriveEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, {:?})", self.no, self.store.health(), self.latency)
    }
}

/// A running read.
pub(crate) struct InFlight(Arc<DriveEntry>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A drive's read latency: a moving average, and a moving estimate of the 99th percentile (stochastic
/// approximation: a slow read moves it up 99 times as far as a quick one moves it down). Lost updates
/// under contention do no harm.
#[derive(Default)]
pub struct Latency {
    mean_ns: AtomicU64,
    p99_ns: AtomicU64,
}

impl Latency {
    /// Takes in one read.
    pub fn record(&self, took: Duration) {
        let sample = took.as_nanos().min(60_000_000_000) as u64;
        let mean = self.mean_ns.load(Ordering::Relaxed);
        let mean = if mean == 0 { sample } else { mean - mean / 16 + sample / 16 };
        self.mean_ns.store(mean, Ordering::Relaxed);
        let p99 = self.p99_ns.load(Ordering::Relaxed);
        // A hundredth of the way down for every quick read, 99 hundredths up for every slow one.
        let step = (p99 / 16).max(20_000);
        let p99 = if sample > p99 {
            p99.saturating_add(step - step / 100).min(sample.max(step))
        } else {
            p99 - (step / 100).min(p99)
        };
        self.p99_ns.store(p99, Ordering::Relaxed);
    }

    /// The moving average.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.mean_ns.load(Ordering::Relaxed))
    }

    /// About the 99th percentile.
    #[must_use]
    pub fn p99(&self) -> Duration {
        Duration::from_nanos(self.p99_ns.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mean {:?}, p99 {:?}", self.mean(), self.p99())
    }
}

/// The table: drive numbers to drives. A number that is not in it is a drive that is not there.
#[derive(Default)]
pub struct DriveSet {
    table: ArcSwap<BTreeMap<DriveNo, Arc<DriveEntry>>>,
}

impl DriveSet {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a drive, or puts another store in its place (its latency begins anew). What runs on the old
    /// one ends there.
    pub fn insert(&self, no: DriveNo, store: Arc<dyn ShardStore>) {
        let entry = Arc::new(DriveEntry { no, store, latency: Latency::default(), in_flight: AtomicUsize::new(0) });
        self.table.rcu(|table| {
            let mut table = BTreeMap::clone(table);
            table.insert(no, Arc::clone(&entry));
            table
        });
    }

    /// Takes a drive out of the table.
    pub fn remove(&self, no: DriveNo) {
        self.table.rcu(|table| {
            let mut table = BTreeMap::clone(table);
            table.remove(&no);
            table
        });
    }

    /// A drive.
    #[must_use]
    pub fn get(&self, no: DriveNo) -> Option<Arc<DriveEntry>> {
        self.table.load().get(&no).map(Arc::clone)
    }

    /// All drives, by number.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<DriveEntry>> {
        self.table.load().values().map(Arc::clone).collect()
    }
}

impl fmt::Debug for DriveSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.table.load().values()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p99_settles_between_the_quick_and_the_slow() {
        let latency = Latency::default();
        // One read in 200 takes 50 ms, the others 100 µs: the 99th percentile is near the quick ones.
        for i in 0..20_000 {
            latency.record(if i % 200 == 7 { Duration::from_millis(50) } else { Duration::from_micros(100) });
        }
        assert!(latency.p99() < Duration::from_millis(2), "{latency:?}");
        assert!(latency.p99() >= Duration::from_micros(80), "{latency:?}");
        // A drive that has become slow is known as slow after some dozens of reads.
        for _ in 0..200 {
            latency.record(Duration::from_millis(30));
        }
        assert!(latency.p99() > Duration::from_millis(15), "{latency:?}");
        assert!(latency.mean() > Duration::from_millis(25), "{latency:?}");
    }
}
