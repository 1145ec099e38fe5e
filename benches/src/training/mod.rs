//! `granary bench training`: how busy accelerators stay that train from an endpoint, in MLPerf Storage's way.
//!
//! An accelerator is a task that takes a batch, sleeps for as long as computing on it would take, and takes the next. Workers read
//! batches ahead of it. Its utilisation is the time slept, by the profile, over the time from its first batch to its last;
//! what comes before the first batch is not counted, as in MLPerf Storage. Without `--accelerators` it looks for the largest number
//! that stays busy: doubling, then halving the gap.
//!
//! What it leaves out of MLPerf Storage's rules: a data set of five times the clients' memory (choose `--data-size`; this client keeps
//! nothing of what it reads), five runs, and reading through frameworks. Its figures compare settings and servers, and
//! are no submission.

mod dataset;
mod profile;
mod reader;

use crate::client::{Client, ClientError};
use crate::endpoint::Endpoint;
use crate::keys::parse_bytes;
use crate::procstat;
use crate::target::{BenchError, TargetArgs};
use clap::Args;
use dataset::Dataset;
use hdrhistogram::Histogram;
pub use profile::{By, Profile};
use reader::{Reader, Reading};
use serde::Serialize;
use serde_json::json;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Batches that one accelerator computes at least, however short the run.
const BATCHES_MIN: u64 = 5;

/// `granary bench training`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct TrainingArgs {
    /// Kind of training
    #[arg(long, value_enum)]
    pub profile: Profile,
    /// Accelerators to emulate; left out: as many as stay busy
    #[arg(long, value_name = "N")]
    pub accelerators: Option<u64>,
    /// Most accelerators that are tried when none are named
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub accelerators_max: u64,
    /// Utilisation that counts as busy, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 90.0)]
    pub busy: f64,
    /// Seconds that each number of accelerators is measured for
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
    /// Bytes of the data set, made once; more than any cache on the way holds
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "4GiB")]
    pub data_size: u64,
    /// What keys begin with
    #[arg(long, default_value = "training/")]
    pub prefix: String,
    /// How samples are read [default: the profile's]
    #[arg(long, value_enum)]
    pub by: Option<By>,
    /// Samples in a batch [default: the profile's]
    #[arg(long, value_name = "N")]
    pub batch: Option<u64>,
    /// Milliseconds that an accelerator computes on a batch; 0: as fast as batches come [default: the profile's]
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    pub compute_ms: Option<f64>,
    /// Bytes of a sample [default: the profile's]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub sample_bytes: Option<u64>,
    /// Samples in an object [default: the profile's]
    #[arg(long, value_name = "N")]
    pub samples_per_object: Option<u64>,
    /// Workers that read for one accelerator [default: the profile's]
    #[arg(long, value_name = "N")]
    pub readers: Option<usize>,
    /// Batches that each worker reads ahead
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub prefetch: usize,
    /// Compare the content of every n-th sample that a worker reads; 0: lengths only
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub verify: u64,
    /// Seed of contents and orders
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Only make the data set
    #[arg(long)]
    pub prepare_only: bool,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// What a number of accelerators came to.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    accelerators: u64,
    /// The mean over accelerators, and the least busy one's.
    utilisation_percent: f64,
    utilisation_percent_min: f64,
    samples_per_s: f64,
    mb_per_s: f64,
    batches: u64,
    /// How long workers took to read a batch.
    batch_ms_p50: f64,
    batch_ms_p99: f64,
    seconds: f64,
    client_cores: f64,
    server_cores: Option<f64>,
}

/// Runs it. Whether the number of accelerators that was asked for stays busy; always, where it was searched for.
///
/// # Errors
/// [`BenchError`].
pub fn run(args: &TrainingArgs) -> Result<bool, BenchError> {
    let shape = shape(args)?;
    let endpoint = args.target.endpoint()?;
    let dataset = Dataset::new(args.profile, shape, &args.prefix, args.data_size, args.seed);
    if u32::try_from(dataset.samples()).is_err() {
        return Err(BenchError::Usage(
            "the data set would have over four billion samples: use a smaller --data-size".into(),
        ));
    }
    let runtime = args.target.runtime()?;
    runtime.block_on(async {
        let was_made = dataset.prepare(&endpoint, args.seed, Duration::from_secs(args.target.timeout)).await?;
        if args.prepare_only {
            let what = if was_made { "made" } else { "there already" };
            println!(
                "{what}: s3://{}/{}: {} objects, {} samples, {} bytes",
                endpoint.bucket,
                dataset.prefix,
                dataset.objects,
                dataset.samples(),
                dataset.bytes()
            );
            return Ok(true);
        }
        let mut tried: Vec<Measured> = Vec::new();
        let busiest = match args.accelerators {
            Some(count) => {
                let measured = measure(args, &endpoint, &dataset, count).await?;
                let busy = (measured.utilisation_percent >= args.busy).then_some(count);
                tried.push(measured);
                busy
            }
            None => {
                let mut search = Search::new(args.accelerators_max);
                while let Some(count) = search.next() {
                    let measured = measure(args, &endpoint, &dataset, count).await?;
                    eprint!("{}", row(&measured));
                    search.tell(count, measured.utilisation_percent >= args.busy);
                    tried.push(measured);
                }
                (search.good > 0).then_some(search.good)
            }
        };
        tried.sort_by_key(|measured| measured.accelerators);
        report(args, &endpoint, &dataset, &tried, busiest)?;
        Ok(args.accelerators.is_none() || busiest.is_some())
    })
}

fn shape(args: &TrainingArgs) -> Result<profile::Shape, BenchError> {
    let mut shape = args.profile.shape();
    if let Some(bytes) = args.sample_bytes {
        // Sizes keep their spread.
        shape.sample_bytes_deviation =
            (shape.sample_bytes_deviation as f64 * bytes as f64 / shape.sample_bytes as f64) as u64;
        shape.sample_bytes = bytes;
    }
    shape.by = args.by.unwrap_or(shape.by);
    shape.batch = args.batch.unwrap_or(shape.batch);
    shape.readers = args.readers.unwrap_or(shape.readers);
    shape.samples_per_object = args.samples_per_object.unwrap_or(shape.samples_per_object);
    shape.compute_s = args.compute_ms.map_or(shape.compute_s, |ms| ms / 1e3);
    shape.check().map_err(BenchError::Usage)?;
    let usage = |wrong: bool, what: &str| if wrong { Err(BenchError::Usage(what.to_owned())) } else { Ok(()) };
    usage(
        args.accelerators == Some(0) || args.accelerators_max == 0,
        "--accelerators and --accelerators-max are at least 1",
    )?;
    usage(args.accelerators.unwrap_or(0).max(args.accelerators_max) > 4096, "at most 4096 accelerators")?;
    usage(!(args.seconds > 0.0 && args.seconds < 86_400.0), "--seconds is above 0 and below a day")?;
    usage(!(args.busy > 0.0 && args.busy <= 100.0), "--busy is above 0 and at most 100")?;
    usage(args.prefetch == 0 || args.prefetch > 64, "--prefetch is from 1 to 64")?;
    let odd = !reader::is_plain(&args.prefix)
        || args.prefix.starts_with('/')
        || (!args.prefix.is_empty() && !args.prefix.ends_with('/'));
    usage(odd, "--prefix is a folder of plain letters, digits, `-`, `_`, `.` and `/`, and ends in a slash")?;
    Ok(shape)
}

/// Looks for the largest number that is good: doubling until one is not, then halving the gap.
struct Search {
    good: u64,
    bad: Option<u64>,
    most: u64,
}

impl Search {
    const fn new(most: u64) -> Self {
        Self { good: 0, bad: None, most }
    }

    fn next(&self) -> Option<u64> {
        let next = match self.bad {
            None => (self.good * 2).clamp(1, self.most),
            Some(bad) => self.good.midpoint(bad),
        };
        (next > self.good).then_some(next)
    }

    fn tell(&mut self, count: u64, is_good: bool) {
        if is_good {
            self.good = self.good.max(count);
        } else {
            self.bad = Some(self.bad.map_or(count, |bad| bad.min(count)));
        }
    }
}

/// What one accelerator came to.
struct Busy {
    computed: Duration,
    elapsed: Duration,
    batches: u64,
    bytes: u64,
}

type Batch = Result<(u64, Duration), ClientError>;

async fn measure(
    args: &TrainingArgs,
    endpoint: &Arc<Endpoint>,
    dataset: &Dataset,
    count: u64,
) -> Result<Measured, BenchError> {
    let reading = Arc::new(Reading::new(dataset.clone(), count, args.verify, args.seed));
    let (server, client) = (endpoint.server_pid.and_then(procstat::usage), procstat::own_usage());
    let began = Instant::now();
    let timeout = Duration::from_secs(args.target.timeout);
    let mut accelerators = tokio::task::JoinSet::new();
    for accelerator in 0..count {
        let mut inputs = Vec::with_capacity(dataset.shape.readers);
        for worker in 0..dataset.shape.readers as u64 {
            let (sender, receiver) = mpsc::channel::<Batch>(args.prefetch);
            let reader =
                Reader::new(Client::new(Arc::clone(endpoint), false), Arc::clone(&reading), accelerator, worker);
            tokio::spawn(read_ahead(reader, worker, dataset.shape.readers as u64, timeout, sender));
            inputs.push(receiver);
        }
        let (compute, seconds) = (dataset.shape.compute(), args.seconds);
        accelerators.spawn(accelerate(inputs, compute, Duration::from_secs_f64(seconds)));
    }
    let mut all = Vec::new();
    let mut times = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3)
        .map_err(|error| BenchError::Usage(format!("a histogram: {error}")))?;
    while let Some(done) = accelerators.join_next().await {
        let (busy, took) = done
            .map_err(|error| BenchError::Usage(format!("an accelerator ended early: {error}")))?
            .map_err(|error| explained(dataset, &error))?;
        took.iter().for_each(|time| times.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)));
        all.push(busy);
    }
    let seconds = began.elapsed().as_secs_f64();
    let after = (endpoint.server_pid.and_then(procstat::usage), procstat::own_usage());
    let share = |busy: &Busy| busy.computed.as_secs_f64() * 100.0 / busy.elapsed.as_secs_f64().max(1e-9);
    let rate = |value: &dyn Fn(&Busy) -> u64| {
        all.iter().map(|busy| value(busy) as f64 / busy.elapsed.as_secs_f64().max(1e-9)).sum::<f64>()
    };
    Ok(Measured {
        accelerators: count,
        utilisation_percent: all.iter().map(share).sum::<f64>() / count as f64,
        utilisation_percent_min: all.iter().map(share).fold(f64::INFINITY, f64::min),
        samples_per_s: rate(&|busy| busy.batches * dataset.shape.batch),
        mb_per_s: rate(&|busy| busy.bytes) / 1e6,
        batches: all.iter().map(|busy| busy.batches).sum(),
        batch_ms_p50: times.value_at_quantile(0.50) as f64 / 1e3,
        batch_ms_p99: times.value_at_quantile(0.99) as f64 / 1e3,
        seconds,
        client_cores: (after.1.cpu_s - client.cpu_s) / seconds,
        server_cores: server.zip(after.0).map(|(before, after)| (after.cpu_s - before.cpu_s) / seconds),
    })
}

/// What to do about an error that has a usual cause.
fn explained(dataset: &Dataset, error: &ClientError) -> BenchError {
    let hint = match (dataset.shape.by, error) {
        (By::Epoch, ClientError::Status { status: 400 | 404, .. }) => {
            format!(" (epochs are of frozen datasets: granary dataset freeze BUCKET/{})", dataset.prefix)
        }
        (By::Member | By::Batch | By::Epoch, ClientError::Status { .. } | ClientError::Answer(_)) => {
            " (--by member, batch and epoch need a Granary)".to_owned()
        }
        _ => String::new(),
    };
    BenchError::Request { what: "reading a batch".to_owned(), why: format!("{error}{hint}") }
}

/// Reads every `step`th batch from `number` on, until nobody wants more.
async fn read_ahead(mut reader: Reader, mut number: u64, step: u64, timeout: Duration, sender: mpsc::Sender<Batch>) {
    loop {
        let began = Instant::now();
        let read =
            tokio::time::timeout(timeout, reader.batch(number)).await.unwrap_or(Err(ClientError::Timeout(timeout)));
        let failed = read.is_err();
        if sender.send(read.map(|bytes| (bytes, began.elapsed()))).await.is_err() || failed {
            return;
        }
        number += step;
    }
}

/// Takes batches in their order and computes on each, for `patience` from the first on.
async fn accelerate(
    mut inputs: Vec<mpsc::Receiver<Batch>>,
    compute: Duration,
    patience: Duration,
) -> Result<(Busy, Vec<Duration>), ClientError> {
    let mut times = Vec::new();
    let mut busy = Busy { computed: Duration::ZERO, elapsed: Duration::ZERO, batches: 0, bytes: 0 };
    let mut began = None;
    for turn in (0..inputs.len()).cycle() {
        let (bytes, took) = inputs[turn].recv().await.unwrap_or(Err(ClientError::Answer("a reader ended early")))?;
        let since = *began.get_or_insert_with(Instant::now);
        times.push(took);
        if !compute.is_zero() {
            tokio::time::sleep(compute).await;
        }
        // What the clock slept longer is not computing.
        busy.computed += compute;
        busy.batches += 1;
        busy.bytes += bytes;
        busy.elapsed = since.elapsed();
        if busy.elapsed >= patience && busy.batches >= BATCHES_MIN {
            break;
        }
    }
    Ok((busy, times))
}

fn row(one: &Measured) -> String {
    format!(
        "{:>12} {:>8.1} {:>8.1} {:>11.0} {:>9.1} {:>10.1} {:>10.1} {:>8.2} {:>8}\n",
        one.accelerators,
        one.utilisation_percent,
        one.utilisation_percent_min,
        one.samples_per_s,
        one.mb_per_s,
        one.batch_ms_p50,
        one.batch_ms_p99,
        one.client_cores,
        one.server_cores.map_or_else(|| "-".to_owned(), |cores| format!("{cores:.2}")),
    )
}

fn report(
    args: &TrainingArgs,
    endpoint: &Endpoint,
    dataset: &Dataset,
    tried: &[Measured],
    busiest: Option<u64>,
) -> Result<(), BenchError> {
    let shape = &dataset.shape;
    let mut out = format!(
        "{} from {}/{}/{}: {} objects, {:.2} GB; batches of {} samples, {:.0} ms of computing each, {} readers each, by {:?}\n\n",
        args.profile.name(),
        endpoint.url,
        endpoint.bucket,
        dataset.prefix,
        dataset.objects,
        dataset.bytes() as f64 / 1e9,
        shape.batch,
        shape.compute_s * 1e3,
        shape.readers,
        shape.by,
    );
    let _ = writeln!(
        out,
        "{:>12} {:>8} {:>8} {:>11} {:>9} {:>10} {:>10} {:>8} {:>8}",
        "ACCELERATORS", "BUSY %", "LEAST %", "SAMPLES/s", "MB/s", "BATCH p50", "p99 ms", "CLIENT", "SERVER cores"
    );
    tried.iter().for_each(|one| out.push_str(&row(one)));
    let busy = args.busy;
    let verdict = match (busiest, args.accelerators) {
        (Some(count), Some(_)) => format!("{count} accelerators are kept at least {busy} % busy\n"),
        (None, Some(count)) => format!("{count} accelerators are NOT kept {busy} % busy\n"),
        (Some(count), None) if count == args.accelerators_max => {
            format!("at least {count} accelerators are kept {busy} % busy (no more were tried: --accelerators-max)\n")
        }
        (Some(count), None) => format!("{count} accelerators are kept at least {busy} % busy, {} are not\n", count + 1),
        (None, None) => format!("not one accelerator is kept {busy} % busy\n"),
    };
    out.push('\n');
    out.push_str(&verdict);
    let figures = json!({
        "bench": "training", "profile": args.profile, "endpoint": endpoint.url, "bucket": endpoint.bucket, "prefix": dataset.prefix,
        "shape": shape, "objects": dataset.objects, "samples": dataset.samples(), "bytes": dataset.bytes(),
        "prefetch": args.prefetch, "busy_percent": args.busy, "runs": tried, "accelerators_busy": busiest,
        "verdict": verdict.trim_end(),
    });
    args.target.report(&out, &figures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Trust;
    use crate::fake::{Faults, serve};
    use crate::sigv4::Credentials;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: TrainingArgs,
    }

    fn args(line: &str) -> TrainingArgs {
        let words = ["x", "--endpoint", "http://127.0.0.1:1"].into_iter().chain(line.split_ascii_whitespace());
        <Line as clap::Parser>::parse_from(words).args
    }

    #[test]
    fn the_search_ends_at_the_largest_good_number() {
        for (limit, most) in [(0, 64), (1, 64), (5, 64), (12, 64), (64, 64), (100, 64), (7, 7), (3, 1000)] {
            let mut search = Search::new(most);
            let mut asked = 0;
            while let Some(count) = search.next() {
                assert!(count <= most);
                search.tell(count, count <= limit);
                asked += 1;
                assert!(asked < 30, "it ends");
            }
            assert_eq!(search.good, limit.min(most), "limit {limit}, most {most}");
        }
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        for (line, said) in [
            ("--profile llm --by epoch", "--profile webdataset"),
            ("--profile resnet50 --by object", "--by object"),
            ("--profile llm --accelerators 0", "at least 1"),
            ("--profile llm --prefix a\"b/", "--prefix"),
            ("--profile llm --compute-ms -1", "--compute-ms"),
        ] {
            let refused = shape(&args(line)).expect_err(line).to_string();
            assert!(refused.contains(said), "{line}: {refused}");
        }
        let small = shape(&args("--profile unet3d --sample-bytes 1MB")).expect("it can be");
        assert_eq!(small.sample_bytes_deviation / 1000, 466, "sizes keep their spread");
    }

    /// A run against the fake: what is read is what was written, and what is wrong ends it.
    fn run_against(faults: Faults, line: &str) -> Result<Measured, BenchError> {
        let url = format!("http://{}", serve(faults));
        let keys = Credentials { access_key: "a".into(), secret_key: "b".into() };
        let endpoint =
            Arc::new(Endpoint::new(&url, Trust::default(), "bucket", "us-east-1", keys, None).expect("loopback"));
        let args = args(&format!("{line} --data-size 400KB --seconds 0.05 --compute-ms 1 --verify 1"));
        let shape = shape(&args).expect("settings are fine");
        let dataset = Dataset::new(args.profile, shape, &args.prefix, args.data_size, args.seed);
        let runtime = args.target.runtime()?;
        runtime.block_on(async {
            if faults.flip_at.is_none() && !faults.short {
                assert!(dataset.prepare(&endpoint, args.seed, Duration::from_secs(9)).await?);
                assert!(!dataset.prepare(&endpoint, args.seed, Duration::from_secs(9)).await?, "it is there");
                let other = dataset.prepare(&endpoint, args.seed + 1, Duration::from_secs(9)).await;
                assert!(matches!(other, Err(BenchError::Usage(_))), "made otherwise");
            } else {
                dataset.prepare(&endpoint, args.seed, Duration::from_secs(9)).await?;
            }
            measure(&args, &endpoint, &dataset, 2).await
        })
    }

    #[test]
    fn every_way_of_reading_reads_what_was_written() {
        for line in [
            "--profile unet3d --sample-bytes 20KB --batch 2",
            "--profile resnet50 --sample-bytes 1000 --samples-per-object 20 --batch 7",
            "--profile llm --samples-per-object 4 --batch 3",
            "--profile webdataset --sample-bytes 1000 --samples-per-object 20 --batch 7",
            "--profile webdataset --sample-bytes 1000 --samples-per-object 20 --batch 7 --by range",
        ] {
            let measured = run_against(Faults::default(), line).expect(line);
            assert!(measured.batches >= 2 * BATCHES_MIN && measured.mb_per_s > 0.0, "{line}");
            assert!(measured.utilisation_percent > 0.0 && measured.utilisation_percent <= 100.0, "{line}");
        }
    }

    #[test]
    fn wrong_and_missing_bytes_end_the_run() {
        let line = "--profile llm --samples-per-object 4 --batch 3";
        for faults in [
            Faults { flip_at: Some(100), ..Faults::default() },
            Faults { short: true, ..Faults::default() },
            Faults { slow_down_every: Some(3), ..Faults::default() },
        ] {
            assert!(matches!(run_against(faults, line), Err(BenchError::Request { .. })), "{faults:?}");
        }
    }
}
