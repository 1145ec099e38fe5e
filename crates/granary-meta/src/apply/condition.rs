//! Preconditions of writes: RFC 9110 section 13 as S3 narrows it.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-requests.html>

use super::{Cx, Step};
use crate::command::{Condition, EtagMatch, Refusal};
use crate::records::VersionRecord;

fn matches(wanted: &EtagMatch, etag: &str) -> bool {
    match wanted {
        EtagMatch::Any => true,
        EtagMatch::OneOf(etags) => etags.iter().any(|e| e == etag),
    }
}

impl Cx<'_, '_> {
    /// Checks `condition` against what is there; a delete marker counts as nothing.
    pub(super) fn check(&self, condition: &Condition, there: Option<&VersionRecord>) -> Step<()> {
        let object = there.and_then(|v| v.object().map(|o| (v.modified(), o)));
        if let Some(wanted) = &condition.if_match {
            match object {
                None => return Err(Refusal::NoSuchKey.into()),
                Some((_, o)) if matches(wanted, &o.etag) => {}
                Some(_) => return Err(Refusal::Precondition("If-Match").into()),
            }
        }
        let Some((created, object)) = object else { return Ok(()) };
        if condition.if_none_match.as_ref().is_some_and(|wanted| matches(wanted, &object.etag)) {
            return Err(Refusal::Precondition("If-None-Match").into());
        }
        if condition.if_match_size.is_some_and(|size| size != object.size_bytes) {
            return Err(Refusal::Precondition("x-amz-if-match-size").into());
        }
        if condition.if_match_last_modified.is_some_and(|at| at.as_secs() != created.as_secs()) {
            return Err(Refusal::Precondition("x-amz-if-match-last-modified-time").into());
        }
        Ok(())
    }
}
