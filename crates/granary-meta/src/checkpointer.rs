//! The thread that makes checkpoints, and says how far the log may be cut.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::checkpoint::make::{Known, make};
use crate::error::{MetaError, Result};
use crate::index::{Index, IndexHandle};
use crate::log::engine::Shown;
use crate::log::queue::{Control, Queue};
use crate::options::{MetaKey, MirrorFolder};
use crate::stats::MetaStats;

type Reply = mpsc::SyncSender<Result<()>>;

/// What a checkpoint needs to be made.
pub(crate) struct Maker {
    pub handle: IndexHandle,
    pub shown: Arc<Mutex<Shown>>,
    pub key: MetaKey,
    pub mirrors: usize,
    pub keep: usize,
    pub stats: Arc<MetaStats>,
    pub known: Mutex<Known>,
}

impl Maker {
    /// Where checkpoints go: the log's mirrors first, then others, `mirrors` in all.
    fn targets(&self) -> Vec<MirrorFolder> {
        let shown = self.shown.lock();
        shown.mirrors.iter().chain(&shown.standby).take(self.mirrors.max(shown.mirrors.len())).cloned().collect()
    }

    /// Makes one; up to where the log may be cut.
    ///
    /// # Errors
    /// If it is not complete on every folder it should be on.
    pub(crate) fn make(&self, index: &Index) -> Result<Option<u64>> {
        let targets = self.targets();
        let made = make(index, &targets, &self.key, self.keep, &mut self.known.lock())
            .inspect_err(|_| MetaStats::add(&self.stats.checkpoints_failed, 1))?;
        MetaStats::add(&self.stats.checkpoint_bytes, made.copied_bytes);
        for (folder, error) in &made.failed {
            tracing::error!(drive = %folder.drive_id, %error, "a checkpoint could not be copied to a drive");
        }
        if let Some((_, error)) = made.failed.into_iter().next() {
            MetaStats::add(&self.stats.checkpoints_failed, 1);
            return Err(error);
        }
        MetaStats::add(&self.stats.checkpoints, 1);
        Ok(made.cut)
    }
}

/// The thread.
pub(crate) struct Checkpointer {
    asks: Mutex<Option<mpsc::SyncSender<Option<Reply>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    maker: Arc<Maker>,
}

impl Checkpointer {
    pub(crate) fn spawn(maker: Maker, queue: Arc<Queue>) -> std::io::Result<Self> {
        let (asks, todo) = mpsc::sync_channel::<Option<Reply>>(8);
        let maker = Arc::new(maker);
        let theirs = maker.clone();
        let serve = move || {
            while let Ok(ask) = todo.recv() {
                let mut replies: Vec<Reply> = ask.into_iter().collect();
                // All that have been asked for by now are answered by the one that is made now.
                replies.extend(todo.try_iter().flatten());
                let made = theirs.handle.load().and_then(|index| theirs.make(&index));
                let made = match made {
                    Ok(cut) => {
                        cut.into_iter().for_each(|position| queue.control(Control::Cut(position)));
                        Ok(())
                    }
                    Err(error) => {
                        tracing::error!(%error, "no checkpoint was made; the log is kept");
                        Err(error)
                    }
                };
                for reply in replies {
                    let _ = reply.send(made.clone());
                }
            }
        };
        let thread = std::thread::Builder::new().name("meta-checkpoint".to_owned()).spawn(serve)?;
        Ok(Self { asks: Mutex::new(Some(asks)), thread: Mutex::new(Some(thread)), maker })
    }

    /// Asks for a checkpoint, soon.
    pub(crate) fn ask(&self) {
        if let Some(asks) = &*self.asks.lock() {
            // A full channel means that one is about to be made anyway.
            let _ = asks.try_send(None);
        }
    }

    /// Makes a checkpoint and waits for it.
    ///
    /// # Errors
    /// As [`Maker::make`].
    pub(crate) fn make_now(&self) -> Result<()> {
        let asks = self.asks.lock().clone().ok_or(MetaError::Closed)?;
        let (reply, answer) = mpsc::sync_channel(1);
        asks.send(Some(reply)).map_err(|_| MetaError::Closed)?;
        answer.recv().map_err(|_| MetaError::Closed)?
    }

    /// Stops the thread; the maker, for one last checkpoint.
    pub(crate) fn stop(&self) -> Arc<Maker> {
        self.asks.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
        self.maker.clone()
    }
}
