//! Who reads parts made of shared blocks, and since when. A block that lost its last use after a read began may still be
//! wanted by that read, so it is not retired before the read ends. One time for a read, however many blocks it has to come.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_types::Timestamp;
use parking_lot::Mutex;

/// How far before it is registered a read may have looked its object up.
const LOOKED_UP_BEFORE_US: u64 = 10_000_000;

/// The reads there are, by when they began.
#[derive(Default)]
pub(crate) struct Readers(Mutex<BTreeMap<Timestamp, u32>>);

/// Keeps a read registered until dropped.
pub(crate) struct ReadingGuard {
    readers: Arc<Readers>,
    since: Timestamp,
}

impl Readers {
    /// Registers a read whose object was looked up a moment ago.
    pub(crate) fn enter(self: &Arc<Self>, now: Timestamp) -> ReadingGuard {
        let since = Timestamp(now.0.saturating_sub(LOOKED_UP_BEFORE_US));
        *self.0.lock().entry(since).or_insert(0) += 1;
        ReadingGuard { readers: Arc::clone(self), since }
    }

    /// Blocks that were idle before this are wanted by no read.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.0.lock().first_key_value().map(|(since, _)| *since)
    }
}

impl Drop for ReadingGuard {
    fn drop(&mut self) {
        let mut readers = self.readers.0.lock();
        if let Some(count) = readers.get_mut(&self.since) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.since);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_counts_until_it_ends() {
        let readers = Arc::new(Readers::default());
        assert_eq!(readers.oldest(), None);
        let old = readers.enter(Timestamp(50_000_000));
        let same = readers.enter(Timestamp(50_000_000));
        let new = readers.enter(Timestamp(60_000_000));
        assert_eq!(readers.oldest(), Some(Timestamp(40_000_000)));
        drop(old);
        assert_eq!(readers.oldest(), Some(Timestamp(40_000_000)));
        drop(same);
        assert_eq!(readers.oldest(), Some(Timestamp(50_000_000)));
        drop(new);
        assert_eq!(readers.oldest(), None);
    }
}
