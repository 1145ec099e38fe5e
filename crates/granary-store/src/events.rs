//! Events on their way out: read by those who deliver them, and forgotten when they say so.

use granary_meta::EventQueue;
use granary_meta::command::Command;
use granary_meta::events::EventRecord;

use crate::api::Result;
use crate::inner::from_meta;
use crate::store::Store;

impl Store {
    /// Up to `limit` events of a target behind number `after`, in order.
    ///
    /// # Errors
    /// The index's.
    pub fn events(&self, target: &str, after: u64, limit: usize) -> Result<Vec<EventRecord>> {
        self.inner.index()?.events(target, after, limit).map_err(from_meta)
    }

    /// All targets that events were ever enqueued for, with how many wait and were dropped.
    ///
    /// # Errors
    /// The index's.
    pub fn event_queues(&self) -> Result<Vec<(String, EventQueue)>> {
        self.inner.index()?.event_queues().map_err(from_meta)
    }

    /// Forgets a target's events up to and with number `through`: they were delivered.
    ///
    /// # Errors
    /// That the log takes no commands; the events then come again.
    pub async fn acknowledge_events(&self, target: &str, through: u64) -> Result<()> {
        self.inner.propose(Command::AckEvents { target: target.to_owned(), through }).await.map(drop)
    }
}
