//! The table of errors: each of the store's, and what S3 clients are told.

use granary_drive::api::DriveError;
use granary_meta::command::Refusal;
use granary_s3::error::answer;
use granary_store::StoreError;
use granary_store::api::BodyError;
use granary_store::upstream::UpstreamError;
use granary_types::{BucketName, ChecksumAlgorithm, Timestamp, VersionId};

#[test]
fn every_refusal_has_its_answer() {
    for (refusal, status, code) in [
        (Refusal::BucketExists { owner: "o".into() }, 409, "BucketAlreadyExists"),
        (Refusal::NoSuchBucket, 404, "NoSuchBucket"),
        (Refusal::BucketNotEmpty, 409, "BucketNotEmpty"),
        (Refusal::TooManyBuckets, 400, "TooManyBuckets"),
        (Refusal::NoSuchKey, 404, "NoSuchKey"),
        (Refusal::NoSuchVersion, 404, "NoSuchVersion"),
        (Refusal::IsDeleteMarker, 405, "MethodNotAllowed"),
        (Refusal::Precondition("If-Match"), 412, "PreconditionFailed"),
        (Refusal::NoSuchUpload, 404, "NoSuchUpload"),
        (Refusal::InvalidPart { number: 3 }, 400, "InvalidPart"),
        (Refusal::InvalidPartOrder, 400, "InvalidPartOrder"),
        (Refusal::EntityTooSmall { number: 1, size_bytes: 5 }, 400, "EntityTooSmall"),
        (Refusal::EntityTooLarge, 400, "EntityTooLarge"),
        (Refusal::BadChecksum, 400, "BadDigest"),
        (Refusal::BadSize, 400, "InvalidRequest"),
        (Refusal::Locked("retention"), 403, "AccessDenied"),
        (Refusal::WriteOnce, 412, "PreconditionFailed"),
        (Refusal::QuotaExceeded, 403, "QuotaExceeded"),
        (Refusal::InvalidState("no"), 409, "InvalidBucketState"),
        (Refusal::Stale, 500, "InternalError"),
        (Refusal::BlockGone, 503, "SlowDown"),
        (Refusal::UpstreamBehind, 503, "SlowDown"),
    ] {
        let shown = format!("{refusal:?}");
        let answer = answer(&StoreError::Refused(refusal), false);
        assert_eq!((answer.status.as_u16(), answer.code.as_str()), (status, code), "{shown}");
        assert!(!answer.message.is_empty(), "{shown}");
        assert_eq!(answer.is_our_fault, status == 500, "{shown}");
    }
}

fn upstream(error: UpstreamError) -> StoreError {
    StoreError::Upstream { bucket: BucketName::new("data").unwrap(), error }
}

#[test]
fn every_store_error_has_its_answer() {
    let created = Timestamp::from_secs(784_111_777);
    let version = VersionId::NULL;
    for (error, status, code, header) in [
        (StoreError::NoSuchBucket, 404, "NoSuchBucket", None),
        (StoreError::NoSuchKey { delete_marker: None }, 404, "NoSuchKey", None),
        (StoreError::NoSuchKey { delete_marker: Some(version) }, 404, "NoSuchKey", Some(("x-amz-version-id", "null"))),
        (StoreError::NoSuchVersion, 404, "NoSuchVersion", None),
        (StoreError::IsDeleteMarker { version, created }, 405, "MethodNotAllowed", Some(("allow", "DELETE"))),
        (StoreError::NoSuchUpload, 404, "NoSuchUpload", None),
        (StoreError::NoSuchPart(3), 416, "InvalidPartNumber", None),
        (StoreError::Precondition("If-Match"), 412, "PreconditionFailed", None),
        (
            StoreError::NotModified { etag: "e".into(), created, version: None },
            304,
            "NotModified",
            Some(("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")),
        ),
        (StoreError::InvalidRange { size_bytes: 7 }, 416, "InvalidRange", Some(("content-range", "bytes */7"))),
        (StoreError::IncompleteBody { want_bytes: 2, got_bytes: 1 }, 400, "IncompleteBody", None),
        (StoreError::Body(BodyError::Read("gone".into())), 400, "IncompleteBody", None),
        (StoreError::Body(BodyError::Signature), 400, "XAmzContentSHA256Mismatch", None),
        (StoreError::BadDigest, 400, "BadDigest", None),
        (StoreError::BadChecksum { algorithm: ChecksumAlgorithm::Crc32 }, 400, "BadDigest", None),
        (StoreError::EntityTooLarge { size_bytes: 2, max_bytes: 1 }, 400, "EntityTooLarge", None),
        (StoreError::Invalid("x must be y".into()), 400, "InvalidArgument", None),
        (StoreError::CopyOntoItself, 400, "InvalidRequest", None),
        (StoreError::Unavailable("draining".into()), 503, "SlowDown", Some(("retry-after", "1"))),
        (StoreError::Full, 503, "SlowDown", Some(("retry-after", "1"))),
        (upstream(UpstreamError::Unreachable("gone".into())), 503, "ServiceUnavailable", Some(("retry-after", "1"))),
        (upstream(UpstreamError::Refused("403".into())), 502, "UpstreamError", None),
        (upstream(UpstreamError::Rejected("400".into())), 502, "UpstreamError", None),
        (upstream(UpstreamError::Lied("short".into())), 502, "UpstreamError", None),
        (StoreError::Corrupt("rot".into()), 500, "InternalError", None),
        (StoreError::Internal("secret detail".into()), 500, "InternalError", None),
    ] {
        let answer = answer(&error, false);
        assert_eq!((answer.status.as_u16(), answer.code.as_str()), (status, code), "{error:?}");
        if let Some((name, value)) = header {
            assert_eq!(answer.headers.get(name).and_then(|v| v.to_str().ok()), Some(value), "{error:?}");
        }
        assert!(!answer.message.contains("secret detail"), "what went wrong inside is for the log");
    }
    let chunk = answer(&StoreError::Body(BodyError::Signature), true);
    assert_eq!(chunk.code.as_str(), "SignatureDoesNotMatch");
}

/// Drives' errors: those that pass are answered with patience, the rest as our fault.
#[test]
fn drive_errors() {
    let drive = granary_types::DriveId([1; 16]);
    let why = || "gone".to_owned();
    for (error, status) in [
        (DriveError::Offline { drive, why: why() }, 503),
        (DriveError::Invalid("bug".into()), 500),
        (DriveError::Poisoned { drive, why: why() }, 503),
    ] {
        let shown = format!("{error:?} {:?}", error.kind());
        let answer = answer(&StoreError::Drive(error), false);
        assert_eq!((answer.status.as_u16(), answer.is_our_fault), (status, true), "{shown}");
    }
}
