//! Keys by admin request: the ones that clients may name for SSE-KMS. No answer holds key material.

use granary_store::StoreError;
use granary_store::node::Node;
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

/// `/admin/v1/keys...`.
pub(super) async fn answer(node: &Node, method: &Method, path: &str, body: &Value) -> Answer {
    let store = node.store();
    match (method.as_str(), path) {
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
