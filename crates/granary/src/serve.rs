//! A node's life: lock the data folder, bind, open the engine, serve, drain, close.
//!
//! The order matters. Listeners are bound before anything is opened, so that a wrong port is told at once; the admin
//! port answers while recovery runs; `READY` is printed only when a request would be served. On SIGTERM or
//! SIGINT no new connection is taken, requests in flight end (at most `node.drain_timeout_ms`), then the engine is closed. A
//! second signal ends the process at once, which loses nothing that was acknowledged.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use granary_access::{IamError, Owner, RootKeys, RootKeysError};
use granary_crypto::KeyProvider;
use granary_store::node::{Node, NodeError, NodeOptions};
use granary_types::SystemClock;
use hyper::service::service_fn;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::access;
use crate::admin::client::root_keys_file;
use crate::admin::runfile::RunFile;
use crate::admin::scraper::ScraperToken;
use crate::admin::{Admin, Face};
use crate::audit::stream::{self, Receiver};
use crate::cli::Preset;
use crate::drive_list::DriveList;
use crate::engine;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::preset;
use crate::server::tls::{Port, Tls, TlsError};
use crate::server::{Listener, Timeouts};
use crate::settings::Settings;
use crate::startup::Greeting;

/// Connections to the admin port, at most.
const ADMIN_CONNECTIONS_MAX: u32 = 64;
/// The admin port's patience: its requests are small, its answers may take a drive's formatting.
const ADMIN_TIMEOUTS: Timeouts =
    Timeouts { header: Duration::from_secs(10), idle: Duration::from_secs(60), stall: Duration::from_secs(600) };
/// Exit status after a second signal.
const INTERRUPTED: i32 = 130;

/// Why a node did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The data folder.
    #[error("data folder {path}: {source}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another server has it.
    #[error("another granary server{who} runs on {path}: stop it first, or use another --data (node.data_dir)")]
    Locked {
        /// The data folder.
        path: PathBuf,
        /// Its process id, if known.
        who: String,
    },
    /// Root access keys.
    #[error("root keys: {0}")]
    RootKeys(#[from] RootKeysError),
    /// Sealing key.
    #[error(transparent)]
    Key(#[from] crate::keys::KeysError),
    /// A port.
    #[error("cannot listen on {address} ({setting}): {source}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// The setting to change.
        setting: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// TLS.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// The token of those who scrape metrics.
    #[error(transparent)]
    Scraper(#[from] crate::admin::scraper::ScraperError),
    /// The engine.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The preset's buckets.
    #[error("preset: {0}")]
    Preset(String),
    /// A key that the settings name.
    #[error("keys.kms_keys: {id}: {source}")]
    KmsKey {
        /// Which.
        id: String,
        /// Why not.
        source: granary_store::StoreError,
    },
    /// The runtime, signals, standard output.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The S3 endpoint's settings.
    #[error("s3: {0}")]
    Front(#[from] granary_s3::ConfigError),
    /// A target of notifications.
    #[error("{0}")]
    Notify(String),
    /// Two metrics with one name.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Users and policies.
    #[error("users and policies: {0}")]
    Access(#[from] IamError),
    /// The clock may be anywhere.
    #[error(
        "the system's clock is not synchronised (error up to {max_error_us} µs by the kernel's word), and node.require_time_sync \
         is on: start chrony, ntpd or systemd-timesyncd and wait until it is in step"
    )]
    Clock {
        /// As the kernel tells it; -1: it does not.
        max_error_us: i64,
    },
}

/// What to run.
pub(crate) struct Start {
    /// Checked settings.
    pub(crate) settings: Settings,
    /// Buckets to make.
    pub(crate) preset: Option<Preset>,
    /// Show the secret key.
    pub(crate) show_secret: bool,
    /// Where a developer's drives are remembered.
    pub(crate) drive_list: Option<DriveList>,
}

/// A data folder that no other server uses. The lock goes with the process, however it ends.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder if need be, and locks it.
    ///
    /// # Errors
    /// [`ServeError::DataDir`], [`ServeError::Locked`].
    pub(crate) fn lock(path: &Path) -> Result<Self, ServeError> {
        let failed = |source| ServeError::DataDir { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        let file = File::options().create(true).write(true).truncate(false).open(path.join("lock")).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: file }),
            Err(TryLockError::WouldBlock) => {
                let who = RunFile::read(path).map(|run| format!(" (pid {}, {})", run.pid, run.endpoint));
                Err(ServeError::Locked { path: path.to_owned(), who: who.unwrap_or_default() })
            }
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// [`ServeError`].
pub(crate) fn run(start: Start, data: DataDir) -> Result<(), ServeError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if start.settings.node.worker_threads > 0 {
        builder.worker_threads(start.settings.node.worker_threads as usize);
    }
    let runtime = builder
        .enable_all()
        .thread_name("granary")
        .build()
        .map_err(|source| ServeError::System { what: "the runtime could not be started", source })?;
    let ended = runtime.block_on(live(start, data));
    // Connections that outlasted the drain are cut here.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// Rebuilds the index of a stopped node from its drives, and says what came back.
///
/// # Errors
/// [`ServeError::Node`] if the index is not lost, among others.
pub(crate) fn rebuild(settings: &Settings, data: DataDir, complete_uploads: bool) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::System { what: "the runtime could not be started", source })?;
    let report = runtime.block_on(async {
        let provider: Arc<dyn KeyProvider> = crate::keys::provider(settings)?;
        let options = NodeOptions { accept_lost_metadata: true, ..engine::options(settings) };
        let node = Node::open(options, provider, Arc::new(SystemClock)).await?;
        let report = node.rebuild_index(complete_uploads).await;
        node.close().await?;
        Ok::<_, ServeError>(report?)
    })?;
    drop(data);
    let mut text = format!(
        "{} buckets, {} objects, {} appended parts, {} uploads ({} completed anew); {} parts cannot be brought back\n",
        report.buckets, report.objects, report.appended, report.uploads, report.completed, report.lost_parts
    );
    report.notes.iter().for_each(|note| text.push_str(&format!("  {note}\n")));
    text.push_str(
        "not brought back: objects and appends of at most the inline size, renames, later changes of tags and locks, creation times\n",
    );
    print(&text).map_err(|source| ServeError::System { what: "standard output", source })
}

async fn live(start: Start, data: DataDir) -> Result<(), ServeError> {
    let Start { settings, preset, show_secret, drive_list } = start;
    let from_environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let access_key = from_environment("GRANARY_ROOT_ACCESS_KEY");
    let keys_from_environment = access_key.is_some();
    let keys_file = std::path::absolute(root_keys_file(&data.path))
        .map_err(|source| ServeError::DataDir { path: data.path.clone(), source })?;
    let keys = RootKeys::obtain(access_key, from_environment("GRANARY_ROOT_SECRET_KEY"), &keys_file)?;

    let clock = crate::audit::clock_state();
    if settings.node.require_time_sync && !clock.synchronised {
        return Err(ServeError::Clock { max_error_us: clock.max_error_us });
    }
    let s3 = &settings.s3;
    let s3_tls = Tls::of(&settings, Port::S3)?;
    let admin_tls = Tls::of(&settings, Port::Admin)?;
    let timeouts = Timeouts {
        header: Duration::from_millis(s3.header_timeout_ms),
        idle: Duration::from_millis(s3.idle_timeout_ms),
        stall: Duration::from_millis(s3.stall_timeout_ms),
    };
    let listen = |address, setting| move |source| ServeError::Listen { address, setting, source };
    let s3_listener = Listener::bind(s3.listen, s3.connections_max, timeouts, s3_tls.clone())
        .map_err(listen(s3.listen, "s3.listen, --listen"))?;
    let admin_at = settings.admin.listen;
    let admin_listener = Listener::bind(admin_at, ADMIN_CONNECTIONS_MAX, ADMIN_TIMEOUTS, admin_tls.clone())
        .map_err(listen(admin_at, "admin.listen, --admin"))?;
    let admin_address = admin_listener.address();
    let endpoint = format!("{}://{}", if settings.tls() { "https" } else { "http" }, s3_listener.address());

    let provider: Arc<dyn KeyProvider> = crate::keys::provider(&settings)?;
    let metrics = Arc::new(Metrics::new(settings.admin.runs_max as usize)?);
    metrics.set_listener(s3_listener.stats());
    let face = Face {
        endpoint: endpoint.clone(),
        plaintext_beyond_loopback: settings.plaintext_beyond_loopback(),
        admin_plaintext_beyond_loopback: settings.admin_plaintext_beyond_loopback(),
        tls: s3_tls.clone(),
        region: settings.node.region.clone(),
        access_key: keys.access_key.clone(),
        keys: provider.describe(),
        single_admin: settings.admin.single_admin,
        metrics_token: settings.admin.metrics_token_file.as_deref().map(ScraperToken::read).transpose()?,
        clock_skew_s: settings.limits().clock_skew_s,
    };
    let admin = Arc::new(Admin::new(&keys, Arc::clone(&metrics), face, drive_list));
    let (drain_admin, admin_drained) = watch::channel(false);
    let (drain_s3, s3_drained) = watch::channel(false);
    let admin_service = {
        let admin = Arc::clone(&admin);
        service_fn(move |request| Arc::clone(&admin).answer(request))
    };
    let admin_task = tokio::spawn(admin_listener.run(admin_service, admin_drained));
    let mut signals = Signals::new()?;
    let watched: Vec<_> = [s3_tls.clone(), admin_tls.clone()].into_iter().flatten().collect();
    let interval = Duration::from_millis(s3.tls_check_interval_ms);
    tokio::spawn(async move {
        if let Err(error) = Tls::run(watched, interval).await {
            tracing::error!(%error, "certificates are not watched: restart the node after changing them");
        }
    });

    let opening = Node::open(engine::options(&settings), provider, Arc::new(SystemClock));
    let node = tokio::select! {
        opened = opening => Arc::new(opened?),
        () = signals.next() => return Ok(()), // nothing was acknowledged yet, so there is nothing to close
    };
    let status = node.status();
    let owner = Owner::root(node.cluster());
    if let Some(Preset::Ai) = preset {
        preset::ai(&node).await.map_err(ServeError::Preset)?;
    }
    for id in &settings.keys.kms_keys {
        node.store().create_kms_key(id).await.map_err(|source| ServeError::KmsKey { id: id.clone(), source })?;
    }
    let iam = Arc::new(access::open(&node, &keys, owner, &settings)?);
    let service = engine::front_door(&node, Arc::clone(&iam), &settings, Arc::clone(&metrics))?;
    node.store().set_upstream_client(Arc::new(crate::upstream::S3Client::default()), granary_s3::default_sse);
    node.start_background();
    admin.set_node(Arc::clone(&node), Arc::clone(&iam));
    let last_used = access::keep_last_used(Arc::clone(&iam));
    let syslog = settings.audit.syslog.as_deref().and_then(Receiver::syslog);
    let ca = settings.audit.webhook_ca_file.clone();
    let webhook = settings.audit.webhook.as_deref().and_then(|text| Receiver::webhook(text, ca));
    let streams: Vec<_> = [syslog, webhook]
        .into_iter()
        .flatten()
        .map(|receiver| tokio::spawn(stream::run(Arc::clone(&node), receiver)))
        .collect();
    let (region, host_id) = (&settings.node.region, node.cluster().to_string());
    let notifier = Notifier::start(node.store(), &settings.notify_targets(), region, &host_id, &s3_drained)
        .map_err(ServeError::Notify)?;
    metrics.set_notifier(notifier);
    let (stop_write_back, write_back_stop) = watch::channel(false);
    let write_back = {
        let store = node.store().clone();
        tokio::spawn(async move { store.write_back_forever(write_back_stop).await })
    };
    let access_log = service.access_log();
    metrics.set_access_log(Arc::clone(&access_log));
    let log_task = {
        let (access_log, interval) = (Arc::clone(&access_log), Duration::from_millis(s3.access_log_interval_ms));
        tokio::spawn(async move { access_log.deliver_forever(interval).await })
    };
    let s3_task = tokio::spawn(s3_listener.run(service, s3_drained));

    let admin_ca = admin_tls.as_ref().map(|tls| tls.trusted()).map(|path| std::path::absolute(&path).unwrap_or(path));
    let admin_scheme = if admin_tls.is_some() { "https" } else { "http" };
    let run_file = RunFile { pid: std::process::id(), endpoint: endpoint.clone(), admin: admin_address, admin_ca };
    run_file.write(&data.path).map_err(|source| ServeError::DataDir { path: data.path.clone(), source })?;
    let greeting = Greeting {
        keys: &keys,
        keys_from_environment,
        keys_file: &keys_file,
        show_secret,
        endpoint: &endpoint,
        admin: &format!("{admin_scheme}://{admin_address}"),
        tls: s3_tls.as_ref().map(|tls| tls.shown()),
        admin_plaintext_beyond_loopback: settings.admin_plaintext_beyond_loopback(),
        region: &settings.node.region,
        engine: &format!("{} drives, erasure {}, {}", status.drives.len(), status.scheme, status.io),
        plaintext_beyond_loopback: settings.plaintext_beyond_loopback(),
    };
    print(&format!("{}READY {endpoint}\n", greeting.lines()))
        .map_err(|source| ServeError::System { what: "standard output", source })?;
    tracing::info!(%endpoint, admin = %admin_address, engine = greeting.engine, "ready");
    for line in &status.recovery {
        tracing::debug!("recovery: {line}");
    }

    signals.next().await;
    tracing::info!("draining");
    admin.set_draining();
    drain_s3.send_replace(true);
    tokio::spawn(async move {
        signals.next().await;
        tracing::warn!("second signal: ending at once");
        std::process::exit(INTERRUPTED);
    });
    let patience = Duration::from_millis(settings.node.drain_timeout_ms);
    if tokio::time::timeout(patience, s3_task).await.is_err() {
        tracing::warn!("requests were still in flight after node.drain_timeout_ms; their connections are cut");
    }
    last_used.abort();
    if let Err(error) = iam.save_last_used().await {
        tracing::warn!(%error, "when keys were last used is not written down");
    }
    stop_write_back.send_replace(true);
    let _ended = write_back.await;
    for stream in streams {
        stream.abort();
        let _cut = stream.await;
    }
    log_task.abort();
    let _ended = log_task.await;
    access_log.deliver().await;
    node.close().await?;
    drain_admin.send_replace(true);
    // Health checks hold no state: a moment is enough for the last answer.
    let _unfinished = tokio::time::timeout(Duration::from_secs(1), admin_task).await;
    RunFile::remove(&data.path);
    tracing::info!("ended in good order");
    Ok(())
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// SIGTERM and SIGINT.
struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, ServeError> {
        let failed = |source| ServeError::System { what: "signals", source };
        Ok(Self {
            term: signal(SignalKind::terminate()).map_err(failed)?,
            int: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
