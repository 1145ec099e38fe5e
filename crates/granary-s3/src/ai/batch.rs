//! `POST /bucket?granary-batch`: many objects, ranges and members in one answer.

use granary_store::ai::batch::{BatchRequest, ITEMS_MAX, Item, OnMissing, open};
use granary_types::ObjectKey;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use s3s::{Body, S3Error, S3ErrorCode, S3Response};
use serde::Deserialize;

use crate::ai::members::parse_range;
use crate::ai::{Answer, Call};
use crate::error::{Fail, invalid_argument};
use crate::{body, convert};

/// Bytes of the list, at most.
const LIST_BYTES_MAX: usize = 4 << 20;

/// The list, as it is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    items: Vec<Wanted>,
    #[serde(default)]
    on_missing: Missing,
    #[serde(default)]
    info: bool,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Missing {
    #[default]
    Mark,
    Fail,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    key: String,
    #[serde(default, alias = "versionId")]
    version: Option<String>,
    #[serde(default)]
    member: Option<String>,
    #[serde(default)]
    range: Option<String>,
    #[serde(default, rename = "as")]
    name: Option<String>,
}

fn item(i: usize, wanted: Wanted) -> Result<Item, S3Error> {
    let at = |why: &str| invalid_argument(format!("item {i} of the list: {why}"));
    let Wanted { key, version, member, range, name } = wanted;
    let key = ObjectKey::new(key).map_err(|error| at(&error.to_string()))?;
    let version = convert::version_id(version.as_deref()).map_err(|_| at("its version is not a version id"))?;
    let range = match range {
        None => None,
        Some(text) => Some(parse_range(&text).ok_or_else(|| at("its range is not `bytes=first-last`"))?),
    };
    let name = name.unwrap_or_else(|| member.clone().unwrap_or_else(|| key.as_str().to_owned()));
    if name.is_empty() || name.len() > granary_store::ai::tar::NAME_BYTES_MAX || name.contains(['\0', '\n']) {
        return Err(at("the name of its entry must have 1 to 4096 bytes, without NUL and newline"));
    }
    Ok(Item { key, version, member, range, place: None, name, denied: false })
}

pub(super) async fn batch(mut call: Call<'_>) -> Answer {
    call.named("GranaryBatch");
    call.method(&[Method::POST])?;
    if !call.path.is_empty() {
        return Err(invalid_argument("a batch is asked of a bucket: POST /bucket?granary-batch").into());
    }
    let bytes = call.body.store_all_limited(LIST_BYTES_MAX).await.map_err(|_| {
        S3Error::with_message(
            S3ErrorCode::MaxMessageLengthExceeded,
            format!("the list could not be read whole; it may have {LIST_BYTES_MAX} bytes"),
        )
    })?;
    let list: List = serde_json::from_slice(&bytes).map_err(|error| {
        S3Error::with_message(
            S3ErrorCode::InvalidRequest,
            format!("the body is not a batch list, {{\"items\": [{{\"key\": ...}}]}}: {error}"),
        )
    })?;
    if list.items.is_empty() || list.items.len() > ITEMS_MAX {
        let count = list.items.len();
        return Err(invalid_argument(format!("a batch has 1 to {ITEMS_MAX} items, this one has {count}")).into());
    }
    let on_missing = match list.on_missing {
        Missing::Mark => OnMissing::Mark,
        Missing::Fail => OnMissing::Fail,
    };
    let count = list.items.len();
    let mut items = Vec::with_capacity(count);
    let mut refused = None;
    for (i, wanted) in list.items.into_iter().enumerate() {
        let item_version = wanted.version.clone();
        let mut item = item(i, wanted)?;
        let asked = call.permit_version("GetObject", Some(item.key.as_str()), item_version.as_deref());
        if let Err(denied) = asked.await {
            match on_missing {
                OnMissing::Mark => {
                    item.denied = true;
                    refused.get_or_insert(denied);
                }
                OnMissing::Fail | OnMissing::Cut => return Err(denied),
            }
        }
        items.push(item);
    }
    // As with single reads: who may not list is not told that a key is not there.
    let hides_missing = !call.cx.caller.is_root
        && !call.cx.trace.bucket().is_some_and(|bucket| call.route.front.may_list(&call.cx, bucket, None));
    // Who may have nothing of it gets no archive that says so item by item.
    if let Some(denied) = refused.filter(|_| items.iter().all(|item| item.denied)) {
        return Err(denied);
    }
    let keys: Vec<String> = match on_missing {
        OnMissing::Fail => items.iter().map(|item| item.key.as_str().to_owned()).collect(),
        OnMissing::Mark | OnMissing::Cut => Vec::new(),
    };
    let request = BatchRequest { bucket: call.bucket.clone(), items, on_missing, with_info: list.info, hides_missing };
    let stream = open(&call.route.shards, request).await.map_err(|(i, error)| named(&call, keys.get(i), i, error))?;
    let mut response = S3Response::new(Body::from(body::outgoing_open(stream, call.cx.trace.clone())));
    response.status = Some(StatusCode::OK);
    response.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    response.headers.insert(HeaderName::from_static("x-granary-batch-items"), HeaderValue::from(count));
    Ok(response)
}

/// An item's error, with which item it was.
fn named(call: &Call<'_>, key: Option<&String>, i: usize, error: granary_store::ai::AiError) -> Fail {
    let Some(key) = key else { return error.into() };
    let mut refused = call.cx.refuse(call.route.front.hide(&call.cx, Fail::from(error)));
    let message = refused.message().unwrap_or_default().to_owned();
    refused.set_message(format!("item {i} of the list, `{key}`: {message}"));
    Fail::S3(refused)
}
