//! Events to a subject of a NATS server, or of a cluster of them.
//!
//! An event counts as delivered when the server has it: plain NATS acknowledges nothing, so each event is followed by a
//! message to ourselves on the same connection, which the server handles in order. With `jetstream`, JetStream's own
//! acknowledgement is waited for, and `Nats-Msg-Id` lets it drop what comes twice.

use async_nats::{Client, ConnectOptions, HeaderMap};
use bytes::Bytes;
use futures::StreamExt as _;
use granary_meta::events::EventRecord;
use tokio::sync::Mutex;

use super::DeliveryError;
use super::target::{self, NatsTarget};

/// A subject.
pub(super) struct Nats {
    target: NatsTarget,
    secret: Option<zeroize::Zeroizing<String>>,
    client: Mutex<Option<Client>>,
}

fn unavailable(error: impl std::fmt::Display) -> DeliveryError {
    DeliveryError::Unavailable(format!("NATS: {error}"))
}

impl Nats {
    /// # Errors
    /// A file that cannot be used, in words.
    pub(super) fn new(target: &NatsTarget) -> Result<Self, String> {
        let named = |why: String| format!("notify.nats.{}: {why}", target.name);
        let secret = target.secret_file.as_deref().map(target::secret).transpose().map_err(named)?;
        Ok(Self { target: target.clone(), secret, client: Mutex::default() })
    }

    async fn client(&self) -> Result<Client, DeliveryError> {
        let mut kept = self.client.lock().await;
        if let Some(client) = &*kept {
            return Ok(client.clone());
        }
        let mut options =
            ConnectOptions::new().name("granary").require_tls(self.target.url.scheme_str() == Some("tls"));
        if let Some(secret) = &self.secret {
            options = match secret.split_once(':') {
                Some((user, password)) => options.user_and_password(user.to_owned(), password.to_owned()),
                None => options.token(secret.as_str().to_owned()),
            };
        }
        if let Some(file) = &self.target.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        let client = options.connect(self.target.url.to_string()).await.map_err(unavailable)?;
        *kept = Some(client.clone());
        Ok(client)
    }

    /// # Errors
    /// [`DeliveryError`]
    pub(super) async fn send(&self, event: &EventRecord, body: Vec<u8>) -> Result<(), DeliveryError> {
        let client = self.client().await?;
        let mut headers = HeaderMap::new();
        // Sequence numbers begin anew only with a new store, so the bucket's name and the time are in it too.
        let id = format!("{}-{}-{:016X}", event.bucket.as_str(), event.at.0, event.sequence);
        headers.insert("Nats-Msg-Id", id.as_str());
        let (subject, body) = (self.target.subject.clone(), Bytes::from(body));
        if self.target.jetstream {
            let answer = client.request_with_headers(subject, headers, body).await.map_err(unavailable)?;
            return stored(&answer.payload);
        }
        let inbox = client.new_inbox();
        let mut echo = client.subscribe(inbox.clone()).await.map_err(unavailable)?;
        client.publish_with_headers(subject, headers, body).await.map_err(unavailable)?;
        client.publish(inbox, Bytes::new()).await.map_err(unavailable)?;
        client.flush().await.map_err(unavailable)?;
        let heard = echo.next().await;
        let _gone = echo.unsubscribe().await;
        heard.map(drop).ok_or_else(|| unavailable("the connection was lost"))
    }
}

/// What JetStream says: the stream that keeps the event, or why none does.
fn stored(answer: &[u8]) -> Result<(), DeliveryError> {
    let answer: serde_json::Value = serde_json::from_slice(answer).map_err(unavailable)?;
    match (answer["stream"].as_str(), answer["error"]["description"].as_str()) {
        (Some(_), None) => Ok(()),
        (_, why) => Err(unavailable(why.unwrap_or("no stream of JetStream takes this subject"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_read() {
        assert!(stored(br#"{"stream":"S","seq":1}"#).is_ok());
        assert!(stored(br#"{"error":{"code":503,"description":"no space"},"stream":"S","seq":0}"#).is_err());
        assert!(stored(b"{}").is_err());
        assert!(stored(b"ok").is_err());
    }
}
