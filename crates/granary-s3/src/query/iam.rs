//! IAM's actions: users, access keys, groups, policies, roles, identity providers.
//!
//! All are on the caller's own account; the root keys' account is the organisation's. Lists are answered whole.

use std::sync::Arc;

use granary_access::manage::{NewKey, provider_arn};
use granary_access::policy::{GivenContext, Key, builtin};
use granary_access::records::{AccessKey, Group, ManagedPolicy, Role, User};
use granary_access::state::{Holder, builtin_arn, group_arn, policy_arn, role_arn, user_arn};
use granary_access::{IamError, PrincipalKind, Question, State, decide};
use granary_types::Timestamp;
use granary_types::date;

use super::xml::Xml;
use super::{Asked, Failure, Result};
use crate::convert;

pub(crate) const VERSION: &str = "2010-05-08";
pub(crate) const NAMESPACE: &str = "https://iam.amazonaws.com/doc/2010-05-08/";

const ROLE_SESSION_S_DEFAULT: u64 = 3_600;

pub(crate) async fn act(asked: &Asked<'_>, action: &str) -> Result<String> {
    let call = Call { asked, account: asked.who.account.clone(), action };
    match action {
        "CreateUser" | "GetUser" | "ListUsers" | "UpdateUser" | "DeleteUser" => call.users().await,
        "CreateAccessKey" | "DeleteAccessKey" | "UpdateAccessKey" | "ListAccessKeys" | "GetAccessKeyLastUsed" => {
            call.keys().await
        }
        "CreateGroup"
        | "GetGroup"
        | "ListGroups"
        | "DeleteGroup"
        | "AddUserToGroup"
        | "RemoveUserFromGroup"
        | "ListGroupsForUser" => call.groups().await,
        "CreatePolicy" | "GetPolicy" | "GetPolicyVersion" | "ListPolicies" | "ListPolicyVersions" | "DeletePolicy" => {
            call.policies().await
        }
        "CreateRole" | "GetRole" | "ListRoles" | "DeleteRole" | "UpdateAssumeRolePolicy" => call.roles().await,
        "CreateOpenIDConnectProvider"
        | "ListOpenIDConnectProviders"
        | "GetOpenIDConnectProvider"
        | "DeleteOpenIDConnectProvider" => call.providers().await,
        "SimulatePrincipalPolicy" => call.simulate(),
        _ => call.holders().await,
    }
}

struct Call<'a> {
    asked: &'a Asked<'a>,
    account: String,
    action: &'a str,
}

fn user_xml(xml: &mut Xml, user: &User) {
    xml.text("Path", &user.path)
        .text("UserName", &user.name)
        .text("UserId", &user.id)
        .text("Arn", &user_arn(user))
        .text("CreateDate", &date::iso(user.created));
    tags_xml(xml, &user.tags);
}

fn tags_xml(xml: &mut Xml, tags: &[(String, String)]) {
    if !tags.is_empty() {
        xml.list("Tags", tags, |xml, (key, value)| {
            xml.text("Key", key).text("Value", value);
        });
    }
}

fn group_xml(xml: &mut Xml, group: &Group) {
    xml.text("Path", &group.path)
        .text("GroupName", &group.name)
        .text("GroupId", &group.id)
        .text("Arn", &group_arn(group))
        .text("CreateDate", &date::iso(group.created));
}

fn role_xml(xml: &mut Xml, role: &Role) {
    xml.text("Path", &role.path)
        .text("RoleName", &role.name)
        .text("RoleId", &role.id)
        .text("Arn", &role_arn(role))
        .text("CreateDate", &date::iso(role.created))
        .text("AssumeRolePolicyDocument", &convert::percent_encode(&role.trust))
        .text("Description", &role.description)
        .text("MaxSessionDuration", &role.session_s_max.to_string());
}

fn policy_xml(xml: &mut Xml, state: &State, policy: &ManagedPolicy) {
    let arn = policy_arn(policy);
    xml.text("PolicyName", &policy.name)
        .text("PolicyId", &policy.id)
        .text("Arn", &arn)
        .text("Path", &policy.path)
        .text("DefaultVersionId", &format!("v{}", policy.version))
        .text("AttachmentCount", &state.attachments(&arn).to_string())
        .text("IsAttachable", "true")
        .text("Description", &policy.description)
        .text("CreateDate", &date::iso(policy.created))
        .text("UpdateDate", &date::iso(policy.updated));
}

fn builtin_xml(xml: &mut Xml, state: &State, policy: &builtin::Builtin) {
    let arn = builtin_arn(policy.name);
    xml.text("PolicyName", policy.name)
        .text("PolicyId", &format!("ANPAGRANARY{}", policy.name.to_ascii_uppercase()))
        .text("Arn", &arn)
        .text("Path", "/")
        .text("DefaultVersionId", "v1")
        .text("AttachmentCount", &state.attachments(&arn).to_string())
        .text("IsAttachable", "true")
        .text("Description", policy.description)
        .text("CreateDate", &date::iso(Timestamp::default()))
        .text("UpdateDate", &date::iso(Timestamp::default()));
}

fn key_xml(xml: &mut Xml, key: &AccessKey) {
    xml.text("UserName", &key.user)
        .text("AccessKeyId", &key.access_key)
        .text("Status", if key.is_active { "Active" } else { "Inactive" })
        .text("CreateDate", &date::iso(key.created));
}

impl Call<'_> {
    fn check(&self, resource: &str) -> Result<()> {
        self.asked.check(&format!("iam:{}", self.action), resource)
    }

    fn arn(&self, kind: &str, name: &str) -> String {
        format!("arn:aws:iam::{}:{kind}/{name}", self.account)
    }

    fn state(&self) -> State {
        self.asked.query.iam.state()
    }

    fn now(&self) -> Timestamp {
        self.asked.query.iam.now()
    }

    async fn change<T>(&self, edit: impl FnOnce(&mut State) -> std::result::Result<T, IamError>) -> Result<T> {
        Ok(self.asked.query.iam.change(edit).await?)
    }

    /// `UserName`, or the caller itself.
    fn user_name(&self) -> Result<String> {
        match self.asked.form.maybe("UserName") {
            Some(name) => Ok(name.to_owned()),
            None if self.asked.who.kind == PrincipalKind::User => {
                self.asked.note("userName", &self.asked.who.name);
                Ok(self.asked.who.name.clone())
            }
            None => Err(Failure::new(
                400,
                "ValidationError",
                "Must specify userName when calling with non-User credentials",
            )),
        }
    }

    /// The ARN that policies see for a user: with its path, where it exists.
    fn user_resource(&self, state: &State, name: &str) -> String {
        state.user(&self.account, name).map_or_else(|_| self.arn("user", name), |user| user_arn(user))
    }

    async fn users(&self) -> Result<String> {
        let form = &self.asked.form;
        let state = self.state();
        let mut xml = Xml::new();
        match self.action {
            "CreateUser" => {
                let name = form.text("UserName")?;
                let path = form.maybe("Path").unwrap_or("/");
                self.check(&format!("arn:aws:iam::{}:user{path}{name}", self.account))?;
                let now = self.now();
                let user =
                    self.change(|state| state.create_user(Some(&self.account), name, path, form.tags(), now)).await?;
                xml.within("User", |xml| user_xml(xml, &user));
            }
            "GetUser" => {
                if form.maybe("UserName").is_none() && self.asked.who.kind == PrincipalKind::Root {
                    let who = &self.asked.who;
                    xml.within("User", |xml| {
                        xml.text("Path", "/").text("UserName", "root").text("UserId", &who.id).text("Arn", &who.arn);
                        xml.text("CreateDate", &date::iso(Timestamp::default()));
                    });
                    return Ok(xml.into_string());
                }
                let name = self.user_name()?;
                self.check(&self.user_resource(&state, &name))?;
                let user = state.user(&self.account, &name)?;
                xml.within("User", |xml| user_xml(xml, user));
            }
            "ListUsers" => {
                self.check(&self.arn("user", ""))?;
                let prefix = form.maybe("PathPrefix").unwrap_or("/");
                let users = state.users_of(&self.account).filter(|user| user.path.starts_with(prefix));
                xml.list("Users", users, |xml, user| user_xml(xml, user)).whole();
            }
            "UpdateUser" => {
                let name = form.text("UserName")?;
                self.check(&self.user_resource(&state, name))?;
                let (new_name, new_path) = (form.maybe("NewUserName"), form.maybe("NewPath"));
                self.change(|state| state.update_user(&self.account, name, new_name, new_path)).await?;
            }
            _ => {
                let name = form.text("UserName")?;
                self.check(&self.user_resource(&state, name))?;
                self.change(|state| state.delete_user(&self.account, name, false)).await?;
            }
        }
        Ok(xml.into_string())
    }

    async fn keys(&self) -> Result<String> {
        let form = &self.asked.form;
        let state = self.state();
        let mut xml = Xml::new();
        if self.action == "GetAccessKeyLastUsed" {
            let access_key = form.text("AccessKeyId")?;
            let found = state.users_of(&self.account).find(|user| state.key(user, access_key).is_ok());
            let Some(user) = found else {
                self.check(&self.arn("user", "*"))?;
                return Err(
                    IamError::NoSuchEntity(format!("The Access Key with id {access_key} cannot be found.")).into()
                );
            };
            self.check(&user_arn(user))?;
            xml.text("UserName", &user.name);
            let used = self.asked.query.iam.last_used_s(access_key);
            xml.within("AccessKeyLastUsed", |xml| {
                match used {
                    Some(secs) => {
                        xml.text("LastUsedDate", &date::iso(Timestamp::from_secs(secs)));
                        xml.text("ServiceName", "s3").text("Region", &self.asked.query.region);
                    }
                    None => {
                        xml.text("ServiceName", "N/A").text("Region", "N/A");
                    }
                };
            });
            return Ok(xml.into_string());
        }
        let name = self.user_name()?;
        self.check(&self.user_resource(&state, &name))?;
        match self.action {
            "CreateAccessKey" => {
                let now = self.now();
                let key = self
                    .change(|state| {
                        let made = state.create_key(&self.account, &name, NewKey::default(), now);
                        made.inspect(|key| self.asked.note("accessKeyId", &key.access_key))
                    })
                    .await?;
                xml.within("AccessKey", |xml| {
                    key_xml(xml, &key);
                    xml.text("SecretAccessKey", &key.secret);
                });
            }
            "ListAccessKeys" => {
                let user = state.user(&self.account, &name)?;
                xml.list("AccessKeyMetadata", state.keys_of(user), |xml, key| key_xml(xml, key)).whole();
            }
            "UpdateAccessKey" => {
                let access_key = form.text("AccessKeyId")?;
                let is_active = match form.text("Status")? {
                    "Active" => true,
                    "Inactive" => false,
                    other => {
                        return Err(Failure::new(
                            400,
                            "ValidationError",
                            format!("Status is Active or Inactive, not {other}"),
                        ));
                    }
                };
                self.change(|state| state.set_key_active(&self.account, &name, access_key, is_active)).await?;
            }
            _ => {
                let access_key = form.text("AccessKeyId")?;
                self.change(|state| state.delete_key(&self.account, &name, access_key)).await?;
            }
        }
        Ok(xml.into_string())
    }

    async fn groups(&self) -> Result<String> {
        let form = &self.asked.form;
        let state = self.state();
        let mut xml = Xml::new();
        if self.action == "ListGroups" {
            self.check(&self.arn("group", ""))?;
            let prefix = form.maybe("PathPrefix").unwrap_or("/");
            let groups = state.groups_of_account(&self.account).filter(|group| group.path.starts_with(prefix));
            xml.list("Groups", groups, |xml, group| group_xml(xml, group)).whole();
            return Ok(xml.into_string());
        }
        if self.action == "ListGroupsForUser" {
            let name = self.user_name()?;
            self.check(&self.user_resource(&state, &name))?;
            let user = state.user(&self.account, &name)?;
            xml.list("Groups", state.groups_of(user), |xml, group| group_xml(xml, group)).whole();
            return Ok(xml.into_string());
        }
        let name = form.text("GroupName")?;
        let path = form.maybe("Path").unwrap_or("/");
        let resource = state
            .group(&self.account, name)
            .map_or_else(|_| format!("arn:aws:iam::{}:group{path}{name}", self.account), |group| group_arn(group));
        self.check(&resource)?;
        match self.action {
            "CreateGroup" => {
                let now = self.now();
                let group = self.change(|state| state.create_group(&self.account, name, path, now)).await?;
                xml.within("Group", |xml| group_xml(xml, &group));
            }
            "GetGroup" => {
                let group = state.group(&self.account, name)?;
                xml.within("Group", |xml| group_xml(xml, group));
                // Members of other accounts, which only the command line can put here, are not this account's to see.
                let users =
                    state.users_of(&self.account).filter(|user| state.groups_of(user).any(|g| g.id == group.id));
                xml.list("Users", users, |xml, user| user_xml(xml, user)).whole();
            }
            "DeleteGroup" => self.change(|state| state.delete_group(&self.account, name, false)).await?,
            action => {
                let user = form.text("UserName")?;
                self.change(|state| {
                    let user = Arc::clone(state.user(&self.account, user)?);
                    state.set_member(&self.account, name, &user, action == "AddUserToGroup")
                })
                .await?;
            }
        }
        Ok(xml.into_string())
    }

    /// The built-in policy, or the account's own, behind `PolicyArn`.
    async fn policies(&self) -> Result<String> {
        let form = &self.asked.form;
        let state = self.state();
        let mut xml = Xml::new();
        match self.action {
            "CreatePolicy" => {
                let (name, document) = (form.text("PolicyName")?, form.text("PolicyDocument")?);
                let path = form.maybe("Path").unwrap_or("/");
                self.check(&format!("arn:aws:iam::{}:policy{path}{name}", self.account))?;
                let (now, about) = (self.now(), form.maybe("Description").unwrap_or_default());
                let policy = self
                    .change(|state| state.put_policy(&self.account, name, path, about, document, false, now))
                    .await?;
                xml.within("Policy", |xml| policy_xml(xml, &self.state(), &policy));
                return Ok(xml.into_string());
            }
            "ListPolicies" => {
                self.check(&self.arn("policy", ""))?;
                let scope = form.maybe("Scope").unwrap_or("All");
                let only = form.maybe("OnlyAttached") == Some("true");
                let shown = |arn: &str| !only || state.attachments(arn) > 0;
                xml.within("Policies", |xml| {
                    if scope != "AWS" {
                        for policy in state.managed_of(&self.account).filter(|policy| shown(&policy_arn(policy))) {
                            xml.within("member", |xml| policy_xml(xml, &state, policy));
                        }
                    }
                    if scope != "Local" {
                        for policy in builtin::BUILTINS.iter().filter(|policy| shown(&builtin_arn(policy.name))) {
                            xml.within("member", |xml| builtin_xml(xml, &state, policy));
                        }
                    }
                })
                .whole();
                return Ok(xml.into_string());
            }
            _ => {}
        }
        let arn = form.text("PolicyArn")?;
        self.check(arn)?;
        let name = arn.rsplit('/').next().unwrap_or_default();
        let missing =
            || Failure::from(IamError::NoSuchEntity(format!("Policy {arn} does not exist or is not attachable.")));
        if arn.starts_with("arn:aws:iam::aws:policy/") {
            let (policy, _) = builtin::find(name).ok_or_else(missing)?;
            match self.action {
                "GetPolicy" => {
                    xml.within("Policy", |xml| builtin_xml(xml, &state, policy));
                }
                "GetPolicyVersion" => version_xml(&mut xml, policy.document, 1, Timestamp::default()),
                "ListPolicyVersions" => versions_xml(&mut xml, 1, Timestamp::default()),
                _ => return Err(Failure::new(403, "AccessDenied", "Built-in policies cannot be deleted")),
            }
            return Ok(xml.into_string());
        }
        let policy = state.managed_of(&self.account).find(|policy| policy_arn(policy) == arn).ok_or_else(missing)?;
        match self.action {
            "GetPolicy" => {
                xml.within("Policy", |xml| policy_xml(xml, &state, policy));
            }
            "GetPolicyVersion" => version_xml(&mut xml, &policy.document, policy.version, policy.updated),
            "ListPolicyVersions" => versions_xml(&mut xml, policy.version, policy.updated),
            _ => self.change(|state| state.delete_policy(&self.account, name)).await?,
        }
        Ok(xml.into_string())
    }

    async fn roles(&self) -> Result<String> {
        let form = &self.asked.form;
        let state = self.state();
        let mut xml = Xml::new();
        if self.action == "ListRoles" {
            self.check(&self.arn("role", ""))?;
            let prefix = form.maybe("PathPrefix").unwrap_or("/");
            let roles = state.roles_of(&self.account).filter(|role| role.path.starts_with(prefix));
            xml.list("Roles", roles, |xml, role| role_xml(xml, role)).whole();
            return Ok(xml.into_string());
        }
        let name = form.text("RoleName")?;
        let path = form.maybe("Path").unwrap_or("/");
        let resource = state
            .role(&self.account, name)
            .map_or_else(|_| format!("arn:aws:iam::{}:role{path}{name}", self.account), |role| role_arn(role));
        self.check(&resource)?;
        match self.action {
            "CreateRole" => {
                let trust = form.text("AssumeRolePolicyDocument")?;
                let about = form.maybe("Description").unwrap_or_default();
                let most = match form.maybe("MaxSessionDuration") {
                    None => ROLE_SESSION_S_DEFAULT,
                    Some(text) => text
                        .parse()
                        .map_err(|_| Failure::new(400, "ValidationError", "MaxSessionDuration must be a number"))?,
                };
                let now = self.now();
                let role =
                    self.change(|state| state.create_role(&self.account, name, path, about, trust, most, now)).await?;
                xml.within("Role", |xml| role_xml(xml, &role));
            }
            "GetRole" => {
                let role = state.role(&self.account, name)?;
                xml.within("Role", |xml| role_xml(xml, role));
            }
            "UpdateAssumeRolePolicy" => {
                let trust = form.text("PolicyDocument")?;
                self.change(|state| state.set_trust(&self.account, name, trust)).await?;
            }
            _ => self.change(|state| state.delete_role(&self.account, name)).await?,
        }
        Ok(xml.into_string())
    }

    async fn providers(&self) -> Result<String> {
        let form = &self.asked.form;
        let state = self.state();
        let mut xml = Xml::new();
        match self.action {
            "CreateOpenIDConnectProvider" => {
                let url = form.text("Url")?;
                self.check(&self.arn("oidc-provider", url.trim_start_matches("https://")))?;
                let name = granary_access::oidc::issuer_name(url);
                if name.is_some_and(|name| !self.asked.query.iam.limits().takes_issuer(name)) {
                    let why = format!("This server takes no tokens of {url}: identity.oidc_issuers does not name it");
                    return Err(IamError::ValidationError(why).into());
                }
                let clients = form.list("ClientIDList").into_iter().map(str::to_owned).collect();
                let now = self.now();
                let arn = self.change(|state| state.create_provider(&self.account, url, clients, now)).await?;
                xml.text("OpenIDConnectProviderArn", &arn);
            }
            "ListOpenIDConnectProviders" => {
                self.check("*")?;
                xml.list("OpenIDConnectProviderList", state.providers_of(&self.account), |xml, provider| {
                    xml.text("Arn", &provider_arn(&provider.account, &provider.name));
                });
            }
            action => {
                let arn = form.text("OpenIDConnectProviderArn")?;
                self.check(arn)?;
                let found = state.providers_of(&self.account).find(|one| provider_arn(&one.account, &one.name) == arn);
                let provider = found.ok_or_else(|| {
                    Failure::from(IamError::NoSuchEntity(format!("OpenIDConnect Provider not found for arn {arn}")))
                })?;
                if action == "GetOpenIDConnectProvider" {
                    xml.text("Url", &provider.name);
                    xml.list("ClientIDList", &provider.client_ids, |xml, id| {
                        xml.raw(id);
                    });
                    xml.text("CreateDate", &date::iso(provider.created));
                } else {
                    self.change(|state| state.delete_provider(&self.account, &provider.name)).await?;
                }
            }
        }
        Ok(xml.into_string())
    }

    /// Policies of users, groups and roles: `PutUserPolicy`, `AttachGroupPolicy`, `ListAttachedRolePolicies`...
    async fn holders(&self) -> Result<String> {
        let unknown =
            || Failure::new(400, "InvalidAction", format!("The action {} of IAM is not implemented", self.action));
        let kinds = [("User", "user"), ("Group", "group"), ("Role", "role")];
        let split = kinds.iter().find_map(|(kind, word)| {
            let (verb, object) = self.action.split_once(kind)?;
            matches!(object, "Policy" | "Policies").then_some((verb, *kind, *word))
        });
        let (verb, kind, word) = split.ok_or_else(unknown)?;
        let form = &self.asked.form;
        let name = form.text(&format!("{kind}Name"))?;
        let holder = match word {
            "user" => Holder::User(name),
            "group" => Holder::Group(name),
            _ => Holder::Role(name),
        };
        let state = self.state();
        let resource = match holder {
            Holder::User(name) => self.user_resource(&state, name),
            Holder::Group(name) => {
                state.group(&self.account, name).map_or_else(|_| self.arn("group", name), |group| group_arn(group))
            }
            Holder::Role(name) => {
                state.role(&self.account, name).map_or_else(|_| self.arn("role", name), |role| role_arn(role))
            }
        };
        if !matches!(verb, "Put" | "Get" | "Delete" | "List" | "Attach" | "Detach" | "ListAttached") {
            return Err(unknown());
        }
        self.check(&resource)?;
        let mut xml = Xml::new();
        match verb {
            "Put" => {
                let (policy, document) = (form.text("PolicyName")?, form.text("PolicyDocument")?);
                self.change(|state| state.put_inline(&self.account, holder, policy, document)).await?;
            }
            "Delete" => {
                let policy = form.text("PolicyName")?;
                self.change(|state| state.delete_inline(&self.account, holder, policy)).await?;
            }
            "Attach" => {
                let arn = form.text("PolicyArn")?;
                // AWS's names of the built-in policies mean ours; ours are what is kept.
                let arn = state.policy_arn(&self.account, canonical_arn(arn).as_ref())?;
                self.change(|state| state.attach(&self.account, holder, &arn)).await?;
            }
            "Detach" => {
                let arn = canonical_arn(form.text("PolicyArn")?);
                self.change(|state| state.detach(&self.account, holder, &arn)).await?;
            }
            "Get" => {
                let policy = form.text("PolicyName")?;
                let document = state.policies_of(&self.account, holder)?.inline.get(policy).ok_or_else(|| {
                    Failure::from(IamError::NoSuchEntity(format!(
                        "The {word} policy with name {policy} cannot be found."
                    )))
                })?;
                xml.text(&format!("{kind}Name"), name)
                    .text("PolicyName", policy)
                    .text("PolicyDocument", &convert::percent_encode(document));
            }
            "List" => {
                let policies = state.policies_of(&self.account, holder)?;
                xml.list("PolicyNames", policies.inline.keys(), |xml, name| {
                    xml.raw(name);
                })
                .whole();
            }
            _ => {
                let policies = state.policies_of(&self.account, holder)?;
                xml.list("AttachedPolicies", &policies.attached, |xml, arn| {
                    xml.text("PolicyName", arn.rsplit('/').next().unwrap_or(arn)).text("PolicyArn", arn);
                })
                .whole();
            }
        }
        Ok(xml.into_string())
    }

    fn simulate(&self) -> Result<String> {
        let form = &self.asked.form;
        let source = form.text("PolicySourceArn")?;
        self.check(source)?;
        let state = self.state();
        let name = source.rsplit('/').next().unwrap_or_default();
        let identity = if source.contains(":user/") {
            state.identity_of(state.user(&self.account, name)?)
        } else if source.contains(":role/") {
            state.identity_of_role(state.role(&self.account, name)?)
        } else {
            return Err(Failure::new(400, "InvalidInput", "PolicySourceArn is the ARN of a user or a role"));
        };
        let mut given = Vec::new();
        for n in 1..=50 {
            let Some(key) = form.maybe(&format!("ContextEntries.member.{n}.ContextKeyName")) else { break };
            let key = Key::parse(key)
                .ok_or_else(|| Failure::new(400, "InvalidInput", format!("{key} is no condition key")))?;
            given.push((
                key,
                form.list(&format!("ContextEntries.member.{n}.ContextKeyValues"))
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
            ));
        }
        let empty = granary_access::policy::EmptyContext(self.now());
        let context = GivenContext { given, rest: &empty };
        let (actions, mut resources) = (form.list("ActionNames"), form.list("ResourceArns"));
        if resources.is_empty() {
            resources.push("*");
        }
        if actions.len() * resources.len() > 1_000 {
            return Err(Failure::new(400, "InvalidInput", "Too many actions and resources at once"));
        }
        let mut xml = Xml::new();
        xml.within("EvaluationResults", |xml| {
            for action in &actions {
                for resource in &resources {
                    let question = Question { action, resource, context: &context, bucket: None, object: None };
                    let decision = decide(&identity, &question);
                    let outcome = match (decision.allowed, &decision.by) {
                        (true, _) => "allowed",
                        (false, granary_access::By::Identity { .. }) => "explicitDeny",
                        (false, _) => "implicitDeny",
                    };
                    xml.within("member", |xml| {
                        xml.text("EvalActionName", action)
                            .text("EvalResourceName", resource)
                            .text("EvalDecision", outcome);
                        if let granary_access::By::Identity { policy, .. } = &decision.by {
                            xml.within("MatchedStatements", |xml| {
                                xml.within("member", |xml| {
                                    xml.text("SourcePolicyId", policy);
                                });
                            });
                        }
                    });
                }
            }
        })
        .whole();
        Ok(xml.into_string())
    }
}

fn canonical_arn(arn: &str) -> std::borrow::Cow<'_, str> {
    let name = arn.strip_prefix("arn:aws:iam::aws:policy/").map(|path| path.rsplit('/').next().unwrap_or(path));
    match name.and_then(builtin::find) {
        Some((policy, _)) => builtin_arn(policy.name).into(),
        None => arn.into(),
    }
}

fn version_xml(xml: &mut Xml, document: &str, version: u32, at: Timestamp) {
    xml.within("PolicyVersion", |xml| {
        xml.text("Document", &convert::percent_encode(document))
            .text("VersionId", &format!("v{version}"))
            .text("IsDefaultVersion", "true")
            .text("CreateDate", &date::iso(at));
    });
}

fn versions_xml(xml: &mut Xml, version: u32, at: Timestamp) {
    xml.list("Versions", [version], |xml, version| {
        xml.text("VersionId", &format!("v{version}"))
            .text("IsDefaultVersion", "true")
            .text("CreateDate", &date::iso(at));
    })
    .whole();
}
