//! A policy document, from JSON to [`Policy`].

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::actions;
use super::condition::Condition;
use super::pattern::{Case, Pattern};
use super::principal::Principal;
use super::{Effect, Either, POLICY_BYTES_MAX, Policy, PolicyError, PolicyKind, STATEMENTS_MAX, Statement};

type Result<T> = std::result::Result<T, PolicyError>;

fn bad<T>(why: impl Into<String>) -> Result<T> {
    Err(PolicyError(why.into()))
}

pub(super) fn document(bytes: &[u8], kind: PolicyKind<'_>) -> Result<Policy> {
    if bytes.len() > POLICY_BYTES_MAX {
        return bad(format!("Policies must be at most {POLICY_BYTES_MAX} bytes; this one has {}", bytes.len()));
    }
    let value: Strict = serde_json::from_slice(bytes).map_err(|error| {
        PolicyError(format!("Policies must be valid JSON and the first byte must be '{{': {error}"))
    })?;
    let Value::Object(mut policy) = value.0 else {
        return bad("Policies must be valid JSON and the first byte must be '{'");
    };
    let variables = match policy.remove("Version") {
        None => false,
        Some(Value::String(version)) if version == "2012-10-17" => true,
        Some(Value::String(version)) if version == "2008-10-17" => false,
        Some(other) => {
            return bad(format!("The policy's Version must be \"2012-10-17\" or \"2008-10-17\", not {other}"));
        }
    };
    match policy.remove("Id") {
        None | Some(Value::String(_)) => {}
        Some(_) => return bad("The policy's Id must be text"),
    }
    let statements = match policy.remove("Statement") {
        None => return bad("Missing required field Statement"),
        Some(Value::Array(statements)) if !statements.is_empty() => statements,
        Some(one @ Value::Object(_)) => vec![one],
        Some(_) => return bad("Statement must be an object, or a list of objects that is not empty"),
    };
    if let Some(name) = policy.keys().next() {
        return bad(format!("Unknown field {name}"));
    }
    if statements.len() > STATEMENTS_MAX {
        return bad(format!("A policy has at most {STATEMENTS_MAX} statements"));
    }
    let mut sids = HashSet::new();
    let mut read = Vec::with_capacity(statements.len());
    for (n, value) in statements.into_iter().enumerate() {
        let Value::Object(fields) = value else { return bad(format!("Statement {} must be an object", n + 1)) };
        let named = fields.get("Sid").and_then(Value::as_str).filter(|sid| !sid.is_empty()).map(str::to_owned);
        if let Some(sid) = &named
            && !sids.insert(sid.clone())
        {
            return bad(format!("Statement IDs (Sid) must be unique: `{sid}` is there twice"));
        }
        let name = named.unwrap_or_else(|| format!("#{}", n + 1));
        read.push(
            statement(fields, &name, kind, variables)
                .map_err(|error| PolicyError(format!("{} (statement {name})", error.0)))?,
        );
    }
    Ok(Policy::new(read))
}

/// A JSON value in which no name is there twice: of two conditions with one name, none may be lost.
struct Strict(Value);

impl<'de> serde::Deserialize<'de> for Strict {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> serde::de::Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Strict, E> {
        Ok(Strict(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Strict, E> {
        Ok(Strict(Value::String(value.to_owned())))
    }

    fn visit_unit<E>(self) -> std::result::Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Strict, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            all.push(value);
        }
        Ok(Strict(Value::Array(all)))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> std::result::Result<Strict, A::Error> {
        let mut all = Map::new();
        while let Some((name, Strict(value))) = map.next_entry::<String, Strict>()? {
            if all.contains_key(&name) {
                return Err(serde::de::Error::custom(format!("`{name}` is there twice")));
            }
            all.insert(name, value);
        }
        Ok(Strict(Value::Object(all)))
    }
}

fn statement(mut fields: Map<String, Value>, name: &str, kind: PolicyKind<'_>, variables: bool) -> Result<Statement> {
    match fields.remove("Sid") {
        None | Some(Value::String(_)) => {}
        Some(_) => return bad("Sid must be text"),
    }
    let effect = match fields.remove("Effect") {
        Some(Value::String(effect)) if effect == "Allow" => Effect::Allow,
        Some(Value::String(effect)) if effect == "Deny" => Effect::Deny,
        Some(other) => return bad(format!("Invalid effect: {other}; it is \"Allow\" or \"Deny\"")),
        None => return bad("Missing required field Effect"),
    };
    let principal = principal(&mut fields, kind, effect)?;
    let action = one_of(&mut fields, "Action", "NotAction", |text| action(text, kind, variables))?
        .ok_or_else(|| PolicyError("Missing required field Action".to_owned()))?;
    let resource_texts = fields.get("Resource").map(texts).transpose()?;
    let resource = one_of(&mut fields, "Resource", "NotResource", |text| resource(text, kind, variables))?;
    let resource = match (kind, resource) {
        (PolicyKind::Trust, None) => None,
        (PolicyKind::Trust, Some(_)) => return bad("Has prohibited field Resource: a trust policy speaks of its role"),
        (_, None) => return bad("Missing required field Resource"),
        (_, resource) => resource,
    };
    if let (PolicyKind::Bucket(_), false, Some(resources)) = (kind, action.not, &resource_texts) {
        apply_to_some(&action.of, resources)?;
    }
    let conditions = match fields.remove("Condition") {
        None => Vec::new(),
        Some(value) => conditions(&value, kind, variables)?,
    };
    if let Some(field) = fields.keys().next() {
        return bad(format!("Unknown field {field}"));
    }
    Ok(Statement { name: name.into(), effect, principal, action, resource, conditions })
}

fn texts(value: &Value) -> Result<Vec<String>> {
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(many) if !many.is_empty() => many
            .iter()
            .map(|one| one.as_str().map(str::to_owned).ok_or_else(|| PolicyError(format!("{one} must be text"))))
            .collect(),
        other => bad(format!("{other} must be text, or a list of texts that is not empty")),
    }
}

fn one_of<T>(
    fields: &mut Map<String, Value>,
    name: &str,
    opposite: &str,
    read: impl Fn(&str) -> Result<T>,
) -> Result<Option<Either<T>>> {
    let (value, not) = match (fields.remove(name), fields.remove(opposite)) {
        (None, None) => return Ok(None),
        (Some(value), None) => (value, false),
        (None, Some(value)) => (value, true),
        (Some(_), Some(_)) => return bad(format!("A statement has {name} or {opposite}, not both")),
    };
    let of = texts(&value)
        .map_err(|error| PolicyError(format!("{}: {}", if not { opposite } else { name }, error.0)))?
        .iter()
        .map(|text| read(text))
        .collect::<Result<_>>()?;
    Ok(Some(Either { not, of }))
}

fn principal(
    fields: &mut Map<String, Value>,
    kind: PolicyKind<'_>,
    effect: Effect,
) -> Result<Option<Either<Principal>>> {
    let (value, not) = match (fields.remove("Principal"), fields.remove("NotPrincipal")) {
        (Some(_), Some(_)) => return bad("A statement has Principal or NotPrincipal, not both"),
        (Some(value), None) => (value, false),
        (None, Some(value)) => (value, true),
        (None, None) if kind == PolicyKind::Identity => return Ok(None),
        (None, None) => return bad("Missing required field Principal"),
    };
    if kind == PolicyKind::Identity {
        return bad(
            "Has prohibited field Principal: a policy of users, groups and roles speaks of whom it is attached to",
        );
    }
    if not && effect == Effect::Allow {
        return bad(
            "NotPrincipal goes with Effect \"Deny\" only: with \"Allow\" it would let in everybody else, anonymous requests too",
        );
    }
    Ok(Some(Either { not, of: Principal::parse_all(&value).map_err(PolicyError)? }))
}

fn action(text: &str, kind: PolicyKind<'_>, variables: bool) -> Result<Pattern> {
    let invalid = || PolicyError(format!("Policy has invalid action: `{text}`"));
    if text != "*" {
        let (service, name) = text.split_once(':').ok_or_else(invalid)?;
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'*' | b'?');
        if service.is_empty()
            || !service.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            || name.is_empty()
            || !name.bytes().all(fine)
        {
            return Err(invalid());
        }
        let wanted: &[&str] = match kind {
            PolicyKind::Identity => &[],
            PolicyKind::Bucket(_) => &["s3", "granary"],
            PolicyKind::Trust => &["sts"],
        };
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(service)) {
            return Err(invalid());
        }
    }
    let pattern = Pattern::new(text, variables).map_err(|error| PolicyError(error.to_string()))?;
    // An action that does not exist is a typing error, and an Allow or Deny that never applies.
    let known = text.split_once(':').and_then(|(service, _)| actions::of_service(service));
    if known.is_some_and(|known| !known.iter().any(|(name, _)| pattern.matches_plain(name, Case::Ignored))) {
        return Err(invalid());
    }
    Ok(pattern)
}

fn resource(text: &str, kind: PolicyKind<'_>, variables: bool) -> Result<Pattern> {
    let pattern = Pattern::new(text, variables).map_err(|error| PolicyError(format!("Resource `{text}`: {error}")))?;
    let invalid = |why: &str| PolicyError(format!("Policy has invalid resource: `{text}` {why}"));
    match kind {
        PolicyKind::Identity if text == "*" => Ok(pattern),
        PolicyKind::Identity | PolicyKind::Trust => {
            if text.splitn(6, ':').count() == 6 && text.starts_with("arn:") {
                Ok(pattern)
            } else {
                Err(invalid("is neither \"*\" nor an ARN such as arn:aws:s3:::bucket/*"))
            }
        }
        PolicyKind::Bucket(bucket) => {
            let mut parts = text.splitn(6, ':');
            let head: Vec<&str> = parts.by_ref().take(5).collect();
            let (["arn", _, "s3", _, _], Some(rest)) = (&head[..], parts.next()) else {
                return Err(invalid("is not an ARN of this bucket or of objects in it"));
            };
            let name = rest.split('/').next().unwrap_or_default();
            let of_bucket = Pattern::new(name, false).is_ok_and(|name| name.matches_plain(bucket, Case::Counts));
            if of_bucket && !name.is_empty() { Ok(pattern) } else { Err(invalid("is not of this bucket")) }
        }
    }
}

/// As AWS: an action of buckets needs the bucket among the resources, one of objects needs objects.
fn apply_to_some(patterns: &[Pattern], resources: &[String]) -> Result<()> {
    let has_object = resources.iter().any(|resource| resource.contains('/') || resource.ends_with('*'));
    let has_bucket = resources
        .iter()
        .any(|resource| !resource.contains('/') || resource.ends_with('*') && resource.matches('/').count() == 0);
    for pattern in patterns {
        let Some(name) = pattern.exact() else { continue };
        let service = name.split_once(':').and_then(|(service, _)| actions::of_service(service));
        let known = service.and_then(|all| all.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)));
        let of_objects = known.map(|(_, of)| *of);
        let fits = match of_objects {
            Some(actions::Of::Object) => has_object,
            Some(actions::Of::Bucket) => has_bucket,
            _ => true,
        };
        if !fits {
            return bad(format!("Action does not apply to any resource(s) in statement: `{name}`"));
        }
    }
    Ok(())
}

fn conditions(value: &Value, kind: PolicyKind<'_>, variables: bool) -> Result<Vec<Condition>> {
    let Value::Object(operators) = value else { return bad("Condition must be an object") };
    let mut all = Vec::new();
    for (operator, keys) in operators {
        let Value::Object(keys) = keys else { return bad(format!("Condition {operator} must be an object")) };
        for (key, values) in keys {
            let values = match values {
                Value::Array(values) => values.iter().map(scalar).collect::<Result<Vec<_>>>()?,
                one => vec![scalar(one)?],
            };
            let condition = Condition::parse(operator, key, &values, variables).map_err(PolicyError)?;
            if matches!(kind, PolicyKind::Bucket(_)) && !condition.key().is_known() {
                return bad(format!("Policy has an invalid condition key: `{key}`"));
            }
            all.push(condition);
        }
    }
    Ok(all)
}

fn scalar(value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(bool) => Ok(bool.to_string()),
        other => bad(format!("Condition value {other} must be text, a number, true or false")),
    }
}
