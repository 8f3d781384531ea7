//! The environment as the kernel has laid it out, without a copy: where a program is called with hundreds of variables and ends
//! a millisecond later, copies are a good part of what it does.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;

unsafe extern "C" {
    /// environ(7).
    static environ: *const *const libc::c_char;
}

/// Name and value of each variable, as `std::env::vars_os` has them: what has no `=` behind its first byte is none.
///
/// Nothing in this program changes its environment (`std::env::set_var` is unsafe, and only this crate may be that).
pub fn variables() -> impl Iterator<Item = (&'static OsStr, &'static OsStr)> {
    // SAFETY: the list was there before main, and is never changed.
    let first = unsafe { environ };
    let entries = (0..).map_while(move |at| {
        if first.is_null() {
            return None;
        }
        // SAFETY: the list ends with a null, behind which nobody looks, since that ends this one, too.
        let entry = unsafe { *first.add(at) };
        // SAFETY: an entry is a string that stays as long as the process.
        (!entry.is_null()).then(|| unsafe { CStr::from_ptr(entry) }.to_bytes())
    });
    entries.filter_map(split)
}

fn split(entry: &[u8]) -> Option<(&OsStr, &OsStr)> {
    let name_ends = entry.iter().skip(1).position(|byte| *byte == b'=')? + 1;
    let (name, value) = (&entry[..name_ends], &entry[name_ends + 1..]);
    Some((OsStr::from_bytes(name), OsStr::from_bytes(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_environment_of_std() {
        let ours: Vec<_> = variables().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        assert_eq!(ours, std::env::vars_os().collect::<Vec<_>>());
        assert!(!ours.is_empty());
    }

    #[test]
    fn what_is_no_variable_is_left_out() {
        let split = |entry: &'static str| {
            split(entry.as_bytes()).map(|(n, v)| (n.to_str().unwrap(), v.to_str().unwrap()))
        };
        assert_eq!(split("A=1"), Some(("A", "1")));
        assert_eq!(split("A="), Some(("A", "")));
        assert_eq!(split("A=b=c"), Some(("A", "b=c")));
        assert_eq!(split("=C:=x"), Some(("=C:", "x")));
        assert_eq!(split("A"), None);
        assert_eq!(split(""), None);
        assert_eq!(split("="), None);
    }
}
