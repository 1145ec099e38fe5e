//! Opening after a crash, or without an index: what lies in the segments is what there is.
//!
//! After an orderly close nothing is scanned. Otherwise the tail of every segment, above the watermark of the last
//! flush, is searched for extent headers, every 4 KiB; a shard is taken in when all its extents are there and all
//! its data matches its checksums (header and data were made durable by one sync, so a header alone proves
//! nothing). With the index lost, every segment is searched from its front, and every shard's data is read.
//!
//! Segments that were searched take no more writes: what a torn write left behind in them must never be
//! mistaken for something newer. Their free space is punched, and empty ones are used anew.

use std::collections::HashMap;
use std::sync::Arc;

use granary_types::ShardId;
use granary_types::frame::crc32c;
use granary_types::limits::{ALIGN_BYTES, CHUNK_BYTES};

use crate::api::{DriveError, Result};
use crate::buf::AlignedBuf;
use crate::chores::recycle;
use crate::core::Core;
use crate::header::{EXTENT_MAGIC, ExtentHeader, HEADER_BYTES_MAX, Place, SegmentHead};
use crate::index::{Changes, IndexState, NewShard, SegmentRecord, ShardRecord};
use crate::limits::SEGMENT_HEAD_BYTES;
use crate::raw::RawFile;
use crate::space::{Extent, Hole, Segment};

/// Bytes read at once while searching; a multiple of a chunk.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Changes applied to the index at once.
const CHANGES_MAX: usize = 1000;
/// A segment that takes up this much more disk than its live extents has holes left to punch.
const SLACK_BYTES: u64 = 1024 * 1024;

/// What opening a drive found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// It was closed in order: nothing had to be searched.
    pub clean: bool,
    /// The index was lost or unreadable (the reason) and has been rebuilt from the segments.
    pub rebuilt: Option<String>,
    /// Segment files.
    pub segments: usize,
    /// Bytes searched for headers.
    pub scanned_bytes: u64,
    /// Shards on the drive now.
    pub shards: u64,
    /// Of these, shards that the index did not have.
    pub found: u64,
    /// Shards whose header was found but not all of their data: never acknowledged, and dropped.
    pub torn: u64,
    /// Shards that the index had, but whose segment is gone; they are no longer listed.
    pub lost: u64,
}

impl std::fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.segments == 0 && self.rebuilt.is_some() {
            write!(f, "no segments yet; ")?;
        } else if let Some(reason) = &self.rebuilt {
            write!(f, "index rebuilt from {} segments ({reason}); ", self.segments)?;
        } else if self.clean {
            write!(f, "closed in order; ")?;
        } else {
            write!(f, "not closed in order: {} bytes of segment tails searched; ", self.scanned_bytes)?;
        }
        write!(f, "{} shards, {} found again, {} torn, {} lost", self.shards, self.found, self.torn, self.lost)
    }
}

/// A segment file as found.
struct Found {
    segment: Arc<Segment>,
    /// Where to begin searching.
    watermark: u64,
}

/// A header found, and where.
struct FoundExtent {
    segment: Arc<Segment>,
    header: ExtentHeader,
    extent: Extent,
}

/// Fills the books (and after a crash the index) from what is on the drive.
pub(crate) fn recover(core: &Core, rebuilt: Option<String>) -> Result<RecoveryReport> {
    let state = core.index.state()?;
    let rebuilt = rebuilt.or_else(|| state.is_none().then(|| "it was never finished".to_owned()));
    let clean = rebuilt.is_none() && state == Some(IndexState { clean: true });
    let found = open_segments(core, rebuilt.is_some())?;
    let mut report = RecoveryReport { clean, rebuilt, segments: found.len(), ..RecoveryReport::default() };
    if !clean {
        let mut extents = Vec::new();
        for segment in &found {
            report.scanned_bytes += search(core, segment, &mut extents)?;
        }
        take_in(core, extents, &mut report)?;
    }
    settle(core, &found, clean, &mut report)?;
    Ok(report)
}

/// Opens the segment files and finds out their generations.
fn open_segments(core: &Core, rebuilding: bool) -> Result<Vec<Found>> {
    let dir = core.segments_dir();
    let fault = |what: String, error: std::io::Error| core.fault(&what, error, false);
    let known: HashMap<u32, SegmentRecord> = core.index.segments()?.into_iter().collect();
    let mut found = Vec::new();
    let entries = std::fs::read_dir(&dir).map_err(|e| fault(format!("listing {}", dir.display()), e))?;
    for entry in entries {
        let path = entry.map_err(|e| fault(format!("listing {}", dir.display()), e))?.path();
        let number = path.file_stem().and_then(|s| s.to_str()).filter(|s| s.len() == 8);
        let number = number.and_then(|s| u32::from_str_radix(s, 16).ok());
        let (Some(no), true) = (number, path.extension().is_some_and(|e| e == "seg")) else {
            tracing::warn!(path = %path.display(), "not a segment file; left alone");
            continue;
        };
        core.space.skip_no(no);
        let file = RawFile::open(&path).map_err(|e| fault(format!("opening {}", path.display()), e))?;
        let len = file.len_bytes().map_err(|e| fault(format!("length of {}", path.display()), e))?;
        let mut bytes = AlignedBuf::zeroed(SEGMENT_HEAD_BYTES as usize);
        let head = match core.engine.read_blocking(&file, 0, &mut bytes) {
            Ok(()) => SegmentHead::decode(&bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let record = known.get(&no);
        let (generation, size_bytes) = match (head, record) {
            (Ok(head), _) if head.drive == core.id && head.segment == no && head.segment_bytes <= len => {
                (head.generation, head.segment_bytes)
            }
            (Ok(_), _) => {
                return Err(DriveError::Format(format!(
                    "{} belongs to another drive or was cut short: move it away to open drive {}",
                    path.display(),
                    core.id
                )));
            }
            (Err(why), Some(record)) if record.size_bytes <= len => {
                tracing::warn!(path = %path.display(), why, "segment head is damaged; the index knows its generation");
                (record.generation, record.size_bytes)
            }
            (Err(why), _) if rebuilding => {
                tracing::error!(path = %path.display(), why, "segment head is damaged and the index lost: left alone");
                continue;
            }
            (Err(_), _) => {
                // The crash hit while it was made: it never held anything.
                std::fs::remove_file(&path).map_err(|e| fault(format!("removing {}", path.display()), e))?;
                continue;
            }
        };
        let watermark = record.filter(|r| r.generation == generation).map_or(SEGMENT_HEAD_BYTES, |r| r.watermark);
        let watermark = watermark.clamp(SEGMENT_HEAD_BYTES, size_bytes);
        let segment = Arc::new(Segment { no, generation, size_bytes, file: Arc::new(file) });
        found.push(Found { segment, watermark });
    }
    Ok(found)
}

/// Searches a segment from its watermark on. Returns the bytes looked at.
fn search(core: &Core, found: &Found, extents: &mut Vec<FoundExtent>) -> Result<u64> {
    let segment = &found.segment;
    let mut scanned = 0;
    let mut at = found.watermark;
    while at < segment.size_bytes {
        // Reserved space that was never written is skipped unread.
        let fault = |error| core.fault(&format!("searching segment {:08x}", segment.no), error, false);
        match segment.file.next_data(at).map_err(fault)? {
            Some(data) if data < segment.size_bytes => at = at.max(data / ALIGN_BYTES as u64 * ALIGN_BYTES as u64),
            _ => break,
        }
        let len = usize::try_from((segment.size_bytes - at).min(WINDOW_BYTES as u64)).expect("at most 1 MiB");
        let window = read_tolerantly(core, segment, at, len);
        let last = at + len as u64 == segment.size_bytes;
        let mut inside = 0;
        while inside < len && (last || len - inside >= HEADER_BYTES_MAX) {
            let rest = &window[inside..];
            let offset = at + inside as u64;
            match rest.starts_with(&EXTENT_MAGIC).then(|| decode(core, segment, offset, rest)).flatten() {
                Some(found) => {
                    inside += usize::try_from(found.extent.len_bytes()).unwrap_or(usize::MAX);
                    extents.push(found);
                }
                None => inside += ALIGN_BYTES,
            }
        }
        scanned += inside.min(len) as u64;
        at += inside as u64;
    }
    Ok(scanned)
}

fn decode(core: &Core, segment: &Arc<Segment>, offset: u64, bytes: &[u8]) -> Option<FoundExtent> {
    let place = Place { drive: core.id, segment: segment.no, generation: segment.generation, offset };
    let header = ExtentHeader::decode(bytes, core.header_key.as_ref(), &place).ok()?;
    let extent =
        Extent { segment: segment.no, offset, header_bytes: header.header_bytes, data_bytes: header.data_bytes };
    (extent.end() <= segment.size_bytes).then(|| FoundExtent { segment: Arc::clone(segment), header, extent })
}

/// Reads a window; pages that cannot be read are zeros.
fn read_tolerantly(core: &Core, segment: &Segment, at: u64, len: usize) -> AlignedBuf {
    let mut window = AlignedBuf::zeroed(len);
    if core.engine.read_blocking(&segment.file, at, &mut window).is_ok() {
        return window;
    }
    window.fill(0);
    let mut page = AlignedBuf::zeroed(ALIGN_BYTES);
    for offset in (0..len).step_by(ALIGN_BYTES) {
        if core.engine.read_blocking(&segment.file, at + offset as u64, &mut page).is_ok() {
            window[offset..offset + ALIGN_BYTES].copy_from_slice(&page);
        } else {
            core.stats.io_errors.add(1);
        }
    }
    window
}

/// Puts the shards that are whole into the index.
fn take_in(core: &Core, extents: Vec<FoundExtent>, report: &mut RecoveryReport) -> Result<()> {
    let mut writes: HashMap<(ShardId, u64), Vec<FoundExtent>> = HashMap::new();
    for found in extents {
        let key = (found.header.info.spec.shard, found.header.write_id);
        writes.entry(key).or_default().push(found);
    }
    let mut shards: HashMap<ShardId, Vec<Vec<FoundExtent>>> = HashMap::new();
    for ((shard, _), mut write) in writes {
        write.sort_by_key(|f| f.header.extent);
        if is_whole(&write) {
            shards.entry(shard).or_default().push(write);
        } else {
            report.torn += 1;
        }
    }
    let (mut changes, mut count) = (Changes::default(), 0);
    for (shard, mut writes) in shards {
        writes.sort_by_key(|w| std::cmp::Reverse(w[0].header.info.committed_us));
        let old = core.index.shard(shard)?;
        for write in writes {
            let first = &write[0].header;
            if old.as_ref().is_some_and(|o| o.write_id == first.write_id || o.committed_us > first.info.committed_us) {
                break;
            }
            if !data_is_good(core, &write) {
                report.torn += 1;
                continue;
            }
            if let Some(old) = &old {
                changes.delete_shard(old);
            }
            changes.put_shard(&new_shard(&write));
            report.found += 1;
            count += 1;
            break;
        }
        if count >= CHANGES_MAX {
            core.index.apply(std::mem::take(&mut changes))?;
            count = 0;
        }
    }
    core.index.apply(changes)
}

/// Whether sorted extents are all of one write, without gap.
fn is_whole(write: &[FoundExtent]) -> bool {
    let Some(first) = write.first() else { return false };
    let mut start = 0;
    for (no, found) in write.iter().enumerate() {
        let header = &found.header;
        if usize::from(header.extent) != no || header.data_start != start || header.info != first.header.info {
            return false;
        }
        start += header.data_bytes;
    }
    usize::from(first.header.extents) == write.len() && start == first.header.info.spec.shard_bytes
}

fn data_is_good(core: &Core, write: &[FoundExtent]) -> bool {
    write.iter().all(|found| {
        let mut at = 0;
        let mut crcs = found.header.crcs.iter();
        let mut window = AlignedBuf::zeroed(WINDOW_BYTES);
        while at < found.extent.data_bytes {
            let len = usize::try_from((found.extent.data_bytes - at).min(WINDOW_BYTES as u64)).expect("at most 1 MiB");
            window.set_len(len);
            let offset = found.extent.data_offset() + at;
            if core.engine.read_blocking(&found.segment.file, offset, &mut window).is_err() {
                return false;
            }
            if !window.chunks(CHUNK_BYTES).all(|chunk| crcs.next() == Some(&crc32c(chunk))) {
                return false;
            }
            at += len as u64;
        }
        true
    })
}

fn new_shard(write: &[FoundExtent]) -> NewShard {
    let first = &write[0].header;
    NewShard {
        record: ShardRecord {
            spec: first.info.spec.clone(),
            committed_us: first.info.committed_us,
            write_id: first.write_id,
            extents: write.iter().map(|f| f.extent).collect(),
            crcs: Vec::new(),
        },
        extent_crcs: write.iter().map(|f| f.header.crcs.clone()).collect(),
    }
}

/// Makes index and books agree: live bytes per segment, watermarks, holes.
fn settle(core: &Core, found: &[Found], clean: bool, report: &mut RecoveryReport) -> Result<()> {
    let mut live: HashMap<u32, Vec<Extent>> = found.iter().map(|f| (f.segment.no, Vec::new())).collect();
    let mut lost: Vec<ShardRecord> = Vec::new();
    core.index.for_each_shard(None, |record| {
        if record.extents.iter().all(|e| live.contains_key(&e.segment)) {
            report.shards += 1;
            for extent in &record.extents {
                live.entry(extent.segment).or_default().push(*extent);
            }
        } else {
            lost.push(record);
        }
        true
    })?;
    report.lost = lost.len() as u64;
    let mut changes = Changes::default();
    lost.iter().for_each(|record| changes.delete_shard(record));
    let mut empty = Vec::new();
    for Found { segment, watermark } in found {
        let extents = live.remove(&segment.no).unwrap_or_default();
        let live_bytes: u64 = extents.iter().map(Extent::len_bytes).sum();
        let tail = if clean { *watermark } else { segment.size_bytes };
        let record = SegmentRecord { generation: segment.generation, size_bytes: segment.size_bytes, watermark: tail };
        changes.put_segment(segment.no, record);
        if !clean && live_bytes == 0 {
            empty.push(Arc::clone(segment));
            continue;
        }
        core.space.add(Arc::clone(segment), tail, tail == segment.size_bytes, live_bytes);
        if !clean {
            find_holes(core, segment, extents);
        }
    }
    changes.put_state(IndexState { clean: false });
    core.index.apply(changes)?;
    core.index.flush()?;
    // Only now that the index is durable may anything be written over.
    for segment in empty {
        let reused = if core.space.spares_count() == 0 {
            recycle(core, &segment)
        } else {
            std::fs::remove_file(segment.file.path())
        };
        reused.map_err(|error| core.fault(&format!("reusing segment {:08x}", segment.no), error, false))?;
    }
    Ok(())
}

/// Everything between live extents is free.
fn find_holes(core: &Core, segment: &Arc<Segment>, mut extents: Vec<Extent>) {
    let live_bytes: u64 = extents.iter().map(Extent::len_bytes).sum();
    if segment.file.disk_bytes().is_ok_and(|bytes| bytes <= live_bytes + SLACK_BYTES) {
        return;
    }
    extents.sort_by_key(|e| e.offset);
    let mut at = SEGMENT_HEAD_BYTES;
    let ends = extents.iter().map(|e| (e.offset, e.end())).chain([(segment.size_bytes, segment.size_bytes)]);
    for (offset, end) in ends {
        if offset > at {
            core.space.add_hole(Hole { segment: Arc::clone(segment), offset: at, len_bytes: offset - at });
        }
        at = at.max(end);
    }
}
