//! Presets: sets of buckets with fitting settings, as TOML files that a team can copy and change.
//!
//! Applying one makes the buckets that are missing and brings those that exist to the preset's settings; what is as it
//! should be is left alone, so that applying twice changes nothing. At a node's start only missing buckets are made.

use granary_access::Owner;
use granary_meta::command::{BucketChange, Refusal};
use granary_meta::records::{BucketOptions, EtagMode, RetentionMode, Versioning};
use granary_store::ai::keeper::{CACHE, CacheRule, RETENTION, Retention};
use granary_store::api::CreateBucketRequest;
use granary_store::dedup::{DEDUP, Dedup};
use granary_store::node::Node;
use granary_store::{ObjectStore, StoreError};
use granary_types::{BucketName, Scheme};
use serde::{Deserialize, Serialize};

/// The presets that come with the program: name and file.
pub(crate) const BUILT_IN: [(&str, &str); 1] = [("ai", include_str!("../../../config/presets/ai.toml"))];
/// Buckets in one preset, at most.
const BUCKETS_MAX: usize = 64;
const DAY_S: u64 = 86_400;

/// A preset, as its file says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Preset {
    /// What it is called.
    pub(crate) name: String,
    /// One line about it.
    #[serde(default)]
    pub(crate) description: String,
    /// Its buckets.
    #[serde(rename = "bucket")]
    pub(crate) buckets: Vec<Wanted>,
}

/// One bucket of a preset.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default)]
    versioning: bool,
    #[serde(default)]
    write_once: bool,
    /// `default`, `wide`, `cheap`, or `K+M`.
    #[serde(default = "default_word")]
    erasure: String,
    /// `md5` or `opaque`.
    #[serde(default)]
    etag: Etag,
    /// `governance` or `compliance`: object lock is enabled.
    #[serde(default)]
    lock: Option<Lock>,
    /// Retention of new objects, in days; 0: what requests ask for.
    #[serde(default)]
    lock_days: u64,
    /// Regions that its bytes may lie in; none: anywhere.
    #[serde(default)]
    regions: Vec<String>,
    #[serde(default)]
    quota_bytes: Option<u64>,
    #[serde(default)]
    keep_last: Option<u64>,
    #[serde(default)]
    keep_every: u64,
    #[serde(default)]
    abandoned_hours: u64,
    #[serde(default)]
    cache_bytes: Option<u64>,
    #[serde(default)]
    expire_days: u64,
    /// Parts are cut into blocks, and blocks that the bucket has are not written again.
    #[serde(default)]
    dedup: bool,
}

fn default_word() -> String {
    "default".to_owned()
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Etag {
    #[default]
    Md5,
    Opaque,
}

/// A mode of object lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Lock {
    /// Those with the bypass right may lift it
    Governance,
    /// Nobody lifts it before its time
    Compliance,
}

/// What is chosen when a preset is applied.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Choice {
    /// Put in front of the buckets' names.
    #[serde(default)]
    pub(crate) project: Option<String>,
    /// Regions that the buckets' bytes are pinned to, separated by commas, instead of the preset's own.
    #[serde(default)]
    pub(crate) region: Option<String>,
    /// Mode of object lock, for buckets that have one.
    #[serde(default)]
    pub(crate) lock: Option<Lock>,
    /// Its days.
    #[serde(default)]
    pub(crate) lock_days: Option<u64>,
    /// Only make what is missing.
    #[serde(default)]
    pub(crate) only_missing: bool,
}

/// What became of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Done {
    bucket: String,
    /// `created`, `unchanged`, `changed`, `left` or `refused`.
    outcome: &'static str,
    /// What was changed, or why not.
    details: Vec<String>,
    /// How many drives its objects outlive, in words.
    durability: String,
}

impl Preset {
    /// Reads a preset's file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let preset: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if preset.buckets.is_empty() || preset.buckets.len() > BUCKETS_MAX {
            return Err(format!("a preset has 1 to {BUCKETS_MAX} buckets, this one has {}", preset.buckets.len()));
        }
        for bucket in &preset.buckets {
            bucket.check().map_err(|why| format!("bucket `{}`: {why}", bucket.name))?;
        }
        Ok(preset)
    }

    /// The built-in preset of that name.
    pub(crate) fn built_in(name: &str) -> Option<&'static str> {
        BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }
}

impl Wanted {
    fn check(&self) -> Result<(), String> {
        BucketName::new(&self.name).map_err(|error| error.to_string())?;
        if self.lock.is_some() && !self.versioning {
            return Err("object lock needs `versioning = true`".to_owned());
        }
        if self.lock.is_none() && self.lock_days > 0 {
            return Err("`lock_days` needs `lock`".to_owned());
        }
        if self.keep_last == Some(0) {
            return Err("`keep_last` is at least 1: a run's only checkpoint is never removed".to_owned());
        }
        if self.keep_last.is_none() && (self.keep_every > 0 || self.abandoned_hours > 0) {
            return Err("`keep_every` and `abandoned_hours` need `keep_last`".to_owned());
        }
        if self.cache_bytes.is_none() && self.expire_days > 0 {
            return Err("`expire_days` needs `cache_bytes`".to_owned());
        }
        self.pins(&Choice::default())?;
        scheme(&self.erasure, Scheme { k: 1, m: 0 }, usize::MAX).map(drop)
    }

    fn options(&self, choice: &Choice, default: Scheme, drives: usize) -> Result<BucketOptions, String> {
        let mode = choice.lock.or(self.lock).filter(|_| self.lock.is_some());
        let days = choice.lock_days.unwrap_or(self.lock_days);
        let default_retention = mode.filter(|_| days > 0).map(|mode| {
            let mode = match mode {
                Lock::Governance => RetentionMode::Governance,
                Lock::Compliance => RetentionMode::Compliance,
            };
            (mode, days.saturating_mul(DAY_S))
        });
        Ok(BucketOptions {
            etag: if self.etag == Etag::Opaque { EtagMode::Opaque } else { EtagMode::Md5 },
            write_once: self.write_once,
            scheme: scheme(&self.erasure, default, drives)?,
            object_lock: mode.is_some(),
            default_retention,
            quota_bytes: self.quota_bytes,
            quota_objects: None,
            regions: self.pins(choice)?,
        })
    }

    /// Where its bytes may lie: as chosen, else as the preset says.
    fn pins(&self, choice: &Choice) -> Result<Vec<String>, String> {
        let regions: Vec<String> = match &choice.region {
            Some(text) => text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            None => self.regions.clone(),
        };
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        match regions.iter().find(|name| name.is_empty() || name.len() > 64 || !name.bytes().all(fine)) {
            Some(bad) => Err(format!("`{bad}` is no region: use lower-case letters, digits and `-`")),
            None => Ok(regions),
        }
    }

    fn documents(&self) -> Vec<(&'static str, Option<Vec<u8>>)> {
        let json = |value: Result<Vec<u8>, serde_json::Error>| value.ok();
        let retention = self.keep_last.and_then(|keep_last| {
            let (keep_every, abandoned_hours) = (self.keep_every, self.abandoned_hours);
            json(serde_json::to_vec(&Retention { keep_last, keep_every, abandoned_hours }))
        });
        let cache = self.cache_bytes.and_then(|cache_bytes| {
            json(serde_json::to_vec(&CacheRule { cache_bytes, expire_days: self.expire_days }))
        });
        let dedup = self.dedup.then(|| json(serde_json::to_vec(&Dedup::default()))).flatten();
        vec![(RETENTION, retention), (CACHE, cache), (DEDUP, dedup)]
    }
}

/// The scheme that a word means on a node; `None`: the node's own.
fn scheme(word: &str, default: Scheme, drives: usize) -> Result<Option<Scheme>, String> {
    let widest = |m: u8| {
        let k = drives.saturating_sub(usize::from(m)).clamp(1, 16);
        Scheme::new(u8::try_from(k).unwrap_or(16), m).map_err(|error| error.to_string())
    };
    match word {
        "default" => Ok(None),
        // Never less wide than the node's own.
        "wide" => Ok(Some(widest(default.m)?).filter(|wide| wide.k > default.k)),
        "cheap" => Ok(Some(widest(default.m.min(1))?)),
        other => other
            .parse()
            .map(Some)
            .map_err(|_| format!("`erasure` is `default`, `wide`, `cheap` or K+M such as 8+2, not `{other}`")),
    }
}

/// The buckets of the built-in `ai` that are missing, at a node's start.
///
/// # Errors
/// What could not be done.
pub(crate) async fn ai(node: &Node) -> Result<(), String> {
    let preset = Preset::parse(BUILT_IN[0].1)?;
    // Retention by default is a decision that a start-up flag should not make.
    let choice = Choice { only_missing: true, lock_days: Some(0), ..Choice::default() };
    let done = apply(node, &preset, &choice).await?;
    match done.iter().find(|done| done.outcome == "refused") {
        Some(refused) => Err(format!("{}: {}", refused.bucket, refused.details.join(", "))),
        None => Ok(()),
    }
}

/// Applies a preset.
///
/// # Errors
/// What is wrong with it or with the choice; what became of each bucket is in the result.
pub(crate) async fn apply(node: &Node, preset: &Preset, choice: &Choice) -> Result<Vec<Done>, String> {
    let status = node.status();
    let default: Scheme =
        status.scheme.parse().map_err(|_| format!("the node's scheme {} cannot be read", status.scheme))?;
    let drives = status.drives.iter().filter(|drive| !drive.retired).count();
    let owner = Owner::root(node.cluster());
    let mut plan = Vec::new();
    for wanted in &preset.buckets {
        wanted.check().map_err(|why| format!("bucket `{}`: {why}", wanted.name))?;
        let name = match &choice.project {
            Some(project) => format!("{project}-{}", wanted.name),
            None => wanted.name.clone(),
        };
        let name = BucketName::new(&name).map_err(|error| format!("`{name}`: {error}"))?;
        let options = wanted.options(choice, default, drives)?;
        if !options.regions.is_empty() && !options.regions.iter().any(|region| region == node.region()) {
            return Err(format!(
                "bucket `{name}` would be pinned to {}, and this node is in {}: it could not be served here",
                options.regions.join(", "),
                node.region()
            ));
        }
        plan.push((name, wanted, options));
    }
    let mut all = Vec::new();
    for (name, wanted, options) in plan {
        let scheme = options.scheme.unwrap_or(default);
        let durability = format!("{scheme}: outlives the loss of any {} of {drives} drives", scheme.m);
        let (outcome, details) = match bucket(node, &owner, &name, wanted, options, choice.only_missing).await {
            Ok(done) => done,
            Err(error) => ("refused", vec![error.to_string()]),
        };
        all.push(Done { bucket: name.to_string(), outcome, details, durability });
    }
    Ok(all)
}

async fn bucket(
    node: &Node,
    owner: &Owner,
    name: &BucketName,
    wanted: &Wanted,
    options: BucketOptions,
    only_missing: bool,
) -> Result<(&'static str, Vec<String>), StoreError> {
    let store = node.store();
    let region = options.regions.first().cloned();
    let request = CreateBucketRequest {
        name: name.clone(),
        owner: owner.id.clone(),
        region,
        options: options.clone(),
        documents: std::collections::BTreeMap::new(),
    };
    let is_new = match store.create_bucket(request).await {
        Ok(()) => true,
        Err(StoreError::Refused(Refusal::BucketExists { .. })) if only_missing => return Ok(("left", Vec::new())),
        Err(StoreError::Refused(Refusal::BucketExists { .. })) => false,
        Err(error) => return Err(error),
    };
    let there = store.bucket(name)?;
    let pinned = &there.options.regions;
    let is_other =
        options.regions.len() != pinned.len() || !options.regions.iter().all(|region| pinned.contains(region));
    if !is_new && is_other && !options.regions.is_empty() && !pinned.is_empty() {
        return Err(StoreError::Invalid(format!(
            "it is pinned to {}, and no preset changes that: narrowing takes two admins (granary residency narrow --bucket {name} --regions {})",
            pinned.join(", "),
            options.regions.join(",")
        )));
    }
    let mut changed = Vec::new();
    if wanted.versioning && there.versioning != Versioning::Enabled {
        store.change_bucket(name, BucketChange::Versioning(Versioning::Enabled)).await?;
        changed.push("versioning enabled".to_owned());
    }
    // Settings that a preset says nothing of stay, and lock is never taken away.
    let options = BucketOptions {
        object_lock: options.object_lock || there.options.object_lock,
        quota_bytes: options.quota_bytes.or(there.options.quota_bytes),
        quota_objects: there.options.quota_objects,
        // The same set in another order is no change.
        regions: if options.regions.is_empty() || !is_other { there.options.regions.clone() } else { options.regions },
        ..options
    };
    if options != there.options {
        changed.extend(differences(&there.options, &options));
        store.change_bucket(name, BucketChange::Options(options)).await?;
    }
    for (document, value) in wanted.documents() {
        if there.documents.get(document) != value.as_ref() {
            changed.push(format!("rule {document} {}", if value.is_some() { "set" } else { "removed" }));
            store.change_bucket(name, BucketChange::Document { name: document.to_owned(), value }).await?;
        }
    }
    Ok(match (is_new, changed.is_empty()) {
        (true, _) => ("created", Vec::new()),
        (false, true) => ("unchanged", Vec::new()),
        (false, false) => ("changed", changed),
    })
}

/// What differs, as `setting: before -> after`.
fn differences(before: &BucketOptions, after: &BucketOptions) -> Vec<String> {
    let mut all = Vec::new();
    let mut compare = |name: &str, before: String, after: String| {
        if before != after {
            all.push(format!("{name}: {before} -> {after}"));
        }
    };
    let scheme = |options: &BucketOptions| options.scheme.map_or("the node's".to_owned(), |scheme| scheme.to_string());
    compare("etag", format!("{:?}", before.etag), format!("{:?}", after.etag));
    compare("write_once", before.write_once.to_string(), after.write_once.to_string());
    compare("erasure", scheme(before), scheme(after));
    compare("object_lock", before.object_lock.to_string(), after.object_lock.to_string());
    let retention = |options: &BucketOptions| match options.default_retention {
        Some((mode, secs)) => format!("{mode:?} {} days", secs / DAY_S),
        None => "none".to_owned(),
    };
    compare("retention", retention(before), retention(after));
    compare("quota_bytes", format!("{:?}", before.quota_bytes), format!("{:?}", after.quota_bytes));
    compare("regions", before.regions.join(","), after.regions.join(","));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_presets_are_sound() {
        for (name, text) in BUILT_IN {
            let preset = Preset::parse(text).unwrap();
            assert_eq!(preset.name, name);
        }
        let ai = Preset::parse(BUILT_IN[0].1).unwrap();
        let names: Vec<_> = ai.buckets.iter().map(|bucket| bucket.name.as_str()).collect();
        assert_eq!(names, ["raw", "processed", "artefacts", "cache"]);
        let raw = ai.buckets[0].options(&Choice::default(), Scheme { k: 4, m: 2 }, 12).unwrap();
        assert_eq!(raw.scheme, Some(Scheme { k: 10, m: 2 }));
        assert_eq!(raw.default_retention, Some((RetentionMode::Governance, 30 * DAY_S)));
        let choice = Choice { lock: Some(Lock::Compliance), lock_days: Some(7), ..Choice::default() };
        let raw = ai.buckets[0].options(&choice, Scheme { k: 4, m: 2 }, 6).unwrap();
        assert_eq!((raw.scheme, raw.default_retention), (None, Some((RetentionMode::Compliance, 7 * DAY_S))));
        let processed = ai.buckets[1].options(&choice, Scheme { k: 4, m: 2 }, 6).unwrap();
        assert!(!processed.object_lock && processed.default_retention.is_none());
    }

    #[test]
    fn presets_that_cannot_be_say_why() {
        for (text, why) in [
            ("name = 'x'\nbucket = []", "1 to 64"),
            ("name = 'x'\n[[bucket]]\nname = 'UP'", "UP"),
            ("name = 'x'\n[[bucket]]\nname = 'abc'\nlock = 'governance'", "versioning"),
            ("name = 'x'\n[[bucket]]\nname = 'abc'\nlock_days = 3", "`lock`"),
            ("name = 'x'\n[[bucket]]\nname = 'abc'\nkeep_last = 0", "at least 1"),
            ("name = 'x'\n[[bucket]]\nname = 'abc'\nkeep_every = 5", "keep_last"),
            ("name = 'x'\n[[bucket]]\nname = 'abc'\nerasure = 'huge'", "K+M"),
            ("name = 'x'\n[[bucket]]\nname = 'abc'\nsurprise = 1", "surprise"),
        ] {
            let error = Preset::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn words_for_schemes() {
        let own = Scheme { k: 4, m: 2 };
        assert_eq!(scheme("default", own, 6), Ok(None));
        assert_eq!(scheme("wide", own, 6), Ok(None));
        assert_eq!(scheme("wide", own, 24), Ok(Some(Scheme { k: 16, m: 2 })));
        assert_eq!(scheme("cheap", own, 6), Ok(Some(Scheme { k: 5, m: 1 })));
        assert_eq!(scheme("cheap", Scheme { k: 1, m: 0 }, 1), Ok(Some(Scheme { k: 1, m: 0 })));
        assert_eq!(scheme("8+3", own, 6), Ok(Some(Scheme { k: 8, m: 3 })));
    }
}
