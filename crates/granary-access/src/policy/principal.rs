//! `Principal` and `NotPrincipal` of resource and trust policies.

use serde_json::Value;

use crate::identity::{Identity, PrincipalKind};

/// Whom a statement speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// `*`: everybody, signed or not.
    Everybody,
    /// An account, by its 12 digits: whoever the account lets.
    Account(String),
    /// One user, role or session, by its ARN.
    Arn(String),
    /// An account, by its canonical id.
    Canonical(String),
    /// An identity provider, by its host or ARN (trust policies).
    Federated(String),
    /// A service of AWS: nobody here.
    Service,
}

impl Principal {
    /// Reads the element: `"*"`, or an object of kinds and names.
    pub(crate) fn parse_all(value: &Value) -> Result<Vec<Self>, String> {
        let invalid = || "Invalid principal in policy".to_owned();
        if let Value::String(text) = value {
            return if text == "*" {
                Ok(vec![Self::Everybody])
            } else {
                Err(format!("{}: `{text}`; write \"*\" or {{\"AWS\": ...}}", invalid()))
            };
        }
        let Value::Object(kinds) = value else { return Err(invalid()) };
        let mut all = Vec::new();
        for (kind, names) in kinds {
            let names: Vec<&str> = match names {
                Value::String(name) => vec![name],
                Value::Array(names) => names.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(invalid)?,
                _ => return Err(invalid()),
            };
            for name in names {
                all.push(Self::parse(kind, name).ok_or_else(|| format!("{}: {kind} `{name}`", invalid()))?);
            }
        }
        if all.is_empty() { Err(format!("{}: it names nobody", invalid())) } else { Ok(all) }
    }

    fn parse(kind: &str, name: &str) -> Option<Self> {
        match kind {
            "AWS" if name == "*" => Some(Self::Everybody),
            "AWS" if is_account(name) => Some(Self::Account(name.to_owned())),
            "AWS" if is_canonical(name) => Some(Self::Canonical(name.to_owned())),
            "AWS" => {
                let parts: Vec<&str> = name.splitn(6, ':').collect();
                let ["arn", "aws", service, "", account, resource] = parts[..] else { return None };
                let is_one = |prefix: &str| {
                    resource.strip_prefix(prefix).is_some_and(|name| !name.is_empty() && !name.contains(['*', '?']))
                };
                match service {
                    _ if !is_account(account) => None,
                    "iam" if resource == "root" => Some(Self::Account(account.to_owned())),
                    "iam" if is_one("user/") || is_one("role/") => Some(Self::Arn(name.to_owned())),
                    "sts" if is_one("assumed-role/") || is_one("federated-user/") => Some(Self::Arn(name.to_owned())),
                    _ => None,
                }
            }
            "CanonicalUser" if is_canonical(name) => Some(Self::Canonical(name.to_owned())),
            "Federated" if !name.is_empty() => Some(Self::Federated(name.to_owned())),
            "Service" if name.contains('.') => Some(Self::Service),
            _ => None,
        }
    }

    /// Whether the statement speaks of `who`.
    pub(crate) fn means(&self, who: &Identity) -> bool {
        let signed = who.kind != PrincipalKind::Anonymous;
        match self {
            Self::Everybody => true,
            Self::Account(account) => signed && who.account == *account,
            Self::Arn(arn) => signed && (who.principal == *arn || who.arn == *arn),
            Self::Canonical(id) => signed && who.owner.id == *id,
            Self::Federated(provider) => who
                .session
                .as_ref()
                .and_then(|session| session.provider.as_deref())
                .is_some_and(|mine| mine == provider || provider.ends_with(&format!(":oidc-provider/{mine}"))),
            Self::Service => false,
        }
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_canonical(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
