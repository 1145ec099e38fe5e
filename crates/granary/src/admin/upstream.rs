//! Upstreams of buckets by admin request. The secret comes in, is sealed, and is in no answer.

use granary_store::node::Node;
use granary_store::upstream::{UpstreamChange, UpstreamSecret};
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
        StoreError::Invalid(why) => Refusal::bad(why.clone()),
        other => Refusal(StatusCode::CONFLICT, other.to_string()),
    }
}

fn text(body: &Value, name: &str) -> Result<Option<String>, Refusal> {
    match &body[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(Refusal::bad(format!("`{name}` must be text"))),
    }
}

fn needed(body: &Value, name: &str) -> Result<String, Refusal> {
    text(body, name)?.ok_or_else(|| Refusal::bad(format!("`{name}` is missing")))
}

fn flag(body: &Value, name: &str, default: bool) -> Result<bool, Refusal> {
    match &body[name] {
        Value::Null => Ok(default),
        Value::Bool(on) => Ok(*on),
        _ => Err(Refusal::bad(format!("`{name}` must be true or false"))),
    }
}

fn seconds(body: &Value, name: &str) -> Result<Option<u64>, Refusal> {
    match &body[name] {
        Value::Null => Ok(None),
        value => value.as_u64().map(Some).ok_or_else(|| Refusal::bad(format!("`{name}` must be a number of seconds"))),
    }
}

/// `POST /admin/v1/upstream/show`: `{"bucket": ...}`.
pub(super) fn show(node: &Node, body: &Value) -> Answer {
    let name = named(body)?;
    let Some(shown) = node.store().upstream(&name).map_err(|error| refused(&error))? else {
        return Ok(json!({ "bucket": name.as_str(), "upstream": null }));
    };
    let rule = &shown.rule;
    let counted: serde_json::Map<String, Value> =
        shown.stats.all().into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    Ok(json!({
        "bucket": name.as_str(),
        "upstream": {
            "endpoint": rule.endpoint,
            "bucket": rule.bucket,
            "prefix": rule.prefix,
            "region": rule.region,
            "regions": rule.declared_regions,
            "path_style": rule.path_style,
            "access_key": rule.access_key,
            "own_ca": !rule.ca.is_empty(),
            "write_back": rule.write_back,
            "revalidate_s": rule.revalidate_s,
            "absent_s": rule.absent_s,
        },
        "pending": shown.pending,
        "since_start": counted,
    }))
}

/// `POST /admin/v1/upstream/set`.
pub(super) async fn set(node: &Node, body: &Value) -> Answer {
    let name = named(body)?;
    let keys = match (text(body, "access_key")?, text(body, "secret_key")?) {
        (None, None) => None,
        (Some(access_key), Some(secret)) => Some((access_key, UpstreamSecret::new(secret))),
        _ => return Err(Refusal::bad("`access_key` and `secret_key` go together")),
    };
    let declared_regions = match &body["regions"] {
        Value::Null => Vec::new(),
        Value::String(list) => list.split(',').map(|region| region.trim().to_owned()).collect(),
        _ => return Err(Refusal::bad("`regions` must be text, regions with commas between them")),
    };
    let change = UpstreamChange {
        endpoint: needed(body, "endpoint")?,
        plain_http: flag(body, "plain_http", false)?,
        bucket: needed(body, "upstream_bucket")?,
        prefix: text(body, "prefix")?.unwrap_or_default(),
        region: text(body, "region")?.unwrap_or_else(|| "us-east-1".to_owned()),
        declared_regions,
        path_style: flag(body, "path_style", true)?,
        keys,
        ca: text(body, "ca")?.unwrap_or_default().into_bytes(),
        write_back: flag(body, "write_back", false)?,
        revalidate_s: seconds(body, "revalidate_s")?,
        absent_s: seconds(body, "absent_s")?.unwrap_or(0),
        discard_pending: flag(body, "discard_pending", false)?,
    };
    if !change.ca.is_empty() {
        crate::outbound::connector(&crate::outbound::Roots::Pem(&change.ca))
            .map_err(|why| Refusal::bad(format!("`ca`: {why}")))?;
    }
    node.store().set_upstream(&name, change).await.map_err(|error| refused(&error))?;
    show(node, body)
}

/// `POST /admin/v1/upstream/clear`.
pub(super) async fn clear(node: &Node, body: &Value) -> Answer {
    let name = named(body)?;
    let discard = flag(body, "discard_pending", false)?;
    let there = node.store().clear_upstream(&name, discard).await.map_err(|error| refused(&error))?;
    // What it holds by now is its own.
    let _ = node.store().bucket(&name).map_err(|error| refused(&error))?;
    Ok(json!({ "bucket": name.as_str(), "cleared": there }))
}
