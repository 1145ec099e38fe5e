//! What is known of a request while it is served: its id, its operation, who asks, how many bytes came.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use granary_access::{Decision, Identity};
use granary_meta::command::{Cause, Origin};
use granary_meta::records::BucketRecord;
use granary_store::StoreError;
use granary_store::meter::Meter;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result};

use crate::access::AuthView;
use crate::auth::Proven;
use crate::blocked::Blocked;
use crate::error::{self, Fail};
use crate::post::Form;
use crate::query::call::ApiCall;
use crate::run::RunId;

/// Told once per request, when the last byte of its answer is sent or the connection is lost.
pub trait RequestObserver: Send + Sync + 'static {
    /// A request has ended.
    fn done(&self, ended: &Ended<'_>);
}

/// A request that has ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ended<'a> {
    /// S3's operation name, `Unknown` where the request was refused before it was known.
    pub op: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the request's head to the end of the answer, in microseconds.
    pub micros: u64,
    /// From the request's head to the first byte of the answer's body, or to its head where it has none.
    pub first_byte_micros: u64,
    /// Of the time, waiting for drives. Waits side by side add up, so it may be more than `micros`.
    pub drives_micros: u64,
    /// Of the time, waiting for the client: to send more of its body, or to take more of the answer's.
    pub client_micros: u64,
    /// Chunks found in the read cache.
    pub cache_hits: u64,
    /// Chunks read from drives.
    pub cache_misses: u64,
    /// The bucket, which exists. `None` where the request was refused before it was looked up.
    pub bucket: Option<&'a str>,
    /// The run that it belongs to.
    pub run: Option<&'a str>,
}

/// The other end of the connection. Whoever accepts connections puts it into the request's extensions; without it
/// the address is unknown, and conditions on it do not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Address and port of the client.
    pub address: SocketAddr,
    /// The version of TLS, such as `1.3`; `None` over plain HTTP.
    pub tls: Option<&'static str>,
    /// IANA's name of the cipher suite without its prefix: `AES_256_GCM_SHA384`.
    pub cipher: Option<&'static str>,
    /// SHA-256 of the client's certificate, where it gave one.
    pub client_certificate: Option<[u8; 32]>,
}

/// Name of an operation that was never known.
const UNKNOWN: &str = "Unknown";

/// The operations that have a name of their own in metrics; all that are not implemented share `Other`.
const OPERATIONS: &[&str] = &[
    UNKNOWN,
    "Other",
    "AbortMultipartUpload",
    "CompleteMultipartUpload",
    "CopyObject",
    "CreateBucket",
    "CreateMultipartUpload",
    "DeleteBucket",
    "DeleteBucketTagging",
    "DeleteObject",
    "DeleteObjectTagging",
    "DeleteObjects",
    "GetBucketAcl",
    "GetBucketCors",
    "GetBucketEncryption",
    "GetBucketLifecycleConfiguration",
    "GetBucketLocation",
    "GetBucketOwnershipControls",
    "GetBucketPolicy",
    "GetBucketPolicyStatus",
    "GetBucketTagging",
    "GetBucketVersioning",
    "GetObject",
    "GetObjectAcl",
    "GetObjectAttributes",
    "GetObjectLegalHold",
    "GetObjectLockConfiguration",
    "GetObjectRetention",
    "GetObjectTagging",
    "GetPublicAccessBlock",
    "HeadBucket",
    "HeadObject",
    "ListBuckets",
    "ListMultipartUploads",
    "ListObjectVersions",
    "ListObjects",
    "ListObjectsV2",
    "ListParts",
    "PutBucketAcl",
    "PutBucketTagging",
    "PutBucketVersioning",
    "PutObject",
    "PutObjectAcl",
    "PutObjectLegalHold",
    "PutObjectLockConfiguration",
    "PutObjectRetention",
    "PutObjectTagging",
    "UploadPart",
    "UploadPartCopy",
    "PostObject",
    "PutBucketPolicy",
    "DeleteBucketPolicy",
    "PutPublicAccessBlock",
    "DeletePublicAccessBlock",
    "PutBucketOwnershipControls",
    "DeleteBucketOwnershipControls",
    "PutBucketRequestPayment",
    "GetBucketRequestPayment",
    "PutBucketCors",
    "DeleteBucketCors",
    "PutBucketEncryption",
    "DeleteBucketEncryption",
    "OptionsObject",
    "GranaryMember",
    "GranaryMembers",
    "GranaryBatch",
    "GranaryLatest",
    "GranaryEpoch",
    "GranaryDataset",
    "GranaryWarm",
    "PutBucketLifecycleConfiguration",
    "DeleteBucketLifecycle",
    "GetBucketNotificationConfiguration",
    "PutBucketNotificationConfiguration",
    "GetBucketLogging",
    "PutBucketLogging",
    "CreateSession",
    "ListDirectoryBuckets",
    "RestoreObject",
    "SelectObjectContent",
];

/// The number of an operation, for [`Trace::set_operation`].
pub(crate) fn operation_index(name: &str) -> u8 {
    let index = OPERATIONS.iter().position(|known| *known == name).unwrap_or(1);
    u8::try_from(index).unwrap_or(1)
}

/// One request, from its head to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct Trace {
    /// `x-amz-request-id`.
    pub(crate) id: String,
    pub(crate) started: Instant,
    /// The body has a signature per chunk.
    pub(crate) is_chunk_signed: bool,
    operation: AtomicU8,
    bytes_in: AtomicU64,
    /// What went wrong on our side, for the one log line.
    fault: Mutex<Option<String>>,
    /// What is wrong with the request's document, for which s3s has no answer.
    verdict: Mutex<Option<S3Error>>,
    /// Who asks; set once the signature is verified (and for anonymous requests).
    identity: OnceLock<Arc<Identity>>,
    /// Whether it may, and what decided: the first refusal, else the first answer.
    decision: Mutex<Option<Decision>>,
    /// Where from.
    pub(crate) peer: Option<Peer>,
    /// The bucket it is about, once it was looked up.
    bucket: OnceLock<Arc<BucketRecord>>,
    /// The call of IAM or STS that it is.
    call: Mutex<Option<ApiCall>>,
    /// The key it is about.
    key: OnceLock<Box<str>>,
    /// What the bucket that is shown blocks.
    blocked: OnceLock<Blocked>,
    /// The condition that did not hold.
    condition: OnceLock<&'static str>,
    /// Of each entry of a page of versions, in order, whether it is a delete marker.
    markers: Mutex<Vec<bool>>,
    /// The run that it belongs to.
    run: Option<RunId>,
    /// What it has waited for, in microseconds, and what of it was in the read cache.
    drives_us: AtomicU64,
    client_us: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
}

impl Meter for Trace {
    fn drives(&self, micros: u64) {
        self.drives_us.fetch_add(micros, Ordering::Relaxed);
    }

    fn chunks(&self, hits: u64, misses: u64) {
        self.cache_hits.fetch_add(hits, Ordering::Relaxed);
        self.cache_misses.fetch_add(misses, Ordering::Relaxed);
    }
}

impl Trace {
    pub(crate) fn new(is_chunk_signed: bool, peer: Option<Peer>) -> Self {
        Self {
            id: format!("{:016X}", rand::random::<u64>()),
            started: Instant::now(),
            is_chunk_signed,
            operation: AtomicU8::new(0),
            bytes_in: AtomicU64::new(0),
            fault: Mutex::new(None),
            verdict: Mutex::new(None),
            identity: OnceLock::new(),
            decision: Mutex::new(None),
            peer,
            bucket: OnceLock::new(),
            call: Mutex::new(None),
            key: OnceLock::new(),
            blocked: OnceLock::new(),
            condition: OnceLock::new(),
            markers: Mutex::new(Vec::new()),
            run: None,
            drives_us: AtomicU64::new(0),
            client_us: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
            cache_misses: AtomicU64::new(0),
        }
    }

    /// As one of a run.
    pub(crate) fn of_run(self, run: Option<RunId>) -> Self {
        Self { run, ..self }
    }

    /// So long was waited for the client.
    pub(crate) fn add_client(&self, since: Instant) {
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.client_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// What is known of it at its end, but for what only its answer knows.
    pub(crate) fn ended(&self) -> Ended<'_> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ended {
            op: self.operation(),
            micros: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            drives_micros: read(&self.drives_us),
            client_micros: read(&self.client_us),
            cache_hits: read(&self.cache_hits),
            cache_misses: read(&self.cache_misses),
            bucket: self.bucket().map(|bucket| bucket.name.as_str()),
            run: self.run.as_ref().map(RunId::as_str),
            ..Ended::default()
        }
    }

    pub(crate) fn set_bucket(&self, bucket: &Arc<BucketRecord>) {
        let _ = self.bucket.set(Arc::clone(bucket));
    }

    /// The bucket that the request is about, as it was when access was decided.
    pub(crate) fn bucket(&self) -> Option<&Arc<BucketRecord>> {
        self.bucket.get()
    }

    pub(crate) fn set_call(&self, call: ApiCall) {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
    }

    /// One more parameter of the call. One that its form gave already stays as it was given.
    pub(crate) fn note_of_call(&self, name: &str, value: &str) {
        if let Some(call) = self.call.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            && !call.parameters.iter().any(|(known, _)| known == name)
        {
            call.parameters.push((name.to_owned(), value.to_owned()));
        }
    }

    /// The call of IAM or STS that it is, if it is one.
    pub(crate) fn call(&self) -> Option<ApiCall> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_key(&self, key: &str) {
        let _ = self.key.set(key.into());
    }

    /// The key that the request is about.
    pub(crate) fn key(&self) -> Option<&str> {
        self.key.get().map(AsRef::as_ref)
    }

    pub(crate) fn set_identity(&self, identity: Arc<Identity>) {
        // Served twice (see `lenient`), it is the same identity.
        let _ = self.identity.set(identity);
    }

    /// Who asks. `None` where the request was refused before its signature was verified.
    pub(crate) fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.get()
    }

    /// Keeps what was decided. Of several questions of one request (copies, multi-deletes) the first refusal stays.
    pub(crate) fn set_decision(&self, decision: Decision) {
        let mut kept = self.decision.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|kept| kept.allowed && !decision.allowed) {
            *kept = Some(decision);
        }
    }

    /// Keeps what was decided, whatever was before: the event is to show this one.
    pub(crate) fn set_last_decision(&self, decision: Decision) {
        *self.decision.lock().unwrap_or_else(PoisonError::into_inner) = Some(decision);
    }

    /// What was decided, and by which statement. `None` where it did not come to a decision. (For the audit trail.)
    pub(crate) fn decision(&self) -> Option<Decision> {
        self.decision.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_operation(&self, index: u8) {
        self.operation.store(index, Ordering::Relaxed);
    }

    pub(crate) fn operation(&self) -> &'static str {
        OPERATIONS.get(usize::from(self.operation.load(Ordering::Relaxed))).copied().unwrap_or(UNKNOWN)
    }

    pub(crate) fn add_bytes_in(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    pub(crate) fn set_fault(&self, what: String) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    pub(crate) fn set_verdict(&self, error: S3Error) {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(crate) fn take_verdict(&self) -> Option<S3Error> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn set_blocked(&self, blocked: Blocked) {
        let _ = self.blocked.set(blocked);
    }

    pub(crate) fn blocked(&self) -> Option<Blocked> {
        self.blocked.get().copied()
    }

    /// Keeps which condition did not hold, for the error's document.
    pub(crate) fn set_condition(&self, condition: Option<&'static str>) {
        if let Some(condition) = condition {
            let _ = self.condition.set(condition);
        }
    }

    pub(crate) fn condition(&self) -> Option<&'static str> {
        self.condition.get().copied()
    }

    pub(crate) fn set_markers(&self, markers: Vec<bool>) {
        *self.markers.lock().unwrap_or_else(PoisonError::into_inner) = markers;
    }

    pub(crate) fn take_markers(&self) -> Vec<bool> {
        std::mem::take(&mut *self.markers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn take_fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What every operation starts from.
pub(crate) struct Cx {
    pub(crate) trace: Arc<Trace>,
    pub(crate) caller: Arc<Identity>,
    pub(crate) auth: AuthView,
    /// It came as an HTML form.
    pub(crate) is_form: bool,
}

impl Cx {
    /// # Errors
    /// `AccessDenied` if the access check did not run: no operation is served to nobody.
    pub(crate) fn of<T>(request: &S3Request<T>) -> S3Result<Self> {
        match (request.extensions.get::<Arc<Trace>>(), request.extensions.get::<Proven>()) {
            (Some(trace), Some(proven)) => {
                let is_form = request.extensions.get::<Form>().is_some();
                Ok(Self { trace: Arc::clone(trace), caller: Arc::clone(&proven.who), auth: proven.auth, is_form })
            }
            _ => Err(S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied")),
        }
    }

    /// Whose request this is, for the events that it makes.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            principal: self.caller.owner.id.clone(),
            source_ip: self.trace.peer.map(|peer| peer.address.ip().to_string()).unwrap_or_default(),
            request_id: self.trace.id.clone(),
            cause: if self.is_form { Cause::Post } else { Cause::Put },
        }
    }

    /// Turns a failure into the answer, and keeps what the operator must hear of for the log.
    pub(crate) fn refuse(&self, fail: Fail) -> S3Error {
        match fail {
            Fail::S3(error) => error,
            Fail::Store(error) => self.store_error(&error).into(),
            Fail::Ai(error) => {
                let answer = error::ai_answer(&error);
                if answer.is_our_fault {
                    self.trace.set_fault(error.to_string());
                }
                answer.into()
            }
        }
    }

    pub(crate) fn store_error(&self, error: &StoreError) -> error::Answer {
        let answer = error::answer(error, self.trace.is_chunk_signed);
        self.trace.set_condition(answer.condition);
        if answer.is_our_fault {
            self.trace.set_fault(error.to_string());
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_named() {
        let trace = Trace::new(false, None);
        assert_eq!(trace.operation(), "Unknown");
        for (name, shown) in [("GetObject", "GetObject"), ("UploadPartCopy", "UploadPartCopy"), ("Whatever", "Other")] {
            trace.set_operation(operation_index(name));
            assert_eq!(trace.operation(), shown);
        }
        assert_eq!(trace.id.len(), 16);
    }
}
