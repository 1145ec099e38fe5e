//! The endpoints for AI work: ordinary S3 requests, signed as any other, with a `granary-*` query parameter.
//!
//! What each does is in `docs/ai.md`. They pass the same signature check as S3's operations (s3s has done it before a
//! route is asked) and the same authorisation: a member is read with the rights of GetObject on its object, and so on.

mod batch;
mod epoch;
mod latest;
mod members;
mod query;
mod warm;

use std::sync::Arc;

use granary_access::policy::Key;
use granary_store::ai::epoch::Epochs;
use granary_store::ai::shard::Shards;
use granary_types::{BucketName, ObjectKey};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri};
use s3s::route::S3Route;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use crate::access::gate::Target;
use crate::access::view::Said;
use crate::auth::{Access, Domains};
use crate::context::{Cx, Trace, operation_index};
use crate::convert;
use crate::error::{Fail, invalid_argument};
use crate::front::FrontDoor;
use query::{Place, Query};

/// What every parameter of these endpoints begins with.
const PREFIX: &str = "granary-";
const EXPECTED_OWNER: HeaderName = HeaderName::from_static("x-amz-expected-bucket-owner");

/// The route to these endpoints.
pub(crate) struct AiRoute {
    pub(crate) access: Access,
    pub(crate) domains: Domains,
    pub(crate) front: FrontDoor,
    pub(crate) shards: Shards,
    pub(crate) epochs: Epochs,
}

/// An answer.
type Answer = Result<S3Response<Body>, Fail>;

/// One request, taken apart.
struct Call<'a> {
    route: &'a AiRoute,
    cx: Cx,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    query: Query,
    bucket: BucketName,
    /// The key, or the folder for endpoints that take one; empty for the bucket itself.
    path: String,
    body: Body,
}

impl AiRoute {
    async fn serve(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let cx = Cx::of(&request)?;
        let for_errors =
            Cx { trace: Arc::clone(&cx.trace), caller: Arc::clone(&cx.caller), auth: cx.auth, is_form: false };
        self.dispatch(cx, request).await.map_err(|fail| for_errors.refuse(self.front.hide(&for_errors, fail)))
    }

    async fn dispatch(&self, cx: Cx, request: S3Request<Body>) -> Answer {
        let S3Request { input: body, method, uri, headers, .. } = request;
        let Place { bucket, path } = Place::of(&uri, &headers, &self.domains)?;
        let bucket = convert::bucket_name(&bucket)?;
        let query = Query::parse(uri.query().unwrap_or_default())?;
        let endpoint = query.endpoint()?;
        let call = Call { route: self, cx, method, uri, headers, query, bucket, path, body };
        let owner = call.headers.get(EXPECTED_OWNER).map(|value| value.to_str().unwrap_or_default());
        self.front.named(call.bucket.as_str(), owner)?;
        match endpoint {
            "granary-member" => members::member(call).await,
            "granary-members" => members::list(call).await,
            "granary-batch" => batch::batch(call).await,
            "granary-latest" => latest::latest(call).await,
            "granary-epoch" => epoch::epoch(call).await,
            "granary-dataset" => epoch::dataset(call).await,
            "granary-warm" => warm::warm(call).await,
            other => Err(invalid_argument(format!("there is no endpoint `{other}`")).into()),
        }
    }
}

impl Call<'_> {
    async fn permit(&self, operation: &str, key: Option<&str>) -> Result<(), Fail> {
        self.permit_version(operation, key, self.query.get("versionId")).await
    }

    /// Whether the caller may do what `operation` of S3 does, to the bucket or to the key in it. The one place where
    /// these endpoints ask.
    async fn permit_version(&self, operation: &str, key: Option<&str>, version: Option<&str>) -> Result<(), Fail> {
        let mut said = Said::new();
        let (action, key) = match (operation, version) {
            // What is listed is what lies under the path, whatever the query calls it.
            ("ListObjectsV2", _) => {
                said.push((Key::Prefix, key.unwrap_or_default().to_owned()));
                ("s3:ListBucket", None)
            }
            (_, Some(_)) => ("s3:GetObjectVersion", key),
            (_, None) => ("s3:GetObject", key),
        };
        let target = Target { bucket: self.bucket.as_str(), key, version };
        self.route.access.permit(&self.cx, (&self.headers, &self.uri), action, &target, said).await
    }

    /// Whether the caller may do what only Granary has an action for.
    async fn permit_action(&self, action: &'static str, key: Option<&str>) -> Result<(), Fail> {
        let target = Target { bucket: self.bucket.as_str(), key, version: None };
        self.route.access.permit(&self.cx, (&self.headers, &self.uri), action, &target, Said::new()).await
    }

    /// Names the request in metrics and logs.
    fn named(&self, operation: &str) {
        self.cx.trace.set_operation(operation_index(operation));
    }

    fn key(&self) -> Result<ObjectKey, Fail> {
        if self.path.is_empty() {
            return Err(invalid_argument("this endpoint is about an object: name its key in the path").into());
        }
        Ok(convert::object_key(self.path.clone())?)
    }

    fn method(&self, allowed: &[Method]) -> Result<(), Fail> {
        if allowed.contains(&self.method) {
            return Ok(());
        }
        Err(S3Error::with_message(
            S3ErrorCode::MethodNotAllowed,
            format!("{} is not what this endpoint takes, which is {}", self.method, allowed[0]),
        )
        .into())
    }
}

/// A JSON document as the answer.
fn json(value: &serde_json::Value) -> S3Response<Body> {
    let mut text = value.to_string();
    text.push('\n');
    let mut response = S3Response::new(Body::from(text));
    response.headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[async_trait::async_trait]
impl S3Route for AiRoute {
    fn is_match(&self, _method: &Method, uri: &Uri, _headers: &HeaderMap, _extensions: &mut Extensions) -> bool {
        uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with(PREFIX)))
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        let proven = self.access.prove(request.credentials.as_ref(), &request.headers, &request.uri)?;
        if let Some(trace) = request.extensions.get::<Arc<Trace>>() {
            trace.set_operation(operation_index("Other"));
            trace.set_identity(Arc::clone(&proven.who));
        }
        request.extensions.insert(proven);
        Ok(())
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        self.serve(request).await
    }
}
