//! The crash twin: an engine between a drive and its files that keeps every write to itself until it is synced.
//!
//! Written bytes live in an overlay, per file and 512-byte sector, in the order they came. Reads see them; a sync
//! moves a file's overlay to the real file. [`SimEngine::crash`] cuts everything off: of what was not synced, a
//! seeded choice of sectors reaches the files (in any order, torn at 512 bytes), the rest is gone, and every later
//! operation fails. Opening the folder with another engine is then what a machine finds after power loss.
//!
//! Allocation, truncation and removal of files are real and immediate. Operations run at once, on the caller's
//! thread, so one seed gives one history.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::buf::{AlignedBuf, AlignedBytes};
use crate::io::{IoEngine, IoFuture, Op, OpKind};
use crate::raw::RawFile;

const SECTOR_BYTES: usize = 512;
type Sector = [u8; SECTOR_BYTES];

/// What a crash leaves of unsynced writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashStyle {
    /// Nothing.
    LoseAll,
    /// Each unsynced sector is there or not, by chance.
    Tear,
    /// Each unsynced operation is there whole or not, by chance (later ones may be where earlier ones are not).
    Reorder,
}

struct File {
    file: RawFile,
    /// Unsynced sectors: number → (operation, bytes), newest last.
    sectors: BTreeMap<u64, Vec<(u64, Box<Sector>)>>,
}

struct State {
    files: HashMap<PathBuf, File>,
    rng: StdRng,
    operations: u64,
    syncs: u64,
    crashed: bool,
    fail_syncs: u64,
    fail_writes: u64,
    fail_reads: u64,
    hold_syncs: bool,
    syncs_waiting: usize,
}

/// An [`IoEngine`] that can crash. Clones share it.
#[derive(Clone)]
pub struct SimEngine {
    state: Arc<(Mutex<State>, Condvar)>,
}

impl SimEngine {
    /// An engine whose choices follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            files: HashMap::new(),
            rng: StdRng::seed_from_u64(seed),
            operations: 0,
            syncs: 0,
            crashed: false,
            fail_syncs: 0,
            fail_writes: 0,
            fail_reads: 0,
            hold_syncs: false,
            syncs_waiting: 0,
        };
        Self { state: Arc::new((Mutex::new(state), Condvar::new())) }
    }

    /// Power fails now.
    pub fn crash(&self, style: CrashStyle) {
        let mut state = self.state.0.lock();
        let state = &mut *state;
        state.crashed = true;
        let mut files: Vec<_> = state.files.drain().collect();
        files.sort_by(|a, b| a.0.cmp(&b.0));
        for (_, file) in files {
            let mut kept: HashMap<u64, bool> = HashMap::new();
            for (number, versions) in &file.sectors {
                let mut last = None;
                for (operation, bytes) in versions {
                    let keep = match style {
                        CrashStyle::LoseAll => false,
                        CrashStyle::Tear => state.rng.random(),
                        CrashStyle::Reorder => *kept.entry(*operation).or_insert_with(|| state.rng.random()),
                    };
                    if keep {
                        last = Some(bytes);
                    }
                }
                if let Some(bytes) = last {
                    write_sectors(&file.file, *number, &[&bytes[..]]).expect("the simulated file takes writes");
                }
            }
        }
        self.state.1.notify_all();
    }

    /// The next `count` syncs fail with EIO, and what they should have made durable is lost.
    pub fn fail_syncs(&self, count: u64) {
        self.state.0.lock().fail_syncs = count;
    }

    /// The next `count` writes fail with EIO.
    pub fn fail_writes(&self, count: u64) {
        self.state.0.lock().fail_writes = count;
    }

    /// The next `count` reads fail with EIO.
    pub fn fail_reads(&self, count: u64) {
        self.state.0.lock().fail_reads = count;
    }

    /// Makes syncs wait (`true`) or go on.
    pub fn hold_syncs(&self, hold: bool) {
        self.state.0.lock().hold_syncs = hold;
        self.state.1.notify_all();
    }

    /// Syncs that wait because of [`SimEngine::hold_syncs`].
    #[must_use]
    pub fn syncs_waiting(&self) -> usize {
        self.state.0.lock().syncs_waiting
    }

    /// Syncs that were done.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state.0.lock().syncs
    }

    fn run(&self, op: &mut Op) -> io::Result<usize> {
        let len = op.len_bytes();
        match &mut op.kind {
            OpKind::Read(buf) => self.read_blocking(&op.file, op.offset, buf)?,
            OpKind::Write(pieces) => self.write_pieces(&op.file, op.offset, pieces)?,
        }
        Ok(len)
    }

    fn write_pieces(&self, file: &RawFile, offset: u64, pieces: &[AlignedBytes]) -> io::Result<()> {
        let mut at = offset;
        let operation = {
            let mut state = self.state.0.lock();
            state.operations += 1;
            state.operations
        };
        for piece in pieces {
            self.write_as(operation, file, at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn write_as(&self, operation: u64, file: &RawFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.0.lock();
        state.alive()?;
        if state.fail_writes > 0 {
            state.fail_writes -= 1;
            return Err(eio());
        }
        assert!(offset.is_multiple_of(4096) && bytes.len().is_multiple_of(4096), "unaligned write reached the engine");
        let sectors = &mut state.file(file)?.sectors;
        for (number, bytes) in (offset / SECTOR_BYTES as u64..).zip(bytes.chunks_exact(SECTOR_BYTES)) {
            let mut sector = Box::new([0u8; SECTOR_BYTES]);
            sector.copy_from_slice(bytes);
            sectors.entry(number).or_default().push((operation, sector));
        }
        Ok(())
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl State {
    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(eio()) } else { Ok(()) }
    }

    fn file(&mut self, file: &RawFile) -> io::Result<&mut File> {
        match self.files.entry(file.path().to_owned()) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                Ok(entry.insert(File { file: RawFile::open(file.path())?, sectors: BTreeMap::new() }))
            }
        }
    }
}

/// Writes consecutive sectors to the real file, whole pages at a time.
fn write_sectors(file: &RawFile, first: u64, sectors: &[&[u8]]) -> io::Result<()> {
    let start = first * SECTOR_BYTES as u64;
    let end = start + (sectors.len() * SECTOR_BYTES) as u64;
    let (from, to) = (start / 4096 * 4096, end.next_multiple_of(4096));
    let mut pages = AlignedBuf::zeroed(usize::try_from(to - from).expect("small"));
    file.read_exact_at(from, &mut pages)?;
    let mut at = usize::try_from(start - from).expect("small");
    for sector in sectors {
        pages[at..at + SECTOR_BYTES].copy_from_slice(sector);
        at += SECTOR_BYTES;
    }
    file.write_all_at(from, &pages)
}

impl IoEngine for SimEngine {
    fn describe(&self) -> String {
        "simulated disk".to_owned()
    }

    fn submit(&self, mut op: Op) -> IoFuture {
        let (end, future) = IoFuture::new();
        let result = self.run(&mut op);
        op.keep = None;
        let _ = end.send((op, result));
        future
    }

    fn sync(&self, file: &RawFile) -> io::Result<()> {
        let mut state = self.state.0.lock();
        state.syncs_waiting += 1;
        while state.hold_syncs && !state.crashed {
            self.state.1.wait(&mut state);
        }
        state.syncs_waiting -= 1;
        state.alive()?;
        let fail = state.fail_syncs > 0;
        state.fail_syncs -= u64::from(fail);
        let held = state.file(file)?;
        let sectors = std::mem::take(&mut held.sectors);
        if fail {
            return Err(eio());
        }
        let mut run: Vec<&[u8]> = Vec::new();
        let mut first = 0;
        for (number, versions) in &sectors {
            if !run.is_empty() && first + run.len() as u64 != *number {
                write_sectors(&held.file, first, &run)?;
                run.clear();
            }
            if run.is_empty() {
                first = *number;
            }
            run.push(&versions.last().expect("never empty").1[..]);
        }
        if !run.is_empty() {
            write_sectors(&held.file, first, &run)?;
        }
        state.syncs += 1;
        Ok(())
    }

    fn read_blocking(&self, file: &RawFile, offset: u64, buf: &mut AlignedBuf) -> io::Result<()> {
        let mut state = self.state.0.lock();
        state.alive()?;
        if state.fail_reads > 0 {
            state.fail_reads -= 1;
            return Err(eio());
        }
        let held = state.file(file)?;
        held.file.read_exact_at(offset, buf)?;
        let first = offset / SECTOR_BYTES as u64;
        let last = first + (buf.len() / SECTOR_BYTES) as u64;
        for (number, versions) in held.sectors.range(first..last) {
            let at = usize::try_from(number - first).expect("inside the buffer") * SECTOR_BYTES;
            buf[at..at + SECTOR_BYTES].copy_from_slice(&versions.last().expect("never empty").1[..]);
        }
        Ok(())
    }

    fn write_blocking(&self, file: &RawFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let operation = {
            let mut state = self.state.0.lock();
            state.operations += 1;
            state.operations
        };
        self.write_as(operation, file, offset, bytes)
    }

    fn punch(&self, file: &RawFile, offset: u64, len_bytes: u64) -> io::Result<()> {
        let mut state = self.state.0.lock();
        state.alive()?;
        let held = state.file(file)?;
        let sectors = offset / SECTOR_BYTES as u64..(offset + len_bytes) / SECTOR_BYTES as u64;
        held.sectors.retain(|number, _| !sectors.contains(number));
        held.file.punch(offset, len_bytes)
    }
}

impl fmt::Debug for SimEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimEngine").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(fill: u8) -> AlignedBuf {
        let mut buf = AlignedBuf::zeroed(4096);
        buf.fill(fill);
        buf
    }

    #[test]
    fn unsynced_writes_are_seen_and_lost() {
        let dir = tempfile::tempdir().unwrap();
        let file = RawFile::create_zeroed(&dir.path().join("f"), 64 * 1024).unwrap();
        let sim = SimEngine::new(1);
        sim.write_blocking(&file, 0, &block(1)).unwrap();
        sim.write_blocking(&file, 8192, &block(2)).unwrap();
        sim.sync(&file).unwrap();
        sim.write_blocking(&file, 0, &block(3)).unwrap();
        let mut buf = AlignedBuf::zeroed(12_288);
        sim.read_blocking(&file, 0, &mut buf).unwrap();
        assert_eq!((buf[0], buf[4096], buf[8192]), (3, 0, 2));
        sim.crash(CrashStyle::LoseAll);
        assert!(sim.read_blocking(&file, 0, &mut buf).is_err());
        file.read_exact_at(0, &mut buf).unwrap();
        assert_eq!((buf[0], buf[4096], buf[8192]), (1, 0, 2));
    }

    #[test]
    fn torn_writes_keep_whole_sectors() {
        let dir = tempfile::tempdir().unwrap();
        let file = RawFile::create_zeroed(&dir.path().join("f"), 64 * 1024).unwrap();
        let sim = SimEngine::new(2);
        (0..16).for_each(|n| sim.write_blocking(&file, n * 4096, &block(7)).unwrap());
        sim.crash(CrashStyle::Tear);
        let mut buf = AlignedBuf::zeroed(64 * 1024);
        file.read_exact_at(0, &mut buf).unwrap();
        let whole = |s: &[u8]| s.iter().all(|b| *b == s[0]);
        assert!(buf.chunks(SECTOR_BYTES).all(whole));
        let kept = buf.chunks(SECTOR_BYTES).filter(|s| s[0] == 7).count();
        assert!((20..108).contains(&kept), "{kept} of 128");
    }
}
