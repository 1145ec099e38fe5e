//! Preconditions of reads, in the order of RFC 9110 section 13.2.2, as S3 applies them:
//! `If-Match` (then `If-Unmodified-Since` only without it), `If-None-Match` (then `If-Modified-Since`
//! only without it). <https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html>

use granary_meta::command::EtagMatch;
use granary_types::{Timestamp, VersionId};

use crate::api::ReadCondition;
use crate::error::StoreError;

/// Whether `matcher` names `etag`.
pub(crate) fn etag_matches(matcher: &EtagMatch, etag: &str) -> bool {
    match matcher {
        EtagMatch::Any => true,
        EtagMatch::OneOf(list) => list.iter().any(|candidate| candidate == etag),
    }
}

/// Checks a read's preconditions against an object.
///
/// # Errors
/// `Precondition` (412) or `NotModified` (304).
pub(crate) fn check_read(
    condition: &ReadCondition,
    etag: &str,
    created: Timestamp,
    version: Option<VersionId>,
) -> Result<(), StoreError> {
    if let Some(wanted) = &condition.if_match {
        if !etag_matches(wanted, etag) {
            return Err(StoreError::Precondition("If-Match"));
        }
    } else if let Some(since) = condition.if_unmodified_since
        && created.as_secs() > since.as_secs()
    {
        return Err(StoreError::Precondition("If-Unmodified-Since"));
    }
    let not_modified = if let Some(unwanted) = &condition.if_none_match {
        etag_matches(unwanted, etag)
    } else {
        condition.if_modified_since.is_some_and(|since| created.as_secs() <= since.as_secs())
    };
    if not_modified {
        return Err(StoreError::NotModified { etag: etag.to_owned(), created, version });
    }
    Ok(())
}

/// As [`check_read`], for the source of a copy, where "not modified" is a failed precondition too.
///
/// # Errors
/// `Precondition` (412).
pub(crate) fn check_copy_source(condition: &ReadCondition, etag: &str, created: Timestamp) -> Result<(), StoreError> {
    check_read(condition, etag, created, None).map_err(|error| match error {
        StoreError::NotModified { .. } if condition.if_none_match.is_some() => {
            StoreError::Precondition("x-amz-copy-source-If-None-Match")
        }
        StoreError::NotModified { .. } => StoreError::Precondition("x-amz-copy-source-If-Modified-Since"),
        StoreError::Precondition("If-Match") => StoreError::Precondition("x-amz-copy-source-If-Match"),
        StoreError::Precondition(_) => StoreError::Precondition("x-amz-copy-source-If-Unmodified-Since"),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp(1_700_000_000_500_000);

    fn check(condition: &ReadCondition) -> &'static str {
        match check_read(condition, "abc", T, None) {
            Ok(()) => "200",
            Err(StoreError::NotModified { .. }) => "304",
            Err(StoreError::Precondition(_)) => "412",
            Err(_) => "?",
        }
    }

    fn one(etag: &str) -> Option<EtagMatch> {
        Some(EtagMatch::OneOf(vec![etag.to_owned()]))
    }

    #[test]
    fn precedence_is_as_in_rfc_9110() {
        let none = ReadCondition::default();
        let past = Some(Timestamp::from_secs(1_600_000_000));
        let same = Some(Timestamp::from_secs(1_700_000_000));
        assert_eq!(check(&none), "200");
        assert_eq!(check(&ReadCondition { if_match: one("abc"), ..none.clone() }), "200");
        assert_eq!(check(&ReadCondition { if_match: one("x"), ..none.clone() }), "412");
        assert_eq!(check(&ReadCondition { if_unmodified_since: past, ..none.clone() }), "412");
        assert_eq!(check(&ReadCondition { if_unmodified_since: same, ..none.clone() }), "200");
        assert_eq!(check(&ReadCondition { if_match: one("abc"), if_unmodified_since: past, ..none.clone() }), "200");
        assert_eq!(check(&ReadCondition { if_none_match: one("abc"), ..none.clone() }), "304");
        assert_eq!(check(&ReadCondition { if_none_match: Some(EtagMatch::Any), ..none.clone() }), "304");
        assert_eq!(check(&ReadCondition { if_modified_since: same, ..none.clone() }), "304");
        assert_eq!(check(&ReadCondition { if_modified_since: past, ..none.clone() }), "200");
        assert_eq!(check(&ReadCondition { if_none_match: one("x"), if_modified_since: same, ..none }), "200");
    }
}
