//! Users, groups, access keys and policies, by admin request: `POST /admin/v1/access` with `{"do": ..., ...}`.
//!
//! The root keys signed, so nothing here asks whether it may. What is done is done by [`granary_access::State`], as for
//! IAM's own interface; secrets are in the answer that makes them and nowhere else.

use std::borrow::Cow;
use std::sync::Arc;

use granary_access::identity::account_id;
use granary_access::manage::NewKey;
use granary_access::policy::{EmptyContext, GivenContext, Key, builtin};
use granary_access::records::{AccessKey, Group, ServiceAccount, User};
use granary_access::state::{Holder, group_arn, policy_arn, user_arn};
use granary_access::{BucketFacts, By, Iam, IamError, Identity, ObjectFacts, Question, Secret, State, decide};
use granary_store::ObjectStore as _;
use granary_store::api::{GetRequest, Portion, ReadCondition, Unlock};
use granary_store::node::Node;
use granary_types::date;
use granary_types::{BucketName, ObjectKey, Timestamp};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Refusal};

impl From<IamError> for Refusal {
    fn from(error: IamError) -> Self {
        let status = match &error {
            IamError::NoSuchEntity(_) => StatusCode::NOT_FOUND,
            IamError::EntityAlreadyExists(_) | IamError::DeleteConflict(_) | IamError::LimitExceeded(_) => {
                StatusCode::CONFLICT
            }
            IamError::Unavailable(_) | IamError::IdpCommunication(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self(status, error.to_string())
    }
}

/// An optional text.
fn maybe<'a>(body: &'a Value, name: &str) -> Result<Option<&'a str>, Refusal> {
    match &body[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(Refusal::bad(format!("`{name}` must be text"))),
    }
}

fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    maybe(body, name)?.ok_or_else(|| Refusal::bad(format!("`{name}` is missing")))
}

/// Does what is asked.
pub(super) async fn act(iam: &Iam, node: &Arc<Node>, body: &Value) -> Answer {
    let now = iam.now();
    let what = text(body, "do")?;
    match what {
        "user-create" => {
            let (name, account) = (text(body, "name")?, maybe(body, "account")?);
            let path = maybe(body, "path")?.unwrap_or("/");
            let user = iam
                .change(|state| {
                    let account = account.map(|name| state.find_account(name).map(|a| a.id.clone())).transpose()?;
                    state.create_user(account.as_deref(), name, path, Vec::new(), now)
                })
                .await?;
            Ok(user_json(&iam.state(), &user))
        }
        "user-list" => {
            let state = iam.state();
            let users: Vec<Value> = all_users(&state).map(|user| user_json(&state, user)).collect();
            Ok(json!({ "users": users }))
        }
        "user-delete" => {
            let name = text(body, "name")?;
            iam.change(|state| {
                let user = Arc::clone(state.find_user(name)?);
                state.delete_user(&user.account, &user.name, true)
            })
            .await?;
            Ok(json!({ "deleted": name }))
        }
        "group-create" | "group-delete" | "group-add" | "group-remove" | "group-list" => group(iam, what, body).await,
        "key-create" => key_create(iam, body, now).await,
        "key-list" => {
            let state = iam.state();
            let one = maybe(body, "user")?.map(|name| state.find_user(name)).transpose()?;
            let users: Vec<&Arc<User>> = one.map_or_else(|| all_users(&state).collect(), |user| vec![user]);
            let keys = users.iter().flat_map(|user| state.keys_of(user).map(|key| key_json(iam, user, key)));
            Ok(json!({ "keys": keys.collect::<Vec<_>>() }))
        }
        "key-enable" | "key-disable" | "key-delete" => {
            let access_key = text(body, "access_key")?;
            let user = maybe(body, "user")?;
            iam.change(|state| {
                let (account, name) = key_holder(state, access_key, user)?;
                match what {
                    "key-delete" => state.delete_key(&account, &name, access_key),
                    _ => state.set_key_active(&account, &name, access_key, what == "key-enable"),
                }
            })
            .await?;
            Ok(json!({ "access_key": access_key, "done": what }))
        }
        "policy-attach" | "policy-detach" => {
            let policy = text(body, "policy")?;
            let holder = iam
                .change(|state| {
                    let (account, holder) = holder(state, body)?;
                    let arn = state.policy_arn(&account, policy)?;
                    match what {
                        "policy-attach" => state.attach(&account, holder.as_holder(), &arn)?,
                        _ => state.detach(&account, holder.as_holder(), &arn)?,
                    }
                    Ok(holder)
                })
                .await?;
            Ok(json!({ "policy": policy, "to": holder.to_string(), "done": what }))
        }
        "policy-put" => {
            let (name, document) = (text(body, "name")?, text(body, "document")?);
            let account = iam.root().account.clone();
            let policy = iam.change(|state| state.put_policy(&account, name, "/", "", document, true, now)).await?;
            Ok(json!({ "policy": policy.name, "arn": policy_arn(&policy), "version": policy.version }))
        }
        "policy-delete" => {
            let (name, account) = (text(body, "name")?, iam.root().account.clone());
            iam.change(|state| state.delete_policy(&account, name)).await?;
            Ok(json!({ "deleted": name }))
        }
        "policy-list" => Ok(json!({ "policies": policies(&iam.state()) })),
        "policy-show" => {
            let name = text(body, "name")?;
            let found =
                policies(&iam.state()).into_iter().find(|policy| policy["name"] == name || policy["arn"] == name);
            found.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("there is no policy {name}")))
        }
        "policy-explain" => explain(iam, node, body, now).await,
        other => Err(Refusal::bad(format!("nothing is called {other}"))),
    }
}

fn all_users(state: &State) -> impl Iterator<Item = &Arc<User>> {
    state.users()
}

fn user_json(state: &State, user: &User) -> Value {
    let account = state.find_account(&user.account).ok();
    json!({
        "name": user.name,
        "account": user.account,
        "account_name": account.map(|account| account.name.clone()),
        "canonical_id": account.map(|account| account.canonical.clone()),
        "id": user.id,
        "arn": user_arn(user),
        "created": date::iso(user.created),
        "policies": user.policies.attached.iter().map(|arn| short(arn)).collect::<Vec<_>>(),
        "inline_policies": user.policies.inline.keys().collect::<Vec<_>>(),
        "groups": state.groups_of(user).map(|group| group.name.clone()).collect::<Vec<_>>(),
        "keys": state.keys_of(user).map(|key| key.access_key.clone()).collect::<Vec<_>>(),
    })
}

fn short(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

fn group_json(group: &Group) -> Value {
    json!({
        "name": group.name,
        "account": group.account,
        "arn": group_arn(group),
        "created": date::iso(group.created),
        "policies": group.policies.attached.iter().map(|arn| short(arn)).collect::<Vec<_>>(),
        "inline_policies": group.policies.inline.keys().collect::<Vec<_>>(),
        "members": group.members,
    })
}

fn key_json(iam: &Iam, user: &User, key: &AccessKey) -> Value {
    let expired = key.expires.is_some_and(|expires| expires <= iam.now());
    json!({
        "access_key": key.access_key,
        "user": user.name,
        "account": user.account,
        "status": if expired { "expired" } else if key.is_active { "active" } else { "disabled" },
        "created": date::iso(key.created),
        "expires": key.expires.map(date::iso),
        "last_used": iam.last_used_s(&key.access_key).map(|secs| date::iso(Timestamp::from_secs(secs))),
        "service_account": key.service_account.as_ref().map(|service| service.name.clone()),
        "narrowed": key.service_account.as_ref().is_some_and(|service| service.policy.is_some()),
    })
}

async fn group(iam: &Iam, what: &str, body: &Value) -> Answer {
    let now = iam.now();
    if what == "group-list" {
        let state = iam.state();
        return Ok(json!({ "groups": state.groups().map(|group| group_json(group)).collect::<Vec<_>>() }));
    }
    let name = text(body, "name")?;
    let user = match what {
        "group-add" | "group-remove" => Some(text(body, "user")?),
        _ => None,
    };
    // Groups made here are the root account's, and take members of any account.
    let account = iam.root().account.clone();
    iam.change(|state| match (what, user) {
        ("group-create", _) => state.create_group(&account, name, "/", now).map(|_| ()),
        ("group-delete", _) => state.delete_group(&account, name, true),
        (_, Some(user)) => {
            let user = Arc::clone(state.find_user(user)?);
            state.set_member(&account, name, &user, what == "group-add")
        }
        _ => Ok(()),
    })
    .await?;
    Ok(json!({ "group": name, "done": what }))
}

async fn key_create(iam: &Iam, body: &Value, now: Timestamp) -> Answer {
    let user = text(body, "user")?;
    let access_key = maybe(body, "access_key")?.map(str::to_owned);
    let secret = maybe(body, "secret_key")?.map(|secret| Secret::new(secret.to_owned())).transpose();
    let secret = secret.map_err(IamError::from)?;
    if access_key.is_none() && secret.is_some() {
        return Err(Refusal::bad("a secret key is brought along with its access key: give both"));
    }
    let brought = secret.is_some();
    let expires = match maybe(body, "expires")? {
        None => None,
        Some(text) => Some(when(text, now).ok_or_else(|| {
            Refusal::bad(format!(
                "`{text}` is no time: write 2026-12-31T00:00:00Z, 2026-12-31, or a span such as 90d, 12h, 30m"
            ))
        })?),
    };
    let policy = maybe(body, "policy")?.map(str::to_owned);
    let service_account = match (maybe(body, "service_account")?, policy) {
        (Some(name), policy) => Some(ServiceAccount { name: name.to_owned(), policy }),
        (None, Some(policy)) => Some(ServiceAccount { name: "narrowed".to_owned(), policy: Some(policy) }),
        (None, None) => None,
    };
    let new = NewKey { access_key, secret, expires, service_account };
    let key = iam
        .change(|state| {
            let user = Arc::clone(state.find_user(user)?);
            state.create_key(&user.account, &user.name, new, now)
        })
        .await?;
    Ok(json!({
        "access_key": key.access_key,
        "secret_key": key.secret.as_str(),
        "user": key.user,
        "account": key.account,
        "expires": key.expires.map(date::iso),
        "brought_along": brought,
    }))
}

/// A time, or a span from now.
fn when(text: &str, now: Timestamp) -> Option<Timestamp> {
    let (number, unit) = text.split_at(text.len().checked_sub(1)?);
    let span = match unit {
        "d" => Some(86_400),
        "h" => Some(3_600),
        "m" => Some(60),
        "s" => Some(1),
        _ => None,
    };
    if let (Some(span), Ok(number)) = (span, number.parse::<u64>()) {
        return Some(Timestamp::from_secs(now.as_secs().checked_add(number.checked_mul(span)?)?));
    }
    date::parse_secs(text).map(Timestamp::from_secs)
}

fn key_holder(state: &State, access_key: &str, user: Option<&str>) -> Result<(String, String), IamError> {
    if let Some(user) = user {
        let user = state.find_user(user)?;
        return Ok((user.account.clone(), user.name.clone()));
    }
    let found = state.users().find(|user| state.key(user, access_key).is_ok());
    let user =
        found.ok_or_else(|| IamError::NoSuchEntity(format!("The Access Key with id {access_key} cannot be found.")))?;
    Ok((user.account.clone(), user.name.clone()))
}

/// Who is to get a policy.
enum To {
    User(String),
    Group(String),
}

impl To {
    fn as_holder(&self) -> Holder<'_> {
        match self {
            Self::User(name) => Holder::User(name),
            Self::Group(name) => Holder::Group(name),
        }
    }
}

impl std::fmt::Display for To {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name}"),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

fn holder(state: &State, body: &Value) -> Result<(String, To), IamError> {
    let name = |name: &str| body[name].as_str().map(str::to_owned);
    match (name("user"), name("group")) {
        (Some(user), None) => {
            let user = state.find_user(&user)?;
            Ok((user.account.clone(), To::User(user.name.clone())))
        }
        (None, Some(group)) => {
            let root = state.find_account("root")?.id.clone();
            let group = state.group(&root, &group)?;
            Ok((root.clone(), To::Group(group.name.clone())))
        }
        _ => Err(IamError::ValidationError("give a user or a group".to_owned())),
    }
}

fn policies(state: &State) -> Vec<Value> {
    let builtins = builtin::BUILTINS.iter().map(|builtin| {
        let arn = granary_access::state::builtin_arn(builtin.name);
        let document: Value = serde_json::from_str(builtin.document).unwrap_or_default();
        json!({
            "name": builtin.name, "arn": arn, "built_in": true, "description": builtin.description,
            "attached_to": state.attachments(&arn), "document": document,
        })
    });
    let own = state.managed().map(|policy| {
        let arn = policy_arn(policy);
        let document: Value = serde_json::from_str(&policy.document).unwrap_or_default();
        json!({
            "name": policy.name, "arn": arn, "built_in": false, "description": policy.description,
            "account": policy.account, "version": policy.version, "updated": date::iso(policy.updated),
            "attached_to": state.attachments(&arn), "document": document,
        })
    });
    builtins.chain(own).collect()
}

/// Allow or deny, and which statement decided.
async fn explain(iam: &Iam, node: &Arc<Node>, body: &Value, now: Timestamp) -> Answer {
    let (who, action, resource) = (text(body, "as")?, text(body, "action")?, text(body, "resource")?);
    let identity = identity(iam, who)?;
    let action: Cow<'_, str> = if action.contains(':') { action.into() } else { format!("s3:{action}").into() };
    let resource: Cow<'_, str> = if resource.starts_with("arn:") || resource == "*" {
        resource.into()
    } else {
        format!("arn:aws:s3:::{resource}").into()
    };
    let mut given = Vec::new();
    for pair in body["context"].as_array().into_iter().flatten() {
        let (Some(name), Some(value)) = (pair[0].as_str(), pair[1].as_str()) else {
            return Err(Refusal::bad("`context` is a list of pairs"));
        };
        let key = Key::parse(name).ok_or_else(|| Refusal::bad(format!("`{name}` is not a condition key")))?;
        match given.iter_mut().find(|(known, _): &&mut (Key, Vec<String>)| *known == key) {
            Some((_, values)) => values.push(value.to_owned()),
            None => given.push((key, vec![value.to_owned()])),
        }
    }
    let mut notes = Vec::new();
    let (mut facts, mut object) = (None::<BucketFacts>, None::<ObjectFacts>);
    if let Some(path) = resource.strip_prefix("arn:aws:s3:::") {
        let (bucket, key) = path.split_once('/').map_or((path, None), |(bucket, key)| (bucket, Some(key)));
        let record = BucketName::new(bucket).ok().and_then(|name| node.store().bucket(&name).ok());
        match record {
            None => notes.push(format!("there is no bucket {bucket}: only the identity's own policies were judged")),
            Some(record) => {
                let found = granary_s3::bucket_facts(&record, &iam.root().owner.id);
                if let Some(key) = key.and_then(|key| ObjectKey::new(key).ok())
                    && (identity.needs_object() || found.needs_object())
                {
                    let request = GetRequest {
                        bucket: record.name.clone(),
                        key,
                        version: None,
                        portion: Portion::Whole,
                        condition: ReadCondition::default(),
                        unlock: Unlock::Unneeded,
                    };
                    if let Ok(info) = node.store().head(request).await {
                        let attributes = info.object.attributes;
                        for (tag, value) in attributes.tags {
                            let key = Key::ExistingObjectTag(tag);
                            if !given.iter().any(|(known, _)| *known == key) {
                                given.push((key, vec![value]));
                            }
                        }
                        let acl = granary_access::Acl::decode(attributes.acl.as_deref(), &attributes.owner).ok();
                        object = Some(ObjectFacts { owner: attributes.owner, acl });
                    } else {
                        notes.push("there is no such object: conditions on its tags do not hold".to_owned());
                    }
                }
                let owner = account_id(&record.owner);
                given.push((Key::ResourceAccount, vec![owner]));
                facts = Some(found);
            }
        }
    }
    let rest = EmptyContext(now);
    let context = GivenContext { given, rest: &rest };
    let question = Question {
        action: &action,
        resource: &resource,
        context: &context,
        bucket: facts.as_ref(),
        object: object.as_ref(),
    };
    let decision = decide(&identity, &question);
    let (policy, statement) = match &decision.by {
        By::Identity { policy, statement } => (Some(policy.to_string()), Some(statement.to_string())),
        By::Limit { policy, statement } => (Some(policy.to_string()), statement.as_ref().map(ToString::to_string)),
        By::Bucket { statement } => (Some("the bucket's policy".to_owned()), Some(statement.to_string())),
        _ => (None, None),
    };
    Ok(json!({
        "decision": if decision.allowed { "allow" } else { "deny" },
        "allowed": decision.allowed,
        "as": who,
        "principal": if identity.arn.is_empty() { "anonymous".to_owned() } else { identity.arn.clone() },
        "action": action,
        "resource": resource,
        "policy": policy,
        "statement": statement,
        "reason": decision.by.to_string(),
        "notes": notes,
    }))
}

/// An access key, a user's name, `root` or `anonymous`.
fn identity(iam: &Iam, who: &str) -> Result<Arc<Identity>, Refusal> {
    match who {
        "anonymous" => return Ok(iam.anonymous()),
        "root" => return Ok(iam.root()),
        _ => {}
    }
    if let Some(identity) = iam.identity(who) {
        return Ok(identity);
    }
    let state = iam.state();
    let user = state.find_user(who).map_err(|_| {
        Refusal(
            StatusCode::NOT_FOUND,
            format!("no active access key and no user is called {who} (there are also `root` and `anonymous`)"),
        )
    })?;
    Ok(Arc::new(state.identity_of(user)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_spans() {
        let now = Timestamp::from_secs(1_000);
        assert_eq!(when("2d", now), Some(Timestamp::from_secs(1_000 + 172_800)));
        assert_eq!(when("90m", now), Some(Timestamp::from_secs(1_000 + 5_400)));
        assert_eq!(when("1970-01-02", now), Some(Timestamp::from_secs(86_400)));
        assert_eq!(when("soon", now), None);
        assert_eq!(when("", now), None);
    }
}
