//! Parts that somebody is reading or writing right now. The reaper and the orphan sweep pass over them,
//! so that a long GET of an object deleted under it ends well, and a part that is being written is not
//! taken for an orphan.

use std::collections::HashMap;
use std::sync::Arc;

use granary_types::PartId;
use parking_lot::Mutex;

const SHARDS_COUNT: usize = 16;

/// A registry of part ids in use.
#[derive(Default)]
pub(crate) struct ActiveParts {
    shards: [Mutex<HashMap<PartId, u32>>; SHARDS_COUNT],
}

/// Keeps a part in the registry until dropped.
pub(crate) struct ActiveGuard {
    registry: Arc<ActiveParts>,
    part: PartId,
}

impl ActiveParts {
    fn shard(&self, part: PartId) -> &Mutex<HashMap<PartId, u32>> {
        &self.shards[usize::from(part.0[0]) % SHARDS_COUNT]
    }

    /// Registers a use of `part`.
    pub(crate) fn enter(self: &Arc<Self>, part: PartId) -> ActiveGuard {
        *self.shard(part).lock().entry(part).or_insert(0) += 1;
        ActiveGuard { registry: Arc::clone(self), part }
    }

    /// Whether anybody uses `part`.
    pub(crate) fn contains(&self, part: PartId) -> bool {
        self.shard(part).lock().contains_key(&part)
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        let mut shard = self.registry.shard(self.part).lock();
        if let Some(count) = shard.get_mut(&self.part) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_uses() {
        let registry = Arc::new(ActiveParts::default());
        let part = PartId::random();
        let one = registry.enter(part);
        let two = registry.enter(part);
        drop(one);
        assert!(registry.contains(part));
        drop(two);
        assert!(!registry.contains(part));
    }
}
