//! What the process does to itself before it touches data: files only for its owner, no core dumps (they would
//! hold keys), memory for keys that is not swapped out, as many open files as it is allowed.

use granary_crypto::Secret32;
use granary_crypto::locked::Locked;
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask};

/// Files this process makes are its owner's only.
const UMASK: Mode = Mode::RWXG.union(Mode::RWXO);

/// Hardens the process. What the system refuses is told and the start goes on: none of it guards stored data.
pub(crate) fn harden() {
    umask(UMASK);
    // Not dumpable: no core file, no ptrace by others of the same user, no /proc/PID/mem.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps could not be switched off by prctl");
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core dumps could not be limited to 0 bytes");
    }
    let memory = getrlimit(Resource::Memlock);
    if memory.current != memory.maximum
        && let Err(error) = setrlimit(Resource::Memlock, Rlimit { current: memory.maximum, maximum: memory.maximum })
    {
        tracing::warn!(%error, "the limit on locked memory could not be raised");
    }
    let probe = Locked::new(Secret32::from_bytes([0; 32]));
    if !probe.is_locked() {
        tracing::warn!("the system refuses to lock memory (RLIMIT_MEMLOCK): keys may be swapped out");
    }
    if !probe.is_left_out_of_dumps() {
        tracing::warn!("the system refuses to leave memory out of core dumps (MADV_DONTDUMP)");
    }
    let files = getrlimit(Resource::Nofile);
    if files.current != files.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })
    {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_leaves_files_to_their_owner() {
        assert_eq!(UMASK.bits(), 0o077);
    }
}
