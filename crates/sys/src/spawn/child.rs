//! The child between its birth and its exec: what it is given, and what it does with it.

use super::{BlockedSignals, Identity, Plan, Stage};
use crate::raw::{self, Raw};
use crate::{Errno, Result};
use nix::sys::signal::SigSet;
use std::ffi::{CString, c_char, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

/// What the child tells: written by it, read by the parent after its end.
pub(super) struct Slot {
    pub(super) stage: AtomicU32,
    pub(super) errno: AtomicU32,
}

/// Everything the child reads and writes, made before it is born. Plain pointers and numbers, so that the child needs no
/// allocation, no bounds check that could panic, and no thread-local memory.
#[derive(Debug)]
pub(super) struct ChildMemory {
    programs: Vec<*const c_char>,
    args: Vec<*const c_char>,
    shell_args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    stdio: [RawFd; 3],
    procs: RawFd,
    identity: Option<Identity>,
    dir: *const c_char,
    rlimits: Vec<(u32, [u64; 2])>,
    nice: Option<i32>,
    new_session: bool,
    no_keystrokes: bool,
    guard: RawFd,
    go: Option<(RawFd, RawFd)>,
    /// Who it is to die with.
    parent: Option<i32>,
    signal_mask: u64,
    /// The slot, and below its page the stack.
    mapping: Mapping,
    // What the pointers above point to.
    _texts: Vec<Vec<CString>>,
    _procs: Option<OwnedFd>,
}

const STACK: usize = 64 * 1024;

impl ChildMemory {
    pub(super) fn new(
        plan: &Plan<'_>,
        blocked: &BlockedSignals,
        shared_memory: bool,
        procs: Option<OwnedFd>,
    ) -> Result<Box<Self>> {
        let texts = vec![
            plan.programs.clone(),
            plan.args.clone(),
            plan.env.clone(),
            plan.dir.iter().cloned().collect(),
        ];
        let pointers = |list: &Vec<CString>| list.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let ended = |mut list: Vec<*const c_char>| {
            list.push(ptr::null());
            list
        };
        // For a script without `#!`, which execvp(3) gives to a shell: `sh PATH args…`; PATH is filled by the child.
        let mut shell_args = vec![c"/bin/sh".as_ptr(), ptr::null()];
        shell_args.extend(pointers(&texts[1]).into_iter().skip(1));
        let fd = |fd: &Option<BorrowedFd<'_>>| fd.map_or(-1, |fd| fd.as_raw_fd());
        Ok(Box::new(Self {
            programs: pointers(&texts[0]),
            args: ended(pointers(&texts[1])),
            shell_args: ended(shell_args),
            env: ended(pointers(&texts[2])),
            stdio: [fd(&plan.stdio[0]), fd(&plan.stdio[1]), fd(&plan.stdio[2])],
            procs: procs.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            identity: plan.identity.clone(),
            dir: texts[3].first().map_or(ptr::null(), |d| d.as_ptr()),
            rlimits: plan
                .rlimits
                .iter()
                .map(|r| (r.resource, [r.soft, r.hard]))
                .collect(),
            nice: plan.nice,
            new_session: plan.new_session,
            no_keystrokes: plan.no_keystrokes,
            guard: fd(&plan.guard),
            go: plan.go.map(|go| (go.wait.as_raw_fd(), go.hold.as_raw_fd())),
            parent: plan
                .dies_with_us
                .then(|| i32::try_from(std::process::id()).unwrap_or(0)),
            signal_mask: kernel_mask(plan.signal_mask.as_ref().unwrap_or(&blocked.0)),
            mapping: Mapping::new(!shared_memory)?,
            _texts: texts,
            _procs: procs,
        }))
    }

    pub(super) fn slot(&self) -> &Slot {
        // SAFETY: the slot is at the start of a live, zeroed, page-aligned mapping; its fields are atomics.
        unsafe { &*self.mapping.0.cast::<Slot>() }
    }

    pub(super) fn stack(&self) -> (u64, u64) {
        (self.mapping.0 as u64 + PAGE as u64, STACK as u64)
    }
}

/// The first eight bytes of a signal set: all that the kernel has on Linux.
fn kernel_mask(set: &SigSet) -> u64 {
    (1..=64)
        .filter(|n| nix::sys::signal::Signal::try_from(*n).is_ok_and(|s| set.contains(s)))
        .fold(0, |m, n| m | 1 << (n - 1))
}

const PAGE: usize = 4096;

/// Anonymous memory for slot and stack; shared with a forked child if it is to report.
#[derive(Debug)]
struct Mapping(*mut c_void);

impl Mapping {
    pub(super) fn new(for_fork: bool) -> Result<Self> {
        let kind = if for_fork {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE
        };
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE + STACK,
                rights,
                kind | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            Err(Errno::last())
        } else {
            Ok(Self(memory))
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, unmapped once, and only when no child runs on it (`Child::drop`).
        unsafe { libc::munmap(self.0, PAGE + STACK) };
    }
}

/// What the child does between its birth and its exec. Never returns, never allocates, never panics.
///
/// # Safety
/// `argument` must be a `ChildMemory` that outlives the exec.
pub(super) unsafe extern "C" fn child_main(argument: *mut c_void) -> ! {
    // SAFETY: the caller's promise.
    let memory = unsafe { &*argument.cast::<ChildMemory>() };
    // SAFETY: only raw calls with pointers that `memory` keeps alive.
    let failed = unsafe { become_program(memory) };
    memory.slot().errno.store(
        u32::try_from(-failed).unwrap_or(libc::EIO as u32),
        Ordering::Release,
    );
    loop {
        // SAFETY: ends this process; 127 is only seen by those who do not read the slot.
        unsafe { raw::call(libc::SYS_exit_group, [127, 0, 0, 0, 0, 0]) };
    }
}

/// Passes the stages in order; comes back only with the errno of the one that failed, which the slot names.
///
/// # Safety
/// Runs in the child only.
unsafe fn become_program(memory: &ChildMemory) -> Raw {
    let enter = |stage: Stage| memory.slot().stage.store(stage as u32, Ordering::Release);
    macro_rules! run {
        ($nr:expr $(, $arg:expr)*) => {{
            let mut args = [0usize; 6];
            let given = [$($arg as usize),*];
            args[..given.len()].copy_from_slice(&given);
            // SAFETY: pointers among the arguments are kept alive by `memory` or are locals of this frame.
            let result = unsafe { raw::call($nr, args) };
            if result < 0 { return result; }
            result
        }};
    }
    enter(Stage::Cgroup);
    if memory.procs >= 0 {
        run!(libc::SYS_write, memory.procs, c"0".as_ptr(), 1);
    }
    enter(Stage::Signals);
    // Rust's runtime ignores SIGPIPE, and an ignored signal stays ignored across exec. An all-zero sigaction is SIG_DFL.
    let default = [0usize; 4];
    run!(libc::SYS_rt_sigaction, libc::SIGPIPE, default.as_ptr(), 0, 8);
    enter(Stage::Session);
    if memory.new_session {
        run!(libc::SYS_setsid, 0);
    }
    enter(Stage::Stdio);
    for (target, &fd) in memory.stdio.iter().enumerate() {
        if fd >= 0 && fd as usize == target {
            run!(libc::SYS_fcntl, fd, libc::F_SETFD, 0);
        } else if fd >= 0 {
            run!(libc::SYS_dup3, fd, target, 0);
        }
    }
    enter(Stage::Rlimit);
    for (resource, limit) in &memory.rlimits {
        run!(libc::SYS_prlimit64, 0, *resource, limit.as_ptr(), 0);
    }
    enter(Stage::Nice);
    if let Some(nice) = memory.nice {
        run!(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice);
    }
    enter(Stage::Seccomp);
    if memory.no_keystrokes {
        let filter = &crate::seccomp::NO_KEYSTROKES;
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_ptr().cast_mut(),
        };
        run!(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            ptr::from_ref(&program)
        );
    }
    if let Some(identity) = &memory.identity {
        enter(Stage::Groups);
        run!(
            libc::SYS_setgroups,
            identity.groups.len(),
            identity.groups.as_ptr()
        );
        enter(Stage::Gid);
        run!(libc::SYS_setresgid, identity.gid, identity.gid, identity.gid);
        enter(Stage::Uid);
        run!(libc::SYS_setresuid, identity.uid, identity.uid, identity.uid);
    }
    enter(Stage::Guard);
    if memory.guard >= 0 {
        run!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        run!(libc::SYS_landlock_restrict_self, memory.guard, 0);
    }
    enter(Stage::Chdir);
    if !memory.dir.is_null() {
        run!(libc::SYS_chdir, memory.dir);
    }
    if let Some((wait, hold)) = memory.go {
        enter(Stage::Go);
        // Our own copy would keep the end of the file away.
        run!(libc::SYS_close, hold);
        let mut word = 0_u8;
        if run!(libc::SYS_read, wait, &raw mut word, 1) == 0 {
            return -(libc::ECANCELED as Raw);
        }
    }
    if let Some(parent) = memory.parent {
        enter(Stage::Go);
        // Behind the change of user, which takes it back (prctl(2)).
        run!(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // It may have ended before that.
        if run!(libc::SYS_getppid, 0) != parent as Raw {
            return -(libc::ECANCELED as Raw);
        }
    }
    enter(Stage::Exec);
    run!(
        libc::SYS_rt_sigprocmask,
        libc::SIG_SETMASK,
        ptr::from_ref(&memory.signal_mask),
        0,
        8
    );
    // SAFETY: as for this function.
    unsafe { exec(memory) }
}

/// execvp(3): the next candidate where one is not there or not ours to run, a shell for a script without `#!`, and
/// `EACCES` rather than `ENOENT` if one was there at all.
///
/// # Safety
/// Runs in the child only.
unsafe fn exec(memory: &ChildMemory) -> Raw {
    let mut result = -(libc::ENOENT as Raw);
    for &program in &memory.programs {
        let (args, env) = (memory.args.as_ptr() as usize, memory.env.as_ptr() as usize);
        // SAFETY: null-terminated arrays of C strings that `memory` keeps alive.
        let failed = unsafe { raw::call(libc::SYS_execve, [program as usize, args, env, 0, 0, 0]) };
        match i32::try_from(-failed).unwrap_or(libc::EIO) {
            libc::ENOENT => {}
            libc::ENOTDIR if memory.programs.len() > 1 => {}
            libc::EACCES => result = failed,
            libc::ENOEXEC => {
                let shell_args = memory.shell_args.as_ptr().cast_mut();
                // SAFETY: the array has at least two places, and this child alone reads it from now on. In shared
                // memory the parent never looks at it.
                unsafe { shell_args.add(1).write(program) };
                let shell = c"/bin/sh".as_ptr() as usize;
                // SAFETY: as above.
                return unsafe { raw::call(libc::SYS_execve, [shell, shell_args as usize, env, 0, 0, 0]) };
            }
            _ => return failed,
        }
    }
    result
}
