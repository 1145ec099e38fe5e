//! Keys by admin request: the ones that clients may name for SSE-KMS. No answer holds key material.

use granary_store::StoreError;
use granary_store::node::{Node, NodeError};
use granary_types::BucketName;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Refusal};

fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    body[name].as_str().ok_or_else(|| Refusal::bad(format!("`{name}` is missing")))
}

/// An error of the store as an answer.
fn refusal(error: &StoreError) -> Refusal {
    use granary_types::ErrorKind;
    let status = match error.kind() {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict | ErrorKind::Denied => StatusCode::CONFLICT,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal(status, error.to_string())
}

fn node_refusal(error: &NodeError) -> Refusal {
    match error {
        NodeError::Store(error) => refusal(error),
        other => Refusal(StatusCode::INTERNAL_SERVER_ERROR, other.to_string()),
    }
}

fn bucket(body: &Value) -> Result<BucketName, Refusal> {
    BucketName::new(text(body, "bucket")?).map_err(|error| Refusal::bad(error.to_string()))
}

/// Takes a bucket's lock off the shelf; then changes the root key, so that no copy of the lock that was made before can
/// be opened either.
async fn destroy(node: &Node, body: &Value) -> Answer {
    let missed = node.store().destroy_bucket_key(&bucket(body)?).await.map_err(|error| refusal(&error))?;
    if body["keep_root"] == true {
        return Ok(json!({ "missed": missed, "root": Value::Null, "root_why": "as asked" }));
    }
    match node.rotate_root_key().await {
        Ok(root) => Ok(json!({ "missed": missed, "root": root })),
        Err(error) => Ok(json!({ "missed": missed, "root": Value::Null, "root_why": error.to_string() })),
    }
}

/// `/admin/v1/keys...`.
pub(super) async fn answer(node: &Node, method: &Method, path: &str, body: &Value) -> Answer {
    let store = node.store();
    match (method.as_str(), path) {
        ("GET", "/admin/v1/keys") => {
            let buckets = store.bucket_keys().await.map_err(|error| refusal(&error))?;
            Ok(json!({ "provider": node.key_provider(), "buckets": buckets }))
        }
        ("POST", "/admin/v1/keys/rotate") => match &body["bucket"] {
            Value::Null => Ok(json!(node.rotate_root_key().await.map_err(|error| node_refusal(&error))?)),
            _ => {
                let name = bucket(body)?;
                let generation = store.rotate_bucket_key(&name).await.map_err(|error| refusal(&error))?;
                Ok(json!({ "generation": generation }))
            }
        },
        ("POST", "/admin/v1/keys/destroy") => destroy(node, body).await,
        ("GET", "/admin/v1/keys/kms") => {
            let keys = store.kms_keys().map_err(|error| refusal(&error))?;
            Ok(json!({ "keys": keys }))
        }
        ("POST", "/admin/v1/keys/kms/create") => {
            let id = text(body, "id")?;
            match store.create_kms_key(id).await {
                Ok(true) => Ok(json!({ "created": id })),
                Ok(false) => Err(Refusal(StatusCode::CONFLICT, format!("there is a KMS key `{id}` already"))),
                Err(error) => Err(refusal(&error)),
            }
        }
        ("POST", "/admin/v1/keys/kms/enable") => {
            let enabled = body["enabled"].as_bool().ok_or_else(|| Refusal::bad("`enabled` is missing"))?;
            let id = text(body, "id")?;
            store.enable_kms_key(id, enabled).await.map_err(|error| refusal(&error))?;
            tracing::warn!(id, enabled, "a KMS key was switched");
            Ok(json!({ "id": id, "enabled": enabled }))
        }
        _ => Err(Refusal(StatusCode::NOT_FOUND, format!("there is no {method} {path}"))),
    }
}
