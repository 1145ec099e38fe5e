//! The audit trail in the binary: the command line, live streams, the clock's state.

pub(crate) mod cli;
pub(crate) mod stream;

use granary_audit::ClockState;

/// The clock's state for seals: what cannot be known counts as not synchronised.
pub(crate) fn clock_state() -> ClockState {
    match granary_drive::clock::clock_status() {
        Ok(status) => ClockState {
            synchronised: status.synchronised,
            max_error_us: status.max_error_us,
            estimated_error_us: status.estimated_error_us,
        },
        Err(error) => {
            tracing::debug!(%error, "the kernel does not tell the clock's state");
            ClockState { synchronised: false, max_error_us: -1, estimated_error_us: -1 }
        }
    }
}
