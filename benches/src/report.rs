//! Figures for people (a table) and for scripts (JSON).
//!
//! Guarantees: the JSON's shape changes only together with [`FORMAT`]; no secret is in it.
//! Leaves to others: judging the figures.

use crate::cli::Args;
use crate::stats::{Ratio, Ratios, Slice, Summary, ratios};
use serde::Serialize;
use std::fmt::Write as _;

/// Version of the JSON's shape.
pub(crate) const FORMAT: u32 = 1;

/// One endpoint's figures.
#[derive(Serialize)]
pub(crate) struct Side {
    pub(crate) name: String,
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    pub(crate) total: Summary,
    pub(crate) slices: Vec<Summary>,
}

impl Side {
    /// Sums up what was measured of one endpoint.
    pub(crate) fn new(name: &str, endpoint: &str, bucket: &str, slices: &[Slice]) -> Self {
        Self {
            name: name.to_owned(),
            endpoint: endpoint.to_owned(),
            bucket: bucket.to_owned(),
            total: Slice::total(slices).summary(),
            slices: slices.iter().map(Slice::summary).collect(),
        }
    }
}

/// A whole run.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    pub(crate) format: u32,
    pub(crate) tool: &'static str,
    pub(crate) version: &'static str,
    /// When it ended: UTC, `20130524T000000Z`.
    pub(crate) date: String,
    pub(crate) label: String,
    pub(crate) args: &'a Args,
    pub(crate) sides: Vec<Side>,
    /// First side over second, where there are two.
    pub(crate) ratios: Option<Ratios>,
}

impl<'a> Report<'a> {
    /// Puts the sides together and compares them.
    pub(crate) fn new(args: &'a Args, label: String, date: String, sides: Vec<Side>) -> Self {
        let ratios = match &sides[..] {
            [ours, theirs] => Some(ratios(&ours.slices, &theirs.slices)),
            _ => None,
        };
        Self {
            format: FORMAT,
            tool: "granary-bench",
            version: env!("CARGO_PKG_VERSION"),
            date,
            label,
            args,
            sides,
            ratios,
        }
    }

    /// Failed operations on all sides.
    pub(crate) fn error_count(&self) -> u64 {
        self.sides.iter().map(|side| side.total.error_count).sum()
    }

    /// The table that is printed.
    pub(crate) fn table(&self) -> String {
        let mut out = format!("{}\n", self.label);
        let header = [
            "",
            "ops/s",
            "MB/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "errors",
            "verified",
            "srv us/op",
            "srv s/1k ops",
            "srv s/GB",
            "srv RSS MB",
            "cli us/op",
        ];
        let mut rows = vec![header.map(str::to_owned)];
        rows.extend(self.sides.iter().map(row));
        let widths: Vec<usize> =
            (0..header.len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
        for row in &rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
            out.push_str(cells.join("  ").trim_end());
            out.push('\n');
        }
        for side in &self.sides {
            for (kind, count) in &side.total.errors {
                put(&mut out, format_args!("  {}: {count} × {kind}\n", side.name));
            }
        }
        if let Some(ratios) = &self.ratios {
            put(&mut out, format_args!("A/B, median of {} pairs (least to greatest):", ratios.pairs));
            let figures = [
                ("ops/s", ratios.ops_per_s),
                ("MB/s", ratios.mb_per_s),
                ("p50", ratios.p50),
                ("p99", ratios.p99),
                ("server CPU/op", ratios.server_cpu_per_op),
            ];
            for (name, ratio) in figures {
                if let Some(Ratio { median, min, max }) = ratio {
                    put(&mut out, format_args!("  {name} {median:.2} ({min:.2} to {max:.2})"));
                }
            }
            out.push('\n');
        }
        out
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
}

fn row(side: &Side) -> [String; 13] {
    let t = &side.total;
    let ms = |us: u64| format!("{:.2}", us as f64 / 1e3);
    let server =
        |figure: &dyn Fn(&crate::stats::CpuCost) -> String| t.server.as_ref().map_or_else(|| "-".to_owned(), figure);
    let per_gb = |cost: &crate::stats::CpuCost| {
        if t.bytes == 0 { "-".to_owned() } else { format!("{:.3}", cost.cpu_s_per_gb) }
    };
    [
        side.name.clone(),
        format!("{:.0}", t.ops_per_s),
        format!("{:.1}", t.mb_per_s),
        ms(t.latency_us.p50),
        ms(t.latency_us.p99),
        ms(t.latency_us.p999),
        t.error_count.to_string(),
        t.verified.to_string(),
        server(&|cost| format!("{:.1}", cost.cpu_us_per_op)),
        server(&|cost| format!("{:.4}", cost.cpu_s_per_1000_ops)),
        server(&per_gb),
        t.server_rss_bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{:.0}", bytes as f64 / 1e6)),
        format!("{:.1}", t.client.cpu_us_per_op),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procstat::Usage;
    use crate::stats::Recorder;
    use clap::Parser;
    use serde_json::Value;

    fn side(name: &str, ops: u64, pid: bool) -> Side {
        let mut recorder = Recorder::new();
        (0..ops).for_each(|_| recorder.done(1_000, 4_096));
        recorder.failed("503 SlowDown".into());
        let usage = |cpu_s| Usage { cpu_s, rss_bytes: 5_000_000, rss_bytes_max: 6_000_000 };
        let server = if pid { (Some(usage(0.0)), Some(usage(1.0))) } else { (None, None) };
        let slice = Slice::new(recorder, 2.0, server, (usage(0.0), usage(0.2)));
        Side::new(name, "http://127.0.0.1:1", "bench", &[slice])
    }

    #[test]
    fn the_json_has_its_shape() {
        let args = Args::parse_from(["granary-bench", "get", "--endpoint", "http://127.0.0.1:1"]);
        let sides = vec![side("A", 1_000, true), side("B", 100, false)];
        let report = Report::new(&args, "a run".into(), "20260101T000000Z".into(), sides);
        let json: Value = serde_json::from_str(&serde_json::to_string(&report).expect("to JSON")).expect("JSON");
        assert_eq!(json["format"], FORMAT);
        assert_eq!(json["args"]["workload"], "get");
        assert_eq!(json["args"]["sizes"][0], 4096);
        let a = &json["sides"][0]["total"];
        assert_eq!(a["ops_per_s"], 500.0);
        assert_eq!(a["latency_us"]["p50"], 1000);
        assert!(a["latency_us"]["p999"].is_u64());
        assert_eq!(a["server"]["cpu_s_per_1000_ops"], 1.0);
        assert!(a["server"]["cpu_s_per_gb"].is_f64());
        assert_eq!(a["errors"]["503 SlowDown"], 1);
        assert!(json["sides"][1]["total"]["server"].is_null());
        assert_eq!(json["sides"][1]["slices"].as_array().map(Vec::len), Some(1));
        assert_eq!(json["ratios"]["ops_per_s"]["median"], 10.0);
        assert_eq!(json["ratios"]["pairs"], 1);
        assert!(json["ratios"]["server_cpu_per_op"].is_null());
    }

    #[test]
    fn the_table_says_what_went_wrong_and_how_sides_compare() {
        let args = Args::parse_from(["granary-bench", "get"]);
        let sides = vec![side("A", 1_000, true), side("B", 100, false)];
        let table = Report::new(&args, "a run".into(), String::new(), sides).table();
        assert!(table.contains("A: 1 × 503 SlowDown"), "{table}");
        assert!(table.contains("ops/s 10.00 (10.00 to 10.00)"), "{table}");
        assert!(table.lines().nth(1).is_some_and(|line| line.contains("p99.9 ms")), "{table}");
    }
}
