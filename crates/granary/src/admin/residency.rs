//! Residency through the admin port: the report, and narrowing a pin, which takes two admins.
//!
//! Guarantees: a pin is narrowed only when one admin has asked for it and another has confirmed it within [`CONFIRM_WITHIN`]; who is an
//! admin is decided by the policies ([`ACTION`]); both words, who spoke them and what let them are in the audit trail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use granary_access::policy::{EmptyContext, GivenContext, Key};
use granary_access::{Decision, Iam, Identity, Question, decide};
use granary_meta::command::BucketChange;
use granary_meta::records::{BucketOptions, BucketRecord};
use granary_store::ObjectStore as _;
use granary_store::node::Node;
use granary_types::BucketName;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Answer, Asked, Refusal};

/// Label of signed reports.
pub(crate) const LABEL: &str = "granary residency report v1";
/// How long a narrowing may wait for its confirmation.
const CONFIRM_WITHIN: Duration = Duration::from_secs(600);

/// Narrowings that may wait at once.
const WAITING_MAX: usize = 1_000;
/// What policies call it.
const ACTION: &str = "granary:NarrowRegions";
/// Requests that users may make, too.
pub(super) const TWO_ADMINS: [&str; 2] = ["/admin/v1/residency/narrow", "/admin/v1/residency/confirm"];

/// A narrowing that waits for its second word.
struct Waiting {
    token: String,
    bucket: String,
    regions: Vec<String>,
    since: Instant,
    by: Arc<Identity>,
}

/// Narrowings that wait, at most one per bucket.
#[derive(Default)]
pub(super) struct Narrowings(Mutex<Vec<Waiting>>);

fn bucket_of(body: &Value) -> Result<Option<BucketName>, Refusal> {
    match &body["bucket"] {
        Value::Null => Ok(None),
        Value::String(name) => {
            BucketName::new(name).map(Some).map_err(|error| Refusal::bad(format!("`bucket`: {error}")))
        }
        _ => Err(Refusal::bad("`bucket` must be text")),
    }
}

fn failed(error: &granary_store::StoreError) -> Refusal {
    Refusal(StatusCode::CONFLICT, error.to_string())
}

/// What the two words of a narrowing need.
pub(super) struct Narrowing<'a> {
    pub(super) node: &'a Arc<Node>,
    pub(super) iam: Option<&'a Arc<Iam>>,
    pub(super) waiting: &'a Narrowings,
    pub(super) single_admin: bool,
    pub(super) asked: &'a Asked<'a>,
}

/// `/admin/v1/residency/...`; `None`: there is no such thing.
pub(super) async fn route(narrowing: &Narrowing<'_>, method: &str, what: &str, body: &Value) -> Option<Answer> {
    Some(match (method, what) {
        ("POST", "report") => report(narrowing.node, body).await,
        ("POST", "narrow") => narrowing.ask(body),
        ("POST", "confirm") => narrowing.confirm(body).await,
        _ => return None,
    })
}

async fn report(node: &Arc<Node>, body: &Value) -> Answer {
    let bucket = bucket_of(body)?;
    if let Some(name) = &bucket {
        node.store().bucket(name).map_err(|error| failed(&error))?;
    }
    let report = node.residency(bucket.as_ref()).await.map_err(|error| failed(&error))?;
    let text = serde_json::to_string(&report).map_err(|error| Refusal::bad(error.to_string()))?;
    let key = node.audit_key();
    Ok(json!({ "statement": text, "signature": node.sign(LABEL, &text), "public_key": key.to_pem() }))
}

impl Narrowing<'_> {
    /// Who asks, if it may: the root keys, or a user whose policies allow it (as `admin` does).
    fn admin(&self, bucket: &BucketRecord) -> Result<Arc<Identity>, Refusal> {
        let starting = || Refusal(StatusCode::SERVICE_UNAVAILABLE, "the node is still starting".to_owned());
        let iam = self.iam.ok_or_else(starting)?;
        let who = self.asked.caller.identity().ok_or_else(starting)?;
        let decision = self.decide(iam, who, bucket);
        self.asked.event.decided(&decision);
        if decision.allowed {
            return Ok(Arc::clone(who));
        }
        Err(Refusal(
            StatusCode::FORBIDDEN,
            format!("{} may not do {ACTION} on bucket {}: {}", who.arn, bucket.name.as_str(), decision.by),
        ))
    }

    fn decide(&self, iam: &Iam, who: &Identity, bucket: &BucketRecord) -> Decision {
        let facts = granary_s3::bucket_facts(bucket, &iam.root().owner.id);
        let mut given = Vec::new();
        if let Some(peer) = self.asked.peer {
            given.push((Key::SourceIp, vec![peer.address.ip().to_canonical().to_string()]));
            given.push((Key::SecureTransport, vec![peer.tls.is_some().to_string()]));
        }
        let rest = EmptyContext(iam.now());
        let context = GivenContext { given, rest: &rest };
        let resource = format!("arn:aws:s3:::{}", bucket.name.as_str());
        let question =
            Question { action: ACTION, resource: &resource, context: &context, bucket: Some(&facts), object: None };
        decide(who, &question)
    }

    /// The first word: what is to be narrowed, and to what. Answers with the token for the second.
    fn ask(&self, body: &Value) -> Answer {
        let name = bucket_of(body)?.ok_or_else(|| Refusal::bad("`bucket` is missing"))?;
        let record = self.node.store().bucket(&name).map_err(|error| failed(&error))?;
        let who = self.admin(&record)?;
        let regions: Vec<String> = body["regions"]
            .as_str()
            .map(|text| text.split(',').map(str::trim).filter(|r| !r.is_empty()).map(str::to_owned).collect())
            .unwrap_or_default();
        let pinned = &record.options.regions;
        if regions.is_empty() || (!pinned.is_empty() && !regions.iter().all(|region| pinned.contains(region))) {
            return Err(Refusal::bad(format!(
                "`regions` must be some of those that the bucket is pinned to ({}): a pin can only be narrowed",
                if pinned.is_empty() { "none yet: any may be named".to_owned() } else { pinned.join(", ") }
            )));
        }
        let token = granary_types::hex::encode(rand::random::<[u8; 16]>());
        let mut all = self.waiting.0.lock();
        all.retain(|other| other.bucket != name.as_str() && other.since.elapsed() < CONFIRM_WITHIN);
        if all.len() >= WAITING_MAX {
            return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, format!("{WAITING_MAX} narrowings wait already")));
        }
        all.push(Waiting {
            token: token.clone(),
            bucket: name.as_str().to_owned(),
            regions: regions.clone(),
            since: Instant::now(),
            by: Arc::clone(&who),
        });
        Ok(json!({ "token": token, "bucket": name.as_str(), "from": pinned, "to": regions, "asked_by": who.arn,
            "within_s": CONFIRM_WITHIN.as_secs() }))
    }

    /// The second word, another admin's. `apply` checks once more that it only narrows.
    async fn confirm(&self, body: &Value) -> Answer {
        let name = bucket_of(body)?.ok_or_else(|| Refusal::bad("`bucket` is missing"))?;
        let record = self.node.store().bucket(&name).map_err(|error| failed(&error))?;
        let who = self.admin(&record)?;
        let token = body["token"].as_str().unwrap_or_default();
        let found = {
            let mut all = self.waiting.0.lock();
            all.retain(|other| other.since.elapsed() < CONFIRM_WITHIN);
            let at = all.iter().position(|other| same(&other.token, token) && other.bucket == name.as_str());
            let at = at.ok_or_else(|| Refusal::bad("no narrowing of this bucket waits for this token"))?;
            // Who may not confirm it leaves it waiting.
            if all[at].by.id == who.id {
                self.alone(&who, &record)?;
                self.asked.event.note("confirmedAlone", "admin.single_admin");
            }
            all.swap_remove(at)
        };
        self.asked.event.note("requestedBy", &found.by.arn);
        self.asked.event.note("narrowedFrom", &record.options.regions.join(","));
        self.asked.event.note("narrowedTo", &found.regions.join(","));
        let options = BucketOptions { regions: found.regions.clone(), ..record.options.clone() };
        let change = BucketChange::Options(options);
        self.node.store().change_bucket(&name, change).await.map_err(|error| failed(&error))?;
        Ok(
            json!({ "bucket": name.as_str(), "regions": found.regions, "asked_by": found.by.arn, "confirmed_by": who.arn }),
        )
    }

    /// Whether one admin may say both words: where the settings say that there is only one, and it is so.
    fn alone(&self, who: &Identity, bucket: &BucketRecord) -> Result<(), Refusal> {
        let refused = |why: String| Err(Refusal(StatusCode::FORBIDDEN, why));
        if !self.single_admin {
            return refused(format!(
                "{} asked for it: another admin has to confirm (a user with a policy that allows {ACTION}, such as `admin`, or root). Where                  there is only one, say so with admin.single_admin = true",
                who.arn
            ));
        }
        let Some(iam) = self.iam else { return refused("the node is still starting".to_owned()) };
        let (state, now) = (iam.state(), iam.now());
        let other = state.users().find(|user| {
            let has_key = state.keys_of(user).any(|key| {
                key.is_active && key.service_account.is_none() && key.expires.is_none_or(|expires| expires > now)
            });
            let other = state.identity_of(user);
            has_key && other.id != who.id && self.decide(iam, &other, bucket).allowed
        });
        match other {
            Some(other) => refused(format!(
                "admin.single_admin is set, and yet user {} could confirm it: it takes two where there are two",
                other.name
            )),
            None if !who.is_root => {
                refused("admin.single_admin is set, and yet there are root and you: it takes both".to_owned())
            }
            None => Ok(()),
        }
    }
}

/// Compares tokens in constant time.
fn same(kept: &str, given: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(kept.as_bytes(), given.as_bytes()).is_ok()
}
