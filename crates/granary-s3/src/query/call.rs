//! A call of IAM or STS, as its audit event tells it: CloudTrail's event name, source and parameters.
//!
//! Parameters are an allow-list, named as CloudTrail names them. What is not here (tokens, secrets, tags, external ids) is not in
//! the trail.

use granary_audit::Source;

use super::Form;

/// Characters of an action's name, at most: longer ones are no action of AWS's.
const NAME_MAX: usize = 64;
/// Fields of a form that are kept.
const KEPT: [&str; 25] = [
    "UserName",
    "NewUserName",
    "GroupName",
    "RoleName",
    "PolicyName",
    "PolicyArn",
    "Path",
    "NewPath",
    "PathPrefix",
    "AccessKeyId",
    "Status",
    "RoleArn",
    "RoleSessionName",
    "DurationSeconds",
    "MaxSessionDuration",
    "Description",
    "Url",
    "OpenIDConnectProviderArn",
    "PolicySourceArn",
    "PolicyDocument",
    "AssumeRolePolicyDocument",
    "Policy",
    "Scope",
    "OnlyAttached",
    "VersionId",
];
/// Lists of a form that are kept, as one text each.
const LISTS: [(&str, &str, &str); 2] = [("ClientIDList", "", "clientIDList"), ("PolicyArns", ".arn", "policyArns")];

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiCall {
    /// IAM or STS.
    pub(crate) source: Source,
    /// The action.
    pub(crate) name: String,
    /// What it is about.
    pub(crate) parameters: Vec<(String, String)>,
}

impl ApiCall {
    /// Read from a form. `None` for what cannot be the name of an action.
    pub(crate) fn of(form: &Form, action: &str, is_sts: bool) -> Option<Self> {
        if action.len() > NAME_MAX || !action.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let mut parameters: Vec<_> =
            KEPT.iter().filter_map(|name| Some((lower_first(name), form.maybe(name)?.to_owned()))).collect();
        for (name, field, shown) in LISTS {
            let members: Vec<_> = (1..=10).map_while(|n| form.maybe(&format!("{name}.member.{n}{field}"))).collect();
            if !members.is_empty() {
                parameters.push((shown.to_owned(), members.join(" ")));
            }
        }
        let source = if is_sts { Source::Sts } else { Source::Iam };
        Some(Self { source, name: action.to_owned(), parameters })
    }

    /// Whether nothing is changed by it. CloudTrail counts the making of sessions, which changes nothing that is kept, among these.
    pub(crate) fn is_read_only(&self) -> bool {
        ["Get", "List", "Simulate", "AssumeRole"].iter().any(|start| self.name.starts_with(start))
    }
}

/// `UserName` as CloudTrail writes it: `userName`.
fn lower_first(name: &str) -> String {
    let (first, rest) = name.split_at(name.len().min(1));
    first.to_ascii_lowercase() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_form() {
        let body = b"Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&RoleSessionName=s\
            &WebIdentityToken=hush&ExternalId=hush&TokenCode=hush&SecretAccessKey=hush&PolicyArns.member.1.arn=a&PolicyArns.member.2.arn=b";
        let call = ApiCall::of(&Form::parse(body).unwrap(), "AssumeRoleWithWebIdentity", true).unwrap();
        let kept: Vec<_> = call.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(kept, [("roleArn", "arn:aws:iam::1:role/r"), ("roleSessionName", "s"), ("policyArns", "a b")]);
        assert!(call.is_read_only() && call.source == Source::Sts);
        let none = Form::parse(b"").unwrap();
        assert!(!ApiCall::of(&none, "CreateUser", false).unwrap().is_read_only());
        assert_eq!(ApiCall::of(&none, "Create\nUser", false), None);
        assert_eq!(ApiCall::of(&none, &"A".repeat(65), false), None);
    }
}
