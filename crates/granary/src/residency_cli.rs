//! `granary residency ...`: the report, its verification, and narrowing a pin.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Subcommand;
use granary_audit::{PublicKey, verify_signature};
use serde_json::{Value, json};

use crate::admin::client::{Client, ClientError};
use crate::admin::residency::LABEL;
use crate::cli::NodeArgs;

/// `granary residency ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ResidencyCommand {
    /// Say where every bucket's data, parity, metadata, keys and audit lie, as the drives tell; exit 1 if something contradicts
    Report {
        /// Only this bucket
        #[arg(long)]
        bucket: Option<String>,
        /// Write the signed statement as JSON (for `granary residency verify`) instead of a page to read
        #[arg(long)]
        sign: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Check a signed report, on any machine
    Verify {
        /// What `report --sign` wrote
        file: PathBuf,
        /// Whose it must be (`granary audit public-key`)
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
    },
    /// Narrow the regions that a bucket is pinned to; takes effect when another admin confirms it. Signed with the root keys, or with an
    /// admin's from GRANARY_ACCESS_KEY and GRANARY_SECRET_KEY
    Narrow {
        /// The bucket
        #[arg(long)]
        bucket: String,
        /// Regions that stay, separated by commas
        #[arg(long)]
        regions: String,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Confirm a narrowing that another admin asked for, within ten minutes
    Confirm {
        /// The bucket
        #[arg(long)]
        bucket: String,
        /// What `narrow` answered
        #[arg(long)]
        token: String,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// Why a residency command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResidencyError {
    /// The node.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Standard output is gone.
    #[error("output: {0}")]
    Output(#[from] std::io::Error),
}

type Result<T> = std::result::Result<T, ResidencyError>;

/// Runs it. `Ok(false)`: something contradicts.
pub(crate) fn run(command: &ResidencyCommand) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match command {
        ResidencyCommand::Report { bucket, sign, node } => {
            let answer = ask(&Client::new(node)?, "report", &json!({ "bucket": bucket }))?;
            let report: Value =
                serde_json::from_str(answer["statement"].as_str().unwrap_or_default()).unwrap_or_default();
            match sign {
                true => writeln!(out, "{answer}")?,
                false => write!(out, "{}", page(&report))?,
            }
            Ok(report["findings"].as_array().is_some_and(Vec::is_empty))
        }
        ResidencyCommand::Verify { file, public_key } => {
            let wrong = |path: &PathBuf, why: String| ResidencyError::File { path: path.clone(), why };
            let text = std::fs::read_to_string(public_key).map_err(|error| wrong(public_key, error.to_string()))?;
            let key = PublicKey::from_pem(&text).map_err(|error| wrong(public_key, error.to_string()))?;
            let bytes = std::fs::read(file).map_err(|error| wrong(file, error.to_string()))?;
            let signed: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(file, error.to_string()))?;
            let statement = signed["statement"].as_str().unwrap_or_default();
            let signature = signed["signature"].as_str().unwrap_or_default();
            if let Err(error) = verify_signature(&key, LABEL, statement, signature) {
                writeln!(out, "NOT VERIFIED: {error}")?;
                return Ok(false);
            }
            let report: Value = serde_json::from_str(statement).map_err(|error| wrong(file, error.to_string()))?;
            writeln!(out, "VERIFIED: signed by the key given (SHA-256 {})\n", key.fingerprint())?;
            write!(out, "{}", page(&report))?;
            Ok(true)
        }
        ResidencyCommand::Narrow { bucket, regions, node } => {
            let answer =
                ask(&Client::new(node)?.for_users(), "narrow", &json!({ "bucket": bucket, "regions": regions }))?;
            let (from, to) = (list(&answer["from"]), list(&answer["to"]));
            let token = answer["token"].as_str().unwrap_or_default();
            writeln!(
                out,
                "bucket {bucket}: from {} to {to}. It cannot be widened again. For another admin to confirm, within {} s:\n  granary residency confirm \
                 --bucket {bucket} --token {token}",
                if from.is_empty() { "no pin".to_owned() } else { from },
                answer["within_s"],
            )?;
            Ok(true)
        }
        ResidencyCommand::Confirm { bucket, token, node } => {
            let answer = ask(&Client::new(node)?.for_users(), "confirm", &json!({ "bucket": bucket, "token": token }))?;
            writeln!(out, "bucket {bucket} is pinned to {}", list(&answer["regions"]))?;
            Ok(true)
        }
    }
}

fn ask(client: &Client, what: &str, body: &Value) -> Result<Value> {
    let bytes = client.request("POST", &format!("/admin/v1/residency/{what}"), body)?;
    Ok(serde_json::from_slice(&bytes)
        .map_err(|error| ClientError::Garbled { address: client.address(), why: error.to_string() })?)
}

fn list(value: &Value) -> String {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// The report for people.
fn page(report: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut out = format!(
        "Residency of cluster {} at {}\nnode: region {}, jurisdiction {}\n\nDRIVE  DECLARES             LOG  KEYS  FOLDER\n",
        text(&report["cluster"]),
        text(&report["at"]),
        text(&report["region"]),
        match report["jurisdiction"].as_str() {
            None | Some("") => "not declared",
            Some(said) => said,
        },
    );
    let yes = |value: &Value| if *value == true { "yes" } else { "-" };
    for drive in items(&report["drives"]) {
        let declared = &drive["declared"];
        let said = match declared["state"].as_str() {
            Some("verified") => text(&declared["detail"]["region"]),
            Some(other) => other.to_uppercase(),
            None => "-".to_owned(),
        };
        out.push_str(&format!(
            "d{:<5} {:<20} {:<4} {:<5} {}\n",
            drive["drive"],
            said,
            yes(&drive["log_mirror"]),
            yes(&drive["keyring"]),
            text(&drive["folder"]),
        ));
    }
    for bucket in items(&report["buckets"]) {
        let pinned = list(&bucket["pinned"]);
        out.push_str(&format!(
            "\nbucket {}: {}; shards found in: {}\n",
            text(&bucket["bucket"]),
            if pinned.is_empty() { "not pinned".to_owned() } else { format!("pinned to {pinned}") },
            match list(&bucket["found_in"]) {
                none if none.is_empty() => "none on drives (small objects lie in the metadata)".to_owned(),
                some => some,
            },
        ));
        for held in items(&bucket["held"]) {
            out.push_str(&format!(
                "  d{}: {} data shards ({} bytes), {} parity or copies ({} bytes), {} deleted and not freed yet\n",
                held["drive"],
                held["data_shards"],
                held["data_bytes"],
                held["parity_shards"],
                held["parity_bytes"],
                held["deleted_shards"],
            ));
        }
    }
    out.push_str(
        "\nmetadata and objects of at most the inline size lie on the drives marked LOG, all sealed; bucket keys in the metadata; the\n\
         keyring that they need on those marked KEYS; the audit trail in the metadata until it is sealed, then in granary-audit\n",
    );
    let findings = items(&report["findings"]);
    out.push_str(if findings.is_empty() { "\nnothing contradicts\n" } else { "\nCONTRADICTIONS\n" });
    for finding in findings {
        out.push_str(&format!("  {}\n", text(&finding)));
    }
    out
}
