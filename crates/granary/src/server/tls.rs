//! TLS 1.3, and nothing older: AES-256-GCM first, HTTP/1.1 and HTTP/2, client certificates where they are asked for.
//!
//! Guarantees: the certificate in use is the files', at the latest [`Tls::run`]'s interval after they change, or at once on
//! SIGHUP; files that do not make a whole leave the one in use as it is, and say so; connections that are open go on
//! undisturbed. Where no certificate is given the node's own authority issues one ([`super::local_ca`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use super::local_ca::{LocalCa, LocalCaError};
use crate::settings::Settings;

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read, or has nothing of the kind in it.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Certificate and key do not belong together, or are of a kind that TLS 1.3 has no use for.
    #[error("certificate {certificate} with key {key}: {source}")]
    Pair {
        /// Certificate file.
        certificate: PathBuf,
        /// Key file.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The authorities that client certificates are to come from.
    #[error("client authorities {path}: {why}")]
    Clients {
        /// File.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The node's own authority.
    #[error(transparent)]
    LocalCa(#[from] LocalCaError),
}

/// Which listener a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// S3.
    S3,
    /// Admin: signed requests; client certificates are not asked for.
    Admin,
}

/// What a person is shown of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Shown {
    /// Certificate that clients are to trust: the node's own authority. `None` where a certificate was given.
    pub(crate) ca_file: Option<PathBuf>,
    /// SHA-256 of the authority's certificate, or of the server's where one was given.
    pub(crate) sha256: String,
    /// Client certificates are required.
    pub(crate) client_certificates: bool,
    /// Why the files that are there now are not in use.
    pub(crate) stale_because: Option<String>,
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.ca_file {
            Some(path) => write!(f, "TLS 1.3, CA {} SHA-256 {}", path.display(), self.sha256)?,
            None => write!(f, "TLS 1.3, certificate SHA-256 {}", self.sha256)?,
        }
        if self.client_certificates {
            f.write_str(", client certificates required")?;
        }
        match &self.stale_because {
            Some(why) => write!(f, "; NOT RELOADED, the older certificate stays: {why}"),
            None => Ok(()),
        }
    }
}

/// When and how long each file was: a change of either makes them be read again.
type Stamps = Vec<Option<(std::time::SystemTime, u64)>>;

/// A listener's certificate and rules.
pub(crate) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    local: Option<LocalCa>,
    config: ArcSwap<ServerConfig>,
    shown: ArcSwap<Shown>,
    stamps: Mutex<Stamps>,
}

impl Tls {
    /// What the settings ask for on a port; `None`: plain HTTP.
    ///
    /// # Errors
    /// [`TlsError`] naming the file.
    pub(crate) fn of(settings: &Settings, port: Port) -> Result<Option<Arc<Self>>, TlsError> {
        let wanted = match port {
            Port::S3 => settings.tls(),
            Port::Admin => settings.admin_tls(),
        };
        if !wanted {
            return Ok(None);
        }
        let s3 = &settings.s3;
        let client_ca = s3.tls_client_ca_file.clone().filter(|_| port == Port::S3);
        Self::open(match (&s3.tls_cert_file, &s3.tls_key_file) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone(), client_ca, None),
            _ => {
                let local = settings.local_ca();
                local.ensure()?;
                (local.certificate_file(), local.key_file(), client_ca, Some(local))
            }
        })
        .map(|tls| Some(Arc::new(tls)))
    }

    fn open(
        (certificate, key, client_ca, local): (PathBuf, PathBuf, Option<PathBuf>, Option<LocalCa>),
    ) -> Result<Self, TlsError> {
        let stamps = stamps([Some(&certificate), Some(&key), client_ca.as_ref()]);
        let (config, shown) = load(&certificate, &key, client_ca.as_deref(), local.as_ref())?;
        Ok(Self {
            certificate,
            key,
            client_ca,
            local,
            config: ArcSwap::from_pointee(config),
            shown: ArcSwap::from_pointee(shown),
            stamps: Mutex::new(stamps),
        })
    }

    /// For one handshake.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// What a person is shown.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        self.shown.load_full()
    }

    /// The file that a client of this node is to trust: its own authority's certificate, or what was given.
    pub(crate) fn trusted(&self) -> PathBuf {
        self.local.as_ref().map_or_else(|| self.certificate.clone(), LocalCa::ca_file)
    }

    /// Takes the files anew if they have changed, or `always`. What cannot be used is told and leaves all as it is.
    pub(crate) fn reload(&self, always: bool) {
        if let Some(Err(error)) = self.local.as_ref().map(LocalCa::ensure) {
            tracing::error!(%error, "the node's own certificate could not be looked after");
        }
        let now = stamps([Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()]);
        {
            let mut seen = self.stamps.lock();
            if !always && *seen == now {
                return;
            }
            *seen = now;
        }
        match load(&self.certificate, &self.key, self.client_ca.as_deref(), self.local.as_ref()) {
            Ok((config, shown)) => {
                tracing::info!(sha256 = %shown.sha256, "TLS certificate loaded; new connections use it");
                self.config.store(Arc::new(config));
                self.shown.store(Arc::new(shown));
            }
            Err(error) => {
                tracing::error!(%error, "the TLS certificate was not reloaded: the older one stays in use");
                let stale = Shown { stale_because: Some(error.to_string()), ..(*self.shown()).clone() };
                self.shown.store(Arc::new(stale));
            }
        }
    }

    /// Watches the files and SIGHUP, for ever.
    ///
    /// # Errors
    /// When signals cannot be had.
    pub(crate) async fn run(all: Vec<Arc<Self>>, interval: Duration) -> io::Result<()> {
        let mut hangups = signal(SignalKind::hangup())?;
        loop {
            let always = tokio::select! {
                _ = hangups.recv() => true,
                () = tokio::time::sleep(interval) => false,
            };
            let all = all.clone();
            // Files are read and keys parsed: not on a thread that serves.
            let done = tokio::task::spawn_blocking(move || all.iter().for_each(|tls| tls.reload(always))).await;
            if let Err(error) = done {
                tracing::error!(%error, "the TLS certificates could not be looked at");
            }
        }
    }
}

fn stamps(files: [Option<&PathBuf>; 3]) -> Stamps {
    let stamp = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len()))
    };
    files.into_iter().flatten().map(stamp).collect()
}

/// Certificates of a PEM file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError::File { path: path.to_owned(), why };
    let file = std::fs::File::open(path).map(io::BufReader::new).map_err(|error| wrong(error.to_string()))?;
    let found: Vec<_> = CertificateDer::pem_reader_iter(file)
        .collect::<Result<_, _>>()
        .map_err(|error: rustls::pki_types::pem::Error| wrong(error.to_string()))?;
    match found.is_empty() {
        true => Err(wrong("no CERTIFICATE section: a PEM chain is wanted, the node's own first".to_owned())),
        false => Ok(found),
    }
}

/// A trust store of a PEM file.
pub(crate) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Clients { path: path.to_owned(), why: error.to_string() })?;
    }
    Ok(roots)
}

/// AES-256-GCM first; the others for clients whose hardware has none of it.
pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS13_AES_128_GCM_SHA256,
    ];
    Arc::new(provider)
}

fn load(
    certificate: &Path,
    key: &Path,
    client_ca: Option<&Path>,
    local: Option<&LocalCa>,
) -> Result<(ServerConfig, Shown), TlsError> {
    let chain = certificates(certificate)?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsError::File { path: key.to_owned(), why: error.to_string() })?;
    let shown_of = match local {
        Some(local) => certificates(&local.ca_file())?.swap_remove(0),
        None => chain[0].clone(),
    };
    let pair = |source| TlsError::Pair { certificate: certificate.to_owned(), key: key.to_owned(), source };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(pair)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider())
                .build()
                .map_err(|error| TlsError::Clients { path: path.to_owned(), why: error.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, secret).map_err(pair)?;
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let shown = Shown {
        ca_file: local.map(LocalCa::ca_file),
        sha256: fingerprint(&shown_of),
        client_certificates: client_ca.is_some(),
        stale_because: None,
    };
    Ok((config, shown))
}

/// SHA-256 of a certificate, as browsers and openssl show it.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = digest::digest(&digest::SHA256, certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_files_leave_the_certificate_in_use() {
        let data = tempfile::tempdir().unwrap();
        let local = LocalCa::new(data.path(), Vec::new());
        local.ensure().unwrap();
        let (certificate, key) = (data.path().join("c.pem"), data.path().join("k.pem"));
        std::fs::copy(local.certificate_file(), &certificate).unwrap();
        std::fs::copy(local.key_file(), &key).unwrap();
        let tls = Tls::open((certificate.clone(), key.clone(), None, None)).unwrap();
        let before = tls.shown();
        assert_eq!(before.sha256.len(), 32 * 3 - 1);
        std::fs::write(&certificate, "not a certificate").unwrap();
        tls.reload(false);
        let after = tls.shown();
        assert_eq!(after.sha256, before.sha256);
        assert!(after.stale_because.as_ref().unwrap().contains("no CERTIFICATE section"), "{after}");
        // A key that does not fit is no better.
        let other = LocalCa::new(&data.path().join("other"), Vec::new());
        other.ensure().unwrap();
        std::fs::copy(other.certificate_file(), &certificate).unwrap();
        tls.reload(false);
        assert_eq!(tls.shown().sha256, before.sha256);
        std::fs::copy(other.key_file(), &key).unwrap();
        tls.reload(true);
        assert_ne!(tls.shown().sha256, before.sha256);
        assert_eq!(tls.shown().stale_because, None);
    }
}
