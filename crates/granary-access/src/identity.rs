//! Who a request comes from.

use std::sync::Arc;

use granary_types::Timestamp;

use crate::credentials::Owner;
use crate::policy::Policy;

/// What an identity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// Nobody: the request is not signed.
    Anonymous,
    /// The holder of the root keys.
    Root,
    /// A user with an access key, or a session of one.
    User,
    /// A service account of a user.
    ServiceAccount,
    /// A session of a role.
    AssumedRole,
}

impl PrincipalKind {
    /// CloudTrail's `userIdentity.type`.
    #[must_use]
    pub const fn trail_type(self) -> &'static str {
        match self {
            Self::Anonymous => "AWSAccount",
            Self::Root => "Root",
            Self::User | Self::ServiceAccount => "IAMUser",
            Self::AssumedRole => "AssumedRole",
        }
    }

    /// The value of `aws:PrincipalType`.
    #[must_use]
    pub const fn principal_type(self) -> &'static str {
        match self {
            Self::Anonymous => "Anonymous",
            Self::Root => "Account",
            Self::User | Self::ServiceAccount => "User",
            Self::AssumedRole => "AssumedRole",
        }
    }
}

/// A policy that an identity has, and how it came to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Attached {
    /// Such as `readonly`, or `inline policy p of group g`.
    pub name: Arc<str>,
    /// The policy.
    pub policy: Arc<Policy>,
}

/// What narrows an identity: at least one of these policies must allow, and none deny.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Such as `the session policy`.
    pub name: Arc<str>,
    /// The policies.
    pub policies: Vec<Arc<Policy>>,
}

/// What is known of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// When it began.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// ARN of the role, user or root that it is a session of.
    pub issuer: String,
    /// The identity provider, by its host and path, where it came through one.
    pub provider: Option<String>,
}

/// Who a request comes from, with everything that decisions need of it. Made when users change, not per request.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The access key that signed; empty for anonymous requests.
    pub access_key: String,
    /// The account it acts for: what it creates is this owner's.
    pub owner: Arc<Owner>,
    /// The account's 12 digits; empty for anonymous requests.
    pub account: String,
    /// What it is.
    pub kind: PrincipalKind,
    /// The user's name, or the role's and the session's: `ROLE/SESSION`.
    pub name: String,
    /// The unique id (`aws:userid`).
    pub id: String,
    /// The ARN that `sts get-caller-identity` tells.
    pub arn: String,
    /// The ARN that policies name: of a session of a role, the role's.
    pub principal: String,
    /// Holds the root keys, or is a session of theirs.
    pub is_root: bool,
    /// The policies that can allow.
    pub policies: Vec<Attached>,
    /// Each of these must allow too: session policies, and the own policy of a service account.
    pub limits: Vec<Limit>,
    /// Its tags.
    pub tags: Vec<(String, String)>,
    /// Set for temporary credentials.
    pub session: Option<Session>,
}

/// AWS's canonical id of nobody.
const ANONYMOUS_ID: &str = "65a011a29cdf8ec533ec3d1ccaae921c";

impl Identity {
    /// Nobody.
    #[must_use]
    pub fn anonymous() -> Self {
        let owner = Owner { id: ANONYMOUS_ID.to_owned(), display_name: "anonymous".to_owned() };
        Self {
            access_key: String::new(),
            owner: Arc::new(owner),
            account: String::new(),
            kind: PrincipalKind::Anonymous,
            name: "anonymous".to_owned(),
            id: String::new(),
            arn: String::new(),
            principal: String::new(),
            is_root: false,
            policies: Vec::new(),
            limits: Vec::new(),
            tags: Vec::new(),
            session: None,
        }
    }

    /// The holder of the root keys.
    #[must_use]
    pub fn root(access_key: &str, owner: Arc<Owner>) -> Self {
        let account = account_id(&owner.id);
        let arn = format!("arn:aws:iam::{account}:root");
        Self {
            access_key: access_key.to_owned(),
            kind: PrincipalKind::Root,
            name: "root".to_owned(),
            id: account.clone(),
            principal: arn.clone(),
            arn,
            is_root: true,
            owner,
            account,
            ..Self::anonymous()
        }
    }

    /// Whether it is nobody.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.kind == PrincipalKind::Anonymous
    }

    /// Whether a decision about it can depend on what the object is now.
    #[must_use]
    pub fn needs_object(&self) -> bool {
        let limits = self.limits.iter().flat_map(|limit| &limit.policies);
        self.policies.iter().map(|attached| &attached.policy).chain(limits).any(|policy| policy.needs_object())
    }
}

/// The 12 digits of an account, made from its canonical id.
#[must_use]
pub fn account_id(canonical: &str) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(canonical.as_bytes());
    let number = hash.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{:012}", number % 1_000_000_000_000)
}
