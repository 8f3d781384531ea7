//! One job on several hosts, side by side: a jobcage for each, as a person would start them, its lines with the host's name before them, and a
//! table in the end.

use super::{Outcome, VerbError};
use crate::cli::request::{HostsRequest, Voice};
use jobcage_job::Report;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::json;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// jobcage failed.
const FAILED: i32 = 125;

/// The job on one host.
struct Part {
    host: String,
    child: Child,
    process: OwnedFd,
    report: PathBuf,
    readers: Vec<JoinHandle<()>>,
    code: Option<i32>,
}

/// `jobcage run --host A --host B …`.
///
/// # Errors
/// If one of them cannot be started here; how they ended there is the exit code.
pub fn hosts(request: HostsRequest) -> Outcome {
    let failed =
        |source: std::io::Error| VerbError::Who(format!("cannot start the jobs on several hosts: {source}"));
    let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    let system = |errno: nix::Error| failed(errno.into());
    set.thread_block().map_err(system)?;
    let signals =
        SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(system)?;
    let reports = reports_dir().map_err(failed)?;
    let width = request.hosts.iter().map(String::len).max().unwrap_or(0);
    let mut parts = Vec::new();
    for (number, host) in request.hosts.iter().enumerate() {
        let report = reports.join(format!("{number}.json"));
        match start(host, width, &request, report) {
            Ok(part) => parts.push(part),
            Err(error) => {
                stop(&parts, Signal::SIGTERM);
                let _ = follow(&mut parts, &signals, false);
                let _ = std::fs::remove_dir_all(&reports);
                return Err(failed(error));
            }
        }
    }
    follow(&mut parts, &signals, request.fail_fast).map_err(failed)?;
    let told: Vec<Option<Report>> = parts.iter().map(|part| read(&part.report)).collect();
    if request.common.voice != Voice::Quiet {
        table(&parts, &told, width);
    }
    if let Some(path) = &request.report
        && let Err(error) = write(path, &parts, &told)
    {
        crate::complain(&format_args!(
            "cannot write the report to {}: {error}",
            path.display()
        ));
    }
    let _ = std::fs::remove_dir_all(&reports);
    let first = parts.iter().filter_map(|part| part.code).find(|code| *code != 0);
    Ok(u8::try_from(first.unwrap_or(0) & 0xff).unwrap_or(u8::MAX))
}

/// A directory for nobody else: what is in it is read again by us alone.
fn reports_dir() -> std::io::Result<PathBuf> {
    let random = jobcage_supervisor::foreground::random();
    let dir = std::env::temp_dir().join(format!("jobcage-{random:016x}"));
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&dir)?;
    Ok(dir)
}

/// What each of them fetches comes into a directory of its own.
fn own_words(words: &[OsString], host: &str) -> Vec<OsString> {
    let host = host.replace('/', "_");
    let options = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let own = |(at, word): (usize, &OsString)| {
        let bytes = word.as_encoded_bytes();
        let mut word = word.clone();
        if at < options && bytes.starts_with(b"--fetch=") {
            word.push(if bytes.contains(&b':') { "/" } else { ":" });
            word.push(&host);
        }
        word
    };
    words.iter().enumerate().map(own).collect()
}

fn start(host: &str, width: usize, request: &HostsRequest, report: PathBuf) -> std::io::Result<Part> {
    let mut child = Command::new("/proc/self/exe")
        .arg("run")
        .arg(format!("--host={host}"))
        .arg(format!("--report={}", report.display()))
        .args(own_words(&request.words, host))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C comes to us alone, and once to each of them.
        .process_group(0)
        .spawn()?;
    let prefix = format!("{host:width$} | ");
    let mut readers = Vec::new();
    if let Some(out) = child.stdout.take() {
        let prefix = prefix.clone();
        readers.push(std::thread::spawn(move || {
            pass(out, &prefix, &mut std::io::stdout())
        }));
    }
    if let Some(err) = child.stderr.take() {
        readers.push(std::thread::spawn(move || {
            pass(err, &prefix, &mut std::io::stderr())
        }));
    }
    let pid = i32::try_from(child.id()).unwrap_or(0);
    Ok(Part {
        host: host.into(),
        process: jobcage_sys::pidfd::open(pid).map_err(std::io::Error::from)?,
        child,
        report,
        readers,
        code: None,
    })
}

/// Whole lines, each in one write; the last one may have no end. Whoever writes on though nobody reads is told by its next write.
fn pass(from: impl Read, prefix: &str, to: &mut impl Write) {
    let mut from = BufReader::new(from);
    let mut line = prefix.as_bytes().to_vec();
    while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        if to.write_all(&line).and_then(|()| to.flush()).is_err() {
            return;
        }
        line.truncate(prefix.len());
    }
}

fn stop(parts: &[Part], signal: Signal) {
    for part in parts.iter().filter(|part| part.code.is_none()) {
        // One that has ended needs no signal.
        let _ = jobcage_sys::pidfd::send_signal(part.process.as_fd(), signal as i32);
    }
}

/// Until all have ended.
fn follow(parts: &mut [Part], signals: &SignalFd, fail_fast: bool) -> std::io::Result<()> {
    while parts.iter().any(|part| part.code.is_none()) {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let alive = parts.iter().filter(|part| part.code.is_none());
        fds.extend(alive.map(|part| PollFd::new(part.process.as_fd(), PollFlags::POLLIN)));
        match ppoll(&mut fds, None, None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        drop(fds);
        while let Ok(Some(info)) = signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok());
            stop(parts, signal.unwrap_or(Signal::SIGTERM));
        }
        let mut has_failed = false;
        for part in parts.iter_mut().filter(|part| part.code.is_none()) {
            if let Some(status) = part.child.try_wait()? {
                let code = status
                    .code()
                    .or(status.signal().map(|signal| 128 + signal))
                    .unwrap_or(FAILED);
                part.code = Some(code);
                has_failed |= code != 0;
                part.readers.drain(..).for_each(|reader| drop(reader.join()));
            }
        }
        if has_failed && fail_fast {
            stop(parts, Signal::SIGTERM);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Option<Report> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn table(parts: &[Part], told: &[Option<Report>], width: usize) {
    for (part, report) in parts.iter().zip(told) {
        let code = part.code.unwrap_or(FAILED);
        let how = report.as_ref().map_or_else(
            || "no job was begun, or its end is not known".into(),
            |report| {
                format!(
                    "{} {:.1} s: the job {}",
                    report.job, report.wall_seconds, report.ending
                )
            },
        );
        crate::complain(&crate::render::harmless(&format!(
            "{:width$} {code:>3} {how}",
            part.host
        )));
    }
}

fn write(path: &Path, parts: &[Part], told: &[Option<Report>]) -> std::io::Result<()> {
    let all: Vec<_> = parts
        .iter()
        .zip(told)
        .map(|(part, report)| json!({"host": part.host, "exit_code": part.code, "report": report}))
        .collect();
    let mut text = serde_json::to_string_pretty(&json!({"version": 1, "hosts": all}))?;
    text.push('\n');
    std::fs::write(path, text)
}
