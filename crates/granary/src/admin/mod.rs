//! The admin endpoint: health and (where no token is asked for) metrics for anybody who can reach it, everything else for the root keys, but for the two words of a
//! narrowing, which two admins have to say.
//!
//! It answers from the moment the process runs (`/health/live`), long before the node serves (`/health/ready`).

mod access;
mod ai;
mod audit;
mod auth;
pub(crate) mod client;
mod drives;
mod keys;
mod quota;
pub(crate) mod residency;
pub(crate) mod runfile;
pub(crate) mod scraper;
mod upstream;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use granary_access::{Iam, Identity, PrincipalKind, RootKeys};
use granary_store::ai::dataset::Datasets;
use granary_store::node::Node;
use granary_types::{Clock as _, SystemClock};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use audit::AdminEvent;
use granary_s3::Peer;
use granary_store::AuditScope;

use crate::metrics::Metrics;
use crate::server::tls::Tls;
use auth::{Signed, Verifier};
use drives::Selector;

/// Memory for indexes of tar files while datasets are frozen.
const SHARD_INDEX_BYTES: u64 = 256 << 20;
/// Bytes of a request's body, at most.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What the endpoint answers from.
pub(crate) struct Admin {
    verifier: Verifier,
    metrics: Arc<Metrics>,
    node: OnceLock<Arc<Node>>,
    iam: OnceLock<Arc<Iam>>,
    draining: AtomicBool,
    started: Instant,
    face: Face,
    drive_list: Option<crate::drive_list::DriveList>,
    datasets: OnceLock<Datasets>,
    narrowings: residency::Narrowings,
}

/// How the node shows itself, for `granary status`.
pub(crate) struct Face {
    /// S3 endpoint.
    pub(crate) endpoint: String,
    /// Plain HTTP beyond loopback.
    pub(crate) plaintext_beyond_loopback: bool,
    /// The same of the admin port.
    pub(crate) admin_plaintext_beyond_loopback: bool,
    /// The S3 endpoint's certificate.
    pub(crate) tls: Option<Arc<Tls>>,
    /// The node's region.
    pub(crate) region: String,
    /// The root access key, as the trail names who signed.
    pub(crate) access_key: String,
    /// What keeps the root sealing key.
    pub(crate) keys: String,
    /// Seconds that the clocks of clients may differ.
    pub(crate) clock_skew_s: u64,
    /// The operator says that there is one admin only.
    pub(crate) single_admin: bool,
    /// What scrapers of metrics have to show.
    pub(crate) metrics_token: Option<scraper::ScraperToken>,
}

/// An answer that is not 200.
struct Refusal(StatusCode, String);

impl Refusal {
    fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }
}

type Answer = Result<Value, Refusal>;

/// Who asks.
enum Caller {
    /// The root keys, by their access key; without the identity while the node starts.
    Root(String, Option<Arc<Identity>>),
    /// A user.
    User(Arc<Identity>),
}

impl Caller {
    fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Root(_, identity) => identity.as_ref(),
            Self::User(identity) => Some(identity),
        }
    }
}

/// A request, beside what it says.
struct Asked<'a> {
    caller: &'a Caller,
    peer: Option<Peer>,
    event: &'a AdminEvent,
}

impl Admin {
    /// An endpoint that has no node yet. `drive_list`: where added and replaced drives are to be remembered.
    pub(crate) fn new(
        keys: &RootKeys,
        metrics: Arc<Metrics>,
        face: Face,
        drive_list: Option<crate::drive_list::DriveList>,
    ) -> Self {
        Self {
            verifier: Verifier::new(keys, face.clock_skew_s),
            metrics,
            node: OnceLock::new(),
            iam: OnceLock::new(),
            draining: AtomicBool::new(false),
            started: Instant::now(),
            face,
            drive_list,
            datasets: OnceLock::new(),
            narrowings: residency::Narrowings::default(),
        }
    }

    /// The node is open.
    pub(crate) fn set_node(&self, node: Arc<Node>, iam: Arc<Iam>) {
        assert!(self.iam.set(iam).is_ok(), "the node is set once");
        assert!(self.node.set(node).is_ok(), "the node is set once");
    }

    /// Not ready any more.
    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Answers a request.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let read = method == Method::GET || method == Method::HEAD;
        Ok(match path.as_str() {
            "/health/live" if read => text(StatusCode::OK, "live\n"),
            "/health/ready" if read => match self.ready() {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
            },
            "/metrics" if read => match &self.face.metrics_token {
                Some(token) if !token.is_shown(request.headers().get(AUTHORIZATION)) => {
                    let mut response = text(
                        StatusCode::UNAUTHORIZED,
                        "metrics are for who has the token of admin.metrics_token_file\n",
                    );
                    response
                        .headers_mut()
                        .insert(http::header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
                    response
                }
                _ => self.metrics_page(),
            },
            _ => match self.authenticated(request).await {
                Ok(value) => json_response(StatusCode::OK, &value),
                Err(Refusal(status, message)) => json_response(status, &json!({ "error": message })),
            },
        })
    }

    fn ready(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Acquire) {
            return Err("draining".to_owned());
        }
        self.node.get().map_or_else(|| Err("starting".to_owned()), |node| node.ready())
    }

    fn metrics_page(&self) -> Response<Full<Bytes>> {
        match self.metrics.render(self.node.get().map(AsRef::as_ref), self.ready().is_ok()) {
            Ok(page) => {
                let mut response = Response::new(Full::from(page));
                let kind = http::HeaderValue::from_static(prometheus::TEXT_FORMAT);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                tracing::error!(%error, "metrics could not be rendered");
                text(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be rendered\n")
            }
        }
    }

    async fn authenticated(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| Refusal::bad(format!("the request's body could not be read: {error}")))?
            .to_bytes();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let header = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let signed = Signed { method: head.method.as_str(), path, body: &body };
        let peer = head.extensions.get::<Peer>().copied();
        let caller = self.caller(header, &signed, peer);
        let parsed: Result<Value, _> = match body.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_slice(&body),
        };
        let node = self.node.get();
        // Health and metrics aside, every request gets an event, once there is a trail to put it into.
        let shown = if caller.is_ok() { parsed.as_ref().ok() } else { None };
        let event = Arc::new(AdminEvent::new(
            &head.method,
            head.uri.path(),
            shown.unwrap_or(&Value::Null),
            peer,
            caller.as_ref().ok(),
            &self.face.region,
        ));
        let answer = async {
            let caller = caller.inspect_err(|Refusal(_, reason)| {
                tracing::warn!(method = %head.method, path, reason, "admin request refused");
            })?;
            let body = parsed.map_err(|error| Refusal::bad(format!("not JSON: {error}")))?;
            let node =
                node.ok_or_else(|| Refusal(StatusCode::SERVICE_UNAVAILABLE, "the node is still starting".to_owned()))?;
            tracing::info!(method = %head.method, path, "admin request");
            let scope = Arc::clone(&event) as Arc<dyn AuditScope>;
            let asked = Asked { caller: &caller, peer, event: &event };
            granary_store::audit::scoped(scope, self.route(&head.method, head.uri.path(), &body, node, &asked)).await
        };
        let answer = answer.await;
        if let Some(node) = node {
            match &answer {
                Ok(_) => event.end(node, StatusCode::OK, "").await,
                Err(Refusal(status, message)) => event.end(node, *status, message).await,
            }
        }
        answer
    }

    /// Who signed: root, or a user.
    fn caller(&self, header: Option<&str>, signed: &Signed<'_>, peer: Option<Peer>) -> Result<Caller, Refusal> {
        let refused = |why: String| Refusal(StatusCode::FORBIDDEN, why);
        let iam = self.iam.get();
        let guesses = iam.zip(peer).zip(auth::claimed(header)).map(|((iam, peer), key)| (iam, peer.address.ip(), key));
        if let Some((iam, address, key)) = guesses
            && iam.damping().is_active()
            && !iam.damping().may(address, key, iam.now())
        {
            return Err(Refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many wrong signatures; try again later".to_owned(),
            ));
        }
        let secret_of = |access_key: &str| iam.and_then(|iam| iam.secret(access_key));
        let verified = self.verifier.verify(header, signed, SystemClock.now().as_secs(), secret_of);
        match (&verified, guesses) {
            (Err(auth::Denied::Wrong), Some((iam, address, key))) => iam.damping().failed(address, key, iam.now()),
            (Ok(_), Some((iam, address, key))) if iam.damping().is_active() => {
                iam.damping().succeeded(address, key, iam.now());
            }
            _ => {}
        }
        let signer = verified.map_err(|denied| refused(denied.to_string()))?;
        let Some(iam) = iam else { return Ok(Caller::Root(self.face.access_key.clone(), None)) };
        if signer.is_root {
            return Ok(Caller::Root(self.face.access_key.clone(), Some(iam.root())));
        }
        let who = iam.authenticate(signer.access_key, None).map_err(|why| refused(why.to_string()))?;
        if who.kind != PrincipalKind::User || !who.limits.is_empty() || who.session.is_some() {
            return Err(refused(
                "neither service accounts nor sessions are let in here: sign with a user's own key".to_owned(),
            ));
        }
        Ok(Caller::User(who))
    }

    async fn route(&self, method: &Method, path: &str, body: &Value, node: &Arc<Node>, asked: &Asked<'_>) -> Answer {
        if matches!(asked.caller, Caller::User(_)) && !residency::TWO_ADMINS.contains(&path) {
            return Err(Refusal(StatusCode::FORBIDDEN, "this needs the root keys".to_owned()));
        }
        match (method.as_str(), path) {
            ("GET", "/admin/v1/status") => Ok(self.status(node)),
            ("GET", "/admin/v1/runs") => Ok(self.runs()),
            ("GET", "/admin/v1/drives") => Ok(json!({ "drives": node.status().drives })),
            ("POST", "/admin/v1/drives/add") => drives::add(node, body, self.drive_list.as_ref()).await,
            ("POST", "/admin/v1/drives/replace") => drives::replace(node, body, self.drive_list.as_ref()).await,
            ("POST", "/admin/v1/scrub") => {
                let drive = match &body["drive"] {
                    Value::Null => None,
                    Value::String(name) => Some(Selector::parse(name).number(node)?),
                    _ => return Err(Refusal::bad("`drive` must be text")),
                };
                Ok(json!({ "started": node.start_scrub(drive) }))
            }
            ("GET", "/admin/v1/scrub") => Ok(json!({ "scrubs": node.scrub_status() })),
            ("POST", "/admin/v1/heal") => {
                let deep = body["deep"].as_bool().unwrap_or(false);
                Ok(json!({ "started": node.start_heal(deep) }))
            }
            (_, path) if path.starts_with("/admin/v1/keys") => keys::answer(node, method, path, body).await,
            ("POST", "/admin/v1/quota/show") => quota::show(node, body),
            ("POST", "/admin/v1/quota/set") => quota::set(node, body).await,
            ("POST", "/admin/v1/upstream/show") => upstream::show(node, body),
            ("POST", "/admin/v1/upstream/set") => upstream::set(node, body).await,
            ("POST", "/admin/v1/upstream/clear") => upstream::clear(node, body).await,
            ("POST", "/admin/v1/access") => match self.iam.get() {
                Some(iam) => access::act(iam, node, body).await,
                None => Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, "the node is still starting".to_owned())),
            },
            ("GET", "/admin/v1/heal") => Ok(json!(node.heal_status())),
            (method, path) => {
                if let Some(path) = path.strip_prefix("/admin/v1/ai/") {
                    let datasets = self.datasets.get_or_init(|| Datasets::new(node.store().clone(), SHARD_INDEX_BYTES));
                    return ai::route(method, path, body, node, datasets).await;
                }
                let audited = match path.strip_prefix("/admin/v1/audit/") {
                    Some(what) => audit::route(node, method, what, body).await,
                    None => match path.strip_prefix("/admin/v1/residency/") {
                        Some(what) => {
                            let narrowing = residency::Narrowing {
                                node,
                                iam: self.iam.get(),
                                waiting: &self.narrowings,
                                single_admin: self.face.single_admin,
                                asked,
                            };
                            residency::route(&narrowing, method, what, body).await
                        }
                        None => None,
                    },
                };
                audited.unwrap_or_else(|| Err(Refusal(StatusCode::NOT_FOUND, format!("there is no {method} {path}"))))
            }
        }
    }

    /// What each training run asked for since it was first seen, and how long this process has run.
    fn runs(&self) -> Value {
        let mut runs = self.metrics.runs();
        runs["uptime_s"] = json!(self.started.elapsed().as_secs_f64());
        runs
    }

    fn status(&self, node: &Node) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_s": self.started.elapsed().as_secs(),
            "endpoint": self.face.endpoint,
            "plaintext_beyond_loopback": self.face.plaintext_beyond_loopback,
            "admin_plaintext_beyond_loopback": self.face.admin_plaintext_beyond_loopback,
            "tls": self.face.tls.as_ref().map(|tls| {
                let shown = tls.shown();
                json!({
                    "text": shown.to_string(),
                    "ca_file": shown.ca_file,
                    "sha256": shown.sha256,
                    "client_certificates": shown.client_certificates,
                    "stale_because": shown.stale_because,
                })
            }),
            "keys": self.face.keys,
            "single_admin": self.face.single_admin,
            "ready": self.ready().is_ok(),
            "not_ready_because": self.ready().err(),
            "audit": audit::status(node),
            "node": node.status(),
        })
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json_response(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
