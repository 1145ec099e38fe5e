//! Events to an HTTP endpoint: one POST each, answered 2xx when taken.
//!
//! Where there is a secret, the body is signed, so that the receiver can tell who sent it, and the secret stays here:
//! `X-Granary-Signature: sha256=HEX`, the HMAC-SHA-256 of `X-Granary-Timestamp`, a dot and the body. Redirects are not
//! followed; proxies in the environment are not used.

use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use granary_meta::events::EventRecord;
use http::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{HeaderName, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::DeliveryError;
use super::target::{self, WebhookTarget};
use crate::outbound::{Roots, connector, dial};

const SIGNATURE: HeaderName = HeaderName::from_static("x-granary-signature");
const TIMESTAMP: HeaderName = HeaderName::from_static("x-granary-timestamp");
const EVENT: HeaderName = HeaderName::from_static("x-granary-event");
const SEQUENCE: HeaderName = HeaderName::from_static("x-granary-sequence");
/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections kept open for the next events.
const IDLE_MAX: usize = 8;
/// Of an answer, at most so much is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// An endpoint.
pub(super) struct Webhook {
    url: Uri,
    host: HeaderValue,
    secret: Option<hmac::Key>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Webhook {
    /// # Errors
    /// A file that cannot be used, in words.
    pub(super) fn new(target: &WebhookTarget) -> Result<Self, String> {
        let named = |why: String| format!("notify.webhook.{}: {why}", target.name);
        let host = target.url.host().unwrap_or_default();
        let authority = target.url.authority().map_or(host, |authority| authority.as_str());
        let secret = match &target.secret_file {
            None => None,
            Some(path) => {
                let secret = target::secret(path).map_err(named)?;
                Some(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
            }
        };
        let tls = match target.url.scheme_str() {
            Some("https") => {
                let connector = connector(&Roots::File(target.ca_file.as_deref())).map_err(named)?;
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(bare).map_err(|error| named(error.to_string()))?;
                Some((connector, name))
            }
            _ => None,
        };
        let host = HeaderValue::from_str(authority).map_err(|error| named(error.to_string()))?;
        Ok(Self { url: target.url.clone(), host, secret, tls, idle: Mutex::default() })
    }

    /// # Errors
    /// [`DeliveryError`]
    pub(super) async fn send(&self, event: &EventRecord, body: Vec<u8>) -> Result<(), DeliveryError> {
        let body = Bytes::from(body);
        // A kept connection may have been closed by the other end meanwhile: then once more on a new one. The event may come
        // twice, as it may anyway.
        if let Some(kept) = self.kept()
            && let Ok(status) = self.post(kept, event, &body).await
        {
            return verdict(status);
        }
        let fresh = self.connect().await?;
        verdict(self.post(fresh, event, &body).await?)
    }

    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        while let Some(kept) = idle.pop() {
            if kept.is_ready() {
                return Some(kept);
            }
        }
        None
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, DeliveryError> {
        let failed = |error: &dyn std::fmt::Display| DeliveryError::Unavailable(format!("{}: {error}", self.host()));
        let host = self.url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = dial(host, port, CONNECT_TIMEOUT).await.map_err(|error| failed(&error))?;
        match &self.tls {
            None => handshake(TokioIo::new(stream)).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(|error| failed(&error))?;
                handshake(TokioIo::new(stream)).await
            }
        }
        .map_err(|error| failed(&error))
    }

    fn host(&self) -> &str {
        self.host.to_str().unwrap_or_default()
    }

    async fn post(
        &self,
        mut connection: SendRequest<Full<Bytes>>,
        event: &EventRecord,
        body: &Bytes,
    ) -> Result<StatusCode, DeliveryError> {
        let failed = |error: &dyn std::fmt::Display| DeliveryError::Unavailable(format!("{}: {error}", self.host()));
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("Granary/", env!("CARGO_PKG_VERSION")))
            .header(EVENT, event.kind.name())
            .header(SEQUENCE, event.sequence);
        if let Some(key) = &self.secret {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
            request = request.header(TIMESTAMP, now).header(SIGNATURE, signature(key, now, body));
        }
        let request = request.body(Full::from(body.clone())).map_err(|error| failed(&error))?;
        let answer = connection.send_request(request).await.map_err(|error| failed(&error))?;
        let status = answer.status();
        // The connection can be used again only once the answer is read to its end.
        let is_read = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.is_ok();
        if is_read && connection.is_ready() {
            let mut idle = self.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push(connection);
            }
        }
        Ok(status)
    }
}

fn signature(key: &hmac::Key, now: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{now}.").as_bytes());
    context.update(body);
    format!("sha256={}", granary_types::hex::encode(context.sign()))
}

/// What a status means: most that is not 2xx may be different tomorrow, these will not.
fn verdict(status: StatusCode) -> Result<(), DeliveryError> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Err(DeliveryError::Rejected(format!("answered {status}")))
        }
        status => Err(DeliveryError::Unavailable(format!("answered {status}"))),
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, hyper::Error>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream).await?;
    tokio::spawn(async move {
        // Its end is told to who sends on it.
        let _ended = connection.await;
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_can_be_checked_by_others() {
        // echo -n '1700000000.{}' | openssl dgst -sha256 -hmac secret
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let signed = signature(&key, 1_700_000_000, b"{}");
        assert_eq!(signed.len(), 7 + 64);
        assert_eq!(signed, signature(&key, 1_700_000_000, b"{}"));
        assert_ne!(signed, signature(&key, 1_700_000_001, b"{}"));
        assert_ne!(signed, signature(&key, 1_700_000_000, b"[]"));
    }

    #[test]
    fn what_will_never_be_taken_is_told_from_what_may() {
        assert!(verdict(StatusCode::NO_CONTENT).is_ok());
        assert!(matches!(verdict(StatusCode::BAD_REQUEST), Err(DeliveryError::Rejected(_))));
        for status in [StatusCode::FOUND, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::BAD_GATEWAY] {
            assert!(matches!(verdict(status), Err(DeliveryError::Unavailable(_))), "{status}");
        }
    }
}
