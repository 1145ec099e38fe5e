//! The admin client behind `granary status`, `drive`, `heal` and `health`: one signed request per connection.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use granary_access::{RootKeys, RootKeysError, Secret};
use granary_types::{Clock as _, SystemClock};
use rustls::pki_types::ServerName;

use super::auth::{Signed, sign};
use super::runfile::RunFile;
use crate::cli::NodeArgs;
use crate::server::tls::{self, TlsError};
use crate::settings::{Settings, SettingsError};

/// Bytes of an answer, at most.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Time to connect, and between bytes of an answer (adding a drive formats it, which takes seconds).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(300);

/// A user's own keys, in the environment, for the admin requests that users may make.
const USER_ACCESS_KEY: &str = "GRANARY_ACCESS_KEY";
const USER_SECRET_KEY: &str = "GRANARY_SECRET_KEY";

/// First byte of a TLS alert record: the answer of a TLS port to what is no TLS.
const TLS_ALERT: u8 = 0x15;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The settings file.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The root keys.
    #[error(transparent)]
    Keys(#[from] RootKeysError),
    /// No root keys to sign with.
    #[error(
        "no root keys: set GRANARY_ROOT_ACCESS_KEY and GRANARY_ROOT_SECRET_KEY, or name the node's data folder with \
         --data (there is no {0})"
    )]
    NoKeys(PathBuf),
    /// Nobody answers.
    #[error("no node answers at {address}: {source}; is it running, and is --admin right?")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The connection broke, or what came is no HTTP.
    #[error("the node at {address} gave no answer that makes sense: {why}")]
    Garbled {
        /// Where.
        address: SocketAddr,
        /// What is wrong with it.
        why: String,
    },
    /// The node said no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Argument(String),
    /// The certificate to trust.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// Standard output is gone.
    #[error("output: {0}")]
    Output(#[from] std::io::Error),
}

/// A node's admin endpoint, and the keys to it.
pub(crate) struct Client {
    address: SocketAddr,
    /// A user's keys in the environment go before the root keys.
    as_user: bool,
    data_dir: PathBuf,
    ca: Option<PathBuf>,
}

/// Where the root keys are in a data folder.
pub(crate) fn root_keys_file(data_dir: &Path) -> PathBuf {
    data_dir.join("root-keys")
}

impl Client {
    /// The node that the arguments mean: `--admin`, else the settings file, else what the node in the data
    /// folder wrote when it started, else the default address.
    ///
    /// # Errors
    /// [`ClientError::Settings`] if there is a settings file and it is wrong.
    pub(crate) fn new(args: &NodeArgs) -> Result<Self, ClientError> {
        let settings = match &args.config {
            Some(path) => Some(Settings::read(path)?.overlay(std::env::vars())?),
            None => None,
        };
        let data_dir = settings.as_ref().map_or_else(|| args.data.clone(), |settings| settings.node.data_dir.clone());
        let address = args
            .admin
            .or_else(|| RunFile::read(&data_dir).map(|run| run.admin))
            .or_else(|| settings.as_ref().map(|settings| settings.admin.listen))
            .unwrap_or_else(|| Settings::default().admin.listen);
        let from_settings = settings
            .as_ref()
            .filter(|settings| settings.admin_tls())
            .map(|s| s.s3.tls_cert_file.clone().unwrap_or_else(|| s.local_ca().ca_file()));
        let ca = args
            .ca
            .clone()
            .or_else(|| RunFile::read(&data_dir).filter(|run| run.admin == address).and_then(|run| run.admin_ca))
            .or(from_settings);
        Ok(Self { address, as_user: false, data_dir, ca })
    }

    /// For what users may do, too: signs with their keys where the environment has some.
    pub(crate) fn for_users(self) -> Self {
        Self { as_user: true, ..self }
    }

    /// The admin address.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A signed request; the answer's body if the node agrees.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) fn request(&self, method: &str, path: &str, body: &serde_json::Value) -> Result<Vec<u8>, ClientError> {
        let keys = self.keys()?;
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let now_s = SystemClock.now().as_secs();
        let authorization = sign(&keys, &Signed { method, path, body: &body }, now_s);
        self.send(method, path, &format!("Authorization: {authorization}\r\n"), &body)
    }

    /// An unsigned GET.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) fn get_open(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        self.send("GET", path, "", &[])
    }

    fn keys(&self) -> Result<RootKeys, ClientError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if self.as_user
            && let (Some(access_key), Some(secret)) = (variable(USER_ACCESS_KEY), variable(USER_SECRET_KEY))
        {
            let secret = Secret::new(secret).map_err(RootKeysError::from)?;
            return Ok(RootKeys { access_key, secret, is_new: false });
        }
        let access_key = variable("GRANARY_ROOT_ACCESS_KEY");
        let secret = variable("GRANARY_ROOT_SECRET_KEY");
        let file = root_keys_file(&self.data_dir);
        if access_key.is_none() && secret.is_none() && !file.exists() {
            return Err(ClientError::NoKeys(file));
        }
        Ok(RootKeys::obtain(access_key, secret, &file)?)
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<Vec<u8>, ClientError> {
        let address = self.address;
        let unreachable = |source| ClientError::Unreachable { address, source };
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).map_err(unreachable)?;
        stream.set_read_timeout(Some(READ_TIMEOUT)).map_err(unreachable)?;
        let mut stream = match &self.ca {
            None => Wire::Plain(stream),
            Some(ca) => Wire::tls(stream, address, ca)?,
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).map_err(unreachable)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(unreachable)?;
        if self.ca.is_none() && answer.first() == Some(&TLS_ALERT) {
            let why = "it speaks TLS: give --ca with the certificate to trust (tls/ca.crt in the node's data folder)";
            return Err(ClientError::Garbled { address, why: why.to_owned() });
        }
        let (status, body) = parse(&answer).map_err(|why| ClientError::Garbled { address, why: why.to_owned() })?;
        if (200..300).contains(&status) {
            return Ok(body.to_vec());
        }
        let message = serde_json::from_slice::<serde_json::Value>(body)
            .ok()
            .and_then(|value| value["error"].as_str().map(str::to_owned))
            .unwrap_or_else(|| {
                format!("the node answered with status {status}: {}", String::from_utf8_lossy(body).trim())
            });
        Err(ClientError::Refused { status, message })
    }
}

/// A connection to the admin port.
pub(crate) enum Wire {
    /// As it is.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Wire {
    fn tls(stream: TcpStream, address: SocketAddr, ca: &Path) -> Result<Self, ClientError> {
        // "Any address" is where a node listens; what answers there is this machine.
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        Self::tls_named(stream, &ip.to_string(), ca)
    }

    /// TLS 1.3 with a server of that name, whose certificate `ca` has issued.
    ///
    /// # Errors
    /// [`ClientError::Tls`], [`ClientError::Garbled`].
    pub(crate) fn tls_named(stream: TcpStream, name: &str, ca: &Path) -> Result<Self, ClientError> {
        let address = stream.peer_addr()?;
        let garbled = |why: String| ClientError::Garbled { address, why };
        let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())
            .map_err(|_| garbled(format!("`{name}` is no name of a server")))?;
        let config = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| garbled(error.to_string()))?
            .with_root_certificates(tls::roots(ca)?)
            .with_no_client_auth();
        let session =
            rustls::ClientConnection::new(Arc::new(config), name).map_err(|error| garbled(error.to_string()))?;
        Ok(Self::Tls(Box::new(rustls::StreamOwned::new(session, stream))))
    }
}

impl std::io::Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl std::io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Status and body of a whole HTTP/1.1 answer. The admin port always tells the length.
fn parse(answer: &[u8]) -> Result<(u16, &[u8]), &'static str> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("it ends within the headers")?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| "its headers are not text")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok())
        .ok_or("it does not begin with an HTTP/1.1 status")?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .ok_or("it does not tell its length")?;
    let body = answer[end + 4..].get(..length).ok_or("it is cut short")?;
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokX"), Ok((200, &b"ok"[..])));
        assert_eq!(parse(b"HTTP/1.1 503 No\r\nA: b\r\nContent-Length: 0\r\n\r\n"), Ok((503, &b""[..])));
        for bad in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
            b"SSH-2.0\r\n\r\n",
        ] {
            assert!(parse(bad).is_err());
        }
    }
}
