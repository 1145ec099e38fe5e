//! A body from an upstream on its way in: counted, bounded in silence, and perhaps given to a client on the side.
//!
//! Guarantees: the last frame is never given to the client from here. It gets the rest from the store, once the object is
//! committed; so no client ever has a whole body of bytes that did not hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use granary_meta::records::{BucketRecord, VersionRecord};
use granary_types::{ByteRange, ObjectKey};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::flights::{Landing, Waiting};
use super::{RemoteBody, UpstreamError};
use crate::api::{BodyError, BodyOut, Result, Unlock};
use crate::error::StoreError;
use crate::inner::Inner;

/// Frames on their way to a client, at most.
pub(super) const FRAMES_MAX: usize = 8;

/// An object while it is fetched.
pub(crate) struct Tee {
    /// As it will be.
    pub(crate) record: VersionRecord,
    /// Its bytes, all but the end.
    pub(crate) frames: mpsc::Receiver<Bytes>,
}

/// What went wrong with a body, told beside the body's own error.
#[derive(Default)]
pub(super) struct Watch(Mutex<Option<UpstreamError>>);

impl Watch {
    pub(super) fn set(&self, fault: UpstreamError) {
        self.0.lock().get_or_insert(fault);
    }

    pub(super) fn fault(&self) -> Option<UpstreamError> {
        self.0.lock().clone()
    }
}

/// The way to a client, one frame behind.
pub(super) struct Relay {
    frames: Option<mpsc::Sender<Bytes>>,
    held: Option<Bytes>,
    patience: Duration,
}

impl Relay {
    pub(super) fn new(frames: mpsc::Sender<Bytes>, patience: Duration) -> Self {
        Self { frames: Some(frames), held: None, patience }
    }

    /// Gives the frame before this one. A client that takes nothing for long is left to what will be stored.
    async fn give(&mut self, frame: &Bytes) {
        let Some(before) = self.held.replace(frame.clone()) else { return };
        let Some(frames) = &self.frames else { return };
        if !matches!(tokio::time::timeout(self.patience, frames.send(before)).await, Ok(Ok(()))) {
            self.frames = None;
            self.held = None;
        }
    }
}

struct Incoming {
    body: RemoteBody,
    got_bytes: u64,
    relay: Option<Relay>,
    is_over: bool,
}

/// The body as the way in takes it.
pub(super) fn watched(
    body: RemoteBody,
    size_bytes: u64,
    stall: Duration,
    watch: Arc<Watch>,
    relay: Option<Relay>,
) -> impl Stream<Item = std::result::Result<Bytes, BodyError>> + Send + 'static {
    let incoming = Incoming { body, got_bytes: 0, relay, is_over: false };
    stream::unfold(incoming, move |mut incoming| {
        let watch = Arc::clone(&watch);
        async move {
            if incoming.is_over {
                return None;
            }
            let fault = match tokio::time::timeout(stall, incoming.body.next()).await {
                Err(_) => UpstreamError::Unreachable(format!("nothing came for {} s", stall.as_secs_f32())),
                Ok(Some(Err(error))) => error,
                Ok(None) if incoming.got_bytes == size_bytes => return None,
                Ok(None) => {
                    UpstreamError::Lied(format!("it announced {size_bytes} bytes and sent {}", incoming.got_bytes))
                }
                Ok(Some(Ok(frame))) => {
                    incoming.got_bytes += frame.len() as u64;
                    if incoming.got_bytes <= size_bytes {
                        if let Some(relay) = incoming.relay.as_mut().filter(|_| !frame.is_empty()) {
                            relay.give(&frame).await;
                        }
                        return Some((Ok(frame), incoming));
                    }
                    UpstreamError::Lied(format!("it announced {size_bytes} bytes and sent more"))
                }
            };
            incoming.is_over = true;
            incoming.relay = None;
            let error = BodyError::Read(fault.to_string());
            watch.set(fault);
            Some((Err(error), incoming))
        }
    })
}

impl Inner {
    /// A body out of an object that is being fetched: as it comes, and its end from the store.
    pub(super) fn teed(
        self: &Arc<Self>,
        bucket: &Arc<BucketRecord>,
        key: &ObjectKey,
        frames: mpsc::Receiver<Bytes>,
        waiting: Waiting,
        size_bytes: u64,
    ) -> BodyOut {
        let sent = Arc::new(AtomicU64::new(0));
        let coming = stream::unfold((frames, Arc::clone(&sent)), |(mut frames, sent)| async move {
            let frame = frames.recv().await?;
            sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
            Some((Ok::<Bytes, StoreError>(frame), (frames, sent)))
        });
        let (inner, bucket, key) = (Arc::clone(self), Arc::clone(bucket), key.clone());
        let rest = async move { inner.rest(&bucket, &key, waiting, sent.load(Ordering::Relaxed), size_bytes).await };
        coming.chain(stream::once(rest).try_flatten()).boxed()
    }

    /// What a client has not got yet, once the object is committed.
    async fn rest(
        self: &Arc<Self>,
        bucket: &Arc<BucketRecord>,
        key: &ObjectKey,
        mut waiting: Waiting,
        sent_bytes: u64,
        size_bytes: u64,
    ) -> Result<BodyOut> {
        let landing = waiting.wait_for(Option::is_some).await.ok().and_then(|landing| landing.clone());
        let gone =
            || StoreError::Unavailable("the object was changed while it was fetched: please try again".to_owned());
        let created = match landing {
            Some(Landing::Landed { created }) => created,
            Some(landing) => return Err(super::read::failure(bucket, landing).unwrap_or_else(gone)),
            None => return Err(gone()),
        };
        let (record, inline) = self.find_with_inline(bucket, key, None)?;
        let object = record.object().filter(|_| record.created == created).ok_or_else(gone)?;
        let range = ByteRange { start: sent_bytes, end: size_bytes };
        self.read(bucket, object, inline, range, &Unlock::Plain).await
    }
}
