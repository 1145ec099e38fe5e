//! Quotas of buckets by admin request.

use granary_meta::command::BucketChange;
use granary_store::node::Node;
use granary_store::{ObjectStore as _, StoreError};
use granary_types::BucketName;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Refusal};

fn named(body: &Value) -> Result<BucketName, Refusal> {
    let name = body["bucket"].as_str().ok_or_else(|| Refusal::bad("`bucket` is missing"))?;
    BucketName::new(name).map_err(|error| Refusal::bad(error.to_string()))
}

fn refused(error: &StoreError) -> Refusal {
    match error {
        StoreError::NoSuchBucket => Refusal(StatusCode::NOT_FOUND, "there is no such bucket".to_owned()),
        other => Refusal(StatusCode::CONFLICT, other.to_string()),
    }
}

/// `POST /admin/v1/quota/show`: `{"bucket": ...}`.
pub(super) fn show(node: &Node, body: &Value) -> Answer {
    let name = named(body)?;
    let (bucket, usage) = node.store().bucket_usage(&name).map_err(|error| refused(&error))?;
    Ok(json!({
        "bucket": name.as_str(),
        "quota_bytes": bucket.options.quota_bytes,
        "quota_objects": bucket.options.quota_objects,
        "used_bytes": usage.bytes.saturating_add(usage.upload_bytes),
        "used_objects": usage.versions,
    }))
}

/// A limit of a request: left out (as it is), `null` (none), or a number.
fn limit(body: &Value, name: &str, now: Option<u64>) -> Result<Option<u64>, Refusal> {
    match body.get(name) {
        None => Ok(now),
        Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .map(Some)
            .ok_or_else(|| Refusal::bad(format!("`{name}` must be a whole number, 0 or more, or null for no limit"))),
    }
}

/// `POST /admin/v1/quota/set`: `{"bucket": ..., "bytes": ..., "objects": ...}`.
pub(super) async fn set(node: &Node, body: &Value) -> Answer {
    let name = named(body)?;
    let (bucket, _) = node.store().bucket_usage(&name).map_err(|error| refused(&error))?;
    let change = BucketChange::Quota {
        bytes: limit(body, "bytes", bucket.options.quota_bytes)?,
        objects: limit(body, "objects", bucket.options.quota_objects)?,
    };
    node.store().change_bucket(&name, change).await.map_err(|error| refused(&error))?;
    show(node, body)
}
