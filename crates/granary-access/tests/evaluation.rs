//! AWS's documented evaluation logic as tables, and a property: the engine agrees with an evaluator that is too simple to
//! be wrong. Documentation: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html>
//! and `reference_policies_elements_condition_operators.html` beside it.
#![allow(missing_docs, clippy::unwrap_used, clippy::type_complexity)]

use std::sync::Arc;

use granary_access::acl::{Acl, Grant, Grantee, Permission};
use granary_access::identity::{Attached, Limit};
use granary_access::policy::{EmptyContext, GivenContext, Key};
use granary_access::{
    BucketFacts, By, Decision, Identity, ObjectFacts, Owner, Ownership, Policy, PolicyKind, PrincipalKind,
    PublicAccessBlock, Question, decide,
};
use granary_types::{ClusterId, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

fn policy(document: &Value) -> Arc<Policy> {
    Arc::new(Policy::parse(document.to_string().as_bytes(), PolicyKind::Identity).unwrap())
}

fn statement(statement: Value) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statement })
}

fn owner(digit: char) -> Arc<Owner> {
    Arc::new(Owner { id: digit.to_string().repeat(64), display_name: format!("owner {digit}") })
}

/// A user of account `digit`, with policies.
fn user(digit: char, policies: &[Value]) -> Identity {
    let owner = owner(digit);
    let account = granary_access::identity::account_id(&owner.id);
    let arn = format!("arn:aws:iam::{account}:user/alice");
    Identity {
        access_key: "AKIAALICE".into(),
        owner,
        account,
        kind: PrincipalKind::User,
        name: "alice".into(),
        id: "AIDAALICE".into(),
        principal: arn.clone(),
        arn,
        policies: policies
            .iter()
            .enumerate()
            .map(|(n, document)| Attached { name: format!("p{n}").into(), policy: policy(document) })
            .collect(),
        ..Identity::anonymous()
    }
}

fn bucket(digit: char, document: Option<Value>) -> BucketFacts {
    let mut facts = BucketFacts::new(digit.to_string().repeat(64), false);
    if let Some(document) = document {
        let policy = Policy::parse(document.to_string().as_bytes(), PolicyKind::Bucket("b")).unwrap();
        facts.is_policy_public = policy.is_public();
        facts.policy = Some(Arc::new(policy));
    }
    facts
}

fn ask(who: &Identity, action: &str, resource: &str, bucket: Option<&BucketFacts>) -> Decision {
    let context = EmptyContext(Timestamp::from_secs(1_795_178_400));
    decide(who, &Question { action, resource, context: &context, bucket, object: None })
}

fn get(who: &Identity, bucket: &BucketFacts) -> Decision {
    ask(who, "s3:GetObject", "arn:aws:s3:::b/k", Some(bucket))
}

const READ: &str = "s3:GetObject";

fn allow_read() -> Value {
    statement(json!({ "Sid": "R", "Effect": "Allow", "Action": READ, "Resource": "*" }))
}

fn deny_read() -> Value {
    statement(json!({ "Sid": "D", "Effect": "Deny", "Action": READ, "Resource": "*" }))
}

fn bucket_says(effect: &str, principal: Value) -> Value {
    statement(
        json!({ "Sid": "B", "Effect": effect, "Principal": principal, "Action": READ, "Resource": "arn:aws:s3:::b/*" }),
    )
}

#[test]
fn within_an_account() {
    let nothing = || None;
    let me = json!({ "AWS": user('a', &[]).arn });
    for (policies, says, allowed) in [
        (vec![], nothing(), false),
        (vec![allow_read()], nothing(), true),
        (vec![deny_read()], nothing(), false),
        (vec![allow_read(), deny_read()], nothing(), false),
        (vec![deny_read(), allow_read()], nothing(), false),
        // Identity or resource: one of them is enough.
        (vec![], Some(bucket_says("Allow", me.clone())), true),
        (vec![], Some(bucket_says("Allow", json!({ "AWS": user('a', &[]).account }))), true),
        (vec![], Some(bucket_says("Allow", json!({ "AWS": user('c', &[]).account }))), false),
        // A denial anywhere is the end.
        (vec![allow_read()], Some(bucket_says("Deny", me.clone())), false),
        (vec![allow_read()], Some(bucket_says("Deny", json!("*"))), false),
        (vec![deny_read()], Some(bucket_says("Allow", me)), false),
    ] {
        let decision = get(&user('a', &policies), &bucket('a', says.clone()));
        assert_eq!(decision.allowed, allowed, "{policies:?} {says:?}: {}", decision.by);
    }
}

#[test]
fn between_accounts() {
    let me = json!({ "AWS": user('a', &[]).arn });
    for (policies, says, allowed) in [
        (vec![allow_read()], None, false),
        (vec![], Some(bucket_says("Allow", me.clone())), false),
        // Both sides must say yes.
        (vec![allow_read()], Some(bucket_says("Allow", me.clone())), true),
        (vec![allow_read()], Some(bucket_says("Allow", json!({ "CanonicalUser": "a".repeat(64) }))), true),
        (vec![allow_read(), deny_read()], Some(bucket_says("Allow", me)), false),
    ] {
        let decision = get(&user('a', &policies), &bucket('b', says.clone()));
        assert_eq!(decision.allowed, allowed, "{policies:?} {says:?}: {}", decision.by);
    }
    // The organisation's buckets are everybody's whose own policies allow.
    let mut organisation = bucket('b', None);
    organisation.is_organisation = true;
    assert!(get(&user('a', &[allow_read()]), &organisation).allowed);
    assert!(!get(&user('a', &[]), &organisation).allowed);
}

#[test]
fn anonymous_and_public() {
    let nobody = Identity::anonymous();
    let mut open = bucket('a', Some(bucket_says("Allow", json!("*"))));
    assert!(open.is_policy_public);
    // All four blocks are on unless somebody took them away.
    assert_eq!(get(&nobody, &open).by, By::PublicAccessBlock);
    assert!(!get(&user('c', &[allow_read()]), &open).allowed);
    assert!(get(&user('a', &[]), &open).allowed, "the own account is not the public");
    open.block = PublicAccessBlock::default();
    assert!(get(&nobody, &open).allowed);
    assert!(!get(&nobody, &bucket('a', None)).allowed);
    let denied = bucket('a', Some(bucket_says("Deny", json!("*"))));
    assert!(!get(&nobody, &denied).allowed);
    // Tied to an address, it is not public.
    let tied = statement(json!({ "Effect": "Allow", "Principal": "*", "Action": READ, "Resource": "arn:aws:s3:::b/*",
        "Condition": { "IpAddress": { "aws:SourceIp": "10.0.0.0/8" } } }));
    assert!(!bucket('a', Some(tied)).is_policy_public);
}

#[test]
fn root_may_do_everything_but_what_a_bucket_policy_denies() {
    let root = Identity::root("ROOT", Arc::new(Owner::root(ClusterId([1; 16]))));
    assert_eq!(get(&root, &bucket('b', None)).by, By::Root);
    let closed = bucket(
        'b',
        Some(statement(json!({ "Effect": "Deny", "Principal": "*", "Action": "s3:*",
        "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"] }))),
    );
    assert!(!get(&root, &closed).allowed);
    for action in ["s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"] {
        assert!(ask(&root, action, "arn:aws:s3:::b", Some(&closed)).allowed, "{action}");
    }
    assert!(ask(&root, "iam:CreateUser", "*", None).allowed);
}

#[test]
fn the_audit_bucket_is_reached_by_who_is_meant_only() {
    use granary_access::policy::builtin;
    let mut trail = bucket('r', None);
    trail.is_organisation = true;
    let object = "arn:aws:s3:::granary-audit/2026/11/20/1-2.parquet";
    let may = |policies: &[Value], resource: &str| ask(&user('a', policies), READ, resource, Some(&trail));
    let on = |action: Value, resource: Value| {
        statement(json!({ "Sid": "S", "Effect": "Allow", "Action": action, "Resource": resource }))
    };
    let named = json!(["arn:aws:s3:::granary-audit", "arn:aws:s3:::granary-audit/*"]);
    for (policies, allowed) in [
        (vec![], false),
        // What is wide without meaning it.
        (vec![allow_read()], false),
        (vec![on(json!("s3:*"), json!("*"))], false),
        (vec![on(json!(READ), json!("arn:aws:s3:::*"))], false),
        (vec![on(json!(READ), json!("arn:aws:s3:::granary-*"))], false),
        (vec![on(json!(READ), json!("arn:aws:s3:::granary-audi?/*"))], false),
        (vec![statement(json!({ "Effect": "Allow", "Action": READ, "NotResource": "arn:aws:s3:::other/*" }))], false),
        (vec![statement(json!({ "Effect": "Allow", "NotAction": "iam:*", "Resource": "*" }))], false),
        (vec![statement(json!({ "Effect": "Allow", "NotAction": "iam:*", "Resource": named }))], false),
        // A name that matches nothing here does not make the wide one mean it.
        (vec![on(json!(READ), json!(["*", "arn:aws:s3:::granary-audit-2/*"]))], false),
        // Who may do everything, and whose policy names it; but a denial is a denial.
        (vec![on(json!("*"), json!("*"))], true),
        (vec![on(json!(READ), named.clone())], true),
        (vec![allow_read(), on(json!("s3:Get*"), named.clone())], true),
        (vec![on(json!("s3:List*"), named.clone())], false),
        (vec![on(json!("*"), json!("*")), deny_read()], false),
    ] {
        let decision = may(&policies, object);
        assert_eq!(decision.allowed, allowed, "{policies:?}: {}", decision.by);
        // Elsewhere the same policies are what they were.
        if policies == [allow_read()] {
            assert!(may(&policies, "arn:aws:s3:::granary-audit-2/k").allowed);
        }
    }
    assert_eq!(may(&[allow_read()], object).by, By::Trail);
    for (name, allowed) in [("admin", true), ("auditor", true), ("readwrite", false), ("readonly", false)] {
        let mut who = user('a', &[]);
        who.policies = vec![Attached { name: name.into(), policy: builtin::find(name).unwrap().1 }];
        for (action, resource) in [(READ, object), ("s3:ListBucket", "arn:aws:s3:::granary-audit")] {
            assert_eq!(ask(&who, action, resource, Some(&trail)).allowed, allowed, "{name} {action}");
            // Also for who asks without the bucket at hand (SimulatePrincipalPolicy).
            assert_eq!(ask(&who, action, resource, None).allowed, allowed, "{name} {action}");
        }
        assert_eq!(ask(&who, "s3:DeleteObject", object, Some(&trail)).allowed, name == "admin", "apply refuses that");
    }
}

#[test]
fn limits_only_narrow() {
    let mut who = user('a', &[allow_read()]);
    let limit = |document: &Value| Limit { name: "the session policy".into(), policies: vec![policy(document)] };
    who.limits = vec![limit(&allow_read())];
    assert!(get(&who, &bucket('a', None)).allowed);
    who.limits = vec![limit(&deny_read())];
    assert!(!get(&who, &bucket('a', None)).allowed);
    let other = statement(json!({ "Effect": "Allow", "Action": "s3:PutObject", "Resource": "*" }));
    who.limits = vec![limit(&other)];
    assert!(matches!(get(&who, &bucket('a', None)).by, By::Limit { statement: None, .. }));
    assert!(
        !ask(&who, "s3:PutObject", "arn:aws:s3:::b/k", Some(&bucket('a', None))).allowed,
        "it allows nothing by itself"
    );
    // One of several session policies is enough; each kind of limit must hold.
    who.limits = vec![Limit { name: "s".into(), policies: vec![policy(&other), policy(&allow_read())] }];
    assert!(get(&who, &bucket('a', None)).allowed);
    let mut root = Identity::root("ROOT", owner('a'));
    root.limits = vec![limit(&other)];
    assert!(!get(&root, &bucket('a', None)).allowed, "a session of the root keys too");
}

#[test]
fn lists_count_only_where_ownership_lets_them() {
    let read = |grantee: Grantee| Some(Acl::new([Grant { grantee, permission: Permission::Read }]).unwrap());
    let mut facts = bucket('b', None);
    facts.acl = read(Grantee::AllUsers);
    facts.block = PublicAccessBlock::default();
    let list = |who: &Identity, facts: &BucketFacts| ask(who, "s3:ListBucket", "arn:aws:s3:::b", Some(facts)).allowed;
    let (nobody, may) =
        (Identity::anonymous(), statement(json!({ "Effect": "Allow", "Action": "s3:*", "Resource": "*" })));
    let stranger = user('c', &[may]);
    assert!(!list(&nobody, &facts) && !list(&stranger, &facts));
    facts.ownership = Ownership::ObjectWriter;
    assert!(list(&nobody, &facts) && list(&stranger, &facts));
    assert!(!list(&user('c', &[]), &facts), "its own account must let it go there");
    facts.block.ignore_public_acls = true;
    assert!(!list(&nobody, &facts));
    facts.acl = read(Grantee::AuthenticatedUsers);
    facts.block = PublicAccessBlock::default();
    assert!(!list(&nobody, &facts) && list(&stranger, &facts));
    facts.acl = read(Grantee::User("c".repeat(64)));
    facts.block = PublicAccessBlock::ALL;
    assert!(list(&stranger, &facts) && !list(&user('d', &[allow_read()]), &facts));

    // An object of another account in the bucket is its writer's to share, not the bucket owner's.
    let object = ObjectFacts { owner: "c".repeat(64), acl: Some(Acl::private(&"c".repeat(64))) };
    let context = EmptyContext(Timestamp::default());
    let read = |who: &Identity| {
        let resource = "arn:aws:s3:::b/k";
        decide(
            who,
            &Question { action: READ, resource, context: &context, bucket: Some(&facts), object: Some(&object) },
        )
        .allowed
    };
    assert!(read(&stranger) && !read(&user('b', &[allow_read()])));
}

/// Conditions: what the request brings, the condition, whether it holds.
#[test]
fn conditions() {
    let table: &[(&[(&str, &str)], Value, bool)] = &[
        (&[("s3:prefix", "a/")], json!({ "StringEquals": { "s3:prefix": "a/" } }), true),
        (&[("s3:prefix", "A/")], json!({ "StringEquals": { "s3:prefix": "a/" } }), false),
        (&[("s3:prefix", "A/")], json!({ "StringEqualsIgnoreCase": { "s3:prefix": "a/" } }), true),
        (&[("s3:prefix", "x")], json!({ "StringEquals": { "s3:prefix": ["a", "x"] } }), true),
        (&[("s3:prefix", "x")], json!({ "StringNotEquals": { "s3:prefix": ["a", "x"] } }), false),
        (&[("s3:prefix", "y")], json!({ "StringNotEquals": { "s3:prefix": ["a", "x"] } }), true),
        (&[("s3:prefix", "home/alice/x")], json!({ "StringLike": { "s3:prefix": "home/${aws:username}/*" } }), true),
        (&[("s3:prefix", "home/bob/x")], json!({ "StringLike": { "s3:prefix": "home/${aws:username}/*" } }), false),
        (&[("s3:prefix", "home/alice/x")], json!({ "StringNotLike": { "s3:prefix": "home/*" } }), false),
        // A missing key: no, but for negated operators and IfExists.
        (&[], json!({ "StringEquals": { "s3:prefix": "a" } }), false),
        (&[], json!({ "StringNotEquals": { "s3:prefix": "a" } }), true),
        (&[], json!({ "StringEqualsIfExists": { "s3:prefix": "a" } }), true),
        (&[("s3:prefix", "b")], json!({ "StringEqualsIfExists": { "s3:prefix": "a" } }), false),
        (&[], json!({ "Null": { "s3:prefix": "true" } }), true),
        (&[("s3:prefix", "b")], json!({ "Null": { "s3:prefix": "true" } }), false),
        (&[("s3:prefix", "b")], json!({ "Null": { "s3:prefix": false } }), true),
        (&[("aws:SourceIp", "10.1.2.3")], json!({ "IpAddress": { "aws:SourceIp": "10.0.0.0/8" } }), true),
        (
            &[("aws:SourceIp", "11.1.2.3")],
            json!({ "IpAddress": { "aws:SourceIp": ["10.0.0.0/8", "192.168.0.1"] } }),
            false,
        ),
        (
            &[("aws:SourceIp", "192.168.0.1")],
            json!({ "IpAddress": { "aws:SourceIp": ["10.0.0.0/8", "192.168.0.1"] } }),
            true,
        ),
        (&[("aws:SourceIp", "11.1.2.3")], json!({ "NotIpAddress": { "aws:SourceIp": "10.0.0.0/8" } }), true),
        (&[("aws:SourceIp", "2001:db8::1")], json!({ "IpAddress": { "aws:SourceIp": "2001:db8::/32" } }), true),
        (&[("aws:SourceIp", "::ffff:10.0.0.1")], json!({ "IpAddress": { "aws:SourceIp": "10.0.0.0/8" } }), true),
        (&[("aws:SourceIp", "1.2.3.4")], json!({ "IpAddress": { "aws:SourceIp": "0.0.0.0/0" } }), true),
        (&[("aws:SecureTransport", "false")], json!({ "Bool": { "aws:SecureTransport": "true" } }), false),
        (&[("aws:SecureTransport", "true")], json!({ "Bool": { "aws:SecureTransport": true } }), true),
        (&[("s3:max-keys", "10")], json!({ "NumericLessThanEquals": { "s3:max-keys": 10 } }), true),
        (&[("s3:max-keys", "11")], json!({ "NumericLessThanEquals": { "s3:max-keys": "10" } }), false),
        (&[("s3:max-keys", "many")], json!({ "NumericLessThan": { "s3:max-keys": "10" } }), false),
        (&[("s3:TlsVersion", "1.3")], json!({ "NumericGreaterThanEquals": { "s3:TlsVersion": "1.2" } }), true),
        (&[], json!({ "DateGreaterThan": { "aws:CurrentTime": "2026-11-20T00:00:00Z" } }), true),
        (&[], json!({ "DateLessThan": { "aws:CurrentTime": "2026-11-20T00:00:00Z" } }), false),
        (&[], json!({ "DateLessThan": { "aws:EpochTime": "1795178401" } }), true),
        (&[], json!({ "NumericLessThan": { "aws:EpochTime": 1_795_178_400 } }), false),
        (&[("aws:Referer", "cafe")], json!({ "BinaryEquals": { "aws:Referer": "Y2FmZQ==" } }), false),
        (&[("aws:Referer", "Y2FmZQ==")], json!({ "BinaryEquals": { "aws:Referer": "Y2FmZQ==" } }), true),
        (&[], json!({ "ArnLike": { "aws:PrincipalArn": "arn:aws:iam::*:user/*" } }), true),
        (&[], json!({ "ArnEquals": { "aws:PrincipalArn": "arn:aws:iam::*:role/*" } }), false),
        (&[], json!({ "ArnNotLike": { "aws:PrincipalArn": "arn:aws:iam::*:role/*" } }), true),
        (&[], json!({ "StringEquals": { "aws:PrincipalType": "User", "aws:userid": "AIDAALICE" } }), true),
        (
            &[],
            json!({ "StringEquals": { "aws:principaltype": "User" }, "Bool": { "aws:SecureTransport": "true" } }),
            false,
        ),
        // Several values.
        (
            &[("s3:RequestObjectTagKeys", "a"), ("s3:RequestObjectTagKeys", "b")],
            json!({ "ForAllValues:StringEquals": { "s3:RequestObjectTagKeys": ["a", "b", "c"] } }),
            true,
        ),
        (
            &[("s3:RequestObjectTagKeys", "a"), ("s3:RequestObjectTagKeys", "z")],
            json!({ "ForAllValues:StringEquals": { "s3:RequestObjectTagKeys": ["a", "b", "c"] } }),
            false,
        ),
        (
            &[("s3:RequestObjectTagKeys", "a"), ("s3:RequestObjectTagKeys", "z")],
            json!({ "ForAnyValue:StringEquals": { "s3:RequestObjectTagKeys": ["a", "b", "c"] } }),
            true,
        ),
        (&[], json!({ "ForAllValues:StringEquals": { "s3:RequestObjectTagKeys": "a" } }), true),
        (&[], json!({ "ForAnyValue:StringEquals": { "s3:RequestObjectTagKeys": "a" } }), false),
        (
            &[("s3:ExistingObjectTag/team", "blue")],
            json!({ "StringEquals": { "s3:ExistingObjectTag/team": "blue" } }),
            true,
        ),
        (
            &[("s3:ExistingObjectTag/Team", "blue")],
            json!({ "StringEquals": { "s3:ExistingObjectTag/team": "blue" } }),
            false,
        ),
        (&[("my.idp:sub", "x")], json!({ "StringEquals": { "my.idp:sub": "x" } }), true),
    ];
    for (given, condition, want) in table {
        let document = statement(json!({ "Effect": "Allow", "Action": READ, "Resource": "*", "Condition": condition }));
        let mut values: Vec<(Key, Vec<String>)> = Vec::new();
        for (key, value) in *given {
            let key = Key::parse(key).unwrap();
            match values.iter_mut().find(|(known, _)| *known == key) {
                Some((_, all)) => all.push((*value).to_owned()),
                None => values.push((key, vec![(*value).to_owned()])),
            }
        }
        let rest = EmptyContext(Timestamp::from_secs(1_795_178_400));
        let context = GivenContext { given: values, rest: &rest };
        let who = user('a', &[document]);
        let question =
            Question { action: READ, resource: "arn:aws:s3:::b/k", context: &context, bucket: None, object: None };
        assert_eq!(decide(&who, &question).allowed, *want, "{given:?} {condition}");
    }
}

#[test]
fn not_action_not_resource_and_variables() {
    let may =
        |document: Value, action: &str, resource: &str| ask(&user('a', &[document]), action, resource, None).allowed;
    let all_but_delete = statement(json!({ "Effect": "Allow", "NotAction": "s3:Delete*", "Resource": "*" }));
    assert!(may(all_but_delete.clone(), "s3:GetObject", "arn:aws:s3:::b/k"));
    assert!(!may(all_but_delete, "s3:DeleteObject", "arn:aws:s3:::b/k"));
    let elsewhere = statement(
        json!({ "Effect": "Allow", "Action": "s3:*", "NotResource": ["arn:aws:s3:::secret", "arn:aws:s3:::secret/*"] }),
    );
    assert!(may(elsewhere.clone(), "s3:GetObject", "arn:aws:s3:::b/k"));
    assert!(!may(elsewhere, "s3:GetObject", "arn:aws:s3:::secret/k"));
    let home =
        statement(json!({ "Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::b/home/${aws:username}/*" }));
    assert!(may(home.clone(), "s3:GetObject", "arn:aws:s3:::b/home/alice/k"));
    assert!(!may(home, "s3:GetObject", "arn:aws:s3:::b/home/bob/k"));
    // In the old version they are letters.
    let old = json!({ "Version": "2008-10-17", "Statement": { "Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::b/${aws:username}" } });
    assert!(may(old.clone(), "s3:GetObject", "arn:aws:s3:::b/${aws:username}"));
    assert!(!may(old, "s3:GetObject", "arn:aws:s3:::b/alice"));
    // A user's name is text, whatever is in it.
    let mut star = user(
        'a',
        &[statement(json!({ "Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::b/${aws:username}/*" }))],
    );
    star.name = "*".into();
    assert!(!ask(&star, READ, "arn:aws:s3:::b/bob/k", None).allowed);
    assert!(ask(&star, READ, "arn:aws:s3:::b/*/k", None).allowed);
    // Who has no name matches no variable of it.
    let mut role = user(
        'a',
        &[statement(json!({ "Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::b/${aws:username}*" }))],
    );
    role.kind = PrincipalKind::AssumedRole;
    assert!(!ask(&role, READ, "arn:aws:s3:::b/", None).allowed);
}

#[test]
fn wrong_documents_are_refused_by_name() {
    let ok = json!({ "Effect": "Allow", "Action": "s3:GetObject", "Resource": "*" });
    let with = |name: &str, value: Value| {
        let mut changed = ok.clone();
        changed[name] = value;
        statement(changed)
    };
    for (document, word) in [
        (json!({ "Version": "2020-01-01", "Statement": ok }), "Version"),
        (json!({ "Version": "2012-10-17" }), "Statement"),
        (json!({ "Version": "2012-10-17", "Statement": [] }), "Statement"),
        (json!({ "Statement": ok, "Extra": 1 }), "Extra"),
        (with("Effect", json!("allow")), "effect"),
        (with("Resorce", json!("*")), "Resorce"),
        (with("NotAction", json!("s3:*")), "NotAction"),
        (with("Action", json!("GetObject")), "action"),
        (with("Action", json!("s3:GetObjet")), "action"),
        (with("Action", json!([])), "Action"),
        (with("Resource", json!("bucket/key")), "resource"),
        (with("Principal", json!("*")), "Principal"),
        (with("Condition", json!({ "StringEqual": { "aws:SourceIp": "x" } })), "StringEqual"),
        (with("Condition", json!({ "IpAddress": { "aws:SourceIp": "10.0.0.0/99" } })), "10.0.0.0/99"),
        (with("Condition", json!({ "DateLessThan": { "aws:CurrentTime": "tomorrow" } })), "tomorrow"),
        (with("Condition", json!({ "Bool": { "aws:SecureTransport": "yes" } })), "yes"),
        (with("Condition", json!({ "StringEquals": { "nonsense": "x" } })), "nonsense"),
        (with("Resource", json!("arn:aws:s3:::b/${aws:username")), "${"),
    ] {
        let error = Policy::parse(document.to_string().as_bytes(), PolicyKind::Identity).unwrap_err();
        assert!(error.to_string().contains(word), "{document}: {error}");
    }
    let twice = br#"{"Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*","Condition":{"Bool":{"aws:SecureTransport":"true"},"Bool":{"aws:SecureTransport":"false"}}}}"#;
    assert!(Policy::parse(twice, PolicyKind::Identity).unwrap_err().to_string().contains("twice"));
    let long = format!("{}{}", statement(ok.clone()), " ".repeat(20 * 1024));
    assert!(Policy::parse(long.as_bytes(), PolicyKind::Identity).is_err());

    let bucket = |value: Value| Policy::parse(statement(value).to_string().as_bytes(), PolicyKind::Bucket("b"));
    let fine = json!({ "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*" });
    assert!(bucket(fine.clone()).is_ok());
    for (name, value, word) in [
        ("Principal", json!("alice"), "principal"),
        ("Principal", json!({ "AWS": "arn:aws:iam::12:user/x" }), "principal"),
        ("Resource", json!("arn:aws:s3:::other/*"), "resource"),
        ("Resource", json!("*"), "resource"),
        ("Resource", json!("arn:aws:s3:::b"), "does not apply"),
        ("Action", json!("iam:CreateUser"), "action"),
        ("Condition", json!({ "StringEquals": { "s3:prefixx": "a" } }), "s3:prefixx"),
    ] {
        let mut changed = fine.clone();
        changed[name] = value;
        let error = bucket(changed.clone()).unwrap_err();
        assert!(error.to_string().contains(word), "{changed}: {error}");
    }
    let mut nobody = fine;
    nobody["NotPrincipal"] = nobody["Principal"].take();
    nobody.as_object_mut().unwrap().remove("Principal");
    assert!(bucket(nobody).is_err(), "Allow with NotPrincipal lets in the world");
}

// --- The simple evaluator --------------------------------------------------------------------------------------

/// `*` and `?`, by recursion.
fn glob(pattern: &[char], text: &[char]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some('*'), _) => glob(&pattern[1..], text) || (!text.is_empty() && glob(pattern, &text[1..])),
        (Some('?'), Some(_)) => glob(&pattern[1..], &text[1..]),
        (Some(p), Some(t)) => p == t && glob(&pattern[1..], &text[1..]),
        _ => false,
    }
}

fn matches(patterns: &Value, text: &str, fold: bool) -> bool {
    let fold = |text: &str| -> Vec<char> { if fold { text.to_lowercase() } else { text.to_owned() }.chars().collect() };
    let one = |pattern: &Value| glob(&fold(pattern.as_str().unwrap()), &fold(text));
    patterns.as_array().map_or_else(|| one(patterns), |many| many.iter().any(one))
}

fn applies(statement: &Value, action: &str, resource: &str, prefix: Option<&str>, account: &str) -> bool {
    let element = |name: &str, not: &str, text: &str, fold: bool| match (&statement[name], &statement[not]) {
        (Value::Null, Value::Null) => true,
        (Value::Null, patterns) => !matches(patterns, text, fold),
        (patterns, _) => matches(patterns, text, fold),
    };
    let principal = match &statement["Principal"] {
        Value::Null | Value::String(_) => true,
        named => named["AWS"] == account,
    };
    let condition = match &statement["Condition"]["StringLike"]["s3:prefix"] {
        Value::Null => match &statement["Condition"]["StringNotLike"]["s3:prefix"] {
            Value::Null => true,
            patterns => prefix.is_none_or(|prefix| !matches(patterns, prefix, false)),
        },
        patterns => prefix.is_some_and(|prefix| matches(patterns, prefix, false)),
    };
    principal
        && condition
        && element("Action", "NotAction", action, true)
        && element("Resource", "NotResource", resource, false)
}

fn naive(
    identity: &[Value],
    bucket: &[Value],
    same: bool,
    action: &str,
    resource: &str,
    prefix: Option<&str>,
    account: &str,
) -> bool {
    let says = |statements: &[Value], effect: &str| {
        statements.iter().any(|s| s["Effect"] == effect && applies(s, action, resource, prefix, account))
    };
    let denied = says(identity, "Deny") || says(bucket, "Deny");
    let (mine, theirs) = (says(identity, "Allow"), says(bucket, "Allow"));
    !denied && if same { mine || theirs } else { mine && theirs }
}

fn pick(values: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(values)
}

const ACTIONS: &[&str] = &["s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:DeleteObject"];
const ACTION_PATTERNS: &[&str] =
    &["s3:*", "s3:Get*", "S3:getobject", "s3:PutObject", "s3:?etObject", "s3:*Object", "s3:List*", "*"];
const RESOURCES: &[&str] = &["arn:aws:s3:::b", "arn:aws:s3:::b/k", "arn:aws:s3:::b/a/k", "arn:aws:s3:::b/a"];
const BUCKET_PATTERNS: &[&str] = &[
    "arn:aws:s3:::b",
    "arn:aws:s3:::b/*",
    "arn:aws:s3:::b/a/*",
    "arn:aws:s3:::b/?",
    "arn:aws:s3:::b*",
    "arn:aws:s3:::b/a*k",
];
const PREFIXES: &[&str] = &["", "a", "a/", "a/b"];
const PREFIX_PATTERNS: &[&str] = &["*", "a", "a*", "a/*", "?"];

fn a_statement(of_bucket: bool) -> impl Strategy<Value = Value> {
    let parts = (
        prop::bool::ANY,
        prop::collection::vec(pick(ACTION_PATTERNS), 1..3),
        prop::collection::vec(pick(BUCKET_PATTERNS), 1..3),
        0..4_u8,
        0..4_u8,
        prop::option::of((prop::bool::ANY, pick(PREFIX_PATTERNS))),
        0..3_u8,
    );
    parts.prop_map(move |(allow, actions, resources, not_action, not_resource, condition, principal)| {
        let mut statement = json!({ "Effect": if allow { "Allow" } else { "Deny" } });
        statement[if not_action == 0 { "NotAction" } else { "Action" }] = json!(actions);
        statement[if not_resource == 0 { "NotResource" } else { "Resource" }] = json!(resources);
        if let Some((negated, pattern)) = condition {
            let operator = if negated { "StringNotLike" } else { "StringLike" };
            statement["Condition"] = json!({ operator: { "s3:prefix": pattern } });
        }
        if of_bucket {
            statement["Principal"] = match principal {
                0 => json!("*"),
                1 => json!({ "AWS": user('a', &[]).account }),
                _ => json!({ "AWS": "000000000000" }),
            };
        }
        statement
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_simple_evaluator(
        identity in prop::collection::vec(a_statement(false), 0..4),
        bucket_statements in prop::collection::vec(a_statement(true), 0..3),
        same in prop::bool::ANY,
        action in pick(ACTIONS),
        resource in pick(RESOURCES),
        prefix in prop::option::of(pick(PREFIXES)),
    ) {
        let who = user('a', &if identity.is_empty() { vec![] } else { vec![statement(json!(identity))] });
        // Which actions may stand beside which resources in a bucket's policy is another matter: left out here.
        let bucket_statements: Vec<Value> = bucket_statements
            .into_iter()
            .filter(|s| Policy::parse(statement(s.clone()).to_string().as_bytes(), PolicyKind::Bucket("b")).is_ok())
            .collect();
        let document = (!bucket_statements.is_empty()).then(|| statement(json!(bucket_statements)));
        let mut facts = bucket(if same { 'a' } else { 'b' }, document);
        facts.block = PublicAccessBlock::default();
        let rest = EmptyContext(Timestamp::default());
        let given = prefix.map(|prefix| (Key::Prefix, vec![prefix.to_owned()])).into_iter().collect();
        let context = GivenContext { given, rest: &rest };
        let question = Question { action, resource, context: &context, bucket: Some(&facts), object: None };
        let want = naive(&identity, &bucket_statements, same, action, resource, prefix, &who.account);
        prop_assert_eq!(decide(&who, &question).allowed, want);
    }
}
