//! Reading shards back: plain, verified, headers, and whole-shard verification.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::future::try_join_all;
use granary_types::ShardId;
use granary_types::frame::crc32c;
use granary_types::limits::CHUNK_BYTES;

use crate::api::{DriveError, Result, ShardInfo, ShardSpec, VerifyReport};
use crate::buf::AlignedBuf;
use crate::core::{Core, Epoch};
use crate::header::{ExtentHeader, Place};
use crate::index::ShardRecord;
use crate::io::{self, Keep};
use crate::limits::READ_BYTES_MAX;
use crate::space::Extent;

/// Bytes that `verify` reads at once.
const VERIFY_BYTES: usize = 4 * 1024 * 1024;

/// The checks that every store makes of a read.
pub(crate) fn check_range(spec: &ShardSpec, offset: u64, len_bytes: usize) -> Result<()> {
    use granary_types::limits::ALIGN_BYTES;
    let aligned = offset.is_multiple_of(ALIGN_BYTES as u64) && len_bytes.is_multiple_of(ALIGN_BYTES);
    let end = offset.checked_add(len_bytes as u64);
    if !aligned || len_bytes > READ_BYTES_MAX || end.is_none_or(|end| end > spec.shard_bytes) {
        return Err(DriveError::Invalid(format!(
            "read of {len_bytes} bytes at {offset} of shard {} ({} bytes): not aligned, too long, or outside",
            spec.shard, spec.shard_bytes
        )));
    }
    Ok(())
}

pub(crate) fn check_chunk_offset(offset: u64) -> Result<()> {
    if offset.is_multiple_of(CHUNK_BYTES as u64) {
        return Ok(());
    }
    Err(DriveError::Invalid(format!("verified read at {offset}: not a multiple of {CHUNK_BYTES}")))
}

/// Bytes `offset..offset + len_bytes` of a shard.
pub(crate) async fn read(core: &Core, shard: ShardId, offset: u64, len_bytes: usize) -> Result<AlignedBuf> {
    core.check_readable()?;
    let pin = core.epochs.pin();
    let record = core.record(shard)?;
    check_range(&record.spec, offset, len_bytes)?;
    read_record(core, &pin, &record, offset, len_bytes).await
}

/// As [`read`], with the CRC of every chunk touched.
pub(crate) async fn read_verified(core: &Core, shard: ShardId, offset: u64, len_bytes: usize) -> Result<AlignedBuf> {
    core.check_readable()?;
    check_chunk_offset(offset)?;
    let pin = core.epochs.pin();
    let record = core.record(shard)?;
    check_range(&record.spec, offset, len_bytes)?;
    // A chunk can only be checked whole.
    let end = (offset + len_bytes as u64).next_multiple_of(CHUNK_BYTES as u64).min(record.spec.shard_bytes);
    let whole_bytes = usize::try_from(end - offset).expect("at most 64 MiB and a chunk");
    let mut buf = read_record(core, &pin, &record, offset, whole_bytes).await?;
    if let Some(&bad) = bad_chunks(core, &record, offset, &buf)?.first() {
        return Err(DriveError::Corrupt { shard, offset: bad });
    }
    buf.set_len(len_bytes);
    Ok(buf)
}

async fn read_record(
    core: &Core,
    pin: &Arc<Epoch>,
    record: &ShardRecord,
    offset: u64,
    len_bytes: usize,
) -> Result<AlignedBuf> {
    let begun = Instant::now();
    let pieces = pieces_of(record, offset, len_bytes)?;
    let buf = match pieces.as_slice() {
        [] => core.pool.take(0),
        [(extent, inside, count)] => read_piece(core, pin, extent, *inside, *count).await?,
        several => {
            // A range over the border of two extents (every 64 MiB at most): read beside each other, and joined.
            let reads = several.iter().map(|(extent, inside, count)| read_piece(core, pin, extent, *inside, *count));
            let parts = try_join_all(reads).await?;
            let mut joined = core.pool.take(len_bytes);
            let mut at = 0;
            for part in parts {
                joined[at..at + part.len()].copy_from_slice(&part);
                at += part.len();
            }
            joined
        }
    };
    core.stats.reads.add(1);
    core.stats.read_bytes.add(len_bytes as u64);
    core.stats.read_latency.record(begun.elapsed());
    Ok(buf)
}

/// The extents, offsets in their data, and lengths that make up a range of a shard.
fn pieces_of(record: &ShardRecord, offset: u64, len_bytes: usize) -> Result<Vec<(Extent, u64, usize)>> {
    let mut pieces = Vec::with_capacity(1);
    let (mut start, mut at, mut left) = (0u64, offset, len_bytes);
    for extent in &record.extents {
        if left == 0 {
            break;
        }
        let end = start + extent.data_bytes;
        if at < end {
            let count = left.min(usize::try_from(end - at).unwrap_or(usize::MAX));
            pieces.push((*extent, at - start, count));
            at += count as u64;
            left -= count;
        }
        start = end;
    }
    if left > 0 {
        return Err(DriveError::Format(format!(
            "drive index: shard {} has extents for {start} of its {} bytes",
            record.spec.shard, record.spec.shard_bytes
        )));
    }
    Ok(pieces)
}

async fn read_piece(core: &Core, pin: &Arc<Epoch>, extent: &Extent, inside: u64, count: usize) -> Result<AlignedBuf> {
    read_at(core, pin, extent, extent.data_offset() + inside, count).await
}

async fn read_at(core: &Core, pin: &Arc<Epoch>, extent: &Extent, offset: u64, count: usize) -> Result<AlignedBuf> {
    let segment = core.segment_of(extent)?;
    let keep: Keep = Arc::<Epoch>::clone(pin);
    io::read(&core.engine, &segment.file, offset, core.pool.take(count), Some(keep))
        .await
        .map_err(|error| core.fault(&format!("read of segment {:08x} at {offset}", segment.no), error, false))
}

/// Offsets in the shard of the chunks in `bytes` (which begin at `offset`) whose CRC does not match.
fn bad_chunks(core: &Core, record: &ShardRecord, offset: u64, bytes: &[u8]) -> Result<Vec<u64>> {
    let mut bad = Vec::new();
    let mut extent_start = 0u64;
    for (no, extent) in record.extents.iter().enumerate() {
        let extent_end = extent_start + extent.data_bytes;
        let from = offset.max(extent_start);
        let to = (offset + bytes.len() as u64).min(extent_end);
        if from < to {
            let crcs = core.index.extent_crcs(record, no).map_err(|error| core.index_fault(error))?;
            let slice = &bytes[at_usize(from - offset)..at_usize(to - offset)];
            let first = at_usize((from - extent_start) / CHUNK_BYTES as u64);
            for (i, chunk) in slice.chunks(CHUNK_BYTES).enumerate() {
                if crcs.get(first + i) != Some(&crc32c(chunk)) {
                    bad.push(from + (i * CHUNK_BYTES) as u64);
                }
            }
        }
        extent_start = extent_end;
    }
    core.stats.crc_failures.add(bad.len() as u64);
    Ok(bad)
}

fn at_usize(n: u64) -> usize {
    usize::try_from(n).expect("inside a buffer")
}

/// Reads one extent's header as it lies on the drive.
async fn read_header(core: &Core, pin: &Arc<Epoch>, extent: &Extent) -> Result<Option<ExtentHeader>> {
    let segment = core.segment_of(extent)?;
    let bytes = read_at(core, pin, extent, extent.offset, extent.header_bytes as usize).await?;
    let place = Place { drive: core.id, segment: segment.no, generation: segment.generation, offset: extent.offset };
    match ExtentHeader::decode(&bytes, core.header_key.as_ref(), &place) {
        Ok(header) => Ok(Some(header)),
        Err(error) => {
            core.stats.crc_failures.add(1);
            tracing::warn!(drive = %core.id, segment = segment.no, offset = extent.offset, %error, "damaged extent header");
            Ok(None)
        }
    }
}

/// What is known of a shard, with its sealed metadata.
pub(crate) async fn header(core: &Core, shard: ShardId) -> Result<(ShardInfo, Bytes)> {
    core.check_readable()?;
    let pin = core.epochs.pin();
    let record = core.record(shard)?;
    let corrupt = DriveError::Corrupt { shard, offset: 0 };
    let Some(first) = record.extents.first() else { return Err(corrupt) };
    match read_header(core, &pin, first).await? {
        Some(header) if header.write_id == record.write_id => Ok((record.info(), Bytes::from(header.meta))),
        _ => Err(corrupt),
    }
}

/// Reads a whole shard and checks every CRC and header.
pub(crate) async fn verify(core: &Core, shard: ShardId) -> Result<VerifyReport> {
    core.check_readable()?;
    let pin = core.epochs.pin();
    let record = core.record(shard)?;
    let mut report = VerifyReport::default();
    for (no, extent) in record.extents.iter().enumerate() {
        let crcs = core.index.extent_crcs(&record, no).map_err(|error| core.index_fault(error))?;
        let good = match read_header(core, &pin, extent).await {
            Ok(header) => header.is_some_and(|h| h.write_id == record.write_id && h.crcs == crcs),
            Err(error @ DriveError::Offline { .. }) => return Err(error),
            Err(_) => false,
        };
        report.header_bad |= !good;
    }
    let mut offset = 0;
    while offset < record.spec.shard_bytes {
        let len = at_usize((record.spec.shard_bytes - offset).min(VERIFY_BYTES as u64));
        match read_record(core, &pin, &record, offset, len).await {
            Ok(buf) => {
                report.bad_chunks.extend(bad_chunks(core, &record, offset, &buf)?);
                report.checked_bytes += len as u64;
            }
            Err(error @ DriveError::Offline { .. }) => return Err(error),
            // Somewhere in there is an unreadable sector: chunk by chunk, to say where.
            Err(_) => verify_slowly(core, &pin, &record, offset, len, &mut report).await?,
        }
        offset += len as u64;
    }
    Ok(report)
}

async fn verify_slowly(
    core: &Core,
    pin: &Arc<Epoch>,
    record: &ShardRecord,
    offset: u64,
    len: usize,
    report: &mut VerifyReport,
) -> Result<()> {
    let mut done = 0;
    while done < len {
        let count = CHUNK_BYTES.min(len - done);
        let at = offset + done as u64;
        match read_record(core, pin, record, at, count).await {
            Ok(buf) => {
                report.bad_chunks.extend(bad_chunks(core, record, at, &buf)?);
                report.checked_bytes += count as u64;
            }
            Err(error @ DriveError::Offline { .. }) => return Err(error),
            Err(_) => report.bad_chunks.push(at),
        }
        done += count;
    }
    Ok(())
}
