//! The io_uring engine: one ring per runtime worker thread, made when the thread first needs it.
//!
//! Submitting is a push into the thread's own ring and one `io_uring_enter`, without a hand-over to another
//! thread. The ring's eventfd wakes a small task on the same runtime (the *reaper*), which takes completions
//! off the ring and wakes those who wait; submitting also takes what is there. A ring belongs to one thread
//! *and* one runtime: when the runtime ends, its reaper drains the ring before it goes, and a later runtime on
//! the same thread gets a new ring. A thread outside any runtime is served by a thread pool instead.
//!
//! At most [`ENTRIES`] operations of a ring are with the kernel, so its completion queue cannot overflow; those
//! beyond wait in a queue of the ring. A ring is unmapped only when the kernel has finished with all its
//! operations, since their buffers must outlive them.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use io_uring::{IoUring, Probe, opcode, squeue, types};
use parking_lot::{Mutex, MutexGuard};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, Id as RuntimeId};
use tokio::sync::oneshot;

use super::{Completion, IoEngine, IoFuture, Op, OpKind, PoolEngine};

/// Operations of one ring with the kernel at once.
const ENTRIES: u32 = 256;

static ENGINES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread's rings: by engine and runtime, rarely more than one.
    static RINGS: RefCell<Vec<Owner>> = const { RefCell::new(Vec::new()) };
}

/// A thread's hold on its ring; dropped with the thread.
struct Owner {
    engine: u64,
    runtime: RuntimeId,
    ring: Arc<Ring>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.ring.retire();
    }
}

/// An [`IoEngine`] of io_uring rings.
pub struct RingEngine {
    id: u64,
    /// For threads outside a runtime, and where no further ring can be made.
    fallback: PoolEngine,
    warned: AtomicBool,
}

impl RingEngine {
    /// An engine without rings yet; [`super::detect`] says whether rings can be made.
    #[must_use]
    pub fn new() -> Self {
        let id = ENGINES.fetch_add(1, Ordering::Relaxed);
        Self { id, fallback: PoolEngine::new(), warned: AtomicBool::new(false) }
    }

    /// This thread's ring under its current runtime; `None` outside a runtime or where none can be made.
    fn ring(&self) -> Option<Arc<Ring>> {
        let runtime = Handle::try_current().ok()?;
        let id = runtime.id();
        RINGS.with(|rings| {
            let mut rings = rings.try_borrow_mut().ok()?;
            rings.retain(|o| !o.ring.is_dead());
            if let Some(owner) = rings.iter().find(|o| o.engine == self.id && o.runtime == id) {
                return Some(Arc::clone(&owner.ring));
            }
            match Ring::start(&runtime) {
                Ok(ring) => {
                    rings.push(Owner { engine: self.id, runtime: id, ring: Arc::clone(&ring) });
                    Some(ring)
                }
                Err(error) => {
                    if !self.warned.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "no further io_uring can be made; this thread uses the thread pool");
                    }
                    None
                }
            }
        })
    }
}

impl Default for RingEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl IoEngine for RingEngine {
    fn describe(&self) -> String {
        format!("io_uring, one ring of {ENTRIES} entries per worker thread")
    }

    fn submit(&self, op: Op) -> IoFuture {
        let (end, future) = IoFuture::new();
        let mut left = Some(InFlight::new(op, end));
        if let Some(ring) = self.ring() {
            left = ring.submit(left.into_iter()).pop();
        }
        if let Some(left) = left {
            self.fallback.enqueue(left.op, left.end);
        }
        future
    }

    fn submit_all(&self, ops: Vec<Op>) -> Vec<IoFuture> {
        let Some(ring) = self.ring() else { return self.fallback.submit_all(ops) };
        let mut futures = Vec::with_capacity(ops.len());
        let entries: Vec<InFlight> = ops
            .into_iter()
            .map(|op| {
                let (end, future) = IoFuture::new();
                futures.push(future);
                InFlight::new(op, end)
            })
            .collect();
        for left in ring.submit(entries.into_iter()) {
            self.fallback.enqueue(left.op, left.end);
        }
        futures
    }
}

impl fmt::Debug for RingEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingEngine").field("id", &self.id).finish_non_exhaustive()
    }
}

/// An operation with, or on its way to, the kernel.
struct InFlight {
    op: Op,
    /// What a vectored write points to; boxed, so that its address survives moves.
    vectors: Box<[libc::iovec]>,
    end: oneshot::Sender<Completion>,
}

// SAFETY: the iovecs point into the buffers of `op`, which moves along; nobody but the kernel reads through them.
unsafe impl Send for InFlight {}

impl InFlight {
    fn new(op: Op, end: oneshot::Sender<Completion>) -> Self {
        let vectors = match &op.kind {
            OpKind::Write(pieces) if pieces.len() > 1 => pieces
                .iter()
                .map(|p| libc::iovec { iov_base: p.as_ptr().cast_mut().cast(), iov_len: p.len() })
                .collect(),
            _ => Box::default(),
        };
        Self { op, vectors, end }
    }

    fn entry(&mut self, slot: usize) -> squeue::Entry {
        let fd = types::Fd(self.op.file.as_raw_fd());
        let offset = self.op.offset;
        let len32 = |len: usize| u32::try_from(len).unwrap_or(!4095);
        let entry = match &mut self.op.kind {
            OpKind::Read(buf) => {
                let len = len32(buf.len());
                opcode::Read::new(fd, buf.as_kernel_ptr(), len).offset(offset).build()
            }
            OpKind::Write(pieces) => match pieces.as_slice() {
                [piece] => opcode::Write::new(fd, piece.as_ptr(), len32(piece.len())).offset(offset).build(),
                _ => opcode::Writev::new(fd, self.vectors.as_ptr(), len32(self.vectors.len())).offset(offset).build(),
            },
        };
        entry.user_data(slot as u64)
    }

    fn end(self, result: i32) {
        let result = match usize::try_from(result) {
            Ok(count) => Ok(count),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        let Self { mut op, end, .. } = self;
        op.keep = None;
        let _ = end.send((op, result));
    }
}

/// A ring, its operations, and the eventfd that says that some are over.
struct Ring {
    state: Mutex<State>,
    event: Arc<OwnedFd>,
    /// Set when the owning thread is gone: the reaper ends once the ring is idle.
    retired: AtomicBool,
    /// Set (under the lock) when no reaper will look at this ring any more.
    dead: AtomicBool,
}

struct State {
    uring: IoUring,
    slots: Vec<Option<InFlight>>,
    free: Vec<usize>,
    backlog: VecDeque<InFlight>,
    running: usize,
}

/// Operations taken off the ring, to be ended after its lock is let go.
type Ended = Vec<(InFlight, i32)>;

impl Ring {
    fn start(runtime: &Handle) -> io::Result<Arc<Self>> {
        // COOP_TASKRUN (5.19) spares interrupts; older kernels refuse the flag.
        let uring = match IoUring::builder().setup_coop_taskrun().setup_clamp().build(ENTRIES) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(ENTRIES)?,
            other => other?,
        };
        // SAFETY: plain integers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let event = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
        uring.submitter().register_eventfd(event.as_raw_fd())?;
        let entries = uring.params().sq_entries() as usize;
        let state = State {
            uring,
            slots: (0..entries).map(|_| None).collect(),
            free: (0..entries).rev().collect(),
            backlog: VecDeque::new(),
            running: 0,
        };
        let ring = Arc::new(Self {
            state: Mutex::new(state),
            event,
            retired: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        });
        let _entered = runtime.enter();
        let event = EventFd(Arc::clone(&ring.event));
        // SAFETY: `EventFd` owns (a share of) its descriptor and always returns that one, so it stays open and
        // the same for as long as it is registered.
        let event = unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) }.map_err(io::Error::from)?;
        runtime.spawn(reap(Reaper { ring: Arc::clone(&ring) }, event));
        Ok(ring)
    }

    /// Gives operations to the kernel; those it returns were not taken (the ring is dead).
    fn submit(&self, entries: impl Iterator<Item = InFlight>) -> Vec<InFlight> {
        let mut state = self.state.lock();
        if self.is_dead() {
            return entries.collect();
        }
        state.backlog.extend(entries);
        state.push();
        let mut ended = Vec::new();
        state.take(&mut ended);
        end_all(state, ended);
        Vec::new()
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Takes completions off and starts what waited for room. `true` when nothing is left.
    fn drain(&self) -> bool {
        let mut state = self.state.lock();
        let mut ended = Vec::new();
        state.take(&mut ended);
        state.push();
        state.take(&mut ended);
        let idle = state.running == 0 && state.backlog.is_empty();
        end_all(state, ended);
        idle
    }

    /// The owning thread is gone.
    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes 8 bytes from a local to a descriptor that `self` keeps open.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

fn end_all(state: MutexGuard<'_, State>, ended: Ended) {
    drop(state);
    ended.into_iter().for_each(|(operation, result)| operation.end(result));
}

impl State {
    /// Moves operations from the backlog to the kernel while there is room.
    fn push(&mut self) {
        let mut pushed = false;
        while let (Some(slot), false) = (self.free.last().copied(), self.backlog.is_empty()) {
            let Some(mut operation) = self.backlog.pop_front() else { break };
            let entry = operation.entry(slot);
            // SAFETY: the entry points to buffers and iovecs owned by `operation`, which stays in its slot
            // (their heap addresses are stable) until the completion with this slot's number is taken off.
            if unsafe { self.uring.submission().push(&entry) }.is_err() {
                self.backlog.push_front(operation);
                break;
            }
            self.free.pop();
            self.slots[slot] = Some(operation);
            self.running += 1;
            pushed = true;
        }
        if pushed {
            self.enter();
        }
    }

    /// Tells the kernel of new entries. What it cannot take now (out of memory, busy) stays in the submission
    /// queue and goes with the next call; `take` below always makes one while entries are left.
    fn enter(&mut self) {
        loop {
            match self.uring.submit() {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                _ => return,
            }
        }
    }

    fn take(&mut self, ended: &mut Ended) {
        if !self.uring.submission().is_empty() {
            self.enter();
        }
        for completion in self.uring.completion() {
            let slot = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
            if let Some(operation) = self.slots.get_mut(slot).and_then(Option::take) {
                self.free.push(slot);
                self.running -= 1;
                ended.push((operation, completion.result()));
            }
        }
    }

    /// Waits until the kernel has finished with everything.
    fn finish(&mut self, ended: &mut Ended) {
        while self.running > 0 || !self.backlog.is_empty() {
            self.push();
            if self.running > 0 {
                let _ = self.uring.submit_and_wait(1);
            }
            self.take(ended);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let mut ended = Vec::new();
        self.finish(&mut ended);
        ended.into_iter().for_each(|(operation, result)| operation.end(result));
    }
}

struct EventFd(Arc<OwnedFd>);

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The reaper's hold on its ring. When the runtime drops the task, the ring is drained and dead: nobody would
/// wake those who wait.
struct Reaper {
    ring: Arc<Ring>,
}

impl Drop for Reaper {
    fn drop(&mut self) {
        let mut state = self.ring.state.lock();
        self.ring.dead.store(true, Ordering::Release);
        let mut ended = Vec::new();
        state.finish(&mut ended);
        end_all(state, ended);
    }
}

async fn reap(reaper: Reaper, event: AsyncFd<EventFd>) {
    let ring = &reaper.ring;
    loop {
        // The eventfd is never read: registration is edge-triggered, and every completion is a new edge.
        let Ok(mut ready) = event.readable().await else { return };
        ready.clear_ready();
        let idle = ring.drain();
        if idle && ring.retired.load(Ordering::Acquire) {
            return;
        }
    }
}

/// Whether rings can be made here and know the operations used.
pub(super) fn probe() -> io::Result<()> {
    let uring = IoUring::new(8)?;
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe)?;
    let known = [opcode::Read::CODE, opcode::Write::CODE, opcode::Writev::CODE];
    if known.into_iter().all(|code| probe.is_supported(code)) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring lacks plain reads and writes"))
    }
}
