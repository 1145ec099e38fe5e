//! Residency through the admin port: the report, and narrowing a pin in two steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use granary_meta::command::BucketChange;
use granary_store::ObjectStore as _;
use granary_store::node::Node;
use granary_types::BucketName;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Answer, Refusal};

/// Label of signed reports.
pub(crate) const LABEL: &str = "granary residency report v1";
/// How long a narrowing may wait for its confirmation.
const CONFIRM_WITHIN: Duration = Duration::from_secs(600);

/// A narrowing that waits for its second word.
struct Waiting {
    token: String,
    bucket: String,
    regions: Vec<String>,
    since: Instant,
}

/// Narrowings that wait, at most one per bucket.
#[derive(Default)]
pub(super) struct Narrowings(Mutex<Vec<Waiting>>);

fn bucket_of(body: &Value) -> Result<Option<BucketName>, Refusal> {
    match &body["bucket"] {
        Value::Null => Ok(None),
        Value::String(name) => {
            BucketName::new(name).map(Some).map_err(|error| Refusal::bad(format!("`bucket`: {error}")))
        }
        _ => Err(Refusal::bad("`bucket` must be text")),
    }
}

fn failed(error: &granary_store::StoreError) -> Refusal {
    Refusal(StatusCode::CONFLICT, error.to_string())
}

/// `/admin/v1/residency/...`; `None`: there is no such thing.
pub(super) async fn route(
    node: &Arc<Node>,
    waiting: &Narrowings,
    method: &str,
    what: &str,
    body: &Value,
) -> Option<Answer> {
    Some(match (method, what) {
        ("POST", "report") => report(node, body).await,
        ("POST", "narrow") => narrow(node, waiting, body),
        ("POST", "confirm") => confirm(node, waiting, body).await,
        _ => return None,
    })
}

async fn report(node: &Arc<Node>, body: &Value) -> Answer {
    let bucket = bucket_of(body)?;
    if let Some(name) = &bucket {
        node.store().bucket(name).map_err(|error| failed(&error))?;
    }
    let report = node.residency(bucket.as_ref()).await.map_err(|error| failed(&error))?;
    let text = serde_json::to_string(&report).map_err(|error| Refusal::bad(error.to_string()))?;
    let key = node.audit_key();
    Ok(json!({ "statement": text, "signature": node.sign(LABEL, &text), "public_key": key.to_pem() }))
}

/// The first word: what is to be narrowed, and to what. Answers with the token for the second.
fn narrow(node: &Arc<Node>, waiting: &Narrowings, body: &Value) -> Answer {
    let name = bucket_of(body)?.ok_or_else(|| Refusal::bad("`bucket` is missing"))?;
    let record = node.store().bucket(&name).map_err(|error| failed(&error))?;
    let regions: Vec<String> = body["regions"]
        .as_str()
        .map(|text| text.split(',').map(str::trim).filter(|r| !r.is_empty()).map(str::to_owned).collect())
        .unwrap_or_default();
    let pinned = &record.options.regions;
    if regions.is_empty() || (!pinned.is_empty() && !regions.iter().all(|region| pinned.contains(region))) {
        return Err(Refusal::bad(format!(
            "`regions` must be some of those that the bucket is pinned to ({}): a pin can only be narrowed",
            if pinned.is_empty() { "none yet: any may be named".to_owned() } else { pinned.join(", ") }
        )));
    }
    let token: String = rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut all = waiting.0.lock();
    all.retain(|other| other.bucket != name.as_str() && other.since.elapsed() < CONFIRM_WITHIN);
    all.push(Waiting {
        token: token.clone(),
        bucket: name.as_str().to_owned(),
        regions: regions.clone(),
        since: Instant::now(),
    });
    Ok(json!({ "token": token, "bucket": name.as_str(), "from": pinned, "to": regions,
        "within_s": CONFIRM_WITHIN.as_secs() }))
}

/// The second word. `apply` checks once more that it only narrows.
async fn confirm(node: &Arc<Node>, waiting: &Narrowings, body: &Value) -> Answer {
    let name = bucket_of(body)?.ok_or_else(|| Refusal::bad("`bucket` is missing"))?;
    let token = body["token"].as_str().unwrap_or_default();
    let found = {
        let mut all = waiting.0.lock();
        all.retain(|other| other.since.elapsed() < CONFIRM_WITHIN);
        let at = all.iter().position(|other| other.token == token && other.bucket == name.as_str());
        at.map(|at| all.swap_remove(at))
    };
    let found = found.ok_or_else(|| Refusal::bad("no narrowing of this bucket waits for this token"))?;
    let record = node.store().bucket(&name).map_err(|error| failed(&error))?;
    let options = granary_meta::records::BucketOptions { regions: found.regions.clone(), ..record.options.clone() };
    let change = BucketChange::Options(options);
    node.store().change_bucket(&name, change).await.map_err(|error| failed(&error))?;
    Ok(json!({ "bucket": name.as_str(), "regions": found.regions }))
}
