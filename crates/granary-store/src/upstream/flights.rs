//! One fetch of a key at a time: who comes second waits for the first. A key can also be held, so that nothing is fetched for it
//! while it is changed.
//!
//! Guarantees: an entry goes when its task ends, however it ends; who waits is always told.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use granary_types::{BucketId, Timestamp};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::UpstreamError;
use crate::error::StoreError;

/// How a fetch ended.
#[derive(Debug, Clone)]
pub(crate) enum Landing {
    /// The copy is there.
    Landed {
        /// Its creation time.
        created: Timestamp,
    },
    /// The copy that is there is still right.
    Current,
    /// The upstream has no such object (any more).
    Absent,
    /// The key was changed meanwhile: what is there counts.
    Overtaken,
    /// The upstream's fault.
    Upstream(UpstreamError),
    /// This node's: out of space or quota, among others.
    Own(Arc<StoreError>),
}

/// Who waits for a fetch.
pub(crate) type Waiting = watch::Receiver<Option<Landing>>;

type Key = (BucketId, String);

struct Running {
    waiting: Waiting,
    /// `None`: the key is held, or the task is about to be known.
    task: Option<AbortHandle>,
}

/// All that runs.
#[derive(Default)]
pub(crate) struct Flights {
    running: Mutex<HashMap<Key, Running>>,
}

/// Which part somebody has in a fetch.
pub(crate) enum Part {
    /// They start it, and give the ticket to its task.
    Leads(Ticket, Waiting),
    /// It runs.
    Waits(Waiting),
}

/// Held by what a key's entry is there for; ends the entry when dropped.
pub(crate) struct Ticket {
    flights: Arc<Flights>,
    key: Key,
    told: watch::Sender<Option<Landing>>,
    landing: Option<Landing>,
}

impl Ticket {
    /// Ends the entry and tells how it ended.
    pub(crate) fn land(mut self, landing: Landing) {
        self.landing = Some(landing);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // First the entry, so that who is told finds none.
        self.flights.running.lock().remove(&self.key);
        self.told.send_replace(Some(self.landing.take().unwrap_or(Landing::Overtaken)));
    }
}

impl Flights {
    /// Takes part in the fetch of a key.
    pub(crate) fn join(self: &Arc<Self>, bucket: BucketId, key: &str) -> Part {
        let key = (bucket, key.to_owned());
        match self.running.lock().entry(key.clone()) {
            Entry::Occupied(there) => Part::Waits(there.get().waiting.clone()),
            Entry::Vacant(room) => {
                let (told, waiting) = watch::channel(None);
                room.insert(Running { waiting: waiting.clone(), task: None });
                Part::Leads(Ticket { flights: Arc::clone(self), key, told, landing: None }, waiting)
            }
        }
    }

    /// Makes the task of a fetch known, so that it can be cut.
    pub(crate) fn started(&self, bucket: BucketId, key: &str, task: AbortHandle) {
        if let Some(running) = self.running.lock().get_mut(&(bucket, key.to_owned())) {
            running.task = Some(task);
        }
    }

    /// Cuts a key's fetch, and keeps others from starting until the ticket is dropped. Not to be cancelled half-way by
    /// who asks again: entries end by themselves.
    pub(crate) async fn hold(self: &Arc<Self>, bucket: BucketId, key: &str) -> Ticket {
        loop {
            match self.join(bucket, key) {
                Part::Leads(ticket, _) => return ticket,
                Part::Waits(mut waiting) => {
                    let task = self.running.lock().get(&(bucket, key.to_owned())).and_then(|r| r.task.clone());
                    if let Some(task) = task {
                        task.abort();
                    }
                    let _gone = waiting.wait_for(Option::is_some).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: BucketId = BucketId(1);

    #[tokio::test]
    async fn one_leads_others_wait_and_all_are_told() {
        let flights = Arc::new(Flights::default());
        let Part::Leads(ticket, mut mine) = flights.join(BUCKET, "k") else { panic!("the first leads") };
        let Part::Waits(mut theirs) = flights.join(BUCKET, "k") else { panic!("the second waits") };
        assert!(matches!(flights.join(BUCKET, "other"), Part::Leads(..)), "another key is another flight");
        ticket.land(Landing::Absent);
        assert!(matches!(*mine.wait_for(Option::is_some).await.unwrap(), Some(Landing::Absent)));
        assert!(matches!(*theirs.wait_for(Option::is_some).await.unwrap(), Some(Landing::Absent)));
        assert!(matches!(flights.join(BUCKET, "k"), Part::Leads(..)), "what has landed is over");
    }

    #[tokio::test]
    async fn who_holds_a_key_cuts_its_fetch_and_keeps_others_out() {
        let flights = Arc::new(Flights::default());
        let Part::Leads(ticket, mut waiting) = flights.join(BUCKET, "k") else { panic!("the first leads") };
        let task = tokio::spawn(async move {
            let _ticket = ticket;
            std::future::pending::<()>().await;
        });
        flights.started(BUCKET, "k", task.abort_handle());
        let held = flights.hold(BUCKET, "k").await;
        assert!(matches!(*waiting.wait_for(Option::is_some).await.unwrap(), Some(Landing::Overtaken)));
        let Part::Waits(mut later) = flights.join(BUCKET, "k") else { panic!("nobody leads while it is held") };
        drop(held);
        assert!(matches!(*later.wait_for(Option::is_some).await.unwrap(), Some(Landing::Overtaken)));
        assert!(matches!(flights.join(BUCKET, "k"), Part::Leads(..)));
    }
}
