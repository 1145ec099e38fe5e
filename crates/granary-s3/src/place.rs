//! What a request holds from its beginning to the last byte of its answer, and tells when it lets go.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Frame, SizeHint};
use s3s::{Body, StdError};

use crate::access_log::Pending;
use crate::audit::{End, RequestAudit};
use crate::context::{Ended, RequestObserver, Trace};

/// A request's place among those in flight; given up when its answer is sent or dropped.
pub(crate) struct Place {
    pub(crate) in_flight: Arc<AtomicUsize>,
    pub(crate) observer: Option<Arc<dyn RequestObserver>>,
    pub(crate) trace: Arc<Trace>,
    pub(crate) status: StatusCode,
    pub(crate) bytes_in_announced: u64,
    pub(crate) bytes_out: u64,
    /// Until the first byte of the body, once it was there.
    pub(crate) first_byte_micros: Option<u64>,
    pub(crate) audit: Option<Arc<RequestAudit>>,
    /// An answer was made; else the client went away before.
    pub(crate) is_answered: bool,
    pub(crate) error: (String, String),
    pub(crate) line: Option<Box<Pending>>,
    pub(crate) host_id: Arc<str>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        // XML documents are counted as announced, payload as it came.
        let bytes_in = match self.trace.bytes_in() {
            0 => self.bytes_in_announced,
            counted => counted,
        };
        if let Some(audit) = self.audit.take() {
            let (code, message) = match self.is_answered {
                true => std::mem::take(&mut self.error),
                false => ("ClientDisconnected".to_owned(), String::new()),
            };
            let status = if self.is_answered { self.status.as_u16() } else { 499 };
            audit.end(End { status, code, message, bytes_in, bytes_out: self.bytes_out });
        }
        if let Some(line) = self.line.take() {
            line.end(&self.trace, self.status, bytes_in, self.bytes_out, &self.host_id);
        }
        if let Some(observer) = &self.observer {
            let ended = self.trace.ended();
            observer.done(&Ended {
                status: self.status.as_u16(),
                bytes_in,
                bytes_out: self.bytes_out,
                first_byte_micros: self.first_byte_micros.unwrap_or(ended.micros),
                ..ended
            });
        }
    }
}

/// The body of an answer. An error in it means that hyper cuts the connection.
pub struct FrontBody {
    body: Body,
    place: Place,
    /// When the last frame was handed on: until the next is asked for, the client takes it.
    handed_on: Option<Instant>,
}

impl FrontBody {
    pub(crate) const fn new(body: Body, place: Place) -> Self {
        Self { body, place, handed_on: None }
    }
}

impl Drop for FrontBody {
    fn drop(&mut self) {
        if let Some(since) = self.handed_on.take() {
            self.place.trace.add_client(since);
        }
    }
}

impl http_body::Body for FrontBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if let Some(since) = self.handed_on.take() {
            self.place.trace.add_client(since);
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            self.place.bytes_out += bytes.len() as u64;
            let is_last = self.body.size_hint().exact() == Some(0);
            if self.place.first_byte_micros.is_none() || !is_last {
                let now = Instant::now();
                let began = self.place.trace.started;
                let first = || u64::try_from((now - began).as_micros()).unwrap_or(u64::MAX);
                self.place.first_byte_micros.get_or_insert_with(first);
                self.handed_on = (!is_last).then_some(now);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
