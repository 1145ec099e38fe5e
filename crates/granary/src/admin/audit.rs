//! The audit trail through the admin port, and the admin port's own events in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use granary_access::Decision;
use granary_audit::{Actor, Event, EventTls, Filter, Signature, Source, cloudtrail};
use granary_s3::Peer;
use granary_store::audit::{AuditCursor, AuditScope, Subject};
use granary_store::node::Node;
use granary_types::{Clock as _, SystemClock};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Answer, Caller, Refusal};

/// Unsealed records looked at for one answer.
const PAGE_RECORDS: usize = 2_000;
/// Anchors of one answer.
const PAGE_ANCHORS: usize = 500;
/// Fields of a request that its event keeps. No others: bodies may carry secrets.
const KEPT: [&str; 20] = [
    "drive",
    "path",
    "deep",
    "user",
    "name",
    "group",
    "policy",
    "bucket",
    "key",
    "access_key",
    "action",
    "resource",
    "as",
    "version",
    "regions",
    "expires",
    "endpoint",
    "upstream_bucket",
    "prefix",
    "write_back",
];

fn internal(error: granary_store::StoreError) -> Refusal {
    Refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// `/admin/v1/audit/...`; `None`: there is no such thing.
pub(super) async fn route(node: &Arc<Node>, method: &str, what: &str, body: &Value) -> Option<Answer> {
    Some(match (method, what) {
        ("POST", "query") => query(node, body).await,
        ("POST", "anchors") => {
            let after = body["after"].as_str().unwrap_or_default();
            let found = node.audit_anchors(after, PAGE_ANCHORS).await.map_err(internal);
            found.map(|(anchors, after)| json!({ "anchors": anchors, "after": after }))
        }
        ("GET", "public-key") => {
            let key = node.audit_key();
            Ok(json!({ "pem": key.to_pem(), "sha256": key.fingerprint() }))
        }
        ("POST", "seal") => node.audit_seal().await.map(|segments| json!({ "segments": segments })).map_err(internal),
        _ => return None,
    })
}

async fn query(node: &Arc<Node>, body: &Value) -> Answer {
    let bad = |what: &'static str| move |error: serde_json::Error| Refusal::bad(format!("`{what}`: {error}"));
    let filter: Filter = serde_json::from_value(body["filter"].clone()).map_err(bad("filter"))?;
    let cursor: Option<AuditCursor> = serde_json::from_value(body["cursor"].clone()).map_err(bad("cursor"))?;
    let page = node.audit_page(&filter, cursor.unwrap_or_default(), PAGE_RECORDS).await.map_err(internal)?;
    let events: Vec<Value> = page.records.iter().map(cloudtrail).collect();
    Ok(json!({ "events": events, "cursor": page.cursor, "more": page.more }))
}

/// What `granary status` shows.
pub(super) fn status(node: &Node) -> Value {
    let state = node.audit_state().ok();
    json!({
        "events": state.as_ref().map(|state| state.next - 1),
        "unsealed_events": state.as_ref().map(granary_meta::AuditState::unsealed),
        "segments": state.as_ref().map(|state| state.sealed.segment),
        "head": state.as_ref().map(|state| state.head.to_string()),
        "keep_days": node.audit_keep_days().ok(),
        "key_sha256": node.audit_key().fingerprint(),
        "clock": crate::audit::clock_state(),
    })
}

/// The event of one admin request.
pub(super) struct AdminEvent {
    base: Event,
    is_written: AtomicBool,
    /// What was found out while it was served.
    more: Mutex<More>,
}

#[derive(Default)]
struct More {
    parameters: Vec<(String, String)>,
    decision: String,
}

impl AdminEvent {
    /// Of a request whose signature holds (`caller`), or does not.
    pub(super) fn new(
        method: &Method,
        path: &str,
        body: &Value,
        peer: Option<Peer>,
        caller: Option<&Caller>,
        region: &str,
    ) -> Self {
        let shown = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
            _ => None,
        };
        let kept = KEPT.iter().filter_map(|name| Some(((*name).to_owned(), shown(&body[*name])?)));
        let mut parameters = vec![("path".to_owned(), path.to_owned())];
        parameters.extend(kept.map(|(name, value)| (format!("body.{name}"), value)));
        let actor = match (caller, caller.and_then(Caller::identity)) {
            (None, _) => Actor { kind: "Unknown".to_owned(), ..Actor::default() },
            (Some(_), Some(who)) => Actor {
                kind: who.kind.trail_type().to_owned(),
                access_key: who.access_key.clone(),
                account: who.account.clone(),
                principal_id: who.id.clone(),
                arn: who.arn.clone(),
                name: who.name.clone(),
                session_issuer: String::new(),
            },
            (Some(Caller::Root(access_key, _)), None) => Actor {
                kind: "Root".to_owned(),
                access_key: access_key.clone(),
                name: "root".to_owned(),
                ..Actor::default()
            },
            (Some(Caller::User(_)), None) => Actor::default(),
        };
        let base = Event {
            id: rand::random(),
            at: SystemClock.now(),
            source: Source::Admin,
            name: name_of(method, path),
            request_id: format!("{:016X}", rand::random::<u64>()),
            actor,
            address: peer.map(|peer| peer.address.ip()),
            tls: peer.and_then(|peer| {
                Some(EventTls {
                    version: format!("TLSv{}", peer.tls?),
                    cipher: peer.cipher.unwrap_or_default().to_owned(),
                    client_certificate: String::new(),
                })
            }),
            signature: Signature::Admin,
            region: region.to_owned(),
            parameters,
            read_only: *method == Method::GET || path.ends_with("/query") || path.ends_with("/anchors"),
            ..Event::default()
        };
        Self { base, is_written: AtomicBool::new(false), more: Mutex::default() }
    }

    /// Keeps what its body does not say.
    pub(super) fn note(&self, name: &str, value: &str) {
        self.more.lock().parameters.push((name.to_owned(), value.to_owned()));
    }

    /// Keeps which statement let it, or did not.
    pub(super) fn decided(&self, decision: &Decision) {
        let word = if decision.allowed { "allowed" } else { "denied" };
        self.more.lock().decision = format!("{word} by {}", decision.by);
    }

    fn now(&self) -> Event {
        let more = self.more.lock();
        let mut event = Event { id: rand::random(), decision: more.decision.clone(), ..self.base.clone() };
        event.parameters.extend(more.parameters.iter().cloned());
        event
    }

    /// The request has ended: tells its event, unless that is in the log already.
    pub(super) async fn end(&self, node: &Node, status: StatusCode, message: &str) {
        if self.is_written.load(Ordering::Relaxed) && status.is_success() {
            return;
        }
        let code = if status.is_success() {
            String::new()
        } else {
            status.canonical_reason().unwrap_or("Error").replace(' ', "")
        };
        let event =
            Event { status: status.as_u16(), error_code: code, error_message: message.to_owned(), ..self.now() };
        match node.audit_log().room(false).await {
            Ok(room) => room.tell(event.encode().into()),
            Err(error) => tracing::error!(%error, "the event of an admin request is not in the audit trail"),
        }
    }
}

/// `POST /admin/v1/drives/add` is `AdminDrivesAdd`.
fn name_of(method: &Method, path: &str) -> String {
    let words = path.trim_start_matches("/admin/v1/").split(['/', '-', '_']).filter(|word| !word.is_empty()).take(6);
    let mut name = String::from("Admin");
    if *method == Method::GET {
        name.push_str("Get");
    }
    for word in words {
        let mut letters = word.chars().filter(char::is_ascii_alphanumeric);
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.extend(letters.take(32));
    }
    name
}

impl AuditScope for AdminEvent {
    fn event(&self, _: Option<&Subject<'_>>) -> Bytes {
        self.now().encode().into()
    }

    fn written(&self, _: bool) {
        self.is_written.store(true, Ordering::Relaxed);
    }

    fn refused<'a>(&'a self, _: Subject<'a>, _: &'a str) -> BoxFuture<'a, ()> {
        // No admin request is about several keys.
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_admin_requests_keep_no_secret() {
        let body = json!({ "user": "ann", "secret_key": "hush", "nested": { "secret": "hush" } });
        let caller = Caller::Root("AK".to_owned(), None);
        let event = AdminEvent::new(&Method::POST, "/admin/v1/users/key-create", &body, None, Some(&caller), "r");
        assert_eq!(event.base.name, "AdminUsersKeyCreate");
        let bytes = event.event(None);
        assert!(!bytes.windows(4).any(|window| window == b"hush"));
        assert!(bytes.windows(3).any(|window| window == b"ann"));
    }
}
