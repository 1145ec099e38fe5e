//! AWS's policy language: what a policy is, once read and prepared.
//!
//! Guarantees: what is not understood is refused when the policy is written ([`PolicyError`] names it), never
//! skipped when it is judged. Judging takes no lock and, but for variables, no allocation. Where the language is
//! AWS's to define, `docs/adr/0003-identity-and-access.md` names the page.

mod actions;
pub mod builtin;
mod condition;
mod context;
mod parse;
mod pattern;
mod principal;

use std::fmt;
use std::sync::Arc;

pub use context::{Context, EmptyContext, Env, GivenContext, Key, Values};

use crate::identity::Identity;
use condition::Condition;
use pattern::{Case, Pattern};
use principal::Principal;

/// Characters of a policy document, at most (S3's limit for bucket policies, in bytes).
pub const POLICY_BYTES_MAX: usize = 20 * 1024;
/// Statements of a policy, at most.
const STATEMENTS_MAX: usize = 512;

/// Why a policy document was refused (`MalformedPolicy`, `MalformedPolicyDocument`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(pub String);

/// What a policy is attached to, which decides what may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind<'a> {
    /// To a user, group or role, or to a session.
    Identity,
    /// To a bucket of that name.
    Bucket(&'a str),
    /// To a role: who may assume it.
    Trust,
}

/// What a statement says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It allows.
    Allow,
    /// It denies, whatever others allow.
    Deny,
}

/// An element, or its opposite (`NotAction`, `NotResource`, `NotPrincipal`).
#[derive(Debug, Clone, PartialEq)]
struct Either<T> {
    not: bool,
    of: Vec<T>,
}

impl<T> Either<T> {
    fn holds(&self, mut matches: impl FnMut(&T) -> bool) -> bool {
        self.of.iter().any(&mut matches) != self.not
    }
}

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Statement {
    /// Its `Sid`, else its place: `#1`.
    name: Arc<str>,
    effect: Effect,
    /// In resource and trust policies.
    principal: Option<Either<Principal>>,
    action: Either<Pattern>,
    /// Not in trust policies.
    resource: Option<Either<Pattern>>,
    conditions: Vec<Condition>,
}

impl Statement {
    fn applies(&self, action: &str, resource: &str, env: &Env<'_>) -> bool {
        self.action.holds(|pattern| pattern.is_all() || pattern.matches_plain(action, Case::Ignored))
            && self.resource.as_ref().is_none_or(|either| {
                either.holds(|pattern| pattern.is_all() || pattern.matches(resource, Case::Counts, env))
            })
            && self.principal.as_ref().is_none_or(|either| either.holds(|principal| principal.means(env.identity)))
            && self.conditions.iter().all(|condition| condition.holds(env))
    }

    /// Whether it allows everything on everything, or names a resource that begins with `named` and matches.
    fn means(&self, resource: &str, env: &Env<'_>, named: &str) -> bool {
        let Some(resources) = &self.resource else { return false };
        if resources.not || self.action.not {
            return false;
        }
        let is_everything = self.action.of.iter().any(Pattern::is_all) && resources.of.iter().any(Pattern::is_all);
        let names = |pattern: &Pattern| pattern.begins_with(named) && pattern.matches(resource, Case::Counts, env);
        is_everything || resources.of.iter().any(names)
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        let resources = self.resource.iter().flat_map(|either| &either.of).flat_map(Pattern::keys);
        resources.chain(self.conditions.iter().flat_map(Condition::keys))
    }

    /// Whether it lets in everybody, signed or not (AWS's meaning of "public").
    fn is_public(&self) -> bool {
        let everybody =
            self.principal.as_ref().is_some_and(|either| either.not || either.of.contains(&Principal::Everybody));
        self.effect == Effect::Allow && everybody && !self.conditions.iter().any(Condition::pins)
    }
}

/// A policy, read and prepared. Cheap to share.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    statements: Vec<Statement>,
    needs_object: bool,
}

/// What a policy says to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A statement denies; its name.
    Denied(Arc<str>),
    /// None denies, and one allows; its name.
    Allowed(Arc<str>),
    /// None speaks of it.
    Silent,
}

impl Policy {
    /// Reads a policy document.
    ///
    /// # Errors
    /// [`PolicyError`] saying what is wrong with it.
    pub fn parse(document: &[u8], kind: PolicyKind<'_>) -> Result<Self, PolicyError> {
        parse::document(document, kind)
    }

    fn new(statements: Vec<Statement>) -> Self {
        let needs_object = statements.iter().flat_map(Statement::keys).any(Key::needs_object);
        Self { statements, needs_object }
    }

    /// Judges: is `action` on `resource` allowed, denied, or not spoken of?
    #[must_use]
    pub fn judge(&self, action: &str, resource: &str, env: &Env<'_>) -> Verdict {
        self.judge_those(action, resource, env, |_| true)
    }

    /// Judges by all denials, and by those statements that allow and `count`.
    fn judge_those(&self, action: &str, resource: &str, env: &Env<'_>, count: impl Fn(&Statement) -> bool) -> Verdict {
        let mut allowed = None;
        for statement in &self.statements {
            // Once something allows, only denials matter.
            let matters = statement.effect == Effect::Deny || (allowed.is_none() && count(statement));
            if matters && statement.applies(action, resource, env) {
                match statement.effect {
                    Effect::Deny => return Verdict::Denied(Arc::clone(&statement.name)),
                    Effect::Allow => allowed = Some(&statement.name),
                }
            }
        }
        allowed.map_or(Verdict::Silent, |name| Verdict::Allowed(Arc::clone(name)))
    }

    /// [`Policy::judge`] for a resource that must be meant: of the statements that allow, only those count that allow everything on
    /// everything, or name a resource that begins with `named` in so many letters. Denials count as ever.
    #[must_use]
    pub fn judge_narrowly(&self, action: &str, resource: &str, env: &Env<'_>, named: &str) -> Verdict {
        self.judge_those(action, resource, env, |statement| statement.means(resource, env, named))
    }

    /// Whether a statement that allows names this very user or role, or everybody, rather than its account: then
    /// its own account need not allow it too (trust policies).
    #[must_use]
    pub fn names(&self, identity: &Identity) -> bool {
        let names = |principal: &Principal| {
            matches!(principal, Principal::Arn(_) | Principal::Everybody) && principal.means(identity)
        };
        self.statements.iter().any(|statement| {
            statement.effect == Effect::Allow
                && statement.principal.as_ref().is_some_and(|either| !either.not && either.of.iter().any(names))
        })
    }

    /// Whether the outcome can depend on what the object is now (its tags).
    #[must_use]
    pub const fn needs_object(&self) -> bool {
        self.needs_object
    }

    /// Whether it lets in everybody: a statement that allows `*` without tying it to fixed principals or addresses
    /// (`GetBucketPolicyStatus`, public access block).
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(Statement::is_public)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
        })
    }
}
