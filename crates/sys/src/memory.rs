//! Giving memory back before a long wait.

/// Drops this program's own code and constants from its memory; they are read again, from the page cache, when they
/// are needed. A supervisor that waits for hours does not need the pages that parsed its command line.
///
/// Only pages between the start of the image and the end of its code are dropped: nothing there is ever written, so
/// nothing can be lost (madvise(2), `MADV_DONTNEED` on a private file mapping).
pub fn release_code() {
    unsafe extern "C" {
        // Set by the linker: the first byte of the image, and the first byte after the code.
        static __executable_start: u8;
        static etext: u8;
    }
    const PAGE: usize = 4096;
    let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize);
    let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    if start < end {
        // SAFETY: the range holds the headers, constants and code of this very image, mapped private and read-only
        // from the file; dropping them makes the next access a page fault that reads them again.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}
