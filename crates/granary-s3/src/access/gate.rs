//! The gate: may this caller do that? Puts together what the decision needs to know of bucket and object.
//!
//! Guarantees: whatever cannot be found out (a policy that cannot be read, an index that is away) refuses. What a bucket's
//! documents say is read once per change of the bucket, not per request.

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt as _;
use granary_access::acl::Acl;
use granary_access::ownership::{OWNERSHIP_DOCUMENT, PUBLIC_ACCESS_DOCUMENT};
use granary_access::{
    BucketFacts, By, Decision, Iam, Identity, ObjectFacts, Ownership, Policy, PolicyKind, PublicAccessBlock, Question,
    decide,
};
use granary_meta::records::BucketRecord;
use granary_store::api::{GetRequest, Portion, ReadCondition, Unlock};
use granary_store::{ObjectStore, StoreError};
use granary_types::{BucketId, BucketName, ObjectKey, VersionId};
use parking_lot::RwLock;
use s3s::{S3Error, S3ErrorCode};

use super::view::View;
use crate::convert;
use crate::error::Fail;

/// Buckets whose documents are kept ready.
const FACTS_MAX: usize = 10_000;
/// Names of documents.
const POLICY_DOCUMENT: &str = "policy";
const ACL_DOCUMENT: &str = "acl";

/// Decides, for the front door.
pub(crate) struct Gate {
    pub(crate) iam: Arc<Iam>,
    store: Arc<dyn ObjectStore>,
    #[allow(clippy::type_complexity)]
    facts: RwLock<HashMap<BucketId, (Arc<BucketRecord>, Arc<BucketFacts>)>>,
}

/// What is asked for: a bucket, or an object in it.
pub(crate) struct Target<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) version: Option<&'a str>,
}

impl Target<'_> {
    pub(crate) fn arn(&self) -> String {
        match self.key {
            Some(key) => format!("arn:aws:s3:::{}/{key}", self.bucket),
            None => format!("arn:aws:s3:::{}", self.bucket),
        }
    }
}

impl Gate {
    pub(crate) fn new(iam: Arc<Iam>, store: Arc<dyn ObjectStore>) -> Self {
        Self { iam, store, facts: RwLock::default() }
    }

    /// The bucket's record by name, if there is one.
    pub(crate) fn bucket(&self, name: &str) -> Result<Option<Arc<BucketRecord>>, Fail> {
        let name = convert::bucket_name(name)?;
        match self.store.bucket(&name) {
            Ok(record) => Ok(Some(record)),
            Err(StoreError::NoSuchBucket) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What decisions need to know of a bucket.
    pub(crate) fn facts(&self, record: &Arc<BucketRecord>) -> Arc<BucketFacts> {
        if let Some((known, facts)) = self.facts.read().get(&record.id)
            && Arc::ptr_eq(known, record)
        {
            return Arc::clone(facts);
        }
        let facts = Arc::new(bucket_facts(record, &self.iam.root().owner.id));
        let mut cache = self.facts.write();
        if cache.len() >= FACTS_MAX {
            cache.clear();
        }
        cache.insert(record.id, (Arc::clone(record), Arc::clone(&facts)));
        facts
    }

    /// Decides on an action on the service as a whole, or on a bucket that is yet to be.
    pub(crate) fn ask_outside(&self, who: &Identity, view: &View<'_>, action: &str, resource: &str) -> Decision {
        decide(who, &Question { action, resource, context: view, bucket: None, object: None })
    }

    /// Decides on an action on a bucket or object.
    ///
    /// # Errors
    /// The store's, when what the object is now counts and cannot be read.
    pub(crate) async fn ask(
        &self,
        who: &Identity,
        view: &mut View<'_>,
        action: &str,
        record: &Arc<BucketRecord>,
        target: &Target<'_>,
    ) -> Result<Decision, Fail> {
        let facts = self.facts(record);
        if who.is_root && who.limits.is_empty() && facts.policy.is_none() {
            return Ok(Decision { allowed: true, by: By::Root });
        }
        let mut object = None;
        if let Some(key) = target.key
            && (who.needs_object() || facts.needs_object())
        {
            object = self.object(record, key, target.version, view).await?;
        }
        view.owner = Some(record.owner.clone());
        let arn = target.arn();
        Ok(decide(
            who,
            &Question { action, resource: &arn, context: view, bucket: Some(&facts), object: object.as_ref() },
        ))
    }

    /// What the object is now; `None` where there is none.
    async fn object(
        &self,
        record: &Arc<BucketRecord>,
        key: &str,
        version: Option<&str>,
        view: &mut View<'_>,
    ) -> Result<Option<ObjectFacts>, Fail> {
        view.tags.clear();
        let (Ok(key), Ok(version)) = (ObjectKey::new(key), convert::version_id(version)) else { return Ok(None) };
        let request = request(record.name.clone(), key, version);
        match self.store.head(request).await {
            Ok(info) => {
                let attributes = info.object.attributes;
                view.tags = attributes.tags;
                let acl = Acl::decode(attributes.acl.as_deref(), &attributes.owner).ok();
                Ok(Some(ObjectFacts { owner: attributes.owner, acl }))
            }
            Err(
                StoreError::NoSuchKey { .. }
                | StoreError::NoSuchVersion
                | StoreError::NoSuchBucket
                | StoreError::IsDeleteMarker { .. },
            ) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// As AWS where lists count: whether a caller whom nothing lets read the object is told that it is not there, because
    /// the caller may list the bucket. (An object that is not there has no list that could let anybody read it.)
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn tells_missing(
        &self,
        who: &Identity,
        view: &mut View<'_>,
        record: &Arc<BucketRecord>,
        target: &Target<'_>,
    ) -> Result<bool, Fail> {
        let Some(key) = target.key else { return Ok(false) };
        if !self.facts(record).ownership.has_acls() || !self.may_list(who, view, record) {
            return Ok(false);
        }
        Ok(self.object(record, key, target.version, view).await?.is_none())
    }

    /// Whether the caller may list a bucket: asked where a listing shows the bucket, and where a missing key is
    /// answered. Looks at no object, and conditions on headers do not hold.
    pub(crate) fn may_list(&self, who: &Identity, view: &mut View<'_>, record: &Arc<BucketRecord>) -> bool {
        let target = Target { bucket: record.name.as_str(), key: None, version: None };
        let asked = self.ask(who, view, "s3:ListBucket", record, &target);
        matches!(asked.now_or_never(), Some(Ok(Decision { allowed: true, .. })))
    }
}

/// What decisions need to know of a bucket. `root` is the canonical id of the root account.
#[must_use]
pub fn bucket_facts(record: &BucketRecord, root: &str) -> BucketFacts {
    let document = |name: &str| record.documents.get(name).map(Vec::as_slice);
    let mut facts = BucketFacts::new(record.owner.clone(), record.owner == root);
    facts.block = PublicAccessBlock::effective(document(PUBLIC_ACCESS_DOCUMENT));
    facts.ownership = Ownership::effective(document(OWNERSHIP_DOCUMENT));
    if facts.ownership.has_acls() {
        // A list that cannot be read grants nothing.
        facts.acl = Acl::decode(document(ACL_DOCUMENT), &record.owner).ok();
    }
    if let Some(policy) = document(POLICY_DOCUMENT).filter(|policy| !policy.is_empty()) {
        let policy = Policy::parse(policy, PolicyKind::Bucket(record.name.as_str())).unwrap_or_else(|error| {
            tracing::error!(bucket = record.name.as_str(), %error, "the bucket's policy cannot be read: all but the root keys are refused");
            unreadable()
        });
        facts.is_policy_public = policy.is_public();
        facts.policy = Some(Arc::new(policy));
    }
    facts
}

fn request(bucket: BucketName, key: ObjectKey, version: Option<VersionId>) -> GetRequest {
    GetRequest {
        bucket,
        key,
        version,
        portion: Portion::Whole,
        condition: ReadCondition::default(),
        unlock: Unlock::Unneeded,
    }
}

/// Stands in for a policy that cannot be read: what it denied must stay denied.
fn unreadable() -> Policy {
    let document = br#"{"Version":"2012-10-17","Statement":{"Sid":"Unreadable","Effect":"Deny","Principal":"*","NotAction":"s3:GetBucketLocation","NotResource":"arn:aws:s3:::x"}}"#;
    Policy::parse(document, PolicyKind::Bucket("x")).expect("a test reads it")
}

/// What a refused caller is told: who, what, and why, where it is of the account; nothing more to others.
pub(crate) fn denied(who: &Identity, action: &str, resource: &str, by: &By) -> S3Error {
    let plain = || S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied");
    let because = match by {
        _ if who.is_anonymous() => return plain(),
        By::Nothing => "no policy allows it".to_owned(),
        By::Identity { .. } | By::Limit { .. } => format!("it is denied by {by}"),
        By::OwnAccount | By::Trail => by.to_string(),
        _ => return plain(),
    };
    S3Error::with_message(
        S3ErrorCode::AccessDenied,
        format!(
            "User: {} is not authorized to perform: {action} on resource: \"{resource}\" because {because}",
            who.arn
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_access::policy::{EmptyContext, Env, Verdict};

    #[test]
    fn what_cannot_be_read_denies() {
        let (policy, who) = (unreadable(), Identity::anonymous());
        let env = Env { identity: &who, context: &EmptyContext(granary_types::Timestamp::default()) };
        for action in ["s3:GetObject", "s3:PutBucketPolicy", "s3:ListBucket"] {
            assert!(matches!(policy.judge(action, "arn:aws:s3:::any/key", &env), Verdict::Denied(_)));
        }
    }
}
