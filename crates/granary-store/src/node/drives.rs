//! Administrative acts on drives: status, add, replace, scrub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use granary_drive::api::{DriveHealth, DriveSpace, ShardStore as _};
use granary_drive::identity::Identity;
use granary_meta::command::Command;
use granary_meta::{MirrorFolder, Proposer as _};
use granary_stripe::{DamageKind, DamageReport};
use granary_types::{DriveNo, ShardId};

use super::open::{DriveMaker, path_record, register, replaced_by_record};
use super::status::{DriveStatus, ScrubStatus, id_text};
use super::{Node, NodeError, OpenDrive};
use crate::heal::HealMode;

/// Shards asked for per scan call.
const SCAN_SHARDS_MAX: usize = 256;

/// The folder a drive was last seen at.
fn last_path(index: &granary_meta::Index, drive: granary_types::DriveId) -> Option<String> {
    let path = index.system(&path_record(drive)).ok()??;
    Some(String::from_utf8_lossy(&path).into_owned())
}

impl Node {
    pub(super) fn drive_statuses(&self) -> Vec<DriveStatus> {
        let Ok(index) = self.store.inner.index() else { return Vec::new() };
        let open = self.open.lock();
        index
            .drives()
            .into_iter()
            .map(|entry| {
                let here = open.iter().find(|open| open.no == entry.number);
                DriveStatus {
                    number: entry.number.0,
                    id: id_text(entry.drive),
                    path: here.map(|open| open.path.display().to_string()).or_else(|| last_path(&index, entry.drive)),
                    health: here.map_or_else(
                        || DriveHealth::Offline("not open on this node".to_owned()),
                        |open| open.drive.health(),
                    ),
                    space: here.map_or_else(DriveSpace::default, |open| open.drive.space()),
                    retired: entry.retired,
                }
            })
            .collect()
    }

    /// Formats a blank folder as a drive and takes it into use.
    ///
    /// # Errors
    /// [`NodeError::Config`] if the folder is not blank or in use already.
    pub async fn add_drive(&self, path: &Path) -> Result<DriveStatus, NodeError> {
        let _one_at_a_time = self.acts.lock().await;
        self.add(path).await
    }

    async fn add(&self, path: &Path) -> Result<DriveStatus, NodeError> {
        let path: PathBuf =
            std::path::absolute(path).map_err(|source| NodeError::Io { path: path.display().to_string(), source })?;
        if self.open.lock().iter().any(|open| open.path == path && open.drive.health().readable()) {
            return Err(NodeError::Config(format!("{} is a drive of this node already", path.display())));
        }
        if Identity::load(&path)?.is_some() {
            return Err(NodeError::Config(format!(
                "{} has a drive.json: it is or was a Granary drive. To use it anew, empty it first",
                path.display()
            )));
        }
        let pool = self.store.inner.stripes.pool();
        let keyring = Arc::clone(&self.keyring.read());
        let maker = DriveMaker {
            options: &self.options,
            keyring: &keyring,
            cluster: self.cluster,
            engine: &self.engine,
            pool,
            clock: &self.clock,
        };
        let mut notes = Vec::new();
        let drive = maker.open(&path, true, &mut notes).await?;
        let set = self.store.inner.stripes.drives();
        let open = register(&self.meta, set, path.clone(), drive, &keyring).await?;
        let (no, id) = (open.no, open.id);
        {
            let mut all = self.open.lock();
            all.retain(|other| other.path != path);
            all.push(open);
            *self.store.inner.folders.write() = all.iter().map(|open| open.path.clone()).collect();
        }
        self.store.inner.save_bucket_table();
        self.meta.offer(MirrorFolder { drive_id: id, path: path.join("meta") });
        tracing::info!(drive = %no, path = %path.display(), "drive added");
        self.drive_statuses()
            .into_iter()
            .find(|status| status.number == no.0)
            .ok_or_else(|| NodeError::Config(format!("drive {no} is not in the drive table")))
    }

    /// Retires drive `number`, formats the blank folder `path` in its stead (which may be the old drive's own), and
    /// starts repairing what was on it.
    ///
    /// # Errors
    /// [`NodeError::Config`] if there is no such drive, it is retired already, or the folder is not blank.
    pub async fn replace_drive(&self, number: u16, path: &Path) -> Result<DriveStatus, NodeError> {
        let _one_at_a_time = self.acts.lock().await;
        let no = DriveNo(number);
        let entry = self
            .store
            .inner
            .index()?
            .drive(no)
            .ok_or_else(|| NodeError::Config(format!("there is no drive {number}; see `granary drive list`")))?;
        if entry.retired {
            return Err(NodeError::Config(format!("drive {number} is retired already")));
        }
        let old: Option<OpenDrive> = {
            let mut open = self.open.lock();
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            let at = open.iter().position(|open| open.no == no);
            match at {
                // Its own folder, blank now: the drive behind it is gone and must let go of it first.
                Some(at) if open[at].path == absolute => Some(open.remove(at)),
                _ => None,
            }
        };
        if let Some(old) = old {
            self.store.inner.stripes.drives().remove(no);
            if let Err(error) = old.drive.close().await {
                tracing::debug!(drive = %no, %error, "closing the drive that is replaced");
            }
        }
        // Written down first: a replacement that a crash cuts short is finished by the next start.
        let intent = replaced_by_record(entry.drive);
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let value = Some(Bytes::from(absolute.to_string_lossy().into_owned()));
        self.meta.propose(Command::SetSystem { name: intent.clone(), value }).await?;
        let added = self.add(path).await;
        if added.is_ok() {
            self.store.inner.propose(Command::RetireDrive { drive: entry.drive }).await?;
        }
        self.meta.propose(Command::SetSystem { name: intent, value: None }).await?;
        let added = added?;
        let meta = Arc::clone(&self.meta);
        let id = entry.drive;
        tokio::task::spawn_blocking(move || meta.withdraw(id)).await.map_err(super::joined)?;
        tracing::info!(old = number, new = added.number, "drive replaced; its shards are being rebuilt");
        if !self.store.inner.start_heal(HealMode::Missing, false) {
            self.store.inner.heal.degraded_write.store(true, std::sync::atomic::Ordering::Release);
        }
        Ok(added)
    }

    /// Begins reading and checking every shard of one drive, or of all; damage is queued for repair. `false` if a scrub is
    /// running, or there is no such drive.
    pub fn start_scrub(&self, number: Option<u16>) -> bool {
        let mut scrubs = self.scrubs.lock();
        if scrubs.iter().any(|scrub| scrub.running) {
            return false;
        }
        let drives: Vec<OpenDrive> =
            self.open.lock().iter().filter(|open| number.is_none_or(|n| n == open.no.0)).cloned().collect();
        if drives.is_empty() {
            return false;
        }
        *scrubs = drives
            .iter()
            .map(|open| ScrubStatus { drive: open.no.0, running: true, ..ScrubStatus::default() })
            .collect();
        for open in drives {
            let inner = Arc::clone(&self.store.inner);
            let scrubs = Arc::clone(&self.scrubs);
            tokio::spawn(async move {
                let show = |change: &dyn Fn(&mut ScrubStatus)| {
                    if let Some(scrub) = scrubs.lock().iter_mut().find(|scrub| scrub.drive == open.no.0) {
                        change(scrub);
                    }
                };
                let mut after: Option<ShardId> = None;
                'pages: while let Ok(page) = open.drive.scan(after, SCAN_SHARDS_MAX).await {
                    let Some(last) = page.last() else { break };
                    after = Some(last.spec.shard);
                    for info in &page {
                        let shard = info.spec.shard;
                        match open.drive.verify(shard).await {
                            Ok(report) => {
                                show(&|scrub| {
                                    scrub.checked_shards += 1;
                                    scrub.checked_bytes += report.checked_bytes;
                                    scrub.damaged_shards += u64::from(!report.is_clean());
                                });
                                if !report.is_clean() {
                                    inner.heal.report(&DamageReport {
                                        part: shard.part,
                                        index: shard.index,
                                        drive: open.no,
                                        kind: DamageKind::Corrupt,
                                        why: "found by scrub".to_owned(),
                                    });
                                }
                            }
                            Err(error) if error.kind() == granary_types::ErrorKind::NotFound => {}
                            Err(error) => {
                                tracing::warn!(drive = %open.no, %shard, %error, "scrub");
                                if !open.drive.health().readable() {
                                    break 'pages;
                                }
                            }
                        }
                    }
                }
                show(&|scrub| scrub.running = false);
            });
        }
        true
    }

    /// What the last scrub found, or how far it is.
    #[must_use]
    pub fn scrub_status(&self) -> Vec<ScrubStatus> {
        self.scrubs.lock().clone()
    }
}
