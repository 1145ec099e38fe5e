//! Indexes of shards, kept in memory within a budget; each is built once however many ask for it at the same time.
//!
//! A version never changes, so neither does its index, nor the finding that it is no tar file: nothing is ever
//! invalidated, entries only make room, the longest unused first. Names of members are plaintext and stay in this
//! process's memory, as open chunks do (ADR 0010 says why they are not on the drives).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use granary_types::{BucketId, Timestamp, VersionId};
use parking_lot::Mutex;

use crate::ai::shard::ShardIndex;
use crate::ai::tar::TarError;

/// Which version of which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShardKey {
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: String,
    /// Version.
    pub version: Option<VersionId>,
    /// When it was created: grows with every write of the key.
    pub created: Timestamp,
    /// Its ETag.
    pub etag: String,
}

/// What is known of a shard.
#[derive(Debug, Clone)]
pub enum Known {
    /// Its members.
    Index(Arc<ShardIndex>),
    /// It is no tar file that could be served.
    Bad(TarError),
    /// Its index would be too large.
    TooLarge,
}

impl Known {
    fn cost_bytes(&self) -> u64 {
        match self {
            Self::Index(index) => index.memory_bytes(),
            Self::Bad(_) | Self::TooLarge => 0,
        }
    }
}

/// Bytes that an entry takes beside its index.
const ENTRY_BYTES: u64 = 512;

#[derive(Default)]
struct Table {
    /// By key: what is known, when it was last used, what it costs.
    known: HashMap<ShardKey, (Known, u64, u64)>,
    /// Keys by when they were last used.
    by_use: BTreeMap<u64, ShardKey>,
    tick: u64,
    bytes: u64,
}

/// The cache.
pub struct ShardCache {
    budget_bytes: u64,
    table: Mutex<Table>,
    building: Mutex<HashMap<ShardKey, Arc<tokio::sync::Mutex<()>>>>,
}

impl ShardCache {
    /// A cache that holds at most `budget_bytes`.
    #[must_use]
    pub fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, table: Mutex::default(), building: Mutex::default() }
    }

    /// Bytes that one index may take: a quarter of the budget, so that four can be there or be built.
    #[must_use]
    pub const fn index_bytes_max(&self) -> u64 {
        self.budget_bytes / 4
    }

    /// Shards known, and the bytes they take.
    #[must_use]
    pub fn usage(&self) -> (usize, u64) {
        let table = self.table.lock();
        (table.known.len(), table.bytes)
    }

    /// What is known of the shard.
    pub fn get(&self, key: &ShardKey) -> Option<Known> {
        let mut table = self.table.lock();
        let table = &mut *table;
        let (known, used, _) = table.known.get_mut(key)?;
        let known = known.clone();
        if let Some(key) = table.by_use.remove(used) {
            table.tick += 1;
            *used = table.tick;
            table.by_use.insert(table.tick, key);
        }
        Some(known)
    }

    /// Remembers it, and forgets what was unused the longest to make room.
    pub fn put(&self, key: ShardKey, known: Known) {
        let cost = known.cost_bytes() + ENTRY_BYTES + key.key.len() as u64;
        let mut table = self.table.lock();
        let table = &mut *table;
        table.tick += 1;
        let tick = table.tick;
        if let Some((_, used, cost)) = table.known.insert(key.clone(), (known, tick, cost)) {
            table.by_use.remove(&used);
            table.bytes -= cost;
        }
        table.by_use.insert(tick, key);
        table.bytes += cost;
        while table.bytes > self.budget_bytes && table.known.len() > 1 {
            let Some((_, oldest)) = table.by_use.pop_first() else { break };
            if let Some((_, _, cost)) = table.known.remove(&oldest) {
                table.bytes -= cost;
            }
        }
    }

    /// The lock that makes one task build the shard's index while others wait for it.
    pub fn turn(&self, key: &ShardKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut building = self.building.lock();
        // Those that nobody holds any more.
        building.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(building.entry(key.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> ShardKey {
        ShardKey {
            bucket: BucketId(1),
            key: format!("k{n}"),
            version: None,
            created: Timestamp(n),
            etag: "e".to_owned(),
        }
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let cache = ShardCache::new(3 * (ENTRY_BYTES + 2));
        for n in 0..3 {
            cache.put(key(n), Known::TooLarge);
        }
        assert!(cache.get(&key(0)).is_some());
        cache.put(key(3), Known::TooLarge);
        assert!(cache.get(&key(1)).is_none());
        assert!(cache.get(&key(0)).is_some() && cache.get(&key(2)).is_some() && cache.get(&key(3)).is_some());
        cache.put(key(3), Known::TooLarge);
        assert_eq!(cache.usage(), (3, 3 * (ENTRY_BYTES + 2)));
    }

    #[test]
    fn turns_are_shared_and_forgotten() {
        let cache = ShardCache::new(1);
        let turn = cache.turn(&key(1));
        assert!(Arc::ptr_eq(&turn, &cache.turn(&key(1))));
        drop(turn);
        drop(cache.turn(&key(2)));
        assert_eq!(cache.building.lock().len(), 1);
    }
}
