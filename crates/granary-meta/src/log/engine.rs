//! The log's thread: collects what is queued into frames, has them written, applies them in order, answers.
//!
//! While a frame is on its way to the disks, the one before it is applied and the next one collects. Between
//! frames the thread looks after its mirrors, and after the index if that has failed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use granary_types::DriveId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::folder::LogFolder;
use super::join::copy_files;
use super::mirrors::Mirrors;
use super::queue::{Control, Pending, Queue};
use super::reader::LogReader;
use crate::apply::apply_one;
use crate::checkpointer::Checkpointer;
use crate::command::Outcome;
use crate::error::{MetaError, Result};
use crate::index::{Index, IndexHandle};
use crate::keeper::Plan;
use crate::options::{MirrorFolder, OpenOptions};
use crate::stats::MetaStats;

/// How long the thread sleeps at most before it looks after things.
const TICK: Duration = Duration::from_millis(500);

/// What others may know of the engine.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// Folders whose mirrors are up.
    pub mirrors: Vec<MirrorFolder>,
    /// Folders that stand by.
    pub standby: Vec<MirrorFolder>,
}

/// Commands that are durable and wait to be applied; `first` is the position of the first.
#[derive(Default)]
struct Flying {
    first: u64,
    batch: Vec<Pending>,
}

/// The log's thread and all it owns.
pub(crate) struct Engine {
    pub options: OpenOptions,
    pub queue: Arc<Queue>,
    pub mirrors: Mirrors,
    pub handle: IndexHandle,
    pub index: Option<Arc<Index>>,
    pub stats: Arc<MetaStats>,
    pub shown: Arc<Mutex<Shown>>,
    pub checkpointer: Arc<Checkpointer>,
    pub log_id: [u8; 16],
    pub state: EngineState,
}

/// What the engine keeps for itself.
#[derive(Default)]
pub(crate) struct EngineState {
    /// Bytes logged since the last checkpoint was asked for, or that the start had to replay.
    logged_bytes: u64,
    /// A folder that is being brought up to date, and the file up to which.
    joining: bool,
    /// Cut asked for while a folder joins.
    cut_later: u64,
    /// All mirrors failed: nothing is written any more.
    dead: bool,
    /// Why there is no index, since when.
    index_down: Option<String>,
    /// The index that failed, to be removed once nobody holds it.
    failed_index: Option<PathBuf>,
}

impl EngineState {
    /// Where the start had to replay so much of the log.
    pub(crate) fn after(replayed_bytes: u64) -> Self {
        Self { logged_bytes: replayed_bytes, ..Self::default() }
    }
}

impl Engine {
    /// Serves until the queue is closed and empty.
    pub(crate) fn run(mut self) -> Self {
        let mut flying = Flying::default();
        self.show();
        loop {
            let idle = flying.batch.is_empty();
            let work =
                self.queue.collect(self.options.frame_bytes_soft, Some(if idle { TICK } else { Duration::ZERO }));
            for control in work.controls {
                self.control(control);
            }
            if idle {
                self.look_after();
            }
            if work.pending.is_empty() {
                self.apply(std::mem::take(&mut flying));
                if work.closed && idle {
                    return self;
                }
                continue;
            }
            let first = self.mirrors.next_position();
            if let Err(error) = self.start(&work.pending, idle) {
                refuse(work.pending, &error);
                self.apply(std::mem::take(&mut flying));
                continue;
            }
            self.apply(std::mem::take(&mut flying));
            let began = Instant::now();
            match self.mirrors.finish() {
                Ok(bytes) => {
                    self.state.logged_bytes += bytes;
                    flying = Flying { first, batch: work.pending };
                }
                Err(error) => {
                    // Whether the frame is in the log is unknown, and no later one may follow it.
                    self.state.dead = true;
                    self.queue.set_down(Some(error.to_string()));
                    refuse(work.pending, &error);
                }
            }
            MetaStats::add(&self.stats.frame_wait_us, began.elapsed().as_micros() as u64);
            if self.state.logged_bytes >= self.options.checkpoint_log_bytes {
                self.state.logged_bytes = 0;
                self.checkpointer.ask();
            }
        }
    }

    fn start(&mut self, pending: &[Pending], inline: bool) -> Result<()> {
        if self.state.dead {
            return Err(MetaError::Unavailable("all log mirrors failed".to_owned()));
        }
        if let Some(why) = &self.state.index_down {
            return Err(MetaError::Unavailable(why.clone()));
        }
        let up = self.mirrors.drives().len();
        let started = self.mirrors.start(pending, inline);
        if self.mirrors.drives().len() != up {
            self.show();
        }
        started
    }

    /// Applies what is durable, answering each command.
    fn apply(&mut self, flying: Flying) {
        if flying.batch.is_empty() {
            return;
        }
        let began = Instant::now();
        let count = flying.batch.len() as u64;
        let mut rest = (flying.first..).zip(flying.batch);
        if let Some(index) = self.index.clone() {
            let mut failed = None;
            for (position, pending) in rest.by_ref() {
                match apply_one(&index, position, &pending.envelope) {
                    Ok(outcome) => self.answer(pending.reply, outcome),
                    Err(error) => {
                        failed = Some((position, pending.reply, error));
                        break;
                    }
                }
            }
            if let Some((position, reply, error)) = failed {
                drop(index);
                let mut open: HashMap<u64, oneshot::Sender<Result<Outcome>>> = HashMap::from([(position, reply)]);
                open.extend(rest.map(|(position, pending)| (position, pending.reply)));
                self.fail_over(&error.to_string(), &mut open);
                for (_, reply) in open {
                    let _ = reply.send(Err(MetaError::Unavailable("the index is being restored".to_owned())));
                }
            }
        } else {
            for (_, pending) in rest {
                let why = "the index is being restored; the command is in the log".to_owned();
                let _ = pending.reply.send(Err(MetaError::Unavailable(why)));
            }
        }
        MetaStats::add(&self.stats.applied, count);
        MetaStats::add(&self.stats.apply_us, began.elapsed().as_micros() as u64);
    }

    fn answer(&self, reply: oneshot::Sender<Result<Outcome>>, outcome: Outcome) {
        if matches!(outcome, Outcome::Refused(_)) {
            MetaStats::add(&self.stats.refused, 1);
        }
        // Nobody waits any more: the command stands all the same.
        let _ = reply.send(Ok(outcome));
    }

    fn folders(&self) -> Vec<MirrorFolder> {
        let mut folders = self.mirrors.folders();
        folders.extend(self.shown.lock().standby.iter().cloned());
        folders
    }

    /// Builds the index anew somewhere else from a checkpoint and the log, and swaps it in. `open` are commands
    /// that are in the log and wait for their outcome.
    fn fail_over(&mut self, why: &str, open: &mut HashMap<u64, oneshot::Sender<Result<Outcome>>>) {
        tracing::error!(%why, "the index failed; it is restored from a checkpoint and the log");
        self.handle.take();
        if let Some(old) = self.index.take() {
            self.state.failed_index = Some(old.path().to_owned());
            release(old);
        }
        let folders = self.folders();
        let plan = Plan {
            folders: &folders,
            key: &self.options.log_key,
            options: &self.options.index,
            log_id: Some(self.log_id),
            live: false,
            avoid: self.state.failed_index.as_deref(),
            accept_loss: false,
        };
        let mut log = LogReader::new(&self.mirrors.folders(), &self.options.log_key);
        let mut answers = Vec::new();
        let built = plan.build(&mut log, &mut |position, outcome| {
            if let Some(reply) = open.remove(&position) {
                answers.push((reply, outcome));
            }
        });
        match built {
            Ok(built) => {
                tracing::warn!(path = %built.index.path().display(), source = ?built.source, replayed = built.replayed, "the index is back");
                self.handle.set(built.index.clone());
                self.index = Some(built.index);
                self.state.index_down = None;
                MetaStats::add(&self.stats.failovers, 1);
                if let Some(old) = self.state.failed_index.take() {
                    let _ = std::fs::remove_dir_all(old);
                }
                if !self.state.dead {
                    self.queue.set_down(None);
                }
                answers.into_iter().for_each(|(reply, outcome)| self.answer(reply, outcome));
            }
            Err(error) => {
                tracing::error!(%error, "the index could not be restored yet");
                let why = format!("the index could not be restored: {error}");
                self.queue.set_down(Some(why.clone()));
                self.state.index_down = Some(why);
            }
        }
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Offer(folder) => {
                let known = self.mirrors.drives().contains(&folder.drive_id);
                let mut shown = self.shown.lock();
                shown.standby.retain(|f| f.drive_id != folder.drive_id);
                if !known {
                    shown.standby.push(folder);
                }
            }
            Control::Withdraw(drive, done) => {
                self.withdraw(drive);
                let _ = done.send(());
            }
            Control::Cut(position) if self.state.joining => self.state.cut_later = self.state.cut_later.max(position),
            Control::Cut(position) => self.mirrors.cut(position),
            Control::Joined(folder, copied) => self.joined(&folder, copied),
        }
    }

    fn withdraw(&mut self, drive: DriveId) {
        let folder = self.folders().into_iter().find(|f| f.drive_id == drive);
        self.shown.lock().standby.retain(|f| f.drive_id != drive);
        if self.mirrors.drives() == [drive] {
            tracing::error!(%drive, "the last log mirror was withdrawn");
            self.state.dead = true;
            self.queue.set_down(Some("the last log mirror was withdrawn".to_owned()));
        }
        self.mirrors.withdraw(drive);
        self.show();
        let index_there = self.index.as_ref().zip(folder).is_some_and(|(i, f)| i.path().starts_with(&f.path));
        if index_there && !self.state.dead {
            self.fail_over("its drive was withdrawn", &mut HashMap::new());
        }
    }

    fn show(&self) {
        let folders = self.mirrors.folders();
        self.stats.mirrors_up.store(folders.len() as u64, Ordering::Relaxed);
        let mut shown = self.shown.lock();
        shown.standby.retain(|s| !folders.iter().any(|f| f.drive_id == s.drive_id));
        shown.mirrors = folders;
    }

    /// What is looked after between frames.
    fn look_after(&mut self) {
        if self.state.index_down.is_some() || self.index.as_ref().is_some_and(|i| i.is_damaged()) {
            self.fail_over("it was found damaged", &mut HashMap::new());
        }
        if self.mirrors.drives().len() < self.options.mirrors && !self.state.joining && !self.state.dead {
            self.begin_join();
        }
    }

    /// Has a standby folder brought up to date, in a thread of its own.
    fn begin_join(&mut self) {
        let next = {
            let mut shown = self.shown.lock();
            (!shown.standby.is_empty()).then(|| shown.standby.remove(0))
        };
        let Some(folder) = next else { return };
        let open_file = self.mirrors.open_file();
        let files: Vec<u64> = self.mirrors.starts().iter().map(|(f, _)| *f).filter(|f| *f != open_file).collect();
        let sources = self.mirrors.folders();
        let queue = self.queue.clone();
        let copy = move || {
            LogFolder::new(&folder.path).clear();
            let copied = copy_files(&sources, &files, &folder).map(|()| open_file);
            queue.control(Control::Joined(folder, copied));
        };
        match std::thread::Builder::new().name("meta-join".to_owned()).spawn(copy) {
            Ok(_) => self.state.joining = true,
            Err(error) => tracing::error!(%error, "no thread to bring a log mirror up to date"),
        }
    }

    /// Copies what is left, closes the open file, and goes on with the new mirror.
    fn joined(&mut self, folder: &MirrorFolder, copied: Result<u64>) {
        self.state.joining = false;
        let copied = copied.and_then(|from| {
            let starts = self.mirrors.starts();
            let files: Vec<u64> = starts.iter().map(|(f, _)| *f).filter(|f| *f >= from).collect();
            copy_files(&self.mirrors.folders(), &files, folder)?;
            self.mirrors.rotate(std::slice::from_ref(folder))
        });
        if let Err(error) = copied {
            tracing::error!(drive = %folder.drive_id, %error, "a log mirror could not be brought up to date");
        }
        self.show();
        self.checkpointer.ask();
        if self.state.cut_later > 0 {
            self.mirrors.cut(std::mem::take(&mut self.state.cut_later));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.close();
        self.queue.set_down(Some("the metadata log has stopped".to_owned()));
    }
}

fn refuse(batch: Vec<Pending>, error: &MetaError) {
    for pending in batch {
        let _ = pending.reply.send(Err(error.clone()));
    }
}

/// Waits a little for readers to let go, so that RocksDB closes its files before others are made.
fn release(index: Arc<Index>) {
    let until = Instant::now() + Duration::from_secs(2);
    while Arc::strong_count(&index) > 1 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}
