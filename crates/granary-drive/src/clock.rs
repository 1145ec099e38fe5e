//! What the kernel says of its clock. Here because the call needs `unsafe`, and this is the crate that has it.
#![allow(unsafe_code)]

/// The clock's state, as `adjtimex(2)` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockStatus {
    /// Somebody (chrony, ntpd, systemd-timesyncd, the hypervisor's agent) keeps it in step.
    pub synchronised: bool,
    /// Bound of the error, in microseconds.
    pub max_error_us: i64,
    /// Estimate of the error, in microseconds.
    pub estimated_error_us: i64,
}

/// Asks the kernel.
///
/// # Errors
/// What the system answers, for example where a seccomp profile forbids the call.
#[allow(clippy::useless_conversion)] // The fields' types differ between platforms.
pub fn clock_status() -> std::io::Result<ClockStatus> {
    let mut state = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: `timex` is plain data for which zeros are valid; with `modes` 0 the kernel only fills it in.
    let (result, state) = unsafe {
        let result = libc::adjtimex(state.as_mut_ptr());
        (result, state.assume_init())
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(ClockStatus {
        synchronised: result != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0,
        max_error_us: i64::from(state.maxerror),
        estimated_error_us: i64::from(state.esterror),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_answers() {
        // Whether it is synchronised is the machine's affair.
        assert!(super::clock_status().is_ok_and(|status| status.max_error_us >= 0));
    }
}
