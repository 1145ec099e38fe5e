//! One worker: a connection and the operations it makes, one after the other (a closed loop).
//!
//! Guarantees: lengths are always checked, contents of every n-th answer; whatever is wrong is counted as an error,
//! never passed over. Leaves to others: when to begin and to stop, and what the figures mean.

use crate::client::{Call, Client, ClientError, Expect, Outgoing, between};
use crate::keys::{Chooser, KeySpace};
use crate::payload::{Payload, SplitMix};
use crate::sigv4::uri_encode;
use crate::stats::Recorder;
use clap::ValueEnum;
use http::Method;
use serde::Serialize;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A single operation on a single key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OpKind {
    Put,
    Get,
    Head,
    Delete,
    List,
}

/// In which order ranges are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RangeOrder {
    /// Anywhere in any object.
    Random,
    /// Each worker reads an object from end to end, then the next.
    Sequential,
}

/// What all workers do.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Operations with their weights; one entry for a pure workload.
    pub(crate) mix: Vec<(OpKind, u32)>,
    pub(crate) keys: KeySpace,
    pub(crate) chooser: Chooser,
    /// Read ranges of this length instead of whole objects.
    pub(crate) range: Option<(u64, RangeOrder)>,
    pub(crate) max_keys: u64,
    /// Check the content of every n-th answer; 0 checks none.
    pub(crate) verify_every: u64,
    pub(crate) timeout: Duration,
    pub(crate) payload: Payload,
}

impl Plan {
    /// Whether a key may be absent without that being an error: somebody else deletes meanwhile.
    fn may_be_absent(&self) -> bool {
        self.mix.len() > 1 && self.mix.iter().any(|(kind, _)| *kind == OpKind::Delete)
    }
}

/// When a slice ends.
pub(crate) struct Budget {
    pub(crate) deadline: Option<Instant>,
    pub(crate) ops_left: AtomicU64,
}

impl Budget {
    /// Until `deadline` or for `ops` operations, whichever comes first.
    pub(crate) fn new(deadline: Option<Instant>, ops: Option<u64>) -> Self {
        Self { deadline, ops_left: AtomicU64::new(ops.unwrap_or(u64::MAX)) }
    }

    /// Whether one more operation may begin; counts it.
    pub(crate) fn take(&self, now: Instant) -> bool {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return false;
        }
        self.ops_left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// A connection with its own random sequence.
pub(crate) struct Worker {
    pub(crate) client: Client,
    random: SplitMix,
    since_verified: u64,
    /// Object and offset of the next sequential range.
    position: Option<(u64, u64)>,
}

impl Worker {
    /// Worker number `id`; the same seed and id choose the same keys.
    pub(crate) fn new(client: Client, seed: u64, id: u64) -> Self {
        let random = SplitMix::new(crate::payload::mix(seed ^ (id + 1) << 20));
        // Not all workers verify their first answer at once.
        Self { client, random, since_verified: id, position: None }
    }

    /// Makes operations until the budget is spent.
    pub(crate) async fn run(&mut self, plan: &Plan, budget: &Budget, cursor: &AtomicU64, recorder: &RefCell<Recorder>) {
        let mut start = Instant::now();
        while budget.take(start) {
            let kind = self.pick(plan);
            let index = match kind {
                OpKind::Delete if plan.mix.len() == 1 => {
                    let index = cursor.fetch_add(1, Ordering::Relaxed);
                    if index >= plan.keys.count {
                        return;
                    }
                    index
                }
                _ => plan.chooser.next(&mut self.random, cursor),
            };
            let verify = self.verify_now(plan);
            let operation = self.operate(plan, kind, index, verify, recorder);
            let result = match tokio::time::timeout(plan.timeout, operation).await {
                Ok(result) => result,
                Err(_) => {
                    self.client.drop_connection();
                    Err(ClientError::Timeout(plan.timeout))
                }
            };
            let now = Instant::now();
            let took_us = u64::try_from((now - start).as_micros()).unwrap_or(u64::MAX);
            let mut pause = false;
            {
                let mut recorder = recorder.borrow_mut();
                match result {
                    Ok(bytes) => recorder.done(took_us, bytes),
                    Err(ClientError::Status { status: 404, .. }) if plan.may_be_absent() => {
                        recorder.not_found += 1;
                        recorder.done(took_us, 0);
                    }
                    Err(error) => {
                        if recorder.error_count() < 3 {
                            eprintln!("granary-bench: {kind:?} {}: {error}", plan.keys.key(index));
                        }
                        pause = matches!(
                            error,
                            ClientError::Connect(_) | ClientError::Http(_) | ClientError::Status { status: 500.., .. }
                        );
                        recorder.failed(error.kind());
                    }
                }
            }
            start = now;
            if pause {
                tokio::time::sleep(Duration::from_millis(20)).await;
                start = Instant::now();
            }
        }
    }

    fn pick(&mut self, plan: &Plan) -> OpKind {
        if let [(kind, _)] = plan.mix[..] {
            return kind;
        }
        let total: u32 = plan.mix.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(u64::from(total)) as u32;
        for (kind, weight) in &plan.mix {
            if at < *weight {
                return *kind;
            }
            at -= weight;
        }
        plan.mix[0].0
    }

    fn verify_now(&mut self, plan: &Plan) -> bool {
        self.since_verified += 1;
        let now = plan.verify_every > 0 && self.since_verified >= plan.verify_every;
        if now {
            self.since_verified = 0;
        }
        now
    }

    /// One operation; the answer is the bytes of object data that moved.
    async fn operate(
        &mut self,
        plan: &Plan,
        kind: OpKind,
        index: u64,
        verify: bool,
        recorder: &RefCell<Recorder>,
    ) -> Result<u64, ClientError> {
        match kind {
            OpKind::Put => self.put(plan, index).await,
            OpKind::Get => self.get(plan, index, verify, recorder).await,
            OpKind::Head => self.head(plan, index).await,
            OpKind::Delete => self.delete(plan, index).await,
            OpKind::List => self.list(plan, index, verify, recorder).await,
        }
    }

    fn path(&self, key: &str) -> String {
        format!("/{}/{}", self.client.endpoint.bucket, uri_encode(key, true))
    }

    async fn put(&mut self, plan: &Plan, index: u64) -> Result<u64, ClientError> {
        let key = plan.keys.key(index);
        let bytes = plan.keys.size_bytes(index);
        let body = Outgoing::Object {
            payload: plan.payload.clone(),
            origin: plan.payload.origin(&key),
            offset: 0,
            left: bytes,
        };
        let path = self.path(&key);
        let call = Call { method: Method::PUT, path: &path, query: "", range: None, body };
        let response = self.client.send(&call).await?;
        self.client.drain(response, None).await?;
        Ok(bytes)
    }

    async fn get(
        &mut self,
        plan: &Plan,
        index: u64,
        verify: bool,
        recorder: &RefCell<Recorder>,
    ) -> Result<u64, ClientError> {
        let (index, range) = self.wanted(plan, index);
        let key = plan.keys.key(index);
        let (offset, want) = range.unwrap_or((0, plan.keys.size_bytes(index)));
        let path = self.path(&key);
        let call = Call {
            method: Method::GET,
            path: &path,
            query: "",
            range: range.map(|(offset, length)| (offset, offset + length - 1)),
            body: Outgoing::Empty,
        };
        let response = self.client.send(&call).await?;
        let partial = response.status().as_u16() == 206;
        if response.status().is_success() && partial != range.is_some() {
            self.client.drop_connection();
            return Err(ClientError::Answer("range not honoured"));
        }
        let expect = verify.then(|| Expect { payload: &plan.payload, origin: plan.payload.origin(&key), offset });
        let drained = self.client.drain(response, expect).await?;
        if drained.bytes != want {
            return Err(ClientError::Length { key, want, got: drained.bytes });
        }
        if let Some(offset) = drained.first_difference {
            return Err(ClientError::Mismatch { key, offset });
        }
        if verify {
            let mut recorder = recorder.borrow_mut();
            recorder.verified += 1;
            recorder.verified_bytes += drained.bytes;
        }
        Ok(drained.bytes)
    }

    /// Which object and which of its bytes: the chosen object whole, or a range.
    fn wanted(&mut self, plan: &Plan, index: u64) -> (u64, Option<(u64, u64)>) {
        let Some((length, order)) = plan.range else { return (index, None) };
        match order {
            RangeOrder::Random => {
                let size = plan.keys.size_bytes(index);
                let length = length.min(size);
                let offset = self.random.below(size - length + 1);
                (index, (length > 0).then_some((offset, length)))
            }
            RangeOrder::Sequential => {
                let (index, offset) = self.position.unwrap_or((index, 0));
                let size = plan.keys.size_bytes(index);
                let length = length.min(size - offset);
                let next = offset + length;
                self.position = (next < size).then_some((index, next));
                (index, (length > 0).then_some((offset, length)))
            }
        }
    }

    async fn head(&mut self, plan: &Plan, index: u64) -> Result<u64, ClientError> {
        let key = plan.keys.key(index);
        let path = self.path(&key);
        let call = Call { method: Method::HEAD, path: &path, query: "", range: None, body: Outgoing::Empty };
        let response = self.client.send(&call).await?;
        let length =
            response.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        self.client.drain(response, None).await?;
        let want = plan.keys.size_bytes(index);
        match length {
            Some(got) if got == want => Ok(0),
            got => Err(ClientError::Length { key, want, got: got.unwrap_or(0) }),
        }
    }

    async fn delete(&mut self, plan: &Plan, index: u64) -> Result<u64, ClientError> {
        let path = self.path(&plan.keys.key(index));
        let call = Call { method: Method::DELETE, path: &path, query: "", range: None, body: Outgoing::Empty };
        let response = self.client.send(&call).await?;
        self.client.drain(response, None).await?;
        Ok(0)
    }

    async fn list(
        &mut self,
        plan: &Plan,
        index: u64,
        verify: bool,
        recorder: &RefCell<Recorder>,
    ) -> Result<u64, ClientError> {
        let path = format!("/{}", self.client.endpoint.bucket);
        let query = format!(
            "list-type=2&max-keys={}&prefix={}&start-after={}",
            plan.max_keys,
            uri_encode(&plan.keys.prefix, false),
            uri_encode(&plan.keys.key(index), false)
        );
        let call = Call { method: Method::GET, path: &path, query: &query, range: None, body: Outgoing::Empty };
        if !verify {
            let response = self.client.send(&call).await?;
            self.client.drain(response, None).await?;
            recorder.borrow_mut().listed_keys += plan.max_keys.min(plan.keys.count.saturating_sub(index + 1));
            return Ok(0);
        }
        let (_, _, body) = self.client.fetch(&call).await?;
        let text = String::from_utf8_lossy(&body);
        let listed = check_listing(&text, plan, index)?;
        let mut recorder = recorder.borrow_mut();
        recorder.listed_keys += listed;
        recorder.verified += 1;
        recorder.verified_bytes += body.len() as u64;
        Ok(0)
    }
}

/// Checks that a page that starts after object `index` holds just the keys and sizes that follow it, and says
/// rightly whether there are more. The answer is the number of keys. Where keys come and go meanwhile only order is checked.
fn check_listing(text: &str, plan: &Plan, index: u64) -> Result<u64, ClientError> {
    let mut rest = text;
    let mut listed = 0;
    let mut last = plan.keys.key(index);
    while let Some(entry) = between(rest, "<Contents>", "</Contents>") {
        let key = between(entry, "<Key>", "</Key>").ok_or(ClientError::Answer("listing without key"))?;
        if key <= last.as_str() {
            return Err(ClientError::Answer("listing out of order"));
        }
        listed += 1;
        if !plan.may_be_absent() {
            let size = between(entry, "<Size>", "</Size>").and_then(|s| s.parse().ok());
            if key != plan.keys.key(index + listed) || size != Some(plan.keys.size_bytes(index + listed)) {
                return Err(ClientError::Answer("listing is wrong"));
            }
        }
        last = key.to_owned();
        let end = rest.find("</Contents>").unwrap_or(rest.len());
        rest = &rest[(end + "</Contents>".len()).min(rest.len())..];
    }
    let left = plan.keys.count.saturating_sub(index + 1);
    if !plan.may_be_absent() {
        let truncated = between(text, "<IsTruncated>", "</IsTruncated>") == Some("true");
        if listed != left.min(plan.max_keys) || truncated != (left > plan.max_keys) {
            return Err(ClientError::Answer("listing stops short"));
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Choice;

    fn plan(count: u64, mix: Vec<(OpKind, u32)>) -> Plan {
        Plan {
            mix,
            keys: KeySpace { prefix: "p/".into(), count, sizes: vec![7] },
            chooser: Chooser::new(Choice::Uniform, count, 0.99),
            range: None,
            max_keys: 2,
            verify_every: 1,
            timeout: Duration::from_secs(1),
            payload: Payload::new(0),
        }
    }

    fn page(keys: &[u64], truncated: bool) -> String {
        let entries: String =
            keys.iter().map(|i| format!("<Contents><Key>p/{i:010}</Key><Size>7</Size></Contents>")).collect();
        format!("<R><IsTruncated>{truncated}</IsTruncated>{entries}</R>")
    }

    #[test]
    fn listings_are_right_or_refused() {
        let plan = plan(5, vec![(OpKind::List, 1)]);
        assert_eq!(check_listing(&page(&[1, 2], true), &plan, 0).ok(), Some(2));
        assert_eq!(check_listing(&page(&[3, 4], false), &plan, 2).ok(), Some(2));
        assert_eq!(check_listing(&page(&[], false), &plan, 4).ok(), Some(0));
        let refused = [
            (page(&[1], true), 0),     // one short
            (page(&[1, 2], false), 0), // denies that there are more
            (page(&[1, 3], true), 0),  // skips one
            (page(&[2, 1], true), 0),  // out of order
            (page(&[3, 4], true), 2),  // promises more
        ];
        for (text, index) in refused {
            assert!(check_listing(&text, &plan, index).is_err(), "{text}");
        }
    }

    #[test]
    fn listings_beside_deletes_only_need_order() {
        let plan = plan(5, vec![(OpKind::List, 1), (OpKind::Delete, 1)]);
        assert!(check_listing(&page(&[1, 3], true), &plan, 0).is_ok());
        assert!(check_listing(&page(&[3, 1], true), &plan, 0).is_err());
    }

    #[test]
    fn a_budget_ends_by_count_and_by_time() {
        let now = Instant::now();
        let budget = Budget::new(None, Some(2));
        assert_eq!([budget.take(now), budget.take(now), budget.take(now)], [true, true, false]);
        let timed = Budget::new(Some(now), None);
        assert!(!timed.take(now));
        let open = Budget::new(Some(now + Duration::from_secs(60)), None);
        assert!(open.take(now));
    }
}
