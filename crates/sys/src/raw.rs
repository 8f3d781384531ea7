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
