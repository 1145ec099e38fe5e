//! Whatever is done to a sealed trail is found, and the first event that it was done to is named.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use granary_audit::{
    Actor, ClockState, Event, InputFile, PublicKey, Question, Seal, SealInput, Sealer, read_records, verify,
    write_segment,
};
use granary_types::{AuditOutcome, AuditRecord, Head, Timestamp};
use proptest::prelude::*;

fn record(sequence: u64) -> Vec<u8> {
    let event = Event {
        id: [sequence as u8; 16],
        at: Timestamp(1_000_000 * sequence),
        name: if sequence.is_multiple_of(3) { "GetObject" } else { "PutObject" }.to_owned(),
        actor: Actor { kind: "Root".into(), access_key: "AK".into(), ..Actor::default() },
        address: Some("10.0.0.1".parse().unwrap()),
        bucket: "b".into(),
        key: format!("key-{sequence}"),
        bytes_in: sequence,
        status: if sequence.is_multiple_of(5) { 403 } else { 0 },
        ..Event::default()
    };
    let outcome = if sequence.is_multiple_of(4) {
        AuditOutcome::Refused("QuotaExceeded".into())
    } else {
        AuditOutcome::Done(None)
    };
    AuditRecord::encode(sequence, Timestamp(1_000_000 * sequence + 5), &outcome, &event.encode())
}

/// Segments of these many events, sealed one after the other.
fn trail(counts: &[u64], seed: u8) -> Vec<InputFile> {
    let sealer = Sealer::from_seed(&[seed; 32]).unwrap();
    let (mut next, mut head, mut previous_seal) = (1, Head::default(), String::new());
    let mut files = Vec::new();
    for (segment, count) in (1..).zip(counts) {
        let records: Vec<Vec<u8>> = (next..next + count).map(record).collect();
        let parquet = write_segment(&records).unwrap();
        let file = format!("s{segment}.parquet");
        let input = SealInput {
            cluster: "c".into(),
            region: "r".into(),
            segment,
            file: file.clone(),
            parquet: &parquet,
            records: &records,
            previous_head: head,
            previous_seal,
            now: Timestamp(1),
            clock: ClockState::default(),
        };
        let (seal, hash) = sealer.seal(&input).unwrap();
        head = records.iter().fold(head, |head, record| head.extend(record));
        previous_seal = hash;
        next += count;
        files.push(InputFile { name: file, bytes: parquet.into() });
        files.push(InputFile { name: format!("s{segment}.seal.json"), bytes: seal.to_bytes().into() });
    }
    files
}

fn key(seed: u8) -> PublicKey {
    Sealer::from_seed(&[seed; 32]).unwrap().public_key()
}

fn ask(files: Vec<InputFile>) -> Question {
    Question { files, key: Some(key(1)), ..Question::default() }
}

/// The segment's events as `change` leaves them, in a well-formed file.
fn rewritten(file: &InputFile, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> InputFile {
    let mut records = read_records(&file.bytes).unwrap();
    change(&mut records);
    InputFile { name: file.name.clone(), bytes: write_segment(&records).unwrap().into() }
}

#[test]
fn an_untouched_trail_verifies_in_any_order() {
    let mut files = trail(&[5, 1, 7], 1);
    files.reverse();
    let report = verify(&ask(files));
    assert_eq!(report.findings, []);
    assert_eq!((report.segments, report.range), (3, Some((1, 13))));
    assert_eq!(report.unsynchronised, 3);
}

#[test]
fn the_first_event_that_was_touched_is_named() {
    let files = trail(&[5, 6], 1);
    let with = |at: usize, file: InputFile| {
        let mut files = files.clone();
        files[at] = file;
        let report = verify(&ask(files));
        let first = report.findings.first().cloned().expect("it is found");
        (first.sequence, first.what.split(':').next().unwrap_or_default().to_owned())
    };
    let changed = |index: usize| {
        move |records: &mut Vec<Vec<u8>>| {
            let at = records[index].len() - 1;
            let was = AuditRecord::decode(&records[index]).unwrap();
            let mut event = Event::decode(&was.event).unwrap();
            event.key.push('x');
            records[index] = AuditRecord::encode(was.sequence, was.at, &was.outcome, &event.encode());
            assert!(at > 0);
        }
    };
    assert_eq!(with(0, rewritten(&files[0], changed(2))), (Some(3), "changed".into()));
    assert_eq!(with(2, rewritten(&files[2], changed(0))), (Some(6), "changed".into()));
    assert_eq!(with(0, rewritten(&files[0], |r| drop(r.remove(1)))), (Some(2), "removed".into()));
    assert_eq!(with(0, rewritten(&files[0], |r| drop(r.pop()))), (Some(5), "removed".into()));
    assert_eq!(with(0, rewritten(&files[0], |r| r.swap(1, 3))), (Some(2), "reordered".into()));
    assert_eq!(with(0, rewritten(&files[0], |r| r.insert(3, record(99)))), (Some(4), "added".into()));
    assert_eq!(with(0, rewritten(&files[0], |r| r.push(record(99)))), (Some(6), "added".into()));
}

#[test]
fn whole_segments_that_go_are_missed() {
    let files = trail(&[2, 3, 4], 1);
    let without = |gone: &[usize]| {
        let left = (0..files.len()).filter(|at| !gone.contains(at)).map(|at| files[at].clone()).collect();
        verify(&ask(left)).findings
    };
    assert_eq!(without(&[2, 3])[0].sequence, Some(3));
    assert_eq!(without(&[0, 1])[0].sequence, Some(1));
    assert_eq!(without(&[2])[0].sequence, Some(3));
    assert!(without(&[3])[0].what.starts_with("removed"));
    // The end can only be missed by somebody who has kept an anchor of it.
    assert_eq!(without(&[4, 5]), []);
    let anchor = Seal::from_bytes(&files[5].bytes).unwrap().anchor();
    let question = Question { anchors: vec![anchor], ..ask(files[..4].to_vec()) };
    assert_eq!(verify(&question).findings[0].sequence, Some(6));
    let question = Question { partial: true, ..ask(files[2..].to_vec()) };
    assert_eq!(verify(&question).findings, []);
}

#[test]
fn a_trail_signed_by_another_key_is_refused() {
    let others = trail(&[2, 3], 2);
    assert!(!verify(&ask(others.clone())).findings.is_empty());
    // Without a key to compare with, only a change of hands within the trail shows.
    let blind = Question { files: others.clone(), ..Question::default() };
    assert_eq!(verify(&blind).findings, []);
    let mut mixed = trail(&[2, 3], 1);
    mixed[2..].clone_from_slice(&others[2..]);
    assert!(!verify(&Question { files: mixed, ..Question::default() }).findings.is_empty());
}

#[derive(Debug, Clone)]
enum Tamper {
    Flip { file: usize, at: usize, bit: u8 },
    Truncate { file: usize, left: usize },
    Drop { segment: usize, row: usize },
    Insert { segment: usize, row: usize },
    Swap { segment: usize, a: usize, b: usize },
    Resign { segment: usize },
}

fn tampers() -> impl Strategy<Value = Tamper> {
    prop_oneof![
        4 => (any::<usize>(), any::<usize>(), 0..8u8).prop_map(|(file, at, bit)| Tamper::Flip { file, at, bit }),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(file, left)| Tamper::Truncate { file, left }),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(segment, row)| Tamper::Drop { segment, row }),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(segment, row)| Tamper::Insert { segment, row }),
        1 => (any::<usize>(), any::<usize>(), any::<usize>()).prop_map(|(segment, a, b)| Tamper::Swap { segment, a, b }),
        1 => any::<usize>().prop_map(|segment| Tamper::Resign { segment }),
    ]
}

/// Does it; `None` if it leaves everything as it was. The rows that a change of rows first touches.
fn done(files: &mut [InputFile], tamper: &Tamper, counts: &[u64]) -> Option<Option<u64>> {
    let start = |segment: usize| 1 + counts[..segment].iter().sum::<u64>();
    let segments = counts.len();
    match *tamper {
        Tamper::Flip { file, at, bit } => {
            let file = &mut files[file % (2 * segments)];
            let mut bytes = file.bytes.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            file.bytes = bytes.into();
            Some(None)
        }
        Tamper::Truncate { file, left } => {
            let file = &mut files[file % (2 * segments)];
            file.bytes = file.bytes.slice(..left % file.bytes.len());
            Some(None)
        }
        Tamper::Drop { segment, row } => {
            let segment = segment % segments;
            if counts[segment] < 2 {
                return None;
            }
            let row = row % counts[segment] as usize;
            files[2 * segment] = rewritten(&files[2 * segment], |records| drop(records.remove(row)));
            Some(Some(start(segment) + row as u64))
        }
        Tamper::Insert { segment, row } => {
            let segment = segment % segments;
            let row = row % (counts[segment] as usize + 1);
            files[2 * segment] = rewritten(&files[2 * segment], |records| records.insert(row, record(1_000)));
            Some(Some(start(segment) + row as u64))
        }
        Tamper::Swap { segment, a, b } => {
            let segment = segment % segments;
            let count = counts[segment] as usize;
            let (a, b) = (a % count, b % count);
            if a == b {
                return None;
            }
            files[2 * segment] = rewritten(&files[2 * segment], |records| records.swap(a, b));
            Some(Some(start(segment) + a.min(b) as u64))
        }
        Tamper::Resign { segment } => {
            let segment = segment % segments;
            files[2 * segment + 1] = trail(counts, 2)[2 * segment + 1].clone();
            Some(None)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn tampering_is_always_found(counts in proptest::collection::vec(1..6u64, 1..4), tamper in tampers()) {
        let mut files = trail(&counts, 1);
        let before: Vec<Bytes> = files.iter().map(|file| file.bytes.clone()).collect();
        let Some(first) = done(&mut files, &tamper, &counts) else { return Ok(()) };
        prop_assume!(files.iter().map(|file| &file.bytes).ne(before.iter()));
        let report = verify(&ask(files));
        prop_assert!(!report.findings.is_empty(), "{tamper:?}");
        if first.is_some() {
            prop_assert_eq!(report.findings[0].sequence, first, "{:?}", report.findings);
        }
    }
}
