//! Settings into what the engine and the front door are opened with.

use std::sync::Arc;
use std::time::Duration;

use granary_access::Iam;
use granary_s3::{ConfigError, FrontConfig, RequestObserver, RunRule, S3Service, SelectConfig, SelectLimits};
use granary_store::node::{IoChoice, Node, NodeOptions};
use granary_store::{AuditOptions, ObjectStore, StoreOptions};

use crate::metrics::Metrics;
use crate::settings::{Engine, Settings};

/// What the node is opened with.
pub(crate) fn options(settings: &Settings) -> NodeOptions {
    let Settings { node, drives, store, audit, .. } = settings;
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    NodeOptions {
        drives: drives.paths.clone(),
        segment_bytes: drives.segment_bytes,
        reserve_bytes: drives.reserve_bytes,
        limit_bytes: (drives.limit_bytes > 0).then_some(drives.limit_bytes),
        io: match drives.engine {
            Engine::Auto => IoChoice::Auto,
            Engine::Uring => IoChoice::Uring,
            Engine::Threads => IoChoice::Threads,
        },
        buffer_pool_bytes: size(drives.buffer_pool_bytes),
        log_file_bytes: drives.log_file_bytes,
        store: StoreOptions {
            scheme: drives.erasure,
            region: node.region.clone(),
            jurisdiction: node.jurisdiction.clone(),
            moved_region: node.moved_region,
            inline_bytes_max: size(store.inline_bytes_max),
            copies_bytes_max: store.copies_bytes_max,
            ingest_memory_bytes: store.ingest_memory_bytes,
            ingest_wait: Duration::from_millis(store.ingest_wait_ms),
            garbage_quarantine: Duration::from_millis(store.garbage_quarantine_ms),
            orphan_grace: Duration::from_millis(store.orphan_grace_ms),
            cache_bytes: settings.ai.cache_bytes,
            keeper_interval: Duration::from_millis(settings.ai.keeper_interval_ms),
            sweep_interval: Duration::from_millis(store.sweep_interval_ms),
            key_cache: Duration::from_millis(settings.keys.cache_ms),
            audit: AuditOptions {
                flush_interval: Duration::from_millis(audit.flush_interval_ms),
                seal_interval: Duration::from_millis(audit.seal_interval_ms),
                seal_events: audit.seal_events,
                unsealed_events_max: audit.unsealed_events_max,
                keep_days: audit.keep_days,
            },
            lifecycle_day: Duration::from_secs(store.lifecycle_day_seconds),
            ..StoreOptions::default()
        },
        clock_state: crate::audit::clock_state,
        ..NodeOptions::default()
    }
}

/// What the S3 listener serves.
///
/// # Errors
/// [`ConfigError`] naming the setting that cannot be.
pub(crate) fn front_door(
    node: &Node,
    iam: Arc<Iam>,
    settings: &Settings,
    metrics: Arc<Metrics>,
) -> Result<S3Service, ConfigError> {
    let store: Arc<dyn ObjectStore> = Arc::new(node.store().clone());
    let observer: Arc<dyn RequestObserver> = metrics;
    let config = FrontConfig {
        region: settings.node.region.clone(),
        any_region: settings.s3.any_region,
        open_new_buckets: settings.s3.open_new_buckets,
        domains: settings.s3.domains.clone(),
        allow_sigv2: settings.s3.sigv2,
        allow_customer_keys: !settings.plaintext_beyond_loopback() || settings.s3.customer_keys_in_the_clear,
        in_flight_max: settings.s3.requests_max as usize,
        copy_silence: Duration::from_millis(settings.s3.copy_silence_ms),
        host_id: node.cluster().to_string(),
        shard_index_bytes: settings.ai.shard_index_bytes,
        audit: Some(node.audit_log()),
        run_rules: settings.s3.run_rules.iter().filter_map(|rule| RunRule::parse(rule)).collect(),
        notify_targets: settings.notify_targets().arns(&settings.node.region),
        select: SelectConfig {
            queries_max: settings.select.queries_max as usize,
            limits: SelectLimits {
                memory_bytes: usize::try_from(settings.select.memory_bytes).unwrap_or(usize::MAX),
                time: Duration::from_millis(settings.select.time_ms),
            },
        },
        ..FrontConfig::default()
    };
    granary_s3::service(store, iam, config, Some(observer))
}
