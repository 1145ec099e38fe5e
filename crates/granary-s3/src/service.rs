//! The outermost layer: what hyper serves.
//!
//! Around s3s it adds request ids, bounds on what is served at once, checks that s3s leaves out, whole error
//! documents, and one call of the observer per request. It owns no S3 semantics: those are in the operations.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use granary_access::Iam;
use granary_access::oidc::Verifier;
use granary_store::ObjectStore;
use granary_store::ai::epoch::Epochs;
use granary_store::ai::shard::Shards;
use granary_store::audit::{self, AuditLog, AuditScope};
use granary_store::meter::{self, Meter};
use granary_types::BucketName;
use http::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, EXPECT, HOST, HeaderName, HeaderValue, ORIGIN, SERVER,
    TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Either};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service as Inner, S3ServiceBuilder};
use s3s::{Body, S3Error, S3ErrorCode, StdError};

use crate::access::Gate;
use crate::access_log::{AccessLog, Pending};
use crate::ai::AiRoute;
use crate::audit::{RequestAudit, error_of};
use crate::auth::{Access, Auth, Domains, NoKeys};
use crate::blocked::Blocking;
use crate::context::{Peer, RequestObserver, Trace, operation_index};
use crate::error::invalid_request;
use crate::express;
use crate::front::FrontDoor;
use crate::guess::Claimed;
use crate::lenient::{self, Lenient};
use crate::ops::select::SelectConfig;
use crate::place::{FrontBody, Place};
use crate::query::{self, Query};
use crate::rechunk::Rechunk;
use crate::routes::Routes;
use crate::run::{RunId, RunRule};
use crate::subject::Subject;
use crate::unread::Unread;
use crate::{checksums, convert, cors, documents, late, post, precheck, sigv2};

/// What the front door can be told.
#[derive(Clone)]
pub struct FrontConfig {
    /// The region this node answers for. Buckets are created in it unless `any_region`.
    pub region: String,
    /// Take whatever `LocationConstraint` a client names and keep it as a label, instead of refusing others
    /// than `region`.
    pub any_region: bool,
    /// New buckets are as they were before April 2023: lists count, nothing is blocked.
    pub open_new_buckets: bool,
    /// Domains under which `bucket.domain` addresses a bucket. Path style works always.
    pub domains: Vec<String>,
    /// Take requests signed with SigV2, which boto3 still makes when it presigns for a custom endpoint.
    pub allow_sigv2: bool,
    /// Take keys that clients send with their requests (SSE-C). S3 refuses them over plain HTTP: off where others
    /// could read them on their way.
    pub allow_customer_keys: bool,
    /// Requests served at once; more are answered `503 SlowDown`.
    pub in_flight_max: usize,
    /// Bytes of a request's XML document, at most.
    pub xml_bytes_max: usize,
    /// How long a copy may take before its answer is begun, and then between two bytes of it.
    pub copy_silence: Duration,
    /// Shown as `x-amz-id-2`: which node answered.
    pub host_id: String,
    /// Memory that indexes of tar shards may take together, in bytes; one shard's at most a quarter of it.
    pub shard_index_bytes: u64,
    /// Where events of requests go. `None`: nowhere (tests of the front door alone).
    pub audit: Option<Arc<AuditLog>>,
    /// Keys that tell which run a request belongs to, where the request does not say it.
    pub run_rules: Vec<RunRule>,
    /// ARNs that bucket notifications may name.
    pub notify_targets: Vec<String>,
    /// What queries (SelectObjectContent) may take.
    pub select: SelectConfig,
}

impl Default for FrontConfig {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            any_region: true,
            open_new_buckets: false,
            domains: Vec::new(),
            allow_sigv2: true,
            allow_customer_keys: true,
            in_flight_max: 1024,
            // 10,000 completed parts with checksums are about 2 MB; 1,000 deletes of the longest keys 1.2 MB.
            xml_bytes_max: 4 * 1024 * 1024,
            copy_silence: Duration::from_secs(10),
            host_id: "granary".to_owned(),
            shard_index_bytes: 256 * 1024 * 1024,
            audit: None,
            run_rules: Vec::new(),
            notify_targets: Vec::new(),
            select: SelectConfig::default(),
        }
    }
}

/// s3s logs each client's mistake as an error; we log what the operator must hear of ourselves. Give this
/// directive to `tracing_subscriber::EnvFilter`.
pub const LOG_DIRECTIVE: &str = "s3s=off";

/// A front door that hyper can serve over HTTP/1 and HTTP/2. Cheap to clone.
#[derive(Clone)]
pub struct S3Service {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Inner,
    /// Takes who sent a request from its extensions.
    proven: Arc<OnceLock<Inner>>,
    store: Arc<dyn ObjectStore>,
    domains: Domains,
    query: Query,
    config: FrontConfig,
    host_id: HeaderValue,
    in_flight: Arc<AtomicUsize>,
    observer: Option<Arc<dyn RequestObserver>>,
    region: Arc<str>,
    access_log: Arc<AccessLog>,
    host_text: Arc<str>,
}

/// Makes the service.
///
/// # Errors
/// [`ConfigError`] naming the setting that is wrong.
pub fn service(
    store: Arc<dyn ObjectStore>,
    iam: Arc<Iam>,
    config: FrontConfig,
    observer: Option<Arc<dyn RequestObserver>>,
) -> Result<S3Service, ConfigError> {
    let host_id = HeaderValue::from_str(&config.host_id).map_err(|_| ConfigError::HostId(config.host_id.clone()))?;
    if let Some(domain) = config.domains.iter().find(|domain| !is_domain(domain)) {
        return Err(ConfigError::Domain(domain.clone()));
    }
    let access_log = AccessLog::new(Arc::clone(&store));
    let domains = Domains::new(&config.domains);
    let shards = Shards::new(Arc::clone(&store), config.shard_index_bytes);
    let gate = Arc::new(Gate::new(Arc::clone(&iam), Arc::clone(&store)));
    let front = FrontDoor::new(Arc::clone(&store), Arc::clone(&gate), &config);
    let access = |is_inner| Access { gate: Arc::clone(&gate), region: config.region.as_str().into(), is_inner };
    let proven = Arc::new(OnceLock::new());
    let built = |is_outer: bool| {
        let mut builder = S3ServiceBuilder::new(front.clone());
        let mut limits = S3Config::default();
        limits.xml_max_body_size = config.xml_bytes_max;
        // Of every SigV4 request, not of presigned URLs alone.
        limits.presigned_url_max_skew_time_secs = u32::try_from(iam.limits().clock_skew_s).unwrap_or(u32::MAX);
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(limits))));
        if !config.domains.is_empty() {
            builder.set_host(Domains::new(&config.domains));
        }
        if is_outer {
            builder.set_auth(Auth(Arc::clone(&iam)));
            builder.set_access(access(false));
            builder.set_route(Routes(vec![
                Box::new(AiRoute {
                    access: access(false),
                    domains: Domains::new(&config.domains),
                    front: front.clone(),
                    epochs: Epochs::new(shards.clone()),
                    shards: shards.clone(),
                }),
                Box::new(Blocking {
                    access: access(false),
                    inner: Arc::clone(&proven),
                    bytes_max: config.xml_bytes_max,
                }),
                Box::new(Lenient { access: access(false), inner: Arc::clone(&proven) }),
            ]));
        } else {
            // Without an authentication s3s would not check access at all.
            builder.set_auth(NoKeys);
            builder.set_access(access(true));
        }
        builder.build()
    };
    let query = Query {
        iam: Arc::clone(&iam),
        gate: Arc::clone(&gate),
        region: config.region.as_str().into(),
        oidc: Verifier::new(iam.limits().token_skew_s),
    };
    // Filled once, here: nobody else has it.
    let _ = proven.set(built(false));
    let inner = built(true);
    let in_flight = Arc::new(AtomicUsize::new(0));
    let region = config.region.as_str().into();
    let host_text = Arc::from(config.host_id.as_str());
    Ok(S3Service {
        shared: Arc::new(Shared {
            inner,
            proven,
            store,
            domains,
            query,
            config,
            host_id,
            in_flight,
            observer,
            region,
            access_log,
            host_text,
        }),
    })
}

/// A setting of the front door that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A domain with a port, a scheme or other characters that no domain has.
    #[error("`{0}` is not a domain: write it without scheme, port or path, for example s3.example.com")]
    Domain(String),
    /// The host id cannot be sent in a header.
    #[error("`{0}` cannot be a host id: use visible ASCII characters")]
    HostId(String),
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    !text.is_empty() && text.split('.').all(label)
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
const ID_2: HeaderName = HeaderName::from_static("x-amz-id-2");
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");

impl S3Service {
    /// Requests being served now, answers still being sent included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// The lines of logged buckets: whoever runs the service has them delivered.
    #[must_use]
    pub fn access_log(&self) -> Arc<AccessLog> {
        Arc::clone(&self.shared.access_log)
    }

    /// Begins the line of a request to a bucket that is logged.
    fn line(&self, parts: &Parts) -> Option<Pending> {
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).or(parts.uri.host());
        let path = parts.uri.path().trim_start_matches('/');
        let (bucket, key) = match host.and_then(|host| self.shared.domains.bucket(host)) {
            Some(bucket) => (bucket, path),
            None => {
                let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
                (bucket.to_owned(), key)
            }
        };
        let key = (!key.is_empty()).then(|| convert::path_decode(key).unwrap_or_default());
        self.shared.access_log.begin(parts, Some(&bucket), key)
    }

    /// Serves one request.
    pub async fn serve<B>(&self, request: Request<B>) -> Response<FrontBody>
    where
        B: http_body::Body<Data = Bytes> + Send + Sync + Unpin + 'static,
        B::Error: Into<StdError>,
        Body: FromBody<B>,
    {
        let shared = &*self.shared;
        let (mut parts, body) = request.into_parts();
        precheck::complete(&mut parts);
        let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let host_bucket = host.and_then(|host| shared.domains.bucket(host));
        if host_bucket.is_none() {
            precheck::end_bucket_path(&mut parts);
        }
        let run = RunId::of(&parts.headers, parts.uri.path(), host_bucket.as_deref(), &shared.config.run_rules);
        let payload = parts.headers.get(CONTENT_SHA256).map(HeaderValue::as_bytes).unwrap_or_default();
        let (is_chunk_signed, is_chunked) =
            (payload.starts_with(b"STREAMING-AWS4-"), payload.starts_with(b"STREAMING-"));
        let trace = Arc::new(Trace::new(is_chunk_signed, parts.extensions.get::<Peer>().copied()).of_run(run));
        let asked_to_send = parts.version <= http::Version::HTTP_11 && parts.headers.contains_key(EXPECT);
        let (is_head, is_post) = (parts.method == Method::HEAD, parts.method == Method::POST);
        let subject = Arc::new(Subject::new(&parts, host_bucket.as_deref()));
        let uri = parts.uri.clone();
        let cors = self.cors(&parts);
        let announced_bytes =
            parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
        parts.extensions.insert(Arc::clone(&trace));

        let before = shared.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            in_flight: Arc::clone(&shared.in_flight),
            observer: shared.observer.clone(),
            trace: Arc::clone(&trace),
            status: StatusCode::OK,
            bytes_in_announced: announced_bytes.unwrap_or(0),
            bytes_out: 0,
            first_byte_micros: None,
            audit: None,
            is_answered: false,
            error: (String::new(), String::new()),
            line: self.line(&parts).map(Box::new),
            host_id: Arc::clone(&shared.host_text),
        };
        let mut place = place;
        // Before anything is done for the request: where its event has no room, it is not served.
        let room = match &shared.config.audit {
            Some(log) => {
                Some(log.room(RequestAudit::is_write(&parts.method, parts.uri.query().unwrap_or_default())).await)
            }
            None => None,
        };
        if let (Some(log), Some(Ok(room))) = (&shared.config.audit, room) {
            let audit = RequestAudit::new(
                Arc::clone(log),
                room,
                Arc::clone(&trace),
                &parts,
                Arc::clone(&shared.region),
                Some(&shared.domains),
            );
            place.audit = Some(Arc::new(audit));
        }
        let claim = Claimed::of(&parts);
        let is_unheard = shared.config.audit.is_some() && place.audit.is_none();
        let refused =
            if before >= shared.config.in_flight_max || is_unheard || !claim.may_try(&shared.query.iam, &trace) {
                Err(too_busy())
            } else {
                precheck::check(&parts, shared.config.allow_sigv2, shared.query.iam.limits().clock_skew_s)
                    .and_then(|()| self.check_sigv2(&parts))
            };
        if refused.is_ok() && query::is_meant(&parts) {
            let scope = place.audit.clone();
            let work = self.query(&parts, body, place, &trace, &claim);
            return match scope {
                Some(scope) => audit::scoped(scope as Arc<dyn AuditScope>, work).await,
                None => work.await,
            };
        }
        let is_odd = lenient::has_odd_etags(&parts);
        let is_flat = express::is_in_chunks(&parts);
        let sum = if is_flat { checksums::announced(&parts.headers) } else { Ok(None) };
        let (refused, sum) = match (refused, sum) {
            (Ok(()), Err(error)) => (Err(error), None),
            (refused, sum) => (refused, sum.unwrap_or_default()),
        };
        let (refused, resign) = match refused {
            Ok(()) if is_flat || is_odd || express::is_meant(&parts) => {
                match express::translate(&mut parts, &shared.query.iam, &shared.domains, is_flat) {
                    Ok(resign) => {
                        // Not among what is signed anew.
                        lenient::straighten(&mut parts.headers);
                        (Ok(()), resign)
                    }
                    Err(error) => (Err(error), None),
                }
            }
            refused => (refused, None),
        };
        // A client that asked whether it may send has not sent yet.
        let has_sent = !parts.headers.contains_key(EXPECT)
            && (announced_bytes.is_some_and(|n| n > 0) || parts.headers.contains_key(TRANSFER_ENCODING));
        let (body, back) = if has_sent {
            let (body, back) = Unread::new(body);
            (Either::Left(body), Some(back))
        } else {
            (Either::Right(body), None)
        };
        let answer = match refused {
            Err(error) => Err(error),
            Ok(()) if parts.method == Method::OPTIONS => {
                trace.set_operation(crate::context::operation_index("OptionsObject"));
                self.preflight(&parts).map(|headers| {
                    let mut answer = Response::new(Body::empty());
                    *answer.headers_mut() = headers;
                    Ok(answer)
                })
            }
            Ok(()) if post::is_form(&parts) => self.post(parts, body, &trace).await.map(Ok),
            Ok(()) => {
                let body = if is_flat {
                    let body = Rechunk::flat(body, is_chunk_signed, resign, sum);
                    if documents::is_document(&parts) {
                        let bytes_max = shared.config.xml_bytes_max;
                        documents::Checked::new(&parts, body, Arc::clone(&trace), bytes_max).map(Body::http_body)
                    } else {
                        Ok(Body::http_body(body))
                    }
                } else if is_chunked {
                    Ok(Body::http_body(Rechunk::new(body, is_chunk_signed, resign)))
                } else if documents::is_document(&parts) {
                    documents::Checked::new(&parts, body, Arc::clone(&trace), shared.config.xml_bytes_max)
                        .map(Body::http_body)
                } else {
                    Ok(match body {
                        Either::Left(body) => Body::http_body(body),
                        Either::Right(body) => Body::from_body(body),
                    })
                };
                match body {
                    Ok(body) if late::is_candidate(&parts) => {
                        let request = Request::from_parts(parts, body);
                        Ok(self.copy(request, &trace, &subject, place.audit.clone()).await)
                    }
                    Ok(body) => {
                        let call = shared.inner.call(Request::from_parts(parts, body));
                        let call = meter::scoped(Arc::clone(&trace) as Arc<dyn Meter>, call);
                        Ok(match &place.audit {
                            Some(audit) => audit::scoped(Arc::clone(audit) as Arc<dyn AuditScope>, call).await,
                            None => call.await,
                        })
                    }
                    Err(error) => Err(error),
                }
            }
        };
        let answer = match answer {
            Ok(Ok(answer)) => match trace.take_verdict() {
                Some(error) if answer.status().as_u16() >= 400 => plain_error(error),
                _ => precheck::in_own_words(answer, &trace, &uri, is_post),
            },
            // Only the making of the answer can fail here.
            Ok(Err(error)) => {
                trace.set_fault(StdError::from(error).to_string());
                plain_error(S3Error::new(S3ErrorCode::InternalError))
            }
            Err(error) => plain_error(error),
        };
        claim.note(&shared.query.iam, &trace, &answer);
        if let Some(back) = back
            && answer.status().as_u16() >= 300
        {
            back.drain().await;
        }
        let mut answer = self.finish(answer, place, &trace, is_head, &subject);
        // Who asked whether it may send, and was refused, may have its next request on the way when hyper closes the connection,
        // whose body was never read: it is told.
        if asked_to_send && answer.status().as_u16() >= 300 {
            answer.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(cors) = cors {
            answer.headers_mut().extend(cors);
        }
        answer
    }

    /// The bucket that a request names, in its path or its host.
    fn bucket_name(&self, parts: &http::request::Parts) -> Option<BucketName> {
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
        let name = match host.and_then(|host| self.shared.domains.bucket(host)) {
            Some(name) => name,
            None => parts.uri.path().trim_start_matches('/').split('/').next().unwrap_or_default().to_owned(),
        };
        BucketName::new(&name).ok()
    }

    fn check_sigv2(&self, parts: &Parts) -> Result<(), S3Error> {
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let bucket = host.and_then(|host| self.shared.domains.bucket(host));
        sigv2::check(parts, bucket.as_deref(), |access_key| self.shared.query.iam.secret(access_key))
    }

    /// What a page of another origin may see of the answer.
    fn cors(&self, parts: &http::request::Parts) -> Option<http::HeaderMap> {
        if parts.method == Method::OPTIONS || !parts.headers.contains_key(ORIGIN) {
            return None;
        }
        let bucket = self.shared.store.bucket(&self.bucket_name(parts)?).ok()?;
        let document = bucket.documents.get(cors::DOCUMENT).map(Vec::as_slice);
        cors::of_request(&parts.method, &parts.headers, document)
    }

    async fn post<B>(&self, parts: http::request::Parts, body: B, trace: &Arc<Trace>) -> Result<Response<Body>, S3Error>
    where
        B: http_body::Body<Data = Bytes> + Send + Sync + Unpin + 'static,
        B::Error: Into<StdError>,
    {
        let shared = &*self.shared;
        trace.set_operation(crate::context::operation_index("PostObject"));
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let path = parts.uri.path().trim_matches('/');
        let (bucket, has_key) = match shared.domains.bucket(host) {
            Some(bucket) => (bucket, !path.is_empty()),
            None => (path.to_owned(), path.contains('/')),
        };
        if has_key || bucket.is_empty() {
            return Err(S3Error::new(S3ErrorCode::MethodNotAllowed));
        }
        let bucket = crate::convert::bucket_name(&bucket)?;
        let inner = shared.proven.get().ok_or_else(|| S3Error::new(S3ErrorCode::InternalError))?;
        let (gate, iam) = (Arc::clone(&shared.query.gate), &shared.query.iam);
        let access = Access { gate, region: shared.config.region.as_str().into(), is_inner: false };
        let door = post::Door {
            inner,
            bucket: bucket.as_str(),
            allow_sigv2: shared.config.allow_sigv2,
            skew_s: iam.limits().clock_skew_s,
            secret: |access_key: &str| iam.secret(access_key).ok_or_else(crate::auth::unknown_key),
            prove: |put: &mut Request<Body>, signer: post::Signer<'_>| access.prove_form(put, &signer),
        };
        post::serve(door, parts, body, trace).await
    }

    fn preflight(&self, parts: &http::request::Parts) -> Result<http::HeaderMap, S3Error> {
        let bucket = self.bucket_name(parts).and_then(|name| self.shared.store.bucket(&name).ok());
        let target = match &bucket {
            None => cors::Target::Nothing,
            Some(bucket) => cors::Target::Bucket(bucket.documents.get(cors::DOCUMENT).map(Vec::as_slice)),
        };
        cors::preflight(&parts.headers, &target)
    }

    /// IAM's and STS's query interfaces.
    async fn query<B>(
        &self,
        parts: &http::request::Parts,
        body: B,
        mut place: Place,
        trace: &Trace,
        claim: &Claimed,
    ) -> Response<FrontBody>
    where
        B: http_body::Body<Data = Bytes> + Send + Sync + Unpin + 'static,
        B::Error: Into<StdError>,
    {
        trace.set_operation(operation_index("Query"));
        let read = http_body_util::Limited::new(body, query::FORM_BYTES_MAX).collect().await;
        let answer = match read {
            Ok(body) => self.shared.query.serve(parts, &body.to_bytes(), trace).await,
            Err(_) => {
                let mut answer = Response::new(Body::empty());
                *answer.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                answer
            }
        };
        claim.note(&self.shared.query.iam, trace, &answer);
        let (mut parts, body) = answer.into_parts();
        place.is_answered = true;
        if parts.status.as_u16() >= 400
            && place.audit.is_some()
            && let Some(document) = body.bytes()
        {
            place.error = error_of(&document);
        }
        if let Ok(id) = HeaderValue::from_str(&trace.id) {
            parts.headers.insert(REQUEST_ID, id);
        }
        parts.headers.insert(SERVER, HeaderValue::from_static("Granary"));
        place.status = parts.status;
        Response::from_parts(parts, FrontBody::new(body, place))
    }

    /// Serves a copy, whose answer may begin before its end.
    async fn copy(
        &self,
        request: Request<Body>,
        trace: &Arc<Trace>,
        subject: &Arc<Subject>,
        audit: Option<Arc<RequestAudit>>,
    ) -> Result<Response<Body>, s3s::HttpError> {
        let inner = self.shared.inner.clone();
        let measured = Arc::clone(trace) as Arc<dyn Meter>;
        let call = Box::pin(async move {
            let call = meter::scoped(measured, inner.call(request));
            match audit {
                Some(audit) => audit::scoped(audit as Arc<dyn AuditScope>, call).await,
                None => call.await,
            }
        });
        let (service, traced, subject) = (self.clone(), Arc::clone(trace), Arc::clone(subject));
        let document = move |answer: Result<Response<Body>, s3s::HttpError>| {
            let answer = answer.unwrap_or_else(|error| {
                traced.set_fault(StdError::from(error).to_string());
                plain_error(S3Error::new(S3ErrorCode::InternalError))
            });
            if let Some(fault) = traced.take_fault() {
                tracing::error!(request_id = %traced.id, op = traced.operation(), resource = subject.path(), "{fault}");
            }
            let body = answer.body().bytes().unwrap_or_default();
            match answer.status().as_u16() {
                400.. => service.whole_error(&answer, &body, &traced, &subject),
                _ => body.to_vec(),
            }
        };
        late::answer(call, Arc::clone(trace), self.shared.config.copy_silence, document).await
    }

    /// An error document, with all that S3 says in one.
    fn whole_error(&self, answer: &Response<Body>, document: &[u8], trace: &Trace, subject: &Subject) -> Vec<u8> {
        let code = documents::error_code(document);
        let is_marker = answer.headers().contains_key("x-amz-delete-marker");
        let has_bucket = |name: &str| BucketName::new(name).is_ok_and(|name| self.shared.store.bucket(&name).is_ok());
        let mut details = subject.details(code, trace.condition(), is_marker, has_bucket);
        let size = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes */"));
        details.extend(size.map(|size| ("ActualObjectSize", size.to_owned())));
        documents::whole_error(document, details, subject.path(), &trace.id, &self.shared.config.host_id)
    }

    fn finish(
        &self,
        answer: Response<Body>,
        mut place: Place,
        trace: &Trace,
        is_head: bool,
        subject: &Subject,
    ) -> Response<FrontBody> {
        let resource = subject.path();
        let whole = match answer.body().bytes() {
            Some(document) if answer.status().as_u16() >= 400 => {
                Some(self.whole_error(&answer, &document, trace, subject))
            }
            _ => None,
        };
        let (mut parts, mut body) = answer.into_parts();
        place.is_answered = true;
        if parts.status.as_u16() >= 400
            && place.audit.is_some()
            && let Some(document) = body.bytes()
        {
            place.error = error_of(&document);
        }
        if let Some(line) = &mut place.line {
            let error = if parts.status.as_u16() >= 400 { body.bytes() } else { None };
            line.answered(trace, &parts.headers, error.as_deref());
        }
        let host_id = &self.shared.host_id;
        if parts.status == StatusCode::OK && parts.headers.contains_key(CONTENT_RANGE) {
            parts.status = StatusCode::PARTIAL_CONTENT;
        }
        if parts.status == StatusCode::OK && trace.operation() == "PutBucketTagging" {
            parts.status = StatusCode::NO_CONTENT;
        }
        if parts.status == StatusCode::NOT_MODIFIED || (is_head && parts.status.as_u16() >= 400) {
            body = Body::empty();
            parts.headers.remove(CONTENT_TYPE);
        } else if parts.status.as_u16() >= 400 {
            if let Some(whole) = whole {
                body = Body::from(whole);
            }
        } else if let Some(document) = body.bytes()
            && let Some(document) = match trace.operation() {
                "GetObjectAttributes" => documents::bare_etag(&document),
                "GetBucketEncryption" => trace.blocked().and_then(|blocked| blocked.put_into(&document)),
                "ListObjectVersions" => {
                    let merged = documents::interleave(&document, &trace.take_markers());
                    let escaped = documents::escape_controls(merged.as_deref().unwrap_or(&document));
                    escaped.or(merged)
                }
                _ => documents::escape_controls(&document),
            }
        {
            body = Body::from(document);
        }
        if let Ok(id) = HeaderValue::from_str(&trace.id) {
            parts.headers.insert(REQUEST_ID, id);
        }
        parts.headers.insert(ID_2, host_id.clone());
        parts.headers.insert(SERVER, HeaderValue::from_static("Granary"));
        place.status = parts.status;
        if let Some(fault) = trace.take_fault() {
            tracing::error!(
                request_id = %trace.id, op = trace.operation(), status = parts.status.as_u16(), resource, "{fault}"
            );
        } else if parts.status.is_server_error() {
            tracing::warn!(
                request_id = %trace.id, op = trace.operation(), status = parts.status.as_u16(), resource, "refused"
            );
        }
        Response::from_parts(parts, FrontBody::new(body, place))
    }
}

impl hyper::service::Service<Request<hyper::body::Incoming>> for S3Service {
    type Response = Response<FrontBody>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, request: Request<hyper::body::Incoming>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.serve(request).await) })
    }
}

/// How a request's body becomes s3s's: hyper's own without a box around it.
pub trait FromBody<B> {
    /// The body.
    fn from_body(body: B) -> Self;
}

impl FromBody<Self> for Body {
    fn from_body(body: Self) -> Self {
        body
    }
}

impl FromBody<hyper::body::Incoming> for Body {
    fn from_body(body: hyper::body::Incoming) -> Self {
        Self::from(body)
    }
}

fn too_busy() -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::SlowDown, "Please reduce your request rate.");
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    error.set_headers(headers);
    error
}

fn plain_error(error: S3Error) -> Response<Body> {
    error.to_http_response().unwrap_or_else(|_| {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
}

/// SigV2 where it is switched off.
pub(crate) fn refuse_sigv2() -> S3Error {
    invalid_request(
        "Signature Version 2 is switched off on this server. Sign with AWS4-HMAC-SHA256 (boto3: \
         Config(signature_version='s3v4'); AWS CLI: aws configure set default.s3.signature_version s3v4), or have \
         allow_sigv2 switched on.",
    )
}
