//! What an error is about: the elements that S3 puts into an error document beside `Code` and `Message`
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>), which SDKs hand on to their callers.
//!
//! Guarantees: says nothing that the request did not say itself, but for the condition that did not hold.

use http::request::Parts;
use http::{HeaderValue, Method, Uri};

use crate::access::view::parameter;
use crate::convert;

/// What is kept of a request for the case that it is refused.
pub(crate) struct Subject {
    method: Method,
    uri: Uri,
    host_bucket: Option<String>,
    copy_source: Option<HeaderValue>,
    range: Option<HeaderValue>,
}

/// An element: name and text.
pub(crate) type Detail = (&'static str, String);

impl Subject {
    pub(crate) fn new(parts: &Parts, host_bucket: Option<&str>) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            host_bucket: host_bucket.map(str::to_owned),
            copy_source: parts.headers.get("x-amz-copy-source").cloned(),
            range: parts.headers.get(http::header::RANGE).cloned(),
        }
    }

    /// The path that was asked for.
    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    fn bucket_and_key(&self) -> (String, Option<String>) {
        let path = convert::path_decode(self.uri.path().trim_start_matches('/')).unwrap_or_default();
        let (bucket, key) = match &self.host_bucket {
            Some(bucket) => (bucket.clone(), path),
            None => match path.split_once('/') {
                Some((bucket, key)) => (bucket.to_owned(), key.to_owned()),
                None => (path, String::new()),
            },
        };
        (bucket, (!key.is_empty()).then_some(key))
    }

    /// Bucket, key and version that a copy is made from.
    fn source(&self) -> Option<(String, String, Option<String>)> {
        let text = self.copy_source.as_ref()?.to_str().ok()?;
        let (path, version) = match text.split_once("?versionId=") {
            Some((path, version)) => (path, Some(version.to_owned())),
            None => (text, None),
        };
        let path = convert::path_decode(path.trim_start_matches('/'))?;
        let (bucket, key) = path.split_once('/')?;
        Some((bucket.to_owned(), key.to_owned(), version))
    }

    fn parameter(&self, name: &str) -> Option<String> {
        parameter(self.uri.query().unwrap_or_default(), name).map(|value| value.into_owned())
    }

    /// The elements for an error of that code. `condition`: which one did not hold; `is_marker`: it is about a delete marker;
    /// `has_bucket`: whether there is a bucket of that name.
    pub(crate) fn details(
        &self,
        code: &str,
        condition: Option<&'static str>,
        is_marker: bool,
        has_bucket: impl Fn(&str) -> bool,
    ) -> Vec<Detail> {
        let (bucket, key) = self.bucket_and_key();
        let source = self.source();
        let of_key = |with_version: bool| {
            // Of a copy it is the source that is missing.
            let (key, version) = match source.clone() {
                Some((_, key, version)) => (Some(key), version),
                None => (key.clone(), self.parameter("versionId")),
            };
            let version = version.filter(|_| with_version).map(|version| ("VersionId", version));
            key.map(|key| ("Key", key)).into_iter().chain(version).collect()
        };
        match code {
            "NoSuchKey" => of_key(false),
            "NoSuchVersion" => of_key(true),
            "NoSuchUpload" => self.parameter("uploadId").map(|upload| ("UploadId", upload)).into_iter().collect(),
            "PreconditionFailed" => {
                condition.map(|condition| ("Condition", condition.to_owned())).into_iter().collect()
            }
            "InvalidRange" => {
                let range = self.range.as_ref().and_then(|range| range.to_str().ok());
                range.map(|range| ("RangeRequested", range.to_owned())).into_iter().collect()
            }
            "MethodNotAllowed" => {
                let kind = match (is_marker, bucket.is_empty(), &key) {
                    (true, ..) => "DeleteMarker",
                    (_, true, _) => "SERVICE",
                    (_, _, None) => "BUCKET",
                    _ => "OBJECT",
                };
                vec![("Method", self.method.as_str().to_owned()), ("ResourceType", kind.to_owned())]
            }
            "NoSuchBucket" if has_bucket(&bucket) => {
                source.map(|(bucket, ..)| ("BucketName", bucket)).into_iter().collect()
            }
            "NoSuchBucket"
            | "BucketAlreadyExists"
            | "BucketAlreadyOwnedByYou"
            | "BucketNotEmpty"
            | "InvalidBucketName"
            | "NoSuchBucketPolicy"
            | "NoSuchCORSConfiguration"
            | "NoSuchLifecycleConfiguration"
            | "NoSuchPublicAccessBlockConfiguration"
            | "NoSuchTagSet"
            | "NoSuchWebsiteConfiguration"
            | "ObjectLockConfigurationNotFoundError"
            | "OwnershipControlsNotFoundError"
            | "ReplicationConfigurationNotFoundError"
            | "ServerSideEncryptionConfigurationNotFoundError"
                if !bucket.is_empty() =>
            {
                vec![("BucketName", bucket)]
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, target: &str, source: Option<&'static str>) -> Subject {
        let mut request = http::Request::builder().method(method).uri(target);
        if let Some(source) = source {
            request = request.header("x-amz-copy-source", source);
        }
        Subject::new(&request.body(()).unwrap().into_parts().0, None)
    }

    fn said(subject: &Subject, code: &str) -> String {
        let details = subject.details(code, Some("If-Match"), false, |bucket| bucket == "there");
        details.iter().map(|(name, text)| format!("{name}={text} ")).collect()
    }

    #[test]
    fn errors_say_what_they_are_about() {
        let get = of(Method::GET, "/b/a%20key?versionId=v1&uploadId=u%2F1", None);
        assert_eq!(said(&get, "NoSuchKey"), "Key=a key ");
        assert_eq!(said(&get, "NoSuchVersion"), "Key=a key VersionId=v1 ");
        assert_eq!(said(&get, "NoSuchUpload"), "UploadId=u/1 ");
        assert_eq!(said(&get, "NoSuchBucket"), "BucketName=b ");
        assert_eq!(said(&get, "PreconditionFailed"), "Condition=If-Match ");
        assert_eq!(said(&get, "MethodNotAllowed"), "Method=GET ResourceType=OBJECT ");
        assert_eq!(said(&get, "AccessDenied"), "");
        assert_eq!(said(&of(Method::POST, "/", None), "MethodNotAllowed"), "Method=POST ResourceType=SERVICE ");
        assert_eq!(said(&of(Method::PUT, "/b", None), "BucketAlreadyOwnedByYou"), "BucketName=b ");
        assert_eq!(get.details("MethodNotAllowed", None, true, |_| true)[1].1, "DeleteMarker");
    }

    #[test]
    fn of_copies_the_source_is_missing() {
        let copy = of(Method::PUT, "/there/new", Some("/from/old%2Bkey?versionId=v2"));
        assert_eq!(said(&copy, "NoSuchKey"), "Key=old+key ");
        assert_eq!(said(&copy, "NoSuchVersion"), "Key=old+key VersionId=v2 ");
        assert_eq!(said(&copy, "NoSuchBucket"), "BucketName=from ");
        assert_eq!(said(&of(Method::PUT, "/gone/new", Some("from/old")), "NoSuchBucket"), "BucketName=gone ");
    }
}
