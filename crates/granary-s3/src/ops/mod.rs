//! S3's operations, by theme. Each function turns an s3s input into store calls and the result into an s3s
//! output; none keeps state.

pub(crate) mod access;
pub(crate) mod acl;
pub(crate) mod append;
pub(crate) mod attributes;
pub(crate) mod bucket;
pub(crate) mod copy;
pub(crate) mod cors;
pub(crate) mod delete;
pub(crate) mod encryption;
pub(crate) mod grants;
pub(crate) mod lifecycle;
pub(crate) mod list;
pub(crate) mod lock;
pub(crate) mod logging;
pub(crate) mod multipart;
pub(crate) mod notification;
pub(crate) mod read;
pub(crate) mod restore;
pub(crate) mod select;
pub(crate) mod session;
pub(crate) mod settings;
pub(crate) mod sse;
pub(crate) mod tagging;
pub(crate) mod write;

use granary_meta::command::Condition;
use http::HeaderMap;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use s3s::dto;

use crate::context::Cx;
use crate::convert;
use crate::error::Fail;

/// An owner as S3 shows one. The name is known of who asks, and shown of nobody else.
pub(crate) fn owner(cx: &Cx, id: &str) -> dto::Owner {
    let owner = &cx.caller.owner;
    let display_name = (owner.id == id).then(|| owner.display_name.clone());
    dto::Owner { display_name, id: Some(id.to_owned()) }
}

/// Preconditions of a write. (AWS takes only `*` in `If-None-Match` here; with ETags it means what RFC 9110 says.)
pub(crate) fn write_condition(headers: &HeaderMap) -> Result<Condition, Fail> {
    Ok(Condition {
        if_match: convert::etag_match(headers, &IF_MATCH)?,
        if_none_match: convert::etag_match(headers, &IF_NONE_MATCH)?,
        ..Condition::default()
    })
}
