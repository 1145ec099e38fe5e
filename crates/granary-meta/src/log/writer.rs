//! Writing a frame to all mirrors at once: one small thread per mirror, so that the log's thread can apply the
//! frame before while this one is on its way to the disks.

use std::sync::Arc;
use std::thread::JoinHandle;

use granary_drive::AlignedBytes;
use granary_drive::raw::RawFile;
use parking_lot::{Condvar, Mutex};

/// A durable write asked of a mirror.
struct Job {
    file: Arc<RawFile>,
    offset: u64,
    bytes: AlignedBytes,
}

enum Slot {
    Idle,
    Todo(Job),
    Done(std::io::Result<()>),
    Stop,
}

struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
}

/// A mirror's writing thread.
pub(crate) struct MirrorWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl MirrorWriter {
    pub(crate) fn spawn() -> std::io::Result<Self> {
        let shared = Arc::new(Shared { slot: Mutex::new(Slot::Idle), changed: Condvar::new() });
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("meta-mirror".to_owned()).spawn(move || serve(&theirs))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Begins to write; `wait` tells how it went. One write at a time.
    pub(crate) fn start(&self, file: &Arc<RawFile>, offset: u64, bytes: &AlignedBytes) {
        let job = Job { file: file.clone(), offset, bytes: bytes.clone() };
        *self.shared.slot.lock() = Slot::Todo(job);
        self.shared.changed.notify_all();
    }

    /// Waits for the write that was begun.
    pub(crate) fn wait(&self) -> std::io::Result<()> {
        let mut slot = self.shared.slot.lock();
        loop {
            match std::mem::replace(&mut *slot, Slot::Idle) {
                Slot::Done(result) => return result,
                Slot::Idle | Slot::Stop => return Err(std::io::ErrorKind::BrokenPipe.into()),
                todo @ Slot::Todo(_) => {
                    *slot = todo;
                    self.shared.changed.wait(&mut slot);
                }
            }
        }
    }
}

fn serve(shared: &Shared) {
    let mut slot = shared.slot.lock();
    loop {
        match &*slot {
            Slot::Stop => return,
            Slot::Todo(job) => {
                let (file, offset, bytes) = (job.file.clone(), job.offset, job.bytes.clone());
                let result = parking_lot::MutexGuard::unlocked(&mut slot, || file.write_dsync_at(offset, &bytes));
                drop(bytes);
                if matches!(*slot, Slot::Stop) {
                    return;
                }
                *slot = Slot::Done(result);
                shared.changed.notify_all();
            }
            Slot::Idle | Slot::Done(_) => shared.changed.wait(&mut slot),
        }
    }
}

impl Drop for MirrorWriter {
    fn drop(&mut self) {
        *self.shared.slot.lock() = Slot::Stop;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
