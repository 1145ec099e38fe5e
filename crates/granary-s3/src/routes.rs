//! s3s takes one route beside S3's operations; this one asks several in turn.

use http::{Extensions, HeaderMap, Method, Uri};
use s3s::route::S3Route;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

/// Routes, the first that matches serves.
pub(crate) struct Routes(pub(crate) Vec<Box<dyn S3Route>>);

/// Which of them matched, kept with the request.
#[derive(Clone, Copy)]
struct Chosen(usize);

impl Routes {
    fn chosen<T>(&self, request: &S3Request<T>) -> S3Result<&dyn S3Route> {
        let chosen = request.extensions.get::<Chosen>().and_then(|chosen| self.0.get(chosen.0));
        chosen.map(AsRef::as_ref).ok_or_else(|| S3Error::new(S3ErrorCode::InternalError))
    }
}

#[async_trait::async_trait]
impl S3Route for Routes {
    fn is_match(&self, method: &Method, uri: &Uri, headers: &HeaderMap, extensions: &mut Extensions) -> bool {
        let found = self.0.iter().position(|route| route.is_match(method, uri, headers, extensions));
        if let Some(found) = found {
            extensions.insert(Chosen(found));
        }
        found.is_some()
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        self.chosen(request)?.check_access(request).await
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        self.chosen(&request)?.call(request).await
    }
}
