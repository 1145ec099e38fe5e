//! The directory of users and keys: what requests look up, and how it changes.
//!
//! Guarantees: looking up takes no lock; a change is durable before it is seen, and seen by every request that
//! begins after it was answered; a look-up tells nothing but "unknown" about keys that do not exist. One change at a time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use granary_crypto::{BlobKey, Secret32};
use granary_types::{Clock, SystemClock, Timestamp};
use zeroize::Zeroizing;

use crate::credentials::{AccessKeyError, Owner, Secret, check_access_key};
use crate::damping::Damping;
use crate::error::IamError;
use crate::identity::Identity;
use crate::limits::Limits;
use crate::oidc::Fetch;
use crate::records::{Account, LastUsed, MemoryRecords, Records};
use crate::session::Sessions;
use crate::state::{Kept, Result, State, Table};

/// Folder of all records.
const FOLDER: &str = "iam/";
/// Record of when keys were last used.
const LAST_USED: &str = "iam/last-used";

/// Why a request with a known signature is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such access key, or it is switched off.
    #[error("The AWS Access Key Id you provided does not exist in our records.")]
    Unknown,
    /// The access key has expired.
    #[error("The access key has expired.")]
    Expired,
    /// The session token is missing, malformed, or another key's.
    #[error("The provided token is malformed or otherwise invalid.")]
    Token,
    /// The session has ended.
    #[error("The provided token has expired.")]
    TokenExpired,
}

/// An access key, ready to be used.
struct Key {
    secret: Secret,
    identity: Arc<Identity>,
    expires: Option<Timestamp>,
    /// Seconds since 1970; 0: never.
    last_used_s: Arc<AtomicU64>,
}

/// What requests see: made anew with every change.
pub(crate) struct Snapshot {
    pub(crate) state: State,
    /// Counts the changes since start.
    pub(crate) generation: u64,
    keys: HashMap<String, Key>,
}

impl Snapshot {
    /// Who a long-lived access key stands for.
    ///
    /// # Errors
    /// [`Refused`], where it is gone or has expired.
    pub(crate) fn of_key(
        &self,
        root: &Arc<Identity>,
        access_key: &str,
        now: Timestamp,
    ) -> std::result::Result<Arc<Identity>, Refused> {
        if access_key == root.access_key {
            return Ok(Arc::clone(root));
        }
        let key = self.keys.get(access_key).ok_or(Refused::Unknown)?;
        if key.expires.is_some_and(|expires| expires <= now) {
            return Err(Refused::Expired);
        }
        Ok(Arc::clone(&key.identity))
    }

    /// When an access key ends, if it does.
    pub(crate) fn key_expires(&self, access_key: &str) -> Option<Timestamp> {
        self.keys.get(access_key)?.expires
    }
}

/// The directory.
pub struct Iam {
    records: Arc<dyn Records>,
    seal: BlobKey,
    pub(crate) sessions: Sessions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) root: Arc<Identity>,
    root_secret: Secret,
    anonymous: Arc<Identity>,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    changing: tokio::sync::Mutex<()>,
    fetch: std::sync::OnceLock<Arc<dyn Fetch>>,
    damping: Damping,
    limits: Limits,
}

impl Iam {
    /// Reads the directory. `key` seals the records and session tokens; `owner` is the root account's.
    ///
    /// # Errors
    /// [`IamError`] when records cannot be read.
    pub fn open(
        records: Arc<dyn Records>,
        key: &Secret32,
        clock: Arc<dyn Clock>,
        root_access_key: &str,
        root_secret: Secret,
        owner: Owner,
    ) -> Result<Self> {
        check_access_key(root_access_key)?;
        let root = Arc::new(Identity::root(root_access_key, Arc::new(owner)));
        let iam = Self {
            records,
            seal: BlobKey::new(&key.derive("granary access records v1", b"")),
            sessions: Sessions::new(key),
            clock,
            root,
            root_secret,
            anonymous: Arc::new(Identity::anonymous()),
            snapshot: ArcSwap::from_pointee(Snapshot { state: State::default(), generation: 0, keys: HashMap::new() }),
            changing: tokio::sync::Mutex::new(()),
            fetch: std::sync::OnceLock::new(),
            damping: Damping::default(),
            limits: Limits::default(),
        };
        let state = iam.load()?;
        let used = iam.load_last_used();
        iam.publish(state, |access_key| used.get(access_key).copied().unwrap_or(0));
        Ok(iam)
    }

    /// With other limits than AWS's.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { damping: Damping::new(&limits), limits, ..self }
    }

    /// The limits.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Just the root keys, kept in memory: for tests.
    ///
    /// # Errors
    /// [`AccessKeyError`] when the access key is malformed.
    pub fn with_root(access_key: &str, secret: Secret, owner: Owner) -> std::result::Result<Self, AccessKeyError> {
        check_access_key(access_key)?;
        let records: Arc<dyn Records> = Arc::new(MemoryRecords::default());
        Self::open(records, &Secret32::random(), Arc::new(SystemClock), access_key, secret, owner)
            .map_err(|_| AccessKeyError::AccessKey)
    }

    // --- looking up -------------------------------------------------------------------------------------------

    /// The secret of an access key that may be used, to verify a signature with.
    #[must_use]
    pub fn secret(&self, access_key: &str) -> Option<Secret> {
        if access_key == self.root.access_key {
            return Some(self.root_secret.clone());
        }
        if let Some(key) = self.snapshot.load().keys.get(access_key) {
            return Some(key.secret.clone());
        }
        self.sessions.secret(access_key)
    }

    /// Who it is that signed with `access_key` (the signature was verified), with the session token of the request.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn authenticate(&self, access_key: &str, token: Option<&str>) -> std::result::Result<Arc<Identity>, Refused> {
        if access_key == self.root.access_key && token.is_none() {
            return Ok(Arc::clone(&self.root));
        }
        let now = self.clock.now();
        let snapshot = self.snapshot.load();
        if let Some(key) = snapshot.keys.get(access_key) {
            if token.is_some_and(|token| !token.is_empty()) {
                return Err(Refused::Token);
            }
            if key.expires.is_some_and(|expires| expires <= now) {
                return Err(Refused::Expired);
            }
            key.last_used_s.store(now.as_secs(), Ordering::Relaxed);
            return Ok(Arc::clone(&key.identity));
        }
        if Sessions::is_session(access_key) {
            return self.sessions.identity(self, &snapshot, access_key, token.ok_or(Refused::Token)?, now);
        }
        Err(Refused::Unknown)
    }

    /// Who an access key stands for, whatever its session: for `explain` and audit.
    #[must_use]
    pub fn identity(&self, access_key: &str) -> Option<Arc<Identity>> {
        if access_key == self.root.access_key {
            return Some(Arc::clone(&self.root));
        }
        self.snapshot.load().keys.get(access_key).map(|key| Arc::clone(&key.identity))
    }

    /// Whether a canonical id is an account's, nobody's, or one that AWS documents.
    #[must_use]
    pub fn has_canonical(&self, id: &str) -> bool {
        id == self.root.owner.id
            || id == self.anonymous.owner.id
            || crate::acl::DOCUMENTED.contains(&id)
            || self.snapshot.load().state.accounts.values().any(|account| account.canonical == id)
    }

    /// The name of the account with a canonical id.
    #[must_use]
    pub fn display_name(&self, id: &str) -> Option<String> {
        if id == self.root.owner.id {
            return Some(self.root.owner.display_name.clone());
        }
        let snapshot = self.snapshot.load();
        snapshot.state.accounts.values().find(|account| account.canonical == id).map(|account| account.name.clone())
    }

    /// Nobody.
    #[must_use]
    pub fn anonymous(&self) -> Arc<Identity> {
        Arc::clone(&self.anonymous)
    }

    /// The holder of the root keys.
    #[must_use]
    pub fn root(&self) -> Arc<Identity> {
        Arc::clone(&self.root)
    }

    /// Everything, as it is now.
    #[must_use]
    pub fn state(&self) -> State {
        self.snapshot.load().state.clone()
    }

    /// Seconds since 1970 when a key was last used.
    #[must_use]
    pub fn last_used_s(&self, access_key: &str) -> Option<u64> {
        let snapshot = self.snapshot.load();
        let used = snapshot.keys.get(access_key).map(|key| key.last_used_s.load(Ordering::Relaxed));
        used.filter(|secs| *secs > 0)
    }

    /// Who fails to sign, and how often.
    #[must_use]
    pub const fn damping(&self) -> &Damping {
        &self.damping
    }

    /// How identity providers' keys are fetched; without it no web identities are taken.
    pub fn set_fetch(&self, fetch: Arc<dyn Fetch>) {
        let _ = self.fetch.set(fetch);
    }

    /// How identity providers' keys are fetched.
    #[must_use]
    pub fn fetch(&self) -> Option<Arc<dyn Fetch>> {
        self.fetch.get().cloned()
    }

    /// The time that decisions go by.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    // --- changing ---------------------------------------------------------------------------------------------

    /// Changes the directory: `edit` works on a copy; what is different afterwards is written, then shown to requests.
    ///
    /// # Errors
    /// `edit`'s, with nothing changed; [`IamError::Unavailable`] when writing failed (a change of several records may
    /// then be there in part; deletions of keys go first, so that no key outlives its user).
    pub async fn change<T>(&self, edit: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let _one = self.changing.lock().await;
        let before = self.snapshot.load_full();
        let mut after = before.state.clone();
        let done = edit(&mut after)?;
        let mut writes = Vec::new();
        self.difference(&before.state.keys, &after.keys, &mut writes)?;
        // A key that was given to a user must not come before the user.
        let (gone, new): (Vec<_>, Vec<_>) = writes.into_iter().partition(|(_, value)| value.is_none());
        let mut writes = gone;
        self.difference(&before.state.accounts, &after.accounts, &mut writes)?;
        self.difference(&before.state.policies, &after.policies, &mut writes)?;
        self.difference(&before.state.users, &after.users, &mut writes)?;
        self.difference(&before.state.groups, &after.groups, &mut writes)?;
        self.difference(&before.state.roles, &after.roles, &mut writes)?;
        self.difference(&before.state.providers, &after.providers, &mut writes)?;
        writes.extend(new);
        for (name, value) in writes {
            if let Err(error) = self.records.set(name, value).await {
                // What was written before it holds: show what is there, not what was wanted.
                match self.load() {
                    Ok(state) => self.republish(state),
                    Err(error) => tracing::error!(%error, "users and policies could not be read again"),
                }
                return Err(IamError::Unavailable(error));
            }
        }
        self.republish(after);
        Ok(done)
    }

    fn difference<T: Kept>(
        &self,
        before: &Table<T>,
        after: &Table<T>,
        writes: &mut Vec<(String, Option<Bytes>)>,
    ) -> Result<()> {
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            writes.push((record_name::<T>(key), None));
        }
        for (key, value) in after {
            if before.get(key).is_some_and(|old| Arc::ptr_eq(old, value)) {
                continue;
            }
            let name = record_name::<T>(key);
            let plain =
                Zeroizing::new(serde_json::to_vec(&**value).map_err(|error| IamError::Unavailable(error.to_string()))?);
            let sealed = Bytes::from(self.seal.seal(name.as_bytes(), &plain));
            writes.push((name, Some(sealed)));
        }
        Ok(())
    }

    fn load(&self) -> Result<State> {
        let mut state = State { root: self.root.account.clone(), ..State::default() };
        let account = Account {
            id: self.root.account.clone(),
            canonical: self.root.owner.id.clone(),
            name: self.root.owner.display_name.clone(),
            created: Timestamp::default(),
        };
        state.accounts.insert(account.id.clone(), Arc::new(account));
        for (name, sealed) in self.records.load(FOLDER).map_err(IamError::Unavailable)? {
            let Some((folder, _)) = name.strip_prefix(FOLDER).and_then(|rest| rest.split_once('/')) else { continue };
            let read = match folder {
                "account" => self.read(&name, &sealed, &mut state.accounts),
                "user" => self.read(&name, &sealed, &mut state.users),
                "group" => self.read(&name, &sealed, &mut state.groups),
                "role" => self.read(&name, &sealed, &mut state.roles),
                "policy" => self.read(&name, &sealed, &mut state.policies),
                "key" => self.read(&name, &sealed, &mut state.keys),
                "oidc" => self.read(&name, &sealed, &mut state.providers),
                _ => Err("of a kind that this version does not know".to_owned()),
            };
            // One record that cannot be read must not lock everybody out; what hangs on it is not allowed.
            if let Err(why) = read {
                tracing::error!(record = %name, why, "a record of users and policies cannot be read and is passed over");
            }
        }
        Ok(state)
    }

    fn read<T: Kept>(&self, name: &str, sealed: &[u8], table: &mut Table<T>) -> std::result::Result<(), String> {
        let plain = Zeroizing::new(self.seal.open(name.as_bytes(), sealed).map_err(|error| error.to_string())?);
        let value: T = serde_json::from_slice(&plain).map_err(|error| error.to_string())?;
        let key = value.key();
        if record_name::<T>(&key) != name {
            return Err("it is another's".to_owned());
        }
        table.insert(key, Arc::new(value));
        Ok(())
    }

    fn load_last_used(&self) -> BTreeMap<String, u64> {
        let records = self.records.load(LAST_USED).unwrap_or_default();
        let found = records.iter().find(|(name, _)| name == LAST_USED);
        let plain = found.and_then(|(name, sealed)| self.seal.open(name.as_bytes(), sealed).ok());
        plain.and_then(|plain| serde_json::from_slice::<LastUsed>(&plain).ok()).unwrap_or_default().at_s
    }

    fn republish(&self, state: State) {
        let before = self.snapshot.load_full();
        self.publish(state, |access_key| {
            before.keys.get(access_key).map_or(0, |key| key.last_used_s.load(Ordering::Relaxed))
        });
    }

    fn publish(&self, state: State, used: impl Fn(&str) -> u64) {
        let before = self.snapshot.load_full();
        let mut keys = HashMap::with_capacity(state.keys.len());
        for record in state.keys.values().filter(|key| key.is_active) {
            let Ok(secret) = Secret::new(record.secret.to_string()) else { continue };
            let Some(identity) = state.identity_of_key(record) else { continue };
            let last_used_s = match before.keys.get(&record.access_key) {
                Some(old) => Arc::clone(&old.last_used_s),
                None => Arc::new(AtomicU64::new(used(&record.access_key))),
            };
            let key = Key { secret, identity: Arc::new(identity), expires: record.expires, last_used_s };
            keys.insert(record.access_key.clone(), key);
        }
        let generation = before.generation + 1;
        self.snapshot.store(Arc::new(Snapshot { state, generation, keys }));
    }

    /// Writes down when keys were last used. To be called now and then, and at the end: what was not written is
    /// forgotten by a crash.
    ///
    /// # Errors
    /// [`IamError::Unavailable`].
    pub async fn save_last_used(&self) -> Result<()> {
        let _one = self.changing.lock().await;
        let used = LastUsed {
            at_s: {
                let snapshot = self.snapshot.load();
                let read = |key: &Key| key.last_used_s.load(Ordering::Relaxed);
                snapshot.keys.iter().map(|(name, key)| (name.clone(), read(key))).filter(|(_, at)| *at > 0).collect()
            },
        };
        if used.at_s == self.load_last_used() {
            return Ok(());
        }
        let plain = serde_json::to_vec(&used).map_err(|error| IamError::Unavailable(error.to_string()))?;
        let sealed = Bytes::from(self.seal.seal(LAST_USED.as_bytes(), &plain));
        self.records.set(LAST_USED.to_owned(), Some(sealed)).await.map_err(IamError::Unavailable)
    }
}

fn record_name<T: Kept>(key: &str) -> String {
    format!("{FOLDER}{}/{key}", T::FOLDER)
}

impl fmt::Debug for Iam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Iam({} access keys)", self.snapshot.load().keys.len())
    }
}
