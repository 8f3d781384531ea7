//! System calls that touch nothing but registers.
//!
//! A child that shares its parent's memory (`CLONE_VM`) shares `errno` as well, because it keeps the parent's
//! thread pointer. So it may not use libc's wrappers: these return `-errno` and write no memory of their own.

/// The result of a raw call: a value, or `-errno`.
pub(crate) type Raw = isize;

/// Makes a system call.
///
/// # Safety
/// As of the call itself: pointers among the arguments must be valid for what the kernel does with them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn call(nr: libc::c_long, args: [usize; 6]) -> Raw {
    let result: isize;
    // SAFETY: the x86_64 convention: number in rax, arguments in rdi, rsi, rdx, r10, r8, r9; rcx and r11 are lost.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") nr as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Makes a system call.
///
/// # Safety
/// As of the call itself. Goes through libc, so it is only right where memory is not shared (see [`SHARES_MEMORY`]).
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) unsafe fn call(nr: libc::c_long, args: [usize; 6]) -> Raw {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(nr, args[0], args[1], args[2], args[3], args[4], args[5]) };
    if result == -1 {
        -(nix::errno::Errno::last_raw() as isize)
    } else {
        result as isize
    }
}

/// Whether [`clone3_on_stack`] is there, so that a child can share memory without stopping its parent.
pub(crate) const SHARES_MEMORY: bool = cfg!(target_arch = "x86_64");

/// `clone3` of a child that runs `entry(argument)` on the stack named in `args` and must never return.
///
/// # Safety
/// `args` must be a valid `clone_args` with `stack` and `stack_size` set to memory that stays mapped until the child
/// has called exec or ended; `entry` must not return, not panic and not use thread-local memory.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn clone3_on_stack(
    args: &mut libc::clone_args,
    entry: unsafe extern "C" fn(*mut libc::c_void) -> !,
    argument: *mut libc::c_void,
) -> Raw {
    let result: isize;
    // SAFETY: in the child rax is 0 and rsp is the top of its own stack, 16-byte aligned; nothing of the parent's
    // frame is read after the syscall but the registers that hold `entry` and `argument`. `call` leaves the
    // alignment that the ABI asks for. In the parent the asm block ends with the child's pid in rax.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") std::ptr::from_mut(args),
            in("rsi") std::mem::size_of::<libc::clone_args>(),
            in("r12") entry,
            in("r13") argument,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// Never called where [`SHARES_MEMORY`] is false.
///
/// # Safety
/// None needed: it refuses.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn clone3_on_stack(
    _args: &mut libc::clone_args,
    _entry: unsafe extern "C" fn(*mut libc::c_void) -> !,
    _argument: *mut libc::c_void,
) -> Raw {
    -(libc::ENOSYS as isize)
}

/// A page of its own with the few instructions of [`SleepCode::drop_and_poll`].
#[derive(Debug)]
pub(crate) struct SleepCode(#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))] usize);

// In: rdi the ranges, rsi their number, rdx the pollfds, rcx their number, r8 the time limit. Out: what ppoll says.
// Position-independent, and calls nothing: it runs from a copy.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.jobcage_sleep, \"ax\", @progbits",
    ".globl jobcage_sleep_begin",
    ".globl jobcage_sleep_end",
    "jobcage_sleep_begin:",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rbx, rdi",
    "mov r12, rsi",
    "mov r13, rdx",
    "mov r14, rcx",
    "mov r15, r8",
    "2:",
    "test r12, r12",
    "jz 3f",
    "mov rdi, [rbx]",
    "mov rsi, [rbx + 8]",
    "mov edx, {dontneed}",
    "mov eax, {madvise}",
    "syscall",
    "add rbx, 16",
    "dec r12",
    "jmp 2b",
    "3:",
    "mov rdi, r13",
    "mov rsi, r14",
    "mov rdx, r15",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "mov eax, {ppoll}",
    "syscall",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "ret",
    "jobcage_sleep_end:",
    ".popsection",
    dontneed = const libc::MADV_DONTNEED,
    madvise = const libc::SYS_madvise,
    ppoll = const libc::SYS_ppoll,
);

impl SleepCode {
    /// Copies the instructions into a page that is then made executable and read-only. `None` where that is not allowed
    /// (a security module may forbid it) or not built.
    pub(crate) fn new() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            unsafe extern "C" {
                static jobcage_sleep_begin: u8;
                static jobcage_sleep_end: u8;
            }
            let begin = &raw const jobcage_sleep_begin;
            let length = &raw const jobcage_sleep_end as usize - begin as usize;
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: an anonymous mapping at an address of the kernel's choice.
            let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, rights, kind, -1, 0) };
            if page == libc::MAP_FAILED || length > 4096 {
                return None;
            }
            // SAFETY: the instructions lie between the two labels, the page is ours and large enough.
            unsafe { std::ptr::copy_nonoverlapping(begin, page.cast(), length) };
            // SAFETY: our own page, which nobody writes any more.
            let done = unsafe { libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC) };
            (done == 0).then_some(Self(page as usize))
        }
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// Drops the ranges (`MADV_DONTNEED`), then ppoll.
    ///
    /// # Safety
    /// The ranges must be whole pages whose content can be read again from their file; array and time must be live.
    pub(crate) unsafe fn drop_and_poll(
        &self,
        ranges: &[[usize; 2]],
        fds: *mut libc::pollfd,
        number: usize,
        limit: *const libc::timespec,
    ) -> Raw {
        #[cfg(target_arch = "x86_64")]
        {
            type Sleep = unsafe extern "C" fn(
                *const [usize; 2],
                usize,
                *mut libc::pollfd,
                usize,
                *const libc::timespec,
            ) -> Raw;
            // SAFETY: the page holds exactly these instructions, which follow the C convention of this signature.
            let sleep: Sleep = unsafe { std::mem::transmute(self.0) };
            // SAFETY: the caller's promise.
            unsafe { sleep(ranges.as_ptr(), ranges.len(), fds, number, limit) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = ranges;
            // SAFETY: the caller's promise.
            unsafe { call(libc::SYS_ppoll, [fds as usize, number, limit as usize, 0, 0, 0]) }
        }
    }
}
