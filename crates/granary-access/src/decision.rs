//! May this identity do that? The one place where it is decided.
//!
//! In this order, as AWS's evaluation logic has it (`docs/adr/0003-identity-and-access.md`): a statement that denies,
//! wherever it is, ends it; limits (session policies) must allow; then it is the identity's policies, the bucket's policy and
//! ACLs, which of them depends on whose the bucket is. What nothing allows is denied. Pure: no clock, no I/O.

use std::fmt;
use std::sync::Arc;

use granary_types::names::AUDIT_BUCKET;

use crate::acl::{Acl, Caller, Permission};
use crate::identity::{Attached, Identity, Limit};
use crate::ownership::{Ownership, PublicAccessBlock};
use crate::policy::{Context, Env, Policy, Verdict};

/// What a decision needs to know of a bucket.
#[derive(Debug, Clone)]
pub struct BucketFacts {
    /// Canonical id of the owner.
    pub owner: String,
    /// It is the organisation's: the root account's.
    pub is_organisation: bool,
    /// Its policy.
    pub policy: Option<Arc<Policy>>,
    /// Its policy lets in everybody.
    pub is_policy_public: bool,
    /// Its public access block.
    pub block: PublicAccessBlock,
    /// Who owns its objects.
    pub ownership: Ownership,
    /// Its ACL, where it has one that is not private.
    pub acl: Option<Acl>,
}

impl BucketFacts {
    /// A bucket with nothing set: closed to the public, without ACLs.
    #[must_use]
    pub fn new(owner: String, is_organisation: bool) -> Self {
        Self {
            owner,
            is_organisation,
            policy: None,
            is_policy_public: false,
            block: PublicAccessBlock::ALL,
            ownership: Ownership::BucketOwnerEnforced,
            acl: None,
        }
    }

    /// Whether a decision about objects can depend on what the object is now.
    #[must_use]
    pub fn needs_object(&self) -> bool {
        self.ownership != Ownership::BucketOwnerEnforced
            || self.policy.as_ref().is_some_and(|policy| policy.needs_object())
    }
}

/// What a decision may need to know of an object. Its tags are the context's to tell.
#[derive(Debug, Clone, Default)]
pub struct ObjectFacts {
    /// Canonical id of the owner.
    pub owner: String,
    /// Its ACL, where it has one that is not private.
    pub acl: Option<Acl>,
}

/// What is asked.
pub struct Question<'a> {
    /// Such as `s3:GetObject`.
    pub action: &'a str,
    /// Such as `arn:aws:s3:::bucket/key`.
    pub resource: &'a str,
    /// The request.
    pub context: &'a dyn Context,
    /// The bucket that the resource is, or is in, where there is one.
    pub bucket: Option<&'a BucketFacts>,
    /// The object, where [`Identity::needs_object`] or [`BucketFacts::needs_object`] ask for it and it is there.
    pub object: Option<&'a ObjectFacts>,
}

/// The answer, and what gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// What decided.
    pub by: By,
}

/// What decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The root keys, which may do everything that no bucket policy denies.
    Root,
    /// A statement of a policy of the identity.
    Identity {
        /// The policy.
        policy: Arc<str>,
        /// `Sid`, or `#1`.
        statement: Arc<str>,
    },
    /// A session policy: a statement of it denied (its name), or none allowed.
    Limit {
        /// The policy.
        policy: Arc<str>,
        /// `Sid`, or `#1`, if one denied.
        statement: Option<Arc<str>>,
    },
    /// A statement of the bucket's policy.
    Bucket {
        /// `Sid`, or `#1`.
        statement: Arc<str>,
    },
    /// A statement of a role's trust policy.
    Trust {
        /// The role's name.
        role: Arc<str>,
        /// `Sid`, or `#1`.
        statement: Arc<str>,
    },
    /// The audit bucket, which wide policies do not reach: only who may do everything, or whose policy names the bucket, reads it.
    Trail,
    /// A call that needs no permission.
    Unneeded,
    /// A grant of the bucket's ACL or the object's.
    Acl(&'static str),
    /// The public access block withholds what the bucket's policy would allow.
    PublicAccessBlock,
    /// The bucket (or object) is another account's, which does not let this one in.
    OtherAccount,
    /// The bucket lets it in, but no policy of the identity allows it to go there.
    OwnAccount,
    /// No statement allows it.
    Nothing,
    /// An operation that has no action: nothing can allow it.
    Unknown,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("the root keys"),
            Self::Identity { policy, statement } => write!(f, "statement {statement} of policy {policy}"),
            Self::Limit { policy, statement: Some(statement) } => write!(f, "statement {statement} of {policy}"),
            Self::Limit { policy, statement: None } => write!(f, "{policy}, no statement of which allows it"),
            Self::Bucket { statement } => write!(f, "statement {statement} of the bucket's policy"),
            Self::Trust { role, statement } => write!(f, "statement {statement} of the trust policy of role {role}"),
            Self::Trail => f.write_str(
                "the audit bucket is read by who may do everything and by policies that name it, and no statement of these allows it",
            ),
            Self::Unneeded => f.write_str("an operation that needs no permission"),
            Self::Acl(which) => write!(f, "a grant of the {which}'s ACL"),
            Self::PublicAccessBlock => f.write_str("the bucket's public access block"),
            Self::OtherAccount => {
                f.write_str("the bucket is another account's, and neither its policy nor an ACL allows it")
            }
            Self::OwnAccount => f.write_str("the bucket allows it, but no statement of the identity's policies does"),
            Self::Nothing => f.write_str("no statement allows it"),
            Self::Unknown => f.write_str("the operation has no action that could be allowed"),
        }
    }
}

impl Decision {
    const fn deny(by: By) -> Self {
        Self { allowed: false, by }
    }

    const fn allow(by: By) -> Self {
        Self { allowed: true, by }
    }
}

/// Actions on a bucket's policy, which the root keys always have: else a policy could lock everybody out for good.
const UNDENIABLE: [&str; 3] = ["s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"];

/// The audit bucket, as resources name it.
const TRAIL: &str = "arn:aws:s3:::granary-audit";
const _: () = assert!(TRAIL.len() == "arn:aws:s3:::".len() + AUDIT_BUCKET.len());

/// Whether a resource is the audit bucket, or in it.
fn is_trail(resource: &str) -> bool {
    resource.strip_prefix(TRAIL).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Decides.
#[must_use]
pub fn decide(who: &Identity, question: &Question<'_>) -> Decision {
    let &Question { action, resource, context, bucket, object } = question;
    let bucket_policy = bucket.and_then(|bucket| bucket.policy.as_deref());
    if who.is_root && who.limits.is_empty() && (bucket_policy.is_none() || UNDENIABLE.contains(&action)) {
        return Decision::allow(By::Root);
    }
    let env = Env { identity: who, context };
    let is_trail = is_trail(resource);

    // Denials first, wherever they are.
    let by_bucket = bucket_policy.map_or(Verdict::Silent, |policy| policy.judge(action, resource, &env));
    if let Verdict::Denied(statement) = by_bucket {
        return Decision::deny(By::Bucket { statement });
    }
    let mut by_identity = who.is_root.then_some(By::Root);
    for Attached { name, policy } in &who.policies {
        let verdict = match is_trail {
            true => policy.judge_narrowly(action, resource, &env, TRAIL),
            false => policy.judge(action, resource, &env),
        };
        match verdict {
            Verdict::Denied(statement) => {
                return Decision::deny(By::Identity { policy: Arc::clone(name), statement });
            }
            Verdict::Allowed(statement) if by_identity.is_none() => {
                by_identity = Some(By::Identity { policy: Arc::clone(name), statement });
            }
            _ => {}
        }
    }
    let mut limited = None;
    for Limit { name, policies } in &who.limits {
        let mut allows = false;
        for policy in policies {
            match policy.judge(action, resource, &env) {
                Verdict::Allowed(_) => allows = true,
                Verdict::Denied(statement) => {
                    return Decision::deny(By::Limit { policy: Arc::clone(name), statement: Some(statement) });
                }
                Verdict::Silent => {}
            }
        }
        if !allows {
            limited = Some(name);
        }
    }
    if let Some(name) = limited {
        return Decision::deny(By::Limit { policy: Arc::clone(name), statement: None });
    }
    if who.is_root {
        return Decision::allow(By::Root);
    }
    if is_trail {
        return by_identity.map_or(Decision::deny(By::Trail), Decision::allow);
    }
    let Some(bucket) = bucket else {
        return by_identity.map_or(Decision::deny(By::Nothing), Decision::allow);
    };

    // An object of another account in a bucket with ACLs: its owner's to give, not the bucket's.
    let foreign_object = object.filter(|object| {
        bucket.ownership != Ownership::BucketOwnerEnforced && object.owner != bucket.owner && is_owners(action)
    });
    let owner = foreign_object.map_or(bucket.owner.as_str(), |object| object.owner.as_str());
    let is_own = !who.is_anonymous() && (who.owner.id == owner || (bucket.is_organisation && foreign_object.is_none()));

    let restricted = bucket.is_policy_public && bucket.block.restrict_public_buckets && !is_own;
    let withheld = restricted && matches!(by_bucket, Verdict::Allowed(_));
    let by_policy = match by_bucket {
        Verdict::Allowed(statement) if foreign_object.is_none() && !restricted => Some(By::Bucket { statement }),
        _ => None,
    };
    let by_resource = by_policy.or_else(|| granted(who, action, bucket, object).map(By::Acl));
    match (is_own, by_identity, by_resource) {
        (true, Some(by), _) | (true, None, Some(by)) => Decision::allow(by),
        (true, None, None) => Decision::deny(By::Nothing),
        (false, _, Some(by)) if who.is_anonymous() => Decision::allow(by),
        (false, Some(_), Some(by)) => Decision::allow(by),
        (false, None, Some(_)) => Decision::deny(By::OwnAccount),
        (false, _, None) if withheld => Decision::deny(By::PublicAccessBlock),
        (false, Some(_), None) => Decision::deny(By::OtherAccount),
        (false, None, None) => Decision::deny(By::Nothing),
    }
}

/// Actions that an object's owner decides on where ACLs count.
fn is_owners(action: &str) -> bool {
    let name = action.strip_prefix("s3:").unwrap_or(action);
    name.starts_with("GetObject") || matches!(name, "PutObjectAcl" | "PutObjectVersionAcl")
}

/// Whether an ACL grants it; whose.
fn granted(who: &Identity, action: &str, bucket: &BucketFacts, object: Option<&ObjectFacts>) -> Option<&'static str> {
    use Permission::{Read, ReadAcp, Write, WriteAcp};
    if !bucket.ownership.has_acls() {
        return None;
    }
    let (on_bucket, permission) = match action.strip_prefix("s3:")? {
        "ListBucket" | "ListBucketVersions" | "ListBucketMultipartUploads" => (true, Read),
        "PutObject" | "DeleteObject" | "AbortMultipartUpload" | "ListMultipartUploadParts" => (true, Write),
        "GetBucketAcl" => (true, ReadAcp),
        "PutBucketAcl" => (true, WriteAcp),
        "GetObject" | "GetObjectVersion" | "GetObjectTorrent" => (false, Read),
        "GetObjectAcl" | "GetObjectVersionAcl" => (false, ReadAcp),
        "PutObjectAcl" | "PutObjectVersionAcl" => (false, WriteAcp),
        _ => return None,
    };
    let (acl, which) = if on_bucket { (&bucket.acl, "bucket") } else { (&object?.acl, "object") };
    let caller = if who.is_anonymous() { Caller::Anonymous } else { Caller::User(&who.owner.id) };
    acl.as_ref()?.allows(caller, permission, bucket.block.ignore_public_acls).then_some(which)
}
