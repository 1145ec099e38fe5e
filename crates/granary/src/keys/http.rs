//! A blocking HTTP/1.1 POST for key services: one request per connection, bounded in time and size.
//!
//! Small on purpose: what it carries is key material, and a client with pools, redirects and proxies would keep copies
//! of it. Redirects are not followed; over TLS the certificate is checked against the given CA file.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use zeroize::Zeroizing;

/// Time to connect, and between bytes.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer, at most.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Where a service is.
#[derive(Clone)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Endpoint {
    /// From `http://host:port` or `https://host:port`; `ca`: the certificates that sign the service's.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn new(url: &str, ca: Option<&Path>) -> Result<Self, String> {
        let (is_tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(format!("`{url}` does not begin with https:// or http://")),
        };
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| format!("`{url}` has no port that is a number"))?),
            None => (rest, if is_tls { 443 } else { 80 }),
        };
        if host.is_empty() || host.contains(['/', '@', ' ', '?', '\r', '\n']) {
            return Err(format!("`{url}` is not scheme://host:port"));
        }
        let is_loopback = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let tls = match (is_tls, ca) {
            (false, _) if !is_loopback => {
                return Err(format!("`{url}` sends keys in the clear: use https:// (http:// is for loopback)"));
            }
            (false, _) => None,
            (true, None) => return Err("https:// needs the file of the CA that signs the service's certificate".into()),
            (true, Some(ca)) => Some(client_config(ca)?),
        };
        Ok(Self { host: host.to_owned(), port, tls })
    }

    /// Sends `body` (JSON) and returns status and body.
    ///
    /// # Errors
    /// What went wrong, in words, without anything of the request.
    pub(super) fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<(u16, Zeroizing<Vec<u8>>), String> {
        let shown = |error: std::io::Error| format!("{}:{}: {error}", self.host, self.port);
        let bare = self.host.trim_matches(['[', ']']);
        let mut last = None;
        let mut stream = None;
        for address in (bare, self.port).to_socket_addrs().map_err(shown)? {
            match TcpStream::connect_timeout(&address, TIMEOUT) {
                Ok(connected) => {
                    stream = Some(connected);
                    break;
                }
                Err(error) => last = Some(error),
            }
        }
        let stream = stream.ok_or_else(|| match last {
            Some(error) => shown(error),
            None => format!("{} has no address", self.host),
        })?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(shown)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(shown)?;
        let mut request = Zeroizing::new(Vec::with_capacity(body.len() + 1024));
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}:{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: \
             close\r\n",
            self.host,
            self.port,
            body.len()
        );
        request.extend_from_slice(head.as_bytes());
        for (name, value) in headers {
            request.extend_from_slice(format!("{name}: ").as_bytes());
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        let answer = match &self.tls {
            None => exchange(stream, &request),
            Some(config) => {
                let name = ServerName::try_from(bare.to_owned()).map_err(|error| format!("{bare}: {error}"))?;
                let tls = rustls::ClientConnection::new(Arc::clone(config), name)
                    .map_err(|error| format!("{}: {error}", self.host))?;
                exchange(rustls::StreamOwned::new(tls, stream), &request)
            }
        };
        parse(&answer.map_err(shown)?).map_err(|why| format!("{}:{}: {why}", self.host, self.port))
    }
}

fn client_config(ca: &Path) -> Result<Arc<rustls::ClientConfig>, String> {
    let shown = |why: String| format!("{}: {why}", ca.display());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| shown(error.to_string()))? {
        let certificate = certificate.map_err(|error| shown(error.to_string()))?;
        roots.add(certificate).map_err(|error| shown(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(shown("there is no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> std::io::Result<Zeroizing<Vec<u8>>> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut answer = Zeroizing::new(Vec::with_capacity(16 * 1024));
    match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer) {
        Ok(_) => {}
        // Some services close without TLS's farewell; whether the answer is whole, its own length says.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && !answer.is_empty() => {}
        Err(error) => return Err(error),
    }
    Ok(answer)
}

/// Status and body of a whole HTTP/1.1 answer, told by length or in chunks.
fn parse(answer: &[u8]) -> Result<(u16, Zeroizing<Vec<u8>>), &'static str> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("the answer ends within its headers")?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| "the answer's headers are not text")?;
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok())
        .ok_or("the answer does not begin with an HTTP status")?;
    let header = |wanted: &str| {
        head.split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim())
    };
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Ok((status, unchunk(body).ok_or("the answer is cut short")?));
    }
    let length = match header("content-length") {
        Some(value) => value.parse::<usize>().map_err(|_| "the answer's length is not a number")?,
        None => body.len(),
    };
    let body = body.get(..length).ok_or("the answer is cut short")?;
    Ok((status, Zeroizing::new(body.to_vec())))
}

fn unchunk(mut rest: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(Vec::with_capacity(rest.len()));
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        rest = rest.get(line + 2..)?;
        if size == 0 {
            return Some(out);
        }
        out.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let body = |answer: &[u8]| parse(answer).map(|(status, body)| (status, body.to_vec()));
        assert_eq!(body(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokX"), Ok((200, b"ok".to_vec())));
        let chunked = b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        assert_eq!(body(chunked), Ok((403, b"abcde".to_vec())));
        for bad in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n\r",
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
            b"SSH-2.0\r\n\r\n",
        ] {
            assert!(parse(bad).is_err());
        }
    }

    #[test]
    fn addresses_that_would_leak_keys_are_refused() {
        for bad in [
            "vault:8200",
            "http://vault.example:8200",
            "https://vault.example:8200",
            "https://user@host/x",
            "http://127.0.0.1:port",
            "https://",
        ] {
            assert!(Endpoint::new(bad, None).is_err(), "{bad}");
        }
        assert!(Endpoint::new("http://127.0.0.1:8200/", None).is_ok());
    }
}
