//! The files that go with a job on another host, on that host: they are packed and unpacked by a process that is the job's user and stands where the
//! job begins, so that nothing that lies there gets more than that user's rights.

use super::VerbError;
use super::command::{build, settle_dir};
use super::remote::{captured_words, run_of};
use jobcage_remote::spool;
use jobcage_sys::spawn::{Plan, spawn};
use jobcage_sys::wait::{self, Change, Whom};
use nix::sys::signal::SigSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Unpacks an archive.
///
/// # Errors
/// Why it is not there, or not all of it.
pub fn unpack(words: &[OsString], dir: &OsStr, files: File) -> Result<(), VerbError> {
    let null = jobcage_sys::file::open_null().map_err(|errno| failed("/dev/null", errno.desc()))?;
    let said = perform(
        words,
        ["__unpack", "put files into"],
        dir,
        [files.as_fd(), null.as_fd()],
    );
    said.map(drop)
}

/// Packs a file or a directory; also how many in it were left out.
///
/// # Errors
/// Why there is no archive.
pub fn pack(words: &[OsString], path: &OsStr) -> Result<(File, u64), VerbError> {
    let null = jobcage_sys::file::open_null().map_err(|errno| failed("/dev/null", errno.desc()))?;
    let archive = spool().map_err(VerbError::Who)?;
    let said = perform(words, ["__pack", "pack"], path, [null.as_fd(), archive.as_fd()])?;
    Ok((archive, said.trim().parse().unwrap_or(0)))
}

fn failed(what: impl std::fmt::Display, why: impl std::fmt::Display) -> VerbError {
    VerbError::Who(format!("{what}: {why}"))
}

/// Runs this program with an inner word as the user of a job with these words; what it says on standard error.
fn perform(
    words: &[OsString],
    [inner, what]: [&str; 2],
    path: &OsStr,
    [stdin, stdout]: [BorrowedFd<'_>; 2],
) -> Result<String, VerbError> {
    let run = run_of(captured_words(&[], false, words))?;
    let mut command = build(&run.step)?;
    settle_dir(&mut command)?;
    let name = &path.display();
    let dir = command.dir.clone().unwrap_or_default();
    let mut said = spool().map_err(VerbError::Who)?;
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| failed(name, "it holds a NUL byte"));
    let plan = Plan {
        programs: vec![c"/proc/self/exe".into()],
        args: vec![c"jobcage".into(), text(inner.as_ref())?, text(path)?],
        env: vec![c"PATH=/usr/local/bin:/usr/bin:/bin".into(), c"LC_ALL=C".into()],
        stdio: [Some(stdin), Some(stdout), Some(said.as_fd())],
        identity: command.identity,
        dir: Some(dir.clone()),
        signal_mask: Some(SigSet::empty()),
        dies_with_us: true,
        ..Plan::default()
    };
    let child = spawn(&plan).map_err(|errno| failed(name, errno.desc()))?;
    let ended = wait::block(Whom::Pid(child.pid)).map_err(|errno| failed(name, errno.desc()))?;
    if let Some((_, errno)) = child.failure() {
        return Err(failed(
            format_args!("cannot {what} {name} in {}", dir.to_string_lossy()),
            errno.desc(),
        ));
    }
    let mut told = String::new();
    let _ = said.rewind().and_then(|()| said.read_to_string(&mut told));
    match ended.1 {
        Change::Exited(0) => Ok(told),
        _ => {
            let why = told.lines().next_back().unwrap_or("it failed without a word");
            Err(failed(
                format_args!("cannot {what} {name}"),
                why.trim_start_matches("jobcage: "),
            ))
        }
    }
}

/// `jobcage __unpack DIR`: an archive on standard input.
///
/// # Errors
/// Why it is not there, or not all of it.
pub fn unpack_here(dir: &OsStr) -> Result<(), VerbError> {
    let archive = File::from(own(std::io::stdin().as_fd())?);
    jobcage_remote::unpack(archive, Path::new(dir)).map_err(|error| VerbError::Who(error.to_string()))
}

/// `jobcage __pack PATH`: an archive on standard output; the number of those that were left out on standard error.
///
/// # Errors
/// Why there is none.
pub fn pack_here(path: &OsStr) -> Result<(), VerbError> {
    let archive = File::from(own(std::io::stdout().as_fd())?);
    let skipped = jobcage_remote::pack(Path::new(path), archive);
    let skipped = skipped.map_err(|error| VerbError::Who(error.to_string()))?;
    let told = writeln!(std::io::stderr(), "{skipped}");
    told.map_err(|error| failed("standard error", error))
}

fn own(fd: BorrowedFd<'_>) -> Result<std::os::fd::OwnedFd, VerbError> {
    fd.try_clone_to_owned()
        .map_err(|error| failed("standard input and output", error))
}
