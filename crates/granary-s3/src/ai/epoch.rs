//! `GET /bucket/prefix/?granary-epoch=E&...`: a batch of an epoch. `?granary-dataset`: what is frozen there.

use granary_meta::records::FrozenPrefix;
use granary_store::ai::batch::{BatchRequest, OnMissing, open};
use granary_store::ai::epoch::{BATCH_SAMPLES_MAX, EpochRequest, WORLD_SIZE_MAX};
use granary_types::hex;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use s3s::{Body, S3Response};
use serde_json::json;

use crate::ai::{Answer, Call};
use crate::body;
use crate::error::{bad_request, invalid_argument};

pub(super) async fn epoch(call: Call<'_>) -> Answer {
    call.named("GranaryEpoch");
    call.method(&[Method::GET])?;
    let query = &call.query;
    let required = |name: &str, max: u64| match query.get(name) {
        Some(_) => query.number(name, 0..=max, 0),
        None => Err(invalid_argument(format!("`{name}` is missing"))),
    };
    let request = EpochRequest {
        epoch: required("granary-epoch", u64::MAX)?,
        seed: query.number("seed", 0..=u64::MAX, 0)?,
        rank: query.number("rank", 0..=WORLD_SIZE_MAX, 0)?,
        world_size: query.number("world-size", 1..=WORLD_SIZE_MAX, 1)?,
        batch: required("batch", u64::MAX)?,
        batch_size: query.number("batch-size", 1..=BATCH_SAMPLES_MAX, 128)?,
    };
    // Whoever may read nothing under the prefix shall not learn what is there.
    call.permit("ListObjectsV2", Some(&call.path)).await?;
    let bucket = call.route.front.bucket(&call.bucket, None)?;
    let (items, share) = call.route.epochs.batch(&bucket, &call.path, request).await?;
    let mut last = None;
    for item in &items {
        if last != Some(&item.key) {
            call.permit("GetObject", Some(item.key.as_str())).await?;
            last = Some(&item.key);
        }
    }
    let entries = items.len();
    let batch = BatchRequest {
        bucket: call.bucket.clone(),
        items,
        on_missing: OnMissing::Cut,
        with_info: false,
        hides_missing: false,
    };
    let stream = open(&call.route.shards, batch).await.map_err(|(_, error)| error)?;
    let mut response = S3Response::new(Body::from(body::outgoing_open(stream, call.cx.trace.clone())));
    response.status = Some(StatusCode::OK);
    response.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    let mut put = |name, value: u64| response.headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    put("x-granary-batch-items", entries as u64);
    put("x-granary-epoch-samples", share.samples_total);
    put("x-granary-rank-samples", share.samples);
    put("x-granary-rank-batches", share.batches);
    Ok(response)
}

pub(super) async fn dataset(call: Call<'_>) -> Answer {
    call.named("GranaryDataset");
    call.method(&[Method::GET])?;
    call.permit("ListObjectsV2", Some(&call.path)).await?;
    let bucket = call.route.front.bucket(&call.bucket, None)?;
    let shown = |frozen: &FrozenPrefix| {
        let manifest = frozen.manifest.as_ref();
        json!({
            "bucket": call.bucket.as_str(),
            "prefix": frozen.prefix,
            "frozenMicros": frozen.since.0,
            "finished": manifest.is_some(),
            "manifest": manifest.map(|m| m.key.as_str()),
            "manifestSha256": manifest.map(|m| hex::encode(m.sha256)),
            "objects": manifest.map(|m| m.objects),
            "bytes": manifest.map(|m| m.bytes),
            "samples": manifest.map(|m| m.samples),
        })
    };
    if call.path.is_empty() {
        let all: Vec<_> = bucket.frozen.iter().map(shown).collect();
        return Ok(super::json(&json!({ "datasets": all })));
    }
    match bucket.frozen.iter().find(|frozen| frozen.prefix == call.path) {
        Some(frozen) => Ok(super::json(&shown(frozen))),
        None => {
            let mut error =
                bad_request("NoSuchDataset", format!("{} is not a frozen dataset of the bucket", call.path));
            error.set_status_code(StatusCode::NOT_FOUND);
            Err(error.into())
        }
    }
}
