//! One event: who did what, from where, and how it ended. Encoded with postcard; fields are only ever appended.

use std::net::IpAddr;

use granary_types::Timestamp;
use serde::{Deserialize, Serialize};

/// Characters kept of what a client says freely (user agent, host, parameters).
const TEXT_CHARS_MAX: usize = 512;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Source {
    /// A request to the S3 port.
    #[default]
    S3,
    /// A request to the admin port.
    Admin,
    /// What the node does by itself: lifecycle, garbage, repair, the trail's own start and stop.
    System,
    /// A request to the IAM API.
    Iam,
    /// A request to the STS API.
    Sts,
}

/// How a request was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Signature {
    /// Not at all.
    #[default]
    None,
    /// SigV4 in the `Authorization` header.
    V4Header,
    /// SigV4 in the query: a presigned URL.
    V4Query,
    /// SigV2 in the header.
    V2Header,
    /// SigV2 in the query.
    V2Query,
    /// The admin port's own.
    Admin,
    /// SigV4 in the fields of an HTML form.
    V4Form,
}

/// Who.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Actor {
    /// CloudTrail's `userIdentity.type`: `Root`, `IAMUser`, `AssumedRole`, `AWSAccount` (nobody), `AWSService` (the node).
    pub kind: String,
    /// The access key that signed, also where its signature did not hold.
    pub access_key: String,
    /// 12 digits.
    pub account: String,
    /// Unique id.
    pub principal_id: String,
    /// ARN.
    pub arn: String,
    /// The user's name, or `ROLE/SESSION`; of the node itself, which part of it.
    pub name: String,
    /// ARN of the role or user that a session is one of.
    pub session_issuer: String,
}

impl Actor {
    /// A part of the node itself, such as `lifecycle`.
    #[must_use]
    pub fn system(part: &str) -> Self {
        Self { kind: "AWSService".to_owned(), name: part.to_owned(), ..Self::default() }
    }
}

/// What was agreed in the TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventTls {
    /// `TLSv1.3`.
    pub version: String,
    /// `AES_256_GCM_SHA384`.
    pub cipher: String,
    /// SHA-256 of the client's certificate, where it gave one.
    pub client_certificate: String,
}

/// An event. Empty text means: not there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Event {
    /// Its own id.
    pub id: [u8; 16],
    /// When the request began.
    pub at: Timestamp,
    /// Where it comes from.
    pub source: Source,
    /// CloudTrail's `eventName`: S3's operation.
    pub name: String,
    /// `x-amz-request-id`.
    pub request_id: String,
    /// Who.
    pub actor: Actor,
    /// From where.
    pub address: Option<IpAddr>,
    /// The client's word for itself.
    pub user_agent: String,
    /// The `Host` it asked for.
    pub host: String,
    /// The connection's encryption.
    pub tls: Option<EventTls>,
    /// How it was signed.
    pub signature: Signature,
    /// The node's region.
    pub region: String,
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// The version that was named.
    pub version: String,
    /// Other parameters of the request. Nothing secret: whoever makes the event sees to that.
    pub parameters: Vec<(String, String)>,
    /// Nothing could have been changed by it.
    pub read_only: bool,
    /// Payload that came.
    pub bytes_in: u64,
    /// Payload that went; 0 where the event was written before the answer.
    pub bytes_out: u64,
    /// HTTP status; 0 where the event was written before the answer: then the record's outcome says how it ended.
    pub status: u16,
    /// S3's error code.
    pub error_code: String,
    /// Its message.
    pub error_message: String,
    /// The policy statement that decided, and how.
    pub decision: String,
    /// Which of several changes of one request it is, from 0.
    pub step: u16,
}

impl Event {
    /// The bytes that go into a record. Text that a client chose is cut, so that these are bounded.
    #[must_use]
    pub fn encode(mut self) -> Vec<u8> {
        for text in [&mut self.user_agent, &mut self.host, &mut self.error_message, &mut self.decision] {
            cut(text);
        }
        self.parameters.iter_mut().filter(|(name, _)| name != "parts").for_each(|(_, value)| cut(value));
        postcard::to_extend(&self, Vec::with_capacity(384)).unwrap_or_default()
    }

    /// Reads them back.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(event, _)| event)
    }
}

/// Cuts at a character's end.
fn cut(text: &mut String) {
    if text.len() > TEXT_CHARS_MAX
        && let Some((end, _)) = text.char_indices().take_while(|(at, _)| *at <= TEXT_CHARS_MAX).last()
    {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_clients_is_bounded() {
        let event = Event { user_agent: "ä".repeat(5_000), key: "k".repeat(1_024), ..Event::default() };
        let read = Event::decode(&event.clone().encode()).unwrap();
        assert!(read.user_agent.len() <= TEXT_CHARS_MAX && read.user_agent.starts_with("ää"));
        assert_eq!(read.key, event.key);
        assert_eq!(Event::decode(b"\xff\xff"), None);
    }
}
