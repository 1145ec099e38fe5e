//! The command line of the load generator.
//!
//! Leaves to others: what the settings do. Secrets are taken from the environment, so that they show neither in `ps`
//! nor in a report.

use crate::keys::{Choice, parse_bytes};
use crate::ops::{OpKind, RangeOrder};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use std::path::PathBuf;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// Write objects, one key after the other.
    Put,
    /// Read objects, or ranges of them with --range.
    Get,
    /// Ask for objects' headers.
    Head,
    /// Delete objects, each once.
    Delete,
    /// List pages of --max-keys from random places.
    List,
    /// Several operations with weights (--mix).
    Mixed,
    /// Upload large objects in parts (--object-size, --part-size, --parts-in-flight).
    Multipart,
    /// Only write every key of the key space once.
    Fill,
}

/// How payloads are covered by the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Signing {
    /// UNSIGNED-PAYLOAD.
    Unsigned,
    /// SHA-256 of every body, which the client pays for as well.
    Signed,
}

/// Loads an S3 endpoint and says what it takes and what it costs.
///
/// Key pairs come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for --against from AGAINST_ACCESS_KEY_ID and
/// AGAINST_SECRET_ACCESS_KEY.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "granary-bench", version)]
pub(crate) struct Args {
    /// What to do.
    #[arg(value_enum)]
    pub(crate) workload: Workload,
    /// http://HOST:PORT or https://HOST:PORT [default: $AWS_ENDPOINT_URL]
    #[arg(long)]
    pub(crate) endpoint: Option<String>,
    /// Bucket to work in.
    #[arg(long, default_value = "bench")]
    pub(crate) bucket: String,
    /// Region to sign for.
    #[arg(long, default_value = "us-east-1")]
    pub(crate) region: String,
    /// Process of the server, for its CPU time and memory.
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
    /// A second endpoint to take turns with.
    #[arg(long)]
    pub(crate) against: Option<String>,
    /// Bucket of the second endpoint [default: --bucket]
    #[arg(long)]
    pub(crate) against_bucket: Option<String>,
    /// Region of the second endpoint [default: --region]
    #[arg(long)]
    pub(crate) against_region: Option<String>,
    /// Process of the second server.
    #[arg(long)]
    pub(crate) against_pid: Option<u32>,
    /// Sizes of objects, taken in turn: 4KiB,1MiB
    #[arg(long, value_delimiter = ',', value_parser = parse_bytes, default_value = "4KiB")]
    pub(crate) sizes: Vec<u64>,
    /// Number of keys.
    #[arg(long, default_value_t = 1000)]
    pub(crate) keys: u64,
    /// What keys begin with [default: WORKLOAD-SIZE/ of the first size]
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    /// How keys are chosen [default: sequential to put, uniform otherwise]
    #[arg(long, value_enum)]
    pub(crate) choose: Option<Choice>,
    /// Skew of --choose zipf, between 0 and 1.
    #[arg(long, default_value_t = 0.99)]
    pub(crate) zipf_theta: f64,
    /// Connections, each with one request at a time.
    #[arg(long, short, default_value_t = 32)]
    pub(crate) concurrency: usize,
    /// Threads of this program.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Seconds to measure, all slices of one endpoint together.
    #[arg(long, short, default_value_t = 10.0)]
    pub(crate) duration: f64,
    /// Operations to make at most (uploads, for multipart), all slices of one endpoint together.
    #[arg(long)]
    pub(crate) ops: Option<u64>,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warmup: f64,
    /// Slices the run is cut into [default: 1, or 6 with --against]
    #[arg(long)]
    pub(crate) slices: Option<usize>,
    /// Read ranges of this length.
    #[arg(long, value_parser = parse_bytes)]
    pub(crate) range: Option<u64>,
    /// In which order.
    #[arg(long, value_enum, default_value = "random")]
    pub(crate) range_order: RangeOrder,
    /// Weights of mixed: get=70,put=20,head=5,delete=3,list=2
    #[arg(long, value_delimiter = ',', value_parser = parse_weight, default_value = "get=70,put=20,head=5,delete=3,list=2")]
    pub(crate) mix: Vec<(OpKind, u32)>,
    /// Keys on a page of a listing.
    #[arg(long, default_value_t = 1000)]
    pub(crate) max_keys: u64,
    /// Bytes in an object uploaded in parts.
    #[arg(long, value_parser = parse_bytes, default_value = "5GB")]
    pub(crate) object_size: u64,
    /// Bytes in a part.
    #[arg(long, value_parser = parse_bytes, default_value = "64MiB")]
    pub(crate) part_size: u64,
    /// Parts uploaded at once.
    #[arg(long, default_value_t = 8)]
    pub(crate) parts_in_flight: usize,
    /// How payloads are signed.
    #[arg(long, value_enum, default_value = "unsigned")]
    pub(crate) payload: Signing,
    /// Check the content of every n-th answer; 0 checks lengths only.
    #[arg(long, default_value_t = 64)]
    pub(crate) verify: u64,
    /// Check the content of every answer.
    #[arg(long)]
    pub(crate) verify_all: bool,
    /// Certificate authority of an https endpoint (PEM).
    #[arg(long)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Accept any certificate (loopback only).
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Rely on the keys being there already.
    #[arg(long)]
    pub(crate) no_prepare: bool,
    /// Create the bucket first; one of our own that exists is fine.
    #[arg(long)]
    pub(crate) create_bucket: bool,
    /// Delete every key of the key space afterwards.
    #[arg(long)]
    pub(crate) cleanup: bool,
    /// Seconds to wait for one operation.
    #[arg(long, default_value_t = 120)]
    pub(crate) timeout: u64,
    /// Seed of contents and choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// A name for this run in the report.
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Write the figures to this file as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

fn parse_weight(text: &str) -> Result<(OpKind, u32), String> {
    let (name, weight) = text.split_once('=').ok_or_else(|| format!("'{text}' is not OPERATION=WEIGHT"))?;
    let kind = <OpKind as ValueEnum>::from_str(name.trim(), true)?;
    let weight: u32 = weight.trim().parse().map_err(|_| format!("'{weight}' is no weight"))?;
    if weight == 0 || weight > 1_000_000 {
        return Err(format!("weight {weight} is not in 1..=1000000"));
    }
    Ok((kind, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        let args = Args::parse_from(["granary-bench", "mixed", "--sizes", "4KiB,1MiB", "--mix", "get=1,put=2"]);
        assert_eq!(args.sizes, [4096, 1 << 20]);
        assert_eq!(args.mix, [(OpKind::Get, 1), (OpKind::Put, 2)]);
        assert!(parse_weight("get=0").is_err());
        assert!(parse_weight("fly=1").is_err());
    }
}
