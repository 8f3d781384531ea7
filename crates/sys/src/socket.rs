//! Sockets between processes of ours: connections and descriptors as owned values, which nix hands out as numbers.

use crate::{Errno, Result};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socket, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The most descriptors that one message brings; further ones are closed by the kernel.
pub const MOST_FDS: usize = 64;

/// A message socket of the unix domain, close-on-exec: each send is one receive (unix(7), `SOCK_SEQPACKET`).
///
/// # Errors
/// As socket(2).
pub fn seqpacket() -> Result<OwnedFd> {
    socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// Two connected ones.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

/// The next connection of a listening socket, close-on-exec (accept4(2)).
///
/// # Errors
/// As accept4(2).
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd> {
    let null = std::ptr::null_mut();
    // SAFETY: null asks for no address.
    let fd = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            null,
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC,
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends one message with descriptors (`SCM_RIGHTS`); never a SIGPIPE.
///
/// # Errors
/// As sendmsg(2): `EPIPE` or `ECONNRESET` if the other end is gone, `EMSGSIZE` if it is too long.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &rights[..] };
    let data = [IoSlice::new(message)];
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &data, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives one message of at most `room` bytes with its descriptors, close-on-exec. An empty one is the end: the other
/// side is gone.
///
/// # Errors
/// As recvmsg(2); `EMSGSIZE` if the message was longer or had more descriptors than [`MOST_FDS`].
pub fn receive(socket: BorrowedFd<'_>, room: usize) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut was_reset = false;
    // Asked for its length first: a buffer for the longest would stay with a process that waits for days.
    let length = loop {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        match nix::sys::socket::recv(socket.as_raw_fd(), &mut [], flags) {
            Err(Errno::EINTR) => {}
            // The other side went with something of ours unread. The kernel tells so once, before what it had sent.
            Err(Errno::ECONNRESET) if !was_reset => was_reset = true,
            other => break other?,
        }
    };
    if length > room {
        return Err(Errno::EMSGSIZE);
    }
    let mut message = vec![0; length];
    let mut space = nix::cmsg_space!([RawFd; MOST_FDS]);
    let mut fds = Vec::new();
    let (length, flags) = loop {
        let mut data = [IoSliceMut::new(&mut message)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(received) => {
                for control in received.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(numbers) = control {
                        // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
                        fds.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                break (received.bytes, received.flags);
            }
        }
    };
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    message.truncate(length);
    Ok((message, fds))
}

/// The uid of whoever connected (`SO_PEERCRED`, unix(7)).
///
/// # Errors
/// As getsockopt(2).
pub fn peer_uid(connection: BorrowedFd<'_>) -> Result<u32> {
    nix::sys::socket::getsockopt(&connection, nix::sys::socket::sockopt::PeerCredentials)
        .map(|peer| peer.uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_arrive_with_their_message() {
        let (a, b) = pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        send(a.as_fd(), b"two", &[read.as_fd(), write.as_fd()]).unwrap();
        drop((read, write));
        let (message, fds) = receive(b.as_fd(), 100).unwrap();
        assert_eq!((message.as_slice(), fds.len()), (&b"two"[..], 2));
        nix::unistd::write(&fds[1], b"x").unwrap();
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&fds[0], &mut byte), Ok(1));
        drop(a);
        let (end, none) = receive(b.as_fd(), 100).unwrap();
        assert!(end.is_empty() && none.is_empty());
    }

    #[test]
    fn what_was_said_is_heard_though_the_answer_was_not() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"one", &[]).unwrap();
        send(a.as_fd(), b"two", &[]).unwrap();
        assert_eq!(receive(b.as_fd(), 100).unwrap().0, b"one");
        send(b.as_fd(), b"an answer that nobody reads", &[]).unwrap();
        drop(a);
        assert_eq!(receive(b.as_fd(), 100).unwrap().0, b"two");
        assert!(receive(b.as_fd(), 100).unwrap().0.is_empty());
    }

    #[test]
    fn a_message_that_is_too_long_is_no_shorter_one() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &[7; 200], &[]).unwrap();
        assert_eq!(receive(b.as_fd(), 100).unwrap_err(), Errno::EMSGSIZE);
    }
}
