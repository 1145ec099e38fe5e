//! Events to a subject of a NATS server, or of a cluster of them.
//!
//! An event counts as delivered when the server has it: plain NATS acknowledges nothing, so each event is followed by a
//! message to ourselves on the same connection, which the server handles in order. What it may not publish, or not there, the
//! server says on the side and before that echo: such a connection delivers nothing, and a new one is tried. With `jetstream`,
//! JetStream's own acknowledgement is waited for, and `Nats-Msg-Id` lets it drop what comes twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, HeaderMap, ServerError};
use bytes::Bytes;
use futures::StreamExt as _;
use granary_meta::events::EventRecord;
use parking_lot::Mutex as Held;
use tokio::sync::Mutex;

use super::DeliveryError;
use super::target::{self, NatsTarget};

/// How long a connection's first event waits after its echo: what the server says on the side comes to us by another task.
const PROOF_WAIT: Duration = Duration::from_millis(500);

/// A subject.
pub(super) struct Nats {
    target: NatsTarget,
    secret: Option<zeroize::Zeroizing<String>>,
    connection: Mutex<Option<Arc<Connection>>>,
}

struct Connection {
    client: Client,
    /// What the server has refused on this connection, in its words.
    refused: Arc<Held<Option<String>>>,
    /// An event went through, and nothing was refused.
    is_proven: AtomicBool,
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
        Ok(Self { target: target.clone(), secret, connection: Mutex::default() })
    }

    /// The connection, made anew where there is none or the last was refused something.
    async fn connection(&self) -> Result<Arc<Connection>, DeliveryError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| connection.refused.lock().is_none()) {
            return Ok(Arc::clone(connection));
        }
        let refused: Arc<Held<Option<String>>> = Arc::default();
        let heard = Arc::clone(&refused);
        let mut options = ConnectOptions::new()
            .name("granary")
            .require_tls(self.target.url.scheme_str() == Some("tls"))
            .event_callback(move |event| {
                note(&heard, &event);
                std::future::ready(())
            });
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
        let connection = Arc::new(Connection { client, refused, is_proven: AtomicBool::new(false) });
        *kept = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// # Errors
    /// [`DeliveryError`]
    pub(super) async fn send(&self, event: &EventRecord, body: Vec<u8>) -> Result<(), DeliveryError> {
        let connection = self.connection().await?;
        let client = &connection.client;
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
        heard.ok_or_else(|| unavailable("the connection was lost"))?;
        if !connection.is_proven.load(Ordering::Relaxed) {
            tokio::time::sleep(PROOF_WAIT).await;
        }
        if let Some(why) = &*connection.refused.lock() {
            return Err(unavailable(why));
        }
        connection.is_proven.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Keeps what the server refuses.
fn note(refused: &Held<Option<String>>, event: &Event) {
    if let Event::ServerError(error @ (ServerError::AuthorizationViolation | ServerError::Other(_))) = event {
        *refused.lock() = Some(error.to_string());
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
    fn refusals_are_kept() {
        let refused = Held::new(None);
        note(&refused, &Event::Connected);
        note(&refused, &Event::ServerError(ServerError::SlowConsumer(7)));
        assert_eq!(*refused.lock(), None);
        note(
            &refused,
            &Event::ServerError(ServerError::Other("Permissions Violation for Publish to \"a\"".to_owned())),
        );
        assert!(refused.lock().as_ref().is_some_and(|why| why.contains("Permissions Violation")));
    }

    #[test]
    fn acknowledgements_are_read() {
        assert!(stored(br#"{"stream":"S","seq":1}"#).is_ok());
        assert!(stored(br#"{"error":{"code":503,"description":"no space"},"stream":"S","seq":0}"#).is_err());
        assert!(stored(b"{}").is_err());
        assert!(stored(b"ok").is_err());
    }
}
