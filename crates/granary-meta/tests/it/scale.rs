//! Figures, not verdicts: run with `cargo nextest run -p granary-meta --release --run-ignored only --no-capture scale`.

use std::time::Instant;

use futures::executor::block_on;
use futures::future::join_all;
use granary_meta::records::{BucketOptions, Versioning};
use granary_meta::{MetaStore, Proposer};

use crate::support::*;

fn cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10_000.0
}

fn rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn big(dir: &std::path::Path) -> MetaStore {
    let mut options = options(dir, 3, 3);
    options.index.cache_bytes = 256 << 20;
    options.index.memtable_bytes = 96 << 20;
    options.log_file_bytes = 64 << 20;
    MetaStore::open(options).unwrap().0
}

#[test]
#[ignore = "figures"]
fn scale_inline_put_of_4_kib_by_64_clients() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let store = big(dir.path());
    let bucket = make_bucket(&store, 1, Versioning::Off, BucketOptions::default());
    let payload = vec![7; 4096];
    let per_client = 500u64;
    let (cpu, began) = (cpu_us(), Instant::now());
    block_on(join_all((0..64u64).map(|client| {
        let (store, payload) = (&store, &payload);
        async move {
            for n in 0..per_client {
                let n = client * per_client + n;
                store.propose(put_inline(bucket, &format!("key/{n:08}"), n, payload)).await.unwrap();
            }
        }
    })));
    let count = (64 * per_client) as f64;
    let secs = began.elapsed().as_secs_f64();
    println!(
        "{:.0} PUT/s, {:.1} us CPU each (all threads), {:?}",
        count / secs,
        (cpu_us() - cpu) / count,
        store.stats().snapshot()
    );
}

#[test]
#[ignore = "figures"]
fn scale_list_at_a_million() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let store = big(dir.path());
    let bucket = make_bucket(&store, 1, Versioning::Off, BucketOptions::default());
    let mut made = 0u64;
    for target in [10_000u64, 1_000_000] {
        let began = Instant::now();
        while made < target {
            let commands = (made..(made + 1000).min(target))
                .map(|n| put(bucket, &format!("prefix/{:08}", n * 7919 % 1_000_003), n, 100_000));
            block_on(join_all(commands.map(|c| store.propose(c))));
            made = (made + 1000).min(target);
        }
        println!("{target} objects after {:.1} s, RSS {} MiB", began.elapsed().as_secs_f64(), rss_mib());
        for round in 0..3 {
            let (cpu, began) = (cpu_us(), Instant::now());
            for n in 0..50u64 {
                let after = format!("prefix/{:08}", n * 19_000);
                assert!(
                    store.index().list(bucket, "prefix/", Some("/"), Some(&after), 1000).unwrap().objects.len() >= 400
                );
            }
            println!(
                "round {round}: LIST 1000 of {target}: {:.0} us, {:.0} us CPU, RSS {} MiB",
                began.elapsed().as_micros() as f64 / 50.0,
                (cpu_us() - cpu) / 50.0,
                rss_mib()
            );
        }
    }
    let began = Instant::now();
    store.checkpoint().unwrap();
    println!("checkpoint {:.1} s, RSS {} MiB", began.elapsed().as_secs_f64(), rss_mib());
}
