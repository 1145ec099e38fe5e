//! Load on any S3 endpoint: what it takes, what it costs, how many accelerators it keeps busy.
//!
//! [`main`] is `granary-bench`; [`training`] and [`checkpoint`] are `granary bench`.
//!
//! A closed loop: each of `--concurrency` connections has one request in flight, and the next
//! begins when the last has ended. Latencies are therefore those of a server under just that many
//! clients; they say nothing of an open stream of arrivals. Figures are per slice; with `--against`
//! two endpoints take turns in short slices and are compared pair by pair.

pub mod checkpoint;
mod cli;
mod client;
mod endpoint;
#[cfg(test)]
mod fake;
mod keys;
mod multipart;
mod ops;
mod payload;
mod procstat;
mod report;
mod runner;
mod sigv4;
mod stats;
pub mod target;
pub mod training;

use clap::Parser;
use cli::{Args, Signing, Workload};
use endpoint::{Endpoint, EndpointError, Trust};
use keys::{Choice, Chooser, KeySpace};
use ops::{OpKind, Plan};
use payload::Payload;
use report::{Report, Side};
use runner::{Bounds, Pool, RunError, turns};
use sigv4::{AmzClock, Credentials};
use stats::Slice;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Connections that write the keys a run needs, at least.
const FILL_CONCURRENCY: usize = 32;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("create bucket {bucket}: {source}")]
    Bucket { bucket: String, source: client::ClientError },
    #[error("preparing {url} failed: {errors} errors")]
    Prepare { url: String, errors: u64 },
    #[error("cannot write {path}: {source}")]
    Json { path: String, source: std::io::Error },
    #[error("runtime: {0}")]
    Runtime(#[from] std::io::Error),
}

/// The load generator's command line, from the process's arguments.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match bench(&args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(errors) => {
            eprintln!("granary-bench: {errors} operations failed");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("granary-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it all; the answer is the number of failed operations.
fn bench(args: &Args) -> Result<u64, BenchError> {
    check(args)?;
    let endpoints = endpoints(args)?;
    let payload = Payload::new(args.seed);
    if args.create_bucket {
        for endpoint in &endpoints {
            create_bucket(endpoint)?;
        }
    }
    let measured = match args.workload {
        Workload::Multipart => checkpoints(args, &endpoints, &payload)?,
        _ => operations(args, &endpoints, &payload)?,
    };
    let sides = ["A", "B"]
        .iter()
        .zip(&endpoints)
        .zip(&measured)
        .map(|((name, endpoint), slices)| Side::new(name, &endpoint.url, &endpoint.bucket, slices))
        .collect();
    let date = AmzClock::default().now().to_owned();
    let report = Report::new(args, label(args), date, sides);
    print!("{}", report.table());
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).map_err(std::io::Error::from);
        text.and_then(|text| std::fs::write(path, text + "\n"))
            .map_err(|source| BenchError::Json { path: path.display().to_string(), source })?;
    }
    Ok(report.error_count())
}

fn check(args: &Args) -> Result<(), BenchError> {
    let usage = |text: &str| Err(BenchError::Usage(text.to_owned()));
    if args.keys == 0 || args.concurrency == 0 || args.sizes.is_empty() {
        return usage("--keys, --concurrency and --sizes must not be empty");
    }
    if !(args.zipf_theta > 0.0 && args.zipf_theta < 1.0) {
        return usage("--zipf-theta must lie between 0 and 1");
    }
    if !(args.duration > 0.0 && args.duration < 1e6 && (0.0..1e6).contains(&args.warmup)) {
        return usage("--duration and --warmup are seconds below a million");
    }
    if args.part_size == 0 || args.object_size.div_ceil(args.part_size.max(1)) > 10_000 {
        return usage("an object has at most 10,000 parts: raise --part-size");
    }
    Ok(())
}

fn endpoints(args: &Args) -> Result<Vec<Arc<Endpoint>>, BenchError> {
    let trust = Trust { ca_file: args.ca_file.as_deref(), insecure: args.insecure };
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let credentials = |access: &str, secret: &str| match (env(access), env(secret)) {
        (Some(access_key), Some(secret_key)) => Ok(Credentials { access_key, secret_key }),
        _ => Err(BenchError::Usage(format!("set {access} and {secret}"))),
    };
    let url = args
        .endpoint
        .clone()
        .or_else(|| env("AWS_ENDPOINT_URL"))
        .ok_or_else(|| BenchError::Usage("give --endpoint or set AWS_ENDPOINT_URL".into()))?;
    let keys = credentials("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")?;
    let first = Endpoint::new(&url, trust, &args.bucket, &args.region, keys, args.server_pid)?;
    let mut endpoints = vec![Arc::new(first)];
    if let Some(url) = &args.against {
        let keys = credentials("AGAINST_ACCESS_KEY_ID", "AGAINST_SECRET_ACCESS_KEY")?;
        let bucket = args.against_bucket.as_deref().unwrap_or(&args.bucket);
        let region = args.against_region.as_deref().unwrap_or(&args.region);
        let second = Endpoint::new(url, trust, bucket, region, keys, args.against_pid)?;
        endpoints.push(Arc::new(second));
    }
    Ok(endpoints)
}

fn create_bucket(endpoint: &Arc<Endpoint>) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = format!("/{}", endpoint.bucket);
    let call =
        client::Call { method: http::Method::PUT, path: &path, query: "", range: None, body: client::Outgoing::Empty };
    let mut client = client::Client::new(endpoint.clone(), false);
    match runtime.block_on(client.fetch(&call)) {
        Ok(_) | Err(client::ClientError::Status { status: 409, .. }) => Ok(()),
        Err(source) => Err(BenchError::Bucket { bucket: endpoint.bucket.clone(), source }),
    }
}

fn plan(args: &Args, payload: &Payload) -> Plan {
    let mix = match args.workload {
        Workload::Put | Workload::Fill | Workload::Multipart => vec![(OpKind::Put, 1)],
        Workload::Get => vec![(OpKind::Get, 1)],
        Workload::Head => vec![(OpKind::Head, 1)],
        Workload::Delete => vec![(OpKind::Delete, 1)],
        Workload::List => vec![(OpKind::List, 1)],
        Workload::Mixed => args.mix.clone(),
    };
    let choice = match args.workload {
        Workload::Put => args.choose.unwrap_or(Choice::Sequential),
        Workload::Fill => Choice::Sequential,
        _ => args.choose.unwrap_or(Choice::Uniform),
    };
    let prefix = args.prefix.clone().unwrap_or_else(|| format!("bench-{}/", args.sizes[0]));
    Plan {
        mix,
        keys: KeySpace { prefix, count: args.keys, sizes: args.sizes.clone() },
        chooser: Chooser::new(choice, args.keys, args.zipf_theta),
        range: args.range.map(|length| (length, args.range_order)),
        max_keys: args.max_keys,
        verify_every: verify_every(args),
        timeout: Duration::from_secs(args.timeout),
        payload: payload.clone(),
    }
}

fn verify_every(args: &Args) -> u64 {
    if args.verify_all { 1 } else { args.verify }
}

fn slices(args: &Args, sides: usize) -> usize {
    args.slices.unwrap_or(if sides > 1 { 6 } else { 1 }).max(1)
}

fn operations(args: &Args, endpoints: &[Arc<Endpoint>], payload: &Payload) -> Result<Vec<Vec<Slice>>, BenchError> {
    let plan = plan(args, payload);
    let fill = Arc::new(Plan {
        mix: vec![(OpKind::Put, 1)],
        chooser: Chooser::new(Choice::Sequential, args.keys, args.zipf_theta),
        ..plan.clone()
    });
    let sign = args.payload == Signing::Signed;
    let everything = Bounds { duration: None, ops: Some(args.keys) };
    let plan = Arc::new(plan);
    let pool = Pool::start(endpoints, args.concurrency, args.threads, args.seed, sign)?;
    if args.workload == Workload::Fill {
        let sides = 0..endpoints.len();
        let filled = sides.map(|side| Ok(vec![pool.slice(side, &fill, everything, &zero())?]));
        return filled.collect();
    }
    let needs_keys = args.workload != Workload::Put;
    if needs_keys && !args.no_prepare {
        let fillers = args.concurrency.max(FILL_CONCURRENCY);
        let filler = Pool::start(endpoints, fillers, args.threads, args.seed, sign)?;
        for (side, endpoint) in endpoints.iter().enumerate() {
            let slice = filler.slice(side, &fill, everything, &zero())?;
            let errors = slice.recorder.error_count();
            if errors > 0 {
                return Err(BenchError::Prepare { url: endpoint.url.clone(), errors });
            }
        }
    }
    let cursors: Vec<Arc<AtomicU64>> = endpoints.iter().map(|_| zero()).collect();
    if args.warmup > 0.0 && args.workload != Workload::Delete {
        let bounds = Bounds { duration: Some(Duration::from_secs_f64(args.warmup)), ops: None };
        for (side, cursor) in cursors.iter().enumerate() {
            pool.slice(side, &plan, bounds, cursor)?;
        }
    }
    let slices = slices(args, endpoints.len());
    let bounds = Bounds {
        duration: Some(Duration::from_secs_f64(args.duration / slices as f64)),
        ops: args.ops.map(|ops| ops.div_ceil(slices as u64)),
    };
    let mut measured: Vec<Vec<Slice>> = endpoints.iter().map(|_| Vec::new()).collect();
    for side in turns(endpoints.len(), slices) {
        measured[side].push(pool.slice(side, &plan, bounds, &cursors[side])?);
    }
    if args.cleanup {
        let drop = Arc::new(Plan { mix: vec![(OpKind::Delete, 1)], ..(*plan).clone() });
        for side in 0..endpoints.len() {
            pool.slice(side, &drop, everything, &zero())?;
        }
    }
    Ok(measured)
}

fn zero() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(0))
}

fn checkpoints(args: &Args, endpoints: &[Arc<Endpoint>], payload: &Payload) -> Result<Vec<Vec<Slice>>, BenchError> {
    let checkpoint = multipart::Checkpoint {
        object_bytes: args.object_size,
        part_bytes: args.part_size,
        parts_in_flight: args.parts_in_flight,
        verify_every: verify_every(args),
        payload: payload.clone(),
        prefix: args.prefix.clone().unwrap_or_else(|| "bench-multipart/".into()),
        cleanup: args.cleanup,
    };
    let uploads = usize::try_from(args.ops.unwrap_or(1)).unwrap_or(1);
    let mut measured: Vec<Vec<Slice>> = endpoints.iter().map(|_| Vec::new()).collect();
    for (turn, side) in turns(endpoints.len(), uploads).into_iter().enumerate() {
        let sign = args.payload == Signing::Signed;
        measured[side].push(multipart::upload(&endpoints[side], &checkpoint, turn as u64, sign)?);
    }
    Ok(measured)
}

fn label(args: &Args) -> String {
    if let Some(label) = &args.label {
        return label.clone();
    }
    let workload = format!("{:?}", args.workload).to_lowercase();
    match args.workload {
        Workload::Multipart => format!(
            "{workload}: {} bytes in parts of {}, {} in flight",
            args.object_size, args.part_size, args.parts_in_flight
        ),
        _ => format!(
            "{workload}: sizes {:?}, {} keys, {} connections{}",
            args.sizes,
            args.keys,
            args.concurrency,
            args.range.map_or_else(String::new, |length| format!(", ranges of {length}"))
        ),
    }
}
