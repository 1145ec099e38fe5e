//! `POST /bucket/prefix?granary-warm[=warm|pin|evict]`: the read cache, by name instead of by use.

use granary_store::ai::warm::CacheAct;
use http::Method;
use serde_json::json;

use crate::ai::{Answer, Call};
use crate::error::invalid_argument;

pub(super) async fn warm(call: Call<'_>) -> Answer {
    call.named("GranaryWarm");
    call.method(&[Method::POST])?;
    let (act, action) = match call.query.get("granary-warm").unwrap_or_default() {
        "" | "warm" => (CacheAct::Warm, "granary:WarmCache"),
        "pin" => (CacheAct::Pin, "granary:PinCache"),
        "evict" => (CacheAct::Evict, "granary:EvictCache"),
        other => {
            let why = format!("`granary-warm` is `{other}`: it may be `warm` (or empty), `pin` or `evict`");
            return Err(invalid_argument(why).into());
        }
    };
    // On the prefix, as if it were an object's key: rights on `bucket/data/*` are rights on what lies there.
    call.permit_action(action, Some(&call.path)).await?;
    let done = call.route.shards.store().tend_cache(&call.bucket, &call.path, act).await?;
    Ok(super::json(&json!({
        "bucket": call.bucket.as_str(),
        "prefix": call.path,
        "act": act.name(),
        "objects": done.objects,
        "bytes": (act != CacheAct::Evict).then_some(done.amount),
        "chunks": (act == CacheAct::Evict).then_some(done.amount),
        "isFull": done.is_full,
    })))
}
