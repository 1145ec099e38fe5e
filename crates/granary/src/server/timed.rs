//! A stream that gives up when its peer is too slow, and knows why it waits: for headers, for the next request, or
//! for bytes of a request in flight. Each has its own time, and one timer serves all three.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// From a request's first byte (or the connection's start) to the end of its headers.
    pub(crate) header: Duration,
    /// Between requests.
    pub(crate) idle: Duration,
    /// Without a byte moving, while a request is in flight.
    pub(crate) stall: Duration,
}

/// What the service tells the stream of its requests.
#[derive(Debug, Default)]
pub(crate) struct ConnectionState {
    in_flight: AtomicU32,
    begun: AtomicU64,
    http2: AtomicBool,
    timed_out: AtomicBool,
}

impl ConnectionState {
    /// A request's headers are complete.
    pub(super) fn begin(&self, http2: bool) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        if http2 {
            self.http2.store(true, Ordering::Relaxed);
        }
    }

    /// A request's response has been produced or given up.
    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the connection was closed for slowness.
    pub(super) fn timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }
}

/// The stream.
pub(super) struct TimedIo<T> {
    io: T,
    state: Arc<ConnectionState>,
    timeouts: Timeouts,
    /// When a byte last moved.
    moved: Instant,
    /// Since when headers are awaited whose first byte has come.
    header_since: Option<Instant>,
    /// Requests seen when `header_since` was set: once more have begun, it is over.
    begun: u64,
    timer: Pin<Box<Sleep>>,
}

impl<T> TimedIo<T> {
    pub(super) fn new(io: T, state: Arc<ConnectionState>, timeouts: Timeouts) -> Self {
        let now = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(now + timeouts.header));
        // A new connection owes its first request at once.
        Self { io, state, timeouts, moved: now, header_since: Some(now), begun: 0, timer }
    }

    fn deadline(&mut self) -> Instant {
        let begun = self.state.begun.load(Ordering::Relaxed);
        if begun != self.begun {
            self.begun = begun;
            self.header_since = None;
        }
        if self.state.in_flight.load(Ordering::Relaxed) > 0 {
            return self.moved + self.timeouts.stall;
        }
        match self.header_since {
            // Between HTTP/2 requests there are pings and window updates: no first bytes of headers.
            Some(since) if !self.state.http2.load(Ordering::Relaxed) => since + self.timeouts.header,
            _ => self.moved + self.timeouts.idle,
        }
    }

    /// Called when the stream has to wait: ready with the error once it has waited too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let deadline = self.deadline();
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                self.state.timed_out.store(true, Ordering::Relaxed);
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the peer was too slow"));
            }
            self.timer.as_mut().reset(deadline);
        }
    }

    fn moved(&mut self, read: bool) {
        self.moved = Instant::now();
        let begun = self.state.begun.load(Ordering::Relaxed);
        if begun != self.begun {
            self.begun = begun;
            self.header_since = None;
        }
        if read && self.header_since.is_none() && self.state.in_flight.load(Ordering::Relaxed) == 0 {
            self.header_since = Some(self.moved);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for TimedIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buffer) {
            Poll::Ready(done) => {
                if buffer.filled().len() > before {
                    this.moved(true);
                }
                Poll::Ready(done)
            }
            Poll::Pending => this.poll_late(cx).map(Err),
        }
    }
}

impl<T: AsyncWrite + Unpin> TimedIo<T> {
    fn wrote<R>(&mut self, polled: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        match polled {
            Poll::Ready(done) => {
                self.moved(false);
                Poll::Ready(done)
            }
            Poll::Pending => self.poll_late(cx).map(Err),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for TimedIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.wrote(polled, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.wrote(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_flush(cx) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => this.poll_late(cx).map(Err),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    const TIMEOUTS: Timeouts =
        Timeouts { header: Duration::from_secs(10), idle: Duration::from_secs(100), stall: Duration::from_secs(1000) };

    fn pair() -> (DuplexStream, TimedIo<DuplexStream>, Arc<ConnectionState>) {
        let (client, server) = tokio::io::duplex(64);
        let state = Arc::new(ConnectionState::default());
        (client, TimedIo::new(server, Arc::clone(&state), TIMEOUTS), state)
    }

    /// Reads one byte; seconds of (paused) time it took, and whether it came.
    async fn wait(io: &mut TimedIo<DuplexStream>) -> (u64, bool) {
        let began = Instant::now();
        let came = io.read_u8().await.is_ok();
        (began.elapsed().as_secs(), came)
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_owes_its_first_request_soon() {
        let (_client, mut io, state) = pair();
        assert_eq!(wait(&mut io).await, (10, false));
        assert!(state.timed_out());
    }

    #[tokio::test(start_paused = true)]
    async fn dribbled_headers_do_not_extend_their_time() {
        let (mut client, mut io, state) = pair();
        state.begin(false);
        state.end();
        client.write_all(b"G").await.unwrap();
        assert_eq!(wait(&mut io).await, (0, true));
        tokio::time::advance(Duration::from_secs(6)).await;
        client.write_all(b"E").await.unwrap();
        assert_eq!(wait(&mut io).await, (0, true));
        assert_eq!(wait(&mut io).await, (4, false));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_and_a_stalled_request_have_longer() {
        let (mut client, mut io, state) = pair();
        client.write_all(b"G").await.unwrap();
        assert_eq!(wait(&mut io).await, (0, true));
        state.begin(false);
        assert_eq!(wait(&mut io).await, (1000, false));

        let (mut client, mut io, state) = pair();
        client.write_all(b"G").await.unwrap();
        assert_eq!(wait(&mut io).await, (0, true));
        state.begin(false);
        state.end();
        assert_eq!(wait(&mut io).await, (100, false));
    }

    #[tokio::test(start_paused = true)]
    async fn http2_frames_between_requests_are_not_slow_headers() {
        let (mut client, mut io, state) = pair();
        state.begin(true);
        state.end();
        client.write_all(b"p").await.unwrap();
        assert_eq!(wait(&mut io).await, (0, true));
        assert_eq!(wait(&mut io).await, (100, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_reading_is_cut_in_the_end() {
        let (_client, mut io, state) = pair();
        state.begin(false);
        let began = Instant::now();
        assert!(io.write_all(&[0; 1000]).await.is_err());
        assert_eq!(began.elapsed().as_secs(), 1000);
    }
}
