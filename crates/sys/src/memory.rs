//! The allocator, and giving memory back before a long wait.
//!
//! A supervisor that waits for hours needs none of the pages that parsed its command line. They are mapped from the file and
//! never written, so dropping them (madvise(2), `MADV_DONTNEED`) loses nothing: the next access reads them again, from the
//! page cache. But the very instruction after the madvise would bring back 64 KiB around it (`fault_around_bytes`), or
//! half a MiB where the file's pages lie in large folios. So the few instructions that drop and wait run from a page of
//! their own.

use crate::raw::{self, SleepCode};
use dlmalloc::Dlmalloc;
use nix::poll::PollFd;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Gives the program's code and constants back, then waits by ppoll(2) until a descriptor is ready, the time is over
/// (`None`: no limit) or a signal came: whether a descriptor is ready.
pub fn sleep_without_code(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> bool {
    static PREPARED: OnceLock<(Vec<[usize; 2]>, Option<SleepCode>)> = OnceLock::new();
    let (ranges, code) = PREPARED.get_or_init(|| (read_only_segments(), SleepCode::new()));
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // A `PollFd` is a pollfd (nix: `repr(transparent)`).
    let polled: *mut libc::pollfd = fds.as_mut_ptr().cast();
    let ready = match code {
        // SAFETY: the ranges are whole pages of this image that are never written; array and time are live.
        Some(code) => unsafe { code.drop_and_poll(ranges, polled, fds.len(), limit) },
        // SAFETY: array and time are live; null asks for no other signal mask.
        None => unsafe {
            raw::call(
                libc::SYS_ppoll,
                [polled as usize, fds.len(), limit as usize, 0, 0, 0],
            )
        },
    };
    ready > 0
}

/// The pages of this program's image that are never written: code, constants and headers, as address and length. Found in
/// the program headers that the kernel hands over (getauxval(3), elf(5)); a segment that was ever writable, and so may hold
/// relocations, is not among them.
fn read_only_segments() -> Vec<[usize; 2]> {
    const PAGE: usize = 4096;
    // SAFETY: getauxval reads the vector that the kernel put on the stack.
    let (headers, number) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    let headers = headers as *const libc::Elf64_Phdr;
    if headers.is_null() || cfg!(not(target_pointer_width = "64")) {
        return Vec::new();
    }
    // SAFETY: the kernel vouches for address and number; the headers are part of the mapped image.
    let headers_list = unsafe { std::slice::from_raw_parts(headers, number as usize) };
    let base = headers_list
        .iter()
        .find(|h| h.p_type == libc::PT_PHDR)
        .map_or(0, |h| (headers as usize).wrapping_sub(h.p_vaddr as usize));
    let read_only = headers_list
        .iter()
        .filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0);
    let whole_pages = read_only.map(|h| {
        let start = base.wrapping_add(h.p_vaddr as usize);
        let (first, end) = (
            start.next_multiple_of(PAGE),
            (start + h.p_filesz as usize) / PAGE * PAGE,
        );
        [first, end.saturating_sub(first)]
    });
    whole_pages.filter(|[_, length]| *length > 0).collect()
}

/// From here on nothing is freed: the process is about to end, and to put its memory in order it would touch pages that the kernel
/// has to hand out anew after a fork.
pub fn stop_freeing() {
    ENDING.store(true, Ordering::Relaxed);
}

/// Takes [`stop_freeing`] back: there is more to do than it seemed.
pub fn go_on_freeing() {
    ENDING.store(false, Ordering::Relaxed);
}

static ENDING: AtomicBool = AtomicBool::new(false);

/// One heap for all threads. Its lock is one byte: most of our processes have one thread, and musl's mutex cost them a quarter
/// of all that they do themselves.
struct Heap {
    taken: AtomicBool,
    inside: UnsafeCell<Dlmalloc>,
}

// SAFETY: what is inside is reached by `with` alone, and there by whoever has set `taken`.
unsafe impl Sync for Heap {}

static HEAP: Heap = Heap {
    taken: AtomicBool::new(false),
    inside: UnsafeCell::new(Dlmalloc::new()),
};

impl Heap {
    fn with<T>(&self, act: impl FnOnce(&mut Dlmalloc) -> T) -> T {
        while self
            .taken
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            // Another thread holds it for some hundred instructions.
            std::thread::yield_now();
        }
        // SAFETY: `taken` is ours. dlmalloc calls nothing that allocates, and no signal handler of ours does.
        let done = act(unsafe { &mut *self.inside.get() });
        self.taken.store(false, Ordering::Release);
        done
    }
}

/// The allocator of a program that ends with a message of its own when there is no memory: Rust's own end is an abort,
/// which leaves a core file and looks like a bug.
#[derive(Debug)]
pub struct Allocator {
    /// What to say on stderr, with its newline.
    pub last_words: &'static str,
    /// What to exit with.
    pub exit_code: i32,
}

impl Allocator {
    fn given(&self, memory: *mut u8) -> *mut u8 {
        if memory.is_null() {
            // SAFETY: a live string, and an exit that runs nothing of this program.
            unsafe {
                libc::write(2, self.last_words.as_ptr().cast(), self.last_words.len());
                libc::_exit(self.exit_code)
            }
        }
        memory
    }
}

// SAFETY: everything is handed on to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Allocator {
    // Inlined wherever memory is asked for, these made the program a megabyte larger.
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.given(HEAP.with(|heap| unsafe { heap.malloc(layout.size(), layout.align()) }))
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.given(HEAP.with(|heap| unsafe { heap.calloc(layout.size(), layout.align()) }))
    }

    #[inline(never)]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.given(HEAP.with(|heap| unsafe { heap.realloc(memory, layout.size(), layout.align(), size) }))
    }

    #[inline(never)]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if !ENDING.load(Ordering::Relaxed) {
            // SAFETY: the caller's promise.
            HEAP.with(|heap| unsafe { heap.free(memory, layout.size(), layout.align()) })
        }
    }
}
