//! What was measured: latencies, counts, CPU; how slices add up and how two endpoints compare.
//!
//! Guarantees: percentiles are HdrHistogram's, to three digits; a ratio of two endpoints is the
//! median over pairs of slices that ran next to each other, so that slow drift of the machine
//! cancels. Leaves to others: taking the measurements, and printing.

use crate::procstat::Usage;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// Longest latency told apart: ten minutes, in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Counts of one slice of one worker or of many.
pub(crate) struct Recorder {
    latency_us: Histogram<u64>,
    pub(crate) ops: u64,
    pub(crate) bytes: u64,
    pub(crate) verified: u64,
    pub(crate) verified_bytes: u64,
    pub(crate) not_found: u64,
    pub(crate) listed_keys: u64,
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Recorder {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let latency_us =
            Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("constant bounds that the histogram allows");
        Self {
            latency_us,
            ops: 0,
            bytes: 0,
            verified: 0,
            verified_bytes: 0,
            not_found: 0,
            listed_keys: 0,
            errors: BTreeMap::new(),
        }
    }

    /// One good operation that took `latency_us` and moved `bytes` of object data.
    pub(crate) fn done(&mut self, latency_us: u64, bytes: u64) {
        self.latency_us.saturating_record(latency_us.max(1));
        self.ops += 1;
        self.bytes += bytes;
    }

    /// One failed operation.
    pub(crate) fn failed(&mut self, kind: String) {
        *self.errors.entry(kind).or_insert(0) += 1;
    }

    /// Adds what another recorder counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.latency_us.add(&other.latency_us).expect("same bounds on both sides");
        self.ops += other.ops;
        self.bytes += other.bytes;
        self.verified += other.verified;
        self.verified_bytes += other.verified_bytes;
        self.not_found += other.not_found;
        self.listed_keys += other.listed_keys;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_insert(0) += count;
        }
    }

    /// Failed operations.
    pub(crate) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// One slice: a recorder, how long it ran, and what it cost.
pub(crate) struct Slice {
    pub(crate) recorder: Recorder,
    pub(crate) elapsed_s: f64,
    /// Server CPU during the slice, where the process is known.
    pub(crate) server_cpu_s: Option<f64>,
    pub(crate) client_cpu_s: f64,
    pub(crate) server_rss_bytes: Option<u64>,
    pub(crate) server_rss_bytes_max: Option<u64>,
}

impl Slice {
    /// A slice from what was counted and what `/proc` said before and after.
    pub(crate) fn new(
        recorder: Recorder,
        elapsed_s: f64,
        server: (Option<Usage>, Option<Usage>),
        client: (Usage, Usage),
    ) -> Self {
        Self {
            recorder,
            elapsed_s,
            server_cpu_s: server.0.zip(server.1).map(|(before, after)| after.cpu_s - before.cpu_s),
            client_cpu_s: client.1.cpu_s - client.0.cpu_s,
            server_rss_bytes: server.1.map(|usage| usage.rss_bytes),
            server_rss_bytes_max: server.1.map(|usage| usage.rss_bytes_max),
        }
    }

    /// All slices of one endpoint as one. Of an empty list, an empty slice.
    pub(crate) fn total(slices: &[Self]) -> Self {
        let mut recorder = Recorder::new();
        for slice in slices {
            recorder.add(&slice.recorder);
        }
        Self {
            recorder,
            elapsed_s: slices.iter().map(|s| s.elapsed_s).sum(),
            server_cpu_s: slices.iter().map(|s| s.server_cpu_s).sum(),
            client_cpu_s: slices.iter().map(|s| s.client_cpu_s).sum(),
            server_rss_bytes: slices.last().and_then(|s| s.server_rss_bytes),
            server_rss_bytes_max: slices.iter().filter_map(|s| s.server_rss_bytes_max).max(),
        }
    }

    /// The slice as figures.
    pub(crate) fn summary(&self) -> Summary {
        let r = &self.recorder;
        let per = |amount: f64, by: f64| if by > 0.0 { amount / by } else { 0.0 };
        let percentile = |q: f64| r.latency_us.value_at_quantile(q);
        let cost = |cpu_s: f64| CpuCost {
            cpu_s,
            cores: per(cpu_s, self.elapsed_s),
            cpu_us_per_op: per(cpu_s * 1e6, r.ops as f64),
            cpu_s_per_1000_ops: per(cpu_s * 1e3, r.ops as f64),
            cpu_s_per_gb: per(cpu_s * 1e9, r.bytes as f64),
        };
        Summary {
            ops: r.ops,
            bytes: r.bytes,
            elapsed_s: self.elapsed_s,
            ops_per_s: per(r.ops as f64, self.elapsed_s),
            mb_per_s: per(r.bytes as f64 / 1e6, self.elapsed_s),
            latency_us: Latency {
                mean: r.latency_us.mean(),
                p50: percentile(0.5),
                p90: percentile(0.9),
                p99: percentile(0.99),
                p999: percentile(0.999),
                max: r.latency_us.max(),
            },
            errors: r.errors.clone(),
            error_count: r.error_count(),
            not_found: r.not_found,
            verified: r.verified,
            verified_bytes: r.verified_bytes,
            listed_keys: r.listed_keys,
            server: self.server_cpu_s.map(cost),
            server_rss_bytes: self.server_rss_bytes,
            server_rss_bytes_max: self.server_rss_bytes_max,
            client: cost(self.client_cpu_s),
        }
    }
}

/// Latencies in microseconds, from the first byte sent to the last byte read.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

/// What the work cost a process. GB are 10⁹ bytes of object data.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CpuCost {
    pub(crate) cpu_s: f64,
    pub(crate) cores: f64,
    pub(crate) cpu_us_per_op: f64,
    pub(crate) cpu_s_per_1000_ops: f64,
    pub(crate) cpu_s_per_gb: f64,
}

/// A slice in figures. MB are 10⁶ bytes of object data.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) ops: u64,
    pub(crate) bytes: u64,
    pub(crate) elapsed_s: f64,
    pub(crate) ops_per_s: f64,
    pub(crate) mb_per_s: f64,
    pub(crate) latency_us: Latency,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) error_count: u64,
    pub(crate) not_found: u64,
    pub(crate) verified: u64,
    pub(crate) verified_bytes: u64,
    pub(crate) listed_keys: u64,
    pub(crate) server: Option<CpuCost>,
    pub(crate) server_rss_bytes: Option<u64>,
    pub(crate) server_rss_bytes_max: Option<u64>,
    pub(crate) client: CpuCost,
}

/// One figure of the first endpoint over the same of the second: median, least and greatest over pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// How the first endpoint compares with the second. Above 1 is more: better for rates, worse for times and cost.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratios {
    pub(crate) pairs: usize,
    pub(crate) ops_per_s: Option<Ratio>,
    pub(crate) mb_per_s: Option<Ratio>,
    pub(crate) p50: Option<Ratio>,
    pub(crate) p99: Option<Ratio>,
    pub(crate) server_cpu_per_op: Option<Ratio>,
}

/// Compares slice `i` of one endpoint with slice `i` of the other.
pub(crate) fn ratios(ours: &[Summary], theirs: &[Summary]) -> Ratios {
    let of = |figure: &dyn Fn(&Summary) -> Option<f64>| {
        ratio(ours.iter().zip(theirs).filter_map(|(a, b)| Some((figure(a)?, figure(b)?))))
    };
    Ratios {
        pairs: ours.len().min(theirs.len()),
        ops_per_s: of(&|s| Some(s.ops_per_s)),
        mb_per_s: of(&|s| Some(s.mb_per_s)),
        p50: of(&|s| Some(s.latency_us.p50 as f64)),
        p99: of(&|s| Some(s.latency_us.p99 as f64)),
        server_cpu_per_op: of(&|s| s.server.as_ref().map(|cost| cost.cpu_us_per_op)),
    }
}

/// Median, least and greatest of the quotients; pairs with nothing on one side are left out.
pub(crate) fn ratio(pairs: impl Iterator<Item = (f64, f64)>) -> Option<Ratio> {
    let mut quotients: Vec<f64> = pairs.filter(|(a, b)| *a > 0.0 && *b > 0.0).map(|(a, b)| a / b).collect();
    quotients.sort_by(f64::total_cmp);
    let (min, max) = (*quotients.first()?, *quotients.last()?);
    let middle = quotients.len() / 2;
    let median = if quotients.len() % 2 == 1 {
        quotients[middle]
    } else {
        f64::midpoint(quotients[middle - 1], quotients[middle])
    };
    Some(Ratio { median, min, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(ops: u64, elapsed_s: f64, cpu_s: f64) -> Slice {
        let mut recorder = Recorder::new();
        for i in 0..ops {
            recorder.done(i + 1, 1_000_000);
        }
        let usage = |cpu_s| Usage { cpu_s, rss_bytes: 10, rss_bytes_max: 20 };
        let server = (Some(usage(1.0)), Some(usage(1.0 + cpu_s)));
        Slice::new(recorder, elapsed_s, server, (usage(0.0), usage(0.5)))
    }

    #[test]
    fn a_slice_becomes_figures() {
        let summary = slice(1_000, 2.0, 4.0).summary();
        assert_eq!(summary.ops_per_s, 500.0);
        assert_eq!(summary.mb_per_s, 500.0);
        let server = summary.server.expect("a server was given");
        assert_eq!(server.cpu_s_per_gb, 4.0);
        assert_eq!(server.cpu_s_per_1000_ops, 4.0);
        assert_eq!(server.cores, 2.0);
        assert_eq!(summary.latency_us.p50, 500);
        assert!((990..=991).contains(&summary.latency_us.p99), "{}", summary.latency_us.p99);
        assert!((999..=1000).contains(&summary.latency_us.p999));
        assert_eq!(summary.server_rss_bytes_max, Some(20));
    }

    #[test]
    fn slices_add_up() {
        let mut bad = slice(10, 1.0, 1.0);
        bad.recorder.failed("503 SlowDown".into());
        let total = Slice::total(&[slice(30, 1.0, 2.0), bad]).summary();
        assert_eq!((total.ops, total.error_count), (40, 1));
        assert_eq!(total.ops_per_s, 20.0);
        assert_eq!(total.server.expect("both had one").cpu_s, 3.0);
        assert_eq!(Slice::total(&[]).summary().ops_per_s, 0.0);
    }

    #[test]
    fn ratio_is_the_median_of_pairs() {
        let pairs = [(10.0, 1.0), (6.0, 2.0), (8.0, 2.0)];
        let three = ratio(pairs.into_iter()).expect("three pairs");
        assert_eq!(three, Ratio { median: 4.0, min: 3.0, max: 10.0 });
        let two = ratio([(10.0, 1.0), (6.0, 1.0)].into_iter()).expect("two pairs");
        assert_eq!(two.median, 8.0);
        assert_eq!(ratio([(1.0, 0.0)].into_iter()), None);
    }

    #[test]
    fn drift_of_the_machine_cancels_in_ratios() {
        // The machine is twice as slow in the second half; the endpoint is three times as fast throughout.
        let ours: Vec<Summary> = [300, 300, 150, 150].map(|n| slice(n, 1.0, 1.0).summary()).into();
        let theirs: Vec<Summary> = [100, 100, 50, 50].map(|n| slice(n, 1.0, 1.0).summary()).into();
        let ratios = ratios(&ours, &theirs);
        assert_eq!(ratios.pairs, 4);
        assert_eq!(ratios.ops_per_s, Some(Ratio { median: 3.0, min: 3.0, max: 3.0 }));
        let cpu = ratios.server_cpu_per_op.expect("both sides were measured").median;
        assert!((cpu - 1.0 / 3.0).abs() < 1e-9);
    }
}
