//! Who asks: adapters from s3s's hooks to `granary-access`, and virtual-host addressing.

use std::sync::Arc;

use granary_access::{By, Credentials};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::host::{S3Host, VirtualHost};
use s3s::{S3Error, S3ErrorCode, S3Result};

use crate::context::{Trace, operation_index};

pub(crate) fn unknown_key() -> S3Error {
    S3Error::with_message(
        S3ErrorCode::InvalidAccessKeyId,
        "The AWS Access Key Id you provided does not exist in our records.",
    )
}

/// Looks secrets up, for s3s to verify signatures with.
pub(crate) struct Auth(pub(crate) Arc<Credentials>);

#[async_trait::async_trait]
impl S3Auth for Auth {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.secret(access_key) {
            Some(secret) => Ok(SecretKey::from(secret.expose())),
            None => Err(unknown_key()),
        }
    }
}

/// Denies by default: whoever is not known is refused; root may do everything. (Users and policies come
/// here.) Leaves the caller's identity with the request.
pub(crate) struct Access(pub(crate) Arc<Credentials>);

impl Access {
    pub(crate) fn identity(
        &self,
        credentials: Option<&s3s::auth::Credentials>,
    ) -> S3Result<Arc<granary_access::Identity>> {
        let Some(credentials) = credentials else {
            return Err(S3Error::with_message(
                S3ErrorCode::AccessDenied,
                "Access Denied: anonymous requests are not allowed, sign the request",
            ));
        };
        self.0.identity(&credentials.access_key).ok_or_else(unknown_key)
    }
}

impl Access {
    /// Marks the request that a form stands for as its signer's.
    pub(crate) fn prove_form(
        &self,
        put: &mut http::Request<s3s::Body>,
        signer: &crate::post::Signer<'_>,
    ) -> S3Result<()> {
        let denied = || S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied");
        let crate::post::Signer::Key { access_key, .. } = signer else { return Err(denied()) };
        let identity = self.0.identity(access_key).filter(|identity| identity.is_root).ok_or_else(denied)?;
        put.extensions_mut().insert(identity);
        Ok(())
    }
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let identity = self.identity(cx.credentials());
        let operation = operation_index(cx.s3_op().name());
        if let Some(trace) = cx.extensions_mut().get::<Arc<Trace>>() {
            trace.set_operation(operation);
        }
        let identity = identity?;
        let decision = granary_access::Decision {
            allowed: identity.is_root,
            by: if identity.is_root { By::Root } else { By::Nothing },
        };
        if let Some(trace) = cx.extensions_mut().get::<Arc<Trace>>() {
            trace.set_identity(Arc::clone(&identity));
            trace.set_decision(decision.clone());
        }
        if !decision.allowed {
            return Err(S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied"));
        }
        cx.extensions_mut().insert(identity);
        Ok(())
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
