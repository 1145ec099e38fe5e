//! The drive table and the system's own small records.

use granary_types::{DriveId, DriveNo};

use super::{Cx, Step};
use crate::command::{Outcome, Refusal};
use crate::index::layout::system_key;
use crate::index::{DriveEntry, Family};

impl Cx<'_, '_> {
    pub(super) fn register_drive(&mut self, drive: DriveId) -> Step<Outcome> {
        if let Some(number) = self.index.drive_number(drive) {
            return match self.index.drive(number) {
                Some(entry) if entry.retired => Err(Refusal::InvalidState("the drive was retired").into()),
                _ => Ok(Outcome::Drive(number)),
            };
        }
        let next = match self.index.drives().last() {
            None => 0,
            Some(last) => last.number.0.checked_add(1).ok_or(Refusal::InvalidState("drive numbers are used up"))?,
        };
        let entry = DriveEntry { number: DriveNo(next), drive, retired: false };
        self.batch.put_drive(entry);
        Ok(Outcome::Drive(entry.number))
    }

    pub(super) fn retire_drive(&mut self, drive: DriveId) -> Step<Outcome> {
        let number = self.index.drive_number(drive);
        let entry = number.and_then(|n| self.index.drive(n));
        let entry = entry.ok_or(Refusal::InvalidState("no such drive"))?;
        self.batch.put_drive(DriveEntry { retired: true, ..entry });
        Ok(Outcome::Drive(entry.number))
    }

    pub(super) fn set_system(&mut self, name: &str, value: Option<&[u8]>) -> Step<Outcome> {
        match value {
            Some(value) => self.batch.put_raw(Family::Sys, &system_key(name), value),
            None => self.batch.delete(Family::Sys, &system_key(name)),
        }
        Ok(Outcome::Done)
    }
}
