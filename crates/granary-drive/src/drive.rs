//! A local drive: opening, closing, and the [`ShardStore`] face.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use granary_types::limits::{SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MIN};
use granary_types::{Clock, ClusterId, DriveId, ShardId, SystemClock};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::api::{
    DriveError, DriveHealth, DriveSpace, Result, ShardInfo, ShardSpec, ShardStore, ShardWriter, VerifyReport,
};
use crate::buf::{AlignedBuf, BufPool};
use crate::chores::{self, Chores};
use crate::core::{Condition, Core, Epochs, RecordCache};
use crate::identity::Identity;
use crate::index::Index;
use crate::io::IoEngine;
use crate::limits::SEGMENT_HEAD_BYTES;
use crate::recover::{RecoveryReport, recover};
use crate::space::Space;
use crate::stats::DriveStats;
use crate::sync::{self, CommitQueue};
use crate::{raw, reader, writer};

/// Bytes kept back on a drive where its owner says nothing.
pub const RESERVE_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;

/// How to open a drive.
pub struct OpenOptions {
    /// Its folder.
    pub path: PathBuf,
    /// The cluster it must belong to.
    pub cluster: ClusterId,
    /// Make a new drive of a folder that is missing or empty, instead of failing.
    pub format: bool,
    /// The id of a new drive; random where `None`.
    pub drive_id: Option<DriveId>,
    /// Size of new segments, 8 MiB to 64 GiB, rounded down to a multiple of 8 KiB.
    pub segment_bytes: u64,
    /// Kept back for deletes, metadata and shutdown.
    pub reserve_bytes: u64,
    /// Use no more than this (reserve included), whatever the file system has.
    pub limit_bytes: Option<u64>,
    /// Seals the drive's index.
    pub index_key: Zeroizing<[u8; 32]>,
    /// Authenticates extent headers; must be the same at every opening of a drive.
    pub header_key: Option<Zeroizing<[u8; 32]>>,
    /// What carries out reads and writes.
    pub engine: Arc<dyn IoEngine>,
    /// Where buffers come from.
    pub pool: Arc<BufPool>,
    /// Dates commits.
    pub clock: Arc<dyn Clock>,
}

impl OpenOptions {
    /// Options with defaults: an existing drive, 1 GiB segments, 256 MiB reserve, no limit, no header key, the
    /// machine's clock.
    #[must_use]
    pub fn new(
        path: impl Into<PathBuf>,
        cluster: ClusterId,
        index_key: [u8; 32],
        engine: Arc<dyn IoEngine>,
        pool: Arc<BufPool>,
    ) -> Self {
        Self {
            path: path.into(),
            cluster,
            format: false,
            drive_id: None,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            reserve_bytes: RESERVE_BYTES_DEFAULT,
            limit_bytes: None,
            index_key: Zeroizing::new(index_key),
            header_key: None,
            engine,
            pool,
            clock: Arc::new(SystemClock),
        }
    }
}

/// A drive in a folder of this machine. Clones share it; when the last one is dropped without [`ShardStore::close`],
/// the drive stops as in a crash (nothing acknowledged is lost, the next opening searches the tails).
#[derive(Clone)]
pub struct LocalDrive {
    handle: Arc<Handle>,
}

struct Handle {
    core: Arc<Core>,
    report: RecoveryReport,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl LocalDrive {
    /// Opens (or with `format`, makes) a drive. Blocks: up to seconds after a crash, and as long as it takes to read
    /// the whole drive where its index is lost. Call it on a blocking thread.
    ///
    /// # Errors
    /// `Format` for a foreign cluster, a newer format, a wrong key, a folder that is not a drive; `Io` where the
    /// folder is in use by another process or the system fails.
    pub fn open(options: OpenOptions) -> Result<Self> {
        let segment_bytes = options.segment_bytes / SEGMENT_HEAD_BYTES * SEGMENT_HEAD_BYTES;
        if !(SEGMENT_BYTES_MIN..=64 << 30).contains(&segment_bytes) {
            return Err(DriveError::Invalid(format!("segments of {} bytes: 8 MiB to 64 GiB", options.segment_bytes)));
        }
        let (identity, lock) = claim(&options)?;
        let (index, rebuilt) = open_index(&options)?;
        let key = |key: &Zeroizing<[u8; 32]>| hmac::Key::new(hmac::HMAC_SHA256, &key[..]);
        let core = Arc::new(Core {
            id: identity.drive,
            root: options.path,
            segment_bytes,
            reserve_bytes: options.reserve_bytes,
            limit_bytes: options.limit_bytes,
            engine: options.engine,
            pool: options.pool,
            clock: options.clock,
            header_key: options.header_key.as_ref().map(key),
            index,
            space: Space::default(),
            stats: Arc::new(DriveStats::default()),
            condition: Condition::default(),
            writing: Mutex::default(),
            cache: RecordCache::new(),
            epochs: Epochs::default(),
            queue: CommitQueue::default(),
            chores: Chores::default(),
            writes_in_flight: AtomicUsize::new(0),
            fs_total_bytes: AtomicU64::new(0),
            fs_available_bytes: AtomicU64::new(0),
            lock: Mutex::new(Some(lock)),
            closing: AtomicBool::new(false),
        });
        core.refresh_fs().map_err(|error| core.fault("statvfs", error, false))?;
        let report = recover(&core, rebuilt)?;
        let _ = core.refresh_fs();
        tracing::info!(drive = %core.id, path = %core.root.display(), engine = core.engine.describe(), "drive opened: {report}");
        let thread = |name: String, run: fn(&Arc<Core>)| {
            let core = Arc::clone(&core);
            std::thread::Builder::new().name(name).spawn(move || run(&core))
        };
        let short = &core.id.to_string()[..6];
        let started = thread(format!("sync-{short}"), |core| sync::run(core))
            .and_then(|sync| Ok(vec![sync, thread(format!("chores-{short}"), chores::run)?]));
        let threads = started.map_err(|error| {
            core.queue.close();
            core.fault("starting the drive's threads", error, false)
        })?;
        Ok(Self { handle: Arc::new(Handle { core, report, threads: Mutex::new(threads) }) })
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.handle.report
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> Arc<DriveStats> {
        Arc::clone(&self.core().stats)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.core().root
    }

    /// Makes frees durable and gives their space back (as far as no reader is still at it), now rather than soon.
    ///
    /// # Errors
    /// Where the drive takes no writes, or the flush fails.
    pub async fn reclaim(&self) -> Result<()> {
        self.core().chores.flush(self.core()).await
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }
}

impl std::fmt::Debug for LocalDrive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalDrive({} in {})", self.core().id, self.core().root.display())
    }
}

/// Makes sure that the folder is this cluster's drive and nobody else's right now.
fn claim(options: &OpenOptions) -> Result<(Identity, std::fs::File)> {
    let path = &options.path;
    let io = |what: &str, error: std::io::Error| DriveError::Io {
        what: format!("{what} {}", path.display()),
        source: Arc::new(error),
    };
    if options.format {
        std::fs::create_dir_all(path).map_err(|e| io("making", e))?;
    }
    let empty = is_empty(path).map_err(|e| io("looking into", e))?;
    if Identity::load(path)?.is_none() && (!options.format || !empty) {
        return Err(DriveError::Format(format!(
            "{} is not a drive: it has no {}{}",
            path.display(),
            crate::identity::FILE_NAME,
            if empty { "" } else { ", and is not empty" }
        )));
    }
    let lock = raw::lock_exclusive(&path.join("LOCK")).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => io(
            "locking",
            std::io::Error::new(error.kind(), "in use: another granary process (or this one) has this drive open"),
        ),
        _ => io("locking", error),
    })?;
    // Looked at again under the lock: somebody may have been formatting it.
    let identity = match Identity::load(path)? {
        Some(identity) => identity,
        None => {
            let drive = options.drive_id.unwrap_or_else(DriveId::random);
            let identity = Identity::new(options.cluster, drive, &options.index_key);
            let format = || {
                std::fs::create_dir_all(path.join("segments"))?;
                identity.store(path)?;
                // The folder itself may be new in its parent.
                path.canonicalize()?.parent().map_or(Ok(()), raw::sync_dir)
            };
            format().map_err(|e| io("formatting", e))?;
            identity
        }
    };
    identity.check(path, options.cluster, &options.index_key)?;
    Ok((identity, lock))
}

/// Whether a folder holds nothing but what a file system or a cut-short format leaves there.
fn is_empty(path: &Path) -> std::io::Result<bool> {
    let harmless = ["lost+found", "LOCK", "segments", "drive.json.new", "keyring.json", "keyring.json.new"];
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if !harmless.iter().any(|h| name == *h) {
            return Ok(false);
        }
        if name == "segments" && std::fs::read_dir(entry.path())?.next().is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Opens the index, or an empty one in its place (then with the reason why it must be rebuilt).
fn open_index(options: &OpenOptions) -> Result<(Index, Option<String>)> {
    let path = options.path.join("index");
    let fresh = !path.join("CURRENT").exists();
    let reason = match Index::open(&path, &options.index_key).and_then(|index| index.state().map(|_| index)) {
        Ok(index) if fresh => return Ok((index, Some("there was none".to_owned()))),
        Ok(index) => return Ok((index, None)),
        Err(error) => error.to_string(),
    };
    tracing::error!(path = %path.display(), reason, "the drive's index is unreadable: it will be rebuilt from the segments");
    let lost = options.path.join("index.lost");
    let moved = match std::fs::remove_dir_all(&lost) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::rename(&path, &lost),
    };
    moved.and_then(|()| raw::sync_dir(&options.path)).map_err(|error| DriveError::Io {
        what: format!("moving the unreadable index {} aside", path.display()),
        source: Arc::new(error),
    })?;
    Ok((Index::open(&path, &options.index_key)?, Some(reason)))
}

impl Drop for Handle {
    fn drop(&mut self) {
        let core = &self.core;
        core.closing.store(true, Ordering::Release);
        core.chores.stop();
        core.queue.close();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
        // What is with the kernel must end before the folder's lock is let go.
        while core.writes_in_flight.load(Ordering::Acquire) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        core.take_offline_quietly();
        core.index.close();
        drop(core.lock.lock().take());
    }
}

impl ShardStore for LocalDrive {
    fn id(&self) -> DriveId {
        self.core().id
    }

    fn health(&self) -> DriveHealth {
        self.core().health()
    }

    fn space(&self) -> DriveSpace {
        self.core().drive_space()
    }

    fn create(&self, spec: ShardSpec) -> BoxFuture<'_, Result<Box<dyn ShardWriter>>> {
        writer::create(self.core(), spec).boxed()
    }

    fn read(&self, shard: ShardId, offset: u64, len_bytes: usize) -> BoxFuture<'_, Result<AlignedBuf>> {
        reader::read(self.core(), shard, offset, len_bytes).boxed()
    }

    fn read_verified(&self, shard: ShardId, offset: u64, len_bytes: usize) -> BoxFuture<'_, Result<AlignedBuf>> {
        reader::read_verified(self.core(), shard, offset, len_bytes).boxed()
    }

    fn header(&self, shard: ShardId) -> BoxFuture<'_, Result<(ShardInfo, Bytes)>> {
        reader::header(self.core(), shard).boxed()
    }

    fn free(&self, shards: Vec<ShardId>) -> BoxFuture<'_, Result<()>> {
        async move { crate::reclaim::free(self.core(), &shards) }.boxed()
    }

    fn scan(&self, after: Option<ShardId>, limit: usize) -> BoxFuture<'_, Result<Vec<ShardInfo>>> {
        async move {
            let core = self.core();
            core.check_readable()?;
            let records = core.index.scan(after, limit).map_err(|error| core.index_fault(error))?;
            Ok(records.into_iter().map(|r| r.info()).collect())
        }
        .boxed()
    }

    fn verify(&self, shard: ShardId) -> BoxFuture<'_, Result<VerifyReport>> {
        reader::verify(self.core(), shard).boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            let core = self.core();
            if core.closing.swap(true, Ordering::AcqRel) {
                return Ok(());
            }
            core.chores.close(core).await
        }
        .boxed()
    }
}
