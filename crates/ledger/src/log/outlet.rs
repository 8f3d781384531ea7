//! Where what is read of a log goes: a terminal, a pipe, a file, a socket. Never waits, if it can be helped: a follower has
//! to hear signals while nobody takes what it has.

use super::reader::{Copied, Piece};
use jobcage_sys::{Errno, Result};
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, open, splice};
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{isatty, write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// How much is read into memory at a time: as much as a pipe takes.
const CHUNK: usize = 65536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Opened anew by us, without waiting.
    Pipe,
    /// Takes everything at once.
    File,
    /// Is written to without waiting by its own call.
    Socket,
    /// A terminal, opened anew by us, without waiting.
    Terminal,
    /// Shared with others, who would be surprised by `O_NONBLOCK`: it is asked before each small write.
    Shared,
}

/// An open file to write to.
#[derive(Debug)]
pub struct Outlet {
    fd: OwnedFd,
    kind: Kind,
    takes_pages: bool,
    is_terminal: bool,
    buffer: Vec<u8>,
    /// What of the buffer has not gone out.
    waiting: std::ops::Range<usize>,
    is_full: bool,
    is_gone: bool,
    has_failed: bool,
}

impl Outlet {
    /// An outlet into an open file.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn new(fd: BorrowedFd<'_>) -> Result<Self> {
        let is_terminal = isatty(fd).unwrap_or(false);
        let file_type = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
        let (kind, wanted) = match file_type {
            SFlag::S_IFIFO => (Kind::Pipe, true),
            SFlag::S_IFSOCK => (Kind::Socket, false),
            _ if is_terminal => (Kind::Terminal, true),
            _ => (Kind::File, false),
        };
        let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
        let takes_pages =
            kind == Kind::Pipe || file_type == SFlag::S_IFREG && !flags.contains(OFlag::O_APPEND);
        let own = wanted.then(|| reopen(fd)).flatten();
        let kind = if wanted && own.is_none() {
            Kind::Shared
        } else {
            kind
        };
        Ok(Self {
            fd: match own {
                Some(own) => own,
                None => fd.try_clone_to_owned().map_err(super::errno)?,
            },
            kind,
            takes_pages,
            is_terminal,
            buffer: Vec::new(),
            waiting: 0..0,
            is_full: false,
            is_gone: false,
            has_failed: false,
        })
    }

    /// Writes what waits; whether nothing does any more.
    pub(super) fn flush(&mut self) -> Result<bool> {
        while !self.waiting.is_empty() && !self.is_full && !self.is_gone {
            let n = self.write(&self.buffer[self.waiting.clone()]);
            self.waiting.start += self.judge(n)?;
        }
        Ok(self.waiting.is_empty() && !self.is_full && !self.is_gone)
    }

    /// Why nothing goes out.
    pub(super) fn why_not(&self) -> Copied {
        if self.is_gone {
            Copied::Gone
        } else {
            Copied::Blocked
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<usize> {
        match self.kind {
            Kind::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(self.fd.as_raw_fd(), bytes, flags)
            }
            Kind::Shared if !self.has_room() => Err(Errno::EAGAIN),
            Kind::Shared => write(&self.fd, &bytes[..bytes.len().min(PIPE_BUF)]),
            _ => write(&self.fd, bytes),
        }
    }

    fn has_room(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// What an attempt came to, and whether it is full or gone now.
    fn judge(&mut self, attempt: Result<usize>) -> Result<usize> {
        match attempt {
            Ok(n) => Ok(n),
            Err(Errno::EINTR) => Ok(0),
            Err(Errno::EAGAIN) => {
                self.is_full = true;
                Ok(0)
            }
            Err(Errno::EPIPE | Errno::ECONNRESET) => {
                self.is_gone = true;
                Ok(0)
            }
            // A terminal that was hung up.
            Err(Errno::EIO) if self.is_terminal => {
                self.is_gone = true;
                Ok(0)
            }
            Err(errno) => {
                self.has_failed = true;
                Err(errno)
            }
        }
    }

    /// Whether the last error was one of writing to it.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether it can be given a file's pages without a copy by us.
    pub(super) fn takes_pages(&self) -> bool {
        self.takes_pages
    }

    /// Gives it a file's bytes, at most so many; 0: it is full or gone. `None`: this file cannot be sent so.
    pub(super) fn send(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        at_most: usize,
    ) -> Result<Option<usize>> {
        let Ok(mut at) = i64::try_from(offset) else {
            return Ok(None);
        };
        let sent = if self.kind == Kind::File {
            sendfile64(&self.fd, file, Some(&mut at), at_most)
        } else {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            splice(file, Some(&mut at), &self.fd, None, at_most, flags)
        };
        match sent {
            // Shorter than it is known to be: somebody has cut it off, and who reads it finds that out.
            Ok(0) | Err(Errno::EINVAL | Errno::ENOSYS) => {
                self.takes_pages = false;
                Ok(None)
            }
            Err(Errno::EINTR) => self.send(file, offset, at_most),
            other => {
                let n = self.judge(other)?;
                // The next call would only say so.
                self.is_full |= n > 0 && n < at_most && self.kind != Kind::File;
                Ok(Some(n))
            }
        }
    }

    /// Has the buffer filled, which must be empty.
    pub(super) fn fill(
        &mut self,
        at_most: usize,
        read: impl FnOnce(&mut [u8]) -> Result<Piece>,
    ) -> Result<Piece> {
        self.buffer.resize(CHUNK, 0);
        let piece = read(&mut self.buffer[..at_most.min(CHUNK)])?;
        self.waiting = 0..piece.bytes;
        Ok(piece)
    }

    /// Writes what it takes of these bytes without waiting: how many. Nothing: it is full, or gone.
    ///
    /// # Errors
    /// As write(2).
    pub fn offer(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.is_full || self.is_gone || bytes.is_empty() {
            return Ok(0);
        }
        let written = self.write(bytes);
        self.judge(written)
    }

    /// Whether it takes nothing for now.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// How many bytes wait in it that the reader of the log has passed already.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody reads what comes out of it any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Waits until it takes more, or nobody reads what comes out of it any more.
    pub fn wait(&mut self) {
        let Some(fd) = self.poll_fd() else { return };
        let mut fds = [fd];
        let _ = poll(&mut fds, PollTimeout::NONE);
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        self.told(events);
    }

    /// What to wait for: for room if it is full, else only for its end, which poll tells unasked. `None`: that has been told, and would be for ever.
    #[must_use]
    pub fn poll_fd(&self) -> Option<PollFd<'_>> {
        if self.is_gone {
            return None;
        }
        let events = if self.is_full {
            PollFlags::POLLOUT
        } else {
            PollFlags::empty()
        };
        Some(PollFd::new(self.fd.as_fd(), events))
    }

    /// What poll has told.
    pub fn told(&mut self, events: PollFlags) {
        self.is_gone |= events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP);
        self.is_full &= !events.contains(PollFlags::POLLOUT);
    }
}

/// The same pipe or terminal with a file description of our own, since `O_NONBLOCK` belongs to the description and others
/// have the one that we were given. `None`: it may not be opened (it belongs to another user).
fn reopen(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_once() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut outlet = Outlet::new(writer.as_fd()).unwrap();
        assert_eq!(outlet.offer(b"x"), Ok(1));
        drop(reader);
        outlet.wait();
        assert!(outlet.is_gone());
        // Else it would be told at once whenever somebody waits for something else.
        assert!(outlet.poll_fd().is_none());
        outlet.wait();
    }
}
