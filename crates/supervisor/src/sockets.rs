//! Addresses of our sockets.

use jobcage_sys::file;
use nix::sys::socket::UnixAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A socket address has 108 bytes; a longer path goes by way of a descriptor of its directory.
pub(crate) fn short_address<T>(
    dir: &Path,
    name: &str,
    with: impl FnOnce(&UnixAddr) -> jobcage_sys::Result<T>,
) -> jobcage_sys::Result<T> {
    let path = dir.join(name);
    if path.as_os_str().len() < 100 {
        return with(&UnixAddr::new(&path)?);
    }
    let dir = file::open_dir(dir)?;
    with(&UnixAddr::new(&PathBuf::from(format!(
        "/proc/self/fd/{}/{name}",
        dir.as_raw_fd()
    )))?)
}
