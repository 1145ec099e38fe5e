//! Opening a node: survey of the folders, keyring, drives, metadata, drive table.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use granary_crypto::{BlobKey, KeyProvider, Keyring, Shelf};
use granary_drive::buf::BufPool;
use granary_drive::drive::LocalDrive;
use granary_drive::identity::Identity;
use granary_drive::io::{self, EngineKind};
use granary_drive::raw;
use granary_meta::command::{Command, Outcome};
use granary_meta::{IndexSource, MetaKey, MetaStore, MirrorFolder, OpenOptions, Proposer as _};
use granary_stripe::{DriveSet, StripeOptions, StripeStore};
use granary_types::{Clock, ClusterId, DriveId, DriveNo};
use parking_lot::Mutex;

use super::{IoChoice, Node, NodeError, NodeOptions, OpenDrive, joined};
use crate::audit::{Trail, drive_event};
use crate::heal::HealState;
use crate::residency::{NodeRegion, admit};
use crate::store::Store;

/// File name of the keyring on each drive.
const KEYRING_FILE: &str = "keyring.json";
/// Sub-folder of a drive for log, checkpoints and index.
const META_FOLDER: &str = "meta";
/// System record: the first start came to its end.
const FORMATTED_RECORD: &str = "node/formatted";

/// What a drive folder is.
enum Folder {
    /// Has none: missing, empty, or not a drive.
    Blank,
    /// Has a `drive.json`.
    Formatted,
    /// Has one that cannot be read: the drive is offline, and says why.
    Damaged(String),
}

impl Node {
    /// Opens a node, or formats one on its first start.
    ///
    /// # Errors
    /// [`NodeError::Config`] when the folders do not fit the settings, or the error of a drive, the
    /// metadata or the key provider.
    pub async fn open(
        options: NodeOptions,
        provider: Arc<dyn KeyProvider>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, NodeError> {
        check(&options)?;
        let (engine, io) = start_engine(options.io)?;
        let mut folders = Vec::new();
        for path in &options.drives {
            folders.push((path.clone(), survey(path)));
        }
        let mut recovery = Vec::new();
        let keyring = keyring(&folders, &*provider, &*clock)?;
        let cluster = keyring.cluster_id();
        let any_formatted = folders.iter().any(|(_, folder)| !matches!(folder, Folder::Blank));
        // On the first start every folder is formatted; one that was cut short is gone on with (below).
        let pool = BufPool::new(options.buffer_pool_bytes);
        let maker =
            DriveMaker { options: &options, keyring: &keyring, cluster, engine: &engine, pool: &pool, clock: &clock };
        let mut drives: Vec<(PathBuf, Arc<LocalDrive>)> = Vec::new();
        let mut blank = Vec::new();
        for (path, folder) in &folders {
            match folder {
                Folder::Damaged(why) => {
                    tracing::error!(path = %path.display(), why, "this drive is offline");
                    recovery.push(format!("drive {} is offline: {why}", path.display()));
                }
                Folder::Blank if any_formatted => blank.push(path.clone()),
                Folder::Blank => drives.push((path.clone(), maker.open(path, true, &mut recovery).await?)),
                Folder::Formatted => match maker.open(path, false, &mut recovery).await {
                    Ok(drive) => drives.push((path.clone(), drive)),
                    Err(error) if in_use(&error) => return Err(error),
                    Err(error) => {
                        tracing::error!(path = %path.display(), %error, "this drive is offline");
                        recovery.push(format!("drive {} is offline: {error}", path.display()));
                    }
                },
            }
        }
        let meta_folders = drives
            .iter()
            .map(|(path, drive)| {
                use granary_drive::api::ShardStore as _;
                MirrorFolder { drive_id: drive.id(), path: path.join(META_FOLDER) }
            })
            .collect();
        let (meta, report) = open_meta(&options, &keyring, meta_folders, &clock).await?;
        recovery.extend(report.problems.iter().cloned());
        if report.index == IndexSource::Fresh && !options.accept_lost_metadata {
            use granary_drive::api::ShardStore as _;
            for (path, drive) in &drives {
                if !drive.scan(None, 1).await?.is_empty() {
                    return Err(NodeError::Config(format!(
                        "drive {} holds objects, but no drive holds the metadata that names them: bring the drives with \
                         the `meta` folders back, or rebuild what can be rebuilt from the drives alone with `granary rebuild`",
                        path.display()
                    )));
                }
            }
        }
        // Where recovery had to work around something the sweep waits for a start without: what seems to be
        // nobody's may be what the index has forgotten.
        let sweep_allowed = report.problems.is_empty() && !options.accept_lost_metadata;
        let formatted = meta.index().load()?.system(FORMATTED_RECORD)?.is_some();
        if !formatted {
            for path in blank.drain(..) {
                let drive = maker.open(&path, true, &mut recovery).await?;
                drives.push((path, drive));
            }
        }
        for path in &blank {
            let why = format!(
                "drive folder {} is blank: it stays offline. If its mount is missing, mount it and restart; if the drive was \
                 replaced, run `granary drive replace`",
                path.display()
            );
            tracing::error!("{why}");
            recovery.push(why);
        }
        let set = Arc::new(DriveSet::new());
        let mut open = Vec::new();
        for (path, drive) in drives {
            let drive = register(&meta, &set, path, drive, &keyring).await?;
            open.push(drive);
        }
        if !formatted {
            let command =
                Command::SetSystem { name: FORMATTED_RECORD.to_owned(), value: Some(Bytes::from_static(b"1")) };
            meta.propose(command).await?;
        }
        // Drives that were added while the node ran, and that the settings do not name (yet).
        let known = meta.index().load()?.drives();
        for entry in known.iter().filter(|entry| !entry.retired) {
            if open.iter().any(|open: &OpenDrive| open.id == entry.drive) {
                continue;
            }
            let Some(path) = meta.index().load()?.system(&path_record(entry.drive))? else { continue };
            let path = PathBuf::from(String::from_utf8_lossy(&path).into_owned());
            if !matches!(Identity::load(&path), Ok(Some(identity)) if identity.drive == entry.drive) {
                continue;
            }
            match maker.open(&path, false, &mut recovery).await {
                Ok(drive) => open.push(register(&meta, &set, path, drive, &keyring).await?),
                Err(error) => recovery.push(format!("drive {} is offline: {error}", path.display())),
            }
        }
        finish_replacements(&meta, &open).await?;
        let heal = Arc::new(HealState::default());
        let reports = Arc::clone(&heal);
        let stripe_options =
            StripeOptions { on_damage: Arc::new(move |report| reports.report(&report)), ..StripeOptions::default() };
        let stripes = StripeStore::new(Arc::clone(&set), pool, stripe_options);
        let header_key = header_key(&keyring);
        let copies: Vec<Vec<u8>> =
            open.iter().filter_map(|open| std::fs::read(open.path.join(crate::keys::SHELF_FILE)).ok()).collect();
        let shelf = Shelf::newest(copies.iter().map(Vec::as_slice), cluster)?;
        let store = Store::with_heal(
            Arc::clone(&meta) as Arc<dyn granary_meta::Proposer>,
            stripes,
            provider,
            Arc::new(Mutex::new(shelf)),
            &header_key,
            Arc::clone(&clock),
            options.store.clone(),
            heal,
        );
        *store.inner.folders.write() = open.iter().map(|open| open.path.clone()).collect();
        if !options.accept_lost_metadata {
            store.inner.save_bucket_table();
        }
        let trail = Arc::new(Trail {
            sealer: granary_audit::Sealer::from_seed(audit_seed(&keyring).expose())
                .map_err(|error| NodeError::Config(format!("the audit trail's key: {error}")))?,
            cluster: cluster.to_string(),
            log: Arc::default(),
            clock: options.clock_state,
            turn: tokio::sync::Mutex::default(),
        });
        if !options.accept_lost_metadata {
            // The root account, as `granary-access` derives it from the cluster.
            let owner = format!("{cluster}{cluster}");
            crate::audit::begin(&store.inner, env!("CARGO_PKG_VERSION"), &owner).await?;
        }
        let node = Self {
            options,
            cluster,
            keyring: parking_lot::RwLock::new(Arc::new(keyring)),
            engine,
            io,
            clock,
            meta,
            store,
            open: Mutex::new(open),
            acts: tokio::sync::Mutex::default(),
            recovery,
            sweep_allowed,
            stop: Arc::new(AtomicBool::new(false)),
            tasks: Mutex::default(),
            scrubs: Arc::default(),
            trail,
            trail_stop: tokio::sync::watch::Sender::new(false),
            trail_task: Mutex::default(),
        };
        Ok(node)
    }
}

/// The key that seals the metadata copies in shard headers.
fn header_key(keyring: &Keyring) -> granary_crypto::Secret32 {
    keyring.keys().drive_mac.derive("granary shard metadata", b"")
}

/// The key that the audit trail is sealed with: made with the keyring, and as safe as that is.
fn audit_seed(keyring: &Keyring) -> granary_crypto::Secret32 {
    keyring.keys().drive_mac.derive("granary audit seal", b"")
}

fn check(options: &NodeOptions) -> Result<(), NodeError> {
    let scheme = options.store.scheme;
    if options.drives.len() < scheme.width() {
        return Err(NodeError::Config(format!(
            "erasure scheme {scheme} needs {} drives, {} are configured: add drives, or choose K+M with K+M of at most {}",
            scheme.width(),
            options.drives.len(),
            options.drives.len()
        )));
    }
    let mut sorted: Vec<_> = options.drives.iter().collect();
    sorted.sort();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(NodeError::Config(format!("drive folder {} is configured twice", twice[0].display())));
    }
    Ok(())
}

fn start_engine(choice: IoChoice) -> Result<(Arc<dyn io::IoEngine>, String), NodeError> {
    let detected = io::detect();
    let kind = match choice {
        IoChoice::Threads => EngineKind::Pool,
        IoChoice::Uring if detected.kind != EngineKind::Ring => {
            return Err(NodeError::Config(format!("io_uring is asked for and cannot be used here: {detected}")));
        }
        IoChoice::Auto | IoChoice::Uring => detected.kind,
    };
    let line = match choice {
        IoChoice::Threads => "drive I/O uses a thread pool with pread/pwrite, as configured".to_owned(),
        IoChoice::Auto | IoChoice::Uring => detected.to_string(),
    };
    Ok((io::start(kind), line))
}

fn survey(path: &Path) -> Folder {
    match Identity::load(path) {
        Ok(Some(_)) => Folder::Formatted,
        // Whether what is there is empty enough to be formatted is for the drive to say.
        Ok(None) => Folder::Blank,
        Err(error) => Folder::Damaged(error.to_string()),
    }
}

/// Whether another process has the drive open: a mistake to be told, not a drive to do without.
fn in_use(error: &NodeError) -> bool {
    let NodeError::Drive(granary_drive::api::DriveError::Io { source, .. }) = error else { return false };
    source.kind() == std::io::ErrorKind::WouldBlock
}

/// The keyring: the newest valid copy on any drive, or a new one where no drive is formatted.
fn keyring(folders: &[(PathBuf, Folder)], provider: &dyn KeyProvider, clock: &dyn Clock) -> Result<Keyring, NodeError> {
    let copies: Vec<Vec<u8>> =
        folders.iter().filter_map(|(path, _)| std::fs::read(path.join(KEYRING_FILE)).ok()).collect();
    let formatted = folders.iter().any(|(_, folder)| matches!(folder, Folder::Formatted));
    if copies.is_empty() {
        if formatted {
            return Err(NodeError::Config(
                "no drive has a keyring.json: without it nothing on the drives can be read; put a backup of it on a drive"
                    .to_owned(),
            ));
        }
        return Ok(Keyring::create(provider, ClusterId::random(), clock.now().as_micros())?);
    }
    Ok(Keyring::open_newest(copies.iter().map(Vec::as_slice), provider)?)
}

/// Puts the keyring on a drive, if it is not there already.
pub(super) fn place_keyring(path: &Path, keyring: &Keyring) -> Result<(), NodeError> {
    let file = path.join(KEYRING_FILE);
    let bytes = keyring.to_bytes();
    if std::fs::read(&file).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let io = |source| NodeError::Io { path: file.display().to_string(), source };
    std::fs::create_dir_all(path).map_err(io)?;
    raw::write_atomically(&file, &bytes).map_err(io)
}

/// What opening a drive takes.
pub(super) struct DriveMaker<'a> {
    pub(super) options: &'a NodeOptions,
    pub(super) keyring: &'a Keyring,
    pub(super) cluster: ClusterId,
    pub(super) engine: &'a Arc<dyn io::IoEngine>,
    pub(super) pool: &'a Arc<BufPool>,
    pub(super) clock: &'a Arc<dyn Clock>,
}

impl DriveMaker<'_> {
    /// Opens a drive, or formats a blank folder as one. The keyring goes first, so that no drive is ever
    /// formatted without it.
    pub(super) async fn open(
        &self,
        path: &Path,
        format: bool,
        recovery: &mut Vec<String>,
    ) -> Result<Arc<LocalDrive>, NodeError> {
        if format {
            place_keyring(path, self.keyring)?;
        }
        let keys = self.keyring.keys();
        let mut options = granary_drive::drive::OpenOptions::new(
            path,
            self.cluster,
            *keys.drive_index.expose(),
            Arc::clone(self.engine),
            Arc::clone(self.pool),
        );
        options.format = format;
        options.segment_bytes = self.options.segment_bytes;
        options.reserve_bytes = self.options.reserve_bytes;
        options.limit_bytes = self.options.limit_bytes;
        options.header_key = Some(zeroize::Zeroizing::new(*keys.drive_mac.expose()));
        options.clock = Arc::clone(self.clock);
        let drive = tokio::task::spawn_blocking(move || LocalDrive::open(options)).await.map_err(joined)??;
        let node = NodeRegion {
            region: &self.options.store.region,
            jurisdiction: &self.options.store.jurisdiction,
            moved: self.options.store.moved_region,
        };
        let key = BlobKey::new(&header_key(self.keyring));
        let id = granary_drive::api::ShardStore::id(&drive);
        let admitted = admit(path, &key, self.cluster, id, &node);
        match admitted {
            Ok(None) => {}
            Ok(Some(note)) => {
                tracing::warn!("{note}");
                recovery.push(note);
            }
            Err(why) => {
                granary_drive::api::ShardStore::close(&drive).await?;
                return Err(NodeError::Config(why));
            }
        }
        let report = drive.recovery();
        if !format && (report.rebuilt.is_some() || report.lost > 0) {
            recovery.push(format!("drive {}: {report}", path.display()));
        }
        Ok(Arc::new(drive))
    }
}

async fn open_meta(
    options: &NodeOptions,
    keyring: &Keyring,
    folders: Vec<MirrorFolder>,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<MetaStore>, granary_meta::RecoveryReport), NodeError> {
    let keys = keyring.keys();
    let mirrors = usize::from(options.store.scheme.m) + 1;
    let mut open = OpenOptions::new(folders, mirrors, MetaKey(*keys.log.expose()), Some(MetaKey(*keys.index.expose())));
    open.log_file_bytes = options.log_file_bytes;
    open.clock = Arc::clone(clock);
    let (meta, report) = tokio::task::spawn_blocking(move || MetaStore::open(open)).await.map_err(joined)??;
    Ok((Arc::new(meta), report))
}

/// System record that holds the folder a drive was last seen at.
pub(super) fn path_record(drive: DriveId) -> String {
    format!("drive/{drive}/path")
}

/// System record that a drive is being replaced by the one at the folder it holds.
pub(super) fn replaced_by_record(drive: DriveId) -> String {
    format!("drive/{drive}/replaced-by")
}

/// Finishes replacements that a crash cut short: where the new drive was taken into use, the old one is retired;
/// else it stays, and the replacement has not happened.
async fn finish_replacements(meta: &MetaStore, open: &[OpenDrive]) -> Result<(), NodeError> {
    let index = meta.index().load()?;
    for (name, value) in index.systems("drive/")? {
        let Some(id) = name.strip_prefix("drive/").and_then(|rest| rest.strip_suffix("/replaced-by")) else { continue };
        let folder = String::from_utf8_lossy(&value);
        let taken = open.iter().any(|open| open.path.to_string_lossy() == folder && open.id.to_string() != id);
        if let (true, Ok(drive)) = (taken, id.parse::<DriveId>()) {
            tracing::info!(old = id, new = %folder, "finishing the replacement of a drive");
            meta.propose_audited(Command::RetireDrive { drive }, Some(drive_event("RetireDrive", drive))).await?;
        }
        meta.propose(Command::SetSystem { name, value: None }).await?;
    }
    Ok(())
}

/// Gives a drive its number and puts it into the table.
pub(super) async fn register(
    meta: &Arc<MetaStore>,
    set: &DriveSet,
    path: PathBuf,
    drive: Arc<LocalDrive>,
    keyring: &Keyring,
) -> Result<OpenDrive, NodeError> {
    use granary_drive::api::ShardStore as _;
    let id: DriveId = drive.id();
    let known: Option<DriveNo> = meta.index().load()?.drive_number(id);
    let no = match known {
        Some(no) => no,
        None => match meta
            .propose_audited(Command::RegisterDrive { drive: id }, Some(drive_event("RegisterDrive", id)))
            .await?
        {
            Outcome::Drive(no) => no,
            other => {
                return Err(NodeError::Store(crate::StoreError::Internal(format!("drive {id} got {other:?}"))));
            }
        },
    };
    place_keyring(&path, keyring)?;
    // Remembered for the day when the drive is gone and somebody asks where it was.
    let (name, value) = (path_record(id), Bytes::from(path.to_string_lossy().into_owned()));
    if meta.index().load()?.system(&name)?.as_ref() != Some(&value) {
        meta.propose(Command::SetSystem { name, value: Some(value) }).await?;
    }
    set.insert(no, Arc::clone(&drive) as Arc<dyn granary_drive::api::ShardStore>);
    Ok(OpenDrive { no, id, path, drive })
}
