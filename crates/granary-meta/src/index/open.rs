//! Opening RocksDB with bounded memory, no WAL, and one column family per kind of record.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, Env, IteratorMode, Options, WriteOptions,
};

use super::{DriveEntry, Family, Index, Tables, Usage, layout};
use crate::error::{MetaError, Result};
use crate::records::BucketRecord;

/// Format of the index this program writes.
const FORMAT: u32 = 3;

/// How the index is opened. All sizes in bytes.
#[derive(Clone)]
pub struct IndexOptions {
    /// Block cache, shared by all column families (index and filter blocks live in it too).
    pub cache_bytes: usize,
    /// Memtables of all column families together.
    pub memtable_bytes: usize,
    /// Inline payloads of at least this size go to blob files.
    pub blob_bytes_min: u64,
    /// Files RocksDB keeps open.
    pub files_open_max: i32,
    /// The environment (sealing); RocksDB's own when `None`.
    pub env: Option<Env>,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self { cache_bytes: 512 << 20, memtable_bytes: 96 << 20, blob_bytes_min: 1024, files_open_max: 512, env: None }
    }
}

impl std::fmt::Debug for IndexOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexOptions")
            .field("cache_bytes", &self.cache_bytes)
            .field("memtable_bytes", &self.memtable_bytes)
            .field("sealed", &self.env.is_some())
            .finish_non_exhaustive()
    }
}

fn family_options(family: Family, options: &IndexOptions, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    table.set_block_size(8 << 10);
    table.set_format_version(5);
    let mut cf = Options::default();
    cf.set_block_based_table_factory(&table);
    cf.set_compression_type(DBCompressionType::Lz4);
    cf.set_level_compaction_dynamic_level_bytes(true);
    cf.set_write_buffer_size(options.memtable_bytes / 2);
    cf.set_max_write_buffer_number(3);
    cf.set_target_file_size_base(32 << 20);
    if family == Family::Inline {
        // Sealed chunks do not compress; beside the keys they would drag every listing's cache out.
        cf.set_compression_type(DBCompressionType::None);
        cf.set_enable_blob_files(true);
        cf.set_min_blob_size(options.blob_bytes_min);
        cf.set_blob_file_size(128 << 20);
        cf.set_enable_blob_gc(true);
        cf.set_blob_gc_age_cutoff(0.25);
        cf.set_blob_cache(cache);
    }
    cf
}

impl Index {
    /// Opens the index at `path`, creating an empty one that belongs to `log_id` if nothing is there. With no
    /// `log_id`, whichever is there is opened, and none is created.
    ///
    /// # Errors
    /// RocksDB's; [`MetaError::Layout`] if it belongs to another log or has a newer format.
    pub fn open(path: &Path, log_id: Option<[u8; 16]>, options: &IndexOptions) -> Result<Self> {
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let mut db = Options::default();
        db.create_if_missing(log_id.is_some());
        db.create_missing_column_families(log_id.is_some());
        db.set_atomic_flush(true);
        db.set_db_write_buffer_size(options.memtable_bytes);
        db.set_max_open_files(options.files_open_max);
        db.set_max_background_jobs(2);
        db.set_paranoid_checks(true);
        db.set_keep_log_file_num(2);
        db.set_max_log_file_size(4 << 20);
        db.set_bytes_per_sync(1 << 20);
        if let Some(env) = &options.env {
            db.set_env(env);
        }
        let families = Family::ALL
            .iter()
            .map(|f| ColumnFamilyDescriptor::new(f.name(), family_options(*f, options, &cache)))
            .chain(std::iter::once(ColumnFamilyDescriptor::new(
                "default",
                family_options(Family::Sys, options, &cache),
            )));
        let db = DB::open_cf_descriptors(&db, path, families)?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let mut index = Self {
            db,
            tables: ArcSwap::default(),
            usage: Mutex::new(HashMap::new()),
            audit: Mutex::default(),
            applied: AtomicU64::new(0),
            log_id: log_id.unwrap_or_default(),
            damaged: AtomicBool::new(false),
            write_options,
        };
        index.load(log_id)?;
        Ok(index)
    }

    fn load(&mut self, log_id: Option<[u8; 16]>) -> Result<()> {
        let sys = Family::Sys;
        match (self.get_raw(sys, layout::SYS_FORMAT)?, log_id) {
            (Some(format), _) if format == FORMAT.to_le_bytes() => {}
            (Some(format), _) => {
                return Err(MetaError::Layout(format!("the index has format {format:?}, this program knows {FORMAT}")));
            }
            (None, Some(log_id)) => {
                let mut writes = rocksdb::WriteBatch::default();
                writes.put_cf(self.family(sys), layout::SYS_FORMAT, FORMAT.to_le_bytes());
                writes.put_cf(self.family(sys), layout::SYS_LOG_ID, log_id);
                self.db.write_opt(writes, &self.write_options)?;
            }
            (None, None) => return Err(MetaError::Layout("the index is empty".to_owned())),
        }
        let found = self.get_raw(sys, layout::SYS_LOG_ID)?.and_then(|id| <[u8; 16]>::try_from(&id[..]).ok());
        match (found, log_id) {
            (Some(found), wanted) if wanted.is_none_or(|id| id == found) => self.log_id = found,
            _ => return Err(MetaError::Layout("the index belongs to another log".to_owned())),
        }
        if let Some(bytes) = self.get_raw(Family::Sys, layout::SYS_APPLIED)? {
            let bytes =
                <[u8; 8]>::try_from(&bytes[..]).map_err(|_| self.undecodable(Family::Sys, "applied position"))?;
            *self.applied.get_mut() = u64::from_le_bytes(bytes);
        }
        let mut tables = Tables::default();
        let mut usage = HashMap::new();
        for entry in self.db.iterator_cf(self.family(Family::Buckets), IteratorMode::Start) {
            let (_, value) = entry.map_err(|e| self.noticed(e))?;
            let record = std::sync::Arc::new(self.decode::<BucketRecord>(Family::Buckets, &value)?);
            let counters = self.get::<Usage>(Family::Sys, &layout::usage_key(record.id))?;
            usage.insert(record.id, counters.unwrap_or_default());
            tables.by_name.insert(record.name.clone(), record.clone());
            tables.by_id.insert(record.id, record);
        }
        for entry in self.db.iterator_cf(self.family(Family::Drives), IteratorMode::Start) {
            let (_, value) = entry.map_err(|e| self.noticed(e))?;
            let drive = self.decode::<DriveEntry>(Family::Drives, &value)?;
            tables.drive_numbers.insert(drive.drive, drive.number);
            tables.drives.insert(drive.number, drive);
        }
        self.tables.store(std::sync::Arc::new(tables));
        *self.usage.get_mut() = usage;
        *self.audit.get_mut() = self.load_audit()?;
        Ok(())
    }

    /// Writes all memtables out, all families at one point.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn flush(&self) -> Result<()> {
        let families: Vec<_> = Family::ALL.iter().map(|f| self.family(*f)).collect();
        let mut options = rocksdb::FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families, &options).map_err(|e| self.noticed(e))
    }
}
