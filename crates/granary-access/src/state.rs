//! All users, keys, groups, roles and policies, as values: what changes do to them, and what identities come of them.
//!
//! Guarantees: a change is checked as a whole before anything of it is written (`Iam::change` writes the difference).
//! Leaves to others: writing, sealing, and who may change what.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_types::Timestamp;
use granary_types::hex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::credentials::Owner;
use crate::error::IamError;
use crate::identity::{Attached, Identity, Limit, PrincipalKind, account_id};
use crate::policy::{Policy, PolicyKind, builtin};
use crate::records::{AccessKey, Account, Group, ManagedPolicy, OidcProvider, Policies, Role, User};

/// Users, groups, roles and policies of one account, each, at most; access keys of a user.
pub const ENTITIES_MAX: usize = 10_000;
/// Access keys of a user, service accounts included. (AWS: two. Rotation needs two; the rest is for service accounts.)
pub const KEYS_MAX: usize = 50;
/// Policies attached to a user, group or role.
pub const ATTACHED_MAX: usize = 20;
/// Characters of a name.
const NAME_MAX: usize = 64;
/// Length of sessions of a role, in seconds: AWS's bounds and default.
pub const ROLE_SESSION_S: std::ops::RangeInclusive<u64> = 3_600..=43_200;

/// Any result here.
pub type Result<T> = std::result::Result<T, IamError>;

/// A kind of thing that is kept as a record of its own.
pub(crate) trait Kept: Serialize + DeserializeOwned + Clone {
    /// Folder of its records.
    const FOLDER: &'static str;
    /// Name in its folder.
    fn key(&self) -> String;
}

macro_rules! kept {
    ($($kind:ident in $folder:literal by $of:ident => $key:expr;)*) => {
        $(impl Kept for $kind {
            const FOLDER: &'static str = $folder;
            fn key(&self) -> String {
                let $of = self;
                $key
            }
        })*
    };
}

kept! {
    Account in "account" by a => a.id.clone();
    User in "user" by u => place(&u.account, &u.name);
    Group in "group" by g => place(&g.account, &g.name);
    Role in "role" by r => place(&r.account, &r.name);
    ManagedPolicy in "policy" by p => place(&p.account, &p.name);
    AccessKey in "key" by k => k.access_key.clone();
    OidcProvider in "oidc" by o => place(&o.account, &o.name);
}

/// `ACCOUNT/NAME`. Letter case does not count where names are compared, as in IAM.
#[must_use]
pub fn place(account: &str, name: &str) -> String {
    format!("{account}/{}", name.to_ascii_lowercase())
}

/// Things of one kind, by their key. Cheap to clone as far as it goes: the things are shared.
pub(crate) type Table<T> = BTreeMap<String, Arc<T>>;

/// Everything. Changed as a value, then published.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Account that holds the root keys.
    pub(crate) root: String,
    pub(crate) accounts: Table<Account>,
    pub(crate) users: Table<User>,
    pub(crate) groups: Table<Group>,
    pub(crate) roles: Table<Role>,
    pub(crate) policies: Table<ManagedPolicy>,
    pub(crate) keys: Table<AccessKey>,
    pub(crate) providers: Table<OidcProvider>,
}

/// Whose policies are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder<'a> {
    /// A user.
    User(&'a str),
    /// A group.
    Group(&'a str),
    /// A role.
    Role(&'a str),
}

impl Holder<'_> {
    const fn word(self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Group(_) => "group",
            Self::Role(_) => "role",
        }
    }

    const fn name(&self) -> &str {
        match self {
            Self::User(name) | Self::Group(name) | Self::Role(name) => name,
        }
    }
}

fn missing(what: &str, name: &str) -> IamError {
    IamError::NoSuchEntity(format!("The {what} with name {name} cannot be found."))
}

fn exists(what: &str, name: &str) -> IamError {
    IamError::EntityAlreadyExists(format!("{what} with name {name} already exists."))
}

/// Names of users, groups, roles and policies.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'=' | b',' | b'.' | b'@' | b'-' | b'_');
    let max = if what == "policy" { 128 } else { NAME_MAX };
    if name.is_empty() || name.len() > max || !name.bytes().all(fine) {
        return Err(IamError::ValidationError(format!(
            "The specified value for {what} name is invalid: it must have 1 to {max} letters, digits, or any of +=,.@-_"
        )));
    }
    Ok(())
}

/// Paths: `/`, or `/a/b/`.
pub(crate) fn check_path(path: &str) -> Result<()> {
    let fine = path.len() <= 512
        && path.starts_with('/')
        && path.ends_with('/')
        && !path.contains("//")
        && path.bytes().all(|b| b.is_ascii_graphic());
    if fine {
        Ok(())
    } else {
        Err(IamError::ValidationError("A path begins and ends with a slash, such as /team/".to_owned()))
    }
}

/// A unique id, such as `AIDA...`.
pub(crate) fn unique_id(prefix: &str) -> String {
    format!("{prefix}{}", crate::root_keys::random(16, crate::root_keys::UPPER))
}

impl State {
    // --- looking up -------------------------------------------------------------------------------------------

    /// An account.
    pub(crate) fn account(&self, id: &str) -> Result<&Arc<Account>> {
        self.accounts.get(id).ok_or_else(|| missing("account", id))
    }

    /// A user.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn user(&self, account: &str, name: &str) -> Result<&Arc<User>> {
        self.users.get(&place(account, name)).ok_or_else(|| missing("user", name))
    }

    /// A group.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn group(&self, account: &str, name: &str) -> Result<&Arc<Group>> {
        self.groups.get(&place(account, name)).ok_or_else(|| missing("group", name))
    }

    /// A role.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn role(&self, account: &str, name: &str) -> Result<&Arc<Role>> {
        self.roles.get(&place(account, name)).ok_or_else(|| missing("role", name))
    }

    /// An access key of a user.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn key(&self, user: &User, access_key: &str) -> Result<&Arc<AccessKey>> {
        self.keys
            .get(access_key)
            .filter(|key| key.account == user.account && key.user.eq_ignore_ascii_case(&user.name))
            .ok_or_else(|| IamError::NoSuchEntity(format!("The Access Key with id {access_key} cannot be found.")))
    }

    /// What a table holds of one account, in the order of names.
    pub(crate) fn of<'a, T>(table: &'a Table<T>, account: &str) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        let start = format!("{account}/");
        table.range(start.clone()..).take_while(move |(key, _)| key.starts_with(&start)).map(|(_, value)| value)
    }

    /// An account's users.
    pub fn users_of(&self, account: &str) -> impl Iterator<Item = &Arc<User>> {
        Self::of(&self.users, account)
    }

    /// An account's groups.
    pub fn groups_of_account(&self, account: &str) -> impl Iterator<Item = &Arc<Group>> {
        Self::of(&self.groups, account)
    }

    /// An account's roles.
    pub fn roles_of(&self, account: &str) -> impl Iterator<Item = &Arc<Role>> {
        Self::of(&self.roles, account)
    }

    /// An account's own managed policies.
    pub fn managed_of(&self, account: &str) -> impl Iterator<Item = &Arc<ManagedPolicy>> {
        Self::of(&self.policies, account)
    }

    /// An account's identity providers.
    pub fn providers_of(&self, account: &str) -> impl Iterator<Item = &Arc<OidcProvider>> {
        Self::of(&self.providers, account)
    }

    /// The identity provider that an account trusts, by its name.
    #[must_use]
    pub fn provider(&self, account: &str, name: &str) -> Option<&Arc<OidcProvider>> {
        self.providers.get(&place(account, name))
    }

    /// Forgets an identity provider.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn delete_provider(&mut self, account: &str, name: &str) -> Result<()> {
        let gone = self.providers.remove(&place(account, name));
        gone.map(|_| ()).ok_or_else(|| missing("provider", name))
    }

    /// All users.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.values()
    }

    /// All managed policies but the built-in ones.
    pub fn managed(&self) -> impl Iterator<Item = &Arc<ManagedPolicy>> {
        self.policies.values()
    }

    /// A user's access keys.
    pub fn keys_of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Arc<AccessKey>> {
        self.keys.values().filter(move |key| key.account == user.account && key.user.eq_ignore_ascii_case(&user.name))
    }

    /// Groups that a user is in.
    pub fn groups_of(&self, user: &User) -> impl Iterator<Item = &Arc<Group>> {
        let member = place(&user.account, &user.name);
        self.groups.values().filter(move |group| group.members.contains(&member))
    }

    /// The user that a person means: `NAME` of an account of its own, else of whichever account has one user of that
    /// name; or `ACCOUNT/NAME`, the account by its number or name.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`], and [`IamError::ValidationError`] where several are called that.
    pub fn find_user(&self, name: &str) -> Result<&Arc<User>> {
        if let Some((account, name)) = name.split_once('/') {
            return self.user(&self.find_account(account)?.id.clone(), name);
        }
        let own = self.accounts.values().find(|account| account.name.eq_ignore_ascii_case(name));
        if let Some(user) = own.and_then(|account| self.users.get(&place(&account.id, name))) {
            return Ok(user);
        }
        let mut all = self.users.values().filter(|user| user.name.eq_ignore_ascii_case(name));
        match (all.next(), all.next()) {
            (Some(user), None) => Ok(user),
            (None, _) => Err(missing("user", name)),
            (Some(a), Some(b)) => Err(IamError::ValidationError(format!(
                "several users are called {name}: write {}/{name} or {}/{name}",
                a.account, b.account
            ))),
        }
    }

    /// An account by its number or name; `root` is the root keys'.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn find_account(&self, name: &str) -> Result<&Arc<Account>> {
        let found = self
            .accounts
            .get(name)
            .or_else(|| self.accounts.values().find(|account| account.name.eq_ignore_ascii_case(name)));
        found.ok_or_else(|| missing("account", name))
    }

    // --- policies ------------------------------------------------------------------------------------------------

    /// The managed policy behind an ARN, as `account` may use it: a built-in one, its own, or the root account's.
    pub(crate) fn policy_by_arn(&self, account: &str, arn: &str) -> Result<Attached> {
        let unknown = || IamError::NoSuchEntity(format!("Policy {arn} does not exist or is not attachable."));
        let rest = arn.strip_prefix("arn:aws:iam::").ok_or_else(unknown)?;
        let (owner, path) = rest.split_once(":policy/").ok_or_else(unknown)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        if owner == "aws" {
            let (builtin, policy) = builtin::find(name).ok_or_else(unknown)?;
            return Ok(Attached { name: builtin.name.into(), policy });
        }
        if owner != account && owner != self.root {
            return Err(unknown());
        }
        let managed = self.policies.get(&place(owner, name)).ok_or_else(unknown)?;
        Ok(Attached { name: managed.name.as_str().into(), policy: prepared(&managed.document)? })
    }

    /// The ARN of the policy that a person means by a name: built-in, of the account, or of the root account.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn policy_arn(&self, account: &str, name: &str) -> Result<String> {
        if name.starts_with("arn:") {
            return self.policy_by_arn(account, name).map(|_| name.to_owned());
        }
        let own = |owner: &str| self.policies.get(&place(owner, name)).map(|policy| policy_arn(policy));
        own(account)
            .or_else(|| own(&self.root))
            .or_else(|| builtin::find(name).map(|(builtin, _)| builtin_arn(builtin.name)))
            .ok_or_else(|| {
                let known: Vec<&str> = builtin::BUILTINS.iter().map(|builtin| builtin.name).collect();
                IamError::NoSuchEntity(format!(
                    "there is no policy {name}; built in are {}, and `granary policy put` makes others",
                    known.join(", ")
                ))
            })
    }

    /// The policies of a holder.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn policies_of(&self, account: &str, holder: Holder<'_>) -> Result<&Policies> {
        Ok(match holder {
            Holder::User(name) => &self.user(account, name)?.policies,
            Holder::Group(name) => &self.group(account, name)?.policies,
            Holder::Role(name) => &self.role(account, name)?.policies,
        })
    }

    fn policies_mut(&mut self, account: &str, holder: Holder<'_>) -> Result<&mut Policies> {
        let (key, gone) = (place(account, holder.name()), missing(holder.word(), holder.name()));
        match holder {
            Holder::User(_) => self.users.get_mut(&key).map(|user| &mut Arc::make_mut(user).policies),
            Holder::Group(_) => self.groups.get_mut(&key).map(|group| &mut Arc::make_mut(group).policies),
            Holder::Role(_) => self.roles.get_mut(&key).map(|role| &mut Arc::make_mut(role).policies),
        }
        .ok_or(gone)
    }

    /// Attaches a managed policy.
    ///
    /// # Errors
    /// [`IamError`].
    pub fn attach(&mut self, account: &str, holder: Holder<'_>, arn: &str) -> Result<()> {
        self.policy_by_arn(account, arn)?;
        let policies = self.policies_mut(account, holder)?;
        if !policies.attached.iter().any(|attached| attached == arn) {
            if policies.attached.len() >= ATTACHED_MAX {
                return Err(IamError::LimitExceeded(format!(
                    "Cannot exceed quota for PoliciesPerUser: {ATTACHED_MAX}"
                )));
            }
            policies.attached.push(arn.to_owned());
        }
        Ok(())
    }

    /// Detaches a managed policy.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`], also where it was not attached.
    pub fn detach(&mut self, account: &str, holder: Holder<'_>, arn: &str) -> Result<()> {
        let policies = self.policies_mut(account, holder)?;
        let before = policies.attached.len();
        policies.attached.retain(|attached| attached != arn);
        if policies.attached.len() == before {
            return Err(IamError::NoSuchEntity(format!("Policy {arn} was not found.")));
        }
        Ok(())
    }

    /// Puts an inline policy.
    ///
    /// # Errors
    /// [`IamError`].
    pub fn put_inline(&mut self, account: &str, holder: Holder<'_>, name: &str, document: &str) -> Result<()> {
        check_name("policy", name)?;
        prepared(document)?;
        let policies = self.policies_mut(account, holder)?;
        if policies.inline.len() >= ATTACHED_MAX && !policies.inline.contains_key(name) {
            return Err(IamError::LimitExceeded(format!("Cannot exceed {ATTACHED_MAX} inline policies")));
        }
        policies.inline.insert(name.to_owned(), document.to_owned());
        Ok(())
    }

    /// Deletes an inline policy.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn delete_inline(&mut self, account: &str, holder: Holder<'_>, name: &str) -> Result<()> {
        let gone = self.policies_mut(account, holder)?.inline.remove(name);
        gone.map(|_| ()).ok_or_else(|| {
            IamError::NoSuchEntity(format!("The {} policy with name {name} cannot be found.", holder.word()))
        })
    }

    /// Creates a managed policy, or (`replace`) exchanges its document.
    ///
    /// # Errors
    /// [`IamError`].
    #[allow(clippy::too_many_arguments)] // Each is a field of one request.
    pub fn put_policy(
        &mut self,
        account: &str,
        name: &str,
        path: &str,
        description: &str,
        document: &str,
        replace: bool,
        now: Timestamp,
    ) -> Result<Arc<ManagedPolicy>> {
        check_name("policy", name)?;
        check_path(path)?;
        prepared(document)?;
        if builtin::BUILTINS.iter().any(|builtin| builtin.name == name) {
            return Err(IamError::EntityAlreadyExists(format!("{name} is a built-in policy: choose another name")));
        }
        let key = place(account, name);
        let old = self.policies.get(&key);
        if old.is_some() && !replace {
            return Err(IamError::EntityAlreadyExists(format!("A policy called {name} already exists.")));
        }
        if old.is_none() && Self::of(&self.policies, account).count() >= ENTITIES_MAX {
            return Err(IamError::LimitExceeded(format!("An account has at most {ENTITIES_MAX} policies")));
        }
        let policy = Arc::new(ManagedPolicy {
            account: account.to_owned(),
            name: name.to_owned(),
            id: old.map_or_else(|| unique_id("ANPA"), |old| old.id.clone()),
            path: old.map_or(path, |old| &old.path).to_owned(),
            created: old.map_or(now, |old| old.created),
            updated: now,
            description: if description.is_empty() {
                old.map(|old| old.description.clone()).unwrap_or_default()
            } else {
                description.to_owned()
            },
            document: document.to_owned(),
            version: old.map_or(1, |old| old.version.saturating_add(1)),
        });
        self.policies.insert(key, Arc::clone(&policy));
        Ok(policy)
    }

    /// How many users, groups and roles have a managed policy.
    #[must_use]
    pub fn attachments(&self, arn: &str) -> usize {
        let has = |policies: &Policies| policies.attached.iter().any(|attached| attached == arn);
        self.users.values().filter(|user| has(&user.policies)).count()
            + self.groups.values().filter(|group| has(&group.policies)).count()
            + self.roles.values().filter(|role| has(&role.policies)).count()
    }

    /// Deletes a managed policy that nobody has.
    ///
    /// # Errors
    /// [`IamError::DeleteConflict`], [`IamError::NoSuchEntity`].
    pub fn delete_policy(&mut self, account: &str, name: &str) -> Result<()> {
        let key = place(account, name);
        let policy = self.policies.get(&key).ok_or_else(|| missing("policy", name))?;
        if self.attachments(&policy_arn(policy)) > 0 {
            return Err(IamError::DeleteConflict("Cannot delete a policy attached to entities.".to_owned()));
        }
        self.policies.remove(&key);
        Ok(())
    }

    // --- identities -------------------------------------------------------------------------------------------

    /// The owner that an account's buckets have.
    pub(crate) fn owner(&self, account: &str) -> Owner {
        let account = self.accounts.get(account);
        Owner {
            id: account.map(|account| account.canonical.clone()).unwrap_or_default(),
            display_name: account.map(|account| account.name.clone()).unwrap_or_default(),
        }
    }

    fn attached(&self, account: &str, policies: &Policies, of: &str, into: &mut Vec<Attached>) {
        for arn in &policies.attached {
            match self.policy_by_arn(account, arn) {
                Ok(attached) => into.push(attached),
                Err(error) => {
                    tracing::error!(arn, of, %error, "a policy cannot be used; everything it might deny is denied");
                    into.push(Attached { name: arn.as_str().into(), policy: nothing() });
                }
            }
        }
        for (name, document) in &policies.inline {
            let name: Arc<str> = format!("{name} (inline, of {of})").into();
            let policy = prepared(document).unwrap_or_else(|error| {
                tracing::error!(%name, %error, "a policy cannot be used; everything it might deny is denied");
                nothing()
            });
            into.push(Attached { name, policy });
        }
    }

    /// A user's identity, without an access key.
    #[must_use]
    pub fn identity_of(&self, user: &User) -> Identity {
        let mut policies = Vec::new();
        self.attached(&user.account, &user.policies, &format!("user {}", user.name), &mut policies);
        for group in self.groups_of(user) {
            // A group's policies are its account's, which may be the root account's.
            self.attached(&group.account, &group.policies, &format!("group {}", group.name), &mut policies);
        }
        let arn = user_arn(user);
        Identity {
            access_key: String::new(),
            owner: Arc::new(self.owner(&user.account)),
            account: user.account.clone(),
            kind: PrincipalKind::User,
            name: user.name.clone(),
            id: user.id.clone(),
            principal: arn.clone(),
            arn,
            is_root: false,
            policies,
            limits: Vec::new(),
            tags: user.tags.clone(),
            session: None,
        }
    }

    /// A role's identity, to be completed with its session.
    #[must_use]
    pub fn identity_of_role(&self, role: &Role) -> Identity {
        let mut policies = Vec::new();
        self.attached(&role.account, &role.policies, &format!("role {}", role.name), &mut policies);
        Identity {
            owner: Arc::new(self.owner(&role.account)),
            account: role.account.clone(),
            kind: PrincipalKind::AssumedRole,
            name: role.name.clone(),
            id: role.id.clone(),
            arn: role_arn(role),
            principal: role_arn(role),
            policies,
            ..Identity::anonymous()
        }
    }

    /// An access key's identity.
    pub(crate) fn identity_of_key(&self, key: &AccessKey) -> Option<Identity> {
        let user = self.users.get(&place(&key.account, &key.user))?;
        let mut identity = self.identity_of(user);
        identity.access_key.clone_from(&key.access_key);
        if let Some(service) = &key.service_account {
            identity.kind = PrincipalKind::ServiceAccount;
            if let Some(document) = &service.policy {
                let policy = prepared(document).unwrap_or_else(|error| {
                    tracing::error!(key = %key.access_key, %error, "a service account's policy cannot be used; it may do nothing");
                    nothing()
                });
                let name = format!("the policy of service account {}", service.name).into();
                identity.limits.push(Limit { name, policies: vec![policy] });
            }
        }
        Some(identity)
    }

    /// An account for the user of that name.
    pub(crate) fn add_account(&mut self, name: &str, now: Timestamp) -> Result<Arc<Account>> {
        let taken = name.eq_ignore_ascii_case("root")
            || self.accounts.values().any(|account| account.name.eq_ignore_ascii_case(name));
        if taken {
            return Err(exists("User", name));
        }
        loop {
            let canonical = hex::encode(rand::random::<[u8; 32]>());
            let id = account_id(&canonical);
            if self.accounts.contains_key(&id) || id == self.root {
                continue;
            }
            let account = Arc::new(Account { id: id.clone(), canonical, name: name.to_owned(), created: now });
            self.accounts.insert(id, Arc::clone(&account));
            return Ok(account);
        }
    }
}

/// A policy document of users, groups and roles, prepared.
pub(crate) fn prepared(document: &str) -> Result<Arc<Policy>> {
    Ok(Arc::new(Policy::parse(document.as_bytes(), PolicyKind::Identity)?))
}

/// Denies everything: stands in for a policy that cannot be read, since what it denied must stay denied.
fn nothing() -> Arc<Policy> {
    let document =
        r#"{"Version":"2012-10-17","Statement":{"Sid":"Unreadable","Effect":"Deny","Action":"*","Resource":"*"}}"#;
    Arc::new(Policy::parse(document.as_bytes(), PolicyKind::Identity).expect("a test reads it"))
}

/// `arn:aws:iam::ACCOUNT:user/NAME`.
#[must_use]
pub fn user_arn(user: &User) -> String {
    format!("arn:aws:iam::{}:user{}{}", user.account, user.path, user.name)
}

/// `arn:aws:iam::ACCOUNT:group/NAME`.
#[must_use]
pub fn group_arn(group: &Group) -> String {
    format!("arn:aws:iam::{}:group{}{}", group.account, group.path, group.name)
}

/// `arn:aws:iam::ACCOUNT:role/NAME`.
#[must_use]
pub fn role_arn(role: &Role) -> String {
    format!("arn:aws:iam::{}:role{}{}", role.account, role.path, role.name)
}

/// `arn:aws:iam::ACCOUNT:policy/NAME`.
#[must_use]
pub fn policy_arn(policy: &ManagedPolicy) -> String {
    format!("arn:aws:iam::{}:policy{}{}", policy.account, policy.path, policy.name)
}

/// `arn:aws:iam::aws:policy/NAME`.
#[must_use]
pub fn builtin_arn(name: &str) -> String {
    format!("arn:aws:iam::aws:policy/{name}")
}
