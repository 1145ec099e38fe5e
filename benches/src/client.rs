//! One keep-alive HTTP/1.1 connection to an S3 endpoint, reopened when the server closes it.
//!
//! Guarantees: every request is signed afresh and bounded by a time limit; a response is read to its end or its
//! connection is dropped, so that one answer never leaks into the next. Leaves to others: which requests are made.

use crate::endpoint::Endpoint;
use crate::payload::Payload;
use crate::sigv4::{AmzClock, EMPTY_SHA256, Signable, Signer, UNSIGNED_PAYLOAD, sha256_hex};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// Most bytes kept of a body that is collected (listings, errors, multipart answers).
const COLLECT_BYTES_MAX: usize = 16 << 20;
/// hyper's read and write buffer for one connection.
const BUFFER_BYTES: usize = 512 << 10;

/// What can go wrong with one request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("connect: {0}")]
    Connect(#[source] std::io::Error),
    #[error("http: {0}")]
    Http(#[from] hyper::Error),
    #[error("request: {0}")]
    Request(#[from] http::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{status} {code}")]
    Status { status: u16, code: String },
    #[error("{key}: wrong byte at {offset}")]
    Mismatch { key: String, offset: u64 },
    #[error("{key}: {got} bytes where {want} were due")]
    Length { key: String, want: u64, got: u64 },
    #[error("answer: {0}")]
    Answer(&'static str),
}

impl ClientError {
    /// A short word to count errors by.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Connect(_) => "connect".into(),
            Self::Http(_) | Self::Request(_) => "http".into(),
            Self::Timeout(_) => "timeout".into(),
            Self::Status { status, code } => format!("{status} {code}").trim_end().to_owned(),
            Self::Mismatch { .. } => "wrong bytes".into(),
            Self::Length { .. } => "wrong length".into(),
            Self::Answer(what) => (*what).into(),
        }
    }
}

/// A request body that costs nothing to make.
#[derive(Clone)]
pub(crate) enum Outgoing {
    Empty,
    Full(Bytes),
    /// `left` bytes of an object from `offset` on.
    Object {
        payload: Payload,
        origin: u64,
        offset: u64,
        left: u64,
    },
}

impl Outgoing {
    /// Hex SHA-256 of what will be sent.
    fn sha256(&self) -> String {
        match self {
            Self::Empty => EMPTY_SHA256.to_owned(),
            Self::Full(bytes) => sha256_hex([bytes.as_ref()]),
            Self::Object { payload, origin, offset, left } => {
                let pieces: Vec<Bytes> = payload.pieces(*origin, *offset, *left).collect();
                sha256_hex(pieces.iter().map(Bytes::as_ref))
            }
        }
    }

    fn left(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Full(bytes) => bytes.len() as u64,
            Self::Object { left, .. } => *left,
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match &mut *self {
            Self::Empty => return Poll::Ready(None),
            Self::Full(bytes) => std::mem::take(bytes),
            Self::Object { payload, origin, offset, left } => {
                if *left == 0 {
                    return Poll::Ready(None);
                }
                let frame = payload.frame(*origin, *offset, *left);
                *offset += frame.len() as u64;
                *left -= frame.len() as u64;
                frame
            }
        };
        if frame.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

/// One request, before it is signed.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// Path as sent, percent-encoded.
    pub(crate) path: &'a str,
    /// Query as sent, percent-encoded and sorted.
    pub(crate) query: &'a str,
    /// First and last byte wanted.
    pub(crate) range: Option<(u64, u64)>,
    pub(crate) body: Outgoing,
}

/// What became of a body that was read without being kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Drained {
    pub(crate) bytes: u64,
    /// Object offset of the first wrong byte.
    pub(crate) first_difference: Option<u64>,
}

/// What a body is compared with while it is drained.
pub(crate) struct Expect<'a> {
    pub(crate) payload: &'a Payload,
    pub(crate) origin: u64,
    pub(crate) offset: u64,
}

/// Whether the server had closed the connection before it answered, which may show while the body is being sent.
fn was_closed(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    error.is_canceled()
        || error.is_closed()
        || error.is_incomplete_message()
        || io.is_some_and(|io| matches!(io.kind(), BrokenPipe | ConnectionReset | NotConnected))
}

/// A connection and the signer that goes with it.
pub(crate) struct Client {
    pub(crate) endpoint: Arc<Endpoint>,
    signer: Signer,
    clock: AmzClock,
    sign_payload: bool,
    sender: Option<SendRequest<Outgoing>>,
    /// Connections opened so far.
    pub(crate) connects: u64,
}

impl Client {
    /// A client that has not connected yet. `sign_payload` hashes every body into its signature.
    pub(crate) fn new(endpoint: Arc<Endpoint>, sign_payload: bool) -> Self {
        let signer = Signer::new(endpoint.credentials.clone(), &endpoint.region);
        let clock = AmzClock::default();
        Self { endpoint, signer, clock, sign_payload, sender: None, connects: 0 }
    }

    /// Sends `call` and returns the answer's head; its body is still to be read. A keep-alive connection that the
    /// server closed meanwhile is replaced once.
    pub(crate) async fn send(&mut self, call: &Call<'_>) -> Result<Response<Incoming>, ClientError> {
        let reused = self.sender.is_some();
        match self.send_once(call).await {
            Err(ClientError::Http(error)) if reused && was_closed(&error) => {
                self.sender = None;
                self.send_once(call).await
            }
            other => other,
        }
    }

    async fn send_once(&mut self, call: &Call<'_>) -> Result<Response<Incoming>, ClientError> {
        let request = self.signed(call)?;
        let mut sender = match self.sender.take() {
            Some(mut sender) => match sender.ready().await {
                Ok(()) => sender,
                Err(_) => self.connect().await?,
            },
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await?;
        self.sender = Some(sender);
        Ok(response)
    }

    fn signed(&mut self, call: &Call<'_>) -> Result<Request<Outgoing>, ClientError> {
        let hash = match (&call.body, self.sign_payload) {
            (Outgoing::Empty, true) => EMPTY_SHA256.to_owned(),
            (body, true) => body.sha256(),
            (_, false) => UNSIGNED_PAYLOAD.to_owned(),
        };
        let date = self.clock.now();
        let headers =
            [("host", self.endpoint.host.as_str()), ("x-amz-content-sha256", hash.as_str()), ("x-amz-date", date)];
        let signable = Signable {
            method: call.method.as_str(),
            path: call.path,
            query: call.query,
            headers: &headers,
            payload_sha256: &hash,
        };
        let authorization = self.signer.authorization(&signable, date);
        let mut target = String::with_capacity(call.path.len() + call.query.len() + 1);
        target.push_str(call.path);
        if !call.query.is_empty() {
            target.push('?');
            target.push_str(call.query);
        }
        let mut builder = Request::builder()
            .method(call.method.clone())
            .uri(target)
            .header("host", &self.endpoint.host)
            .header("x-amz-date", date)
            .header("x-amz-content-sha256", &hash)
            .header("authorization", authorization);
        if let Some((first, last)) = call.range {
            builder = builder.header("range", format!("bytes={first}-{last}"));
        }
        Ok(builder.body(call.body.clone())?)
    }

    async fn connect(&mut self) -> Result<SendRequest<Outgoing>, ClientError> {
        self.connects += 1;
        let tcp = TcpStream::connect(self.endpoint.addr).await.map_err(ClientError::Connect)?;
        tcp.set_nodelay(true).map_err(ClientError::Connect)?;
        match &self.endpoint.tls {
            None => handshake(TokioIo::new(tcp)).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), tcp).await;
                handshake(TokioIo::new(stream.map_err(ClientError::Connect)?)).await
            }
        }
    }

    /// Gives up the connection: the next request opens a new one.
    pub(crate) fn drop_connection(&mut self) {
        self.sender = None;
    }

    /// Reads the body of a good answer to its end, comparing where `expect` says so. A bad status becomes an error.
    pub(crate) async fn drain(
        &mut self,
        response: Response<Incoming>,
        expect: Option<Expect<'_>>,
    ) -> Result<Drained, ClientError> {
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let mut body = response.into_body();
        let mut drained = Drained { bytes: 0, first_difference: None };
        while let Some(frame) = body.frame().await {
            let frame = frame.inspect_err(|_| self.sender = None)?;
            let Some(data) = frame.data_ref() else { continue };
            if let (Some(expect), None) = (&expect, drained.first_difference) {
                let offset = expect.offset + drained.bytes;
                drained.first_difference = expect.payload.first_difference(expect.origin, offset, data);
            }
            drained.bytes += data.len() as u64;
        }
        Ok(drained)
    }

    /// Sends `call` and collects the whole answer (bounded). A bad status becomes an error.
    pub(crate) async fn fetch(&mut self, call: &Call<'_>) -> Result<(StatusCode, HeaderMap, Vec<u8>), ClientError> {
        let response = self.send(call).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let (head, body) = response.into_parts();
        let bytes = self.collect(body).await?;
        Ok((head.status, head.headers, bytes))
    }

    pub(crate) async fn refusal(&mut self, response: Response<Incoming>) -> ClientError {
        let status = response.status().as_u16();
        match self.collect(response.into_body()).await {
            Ok(body) => {
                let text = String::from_utf8_lossy(&body);
                let code = between(&text, "<Code>", "</Code>").unwrap_or_default().to_owned();
                ClientError::Status { status, code }
            }
            Err(error) => error,
        }
    }

    async fn collect(&mut self, mut body: Incoming) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.inspect_err(|_| self.sender = None)?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > COLLECT_BYTES_MAX {
                    self.sender = None;
                    return Err(ClientError::Answer("answer too long"));
                }
                bytes.extend_from_slice(data);
            }
        }
        Ok(bytes)
    }
}

async fn handshake<T>(io: T) -> Result<SendRequest<Outgoing>, ClientError>
where
    T: Read + Write + Unpin + Send + 'static,
{
    let (sender, connection) = Builder::new().writev(true).max_buf_size(BUFFER_BYTES).handshake(io).await?;
    // The connection's own task ends with the connection; its error reaches the request in flight.
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    Ok(sender)
}

/// The text between the first `open` and the `close` after it.
pub(crate) fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let start = text.find(open)? + open.len();
    let end = text[start..].find(close)? + start;
    Some(&text[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outgoing_object_says_its_length_and_sends_it() {
        let payload = Payload::new(5);
        let origin = payload.origin("k");
        let mut body = Outgoing::Object { payload: payload.clone(), origin, offset: 10, left: 3_000_000 };
        assert_eq!(body.size_hint().exact(), Some(3_000_000));
        let waker = futures::task::noop_waker();
        let mut context = Context::from_waker(&waker);
        let mut sent = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) {
            sent.extend_from_slice(&frame.into_data().expect("data frames only"));
        }
        assert_eq!(sent.len(), 3_000_000);
        assert_eq!(payload.first_difference(origin, 10, &sent), None);
        assert!(body.is_end_stream());
        let whole = Outgoing::Object { payload, origin, offset: 10, left: 3_000_000 };
        assert_eq!(whole.sha256(), sha256_hex([sent.as_slice()]));
    }

    #[test]
    fn between_finds_or_not() {
        assert_eq!(between("<a><Code>NoSuchKey</Code></a>", "<Code>", "</Code>"), Some("NoSuchKey"));
        assert_eq!(between("<Code>x", "<Code>", "</Code>"), None);
    }
}
