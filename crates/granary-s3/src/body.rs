//! Payload between HTTP and the store, without a copy.
//!
//! In: s3s hands over a stream that has already been un-chunked and verifies signatures as it goes; its
//! errors are sorted into the store's two kinds. Out: the store's frames go to hyper as they are, with the
//! exact length, so that hyper sends `Content-Length`; an error, or a stream that ends short, is passed on
//! as an error, at which hyper cuts the connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use granary_store::api::{BodyError, BodyIn, BodyOut};
use granary_store::meter;
use s3s::StdError;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};

use crate::context::Trace;

/// The request's payload for the store.
pub(crate) fn incoming(blob: Option<StreamingBlob>, trace: Arc<Trace>) -> BodyIn {
    match blob {
        None => futures::stream::empty().boxed(),
        Some(mut blob) => {
            let mut since = None;
            futures::stream::poll_fn(move |cx| {
                let polled = blob.poll_next_unpin(cx);
                match &polled {
                    Poll::Pending => {
                        since.get_or_insert_with(Instant::now);
                    }
                    Poll::Ready(_) => {
                        if let Some(since) = since.take() {
                            trace.add_client(since);
                        }
                    }
                }
                polled.map(|frame| match frame? {
                    Ok(bytes) => {
                        trace.add_bytes_in(bytes.len());
                        Some(Ok(bytes))
                    }
                    Err(error) => Some(Err(sort(&error))),
                })
            })
            .boxed()
        }
    }
}

/// s3s does not export the types of these errors, so their text has to do; a test holds each of them.
fn sort(error: &StdError) -> BodyError {
    let text = error.to_string();
    if text.ends_with("SignatureMismatch") || text.ends_with("Sha256Mismatch") {
        BodyError::Signature
    } else {
        BodyError::Read(text)
    }
}

/// Announced payload bytes: what s3s knows of the stream, if it knows it exactly.
pub(crate) fn exact_len(blob: Option<&StreamingBlob>) -> Option<u64> {
    match blob {
        None => Some(0),
        Some(blob) => blob.remaining_length().exact().map(|n| n as u64),
    }
}

/// The store's payload for the answer.
pub(crate) fn outgoing(body: BodyOut, len: u64, trace: Arc<Trace>) -> StreamingBlob {
    StreamingBlob::new(Outgoing { body: Mutex::new(body), remaining: len, is_cut: false, trace })
}

/// As [`outgoing`], for an answer whose length is not known before its end: sent in HTTP chunks, whose end marker is left
/// out if the stream fails.
pub(crate) fn outgoing_open(body: BodyOut, trace: Arc<Trace>) -> StreamingBlob {
    let body = meter::stream(Arc::clone(&trace) as Arc<dyn meter::Meter>, body);
    StreamingBlob::new(OpenEnded { body: Mutex::new(body), is_cut: false, trace })
}

struct OpenEnded {
    /// Never locked, as above.
    body: Mutex<BodyOut>,
    is_cut: bool,
    trace: Arc<Trace>,
}

impl Stream for OpenEnded {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_cut {
            return Poll::Ready(None);
        }
        let body = this.body.get_mut().unwrap_or_else(PoisonError::into_inner);
        match body.as_mut().poll_next(cx) {
            Poll::Ready(Some(Err(error))) => {
                this.is_cut = true;
                let (id, op) = (&this.trace.id, this.trace.operation());
                tracing::error!(request_id = %id, op, "answer cut short: {error}");
                Poll::Ready(Some(Err(Box::new(CutShort::Store))))
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl ByteStream for OpenEnded {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::unknown()
    }
}

/// Why an answer was cut short.
#[derive(Debug, thiserror::Error)]
enum CutShort {
    #[error("the store's stream ended {0} bytes short")]
    Short(u64),
    #[error("the store's stream is longer than it said")]
    Long,
    #[error("reading failed")]
    Store,
}

struct Outgoing {
    /// Never locked: the mutex makes the stream `Sync`, which s3s asks for.
    body: Mutex<BodyOut>,
    remaining: u64,
    /// An error was passed on: nothing comes after it.
    is_cut: bool,
    trace: Arc<Trace>,
}

impl Outgoing {
    fn cut(&mut self, why: CutShort, cause: &dyn std::fmt::Display) -> Poll<Option<Result<Bytes, StdError>>> {
        self.is_cut = true;
        tracing::error!(request_id = %self.trace.id, op = self.trace.operation(), "answer cut short: {why}: {cause}");
        Poll::Ready(Some(Err(Box::new(why))))
    }
}

impl Stream for Outgoing {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_cut {
            return Poll::Ready(None);
        }
        let body = this.body.get_mut().unwrap_or_else(PoisonError::into_inner);
        match body.as_mut().poll_next(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => match this.remaining.checked_sub(frame.len() as u64) {
                Some(left) => {
                    this.remaining = left;
                    Poll::Ready(Some(Ok(frame)))
                }
                None => this.cut(CutShort::Long, &""),
            },
            Poll::Ready(Some(Err(error))) => this.cut(CutShort::Store, &error),
            Poll::Ready(None) if this.remaining > 0 => this.cut(CutShort::Short(this.remaining), &""),
            Poll::Ready(None) => Poll::Ready(None),
        }
    }
}

impl ByteStream for Outgoing {
    fn remaining_length(&self) -> RemainingLength {
        usize::try_from(self.remaining).map_or_else(|_| RemainingLength::unknown(), RemainingLength::new_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_store::StoreError;

    fn read(frames: Vec<Result<Bytes, StoreError>>, len: u64) -> Vec<Result<Bytes, String>> {
        let blob = outgoing(futures::stream::iter(frames).boxed(), len, Arc::new(Trace::new(false, None)));
        assert_eq!(blob.remaining_length().exact(), Some(usize::try_from(len).unwrap()));
        futures::executor::block_on(blob.map(|frame| frame.map_err(|e| e.to_string())).collect())
    }

    #[test]
    fn frames_pass_untouched() {
        let frames = vec![Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"de"))];
        assert_eq!(read(frames, 5), [Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"de"))]);
    }

    #[test]
    fn short_long_and_broken_streams_end_in_an_error() {
        for frames in [
            vec![Ok(Bytes::from_static(b"abc"))],
            vec![Ok(Bytes::from_static(b"abcdef"))],
            vec![Ok(Bytes::from_static(b"abc")), Err(StoreError::Corrupt("rot".into()))],
        ] {
            assert!(read(frames, 5).iter().any(Result::is_err));
        }
    }
}
