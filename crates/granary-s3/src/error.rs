//! Errors of the store as S3 answers: **one exhaustive match**, here and nowhere else.
//!
//! Codes, statuses and messages follow
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>. What the outer layer
//! ([`crate::service`]) adds to every error document: `Resource`, `RequestId`, `HostId`, and a message
//! where s3s gives none.

use std::borrow::Cow;

use granary_meta::command::Refusal;
use granary_store::StoreError;
use granary_store::ai::AiError;
use granary_store::api::BodyError;
use granary_store::sse::SseError;
use granary_store::upstream::UpstreamError;
use granary_types::{ErrorKind, Timestamp, VersionId};
use http::StatusCode;
use http::header::{ALLOW, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, RETRY_AFTER};
use s3s::{S3Error, S3ErrorCode};

use crate::convert;

/// Seconds that a client told to slow down should wait.
const RETRY_AFTER_SECS: u64 = 1;

/// What an operation of the front door can end with.
#[derive(Debug)]
pub(crate) enum Fail {
    /// The store's error, yet to be mapped.
    Store(StoreError),
    /// Already an S3 error: the request itself was wrong.
    S3(S3Error),
    /// An error of the reads for AI work, yet to be mapped.
    Ai(AiError),
}

impl From<AiError> for Fail {
    fn from(error: AiError) -> Self {
        Self::Ai(error)
    }
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<S3Error> for Fail {
    fn from(error: S3Error) -> Self {
        Self::S3(error)
    }
}

/// How a store error is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// S3 code.
    pub code: S3ErrorCode,
    /// HTTP status.
    pub status: StatusCode,
    /// Text for people.
    pub message: Cow<'static, str>,
    /// Headers beside the document.
    pub headers: HeaderMap,
    /// The condition that did not hold, for the document.
    pub condition: Option<&'static str>,
    /// The operator must hear of it: logged by the outer layer, once.
    pub is_our_fault: bool,
}

impl Answer {
    fn new(status: u16, code: S3ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { code, status, message: message.into(), headers: HeaderMap::new(), condition: None, is_our_fault: false }
    }

    fn custom(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status, S3ErrorCode::Custom(code.into()), message)
    }

    fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    fn our_fault(mut self) -> Self {
        self.is_our_fault = true;
        self
    }

    fn busy(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(503, S3ErrorCode::SlowDown, message).with(RETRY_AFTER, &RETRY_AFTER_SECS.to_string())
    }

    fn internal() -> Self {
        // The cause goes to the log, not to the client.
        Self::new(500, S3ErrorCode::InternalError, "We encountered an internal error. Please try again.").our_fault()
    }
}

impl From<Answer> for S3Error {
    fn from(answer: Answer) -> Self {
        let mut error = Self::with_message(answer.code, answer.message);
        error.set_status_code(answer.status);
        if !answer.headers.is_empty() {
            // s3s replaces all headers by these, so the content type has to be among them.
            let mut headers = answer.headers;
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            error.set_headers(headers);
        }
        error
    }
}

const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");
const DELETE_MARKER: HeaderName = HeaderName::from_static("x-amz-delete-marker");
const VERSION_ID: HeaderName = HeaderName::from_static("x-amz-version-id");

const NO_SUCH_KEY: &str = "The specified key does not exist.";
const NO_SUCH_BUCKET: &str = "The specified bucket does not exist";
const NO_SUCH_VERSION: &str = "The specified version does not exist.";
const NO_SUCH_UPLOAD: &str = "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.";
const NOT_ALLOWED: &str = "The specified method is not allowed against this resource.";

/// The S3 answer to a store error. `is_chunk_signed`: the body carried a signature per chunk, so a
/// mismatch is one of signatures, else one of the payload's SHA-256.
#[must_use]
pub fn answer(error: &StoreError, is_chunk_signed: bool) -> Answer {
    use S3ErrorCode as Code;
    match error {
        StoreError::Refused(refusal) => refused(refusal),
        StoreError::NoSuchBucket => Answer::new(404, Code::NoSuchBucket, NO_SUCH_BUCKET),
        StoreError::NoSuchKey { delete_marker } => {
            let answer = Answer::new(404, Code::NoSuchKey, NO_SUCH_KEY);
            match delete_marker {
                Some(version) => answer.with(DELETE_MARKER, "true").with(VERSION_ID, &version.to_string()),
                None => answer,
            }
        }
        StoreError::NoSuchVersion => Answer::new(404, Code::NoSuchVersion, NO_SUCH_VERSION),
        StoreError::IsDeleteMarker { version, created } => is_delete_marker(*version, *created),
        StoreError::NoSuchUpload => Answer::new(404, Code::NoSuchUpload, NO_SUCH_UPLOAD),
        StoreError::NoSuchPart(_) => {
            Answer::custom(416, "InvalidPartNumber", "The requested partnumber is not satisfiable")
        }
        StoreError::Precondition(header) => precondition(header),
        StoreError::NotModified { etag, created, version } => {
            let answer = Answer::new(304, Code::NotModified, "Not Modified")
                .with(ETAG, &convert::quoted(etag))
                .with(LAST_MODIFIED, &convert::http_date(*created));
            match version {
                Some(version) => answer.with(VERSION_ID, &version.to_string()),
                None => answer,
            }
        }
        StoreError::InvalidRange { size_bytes } => {
            Answer::new(416, Code::InvalidRange, "The requested range is not satisfiable")
                .with(CONTENT_RANGE, &format!("bytes */{size_bytes}"))
        }
        StoreError::IncompleteBody { .. } | StoreError::Body(BodyError::Read(_)) => Answer::new(
            400,
            Code::IncompleteBody,
            "You did not provide the number of bytes specified by the Content-Length HTTP header, or the body ended early",
        ),
        StoreError::Body(BodyError::Signature) if is_chunk_signed => Answer::new(
            403,
            Code::SignatureDoesNotMatch,
            "The signature of a chunk of the body does not match its bytes.",
        ),
        StoreError::Body(BodyError::Signature) => Answer::custom(
            400,
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        ),
        StoreError::BadDigest => {
            Answer::new(400, Code::BadDigest, "The Content-MD5 you specified did not match what we received.")
        }
        StoreError::BadChecksum { algorithm } => Answer::new(
            400,
            Code::BadDigest,
            format!("The {} you specified did not match the calculated checksum.", algorithm.name()),
        ),
        StoreError::EntityTooLarge { size_bytes, max_bytes } => Answer::new(
            400,
            Code::EntityTooLarge,
            format!(
                "Your proposed upload of {size_bytes} bytes exceeds the maximum allowed size of {max_bytes} bytes."
            ),
        ),
        StoreError::Contradiction(what) => Answer::new(400, Code::InvalidRequest, what.clone()),
        StoreError::Invalid(what) => Answer::new(400, Code::InvalidArgument, what.clone()),
        StoreError::WrongRegion { region } => Answer::custom(
            301,
            "PermanentRedirect",
            "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future \
             requests to this endpoint.",
        )
        .with(BUCKET_REGION, region),
        StoreError::CopyOntoItself => Answer::new(
            400,
            Code::InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the \
             object's metadata, storage class, website redirect location or encryption attributes.",
        ),
        // 507 is what HTTP has for it, but AWS clients back off and retry on SlowDown, and show its message.
        StoreError::Full => {
            Answer::busy("The drives are full. Deletes still work: free space, or add drives.").our_fault()
        }
        StoreError::Sse(error) => encryption(error),
        // The cause may name the provider's address: it goes to the log.
        StoreError::KeysUnavailable(_) => Answer::new(
            503,
            Code::ServiceUnavailable,
            "The server's key provider does not answer. What is encrypted cannot be read or written until it does;              please try again.",
        )
        .with(RETRY_AFTER, &RETRY_AFTER_SECS.to_string())
        .our_fault(),
        // Its words name the bucket and what was wrong; where the upstream is, only the operator's log says.
        StoreError::Upstream { error: UpstreamError::Unreachable(_), .. } => {
            Answer::new(503, Code::ServiceUnavailable, upstream_message(error))
                .with(RETRY_AFTER, &RETRY_AFTER_SECS.to_string())
        }
        StoreError::Upstream { .. } => Answer::custom(502, "UpstreamError", upstream_message(error)),
        StoreError::Unavailable(why) => Answer::busy(why.clone()),
        StoreError::Drive(error) if error.kind() == ErrorKind::Unavailable => {
            Answer::busy("Too few drives answer. Please try again.").our_fault()
        }
        StoreError::Drive(_) | StoreError::Internal(_) => Answer::internal(),
        StoreError::Corrupt(_) => Answer::new(
            500,
            Code::InternalError,
            "The stored bytes failed verification and could not be rebuilt; the operator has been told.",
        )
        .our_fault(),
    }
}

fn upstream_message(error: &StoreError) -> String {
    let text = error.to_string();
    format!("{}{}.", text[..1].to_ascii_uppercase(), &text[1..])
}

fn encryption(error: &SseError) -> Answer {
    use S3ErrorCode as Code;
    let request = |message: &'static str| Answer::new(400, Code::InvalidRequest, message);
    match error {
        SseError::KeyNeeded => request(
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to \
             retrieve the object.",
        ),
        SseError::KeyWrong => Answer::new(
            403,
            Code::AccessDenied,
            "Requests specifying Server Side Encryption with Customer provided keys must provide the correct secret key.",
        ),
        SseError::NotApplicable => request("The encryption parameters are not applicable to this object."),
        SseError::PartNeedsKey => request(
            "The multipart upload initiate requested encryption. Subsequent part requests must include the appropriate \
             encryption parameters.",
        ),
        SseError::PartKeyDiffers => {
            request("The provided encryption parameters did not match the ones used originally.")
        }
        SseError::CompleteNeedsKey => Answer::new(
            400,
            Code::InvalidArgument,
            "Requests specifying Server Side Encryption with Customer provided keys must provide a valid encryption \
             algorithm.",
        ),
        SseError::NoSuchKmsKey(id) if id.starts_with("arn:") => {
            Answer::custom(400, "KMS.NotFoundException", format!("Key '{id}' does not exist"))
        }
        SseError::NoSuchKmsKey(id) => Answer::custom(400, "KMS.NotFoundException", format!("Invalid keyId '{id}'")),
        SseError::BucketKeyDestroyed => Answer::new(
            403,
            Code::AccessDenied,
            "The keys of this bucket were destroyed: nothing in it can be read or written any more.",
        ),
        SseError::KmsKeyDisabled(id) => Answer::custom(400, "KMS.DisabledException", format!("{id} is disabled.")),
    }
}

/// The answer to an error of the reads for AI work.
#[must_use]
pub fn ai_answer(error: &AiError) -> Answer {
    use S3ErrorCode as Code;
    match error {
        AiError::Store(error) => answer(error, false),
        AiError::Shard(_) => Answer::custom(422, "InvalidShard", error.to_string()),
        AiError::TooManyMembers { .. } => Answer::custom(422, "ShardTooLarge", error.to_string()),
        AiError::NoSuchMember(_) => Answer::custom(404, "NoSuchMember", error.to_string()),
        AiError::Ambiguous { .. } => Answer::custom(409, "AmbiguousMember", error.to_string()),
        AiError::Changed => Answer::busy(error.to_string()),
        AiError::Invalid(why) => Answer::new(400, Code::InvalidArgument, why.clone()),
        AiError::NoSuchBatch { .. } => Answer::custom(416, "NoSuchBatch", error.to_string()),
        AiError::NoCheckpoint { .. } => Answer::custom(404, "NoSuchCheckpoint", error.to_string()),
    }
}

fn refused(refusal: &Refusal) -> Answer {
    use S3ErrorCode as Code;
    match refusal {
        // The front door compares owners itself where the caller matters.
        Refusal::BucketExists { .. } => Answer::new(
            409,
            Code::BucketAlreadyExists,
            "The requested bucket name is not available. Please select a different name and try again.",
        ),
        Refusal::NoSuchBucket => Answer::new(404, Code::NoSuchBucket, NO_SUCH_BUCKET),
        Refusal::BucketNotEmpty => {
            Answer::new(409, Code::BucketNotEmpty, "The bucket you tried to delete is not empty")
        }
        Refusal::TooManyBuckets => {
            Answer::new(400, Code::TooManyBuckets, "You have attempted to create more buckets than allowed")
        }
        Refusal::NoSuchKey => Answer::new(404, Code::NoSuchKey, NO_SUCH_KEY),
        Refusal::NoSuchVersion => Answer::new(404, Code::NoSuchVersion, NO_SUCH_VERSION),
        Refusal::IsDeleteMarker => {
            Answer::new(405, Code::MethodNotAllowed, NOT_ALLOWED).with(DELETE_MARKER, "true").with(ALLOW, "DELETE")
        }
        Refusal::Precondition(header) => precondition(header),
        Refusal::NoSuchUpload => Answer::new(404, Code::NoSuchUpload, NO_SUCH_UPLOAD),
        Refusal::InvalidPart { number } => Answer::new(
            400,
            Code::InvalidPart,
            format!(
                "Part {number} could not be found. The part may not have been uploaded, or the specified entity tag \
                 or checksum may not match the part's."
            ),
        ),
        Refusal::InvalidPartOrder => Answer::new(
            400,
            Code::InvalidPartOrder,
            "The list of parts was not in ascending order. Parts must be ordered by part number.",
        ),
        Refusal::EntityTooSmall { number, size_bytes } => Answer::new(
            400,
            Code::EntityTooSmall,
            format!(
                "Your proposed upload is smaller than the minimum allowed size: part {number} has {size_bytes} bytes, \
                 and all parts but the last need 5242880."
            ),
        ),
        Refusal::EntityTooLarge => {
            Answer::new(400, Code::EntityTooLarge, "Your proposed upload exceeds the maximum allowed size of 5 TiB.")
        }
        Refusal::BadChecksum => Answer::new(
            400,
            Code::BadDigest,
            "The checksum you specified for the object did not match that of its parts.",
        ),
        Refusal::BadSize => Answer::new(
            400,
            Code::InvalidRequest,
            "The x-amz-mp-object-size you specified is not the size of the parts together.",
        ),
        // Why (which mode, or a hold) is in the answer to HeadObject: S3's text is this one, and clients compare it.
        Refusal::Locked(_) => {
            Answer::new(403, Code::AccessDenied, "Access Denied because object protected by object lock.")
        }
        Refusal::Frozen { prefix } => Answer::new(
            403,
            Code::AccessDenied,
            format!("Access Denied because the dataset {prefix} is frozen: nothing under it changes any more."),
        ),
        // A bucket whose keys are written once acts as if every write carried `If-None-Match: *`.
        Refusal::WriteOnce => Answer::new(
            412,
            Code::PreconditionFailed,
            "The keys of this bucket are written once, and this one exists already.",
        ),
        Refusal::QuotaExceeded => {
            Answer::custom(403, "QuotaExceeded", "The bucket's quota is used up: delete objects, or have it raised.")
        }
        Refusal::InvalidState(why) => Answer::new(409, Code::InvalidBucketState, *why),
        Refusal::BlockGone => {
            Answer::busy("A block that the write shares with an object was removed meanwhile. Please send it again.")
        }
        Refusal::UpstreamBehind => Answer::busy(
            "Too many changes of the bucket wait to be written to its upstream. Please reduce the rate, or see why the upstream takes \
             none.",
        ),
        Refusal::Stale => Answer::internal(),
        Refusal::Protected(why) => Answer::new(403, Code::AccessDenied, format!("Access Denied: {why}.")),
        Refusal::InvalidWriteOffset { .. } => Answer::custom(
            400,
            "InvalidWriteOffset",
            "The write offset value that you specified does not match the current object size.",
        ),
        Refusal::TooManyParts => Answer::custom(
            400,
            "TooManyParts",
            "You have attempted to add more parts than the maximum of 10000 that are allowed for this object. You can use \
             the CopyObject operation to copy this object to another and then add more data to the newly copied object.",
        ),
        Refusal::Conflict => Answer::custom(
            409,
            "ConditionalRequestConflict",
            "The key was changed by another request meanwhile. Read it again, then repeat the request.",
        ),
        Refusal::TokenReused => Answer::custom(
            400,
            "IdempotencyParameterMismatch",
            "The client token was used before for a request with other parameters.",
        ),
    }
}

fn precondition(header: &'static str) -> Answer {
    let message = "At least one of the pre-conditions you specified did not hold";
    Answer { condition: Some(header), ..Answer::new(412, S3ErrorCode::PreconditionFailed, message) }
}

fn is_delete_marker(version: VersionId, created: Timestamp) -> Answer {
    Answer::new(405, S3ErrorCode::MethodNotAllowed, NOT_ALLOWED)
        .with(ALLOW, "DELETE")
        .with(DELETE_MARKER, "true")
        .with(VERSION_ID, &version.to_string())
        .with(LAST_MODIFIED, &convert::http_date(created))
}

/// A request that is wrong in itself: 400 `InvalidArgument`.
pub(crate) fn invalid_argument(message: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidArgument, message)
}

/// 400 with a code that s3s does not know.
pub(crate) fn bad_request(code: &'static str, message: impl Into<Cow<'static, str>>) -> S3Error {
    Answer::custom(400, code, message).into()
}

/// 404 with a code that s3s does not know as one.
pub(crate) fn not_found(code: &'static str, message: impl Into<Cow<'static, str>>) -> S3Error {
    Answer::custom(404, code, message).into()
}

/// 400 `InvalidRequest`.
pub(crate) fn invalid_request(message: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidRequest, message)
}

/// 501, saying what is not there.
pub(crate) fn not_implemented(message: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::with_message(S3ErrorCode::NotImplemented, message)
}
