//! The directory: what changes do, what requests see of them, and what is left on disk.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use granary_access::manage::NewKey;
use granary_access::records::{MemoryRecords, ServiceAccount};
use granary_access::session::Of;
use granary_access::state::Holder;
use granary_access::{Iam, IamError, Owner, PrincipalKind, Records, Refused, Secret};
use granary_crypto::Secret32;
use granary_types::{Clock, ClusterId, Timestamp};

struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(self.0.load(Ordering::Relaxed))
    }
}

fn open(records: Arc<dyn Records>, clock: &Arc<Hand>) -> Iam {
    let key = Secret32::from_bytes([7; 32]);
    let secret = Secret::new("the-root-secret".into()).unwrap();
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    Iam::open(records, &key, clock, "ROOTKEY", secret, Owner::root(ClusterId([3; 16]))).unwrap()
}

fn fresh() -> (Arc<MemoryRecords>, Arc<Hand>, Iam) {
    let (records, clock) = (Arc::new(MemoryRecords::default()), Arc::new(Hand(AtomicU64::new(1_000_000))));
    let iam = open(Arc::clone(&records) as Arc<dyn Records>, &clock);
    (records, clock, iam)
}

async fn user(iam: &Iam, name: &str) -> (String, String) {
    let now = iam.now();
    let key = iam
        .change(|state| {
            let user = state.create_user(None, name, "/", Vec::new(), now)?;
            state.create_key(&user.account, name, NewKey::default(), now)
        })
        .await
        .unwrap();
    (key.account.clone(), key.access_key.clone())
}

#[tokio::test]
async fn users_have_accounts_of_their_own_and_survive() {
    let (records, clock, iam) = fresh();
    let (account, key) = user(&iam, "alice").await;
    let (other, _) = user(&iam, "bob").await;
    assert_ne!(account, other);
    let alice = iam.authenticate(&key, None).unwrap();
    assert_eq!((alice.name.as_str(), alice.kind, alice.owner.id.len()), ("alice", PrincipalKind::User, 64));
    assert!(!alice.is_root && alice.policies.is_empty());
    iam.change(|state| state.attach(&account, Holder::User("alice"), "arn:aws:iam::aws:policy/readonly"))
        .await
        .unwrap();
    assert_eq!(iam.authenticate(&key, None).unwrap().policies.len(), 1);
    let secret = iam.secret(&key).unwrap().expose().to_owned();
    iam.save_last_used().await.unwrap();

    let again = open(records.clone() as Arc<dyn Records>, &clock);
    let same = again.authenticate(&key, None).unwrap();
    assert_eq!((&same.owner.id, same.policies.len()), (&alice.owner.id, 1));
    assert_eq!(again.secret(&key).unwrap().expose(), secret);
    assert_eq!(again.last_used_s(&key), Some(1_000_000));
    for (name, value) in records.load("iam/").unwrap() {
        let found = |what: &str| value.windows(what.len()).any(|part| part == what.as_bytes());
        assert!(!found(&secret) && !found("alice"), "{name} is not sealed");
    }
}

#[tokio::test]
async fn keys_end_in_every_way_they_can() {
    let (_, clock, iam) = fresh();
    let (account, key) = user(&iam, "alice").await;
    assert_eq!(iam.authenticate("NOBODY", None).err(), Some(Refused::Unknown));
    assert!(iam.secret("NOBODY").is_none());
    iam.change(|state| state.set_key_active(&account, "alice", &key, false)).await.unwrap();
    assert!(iam.secret(&key).is_none());
    iam.change(|state| state.set_key_active(&account, "alice", &key, true)).await.unwrap();
    assert!(iam.authenticate(&key, None).is_ok());
    let new = NewKey { expires: Some(Timestamp::from_secs(1_000_100)), ..NewKey::default() };
    let now = iam.now();
    let expiring = iam.change(|state| state.create_key(&account, "alice", new, now)).await.unwrap();
    assert!(iam.authenticate(&expiring.access_key, None).is_ok());
    clock.0.store(1_000_100, Ordering::Relaxed);
    assert_eq!(iam.authenticate(&expiring.access_key, None).err(), Some(Refused::Expired));
    assert_eq!(
        iam.authenticate(&key, Some("a-token")).err(),
        Some(Refused::Token),
        "a key that is no session's has none"
    );
    iam.change(|state| state.delete_user(&account, "alice", true)).await.unwrap();
    assert_eq!(iam.authenticate(&key, None).err(), Some(Refused::Unknown));
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let (records, _, iam) = fresh();
    let (account, key) = user(&iam, "alice").await;
    let before = records.load("iam/").unwrap();
    let now = iam.now();
    let policy = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:Nonsense","Resource":"*"}}"#;
    for refused in [
        iam.change(|state| state.create_user(None, "ALICE", "/", Vec::new(), now).map(|_| ())).await,
        iam.change(|state| state.create_user(None, "root", "/", Vec::new(), now).map(|_| ())).await,
        iam.change(|state| state.create_user(None, "a b", "/", Vec::new(), now).map(|_| ())).await,
        iam.change(|state| state.create_user(Some("000000000000"), "x", "/", Vec::new(), now).map(|_| ())).await,
        iam.change(|state| state.delete_user(&account, "alice", false)).await,
        iam.change(|state| state.put_inline(&account, Holder::User("alice"), "p", policy)).await,
        iam.change(|state| state.attach(&account, Holder::User("alice"), "arn:aws:iam::aws:policy/nonsense")).await,
        iam.change(|state| {
            let access_key = Some("ASIAMINE".to_owned());
            state.create_key(&account, "alice", NewKey { access_key, ..NewKey::default() }, now).map(|_| ())
        })
        .await,
        iam.change(|state| {
            let access_key = Some(key.clone());
            state.create_key(&account, "alice", NewKey { access_key, ..NewKey::default() }, now).map(|_| ())
        })
        .await,
        iam.change(|state| state.set_key_active(&account, "alice", "ROOTKEY", false)).await,
    ] {
        assert!(refused.is_err());
    }
    assert_eq!(records.load("iam/").unwrap(), before);
}

#[tokio::test]
async fn sessions_narrow_end_and_cannot_be_made_up() {
    let (records, clock, iam) = fresh();
    let (account, key) = user(&iam, "alice").await;
    let id = iam.authenticate(&key, None).unwrap().id.clone();
    let of = || Of::User(account.clone(), "alice".into(), id.clone());
    let policy = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}"#;
    let issued = iam.issue_session(of(), 900, vec![policy.into()], Vec::new(), None).unwrap();
    let session = iam.authenticate(&issued.access_key, Some(&issued.token)).unwrap();
    assert_eq!((session.name.as_str(), session.limits.len()), ("alice", 1));
    assert_eq!(iam.secret(&issued.access_key).unwrap().expose(), issued.secret.as_str());
    assert_eq!(iam.authenticate(&issued.access_key, None).err(), Some(Refused::Token));
    let another = iam.issue_session(of(), 900, Vec::new(), Vec::new(), None).unwrap();
    assert_eq!(iam.authenticate(&issued.access_key, Some(&another.token)).err(), Some(Refused::Token));
    let mut forged = issued.token.clone().into_bytes();
    forged[20] ^= 1;
    let forged = String::from_utf8_lossy(&forged).into_owned();
    assert_eq!(iam.authenticate(&issued.access_key, Some(&forged)).err(), Some(Refused::Token));
    // Cached or not, after a restart or not, it ends with its time, and with its user.
    let again = open(records as Arc<dyn Records>, &clock);
    assert!(again.authenticate(&issued.access_key, Some(&issued.token)).is_ok());
    assert_eq!(again.secret(&issued.access_key).unwrap().expose(), issued.secret.as_str());
    clock.0.store(1_000_900, Ordering::Relaxed);
    assert_eq!(iam.authenticate(&issued.access_key, Some(&issued.token)).err(), Some(Refused::TokenExpired));
    assert_eq!(again.authenticate(&issued.access_key, Some(&issued.token)).err(), Some(Refused::TokenExpired));
    clock.0.store(1_000_000, Ordering::Relaxed);
    let now = iam.now();
    iam.change(|state| state.delete_user(&account, "alice", true)).await.unwrap();
    iam.change(|state| state.create_user(None, "alice", "/", Vec::new(), now)).await.unwrap();
    assert_eq!(iam.authenticate(&issued.access_key, Some(&issued.token)).err(), Some(Refused::Token));
}

#[tokio::test]
async fn service_accounts_are_limited_by_their_own_policy() {
    let (_, _, iam) = fresh();
    let (account, _) = user(&iam, "alice").await;
    let policy = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}}"#;
    let service_account = Some(ServiceAccount { name: "etl".into(), policy: Some(policy.into()) });
    let now = iam.now();
    let new = NewKey { service_account, ..NewKey::default() };
    let key = iam.change(|state| state.create_key(&account, "alice", new, now)).await.unwrap();
    let who = iam.authenticate(&key.access_key, None).unwrap();
    assert_eq!((who.kind, who.limits.len()), (PrincipalKind::ServiceAccount, 1));
}

/// Records whose writing fails after so many.
struct Failing(MemoryRecords, AtomicU64);

impl Records for Failing {
    fn load(&self, prefix: &str) -> Result<Vec<(String, Bytes)>, String> {
        self.0.load(prefix)
    }

    fn set(&self, name: String, value: Option<Bytes>) -> BoxFuture<'_, Result<(), String>> {
        if self.1.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.1.store(0, Ordering::Relaxed);
            return Box::pin(std::future::ready(Err("the log takes no commands".to_owned())));
        }
        self.0.set(name, value)
    }
}

#[tokio::test]
async fn a_write_that_fails_shows_what_is_there() {
    for writes in 0..3 {
        let clock = Arc::new(Hand(AtomicU64::new(1_000_000)));
        let iam = open(Arc::new(Failing(MemoryRecords::default(), AtomicU64::new(writes))), &clock);
        let now = iam.now();
        let made = iam
            .change(|state| {
                let user = state.create_user(None, "alice", "/", Vec::new(), now)?;
                state.create_key(&user.account, "alice", NewKey::default(), now)
            })
            .await;
        assert!(matches!(made, Err(IamError::Unavailable(_))), "account, user and key are three writes");
        let state = iam.state();
        assert_eq!(state.users().count(), usize::from(writes > 1));
        assert!(state.users().all(|user| state.keys_of(user).next().is_none()));
    }
}
