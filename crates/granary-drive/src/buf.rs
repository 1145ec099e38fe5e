//! Aligned, pooled, owned buffers: what every read returns and every write takes.
//!
//! [`AlignedBuf`] is unique and writable; [`AlignedBuf::freeze`] turns it into [`AlignedBytes`], which is
//! shared, immutable and cheap to clone and slice. Memory is aligned to 4 KiB (O_DIRECT), always initialised,
//! and goes back to the [`BufPool`] it came from when its last owner drops it. A pool keeps at most a bound of
//! bytes; beyond that it frees. Buffers that came from no pool are simply freed.
//!
//! A buffer taken from a pool holds *old bytes* (of an earlier user of the same pool); only
//! [`AlignedBuf::zeroed`] and [`BufPool::take_zeroed`] promise zeros.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Bound, Deref, DerefMut, RangeBounds};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use granary_types::limits::ALIGN_BYTES;
use parking_lot::Mutex;

/// Smallest capacity handed out.
const CLASS_BYTES_MIN: usize = ALIGN_BYTES;
/// Largest capacity a pool keeps; larger buffers are allocated and freed each time.
const CLASS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Two size classes per power of two: `2^n` and `1.5 × 2^n` (from 8 KiB on).
const CLASSES: usize = class_of(CLASS_BYTES_MAX).0 + 1;
/// Bytes of free buffers that a pool keeps where its owner has no better number.
pub const POOL_BYTES_DEFAULT: usize = 256 * 1024 * 1024;

/// The class that serves `len` bytes, and its capacity.
const fn class_of(len: usize) -> (usize, usize) {
    if len <= CLASS_BYTES_MIN {
        return (0, CLASS_BYTES_MIN);
    }
    let power = len.next_power_of_two();
    let level = (power.trailing_zeros() - CLASS_BYTES_MIN.trailing_zeros()) as usize;
    let middle = power / 4 * 3;
    if len <= middle && middle.is_multiple_of(ALIGN_BYTES) { (level * 2 - 1, middle) } else { (level * 2, power) }
}

/// Capacities that are cut from huge pages: a whole number of them makes one.
const ARENA_BYTES: usize = 2 * 1024 * 1024;
/// Smaller ones are allocated one by one.
const ARENA_PIECE_BYTES_MIN: usize = 256 * 1024;

/// A huge page's worth of memory, where the kernel has one to give: bulk buffers in it cost one page walk and one pinned
/// page instead of hundreds. Freed when the last piece is.
struct Arena {
    pointer: NonNull<u8>,
}

// SAFETY: an arena is only an address and its ownership; the pieces cut from it do not overlap.
unsafe impl Send for Arena {}
// SAFETY: nothing is read or written through a shared arena.
unsafe impl Sync for Arena {}

impl Arena {
    fn layout() -> Layout {
        Layout::from_size_align(ARENA_BYTES, ARENA_BYTES).expect("a power of two")
    }

    fn zeroed() -> Arc<Self> {
        // SAFETY: the layout's size is not zero.
        let raw = unsafe { std::alloc::alloc(Self::layout()) };
        let Some(pointer) = NonNull::new(raw) else { handle_alloc_error(Self::layout()) };
        // SAFETY: these 2 MiB are ours. The advice may be refused; then they are plain pages.
        unsafe { libc::madvise(pointer.as_ptr().cast(), ARENA_BYTES, libc::MADV_HUGEPAGE) };
        // SAFETY: as above; this is their first use.
        unsafe { pointer.as_ptr().write_bytes(0, ARENA_BYTES) };
        Arc::new(Self { pointer })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: `pointer` came from `alloc` with this very layout and is freed once, here.
        unsafe { dealloc(self.pointer.as_ptr(), Self::layout()) }
    }
}

/// One allocation, or a piece of an arena: aligned to 4 KiB, its whole capacity initialised.
struct Memory {
    pointer: NonNull<u8>,
    capacity: usize,
    /// What it is a piece of.
    arena: Option<Arc<Arena>>,
}

// SAFETY: `Memory` owns its allocation exclusively; moving it to another thread moves that ownership.
unsafe impl Send for Memory {}
// SAFETY: shared access gives out only `&[u8]`; writing needs `&mut`.
unsafe impl Sync for Memory {}

impl Memory {
    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGN_BYTES).expect("capacity is a bounded multiple of the alignment")
    }

    fn zeroed(capacity: usize) -> Self {
        assert!(capacity > 0 && capacity <= isize::MAX as usize / 2, "buffer capacity out of bounds");
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero (asserted above).
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(pointer) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Self { pointer, capacity, arena: None }
    }

    /// Whether buffers of this capacity are cut from arenas.
    const fn is_piece(capacity: usize) -> bool {
        capacity >= ARENA_PIECE_BYTES_MIN && capacity <= ARENA_BYTES && ARENA_BYTES.is_multiple_of(capacity)
    }

    /// All the pieces of a new arena.
    fn pieces(capacity: usize) -> Vec<Self> {
        assert!(Self::is_piece(capacity));
        let arena = Arena::zeroed();
        (0..ARENA_BYTES / capacity)
            .map(|n| {
                // SAFETY: inside the arena's 2 MiB.
                let pointer = unsafe { arena.pointer.add(n * capacity) };
                Self { pointer, capacity, arena: Some(Arc::clone(&arena)) }
            })
            .collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.arena.is_some() {
            return;
        }
        // SAFETY: `pointer` came from `alloc_zeroed` with this very layout and is freed once, here.
        unsafe { dealloc(self.pointer.as_ptr(), Self::layout(self.capacity)) }
    }
}

/// A pool of aligned buffers in size classes. Cheap to share (`Arc`); never a process-wide global.
pub struct BufPool {
    classes: [Mutex<Vec<Memory>>; CLASSES],
    kept_bytes: AtomicUsize,
    kept_bytes_max: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl BufPool {
    /// A pool that keeps at most `kept_bytes_max` bytes of free buffers.
    #[must_use]
    pub fn new(kept_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            classes: std::array::from_fn(|_| Mutex::new(Vec::new())),
            kept_bytes: AtomicUsize::new(0),
            kept_bytes_max,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    /// A writable buffer of `len` bytes. Its content is *unspecified* (zeros or an earlier user's bytes).
    #[must_use]
    pub fn take(self: &Arc<Self>, len: usize) -> AlignedBuf {
        let (class, capacity) = class_of(len);
        let kept = self.classes.get(class).and_then(|free| free.lock().pop());
        let memory = match kept {
            Some(memory) => {
                self.kept_bytes.fetch_sub(memory.capacity, Ordering::Relaxed);
                self.hits.fetch_add(1, Ordering::Relaxed);
                memory
            }
            None => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                self.make(capacity)
            }
        };
        AlignedBuf { memory: Pooled { memory: Some(memory), pool: Some(Arc::clone(self)) }, len }
    }

    fn make(&self, capacity: usize) -> Memory {
        // Nothing is kept that the pool has no room for: then the arena would live on for one piece.
        if !Memory::is_piece(capacity) || self.kept_bytes() + ARENA_BYTES > self.kept_bytes_max {
            return Memory::zeroed(capacity);
        }
        let mut pieces = Memory::pieces(capacity);
        let one = pieces.pop().expect("an arena has pieces");
        pieces.into_iter().for_each(|piece| self.put(piece));
        one
    }

    /// A writable buffer of `len` zero bytes.
    #[must_use]
    pub fn take_zeroed(self: &Arc<Self>, len: usize) -> AlignedBuf {
        let mut buf = self.take(len);
        buf.fill(0);
        buf
    }

    /// Bytes of free buffers kept right now.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes.load(Ordering::Relaxed)
    }

    /// Buffers served from the pool, and buffers newly allocated, since it was made.
    #[must_use]
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    fn put(&self, memory: Memory) {
        let (class, capacity) = class_of(memory.capacity);
        let Some(free) = self.classes.get(class).filter(|_| capacity == memory.capacity) else { return };
        let before = self.kept_bytes.fetch_add(capacity, Ordering::Relaxed);
        if before + capacity > self.kept_bytes_max {
            self.kept_bytes.fetch_sub(capacity, Ordering::Relaxed);
            return;
        }
        free.lock().push(memory);
    }
}

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufPool")
            .field("kept_bytes", &self.kept_bytes())
            .field("kept_bytes_max", &self.kept_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Memory that returns to its pool when dropped.
struct Pooled {
    /// `None` only while dropping.
    memory: Option<Memory>,
    pool: Option<Arc<BufPool>>,
}

impl Pooled {
    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("taken only by drop")
    }

    fn as_slice(&self, len: usize) -> &[u8] {
        let memory = self.memory();
        assert!(len <= memory.capacity);
        // SAFETY: the allocation is `capacity >= len` initialised bytes, and `&self` keeps writers out.
        unsafe { std::slice::from_raw_parts(memory.pointer.as_ptr(), len) }
    }

    fn as_mut_slice(&mut self, len: usize) -> &mut [u8] {
        let memory = self.memory();
        assert!(len <= memory.capacity);
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(memory.pointer.as_ptr(), len) }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let (Some(memory), Some(pool)) = (self.memory.take(), self.pool.take()) {
            pool.put(memory);
        }
    }
}

/// A writable buffer, aligned to 4 KiB, with exactly one owner.
pub struct AlignedBuf {
    memory: Pooled,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes, from no pool.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let (_, capacity) = class_of(len);
        Self { memory: Pooled { memory: Some(Memory::zeroed(capacity)), pool: None }, len }
    }

    /// The same as [`AlignedBuf::zeroed`].
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self::zeroed(len)
    }

    /// A copy of `bytes`, from no pool.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    /// Bytes that can be reached by [`AlignedBuf::set_len`] without a new allocation; a multiple of 4096.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.memory().capacity
    }

    /// Makes the buffer `len` bytes long; bytes gained are unspecified (but initialised).
    ///
    /// # Panics
    /// If `len` is over the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "length over capacity");
        self.len = len;
    }

    /// Gives up writing: shared, immutable, cheap to clone.
    #[must_use]
    pub fn freeze(self) -> AlignedBytes {
        let len = self.len;
        AlignedBytes { memory: Arc::new(self.memory), start: 0, len }
    }

    /// The bytes as [`Bytes`], without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.freeze().into_bytes()
    }

    /// Address of the first byte, for the kernel. Stays the same for the life of the buffer, also when it moves.
    pub(crate) fn as_kernel_ptr(&mut self) -> *mut u8 {
        self.memory.memory().pointer.as_ptr()
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_slice(self.len)
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.memory.as_mut_slice(len)
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

/// Immutable bytes of an aligned buffer; clones and slices share the memory.
#[derive(Clone)]
pub struct AlignedBytes {
    memory: Arc<Pooled>,
    start: usize,
    len: usize,
}

impl AlignedBytes {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        AlignedBuf::zeroed(0).freeze()
    }

    /// A copy of `bytes`, from no pool.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        AlignedBuf::copy_from(bytes).freeze()
    }

    /// The bytes of `range`, sharing this memory. Aligned for O_DIRECT only if `range` starts at a multiple of 4096.
    ///
    /// # Panics
    /// If the range is out of bounds, as slicing does.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let (start, end) = self.bounds(range);
        Self { memory: Arc::clone(&self.memory), start: self.start + start, len: end - start }
    }

    /// The bytes as [`Bytes`], without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// The bytes of `range` as [`Bytes`], without a copy.
    ///
    /// # Panics
    /// If the range is out of bounds, as slicing does.
    #[must_use]
    pub fn slice_bytes(&self, range: impl RangeBounds<usize>) -> Bytes {
        self.slice(range).into_bytes()
    }

    /// The writable buffer again, if this is its only owner and it is not a slice.
    ///
    /// # Errors
    /// `self`, unchanged, where others share the memory.
    pub fn try_into_buf(self) -> Result<AlignedBuf, Self> {
        if self.start != 0 {
            return Err(self);
        }
        let len = self.len;
        match Arc::try_unwrap(self.memory) {
            Ok(memory) => Ok(AlignedBuf { memory, len }),
            Err(memory) => Err(Self { memory, start: 0, len }),
        }
    }

    /// Whether address and length suit O_DIRECT (both multiples of 4096).
    #[must_use]
    pub fn is_aligned(&self) -> bool {
        self.start.is_multiple_of(ALIGN_BYTES) && self.len.is_multiple_of(ALIGN_BYTES)
    }

    fn bounds(&self, range: impl RangeBounds<usize>) -> (usize, usize) {
        let start = match range.start_bound() {
            Bound::Included(&n) => n,
            Bound::Excluded(&n) => n + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&n) => n + 1,
            Bound::Excluded(&n) => n,
            Bound::Unbounded => self.len,
        };
        assert!(start <= end && end <= self.len, "range {start}..{end} out of {} bytes", self.len);
        (start, end)
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.as_slice(self.start + self.len)[self.start..]
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<AlignedBuf> for AlignedBytes {
    fn from(buf: AlignedBuf) -> Self {
        buf.freeze()
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_fit_and_are_aligned() {
        for len in [0, 1, 4095, 4096, 4097, 8192, 8193, 12288, 12289, 65536, 65537, 70_000, 524_288, 600_000, 786_432] {
            let (class, capacity) = class_of(len);
            assert!(capacity >= len && capacity.is_multiple_of(ALIGN_BYTES), "{len}: {capacity}");
            assert!(capacity < len.max(4096) * 2, "{len}: {capacity}");
            assert_eq!(class_of(capacity), (class, capacity), "{len}");
        }
        let mut last = None;
        for len in (4096..CLASS_BYTES_MAX).step_by(4096) {
            let class = class_of(len);
            assert!(last.is_none_or(|last: (usize, usize)| last == class || (last.0 < class.0 && last.1 < class.1)));
            last = Some(class);
        }
    }

    #[test]
    fn buffers_return_to_their_pool_and_the_bound_holds() {
        let pool = BufPool::new(128 * 1024);
        let buf = pool.take(65_536);
        let address = buf.as_ptr();
        assert!((address as usize).is_multiple_of(ALIGN_BYTES));
        let bytes = buf.freeze();
        let slice = bytes.slice(100..200);
        drop(bytes);
        assert_eq!(pool.kept_bytes(), 0, "a slice still lives");
        let owned = slice.into_bytes();
        drop(owned);
        assert_eq!(pool.kept_bytes(), 65_536);
        assert_eq!(pool.take(60_000).as_ptr(), address, "same class, same memory");
        assert_eq!(pool.hits_and_misses(), (1, 1));
        let many: Vec<_> = (0..10).map(|_| pool.take(65_536)).collect();
        drop(many);
        assert!(pool.kept_bytes() <= 128 * 1024);
    }

    #[test]
    fn bulk_buffers_share_an_arena_without_overlap() {
        let pool = BufPool::new(16 * 1024 * 1024);
        let mut buffers: Vec<_> = (0..6).map(|_| pool.take(500_000)).collect();
        assert_eq!(pool.hits_and_misses(), (4, 2), "four pieces of 512 KiB in each arena");
        for (n, buf) in buffers.iter_mut().enumerate() {
            assert!((buf.as_ptr() as usize).is_multiple_of(ALIGN_BYTES));
            buf.fill(n as u8 + 1);
        }
        for (n, buf) in buffers.iter().enumerate() {
            assert!(buf.iter().all(|b| usize::from(*b) == n + 1));
        }
        // The last piece frees the arena, whichever it is.
        drop(pool);
        buffers.swap_remove(2);
        assert!(buffers[0].iter().all(|b| *b == 1));
    }

    #[test]
    fn freeze_slice_and_thaw() {
        let mut buf = AlignedBuf::zeroed(10_000);
        assert!(buf.iter().all(|b| *b == 0));
        buf[9_999] = 7;
        let bytes = buf.freeze();
        assert_eq!(bytes.slice(9_999..)[..], [7]);
        assert_eq!(bytes.slice(..0).len(), 0);
        assert!(!bytes.is_aligned());
        let clone = bytes.clone();
        let bytes = bytes.try_into_buf().expect_err("shared");
        drop(clone);
        assert_eq!(bytes.try_into_buf().expect("sole owner").len(), 10_000);
    }

    #[test]
    #[should_panic(expected = "out of")]
    fn slices_are_bounded() {
        let bytes = AlignedBuf::zeroed(10).freeze();
        let _ = bytes.slice(5..11);
    }
}
