//! Group commit: one fdatasync for all commits that wait.
//!
//! A drive has one thread for it. It takes every commit that has written its bytes, syncs each segment they
//! touched once, puts them all into the index with one batch, and only then answers. While it syncs, the next
//! group gathers. After a failed sync the drive is poisoned: what was written since the last good one may be
//! gone even if a later sync succeeds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::api::{DriveError, Result};
use crate::core::{Core, Hold, Writing};
use crate::index::{Changes, NewShard};
use crate::space::Segment;

/// A commit that waits for its sync.
pub(crate) struct Ticket {
    pub(crate) shard: NewShard,
    pub(crate) holds: Vec<Arc<Hold>>,
    pub(crate) writing: Writing,
    pub(crate) end: oneshot::Sender<Result<()>>,
}

#[derive(Default)]
struct State {
    tickets: Vec<Ticket>,
    busy: bool,
    closed: bool,
}

/// Where commits wait.
#[derive(Default)]
pub(crate) struct CommitQueue {
    state: Mutex<State>,
    wake: Condvar,
    idle: Condvar,
}

impl CommitQueue {
    /// Queues a commit; after [`CommitQueue::close`] it is dropped, which its waiter sees.
    pub(crate) fn push(&self, ticket: Ticket) {
        let mut state = self.state.lock();
        if !state.closed {
            state.tickets.push(ticket);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Waits for commits; `None` once closed and empty.
    fn take(&self) -> Option<Vec<Ticket>> {
        let mut state = self.state.lock();
        state.busy = false;
        loop {
            if !state.tickets.is_empty() {
                state.busy = true;
                return Some(std::mem::take(&mut state.tickets));
            }
            self.idle.notify_all();
            if state.closed {
                return None;
            }
            self.wake.wait(&mut state);
        }
    }

    /// Takes no more; what waits is still done.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_all();
    }

    /// Waits until nothing waits.
    pub(crate) fn drain(&self) {
        let mut state = self.state.lock();
        while state.busy || !state.tickets.is_empty() {
            self.idle.wait(&mut state);
        }
    }
}

/// The thread.
pub(crate) fn run(core: &Core) {
    while let Some(mut tickets) = core.queue.take() {
        // Those whose future was dropped are given up: their holds free the space.
        tickets.retain(|t| !t.end.is_closed());
        match commit(core, &tickets) {
            Ok(()) => tickets.into_iter().for_each(|ticket| finish(core, ticket)),
            Err(error) => {
                for ticket in tickets {
                    let _ = ticket.end.send(Err(error.clone()));
                }
            }
        }
    }
}

fn commit(core: &Core, tickets: &[Ticket]) -> Result<()> {
    if tickets.is_empty() {
        return Ok(());
    }
    core.check_writable()?;
    let mut segments: Vec<&Arc<Segment>> = tickets.iter().flat_map(|t| t.holds.iter().map(|h| &h.segment)).collect();
    segments.sort_by_key(|s| s.no);
    segments.dedup_by_key(|s| s.no);
    for segment in segments {
        let begun = Instant::now();
        let synced = core.engine.sync(&segment.file);
        core.stats.syncs.add(1);
        core.stats.sync_latency.record(begun.elapsed());
        if let Err(error) = synced {
            return Err(sync_failed(core, segment, error));
        }
        if !segment.file.is_linked() {
            return Err(core.take_offline(format!("{} was removed", segment.file.path().display())));
        }
    }
    let mut changes = Changes::default();
    tickets.iter().for_each(|t| changes.put_shard(&t.shard));
    core.index.apply(changes).map_err(|error| core.index_fault(error))
}

fn sync_failed(core: &Core, segment: &Segment, error: std::io::Error) -> DriveError {
    let what = format!("fdatasync of segment {:08x}", segment.no);
    match core.fault(&what, error, true) {
        // Even for want of space: after a failed sync nothing is known of what was written.
        DriveError::Full { .. } => core.poison(format!("{what}: no space left")),
        other => other,
    }
}

fn finish(core: &Core, ticket: Ticket) {
    let Ticket { shard, holds, writing, end } = ticket;
    let mut bytes = 0;
    for hold in &holds {
        core.space.commit(&hold.extent);
        hold.committed.store(true, Ordering::Release);
        bytes += hold.extent.len_bytes();
    }
    core.cache.forget(shard.record.spec.shard);
    drop(writing);
    core.stats.commits.add(1);
    core.chores.committed(bytes);
    let _ = end.send(Ok(()));
}
