//! An S3 endpoint: where it is, how to connect to it, over plain TCP or TLS.
//!
//! Guarantees: a certificate is checked against the CA file that was named; it is left unchecked
//! only where that was asked for. Leaves to others: what is said over the connection.

use crate::sigv4::Credentials;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    /// The URL is not `http://host:port` or `https://host:port`.
    #[error("'{0}' is not http://HOST:PORT or https://HOST:PORT")]
    Url(String),
    /// The name does not resolve.
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: std::io::Error },
    /// The name resolves to nothing.
    #[error("{0} has no address")]
    NoAddress(String),
    /// https without anything to check the certificate against.
    #[error("https needs --ca-file PEM (or --insecure on loopback)")]
    NoTrust,
    /// The CA file cannot be read or holds no usable certificate.
    #[error("CA file {path}: {reason}")]
    CaFile { path: String, reason: String },
    /// rustls refuses the settings.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// How server certificates are judged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trust<'a> {
    pub(crate) ca_file: Option<&'a Path>,
    pub(crate) insecure: bool,
}

/// One side of a comparison: an address, a bucket and the key pair for it.
pub(crate) struct Endpoint {
    pub(crate) url: String,
    pub(crate) host: String,
    pub(crate) addr: SocketAddr,
    pub(crate) tls: Option<(TlsConnector, ServerName<'static>)>,
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) credentials: Credentials,
    pub(crate) server_pid: Option<u32>,
}

impl Endpoint {
    /// Resolves `url` and prepares TLS where it says https.
    pub(crate) fn new(
        url: &str,
        trust: Trust<'_>,
        bucket: &str,
        region: &str,
        credentials: Credentials,
        server_pid: Option<u32>,
    ) -> Result<Self, EndpointError> {
        let bad = || EndpointError::Url(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let name = uri.host().ok_or_else(bad)?;
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let host = uri.authority().ok_or_else(bad)?.as_str().to_owned();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let addr = (bare, port)
            .to_socket_addrs()
            .map_err(|source| EndpointError::Resolve { host: host.clone(), source })?
            .next()
            .ok_or_else(|| EndpointError::NoAddress(host.clone()))?;
        let tls = if https {
            let server = ServerName::try_from(bare.to_owned()).map_err(|_| bad())?;
            Some((TlsConnector::from(Arc::new(tls_config(trust)?)), server))
        } else {
            None
        };
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            host,
            addr,
            tls,
            bucket: bucket.to_owned(),
            region: region.to_owned(),
            credentials,
            server_pid,
        })
    }
}

fn tls_config(trust: Trust<'_>) -> Result<ClientConfig, EndpointError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = if trust.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth()
    } else {
        let path = trust.ca_file.ok_or(EndpointError::NoTrust)?;
        let bad = |reason: String| EndpointError::CaFile { path: path.display().to_string(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))? {
            roots.add(certificate.map_err(|error| bad(error.to_string()))?)?;
        }
        if roots.is_empty() {
            return Err(bad("no certificate in it".into()));
        }
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts whatever certificate the server shows; signatures are still checked. For `--insecure`.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str, trust: Trust<'_>) -> Result<Endpoint, EndpointError> {
        let credentials = Credentials { access_key: "a".into(), secret_key: "b".into() };
        Endpoint::new(url, trust, "bucket", "us-east-1", credentials, None)
    }

    #[test]
    fn urls() {
        let plain = endpoint("http://127.0.0.1:9000/", Trust::default()).expect("plain");
        assert_eq!((plain.host.as_str(), plain.addr.port()), ("127.0.0.1:9000", 9000));
        assert!(plain.tls.is_none());
        assert!(matches!(endpoint("ftp://x", Trust::default()), Err(EndpointError::Url(_))));
        assert!(matches!(endpoint("127.0.0.1:9", Trust::default()), Err(EndpointError::Url(_))));
    }

    #[test]
    fn https_wants_to_know_whom_to_trust() {
        let url = "https://127.0.0.1:9000";
        assert!(matches!(endpoint(url, Trust::default()), Err(EndpointError::NoTrust)));
        let insecure = Trust { ca_file: None, insecure: true };
        assert!(endpoint(url, insecure).expect("insecure").tls.is_some());
        let empty = tempfile::NamedTempFile::new().expect("a temporary file");
        let trust = Trust { ca_file: Some(empty.path()), insecure: false };
        assert!(matches!(endpoint(url, trust), Err(EndpointError::CaFile { .. })));
    }
}
