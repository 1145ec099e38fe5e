//! The query interfaces of IAM and STS on the S3 port: `POST /` with a form, as the AWS CLI and SDKs send them.
//!
//! Guarantees: the signature is verified for the service that is asked (`iam`, `sts`) before anything is done, and whatever
//! is asked must be allowed by a policy (root may do everything). S3 has no `POST /`, so nothing of S3 is shadowed.

pub(crate) mod call;
mod iam;
mod sts;
mod xml;

use std::sync::Arc;

use bytes::Bytes;
use granary_access::oidc::Verifier;
use granary_access::sigv4::{Request, SignatureError};
use granary_access::{Decision, Iam, IamError, Identity, Refused};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use s3s::Body;

use crate::access::gate::Gate;
use crate::access::{AuthView, View};
use crate::context::Trace;
use crate::convert;
use call::ApiCall;

/// Bytes of a form, at most: two policies of the greatest size and some.
pub(crate) const FORM_BYTES_MAX: usize = 128 * 1024;
/// Fields of a form.
const FIELDS_MAX: usize = 2_000;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    status: u16,
    code: &'static str,
    message: String,
}

impl Failure {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
}

impl From<IamError> for Failure {
    fn from(error: IamError) -> Self {
        let (status, code) = match &error {
            IamError::NoSuchEntity(_) => (404, "NoSuchEntity"),
            IamError::EntityAlreadyExists(_) => (409, "EntityAlreadyExists"),
            IamError::MalformedPolicyDocument(_) => (400, "MalformedPolicyDocument"),
            IamError::ValidationError(_) => (400, "ValidationError"),
            IamError::LimitExceeded(_) => (409, "LimitExceeded"),
            IamError::DeleteConflict(_) => (409, "DeleteConflict"),
            IamError::AccessDenied(_) => (403, "AccessDenied"),
            IamError::InvalidIdentityToken(_) => (400, "InvalidIdentityToken"),
            IamError::ExpiredToken(_) => (400, "ExpiredTokenException"),
            IamError::IdpCommunication(_) => (400, "IDPCommunicationError"),
            IamError::Unavailable(_) => (503, "ServiceUnavailable"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<Refused> for Failure {
    fn from(why: Refused) -> Self {
        match why {
            Refused::Unknown | Refused::Expired | Refused::Token => {
                Self::new(403, "InvalidClientTokenId", "The security token included in the request is invalid.")
            }
            Refused::TokenExpired => {
                Self::new(403, "ExpiredToken", "The security token included in the request is expired")
            }
        }
    }
}

impl From<SignatureError> for Failure {
    fn from(error: SignatureError) -> Self {
        let (status, code) = match error {
            SignatureError::Missing => (403, "MissingAuthenticationToken"),
            SignatureError::Incomplete => (400, "IncompleteSignature"),
            SignatureError::Wrong | SignatureError::Skewed => (403, "SignatureDoesNotMatch"),
        };
        Self::new(status, code, error.to_string())
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A form's fields.
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    fn parse(body: &[u8]) -> Result<Self> {
        let bad = || Failure::new(400, "MalformedInput", "The request is not a form");
        let text = std::str::from_utf8(body).map_err(|_| bad())?;
        let mut fields = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            fields.push((convert::form_decode(name).ok_or_else(bad)?, convert::form_decode(value).ok_or_else(bad)?));
            if fields.len() > FIELDS_MAX {
                return Err(bad());
            }
        }
        Ok(Self(fields))
    }

    /// A field that may be missing.
    pub(crate) fn maybe(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// A field that must be there.
    pub(crate) fn text(&self, name: &str) -> Result<&str> {
        self.maybe(name).ok_or_else(|| {
            Failure::new(400, "ValidationError", format!("1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"))
        })
    }

    /// `Name.member.1`, `Name.member.2`...
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        (1..).map_while(|n| self.maybe(&format!("{name}.member.{n}"))).collect()
    }

    /// `Tags.member.1.Key` and `.Value`.
    pub(crate) fn tags(&self) -> Vec<(String, String)> {
        let tag = |n: usize| {
            let key = self.maybe(&format!("Tags.member.{n}.Key"))?;
            Some((key.to_owned(), self.maybe(&format!("Tags.member.{n}.Value")).unwrap_or_default().to_owned()))
        };
        (1..=50).map_while(tag).collect()
    }
}

/// The interfaces.
pub(crate) struct Query {
    pub(crate) iam: Arc<Iam>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) region: Arc<str>,
    pub(crate) oidc: Verifier,
}

/// A request that is served.
pub(crate) struct Asked<'a> {
    pub(crate) query: &'a Query,
    pub(crate) who: Arc<Identity>,
    pub(crate) form: Form,
    parts: &'a Parts,
    trace: &'a Trace,
}

impl Asked<'_> {
    /// Whether the caller may; else the answer that says why not.
    pub(crate) fn check(&self, action: &str, resource: &str) -> Result<()> {
        let decision = self.decide(action, resource);
        let (allowed, by) = (decision.allowed, decision.by.clone());
        self.decided(decision);
        if allowed {
            return Ok(());
        }
        Err(Failure::new(
            403,
            "AccessDenied",
            format!(
                "User: {} is not authorized to perform: {action} on resource: {resource} because of {by}",
                self.who.arn
            ),
        ))
    }

    /// Leaves what was decided with the request.
    pub(crate) fn decided(&self, decision: Decision) {
        self.trace.set_decision(decision);
    }

    /// Keeps for the request's event what its form does not say: whose key it is, which key was made.
    pub(crate) fn note(&self, name: &str, value: &str) {
        self.trace.note_of_call(name, value);
    }

    pub(crate) fn decide(&self, action: &str, resource: &str) -> Decision {
        self.query.gate.ask_outside(&self.who, &self.view(), action, resource)
    }

    pub(crate) fn view(&self) -> View<'_> {
        let auth = AuthView::of(&self.parts.headers, self.parts.uri.query().unwrap_or_default());
        View::new(&self.parts.headers, &self.parts.uri, self.trace.peer, auth, &self.query.region, self.query.iam.now())
    }
}

/// Whether a request is for these interfaces.
pub(crate) fn is_meant(parts: &Parts) -> bool {
    let form = b"application/x-www-form-urlencoded";
    let kind = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    parts.method == Method::POST
        && parts.uri.path() == "/"
        && kind.is_some_and(|kind| kind.get(..form.len()).is_some_and(|start| start.eq_ignore_ascii_case(form)))
}

impl Query {
    /// Serves a request whose body is `body`.
    pub(crate) async fn serve(&self, parts: &Parts, body: &Bytes, trace: &Trace) -> Response<Body> {
        let sts_namespace = sts::NAMESPACE;
        let (namespace, answer) = match Form::parse(body) {
            Err(failure) => (sts_namespace, Err(failure)),
            Ok(form) => {
                let is_sts = form.maybe("Version") == Some(sts::VERSION);
                let namespace = if is_sts { sts::NAMESPACE } else { iam::NAMESPACE };
                (namespace, self.act(parts, body, trace, form, is_sts).await)
            }
        };
        let (status, document) = match answer {
            Ok((action, result)) => (200, xml::answer(namespace, &action, &result, &trace.id)),
            Err(Failure { status, code, message }) => {
                let kind = if status < 500 { "Sender" } else { "Receiver" };
                (status, xml::error(namespace, kind, code, &message, &trace.id))
            }
        };
        let mut response = Response::new(Body::from(Bytes::from(document)));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
        if let Ok(id) = HeaderValue::from_str(&trace.id) {
            response.headers_mut().insert("x-amzn-requestid", id);
        }
        response
    }

    async fn act(
        &self,
        parts: &Parts,
        body: &Bytes,
        trace: &Trace,
        form: Form,
        is_sts: bool,
    ) -> Result<(String, String)> {
        let action = form
            .text("Action")
            .map_err(|_| Failure::new(400, "MissingAction", "The request names no Action"))?
            .to_owned();
        if let Some(call) = ApiCall::of(&form, &action, is_sts) {
            trace.set_call(call);
        }
        if !is_sts && form.maybe("Version") != Some(iam::VERSION) {
            return Err(Failure::new(
                400,
                "InvalidAction",
                format!(
                    "Could not find operation {action} for version {}",
                    form.maybe("Version").unwrap_or("NO_VERSION_SPECIFIED")
                ),
            ));
        }
        let who =
            if is_sts && sts::is_unsigned(&action) { self.iam.anonymous() } else { self.prove(parts, body, is_sts)? };
        trace.set_identity(Arc::clone(&who));
        let asked = Asked { query: self, who, form, parts, trace };
        let result = if is_sts { sts::act(&asked, &action).await? } else { iam::act(&asked, &action).await? };
        Ok((action, result))
    }

    /// Verifies the signature.
    fn prove(&self, parts: &Parts, body: &[u8], is_sts: bool) -> Result<Arc<Identity>> {
        let mut headers = Vec::with_capacity(parts.headers.len());
        for (name, value) in &parts.headers {
            let value = value.to_str().map_err(|_| Failure::from(SignatureError::Incomplete))?;
            headers.push((name.as_str(), value));
        }
        // HTTP/2 has the host elsewhere.
        if let (None, Some(authority)) = (parts.headers.get(http::header::HOST), parts.uri.authority()) {
            headers.push(("host", authority.as_str()));
        }
        let query = parts.uri.query().unwrap_or_default();
        let request = Request { method: "POST", path: parts.uri.path(), query, headers: &headers, body };
        let claim = request.claim()?;
        if claim.service != if is_sts { "sts" } else { "iam" } {
            return Err(Failure::new(
                403,
                "SignatureDoesNotMatch",
                format!("Credential should be scoped to correct service: '{}'.", if is_sts { "sts" } else { "iam" }),
            ));
        }
        let secret = self.iam.secret(claim.access_key).ok_or(Refused::Unknown)?;
        request.verify(&claim, &secret, self.iam.now().as_secs(), self.iam.limits().clock_skew_s)?;
        let token = parts.headers.get("x-amz-security-token").and_then(|token| token.to_str().ok());
        Ok(self.iam.authenticate(claim.access_key, token)?)
    }
}
