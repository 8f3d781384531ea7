//! Starting a process inside a control group, without stopping whoever starts it.
//!
//! The child is born in its cgroup (`clone3` with `CLONE_INTO_CGROUP`, since 5.7): moving a process there afterwards
//! costs an RCU grace period, 12 times as much on an idle host, and leaves a moment in which it is outside. It shares
//! the parent's memory until its exec (`CLONE_VM`), which makes it as cheap as vfork, but the parent goes on at once
//! (no `CLONE_VFORK`): a child that hangs in exec or chdir on a dead file system must not hold the one who keeps the
//! clocks. A child that changes its user gets a copy instead, so that no process of that user ever shares memory with
//! root.
//!
//! Where the kernel does not know clone3 or the flag, the child is forked and moves itself.

mod child;

use crate::raw::{self, Raw};
use crate::{Errno, Result, pidfd, wait};
use child::{ChildMemory, child_main};
use nix::sys::signal::SigSet;
use std::ffi::{CString, c_void};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::Ordering;

/// The stage of a start at which it failed, in the order in which they are passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The child has not run one instruction.
    Birth,
    /// Entering the cgroup.
    Cgroup,
    /// Resetting signals.
    Signals,
    /// A session of its own.
    Session,
    /// Standard input, output, error.
    Stdio,
    /// Resource limits.
    Rlimit,
    /// The nice value.
    Nice,
    /// The filter against keystrokes.
    Seccomp,
    /// Supplementary groups.
    Groups,
    /// The group.
    Gid,
    /// The user.
    Uid,
    /// The fence around the job.
    Guard,
    /// The working directory.
    Chdir,
    /// The word that it may go on, and its tie to us.
    Go,
    /// The program itself.
    Exec,
}

impl Stage {
    const ALL: [Self; 15] = [
        Self::Birth,
        Self::Cgroup,
        Self::Signals,
        Self::Session,
        Self::Stdio,
        Self::Rlimit,
        Self::Nice,
        Self::Seccomp,
        Self::Groups,
        Self::Gid,
        Self::Uid,
        Self::Guard,
        Self::Chdir,
        Self::Go,
        Self::Exec,
    ];

    /// Its word in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Birth => "birth",
            Self::Cgroup => "cgroup",
            Self::Signals => "signals",
            Self::Session => "session",
            Self::Stdio => "stdio",
            Self::Rlimit => "rlimit",
            Self::Nice => "nice",
            Self::Seccomp => "seccomp",
            Self::Groups => "groups",
            Self::Gid => "gid",
            Self::Uid => "uid",
            Self::Guard => "guard",
            Self::Chdir => "chdir",
            Self::Go => "go",
            Self::Exec => "exec",
        }
    }
}

/// The user that a child becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Real, effective and saved uid.
    pub uid: u32,
    /// Real, effective and saved gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A resource limit (setrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// `RLIMIT_…`.
    pub resource: u32,
    /// The limit itself.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// A pipe by whose word a child goes on, when somebody else knows of it: a byte. Its end without one is the end of the child,
/// which fails with `ECANCELED` at [`Stage::Go`] and has done nothing.
#[derive(Debug, Clone, Copy)]
pub struct Go<'a> {
    /// What the child reads.
    pub wait: BorrowedFd<'a>,
    /// Our end, of which the child has a copy to close.
    pub hold: BorrowedFd<'a>,
}

/// Everything about a child that is to be started.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// The paths to try, in order, as execvp(3) would.
    pub programs: Vec<CString>,
    /// The arguments, the program's name first.
    pub args: Vec<CString>,
    /// The environment, `NAME=value`.
    pub env: Vec<CString>,
    /// The cgroup's directory.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Standard input, output and error; `None`: inherited.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
    /// The user to become.
    pub identity: Option<Identity>,
    /// The working directory; entered as that user.
    pub dir: Option<CString>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// The nice value, absolute.
    pub nice: Option<i32>,
    /// A session and process group of its own.
    pub new_session: bool,
    /// Refuse keystrokes into the terminal (see [`crate::seccomp`]).
    pub no_keystrokes: bool,
    /// A fence to enter ([`crate::landlock`]).
    pub guard: Option<BorrowedFd<'a>>,
    /// Waits for this before its exec.
    pub go: Option<Go<'a>>,
    /// The signal mask of the child; `None`: ours.
    pub signal_mask: Option<SigSet>,
    /// It is killed when the thread that starts it ends (`PR_SET_PDEATHSIG`): itself, not what it has started by then, and not if it runs a set-user-ID
    /// program.
    pub dies_with_us: bool,
}

/// How a child came into its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Born there.
    Born,
    /// Moved itself there, as the kernel cannot do the other, or as it kills who is born there (kernel-facts 3).
    Moved,
}

/// A started child.
#[derive(Debug)]
pub struct Child {
    /// Its pid: not reused until it is reaped.
    pub pid: i32,
    /// Its pidfd, where the kernel has them.
    pub pidfd: Option<OwnedFd>,
    /// How it came into its cgroup.
    pub way: Way,
    // Read by the child until its exec, which nobody is told of: see `drop`.
    memory: ManuallyDrop<Box<ChildMemory>>,
}

impl Drop for Child {
    /// A child that lives may still be on its way to exec and run on this memory, so then it is left to it for good.
    fn drop(&mut self) {
        if !wait::is_alive(self.pid) {
            // SAFETY: dropped once, here, and the child that used it has ended.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

impl Child {
    /// For a child that has *ended*: the stage and errno if it never became the program. `None`: it did, or it was
    /// killed on the way by somebody else.
    #[must_use]
    pub fn failure(&self) -> Option<(Stage, Errno)> {
        let slot = self.memory.slot();
        let errno = slot.errno.load(Ordering::Acquire);
        let stage = Stage::ALL
            .get(slot.stage.load(Ordering::Acquire) as usize)
            .copied()?;
        (errno != 0).then(|| (stage, Errno::from_raw(i32::try_from(errno).unwrap_or(0))))
    }

    /// For a child that has *ended*: whether it never ran one instruction. A kernel that has the bug of
    /// kernel-facts 3 kills a child at birth when its cgroup, or its parent's, was ever killed as a whole.
    #[must_use]
    pub fn died_at_birth(&self) -> bool {
        self.memory.slot().stage.load(Ordering::Acquire) == 0
    }

    /// The stage that the child has reached. While it hangs in a system call, the one it hangs in.
    #[must_use]
    pub fn stage(&self) -> Stage {
        let stage = self.memory.slot().stage.load(Ordering::Acquire);
        Stage::ALL.get(stage as usize).copied().unwrap_or(Stage::Exec)
    }
}

/// The libc crate does not have it yet: its value does not fit the `c_int` of the other flags.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Starts a child.
///
/// # Errors
/// The errno of the clone itself, such as `EAGAIN` (too many processes) or `EACCES` (not our cgroup). What fails later,
/// in the child, is in [`Child::failure`] once it has ended.
pub fn spawn(plan: &Plan<'_>) -> Result<Child> {
    let shared = raw::SHARES_MEMORY && plan.identity.is_none();
    match spawn_born(plan, shared) {
        // ENOSYS: no clone3, or a filter hides it. E2BIG, EINVAL: a clone3 without the cgroup field.
        Err(Errno::ENOSYS | Errno::E2BIG | Errno::EINVAL) => spawn_moved(plan),
        other => other,
    }
}

/// Starts a child by fork, which then moves itself into its cgroup: slow, but a kernel that kills children at birth does
/// not do it to these.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_moved(plan: &Plan<'_>) -> Result<Child> {
    let procs = plan.cgroup.map(open_procs).transpose()?;
    let blocked = BlockedSignals::new()?;
    let memory = ChildMemory::new(plan, &blocked, false, procs)?;
    // SAFETY: the child runs `child_main`, which makes raw system calls on memory prepared before the fork and then
    // calls exec or _exit.
    let pid = Errno::result(unsafe { libc::fork() })?;
    if pid == 0 {
        // SAFETY: `memory` was made by `ChildMemory::new` and is not touched by anyone else in this process.
        unsafe { child_main((&raw const *memory).cast_mut().cast()) }
    }
    // Before 5.3 there are no pidfds; our own unreaped child is found by its pid as well.
    Ok(Child {
        pid,
        pidfd: pidfd::open(pid).ok(),
        way: Way::Moved,
        memory: ManuallyDrop::new(memory),
    })
}

fn spawn_born(plan: &Plan<'_>, shared: bool) -> Result<Child> {
    let blocked = BlockedSignals::new()?;
    let memory = ChildMemory::new(plan, &blocked, shared, None)?;
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = plan.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    let argument: *mut c_void = (&raw const *memory).cast_mut().cast();
    let result = if shared {
        args.flags |= libc::CLONE_VM as u64;
        (args.stack, args.stack_size) = memory.stack();
        // SAFETY: the stack is part of `memory`, which lives as long as the `Child`; `child_main` never returns and
        // touches no thread-local memory.
        unsafe { raw::clone3_on_stack(&mut args, child_main, argument) }
    } else {
        let size = std::mem::size_of::<libc::clone_args>();
        // SAFETY: like fork: the child goes on here with a copy of everything.
        let result = unsafe {
            raw::call(
                libc::SYS_clone3,
                [ptr::from_mut(&mut args) as usize, size, 0, 0, 0, 0],
            )
        };
        if result == 0 {
            // SAFETY: as above.
            unsafe { child_main(argument) }
        }
        result
    };
    let pid = check(result)?;
    // SAFETY: the kernel has filled `pidfd` with a new descriptor.
    let pidfd = Some(unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok(Child {
        pid: i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?,
        pidfd,
        way: Way::Born,
        memory: ManuallyDrop::new(memory),
    })
}

fn check(result: Raw) -> Result<isize> {
    if result < 0 {
        Err(Errno::from_raw(i32::try_from(-result).unwrap_or(libc::EIO)))
    } else {
        Ok(result)
    }
}

fn open_procs(cgroup: BorrowedFd<'_>) -> Result<OwnedFd> {
    use nix::fcntl::OFlag;
    nix::fcntl::openat(
        cgroup,
        c"cgroup.procs",
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
}

/// Blocks all signals while a child is born, so that none is handled in memory that two processes share.
struct BlockedSignals(SigSet);

impl BlockedSignals {
    fn new() -> Result<Self> {
        SigSet::all()
            .thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)
            .map(Self)
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // It was the mask a moment ago, so the kernel takes it back.
        let _ = self.0.thread_set_mask();
    }
}

/// Ends the calling thread alone and leaves the others running, even if it is the main thread (exit(2), not exit_group).
pub fn exit_thread() -> ! {
    loop {
        // SAFETY: ends this thread; nothing of it is used by another one, since the caller gave everything away.
        unsafe { raw::call(libc::SYS_exit, [0, 0, 0, 0, 0, 0]) };
    }
}

/// Ends this process as it stands (exit_group(2)): nothing is freed, closed or flushed by us that the kernel takes back faster.
/// Not for who has something left in a buffer.
pub fn exit_now(code: u8) -> ! {
    loop {
        // SAFETY: nothing of this process runs any more.
        unsafe { raw::call(libc::SYS_exit_group, [code.into(), 0, 0, 0, 0, 0]) };
    }
}
