//! Writing a shard: short ones with one write at commit, long ones as their bytes come.
//!
//! A shard of at most 512 KiB is held until `commit`, which then writes header and data with one call. A longer
//! one gets its extents when it is created; its data is written as it is appended, its headers at commit. Either
//! way a header and the data behind it become durable by the same sync, so recovery trusts a header only
//! where the data matches its checksums.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use granary_types::frame::ChunkCrcs;
use granary_types::limits::ALIGN_BYTES;
use tokio::sync::oneshot;

use crate::api::{DriveError, Result, ShardInfo, ShardSpec, ShardWriter};
use crate::buf::AlignedBytes;
use crate::core::{Core, Hold, Promise, WriteKeep, Writing};
use crate::header::{ExtentHeader, Place, chunks_of, header_bytes};
use crate::index::{NewShard, ShardRecord};
use crate::io::{self, Keep};
use crate::limits::{META_BYTES_MAX, SMALL_BYTES_MAX, check_spec};
use crate::space::footprint;
use crate::sync::Ticket;

/// Reserves space for a shard.
pub(crate) async fn create(core: &Arc<Core>, spec: ShardSpec) -> Result<Box<dyn ShardWriter>> {
    check_spec(&spec)?;
    core.check_accepting()?;
    let writing = Writing::begin(core, spec.shard).ok_or(DriveError::Exists(spec.shard))?;
    if core.index.shard(spec.shard).map_err(|error| core.index_fault(error))?.is_some() {
        return Err(DriveError::Exists(spec.shard));
    }
    let wanted_bytes = footprint(spec.shard_bytes);
    let mut free_bytes = core.drive_space().free_bytes;
    if wanted_bytes > free_bytes && core.chores.has_freed() {
        // Freed space that only waits for its flush.
        core.chores.flush(core).await?;
        free_bytes = core.drive_space().free_bytes;
    }
    if wanted_bytes > free_bytes {
        return Err(DriveError::Full { drive: core.id, wanted_bytes, free_bytes });
    }
    let body = if spec.shard_bytes <= SMALL_BYTES_MAX {
        Body::Held { pieces: Vec::new(), promise: Promise::new(core, wanted_bytes) }
    } else {
        Body::Placed { extents: place(core, spec.shard_bytes).await?, current: 0 }
    };
    Ok(Box::new(LocalWriter {
        core: Arc::clone(core),
        crcs: ChunkCrcs::with_room(chunks_of(spec.shard_bytes)),
        spec,
        writing,
        body,
        appended_bytes: 0,
        progress: Arc::new(Progress::default()),
    }))
}

/// Finds extents for a long shard.
async fn place(core: &Arc<Core>, shard_bytes: u64) -> Result<Vec<Placed>> {
    let mut placed: Vec<Placed> = Vec::new();
    let mut start = 0;
    while start < shard_bytes {
        match core.space.allocate(shard_bytes - start, None, placed.is_empty()) {
            Some((segment, extent)) => {
                let hold = Hold::new(core, segment, extent);
                placed.push(Placed { hold, start });
                start += extent.data_bytes;
            }
            None => core.chores.segment(core).await?,
        }
    }
    Ok(placed)
}

/// An extent of a long shard.
struct Placed {
    hold: Arc<Hold>,
    /// Where its data begins in the shard.
    start: u64,
}

enum Body {
    Held { pieces: Vec<AlignedBytes>, promise: Promise },
    Placed { extents: Vec<Placed>, current: usize },
}

/// Appends that have not been seen to succeed.
#[derive(Default)]
struct Progress {
    outstanding: AtomicUsize,
    failed: AtomicBool,
}

struct LocalWriter {
    core: Arc<Core>,
    spec: ShardSpec,
    writing: Writing,
    body: Body,
    crcs: ChunkCrcs,
    appended_bytes: u64,
    progress: Arc<Progress>,
}

impl ShardWriter for LocalWriter {
    fn append(&mut self, data: AlignedBytes, crcs: &[u32]) -> BoxFuture<'static, Result<()>> {
        match self.start_append(data, crcs) {
            Ok(future) => future,
            Err(error) => {
                self.progress.failed.store(true, Ordering::Release);
                async move { Err(error) }.boxed()
            }
        }
    }

    fn commit(self: Box<Self>, sealed_meta: Bytes) -> BoxFuture<'static, Result<()>> {
        commit(*self, sealed_meta).boxed()
    }
}

impl LocalWriter {
    fn start_append(&mut self, data: AlignedBytes, crcs: &[u32]) -> Result<BoxFuture<'static, Result<()>>> {
        self.core.check_accepting()?;
        let after = self.appended_bytes + data.len() as u64;
        if !data.len().is_multiple_of(ALIGN_BYTES) || after > self.spec.shard_bytes {
            return Err(DriveError::Invalid(format!(
                "append of {} bytes at {} to shard {} of {} bytes: not aligned, or past its end",
                data.len(),
                self.appended_bytes,
                self.spec.shard,
                self.spec.shard_bytes
            )));
        }
        if data.is_empty() {
            return Ok(async { Ok(()) }.boxed());
        }
        // Bytes that begin in the middle of a page cannot be written directly.
        let data = if data.is_aligned() {
            data
        } else {
            let mut copy = self.core.pool.take(data.len());
            copy.copy_from_slice(&data);
            copy.freeze()
        };
        if !self.crcs.adopt(crcs, data.len(), after == self.spec.shard_bytes) {
            self.crcs.update(&data);
        }
        let at = self.appended_bytes;
        self.appended_bytes = after;
        match &mut self.body {
            Body::Held { pieces, .. } => {
                pieces.push(data);
                Ok(async { Ok(()) }.boxed())
            }
            Body::Placed { extents, current } => {
                let mut writes = Vec::with_capacity(1);
                let (mut at, mut rest) = (at, data);
                while !rest.is_empty() {
                    while at >= extents[*current].start + extents[*current].hold.extent.data_bytes {
                        *current += 1;
                    }
                    let placed = &extents[*current];
                    let inside = at - placed.start;
                    let room = placed.hold.extent.data_bytes - inside;
                    let count = rest.len().min(usize::try_from(room).unwrap_or(usize::MAX));
                    let piece = rest.slice(..count);
                    rest = rest.slice(count..);
                    writes.push(start_write(&placed.hold, placed.hold.extent.data_offset() + inside, vec![piece]));
                    at += count as u64;
                }
                let progress = Arc::clone(&self.progress);
                progress.outstanding.fetch_add(1, Ordering::AcqRel);
                Ok(async move {
                    let mut ended = Ok(());
                    for end in join_all(writes).await {
                        ended = ended.and(end);
                    }
                    match &ended {
                        Ok(()) => drop(progress.outstanding.fetch_sub(1, Ordering::AcqRel)),
                        Err(_) => progress.failed.store(true, Ordering::Release),
                    }
                    ended
                }
                .boxed())
            }
        }
    }

    fn check_complete(&self, meta_bytes: usize) -> Result<()> {
        let whole = self.appended_bytes == self.spec.shard_bytes && meta_bytes <= META_BYTES_MAX;
        let done = self.progress.outstanding.load(Ordering::Acquire) == 0;
        if whole && done && !self.progress.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(DriveError::Invalid(format!(
            "commit of shard {}: {} of {} bytes appended (all finished: {done}), {meta_bytes} bytes of metadata",
            self.spec.shard, self.appended_bytes, self.spec.shard_bytes
        )))
    }
}

/// Starts a write into an extent; it keeps the extent until it is over, whoever waits.
fn start_write(hold: &Arc<Hold>, offset: u64, pieces: Vec<AlignedBytes>) -> BoxFuture<'static, Result<()>> {
    let core = Arc::clone(&hold.core);
    let bytes: usize = pieces.iter().map(|p| p.len()).sum();
    let keep: Keep = WriteKeep::new(hold);
    let begun = Instant::now();
    let write = io::write(&core.engine, &hold.segment.file, offset, pieces, Some(keep));
    let segment = hold.segment.no;
    async move {
        let written = write.await;
        core.stats.writes.add(1);
        core.stats.write_latency.record(begun.elapsed());
        match written {
            Ok(()) => {
                core.stats.write_bytes.add(bytes as u64);
                Ok(())
            }
            Err(error) => Err(core.fault(&format!("write to segment {segment:08x} at {offset}"), error, true)),
        }
    }
    .boxed()
}

async fn commit(writer: LocalWriter, meta: Bytes) -> Result<()> {
    writer.check_complete(meta.len())?;
    let begun = Instant::now();
    let core = Arc::clone(&writer.core);
    core.check_accepting()?;
    let LocalWriter { spec, writing, body, crcs, .. } = writer;
    let info = ShardInfo { spec, committed_us: core.clock.now().as_micros() };
    let write_id = rand::random();
    let crcs = crcs.finish();
    let (holds, extent_crcs) = match body {
        Body::Held { pieces, promise } => {
            let hold = write_held(&core, &info, write_id, &crcs, &meta, pieces).await?;
            drop(promise);
            (vec![hold], vec![crcs])
        }
        Body::Placed { extents, .. } => write_headers(&core, &info, write_id, &crcs, &meta, extents).await?,
    };
    let record = ShardRecord {
        spec: info.spec,
        committed_us: info.committed_us,
        write_id,
        extents: holds.iter().map(|h| h.extent).collect(),
        crcs: Vec::new(),
    };
    let (end, answer) = oneshot::channel();
    core.queue.push(Ticket { shard: NewShard { record, extent_crcs }, holds, writing, end });
    let gone = || DriveError::Offline { drive: core.id, why: "closed".to_owned() };
    answer.await.unwrap_or_else(|_| Err(gone()))?;
    core.stats.commit_latency.record(begun.elapsed());
    Ok(())
}

/// Places a short shard and writes header and data with one call.
async fn write_held(
    core: &Arc<Core>,
    info: &ShardInfo,
    write_id: u64,
    crcs: &[u32],
    meta: &Bytes,
    data: Vec<AlignedBytes>,
) -> Result<Arc<Hold>> {
    let header_len = header_bytes(crcs.len(), meta.len());
    let header_room = u32::try_from(header_len).expect("a few KiB");
    let (segment, extent) = loop {
        match core.space.allocate(info.spec.shard_bytes, Some(header_room), true) {
            Some(found) => break found,
            None => core.chores.segment(core).await?,
        }
    };
    let hold = Hold::new(core, segment, extent);
    let header = extent_header(core, &hold, info, write_id, (0, 1), 0, crcs, meta);
    let mut pieces = Vec::with_capacity(1 + data.len());
    pieces.push(encode(core, &header));
    pieces.extend(data);
    start_write(&hold, extent.offset, pieces).await?;
    Ok(hold)
}

/// Writes the headers of a long shard whose data is written.
async fn write_headers(
    core: &Arc<Core>,
    info: &ShardInfo,
    write_id: u64,
    crcs: &[u32],
    meta: &Bytes,
    extents: Vec<Placed>,
) -> Result<(Vec<Arc<Hold>>, Vec<Vec<u32>>)> {
    let count = u16::try_from(extents.len())
        .map_err(|_| DriveError::Invalid(format!("shard {} lies in too many extents", info.spec.shard)))?;
    let mut writes = Vec::with_capacity(extents.len());
    let mut extent_crcs = Vec::with_capacity(extents.len());
    let mut rest = crcs;
    for (no, placed) in (0..count).zip(&extents) {
        let (own, after) = rest.split_at(chunks_of(placed.hold.extent.data_bytes));
        rest = after;
        extent_crcs.push(own.to_vec());
        let meta: &[u8] = if no == 0 { meta } else { &[] };
        let header = extent_header(core, &placed.hold, info, write_id, (no, count), placed.start, own, meta);
        writes.push(start_write(&placed.hold, placed.hold.extent.offset, vec![encode(core, &header)]));
    }
    for end in join_all(writes).await {
        end?;
    }
    Ok((extents.into_iter().map(|p| p.hold).collect(), extent_crcs))
}

#[allow(clippy::too_many_arguments)] // The fields of one record, gathered in one place.
fn extent_header(
    core: &Core,
    hold: &Hold,
    info: &ShardInfo,
    write_id: u64,
    (extent, extents): (u16, u16),
    data_start: u64,
    crcs: &[u32],
    meta: &[u8],
) -> ExtentHeader {
    ExtentHeader {
        place: Place {
            drive: core.id,
            segment: hold.segment.no,
            generation: hold.segment.generation,
            offset: hold.extent.offset,
        },
        extent,
        extents,
        write_id,
        info: info.clone(),
        header_bytes: hold.extent.header_bytes,
        data_start,
        data_bytes: hold.extent.data_bytes,
        crcs: crcs.to_vec(),
        meta: meta.to_vec(),
    }
}

fn encode(core: &Core, header: &ExtentHeader) -> AlignedBytes {
    let mut buf = core.pool.take(header.header_bytes as usize);
    header.encode(core.header_key.as_ref(), &mut buf);
    buf.freeze()
}
