//! The next log file of each mirror, made ready ahead by a thread of its own, so that beginning a file never
//! waits for zeros to be written, and a disk that fills up does so while there is still a file to write to.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use granary_drive::raw::RawFile;
use parking_lot::{Condvar, Mutex};

use super::folder::LogFolder;
use crate::error::{MetaError, Result};

enum State {
    Making,
    Ready(RawFile),
    Failed(MetaError),
}

/// One mirror's spare.
pub(crate) struct Spare {
    state: Mutex<State>,
    changed: Condvar,
}

/// The thread that makes spares.
pub(crate) struct Spares {
    requests: Option<mpsc::Sender<(LogFolder, Arc<Spare>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Spares {
    pub(crate) fn spawn(file_bytes: u64) -> std::io::Result<Self> {
        let (requests, todo) = mpsc::channel::<(LogFolder, Arc<Spare>)>();
        let thread = std::thread::Builder::new().name("meta-spares".to_owned()).spawn(move || {
            for (folder, spare) in todo {
                let made = folder.find_spare(file_bytes).map_or_else(|| folder.make_spare(file_bytes), Ok);
                *spare.state.lock() = match made {
                    Ok(file) => State::Ready(file),
                    Err(error) => State::Failed(error),
                };
                spare.changed.notify_all();
            }
        })?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Has a spare made.
    pub(crate) fn want(&self, folder: &LogFolder) -> Arc<Spare> {
        let spare = Arc::new(Spare { state: Mutex::new(State::Making), changed: Condvar::new() });
        if let Some(requests) = &self.requests
            && requests.send((folder.clone(), spare.clone())).is_err()
        {
            *spare.state.lock() = State::Failed(MetaError::Closed);
        }
        spare
    }
}

impl Spare {
    /// The file once it is ready. It keeps its name until it is begun, so ask for the next one only then.
    ///
    /// # Errors
    /// What making it failed with.
    pub(crate) fn take(&self) -> Result<RawFile> {
        let mut state = self.state.lock();
        while matches!(*state, State::Making) {
            self.changed.wait(&mut state);
        }
        match std::mem::replace(&mut *state, State::Failed(MetaError::Closed)) {
            State::Ready(file) => Ok(file),
            State::Failed(error) => Err(error),
            State::Making => Err(MetaError::Closed),
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
