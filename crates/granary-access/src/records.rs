//! What is kept of users, keys, groups, roles and policies, and how it is sealed.
//!
//! Each is one small system record of the metadata, JSON sealed with a key of the keyring and bound to its name. (The index
//! and the log are sealed besides: secrets lie under two keys.) Fields are only ever added, with defaults.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use futures::future::BoxFuture;
use granary_types::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Where the records lie: the metadata, or a map in tests.
pub trait Records: Send + Sync + 'static {
    /// All records whose names begin with `prefix`.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn load(&self, prefix: &str) -> Result<Vec<(String, Bytes)>, String>;

    /// Writes or removes a record; durable on return.
    ///
    /// # Errors
    /// Why it cannot be written.
    fn set(&self, name: String, value: Option<Bytes>) -> BoxFuture<'_, Result<(), String>>;
}

/// Records in memory.
#[derive(Debug, Default)]
pub struct MemoryRecords(Mutex<BTreeMap<String, Bytes>>);

impl Records for MemoryRecords {
    fn load(&self, prefix: &str) -> Result<Vec<(String, Bytes)>, String> {
        let map = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(map.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(n, v)| (n.clone(), v.clone())).collect())
    }

    fn set(&self, name: String, value: Option<Bytes>) -> BoxFuture<'_, Result<(), String>> {
        let mut map = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match value {
            Some(value) => drop(map.insert(name, value)),
            None => drop(map.remove(&name)),
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

/// An account: an owner of buckets, with its users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// 12 digits.
    pub id: String,
    /// Canonical id: 64 hex digits.
    pub canonical: String,
    /// The name of the user it was made for.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
}

/// What can be attached to users, groups and roles alike.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Policies {
    /// ARNs of managed policies.
    #[serde(default)]
    pub attached: Vec<String>,
    /// Inline policies by name.
    #[serde(default)]
    pub inline: BTreeMap<String, String>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Account.
    pub account: String,
    /// Name, unique in the account.
    pub name: String,
    /// `AIDA...`
    pub id: String,
    /// `/`, or `/team/`.
    pub path: String,
    /// When it was made.
    pub created: Timestamp,
    /// Its policies.
    #[serde(default)]
    pub policies: Policies,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<(String, String)>,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Account.
    pub account: String,
    /// Name, unique in the account.
    pub name: String,
    /// `AGPA...`
    pub id: String,
    /// Path.
    pub path: String,
    /// When it was made.
    pub created: Timestamp,
    /// Its policies.
    #[serde(default)]
    pub policies: Policies,
    /// Members, as `ACCOUNT/NAME`.
    #[serde(default)]
    pub members: Vec<String>,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Account.
    pub account: String,
    /// Name, unique in the account.
    pub name: String,
    /// `AROA...`
    pub id: String,
    /// Path.
    pub path: String,
    /// When it was made.
    pub created: Timestamp,
    /// Its policies.
    #[serde(default)]
    pub policies: Policies,
    /// Who may assume it.
    pub trust: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Longest session, in seconds.
    pub session_s_max: u64,
}

/// A managed policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedPolicy {
    /// Account.
    pub account: String,
    /// Name, unique in the account.
    pub name: String,
    /// `ANPA...`
    pub id: String,
    /// Path.
    pub path: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// The document.
    pub document: String,
    /// Counts up with every change: `v1`, `v2`.
    pub version: u32,
}

/// A service account: a name for a key of a user's, with a policy that narrows what the user may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccount {
    /// What it is called.
    pub name: String,
    /// Narrows; the parent's policies when `None`.
    #[serde(default)]
    pub policy: Option<String>,
}

/// An access key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// The access key.
    pub access_key: String,
    /// Account of its user.
    pub account: String,
    /// Its user.
    pub user: String,
    /// The secret. Only ever written sealed.
    #[serde(with = "secret_text")]
    pub secret: Zeroizing<String>,
    /// It may be used.
    pub is_active: bool,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is refused.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    /// Set if it is a service account's.
    #[serde(default)]
    pub service_account: Option<ServiceAccount>,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey({} of {}/{})", self.access_key, self.account, self.user)
    }
}

/// An OpenID Connect provider that roles may trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OidcProvider {
    /// Account.
    pub account: String,
    /// Issuer, without `https://`.
    pub name: String,
    /// Issuer as in tokens.
    pub url: String,
    /// Audiences that are taken.
    pub client_ids: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
}

/// When and for what a key was last used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LastUsed {
    /// Seconds since 1970, by access key.
    pub at_s: BTreeMap<String, u64>,
}

/// A secret as text, for records that are sealed as a whole.
mod secret_text {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(secret: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new)
    }
}
