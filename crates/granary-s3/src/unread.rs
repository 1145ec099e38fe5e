//! What a refused request left unread of its body is read and thrown away, within bounds, before the answer goes
//! out. Otherwise hyper closes the connection under a client that is still sending, whose system may then
//! drop the answer: it sees a broken pipe instead of, say, 412 PreconditionFailed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use s3s::StdError;

/// Bytes thrown away at most; past that the connection is closed all the same.
const DRAIN_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// How long a client may take over them.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// A body that comes back if it is dropped before its end.
pub(crate) struct Unread<B> {
    body: Option<B>,
    back: Arc<Mutex<Option<B>>>,
}

/// Where it comes back to.
pub(crate) struct Back<B>(Arc<Mutex<Option<B>>>);

impl<B> Unread<B> {
    /// Wraps a body.
    pub(crate) fn new(body: B) -> (Self, Back<B>) {
        let back = Arc::new(Mutex::new(None));
        (Self { body: Some(body), back: Arc::clone(&back) }, Back(back))
    }
}

impl<B> Drop for Unread<B> {
    fn drop(&mut self) {
        *self.back.lock() = self.body.take();
    }
}

impl<B> Body for Unread<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Back<B> {
    /// Reads what was left, within bounds.
    pub(crate) async fn drain(self) {
        let Some(mut body) = self.0.lock().take() else { return };
        let drained = async {
            let mut bytes = 0u64;
            while bytes < DRAIN_BYTES_MAX {
                match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                    Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
                    _ => break,
                }
            }
        };
        // Too slow, or too long: the connection is closed, as it would have been anyway.
        let _ = tokio::time::timeout(DRAIN_TIME_MAX, drained).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full};

    #[tokio::test]
    async fn comes_back_only_if_it_was_not_read() {
        let (body, back) = Unread::new(Full::new(Bytes::from_static(b"1234")));
        drop(body);
        assert!(back.0.lock().is_some());
        back.drain().await;
        let (body, back) = Unread::new(Full::new(Bytes::from_static(b"1234")));
        assert_eq!(body.collect().await.unwrap().to_bytes().as_ref(), b"1234");
        assert!(back.0.lock().as_ref().is_none_or(http_body::Body::is_end_stream));
    }
}
