//! The engine without io_uring: a few threads that call pread and pwritev.
//!
//! Threads start when there is work and none is idle, up to a bound; operations beyond wait in a queue in the
//! order they came. When the engine is dropped, what is queued still runs.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::{Completion, IoEngine, IoFuture, Op, OpKind};

/// Threads, at most: enough to keep a fast drive's queue busy.
const THREADS_MAX: usize = 32;

struct Job {
    op: Op,
    end: oneshot::Sender<Completion>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// An [`IoEngine`] of threads with pread and pwrite.
pub struct PoolEngine {
    shared: Arc<Shared>,
}

impl PoolEngine {
    /// An engine without threads yet.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared::default()) }
    }
}

impl Default for PoolEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl IoEngine for PoolEngine {
    fn describe(&self) -> String {
        format!("thread pool, pread/pwrite, up to {THREADS_MAX} threads")
    }

    fn submit(&self, op: Op) -> IoFuture {
        let (end, future) = IoFuture::new();
        self.enqueue(op, end);
        future
    }
}

impl PoolEngine {
    pub(super) fn enqueue(&self, op: Op, end: oneshot::Sender<Completion>) {
        let mut queue = self.shared.queue.lock();
        queue.jobs.push_back(Job { op, end });
        if queue.idle >= queue.jobs.len() {
            self.shared.wake.notify_one();
        } else if queue.threads < THREADS_MAX {
            let shared = Arc::clone(&self.shared);
            let name = format!("granary-io-{}", queue.threads);
            match std::thread::Builder::new().name(name).spawn(move || work(&shared)) {
                Ok(_) => queue.threads += 1,
                Err(error) if queue.threads > 0 => {
                    tracing::warn!(%error, "no further I/O thread; the queue waits for those there are");
                }
                Err(_) => {
                    // Not even one thread: do it here rather than never.
                    let jobs = std::mem::take(&mut queue.jobs);
                    drop(queue);
                    jobs.into_iter().for_each(perform);
                }
            }
        }
    }
}

impl Drop for PoolEngine {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl fmt::Debug for PoolEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolEngine").field("threads", &self.shared.queue.lock().threads).finish_non_exhaustive()
    }
}

fn work(shared: &Shared) {
    let mut queue = shared.queue.lock();
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            drop(queue);
            perform(job);
            queue = shared.queue.lock();
        } else if queue.closed {
            return;
        } else {
            queue.idle += 1;
            shared.wake.wait(&mut queue);
            queue.idle -= 1;
        }
    }
}

fn perform(job: Job) {
    let Job { mut op, end } = job;
    let result = run(&mut op);
    // `keep` is let go before the waiter learns of the end, as the ring engine does.
    op.keep = None;
    let _ = end.send((op, result));
}

/// Carries out one operation on this thread.
pub(super) fn run(op: &mut Op) -> io::Result<usize> {
    let len = op.len_bytes();
    match &mut op.kind {
        OpKind::Read(buf) => op.file.read_exact_at(op.offset, buf)?,
        OpKind::Write(pieces) => op.file.write_pieces_at(op.offset, pieces)?,
    }
    Ok(len)
}
