//! Root key in the Transit engine of Vault or OpenBao, over its HTTP API: the key never leaves the service.
//!
//! A key wrapped here: version (1) = 3 ‖ the service's ciphertext, as text (`vault:v1:...`). The service encrypts the
//! key ‖ the SHA-256 of what it is for, so that a key wrapped for one purpose does not unwrap for another, whatever
//! the service's version makes of additional data. The token is read from its file each time: whoever renews it
//! (Vault Agent, a timer) needs no restart.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use granary_crypto::{CryptoError, KeyProvider, Secret32};
use granary_types::WrappedKey;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use super::http::Endpoint;

const WRAP_VERSION: u8 = 3;
const WHAT: &str = "key wrapped by Vault";
/// Bytes of a token file, at most.
const TOKEN_BYTES_MAX: usize = 4096;

/// Where the token comes from.
#[derive(Debug, Clone)]
pub(super) enum Token {
    /// A file, read at each request.
    File(PathBuf),
    /// An environment variable.
    Environment(&'static str),
}

/// A Transit key.
pub(super) struct VaultKeyProvider {
    pub(super) endpoint: Endpoint,
    pub(super) mount: String,
    pub(super) key: String,
    pub(super) namespace: Option<String>,
    pub(super) token: Token,
}

impl VaultKeyProvider {
    fn token(&self) -> Result<Zeroizing<String>, CryptoError> {
        let text = match &self.token {
            Token::File(path) => std::fs::read_to_string(path)
                .map_err(|error| CryptoError::Provider(format!("token file {}: {error}", path.display())))?,
            Token::Environment(name) => {
                std::env::var(name).map_err(|_| CryptoError::Provider(format!("{name} is not set")))?
            }
        };
        let text = Zeroizing::new(text);
        let token = text.trim();
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(CryptoError::Provider("the token is empty, too long or not visible ASCII".into()));
        }
        Ok(Zeroizing::new(token.to_owned()))
    }

    /// Asks the service; `Ok(None)`: it understood and refused what was sent (400).
    fn ask(&self, act: &str, body: &Value) -> Result<Option<Value>, CryptoError> {
        let token = self.token()?;
        let mut headers = vec![("X-Vault-Token", token.as_str()), ("X-Vault-Request", "true")];
        if let Some(namespace) = &self.namespace {
            headers.push(("X-Vault-Namespace", namespace));
        }
        let path = match act {
            "rotate" => format!("/v1/{}/keys/{}/rotate", self.mount, self.key),
            "config" => format!("/v1/{}/keys/{}/config", self.mount, self.key),
            act => format!("/v1/{}/{act}/{}", self.mount, self.key),
        };
        let body = Zeroizing::new(body.to_string().into_bytes());
        let (status, answer) = self.endpoint.post(&path, &headers, &body).map_err(CryptoError::Provider)?;
        let provider = |why: String| CryptoError::Provider(format!("Vault ({:?}): {why}", self.endpoint));
        match status {
            200 => Ok(Some(serde_json::from_slice(&answer).map_err(|_| provider("an answer that is no JSON".into()))?)),
            204 => Ok(Some(Value::Null)),
            400 => Ok(None),
            403 => Err(provider("the token does not allow it, or has run out".into())),
            404 => Err(provider(format!("there is no key `{}` under `{}`", self.key, self.mount))),
            status => Err(provider(format!("status {status}"))),
        }
    }
}

fn purpose(context: &[u8]) -> [u8; 32] {
    Sha256::digest([b"granary vault wrap ", context].concat()).into()
}

impl KeyProvider for VaultKeyProvider {
    fn wrap(&self, context: &[u8], key: &Secret32) -> granary_crypto::Result<WrappedKey> {
        let plain = Zeroizing::new([&key.expose()[..], &purpose(context)].concat());
        let text = Zeroizing::new(BASE64.encode(&*plain));
        let answer = self.ask("encrypt", &json!({ "plaintext": *text }))?;
        let ciphertext = answer.as_ref().and_then(|answer| answer["data"]["ciphertext"].as_str());
        let ciphertext = ciphertext.filter(|text| text.starts_with("vault:"));
        let ciphertext = ciphertext.ok_or_else(|| CryptoError::Provider("Vault did not encrypt".into()))?;
        Ok(WrappedKey([&[WRAP_VERSION], ciphertext.as_bytes()].concat()))
    }

    fn unwrap(&self, context: &[u8], wrapped: &WrappedKey) -> granary_crypto::Result<Secret32> {
        let format = |why: &str| CryptoError::Format { what: WHAT, why: why.into() };
        let text = match wrapped.0.split_first() {
            Some((&WRAP_VERSION, text)) => std::str::from_utf8(text).map_err(|_| format("not text"))?,
            _ => return Err(format("wrapped by another key provider")),
        };
        let mut answer =
            self.ask("decrypt", &json!({ "ciphertext": text }))?.ok_or(CryptoError::Open { what: WHAT })?;
        let Value::String(text) = answer["data"]["plaintext"].take() else {
            return Err(CryptoError::Provider("Vault gave no plaintext".into()));
        };
        let text = Zeroizing::new(text);
        let plain = Zeroizing::new(BASE64.decode(&*text).map_err(|_| CryptoError::Open { what: WHAT })?);
        let (key, of) = plain.split_first_chunk::<32>().ok_or(CryptoError::Open { what: WHAT })?;
        if *of != purpose(context) {
            return Err(CryptoError::Open { what: WHAT });
        }
        let mut bytes = *key;
        let secret = Secret32::from_bytes(bytes);
        bytes.zeroize();
        Ok(secret)
    }

    fn describe(&self) -> String {
        format!("root key {}/{} in Vault at {:?}", self.mount, self.key, self.endpoint)
    }

    fn blocks(&self) -> bool {
        true
    }

    fn rotate(&self) -> granary_crypto::Result<()> {
        self.ask("rotate", &json!({}))?
            .map(drop)
            .ok_or_else(|| CryptoError::Provider("Vault refused to rotate the key".into()))
    }

    fn retire(&self) -> granary_crypto::Result<()> {
        // Which version is the newest, the service says itself in what it encrypts now.
        let probe = self.wrap(b"granary root rotation", &Secret32::random())?;
        let text = String::from_utf8_lossy(&probe.0[1..]).into_owned();
        let version = text.split(':').nth(1).and_then(|v| v.strip_prefix('v')?.parse::<u64>().ok());
        let version = version.ok_or_else(|| CryptoError::Provider("Vault names no key version".into()))?;
        self.ask("config", &json!({ "min_decryption_version": version }))?
            .map(drop)
            .ok_or_else(|| CryptoError::Provider("Vault refused to retire older versions of the key".into()))
    }
}

#[cfg(test)]
#[path = "vault_tests.rs"]
mod tests;
