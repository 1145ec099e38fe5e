//! The fault-injecting twin: any shard store, with chosen calls failing, waiting, or flipping bits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use granary_types::{DriveId, ShardId};
use parking_lot::Mutex;

use crate::api::{
    DriveError, DriveHealth, DriveSpace, Result, ShardInfo, ShardSpec, ShardStore, ShardWriter, VerifyReport,
};
use crate::buf::{AlignedBuf, AlignedBytes};

/// A call of a shard store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOp {
    /// `create`.
    Create,
    /// `append`.
    Append,
    /// `commit`.
    Commit,
    /// `read`.
    Read,
    /// `read_verified`.
    ReadVerified,
    /// `header`.
    Header,
    /// `free`.
    Free,
    /// `scan`.
    Scan,
    /// `verify`.
    Verify,
}

/// What happens to a call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It fails with this, and nothing is done.
    Error(DriveError),
    /// It is done, and fails with this afterwards (the caller cannot know).
    ErrorAfter(DriveError),
    /// It waits first (tokio time: a paused clock makes it instant).
    Delay(Duration),
    /// A read returns with this bit (counted from its front, modulo its length) flipped.
    FlipBit(usize),
    /// It never ends.
    Hang,
}

struct Rule {
    op: FaultOp,
    shard: Option<ShardId>,
    /// Calls that pass before it strikes.
    skip: usize,
    /// Times it strikes.
    count: usize,
    fault: Fault,
}

#[derive(Default)]
struct Rules {
    rules: Mutex<Vec<Rule>>,
    calls: Mutex<VecDeque<(FaultOp, Option<ShardId>)>>,
    health: Mutex<Option<DriveHealth>>,
}

/// A [`ShardStore`] that makes trouble. Clones share it.
#[derive(Clone)]
pub struct FaultDrive {
    inner: Arc<dyn ShardStore>,
    rules: Arc<Rules>,
}

impl FaultDrive {
    /// Wraps `inner`; no faults yet.
    #[must_use]
    pub fn new(inner: Arc<dyn ShardStore>) -> Self {
        Self { inner, rules: Arc::default() }
    }

    /// The next `count` calls of `op` (of `shard`, or of any), after `skip` that pass, meet `fault`.
    pub fn inject(&self, op: FaultOp, shard: Option<ShardId>, skip: usize, count: usize, fault: Fault) {
        self.rules.rules.lock().push(Rule { op, shard, skip, count, fault });
    }

    /// Every call of every kind fails with this until [`FaultDrive::heal`].
    pub fn break_all(&self, error: &DriveError) {
        use FaultOp::{Append, Commit, Create, Free, Header, Read, ReadVerified, Scan, Verify};
        for op in [Create, Append, Commit, Read, ReadVerified, Header, Free, Scan, Verify] {
            self.inject(op, None, 0, usize::MAX, Fault::Error(error.clone()));
        }
    }

    /// Claims a health that the wrapped store does not have; `None` for the truth.
    pub fn set_health(&self, health: Option<DriveHealth>) {
        *self.rules.health.lock() = health;
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        self.rules.rules.lock().clear();
        self.set_health(None);
    }

    /// The last 10,000 calls, oldest first.
    #[must_use]
    pub fn calls(&self) -> Vec<(FaultOp, Option<ShardId>)> {
        self.rules.calls.lock().iter().copied().collect()
    }

    /// How often `op` was called (of the last 10,000 calls).
    #[must_use]
    pub fn count(&self, op: FaultOp) -> usize {
        self.rules.calls.lock().iter().filter(|(o, _)| *o == op).count()
    }
}

impl Rules {
    fn strike(&self, op: FaultOp, shard: Option<ShardId>) -> Option<Fault> {
        let mut calls = self.calls.lock();
        if calls.len() == 10_000 {
            calls.pop_front();
        }
        calls.push_back((op, shard));
        drop(calls);
        let mut rules = self.rules.lock();
        for rule in rules.iter_mut() {
            let hit = rule.op == op && (rule.shard.is_none() || rule.shard == shard) && rule.count > 0;
            if hit && rule.skip > 0 {
                rule.skip -= 1;
            } else if hit {
                rule.count -= usize::from(rule.count != usize::MAX);
                return Some(rule.fault.clone());
            }
        }
        None
    }
}

/// Runs `call` under a fault.
async fn under<T>(fault: Option<Fault>, call: impl Future<Output = Result<T>>) -> Result<T> {
    match fault {
        None | Some(Fault::FlipBit(_)) => call.await,
        Some(Fault::Error(error)) => Err(error),
        Some(Fault::ErrorAfter(error)) => call.await.and(Err(error)),
        Some(Fault::Delay(wait)) => {
            tokio::time::sleep(wait).await;
            call.await
        }
        Some(Fault::Hang) => std::future::pending().await,
    }
}

async fn read_under(fault: Option<Fault>, call: impl Future<Output = Result<AlignedBuf>>) -> Result<AlignedBuf> {
    let flip = match fault {
        Some(Fault::FlipBit(bit)) => Some(bit),
        _ => None,
    };
    let mut buf = under(fault, call).await?;
    if let (Some(bit), false) = (flip, buf.is_empty()) {
        let bit = bit % (buf.len() * 8);
        buf[bit / 8] ^= 1 << (bit % 8);
    }
    Ok(buf)
}

impl ShardStore for FaultDrive {
    fn id(&self) -> DriveId {
        self.inner.id()
    }

    fn health(&self) -> DriveHealth {
        self.rules.health.lock().clone().unwrap_or_else(|| self.inner.health())
    }

    fn space(&self) -> DriveSpace {
        self.inner.space()
    }

    fn create(&self, spec: ShardSpec) -> BoxFuture<'_, Result<Box<dyn ShardWriter>>> {
        let shard = spec.shard;
        let fault = self.rules.strike(FaultOp::Create, Some(shard));
        async move {
            let inner = under(fault, self.inner.create(spec)).await?;
            let rules = Arc::clone(&self.rules);
            Ok(Box::new(FaultWriter { inner, rules, shard }) as Box<dyn ShardWriter>)
        }
        .boxed()
    }

    fn read(&self, shard: ShardId, offset: u64, len_bytes: usize) -> BoxFuture<'_, Result<AlignedBuf>> {
        let fault = self.rules.strike(FaultOp::Read, Some(shard));
        read_under(fault, self.inner.read(shard, offset, len_bytes)).boxed()
    }

    fn read_verified(&self, shard: ShardId, offset: u64, len_bytes: usize) -> BoxFuture<'_, Result<AlignedBuf>> {
        let fault = self.rules.strike(FaultOp::ReadVerified, Some(shard));
        read_under(fault, self.inner.read_verified(shard, offset, len_bytes)).boxed()
    }

    fn header(&self, shard: ShardId) -> BoxFuture<'_, Result<(ShardInfo, Bytes)>> {
        under(self.rules.strike(FaultOp::Header, Some(shard)), self.inner.header(shard)).boxed()
    }

    fn free(&self, shards: Vec<ShardId>) -> BoxFuture<'_, Result<()>> {
        under(self.rules.strike(FaultOp::Free, shards.first().copied()), self.inner.free(shards)).boxed()
    }

    fn scan(&self, after: Option<ShardId>, limit: usize) -> BoxFuture<'_, Result<Vec<ShardInfo>>> {
        under(self.rules.strike(FaultOp::Scan, after), self.inner.scan(after, limit)).boxed()
    }

    fn verify(&self, shard: ShardId) -> BoxFuture<'_, Result<VerifyReport>> {
        under(self.rules.strike(FaultOp::Verify, Some(shard)), self.inner.verify(shard)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.close()
    }
}

struct FaultWriter {
    inner: Box<dyn ShardWriter>,
    rules: Arc<Rules>,
    shard: ShardId,
}

impl ShardWriter for FaultWriter {
    fn append(&mut self, data: AlignedBytes, crcs: &[u32]) -> BoxFuture<'static, Result<()>> {
        let fault = self.rules.strike(FaultOp::Append, Some(self.shard));
        under(fault, self.inner.append(data, crcs)).boxed()
    }

    fn commit(self: Box<Self>, sealed_meta: Bytes) -> BoxFuture<'static, Result<()>> {
        let fault = self.rules.strike(FaultOp::Commit, Some(self.shard));
        under(fault, self.inner.commit(sealed_meta)).boxed()
    }
}
