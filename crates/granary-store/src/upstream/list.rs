//! Listings of a bucket that has an upstream: what is here and what is there, merged in key order.
//!
//! Guarantees: a page is right as far as its `next_after` says, or it is an error. What is here counts where both have a key;
//! what was deleted here is not shown, though the upstream may not know yet. What the upstream sends is checked: its order, its
//! prefix, its bounds.

use std::collections::{BTreeMap, BTreeSet};

use granary_meta::records::{
    Attributes, BucketRecord, Fetched, ObjectRecord, Parts, SystemHeaders, Verified, VersionRecord, Versioning,
};
use granary_types::ObjectKey;
use granary_types::limits::{KEY_BYTES_MAX, LIST_KEYS_MAX};

use super::fetch::{noticed, version_of};
use super::rule::Source;
use super::{RemoteEntry, RemoteListRequest, RemotePage, UpstreamError};
use crate::api::{ListPage, ListRequest, Result};
use crate::error::StoreError;
use crate::inner::{Inner, from_meta};

/// Pages asked for one answer, at most: one that shows nothing by then is given all the same, with where to go on.
const TURNS_MAX: usize = 8;
/// Sorts behind all that begins with what it stands behind, but for what begins with itself.
const LAST: char = '\u{10FFFF}';

/// One page of an upstream, checked, with names as they are here.
struct There {
    objects: BTreeMap<String, RemoteEntry>,
    common_prefixes: BTreeSet<String>,
    /// The last name that the page is complete up to; `None`: there is no more.
    bound: Option<String>,
}

/// A page as clients see it: copies carry the upstream's time.
pub(crate) fn shown(mut page: ListPage) -> ListPage {
    for (_, record) in &mut page.objects {
        record.created = record.modified();
    }
    page
}

impl Inner {
    /// `ListObjects` of a bucket that has an upstream.
    pub(crate) async fn list_through(
        &self,
        bucket: &BucketRecord,
        source: &Source,
        request: &ListRequest,
    ) -> Result<ListPage> {
        let mut request = ListRequest { max_keys: request.max_keys.min(LIST_KEYS_MAX), ..request.clone() };
        if request.max_keys == 0 {
            return Ok(ListPage::default());
        }
        let mut page = ListPage::default();
        for _ in 0..TURNS_MAX {
            page = self.merged(bucket, source, &request).await?;
            let is_empty = page.objects.is_empty() && page.common_prefixes.is_empty();
            match &page.next_after {
                Some(next) if is_empty => request.after = Some(next.clone()),
                _ => break,
            }
        }
        Ok(page)
    }

    async fn merged(&self, bucket: &BucketRecord, source: &Source, request: &ListRequest) -> Result<ListPage> {
        let there = self.there(bucket, source, request).await?;
        let here = shown(self.list_here(bucket, request)?);
        let bound = match (&there.bound, &here.next_after) {
            (Some(one), Some(other)) => Some(one.min(other).clone()),
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        let is_within = |name: &str| bound.as_deref().is_none_or(|bound| name <= bound);
        let mut prefixes = there.common_prefixes;
        prefixes.extend(here.common_prefixes);
        let mut objects: BTreeMap<String, VersionRecord> = BTreeMap::new();
        for (key, entry) in there.objects {
            if is_within(&key) && !self.is_hidden(bucket, source, &key)? {
                objects.insert(key, record_of(bucket, entry));
            }
        }
        objects.extend(here.objects);
        let mut names: Vec<(String, Option<VersionRecord>)> =
            objects.into_iter().map(|(key, record)| (key, Some(record))).collect();
        names.extend(prefixes.into_iter().map(|prefix| (prefix, None)));
        names.retain(|(name, _)| is_within(name));
        names.sort_by(|(one, _), (other, _)| one.cmp(other));
        let is_cut = names.len() > request.max_keys as usize;
        names.truncate(request.max_keys as usize);
        let next_after = if is_cut { names.last().map(|(name, _)| name.clone()) } else { bound };
        let mut page = ListPage { next_after, ..ListPage::default() };
        for (name, record) in names {
            match record {
                Some(record) => page.objects.push((name, record)),
                None => page.common_prefixes.push(name),
            }
        }
        Ok(page)
    }

    /// Whether what the upstream has under a key is not to be seen here.
    fn is_hidden(&self, bucket: &BucketRecord, source: &Source, key: &str) -> Result<bool> {
        if bucket.frozen(key).is_some() {
            return Ok(true);
        }
        let index = self.index()?;
        if source.rule.write_back && index.is_unwritten(bucket.id, key).map_err(from_meta)? {
            return Ok(true);
        }
        if bucket.versioning == Versioning::Off {
            return Ok(false);
        }
        let Ok(key) = ObjectKey::new(key.to_owned()) else { return Ok(true) };
        let current = index.current(bucket.id, &key).map_err(from_meta)?;
        Ok(current.is_some_and(|current| current.is_delete_marker()))
    }

    async fn there(&self, bucket: &BucketRecord, source: &Source, request: &ListRequest) -> Result<There> {
        let prefix = source.site.prefix.as_str();
        let delimiter = request.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
        // Behind a common prefix stands what is not rolled up into it.
        let is_rolled = |after: &&String| {
            delimiter.is_some_and(|delimiter| {
                after.len() > request.prefix.len() && after.starts_with(&request.prefix) && after.ends_with(delimiter)
            })
        };
        let after = request.after.as_ref().map(|after| match is_rolled(&after) {
            true => format!("{prefix}{after}{LAST}"),
            false => format!("{prefix}{after}"),
        });
        // What is named exactly as the prefix (the mark of a folder) has no key here.
        let after = after.or_else(|| (!prefix.is_empty()).then(|| prefix.to_owned()));
        let asked = RemoteListRequest {
            prefix: format!("{prefix}{}", request.prefix),
            delimiter: delimiter.map(str::to_owned),
            after,
            max_keys: request.max_keys,
        };
        if asked.prefix.len() > KEY_BYTES_MAX {
            return Ok(There { objects: BTreeMap::new(), common_prefixes: BTreeSet::new(), bound: None });
        }
        let wire = self.wire(bucket)?;
        let _permit = self.fetch_permit().await?;
        let page = wire.client.list(&source.site, &asked).await;
        page.and_then(|page| checked(page, prefix, request)).map_err(|error| {
            noticed(bucket, source, "", &error);
            StoreError::Upstream { bucket: bucket.name.clone(), error }
        })
    }
}

/// An upstream's page, if it is one of what was asked for.
fn checked(page: RemotePage, prefix: &str, request: &ListRequest) -> std::result::Result<There, UpstreamError> {
    let lied = |why: String| UpstreamError::Lied(format!("its listing {why}"));
    if page.objects.len() + page.common_prefixes.len() > request.max_keys as usize {
        return Err(lied(format!("has more than the {} entries asked for", request.max_keys)));
    }
    let delimiter = request.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
    let after = request.after.as_deref().unwrap_or_default();
    let own = |name: &str| {
        let name = name.strip_prefix(prefix).filter(|name| name.starts_with(&request.prefix));
        name.map(str::to_owned).ok_or_else(|| lied("has a name without the prefix asked for".to_owned()))
    };
    let rolls = |name: &str| delimiter.and_then(|delimiter| name[request.prefix.len()..].find(delimiter));
    let mut objects = BTreeMap::new();
    let mut last = String::new();
    for entry in page.objects {
        let key = own(&entry.key)?;
        if key <= last || (!after.is_empty() && key.as_str() <= after) {
            return Err(lied("is out of order".to_owned()));
        }
        if rolls(&key).is_some() {
            return Err(lied("has a key that belongs into a common prefix".to_owned()));
        }
        if ObjectKey::new(key.clone()).is_err() || entry.etag.contains(['"', '\r', '\n']) {
            return Err(lied("has an entry that cannot be".to_owned()));
        }
        last.clone_from(&key);
        objects.insert(key, entry);
    }
    let mut common_prefixes = BTreeSet::new();
    let mut last_prefix = String::new();
    for name in page.common_prefixes {
        let name = own(&name)?;
        let at = rolls(&name).zip(delimiter).map(|(at, delimiter)| request.prefix.len() + at + delimiter.len());
        if name <= last_prefix || at != Some(name.len()) {
            return Err(lied("has a common prefix that cannot be".to_owned()));
        }
        last_prefix.clone_from(&name);
        // Some servers repeat the one that they were to begin behind.
        if after.is_empty() || name.as_str() > after {
            common_prefixes.insert(name);
        }
    }
    let bound = match page.is_truncated {
        false => None,
        true => {
            let bound = last.max(last_prefix);
            if bound.as_str() <= after || bound.is_empty() {
                return Err(lied("says that there is more, and gets no further".to_owned()));
            }
            Some(bound)
        }
    };
    Ok(There { objects, common_prefixes, bound })
}

fn record_of(bucket: &BucketRecord, entry: RemoteEntry) -> VersionRecord {
    let attributes = Attributes {
        owner: bucket.owner.clone(),
        headers: SystemHeaders { storage_class: entry.storage_class, ..SystemHeaders::default() },
        ..Attributes::default()
    };
    let object = ObjectRecord {
        size_bytes: entry.size_bytes,
        etag: entry.etag.clone(),
        checksum: None,
        parts: Parts::Empty,
        attributes,
    };
    let fetched =
        Fetched { etag: entry.etag, modified: entry.modified, at: entry.modified, verified: Verified::Length };
    version_of(object, fetched)
}

#[cfg(test)]
mod tests {
    use granary_types::Timestamp;

    use super::*;

    fn page(keys: &[&str], prefixes: &[&str], is_truncated: bool) -> RemotePage {
        let entry = |key: &&str| RemoteEntry {
            key: (*key).to_owned(),
            size_bytes: 1,
            etag: "e".to_owned(),
            modified: Timestamp(1),
            storage_class: None,
        };
        RemotePage {
            objects: keys.iter().map(entry).collect(),
            common_prefixes: prefixes.iter().map(|p| (*p).to_owned()).collect(),
            is_truncated,
        }
    }

    fn request(after: Option<&str>) -> ListRequest {
        ListRequest {
            prefix: "a/".to_owned(),
            delimiter: Some("/".to_owned()),
            after: after.map(str::to_owned),
            max_keys: 3,
        }
    }

    #[test]
    fn pages_that_hold_are_taken() {
        let there = checked(page(&["p/a/1", "p/a/3"], &["p/a/2/"], true), "p/", &request(None)).unwrap();
        assert_eq!(there.objects.keys().collect::<Vec<_>>(), ["a/1", "a/3"]);
        assert_eq!(there.bound.as_deref(), Some("a/3"));
        // The prefix that was to be stepped over, once more.
        let there = checked(page(&["p/a/3"], &["p/a/2/"], false), "p/", &request(Some("a/2/"))).unwrap();
        assert!(there.common_prefixes.is_empty() && there.bound.is_none());
    }

    #[test]
    fn pages_that_do_not_hold_are_refused() {
        for (what, page, after) in [
            ("out of order", page(&["p/a/3", "p/a/1"], &[], false), None),
            ("twice", page(&["p/a/3", "p/a/3"], &[], false), None),
            ("before the start", page(&["p/a/1"], &[], false), Some("a/1")),
            ("another prefix", page(&["q/a/1"], &[], false), None),
            ("not rolled up", page(&["p/a/b/c"], &[], false), None),
            ("a prefix without delimiter", page(&[], &["p/a/b"], false), None),
            ("a prefix too deep", page(&[], &["p/a/b/c/"], false), None),
            ("too many", page(&["p/a/1", "p/a/2", "p/a/3", "p/a/4"], &[], false), None),
            ("more of nothing", page(&[], &[], true), None),
            ("more, and no further", page(&[], &["p/a/2/"], true), Some("a/2/")),
        ] {
            assert!(matches!(checked(page, "p/", &request(after)), Err(UpstreamError::Lied(_))), "{what}");
        }
    }
}
