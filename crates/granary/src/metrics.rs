//! Every metric there is, in one file; the help text is the documentation.
//!
//! Requests are counted as they end ([`RequestObserver`]). Everything else is read from the engine's own counters when the
//! page is asked for, so it costs nothing in between.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use granary_drive::api::DriveHealth;
use granary_drive::stats::{DriveStats, Latency};
use granary_meta::upstream::bucket_of_target;
use granary_s3::{AccessLog, Ended, RequestObserver};
use granary_store::ObjectStore as _;
use granary_store::node::Node;
use granary_store::node::status::DriveStatus;
use prometheus::core::Collector;
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{
    CounterVec, Encoder as _, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    TextEncoder,
};

use crate::notify::Notifier;
use crate::runs::{Runs, Sums};
use crate::server::ListenerStats;

/// Upper bounds of the request time histogram, seconds.
const SECONDS: [f64; 15] =
    [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// The metrics of a process.
pub(crate) struct Metrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    runs: Runs,
    started: Instant,
    listener: OnceLock<Arc<ListenerStats>>,
    notifier: OnceLock<Notifier>,
    access_log: OnceLock<Arc<AccessLog>>,
}

impl Metrics {
    /// All at zero. `runs_max`: runs that are told apart.
    ///
    /// # Errors
    /// [`prometheus::Error`] if two metrics had one name.
    pub(crate) fn new(runs_max: usize) -> Result<Self, prometheus::Error> {
        Ok(Self {
            requests: IntCounterVec::new(
                Opts::new("granary_requests_total", "S3 requests answered, by operation and HTTP status class."),
                &["op", "status"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "granary_request_seconds",
                    "Time from a request's head to the last byte of its answer, by operation.",
                )
                .buckets(SECONDS.to_vec()),
                &["op"],
            )?,
            bytes_in: IntCounter::new("granary_request_bytes_total", "Bytes of request bodies.")?,
            bytes_out: IntCounter::new("granary_response_bytes_total", "Bytes of response bodies.")?,
            runs: Runs::new(runs_max),
            started: Instant::now(),
            listener: OnceLock::new(),
            notifier: OnceLock::new(),
            access_log: OnceLock::new(),
        })
    }

    /// Where connection counts come from.
    pub(crate) fn set_listener(&self, stats: Arc<ListenerStats>) {
        assert!(self.listener.set(stats).is_ok(), "the listener is set once");
    }

    /// Where counts of deliveries come from.
    pub(crate) fn set_notifier(&self, notifier: Notifier) {
        assert!(self.notifier.set(notifier).is_ok(), "the notifier is set once");
    }

    /// Where counts of access log lines come from.
    pub(crate) fn set_access_log(&self, log: Arc<AccessLog>) {
        assert!(self.access_log.set(log).is_ok(), "the access log is set once");
    }

    fn now_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// What each run asked for, as JSON.
    pub(crate) fn runs(&self) -> serde_json::Value {
        self.runs.shown(self.now_s())
    }

    /// The page in Prometheus' text format.
    ///
    /// # Errors
    /// [`prometheus::Error`] from encoding.
    pub(crate) fn render(&self, node: Option<&Node>, ready: bool) -> Result<Vec<u8>, prometheus::Error> {
        let mut families = Vec::new();
        families.extend(self.requests.collect());
        families.extend(self.seconds.collect());
        families.extend(self.bytes_in.collect());
        families.extend(self.bytes_out.collect());
        let mut page = Page { families };
        page.info()?;
        page.gauge("granary_ready", "1 while the node serves requests.", i64::from(ready))?;
        page.gauge(
            "granary_uptime_seconds",
            "Seconds since the process started.",
            signed(self.started.elapsed().as_secs()),
        )?;
        if let Some(listener) = self.listener.get() {
            page.listener(listener)?;
        }
        if let Some(log) = self.access_log.get() {
            let (delivered, dropped) = log.counts();
            let lines = ["delivered", "dropped"].into_iter().zip([delivered, dropped]);
            let lines: Vec<_> = lines.map(|(what, count)| ("lines".to_owned(), what, count)).collect();
            let help = "Lines of logged buckets: written to their target, or lost.";
            page.counters("granary_access_log_lines_total", help, ["unit", "event"], &lines)?;
        }
        page.runs(&self.runs.sums(self.now_s()))?;
        if let Some(node) = node {
            page.node(node, self.notifier.get())?;
        }
        // The encoder refuses a family without a value, such as the requests of a server that nobody has asked yet.
        page.families.retain(|family| !family.get_metric().is_empty());
        let mut out = Vec::new();
        TextEncoder::new().encode(&page.families, &mut out)?;
        Ok(out)
    }
}

impl RequestObserver for Metrics {
    fn done(&self, ended: &Ended<'_>) {
        let Ended { op, status, bytes_in, bytes_out, micros, .. } = *ended;
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.requests.with_label_values(&[op, class]).inc();
        self.seconds.with_label_values(&[op]).observe(micros as f64 / 1e6);
        self.bytes_in.inc_by(bytes_in);
        self.bytes_out.inc_by(bytes_out);
        self.runs.add(ended, self.now_s());
    }
}

/// A page in the making.
struct Page {
    families: Vec<MetricFamily>,
}

type Added = Result<(), prometheus::Error>;

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: i64) -> Added {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(value);
        self.families.extend(gauge.collect());
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Added {
        let counter = IntCounter::new(name, help)?;
        counter.inc_by(value);
        self.families.extend(counter.collect());
        Ok(())
    }

    /// One gauge per label value.
    fn gauges(&mut self, name: &str, help: &str, label: &str, values: &[(String, i64)]) -> Added {
        let gauges = IntGaugeVec::new(Opts::new(name, help), &[label])?;
        values.iter().for_each(|(text, value)| gauges.with_label_values(&[text.as_str()]).set(*value));
        self.families.extend(gauges.collect());
        Ok(())
    }

    /// One counter per pair of label values.
    fn counters(&mut self, name: &str, help: &str, labels: [&str; 2], values: &[(String, &str, u64)]) -> Added {
        let counters = IntCounterVec::new(Opts::new(name, help), &labels)?;
        values.iter().for_each(|(a, b, value)| counters.with_label_values(&[a.as_str(), b]).inc_by(*value));
        self.families.extend(counters.collect());
        Ok(())
    }

    fn info(&mut self) -> Added {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.gauges("granary_build_info", "1; the label tells the version.", "version", &[(version, 1)])
    }

    fn listener(&mut self, stats: &ListenerStats) -> Added {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        self.gauge("granary_connections_open", "Connections open on the S3 port.", signed(read(&stats.open)))?;
        self.counter("granary_connections_total", "Connections accepted on the S3 port.", read(&stats.accepted))?;
        self.counter(
            "granary_connections_timed_out_total",
            "Connections closed because the client was too slow.",
            read(&stats.timed_out),
        )?;
        self.counter(
            "granary_tls_handshakes_failed_total",
            "TLS handshakes that came to nothing.",
            read(&stats.handshakes_failed),
        )
    }

    fn node(&mut self, node: &Node, notifier: Option<&Notifier>) -> Added {
        let stats = node.store().stats();
        for (name, help, counter) in [
            ("granary_store_ingested_bytes_total", "Plaintext bytes taken in.", &stats.ingested_bytes),
            ("granary_store_served_bytes_total", "Plaintext bytes given out.", &stats.served_bytes),
            ("granary_store_inline_parts_total", "Parts kept in the index.", &stats.inline_parts),
            ("granary_store_drive_parts_total", "Parts written to drives.", &stats.drive_parts),
            (
                "granary_store_rebuilt_chunks_total",
                "Chunks that failed their tag and were rebuilt.",
                &stats.rebuilt_chunks,
            ),
            ("granary_store_lost_chunks_total", "Chunks that could not be rebuilt: data loss.", &stats.lost_chunks),
            ("granary_store_shared_parts_total", "Parts cut into shared blocks.", &stats.shared_parts),
            (
                "granary_store_blocks_written_bytes_total",
                "Plaintext bytes of shared blocks that had to be written.",
                &stats.blocks_written_bytes,
            ),
            (
                "granary_store_blocks_found_bytes_total",
                "Plaintext bytes that were in shared blocks already.",
                &stats.blocks_found_bytes,
            ),
            (
                "granary_store_retired_blocks_total",
                "Shared blocks that nothing used any more, made garbage.",
                &stats.retired_blocks,
            ),
            ("granary_store_reaped_parts_total", "Garbage parts freed.", &stats.reaped_parts),
            ("granary_store_orphan_shards_total", "Orphan shards freed.", &stats.orphan_shards),
            ("granary_store_healed_parts_total", "Parts repaired.", &stats.healed_parts),
            ("granary_store_heal_failures_total", "Parts that repair could not make whole.", &stats.heal_failures),
        ] {
            self.counter(name, help, counter.load(Ordering::Relaxed))?;
        }

        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let lifecycle: Vec<_> = [
            ("rounds", &stats.lifecycle_rounds),
            ("versions_scanned", &stats.lifecycle_scanned),
            ("current_deleted", &stats.lifecycle_expired),
            ("noncurrent_removed", &stats.lifecycle_noncurrent),
            ("markers_removed", &stats.lifecycle_markers),
            ("uploads_aborted", &stats.lifecycle_uploads),
            ("transitions", &stats.lifecycle_transitions),
            ("kept_by_lock", &stats.lifecycle_locked),
            ("changed_meanwhile", &stats.lifecycle_stale),
            ("failures", &stats.lifecycle_failures),
        ]
        .map(|(event, counter)| ("lifecycle".to_owned(), event, count(counter)))
        .into();
        self.counters(
            "granary_lifecycle_events_total",
            "What the lifecycle worker has done, by name.",
            ["worker", "event"],
            &lifecycle,
        )?;
        self.quotas(node)?;
        self.deduplication(node)?;
        self.notifications(node, notifier)?;
        self.upstreams(node)?;

        let status = node.status();
        self.gauge("granary_buckets", "Buckets.", i64::try_from(status.buckets).unwrap_or(i64::MAX))?;
        self.gauge("granary_drives_spare", "Drives that may be lost before data is.", status.drives_spare)?;
        self.gauge("granary_heal_running", "1 while a repair walks the node.", i64::from(status.heal.running))?;
        let queued = i64::try_from(status.heal.queued).unwrap_or(i64::MAX);
        self.gauge("granary_heal_queued", "Damage reports waiting for repair.", queued)?;
        let drives: Vec<_> = status.drives.iter().filter(|drive| !drive.retired).collect();
        let each = |value: &dyn Fn(&DriveStatus) -> i64| -> Vec<(String, i64)> {
            drives.iter().map(|drive| (format!("d{}", drive.number), value(drive))).collect()
        };
        self.gauges(
            "granary_drive_online",
            "1: reads and writes; 0: full, poisoned or offline.",
            "drive",
            &each(&|drive| i64::from(matches!(drive.health, DriveHealth::Online))),
        )?;
        self.gauges(
            "granary_drive_total_bytes",
            "Size of the drive.",
            "drive",
            &each(&|d| signed(d.space.total_bytes)),
        )?;
        self.gauges("granary_drive_used_bytes", "Held by shards.", "drive", &each(&|d| signed(d.space.used_bytes)))?;
        self.gauges(
            "granary_drive_free_bytes",
            "Still allocatable for shards, the reserve left out.",
            "drive",
            &each(&|d| signed(d.space.free_bytes)),
        )?;
        self.drive_activity(&node.drive_stats())?;
        let caches = node.store().cache_status().unwrap_or_default();
        let reads: Vec<_> = caches
            .iter()
            .flat_map(|one| [(one.bucket.clone(), "hit", one.hits), (one.bucket.clone(), "miss", one.misses)])
            .collect();
        self.counters(
            "granary_cache_chunks_total",
            "Chunks looked for in the read cache, by bucket and whether they were there.",
            ["bucket", "outcome"],
            &reads,
        )?;
        let held: Vec<_> = caches.into_iter().map(|one| (one.bucket, signed(one.bytes))).collect();
        self.gauges("granary_cache_bytes", "Bytes in the read cache, by bucket.", "bucket", &held)?;
        let (now, counted): (Vec<_>, Vec<_>) =
            node.meta_stats().snapshot().into_iter().partition(|(name, _)| *name == "mirrors_up");
        for (_, mirrors) in now {
            self.gauge("granary_log_mirrors_up", "Drives that take the metadata log now.", signed(mirrors))?;
        }
        let counted: Vec<_> = counted.into_iter().map(|(name, value)| ("meta".to_owned(), name, value)).collect();
        self.counters(
            "granary_meta_events_total",
            "Counters of the log, the index and its checkpoints by name (see MetaStats in granary-meta).",
            ["part", "event"],
            &counted,
        )
    }

    /// Queues of events and what was delivered of them.
    fn notifications(&mut self, node: &Node, notifier: Option<&Notifier>) -> Added {
        let mut queues = node.store().event_queues().unwrap_or_default();
        queues.retain(|(target, _)| bucket_of_target(target).is_none());
        let waiting: Vec<_> = queues.iter().map(|(arn, queue)| (arn.clone(), signed(queue.count))).collect();
        self.gauges("granary_notify_waiting_events", "Events that wait for their target.", "target", &waiting)?;
        let mut counted: Vec<_> = queues.into_iter().map(|(arn, queue)| (arn, "dropped", queue.dropped)).collect();
        for (arn, stats) in notifier.map(Notifier::stats).into_iter().flatten() {
            for (name, counter) in
                [("delivered", &stats.delivered), ("failed_tries", &stats.failed), ("given_up", &stats.given_up)]
            {
                counted.push((arn.clone(), name, counter.load(Ordering::Relaxed)));
            }
        }
        self.counters(
            "granary_notify_events_total",
            "What became of events: `dropped` because too many waited (since the store was made), the others since start.",
            ["target", "event"],
            &counted,
        )
    }

    /// Reads through to upstreams, and what waits to be written there.
    fn upstreams(&mut self, node: &Node) -> Added {
        let mut counted = Vec::new();
        let mut failed = Vec::new();
        for (bucket, stats) in node.store().upstream_stats().all() {
            for (event, value) in stats.all() {
                match event {
                    "write_failures" | "given_up" => failed.push((bucket.as_str().to_owned(), event, value)),
                    _ => counted.push((bucket.as_str().to_owned(), event, value)),
                }
            }
        }
        self.counters(
            "granary_upstream_events_total",
            "Reads of buckets that have an upstream, what was fetched (objects, bytes), and what went wrong there, by name.",
            ["bucket", "event"],
            &counted,
        )?;
        self.counters(
            "granary_upstream_failed_total",
            "Writes to upstreams that failed (`write_failures`, tried again) and keys that were given up (`given_up`).",
            ["bucket", "event"],
            &failed,
        )?;
        let names: std::collections::HashMap<_, _> =
            node.store().list_buckets().unwrap_or_default().into_iter().map(|bucket| (bucket.id, bucket)).collect();
        let queues = node.store().event_queues().unwrap_or_default();
        let pending: Vec<_> = queues
            .into_iter()
            .filter_map(|(target, queue)| {
                let bucket = names.get(&bucket_of_target(&target)?)?;
                Some((bucket.name.as_str().to_owned(), signed(queue.count)))
            })
            .collect();
        self.gauges(
            "granary_upstream_pending",
            "Changes that wait to be written to the bucket's upstream.",
            "bucket",
            &pending,
        )
    }

    /// Use and limits of the buckets that have a quota.
    fn quotas(&mut self, node: &Node) -> Added {
        let Ok(buckets) = node.store().list_buckets() else { return Ok(()) };
        let (mut used, mut limits) = (Vec::new(), Vec::new());
        for bucket in buckets {
            let options = &bucket.options;
            if options.quota_bytes.is_none() && options.quota_objects.is_none() {
                continue;
            }
            let Ok((_, usage)) = node.store().bucket_usage(&bucket.name) else { continue };
            let name = bucket.name.as_str().to_owned();
            used.push((name.clone(), "bytes", usage.bytes.saturating_add(usage.upload_bytes)));
            used.push((name.clone(), "objects", usage.versions));
            limits.extend(options.quota_bytes.map(|limit| (name.clone(), "bytes", limit)));
            limits.extend(options.quota_objects.map(|limit| (name, "objects", limit)));
        }
        for (name, help, values) in [
            ("granary_bucket_used", "What buckets with a quota hold.", used),
            ("granary_bucket_quota", "What buckets may hold.", limits),
        ] {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &["bucket", "unit"])?;
            values.iter().for_each(|(bucket, unit, value)| {
                gauges.with_label_values(&[bucket.as_str(), unit]).set(signed(*value));
            });
            self.families.extend(gauges.collect());
        }
        Ok(())
    }

    /// What buckets that share blocks hold, as clients see it and as it is stored.
    fn deduplication(&mut self, node: &Node) -> Added {
        let gauges = IntGaugeVec::new(
            Opts::new(
                "granary_bucket_shared",
                "Parts made of shared blocks, by bucket: their bytes (`logical_bytes`), bytes of the blocks before parity \
                 (`stored_bytes`), and the blocks (`blocks`).",
            ),
            &["bucket", "unit"],
        )?;
        for (bucket, usage) in node.store().block_usage().unwrap_or_default() {
            for (unit, value) in
                [("logical_bytes", usage.logical_bytes), ("stored_bytes", usage.stored_bytes), ("blocks", usage.blocks)]
            {
                gauges.with_label_values(&[bucket.as_str(), unit]).set(signed(value));
            }
        }
        self.families.extend(gauges.collect().into_iter().filter(|family| !family.get_metric().is_empty()));
        Ok(())
    }

    /// What each run asked for, by bucket.
    fn runs(&mut self, all: &[Sums]) -> Added {
        let labels = ["run", "bucket"];
        for (name, help, count) in [
            ("granary_run_requests_total", "Requests of a training run, by bucket.", "requests"),
            ("granary_run_errors_total", "Of them, those answered with a status of 400 or more.", "errors"),
            ("granary_run_request_bytes_total", "Bytes of their bodies.", "bytes_in"),
            ("granary_run_response_bytes_total", "Bytes of their answers.", "bytes_out"),
        ] {
            let values = IntCounterVec::new(Opts::new(name, help), &labels)?;
            all.iter().for_each(|one| values.with_label_values(&[&one.run, &one.bucket]).inc_by(one.get(count)));
            self.families.extend(values.collect());
        }
        for (name, help, micros) in [
            ("granary_run_request_seconds_total", "Time that they took, from head to last byte, added up.", "busy_us"),
            (
                "granary_run_drive_wait_seconds_total",
                "Of it, waiting for drives; waits that run side by side add up.",
                "drives_us",
            ),
            (
                "granary_run_client_wait_seconds_total",
                "Of it, waiting for the client to send or to take more.",
                "client_us",
            ),
        ] {
            let values = CounterVec::new(Opts::new(name, help), &labels)?;
            all.iter().for_each(|one| {
                values.with_label_values(&[&one.run, &one.bucket]).inc_by(one.get(micros) as f64 / 1e6)
            });
            self.families.extend(values.collect());
        }
        let help = "Chunks that they read, by whether they were in the read cache.";
        let chunks =
            IntCounterVec::new(Opts::new("granary_run_cache_chunks_total", help), &["run", "bucket", "outcome"])?;
        for one in all {
            chunks.with_label_values(&[one.run.as_str(), &one.bucket, "hit"]).inc_by(one.get("cache_hits"));
            chunks.with_label_values(&[one.run.as_str(), &one.bucket, "miss"]).inc_by(one.get("cache_misses"));
        }
        self.families.extend(chunks.collect());
        let mut family = MetricFamily::default();
        family.set_name("granary_run_first_byte_seconds".to_owned());
        family.set_help("Time to the first byte of the answer.".to_owned());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(all.iter().map(first_byte_metric).collect());
        self.families.push(family);
        Ok(())
    }

    fn drive_activity(&mut self, drives: &[(u16, Arc<DriveStats>)]) -> Added {
        let mut events = Vec::new();
        let mut times = Vec::new();
        for (number, stats) in drives {
            let drive = format!("d{number}");
            for (event, counter) in [
                ("reads", &stats.reads),
                ("read_bytes", &stats.read_bytes),
                ("writes", &stats.writes),
                ("write_bytes", &stats.write_bytes),
                ("commits", &stats.commits),
                ("syncs", &stats.syncs),
                ("frees", &stats.frees),
                ("punches", &stats.punches),
                ("punched_bytes", &stats.punched_bytes),
                ("recycled_segments", &stats.recycled),
                ("index_flushes", &stats.flushes),
                ("crc_failures", &stats.crc_failures),
                ("io_errors", &stats.io_errors),
            ] {
                events.push((drive.clone(), event, counter.get()));
            }
            for (op, latency) in [
                ("read", &stats.read_latency),
                ("write", &stats.write_latency),
                ("sync", &stats.sync_latency),
                ("commit", &stats.commit_latency),
            ] {
                times.push(times_metric(&drive, op, latency));
            }
        }
        self.counters("granary_drive_events_total", "What a drive has done, by name.", ["drive", "event"], &events)?;
        let mut family = MetricFamily::default();
        family.set_name("granary_drive_seconds".to_owned());
        family.set_help("How long a drive's operations took; `commit` runs from the call to durable.".to_owned());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(times);
        self.families.push(family);
        Ok(())
    }
}

/// A run's times to the first byte as a Prometheus histogram.
fn first_byte_metric(one: &Sums) -> Metric {
    let bounded = (6..26).map(|power| {
        let bound_us = 1u64 << power;
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(one.first_byte_within(bound_us));
        bucket.set_upper_bound(bound_us as f64 / 1e6);
        bucket
    });
    let bounded: Vec<Bucket> = bounded.collect();
    let mut histogram = Histogram::default();
    histogram.set_sample_count(one.first_byte_within(u64::MAX));
    histogram.set_sample_sum(one.get("first_byte_us") as f64 / 1e6);
    histogram.set_bucket(bounded);
    let mut metric =
        Metric::from_label([("run", &one.run), ("bucket", &one.bucket)].map(|(name, value)| label(name, value)).into());
    metric.set_histogram(histogram);
    metric
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

/// A drive's latency buckets (powers of two of a microsecond) as a Prometheus histogram.
fn times_metric(drive: &str, op: &str, latency: &Latency) -> Metric {
    let mut total = 0;
    let counts = latency.buckets();
    let bounded = counts.iter().take(counts.len() - 1).enumerate().map(|(power, count)| {
        total += count;
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(total);
        bucket.set_upper_bound((1u64 << power) as f64 / 1e6);
        bucket
    });
    let buckets: Vec<Bucket> = bounded.collect();
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(latency.total_us() as f64 / 1e6);
    let labels = [("drive", drive), ("op", op)].map(|(name, value)| label(name, value));
    let mut metric = Metric::from_label(labels.into());
    metric.set_histogram(histogram);
    metric
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_operation_and_status_class() {
        let metrics = Metrics::new(8).unwrap();
        let done = |op, status, bytes_in, bytes_out, micros| {
            let (bucket, run) = (Some("data"), Some("r-1"));
            let (first_byte_micros, cache_hits) = (micros, 3);
            let ended = Ended {
                op,
                status,
                bytes_in,
                bytes_out,
                micros,
                bucket,
                run,
                first_byte_micros,
                cache_hits,
                ..Ended::default()
            };
            metrics.done(&ended);
        };
        done("GetObject", 200, 0, 100, 1_500);
        done("GetObject", 206, 0, 50, 500);
        done("PutObject", 503, 7, 0, 500);
        let page = String::from_utf8(metrics.render(None, true).unwrap()).unwrap();
        for line in [
            "granary_requests_total{op=\"GetObject\",status=\"2xx\"} 2",
            "granary_requests_total{op=\"PutObject\",status=\"5xx\"} 1",
            "granary_request_seconds_bucket{op=\"GetObject\",le=\"0.001\"} 1",
            "granary_request_seconds_count{op=\"GetObject\"} 2",
            "granary_request_bytes_total 7",
            "granary_response_bytes_total 150",
            "granary_ready 1",
            "granary_run_requests_total{bucket=\"data\",run=\"r-1\"} 3",
            "granary_run_cache_chunks_total{bucket=\"data\",outcome=\"hit\",run=\"r-1\"} 9",
            "granary_run_first_byte_seconds_bucket{run=\"r-1\",bucket=\"data\",le=\"0.000512\"} 2",
            "granary_run_first_byte_seconds_count{run=\"r-1\",bucket=\"data\"} 3",
            "granary_run_request_seconds_total{bucket=\"data\",run=\"r-1\"} 0.0025",
        ] {
            assert!(page.lines().any(|found| found == line), "no `{line}` in\n{page}");
        }
    }
}
