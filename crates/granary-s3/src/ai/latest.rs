//! `GET /bucket/run/?granary-latest`: the newest complete checkpoint.

use granary_store::ai::latest::{Checkpoint, LatestRequest, latest as find};
use http::Method;
use serde_json::{Value, json};

use crate::ai::{Answer, Call};
use crate::convert;

pub(super) async fn latest(call: Call<'_>) -> Answer {
    call.named("GranaryLatest");
    call.method(&[Method::GET])?;
    let prefix = match (call.path.as_str(), call.query.get("prefix")) {
        ("", Some(prefix)) => prefix.to_owned(),
        (path, None) => path.to_owned(),
        _ => return Err(crate::error::invalid_argument("name the run in the path or as `prefix`, not both").into()),
    };
    call.permit("ListObjectsV2", Some(&prefix)).await?;
    let owned = |name: &str| call.query.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let request = LatestRequest { prefix, marker: owned("marker"), ending: owned("suffix") };
    let found = find(&**call.route.shards.store(), &call.bucket, &request).await?;
    Ok(super::json(&shown(call.bucket.as_str(), &found)))
}

fn shown(bucket: &str, found: &Checkpoint) -> Value {
    json!({
        "bucket": bucket,
        "key": found.key,
        "kind": if found.marker.is_some() { "folder" } else { "file" },
        "step": found.step,
        "marker": found.marker,
        "etag": found.etag,
        "versionId": found.version.map(|version| version.to_string()),
        "size": found.size_bytes,
        "lastModified": convert::http_date(found.created),
    })
}
