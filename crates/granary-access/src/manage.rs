//! Changes of users, access keys, groups and roles.

use std::sync::Arc;

use granary_types::Timestamp;
use zeroize::Zeroizing;

use crate::credentials::{Secret, check_access_key};
use crate::error::IamError;
use crate::policy::{Policy, PolicyKind};
use crate::records::{AccessKey, Group, OidcProvider, Policies, Role, ServiceAccount, User};
use crate::root_keys::{MIXED, UPPER, random};
use crate::state::{
    ENTITIES_MAX, KEYS_MAX, ROLE_SESSION_S, Result, State, check_name, check_path, place, prepared, unique_id,
};

/// What a new access key is to be.
#[derive(Debug, Default)]
pub struct NewKey {
    /// The access key; made where `None`.
    pub access_key: Option<String>,
    /// The secret; made where `None`.
    pub secret: Option<Secret>,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
    /// A service account of the user.
    pub service_account: Option<ServiceAccount>,
}

impl State {
    /// Creates a user: in an account, or (`None`) with one of its own.
    ///
    /// # Errors
    /// [`IamError`].
    pub fn create_user(
        &mut self,
        account: Option<&str>,
        name: &str,
        path: &str,
        tags: Vec<(String, String)>,
        now: Timestamp,
    ) -> Result<Arc<User>> {
        check_name("user", name)?;
        check_path(path)?;
        let account = match account {
            Some(account) => self.account(account)?.id.clone(),
            None => self.add_account(name, now)?.id.clone(),
        };
        let key = place(&account, name);
        if self.users.contains_key(&key) {
            return Err(IamError::EntityAlreadyExists(format!("User with name {name} already exists.")));
        }
        if Self::of(&self.users, &account).count() >= ENTITIES_MAX {
            return Err(IamError::LimitExceeded(format!("Cannot exceed quota for UsersPerAccount: {ENTITIES_MAX}")));
        }
        let user = Arc::new(User {
            account,
            name: name.to_owned(),
            id: unique_id("AIDA"),
            path: path.to_owned(),
            created: now,
            policies: Policies::default(),
            tags,
        });
        self.users.insert(key, Arc::clone(&user));
        Ok(user)
    }

    /// Renames a user, or moves it to another path.
    ///
    /// # Errors
    /// [`IamError`].
    pub fn update_user(
        &mut self,
        account: &str,
        name: &str,
        new_name: Option<&str>,
        new_path: Option<&str>,
    ) -> Result<()> {
        let old = Arc::clone(self.user(account, name)?);
        let mut user = (*old).clone();
        if let Some(path) = new_path {
            check_path(path)?;
            path.clone_into(&mut user.path);
        }
        if let Some(new_name) = new_name {
            check_name("user", new_name)?;
            new_name.clone_into(&mut user.name);
            let key = place(account, new_name);
            if key != place(account, name) && self.users.contains_key(&key) {
                return Err(IamError::EntityAlreadyExists(format!("User with name {new_name} already exists.")));
            }
            let (from, to) = (place(account, name), key);
            for group in self.groups.values_mut().filter(|group| group.members.contains(&from)) {
                for member in Arc::make_mut(group).members.iter_mut().filter(|member| **member == from) {
                    member.clone_from(&to);
                }
            }
            for key in
                self.keys.values_mut().filter(|key| key.account == account && key.user.eq_ignore_ascii_case(name))
            {
                new_name.clone_into(&mut Arc::make_mut(key).user);
            }
        }
        self.users.remove(&place(account, name));
        self.users.insert(place(account, &user.name), Arc::new(user));
        Ok(())
    }

    /// Deletes a user. What hangs on it must be gone before, as IAM has it, unless `cascade`.
    ///
    /// # Errors
    /// [`IamError::DeleteConflict`], [`IamError::NoSuchEntity`].
    pub fn delete_user(&mut self, account: &str, name: &str, cascade: bool) -> Result<()> {
        let user = Arc::clone(self.user(account, name)?);
        let member = place(account, name);
        if !cascade {
            let conflict =
                |what: &str| Err(IamError::DeleteConflict(format!("Cannot delete entity, must {what} first.")));
            if self.keys_of(&user).next().is_some() {
                return conflict("delete access keys");
            }
            if !user.policies.attached.is_empty() {
                return conflict("detach all policies");
            }
            if !user.policies.inline.is_empty() {
                return conflict("delete policies");
            }
            if self.groups_of(&user).next().is_some() {
                return conflict("remove users from group");
            }
        }
        self.keys.retain(|_, key| !(key.account == account && key.user.eq_ignore_ascii_case(name)));
        for group in self.groups.values_mut().filter(|group| group.members.contains(&member)) {
            Arc::make_mut(group).members.retain(|other| *other != member);
        }
        self.users.remove(&member);
        // An account of its own that has nothing left goes with it. (Its buckets keep their owner's id; root can reach them.)
        let is_empty = account != self.root
            && Self::of(&self.users, account).next().is_none()
            && Self::of(&self.roles, account).next().is_none();
        if is_empty {
            self.accounts.remove(account);
            let of_account = format!("{account}/");
            self.groups.retain(|key, _| !key.starts_with(&of_account));
            self.policies.retain(|key, _| !key.starts_with(&of_account));
            self.providers.retain(|key, _| !key.starts_with(&of_account));
        }
        Ok(())
    }

    /// Makes an access key for a user.
    ///
    /// # Errors
    /// [`IamError`].
    pub fn create_key(&mut self, account: &str, user: &str, new: NewKey, now: Timestamp) -> Result<Arc<AccessKey>> {
        let user = Arc::clone(self.user(account, user)?);
        if self.keys_of(&user).count() >= KEYS_MAX {
            return Err(IamError::LimitExceeded(format!("Cannot exceed quota for AccessKeysPerUser: {KEYS_MAX}")));
        }
        let access_key = match new.access_key {
            Some(access_key) => {
                check_access_key(&access_key)?;
                // Temporary credentials are told by this: see `session`.
                if access_key.starts_with(crate::session::PREFIX) {
                    return Err(IamError::ValidationError(format!(
                        "access keys that begin with {} are those of sessions: choose another",
                        crate::session::PREFIX
                    )));
                }
                access_key
            }
            None => format!("AKIA{}", random(16, UPPER)),
        };
        if self.keys.contains_key(&access_key) {
            return Err(IamError::EntityAlreadyExists(format!("The access key {access_key} is taken.")));
        }
        if let Some(policy) = new.service_account.as_ref().and_then(|service| service.policy.as_deref()) {
            prepared(policy)?;
        }
        if new.expires.is_some_and(|expires| expires <= now) {
            return Err(IamError::ValidationError("the key would have expired already".to_owned()));
        }
        let secret = match new.secret {
            Some(secret) => Zeroizing::new(secret.expose().to_owned()),
            None => Zeroizing::new(random(40, MIXED)),
        };
        let key = Arc::new(AccessKey {
            access_key: access_key.clone(),
            account: user.account.clone(),
            user: user.name.clone(),
            secret,
            is_active: true,
            created: now,
            expires: new.expires,
            service_account: new.service_account,
        });
        self.keys.insert(access_key, Arc::clone(&key));
        Ok(key)
    }

    /// Switches an access key on or off.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn set_key_active(&mut self, account: &str, user: &str, access_key: &str, is_active: bool) -> Result<()> {
        let user = Arc::clone(self.user(account, user)?);
        self.key(&user, access_key)?;
        if let Some(key) = self.keys.get_mut(access_key) {
            Arc::make_mut(key).is_active = is_active;
        }
        Ok(())
    }

    /// Deletes an access key.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn delete_key(&mut self, account: &str, user: &str, access_key: &str) -> Result<()> {
        let user = Arc::clone(self.user(account, user)?);
        self.key(&user, access_key)?;
        self.keys.remove(access_key);
        Ok(())
    }

    /// Creates a group.
    ///
    /// # Errors
    /// [`IamError`].
    pub fn create_group(&mut self, account: &str, name: &str, path: &str, now: Timestamp) -> Result<Arc<Group>> {
        check_name("group", name)?;
        check_path(path)?;
        self.account(account)?;
        let key = place(account, name);
        if self.groups.contains_key(&key) {
            return Err(IamError::EntityAlreadyExists(format!("Group with name {name} already exists.")));
        }
        if Self::of(&self.groups, account).count() >= ENTITIES_MAX {
            return Err(IamError::LimitExceeded(format!("Cannot exceed quota for GroupsPerAccount: {ENTITIES_MAX}")));
        }
        let group = Arc::new(Group {
            account: account.to_owned(),
            name: name.to_owned(),
            id: unique_id("AGPA"),
            path: path.to_owned(),
            created: now,
            policies: Policies::default(),
            members: Vec::new(),
        });
        self.groups.insert(key, Arc::clone(&group));
        Ok(group)
    }

    /// Deletes a group; it must be empty, unless `cascade`.
    ///
    /// # Errors
    /// [`IamError::DeleteConflict`], [`IamError::NoSuchEntity`].
    pub fn delete_group(&mut self, account: &str, name: &str, cascade: bool) -> Result<()> {
        let group = self.group(account, name)?;
        let has_policies = !group.policies.attached.is_empty() || !group.policies.inline.is_empty();
        if !cascade && (!group.members.is_empty() || has_policies) {
            return Err(IamError::DeleteConflict(
                "Cannot delete entity, must remove users from group and detach all policies first.".to_owned(),
            ));
        }
        self.groups.remove(&place(account, name));
        Ok(())
    }

    /// Puts a user into a group, or takes it out.
    ///
    /// # Errors
    /// [`IamError::NoSuchEntity`].
    pub fn set_member(&mut self, account: &str, group: &str, user: &User, is_member: bool) -> Result<()> {
        let member = place(&user.account, &user.name);
        self.group(account, group)?;
        if let Some(group) = self.groups.get_mut(&place(account, group)) {
            let members = &mut Arc::make_mut(group).members;
            let before = members.len();
            members.retain(|other| *other != member);
            if is_member {
                members.push(member);
            } else if members.len() == before {
                return Err(IamError::NoSuchEntity(format!("User {} is not in group.", user.name)));
            }
        }
        Ok(())
    }

    /// Creates a role.
    ///
    /// # Errors
    /// [`IamError`].
    #[allow(clippy::too_many_arguments)] // Each is a field of one request.
    pub fn create_role(
        &mut self,
        account: &str,
        name: &str,
        path: &str,
        description: &str,
        trust: &str,
        session_s_max: u64,
        now: Timestamp,
    ) -> Result<Arc<Role>> {
        check_name("role", name)?;
        check_path(path)?;
        self.account(account)?;
        Policy::parse(trust.as_bytes(), PolicyKind::Trust)?;
        if !ROLE_SESSION_S.contains(&session_s_max) {
            return Err(IamError::ValidationError(
                "MaxSessionDuration must be between 3600 and 43200 seconds".to_owned(),
            ));
        }
        let key = place(account, name);
        if self.roles.contains_key(&key) {
            return Err(IamError::EntityAlreadyExists(format!("Role with name {name} already exists.")));
        }
        if Self::of(&self.roles, account).count() >= ENTITIES_MAX {
            return Err(IamError::LimitExceeded(format!("Cannot exceed quota for RolesPerAccount: {ENTITIES_MAX}")));
        }
        let role = Arc::new(Role {
            account: account.to_owned(),
            name: name.to_owned(),
            id: unique_id("AROA"),
            path: path.to_owned(),
            created: now,
            policies: Policies::default(),
            trust: trust.to_owned(),
            description: description.to_owned(),
            session_s_max,
        });
        self.roles.insert(key, Arc::clone(&role));
        Ok(role)
    }

    /// Exchanges who may assume a role.
    ///
    /// # Errors
    /// [`IamError`].
    pub fn set_trust(&mut self, account: &str, name: &str, trust: &str) -> Result<()> {
        Policy::parse(trust.as_bytes(), PolicyKind::Trust)?;
        self.role(account, name)?;
        if let Some(role) = self.roles.get_mut(&place(account, name)) {
            trust.clone_into(&mut Arc::make_mut(role).trust);
        }
        Ok(())
    }

    /// Deletes a role that has no policies.
    ///
    /// # Errors
    /// [`IamError::DeleteConflict`], [`IamError::NoSuchEntity`].
    pub fn delete_role(&mut self, account: &str, name: &str) -> Result<()> {
        let role = self.role(account, name)?;
        if !role.policies.attached.is_empty() || !role.policies.inline.is_empty() {
            return Err(IamError::DeleteConflict("Cannot delete entity, must detach all policies first.".to_owned()));
        }
        self.roles.remove(&place(account, name));
        Ok(())
    }

    /// Remembers an identity provider.
    ///
    /// # Errors
    /// [`IamError`].
    pub fn create_provider(
        &mut self,
        account: &str,
        url: &str,
        client_ids: Vec<String>,
        now: Timestamp,
    ) -> Result<String> {
        let name = crate::oidc::issuer_name(url).ok_or_else(|| {
            IamError::ValidationError(
                "Invalid Open ID Connect Provider URL: https://, or http:// on loopback".to_owned(),
            )
        })?;
        let key = place(account, name);
        if self.providers.contains_key(&key) {
            return Err(IamError::EntityAlreadyExists(format!("Provider with url {url} already exists.")));
        }
        if Self::of(&self.providers, account).count() >= 100 || client_ids.len() > 100 {
            return Err(IamError::LimitExceeded(
                "Cannot exceed quota for OpenIdConnectProvidersPerAccount: 100".to_owned(),
            ));
        }
        let arn = provider_arn(account, name);
        let provider = OidcProvider {
            account: account.to_owned(),
            name: name.to_owned(),
            url: url.trim_end_matches('/').to_owned(),
            client_ids,
            created: now,
        };
        self.providers.insert(key, Arc::new(provider));
        Ok(arn)
    }
}

/// `arn:aws:iam::ACCOUNT:oidc-provider/HOST/PATH`.
#[must_use]
pub fn provider_arn(account: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:oidc-provider/{name}")
}
