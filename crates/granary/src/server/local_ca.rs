//! A certificate authority of the node's own, made once, and the server certificate it issues: what TLS runs on where
//! nobody has given a certificate.
//!
//! All of it lies in `tls/` in the data folder: `ca.crt` (to be given to clients) and `server.crt` are 0644, the keys 0600. The CA
//! stays as it is for ten years; the server certificate is made anew, by the same CA, when the names it has to
//! carry change or its end comes near. Clients that trust `ca.crt` notice nothing of that.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the CA is valid.
const CA_VALID: Duration = Duration::from_secs(3652 * DAY.as_secs());
/// How long a server certificate is valid (what browsers and macOS still take).
const SERVER_VALID: Duration = Duration::from_secs(397 * DAY.as_secs());
/// A server certificate with less than this left is made anew.
const SERVER_RENEW: Duration = Duration::from_secs(90 * DAY.as_secs());
/// Clocks of clients may be behind.
const BACKDATED: Duration = DAY;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalCaError {
    /// A file.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The authority's key without its certificate, or the reverse.
    #[error(
        "{there} is there but {missing} is not: put it back, or move the folder away to have a new authority made (clients \
         must then be given its certificate)"
    )]
    Half {
        /// The file that is there.
        there: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// A name that no certificate can carry, or a key that is none.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// What the server certificate was made for, beside it, so that nothing has to be parsed to know.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Issued {
    names: BTreeSet<String>,
    not_after_s: i64,
}

/// The files.
#[derive(Debug, Clone)]
pub(crate) struct LocalCa {
    folder: PathBuf,
    names: Vec<String>,
}

impl LocalCa {
    /// The authority in `data_dir`. `names`: what the certificate carries beside this machine's own names and
    /// addresses.
    pub(crate) fn new(data_dir: &Path, names: Vec<String>) -> Self {
        Self { folder: data_dir.join("tls"), names }
    }

    /// The authority's certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// The server's certificate chain.
    pub(crate) fn certificate_file(&self) -> PathBuf {
        self.folder.join("server.crt")
    }

    /// The server's key.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.join("server.key")
    }

    /// Makes what is missing or no longer fits.
    ///
    /// # Errors
    /// [`LocalCaError`].
    pub(crate) fn ensure(&self) -> Result<(), LocalCaError> {
        let failed = |source| LocalCaError::Io { path: self.folder.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let (ca_file, ca_key_file) = (self.ca_file(), self.folder.join("ca.key"));
        let ca_key = match (ca_file.exists(), ca_key_file.exists()) {
            (true, true) => KeyPair::from_pem(&read(&ca_key_file)?)?,
            // A start that was cut short: nobody has been given the certificate yet.
            (false, true) if !self.certificate_file().exists() => {
                self.make_ca(KeyPair::from_pem(&read(&ca_key_file)?)?)?
            }
            (false, true) => return Err(LocalCaError::Half { there: ca_key_file, missing: ca_file }),
            (true, false) => return Err(LocalCaError::Half { there: ca_file, missing: ca_key_file }),
            (false, false) => {
                let key = KeyPair::generate()?;
                write(&ca_key_file, key.serialize_pem().as_bytes(), 0o600)?;
                self.make_ca(key)?
            }
        };
        let names = self.all_names();
        let record_file = self.folder.join("server.json");
        let now = OffsetDateTime::now_utc();
        let fits = std::fs::read(&record_file)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Issued>(&bytes).ok())
            .is_some_and(|issued| issued.names == names && issued.not_after_s > (now + SERVER_RENEW).unix_timestamp());
        if fits && self.certificate_file().exists() && self.key_file().exists() {
            return Ok(());
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        params.distinguished_name = named("Granary node");
        params.not_before = now - BACKDATED;
        params.not_after = now + SERVER_VALID;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let not_after_s = params.not_after.unix_timestamp();
        let issuer = Issuer::new(ca_params(&ca_key, now), ca_key);
        let certificate = params.signed_by(&key, &issuer)?;
        let chain = format!("{}{}", certificate.pem(), read(&ca_file)?);
        // The record goes last: without it the pair is made anew.
        let _ = std::fs::remove_file(&record_file);
        write(&self.key_file(), key.serialize_pem().as_bytes(), 0o600)?;
        write(&self.certificate_file(), chain.as_bytes(), 0o644)?;
        let record = serde_json::to_vec(&Issued { names, not_after_s }).map_err(io::Error::from);
        write(&record_file, &record.map_err(failed)?, 0o644)
    }

    fn make_ca(&self, key: KeyPair) -> Result<KeyPair, LocalCaError> {
        let certificate = ca_params(&key, OffsetDateTime::now_utc()).self_signed(&key)?;
        write(&self.ca_file(), certificate.pem().as_bytes(), 0o644)?;
        Ok(key)
    }

    /// This machine's names and addresses, and those the settings add.
    fn all_names(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        names.extend(machine_name());
        names.extend(addresses().iter().map(IpAddr::to_string));
        for name in &self.names {
            let name = name.trim_matches(['[', ']']);
            names.insert(name.to_owned());
        }
        names
    }
}

/// The authority is named after its key, so that its parameters can be made again from that alone.
fn ca_params(key: &KeyPair, now: OffsetDateTime) -> CertificateParams {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.public_key_raw());
    let tail: String = granary_types::hex::encode(&digest.as_ref()[..4]);
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("Granary local CA {tail}"));
    params.not_before = now - BACKDATED;
    params.not_after = now + CA_VALID;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name.push(DnType::OrganizationName, "Granary");
    name
}

fn read(path: &Path) -> Result<String, LocalCaError> {
    std::fs::read_to_string(path).map_err(|source| LocalCaError::Io { path: path.to_owned(), source })
}

/// A whole file or none, with this mode whatever the mask says.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), LocalCaError> {
    let written = || {
        let new = path.with_extension("new");
        let mut file = std::fs::File::options().create(true).write(true).truncate(true).mode(mode).open(&new)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    written().map_err(|source| LocalCaError::Io { path: path.to_owned(), source })
}

/// The host's name, where it is one that a certificate can carry.
fn machine_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_ascii_lowercase();
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    (!name.is_empty() && name != "(none)" && name.chars().all(fine)).then_some(name)
}

/// Addresses of this machine, as the kernel lists them. None where `/proc` does not tell: then `s3.tls_names` must.
fn addresses() -> Vec<IpAddr> {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut found = local_ipv4(&text("/proc/net/fib_trie"));
    found.extend(local_ipv6(&text("/proc/net/if_inet6")));
    found
}

/// `fib_trie` has each local address as a leaf, with `/32 host LOCAL` on the next line.
fn local_ipv4(text: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in text.lines().map(str::trim_start) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.trim().parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(leaf.filter(|address| !address.is_loopback()).map(IpAddr::V4));
        }
    }
    found
}

/// `if_inet6`: 32 hex digits, then fields; link-local addresses name nothing without their interface.
fn local_ipv6(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.get(..32).and_then(|digits| u128::from_str_radix(digits, 16).ok()))
        .map(Ipv6Addr::from)
        .filter(|address| !address.is_loopback() && (address.segments()[0] & 0xffc0) != 0xfe80)
        .map(IpAddr::V6)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn made_once_and_issued_again_only_for_new_names() {
        let data = tempfile::tempdir().unwrap();
        let ca = LocalCa::new(data.path(), vec!["s3.example.org".into()]);
        ca.ensure().unwrap();
        let (authority, server) = (read(&ca.ca_file()).unwrap(), read(&ca.certificate_file()).unwrap());
        assert!(server.ends_with(&authority), "the chain ends with the authority");
        assert_eq!((mode(&ca.ca_file()), mode(&ca.key_file())), (0o644, 0o600));
        assert_eq!(mode(&data.path().join("tls/ca.key")), 0o600);
        ca.ensure().unwrap();
        assert_eq!(read(&ca.certificate_file()).unwrap(), server);

        LocalCa::new(data.path(), vec!["other.example.org".into()]).ensure().unwrap();
        assert_ne!(read(&ca.certificate_file()).unwrap(), server);
        assert_eq!(read(&ca.ca_file()).unwrap(), authority);
    }

    #[test]
    fn half_an_authority_is_told_and_not_replaced() {
        let data = tempfile::tempdir().unwrap();
        let ca = LocalCa::new(data.path(), Vec::new());
        ca.ensure().unwrap();
        std::fs::remove_file(data.path().join("tls/ca.key")).unwrap();
        assert!(matches!(ca.ensure(), Err(LocalCaError::Half { .. })));
        assert!(ca.ca_file().exists());
    }

    #[test]
    fn addresses_as_the_kernel_lists_them() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.1.2.3\n        \
                    /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(local_ipv4(trie), ["10.1.2.3".parse::<IpAddr>().unwrap()]);
        let six = "00000000000000000000000000000001 01 80 10 80       lo\nfe800000000000000000000000000001 02 40 20 80 eth0\n\
                   20010db8000000000000000000000007 02 40 00 80 eth0\nshort\n";
        assert_eq!(local_ipv6(six), ["2001:db8::7".parse::<IpAddr>().unwrap()]);
    }
}
