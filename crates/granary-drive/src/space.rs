//! Where the next extent goes, and whose every byte is: the books of a drive's segments.
//!
//! Space in a segment is handed out front to back and never again within one *generation* of the segment:
//! freed extents become holes (their disk space goes back to the file system), and a segment with nothing
//! left in it is used anew under a new generation. So a crash can only concern the tail of a segment, and
//! an old header can never be taken for a new one.
//!
//! An extent is *in flight* from allocation until it is committed or dropped, *live* while the index names it,
//! and *pending* from its free until its hole may be punched. Nothing here does I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use granary_types::limits::{BLOCK_BYTES, EXTENT_BYTES_MAX};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::header::{chunks_of, header_bytes};
use crate::limits::{META_BYTES_MAX, SEGMENT_HEAD_BYTES};
use crate::raw::RawFile;

/// A run of a segment: header and data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Extent {
    pub(crate) segment: u32,
    /// Where the header begins.
    pub(crate) offset: u64,
    pub(crate) header_bytes: u32,
    pub(crate) data_bytes: u64,
}

impl Extent {
    /// Header and data, in bytes.
    pub(crate) const fn len_bytes(&self) -> u64 {
        self.header_bytes as u64 + self.data_bytes
    }

    /// Where the data begins in the segment.
    pub(crate) const fn data_offset(&self) -> u64 {
        self.offset + self.header_bytes as u64
    }

    pub(crate) const fn end(&self) -> u64 {
        self.offset + self.len_bytes()
    }
}

/// One segment file in one generation.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) no: u32,
    pub(crate) generation: u64,
    pub(crate) size_bytes: u64,
    pub(crate) file: Arc<RawFile>,
}

struct Books {
    segment: Arc<Segment>,
    /// Everything below was handed out in this generation.
    tail: u64,
    /// Nothing more is handed out.
    sealed: bool,
    live_bytes: u64,
    pending_bytes: u64,
    /// Offset → length of extents in flight.
    in_flight: BTreeMap<u64, u64>,
}

impl Books {
    fn is_empty(&self) -> bool {
        self.sealed && self.live_bytes == 0 && self.pending_bytes == 0 && self.in_flight.is_empty()
    }

    /// Below this, every extent is committed (and in the index) or dead.
    fn watermark(&self) -> u64 {
        self.in_flight.first_key_value().map_or(self.tail, |(offset, _)| *offset)
    }
}

/// A run of a segment that may be punched: nothing refers to it.
#[derive(Debug, Clone)]
pub(crate) struct Hole {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u64,
    pub(crate) len_bytes: u64,
}

/// Totals, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) live: u64,
    pub(crate) in_flight: u64,
    pub(crate) pending: u64,
    /// Promised to writers that allocate when they commit.
    pub(crate) promised: u64,
    /// Preallocated on disk and not handed out yet.
    pub(crate) unused: u64,
}

impl Totals {
    pub(crate) const fn used(&self) -> u64 {
        self.live + self.in_flight + self.pending + self.promised
    }
}

#[derive(Default)]
struct State {
    books: HashMap<u32, Books>,
    active: Option<u32>,
    spares: Vec<u32>,
    holes: Vec<Hole>,
    totals: Totals,
    next_no: u32,
}

/// The books of all segments of a drive.
#[derive(Default)]
pub(crate) struct Space {
    state: Mutex<State>,
    /// The same segments, for readers.
    files: RwLock<HashMap<u32, Arc<Segment>>>,
}

/// The room a header needs that is written before its metadata is known.
pub(crate) fn header_room(data_bytes: u64, first: bool) -> u64 {
    header_bytes(chunks_of(data_bytes), if first { META_BYTES_MAX } else { 0 }) as u64
}

/// At most how much a shard takes up, headers included.
pub(crate) fn footprint(shard_bytes: u64) -> u64 {
    let whole = shard_bytes / EXTENT_BYTES_MAX;
    let rest = shard_bytes % EXTENT_BYTES_MAX;
    let last = if rest > 0 { header_room(rest, true) } else { 0 };
    shard_bytes + whole * header_room(EXTENT_BYTES_MAX, false) + last + META_BYTES_MAX as u64
}

impl Space {
    /// Hands out the next extent for a shard of which `data_left` bytes have no place yet. With `header` given,
    /// the extent has exactly that header and all of the data; else the header has room for any metadata, and
    /// the extent may be shorter than what is left (a multiple of 512 KiB). `None`: a new segment is needed.
    pub(crate) fn allocate(&self, data_left: u64, header: Option<u32>, first: bool) -> Option<(Arc<Segment>, Extent)> {
        let mut state = self.state.lock();
        let state = &mut *state;
        loop {
            let no = match state.active {
                Some(no) => no,
                None => {
                    let no = state.spares.pop()?;
                    state.active = Some(no);
                    no
                }
            };
            let books = state.books.get_mut(&no).expect("the active segment has books");
            let room = books.segment.size_bytes - books.tail;
            let wanted = data_left.min(EXTENT_BYTES_MAX);
            let (header_len, data_bytes) = match header {
                Some(header) => (u64::from(header), wanted),
                None => {
                    let whole = header_room(wanted, first);
                    if whole + wanted <= room {
                        (whole, wanted)
                    } else {
                        // A piece is worth it only if it is not tiny.
                        let piece_min = (books.segment.size_bytes / 16).max(BLOCK_BYTES as u64);
                        let piece = room.saturating_sub(whole) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
                        if piece >= piece_min { (header_room(piece, first), piece) } else { (whole, wanted) }
                    }
                }
            };
            let len = header_len + data_bytes;
            if len <= room {
                let extent = Extent {
                    segment: no,
                    offset: books.tail,
                    header_bytes: u32::try_from(header_len).expect("a few KiB"),
                    data_bytes,
                };
                books.tail += len;
                books.in_flight.insert(extent.offset, len);
                state.totals.in_flight += len;
                state.totals.unused -= len;
                return Some((Arc::clone(&books.segment), extent));
            }
            // What is left of this segment is too short: it stays a hole.
            state.seal(no);
            state.active = None;
        }
    }

    /// Adds a segment. `tail` is where handing out goes on; a sealed one takes nothing more.
    pub(crate) fn add(&self, segment: Arc<Segment>, tail: u64, sealed: bool, live_bytes: u64) {
        let no = segment.no;
        self.files.write().insert(no, Arc::clone(&segment));
        let mut state = self.state.lock();
        state.next_no = state.next_no.max(no.saturating_add(1));
        if !sealed {
            state.totals.unused += segment.size_bytes - tail;
            if tail == SEGMENT_HEAD_BYTES || state.active.is_some() {
                state.spares.push(no);
            } else {
                state.active = Some(no);
            }
        }
        state.totals.live += live_bytes;
        let books = Books { segment, tail, sealed, live_bytes, pending_bytes: 0, in_flight: BTreeMap::new() };
        state.books.insert(no, books);
    }

    /// A number for a new segment file.
    pub(crate) fn next_no(&self) -> u32 {
        let mut state = self.state.lock();
        let no = state.next_no;
        state.next_no += 1;
        no
    }

    /// Makes sure that no number up to `no` is given out.
    pub(crate) fn skip_no(&self, no: u32) {
        let mut state = self.state.lock();
        state.next_no = state.next_no.max(no.saturating_add(1));
    }

    /// The segment with that number.
    pub(crate) fn segment(&self, no: u32) -> Option<Arc<Segment>> {
        self.files.read().get(&no).cloned()
    }

    /// All segments.
    #[cfg(test)]
    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.files.read().values().cloned().collect()
    }

    /// Whether another segment should be made ready: none spare, and the active one more than half full.
    pub(crate) fn wants_spare(&self) -> bool {
        let state = self.state.lock();
        let half = |b: &Books| b.tail > b.segment.size_bytes / 2;
        state.spares.is_empty() && state.active.and_then(|no| state.books.get(&no)).is_some_and(half)
    }

    pub(crate) fn spares_count(&self) -> usize {
        self.state.lock().spares.len()
    }

    /// An extent is in the index now.
    pub(crate) fn commit(&self, extent: &Extent) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some(books) = state.books.get_mut(&extent.segment) {
            let len = books.in_flight.remove(&extent.offset).unwrap_or(0);
            books.live_bytes += len;
            state.totals.in_flight -= len;
            state.totals.live += len;
        }
    }

    /// An extent that was never committed is given up; its hole may be punched at once (the index never named it).
    pub(crate) fn abandon(&self, segment: &Arc<Segment>, extent: &Extent) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some(books) = state.books.get_mut(&extent.segment) {
            let len = books.in_flight.remove(&extent.offset).unwrap_or(0);
            state.totals.in_flight -= len;
            state.holes.push(Hole { segment: Arc::clone(segment), offset: extent.offset, len_bytes: len });
        }
    }

    /// Extents that the index no longer names; their holes come later, by [`Space::release`].
    pub(crate) fn free(&self, extents: &[Extent]) {
        let mut state = self.state.lock();
        let state = &mut *state;
        for extent in extents {
            if let Some(books) = state.books.get_mut(&extent.segment) {
                let len = extent.len_bytes();
                books.live_bytes = books.live_bytes.saturating_sub(len);
                books.pending_bytes += len;
                state.totals.live = state.totals.live.saturating_sub(len);
                state.totals.pending += len;
            }
        }
    }

    /// Freed extents that neither a crash nor a reader can bring back: they become holes.
    pub(crate) fn release(&self, extents: &[Extent]) {
        let mut state = self.state.lock();
        let state = &mut *state;
        for extent in extents {
            if let Some(books) = state.books.get_mut(&extent.segment) {
                let len = extent.len_bytes();
                books.pending_bytes -= len;
                state.totals.pending -= len;
                let segment = Arc::clone(&books.segment);
                state.holes.push(Hole { segment, offset: extent.offset, len_bytes: len });
            }
        }
    }

    /// Takes out the segments with nothing left in them. They are no longer known here.
    pub(crate) fn take_empty(&self) -> Vec<Arc<Segment>> {
        let mut state = self.state.lock();
        let empty: Vec<u32> = state.books.iter().filter(|(_, b)| b.is_empty()).map(|(no, _)| *no).collect();
        let taken = empty.into_iter().filter_map(|no| state.books.remove(&no)).map(|b| b.segment).collect();
        drop(state);
        let mut files = self.files.write();
        for segment in &taken {
            let segment: &Arc<Segment> = segment;
            files.remove(&segment.no);
        }
        taken
    }

    /// Takes the holes to punch, neighbours joined. Those in segments that are gone are left out.
    pub(crate) fn take_holes(&self) -> Vec<Hole> {
        let mut holes = {
            let mut state = self.state.lock();
            let holes = std::mem::take(&mut state.holes);
            let known = |h: &Hole| state.books.get(&h.segment.no).is_some_and(|b| Arc::ptr_eq(&b.segment, &h.segment));
            holes.into_iter().filter(known).collect::<Vec<_>>()
        };
        holes.sort_by_key(|h| (h.segment.no, h.offset));
        let mut joined: Vec<Hole> = Vec::with_capacity(holes.len());
        for hole in holes {
            match joined.last_mut() {
                Some(last) if last.segment.no == hole.segment.no && last.offset + last.len_bytes == hole.offset => {
                    last.len_bytes += hole.len_bytes;
                }
                _ => joined.push(hole),
            }
        }
        joined
    }

    /// A hole found by recovery.
    pub(crate) fn add_hole(&self, hole: Hole) {
        self.state.lock().holes.push(hole);
    }

    /// Segment, generation, watermark and tail of every segment.
    pub(crate) fn watermarks(&self) -> Vec<(Arc<Segment>, u64, u64)> {
        let state = self.state.lock();
        state.books.values().map(|b| (Arc::clone(&b.segment), b.watermark(), b.tail)).collect()
    }

    /// Promises space to a writer that allocates later.
    pub(crate) fn promise(&self, bytes: u64) {
        self.state.lock().totals.promised += bytes;
    }

    /// Takes a promise back.
    pub(crate) fn unpromise(&self, bytes: u64) {
        self.state.lock().totals.promised -= bytes;
    }

    pub(crate) fn totals(&self) -> Totals {
        self.state.lock().totals
    }
}

impl State {
    fn seal(&mut self, no: u32) {
        if let Some(books) = self.books.get_mut(&no) {
            let left = books.segment.size_bytes - books.tail;
            self.totals.unused -= left;
            if left > 0 {
                let segment = Arc::clone(&books.segment);
                self.holes.push(Hole { segment, offset: books.tail, len_bytes: left });
            }
            books.tail = books.segment.size_bytes;
            books.sealed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(dir: &tempfile::TempDir, no: u32) -> Arc<Segment> {
        let file = Arc::new(RawFile::create(&dir.path().join(no.to_string())).unwrap());
        Arc::new(Segment { no, generation: u64::from(no) + 100, size_bytes: 8 << 20, file })
    }

    #[test]
    fn space_is_handed_out_once_and_accounted_for() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::default();
        assert!(space.allocate(4096, Some(4096), true).is_none(), "no segment yet");
        space.add(segment(&dir, 0), SEGMENT_HEAD_BYTES, false, 0);
        let (_, a) = space.allocate(65_536, Some(4096), true).unwrap();
        let (s, b) = space.allocate(65_536, Some(4096), true).unwrap();
        assert_eq!(a.end(), b.offset);
        assert_eq!(space.watermarks()[0].1, a.offset);
        space.commit(&b);
        assert_eq!(space.watermarks()[0].1, a.offset, "the first is still in flight");
        space.commit(&a);
        assert_eq!(space.watermarks()[0].1, b.end());
        assert_eq!(space.totals().live, a.len_bytes() + b.len_bytes());

        let (_, c) = space.allocate(65_536, Some(4096), true).unwrap();
        space.abandon(&s, &c);
        space.free(&[a]);
        assert_eq!(space.take_holes().len(), 1, "only the abandoned one");
        space.release(&[a]);
        assert_eq!(space.take_holes().len(), 1);
        assert_eq!(space.totals().used(), b.len_bytes());
    }

    #[test]
    fn long_shards_fill_a_segment_and_go_on_in_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::default();
        space.add(segment(&dir, 0), SEGMENT_HEAD_BYTES, false, 0);
        let total = 20u64 << 20;
        let (mut left, mut extents, mut next) = (total, Vec::new(), 1);
        while left > 0 {
            match space.allocate(left, None, extents.is_empty()) {
                Some((_, extent)) => {
                    left -= extent.data_bytes;
                    extents.push(extent);
                }
                None => {
                    space.add(segment(&dir, next), SEGMENT_HEAD_BYTES, false, 0);
                    next += 1;
                }
            }
        }
        assert_eq!(extents.iter().map(|e| e.data_bytes).sum::<u64>(), total);
        assert!(extents[..extents.len() - 1].iter().all(|e| e.data_bytes.is_multiple_of(BLOCK_BYTES as u64)));
        assert!(extents.iter().all(|e| e.end() <= 8 << 20));
        assert!(extents.iter().map(Extent::len_bytes).sum::<u64>() <= footprint(total) + 3 * 16_384);
        extents.iter().for_each(|e| space.commit(e));
        space.free(&extents);
        space.release(&extents);
        let empty = space.take_empty();
        assert_eq!(empty.len(), 2, "the active one is not sealed");
        assert!(space.segment(empty[0].no).is_none());
        assert_eq!(space.totals().used(), 0);
    }
}
