//! `granary bench checkpoint`: saves and restores checkpoints as a training job's ranks do, and says for how long the
//! accelerators would stand still.
//!
//! Every rank writes its shard in parts, all ranks at once; a checkpoint is saved when the last shard is complete and its commit
//! marker is written. Restoring reads every shard back by parts, all ranks at once. The layout is torch.distributed.checkpoint's:
//! `step_N/__R_0.distcp` and `step_N/.metadata` last.

use crate::client::{Call, Client, ClientError, Outgoing};
use crate::endpoint::Endpoint;
use crate::keys::parse_bytes;
use crate::multipart::{self, Checkpoint};
use crate::payload::Payload;
use crate::procstat;
use crate::sigv4::uri_encode;
use crate::stats::Recorder;
use crate::target::{BenchError, TargetArgs};
use bytes::Bytes;
use clap::Args;
use futures::future::join_all;
use http::Method;
use serde::Serialize;
use serde_json::json;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Parts of an object, at most.
const PARTS_MAX: u64 = 10_000;
/// The smallest part that is not the last.
const PART_BYTES_MIN: u64 = 5 << 20;

/// `granary bench checkpoint`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct CheckpointArgs {
    /// Bytes of a checkpoint, all shards together
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "4GiB")]
    pub size: u64,
    /// Ranks, each with a shard of its own
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub ranks: u64,
    /// Bytes of a part
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "32MiB")]
    pub part_size: u64,
    /// Parts that each rank has in flight
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub parts_in_flight: usize,
    /// Checkpoints saved and restored
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rounds: u64,
    /// What keys begin with
    #[arg(long, default_value = "checkpoint/")]
    pub prefix: String,
    /// Leave the checkpoints there
    #[arg(long)]
    pub keep: bool,
    /// Save only
    #[arg(long)]
    pub no_restore: bool,
    /// Compare the content of every n-th part when restoring; 0: lengths only
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub verify: u64,
    /// Seed of contents
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// One checkpoint, saved or restored.
#[derive(Clone, Debug, Serialize)]
struct Moved {
    what: &'static str,
    round: u64,
    seconds: f64,
    gb_per_s: f64,
    /// How long the first and the last rank took.
    rank_s_min: f64,
    rank_s_max: f64,
    /// From the last shard's being complete to the commit marker's being written, of a save.
    commit_ms: Option<f64>,
    client_cores: f64,
    server_cores: Option<f64>,
}

/// Runs it.
///
/// # Errors
/// [`BenchError`].
pub fn run(args: &CheckpointArgs) -> Result<bool, BenchError> {
    check(args)?;
    let endpoint = args.target.endpoint()?;
    let payload = Payload::new(args.seed);
    make_bucket(&endpoint)?;
    let mut moved = Vec::new();
    for round in 0..args.rounds {
        moved.push(save(args, &endpoint, &payload, round)?);
        if !args.no_restore {
            moved.push(restore(args, &endpoint, &payload, round)?);
        }
        if !args.keep {
            remove(args, &endpoint, round)?;
        }
    }
    report(args, &endpoint, &moved)?;
    Ok(true)
}

fn check(args: &CheckpointArgs) -> Result<(), BenchError> {
    let usage = |wrong: bool, what: &str| if wrong { Err(BenchError::Usage(what.to_owned())) } else { Ok(()) };
    usage(args.ranks == 0 || args.ranks > 4096, "--ranks is from 1 to 4096")?;
    usage(args.rounds == 0, "--rounds is at least 1")?;
    usage(args.size < args.ranks, "--size is at least one byte for each rank")?;
    usage(args.parts_in_flight == 0 || args.parts_in_flight > 256, "--parts-in-flight is from 1 to 256")?;
    let shard = args.size.div_ceil(args.ranks);
    usage(args.part_size < PART_BYTES_MIN && args.part_size < shard, "--part-size is at least 5 MiB")?;
    usage(
        shard.div_ceil(args.part_size.max(1)) > PARTS_MAX,
        "a shard would have over 10,000 parts: use a larger --part-size",
    )?;
    let odd = args.prefix.starts_with('/') || (!args.prefix.is_empty() && !args.prefix.ends_with('/'));
    usage(odd, "--prefix is a folder and ends in a slash")
}

fn folder(args: &CheckpointArgs, round: u64) -> String {
    format!("{}step_{:08}/", args.prefix, round + 1)
}

fn shard_key(args: &CheckpointArgs, round: u64, rank: u64) -> String {
    format!("{}__{rank}_0.distcp", folder(args, round))
}

fn make_bucket(endpoint: &Arc<Endpoint>) -> Result<(), BenchError> {
    let path = format!("/{}", endpoint.bucket);
    let make = Call { method: Method::PUT, path: &path, query: "", range: None, body: Outgoing::Empty };
    match one(endpoint, &make)? {
        Ok(()) | Err(ClientError::Status { status: 409, .. }) => Ok(()),
        Err(error) => Err(BenchError::request(format!("making bucket {}", endpoint.bucket), &error)),
    }
}

/// One request on a connection of its own.
fn one(endpoint: &Arc<Endpoint>, call: &Call<'_>) -> Result<Result<(), ClientError>, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BenchError::system("starting a runtime"))?;
    let mut client = Client::new(Arc::clone(endpoint), false);
    Ok(runtime.block_on(client.fetch(call)).map(drop))
}

/// Runs every rank's work over some threads; the answer is how long each rank took.
fn each_rank(
    args: &CheckpointArgs,
    endpoint: &Arc<Endpoint>,
    payload: &Payload,
    work: impl AsyncFn(&mut [Client], &Checkpoint, u64) -> Result<(), ClientError> + Sync,
) -> Result<Vec<Duration>, BenchError> {
    let threads = (args.target.threads.max(1) as u64).min(args.ranks);
    let began = Instant::now();
    let of_thread = |thread: u64| -> Result<Vec<Duration>, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(BenchError::system("starting a runtime"))?;
        let ranks = (thread..args.ranks).step_by(usize::try_from(threads).unwrap_or(1));
        let runs = ranks.map(async |rank| {
            let spec = spec(args, payload, rank);
            let mut clients: Vec<Client> =
                (0..args.parts_in_flight).map(|_| Client::new(Arc::clone(endpoint), false)).collect();
            let timeout = Duration::from_secs(args.target.timeout);
            let done = tokio::time::timeout(timeout, work(&mut clients, &spec, rank)).await;
            done.unwrap_or(Err(ClientError::Timeout(timeout)))
                .map_err(|error| BenchError::request(format!("rank {rank}"), &error))?;
            Ok::<Duration, BenchError>(began.elapsed())
        });
        runtime.block_on(join_all(runs)).into_iter().collect()
    };
    let took: Result<Vec<Vec<Duration>>, BenchError> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || of_thread(thread))).collect();
        let lost = || BenchError::Usage("a thread ended early".to_owned());
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(lost()))).collect()
    });
    Ok(took?.into_iter().flatten().collect())
}

/// What a rank has to move. The last rank's shard takes what is left.
fn spec(args: &CheckpointArgs, payload: &Payload, rank: u64) -> Checkpoint {
    let each = args.size / args.ranks;
    let left = if rank + 1 == args.ranks { args.size % args.ranks } else { 0 };
    Checkpoint {
        object_bytes: each + left,
        part_bytes: args.part_size,
        parts_in_flight: args.parts_in_flight,
        verify_every: args.verify,
        payload: payload.clone(),
        prefix: String::new(),
        cleanup: false,
    }
}

fn measured(
    what: &'static str,
    round: u64,
    args: &CheckpointArgs,
    endpoint: &Endpoint,
    work: impl FnOnce() -> Result<(Vec<Duration>, Option<Duration>), BenchError>,
) -> Result<Moved, BenchError> {
    let (server, client) = (endpoint.server_pid.and_then(procstat::usage), procstat::own_usage());
    let began = Instant::now();
    let (ranks, commit) = work()?;
    let seconds = began.elapsed().as_secs_f64();
    let after = (endpoint.server_pid.and_then(procstat::usage), procstat::own_usage());
    let of_ranks = || ranks.iter().map(Duration::as_secs_f64);
    let moved = Moved {
        what,
        round,
        seconds,
        gb_per_s: args.size as f64 / 1e9 / seconds,
        rank_s_min: of_ranks().fold(f64::INFINITY, f64::min),
        rank_s_max: of_ranks().fold(0.0, f64::max),
        commit_ms: commit.map(|commit| commit.as_secs_f64() * 1e3),
        client_cores: (after.1.cpu_s - client.cpu_s) / seconds,
        server_cores: server.zip(after.0).map(|(before, after)| (after.cpu_s - before.cpu_s) / seconds),
    };
    eprintln!("{what} {round}: {:.2} s, {:.2} GB/s", moved.seconds, moved.gb_per_s);
    Ok(moved)
}

fn save(args: &CheckpointArgs, endpoint: &Arc<Endpoint>, payload: &Payload, round: u64) -> Result<Moved, BenchError> {
    measured("save", round, args, endpoint, || {
        let ranks = each_rank(args, endpoint, payload, async |clients, spec, rank| {
            let recorder = RefCell::new(Recorder::new());
            multipart::write(clients, spec, &shard_key(args, round, rank), &recorder).await
        })?;
        let began = Instant::now();
        let path = format!("/{}/{}", endpoint.bucket, uri_encode(&format!("{}.metadata", folder(args, round)), true));
        let body = Outgoing::Full(Bytes::from(json!({ "ranks": args.ranks, "bytes": args.size }).to_string()));
        let call = Call { method: Method::PUT, path: &path, query: "", range: None, body };
        one(endpoint, &call)?.map_err(|error| BenchError::request(format!("writing {path}"), &error))?;
        Ok((ranks, Some(began.elapsed())))
    })
}

fn restore(
    args: &CheckpointArgs,
    endpoint: &Arc<Endpoint>,
    payload: &Payload,
    round: u64,
) -> Result<Moved, BenchError> {
    measured("restore", round, args, endpoint, || {
        let ranks = each_rank(args, endpoint, payload, async |clients, spec, rank| {
            multipart::read(clients, spec, &shard_key(args, round, rank)).await
        })?;
        Ok((ranks, None))
    })
}

/// The marker first, so that what is left of it is not taken for a checkpoint.
fn remove(args: &CheckpointArgs, endpoint: &Arc<Endpoint>, round: u64) -> Result<(), BenchError> {
    let shards = (0..args.ranks).map(|rank| shard_key(args, round, rank));
    for key in std::iter::once(format!("{}.metadata", folder(args, round))).chain(shards) {
        let path = format!("/{}/{}", endpoint.bucket, uri_encode(&key, true));
        let call = Call { method: Method::DELETE, path: &path, query: "", range: None, body: Outgoing::Empty };
        one(endpoint, &call)?.map_err(|error| BenchError::request(format!("deleting {path}"), &error))?;
    }
    Ok(())
}

fn report(args: &CheckpointArgs, endpoint: &Endpoint, moved: &[Moved]) -> Result<(), BenchError> {
    let mut out = format!(
        "checkpoints of {:.2} GB from {} ranks to {}/{}/{}, parts of {} bytes, {} in flight for each rank\n\n{:<8} {:>5} {:>9} {:>8} {:>10} {:>10} {:>10} {:>8} {:>8}\n",
        args.size as f64 / 1e9,
        args.ranks,
        endpoint.url,
        endpoint.bucket,
        args.prefix,
        args.part_size,
        args.parts_in_flight,
        "",
        "ROUND",
        "SECONDS",
        "GB/s",
        "FIRST s",
        "LAST s",
        "COMMIT ms",
        "CLIENT",
        "SERVER cores"
    );
    for one in moved {
        let commit = one.commit_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
        let server = one.server_cores.map_or_else(|| "-".to_owned(), |cores| format!("{cores:.2}"));
        let _ = writeln!(
            out,
            "{:<8} {:>5} {:>9.2} {:>8.2} {:>10.2} {:>10.2} {:>10} {:>8.2} {:>8}",
            one.what,
            one.round,
            one.seconds,
            one.gb_per_s,
            one.rank_s_min,
            one.rank_s_max,
            commit,
            one.client_cores,
            server
        );
    }
    let median = |what: &str| {
        let mut times: Vec<f64> = moved.iter().filter(|one| one.what == what).map(|one| one.seconds).collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    };
    let (saved, restored) = (median("save"), median("restore"));
    for (what, seconds) in [("saving stands the accelerators still for", saved), ("restoring takes", restored)] {
        if let Some(seconds) = seconds {
            let _ = write!(out, "\n{what} {seconds:.2} s ({:.2} GB/s, the median)", args.size as f64 / 1e9 / seconds);
        }
    }
    out.push('\n');
    let figures = json!({
        "bench": "checkpoint", "endpoint": endpoint.url, "bucket": endpoint.bucket, "prefix": args.prefix, "bytes": args.size,
        "ranks": args.ranks, "part_bytes": args.part_size, "parts_in_flight": args.parts_in_flight, "rounds": moved,
        "save_s": saved, "restore_s": restored,
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
        args: CheckpointArgs,
    }

    fn args(line: &str) -> CheckpointArgs {
        let words = ["x", "--endpoint", "http://127.0.0.1:1"].into_iter().chain(line.split_ascii_whitespace());
        <Line as clap::Parser>::parse_from(words).args
    }

    #[test]
    fn shards_add_up() {
        let args = args("--size 1000001 --ranks 4");
        assert!(check(&args).is_ok());
        let payload = Payload::new(1);
        assert_eq!((0..4).map(|rank| spec(&args, &payload, rank).object_bytes).sum::<u64>(), 1_000_001);
        assert_eq!(shard_key(&args, 0, 3), "checkpoint/step_00000001/__3_0.distcp");
        for (line, said) in
            [("--ranks 0", "--ranks"), ("--part-size 1MiB", "--part-size"), ("--size 3 --ranks 4", "--size")]
        {
            let refused = check(&self::args(line)).expect_err(line).to_string();
            assert!(refused.contains(said), "{refused}");
        }
    }

    fn endpoint(faults: Faults) -> Arc<Endpoint> {
        let url = format!("http://{}", serve(faults));
        let keys = Credentials { access_key: "a".into(), secret_key: "b".into() };
        Arc::new(Endpoint::new(&url, Trust::default(), "bucket", "us-east-1", keys, None).expect("loopback"))
    }

    #[test]
    fn what_is_saved_is_restored_and_what_is_wrong_is_found() {
        // The fake knows one upload at a time: one rank.
        let args = args("--size 50000 --ranks 1 --part-size 60000 --verify 1");
        let payload = Payload::new(1);
        let good = endpoint(Faults::default());
        make_bucket(&good).expect("made");
        let saved = save(&args, &good, &payload, 0).expect("saved");
        assert!(saved.commit_ms.is_some() && saved.rank_s_max <= saved.seconds);
        restore(&args, &good, &payload, 0).expect("restored");
        remove(&args, &good, 0).expect("removed");
        assert!(matches!(restore(&args, &good, &payload, 0), Err(BenchError::Request { .. })), "it is gone");
        for faults in [Faults { flip_at: Some(7), ..Faults::default() }, Faults { short: true, ..Faults::default() }] {
            let bad = endpoint(faults);
            save(&args, &bad, &payload, 0).expect("writing is not what it breaks");
            assert!(matches!(restore(&args, &bad, &payload, 0), Err(BenchError::Request { .. })), "{faults:?}");
        }
    }
}
