//! Who asks, and whether it may: adapters from s3s's hooks to `granary-access`, and virtual-host addressing.

use std::borrow::Cow;
use std::sync::Arc;

use granary_access::policy::Key;
use granary_access::{By, Decision, Iam, Identity, Refused};
use granary_store::StoreError;
use granary_types::date;
use http::{HeaderMap, Uri};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::{
    CreateBucketInput, PostObjectInput, PutObjectLegalHoldInput, PutObjectRetentionInput, PutObjectTaggingInput,
};
use s3s::host::{S3Host, VirtualHost};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result};

use crate::access::gate::{Target, denied};
use crate::access::needs::{self, Need, Needs, On, When};
use crate::access::view::{Said, parameter, remaining_days};
use crate::access::{AuthView, Gate, View};
use crate::context::{Cx, Trace, operation_index};
use crate::convert;
use crate::error::Fail;

pub(crate) fn unknown_key() -> S3Error {
    S3Error::with_message(
        S3ErrorCode::InvalidAccessKeyId,
        "The AWS Access Key Id you provided does not exist in our records.",
    )
}

/// Looks secrets up, for s3s to verify signatures with.
pub(crate) struct Auth(pub(crate) Arc<Iam>);

#[async_trait::async_trait]
impl S3Auth for Auth {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.secret(access_key) {
            Some(secret) => Ok(SecretKey::from(secret.expose())),
            None => Err(unknown_key()),
        }
    }
}

/// Knows no keys: for the service that serves requests whose signature was verified before (see [`crate::lenient`]).
pub(crate) struct NoKeys;

#[async_trait::async_trait]
impl S3Auth for NoKeys {
    async fn get_secret_key(&self, _access_key: &str) -> S3Result<SecretKey> {
        Err(unknown_key())
    }
}

/// Who signed, and how: what was proven of a request.
#[derive(Debug, Clone)]
pub(crate) struct Proven {
    pub(crate) who: Arc<Identity>,
    pub(crate) auth: AuthView,
}

/// What an operation needs that is decided on when its document has been read.
#[derive(Debug, Clone)]
struct Undecided(Needs);

/// Denies by default: what no policy, grant or key allows is refused. Leaves the caller's identity, and what decided,
/// with the request.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) gate: Arc<Gate>,
    pub(crate) region: Arc<str>,
    /// The request has been proven already; credentials in it count for nothing.
    pub(crate) is_inner: bool,
}

impl Access {
    /// Who it is.
    pub(crate) fn prove(
        &self,
        credentials: Option<&s3s::auth::Credentials>,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> S3Result<Proven> {
        let query = uri.query().unwrap_or_default();
        let auth = AuthView::of(headers, query);
        let Some(credentials) = credentials else {
            return Ok(Proven { who: self.gate.iam.anonymous(), auth });
        };
        let token = session_token(headers, query);
        let who = self.gate.iam.authenticate(&credentials.access_key, token.as_deref()).map_err(refused)?;
        Ok(Proven { who, auth })
    }

    async fn decide(
        &self,
        proven: &Proven,
        mut view: View<'_>,
        needs: &[Need],
        target: &Target<'_>,
        trace: &Trace,
    ) -> Result<(), Fail> {
        let who = &*proven.who;
        let mut is_writer_by_list = false;
        for Need { action, on } in needs {
            let (mut decision, resource) = match on {
                On::Service => (self.gate.ask_outside(who, &view, action, "arn:aws:s3:::*"), "arn:aws:s3:::*".into()),
                On::NewBucket => {
                    let resource = target.arn();
                    (self.gate.ask_outside(who, &view, action, &resource), resource)
                }
                On::Bucket | On::Object => {
                    let key = target.key.filter(|_| *on == On::Object);
                    let target = Target { key, ..*target };
                    let record = self.gate.bucket(target.bucket)?;
                    let Some(record) = record else { return self.no_bucket(who, &view, action, &target, trace) };
                    trace.set_bucket(&record);
                    (self.gate.ask(who, &mut view, action, &record, &target).await?, target.arn())
                }
                On::Renamed => {
                    // As with copies: what names no source is the operation's to refuse.
                    let Ok(key) = crate::ops::append::source(view.headers) else { continue };
                    let target = Target { key: Some(&key), version: None, ..*target };
                    let record = self.gate.bucket(target.bucket)?;
                    let Some(record) = record else { return self.no_bucket(who, &view, action, &target, trace) };
                    (self.gate.ask(who, &mut view, action, &record, &target).await?, target.arn())
                }
                On::Source => {
                    // What is no source is the operation's to refuse, in its own words.
                    let Some((bucket, key, version)) = view.copy_source() else { continue };
                    let target = Target { bucket: &bucket, key: Some(&key), version: version.as_deref() };
                    let record = self.gate.bucket(target.bucket)?;
                    let Some(record) = record else { return self.no_bucket(who, &view, action, &target, trace) };
                    (self.gate.ask(who, &mut view, action, &record, &target).await?, target.arn())
                }
            };
            if *action == "s3:PutObject" {
                is_writer_by_list = matches!(decision.by, By::Acl(_));
            }
            // Whom the bucket's list lets write owns what it writes: it says who else may have it, and what it is tagged with.
            if matches!(*action, "s3:PutObjectAcl" | "s3:PutObjectTagging") && is_writer_by_list && !decision.allowed {
                let is_silent = matches!(decision.by, By::OtherAccount | By::Nothing);
                if is_silent {
                    decision = Decision { allowed: true, by: By::Acl("bucket") };
                }
            }
            let is_silent = matches!(decision.by, By::OtherAccount | By::Nothing) && !decision.allowed;
            let is_read = *on == On::Object && matches!(*action, "s3:GetObject" | "s3:GetObjectVersion");
            if is_silent
                && is_read
                && let Some(record) = self.gate.bucket(target.bucket)?
                && self.gate.tells_missing(who, &mut view, &record, target).await?
            {
                // Told here: by the time the operation looked, there might be an object, which is not the caller's to read.
                trace.set_decision(Decision { allowed: true, by: By::Acl("bucket") });
                let missing = match target.version {
                    Some(_) => StoreError::NoSuchVersion,
                    None => StoreError::NoSuchKey { delete_marker: None },
                };
                return Err(missing.into());
            }
            trace.set_decision(decision.clone());
            if !decision.allowed {
                return Err(denied(who, action, &resource, &decision.by).into());
            }
        }
        Ok(())
    }

    /// Botocore asks for a session before it creates a directory bucket at an endpoint of its own: whoever may create the bucket
    /// has it.
    fn before_the_bucket(&self, operation: &str, target: &Target<'_>) -> Option<Needs> {
        let is_new = operation == "CreateSession"
            && crate::express::zone(target.bucket).is_some()
            && matches!(self.gate.bucket(target.bucket), Ok(None));
        is_new.then(|| Needs::from_iter([Need { action: "s3:CreateBucket", on: On::NewBucket }]))
    }

    /// As AWS: that a bucket does not exist is told to everybody whom nothing denies the question.
    fn no_bucket(
        &self,
        who: &Identity,
        view: &View<'_>,
        action: &str,
        target: &Target<'_>,
        trace: &Trace,
    ) -> Result<(), Fail> {
        let resource = target.arn();
        let decision = self.gate.ask_outside(who, view, action, &resource);
        trace.set_decision(decision.clone());
        match decision.by {
            By::Identity { .. } | By::Limit { .. } if !decision.allowed => {
                Err(denied(who, action, &resource, &decision.by).into())
            }
            _ => Err(StoreError::NoSuchBucket.into()),
        }
    }

    fn view<'a>(&'a self, headers: &'a HeaderMap, uri: &'a Uri, trace: &Trace, auth: AuthView) -> View<'a> {
        View::new(headers, uri, trace.peer, auth, &self.region, self.gate.iam.now())
    }

    /// Decides on one action of an endpoint that is not among S3's operations: on the object where the target names a
    /// key, else on the bucket. `said`: what conditions may ask of it that is not in headers or query.
    pub(crate) async fn permit(
        &self,
        cx: &Cx,
        (headers, uri): (&HeaderMap, &Uri),
        action: &'static str,
        target: &Target<'_>,
        said: Said,
    ) -> Result<(), Fail> {
        let proven = Proven { who: Arc::clone(&cx.caller), auth: cx.auth };
        let on = if target.key.is_some() { On::Object } else { On::Bucket };
        let mut view = self.view(headers, uri, &cx.trace, cx.auth);
        view.said = said;
        self.decide(&proven, view, &[Need { action, on }], target, &cx.trace).await
    }

    /// Decides on an operation whose document has been read. `said`: what conditions may ask of it.
    async fn decide_later<T>(
        &self,
        request: &S3Request<T>,
        bucket: &str,
        key: Option<&str>,
        version: Option<&str>,
        said: Said,
    ) -> S3Result<()> {
        let extensions = &request.extensions;
        let found = (extensions.get::<Arc<Trace>>(), extensions.get::<Proven>(), extensions.get::<Undecided>());
        let (Some(trace), Some(proven), Some(Undecided(needs))) = found else {
            return Err(S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied"));
        };
        let mut view = self.view(&request.headers, &request.uri, trace, proven.auth);
        view.said = said;
        let target = Target { bucket, key, version };
        self.decide(proven, view, needs, &target, trace).await.map_err(|fail| answer(trace, fail))
    }
}

/// The session token of a request: of any session, or of one for a bucket.
pub(crate) fn session_token<'a>(headers: &'a HeaderMap, query: &'a str) -> Option<Cow<'a, str>> {
    let header = headers.get("x-amz-security-token").or_else(|| headers.get("x-amz-s3session-token"));
    let header = header.and_then(|token| token.to_str().ok().map(Cow::Borrowed));
    header.or_else(|| {
        // A name is compared only where there may be one: most queries have none.
        let names = ["X-Amz-Security-Token", "x-amz-security-token", "X-Amz-S3session-Token"];
        query.contains("oken").then(|| names.iter().find_map(|name| parameter(query, name))).flatten()
    })
}

/// A refusal, as an answer.
fn answer(trace: &Trace, fail: Fail) -> S3Error {
    match fail {
        Fail::S3(error) => error,
        Fail::Ai(error) => crate::error::ai_answer(&error).into(),
        Fail::Store(error) => {
            let answer = crate::error::answer(&error, trace.is_chunk_signed);
            trace.set_condition(answer.condition);
            if answer.is_our_fault {
                trace.set_fault(error.to_string());
            }
            answer.into()
        }
    }
}

pub(crate) fn refused(why: Refused) -> S3Error {
    let code = match why {
        Refused::Unknown | Refused::Expired => S3ErrorCode::InvalidAccessKeyId,
        Refused::Token => S3ErrorCode::InvalidToken,
        Refused::TokenExpired => S3ErrorCode::ExpiredToken,
    };
    S3Error::with_message(code, why.to_string())
}

impl Access {
    /// Marks the request that a form stands for as its signer's.
    pub(crate) fn prove_form(
        &self,
        put: &mut http::Request<s3s::Body>,
        signer: &crate::post::Signer<'_>,
    ) -> S3Result<()> {
        let who = match signer {
            crate::post::Signer::Nobody => self.gate.iam.anonymous(),
            crate::post::Signer::Key { access_key, token, .. } => {
                self.gate.iam.authenticate(access_key, *token).map_err(refused)?
            }
        };
        let version = match signer {
            crate::post::Signer::Nobody => None,
            crate::post::Signer::Key { is_v2: true, .. } => Some("AWS"),
            crate::post::Signer::Key { .. } => Some("AWS4-HMAC-SHA256"),
        };
        let auth = AuthView { version, kind: version.map(|_| "POST"), signed_at_s: None };
        put.extensions_mut().insert(Proven { who, auth });
        Ok(())
    }
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let nobody = || S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied");
        let trace = cx.extensions_mut().get::<Arc<Trace>>().cloned().ok_or_else(nobody)?;
        let handed_on = if self.is_inner { cx.extensions_mut().get::<Proven>().cloned() } else { None };
        let name = cx.s3_op().name();
        trace.set_operation(operation_index(name));
        let proven = match handed_on {
            Some(proven) => proven,
            None if self.is_inner => return Err(nobody()),
            None => self.prove(cx.credentials(), cx.headers(), cx.uri())?,
        };
        trace.set_identity(Arc::clone(&proven.who));
        let view = self.view(cx.headers(), cx.uri(), &trace, proven.auth);
        let mut undecided = None;
        match needs::of(name, &view) {
            When::Now(needs) => {
                let path = cx.s3_path();
                let (bucket, key) = match path.as_object() {
                    Some((bucket, key)) => (bucket, Some(key)),
                    None => (path.as_bucket().unwrap_or_default(), None),
                };
                let version = view.version();
                // Who is root is told what is missing anyway.
                if let Some(key) = key.filter(|_| !proven.who.is_root) {
                    trace.set_key(key);
                }
                let target = Target { bucket, key, version: version.as_deref() };
                let needs = self.before_the_bucket(name, &target).unwrap_or(needs);
                self.decide(&proven, view, &needs, &target, &trace).await.map_err(|fail| answer(&trace, fail))?;
            }
            When::Later(needs) => {
                // No document can make up for it: nobody creates buckets without a policy of its own.
                let who = &proven.who;
                if !who.is_root && who.policies.is_empty() && needs.iter().any(|need| need.on == On::NewBucket) {
                    trace.set_decision(Decision { allowed: false, by: By::Nothing });
                    return Err(nobody());
                }
                undecided = Some(Undecided(needs));
            }
            When::EachKey => {}
            When::Never => {
                let is_root = proven.who.is_root && proven.who.limits.is_empty();
                let by = if is_root { By::Root } else { By::Unknown };
                trace.set_decision(Decision { allowed: is_root, by });
                if !is_root {
                    return Err(nobody());
                }
            }
        }
        let extensions = cx.extensions_mut();
        extensions.insert(Arc::clone(&proven.who));
        extensions.insert(proven);
        if let Some(undecided) = undecided {
            extensions.insert(undecided);
        }
        Ok(())
    }

    async fn create_bucket(&self, request: &mut S3Request<CreateBucketInput>) -> S3Result<()> {
        let constraint =
            request.input.create_bucket_configuration.as_ref().and_then(|c| c.location_constraint.as_ref());
        let said = constraint.map(|c| (Key::LocationConstraint, c.as_str().to_owned())).into_iter().collect();
        self.decide_later(request, &request.input.bucket, None, None, said).await
    }

    async fn put_object_tagging(&self, request: &mut S3Request<PutObjectTaggingInput>) -> S3Result<()> {
        let input = &request.input;
        let mut said = Said::new();
        for tag in &input.tagging.tag_set {
            if let (Some(key), Some(value)) = (&tag.key, &tag.value) {
                said.push((Key::RequestObjectTag(key.clone()), value.clone()));
                said.push((Key::RequestObjectTagKeys, key.clone()));
            }
        }
        self.decide_later(request, &input.bucket, Some(&input.key), input.version_id.as_deref(), said).await
    }

    async fn put_object_retention(&self, request: &mut S3Request<PutObjectRetentionInput>) -> S3Result<()> {
        let input = &request.input;
        let mut said = Said::new();
        if let Some(retention) = &input.retention {
            if let Some(mode) = &retention.mode {
                said.push((Key::ObjectLockMode, mode.as_str().to_owned()));
            }
            if let Some(until) = &retention.retain_until_date {
                let until = date::iso(convert::from_timestamp(until.clone()));
                if let Some(days) = remaining_days(&until, self.gate.iam.now()) {
                    said.push((Key::ObjectLockRemainingDays, days));
                }
                said.push((Key::ObjectLockRetainUntil, until));
            }
        }
        self.decide_later(request, &input.bucket, Some(&input.key), input.version_id.as_deref(), said).await
    }

    async fn put_object_legal_hold(&self, request: &mut S3Request<PutObjectLegalHoldInput>) -> S3Result<()> {
        let input = &request.input;
        let status = input.legal_hold.as_ref().and_then(|hold| hold.status.as_ref());
        let said = status.map(|status| (Key::ObjectLockLegalHold, status.as_str().to_owned())).into_iter().collect();
        self.decide_later(request, &input.bucket, Some(&input.key), input.version_id.as_deref(), said).await
    }

    async fn post_object(&self, request: &mut S3Request<PostObjectInput>) -> S3Result<()> {
        let input = &request.input;
        self.decide_later(request, &input.bucket, Some(&input.key), None, Said::new()).await
    }
}

/// Virtual-host addressing under configured domains. Any other host means path style, so that an address,
/// a container's name or `localhost` always work.
#[derive(Debug, Clone)]
pub(crate) struct Domains(Vec<String>);

impl Domains {
    /// Domains without ports; letter case does not matter.
    pub(crate) fn new(domains: &[String]) -> Self {
        let mut domains: Vec<_> = domains.iter().map(|d| d.trim_matches('.').to_ascii_lowercase()).collect();
        // Longest first, so that of `s3.local` and `local` the narrower one decides.
        domains.sort_by_key(|domain| std::cmp::Reverse(domain.len()));
        Self(domains)
    }

    /// The bucket that a host names, if it is under one of the domains.
    pub(crate) fn bucket(&self, host: &str) -> Option<String> {
        let host = host.rsplit_once(':').map_or(host, |(name, _port)| name).trim_end_matches('.');
        let host = host.to_ascii_lowercase();
        for domain in &self.0 {
            if host == *domain {
                return None;
            }
            if let Some(bucket) = host.strip_suffix(domain.as_str()).and_then(|rest| rest.strip_suffix('.')) {
                return Some(bucket.to_owned());
            }
        }
        None
    }
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        Ok(match self.bucket(host) {
            Some(bucket) => VirtualHost::new(host).with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let domains = Domains::new(&["S3.example.com".into(), "example.com".into()]);
        for (host, bucket) in [
            ("s3.example.com", None),
            ("s3.example.com:9000", None),
            ("data.s3.example.com:9000", Some("data")),
            ("Data.S3.Example.com", Some("data")),
            ("a.b.s3.example.com", Some("a.b")),
            ("other.example.com", Some("other")),
            ("localhost:9000", None),
            ("granary", None),
            ("127.0.0.1:9000", None),
            ("evil-s3.example.org", None),
            ("xs3.example.com", Some("xs3")),
        ] {
            assert_eq!(domains.bucket(host).as_deref(), bucket, "{host}");
        }
    }
}
