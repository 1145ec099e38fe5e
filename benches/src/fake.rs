//! A small S3 for the generator's own tests: keeps objects in memory, and misbehaves on request.
//!
//! Leaves to others: nearly all of S3. It knows PUT, GET (whole and ranges), HEAD, DELETE and multipart uploads of
//! one object at a time, and checks that a signature is there, not that it is right.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// How it misbehaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Flip a bit of every body it serves at this offset.
    pub(crate) flip_at: Option<usize>,
    /// Leave out the last byte of every body it serves (and say so in Content-Length).
    pub(crate) short: bool,
    /// Close a connection, without saying so, after this many answers.
    pub(crate) close_after: Option<usize>,
    /// Answer every n-th request with 503 SlowDown.
    pub(crate) slow_down_every: Option<usize>,
}

type Objects = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// Serves until the test's process ends; the answer is where.
pub(crate) fn serve(faults: Faults) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound just now");
    let objects = Objects::default();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let objects = objects.clone();
            thread::spawn(move || connection(&stream, &objects, faults));
        }
    });
    addr
}

fn connection(stream: &TcpStream, objects: &Objects, faults: Faults) {
    let mut reader = BufReader::new(stream);
    let mut answered = 0;
    while faults.close_after.is_none_or(|most| answered < most) {
        let Some((method, target, headers, body)) = request(&mut reader) else { return };
        answered += 1;
        let (status, extra, mut data) = if !headers.contains_key("authorization") {
            (403, String::new(), b"<Error><Code>AccessDenied</Code></Error>".to_vec())
        } else if faults.slow_down_every.is_some_and(|every| answered % every == 0) {
            (503, String::new(), b"<Error><Code>SlowDown</Code></Error>".to_vec())
        } else {
            answer(objects, &method, &target, headers.get("range"), body)
        };
        if method == "GET" && (status == 200 || status == 206) {
            if let Some(byte) = faults.flip_at.and_then(|at| data.get_mut(at)) {
                *byte ^= 1;
            }
            if faults.short {
                data.pop();
            }
        }
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{extra}\r\n", data.len());
        if method == "HEAD" {
            data.clear();
        }
        let mut out = stream;
        if out.write_all(head.as_bytes()).and_then(|()| out.write_all(&data)).is_err() {
            return;
        }
    }
}

type Parsed = (String, String, HashMap<String, String>, Vec<u8>);

fn request(reader: &mut impl BufRead) -> Option<Parsed> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_ascii_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(Some(0), |text| text.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, target, headers, body))
}

fn answer(
    objects: &Objects,
    method: &str,
    target: &str,
    range: Option<&String>,
    body: Vec<u8>,
) -> (u16, String, Vec<u8>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut objects = objects.lock().expect("no test panics while holding it");
    let etag = || "ETag: \"x\"\r\n".to_owned();
    match method {
        "POST" if query == "uploads=" => (200, String::new(), b"<UploadId>a/b</UploadId>".to_vec()),
        "POST" => {
            let parts = String::from_utf8_lossy(&body).matches("<ETag>\"x\"</ETag>").count();
            let names: Vec<String> = (1..=parts).map(|n| format!("{path}#{n}")).collect();
            if query != "uploadId=a%2Fb" || names.iter().any(|name| !objects.contains_key(name)) {
                return (200, String::new(), b"<Error><Code>InvalidPart</Code></Error>".to_vec());
            }
            let whole = names.iter().flat_map(|name| objects[name].clone()).collect();
            objects.insert(path.to_owned(), whole);
            (200, String::new(), b"<CompleteMultipartUploadResult><ETag>\"y\"</ETag>".to_vec())
        }
        "PUT" => {
            let part = query.strip_prefix("partNumber=").and_then(|rest| rest.split('&').next());
            let name = part.map_or_else(|| path.to_owned(), |number| format!("{path}#{number}"));
            objects.insert(name, body);
            (200, etag(), Vec::new())
        }
        "DELETE" => {
            objects.remove(path);
            (204, String::new(), Vec::new())
        }
        _ => match (objects.get(path), range) {
            (None, _) => (404, String::new(), b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
            (Some(data), None) => (200, etag(), data.clone()),
            (Some(data), Some(range)) => {
                let bounds = range.strip_prefix("bytes=").and_then(|text| text.split_once('-'));
                let (first, last) = bounds.expect("the generator sends both bounds");
                let first: usize = first.parse().expect("a number");
                let last: usize = last.parse().expect("a number");
                (206, etag(), data[first..=last.min(data.len() - 1)].to_vec())
            }
        },
    }
}

mod tests {
    use super::*;
    use crate::endpoint::{Endpoint, Trust};
    use crate::keys::{Choice, Chooser, KeySpace};
    use crate::multipart::{Checkpoint, upload};
    use crate::ops::{OpKind, Plan, RangeOrder};
    use crate::payload::Payload;
    use crate::runner::{Bounds, Pool};
    use crate::sigv4::Credentials;
    use crate::stats::Slice;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    const KEYS: u64 = 20;

    fn endpoint(faults: Faults) -> Arc<Endpoint> {
        let url = format!("http://{}", serve(faults));
        let credentials = Credentials { access_key: "a".into(), secret_key: "b".into() };
        let made = Endpoint::new(&url, Trust::default(), "bucket", "us-east-1", credentials, None);
        Arc::new(made.expect("a good URL"))
    }

    fn plan(mix: Vec<(OpKind, u32)>, range: Option<(u64, RangeOrder)>) -> Arc<Plan> {
        Arc::new(Plan {
            mix,
            keys: KeySpace { prefix: "k/".into(), count: KEYS, sizes: vec![0, 1, 5_000, 300_000] },
            chooser: Chooser::new(Choice::Sequential, KEYS, 0.99),
            range,
            max_keys: 10,
            verify_every: 1,
            timeout: Duration::from_secs(30),
            payload: Payload::new(1),
        })
    }

    /// Runs the plans one after the other, three rounds of the key space each; the last one's slice is the answer.
    fn run(faults: Faults, plans: &[Arc<Plan>]) -> Slice {
        let pool = Pool::start(&[endpoint(faults)], 3, 2, 1, false).expect("threads");
        let bounds = Bounds { duration: None, ops: Some(3 * KEYS) };
        let mut slices: Vec<Slice> = plans
            .iter()
            .map(|plan| {
                let cursor = Arc::new(AtomicU64::new(0));
                pool.slice(0, plan, bounds, &cursor).expect("threads are there")
            })
            .collect();
        slices.pop().expect("at least one plan")
    }

    fn only(kind: OpKind) -> Arc<Plan> {
        plan(vec![(kind, 1)], None)
    }

    #[test]
    fn what_is_put_is_got_head_and_deleted() {
        let slice = run(Faults::default(), &[only(OpKind::Put), only(OpKind::Get)]);
        assert_eq!((slice.recorder.ops, slice.recorder.error_count()), (60, 0));
        assert_eq!((slice.recorder.verified, slice.recorder.bytes), (60, 15 * 305_001));
        let slice = run(Faults::default(), &[only(OpKind::Put), only(OpKind::Head)]);
        assert_eq!((slice.recorder.ops, slice.recorder.error_count()), (60, 0));
        // Each key is deleted once; then there is nothing to get.
        let slice = run(Faults::default(), &[only(OpKind::Put), only(OpKind::Delete)]);
        assert_eq!(slice.recorder.ops, KEYS);
        let plans = [only(OpKind::Put), only(OpKind::Delete), only(OpKind::Get)];
        let slice = run(Faults::default(), &plans);
        assert_eq!(slice.recorder.errors.get("404 NoSuchKey"), Some(&60));
    }

    #[test]
    fn ranges_are_verified_in_both_orders() {
        for order in [RangeOrder::Random, RangeOrder::Sequential] {
            let ranges = plan(vec![(OpKind::Get, 1)], Some((1_000, order)));
            let slice = run(Faults::default(), &[only(OpKind::Put), ranges]);
            assert_eq!(slice.recorder.errors, Default::default());
            assert_eq!(slice.recorder.verified, 60);
        }
    }

    #[test]
    fn wrong_and_missing_bytes_are_errors() {
        let flip = Faults { flip_at: Some(4_000), ..Faults::default() };
        let slice = run(flip, &[only(OpKind::Put), only(OpKind::Get)]);
        // Half of the objects are too short to be hit.
        assert_eq!(slice.recorder.errors.get("wrong bytes"), Some(&30));
        assert_eq!(slice.recorder.ops, 30);
        let short = Faults { short: true, ..Faults::default() };
        let slice = run(short, &[only(OpKind::Put), only(OpKind::Get)]);
        assert_eq!(slice.recorder.errors.get("wrong length"), Some(&45));
    }

    #[test]
    fn closed_connections_are_reopened_and_refusals_counted() {
        let closing = Faults { close_after: Some(4), ..Faults::default() };
        let slice = run(closing, &[only(OpKind::Put), only(OpKind::Get)]);
        assert_eq!((slice.recorder.ops, slice.recorder.error_count()), (60, 0));
        let busy = Faults { slow_down_every: Some(3), ..Faults::default() };
        let slice = run(busy, &[only(OpKind::Put)]);
        let refused = slice.recorder.errors.get("503 SlowDown").copied().unwrap_or(0);
        assert!((18..=20).contains(&refused), "{:?}", slice.recorder.errors);
        assert_eq!(slice.recorder.ops + refused, 60);
    }

    #[test]
    fn mixed_beside_deletes_takes_absence_for_an_answer() {
        let mix = vec![(OpKind::Put, 1), (OpKind::Get, 1), (OpKind::Delete, 1)];
        let slice = run(Faults::default(), &[plan(mix, None)]);
        assert_eq!((slice.recorder.ops, slice.recorder.error_count()), (60, 0));
        assert!(slice.recorder.not_found > 0);
    }

    #[test]
    fn a_checkpoint_is_whole_or_an_error() {
        let mut checkpoint = Checkpoint {
            object_bytes: 1_000_001,
            part_bytes: 100_000,
            parts_in_flight: 3,
            verify_every: 1,
            payload: Payload::new(1),
            prefix: "c/".into(),
            cleanup: true,
        };
        let good = upload(&endpoint(Faults::default()), &checkpoint, 0, true).expect("a runtime");
        assert_eq!(good.recorder.errors, Default::default());
        assert_eq!((good.recorder.ops, good.recorder.bytes), (11, 1_000_001));
        assert_eq!(good.recorder.verified_bytes, 1_000_001);
        let flip = Faults { flip_at: Some(50), ..Faults::default() };
        let bad = upload(&endpoint(flip), &checkpoint, 0, false).expect("a runtime");
        assert_eq!(bad.recorder.errors.get("wrong bytes"), Some(&1));
        checkpoint.verify_every = 0;
        let unread = upload(&endpoint(flip), &checkpoint, 0, false).expect("a runtime");
        assert_eq!(unread.recorder.error_count(), 0);
    }
}
