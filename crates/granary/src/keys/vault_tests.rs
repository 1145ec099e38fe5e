//! Against a stand-in for Transit in this process: no Vault or OpenBao can be had where these tests run.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use granary_crypto::{CryptoError, KeyProvider as _, Secret32};
use granary_types::WrappedKey;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Token, VaultKeyProvider};
use crate::keys::http::Endpoint;

const TOKEN: &str = "hvs.test-token";

#[derive(Default)]
struct Transit {
    /// Ciphertext to version and plaintext.
    sealed: Mutex<HashMap<String, (u64, String)>>,
    version: AtomicU64,
    min_version: AtomicU64,
    is_sealed: AtomicBool,
}

impl Transit {
    fn answer(&self, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let errors = |text: &str| json!({ "errors": [text] });
        if self.is_sealed.load(Ordering::SeqCst) {
            return (503, errors("Vault is sealed"));
        }
        if token != TOKEN {
            return (403, errors("permission denied"));
        }
        let version = self.version.load(Ordering::SeqCst) + 1;
        match path {
            "/v1/transit/encrypt/granary" => {
                let mut sealed = self.sealed.lock();
                let ciphertext = format!("vault:v{version}:{}", BASE64.encode(format!("{:032}", sealed.len())));
                let plaintext = body["plaintext"].as_str().unwrap_or_default().to_owned();
                sealed.insert(ciphertext.clone(), (version, plaintext));
                (200, json!({ "data": { "ciphertext": ciphertext, "key_version": version } }))
            }
            "/v1/transit/decrypt/granary" => {
                let sealed = self.sealed.lock();
                match sealed.get(body["ciphertext"].as_str().unwrap_or_default()) {
                    Some((version, plaintext)) if *version >= self.min_version.load(Ordering::SeqCst) => {
                        (200, json!({ "data": { "plaintext": plaintext } }))
                    }
                    Some(_) => (400, errors("ciphertext or signature version is disallowed by policy (too old)")),
                    None => (400, errors("invalid ciphertext: unable to decrypt")),
                }
            }
            "/v1/transit/keys/granary/rotate" => {
                self.version.fetch_add(1, Ordering::SeqCst);
                (200, json!({ "data": { "latest_version": version + 1 } }))
            }
            "/v1/transit/keys/granary/config" => {
                let min = body["min_decryption_version"].as_u64().unwrap_or(0);
                self.min_version.store(min, Ordering::SeqCst);
                (204, Value::Null)
            }
            _ => (404, errors("no handler for route")),
        }
    }

    fn serve(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let transit = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut buffer = [0u8; 4096];
                let (head, body) = loop {
                    let got = stream.read(&mut buffer).unwrap();
                    request.extend_from_slice(&buffer[..got]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length: usize =
                        head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
                    if body.len() >= length {
                        break (head.to_owned(), body.to_owned());
                    }
                };
                let path = head.split(' ').nth(1).unwrap();
                let token = head.lines().find_map(|line| line.strip_prefix("X-Vault-Token: ")).unwrap_or_default();
                let (status, answer) = transit.answer(path, token, &serde_json::from_str(&body).unwrap());
                let answer = if answer.is_null() { String::new() } else { answer.to_string() };
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", answer.len());
                stream.write_all((head + &answer).as_bytes()).unwrap();
            }
        });
        url
    }
}

fn provider(url: &str, token: &str) -> (VaultKeyProvider, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, format!("{token}\n")).unwrap();
    let provider = VaultKeyProvider {
        endpoint: Endpoint::new(url, None).unwrap(),
        mount: "transit".to_owned(),
        key: "granary".to_owned(),
        namespace: None,
        token: Token::File(path),
    };
    (provider, folder)
}

#[test]
fn keys_are_wrapped_rotated_and_retired() {
    let transit = Arc::new(Transit::default());
    let (vault, _folder) = provider(&transit.serve(), TOKEN);
    let key = Secret32::random();
    let old = vault.wrap(b"purpose", &key).unwrap();
    assert_eq!(vault.unwrap(b"purpose", &old).unwrap(), key);
    assert!(matches!(vault.unwrap(b"another", &old), Err(CryptoError::Open { .. })));
    assert!(matches!(vault.unwrap(b"purpose", &WrappedKey(vec![1; 81])), Err(CryptoError::Format { .. })));
    assert!(vault.unwrap(b"purpose", &WrappedKey(b"\x03vault:v1:AAAA".to_vec())).is_err());
    vault.rotate().unwrap();
    let new = vault.wrap(b"purpose", &key).unwrap();
    assert!(vault.unwrap(b"purpose", &old).is_ok() && vault.unwrap(b"purpose", &new).is_ok());
    vault.retire().unwrap();
    assert!(vault.unwrap(b"purpose", &old).is_err(), "what an older version wrapped is gone");
    assert_eq!(vault.unwrap(b"purpose", &new).unwrap(), key);
}

#[test]
fn a_service_that_is_away_is_unavailable_and_not_corrupt() {
    let transit = Arc::new(Transit::default());
    let url = transit.serve();
    let (vault, _folder) = provider(&url, TOKEN);
    let key = Secret32::random();
    let wrapped = vault.wrap(b"purpose", &key).unwrap();
    let is_unavailable = |provider: &VaultKeyProvider| {
        let error = provider.unwrap(b"purpose", &wrapped).unwrap_err();
        assert!(!error.to_string().contains("hvs."), "no token in {error}");
        matches!(error, CryptoError::Provider(_))
    };
    transit.is_sealed.store(true, Ordering::SeqCst);
    assert!(is_unavailable(&vault));
    transit.is_sealed.store(false, Ordering::SeqCst);
    assert_eq!(vault.unwrap(b"purpose", &wrapped).unwrap(), key);
    assert!(is_unavailable(&provider(&url, "hvs.wrong").0));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(is_unavailable(&provider(&format!("http://{nobody}"), TOKEN).0));
}
