//! The drive's housekeeping thread: makes segments, flushes the index, gives freed space back, notices a drive
//! that is gone, closes it in order.
//!
//! Order is what matters here. A freed extent becomes a hole only after (1) a flush has made its free durable,
//! so that no crash brings the index entry back, and (2) every reader that may have looked it up has finished.
//! A watermark is taken *before* the flush that stores it, so that all extents below it are in that flush.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::api::{DriveError, Result};
use crate::buf::AlignedBuf;
use crate::core::Core;
use crate::header::SegmentHead;
use crate::index::{Changes, IndexState, SegmentRecord};
use crate::limits::{FLUSH_BYTES, SEGMENT_HEAD_BYTES};
use crate::raw::{self, RawFile};
use crate::space::{Extent, Segment};

/// How often it looks around unasked.
const TICK: Duration = Duration::from_millis(500);
/// What was committed or freed is flushed after this long even if it is little.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// Smallest segment made where a whole one does not fit any more.
const SEGMENT_BYTES_LEAST: u64 = 4 * 1024 * 1024;
/// Empty segments kept ready; more are removed.
const SPARES_MAX: usize = 1;

type Reply = oneshot::Sender<Result<()>>;

#[derive(Default)]
struct State {
    segment: Vec<Reply>,
    flush: Vec<Reply>,
    close: Option<Reply>,
    stop: bool,
    ended: bool,
    /// Since the last flush.
    committed_bytes: u64,
    freed: Vec<Extent>,
    freed_bytes: u64,
    flush_due: bool,
}

/// What the thread is asked for.
#[derive(Default)]
pub(crate) struct Chores {
    state: Mutex<State>,
    wake: Condvar,
}

impl Chores {
    /// Asks for another segment to write to, and waits for it.
    pub(crate) async fn segment(&self, core: &Core) -> Result<()> {
        self.ask(core, |state, reply| state.segment.push(reply)).await
    }

    /// Flushes the index and gives back what can be given back, and waits for it.
    pub(crate) async fn flush(&self, core: &Core) -> Result<()> {
        self.ask(core, |state, reply| state.flush.push(reply)).await
    }

    /// Closes the drive in order, and waits for it.
    pub(crate) async fn close(&self, core: &Core) -> Result<()> {
        self.ask(core, |state, reply| state.close = Some(reply)).await
    }

    async fn ask(&self, core: &Core, put: impl FnOnce(&mut State, Reply)) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if !state.ended {
                put(&mut state, reply);
            }
        }
        self.wake.notify_one();
        let gone = || DriveError::Offline { drive: core.id, why: "closed".to_owned() };
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Tells the thread to end without flushing anything.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.wake.notify_one();
    }

    /// So many bytes were committed.
    pub(crate) fn committed(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.committed_bytes += bytes;
        if state.committed_bytes >= FLUSH_BYTES && !state.flush_due {
            state.flush_due = true;
            self.wake.notify_one();
        }
    }

    /// Extents that the index no longer names, as of a change already applied.
    pub(crate) fn freed(&self, extents: &[Extent], segment_bytes: u64) {
        let mut state = self.state.lock();
        state.freed.extend_from_slice(extents);
        state.freed_bytes += extents.iter().map(Extent::len_bytes).sum::<u64>();
        if state.freed_bytes >= FLUSH_BYTES.min(segment_bytes) && !state.flush_due {
            state.flush_due = true;
            self.wake.notify_one();
        }
    }

    /// Whether freed space waits to be given back.
    pub(crate) fn has_freed(&self) -> bool {
        !self.state.lock().freed.is_empty()
    }
}

/// The thread.
pub(crate) fn run(core: &Arc<Core>) {
    let mut last_flush = Instant::now();
    loop {
        let (segment, flush, close, due, stop) = {
            let mut state = core.chores.state.lock();
            let idle =
                |s: &State| s.segment.is_empty() && s.flush.is_empty() && s.close.is_none() && !s.stop && !s.flush_due;
            if idle(&state) {
                core.chores.wake.wait_for(&mut state, TICK);
            }
            let dirty = state.committed_bytes > 0 || !state.freed.is_empty();
            let due = state.flush_due || (dirty && last_flush.elapsed() >= FLUSH_EVERY);
            (std::mem::take(&mut state.segment), std::mem::take(&mut state.flush), state.close.take(), due, state.stop)
        };
        if stop {
            break;
        }
        if !segment.is_empty() {
            let made = if core.space.spares_count() > 0 { Ok(()) } else { make_segment(core) };
            segment.into_iter().for_each(|reply| drop(reply.send(made.clone())));
        }
        if due || !flush.is_empty() {
            let flushed = flush_index(core, None).map(|()| give_back(core));
            last_flush = Instant::now();
            flush.into_iter().for_each(|reply| drop(reply.send(flushed.clone())));
        }
        if let Some(reply) = close {
            let closed = close_drive(core);
            let mut state = core.chores.state.lock();
            state.ended = true;
            state.segment.clear();
            state.flush.clear();
            drop(state);
            let _ = reply.send(closed);
            return;
        }
        look_around(core);
    }
    let mut state = core.chores.state.lock();
    state.ended = true;
    state.segment.clear();
    state.flush.clear();
    state.close = None;
}

fn look_around(core: &Arc<Core>) {
    if !core.condition.is_online() {
        return;
    }
    if core.is_missing() {
        core.take_offline(format!(
            "{} has no {} of this drive any more",
            core.root.display(),
            crate::identity::FILE_NAME
        ));
        return;
    }
    let _ = core.refresh_fs();
    give_back(core);
    if core.space.wants_spare() && core.drive_space().free_bytes > core.segment_bytes {
        // Ahead of need: if it fails, whoever needs it tries again and hears why.
        let _ = make_segment(core);
    }
}

/// Makes the index durable, with watermarks, and retires what was freed before. `closing` marks it clean.
fn flush_index(core: &Core, closing: Option<IndexState>) -> Result<()> {
    core.check_writable()?;
    let (freed, committed) = {
        let mut state = core.chores.state.lock();
        state.flush_due = false;
        state.freed_bytes = 0;
        (std::mem::take(&mut state.freed), std::mem::take(&mut state.committed_bytes))
    };
    let mut changes = Changes::default();
    for (segment, watermark, tail) in core.space.watermarks() {
        // When closing nothing is in flight any more that could still be committed.
        let watermark = if closing.is_some() { tail } else { watermark };
        let record = SegmentRecord { generation: segment.generation, size_bytes: segment.size_bytes, watermark };
        changes.put_segment(segment.no, record);
    }
    if let Some(state) = closing {
        changes.put_state(state);
    }
    let flushed = core.index.apply(changes).and_then(|()| core.index.flush());
    core.stats.flushes.add(1);
    match flushed {
        Ok(()) => {
            core.epochs.retire(freed);
            Ok(())
        }
        Err(error) => {
            // Not retired: the frees are not durable. The drive is out of service, so they need not be kept.
            tracing::warn!(drive = %core.id, committed, %error, "index flush failed");
            Err(core.index_fault(error))
        }
    }
}

/// Gives space back that nothing and nobody refers to: empty segments first, holes in the others.
fn give_back(core: &Arc<Core>) {
    core.space.release(&core.epochs.take_unread());
    if !core.condition.is_online() {
        return;
    }
    for segment in core.space.take_empty() {
        let done =
            if core.space.spares_count() < SPARES_MAX { recycle(core, &segment) } else { remove(core, &segment) };
        if let Err(error) = done {
            core.fault(&format!("reusing segment {:08x}", segment.no), error, false);
        }
    }
    for hole in core.space.take_holes() {
        match core.engine.punch(&hole.segment.file, hole.offset, hole.len_bytes) {
            Ok(()) => {
                core.stats.punches.add(1);
                core.stats.punched_bytes.add(hole.len_bytes);
            }
            // The space stays taken until its segment is empty; nothing is wrong with what is stored.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => drop(core.fault("punching a hole", error, false)),
        }
    }
    let _ = core.refresh_fs();
}

fn write_head(core: &Core, file: &RawFile, head: &SegmentHead) -> io::Result<()> {
    let mut bytes = [0u8; SEGMENT_HEAD_BYTES as usize];
    head.encode(&mut bytes);
    core.engine.write_blocking(file, 0, &AlignedBuf::copy_from(&bytes))?;
    core.engine.sync(file)
}

/// Makes a new segment file and adds it as spare.
fn make_segment(core: &Core) -> Result<()> {
    core.check_writable()?;
    core.refresh_fs().map_err(|error| core.fault("statvfs", error, false))?;
    let room = core.fs_available_bytes.load(Ordering::Relaxed).saturating_sub(core.reserve_bytes);
    let size_bytes = core.segment_bytes.min(room) / SEGMENT_HEAD_BYTES * SEGMENT_HEAD_BYTES;
    if size_bytes < SEGMENT_BYTES_LEAST.min(core.segment_bytes) {
        return Err(DriveError::Full { drive: core.id, wanted_bytes: core.segment_bytes, free_bytes: room });
    }
    let no = core.space.next_no();
    let generation = rand::random();
    let path = core.segment_path(no);
    let made = RawFile::create(&path).and_then(|file| {
        match file.allocate(0, size_bytes) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => file.set_len(size_bytes)?,
            other => other?,
        }
        file.sync_all()?;
        write_head(core, &file, &SegmentHead { drive: core.id, segment: no, generation, segment_bytes: size_bytes })?;
        Ok(file)
    });
    match made {
        Ok(file) => {
            let segment = Segment { no, generation, size_bytes, file: Arc::new(file) };
            core.space.add(Arc::new(segment), SEGMENT_HEAD_BYTES, false, 0);
            let _ = core.refresh_fs();
            Ok(())
        }
        Err(error) => {
            let _ = std::fs::remove_file(&path);
            Err(core.fault(&format!("making segment {no:08x}"), error, false))
        }
    }
}

/// Uses an empty segment anew, under a new generation.
pub(crate) fn recycle(core: &Core, segment: &Segment) -> io::Result<()> {
    let generation = rand::random();
    let head = SegmentHead { drive: core.id, segment: segment.no, generation, segment_bytes: segment.size_bytes };
    match segment.file.allocate(0, segment.size_bytes) {
        // Its holes cannot be filled again: give it up.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
            return remove(core, segment);
        }
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        other => other?,
    }
    write_head(core, &segment.file, &head)?;
    let file = Arc::clone(&segment.file);
    let again = Segment { no: segment.no, generation, size_bytes: segment.size_bytes, file };
    core.space.add(Arc::new(again), SEGMENT_HEAD_BYTES, false, 0);
    core.stats.recycled.add(1);
    Ok(())
}

fn remove(core: &Core, segment: &Segment) -> io::Result<()> {
    std::fs::remove_file(segment.file.path())?;
    raw::sync_dir(&core.segments_dir())?;
    let mut changes = Changes::default();
    changes.delete_segment(segment.no);
    core.index.apply(changes).map_err(|error| io::Error::other(error.to_string()))
}

fn close_drive(core: &Arc<Core>) -> Result<()> {
    core.queue.drain();
    while core.writes_in_flight.load(Ordering::Acquire) > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    core.queue.close();
    let flushed = match core.check_writable() {
        Ok(()) => flush_index(core, Some(IndexState { clean: true })),
        // Nothing may be written; what is durable stays so, and the next start scans.
        Err(_) => Ok(()),
    };
    core.take_offline_quietly();
    core.index.close();
    drop(core.lock.lock().take());
    flushed
}
