//! Verification from files alone: segments, their seals, and anchors that somebody has kept.

use std::collections::BTreeMap;

use bytes::Bytes;
use granary_types::{AuditRecord, Head};

use crate::seal::{DIGEST_BYTES, PublicKey, Seal, SealError, SealedFile, sha256, short_digest};
use crate::segment::{first_disguised, read_records};

/// A file as it was found.
#[derive(Debug, Clone)]
pub struct InputFile {
    /// Its name, to be told.
    pub name: String,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What is to be verified.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Segments and seals, in any order.
    pub files: Vec<InputFile>,
    /// Whose seals they must be. Without it whoever has signed all of them is taken for right.
    pub key: Option<PublicKey>,
    /// Anchors that the trail must contain.
    pub anchors: Vec<Seal>,
    /// The trail may begin later than with event 1 (the head before it is taken on trust).
    pub partial: bool,
}

/// Something that is not as it was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In which file.
    pub file: String,
    /// At which event, by its sequence number, where it can be told.
    pub sequence: Option<u64>,
    /// What.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.sequence {
            Some(sequence) => write!(f, "{}: event {sequence}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

/// What was found, in the order of the trail: the first finding is where it first went wrong.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Empty: everything is as it was sealed.
    pub findings: Vec<Finding>,
    /// Segments seen.
    pub segments: u64,
    /// First and last sequence number.
    pub range: Option<(u64, u64)>,
    /// Chain head at the end.
    pub head: String,
    /// Who signed.
    pub key: Option<PublicKey>,
    /// Segments that were sealed while the clock was not synchronised.
    pub unsynchronised: u64,
}

/// Verifies.
#[must_use]
pub fn verify(question: &Question) -> Report {
    let mut report = Report::default();
    let say = |findings: &mut Vec<Finding>, file: &str, sequence, what: String| {
        findings.push(Finding { file: file.to_owned(), sequence, what });
    };
    let mut segments: Vec<&InputFile> = Vec::new();
    let mut seals: Vec<(&InputFile, SealedFile)> = Vec::new();
    for file in &question.files {
        if file.name.ends_with(".seal.json") || (!file.name.ends_with(".parquet") && file.bytes.first() == Some(&b'{'))
        {
            match Seal::from_bytes(&file.bytes).and_then(|seal| seal.check(question.key.as_ref())) {
                Ok(seal) if seal.digests.is_empty() => {
                    say(&mut report.findings, &file.name, None, "an anchor: give it with --anchor".to_owned());
                }
                Ok(seal) => seals.push((file, seal)),
                Err(error) => say(&mut report.findings, &file.name, None, error.to_string()),
            }
        } else {
            segments.push(file);
        }
    }
    seals.sort_by_key(|(_, seal)| seal.statement.segment);
    if let Some((_, first)) = seals.first() {
        report.key = Some(first.key.clone());
    }

    let mut before: Option<&SealedFile> = None;
    for (file, seal) in &seals {
        let statement = &seal.statement;
        let name = &file.name;
        if report.key.as_ref() != Some(&seal.key) {
            let other = SealError::OtherKey(seal.key.fingerprint()).to_string();
            say(&mut report.findings, name, Some(statement.first), other);
        }
        check_place(before, seal, question.partial, &mut |sequence, what| {
            say(&mut report.findings, name, sequence, what);
        });
        before = Some(seal);
        // The file that it is: by content, else by name.
        let named = base(&statement.file);
        let found = segments
            .iter()
            .position(|segment| sha256(&segment.bytes) == statement.file_sha256)
            .or_else(|| segments.iter().position(|segment| stem(&segment.name) == stem(name)))
            .or_else(|| segments.iter().position(|segment| base(&segment.name) == named));
        match found {
            None => say(
                &mut report.findings,
                name,
                Some(statement.first),
                format!(
                    "removed: the segment {named} with events {} to {} is missing",
                    statement.first, statement.last
                ),
            ),
            Some(at) => {
                let segment = segments.swap_remove(at);
                let whole = sha256(&segment.bytes) == statement.file_sha256;
                if let Some((sequence, what)) = check_segment(&segment.bytes, seal, whole) {
                    say(&mut report.findings, &segment.name, sequence, what);
                }
            }
        }
        report.segments += 1;
        report.unsynchronised += u64::from(!statement.clock.synchronised);
        let first = report.range.map_or(statement.first, |(first, _)| first);
        report.range = Some((first, statement.last));
        report.head.clone_from(&statement.head);
    }
    for segment in segments {
        say(&mut report.findings, &segment.name, None, "added: no seal that holds is for this file".to_owned());
    }
    check_anchors(question, &seals, &mut report);
    report
}

/// What a segment's and its seal's file have in common, whatever folder or prefix they were put under.
fn stem(name: &str) -> &str {
    name.strip_suffix(".seal.json").or_else(|| name.strip_suffix(".parquet")).unwrap_or(name)
}

fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Whether a seal follows the one before it.
fn check_place(
    before: Option<&SealedFile>,
    seal: &SealedFile,
    partial: bool,
    say: &mut dyn FnMut(Option<u64>, String),
) {
    let statement = &seal.statement;
    match before {
        None => {
            let begins = statement.segment == 1
                && statement.first == 1
                && statement.previous_head == Head::default().to_string()
                && statement.previous_seal.is_empty();
            if !begins && !partial {
                let what = format!(
                    "removed: the trail given begins with event {}, not 1 (--partial where that is meant)",
                    statement.first
                );
                say(Some(1), what);
            }
        }
        Some(before) => {
            let last = &before.statement;
            if statement.segment == last.segment {
                say(Some(statement.first), format!("added: there are two segments {}", statement.segment));
            } else if statement.first != last.last.saturating_add(1)
                || statement.segment != last.segment.saturating_add(1)
            {
                let what = format!("removed: segment {} follows segment {}", statement.segment, last.segment);
                say(Some(last.last.saturating_add(1)), what);
            } else if statement.previous_head != last.head || statement.previous_seal != before.statement_sha256 {
                let what = "changed: the chain does not go on from the segment before".to_owned();
                say(Some(statement.first), what);
            }
            if statement.cluster != last.cluster {
                say(Some(statement.first), format!("added: a segment of another cluster, {}", statement.cluster));
            }
        }
    }
}

/// The first thing wrong with a segment's rows. `whole`: the file is the one that was sealed, to the byte.
fn check_segment(file: &[u8], seal: &SealedFile, whole: bool) -> Option<(Option<u64>, String)> {
    let first = seal.statement.first;
    let at = |index: usize| Some(first.saturating_add(index as u64));
    let records = match read_records(file) {
        Ok(records) => records,
        Err(error) => return Some((None, format!("changed: the file cannot be read any more: {error}"))),
    };
    let found: Vec<[u8; DIGEST_BYTES]> = records.iter().map(|record| short_digest(record)).collect();
    if let Some((index, what)) = first_difference(&found, &seal.digests) {
        return Some((at(index), what));
    }
    let mut head = head_of(&seal.statement.previous_head);
    for (index, record) in records.iter().enumerate() {
        let sequence = AuditRecord::decode(record).map(|record| record.sequence).ok();
        if sequence != at(index) {
            return Some((at(index), "changed: its record has another number".to_owned()));
        }
        head = head.map(|head| head.extend(record));
    }
    if head.map(|head| head.to_string()).as_ref() != Some(&seal.statement.head) {
        return Some((None, "changed: the records do not lead to the head that was sealed".to_owned()));
    }
    if whole {
        return None;
    }
    match first_disguised(file) {
        Ok(Some(index)) => Some((at(index), "changed: its readable columns are not what its record says".to_owned())),
        Ok(None) => {
            Some((None, "changed: the records are whole, but the file is not the one that was sealed".to_owned()))
        }
        Err(error) => Some((None, format!("changed: the readable columns cannot be read any more: {error}"))),
    }
}

/// Where two lists of digests first differ, and in which way: `found` against what was `sealed`.
fn first_difference(found: &[[u8; DIGEST_BYTES]], sealed: &[[u8; DIGEST_BYTES]]) -> Option<(usize, String)> {
    let index = found.iter().zip(sealed).position(|(found, sealed)| found != sealed);
    let Some(index) = index else {
        return match found.len().cmp(&sealed.len()) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Less => {
                Some((found.len(), format!("removed: {} of {} events are left", found.len(), sealed.len())))
            }
            std::cmp::Ordering::Greater => Some((
                sealed.len(),
                format!("added: {} events follow the last that was sealed", found.len() - sealed.len()),
            )),
        };
    };
    // Of the event that should be here: is it elsewhere? Of the one that is: does it belong elsewhere?
    let is_elsewhere = found[index + 1..].contains(&sealed[index]);
    let belongs_elsewhere = sealed.contains(&found[index]);
    let what = match (is_elsewhere, belongs_elsewhere) {
        (true, true) => "reordered: it stands further down",
        (true, false) => "added: an event that was never sealed stands before it",
        (false, true) => "removed: a later event stands in its place",
        (false, false) => "changed: it is not the event that was sealed",
    };
    Some((index, what.to_owned()))
}

fn head_of(text: &str) -> Option<Head> {
    let mut head = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (at, byte) in head.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(Head(head))
}

fn check_anchors(question: &Question, seals: &[(&InputFile, SealedFile)], report: &mut Report) {
    let by_segment: BTreeMap<u64, &SealedFile> = seals.iter().map(|(_, seal)| (seal.statement.segment, seal)).collect();
    let first = by_segment.keys().next().copied().unwrap_or(0);
    let wanted = question.key.as_ref().or(report.key.as_ref());
    for anchor in &question.anchors {
        let checked = match anchor.check(wanted) {
            Ok(checked) => checked,
            Err(error) => {
                let finding = Finding { file: "anchor".to_owned(), sequence: None, what: error.to_string() };
                report.findings.push(finding);
                continue;
            }
        };
        let statement = &checked.statement;
        if question.partial && statement.segment < first {
            continue;
        }
        let what = match by_segment.get(&statement.segment) {
            None => "removed: an anchor stands for events that the trail does not have",
            Some(seal) if seal.statement_sha256 != checked.statement_sha256 => "changed: an anchor says otherwise",
            Some(_) => continue,
        };
        let file = format!("anchor of segment {}", statement.segment);
        report.findings.push(Finding { file, sequence: Some(statement.first), what: what.to_owned() });
    }
}
