//! A door before the server: every connection goes through it, and it can be shut, and its lines be broken, at once or after so many bytes.

use nix::sys::socket::{setsockopt, sockopt::Linger};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// How a line is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Both sides see the end of it, as when a server in between goes down in order.
    Close,
    /// Both sides get a RST.
    Reset,
    /// Nobody is told anything: what is sent goes nowhere, for ever.
    Silence,
}

#[derive(Default)]
struct State {
    /// Nobody comes in.
    is_shut: bool,
    /// After so many more bytes to the client, this.
    fuse: Option<(u64, Break)>,
    /// Connections of before this number are broken.
    broken: Option<(u64, Break)>,
    count: u64,
    lines: Vec<(u64, TcpStream, TcpStream)>,
    is_over: bool,
}

/// The door.
pub struct Door {
    port: u16,
    state: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens it before a server on this machine.
    pub fn open(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let mut state = shared.0.lock().unwrap();
                if state.is_over {
                    return;
                }
                if state.is_shut {
                    // Dropped: whoever comes is turned away.
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                state.count += 1;
                let number = state.count;
                let pair = || (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (a, b) = pair();
                state.lines.push((number, a, b));
                for (from, to, counts) in [
                    {
                        let (a, b) = pair();
                        (a, b, false)
                    },
                    {
                        let (a, b) = pair();
                        (b, a, true)
                    },
                ] {
                    let shared = shared.clone();
                    std::thread::spawn(move || carry(from, to, number, counts, &shared));
                }
            }
        });
        Self {
            port,
            state,
            thread: Some(thread),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.0.lock().unwrap());
        self.state.1.notify_all();
    }

    /// How many have come in.
    pub fn count(&self) -> u64 {
        self.state.0.lock().unwrap().count
    }

    /// Breaks the lines that there are.
    pub fn cut(&self, how: Break) {
        self.change(|state| cut(state, how));
    }

    /// Breaks them after so many more bytes to the client.
    pub fn cut_after(&self, bytes: u64, how: Break) {
        self.change(|state| state.fuse = Some((bytes, how)));
    }

    /// Whether the last [`Door::cut_after`] has not come to pass.
    pub fn has_fuse(&self) -> bool {
        self.state.0.lock().unwrap().fuse.is_some()
    }

    /// Takes it back.
    pub fn forget_fuse(&self) {
        self.change(|state| state.fuse = None);
    }

    /// Turns away whoever comes.
    pub fn shut(&self) {
        self.change(|state| state.is_shut = true);
    }

    pub fn unshut(&self) {
        self.change(|state| state.is_shut = false);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.change(|state| {
            state.is_over = true;
            cut(state, Break::Close);
        });
        // It waits for somebody to come.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn cut(state: &mut State, how: Break) {
    state.broken = Some((state.count, how));
    for (_, client, server) in state.lines.drain(..) {
        match how {
            Break::Close => {
                let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
            }
            Break::Reset => {
                for stream in [&client, &server] {
                    let linger = nix::libc::linger {
                        l_onoff: 1,
                        l_linger: 0,
                    };
                    let _ = setsockopt(stream, Linger, &linger);
                    // Wakes whoever reads, and says nothing to the other side: the last close does, by a RST.
                    let _ = stream.shutdown(Shutdown::Read);
                }
            }
            // Kept open by those who carry, who have gone to sleep over it.
            Break::Silence => {}
        }
    }
}

/// Carries bytes one way, until the line ends or is broken.
fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    number: u64,
    counts: bool,
    shared: &(Mutex<State>, Condvar),
) {
    let mut piece = [0; 4096];
    loop {
        let n = match from.read(&mut piece) {
            Ok(n) if n > 0 => n,
            _ => break,
        };
        let mut state = shared.0.lock().unwrap();
        let mut sent = n;
        if counts && let Some((left, how)) = state.fuse {
            if left >= n as u64 {
                state.fuse = Some((left - n as u64, how));
            } else {
                sent = usize::try_from(left).unwrap();
                state.fuse = None;
                let _ = to.write_all(&piece[..sent]);
                cut(&mut state, how);
                sent = 0;
            }
        }
        // A silent line: whatever comes goes nowhere, until the door is gone.
        while matches!(state.broken, Some((before, Break::Silence)) if number <= before) && !state.is_over {
            state = shared.1.wait(state).unwrap();
        }
        let is_broken = is_broken(&state, number);
        drop(state);
        if is_broken || to.write_all(&piece[..sent]).is_err() {
            break;
        }
    }
    let mut state = shared.0.lock().unwrap();
    // A line that has only been forgotten by the last cut is not one that has ended.
    while matches!(state.broken, Some((before, Break::Silence)) if number <= before) && !state.is_over {
        state = shared.1.wait(state).unwrap();
    }
    let is_reset = matches!(state.broken, Some((before, Break::Reset)) if number <= before);
    state.lines.retain(|(line, ..)| *line != number || !counts);
    drop(state);
    if !is_reset {
        let _ = to.shutdown(Shutdown::Write);
    }
}

fn is_broken(state: &State, number: u64) -> bool {
    matches!(state.broken, Some((before, how)) if number <= before && how != Break::Silence) || state.is_over
}
