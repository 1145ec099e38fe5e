//! PostObject: uploads by HTML form, from browsers that hold no keys.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html>
//!
//! s3s would gather the file in memory, so the form is read here: its fields, then who signed its policy and whether the
//! policy allows it. What is left is a PutObject with the fields as its headers and the file as its body, and as such it
//! is authorised and served. Where the file is larger than a small form it has to be the last field, and the form has to end
//! as RFC 7578 has it, for the store asks for the length before the bytes.

mod fields;
mod form;
mod policy;
mod sign;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use granary_types::Timestamp;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST, HeaderName, HeaderValue, LOCATION};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use s3s::service::S3Service as Inner;
use s3s::{Body, S3Error, S3ErrorCode, StdError};

use crate::context::{Trace, operation_index};
use crate::convert;
use crate::documents::escape;
use form::{Fields, File};
use policy::PostPolicy;
use sign::Signed;

/// Whether a request is a form upload.
pub(crate) fn is_form(parts: &Parts) -> bool {
    let form = b"multipart/form-data";
    parts.method == Method::POST
        && parts
            .headers
            .get(CONTENT_TYPE)
            .map(|value| value.as_bytes())
            .is_some_and(|value| value.get(..form.len()).is_some_and(|start| start.eq_ignore_ascii_case(form)))
}

/// Who a form is of, as far as signatures tell.
pub(crate) enum Signer<'a> {
    /// Nobody: no policy and no signature.
    Nobody,
    /// Whoever holds this access key, with the token of a session beside it.
    Key { access_key: &'a str, token: Option<&'a str>, is_v2: bool },
}

/// Marks the PutObject that a form stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form;

/// Where a form goes.
pub(crate) struct Door<'a, S, P> {
    /// Serves requests whose sender is proven.
    pub(crate) inner: &'a Inner,
    /// The bucket that the request names.
    pub(crate) bucket: &'a str,
    pub(crate) allow_sigv2: bool,
    /// Seconds that a form may be signed in the future.
    pub(crate) skew_s: u64,
    /// The secret of an access key, to verify a signature with.
    pub(crate) secret: S,
    /// Marks a request as the signer's.
    pub(crate) prove: P,
}

/// The time, for policies that expire.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_secs(since.map_or(0, |since| since.as_secs()))
}

/// Serves a form.
///
/// # Errors
/// As S3 answers forms that are malformed, not signed rightly, or not as their policy has it.
pub(crate) async fn serve<B, S, P>(
    door: Door<'_, S, P>,
    parts: Parts,
    body: B,
    trace: &Arc<Trace>,
) -> Result<Response<Body>, S3Error>
where
    B: http_body::Body<Data = Bytes> + Send + Sync + Unpin + 'static,
    B::Error: Into<StdError>,
    S: Fn(&str) -> Result<granary_access::Secret, S3Error>,
    P: FnOnce(&mut Request<Body>, Signer<'_>) -> Result<(), S3Error>,
{
    let text = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let form_bytes = text(CONTENT_LENGTH).and_then(|value| value.parse().ok()).ok_or_else(|| {
        S3Error::with_message(S3ErrorCode::MissingContentLength, "You must provide the Content-Length HTTP header.")
    })?;
    let boundary = text(CONTENT_TYPE).and_then(form::boundary).ok_or_else(|| {
        S3Error::with_message(
            S3ErrorCode::MalformedPOSTRequest,
            "The body of your POST request is not well-formed multipart/form-data: its boundary is missing.",
        )
    })?;
    let (mut fields, file) = form::read(body, &boundary, form_bytes, Arc::clone(trace)).await?;
    fields.expand_filename();
    let fields = fields;
    let key = fields.get("key").filter(|key| !key.is_empty()).ok_or_else(|| sign::missing("key"))?;
    let signed = Signed::of(&fields, now(), door.skew_s)?;
    let signer = match &signed {
        None => Signer::Nobody,
        Some(signed) => {
            if signed.is_v2() && !door.allow_sigv2 {
                return Err(crate::service::refuse_sigv2());
            }
            signed.verify((door.secret)(signed.access_key)?.expose())?;
            check_policy(signed.policy, &fields, door.bucket, file.len())?;
            Signer::Key {
                access_key: signed.access_key,
                token: fields.get("x-amz-security-token"),
                is_v2: signed.is_v2(),
            }
        }
    };
    let mut put = Request::new(Body::empty());
    *put.method_mut() = Method::PUT;
    *put.uri_mut() = format!("/{}/{}", door.bucket, convert::percent_encode(key))
        .parse()
        .map_err(|_| S3Error::new(S3ErrorCode::InvalidURI))?;
    *put.extensions_mut() = parts.extensions.clone();
    put.extensions_mut().insert(Form);
    *put.headers_mut() = fields::headers(&fields, &parts.headers)?;
    put.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(file.len()));
    (door.prove)(&mut put, signer)?;
    *put.body_mut() = match file {
        File::Whole(bytes) => Body::from(bytes),
        File::Stream(body) => Body::http_body(body),
    };
    let answer = door.inner.call(put).await;
    trace.set_operation(operation_index("PostObject"));
    let answer = answer.map_err(|error| {
        trace.set_fault(StdError::from(error).to_string());
        S3Error::new(S3ErrorCode::InternalError)
    })?;
    if answer.status().as_u16() >= 400 {
        return Ok(answer);
    }
    Ok(success(answer, &fields, door.bucket, key, text(HOST).unwrap_or_default()))
}

fn check_policy(policy: &str, fields: &Fields, bucket: &str, size_bytes: u64) -> Result<(), S3Error> {
    // Browsers keep the line ends that a policy was wrapped with.
    let packed: String = policy.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let document = BASE64
        .decode(packed)
        .map_err(|_| S3Error::with_message(S3ErrorCode::InvalidPolicyDocument, "Invalid Policy: Invalid Base64."))?;
    PostPolicy::parse(&document)?.check(fields, bucket, size_bytes, now())
}

/// PutObject's answer as the form asks for it: a redirect, a document, or a bare status.
fn success(put: Response<Body>, fields: &Fields, bucket: &str, key: &str, host: &str) -> Response<Body> {
    let (mut parts, _) = put.into_parts();
    let etag = parts.headers.get(ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
    let location = format!("http://{host}/{bucket}/{}", convert::percent_encode(key));
    let redirect = fields.get("success_action_redirect").or_else(|| fields.get("redirect"));
    let redirect = redirect.and_then(|target| redirect_target(target, bucket, key, &etag));
    let mut body = Body::empty();
    let at = match (redirect, fields.get("success_action_status")) {
        (Some(target), _) => {
            parts.status = StatusCode::SEE_OTHER;
            target
        }
        (None, Some("200")) => {
            parts.status = StatusCode::OK;
            location
        }
        (None, Some("201")) => {
            parts.status = StatusCode::CREATED;
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            body = Body::from(Bytes::from(format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PostResponse><Location>{}</Location><Bucket>{}</Bucket>\
                 <Key>{}</Key><ETag>{}</ETag></PostResponse>",
                escape(&location),
                escape(bucket),
                escape(key),
                escape(&etag)
            )));
            location
        }
        // Any other value means 204.
        _ => {
            parts.status = StatusCode::NO_CONTENT;
            location
        }
    };
    parts.headers.remove(CONTENT_LENGTH);
    if let Ok(at) = HeaderValue::try_from(at) {
        parts.headers.insert(LOCATION, at);
    }
    Response::from_parts(parts, body)
}

/// Where a browser is sent on, with what was made. A target that is no URL is as if it were not there.
fn redirect_target(target: &str, bucket: &str, key: &str, etag: &str) -> Option<String> {
    let uri: http::Uri = target.trim().parse().ok()?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return None;
    }
    let encode = |text: &str| convert::percent_encode(text).replace('/', "%2F");
    let mark = if uri.query().is_some() { '&' } else { '?' };
    let (page, fragment) = target.trim().split_once('#').map_or((target.trim(), None), |(p, f)| (p, Some(f)));
    let mut out = format!("{page}{mark}bucket={}&key={}&etag={}", encode(bucket), encode(key), encode(etag));
    if let Some(fragment) = fragment {
        out.push('#');
        out.push_str(fragment);
    }
    Some(out)
}

/// Headers of the request itself that conditions of policies can be about.
const KEPT: [HeaderName; 2] = [http::header::USER_AGENT, http::header::REFERER];
