//! `granary audit ...`: verify (from files alone), query, export, anchors, public-key, seal.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use granary_audit::{Filter, InputFile, PublicKey, Question, Seal, verify};
use granary_types::date;
use granary_types::{Clock as _, SystemClock, Timestamp};
use serde_json::{Value, json};

use crate::admin::client::{Client, ClientError};
use crate::cli::NodeArgs;

/// `granary audit ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check sealed segments and their seals, on any machine; exit 1 and name the first event that is not as it was sealed
    Verify(VerifyArgs),
    /// Show events
    Query(QueryArgs),
    /// Write events as JSON lines with CloudTrail's field names
    Export(ExportArgs),
    /// Write the signed statements of all segments, one per line: keep them elsewhere, and nobody can cut the trail's end
    Anchors {
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Write the public key that seals are verified with, as PEM
    PublicKey {
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Seal what has gathered, now
    Seal {
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// `granary audit verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Segments (.parquet) and seals (.seal.json), or folders with them
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Whose seals they must be (`granary audit public-key`)
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// Anchors that the trail must contain (`granary audit anchors`)
    #[arg(long, value_name = "FILE")]
    anchors: Option<PathBuf>,
    /// The files may begin later than with event 1
    #[arg(long)]
    partial: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Which events.
#[derive(Debug, Args, Default)]
pub(crate) struct Which {
    /// From then on: `2026-11-20`, `2026-11-20T13:00:00Z`, or how long ago: `90m`, `12h`, `7d`
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Of this bucket
    #[arg(long)]
    bucket: Option<String>,
    /// Of this key; `prefix*` for all that begin so
    #[arg(long)]
    key: Option<String>,
    /// By this access key, user or ARN
    #[arg(long)]
    principal: Option<String>,
    /// `allowed`, `refused`, `failed`, or an error code such as AccessDenied
    #[arg(long)]
    outcome: Option<String>,
    /// This operation, such as PutObject
    #[arg(long)]
    event: Option<String>,
}

/// `granary audit query`.
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    which: Which,
    /// As JSON lines, in full
    #[arg(long)]
    json: bool,
    /// Which node.
    #[command(flatten)]
    node: NodeArgs,
}

/// `granary audit export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    which: Which,
    /// Which node.
    #[command(flatten)]
    node: NodeArgs,
}

/// Why an audit command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
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
    /// A time that is none.
    #[error("`{0}` is no time: write 2026-11-20, 2026-11-20T13:00:00Z, or how long ago: 90m, 12h, 7d")]
    Time(String),
    /// Standard output is gone.
    #[error("output: {0}")]
    Output(#[from] std::io::Error),
}

type Result<T> = std::result::Result<T, AuditError>;

/// Runs it. `Ok(false)`: the trail is not as it was sealed.
pub(crate) fn run(command: &AuditCommand) -> Result<bool> {
    match command {
        AuditCommand::Verify(args) => verify_files(args),
        AuditCommand::Query(args) => {
            let mut out = std::io::stdout().lock();
            each_event(&args.node, &args.which, &mut |event| {
                match args.json {
                    true => writeln!(out, "{event}")?,
                    false => writeln!(out, "{}", line(event))?,
                }
                Ok(())
            })?;
            Ok(true)
        }
        AuditCommand::Export(args) => {
            let mut out = std::io::stdout().lock();
            each_event(&args.node, &args.which, &mut |event| Ok(writeln!(out, "{event}")?))?;
            Ok(true)
        }
        AuditCommand::Anchors { node } => {
            let client = Client::new(node)?;
            let mut after = String::new();
            loop {
                let answer = ask(&client, "/admin/v1/audit/anchors", &json!({ "after": after }))?;
                let anchors = answer["anchors"].as_array().cloned().unwrap_or_default();
                if anchors.is_empty() {
                    return Ok(true);
                }
                let mut out = std::io::stdout().lock();
                for anchor in &anchors {
                    // As the struct is written: a seal's bytes are part of what is checked.
                    let seal: Seal =
                        serde_json::from_value(anchor.clone()).map_err(|error| garbled(&client, &error))?;
                    out.write_all(&seal.to_bytes())?;
                    out.write_all(b"\n")?;
                }
                answer["after"].as_str().unwrap_or_default().clone_into(&mut after);
            }
        }
        AuditCommand::PublicKey { node } => {
            let answer = ask(&Client::new(node)?, "/admin/v1/audit/public-key", &Value::Null)?;
            write!(std::io::stdout(), "{}", answer["pem"].as_str().unwrap_or_default())?;
            Ok(true)
        }
        AuditCommand::Seal { node } => {
            let answer = ask(&Client::new(node)?, "/admin/v1/audit/seal", &json!({}))?;
            writeln!(std::io::stdout(), "{} segments sealed", answer["segments"])?;
            Ok(true)
        }
    }
}

fn garbled(client: &Client, why: &dyn std::fmt::Display) -> ClientError {
    ClientError::Garbled { address: client.address(), why: why.to_string() }
}

fn ask(client: &Client, path: &str, body: &Value) -> Result<Value> {
    let method = if body.is_null() { "GET" } else { "POST" };
    let bytes = client.request(method, path, body)?;
    Ok(serde_json::from_slice(&bytes).map_err(|error| garbled(client, &error))?)
}

fn each_event(node: &NodeArgs, which: &Which, each: &mut dyn FnMut(&Value) -> Result<()>) -> Result<()> {
    let client = Client::new(node)?;
    let filter = which.filter(SystemClock.now())?;
    let mut cursor = Value::Null;
    loop {
        let answer = ask(&client, "/admin/v1/audit/query", &json!({ "filter": filter, "cursor": cursor }))?;
        for event in answer["events"].as_array().into_iter().flatten() {
            each(event)?;
        }
        if answer["more"] != true {
            return Ok(());
        }
        cursor = answer["cursor"].clone();
    }
}

impl Which {
    fn filter(&self, now: Timestamp) -> Result<Filter> {
        let time = |text: &Option<String>| {
            text.as_ref().map(|text| time(text, now).ok_or_else(|| AuditError::Time(text.clone()))).transpose()
        };
        Ok(Filter {
            since: time(&self.since)?,
            until: time(&self.until)?,
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            principal: self.principal.clone(),
            outcome: self.outcome.clone(),
            name: self.event.clone(),
        })
    }
}

/// A time, or how long ago.
fn time(text: &str, now: Timestamp) -> Option<Timestamp> {
    let ago = text.char_indices().last().and_then(|(end, unit)| {
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        text[..end].parse::<u64>().ok()?.checked_mul(seconds)?.checked_mul(1_000_000)
    });
    match ago {
        Some(ago) => Some(Timestamp(now.0.saturating_sub(ago))),
        None => date::parse_at(text),
    }
}

/// One event as a line for people.
fn line(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let identity = &event["userIdentity"];
    let who = ["userName", "invokedBy", "accessKeyId", "type"]
        .iter()
        .map(|name| text(&identity[*name]))
        .find(|text| !text.is_empty())
        .unwrap_or_default();
    let parameters = &event["requestParameters"];
    let bucket = text(&parameters["bucketName"]);
    let key = text(&parameters["key"]);
    let what = if key.is_empty() { bucket } else { format!("{bucket}/{key}") };
    let outcome = match event["errorCode"].as_str() {
        Some(code) => code.to_owned(),
        None => "ok".to_owned(),
    };
    // What a client chose must not steer the terminal.
    let clean = |text: String| text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>();
    clean(format!(
        "{} {:<24} {:<20} {:<15} {} {}",
        text(&event["additionalEventData"]["eventTime"]),
        text(&event["eventName"]),
        who,
        text(&event["sourceIPAddress"]),
        outcome,
        what,
    ))
}

fn verify_files(args: &VerifyArgs) -> Result<bool> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |error: &dyn std::fmt::Display| AuditError::File { path: path.clone(), why: error.to_string() }
    };
    let mut paths = BTreeSet::new();
    for path in &args.files {
        gather(path, &mut paths).map_err(|error| wrong(path)(&error))?;
    }
    let mut question = Question { partial: args.partial, ..Question::default() };
    for path in paths {
        let bytes = std::fs::read(&path).map_err(|error| wrong(&path)(&error))?;
        question.files.push(InputFile { name: path.to_string_lossy().into_owned(), bytes: bytes.into() });
    }
    if let Some(path) = &args.public_key {
        let text = std::fs::read_to_string(path).map_err(|error| wrong(path)(&error))?;
        question.key = Some(PublicKey::from_pem(&text).map_err(|error| wrong(path)(&error))?);
    }
    if let Some(path) = &args.anchors {
        let text = std::fs::read_to_string(path).map_err(|error| wrong(path)(&error))?;
        for line in text.lines().filter(|line| !line.is_empty()) {
            question.anchors.push(Seal::from_bytes(line.as_bytes()).map_err(|error| wrong(path)(&error))?);
        }
    }
    let report = verify(&question);
    let mut out = std::io::stdout().lock();
    let key = report.key.as_ref().map(PublicKey::fingerprint).unwrap_or_default();
    if args.json {
        let findings: Vec<Value> =
            report.findings.iter().map(|f| json!({ "file": f.file, "sequence": f.sequence, "what": f.what })).collect();
        let (first, last) = report.range.unwrap_or_default();
        let shown = json!({
            "ok": report.findings.is_empty() && report.segments > 0, "segments": report.segments, "first": first, "last": last,
            "head": report.head, "key_sha256": key, "unsynchronised_segments": report.unsynchronised, "findings": findings,
        });
        writeln!(out, "{shown:#}")?;
        return Ok(report.findings.is_empty() && report.segments > 0);
    }
    for finding in &report.findings {
        writeln!(out, "TAMPERED {finding}")?;
    }
    if report.segments == 0 {
        writeln!(out, "no seal that holds was found among the files")?;
        return Ok(false);
    }
    let (first, last) = report.range.unwrap_or_default();
    let verdict = if report.findings.is_empty() { "VERIFIED" } else { "NOT VERIFIED" };
    writeln!(out, "{verdict}: {} segments, events {first} to {last}, head {}", report.segments, report.head)?;
    match args.public_key {
        Some(_) => writeln!(out, "signed by the key given (SHA-256 {key})")?,
        None => writeln!(out, "signed by the key with SHA-256 {key}: whose that is, --public-key would tell")?,
    }
    if report.unsynchronised > 0 {
        writeln!(
            out,
            "note: {} segments were sealed while the node's clock was not synchronised",
            report.unsynchronised
        )?;
    }
    if args.anchors.is_none() {
        writeln!(out, "note: without --anchors nobody can tell whether events are missing at the end")?;
    }
    Ok(report.findings.is_empty())
}

fn gather(path: &Path, into: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        into.insert(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() || name.ends_with(".parquet") || name.ends_with(".seal.json") {
            gather(&path, into)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_how_long_ago() {
        let now = Timestamp::from_secs(1_000_000);
        assert_eq!(time("90s", now), Some(Timestamp::from_secs(999_910)));
        assert_eq!(time("2d", now), Some(Timestamp::from_secs(1_000_000 - 172_800)));
        assert_eq!(time("1970-01-02", now), Some(Timestamp::from_secs(86_400)));
        assert_eq!(time("soon", now), None);
    }

    #[test]
    fn lines_do_not_steer_terminals() {
        let event =
            json!({ "eventName": "PutObject", "requestParameters": { "bucketName": "b", "key": "a\u{1b}[2J" } });
        assert!(!line(&event).contains('\u{1b}'));
    }
}
