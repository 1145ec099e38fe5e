//! Which key provider a node has, from its settings.
//!
//! Secrets (root keys, tokens, PINs) come from files and the environment only, never from the settings themselves.

mod http;
mod pkcs11;
mod vault;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use granary_crypto::{CryptoError, FileKeyProvider, KeyProvider, TextKeyProvider};
use zeroize::Zeroizing;

use crate::settings::{KeyProviderKind, Settings};
use pkcs11::{Pkcs11KeyProvider, Pkcs11Settings};
use vault::{Token, VaultKeyProvider};

/// The variable that holds the root keys with `keys.provider = "environment"`.
const ROOT_KEY_VARIABLE: &str = "GRANARY_ROOT_KEY";
/// The variable that holds Vault's token where no file is named.
const VAULT_TOKEN_VARIABLE: &str = "VAULT_TOKEN";
/// Bytes of a credential, at most.
const CREDENTIAL_BYTES_MAX: u64 = 64 * 1024;

/// Why there is no key provider.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// The provider's own.
    #[error("sealing key: {0}")]
    Crypto(#[from] CryptoError),
    /// A setting, a variable or a file that is wrong.
    #[error("sealing key: {0}")]
    Setting(String),
    /// The sealing key is gone though drives hold what is sealed with it.
    #[error(
        "the sealing key {key} is missing, and {drive} already holds data sealed with it: put the key file back, or set \
         keys.root_key_file to where it is. No new key is made, since it could not open what is there"
    )]
    Missing {
        /// Where it should be.
        key: PathBuf,
        /// A drive that is in use.
        drive: PathBuf,
    },
}

/// The key provider that the settings name.
///
/// # Errors
/// [`KeysError`].
pub(crate) fn provider(settings: &Settings) -> Result<Arc<dyn KeyProvider>, KeysError> {
    let keys = &settings.keys;
    let provider: Arc<dyn KeyProvider> = match keys.provider {
        KeyProviderKind::File => Arc::new(file(settings)?),
        KeyProviderKind::Environment => {
            let text = std::env::var(ROOT_KEY_VARIABLE)
                .map(Zeroizing::new)
                .map_err(|_| KeysError::Setting(format!("{ROOT_KEY_VARIABLE} is not set or not text")))?;
            Arc::new(TextKeyProvider::new(&text, &format!("environment variable {ROOT_KEY_VARIABLE}"))?)
        }
        KeyProviderKind::Credential => {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                KeysError::Setting(
                    "CREDENTIALS_DIRECTORY is not set: start the server by systemd with LoadCredential= or \
                     LoadCredentialEncrypted="
                        .to_owned(),
                )
            })?;
            let path = Path::new(&folder).join(&keys.credential);
            Arc::new(TextKeyProvider::new(
                &read_credential(&path)?,
                &format!("systemd credential {}", keys.credential),
            )?)
        }
        KeyProviderKind::Vault => Arc::new(vault(settings)?),
        KeyProviderKind::Pkcs11 => Arc::new(pkcs11(settings)?),
    };
    Ok(provider)
}

/// The root sealing key in a file; made only where no drive holds anything yet.
fn file(settings: &Settings) -> Result<FileKeyProvider, KeysError> {
    let file = settings.root_key_file();
    let in_use = settings.drives.paths.iter().find(|path| path.join("drive.json").exists());
    match in_use {
        Some(drive) if !file.exists() => Err(KeysError::Missing { key: file, drive: drive.clone() }),
        Some(_) => Ok(FileKeyProvider::open(&file)?),
        None => Ok(FileKeyProvider::open_or_create(&file)?),
    }
}

fn read_credential(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    use std::io::Read as _;
    let wrong = |why: String| KeysError::Setting(format!("credential {}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    // Exact capacity, so that reading leaves no copies behind in grown-out-of buffers.
    let mut text = Zeroizing::new(String::with_capacity(CREDENTIAL_BYTES_MAX as usize + 1));
    file.take(CREDENTIAL_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    Ok(text)
}

fn pkcs11(settings: &Settings) -> Result<Pkcs11KeyProvider, KeysError> {
    let keys = &settings.keys;
    let named = |what: &str, path: &Option<PathBuf>| {
        path.clone().ok_or_else(|| KeysError::Setting(format!("{what} is not set, and keys.provider is pkcs11")))
    };
    Ok(Pkcs11KeyProvider::open(Pkcs11Settings {
        module: named("keys.pkcs11_module", &keys.pkcs11_module)?,
        token: keys.pkcs11_token.clone(),
        key: keys.pkcs11_key.clone(),
        pin_file: named("keys.pkcs11_pin_file", &keys.pkcs11_pin_file)?,
        make: !settings.drives.paths.iter().any(|path| path.join("drive.json").exists()),
    })?)
}

fn vault(settings: &Settings) -> Result<VaultKeyProvider, KeysError> {
    let keys = &settings.keys;
    let name = |what: &str, text: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        match !text.is_empty() && text.bytes().all(fits) && !text.contains("..") {
            true => Ok(text.trim_matches('/').to_owned()),
            false => Err(KeysError::Setting(format!("{what} is `{text}`: use letters, digits and -_./"))),
        }
    };
    let endpoint = http::Endpoint::new(&keys.vault_url, keys.vault_ca_file.as_deref())
        .map_err(|why| KeysError::Setting(format!("keys.vault_url: {why}")))?;
    Ok(VaultKeyProvider {
        endpoint,
        mount: name("keys.vault_mount", &keys.vault_mount)?,
        key: name("keys.vault_key", &keys.vault_key)?,
        namespace: match keys.vault_namespace.as_str() {
            "" => None,
            text => Some(name("keys.vault_namespace", text)?),
        },
        token: match &keys.vault_token_file {
            Some(path) => Token::File(path.clone()),
            None => Token::Environment(VAULT_TOKEN_VARIABLE),
        },
    })
}
