//! Where everything of a bucket lies, as the drives themselves tell: shards are counted by walking the drives, not by
//! believing the index, and each drive's region is what its sealed declaration says.

use std::collections::BTreeMap;

use granary_drive::api::ShardStore as _;
use granary_types::names::AUDIT_BUCKET;
use granary_types::{BucketId, BucketName, DriveNo};
use serde::Serialize;

use super::Node;
use crate::api::Result;
use crate::inner::from_meta;
use crate::residency::{Declared, declared};

/// Shards asked for per scan call.
const SCAN_SHARDS_MAX: usize = 1024;

/// What a drive holds of a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The drive's number.
    pub drive: u16,
    /// Shards with data.
    pub data_shards: u64,
    /// Their bytes on the drive.
    pub data_bytes: u64,
    /// Shards with parity, or further copies.
    pub parity_shards: u64,
    /// Their bytes on the drive.
    pub parity_bytes: u64,
    /// Shards of deleted objects that are not freed yet.
    pub deleted_shards: u64,
}

/// A drive, as it is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrivePlace {
    /// Number.
    pub drive: u16,
    /// Identity.
    pub id: String,
    /// Folder.
    pub folder: String,
    /// What it declares.
    pub declared: Declared,
    /// Holds a copy of the metadata log (keys of objects, small objects, audit events not yet sealed).
    pub log_mirror: bool,
    /// Holds the sealed keyring.
    pub keyring: bool,
    /// Shards on it that no bucket owns: left by a crash, to be freed.
    pub ownerless_shards: u64,
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BucketPlace {
    /// Name.
    pub bucket: String,
    /// The region it was created in (a label where it is not pinned).
    pub region: String,
    /// Where its bytes may lie; empty: it is not pinned.
    pub pinned: Vec<String>,
    /// What was found on which drive.
    pub held: Vec<Held>,
    /// The regions that its shards were found in.
    pub found_in: Vec<String>,
}

/// The report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResidencyReport {
    /// `granary residency report v1`.
    pub format: String,
    /// The cluster.
    pub cluster: String,
    /// When it was made.
    pub at: String,
    /// The node's region.
    pub region: String,
    /// The node's jurisdiction, in its operator's words.
    pub jurisdiction: String,
    /// The bucket that the sealed audit trail lies in (its place is in `buckets`, too).
    pub audit_bucket: String,
    /// Drives.
    pub drives: Vec<DrivePlace>,
    /// Buckets.
    pub buckets: Vec<BucketPlace>,
    /// What contradicts: drives that declare something else or were tampered with, shards outside of a pin. Empty: nothing.
    pub findings: Vec<String>,
}

impl Node {
    /// Walks the drives and says where each bucket (or the one named) lies.
    ///
    /// # Errors
    /// A drive's or the index's.
    pub async fn residency(&self, only: Option<&BucketName>) -> Result<ResidencyReport> {
        let inner = &self.store.inner;
        let region = inner.options.region.clone();
        let mut findings = Vec::new();
        let mut drives = Vec::new();
        let mut held: BTreeMap<BucketId, BTreeMap<u16, Held>> = BTreeMap::new();
        let mut places: BTreeMap<u16, String> = BTreeMap::new();
        let mirrors = self.meta.mirrors();
        let open = self.open.lock().clone();
        for open in &open {
            let said = declared(&open.path, &inner.header_key, self.cluster, open.id);
            let folder = open.path.display().to_string();
            match &said {
                Declared::Verified(found) => {
                    places.insert(open.no.0, found.region.clone());
                    if found.region != region {
                        findings.push(format!(
                            "drive {} ({folder}) declares region {}, the node {region}",
                            open.no, found.region
                        ));
                    }
                }
                Declared::Missing => findings.push(format!("drive {} ({folder}) declares no region", open.no)),
                Declared::Tampered(why) => {
                    findings
                        .push(format!("drive {} ({folder}): its declared region was tampered with: {why}", open.no));
                }
            }
            let ownerless_shards = self.walk(open, &mut held).await?;
            drives.push(DrivePlace {
                drive: open.no.0,
                id: open.id.to_string(),
                folder,
                declared: said,
                log_mirror: mirrors.contains(&open.id),
                keyring: open.path.join("keyring.json").exists(),
                ownerless_shards,
            });
        }
        for line in &self.recovery {
            if line.contains("region") {
                findings.push(line.clone());
            }
        }
        let mut buckets = Vec::new();
        for record in inner.index()?.list_buckets() {
            if only.is_some_and(|only| *only != record.name) {
                continue;
            }
            let held: Vec<Held> = held.remove(&record.id).unwrap_or_default().into_values().collect();
            let mut found_in: Vec<String> = held
                .iter()
                .map(|held| places.get(&held.drive).cloned().unwrap_or_else(|| "unknown".to_owned()))
                .collect();
            found_in.sort();
            found_in.dedup();
            let pinned = record.options.regions.clone();
            for place in found_in.iter().filter(|place| !pinned.is_empty() && !pinned.contains(place)) {
                findings.push(format!(
                    "bucket {} is pinned to {}, and has shards in {place}",
                    record.name.as_str(),
                    pinned.join(", ")
                ));
            }
            if !pinned.is_empty() && !pinned.contains(&region) {
                findings.push(format!(
                    "bucket {} is pinned to {}, and its metadata and keys lie on this node in {region}: it is not served here",
                    record.name.as_str(),
                    pinned.join(", ")
                ));
            }
            buckets.push(BucketPlace {
                bucket: record.name.as_str().to_owned(),
                region: record.region.clone(),
                pinned,
                held,
                found_in,
            });
        }
        Ok(ResidencyReport {
            format: "granary residency report v1".to_owned(),
            cluster: self.cluster.to_string(),
            at: granary_types::date::iso_micros(self.clock.now()),
            region,
            jurisdiction: inner.options.jurisdiction.clone(),
            audit_bucket: AUDIT_BUCKET.to_owned(),
            drives,
            buckets,
            findings,
        })
    }

    /// Counts a drive's shards by bucket. Returns how many are nobody's.
    async fn walk(&self, open: &super::OpenDrive, held: &mut BTreeMap<BucketId, BTreeMap<u16, Held>>) -> Result<u64> {
        let DriveNo(number) = open.no;
        let mut after = None;
        let mut ownerless = 0;
        loop {
            let page = open.drive.scan(after, SCAN_SHARDS_MAX).await?;
            let Some(last) = page.last() else { return Ok(ownerless) };
            after = Some(last.spec.shard);
            let index = self.store.inner.index()?;
            for info in &page {
                let Some(reference) = index.part_ref(info.spec.shard.part).map_err(from_meta)? else {
                    ownerless += 1;
                    continue;
                };
                let of = held.entry(reference.bucket).or_default().entry(number).or_default();
                of.drive = number;
                if matches!(reference.owner, granary_meta::records::PartOwner::Garbage { .. }) {
                    of.deleted_shards += 1;
                } else if info.spec.shard.index < info.spec.scheme.k {
                    of.data_shards += 1;
                    of.data_bytes += info.spec.shard_bytes;
                } else {
                    of.parity_shards += 1;
                    of.parity_bytes += info.spec.shard_bytes;
                }
            }
        }
    }
}
