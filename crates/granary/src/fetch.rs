//! Fetches documents of identity providers: one GET per connection, over https with the system's certificates or those that the
//! settings name, or over plain http on loopback.
//!
//! Guarantees: bounded in time and bytes; no redirects, no proxies; hosts and paths are those that
//! [`granary_access::oidc::issuer_name`] takes.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use futures::future::BoxFuture;
use granary_access::oidc::{DOCUMENT_BYTES_MAX, Fetch, issuer_name};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::outbound::{self, Roots};

/// From connecting to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The fetcher. TLS is prepared when it is first needed.
pub(crate) struct HttpFetch {
    /// Certificates to trust instead of the system's.
    ca_file: Option<PathBuf>,
    tls: OnceLock<Result<TlsConnector, String>>,
}

impl HttpFetch {
    /// One that trusts these certificates, else the system's.
    pub(crate) fn new(ca_file: Option<PathBuf>) -> Self {
        Self { ca_file, tls: OnceLock::new() }
    }

    async fn fetch(&self, url: &str) -> Result<Vec<u8>, String> {
        let rest = issuer_name(url).ok_or("is not a URL that is fetched")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let secure = url.starts_with("https://");
        let port = |text: &str| text.parse::<u16>().ok();
        let (host, port) = match authority.rsplit_once(':').and_then(|(host, text)| Some((host, port(text)?))) {
            Some(split) => split,
            None => (authority, if secure { 443 } else { 80 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = outbound::dial(host, port, TIMEOUT).await?;
        if secure {
            let tls = self
                .tls
                .get_or_init(|| outbound::connector(&Roots::File(self.ca_file.as_deref())))
                .as_ref()
                .map_err(Clone::clone)?;
            let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
            let stream = tls.connect(name, stream).await.map_err(|error| error.to_string())?;
            exchange(stream, authority, path).await
        } else {
            exchange(stream, authority, path).await
        }
    }
}

impl Fetch for HttpFetch {
    fn get(&self, url: String) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            match tokio::time::timeout(TIMEOUT, self.fetch(&url)).await {
                Ok(fetched) => fetched.map_err(|why| format!("{url}: {why}")),
                Err(_) => Err(format!("{url}: no answer within {} s", TIMEOUT.as_secs())),
            }
        })
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    authority: &str,
    path: &str,
) -> Result<Vec<u8>, String> {
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nAccept: application/json\r\nUser-Agent: granary\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let limit = DOCUMENT_BYTES_MAX as u64 * 2;
    // A peer that closes without TLS's own farewell has sent all the same; lengths are checked below.
    if let Err(error) = stream.take(limit).read_to_end(&mut answer).await
        && error.kind() != std::io::ErrorKind::UnexpectedEof
    {
        return Err(error.to_string());
    }
    body(&answer)
}

/// The body of a whole answer with status 200.
fn body(answer: &[u8]) -> Result<Vec<u8>, String> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("the answer is no HTTP")?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| "the answer's headers are not text")?;
    let rest = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    if status != "200" {
        return Err(format!("it answered with status {status}"));
    }
    let header = |name: &str| {
        head.split("\r\n").skip(1).find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let whole = if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        unchunked(rest).ok_or("the answer is cut short")?
    } else {
        match header("content-length") {
            None => rest.to_vec(),
            Some(length) => {
                let length: usize = length.parse().map_err(|_| "the answer's length is no number")?;
                rest.get(..length).ok_or("the answer is cut short or too long")?.to_vec()
            }
        }
    };
    if whole.len() > DOCUMENT_BYTES_MAX { Err("the answer is too long".to_owned()) } else { Ok(whole) }
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}x").unwrap(), b"{}");
        assert_eq!(
            body(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x\r\n}\r\n0\r\n\r\n").unwrap(),
            b"{}"
        );
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\n{}").unwrap(), b"{}");
        for bad in [
            &b"HTTP/1.1 302 Found\r\nLocation: x\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
            b"nonsense",
        ] {
            assert!(body(bad).is_err());
        }
    }
}
