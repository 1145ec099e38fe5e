//! The address of a request to these endpoints: bucket, path and parameters.

use http::header::HOST;
use http::{HeaderMap, Uri};
use s3s::{S3Error, S3ErrorCode};

use crate::ai::PREFIX;
use crate::auth::Domains;
use crate::convert;
use crate::error::invalid_argument;

/// Endpoints, one of which the parameters must name.
const ENDPOINTS: [&str; 7] = [
    "granary-member",
    "granary-members",
    "granary-batch",
    "granary-latest",
    "granary-epoch",
    "granary-dataset",
    "granary-warm",
];
/// Other parameters that mean something; those of signatures pass.
const PARAMETERS: [&str; 13] = [
    "versionId",
    "prefix",
    "max-members",
    "page",
    "marker",
    "suffix",
    "seed",
    "rank",
    "world-size",
    "batch",
    "batch-size",
    "info",
    "x-id",
];

/// Bucket and path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) path: String,
}

impl Place {
    pub(super) fn of(uri: &Uri, headers: &HeaderMap, domains: &Domains) -> Result<Self, S3Error> {
        let bad = || S3Error::new(S3ErrorCode::InvalidURI);
        let path = convert::path_decode(uri.path()).ok_or_else(bad)?;
        let path = path.strip_prefix('/').ok_or_else(bad)?;
        let host =
            headers.get(HOST).and_then(|host| host.to_str().ok()).or_else(|| uri.authority().map(|a| a.as_str()));
        if let Some(bucket) = host.and_then(|host| domains.bucket(host)) {
            return Ok(Self { bucket, path: path.to_owned() });
        }
        let (bucket, path) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() {
            return Err(invalid_argument("this endpoint is about a bucket: name it in the path"));
        }
        Ok(Self { bucket: bucket.to_owned(), path: path.to_owned() })
    }
}

/// Parameters, each at most once.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, S3Error> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let bad = || S3Error::new(S3ErrorCode::InvalidURI);
            let (name, value) =
                (convert::form_decode(name).ok_or_else(bad)?, convert::form_decode(value).ok_or_else(bad)?);
            if is_signature(&name) {
                continue;
            }
            if !ENDPOINTS.contains(&name.as_str()) && !PARAMETERS.contains(&name.as_str()) {
                return Err(invalid_argument(format!("there is no parameter `{name}`")));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(invalid_argument(format!("the parameter `{name}` is given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// The endpoint that is named.
    pub(super) fn endpoint(&self) -> Result<&'static str, S3Error> {
        let mut named = self.0.iter().filter(|(name, _)| name.starts_with(PREFIX));
        match (named.next(), named.next()) {
            (Some((name, _)), None) => ENDPOINTS
                .into_iter()
                .find(|endpoint| endpoint == name)
                .ok_or_else(|| S3Error::new(S3ErrorCode::InternalError)),
            _ => Err(invalid_argument("name one endpoint, not several")),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// A whole number within bounds, or what is taken without one.
    pub(super) fn number(
        &self,
        name: &str,
        bounds: std::ops::RangeInclusive<u64>,
        default: u64,
    ) -> Result<u64, S3Error> {
        let Some(text) = self.get(name) else { return Ok(default) };
        text.parse().ok().filter(|n| bounds.contains(n)).ok_or_else(|| {
            invalid_argument(format!("`{name}` must be a whole number from {} to {}", bounds.start(), bounds.end()))
        })
    }
}

fn is_signature(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.starts_with("x-amz-") || matches!(name, "Signature" | "AWSAccessKeyId" | "Expires")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_known_and_given_once() {
        let query = Query::parse("granary-member=a%2Fb+c.jpg&X-Amz-Date=1&versionId=2").unwrap();
        assert_eq!(query.endpoint().unwrap(), "granary-member");
        assert_eq!(query.get("granary-member"), Some("a/b c.jpg"));
        assert!(Query::parse("granary-member=a&granary-member=b").is_err());
        assert!(Query::parse("granary-nonsense").is_err());
        assert!(Query::parse("granary-batch&granary-latest").unwrap().endpoint().is_err());
        assert!(query.number("versionId", 3..=4, 3).is_err());
        assert_eq!(query.number("rank", 0..=4, 3).unwrap(), 3);
    }

    #[test]
    fn targets() {
        let of = |uri: &str, host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            Place::of(&uri.parse().unwrap(), &headers, &Domains::new(&["s3.local".to_owned()])).unwrap()
        };
        let target = |bucket: &str, path: &str| Place { bucket: bucket.into(), path: path.into() };
        assert_eq!(of("/b/a+b%20c/d?x", "127.0.0.1:1"), target("b", "a+b c/d"));
        assert_eq!(of("/b", "127.0.0.1"), target("b", ""));
        assert_eq!(of("/k/x", "b.s3.local:9000"), target("b", "k/x"));
    }
}
