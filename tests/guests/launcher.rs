//! Starts VirtualBox's own VM program without the check that refuses to run where no kernel module is: VirtualBox then works in
//! its driverless mode, and interprets the guest. For tests alone; takes the place of `/usr/lib/virtualbox/VBoxHeadless`.
//!
//! Built by `tests/guests/mkroot`, by hand and not by cargo: it loads VirtualBox's shared libraries, so it cannot be static.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStringExt;

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, symbol: *const c_char) -> *mut c_void;
    static environ: *mut *mut c_char;
}

/// `RTLD_NOW | RTLD_GLOBAL`.
const NOW_AND_GLOBAL: c_int = 2 | 0x100;

fn symbol(library: &CStr, name: &CStr) -> *mut c_void {
    // SAFETY: both are strings that end with a NUL.
    let found = unsafe {
        let library = dlopen(library.as_ptr(), NOW_AND_GLOBAL);
        if library.is_null() { library } else { dlsym(library, name.as_ptr()) }
    };
    if found.is_null() {
        eprintln!("launcher: no {name:?} in {library:?}");
        std::process::exit(1);
    }
    found
}

fn main() {
    let args: Vec<CString> = std::env::args_os().map(|arg| CString::new(arg.into_vec()).unwrap()).collect();
    let mut words: Vec<*mut c_char> = args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
    words.push(std::ptr::null_mut());
    let (count, mut list) = (args.len() as c_int, words.as_mut_ptr());
    // SAFETY: the two functions have these types in VirtualBox 7.2 (`iprt/initterm.h`, `VBoxHeadless.cpp`); the lists live on.
    unsafe {
        let init: extern "C" fn(c_int, *mut *mut *mut c_char, u32) -> c_int =
            std::mem::transmute(symbol(c"/usr/lib/virtualbox/VBoxRT.so", c"RTR3InitExe"));
        let code = init(count, &mut list, 0);
        if code < 0 {
            eprintln!("launcher: RTR3InitExe: {code}");
            std::process::exit(1);
        }
        let run: extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) -> c_int =
            std::mem::transmute(symbol(c"/usr/lib/virtualbox/VBoxHeadless.so", c"TrustedMain"));
        std::process::exit(run(count, list, environ));
    }
}
