//! Runs slices of load: a few threads, each with its own single-threaded runtime and its share of the workers.
//!
//! Guarantees: connections stay open from slice to slice; two endpoints take turns (A B, B A, ...), never at once;
//! a slice's time runs until its last operation has ended, so nothing in flight is left out.
//! Leaves to others: what one worker does, and what the figures mean.

use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::ops::{Budget, Plan, Worker};
use crate::procstat;
use crate::stats::{Recorder, Slice};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("a load thread has ended early")]
    Lost,
}

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) duration: Option<Duration>,
    pub(crate) ops: Option<u64>,
}

struct Order {
    side: usize,
    plan: Arc<Plan>,
    budget: Arc<Budget>,
    cursor: Arc<AtomicU64>,
    reply: mpsc::Sender<Recorder>,
}

/// Threads that wait for slices to run.
pub(crate) struct Pool {
    orders: Vec<mpsc::Sender<Order>>,
    endpoints: Vec<Arc<Endpoint>>,
}

impl Pool {
    /// Starts `threads` threads that share `concurrency` workers for each of `endpoints`.
    pub(crate) fn start(
        endpoints: &[Arc<Endpoint>],
        concurrency: usize,
        threads: usize,
        seed: u64,
        sign_payload: bool,
    ) -> Result<Self, RunError> {
        let threads = threads.clamp(1, concurrency.max(1));
        let mut orders = Vec::with_capacity(threads);
        for number in 0..threads {
            let (sender, receiver) = mpsc::channel::<Order>();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let mut sides: Vec<Vec<Worker>> = endpoints
                .iter()
                .map(|endpoint| {
                    (number..concurrency)
                        .step_by(threads)
                        .map(|id| {
                            let client = Client::new(endpoint.clone(), sign_payload);
                            Worker::new(client, seed, id as u64)
                        })
                        .collect()
                })
                .collect();
            thread::Builder::new().name(format!("load-{number}")).spawn(move || {
                while let Ok(order) = receiver.recv() {
                    let recorder = RefCell::new(Recorder::new());
                    let workers = sides[order.side].iter_mut();
                    let (plan, budget, cursor) = (&order.plan, &order.budget, &order.cursor);
                    let runs: futures::stream::FuturesUnordered<_> =
                        workers.map(|worker| worker.run(plan, budget, cursor, &recorder)).collect();
                    runtime.block_on(futures::StreamExt::for_each(runs, |()| async {}));
                    // The other end may have given up; then nobody wants the figures.
                    let _unwanted = order.reply.send(recorder.into_inner());
                }
            })?;
            orders.push(sender);
        }
        Ok(Self { orders, endpoints: endpoints.to_vec() })
    }

    /// Runs one slice against endpoint number `side` and waits for its end.
    pub(crate) fn slice(
        &self,
        side: usize,
        plan: &Arc<Plan>,
        bounds: Bounds,
        cursor: &Arc<AtomicU64>,
    ) -> Result<Slice, RunError> {
        let pid = self.endpoints[side].server_pid;
        let server = pid.and_then(procstat::usage);
        let client = procstat::own_usage();
        let start = Instant::now();
        let deadline = bounds.duration.map(|duration| start + duration);
        let budget = Arc::new(Budget::new(deadline, bounds.ops));
        let (reply, answers) = mpsc::channel();
        for thread in &self.orders {
            let order = Order {
                side,
                plan: plan.clone(),
                budget: budget.clone(),
                cursor: cursor.clone(),
                reply: reply.clone(),
            };
            thread.send(order).map_err(|_| RunError::Lost)?;
        }
        drop(reply);
        let mut recorder = Recorder::new();
        for _ in &self.orders {
            recorder.add(&answers.recv().map_err(|_| RunError::Lost)?);
        }
        let elapsed_s = start.elapsed().as_secs_f64();
        let after = (pid.and_then(procstat::usage), procstat::own_usage());
        Ok(Slice::new(recorder, elapsed_s, (server, after.0), (client, after.1)))
    }
}

/// Which side runs when: pairs of slices next to each other, the first of a pair changing.
pub(crate) fn turns(sides: usize, slices: usize) -> Vec<usize> {
    (0..slices)
        .flat_map(|pair| {
            let order: Vec<usize> = if pair % 2 == 0 { (0..sides).collect() } else { (0..sides).rev().collect() };
            order
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sides_take_turns() {
        assert_eq!(turns(2, 3), [0, 1, 1, 0, 0, 1]);
        assert_eq!(turns(1, 2), [0, 0]);
    }
}
