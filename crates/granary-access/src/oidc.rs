//! Tokens of OpenID Connect providers: whose keys, whose signature, for whom, until when.
//!
//! RS256/384/512, ES256 and ES384, over the keys that the issuer publishes (its discovery document and JWKS). Keys are
//! kept for an hour; an unknown key id makes them be fetched again, at most once a minute. How bytes are fetched is
//! the binary's ([`Fetch`]). `none` and symmetric algorithms are never taken.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::signature;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::BoxFuture;
use granary_types::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::error::IamError;

type Result<T> = std::result::Result<T, IamError>;

/// Bytes of a token, of a discovery document and of a key set, at most.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// See [`TOKEN_BYTES_MAX`].
pub const DOCUMENT_BYTES_MAX: usize = 512 * 1024;
/// Keys of an issuer, at most; issuers that are remembered.
const KEYS_MAX: usize = 100;
const ISSUERS_MAX: usize = 100;
/// How long keys are kept, and how soon they may be asked for again.
const KEEP: Duration = Duration::from_secs(3_600);
const AGAIN: Duration = Duration::from_secs(60);

/// Fetches documents of identity providers.
pub trait Fetch: Send + Sync + 'static {
    /// GET of a URL that [`issuer_name`] would take; at most [`DOCUMENT_BYTES_MAX`] bytes, no redirects, within seconds.
    fn get(&self, url: String) -> BoxFuture<'_, std::result::Result<Vec<u8>, String>>;
}

/// The name of an issuer: its URL without the scheme. `None` for URLs that are neither https nor http on loopback.
#[must_use]
pub fn issuer_name(url: &str) -> Option<&str> {
    let url = url.trim_end_matches('/');
    let (rest, secure) = match url.strip_prefix("https://") {
        Some(rest) => (rest, true),
        None => (url.strip_prefix("http://")?, false),
    };
    let host = rest.split('/').next()?;
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.parse::<u16>().is_ok() { name } else { host });
    let loopback = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'/' | b':' | b'[' | b']' | b'~');
    (!name.is_empty() && rest.len() <= 255 && rest.bytes().all(fine) && !rest.contains("..") && (secure || loopback))
        .then_some(rest)
}

/// What a token says, once verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// `sub`.
    pub subject: String,
    /// The audience that was taken.
    pub audience: String,
    /// All claims.
    pub claims: Value,
}

struct Key {
    id: Option<String>,
    kind: KeyKind,
}

enum KeyKind {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed points.
    P256(Vec<u8>),
    P384(Vec<u8>),
}

struct Issuer {
    keys: Arc<Vec<Key>>,
    fetched: Instant,
}

/// Verifies tokens, and keeps issuers' keys.
pub struct Verifier {
    /// Seconds that the clocks may differ.
    skew_s: u64,
    issuers: Mutex<HashMap<String, Issuer>>,
}

fn bad(why: impl Into<String>) -> IamError {
    IamError::InvalidIdentityToken(why.into())
}

fn part(text: &str) -> Result<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad("The token is not a JSON Web Token"))?;
    serde_json::from_slice(&bytes).map_err(|_| bad("The token is not a JSON Web Token"))
}

/// The issuer that a token claims to be from. Nothing is verified yet.
///
/// # Errors
/// [`IamError::InvalidIdentityToken`].
pub fn claimed_issuer(token: &str) -> Result<String> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(bad(format!("A token has at most {TOKEN_BYTES_MAX} bytes")));
    }
    let claims = part(token.split('.').nth(1).ok_or_else(|| bad("The token is not a JSON Web Token"))?)?;
    claims["iss"].as_str().map(str::to_owned).ok_or_else(|| bad("The token names no issuer"))
}

impl Verifier {
    /// One that takes tokens whose times are this many seconds away from its own.
    #[must_use]
    pub fn new(skew_s: u64) -> Self {
        Self { skew_s, issuers: Mutex::default() }
    }

    /// Verifies a token of `issuer` for one of `audiences`.
    ///
    /// # Errors
    /// [`IamError::InvalidIdentityToken`], [`IamError::ExpiredToken`], [`IamError::IdpCommunication`].
    pub async fn verify(
        &self,
        fetch: &dyn Fetch,
        issuer: &str,
        audiences: &[String],
        token: &str,
        now: Timestamp,
    ) -> Result<Verified> {
        if claimed_issuer(token)?.trim_end_matches('/') != issuer.trim_end_matches('/') {
            return Err(bad("The token is another issuer's"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or_else(|| bad("The token is not a JSON Web Token"))?;
        let (head, body) = signed.split_once('.').ok_or_else(|| bad("The token is not a JSON Web Token"))?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| bad("The token's signature is not base64"))?;
        let head = part(head)?;
        let algorithm = head["alg"].as_str().unwrap_or_default();
        if !matches!(algorithm, "RS256" | "RS384" | "RS512" | "ES256" | "ES384") {
            return Err(bad(format!("Tokens signed with `{algorithm}` are not taken")));
        }
        let id = head["kid"].as_str();
        let keys = self.keys(fetch, issuer, id).await?;
        let matching = keys.iter().filter(|key| id.is_none() || key.id.is_none() || key.id.as_deref() == id);
        if !matching.into_iter().any(|key| key.verifies(algorithm, signed.as_bytes(), &signature)) {
            return Err(bad(
                "Couldn't retrieve verification key from your identity provider, or the signature is wrong",
            ));
        }
        // From here on the claims are the issuer's.
        let claims = part(body)?;
        let seconds = |name: &str| claims[name].as_f64().filter(|n| *n >= 0.0).map(|n| n as u64);
        let now_s = now.as_secs();
        match seconds("exp") {
            None => return Err(bad("The token does not say when it expires")),
            Some(exp) if exp.saturating_add(self.skew_s) <= now_s => {
                return Err(IamError::ExpiredToken("Token must not be expired".to_owned()));
            }
            Some(_) => {}
        }
        if seconds("nbf").is_some_and(|nbf| nbf > now_s + self.skew_s)
            || seconds("iat").is_some_and(|iat| iat > now_s + self.skew_s)
        {
            return Err(bad("The token is not valid yet"));
        }
        let given: Vec<&str> = match &claims["aud"] {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let given = given.into_iter().chain(claims["azp"].as_str());
        let audience = given.into_iter().find(|aud| audiences.iter().any(|known| known == aud)).map(str::to_owned);
        let audience = audience.ok_or_else(|| bad("Incorrect token audience"))?;
        let subject = claims["sub"].as_str().unwrap_or_default().to_owned();
        Ok(Verified { subject, audience, claims })
    }

    async fn keys(&self, fetch: &dyn Fetch, issuer: &str, id: Option<&str>) -> Result<Arc<Vec<Key>>> {
        if let Some(known) = self.issuers.lock().get(issuer) {
            let has = id.is_none() || known.keys.iter().any(|key| key.id.as_deref() == id);
            let age = known.fetched.elapsed();
            if age < KEEP && (has || age < AGAIN) {
                return Ok(Arc::clone(&known.keys));
            }
        }
        let away = |why: String| IamError::IdpCommunication(format!("The identity provider {issuer}: {why}"));
        let base = issuer.trim_end_matches('/');
        let discovery = fetch.get(format!("{base}/.well-known/openid-configuration")).await.map_err(away)?;
        let discovery: Value = serde_json::from_slice(&discovery).map_err(|error| away(error.to_string()))?;
        if discovery["issuer"].as_str().map(|iss| iss.trim_end_matches('/')) != Some(base) {
            return Err(away("its discovery document names another issuer".to_owned()));
        }
        let url = discovery["jwks_uri"].as_str().filter(|url| issuer_name(url).is_some());
        let url = url.ok_or_else(|| away("its discovery document has no usable jwks_uri".to_owned()))?;
        let set = fetch.get(url.to_owned()).await.map_err(away)?;
        let set: Value = serde_json::from_slice(&set).map_err(|error| away(error.to_string()))?;
        let keys: Vec<Key> =
            set["keys"].as_array().into_iter().flatten().take(KEYS_MAX).filter_map(Key::read).collect();
        let keys = Arc::new(keys);
        let mut issuers = self.issuers.lock();
        if issuers.len() >= ISSUERS_MAX {
            issuers.clear();
        }
        issuers.insert(issuer.to_owned(), Issuer { keys: Arc::clone(&keys), fetched: Instant::now() });
        Ok(keys)
    }
}

impl Key {
    fn read(value: &Value) -> Option<Self> {
        if value["use"].as_str().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(value[name].as_str()?.trim_end_matches('=')).ok();
        let point = |len: usize| -> Option<Vec<u8>> {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == len && y.len() == len).then(|| [&[4_u8][..], &x, &y].concat())
        };
        let kind = match (value["kty"].as_str()?, value["crv"].as_str()) {
            ("RSA", _) => {
                let strip = |bytes: Vec<u8>| bytes.iter().position(|b| *b != 0).map(|at| bytes[at..].to_vec());
                KeyKind::Rsa { n: strip(bytes("n")?)?, e: strip(bytes("e")?)? }
            }
            ("EC", Some("P-256")) => KeyKind::P256(point(32)?),
            ("EC", Some("P-384")) => KeyKind::P384(point(48)?),
            _ => return None,
        };
        Some(Self { id: value["kid"].as_str().map(str::to_owned), kind })
    }

    /// The key's kind decides which algorithms there are; the token's header only picks among them.
    fn verifies(&self, algorithm: &str, message: &[u8], sig: &[u8]) -> bool {
        match (&self.kind, algorithm) {
            (KeyKind::Rsa { n, e }, _) => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    _ => return false,
                };
                signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, sig).is_ok()
            }
            (KeyKind::P256(point), "ES256") => {
                signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, sig)
                    .is_ok()
            }
            (KeyKind::P384(point), "ES384") => {
                signature::UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                    .verify(message, sig)
                    .is_ok()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::KeyPair as _;

    struct Stand(Vec<u8>);

    impl Fetch for Stand {
        fn get(&self, url: String) -> BoxFuture<'_, std::result::Result<Vec<u8>, String>> {
            let discovery = br#"{"issuer":"https://id.example","jwks_uri":"https://id.example/keys"}"#;
            let body = if url.ends_with("/keys") { self.0.clone() } else { discovery.to_vec() };
            Box::pin(std::future::ready(Ok(body)))
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_secs(1_000_000)
    }

    async fn verify(change: impl Fn(&mut Value, &mut Value)) -> Result<Verified> {
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let key = signature::EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = key.public_key().as_ref();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = serde_json::json!({"kty":"EC","crv":"P-256","kid":"k","use":"sig","x":text(&point[1..33]),"y":text(&point[33..])});
        let mut head = serde_json::json!({"alg":"ES256","kid":"k"});
        let mut claims = serde_json::json!({"iss":"https://id.example","aud":"app","sub":"s","exp":1_000_100});
        change(&mut head, &mut claims);
        let signed = format!("{}.{}", text(head.to_string().as_bytes()), text(claims.to_string().as_bytes()));
        let token = format!("{signed}.{}", text(key.sign(&rng, signed.as_bytes()).unwrap().as_ref()));
        let fetch = Stand(serde_json::json!({"keys":[jwk]}).to_string().into_bytes());
        Verifier::new(60).verify(&fetch, "https://id.example", &["app".to_owned()], &token, now()).await
    }

    #[tokio::test]
    async fn tokens() {
        assert_eq!(verify(|_, _| {}).await.unwrap().subject, "s");
        assert!(matches!(verify(|_, c| c["exp"] = 999_000.into()).await, Err(IamError::ExpiredToken(_))));
        for change in [
            (|_: &mut Value, c: &mut Value| c["aud"] = "other".into()) as fn(&mut Value, &mut Value),
            |_, c| c["iss"] = "https://evil.example".into(),
            |_, c| c["nbf"] = 2_000_000.into(),
            |_, c| c["exp"] = Value::Null,
            |h, _| h["alg"] = "none".into(),
            |h, _| h["alg"] = "HS256".into(),
            |h, _| h["alg"] = "RS256".into(),
            |h, _| h["kid"] = "other".into(),
        ] {
            assert!(matches!(verify(change).await, Err(IamError::InvalidIdentityToken(_))));
        }
    }

    #[test]
    fn issuers() {
        assert_eq!(issuer_name("https://id.example/realm/"), Some("id.example/realm"));
        assert_eq!(issuer_name("http://127.0.0.1:8080"), Some("127.0.0.1:8080"));
        for bad in ["http://id.example", "ftp://x", "https://", "https://a/../b", "https://a b"] {
            assert_eq!(issuer_name(bad), None, "{bad}");
        }
    }
}
