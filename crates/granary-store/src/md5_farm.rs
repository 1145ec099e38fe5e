//! MD5 of bodies on their way in: beside the request, and of up to eight bodies at once.
//!
//! A body hands its frames over as they come (shared, not copied) and goes on; a thread takes the frames of as many bodies as wait,
//! a lane each ([`granary_types::md5`]). With one body the thread works as one stream does; with several the CPU time of each is a
//! fraction of that, if the lanes are full: so the thread waits until every open body (up to eight) has frames here, or one is far
//! ahead or at its end. A body that is further ahead waits for the thread, so that at most [`WAITING_BYTES_MAX`] of it lie here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use granary_types::md5::{BLOCK_BYTES, Chain, LANES, Md5, START, compress_lanes};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

/// Bytes of one body that may wait to be digested.
pub(crate) const WAITING_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Frames are handed over when this much has come together.
const BATCH_BYTES: usize = 128 * 1024;
/// Lanes go this far before those that wait are looked at again.
const SLICE_BYTES: usize = 64 * 1024;
/// With this much of a body waiting, the others are not waited for.
const URGENT_BYTES: usize = WAITING_BYTES_MAX / 2;
/// A full set of lanes digests about as much as eight cores can bring in.
const CORES_PER_THREAD: usize = 8;

const _: () = assert!(SLICE_BYTES.is_multiple_of(BLOCK_BYTES) && BATCH_BYTES < WAITING_BYTES_MAX);

/// The threads. They end when this is dropped and the last stream is.
pub(crate) struct Md5Farm {
    threads: Vec<Arc<Shard>>,
    next: AtomicUsize,
}

struct Shard {
    state: Mutex<ShardState>,
    wake: Condvar,
}

#[derive(Default)]
struct ShardState {
    ready: VecDeque<Arc<Stream>>,
    /// Streams that have not ended: others may be worth waiting for.
    open: usize,
    closed: bool,
}

struct Stream {
    state: Mutex<StreamState>,
    /// Told when frames have been taken.
    room: Notify,
}

#[derive(Default)]
struct StreamState {
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// It is in `ready` or in a lane.
    is_queued: bool,
    /// `None` while it is in a lane.
    md5: Option<Md5>,
    finish: Option<oneshot::Sender<[u8; 16]>>,
}

impl StreamState {
    fn is_urgent(&self) -> bool {
        self.finish.is_some() || self.waiting_bytes >= URGENT_BYTES
    }
}

/// One body's MD5.
pub(crate) struct Md5Stream {
    shard: Arc<Shard>,
    stream: Arc<Stream>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
}

impl Md5Farm {
    /// Starts the threads.
    pub(crate) fn start() -> Self {
        let count = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(CORES_PER_THREAD));
        let threads = (0..count).filter_map(|n| {
            let shard = Arc::new(Shard { state: Mutex::default(), wake: Condvar::new() });
            let work = Arc::clone(&shard);
            let started = std::thread::Builder::new().name(format!("granary-md5-{n}")).spawn(move || run(&work));
            match started {
                Ok(_) => Some(shard),
                Err(error) => {
                    tracing::warn!(%error, "no thread for MD5: bodies digest themselves");
                    None
                }
            }
        });
        Self { threads: threads.collect(), next: AtomicUsize::new(0) }
    }

    /// Begins a stream; `None` where there is no thread.
    pub(crate) fn begin(&self) -> Option<Md5Stream> {
        let count = self.threads.len();
        let shard = self.threads.get(self.next.fetch_add(1, Ordering::Relaxed) % count.max(1))?;
        shard.state.lock().open += 1;
        let state = StreamState { md5: Some(Md5::new()), ..StreamState::default() };
        let stream = Arc::new(Stream { state: Mutex::new(state), room: Notify::new() });
        Some(Md5Stream { shard: Arc::clone(shard), stream, batch: Vec::new(), batch_bytes: 0 })
    }
}

impl Drop for Md5Farm {
    fn drop(&mut self) {
        for shard in &self.threads {
            shard.state.lock().closed = true;
            shard.wake.notify_all();
        }
    }
}

impl Md5Stream {
    /// Takes in bytes; waits while too many wait already.
    pub(crate) async fn update(&mut self, frame: Bytes) {
        self.batch_bytes += frame.len();
        self.batch.push(frame);
        if self.batch_bytes < BATCH_BYTES {
            return;
        }
        self.hand_over(None);
        loop {
            let room = self.stream.room.notified();
            if self.stream.state.lock().waiting_bytes <= WAITING_BYTES_MAX {
                return;
            }
            room.await;
        }
    }

    /// The digest; `None` if the thread is gone.
    pub(crate) async fn finish(mut self) -> Option<[u8; 16]> {
        let (end, digest) = oneshot::channel();
        self.hand_over(Some(end));
        digest.await.ok()
    }

    fn hand_over(&mut self, finish: Option<oneshot::Sender<[u8; 16]>>) {
        let mut state = self.stream.state.lock();
        state.waiting.extend(self.batch.drain(..));
        state.waiting_bytes += std::mem::take(&mut self.batch_bytes);
        state.finish = finish;
        let is_new = !std::mem::replace(&mut state.is_queued, true);
        let is_urgent = state.is_urgent();
        drop(state);
        if is_new || is_urgent {
            // Under the lock: the thread looks at all streams and then waits without letting go of it.
            let mut shard = self.shard.state.lock();
            if is_new {
                shard.ready.push_back(Arc::clone(&self.stream));
            }
            self.shard.wake.notify_one();
        }
    }
}

impl Drop for Md5Stream {
    fn drop(&mut self) {
        let mut state = self.stream.state.lock();
        if state.finish.is_none() {
            // Given up: what waits is not worth digesting.
            state.waiting.clear();
            state.waiting_bytes = 0;
        }
        drop(state);
        self.shard.state.lock().open -= 1;
        // It may have been the last that a closed farm waits for.
        self.shard.wake.notify_one();
    }
}

/// A stream that is being digested.
struct Lane {
    stream: Arc<Stream>,
    md5: Md5,
    frames: VecDeque<Bytes>,
    /// Bytes digested that its stream has not been told of.
    taken_bytes: usize,
}

impl Lane {
    fn enter(stream: Arc<Stream>) -> Option<Self> {
        let md5 = stream.state.lock().md5.take()?;
        Some(Self { stream, md5, frames: VecDeque::new(), taken_bytes: 0 })
    }

    /// Whether whole blocks are at hand, at the border of a block; takes what lies before. `false`: the lane is over,
    /// because nothing waits any more.
    fn is_ready(&mut self) -> bool {
        loop {
            while let Some(frame) = self.frames.front_mut() {
                let before = frame.len();
                let left = self.md5.fill(frame).len();
                bytes::Buf::advance(frame, before - left);
                self.taken_bytes += before - left;
                if frame.len() >= BLOCK_BYTES {
                    return true;
                }
                if frame.is_empty() {
                    self.frames.pop_front();
                }
            }
            let mut state = self.stream.state.lock();
            if state.waiting.is_empty() {
                state.waiting_bytes = 0;
                let md5 = std::mem::take(&mut self.md5);
                match state.finish.take() {
                    // Nobody waits for it any more, perhaps.
                    Some(finish) => drop(finish.send(md5.finish())),
                    None => {
                        state.md5 = Some(md5);
                        state.is_queued = false;
                    }
                }
                drop(state);
                self.stream.room.notify_waiters();
                return false;
            }
            self.frames.append(&mut state.waiting);
        }
    }

    /// What was digested makes room for more.
    fn make_room(&mut self) {
        let bytes = std::mem::take(&mut self.taken_bytes);
        let mut state = self.stream.state.lock();
        state.waiting_bytes = state.waiting_bytes.saturating_sub(bytes);
        drop(state);
        self.stream.room.notify_waiters();
    }

    fn whole_bytes(&self) -> usize {
        self.frames.front().map_or(0, |frame| frame.len() / BLOCK_BYTES * BLOCK_BYTES)
    }
}

/// Takes the same number of blocks into every lane. All are ready.
fn advance(lanes: &mut [Lane], bytes: usize) {
    if let [lane] = lanes {
        if let Some(frame) = lane.frames.front_mut() {
            lane.md5.update(&frame[..bytes]);
            bytes::Buf::advance(frame, bytes);
            lane.taken_bytes += bytes;
        }
        return;
    }
    let mut chains: [Chain; LANES] = [START; LANES];
    {
        // Lanes without a stream repeat the first one's blocks, for nothing.
        let blocks =
            std::array::from_fn(|n| match lanes.get(n).or(lanes.first()).and_then(|lane| lane.frames.front()) {
                Some(frame) => &frame[..bytes],
                None => &[],
            });
        chains.iter_mut().zip(&*lanes).for_each(|(chain, lane)| *chain = lane.md5.chain());
        compress_lanes(&mut chains, blocks);
    }
    for (lane, chain) in lanes.iter_mut().zip(chains) {
        lane.md5.take_blocks(bytes, |own| *own = chain);
        lane.taken_bytes += bytes;
        if let Some(frame) = lane.frames.front_mut() {
            bytes::Buf::advance(frame, bytes);
        }
    }
}

fn run(shard: &Shard) {
    let mut lanes: Vec<Lane> = Vec::with_capacity(LANES);
    loop {
        {
            let mut state = shard.state.lock();
            loop {
                while lanes.len() < LANES
                    && let Some(stream) = state.ready.pop_front()
                {
                    lanes.extend(Lane::enter(stream));
                }
                if lanes.is_empty() && state.closed && state.open == 0 {
                    return;
                }
                let is_full = !lanes.is_empty() && lanes.len() >= LANES.min(state.open);
                if is_full || lanes.iter().any(|lane| lane.stream.state.lock().is_urgent()) {
                    break;
                }
                shard.wake.wait(&mut state);
            }
        }
        let count = lanes.len();
        let mut done = 0;
        while done < SLICE_BYTES {
            lanes.retain_mut(Lane::is_ready);
            if lanes.len() < count {
                break;
            }
            let Some(bytes) = lanes.iter().map(Lane::whole_bytes).min() else { break };
            let bytes = bytes.min(SLICE_BYTES - done);
            advance(&mut lanes, bytes);
            done += bytes;
        }
        lanes.iter_mut().for_each(Lane::make_room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(seed: usize, len: usize) -> Bytes {
        (0..len).map(|n| (n * 31 + n / 251 + seed * 7) as u8).collect::<Vec<_>>().into()
    }

    async fn digest(farm: &Md5Farm, bytes: &Bytes, frame_bytes: usize) -> [u8; 16] {
        let mut stream = farm.begin().expect("a thread");
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let frame = rest.split_to(rest.len().min(frame_bytes));
            stream.update(frame).await;
            tokio::task::yield_now().await;
        }
        stream.finish().await.expect("a digest")
    }

    #[tokio::test]
    async fn many_streams_of_odd_lengths_and_frames() {
        let farm = Md5Farm::start();
        let all = (0..40usize).map(|n| {
            let farm = &farm;
            async move {
                let bytes = content(n, [0, 1, 63, 64, 65, 131_072, 5_000_001, 700_000][n % 8] + n);
                let expected = {
                    let mut md5 = Md5::new();
                    md5.update(&bytes);
                    md5.finish()
                };
                assert_eq!(
                    digest(farm, &bytes, [1 + n, 64, 8192, 100_000][n % 4].max(64)).await,
                    expected,
                    "stream {n}"
                );
            }
        });
        futures::future::join_all(all).await;
    }

    #[tokio::test]
    async fn streams_given_up_do_not_hold_the_others() {
        let farm = Md5Farm::start();
        for n in 0..20 {
            let mut stream = farm.begin().unwrap();
            stream.update(content(n, 300_000)).await;
        }
        let bytes = content(3, 1_000_000);
        let mut md5 = Md5::new();
        md5.update(&bytes);
        assert_eq!(digest(&farm, &bytes, 70_000).await, md5.finish());
    }
}
