//! The engines that carry out reads and writes without blocking a runtime: io_uring, or a pool of threads.
//!
//! Both take owned operations ([`Op`]): buffers, file and whatever `keep` protects stay owned by the engine until
//! the kernel is done, so dropping an [`IoFuture`] is always safe and never frees memory or space under a
//! running write. [`detect`] says which engine this machine allows, and why, in one line for the log.
//!
//! Syncs are blocking here ([`IoEngine::sync`]): a drive has one thread that syncs for all its waiting commits.

mod pool;
mod ring;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use granary_types::limits::ALIGN_BYTES;
use tokio::sync::oneshot;

pub use pool::PoolEngine;
pub use ring::RingEngine;

use crate::buf::{AlignedBuf, AlignedBytes};
use crate::raw::RawFile;

/// Times an operation that was interrupted, cancelled or cut short is tried again before that is an error.
const RETRIES_MAX: usize = 8;
/// Pieces in one vectored write, at most (Linux's `IOV_MAX`).
pub const PIECES_MAX: usize = 1024;

/// Something that must stay alive while an operation runs: a reservation of space, a reader's pin.
pub type Keep = Arc<dyn Any + Send + Sync>;

/// What an operation does.
#[derive(Debug)]
pub enum OpKind {
    /// Fills the buffer.
    Read(AlignedBuf),
    /// Writes the pieces one behind the other; at most [`PIECES_MAX`].
    Write(Vec<AlignedBytes>),
}

/// One operation, with all that it needs.
pub struct Op {
    /// The file.
    pub file: Arc<RawFile>,
    /// Where in the file, a multiple of 4096.
    pub offset: u64,
    /// What to do.
    pub kind: OpKind,
    /// Dropped when the operation is over, whoever still waits for it.
    pub keep: Option<Keep>,
}

impl Op {
    /// Bytes to read or write.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match &self.kind {
            OpKind::Read(buf) => buf.len(),
            OpKind::Write(pieces) => pieces.iter().map(|p| p.len()).sum(),
        }
    }

    /// Whether the kernel would take it: everything a multiple of 4096, at most [`PIECES_MAX`] pieces.
    #[must_use]
    pub fn is_aligned(&self) -> bool {
        self.offset.is_multiple_of(ALIGN_BYTES as u64)
            && match &self.kind {
                OpKind::Read(buf) => buf.len().is_multiple_of(ALIGN_BYTES),
                OpKind::Write(pieces) => pieces.len() <= PIECES_MAX && pieces.iter().all(AlignedBytes::is_aligned),
            }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if matches!(self.kind, OpKind::Read(_)) { "read" } else { "write" };
        write!(f, "{what} of {} bytes at {} of {}", self.len_bytes(), self.offset, self.file.path().display())
    }
}

/// An operation that is over: the operation (with its buffers) and the bytes done.
pub type Completion = (Op, io::Result<usize>);

/// The end of one operation. Dropping it does not stop the operation.
#[derive(Debug)]
pub struct IoFuture {
    receiver: oneshot::Receiver<Completion>,
}

impl IoFuture {
    /// A future and the sender that ends it, for engines.
    #[must_use]
    pub fn new() -> (oneshot::Sender<Completion>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self { receiver })
    }
}

impl Future for IoFuture {
    type Output = io::Result<Completion>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(context).map(|end| {
            end.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the I/O engine went away with the operation"))
        })
    }
}

/// What carries out operations.
pub trait IoEngine: Send + Sync + fmt::Debug + 'static {
    /// One line for the log: which engine, and what it runs on.
    fn describe(&self) -> String;

    /// Starts an operation, now, not when the future is first polled. May be called from any thread.
    fn submit(&self, op: Op) -> IoFuture;

    /// Starts several operations together.
    fn submit_all(&self, ops: Vec<Op>) -> Vec<IoFuture> {
        ops.into_iter().map(|op| self.submit(op)).collect()
    }

    /// Makes what was written to `file` durable (`fdatasync`). Blocks.
    ///
    /// # Errors
    /// What `fdatasync` answers; the file is then out of service.
    fn sync(&self, file: &RawFile) -> io::Result<()> {
        file.sync_data()
    }

    /// Fills `buf`. Blocks.
    ///
    /// # Errors
    /// As [`RawFile::read_exact_at`].
    fn read_blocking(&self, file: &RawFile, offset: u64, buf: &mut AlignedBuf) -> io::Result<()> {
        file.read_exact_at(offset, buf)
    }

    /// Writes all of `bytes`. Blocks; not durable yet.
    ///
    /// # Errors
    /// As [`RawFile::write_all_at`].
    fn write_blocking(&self, file: &RawFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(offset, bytes)
    }

    /// Gives disk space back. Blocks.
    ///
    /// # Errors
    /// As [`RawFile::punch`].
    fn punch(&self, file: &RawFile, offset: u64, len_bytes: u64) -> io::Result<()> {
        file.punch(offset, len_bytes)
    }
}

/// Starts a read that fills `buf`; interrupted and short reads are tried again.
///
/// The future fails with `UnexpectedEof` where the file ends before, else with what the system answers.
pub fn read(
    engine: &Arc<dyn IoEngine>,
    file: &Arc<RawFile>,
    offset: u64,
    buf: AlignedBuf,
    keep: Option<Keep>,
) -> impl Future<Output = io::Result<AlignedBuf>> + Send + 'static + use<> {
    let op = Op { file: Arc::clone(file), offset, kind: OpKind::Read(buf), keep };
    let first = engine.submit(op);
    let engine = Arc::clone(engine);
    async move {
        match finish(engine, first, io::ErrorKind::UnexpectedEof).await?.kind {
            OpKind::Read(buf) => Ok(buf),
            OpKind::Write(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Starts a write of all of `pieces`; interrupted and short writes are tried again.
///
/// The future fails with what the system answers. Not durable yet.
pub fn write(
    engine: &Arc<dyn IoEngine>,
    file: &Arc<RawFile>,
    offset: u64,
    pieces: Vec<AlignedBytes>,
    keep: Option<Keep>,
) -> impl Future<Output = io::Result<()>> + Send + 'static + use<> {
    let op = Op { file: Arc::clone(file), offset, kind: OpKind::Write(pieces), keep };
    let first = engine.submit(op);
    let engine = Arc::clone(engine);
    async move { finish(engine, first, io::ErrorKind::WriteZero).await.map(|_| ()) }
}

/// Waits for an operation; one that was cancelled with its thread, interrupted or cut short runs again whole
/// (reads and writes at offsets may be repeated).
async fn finish(engine: Arc<dyn IoEngine>, first: IoFuture, short: io::ErrorKind) -> io::Result<Op> {
    let (mut op, mut result) = first.await?;
    for _ in 0..RETRIES_MAX {
        match &result {
            Ok(count) if *count == op.len_bytes() => return Ok(op),
            Ok(_) => {}
            Err(error) if is_transient(error) => {}
            Err(_) => break,
        }
        (op, result) = engine.submit(op).await?;
    }
    match result {
        Ok(count) if count == op.len_bytes() => Ok(op),
        Ok(_) => Err(short.into()),
        Err(error) => Err(error),
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN))
}

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// io_uring, one ring per worker thread.
    Ring,
    /// Threads with pread and pwrite.
    Pool,
}

/// What [`detect`] found. Its text is the line to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// The engine to use.
    pub kind: EngineKind,
    why: String,
}

impl fmt::Display for Detected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            EngineKind::Ring => "io_uring",
            EngineKind::Pool => "a thread pool with pread/pwrite",
        };
        write!(f, "drive I/O uses {name}: {}", self.why)
    }
}

/// Finds out whether io_uring works here (it is refused under the default seccomp profile of containers, where
/// `kernel.io_uring_disabled` is set, and by kernels before 5.6).
#[must_use]
pub fn detect() -> Detected {
    match ring::probe() {
        Ok(()) => Detected { kind: EngineKind::Ring, why: "one ring per worker thread".to_owned() },
        Err(error) => Detected {
            kind: EngineKind::Pool,
            why: format!(
                "io_uring is refused here ({error}); a seccomp profile that permits io_uring_setup, io_uring_enter \
                 and io_uring_register makes it faster"
            ),
        },
    }
}

/// Makes an engine of a kind.
#[must_use]
pub fn start(kind: EngineKind) -> Arc<dyn IoEngine> {
    match kind {
        EngineKind::Ring => Arc::new(RingEngine::new()),
        EngineKind::Pool => Arc::new(PoolEngine::new()),
    }
}

#[cfg(test)]
mod tests;
