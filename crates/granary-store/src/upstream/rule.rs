//! Setting, showing and clearing a bucket's upstream, and opening it for use.
//!
//! Guarantees: the secret is sealed before it leaves this process's memory, bound to its bucket; it is in no answer, no log and no
//! event. What lies outside of the bucket's pinned regions is refused here and, once more, by `apply` and before each use.

use std::collections::HashMap;
use std::sync::Arc;

use granary_meta::command::{BucketChange, Refusal};
use granary_meta::records::BucketRecord;
use granary_meta::upstream::{UPSTREAM_DOCUMENT, UpstreamRule, Upstreamed, upstream_target};
use granary_types::{BucketId, BucketName};
use parking_lot::RwLock;
use zeroize::Zeroizing;

use super::{BucketStats, Site};
use crate::api::Result;
use crate::error::StoreError;
use crate::inner::{Inner, from_meta};
use crate::store::Store;

/// Bytes of a prefix, at most: a key must fit behind it.
const PREFIX_BYTES_MAX: usize = 512;
/// Bytes of the certificates to trust, at most.
const CA_BYTES_MAX: usize = 256 * 1024;
/// Characters of a key, a secret, a region and a host, at most.
const TEXT_CHARS_MAX: usize = 255;
/// Regions declared, at most.
const REGIONS_MAX: usize = 32;

/// A secret on its way in.
pub type UpstreamSecret = Zeroizing<String>;

/// What a bucket's upstream shall be.
pub struct UpstreamChange {
    /// `https://host[:port]`.
    pub endpoint: String,
    /// May be `http://` beyond loopback.
    pub plain_http: bool,
    /// The bucket there.
    pub bucket: String,
    /// What keys there have before the key here.
    pub prefix: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Regions that its bytes lie in; empty: `region`.
    pub declared_regions: Vec<String>,
    /// Name the bucket in the path.
    pub path_style: bool,
    /// Access key and secret; `None`: requests are not signed.
    pub keys: Option<(String, UpstreamSecret)>,
    /// Certificates (PEM) to trust; empty: the system's.
    pub ca: Vec<u8>,
    /// Write changes back.
    pub write_back: bool,
    /// Check copies that are older than so many seconds.
    pub revalidate_s: Option<u64>,
    /// Remember for so many seconds that a key is not there.
    pub absent_s: u64,
    /// Give up what waits to be written to what was set before.
    pub discard_pending: bool,
}

/// A bucket's upstream as it is shown.
#[derive(Debug, Clone)]
pub struct UpstreamShown {
    /// What is set, the sealed secret among it: not to be shown.
    pub rule: UpstreamRule,
    /// Changes that wait to be written there.
    pub pending: u64,
    /// Counters since start.
    pub stats: Arc<BucketStats>,
}

/// An upstream, open.
pub(crate) struct Source {
    pub(crate) rule: UpstreamRule,
    pub(crate) site: Site,
    pub(crate) stats: Arc<BucketStats>,
}

/// Open upstreams, each with the document that it was opened from.
#[derive(Default)]
pub(crate) struct Sources(#[allow(clippy::type_complexity)] RwLock<HashMap<BucketId, (Vec<u8>, Arc<Source>)>>);

/// Scheme, host and port of an endpoint.
struct Endpoint {
    is_tls: bool,
    host: String,
    port: u16,
}

impl Endpoint {
    fn parse(text: &str, plain_http: bool) -> std::result::Result<Self, String> {
        let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err("an endpoint begins with https:// (or http://)".to_owned()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let not_alone = || "an endpoint is scheme://host[:port] without path, query or credentials".to_owned();
        if rest.contains(['@', '/', '?', '#']) {
            return Err(not_alone());
        }
        let bracketed = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, "")) => (host, None),
            Some((host, behind)) => {
                (host, Some(behind.strip_prefix(':').ok_or("behind `]` stands a port or nothing")?))
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or("the port is a number from 1 to 65535")?,
        };
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        let fits = match bracketed {
            Some(_) => host.parse::<std::net::Ipv6Addr>().is_ok(),
            None => (1..=TEXT_CHARS_MAX).contains(&host.len()) && host.bytes().all(is_name),
        };
        if !fits {
            return Err(not_alone());
        }
        let is_loopback =
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if !is_tls && !is_loopback && !plain_http {
            return Err("http:// beyond loopback sends what it reads and writes in the clear: use https://, or ask for --plain-http"
                .to_owned());
        }
        Ok(Self { is_tls, host: host.to_ascii_lowercase(), port })
    }
}

fn check_text(what: &str, text: &str, empty_too: bool) -> std::result::Result<(), String> {
    let fits =
        text.len() <= TEXT_CHARS_MAX && text.bytes().all(|b| b.is_ascii_graphic()) && (empty_too || !text.is_empty());
    if fits { Ok(()) } else { Err(format!("{what} is 1 to {TEXT_CHARS_MAX} visible ASCII characters")) }
}

fn check(change: &UpstreamChange) -> std::result::Result<(), String> {
    let is_bucket = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if !(3..=TEXT_CHARS_MAX).contains(&change.bucket.len()) || !change.bucket.bytes().all(is_bucket) {
        return Err("the upstream's bucket is 3 or more letters, digits, dots, dashes and underscores".to_owned());
    }
    if change.prefix.len() > PREFIX_BYTES_MAX || change.prefix.chars().any(char::is_control) {
        return Err(format!("a prefix is at most {PREFIX_BYTES_MAX} bytes without control characters"));
    }
    check_text("the region", &change.region, false)?;
    if change.declared_regions.len() > REGIONS_MAX {
        return Err(format!("at most {REGIONS_MAX} regions are declared"));
    }
    for region in &change.declared_regions {
        check_text("a declared region", region, false)?;
    }
    if let Some((access_key, secret)) = &change.keys {
        check_text("the access key", access_key, false)?;
        check_text("the secret key", secret, false)?;
    }
    if change.ca.len() > CA_BYTES_MAX {
        return Err(format!("the certificates to trust are at most {CA_BYTES_MAX} bytes"));
    }
    if !change.path_style && change.bucket.contains(['_', '.']) {
        return Err(
            "a bucket with dots or underscores in its name cannot be named in a host: use path style".to_owned()
        );
    }
    Ok(())
}

fn aad(bucket: BucketId) -> Vec<u8> {
    [b"granary upstream secret v1 ".as_slice(), &bucket.0.to_be_bytes()].concat()
}

impl Inner {
    /// The bucket's upstream, if it has one, fit for use.
    ///
    /// # Errors
    /// What keeps it from being used: then nothing may be concluded of keys that are not here.
    pub(crate) fn source(&self, bucket: &BucketRecord) -> Result<Option<Arc<Source>>> {
        let Some(document) = bucket.documents.get(UPSTREAM_DOCUMENT) else { return Ok(None) };
        let known = self.sources.0.read().get(&bucket.id).filter(|(of, _)| of == document).map(|(_, s)| Arc::clone(s));
        let source = match known {
            Some(source) => source,
            None => {
                let Upstreamed::Yes(rule) = Upstreamed::of(bucket) else {
                    return Err(StoreError::Unavailable(format!(
                        "the upstream of bucket {} was set by a newer program: this one cannot read it",
                        bucket.name
                    )));
                };
                let source = Arc::new(self.open_source(bucket, *rule)?);
                self.sources.0.write().insert(bucket.id, (document.clone(), Arc::clone(&source)));
                source
            }
        };
        check_regions(bucket, &source.rule)?;
        Ok(Some(source))
    }

    fn open_source(&self, bucket: &BucketRecord, rule: UpstreamRule) -> Result<Source> {
        // That http:// was asked for was checked when it was set.
        let endpoint = Endpoint::parse(&rule.endpoint, true).map_err(StoreError::Corrupt)?;
        let secret = if rule.access_key.is_empty() {
            Zeroizing::default()
        } else {
            let opened = self.header_key.open(&aad(bucket.id), &rule.secret);
            let opened = opened.map_err(|_| {
                StoreError::Corrupt(format!("the secret of bucket {}'s upstream does not open", bucket.name))
            })?;
            let text = String::from_utf8(opened).map_err(|_| StoreError::Corrupt("a secret is no text".to_owned()))?;
            Zeroizing::new(text)
        };
        let site = Site {
            id: rule.id,
            is_tls: endpoint.is_tls,
            host: endpoint.host,
            port: endpoint.port,
            bucket: rule.bucket.clone(),
            prefix: rule.prefix.clone(),
            region: rule.region.clone(),
            path_style: rule.path_style,
            access_key: rule.access_key.clone(),
            secret,
            ca: rule.ca.clone(),
        };
        Ok(Source { rule, site, stats: self.upstream_stats.of(&bucket.name) })
    }
}

fn check_regions(bucket: &BucketRecord, rule: &UpstreamRule) -> Result<()> {
    match rule.outside(&bucket.options.regions) {
        None => Ok(()),
        Some(region) => Err(StoreError::Contradiction(format!(
            "bucket {} is pinned to {}, and its upstream declares region {region}: no byte passes between them",
            bucket.name,
            bucket.options.regions.join(", ")
        ))),
    }
}

impl Store {
    /// Sets a bucket's upstream.
    ///
    /// # Errors
    /// `Invalid` with what would be right; `Contradiction` where it lies outside of the bucket's pinned regions, or changes wait for
    /// the one that is set; the log's.
    pub async fn set_upstream(&self, name: &BucketName, change: UpstreamChange) -> Result<()> {
        let inner = &self.inner;
        let bucket = inner.bucket(name)?;
        check(&change).map_err(StoreError::Invalid)?;
        Endpoint::parse(&change.endpoint, change.plain_http).map_err(StoreError::Invalid)?;
        let declared_regions =
            if change.declared_regions.is_empty() { vec![change.region.clone()] } else { change.declared_regions };
        let (access_key, secret) = match change.keys {
            None => (String::new(), Vec::new()),
            Some((access_key, secret)) => (access_key, inner.header_key.seal(&aad(bucket.id), secret.as_bytes())),
        };
        let rule = UpstreamRule {
            id: rand::random(),
            endpoint: change.endpoint.strip_suffix('/').unwrap_or(&change.endpoint).to_owned(),
            bucket: change.bucket,
            prefix: change.prefix,
            region: change.region,
            declared_regions,
            path_style: change.path_style,
            access_key,
            secret,
            ca: change.ca,
            write_back: change.write_back,
            revalidate_s: change.revalidate_s,
            absent_s: change.absent_s,
        };
        check_regions(&bucket, &rule)?;
        if let Upstreamed::Yes(before) = Upstreamed::of(&bucket) {
            let is_same =
                (&before.endpoint, &before.bucket, &before.prefix) == (&rule.endpoint, &rule.bucket, &rule.prefix);
            if !(is_same && rule.write_back) {
                self.check_pending(&bucket, change.discard_pending)?;
            }
        }
        let value = Some(rule.encode());
        let change = BucketChange::Document { name: UPSTREAM_DOCUMENT.to_owned(), value };
        inner.change_bucket(name, change).await
    }

    /// Takes a bucket's upstream away. What was fetched stays, as the bucket's own. Returns whether there was one.
    ///
    /// # Errors
    /// `Contradiction` where changes wait to be written and are not to be given up; the log's.
    pub async fn clear_upstream(&self, name: &BucketName, discard_pending: bool) -> Result<bool> {
        let bucket = self.inner.bucket_anywhere(name)?;
        if !bucket.documents.contains_key(UPSTREAM_DOCUMENT) {
            return Ok(false);
        }
        self.check_pending(&bucket, discard_pending)?;
        let change = BucketChange::Document { name: UPSTREAM_DOCUMENT.to_owned(), value: None };
        self.inner.change_bucket(name, change).await?;
        self.inner.sources.0.write().remove(&bucket.id);
        Ok(true)
    }

    fn check_pending(&self, bucket: &BucketRecord, discard: bool) -> Result<()> {
        let pending = self.inner.index()?.event_queue(&upstream_target(bucket.id)).map_err(from_meta)?.count;
        if pending == 0 || discard {
            return Ok(());
        }
        Err(StoreError::Contradiction(format!(
            "{pending} changes of bucket {} wait to be written to its upstream: wait for them, or give them up with \
             --discard-pending",
            bucket.name
        )))
    }

    /// A bucket's upstream.
    ///
    /// # Errors
    /// `NoSuchBucket`, or that the index is being restored.
    pub fn upstream(&self, name: &BucketName) -> Result<Option<UpstreamShown>> {
        let bucket = self.inner.bucket_anywhere(name)?;
        match Upstreamed::of(&bucket) {
            Upstreamed::No => Ok(None),
            Upstreamed::Unreadable => Err(Refusal::InvalidState("a newer program set the bucket's upstream").into()),
            Upstreamed::Yes(rule) => {
                let pending = self.inner.index()?.event_queue(&upstream_target(bucket.id)).map_err(from_meta)?.count;
                Ok(Some(UpstreamShown { rule: *rule, pending, stats: self.inner.upstream_stats.of(name) }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let fine = |text| Endpoint::parse(text, false).map(|e| (e.is_tls, e.host, e.port));
        assert_eq!(fine("https://S3.example"), Ok((true, "s3.example".to_owned(), 443)));
        assert_eq!(fine("https://s3.example:9000/"), Ok((true, "s3.example".to_owned(), 9000)));
        assert_eq!(fine("http://127.0.0.1:9000"), Ok((false, "127.0.0.1".to_owned(), 9000)));
        assert_eq!(fine("http://[::1]:9000"), Ok((false, "::1".to_owned(), 9000)));
        assert_eq!(fine("https://[2001:db8::1]"), Ok((true, "2001:db8::1".to_owned(), 443)));
        for wrong in [
            "s3.example",
            "ftp://s3.example",
            "https://",
            "https://user:secret@s3.example",
            "https://s3.example/path",
            "https://s3.example?x",
            "https://s3.example:0",
            "https://s3.example:port",
            "https://[::1",
            "https://[nothing]:1",
            "https://a b",
            "http://s3.example",
        ] {
            assert!(fine(wrong).is_err(), "{wrong}");
        }
        assert!(Endpoint::parse("http://s3.example", true).is_ok());
    }
}
