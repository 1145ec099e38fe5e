//! What every connection that this program opens by itself begins with: the addresses, and the certificates that are trusted.
//!
//! No proxies, no redirects: whoever sends something says where, and nobody else does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where distributions keep the system's certificates.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whose certificates are trusted.
pub(crate) enum Roots<'r> {
    /// Those of a file (PEM); `None`: the system's.
    File(Option<&'r Path>),
    /// These (PEM).
    Pem(&'r [u8]),
}

impl Roots<'_> {
    fn store(&self) -> Result<rustls::RootCertStore, String> {
        let (bytes, whence) = match self {
            Self::Pem(pem) => (pem.to_vec(), "the certificates given".to_owned()),
            Self::File(file) => {
                let system = || SYSTEM_CERTIFICATES.iter().map(Path::new).find(|path| path.exists());
                let path = file.or_else(system).ok_or("no system certificates were found: name a file of them")?;
                let shown = path.display().to_string();
                (std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?, shown)
            }
        };
        let mut roots = rustls::RootCertStore::empty();
        let found = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok);
        let (added, _) = roots.add_parsable_certificates(found);
        if added == 0 { Err(format!("{whence}: no certificate in it can be used")) } else { Ok(roots) }
    }
}

/// What opens TLS to peers whose certificates `roots` vouch for.
///
/// # Errors
/// What is wrong with the certificates, in words.
pub(crate) fn connector(roots: &Roots<'_>) -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots.store()?)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Connects, within a time.
///
/// # Errors
/// In words, without the address.
pub(crate) async fn dial(host: &str, port: u16, patience: Duration) -> Result<TcpStream, String> {
    match tokio::time::timeout(patience, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no connection within {} s", patience.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_cannot_be_used_are_told() {
        assert!(connector(&Roots::Pem(b"nothing")).is_err());
        assert!(connector(&Roots::File(Some(Path::new("/nonexistent")))).is_err());
        let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        assert!(connector(&Roots::Pem(signed.cert.pem().as_bytes())).is_ok());
    }
}
