//! Connections to upstreams: opened, kept for a while, watched.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use granary_store::api::BodyOut;
use granary_store::upstream::{Site, UpstreamError};
use granary_types::md5::Md5;
use http::header::{CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::sign;
use crate::outbound::{Roots, connector, dial};

/// Time to connect, and to agree on TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until an answer begins.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// For a whole listing or error document.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// A body on its way out that gets no further for so long is given up.
const STALL: Duration = Duration::from_secs(60);
/// Connections kept of one upstream, and for how long when nothing is under way.
const OPEN_MAX: usize = 64;
const IDLE_FOR: Duration = Duration::from_secs(20);
/// Upstreams whose connections are kept.
const POOLS_MAX: usize = 256;
/// Bytes that are buffered of a connection.
const BUFFER_BYTES: usize = 256 * 1024;

/// A body on its way out.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Sender = SendRequest<Body>;

/// A request.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) key: String,
    pub(super) query: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Body,
    /// Of a body that is sent.
    pub(super) size_bytes: Option<u64>,
}

/// No body.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync()
}

/// How far a body has got, and its MD5.
pub(super) struct Sent {
    bytes: AtomicU64,
    md5: Mutex<Option<Md5>>,
}

impl Sent {
    /// Of all that was sent; once.
    pub(super) fn md5(&self) -> Option<[u8; 16]> {
        self.md5.lock().take().map(Md5::finish)
    }
}

/// A body of exactly `size_bytes`.
pub(super) fn streamed(body: BodyOut, size_bytes: u64) -> (Body, Arc<Sent>) {
    let sent = Arc::new(Sent { bytes: AtomicU64::new(0), md5: Mutex::new(Some(Md5::new())) });
    let counted = Arc::clone(&sent);
    let frames = body.map(move |frame| {
        let frame = frame.map_err(|error| std::io::Error::other(error.to_string()))?;
        counted.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        if let Some(md5) = counted.md5.lock().as_mut() {
            md5.update(&frame);
        }
        Ok::<_, std::io::Error>(Frame::data(frame))
    });
    let body = if size_bytes == 0 { empty() } else { StreamBody::new(frames).boxed_unsync() };
    (body, sent)
}

/// All of an answer's body, which has at most `limit` bytes.
pub(super) async fn read_all(body: Incoming, limit: usize) -> Result<Bytes, UpstreamError> {
    let broken = |why: &str| UpstreamError::Unreachable(format!("its answer could not be read: {why}"));
    match tokio::time::timeout(DOCUMENT_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(broken("it broke off, or is too long")),
        Err(_) => Err(broken("it took too long")),
    }
}

/// Connections to one upstream.
struct Pool {
    tls: Option<TlsConnector>,
    open: Mutex<Vec<(Sender, Instant)>>,
}

/// Connections to all of them, by the setting that they were opened for.
#[derive(Default)]
pub(super) struct Pools(Mutex<HashMap<u64, Arc<Pool>>>);

/// How the upstream's host is named in requests.
fn authority(site: &Site) -> String {
    let host = if site.path_style { site.host.clone() } else { format!("{}.{}", site.bucket, site.host) };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    match (site.is_tls, site.port) {
        (true, 443) | (false, 80) => host,
        (_, port) => format!("{host}:{port}"),
    }
}

/// The path of a key, as it is sent and signed.
fn path(site: &Site, key: &str) -> String {
    let key = granary_s3::percent_encode(key);
    if site.path_style { format!("/{}/{key}", site.bucket) } else { format!("/{key}") }
}

fn failed(why: impl std::fmt::Display) -> UpstreamError {
    UpstreamError::Unreachable(why.to_string())
}

impl Pools {
    fn pool(&self, site: &Site) -> Result<Arc<Pool>, UpstreamError> {
        if let Some(pool) = self.0.lock().get(&site.id) {
            return Ok(Arc::clone(pool));
        }
        let roots = if site.ca.is_empty() { Roots::File(None) } else { Roots::Pem(&site.ca) };
        let tls = if site.is_tls { Some(connector(&roots).map_err(failed)?) } else { None };
        let pool = Arc::new(Pool { tls, open: Mutex::default() });
        let mut pools = self.0.lock();
        if pools.len() >= POOLS_MAX {
            pools.clear();
        }
        pools.insert(site.id, Arc::clone(&pool));
        Ok(pool)
    }

    /// Sends a request; the answer's head.
    pub(super) async fn send(&self, site: &Site, call: Call) -> Result<Response<Incoming>, UpstreamError> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(site, call)).await {
            Ok(answer) => answer,
            Err(_) => Err(failed(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
        }
    }

    /// As [`Pools::send`], for as long as the body gets on.
    pub(super) async fn send_watched(
        &self,
        site: &Site,
        call: Call,
        sent: &Sent,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let sending = self.exchange(site, call);
        tokio::pin!(sending);
        let mut before = 0;
        loop {
            tokio::select! {
                answer = &mut sending => return answer,
                () = tokio::time::sleep(STALL) => {
                    let now = sent.bytes.load(Ordering::Relaxed);
                    if now == before {
                        return Err(failed(format!("it took nothing for {} s", STALL.as_secs())));
                    }
                    before = now;
                }
            }
        }
    }

    async fn exchange(&self, site: &Site, call: Call) -> Result<Response<Incoming>, UpstreamError> {
        let pool = self.pool(site)?;
        // A kept connection may have been closed meanwhile. What has no body can be said again, what has one cannot.
        if call.size_bytes.is_none() {
            while let Some(mut kept) = pool.kept() {
                let again = Call { headers: call.headers.clone(), ..Call::bodiless(&call) };
                match kept.send_request(request(site, again)?).await {
                    Ok(answer) => {
                        pool.keep(kept);
                        return Ok(answer);
                    }
                    Err(error) if error.is_closed() || error.is_canceled() || error.is_incomplete_message() => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        let mut sender = pool.connect(site).await?;
        let request = request(site, call)?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        pool.keep(sender);
        Ok(answer)
    }
}

impl Call {
    fn bodiless(call: &Self) -> Self {
        Self {
            method: call.method.clone(),
            key: call.key.clone(),
            query: call.query.clone(),
            headers: Vec::new(),
            body: empty(),
            size_bytes: None,
        }
    }
}

fn request(site: &Site, call: Call) -> Result<Request<Body>, UpstreamError> {
    let (path, host) = (path(site, &call.key), authority(site));
    let uri = if call.query.is_empty() { path.clone() } else { format!("{path}?{}", call.query) };
    let mut request = Request::builder().method(call.method.clone()).uri(uri).body(call.body).map_err(failed)?;
    let headers = request.headers_mut();
    headers.extend(call.headers);
    headers.insert(HOST, HeaderValue::from_str(&host).map_err(failed)?);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("Granary/", env!("CARGO_PKG_VERSION"))));
    if let Some(size_bytes) = call.size_bytes {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size_bytes));
    }
    sign::sign(site, &call.method, &path, &call.query, call.size_bytes.is_some(), headers).map_err(failed)?;
    Ok(request)
}

impl Pool {
    /// A connection on which nothing is under way.
    fn kept(&self) -> Option<Sender> {
        let mut open = self.open.lock();
        open.retain(|(sender, since)| !sender.is_closed() && (!sender.is_ready() || since.elapsed() < IDLE_FOR));
        let at = open.iter().position(|(sender, _)| sender.is_ready())?;
        Some(open.swap_remove(at).0)
    }

    /// Keeps a connection, whose answer may still be read: it is used again once that has ended.
    fn keep(&self, sender: Sender) {
        let mut open = self.open.lock();
        if open.len() < OPEN_MAX {
            open.push((sender, Instant::now()));
        }
    }

    async fn connect(&self, site: &Site) -> Result<Sender, UpstreamError> {
        let host = if site.path_style { site.host.clone() } else { format!("{}.{}", site.bucket, site.host) };
        let stream = dial(&host, site.port, CONNECT_TIMEOUT).await.map_err(failed)?;
        match &self.tls {
            None => handshake(TokioIo::new(stream)).await,
            Some(tls) => {
                let name = ServerName::try_from(host).map_err(failed)?;
                let agreed = tokio::time::timeout(CONNECT_TIMEOUT, tls.connect(name, stream)).await;
                let stream =
                    agreed.map_err(|_| failed("no TLS in time"))?.map_err(|error| failed(format!("TLS: {error}")))?;
                handshake(TokioIo::new(stream)).await
            }
        }
        .map_err(failed)
    }
}

async fn handshake<S>(stream: S) -> Result<Sender, hyper::Error>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(stream).await?;
    tokio::spawn(async move {
        // Its end is told to who sends on it.
        let _ended = connection.await;
    });
    Ok(sender)
}
