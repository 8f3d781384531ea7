//! Clocks that go on while the host sleeps, and an alarm that wakes a stopped process.

use crate::{Errno, Result};
use std::time::Duration;

/// The time since boot, suspension included (`CLOCK_BOOTTIME`, clock_gettime(2)).
#[must_use]
pub fn boot_time() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid timespec; the clock exists since Linux 2.6.39, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// A kernel timer that sends SIGCONT to this process (timer_create(2)).
///
/// SIGCONT continues a stopped process whatever it does about the signal, so a deadline holds even while a person has
/// stopped jobcage with Ctrl-Z: the alarm wakes it and its own clock does the rest. Dropping it disarms it.
#[derive(Debug)]
pub struct WakeAlarm(libc::timer_t);

impl WakeAlarm {
    /// Arms an alarm for `after` from now.
    ///
    /// # Errors
    /// `EAGAIN` or `ENOMEM` where the kernel has no timer left (`RLIMIT_SIGPENDING`).
    pub fn new(after: Duration) -> Result<Self> {
        // SAFETY: an all-zero sigevent is valid; the two fields that matter are set below.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGCONT;
        let mut id: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both pointers are to live values of the right type.
        Errno::result(unsafe { libc::timer_create(libc::CLOCK_BOOTTIME, &mut event, &mut id) })?;
        let alarm = Self(id);
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = libc::timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            // An all-zero value would disarm the timer instead of firing at once.
            tv_nsec: libc::c_long::from(after.subsec_nanos().max(u32::from(after.is_zero()))),
        };
        let spec = libc::itimerspec {
            it_interval: zero,
            it_value: value,
        };
        // SAFETY: the timer was made above; the old value is not asked for.
        Errno::result(unsafe { libc::timer_settime(alarm.0, 0, &spec, std::ptr::null_mut()) })?;
        Ok(alarm)
    }
}

impl Drop for WakeAlarm {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}
