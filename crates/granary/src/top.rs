//! `granary top`: what each training run asked of a node within an interval, and what it waited for.
//!
//! The node tells sums since it started; two looks at them make a table.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::client::{Client, ClientError};
use crate::cli::TopArgs;
use crate::commands::{get, number, say, say_json, word};

/// Intervals taken, in seconds.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.1..=3600.0;

/// One run's requests to one bucket within an interval.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
struct Row {
    run: String,
    bucket: String,
    requests_per_s: f64,
    errors_per_s: f64,
    bytes_in_per_s: f64,
    bytes_out_per_s: f64,
    first_byte_p50_ms: f64,
    first_byte_p99_ms: f64,
    /// Of the chunks read, those that were in the read cache; none without any.
    cache_hit_percent: Option<f64>,
    /// Of the requests' time, waiting for drives and for the client.
    drive_wait_percent: f64,
    client_wait_percent: f64,
    /// Requests in flight, on average.
    in_flight: f64,
}

/// `granary top`.
///
/// # Errors
/// [`ClientError`].
pub(crate) fn run(args: &TopArgs) -> Result<(), ClientError> {
    if !INTERVALS.contains(&args.interval) {
        let (least, most) = (INTERVALS.start(), INTERVALS.end());
        return Err(ClientError::Argument(format!(
            "--interval is {}: it must be from {least} to {most}",
            args.interval
        )));
    }
    let client = Client::new(&args.node)?;
    let mut before = get(&client, "/admin/v1/runs")?;
    loop {
        std::thread::sleep(Duration::from_secs_f64(args.interval));
        let after = get(&client, "/admin/v1/runs")?;
        let seconds = after["uptime_s"].as_f64().unwrap_or(0.0) - before["uptime_s"].as_f64().unwrap_or(0.0);
        // A node that was started anew begins at nothing.
        let (seconds, since) = if seconds > 0.0 { (seconds, &before) } else { (args.interval, &Value::Null) };
        let rows = rows(since, &after, seconds);
        if args.json {
            let value = json!({ "seconds": seconds, "runs": rows });
            if args.once {
                say_json(&value)?
            } else {
                say(&format!("{value}\n"))?
            };
        } else {
            let clear = if !args.once && std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            say(&format!("{clear}{}", table(&rows, client.address(), seconds, args.rows)))?;
        }
        if args.once {
            return Ok(());
        }
        before = after;
    }
}

fn rows(before: &Value, after: &Value, seconds: f64) -> Vec<Row> {
    let list = |value: &Value| value["runs"].as_array().cloned().unwrap_or_default();
    let (before, after) = (list(before), list(after));
    let mut rows: Vec<Row> = after
        .iter()
        .filter_map(|one| {
            let same = |old: &&Value| old["run"] == one["run"] && old["bucket"] == one["bucket"];
            // Dropped and made anew in between, it began at nothing.
            let old = before.iter().find(same).filter(|old| number(&old["requests"]) <= number(&one["requests"]));
            row(old.unwrap_or(&Value::Null), one, seconds)
        })
        .collect();
    rows.sort_by(|a, b| (b.bytes_in_per_s + b.bytes_out_per_s).total_cmp(&(a.bytes_in_per_s + a.bytes_out_per_s)));
    rows
}

/// `None`: nothing was asked for.
fn row(before: &Value, after: &Value, seconds: f64) -> Option<Row> {
    let more = |name: &str| number(&after[name]).saturating_sub(number(&before[name])) as f64;
    let requests = more("requests");
    if requests == 0.0 {
        return None;
    }
    let times = times(&before["first_byte"], &after["first_byte"]);
    let (hits, misses, busy) = (more("cache_hits"), more("cache_misses"), more("busy_us").max(1.0));
    Some(Row {
        run: word(&after["run"]),
        bucket: word(&after["bucket"]),
        requests_per_s: requests / seconds,
        errors_per_s: more("errors") / seconds,
        bytes_in_per_s: more("bytes_in") / seconds,
        bytes_out_per_s: more("bytes_out") / seconds,
        first_byte_p50_ms: percentile(&times, 0.50),
        first_byte_p99_ms: percentile(&times, 0.99),
        cache_hit_percent: (hits + misses > 0.0).then(|| hits * 100.0 / (hits + misses)),
        drive_wait_percent: more("drives_us") * 100.0 / busy,
        client_wait_percent: more("client_us") * 100.0 / busy,
        in_flight: busy / 1e6 / seconds,
    })
}

/// Upper bounds in microseconds, each with how many times more fell below it.
fn times(before: &Value, after: &Value) -> Vec<(u64, u64)> {
    let pair = |value: &Value| (number(&value[0]), number(&value[1]));
    let old: std::collections::HashMap<u64, u64> = before.as_array().into_iter().flatten().map(pair).collect();
    let new = after.as_array().into_iter().flatten().map(pair);
    new.map(|(bound, count)| (bound, count.saturating_sub(old.get(&bound).copied().unwrap_or(0)))).collect()
}

/// The bound that a share of the times is below, in milliseconds.
fn percentile(times: &[(u64, u64)], share: f64) -> f64 {
    let total: u64 = times.iter().map(|(_, count)| count).sum();
    let wanted = (total as f64 * share).ceil().max(1.0) as u64;
    let mut seen = 0;
    let reached = times.iter().find(|(_, count)| {
        seen += count;
        seen >= wanted
    });
    reached.map_or(0.0, |(bound, _)| *bound as f64 / 1e3)
}

fn table(rows: &[Row], address: std::net::SocketAddr, seconds: f64, rows_max: usize) -> String {
    let sum = |pick: &dyn Fn(&Row) -> f64| rows.iter().map(pick).sum::<f64>();
    let mut out = format!(
        "granary at {address}: {:.0} requests/s, {:.1} MB/s out, {:.1} MB/s in, over {seconds:.1} s\n\n",
        sum(&|row| row.requests_per_s),
        sum(&|row| row.bytes_out_per_s) / 1e6,
        sum(&|row| row.bytes_in_per_s) / 1e6,
    );
    let _ = writeln!(
        out,
        "{:<24} {:<20} {:>9} {:>9} {:>9} {:>7} {:>8} {:>8} {:>6} {:>7} {:>7} {:>7}",
        "RUN",
        "BUCKET",
        "OUT MB/s",
        "IN MB/s",
        "REQ/s",
        "ERR/s",
        "P50 ms",
        "P99 ms",
        "HIT %",
        "DRIVE %",
        "CLIENT%",
        "FLIGHT"
    );
    for row in rows.iter().take(rows_max) {
        let hits = row.cache_hit_percent.map_or_else(|| "-".to_owned(), |hits| format!("{hits:.0}"));
        let _ = writeln!(
            out,
            "{:<24} {:<20} {:>9.1} {:>9.1} {:>9.0} {:>7.1} {:>8.2} {:>8.2} {:>6} {:>7.0} {:>7.0} {:>7.1}",
            cut(&row.run, 24),
            cut(&row.bucket, 20),
            row.bytes_out_per_s / 1e6,
            row.bytes_in_per_s / 1e6,
            row.requests_per_s,
            row.errors_per_s,
            row.first_byte_p50_ms,
            row.first_byte_p99_ms,
            hits,
            row.drive_wait_percent,
            row.client_wait_percent,
            row.in_flight,
        );
    }
    match rows.len().saturating_sub(rows_max) {
        0 if rows.is_empty() => out.push_str("nothing was asked for\n"),
        0 => {}
        more => out.push_str(&format!("and {more} more (--rows)\n")),
    }
    out
}

/// The end tells runs of one experiment apart.
fn cut(text: &str, columns: usize) -> String {
    let count = text.chars().count();
    if count <= columns {
        return text.to_owned();
    }
    let end: String = text.chars().skip(count + 1 - columns).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_make_a_table() {
        let one = |requests: u64, bytes: u64, times: Value| {
            json!({ "run": "run-7", "bucket": "data", "requests": requests, "errors": 0, "bytes_out": bytes, "bytes_in": 0,
                    "busy_us": requests * 1000, "drives_us": requests * 250, "client_us": 0, "cache_hits": requests,
                    "cache_misses": 0, "first_byte": times })
        };
        let quiet = json!({ "run": "old", "bucket": "data", "requests": 5 });
        let before = json!({ "runs": [one(100, 1_000, json!([[1024, 100]])), quiet] });
        let after = json!({ "runs": [one(300, 9_000_000, json!([[1024, 298], [4096, 2]])), quiet] });
        let rows = rows(&before, &after, 2.0);
        assert_eq!(rows.len(), 1, "who asked for nothing is not shown");
        let row = &rows[0];
        assert_eq!((row.requests_per_s, row.bytes_out_per_s), (100.0, 4_499_500.0));
        assert_eq!((row.first_byte_p50_ms, row.first_byte_p99_ms), (1.024, 1.024));
        assert_eq!((row.cache_hit_percent, row.drive_wait_percent, row.in_flight), (Some(100.0), 25.0, 0.1));
        let shown = table(&rows, "127.0.0.1:1".parse().unwrap(), 2.0, 30);
        assert!(shown.contains("run-7") && shown.contains("4.5"), "{shown}");
        // After a restart all of it is new.
        assert_eq!(super::rows(&Value::Null, &after, 2.0)[0].requests_per_s, 150.0);
    }

    #[test]
    fn percentiles_are_bounds() {
        assert_eq!(percentile(&[(8, 98), (16, 1), (32, 1)], 0.99), 0.016);
        assert_eq!(percentile(&[], 0.5), 0.0);
        assert_eq!(cut("experiment-with-a-long-name-17", 10), "…g-name-17");
    }
}
