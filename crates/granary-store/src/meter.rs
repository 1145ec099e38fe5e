//! What a request waits for in the store: told to whoever has put a meter around the request.
//!
//! Only waiting is timed, from the first time that something is not ready to when it is: what is ready at once costs no look
//! at the clock. Waits that run side by side add up. It decides nothing, and without a meter nothing is told.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;

use crate::api::BodyOut;

/// Takes what one request has waited for.
pub trait Meter: Send + Sync {
    /// So many microseconds more were spent waiting for drives: their reads, writes and syncs, those of the log among them.
    fn drives(&self, micros: u64);
    /// So many more chunks were found in the read cache, and so many had to be read.
    fn chunks(&self, hits: u64, misses: u64);
}

tokio::task_local! {
    static METER: Arc<dyn Meter>;
}

/// Runs `work`, the serving of a request, under `meter`.
pub async fn scoped<F: Future>(meter: Arc<dyn Meter>, work: F) -> F::Output {
    METER.scope(meter, work).await
}

/// The meter that this runs under, if any.
#[must_use]
pub fn current() -> Option<Arc<dyn Meter>> {
    METER.try_with(Arc::clone).ok()
}

/// A body whose making opens other bodies as it goes on: they find the meter too, whoever polls it.
#[must_use]
pub fn stream(meter: Arc<dyn Meter>, body: BodyOut) -> BodyOut {
    let mut body = body;
    futures::stream::poll_fn(move |cx| METER.sync_scope(Arc::clone(&meter), || body.poll_next_unpin(cx))).boxed()
}

/// Waits for `work`, which waits for drives.
pub(crate) async fn waiting<F: Future>(meter: Option<&Arc<dyn Meter>>, work: F) -> F::Output {
    let Some(meter) = meter else { return work.await };
    let mut work = pin!(work);
    let mut since = None;
    let done = poll_fn(|cx| {
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            since.get_or_insert_with(Instant::now);
        }
        polled
    })
    .await;
    if let Some(since) = since {
        meter.drives(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[derive(Default)]
    struct Counted {
        waits: AtomicU64,
        hits: AtomicU64,
    }

    impl Meter for Counted {
        fn drives(&self, _micros: u64) {
            self.waits.fetch_add(1, Relaxed);
        }
        fn chunks(&self, hits: u64, _misses: u64) {
            self.hits.fetch_add(hits, Relaxed);
        }
    }

    #[tokio::test]
    async fn only_what_waits_is_told_and_streams_find_their_meter() {
        let counted = Arc::new(Counted::default());
        let meter: Arc<dyn Meter> = counted.clone();
        waiting(Some(&meter), std::future::ready(())).await;
        assert_eq!(counted.waits.load(Relaxed), 0);
        waiting(Some(&meter), tokio::task::yield_now()).await;
        assert_eq!(counted.waits.load(Relaxed), 1);
        assert!(current().is_none());
        scoped(Arc::clone(&meter), async { assert!(current().is_some()) }).await;
        let lazily = futures::stream::once(async {
            current().expect("polled under its meter").chunks(3, 0);
            Ok(bytes::Bytes::new())
        });
        assert_eq!(stream(meter, lazily.boxed()).count().await, 1);
        assert_eq!(counted.hits.load(Relaxed), 3);
    }
}
