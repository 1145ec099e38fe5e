//! Reads of the events on their way out.

use granary_types::BucketId;

use super::read::bounded;
use super::{EventQueue, Family, Index, layout};
use crate::error::Result;
use crate::events::EventRecord;

impl Index {
    /// Up to `limit` events of `target` with sequence numbers over `after`, in order.
    ///
    /// # Errors
    /// The index's.
    pub fn events(&self, target: &str, after: u64, limit: usize) -> Result<Vec<EventRecord>> {
        let mut found = Vec::new();
        let Some(first) = after.checked_add(1) else { return Ok(found) };
        let prefix = layout::event_prefix(target);
        let mut iter = self.db().raw_iterator_cf_opt(self.family(Family::Events), bounded(&prefix));
        iter.seek(layout::event_key(target, first));
        while found.len() < limit {
            let Some(value) = iter.value() else { break };
            found.push(self.decode(Family::Events, value)?);
            iter.next();
        }
        iter.status().map_err(|e| self.noticed(e))?;
        Ok(found)
    }

    /// What is known of a target's queue.
    ///
    /// # Errors
    /// The index's.
    pub fn event_queue(&self, target: &str) -> Result<EventQueue> {
        Ok(self.get(Family::Sys, &layout::event_queue_key(target))?.unwrap_or_default())
    }

    /// Whether the bucket's upstream does not have the key's last change yet.
    ///
    /// # Errors
    /// The index's.
    pub fn is_unwritten(&self, bucket: BucketId, key: &str) -> Result<bool> {
        Ok(self.get::<u64>(Family::Sys, &layout::unwritten_key(bucket, key))?.is_some())
    }

    /// All targets that events were ever enqueued for.
    ///
    /// # Errors
    /// The index's.
    pub fn event_queues(&self) -> Result<Vec<(String, EventQueue)>> {
        let mut found = Vec::new();
        let mut iter = self.db().raw_iterator_cf_opt(self.family(Family::Sys), bounded(layout::EVENT_QUEUES));
        iter.seek(layout::EVENT_QUEUES);
        while let Some((key, value)) = iter.item() {
            let target = std::str::from_utf8(&key[layout::EVENT_QUEUES.len()..]);
            let target = target.map_err(|e| self.undecodable(Family::Sys, e))?.to_owned();
            found.push((target, self.decode(Family::Sys, value)?));
            iter.next();
        }
        iter.status().map_err(|e| self.noticed(e))?;
        Ok(found)
    }

    /// The key of a target's oldest event.
    pub(crate) fn oldest_event(&self, target: &str) -> Result<Option<Vec<u8>>> {
        let prefix = layout::event_prefix(target);
        let mut iter = self.db().raw_iterator_cf_opt(self.family(Family::Events), bounded(&prefix));
        iter.seek(&prefix);
        iter.status().map_err(|e| self.noticed(e))?;
        Ok(iter.key().map(<[u8]>::to_vec))
    }
}
