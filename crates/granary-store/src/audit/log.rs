//! Events of requests that changed nothing, on their way into the log together.
//!
//! Guarantees: never more than [`WAITING_MAX`] events wait; a request that finds no room for its event waits before it is
//! served, so that none is dropped; a batch that the log refuses is tried again until it is taken. A crash loses what
//! waited (at most the flush interval's worth), and the next start marks that in the trail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use granary_meta::command::Command;
use parking_lot::Mutex;
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::{mpsc, watch};

use super::AuditOptions;
use crate::api::Result;
use crate::error::StoreError;
use crate::inner::Inner;

/// Events that may wait.
const WAITING_MAX: usize = 8192;
/// Events and bytes of one command.
const BATCH_EVENTS_MAX: usize = 2048;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Between two tries of a batch that the log did not take.
const RETRY: Duration = Duration::from_millis(100);
/// How long a request waits for room before it is answered `503 SlowDown`.
const ROOM_WAIT: Duration = Duration::from_secs(10);

/// Where requests tell their events.
pub struct AuditLog {
    sender: mpsc::Sender<Bytes>,
    receiver: Mutex<Option<mpsc::Receiver<Bytes>>>,
    /// Too much waits to be sealed: writes are refused, or everything.
    writes_refused: AtomicBool,
    all_refused: AtomicBool,
}

/// Room for one event, held from before its request is served.
pub struct AuditRoom(OwnedPermit<Bytes>);

impl AuditRoom {
    /// Tells the event.
    pub fn tell(self, event: Bytes) {
        self.0.send(event);
    }
}

impl Default for AuditLog {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
            writes_refused: AtomicBool::new(false),
            all_refused: AtomicBool::new(false),
        }
    }
}

impl AuditLog {
    /// Room for the event of a request, before it is served.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when none comes free in time, or the trail cannot be sealed and takes no more.
    pub async fn room(&self, is_write: bool) -> Result<AuditRoom> {
        if self.all_refused.load(Ordering::Relaxed) || (is_write && self.writes_refused.load(Ordering::Relaxed)) {
            return Err(StoreError::Unavailable(
                "the audit trail cannot be sealed (are the drives full?), and nothing is done without it".to_owned(),
            ));
        }
        if let Ok(permit) = self.sender.clone().try_reserve_owned() {
            return Ok(AuditRoom(permit));
        }
        match tokio::time::timeout(ROOM_WAIT, self.sender.clone().reserve_owned()).await {
            Ok(Ok(permit)) => Ok(AuditRoom(permit)),
            _ => Err(StoreError::Unavailable("the audit trail takes no more: please reduce the rate".to_owned())),
        }
    }

    /// Sets who is refused, by how much waits to be sealed.
    pub(super) fn judge(&self, unsealed: u64, options: &AuditOptions) {
        let writes = unsealed > options.unsealed_events_max;
        if writes && !self.writes_refused.load(Ordering::Relaxed) {
            tracing::error!(unsealed, "the audit trail cannot be sealed: writes are refused");
        }
        self.writes_refused.store(writes, Ordering::Relaxed);
        self.all_refused.store(unsealed > options.unsealed_events_max.saturating_mul(2), Ordering::Relaxed);
    }

    /// Writes what is told until `stop` turns true. Dropped before that, it takes what waits with it.
    pub(super) async fn run(&self, inner: &Arc<Inner>, interval: Duration, mut stop: watch::Receiver<bool>) {
        let Some(mut receiver) = self.receiver.lock().take() else { return };
        let mut batch = Vec::new();
        loop {
            let first = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                event = receiver.recv() => event,
            };
            let Some(first) = first else { break };
            let mut bytes = first.len();
            batch.push(first);
            let deadline = tokio::time::Instant::now() + interval;
            while batch.len() < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
                let event = tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => None,
                    event = tokio::time::timeout_at(deadline, receiver.recv()) => event.ok().flatten(),
                };
                let Some(event) = event else { break };
                bytes += event.len();
                batch.push(event);
            }
            write(inner, std::mem::take(&mut batch)).await;
        }
        *self.receiver.lock() = Some(receiver);
    }

    /// Writes what still waits: at the end, when no request is served any more.
    pub(super) async fn drain(&self, inner: &Arc<Inner>) {
        let Some(mut receiver) = self.receiver.lock().take() else { return };
        let mut batch = Vec::new();
        while let Ok(event) = receiver.try_recv() {
            batch.push(event);
            if batch.len() >= BATCH_EVENTS_MAX {
                write(inner, std::mem::take(&mut batch)).await;
            }
        }
        if !batch.is_empty() {
            write(inner, batch).await;
        }
        *self.receiver.lock() = Some(receiver);
    }
}

/// Until the log has taken it. (After `Unavailable` it may have it already: then the events come twice, with their ids.)
async fn write(inner: &Arc<Inner>, events: Vec<Bytes>) {
    let mut warned = false;
    while let Err(error) = inner.meta.propose(Command::Audit { events: events.clone() }).await {
        if matches!(error, granary_meta::MetaError::Closed) {
            tracing::error!(lost = events.len(), "the log is closed: audit events of reads are lost");
            return;
        }
        if !warned {
            tracing::warn!(%error, "audit events wait for the log");
            warned = true;
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn writes_are_refused_before_reads_and_all_before_an_event_is_lost() {
        let log = AuditLog::default();
        let options = AuditOptions { unsealed_events_max: 100, ..AuditOptions::default() };
        for (unsealed, write, read) in
            [(100, true, true), (101, false, true), (200, false, true), (201, false, false), (100, true, true)]
        {
            log.judge(unsealed, &options);
            assert_eq!(log.room(true).await.is_ok(), write, "{unsealed}");
            assert_eq!(log.room(false).await.is_ok(), read, "{unsealed}");
        }
    }

    #[tokio::test]
    async fn who_finds_no_room_waits_and_what_was_told_stays() {
        let log = AuditLog::default();
        let mut rooms = Vec::new();
        for _ in 0..WAITING_MAX {
            rooms.push(log.room(true).await.unwrap());
        }
        assert!(log.room(false).now_or_never().is_none());
        rooms.into_iter().for_each(|room| room.tell(Bytes::from_static(b"event")));
        assert!(log.room(false).now_or_never().is_none(), "told is not written");
        let mut receiver = log.receiver.lock().take().unwrap();
        for _ in 0..WAITING_MAX {
            receiver.try_recv().unwrap();
        }
        assert!(log.room(false).await.is_ok());
    }
}
