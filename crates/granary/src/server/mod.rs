//! Listeners: accept, limit, serve, drain.
//!
//! Guarantees: never more than `connections_max` connections; a connection that sends headers too slowly, idles too
//! long, or stalls in a request is closed ([`timed`]); draining stops accepting at once, lets requests in
//! flight finish, and closes what is idle. Leaves what requests mean to the service.

pub(crate) mod local_ca;
mod timed;
pub(crate) mod tls;
mod tracked;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use granary_s3::Peer;
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};

pub(crate) use timed::Timeouts;
use timed::{ConnectionState, TimedIo};
use tls::Tls;
use tracked::{Tracked, TrackedBody};

/// Connections waiting in the kernel to be accepted.
const BACKLOG: u32 = 1024;
/// HTTP/2 requests in flight on one connection, at most.
const HTTP2_STREAMS_MAX: u32 = 256;
/// How long to wait after the system refuses to accept (out of file descriptors, out of memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Errors of requests are the service's to turn into responses; what is left ends the connection.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Counters of a listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerStats {
    /// Connections accepted since start.
    pub(crate) accepted: AtomicU64,
    /// Connections open now.
    pub(crate) open: AtomicU64,
    /// Connections closed because headers, a request or its successor did not come in time.
    pub(crate) timed_out: AtomicU64,
    /// TLS handshakes that failed.
    pub(crate) handshakes_failed: AtomicU64,
}

/// A bound listener, not serving yet.
pub(crate) struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    timeouts: Timeouts,
    permits: Arc<Semaphore>,
    connections_max: u32,
    tls: Option<Arc<Tls>>,
    stats: Arc<ListenerStats>,
}

impl Listener {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system answers, above all that the address is in use.
    pub(crate) fn bind(
        address: SocketAddr,
        connections_max: u32,
        timeouts: Timeouts,
        tls: Option<Arc<Tls>>,
    ) -> std::io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for the last connections' TIME_WAIT. (On Linux this lets nobody steal a bound port.)
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let tcp = socket.listen(BACKLOG)?;
        let address = tcp.local_addr()?;
        let permits = Arc::new(Semaphore::new(connections_max as usize));
        Ok(Self { tcp, address, timeouts, permits, connections_max, tls, stats: Arc::default() })
    }

    /// The bound address.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The counters.
    pub(crate) fn stats(&self) -> Arc<ListenerStats> {
        Arc::clone(&self.stats)
    }

    /// Serves until `drain` turns true, then waits until the last connection is done. The caller bounds that wait.
    pub(crate) async fn run<S, B>(self, service: S, mut drain: watch::Receiver<bool>)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let Self { tcp, timeouts, permits, connections_max, tls, stats, .. } = self;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = drain.wait_for(|draining| *draining) => break,
                accepted = async {
                    let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
                    tcp.accept().await.map(|(stream, from)| (stream, from, permit))
                } => accepted,
            };
            let (stream, from, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            stats.accepted.fetch_add(1, Ordering::Relaxed);
            stats.open.fetch_add(1, Ordering::Relaxed);
            let (service, tls, drain, stats) = (service.clone(), tls.clone(), drain.clone(), Arc::clone(&stats));
            tokio::spawn(async move {
                connection((stream, from), tls, service, timeouts, drain, &stats).await;
                stats.open.fetch_sub(1, Ordering::Relaxed);
                drop(permit);
            });
        }
        drop(tcp);
        // All permits back: no connection is open.
        let _all = permits.acquire_many(connections_max).await.expect("the semaphore is never closed");
    }
}

/// One connection, from its first byte to its last.
async fn connection<S, B>(
    (stream, from): (TcpStream, SocketAddr),
    tls: Option<Arc<Tls>>,
    service: S,
    timeouts: Timeouts,
    drain: watch::Receiver<bool>,
    stats: &ListenerStats,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let state = Arc::new(ConnectionState::default());
    let plain = Peer { address: from, tls: None, cipher: None, client_certificate: None };
    let tracked = |peer| Tracked::new(service, Arc::clone(&state), Some(peer));
    let stream = TimedIo::new(stream, Arc::clone(&state), timeouts);
    let served = match tls {
        None => serve(stream, tracked(plain), drain).await,
        Some(tls) => match tls.acceptor().accept(stream).await {
            Ok(stream) => {
                let peer = agreed(plain, stream.get_ref().1);
                serve(stream, tracked(peer), drain).await
            }
            Err(error) => {
                stats.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, "TLS handshake failed");
                Ok(())
            }
        },
    };
    if state.timed_out() {
        stats.timed_out.fetch_add(1, Ordering::Relaxed);
    }
    if let Err(error) = served {
        // The client went away, or was too slow: its affair, not an operator's.
        tracing::debug!(%error, "connection ended");
    }
}

/// The peer, with what was agreed in a handshake.
fn agreed(plain: Peer, session: &rustls::ServerConnection) -> Peer {
    let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    Peer {
        tls: Some("1.3"),
        cipher: cipher.map(|name| name.strip_prefix("TLS13_").unwrap_or(name)),
        client_certificate: certificate
            .and_then(|first| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, first).as_ref().try_into().ok()),
        ..plain
    }
}

async fn serve<T, S, B>(stream: T, service: Tracked<S>, mut drain: watch::Receiver<bool>) -> Result<(), BoxError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    TrackedBody<B>: Body<Data = B::Data, Error = B::Error>,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Slow headers are the concern of `TimedIo`, which tells them from an idle connection; hyper's timer does not.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(HTTP2_STREAMS_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        served = connection.as_mut() => return served,
        _ = drain.wait_for(|draining| *draining) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
