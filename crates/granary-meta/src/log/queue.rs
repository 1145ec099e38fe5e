//! The queue between those who propose and the log's thread: bounded, one wake-up per batch.

use std::collections::VecDeque;
use std::time::Duration;

use granary_types::DriveId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::command::{Envelope, Outcome};
use crate::error::{MetaError, Result};
use crate::options::MirrorFolder;

/// A command on its way.
pub(crate) struct Pending {
    pub envelope: Envelope,
    /// The envelope, encoded once: these bytes go into the frame.
    pub bytes: Vec<u8>,
    pub reply: oneshot::Sender<Result<Outcome>>,
}

/// What else the log's thread is asked to do, between frames.
pub(crate) enum Control {
    /// A folder that may become a mirror.
    Offer(MirrorFolder),
    /// A drive that is used no more.
    Withdraw(DriveId, std::sync::mpsc::SyncSender<()>),
    /// Checkpoints that hold everything up to this position are where they must be.
    Cut(u64),
    /// A copy of the closed log files for a joining mirror is done (or failed).
    Joined(MirrorFolder, Result<u64>),
}

/// What the log's thread finds when it looks.
pub(crate) struct Work {
    pub pending: Vec<Pending>,
    pub controls: Vec<Control>,
    /// Closed, and nothing is left.
    pub closed: bool,
}

struct State {
    pending: VecDeque<Pending>,
    bytes: usize,
    controls: VecDeque<Control>,
    waiting: bool,
    closed: bool,
    /// Why nothing is taken at present.
    down: Option<String>,
}

/// The queue.
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    commands_max: usize,
    bytes_max: usize,
}

impl Queue {
    pub(crate) fn new(commands_max: usize, bytes_max: usize) -> Self {
        let state = State {
            pending: VecDeque::new(),
            bytes: 0,
            controls: VecDeque::new(),
            waiting: false,
            closed: false,
            down: None,
        };
        Self { state: Mutex::new(state), wake: Condvar::new(), commands_max, bytes_max }
    }

    /// Puts a command into the queue.
    ///
    /// # Errors
    /// `Busy`, `Closed`, or `Unavailable`; the command is then given up.
    pub(crate) fn push(&self, pending: Pending) -> Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(MetaError::Closed);
        }
        if let Some(why) = &state.down {
            return Err(MetaError::Unavailable(why.clone()));
        }
        let bytes = state.bytes + pending.bytes.len();
        if state.pending.len() >= self.commands_max || (bytes > self.bytes_max && !state.pending.is_empty()) {
            return Err(MetaError::Busy);
        }
        state.bytes = bytes;
        state.pending.push_back(pending);
        let wake = std::mem::take(&mut state.waiting);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Asks the log's thread for something.
    pub(crate) fn control(&self, control: Control) {
        let mut state = self.state.lock();
        state.controls.push_back(control);
        state.waiting = false;
        drop(state);
        self.wake.notify_one();
    }

    /// Takes no more commands; those that wait are still carried out.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.waiting = false;
        drop(state);
        self.wake.notify_one();
    }

    /// Refuses commands from now on (or takes them again), and fails those that wait.
    pub(crate) fn set_down(&self, down: Option<String>) {
        let mut state = self.state.lock();
        if let Some(why) = &down {
            state.bytes = 0;
            for pending in state.pending.drain(..) {
                let _ = pending.reply.send(Err(MetaError::Unavailable(why.clone())));
            }
        }
        state.down = down;
    }

    /// Why nothing is taken at present.
    pub(crate) fn down(&self) -> Option<String> {
        self.state.lock().down.clone()
    }

    /// What there is to do: commands up to `bytes_soft` encoded bytes (at least one, if any). Waits up to `wait`
    /// (for ever when `None`) while there is nothing.
    pub(crate) fn collect(&self, bytes_soft: usize, wait: Option<Duration>) -> Work {
        let mut state = self.state.lock();
        while state.pending.is_empty() && state.controls.is_empty() && !state.closed && wait != Some(Duration::ZERO) {
            state.waiting = true;
            match wait {
                None => self.wake.wait(&mut state),
                Some(wait) => {
                    if self.wake.wait_for(&mut state, wait).timed_out() {
                        break;
                    }
                }
            }
        }
        state.waiting = false;
        let mut pending = Vec::with_capacity(state.pending.len().min(1024));
        let mut bytes = 0;
        while let Some(next) = state.pending.front() {
            if !pending.is_empty() && bytes + next.bytes.len() > bytes_soft {
                break;
            }
            bytes += next.bytes.len();
            pending.extend(state.pending.pop_front());
        }
        state.bytes -= bytes;
        let closed = state.closed && pending.is_empty() && state.controls.is_empty();
        Work { pending, controls: state.controls.drain(..).collect(), closed }
    }
}

/// An envelope as it goes into a frame.
pub(crate) fn encode(envelope: &Envelope) -> Vec<u8> {
    let inline = match &envelope.command {
        crate::command::Command::PutVersion { inline: Some(inline), .. }
        | crate::command::Command::PutPart { inline: Some(inline), .. } => inline.len(),
        _ => 0,
    };
    let audit = envelope.audit.as_ref().map_or(0, |event| event.len());
    postcard::to_extend(envelope, Vec::with_capacity(inline + audit + 512))
        .expect("commands hold no type that postcard cannot encode")
}
