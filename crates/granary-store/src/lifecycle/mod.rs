//! Lifecycle: a bucket's rules as they are kept, what they say of a version, and the worker that acts on them.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/intro-lifecycle-rules.html>
//!
//! The rules come checked from above ([`LifecycleRules::encode`] makes the bucket's document). What they say is worked out
//! here; what is done goes through commands that look at everything once more, so a write that came between wins.

use granary_types::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) mod worker;

const VERSION: u8 = 1;
/// Microseconds of a day.
const DAY_US: u64 = 86_400 * 1_000_000;
/// Smaller objects are moved to another class only by rules that name a size, as in S3.
const TRANSITION_BYTES_MIN: u64 = 128 * 1024;

/// How a rule says which objects it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FilterForm {
    /// `Prefix` in the rule itself, as S3 had it first.
    Legacy,
    /// An empty `Filter`: all.
    #[default]
    Empty,
    /// One condition in a `Filter`.
    One,
    /// Several in `And`.
    And,
}

/// Which objects a rule is about: all conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuleFilter {
    /// How it was given.
    pub form: FilterForm,
    /// Key prefix.
    pub prefix: Option<String>,
    /// Tags, all of them.
    pub tags: Vec<(String, String)>,
    /// Objects with more bytes than this.
    pub larger_than: Option<u64>,
    /// Objects with fewer bytes than this.
    pub smaller_than: Option<u64>,
}

/// When something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Days after the object was written.
    Days(u32),
    /// From a date on.
    Date(Timestamp),
}

/// What happens to current versions in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiration {
    /// They are deleted.
    At(When),
    /// Delete markers that nothing is behind are removed (where `true`).
    Marker(bool),
}

/// `NoncurrentVersionExpiration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoncurrentExpiration {
    /// Days since a version became noncurrent.
    pub days: u32,
    /// So many newer noncurrent versions are kept.
    pub newer_kept: Option<u32>,
}

/// `NoncurrentVersionTransition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoncurrentTransition {
    /// Days since a version became noncurrent.
    pub days: u32,
    /// So many newer noncurrent versions stay where they are.
    pub newer_kept: Option<u32>,
    /// To which class.
    pub class: String,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LifecycleRule {
    /// Its id, unique in the bucket.
    pub id: String,
    /// Whether it is acted upon.
    pub enabled: bool,
    /// About which objects.
    pub filter: RuleFilter,
    /// `Expiration`.
    pub expiration: Option<Expiration>,
    /// `Transition`: when, to which class.
    pub transitions: Vec<(When, String)>,
    /// `NoncurrentVersionExpiration`.
    pub noncurrent_expiration: Option<NoncurrentExpiration>,
    /// `NoncurrentVersionTransition`.
    pub noncurrent_transitions: Vec<NoncurrentTransition>,
    /// `AbortIncompleteMultipartUpload`: days since it was begun.
    pub abort_uploads_days: Option<u32>,
}

/// A bucket's rules.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LifecycleRules {
    /// In the order given.
    pub rules: Vec<LifecycleRule>,
    /// `x-amz-transition-default-minimum-object-size`, given back as it was. (The classes that there are here have the
    /// same minimum either way.)
    pub transition_minimum: Option<String>,
}

/// When an object will be deleted, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// When.
    pub at: Timestamp,
    /// Id of the rule.
    pub rule: String,
}

/// What rules look at in an object.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Key.
    pub key: &'a str,
    /// Size; `None` of a delete marker, which only prefixes speak of.
    pub size_bytes: Option<u64>,
    /// Tags.
    pub tags: &'a [(String, String)],
    /// Storage class, `None` for `STANDARD`.
    pub class: Option<&'a str>,
    /// When it was written.
    pub created: Timestamp,
}

/// What is to be done to a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Remove,
    Transition(String),
}

/// Where a class stands in the order in which objects may move; they never move back.
fn rank(class: Option<&str>) -> u8 {
    match class {
        Some("STANDARD_IA") => 1,
        Some("INTELLIGENT_TIERING") => 2,
        Some("ONEZONE_IA") => 3,
        _ => 0,
    }
}

/// `days` after `from`. Real days end at midnight UTC, as in S3; the short ones of a test are exact.
fn after(from: Timestamp, days: u32, day_us: u64) -> Timestamp {
    let at = from.0.saturating_add(u64::from(days).saturating_mul(day_us));
    Timestamp(if day_us == DAY_US { at.div_ceil(DAY_US).saturating_mul(DAY_US) } else { at })
}

impl When {
    fn of(self, created: Timestamp, day_us: u64) -> Timestamp {
        match self {
            Self::Days(days) => after(created, days, day_us),
            Self::Date(at) => at,
        }
    }
}

impl RuleFilter {
    /// Whether `of` is one of those objects.
    #[must_use]
    pub fn holds(&self, of: &Candidate<'_>) -> bool {
        if !self.prefix.as_deref().is_none_or(|prefix| of.key.starts_with(prefix)) {
            return false;
        }
        let Some(size) = of.size_bytes else {
            return self.tags.is_empty() && self.larger_than.is_none() && self.smaller_than.is_none();
        };
        self.larger_than.is_none_or(|bytes| size > bytes)
            && self.smaller_than.is_none_or(|bytes| size < bytes)
            && self.tags.iter().all(|tag| of.tags.contains(tag))
    }

    fn may_move(&self, of: &Candidate<'_>) -> bool {
        let names_size = self.larger_than.is_some() || self.smaller_than.is_some();
        names_size || of.size_bytes.is_some_and(|size| size >= TRANSITION_BYTES_MIN)
    }
}

impl LifecycleRules {
    /// As it is kept.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("rules hold no type that postcard cannot encode")
    }

    /// From how it is kept; `None` where this program cannot read it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body).ok(),
            _ => None,
        }
    }

    fn enabled<'r>(&'r self, of: &'r Candidate<'_>) -> impl Iterator<Item = &'r LifecycleRule> {
        self.rules.iter().filter(|rule| rule.enabled && rule.filter.holds(of))
    }

    /// When the object, being current, will be deleted: the earliest of what its rules say.
    #[must_use]
    pub fn expiry(&self, of: &Candidate<'_>, day_us: u64) -> Option<Expiry> {
        let at = |rule: &LifecycleRule| match rule.expiration {
            Some(Expiration::At(when)) => Some(Expiry { at: when.of(of.created, day_us), rule: rule.id.clone() }),
            _ => None,
        };
        self.enabled(of).filter_map(at).min_by_key(|expiry| expiry.at)
    }

    /// When an upload begun at `created` will be aborted, and by which rule.
    #[must_use]
    pub fn abort(&self, key: &str, created: Timestamp, day_us: u64) -> Option<Expiry> {
        let of = Candidate { key, size_bytes: None, tags: &[], class: None, created };
        let at = |rule: &LifecycleRule| {
            rule.abort_uploads_days.map(|days| Expiry { at: after(created, days, day_us), rule: rule.id.clone() })
        };
        self.enabled(&of).filter_map(at).min_by_key(|expiry| expiry.at)
    }

    /// What is to be done to a current object now. Deleting goes before moving.
    pub(crate) fn of_current(&self, of: &Candidate<'_>, now: Timestamp, day_us: u64) -> Verdict {
        if self.expiry(of, day_us).is_some_and(|expiry| expiry.at <= now) {
            return Verdict::Remove;
        }
        let due = self.enabled(of).filter(|rule| rule.filter.may_move(of)).flat_map(|rule| {
            rule.transitions.iter().filter(|(when, _)| when.of(of.created, day_us) <= now).map(|(_, class)| class)
        });
        farthest(due, of.class)
    }

    /// What is to be done now to a version that became noncurrent at `since` and has `newer` noncurrent ones before it.
    pub(crate) fn of_noncurrent(
        &self,
        of: &Candidate<'_>,
        since: Timestamp,
        newer: u32,
        now: Timestamp,
        day_us: u64,
    ) -> Verdict {
        let is_due = |days, kept: Option<u32>| after(since, days, day_us) <= now && kept.is_none_or(|n| newer >= n);
        let removes = |rule: &LifecycleRule| rule.noncurrent_expiration.is_some_and(|e| is_due(e.days, e.newer_kept));
        if self.enabled(of).any(removes) {
            return Verdict::Remove;
        }
        let due = self.enabled(of).filter(|rule| rule.filter.may_move(of)).flat_map(|rule| {
            rule.noncurrent_transitions.iter().filter(|t| is_due(t.days, t.newer_kept)).map(|t| &t.class)
        });
        farthest(due, of.class)
    }

    /// Whether a delete marker that nothing is behind is to be removed now: at once where a rule says so, or when it is
    /// as old as objects may become.
    pub(crate) fn removes_marker(&self, key: &str, created: Timestamp, now: Timestamp, day_us: u64) -> bool {
        let of = Candidate { key, size_bytes: None, tags: &[], class: None, created };
        self.enabled(&of).any(|rule| match rule.expiration {
            Some(Expiration::Marker(removes)) => removes,
            Some(Expiration::At(when)) => when.of(created, day_us) <= now,
            None => false,
        })
    }

    /// What all keys that any enabled rule is about begin with; `None` where no rule is enabled.
    pub(crate) fn common_prefix(&self) -> Option<String> {
        let mut prefixes =
            self.rules.iter().filter(|rule| rule.enabled).map(|rule| rule.filter.prefix.as_deref().unwrap_or_default());
        let first = prefixes.next()?.to_owned();
        Some(prefixes.fold(first, |common, next| {
            let same = common.char_indices().zip(next.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
            let len = same.unwrap_or(common.len().min(next.len()));
            common[..len].to_owned()
        }))
    }
}

/// The class farthest down among those due, if it is farther than where the object is.
fn farthest<'c>(due: impl Iterator<Item = &'c String>, class: Option<&str>) -> Verdict {
    match due.max_by_key(|to| rank(Some(to.as_str()))) {
        Some(to) if rank(Some(to)) > rank(class) => Verdict::Transition(to.clone()),
        _ => Verdict::Keep,
    }
}

#[cfg(test)]
mod tests;
