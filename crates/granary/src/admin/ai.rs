//! What AI teams ask of a node beside S3: checkpoints, datasets, presets.

use std::sync::Arc;

use granary_store::ObjectStore as _;
use granary_store::ai::AiError;
use granary_store::ai::dataset::Datasets;
use granary_store::ai::latest::{LatestRequest, latest};
use granary_store::ai::warm::CacheAct;
use granary_store::node::Node;
use granary_types::hex;
use granary_types::{BucketName, ErrorKind};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Refusal};
use crate::preset;

fn refusal(error: &AiError) -> Refusal {
    let status = match error {
        AiError::NoCheckpoint { .. } | AiError::NoSuchMember(_) => StatusCode::NOT_FOUND,
        AiError::Store(error) => match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict | ErrorKind::Invalid | ErrorKind::Denied => StatusCode::CONFLICT,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        },
        _ => StatusCode::CONFLICT,
    };
    Refusal(status, error.to_string())
}

fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    body[name].as_str().ok_or_else(|| Refusal::bad(format!("`{name}` is missing or no text")))
}

fn bucket(text: &str) -> Result<BucketName, Refusal> {
    BucketName::new(text).map_err(|error| Refusal::bad(format!("`{text}`: {error}")))
}

/// `bucket/prefix/`: a folder in a bucket. A missing slash at the end is added.
fn place(text: &str) -> Result<(BucketName, String), Refusal> {
    let text = text.strip_prefix("s3://").unwrap_or(text);
    let (name, prefix) = text.split_once('/').unwrap_or((text, ""));
    let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
    Ok((bucket(name)?, format!("{prefix}{slash}")))
}

/// Requests below `/admin/v1/ai/`.
pub(super) async fn route(method: &str, path: &str, body: &Value, node: &Arc<Node>, datasets: &Datasets) -> Answer {
    let value = |value: Result<Value, serde_json::Error>| {
        value.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    };
    match (method, path) {
        ("POST", "checkpoint/latest") => {
            let (bucket, prefix) = place(text(body, "run")?)?;
            let own = |name: &str| body[name].as_str().map(str::to_owned);
            let request = LatestRequest { prefix, marker: own("marker"), ending: own("suffix") };
            let found = latest(node.store(), &bucket, &request).await.map_err(|error| refusal(&error))?;
            Ok(json!({
                "bucket": bucket.as_str(), "key": found.key, "step": found.step, "marker": found.marker,
                "kind": if found.marker.is_some() { "folder" } else { "file" },
                "etag": found.etag, "size": found.size_bytes, "created_us": found.created.0,
                "versionId": found.version.map(|version| version.to_string()),
            }))
        }
        ("POST", "dataset/list") => {
            let name = body["bucket"].as_str().map(bucket).transpose()?;
            let all = datasets.list(name.as_ref()).map_err(|error| refusal(&error))?;
            value(serde_json::to_value(all)).map(|all| json!({ "datasets": all }))
        }
        ("POST", "dataset/freeze") => {
            let (bucket, prefix) = place(text(body, "dataset")?)?;
            let mut sources = Vec::new();
            for source in body["sources"].as_array().into_iter().flatten() {
                sources.push(place(source.as_str().unwrap_or_default())?);
            }
            let shown = datasets.freeze(&bucket, &prefix, &sources).await.map_err(|error| refusal(&error))?;
            value(serde_json::to_value(shown))
        }
        ("POST", "dataset/thaw") => {
            let (bucket, prefix) = place(text(body, "dataset")?)?;
            datasets.thaw(&bucket, &prefix).await.map_err(|error| refusal(&error))?;
            Ok(json!({ "thawed": format!("{bucket}/{prefix}") }))
        }
        ("POST", "dataset/verify") => {
            let (bucket, prefix) = place(text(body, "dataset")?)?;
            let deep = body["deep"].as_bool().unwrap_or(false);
            let found = datasets.verify(&bucket, &prefix, deep).await.map_err(|error| refusal(&error))?;
            value(serde_json::to_value(found))
        }
        ("POST", "dataset/lineage") => {
            let (bucket, prefix) = place(text(body, "dataset")?)?;
            let found = datasets.lineage(&bucket, &prefix).await.map_err(|error| refusal(&error))?;
            value(serde_json::to_value(found))
        }
        ("GET", "dataset/key") => {
            let signer = datasets.signer().await.map_err(|error| refusal(&error))?;
            Ok(json!({ "algorithm": "Ed25519", "public_key": hex::encode(signer.public_key()) }))
        }
        ("GET", "cache/status") => {
            let buckets = node.store().cache_status().map_err(|error| refusal(&error))?;
            let bytes: u64 = buckets.iter().map(|bucket| bucket.bytes).sum();
            let buckets = value(serde_json::to_value(buckets))?;
            Ok(json!({ "bytes": bytes, "budget_bytes": node.store().options().cache_bytes, "buckets": buckets }))
        }
        ("POST", "cache/warm" | "cache/pin" | "cache/evict") => {
            let (bucket, prefix) = place(text(body, "place")?)?;
            let store = node.store();
            let act = match path {
                "cache/warm" => CacheAct::Warm,
                "cache/pin" => CacheAct::Pin,
                _ => CacheAct::Evict,
            };
            let done = store.tend_cache(&bucket, &prefix, act).await.map_err(|error| refusal(&error))?;
            value(serde_json::to_value(done))
        }
        ("POST", "preset/apply") => {
            let preset: preset::Preset = serde_json::from_value(body["preset"].clone())
                .map_err(|error| Refusal::bad(format!("the preset cannot be read: {error}")))?;
            let choice: preset::Choice = serde_json::from_value(body["choice"].clone())
                .map_err(|error| Refusal::bad(format!("the choice cannot be read: {error}")))?;
            let done = preset::apply(node, &preset, &choice).await.map_err(Refusal::bad)?;
            Ok(json!({ "buckets": done }))
        }
        _ => Err(Refusal(StatusCode::NOT_FOUND, format!("there is no {method} /admin/v1/ai/{path}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_folders() {
        let of = |text: &str| place(text).map(|(bucket, prefix)| (bucket.to_string(), prefix)).ok();
        assert_eq!(of("s3://b12/run/1"), Some(("b12".into(), "run/1/".into())));
        assert_eq!(of("b12/run/"), Some(("b12".into(), "run/".into())));
        assert_eq!(of("b12"), Some(("b12".into(), String::new())));
        assert_eq!(of("UPPER/x"), None);
    }
}
