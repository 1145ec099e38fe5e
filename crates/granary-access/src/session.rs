//! Temporary credentials: an access key, a secret and a token that says, sealed, whose they are and until when.
//!
//! Nothing is kept of them. The secret is derived from the access key with a key of the keyring, and the token is sealed and
//! bound to the access key: both survive restarts, no client can make or change either, and a token is worth
//! nothing with another access key. They end with their time, or with the user or role that they are of.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use granary_crypto::{BlobKey, Secret32};
use granary_types::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::credentials::Secret;
use crate::error::IamError;
use crate::iam::{Iam, Refused, Snapshot};
use crate::identity::{Attached, Identity, Limit, Session};
use crate::root_keys::{UPPER, random};
use crate::state::{Result, prepared, role_arn, user_arn};

/// Access keys of sessions begin with this, as AWS's do, and no others may.
pub const PREFIX: &str = "ASIA";
/// Letters behind it.
const RANDOM_LEN: usize = 20;
/// Characters of a session policy.
pub const SESSION_POLICY_MAX: usize = 2_048;
/// Bytes of a token, at most: it must fit into a header.
const TOKEN_MAX: usize = 8_192;
/// Identities of sessions kept ready.
const CACHED_MAX: usize = 4_096;

/// Whose session it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Of {
    /// The root keys'.
    Root,
    /// A user's, by account, name and unique id.
    User(String, String, String),
    /// A role's: account, name, unique id, and the name of the session.
    Role(String, String, String, String),
    /// An access key's, whoever has it: a session for a bucket (S3's `CreateSession`).
    Key(String),
    /// Another session's, by its access key and token: a session for a bucket that was asked for with temporary credentials.
    Session(String, String),
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whose session.
    pub of: Of,
    /// When it began, in seconds since 1970.
    pub issued_s: u64,
    /// When it ends.
    pub expires_s: u64,
    /// Session policies: documents.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Session policies: ARNs of managed ones.
    #[serde(default)]
    pub policy_arns: Vec<String>,
    /// The identity provider it came through.
    #[serde(default)]
    pub provider: Option<String>,
}

/// What a client gets.
pub struct Issued {
    /// Access key.
    pub access_key: String,
    /// Secret.
    pub secret: Zeroizing<String>,
    /// Session token.
    pub token: String,
    /// When they end.
    pub expires: Timestamp,
}

struct Cached {
    token: String,
    generation: u64,
    expires: Timestamp,
    identity: Arc<Identity>,
}

/// Makes and reads temporary credentials.
pub(crate) struct Sessions {
    secret: Secret32,
    token: BlobKey,
    cache: Mutex<HashMap<String, Cached>>,
}

impl Sessions {
    pub(crate) fn new(key: &Secret32) -> Self {
        Self {
            secret: key.derive("granary session secrets v1", b""),
            token: BlobKey::new(&key.derive("granary session tokens v1", b"")),
            cache: Mutex::default(),
        }
    }

    /// Whether an access key is a session's, by its form.
    pub(crate) fn is_session(access_key: &str) -> bool {
        access_key.len() == PREFIX.len() + RANDOM_LEN
            && access_key.starts_with(PREFIX)
            && access_key.bytes().all(|b| UPPER.contains(&b))
    }

    fn derived(&self, access_key: &str) -> Zeroizing<String> {
        let secret = self.secret.derive("secret", access_key.as_bytes());
        Zeroizing::new(STANDARD_NO_PAD.encode(&secret.expose()[..30]))
    }

    /// The secret of a session's access key. Every well-formed one has a secret; without its token it is worth nothing.
    pub(crate) fn secret(&self, access_key: &str) -> Option<Secret> {
        if !Self::is_session(access_key) {
            return None;
        }
        Secret::new(self.derived(access_key).to_string()).ok()
    }

    fn issue(&self, claims: &Claims) -> Result<Issued> {
        let access_key = format!("{PREFIX}{}", random(RANDOM_LEN, UPPER));
        let plain = serde_json::to_vec(claims).map_err(|error| IamError::Unavailable(error.to_string()))?;
        let token = STANDARD.encode(self.token.seal(access_key.as_bytes(), &plain));
        if token.len() > TOKEN_MAX {
            return Err(IamError::ValidationError("the session policies are too long".to_owned()));
        }
        let expires = Timestamp::from_secs(claims.expires_s);
        Ok(Issued { secret: self.derived(&access_key), access_key, token, expires })
    }

    fn claims(&self, access_key: &str, token: &str) -> std::result::Result<Claims, Refused> {
        if token.len() > TOKEN_MAX {
            return Err(Refused::Token);
        }
        let sealed = STANDARD.decode(token).map_err(|_| Refused::Token)?;
        let plain = self.token.open(access_key.as_bytes(), &sealed).map_err(|_| Refused::Token)?;
        serde_json::from_slice(&plain).map_err(|_| Refused::Token)
    }

    /// Who a session's requests come from.
    pub(crate) fn identity(
        &self,
        iam: &Iam,
        snapshot: &Snapshot,
        access_key: &str,
        token: &str,
        now: Timestamp,
    ) -> std::result::Result<Arc<Identity>, Refused> {
        if let Some(cached) = self.cache.lock().get(access_key)
            && cached.generation == snapshot.generation
            && bool::from(cached.token.as_bytes().ct_eq(token.as_bytes()))
        {
            return if cached.expires > now { Ok(Arc::clone(&cached.identity)) } else { Err(Refused::TokenExpired) };
        }
        let claims = self.claims(access_key, token)?;
        let expires = Timestamp::from_secs(claims.expires_s);
        if expires <= now {
            return Err(Refused::TokenExpired);
        }
        let identity = Arc::new(iam.identity_of_session(snapshot, access_key, claims)?);
        let mut cache = self.cache.lock();
        if cache.len() >= CACHED_MAX {
            cache.retain(|_, cached| cached.expires > now && cached.generation == snapshot.generation);
            if cache.len() >= CACHED_MAX {
                cache.clear();
            }
        }
        let cached = Cached {
            token: token.to_owned(),
            generation: snapshot.generation,
            expires,
            identity: Arc::clone(&identity),
        };
        cache.insert(access_key.to_owned(), cached);
        Ok(identity)
    }
}

impl Iam {
    /// Issues temporary credentials. Whether the caller may have them was decided before.
    ///
    /// # Errors
    /// [`IamError`] when a session policy is wrong or too long.
    pub fn issue_session(
        &self,
        of: Of,
        duration_s: u64,
        policies: Vec<String>,
        policy_arns: Vec<String>,
        provider: Option<String>,
    ) -> Result<Issued> {
        if policies.iter().map(String::len).sum::<usize>() > SESSION_POLICY_MAX || policy_arns.len() > 10 {
            return Err(IamError::ValidationError(format!(
                "a session policy has at most {SESSION_POLICY_MAX} characters, and at most 10 managed ones go with it"
            )));
        }
        for policy in &policies {
            prepared(policy)?;
        }
        let account = match &of {
            Of::User(account, ..) | Of::Role(account, ..) => account.clone(),
            Of::Root | Of::Key(_) | Of::Session(..) => self.root.account.clone(),
        };
        let state = self.state();
        for arn in &policy_arns {
            state.policy_by_arn(&account, arn)?;
        }
        let issued_s = self.clock.now().as_secs();
        let claims =
            Claims { of, issued_s, expires_s: issued_s.saturating_add(duration_s), policies, policy_arns, provider };
        self.sessions.issue(&claims)
    }

    /// Issues credentials for one bucket: they are worth what `who`'s own are, within `policy`, and end with them.
    /// `token` is the session token that `who` came with.
    ///
    /// # Errors
    /// [`IamError::AccessDenied`] to a session that is itself for a bucket; else as [`Self::issue_session`].
    pub fn issue_bucket_session(
        &self,
        who: &Identity,
        token: Option<&str>,
        duration_s: u64,
        policy: String,
    ) -> Result<Issued> {
        let now_s = self.clock.now().as_secs();
        let ends = self.snapshot.load().key_expires(&who.access_key);
        let mut duration_s = ends.map_or(duration_s, |ends| duration_s.min(ends.as_secs().saturating_sub(now_s)));
        let of = match token.filter(|_| Sessions::is_session(&who.access_key)) {
            None => Of::Key(who.access_key.clone()),
            Some(token) => {
                let denied = |_| IamError::AccessDenied("the session cannot be read".to_owned());
                let claims = self.sessions.claims(&who.access_key, token).map_err(denied)?;
                if matches!(claims.of, Of::Key(_) | Of::Session(..)) {
                    return Err(IamError::AccessDenied("a session for a bucket makes no other".to_owned()));
                }
                duration_s = duration_s.min(claims.expires_s.saturating_sub(now_s));
                Of::Session(who.access_key.clone(), token.to_owned())
            }
        };
        self.issue_session(of, duration_s, vec![policy], Vec::new(), None)
    }

    fn identity_of_session(
        &self,
        snapshot: &Snapshot,
        access_key: &str,
        claims: Claims,
    ) -> std::result::Result<Identity, Refused> {
        let state = &snapshot.state;
        let (mut identity, issuer) = match &claims.of {
            Of::Root => ((*self.root).clone(), self.root.arn.clone()),
            Of::User(account, name, id) => {
                let user = state.user(account, name).ok().filter(|user| user.id == *id).ok_or(Refused::Token)?;
                (state.identity_of(user), user_arn(user))
            }
            Of::Role(account, name, id, session) => {
                let role = state.role(account, name).ok().filter(|role| role.id == *id).ok_or(Refused::Token)?;
                let mut identity = state.identity_of_role(role);
                identity.arn = format!("arn:aws:sts::{account}:assumed-role/{}/{session}", role.name);
                identity.name = format!("{}/{session}", role.name);
                identity.id = format!("{}:{session}", role.id);
                (identity, role_arn(role))
            }
            Of::Key(key) => {
                let identity = snapshot.of_key(&self.root, key, self.clock.now())?;
                let issuer = identity.arn.clone();
                ((*identity).clone(), issuer)
            }
            // Once only: sessions for buckets make no others.
            Of::Session(key, token) => {
                let outer = self.sessions.claims(key, token)?;
                if Timestamp::from_secs(outer.expires_s) <= self.clock.now() {
                    return Err(Refused::TokenExpired);
                }
                if matches!(outer.of, Of::Key(_) | Of::Session(..)) {
                    return Err(Refused::Token);
                }
                let identity = self.identity_of_session(snapshot, key, outer)?;
                let issuer = identity.session.as_ref().map_or_else(String::new, |session| session.issuer.clone());
                (identity, issuer)
            }
        };
        access_key.clone_into(&mut identity.access_key);
        let mut limit = Vec::new();
        for document in &claims.policies {
            limit.push(prepared(document).map_err(|_| Refused::Token)?);
        }
        for arn in &claims.policy_arns {
            let Attached { policy, .. } = state.policy_by_arn(&identity.account, arn).map_err(|_| Refused::Token)?;
            limit.push(policy);
        }
        if !limit.is_empty() {
            identity.limits.push(Limit { name: "the session policy".into(), policies: limit });
        }
        identity.session = Some(Session {
            issued: Timestamp::from_secs(claims.issued_s),
            expires: Timestamp::from_secs(claims.expires_s),
            issuer,
            provider: claims.provider,
        });
        Ok(identity)
    }
}
