//! Copies that take long: answered `200` early, with white space until the outcome is known, as S3 does. Without
//! this a client's read timeout ends a large copy. What goes wrong after that stands in the document, as an
//! `Error` in a `200`, which S3's clients look for in the answers to copies.
//!
//! An early answer has no `x-amz-version-id` and other headers that only the outcome could tell. A client that
//! goes away ends its copy.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use s3s::{Body, StdError};

use crate::context::Trace;

const COPY_SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");
const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";
/// The operations whose clients look for errors in answers of `200`.
const LONG: [&str; 2] = ["CopyObject", "UploadPartCopy"];

/// Whether a request may be for one of these operations.
pub(crate) fn is_candidate(parts: &Parts) -> bool {
    parts.method == Method::PUT && parts.headers.contains_key(COPY_SOURCE)
}

type Call<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

enum Step<E> {
    Begin(Call<E>),
    Wait(Call<E>),
    End,
}

/// Waits for `call` up to `silence`; then begins to answer, if the operation is one of those. `document` makes the
/// body of the late answer (without its XML declaration).
pub(crate) async fn answer<E, D>(
    call: Call<E>,
    trace: Arc<Trace>,
    silence: Duration,
    document: D,
) -> Result<Response<Body>, E>
where
    E: Send + 'static,
    D: FnOnce(Result<Response<Body>, E>) -> Vec<u8> + Send + 'static,
{
    let mut call = call;
    match tokio::time::timeout(silence, &mut call).await {
        Ok(answer) => return answer,
        Err(_) if !LONG.contains(&trace.operation()) => return call.await,
        Err(_) => {}
    }
    let frames = stream::unfold((Step::Begin(call), Some(document)), move |(step, mut document)| async move {
        let (bytes, next) = match step {
            Step::End => return None,
            Step::Begin(call) => (Bytes::from_static(DECLARATION.as_bytes()), Step::Wait(call)),
            Step::Wait(mut call) => match tokio::time::timeout(silence, &mut call).await {
                Err(_) => (Bytes::from_static(b" "), Step::Wait(call)),
                Ok(answer) => {
                    let whole = document.take().map(|document| document(answer)).unwrap_or_default();
                    let bare = whole.strip_prefix(DECLARATION.as_bytes()).unwrap_or(&whole);
                    (Bytes::copy_from_slice(bare), Step::End)
                }
            },
        };
        Some((Ok::<_, StdError>(Frame::data(bytes)), (next, document)))
    });
    let mut early = Response::new(Body::http_body_unsync(StreamBody::new(frames)));
    *early.status_mut() = StatusCode::OK;
    early.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    Ok(early)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::operation_index;
    use http_body_util::BodyExt;
    use tokio::sync::oneshot;

    const SILENCE: Duration = Duration::from_millis(5);

    fn document(answer: Result<Response<Body>, std::io::Error>) -> Vec<u8> {
        answer.unwrap().into_body().bytes().unwrap().to_vec()
    }

    fn begun(operation: &str) -> (oneshot::Sender<()>, Call<std::io::Error>, Arc<Trace>) {
        let trace = Arc::new(Trace::new(false, None));
        trace.set_operation(operation_index(operation));
        let (send, receive) = oneshot::channel();
        let call = Box::pin(async move {
            receive.await.unwrap();
            let mut answer = Response::new(Body::from(format!("{DECLARATION}<Answer/>")));
            *answer.status_mut() = StatusCode::NOT_FOUND;
            Ok(answer)
        });
        (send, call, trace)
    }

    #[tokio::test]
    async fn a_copy_that_takes_long_is_answered_early() {
        let (done, call, trace) = begun("UploadPartCopy");
        let answer = answer(call, trace, SILENCE, document).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let mut frame = async || body.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
        assert_eq!(frame().await.unwrap(), DECLARATION);
        assert_eq!(frame().await.unwrap(), " ");
        done.send(()).unwrap();
        let mut rest = String::new();
        while let Some(bytes) = frame().await {
            rest.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        assert_eq!(rest.trim_start(), "<Answer/>");
    }

    #[tokio::test]
    async fn others_and_quick_ones_are_not() {
        let (done, call, trace) = begun("CopyObject");
        done.send(()).unwrap();
        let quick = answer(call, trace, Duration::from_secs(60), document).await.unwrap();
        assert_eq!(quick.status(), 404);
        let (done, call, trace) = begun("PutObject");
        let waiting = tokio::spawn(answer(call, trace, SILENCE, document));
        tokio::time::sleep(SILENCE * 4).await;
        assert!(!waiting.is_finished());
        done.send(()).unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().status(), 404);
    }
}
