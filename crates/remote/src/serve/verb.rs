//! The verbs that a host does as they are.

use super::line::Line;
use crate::error::{RemoteError, Result};
use crate::frame::{Answer, Ask, PIECE};
use jobcage_sys::Errno;
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

/// Another verb, as a process of its own: it dies with the line.
pub(super) fn perform(line: &mut Line, words: &[OsString]) -> Result<()> {
    let failed = |error: std::io::Error| RemoteError::System {
        what: "start the verb",
        errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
    };
    let mut child = Command::new("/proc/self/exe")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let passed = pass_on(line, &mut child);
    if !matches!(passed, Ok(true)) {
        // Nobody hears it any more; our unreaped child.
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    if passed? {
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        line.say(&Answer::Done(
            code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125),
        ));
        return line.finish();
    }
    Ok(())
}

/// What a child writes, until it has closed both of its ends; `false`: the line was closed before.
fn pass_on(line: &mut Line, child: &mut Child) -> Result<bool> {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let mut piece = vec![0; PIECE];
    while out.is_some() || err.is_some() {
        let is_heard = line.has_room();
        let fds = [out.as_ref().map(AsFd::as_fd), err.as_ref().map(AsFd::as_fd)];
        let (told, ended) = line.turn_with(&fds.map(|fd| fd.filter(|_| is_heard)), None)?;
        if ended {
            return Ok(false);
        }
        if told[0] && pass(line, out.as_mut(), &mut piece, false) {
            out = None;
        }
        if told[1] && pass(line, err.as_mut(), &mut piece, true) {
            err = None;
        }
        while let Some(ask) = line.take()? {
            if ask == Ask::Ping {
                line.say(&Answer::Pong);
            }
        }
    }
    Ok(true)
}

/// One piece; whether that was the end.
fn pass(line: &mut Line, from: Option<&mut impl Read>, piece: &mut [u8], to_stderr: bool) -> bool {
    match from.map(|from| from.read(piece)) {
        Some(Ok(n)) if n > 0 => {
            let bytes = &piece[..n];
            line.say(&Answer::Said { to_stderr, bytes });
            false
        }
        Some(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => false,
        _ => true,
    }
}
