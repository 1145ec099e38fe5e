//! The drive's index: a small sealed RocksDB that maps a shard to its extents and checksums.
//!
//! It has no write-ahead log. What was put since the last flush is lost in a crash and found again by scanning
//! the tails of segments (`recover.rs`); a flush records, in the same memtable as the shards, up to where each
//! segment needs no scan. RocksDB flushes memtables in write order, so a watermark never gets ahead of the
//! shards below it. Losing the index altogether costs a full scan, not data.
//!
//! Keys: `c` shard extent → CRCs of one extent (long shards only); `g` segment → its record; `m` → state of the
//! index; `s` shard → its record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use granary_types::ShardId;
use parking_lot::RwLock;
use rocksdb::{BlockBasedOptions, Cache, DB, Direction, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize};

use crate::api::{DriveError, Result, ShardInfo, ShardSpec};
use crate::limits::CRCS_INLINE_MAX;
use crate::rocks::sealed_env;
use crate::space::Extent;

/// Bytes of recently used blocks kept in memory.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of unflushed records kept in memory.
const MEMTABLE_BYTES: usize = 32 * 1024 * 1024;
const VERSION: u8 = 1;

/// What the index knows of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardRecord {
    pub(crate) spec: ShardSpec,
    pub(crate) committed_us: u64,
    pub(crate) write_id: u64,
    pub(crate) extents: Vec<Extent>,
    /// CRC-32C of every 64 KiB, in order, of short shards; empty where they have records of their own.
    pub(crate) crcs: Vec<u32>,
}

impl ShardRecord {
    pub(crate) fn info(&self) -> ShardInfo {
        ShardInfo { spec: self.spec.clone(), committed_us: self.committed_us }
    }
}

/// A shard with the CRCs of each of its extents, as commit and recovery have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewShard {
    pub(crate) record: ShardRecord,
    pub(crate) extent_crcs: Vec<Vec<u32>>,
}

/// What the index knows of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentRecord {
    pub(crate) generation: u64,
    pub(crate) size_bytes: u64,
    /// Extents that begin below are in the index or dead.
    pub(crate) watermark: u64,
}

/// The state the index was left in. Missing while it is being built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexState {
    /// Closed in order: nothing above any watermark.
    pub(crate) clean: bool,
}

/// The index of one drive. Open until [`Index::close`].
pub(crate) struct Index {
    db: RwLock<Option<DB>>,
    path: PathBuf,
}

/// A group of changes, applied together.
#[derive(Default)]
pub(crate) struct Changes(WriteBatch);

fn shard_key(shard: ShardId) -> [u8; 18] {
    let mut key = [b's'; 18];
    key[1..].copy_from_slice(&shard.to_bytes());
    key
}

fn crcs_key(shard: ShardId, extent: usize) -> [u8; 20] {
    let mut key = [b'c'; 20];
    key[1..18].copy_from_slice(&shard.to_bytes());
    key[18..].copy_from_slice(&u16::try_from(extent).unwrap_or(u16::MAX).to_be_bytes());
    key
}

fn segment_key(no: u32) -> [u8; 5] {
    let mut key = [b'g'; 5];
    key[1..].copy_from_slice(&no.to_be_bytes());
    key
}

const STATE_KEY: &[u8] = b"m";

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("plain records always encode")
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8], what: &str) -> Result<T> {
    match bytes.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body)
            .map_err(|error| DriveError::Format(format!("drive index: a {what} record is damaged ({error})"))),
        Some((version, _)) => Err(DriveError::Format(format!("drive index: {what} record of version {version}"))),
        None => Err(DriveError::Format(format!("drive index: empty {what} record"))),
    }
}

fn failed(what: &str, error: &rocksdb::Error) -> DriveError {
    DriveError::Io { what: format!("drive index: {what}"), source: Arc::new(std::io::Error::other(error.to_string())) }
}

fn write_options() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

impl Changes {
    pub(crate) fn put_shard(&mut self, shard: &NewShard) {
        let id = shard.record.spec.shard;
        let count: usize = shard.extent_crcs.iter().map(Vec::len).sum();
        let mut record = shard.record.clone();
        record.crcs.clear();
        if count <= CRCS_INLINE_MAX {
            record.crcs = shard.extent_crcs.concat();
        } else {
            for (extent, crcs) in shard.extent_crcs.iter().enumerate() {
                let bytes: Vec<u8> = crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect();
                self.0.put(crcs_key(id, extent), bytes);
            }
        }
        self.0.put(shard_key(id), encode(&record));
    }

    pub(crate) fn delete_shard(&mut self, record: &ShardRecord) {
        let id = record.spec.shard;
        self.0.delete(shard_key(id));
        if record.crcs.is_empty() {
            (0..record.extents.len()).for_each(|extent| self.0.delete(crcs_key(id, extent)));
        }
    }

    pub(crate) fn put_segment(&mut self, no: u32, record: SegmentRecord) {
        self.0.put(segment_key(no), encode(&record));
    }

    pub(crate) fn delete_segment(&mut self, no: u32) {
        self.0.delete(segment_key(no));
    }

    pub(crate) fn put_state(&mut self, state: IndexState) {
        self.0.put(STATE_KEY, encode(&state));
    }
}

impl Index {
    /// Opens the index in `path`, or makes an empty one.
    ///
    /// # Errors
    /// `Io`, with RocksDB's words, where it cannot be opened.
    pub(crate) fn open(path: &Path, key: &[u8; 32]) -> Result<Self> {
        let env = sealed_env(key).map_err(|error| DriveError::Format(error.to_string()))?;
        // Without this RocksDB flushes when dropped; a drive flushes on `close`, and only there.
        let mut options = Options::default()
            .get_options_from_string("avoid_flush_during_shutdown=true")
            .map_err(|error| failed("options", &error))?;
        options.create_if_missing(true);
        options.set_env(&env);
        options.set_write_buffer_size(MEMTABLE_BYTES);
        options.set_max_write_buffer_number(3);
        options.set_max_background_jobs(2);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1024 * 1024);
        options.set_log_level(rocksdb::LogLevel::Warn);
        options.set_max_open_files(256);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
        table.set_bloom_filter(10.0, false);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        options.set_block_based_table_factory(&table);
        let db = DB::open(&options, path).map_err(|error| failed("open", &error))?;
        Ok(Self { db: RwLock::new(Some(db)), path: path.to_owned() })
    }

    fn with<T>(&self, use_db: impl FnOnce(&DB) -> Result<T>) -> Result<T> {
        match &*self.db.read() {
            Some(db) => use_db(db),
            None => Err(DriveError::Io {
                what: format!("drive index {}", self.path.display()),
                source: Arc::new(std::io::Error::new(std::io::ErrorKind::NotConnected, "closed")),
            }),
        }
    }

    pub(crate) fn shard(&self, shard: ShardId) -> Result<Option<ShardRecord>> {
        self.with(|db| match db.get_pinned(shard_key(shard)).map_err(|error| failed("get", &error))? {
            Some(bytes) => decode(&bytes, "shard").map(Some),
            None => Ok(None),
        })
    }

    /// CRCs of one extent of a shard.
    pub(crate) fn extent_crcs(&self, record: &ShardRecord, extent: usize) -> Result<Vec<u32>> {
        if !record.crcs.is_empty() {
            let count = |e: &Extent| crate::header::chunks_of(e.data_bytes);
            let before: usize = record.extents.iter().take(extent).map(count).sum();
            let len = record.extents.get(extent).map_or(0, count);
            let crcs = record.crcs.get(before..before + len);
            return crcs.map(<[u32]>::to_vec).ok_or_else(|| missing_crcs(record));
        }
        self.with(|db| {
            let bytes = db.get_pinned(crcs_key(record.spec.shard, extent)).map_err(|error| failed("get", &error))?;
            let bytes = bytes.ok_or_else(|| missing_crcs(record))?;
            Ok(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
        })
    }

    pub(crate) fn apply(&self, changes: Changes) -> Result<()> {
        self.with(|db| db.write_opt(changes.0, &write_options()).map_err(|error| failed("write", &error)))
    }

    /// Makes everything applied so far durable.
    pub(crate) fn flush(&self) -> Result<()> {
        self.with(|db| db.flush().map_err(|error| failed("flush", &error)))
    }

    /// Up to `limit` shards with ids after `after`, in order.
    pub(crate) fn scan(&self, after: Option<ShardId>, limit: usize) -> Result<Vec<ShardRecord>> {
        let mut found = Vec::new();
        self.for_each_shard(after, |record| {
            found.push(record);
            found.len() < limit
        })
        .map(|()| found)
    }

    /// Calls `visit` for shards after `after` until it returns false.
    pub(crate) fn for_each_shard(
        &self,
        after: Option<ShardId>,
        mut visit: impl FnMut(ShardRecord) -> bool,
    ) -> Result<()> {
        self.with(|db| {
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(vec![b's' + 1]);
            let first = after.map_or_else(|| vec![b's'], |id| [&shard_key(id)[..], &[0]].concat());
            let from = IteratorMode::From(&first, Direction::Forward);
            for entry in db.iterator_opt(from, options) {
                let (_, value) = entry.map_err(|error| failed("scan", &error))?;
                if !visit(decode(&value, "shard")?) {
                    break;
                }
            }
            Ok(())
        })
    }

    pub(crate) fn segments(&self) -> Result<Vec<(u32, SegmentRecord)>> {
        self.with(|db| {
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(vec![b'g' + 1]);
            let mut found = Vec::new();
            for entry in db.iterator_opt(IteratorMode::From(b"g", Direction::Forward), options) {
                let (key, value) = entry.map_err(|error| failed("scan", &error))?;
                if let Some(no) = key.get(1..).and_then(|k| k.try_into().ok()).map(u32::from_be_bytes) {
                    found.push((no, decode(&value, "segment")?));
                }
            }
            Ok(found)
        })
    }

    /// `None` where the index was never finished.
    pub(crate) fn state(&self) -> Result<Option<IndexState>> {
        self.with(|db| match db.get_pinned(STATE_KEY).map_err(|error| failed("get", &error))? {
            Some(bytes) => decode(&bytes, "state").map(Some),
            None => Ok(None),
        })
    }

    /// Lets the database go. What was not flushed is lost.
    pub(crate) fn close(&self) {
        drop(self.db.write().take());
    }
}

fn missing_crcs(record: &ShardRecord) -> DriveError {
    DriveError::Format(format!("drive index: no checksums for shard {}", record.spec.shard))
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_types::{PartId, Scheme};

    fn shard(n: u8, extents: usize, chunks: usize) -> NewShard {
        let spec = ShardSpec {
            shard: ShardId { part: PartId([n; 16]), index: n },
            scheme: Scheme { k: 2, m: 1 },
            payload_bytes: 1000,
            shard_bytes: (extents * chunks * 65_536) as u64,
        };
        let extent = |i: usize| Extent {
            segment: 1,
            offset: 8192 + i as u64 * 10_000_000,
            header_bytes: 4096,
            data_bytes: (chunks * 65_536) as u64,
        };
        NewShard {
            record: ShardRecord {
                spec,
                committed_us: 5,
                write_id: 6,
                extents: (0..extents).map(extent).collect(),
                crcs: Vec::new(),
            },
            extent_crcs: (0..extents).map(|e| (0..chunks).map(|c| (e * 100 + c) as u32).collect()).collect(),
        }
    }

    #[test]
    fn shards_come_back_in_order_with_their_crcs_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index"), &[1; 32]).unwrap();
        let shards = [shard(3, 1, 2), shard(1, 3, 20), shard(2, 2, 4)];
        let mut changes = Changes::default();
        shards.iter().for_each(|s| changes.put_shard(s));
        changes.put_segment(7, SegmentRecord { generation: 1, size_bytes: 2, watermark: 3 });
        changes.put_state(IndexState { clean: true });
        index.apply(changes).unwrap();
        for s in &shards {
            let record = index.shard(s.record.spec.shard).unwrap().unwrap();
            assert_eq!(record.extents, s.record.extents);
            for (extent, crcs) in s.extent_crcs.iter().enumerate() {
                assert_eq!(&index.extent_crcs(&record, extent).unwrap(), crcs);
            }
        }
        let order: Vec<u8> = index.scan(None, 10).unwrap().iter().map(|r| r.spec.shard.index).collect();
        assert_eq!(order, [1, 2, 3]);
        let rest = index.scan(Some(shards[1].record.spec.shard), 1).unwrap();
        assert_eq!(rest[0].spec.shard.index, 2);
        assert_eq!(index.segments().unwrap().len(), 1);
        assert_eq!(index.state().unwrap(), Some(IndexState { clean: true }));

        let record = index.shard(shards[1].record.spec.shard).unwrap().unwrap();
        let mut changes = Changes::default();
        changes.delete_shard(&record);
        index.apply(changes).unwrap();
        assert_eq!(index.shard(record.spec.shard).unwrap(), None);
        assert!(index.extent_crcs(&record, 0).is_err());
    }

    #[test]
    fn only_what_was_flushed_survives_and_a_closed_index_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = Index::open(&path, &[1; 32]).unwrap();
        let put = |s: &NewShard| {
            let mut changes = Changes::default();
            changes.put_shard(s);
            index.apply(changes).unwrap();
        };
        put(&shard(1, 1, 1));
        index.flush().unwrap();
        put(&shard(2, 1, 1));
        index.close();
        assert!(index.scan(None, 10).is_err());
        let again = Index::open(&path, &[1; 32]).unwrap();
        assert_eq!(again.scan(None, 10).unwrap().len(), 1);
    }
}
