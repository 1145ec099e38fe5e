//! The client of upstream buckets: S3 over HTTP/1.1, signed with SigV4.
//!
//! Guarantees: bounded in time and memory; no redirect is followed, no proxy used; no error and no log line holds a secret, a
//! signature or what an upstream says beside its status and its code. Whether what comes holds together is judged by the store.

mod answer;
mod connection;
mod listing;
mod sign;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use granary_store::upstream::{
    RemoteGet, RemoteHead, RemoteListRequest, RemotePage, RemotePut, Site, Upstream, UpstreamError,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;

use answer::{code_of, head_of, refused};
use connection::{Body, Call, Pools, empty, read_all, streamed};

/// Bytes of an error document, at most.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a listing, at most: a thousand of the longest keys, each byte of them escaped.
const LISTING_BYTES_MAX: usize = 16 << 20;

type Done<T> = Result<T, UpstreamError>;

/// The client. Keeps some connections open.
#[derive(Default)]
pub(crate) struct S3Client {
    pools: Pools,
}

impl S3Client {
    async fn call(&self, site: &Site, call: Call) -> Done<http::Response<hyper::body::Incoming>> {
        let answer = self.pools.send(site, call).await?;
        if answer.status().is_redirection() && answer.status() != StatusCode::NOT_MODIFIED {
            return Err(UpstreamError::Refused(format!(
                "it answered {}, and redirects are not followed (are endpoint, region and address style right?)",
                answer.status().as_u16()
            )));
        }
        Ok(answer)
    }

    async fn fetch(&self, site: &Site, key: &str, unless: Option<&str>) -> Done<RemoteGet> {
        let mut call = Call::new(Method::GET, key, String::new());
        call.header("x-amz-checksum-mode", "ENABLED")?;
        if let Some(etag) = unless {
            call.header("if-none-match", &format!("\"{etag}\""))?;
        }
        let answer = self.call(site, call).await?;
        match answer.status() {
            StatusCode::OK => {
                let head = head_of(answer.headers())?;
                let body = answer.into_body().into_data_stream().map(|frame| {
                    // hyper's words: that the connection ended too soon, was reset, or the framing was wrong.
                    let broken = |error| format!("the connection broke off within the object ({error})");
                    frame.map_err(|error| UpstreamError::Unreachable(broken(error)))
                });
                Ok(RemoteGet::Object(Box::new(head), body.boxed()))
            }
            StatusCode::NOT_MODIFIED => Ok(RemoteGet::NotModified),
            status => {
                let document = read_all(answer.into_body(), ERROR_BYTES_MAX).await.unwrap_or_default();
                match (status, code_of(&document).as_deref()) {
                    (StatusCode::NOT_FOUND, Some("NoSuchKey")) => Ok(RemoteGet::Absent),
                    (_, code) => Err(refused(status, code)),
                }
            }
        }
    }

    async fn ask(&self, site: &Site, key: &str) -> Done<Option<RemoteHead>> {
        let mut call = Call::new(Method::HEAD, key, String::new());
        call.header("x-amz-checksum-mode", "ENABLED")?;
        let answer = self.call(site, call).await?;
        match answer.status() {
            StatusCode::OK => head_of(answer.headers()).map(Some),
            // Without a body nothing tells a missing key from a missing bucket, or from somebody who is no S3 at all.
            StatusCode::NOT_FOUND => match self.fetch(site, key, None).await? {
                RemoteGet::Object(head, _) => Ok(Some(*head)),
                RemoteGet::Absent => Ok(None),
                RemoteGet::NotModified => Err(UpstreamError::Lied("304 to a request without a condition".to_owned())),
            },
            status => Err(refused(status, None)),
        }
    }

    async fn page(&self, site: &Site, request: &RemoteListRequest) -> Done<RemotePage> {
        let call = Call::new(Method::GET, "", listing::query(request));
        let answer = self.call(site, call).await?;
        let status = answer.status();
        if status != StatusCode::OK {
            let document = read_all(answer.into_body(), ERROR_BYTES_MAX).await.unwrap_or_default();
            return Err(refused(status, code_of(&document).as_deref()));
        }
        let document = read_all(answer.into_body(), LISTING_BYTES_MAX).await?;
        listing::parse(&document).map_err(|why| UpstreamError::Lied(format!("its listing cannot be read: {why}")))
    }

    async fn store(&self, site: &Site, key: &str, put: RemotePut) -> Done<()> {
        let mut call = Call::new(Method::PUT, key, String::new());
        let headers = &put.headers;
        for (name, value) in [
            ("content-type", &headers.content_type),
            ("content-encoding", &headers.content_encoding),
            ("content-disposition", &headers.content_disposition),
            ("content-language", &headers.content_language),
            ("cache-control", &headers.cache_control),
            ("expires", &headers.expires),
            ("x-amz-website-redirect-location", &headers.website_redirect),
        ] {
            if let Some(value) = value {
                call.header(name, value)?;
            }
        }
        for (name, value) in &put.user_metadata {
            call.header(&format!("x-amz-meta-{name}"), value)?;
        }
        if let Some(checksum) = &put.checksum {
            let name = checksum.algorithm.name().to_ascii_lowercase();
            call.header(&format!("x-amz-checksum-{name}"), &checksum.to_wire())?;
        }
        let (body, sent) = streamed(put.body, put.size_bytes);
        call.body(body, put.size_bytes);
        let answer = self.pools.send_watched(site, call, &sent).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let document = read_all(answer.into_body(), ERROR_BYTES_MAX).await.unwrap_or_default();
        if status != StatusCode::OK {
            let code = code_of(&document);
            return Err(match status {
                StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                    UpstreamError::Rejected(answer::shown(status, code.as_deref()))
                }
                status => refused(status, code.as_deref()),
            });
        }
        // Where its ETag is an MD5, it is the MD5 of what it has.
        match answer::md5_of(&headers) {
            Some(theirs) if Some(theirs) != sent.md5() => {
                Err(UpstreamError::Lied("the MD5 of what it has is not that of what was sent".to_owned()))
            }
            _ => Ok(()),
        }
    }

    async fn remove(&self, site: &Site, key: &str) -> Done<()> {
        let answer = self.call(site, Call::new(Method::DELETE, key, String::new())).await?;
        let status = answer.status();
        let document = read_all(answer.into_body(), ERROR_BYTES_MAX).await.unwrap_or_default();
        match (status, code_of(&document).as_deref()) {
            (StatusCode::OK | StatusCode::NO_CONTENT, _) | (StatusCode::NOT_FOUND, Some("NoSuchKey")) => Ok(()),
            (status, code) => Err(refused(status, code)),
        }
    }
}

impl Upstream for S3Client {
    fn head<'a>(&'a self, site: &'a Site, key: &'a str) -> BoxFuture<'a, Done<Option<RemoteHead>>> {
        self.ask(site, key).boxed()
    }

    fn get<'a>(&'a self, site: &'a Site, key: &'a str, unless: Option<&'a str>) -> BoxFuture<'a, Done<RemoteGet>> {
        self.fetch(site, key, unless).boxed()
    }

    fn list<'a>(&'a self, site: &'a Site, request: &'a RemoteListRequest) -> BoxFuture<'a, Done<RemotePage>> {
        self.page(site, request).boxed()
    }

    fn put<'a>(&'a self, site: &'a Site, key: &'a str, put: RemotePut) -> BoxFuture<'a, Done<()>> {
        self.store(site, key, put).boxed()
    }

    fn delete<'a>(&'a self, site: &'a Site, key: &'a str) -> BoxFuture<'a, Done<()>> {
        self.remove(site, key).boxed()
    }
}

impl Call {
    /// A request for a key (empty: the bucket), with its query as it is sent.
    fn new(method: Method, key: &str, query: String) -> Self {
        Self { method, key: key.to_owned(), query, headers: Vec::new(), body: empty(), size_bytes: None }
    }

    fn header(&mut self, name: &str, value: &str) -> Done<()> {
        let wrong = || UpstreamError::Rejected(format!("header {name} cannot be sent"));
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong())?;
        self.headers.push((header, value));
        Ok(())
    }

    fn body(&mut self, body: Body, size_bytes: u64) {
        self.body = body;
        self.size_bytes = Some(size_bytes);
    }
}
