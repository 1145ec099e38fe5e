//! `granary bucket upstream`.

use std::path::Path;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::admin::client::{Client, ClientError};
use crate::cli_upstream::{UpstreamCommand, UpstreamSet};
use crate::commands::{Result, number, post, say, say_json, word};

/// Bytes of a key's file, at most.
const KEY_BYTES_MAX: u64 = 4096;
/// Bytes of a file of certificates, at most.
const CA_BYTES_MAX: u64 = 48 * 1024;
const ACCESS_KEY: &str = "GRANARY_UPSTREAM_ACCESS_KEY";
const SECRET_KEY: &str = "GRANARY_UPSTREAM_SECRET_KEY";

/// `granary bucket upstream ...`.
pub(crate) fn upstream(command: &UpstreamCommand) -> Result<()> {
    match command {
        UpstreamCommand::Set(set) => shown(&post(&Client::new(&set.node)?, "/admin/v1/upstream/set", &request(set)?)?),
        UpstreamCommand::Show { bucket, json, node } => {
            let answer = post(&Client::new(node)?, "/admin/v1/upstream/show", &json!({ "bucket": bucket }))?;
            if *json { say_json(&answer) } else { shown(&answer) }
        }
        UpstreamCommand::Clear { bucket, discard_pending, node } => {
            let body = json!({ "bucket": bucket, "discard_pending": discard_pending });
            let answer = post(&Client::new(node)?, "/admin/v1/upstream/clear", &body)?;
            let done = if answer["cleared"] == true { "its upstream is taken away" } else { "it had no upstream" };
            say(&format!("{bucket}: {done}\n"))
        }
    }
}

fn read(path: &Path, limit: u64) -> Result<Zeroizing<String>> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| ClientError::Argument(format!("{}: {error}", path.display()));
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > limit {
        return Err(ClientError::Argument(format!("{}: more than {limit} bytes", path.display())));
    }
    Ok(text)
}

/// A key's file without the newline at its end.
fn key(path: &Path) -> Result<Zeroizing<String>> {
    let text = read(path, KEY_BYTES_MAX)?;
    let key = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if key.is_empty() { Err(ClientError::Argument(format!("{} is empty", path.display()))) } else { Ok(key) }
}

fn keys(set: &UpstreamSet) -> Result<Option<[Zeroizing<String>; 2]>> {
    if let (Some(access_key), Some(secret)) = (&set.access_key_file, &set.secret_key_file) {
        return Ok(Some([key(access_key)?, key(secret)?]));
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Zeroizing::new);
    match (variable(ACCESS_KEY), variable(SECRET_KEY)) {
        (Some(access_key), Some(secret)) => Ok(Some([access_key, secret])),
        (None, None) => Ok(None),
        _ => Err(ClientError::Argument(format!("{ACCESS_KEY} and {SECRET_KEY} go together"))),
    }
}

fn request(set: &UpstreamSet) -> Result<Value> {
    let mut body = json!({
        "bucket": set.bucket,
        "endpoint": set.endpoint,
        "upstream_bucket": set.upstream_bucket,
        "prefix": set.prefix,
        "region": set.region,
        "path_style": set.path_style || !set.virtual_host,
        "plain_http": set.plain_http,
        "write_back": set.write_back,
        "absent_s": set.absent,
        "discard_pending": set.discard_pending,
    });
    if let Some(regions) = &set.regions {
        body["regions"] = json!(regions);
    }
    if let Some(revalidate) = set.revalidate {
        body["revalidate_s"] = json!(revalidate);
    }
    if let Some(path) = &set.ca_file {
        body["ca"] = json!(read(path, CA_BYTES_MAX)?.as_str());
    }
    if let Some([access_key, secret]) = keys(set)? {
        body["access_key"] = json!(access_key.as_str());
        body["secret_key"] = json!(secret.as_str());
    }
    Ok(body)
}

fn shown(answer: &Value) -> Result<()> {
    let bucket = word(&answer["bucket"]);
    let rule = &answer["upstream"];
    if rule.is_null() {
        return say(&format!("{bucket}: no upstream\n"));
    }
    let list = |value: &Value| {
        let words = value.as_array().map(|all| all.iter().map(word).collect::<Vec<_>>().join(", "));
        words.unwrap_or_default()
    };
    let signed = match rule["access_key"].as_str() {
        Some("") | None => "unsigned".to_owned(),
        Some(access_key) => format!("signed with {access_key} for {}", word(&rule["region"])),
    };
    let revalidate = rule["revalidate_s"].as_u64().map_or("never".to_owned(), |s| format!("after {s} s"));
    let counted = &answer["since_start"];
    say(&format!(
        "{bucket}: reads through to {}/{}/{}\n  {signed}; bytes lie in {}\n  copies are checked: {revalidate}; writes back: {}\n  \
         {} hits, {} misses, {} objects fetched ({} bytes), {} errors\n  {} changes wait to be written back, {} were given up\n",
        word(&rule["endpoint"]),
        word(&rule["bucket"]),
        word(&rule["prefix"]),
        list(&rule["regions"]),
        if rule["write_back"] == true { "yes" } else { "no" },
        number(&counted["hits"]),
        number(&counted["misses"]),
        number(&counted["fetched"]),
        number(&counted["fetched_bytes"]),
        number(&counted["errors"]),
        number(&answer["pending"]),
        number(&counted["given_up"]),
    ))
}
