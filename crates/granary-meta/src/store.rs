//! The metadata store of one node: log, index and checkpoints put together.

use std::fs::File;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use futures::future::BoxFuture;
use granary_drive::raw::lock_exclusive;
use granary_types::limits::COMMAND_BYTES_MAX;
use granary_types::{Clock, DriveId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::checkpointer::{Checkpointer, Maker};
use crate::command::{Command, Envelope, Outcome};
use crate::error::{MetaError, Result};
use crate::index::IndexHandle;
use crate::keeper::{Plan, all_live, remove_others};
use crate::log::engine::{Engine, EngineState, Shown};
use crate::log::folder::LogFolder;
use crate::log::mirrors::{Mirrors, Position, frame_room};
use crate::log::queue::{Control, Pending, Queue, encode};
use crate::log::reader::LogReader;
use crate::options::{MirrorFolder, OpenOptions, RecoveryReport};
use crate::proposer::Proposer;
use crate::stats::MetaStats;

/// The metadata of one node, open. Dropping it is safe and abrupt: what was acknowledged is in the log.
/// [`MetaStore::close`] also makes a checkpoint, so that the next opening has nothing to replay.
pub struct MetaStore {
    queue: Arc<Queue>,
    handle: IndexHandle,
    stats: Arc<MetaStats>,
    shown: Arc<Mutex<Shown>>,
    clock: Arc<dyn Clock>,
    checkpointer: Arc<Checkpointer>,
    thread: Mutex<Option<JoinHandle<Engine>>>,
    command_bytes_max: usize,
    _locks: Vec<File>,
}

impl std::fmt::Debug for MetaStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaStore").field("shown", &*self.shown.lock()).finish_non_exhaustive()
    }
}

/// Folders that can be used, each locked against a second store.
fn usable(options: &OpenOptions, report: &mut RecoveryReport) -> Result<(Vec<MirrorFolder>, Vec<File>)> {
    let mut folders = Vec::new();
    let mut locks = Vec::new();
    for folder in &options.folders {
        let locked =
            std::fs::create_dir_all(&folder.path).and_then(|()| lock_exclusive(&folder.path.join("meta.lock")));
        match locked {
            Ok(lock) => {
                folders.push(folder.clone());
                locks.push(lock);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(MetaError::Layout(format!("{} is in use by another process", folder.path.display())));
            }
            Err(error) => report.problems.push(format!("folder {} is left out: {error}", folder.path.display())),
        }
    }
    match folders.is_empty() {
        true => Err(MetaError::Unavailable("no metadata folder can be used".to_owned())),
        false => Ok((folders, locks)),
    }
}

impl MetaStore {
    /// Opens or begins the store (blocking: reads the log, may copy a checkpoint).
    ///
    /// # Errors
    /// [`MetaError::LogDamaged`] and others, when what is there cannot be trusted; [`MetaError::Layout`] when
    /// nothing is there and `expect_existing` says that there should be, or another process has it open.
    pub fn open(mut options: OpenOptions) -> Result<(Self, RecoveryReport)> {
        let mut report = RecoveryReport::default();
        let (folders, locks) = usable(&options, &mut report)?;
        if let Some(key) = &options.index_key {
            let env = granary_drive::rocks::sealed_env(&key.0);
            options.index.env = Some(env.map_err(|e| MetaError::Layout(e.to_string()))?);
        }
        options.mirrors = options.mirrors.max(1);
        options.frame_bytes_soft = options.frame_bytes_soft.min(frame_room(options.log_file_bytes));

        let mut log = LogReader::new(&folders, &options.log_key);
        let checkpoints = crate::checkpoint::restore::candidates(&folders, &options.log_key, None);
        let fresh = log.is_empty() && checkpoints.is_empty() && all_live(&folders).is_empty();
        if fresh && options.expect_existing {
            return Err(MetaError::Layout("the folders hold no metadata, and should".to_owned()));
        }
        let log_id = match log.log_id()? {
            Some(id) => Some(id),
            None if fresh => Some(rand::random()),
            None => None,
        };
        let plan = Plan {
            folders: &folders,
            key: &options.log_key,
            options: &options.index,
            log_id,
            live: true,
            avoid: None,
            accept_loss: options.accept_log_loss,
        };
        let built = plan.build(&mut log, &mut |_, _| {})?;
        let log_id = built.index.log_id();
        report.index = built.source;
        report.frames = built.end.frames;
        report.replayed = built.replayed;
        report.last_position = built.end.next_position - 1;
        report.torn_tail = built.end.torn_tail;
        report.problems.extend(built.problems);
        report.problems.extend(built.end.lost.clone());

        // The drives of the newest epoch first, then the others in the order given.
        let was = |f: &&MirrorFolder| built.end.mirrors.contains(&f.drive_id);
        let (old, new): (Vec<&MirrorFolder>, Vec<&MirrorFolder>) = folders.iter().partition(was);
        let order: Vec<MirrorFolder> = old.into_iter().chain(new).cloned().collect();
        let (mirrors, standby) = order.split_at(options.mirrors.min(order.len()));
        repair(&mut log, &folders, mirrors, &built.end, &mut report)?;

        let stats = Arc::new(MetaStats::default());
        let at = Position {
            log_id,
            next_frame: built.end.next_frame,
            next_position: built.end.next_position,
            next_file: folders
                .iter()
                .filter_map(|f| LogFolder::new(&f.path).files().last().copied())
                .max()
                .unwrap_or(0)
                + 1,
            epoch: built.end.epoch + 1,
        };
        let starts: Vec<_> = log.starts().into_iter().filter(|(file, _)| *file <= built.end.last_file).collect();
        let mut up = Mirrors::open(mirrors, at, starts, &options.log_key, options.log_file_bytes, stats.clone())?;
        // Only now that a later file stands may those without frames, and those behind damage, go.
        up.drop_empty(&built.end.empty);
        drop_others(&folders, &up, mirrors);
        remove_others(&folders, built.index.path());
        report.mirrors = up.drives();

        let handle = IndexHandle::new(built.index.clone());
        let queue = Arc::new(Queue::new(options.queue_commands_max, options.queue_bytes_max));
        let shown = Arc::new(Mutex::new(Shown { mirrors: up.folders(), standby: standby.to_vec() }));
        let maker = Maker {
            handle: handle.clone(),
            shown: shown.clone(),
            key: options.log_key.clone(),
            mirrors: options.mirrors,
            keep: options.checkpoints_kept,
            stats: stats.clone(),
            known: Mutex::default(),
        };
        let thread_error = MetaError::io("start a thread for", built.index.path());
        let checkpointer = Arc::new(Checkpointer::spawn(maker, queue.clone()).map_err(thread_error)?);
        let clock = Arc::clone(&options.clock);
        let command_bytes_max = COMMAND_BYTES_MAX.min(frame_room(options.log_file_bytes));
        let engine = Engine {
            options,
            queue: queue.clone(),
            mirrors: up,
            handle: handle.clone(),
            index: Some(built.index.clone()),
            stats: stats.clone(),
            shown: shown.clone(),
            checkpointer: checkpointer.clone(),
            log_id,
            // Many short lives would else never come to a checkpoint, and each start would take longer than the one before.
            state: EngineState::after(built.replayed_bytes),
        };
        let thread_error = MetaError::io("start a thread for", built.index.path());
        let thread = std::thread::Builder::new().name("meta-log".to_owned());
        let thread = thread.spawn(move || engine.run()).map_err(thread_error)?;
        let thread = Mutex::new(Some(thread));
        Ok((
            Self { queue, handle, stats, shown, clock, checkpointer, thread, command_bytes_max, _locks: locks },
            report,
        ))
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Arc<MetaStats> {
        self.stats.clone()
    }

    /// The drives that hold the log now.
    #[must_use]
    pub fn mirrors(&self) -> Vec<DriveId> {
        self.shown.lock().mirrors.iter().map(|f| f.drive_id).collect()
    }

    /// Whether commands are taken, and if not, why.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] or [`MetaError::Closed`].
    pub fn ready(&self) -> Result<()> {
        self.handle.load()?;
        self.queue.down().map_or(Ok(()), |why| Err(MetaError::Unavailable(why)))
    }

    /// Offers a folder: it becomes a mirror when one is missing, and stands by until then.
    pub fn offer(&self, folder: MirrorFolder) {
        self.queue.control(Control::Offer(folder));
    }

    /// Withdraws a drive: its folder is used no more (blocking until nothing uses it).
    pub fn withdraw(&self, drive: DriveId) {
        let (done, answer) = std::sync::mpsc::sync_channel(1);
        self.queue.control(Control::Withdraw(drive, done));
        // An error means that the log's thread has ended: then nothing uses the folder either.
        let _ = answer.recv();
    }

    /// Makes a checkpoint now and has the log cut (blocking).
    ///
    /// # Errors
    /// When it is not complete on all folders it should be on.
    pub fn checkpoint(&self) -> Result<()> {
        self.checkpointer.make_now()
    }

    /// Takes no more commands, finishes those queued, makes a checkpoint (blocking). Reads go on.
    ///
    /// # Errors
    /// As `checkpoint`; the store is closed all the same.
    pub fn close(&self) -> Result<()> {
        let Some(mut engine) = self.stop() else { return Ok(()) };
        let maker = self.checkpointer.stop();
        if let Some(index) = engine.index.clone()
            && let Some(position) = maker.make(&index)?
        {
            engine.mirrors.cut(position);
        }
        Ok(())
    }

    fn stop(&self) -> Option<Engine> {
        self.queue.close();
        let thread = self.thread.lock().take()?;
        thread.join().ok()
    }
}

impl Drop for MetaStore {
    fn drop(&mut self) {
        self.stop();
        self.checkpointer.stop();
    }
}

/// Makes the chosen mirrors hold every log file whole.
fn repair(
    log: &mut LogReader,
    folders: &[MirrorFolder],
    mirrors: &[MirrorFolder],
    end: &crate::log::reader::LogEnd,
    report: &mut RecoveryReport,
) -> Result<()> {
    for mirror in mirrors {
        LogFolder::new(&mirror.path).create()?;
    }
    let chosen = |at: usize| mirrors.iter().any(|m| m.drive_id == folders[at].drive_id);
    if !end.bad.iter().any(|(at, file)| chosen(*at) && !end.empty.contains(file)) {
        return Ok(());
    }
    log.read(
        true,
        |_| Ok(()),
        |file, assembled, bad| {
            for at in bad.iter().copied().filter(|at| chosen(*at)) {
                LogFolder::new(&folders[at].path).write(file, &assembled.content)?;
                report.repaired.push((folders[at].drive_id, file));
            }
            Ok(())
        },
    )?;
    Ok(())
}

/// Removes log files that are no longer part of the log: in other folders, and behind damage that was accepted.
fn drop_others(folders: &[MirrorFolder], up: &Mirrors, mirrors: &[MirrorFolder]) {
    let live: Vec<u64> = up.starts().iter().map(|(file, _)| *file).collect();
    for folder in folders {
        let log = LogFolder::new(&folder.path);
        let mirror = mirrors.iter().any(|m| m.drive_id == folder.drive_id);
        for file in log.files().into_iter().filter(|file| !mirror || !live.contains(file)) {
            let _ = std::fs::remove_file(log.path_of(file));
        }
    }
}

impl Proposer for MetaStore {
    fn propose_audited(&self, command: Command, audit: Option<Bytes>) -> BoxFuture<'_, Result<Outcome>> {
        let envelope = Envelope { at: self.clock.now(), command, audit };
        let bytes = encode(&envelope);
        let (reply, answer) = oneshot::channel();
        let queued = match bytes.len() > self.command_bytes_max {
            true => Err(MetaError::TooLarge { have_bytes: bytes.len(), max_bytes: self.command_bytes_max }),
            false => self.queue.push(Pending { envelope, bytes, reply }),
        };
        match &queued {
            Ok(()) => MetaStats::add(&self.stats.proposed, 1),
            Err(MetaError::Busy) => MetaStats::add(&self.stats.busy, 1),
            Err(_) => {}
        }
        Box::pin(async move {
            queued?;
            answer.await.map_err(|_| MetaError::Closed)?
        })
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<()>> {
        // A node alone answers only after it has applied: its index is never behind.
        Box::pin(std::future::ready(self.handle.load().map(drop)))
    }

    fn index(&self) -> IndexHandle {
        self.handle.clone()
    }
}
