//! The trail as it happens, to a syslog collector (RFC 5424) or a webhook.
//!
//! Guarantees: events are read from the durable trail by a cursor that is kept in the trail's own node, and the cursor moves on only
//! when the receiver has taken what was sent: each event goes out at least once (over UDP: is sent once), in order, also after
//! a crash, and nothing piles up in memory however long the receiver is away. Syslog has no answers: over TCP a batch counts as taken
//! when the collector, told that there is no more, has ended the connection in order (or kept it without resetting it).

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use granary_audit::{Filter, cloudtrail};
use granary_store::audit::AuditCursor;
use granary_store::node::Node;
use granary_types::AuditRecord;
use serde_json::Value;

use crate::admin::client::Wire;

/// Between two looks when there is nothing new.
const IDLE: Duration = Duration::from_millis(500);
/// After a receiver that did not take it; doubles up to the longest.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Records of one batch.
const BATCH: usize = 500;
/// Receivers answer within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a collector may take to end a connection that we have ended.
const GOODBYE: Duration = Duration::from_secs(2);
/// Bytes of a datagram, at most: of UDP over IPv4.
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Bytes of a webhook's answer that are looked at.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// `log audit` (13), informational (6) and warning (4): RFC 5424, 6.2.1.
const DONE: u8 = 13 * 8 + 6;
const NOT_DONE: u8 = 13 * 8 + 4;

/// Where a stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Receiver {
    /// One datagram per event.
    SyslogUdp(String),
    /// Octet counting (RFC 6587), one connection per batch.
    SyslogTcp(String),
    /// A JSON array per POST.
    Webhook {
        /// TLS, and what to trust.
        ca: Option<PathBuf>,
        /// Host and port.
        host: String,
        /// Path and query.
        path: String,
    },
}

impl Receiver {
    /// From a setting: `udp://HOST:PORT`, `tcp://HOST:PORT`.
    pub(crate) fn syslog(text: &str) -> Option<Self> {
        let (kind, host) = text.split_once("://")?;
        let (name, port) = host.rsplit_once(':')?;
        if name.is_empty() || port.parse::<u16>().is_err() {
            return None;
        }
        match kind {
            "udp" => Some(Self::SyslogUdp(host.to_owned())),
            "tcp" => Some(Self::SyslogTcp(host.to_owned())),
            _ => None,
        }
    }

    /// From a setting: `http://HOST[:PORT]/PATH`, or `https://` with the certificate to trust.
    pub(crate) fn webhook(text: &str, ca: Option<PathBuf>) -> Option<Self> {
        let (kind, rest) = text.split_once("://")?;
        let (host, path) = rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, path.to_owned()));
        let (port, ca) = match (kind, ca) {
            ("http", _) => (80, None),
            ("https", Some(ca)) => (443, Some(ca)),
            _ => return None,
        };
        if host.is_empty() || text.contains([' ', '\r', '\n', '@']) {
            return None;
        }
        let host = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            host.to_owned()
        } else {
            format!("{host}:{port}")
        };
        Some(Self::Webhook { ca, host, path: format!("/{path}") })
    }

    /// The system record that holds its cursor.
    fn record(&self) -> &'static str {
        match self {
            Self::SyslogUdp(_) | Self::SyslogTcp(_) => "stream/audit-syslog",
            Self::Webhook { .. } => "stream/audit-webhook",
        }
    }
}

/// Sends what comes, for ever.
pub(crate) async fn run(node: Arc<Node>, receiver: Receiver) {
    let saved = node.note(receiver.record()).ok().flatten();
    let mut cursor: AuditCursor = saved.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let mut pause = RETRY;
    loop {
        let page = match node.audit_page(&Filter::default(), cursor.clone(), BATCH).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "the audit stream waits for the trail");
                tokio::time::sleep(RETRY_MAX).await;
                continue;
            }
        };
        if page.records.is_empty() {
            cursor = page.cursor;
            if !page.more {
                tokio::time::sleep(IDLE).await;
            }
            continue;
        }
        for records in page.records.chunks(BATCH) {
            let messages: Vec<Value> = records.iter().map(cloudtrail).collect();
            loop {
                let (to, batch) = (receiver.clone(), messages.clone());
                let sent = tokio::task::spawn_blocking(move || send(&to, &batch)).await;
                match sent.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
                    Ok(()) => {
                        pause = RETRY;
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, to = ?receiver, "audit events wait for their receiver");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(RETRY_MAX);
                    }
                }
            }
            let sequence = records.last().map_or(cursor.sequence, |record: &AuditRecord| record.sequence);
            cursor.sequence = sequence;
        }
        cursor = page.cursor;
        let saved = serde_json::to_vec(&cursor).unwrap_or_default();
        if let Err(error) = node.set_note(receiver.record(), Some(saved.into())).await {
            tracing::warn!(%error, "how far the audit stream has come could not be noted: a restart sends some events again");
        }
    }
}

fn send(receiver: &Receiver, events: &[Value]) -> std::io::Result<()> {
    match receiver {
        Receiver::SyslogUdp(host) => {
            let to = resolve(host)?;
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
            for event in events {
                socket.send_to(datagram(event).as_bytes(), to)?;
            }
            Ok(())
        }
        Receiver::SyslogTcp(host) => {
            let mut stream = connect(host)?;
            let mut all = String::new();
            for event in events {
                let message = syslog(event);
                all.push_str(&format!("{} {message}", message.len()));
            }
            stream.write_all(all.as_bytes())?;
            taken(&mut stream)
        }
        Receiver::Webhook { ca, host, path } => {
            let stream = connect(host)?;
            let mut wire = match ca {
                None => Wire::Plain(stream),
                Some(ca) => {
                    let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
                    Wire::tls_named(stream, name, ca).map_err(std::io::Error::other)?
                }
            };
            let body = Value::Array(events.to_vec()).to_string();
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: granary/{}\r\nContent-Type: application/json\r\nContent-Length: \
                 {}\r\nConnection: close\r\n\r\n",
                env!("CARGO_PKG_VERSION"),
                body.len()
            );
            wire.write_all(head.as_bytes())?;
            wire.write_all(body.as_bytes())?;
            wire.flush()?;
            let mut answer = Vec::new();
            let mut byte = [0; 512];
            let mut limited = wire.take(ANSWER_BYTES_MAX);
            while !answer.windows(2).any(|two| two == b"\r\n") {
                match limited.read(&mut byte)? {
                    0 => break,
                    read => answer.extend_from_slice(&byte[..read]),
                }
            }
            let line = String::from_utf8_lossy(&answer);
            let status = line.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
            match status {
                Some(200..300) => Ok(()),
                status => Err(std::io::Error::other(format!("the webhook answered with status {status:?}"))),
            }
        }
    }
}

fn resolve(host: &str) -> std::io::Result<std::net::SocketAddr> {
    host.to_socket_addrs()?.next().ok_or_else(|| std::io::Error::other(format!("{host} has no address")))
}

fn connect(host: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&resolve(host)?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Ends our side and waits for the collector's end. What the kernel had taken of a connection that is reset was not.
fn taken(stream: &mut TcpStream) -> std::io::Result<()> {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(GOODBYE))?;
    let mut ignored = [0; 512];
    for _ in 0..ANSWER_BYTES_MAX {
        match stream.read(&mut ignored) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), TimedOut | WouldBlock) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A message that fits into a datagram: of an event that does not, what was asked for is left out, and that is said.
fn datagram(event: &Value) -> String {
    let message = syslog(event);
    if message.len() <= DATAGRAM_BYTES_MAX {
        return message;
    }
    let mut event = event.clone();
    event["requestParameters"] = serde_json::json!({ "leftOut": "too long for a datagram: it is in the audit trail" });
    let mut message = syslog(&event);
    if message.len() > DATAGRAM_BYTES_MAX {
        let end = (0..=DATAGRAM_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
    }
    message
}

/// An event as a syslog message: its header, no structured data, the event as JSON.
fn syslog(event: &Value) -> String {
    let priority = if event["errorCode"].is_string() { NOT_DONE } else { DONE };
    let time = event["additionalEventData"]["eventTime"].as_str().unwrap_or("-");
    let name: String = event["eventName"]
        .as_str()
        .unwrap_or("-")
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { '_' })
        .take(32)
        .collect();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
    let host = if host.is_empty() { "-" } else { &host };
    format!("<{priority}>1 {time} {host} granary {} {name} - {event}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn receivers_from_settings() {
        assert_eq!(Receiver::syslog("udp://log:514"), Some(Receiver::SyslogUdp("log:514".into())));
        assert_eq!(Receiver::syslog("tcp://[::1]:601"), Some(Receiver::SyslogTcp("[::1]:601".into())));
        for bad in ["log:514", "udp://log", "http://log:1", "udp://:514"] {
            assert_eq!(Receiver::syslog(bad), None, "{bad}");
        }
        let hook = Receiver::Webhook { ca: None, host: "h:80".into(), path: "/a?b".into() };
        assert_eq!(Receiver::webhook("http://h/a?b", None), Some(hook));
        assert!(Receiver::webhook("https://h/", None).is_none(), "nothing to trust");
        assert!(Receiver::webhook("http://h/ \r\nX: y", None).is_none());
    }

    #[test]
    fn what_is_too_long_for_a_datagram_is_left_out_and_said() {
        let long = |text: &str| json!({ "eventName": "FreeGarbage", "requestParameters": { "parts": text } });
        assert!(datagram(&long("short")).contains("short"));
        let message = datagram(&long(&"p".repeat(70_000)));
        assert!(message.len() < 1_000 && message.contains("leftOut") && message.contains("FreeGarbage"));
        let hopeless = json!({ "eventName": "x", "resources": "ä".repeat(40_000) });
        assert!((65_500..=DATAGRAM_BYTES_MAX).contains(&datagram(&hopeless).len()));
    }

    #[test]
    fn a_batch_counts_as_taken_when_the_collector_has_not_reset_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = Receiver::SyslogTcp(listener.local_addr().unwrap().to_string());
        let events = [json!({ "eventName": "A" }), json!({ "eventName": "Bé" })];
        let sent = events.clone();
        let sender = std::thread::spawn(move || [send(&to, &sent).is_ok(), send(&to, &sent).is_err()]);
        let (mut taken, _) = listener.accept().unwrap();
        let mut all = String::new();
        taken.read_to_string(&mut all).unwrap();
        drop(taken);
        for event in &events {
            let (length, rest) = all.split_once(' ').unwrap();
            let (message, rest) = rest.split_at(length.parse().unwrap());
            assert!(message.starts_with('<') && message.ends_with(&event.to_string()));
            all = rest.to_owned();
        }
        assert!(all.is_empty());
        // Closed with bytes unread: the kernel resets it, and the batch is to be sent again.
        let (lost, _) = listener.accept().unwrap();
        while lost.peek(&mut [0; 16]).unwrap() == 0 {}
        drop(lost);
        assert_eq!(sender.join().unwrap(), [true, true]);
    }

    #[test]
    fn a_message_as_rfc_5424_has_it() {
        let event = json!({ "eventName": "PutObject", "errorCode": "AccessDenied",
            "additionalEventData": { "eventTime": "2026-11-20T13:00:00.000001Z" } });
        let message = syslog(&event);
        let fields: Vec<&str> = message.splitn(8, ' ').collect();
        assert_eq!((fields[0], fields[1]), ("<108>1", "2026-11-20T13:00:00.000001Z"));
        assert_eq!((fields[3], fields[5], fields[6]), ("granary", "PutObject", "-"));
        assert!(fields[7].starts_with('{'));
    }
}
