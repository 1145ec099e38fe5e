//! The node: drives, metadata, keys and store put together, opened, watched and closed.
//!
//! Guarantees: a blank folder is formatted on the node's very first start and never again without being asked
//! (it may be a mount that is missing); the keyring lies on every drive; a drive that is not there when the
//! node starts is offline, not forgotten.

mod drives;
mod keys;
mod open;
pub mod rebuild;
mod records;
pub mod residency;
pub mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use granary_drive::DriveStats;
use granary_drive::drive::LocalDrive;
use granary_drive::io::IoEngine;
use granary_meta::{MetaStats, MetaStore};
use granary_types::limits::SEGMENT_BYTES_DEFAULT;
use granary_types::{ClusterId, DriveId, DriveNo, ErrorKind};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::audit::{AuditCursor, AuditLog, AuditPage, Trail};
use crate::heal::HealMode;
use crate::inner::StoreOptions;
use crate::store::Store;
use crate::{heal, lifecycle, reaper};
use granary_crypto::{Keyring, Secret32};
pub use keys::RootRotation;
pub use records::SystemRecords;
use status::{HealStatus, NodeStatus, ScrubStatus};

/// How drive I/O is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoChoice {
    /// io_uring where it is permitted, else threads.
    #[default]
    Auto,
    /// io_uring or not at all.
    Uring,
    /// A pool of threads with pread and pwrite.
    Threads,
}

/// What a node is opened with.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// One folder per drive.
    pub drives: Vec<PathBuf>,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// Bytes kept back on each drive so that deletes, metadata and shutdown work when it is full.
    pub reserve_bytes: u64,
    /// Bytes that shards may take on each drive, if less than the file system has.
    pub limit_bytes: Option<u64>,
    /// How drive I/O is done.
    pub io: IoChoice,
    /// Bytes of idle buffers kept for reuse.
    pub buffer_pool_bytes: usize,
    /// Bytes of one log file.
    pub log_file_bytes: u64,
    /// Begin an empty index although the drives hold objects: for [`Node::rebuild_index`] only.
    pub accept_lost_metadata: bool,
    /// Reads the state of the system's clock, for the audit trail's seals.
    pub clock_state: fn() -> granary_audit::ClockState,
    /// The store's own settings.
    pub store: StoreOptions,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            drives: Vec::new(),
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            reserve_bytes: 1 << 30,
            limit_bytes: None,
            io: IoChoice::Auto,
            buffer_pool_bytes: 256 << 20,
            log_file_bytes: 64 << 20,
            accept_lost_metadata: false,
            clock_state: granary_audit::ClockState::default,
            store: StoreOptions::default(),
        }
    }
}

/// Why a node could not be opened, or an administrative act not be done.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The settings or the folders do not fit; says what would be right.
    #[error("{0}")]
    Config(String),
    /// A drive's error.
    #[error(transparent)]
    Drive(#[from] granary_drive::api::DriveError),
    /// The metadata's error.
    #[error(transparent)]
    Meta(#[from] granary_meta::MetaError),
    /// A key's error.
    #[error(transparent)]
    Crypto(#[from] granary_crypto::CryptoError),
    /// The store's error.
    #[error(transparent)]
    Store(#[from] crate::StoreError),
    /// What the operating system answered.
    #[error("{path}: {source}")]
    Io {
        /// With which file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl NodeError {
    /// The small kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) => ErrorKind::Invalid,
            Self::Drive(error) => error.kind(),
            Self::Meta(error) => error.kind(),
            Self::Crypto(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Io { .. } => ErrorKind::Internal,
        }
    }
}

/// A drive of this node that is open.
#[derive(Clone)]
struct OpenDrive {
    no: DriveNo,
    id: DriveId,
    path: PathBuf,
    drive: Arc<LocalDrive>,
}

/// A node, open.
pub struct Node {
    options: NodeOptions,
    cluster: ClusterId,
    keyring: parking_lot::RwLock<Arc<Keyring>>,
    engine: Arc<dyn IoEngine>,
    io: String,
    clock: Arc<dyn granary_types::Clock>,
    meta: Arc<MetaStore>,
    store: Store,
    open: Mutex<Vec<OpenDrive>>,
    /// One administrative act on drives at a time.
    acts: tokio::sync::Mutex<()>,
    recovery: Vec<String>,
    sweep_allowed: bool,
    stop: Arc<AtomicBool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    scrubs: Arc<Mutex<Vec<ScrubStatus>>>,
    trail: Arc<Trail>,
    trail_stop: tokio::sync::watch::Sender<bool>,
    trail_task: Mutex<Option<JoinHandle<()>>>,
}

impl Node {
    /// The store. Cheap to clone.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The cluster it is, or belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The region that it declares.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.store.inner.options.region
    }

    /// The system's own small records, for those above that keep some (users and policies do).
    #[must_use]
    pub fn system_records(&self) -> SystemRecords {
        SystemRecords { inner: Arc::clone(&self.store.inner) }
    }

    /// A key for one purpose, made of the cluster's secret: the same at every start, and on every node.
    #[must_use]
    pub fn derive_key(&self, label: &str) -> Secret32 {
        self.keyring.read().keys().cluster.derive(label, self.cluster.as_bytes())
    }

    /// Starts the reaper, the orphan sweep and repair.
    pub fn start_background(&self) {
        let inner = &self.store.inner;
        let trail = crate::audit::run(Arc::clone(inner), Arc::clone(&self.trail), self.trail_stop.subscribe());
        *self.trail_task.lock() = Some(tokio::spawn(trail));
        let mut tasks = self.tasks.lock();
        tasks.push(tokio::spawn(crate::audit::part(
            "reaper",
            reaper::run(Arc::clone(inner), Arc::clone(&self.stop), self.sweep_allowed),
        )));
        tasks.push(tokio::spawn(crate::audit::part("heal", heal::run(Arc::clone(inner), Arc::clone(&self.stop)))));
        tasks.push(tokio::spawn(crate::audit::part(
            "keeper",
            crate::ai::keeper::run(self.store.clone(), Arc::clone(&self.stop)),
        )));
        tasks.push(tokio::spawn(crate::audit::part(
            "lifecycle",
            lifecycle::worker::run(Arc::clone(inner), Arc::clone(&self.stop)),
        )));
        inner.resume_heal();
    }

    /// Ends background work, writes a checkpoint, flushes and closes the drives. The listeners must have
    /// drained before.
    ///
    /// # Errors
    /// The first error; everything is closed all the same.
    pub async fn close(&self) -> Result<(), NodeError> {
        self.stop.store(true, Ordering::Release);
        let tasks: Vec<_> = self.tasks.lock().drain(..).collect();
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        self.trail_stop.send_replace(true);
        let trail_task = self.trail_task.lock().take();
        if let Some(task) = trail_task {
            // It ends by itself, once what it was told is in the log.
            let _ = task.await;
        }
        if !self.options.accept_lost_metadata
            && let Err(error) = crate::audit::end(&self.store.inner, &self.trail).await
        {
            tracing::warn!(%error, "the audit trail's end could not be marked; the next start will show a gap");
        }
        let meta = Arc::clone(&self.meta);
        let closed = tokio::task::spawn_blocking(move || meta.close()).await;
        let mut result = closed.map_err(joined).and_then(|closed| closed.map_err(NodeError::from));
        let drives = self.open.lock().clone();
        for open in drives {
            use granary_drive::api::ShardStore as _;
            if let Err(error) = open.drive.close().await {
                tracing::warn!(drive = %open.no, %error, "closing the drive");
                result = result.and(Err(error.into()));
            }
        }
        result
    }

    /// Whether the node can take requests: metadata serving, and drives enough to write.
    ///
    /// # Errors
    /// Why it cannot, in words.
    pub fn ready(&self) -> Result<(), String> {
        use granary_meta::Proposer as _;
        self.meta.index().load().map_err(|error| error.to_string())?;
        let scheme = self.options.store.scheme;
        let writable =
            self.store.inner.stripes.drives().all().iter().filter(|entry| entry.store().health().writable()).count();
        if writable < scheme.write_quorum() {
            return Err(format!("{writable} drives can be written, {} are needed for {scheme}", scheme.write_quorum()));
        }
        Ok(())
    }

    /// The node's state.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let mut status = status::empty(self.cluster, self.options.store.scheme, &self.options.store.region, &self.io);
        status.drives = self.drive_statuses();
        let scheme = self.options.store.scheme;
        let usable = status.drives.iter().filter(|drive| drive.health.readable() && !drive.retired).count();
        // More drives than k + m spread the parts; they do not make a part outlive more than m.
        let gone = status.drives.iter().filter(|drive| !drive.health.readable() && !drive.retired).count();
        status.drives_spare = (usable as i64 - i64::from(scheme.k)).min(i64::from(scheme.m) - gone as i64);
        status.heal = self.heal_status();
        status.recovery.clone_from(&self.recovery);
        // The node's own bucket is nobody's.
        status.buckets = self.store.inner.index().map_or(0, |index| index.buckets_count().saturating_sub(1));
        status
    }

    /// Begins a repair of the whole node in the background; `false` if one is running. `deep` reads and
    /// checks every byte, otherwise drives are asked what they have.
    pub fn start_heal(&self, deep: bool) -> bool {
        self.store.inner.start_heal(if deep { HealMode::Deep } else { HealMode::Probe }, false)
    }

    /// How far repair has come.
    #[must_use]
    pub fn heal_status(&self) -> HealStatus {
        self.store.inner.heal.status()
    }

    /// Counters of the open drives.
    #[must_use]
    pub fn drive_stats(&self) -> Vec<(u16, Arc<DriveStats>)> {
        self.open.lock().iter().map(|open| (open.no.0, open.drive.stats())).collect()
    }

    /// Where requests that change nothing tell their audit events.
    #[must_use]
    pub fn audit_log(&self) -> Arc<AuditLog> {
        Arc::clone(&self.trail.log)
    }

    /// The key that seals of the audit trail are verified with.
    #[must_use]
    pub fn audit_key(&self) -> granary_audit::PublicKey {
        self.trail.sealer.public_key()
    }

    /// Signs a statement with the key of the audit trail's seals; base64.
    #[must_use]
    pub fn sign(&self, label: &str, text: &str) -> String {
        self.trail.sealer.sign(label, text)
    }

    /// Where the audit chain is.
    ///
    /// # Errors
    /// The index's.
    pub fn audit_state(&self) -> crate::api::Result<granary_meta::AuditState> {
        Ok(self.store.inner.index()?.audit_state())
    }

    /// Days that the audit trail is kept.
    ///
    /// # Errors
    /// The index's.
    pub fn audit_keep_days(&self) -> crate::api::Result<u64> {
        self.store.inner.keep_days()
    }

    /// Seals all audit events that wait, now. Returns how many segments were made.
    ///
    /// # Errors
    /// What kept it from it; nothing is lost by that.
    pub async fn audit_seal(&self) -> crate::api::Result<u64> {
        crate::audit::seal_all(&self.store.inner, &self.trail).await
    }

    /// Removes the audit segments that have been kept for as long as was promised, as is done at the start and every hour. Returns
    /// how many objects went.
    ///
    /// # Errors
    /// What kept it from it.
    pub async fn audit_expire(&self) -> crate::api::Result<u64> {
        crate::audit::part("audit", crate::audit::expire(&self.store.inner)).await
    }

    /// The next audit records that `filter` means.
    ///
    /// # Errors
    /// The index's, or that a segment cannot be read.
    pub async fn audit_page(
        &self,
        filter: &granary_audit::Filter,
        cursor: AuditCursor,
        limit: usize,
    ) -> crate::api::Result<AuditPage> {
        self.store.inner.audit_page(filter, cursor, limit).await
    }

    /// Anchors: the signed statements of segments whose seals come after `after`, and where to go on.
    ///
    /// # Errors
    /// The index's, or that a seal cannot be read.
    pub async fn audit_anchors(
        &self,
        after: &str,
        limit: usize,
    ) -> crate::api::Result<(Vec<granary_audit::Seal>, String)> {
        self.store.inner.audit_anchors(after, limit).await
    }

    /// A small named record of the system, for those above that keep their own.
    ///
    /// # Errors
    /// The index's.
    pub fn note(&self, name: &str) -> crate::api::Result<Option<bytes::Bytes>> {
        self.store.inner.system(name)
    }

    /// Sets such a record.
    ///
    /// # Errors
    /// When the log does not take it.
    pub async fn set_note(&self, name: &str, value: Option<bytes::Bytes>) -> crate::api::Result<()> {
        self.store.inner.set_system(name, value).await
    }

    /// Counters of the metadata.
    #[must_use]
    pub fn meta_stats(&self) -> Arc<MetaStats> {
        self.meta.stats()
    }
}

/// A task that ended by a panic.
fn joined(error: tokio::task::JoinError) -> NodeError {
    NodeError::Store(crate::StoreError::Internal(format!("a task ended early: {error}")))
}
