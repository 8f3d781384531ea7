//! Small files: read in one call, replaced as a whole or not at all.

use crate::{Errno, Result};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fsync, read, unlinkat, write};
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Opens a directory by path, for `*at` calls below it.
///
/// # Errors
/// As openat(2).
pub fn open_dir(path: &Path) -> Result<OwnedFd> {
    // Not open(2), behind which musl sets O_CLOEXEC once more.
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    openat(AT_FDCWD, path, flags, Mode::empty())
}

/// Opens a directory below another one, without following a symbolic link.
///
/// # Errors
/// As openat(2).
pub fn open_dir_at(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_RDONLY;
    openat(dir, name.as_ref(), flags, Mode::empty())
}

/// Opens what another user may have put there: it follows no link, goes into no mount (a FUSE server that never answers
/// would hold us) and waits for nobody at a FIFO or a lease.
///
/// # Errors
/// As openat2(2): `ELOOP` for a symbolic link, `EXDEV` for a mount. Before 5.6 a mount is entered.
pub fn open_distrusted(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>, flags: OFlag) -> Result<OwnedFd> {
    let mut flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // openat2, unlike openat, refuses flags that mean nothing.
    if !flags.contains(OFlag::O_PATH) {
        flags |= OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    }
    let within =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let mode = if flags.contains(OFlag::O_CREAT) {
        Mode::S_IRUSR | Mode::S_IWUSR
    } else {
        Mode::empty()
    };
    let how = OpenHow::new().flags(flags).mode(mode).resolve(within);
    match openat2(dir, name.as_ref(), how) {
        // EPERM: a filter that does not know it.
        Err(Errno::ENOSYS | Errno::EPERM) => openat(dir, name.as_ref(), flags, mode),
        other => other,
    }
}

/// `/dev/null`, for the standard files of a process that is to have none (null(4)).
///
/// # Errors
/// As open(2).
pub fn open_null() -> Result<OwnedFd> {
    nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
}

/// Reads a whole small file below a directory. For files of procfs, cgroupfs and our own records.
///
/// # Errors
/// As openat(2) and read(2).
pub fn read_at(dir: BorrowedFd<'_>, name: &str) -> Result<Vec<u8>> {
    let file = openat(
        dir,
        name,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
        Mode::empty(),
    )?;
    read_to_end(file.as_fd())
}

/// Reads from where the file stands to its end. `EINTR` is retried.
///
/// # Errors
/// As read(2).
pub fn read_to_end(file: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match read(file, &mut chunk) {
            Ok(0) => return Ok(content),
            Ok(n) => content.extend_from_slice(&chunk[..n]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Writes a value into an existing file of a kernel file system, in one call as they want it.
///
/// # Errors
/// As openat(2) and write(2). A short write is `EIO`.
pub fn write_at(dir: BorrowedFd<'_>, name: &str, value: &[u8]) -> Result<()> {
    let file = openat(
        dir,
        name,
        OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
        Mode::empty(),
    )?;
    loop {
        return match write(&file, value) {
            Ok(n) if n == value.len() => Ok(()),
            Ok(_) => Err(Errno::EIO),
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno),
        };
    }
}

/// Whether replaced files are to survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// They live as long as the kernel does: no fsync.
    Kernel,
    /// fsync of the file before the rename and of its directory after it.
    Disk,
}

/// Replaces the file `name` in `dir` as a whole: a reader, or a crash at any moment, finds the old or the new one.
/// The new file has mode 0600.
///
/// # Errors
/// As the calls it takes; the old file is untouched then, and the unfinished one is removed.
pub fn replace(dir: BorrowedFd<'_>, name: &str, content: &[u8], durability: Durability) -> Result<()> {
    let unfinished = format!("{name}.new");
    let result = write_new(dir, &unfinished, content, durability)
        .and_then(|()| renameat(dir, unfinished.as_str(), dir, name))
        .and_then(|()| {
            if durability == Durability::Disk {
                fsync(dir)
            } else {
                Ok(())
            }
        });
    if result.is_err() {
        // The first error is the one to tell; what is left over here is swept by gc.
        let _ = unlinkat(dir, unfinished.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    result
}

/// Creates or truncates a file with mode 0600 and writes all of it.
///
/// # Errors
/// As openat(2), write(2) and fsync(2).
pub fn write_new(dir: BorrowedFd<'_>, name: &str, content: &[u8], durability: Durability) -> Result<()> {
    let file = create(dir, name, OFlag::O_TRUNC)?;
    write_all(file.as_fd(), content)?;
    if durability == Durability::Disk {
        fsync(&file)
    } else {
        Ok(())
    }
}

/// Creates a file with mode 0600, for writing; `EEXIST` if there is one.
///
/// # Errors
/// As openat(2).
pub fn create_new(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    create(dir, name, OFlag::O_EXCL)
}

fn create(dir: BorrowedFd<'_>, name: &str, how: OFlag) -> Result<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat(dir, name, flags | how, Mode::S_IRUSR | Mode::S_IWUSR)
}

/// Writes all of it. `EINTR` is retried.
///
/// # Errors
/// As write(2).
pub fn write_all(file: BorrowedFd<'_>, mut content: &[u8]) -> Result<()> {
    while !content.is_empty() {
        match write(file, content) {
            Ok(0) => return Err(Errno::EIO),
            Ok(n) => content = &content[n..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Whether a path below a directory exists; symbolic links are not followed.
///
/// # Errors
/// As fstatat(2), without `ENOENT`.
pub fn exists_at(dir: BorrowedFd<'_>, name: &str) -> Result<bool> {
    match nix::sys::stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Opens a C string's path for reading and reads it whole.
///
/// # Errors
/// As open(2) and read(2).
pub fn read_path(path: &CStr) -> Result<Vec<u8>> {
    let file = openat(AT_FDCWD, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    read_to_end(file.as_fd())
}

/// When a file or directory was made, in nanoseconds since 1970; no link is followed. Unlike its other times nobody can set it (statx(2), `stx_btime`).
///
/// # Errors
/// As statx(2). `ENODATA`: its file system does not keep it.
pub fn birth_ns(path: &Path) -> Result<i64> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: all-zero is a valid statx.
    let mut told: libc::statx = unsafe { std::mem::zeroed() };
    // By its number: not every musl has a function for it.
    // SAFETY: the path ends in a NUL, and `told` is as large as the kernel's.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_statx,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            libc::STATX_BTIME,
            &raw mut told,
        )
    })?;
    if told.stx_mask & libc::STATX_BTIME == 0 {
        return Err(Errno::ENODATA);
    }
    let born = told.stx_btime;
    Ok(born
        .tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(born.tv_nsec)))
}

/// Closes every descriptor from `first` on (close_range(2), since 5.9; one by one before).
pub fn close_from(first: u32) {
    // SAFETY: whoever calls this has nothing open there that it will use again.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if done != 0 {
        for fd in first..4096 {
            // SAFETY: as above; closing what is not open is an error without an effect.
            unsafe { libc::close(fd.cast_signed()) };
        }
    }
}

/// Standard input as an owned descriptor, for a process that was given something there.
#[must_use]
pub fn take_stdin() -> OwnedFd {
    // SAFETY: descriptor 0 is open in every process that Rust's runtime has started, and the caller takes it once.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(0) }
}

/// A file in memory that nobody can change any more (memfd_create(2), `F_ADD_SEALS`): for what must be on no disk.
///
/// # Errors
/// As memfd_create(2) and write(2).
pub fn sealed(name: &CStr, content: &[u8]) -> Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let file = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    write_all(file.as_fd(), content)?;
    let seals = SealFlag::all();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// Reads a file from its beginning, wherever it stands: a descriptor that came by a socket shares its position.
///
/// # Errors
/// As pread(2).
pub fn read_from_start(file: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let size = nix::sys::stat::fstat(file)?.st_size;
    let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut done = 0;
    while done < content.len() {
        match nix::sys::uio::pread(
            file,
            &mut content[done..],
            i64::try_from(done).unwrap_or(i64::MAX),
        ) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    content.truncate(done);
    Ok(content)
}

/// How many bytes wait in a pipe (`FIONREAD`, ioctl_tty(2)).
///
/// # Errors
/// As ioctl(2).
pub fn bytes_waiting(pipe: BorrowedFd<'_>) -> Result<usize> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: the kernel writes one int to a live one.
    Errno::result(unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &mut waiting) })?;
    Ok(usize::try_from(waiting).unwrap_or(0))
}

/// Whether an extended attribute of a file has this value. One that is not there, or cannot be read, has not.
#[must_use]
pub fn has_xattr(path: &Path, name: &CStr, value: &[u8]) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut found = [0_u8; 32];
    // SAFETY: both strings end with a NUL, and the kernel writes at most as many bytes as it is told that there are.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            found.as_mut_ptr().cast(),
            found.len(),
        )
    };
    usize::try_from(length).is_ok_and(|length| found.get(..length) == Some(value))
}
