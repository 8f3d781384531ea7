//! One call of the driver: born in a process group of its own with pipes of the runner, and ended as `helpers/process` ends it.

use super::plan::Plan;
use jobcage_sys::spawn::{self, Go};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setpgid};
use std::ffi::CString;
use std::fs::File;
use std::io::{PipeReader, Read as _, Write as _, pipe};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

/// Where a kill has come to (contract A7).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Phase {
    /// Nobody has asked it to end.
    Runs,
    /// SIGTERM was sent.
    Asked(Instant),
    /// SIGKILL was sent.
    Killed(Instant),
    /// Neither helped.
    Abandoned,
}

/// A call.
pub struct Call {
    /// As the traces write it: `config`, `run[build_script]`.
    pub name: String,
    pub pid: i32,
    pub pidfd: Option<OwnedFd>,
    /// The read ends that somebody still may write into.
    pub pipes: Vec<(PipeReader, bool)>,
    pub status: Option<WaitStatus>,
    pub phase: Phase,
    /// What config has written to stdout: not for the log.
    pub answer: Vec<u8>,
}

/// Everything that a call gets from the runner.
pub struct Birth<'a> {
    pub name: String,
    pub words: &'a [String],
    pub more: &'a [String],
    pub env: Vec<(String, String)>,
    pub dir: &'a std::path::Path,
    pub two_pipes: bool,
}

impl Call {
    /// Starts it. It is the leader of its process group before its first instruction, in the runner's session.
    pub fn start(birth: &Birth<'_>) -> std::io::Result<Self> {
        let c = |text: &str| CString::new(text).map_err(std::io::Error::other);
        let args: Vec<&String> = birth.words.iter().chain(birth.more).collect();
        let env = birth
            .env
            .iter()
            .map(|(name, value)| c(&format!("{name}={value}")));
        let (out, out_end) = pipe()?;
        let (err, err_end) = if birth.two_pipes {
            let (err, end) = pipe()?;
            (Some(err), end)
        } else {
            (None, out_end.try_clone()?)
        };
        let null = File::open("/dev/null")?;
        let (go, mut word) = pipe()?;
        let plan = spawn::Plan {
            programs: vec![c(&birth.words[0])?],
            args: args.iter().map(|word| c(word)).collect::<Result<_, _>>()?,
            env: env.collect::<Result<_, _>>()?,
            stdio: [Some(null.as_fd()), Some(out_end.as_fd()), Some(err_end.as_fd())],
            dir: Some(c(&birth.dir.display().to_string())?),
            go: Some(Go {
                wait: go.as_fd(),
                hold: word.as_fd(),
            }),
            // Ours are blocked, for the signalfd.
            signal_mask: Some(SigSet::empty()),
            ..spawn::Plan::default()
        };
        let child = spawn::spawn(&plan)?;
        setpgid(Pid::from_raw(child.pid), Pid::from_raw(child.pid))?;
        word.write_all(b"g")?;
        let config = birth.name == "config";
        let mut pipes = vec![(out, config)];
        pipes.extend(err.map(|err| (err, false)));
        let pidfd = jobcage_sys::pidfd::open(child.pid)?;
        let pid = child.pid;
        // It lives in memory of ours until its exec.
        std::mem::forget(child);
        Ok(Self {
            name: birth.name.clone(),
            pid,
            pidfd: Some(pidfd),
            pipes,
            status: None,
            phase: Phase::Runs,
            answer: Vec::new(),
        })
    }

    /// As `exec.Cmd.Wait`: the driver has ended, and nobody holds its pipes.
    pub fn is_over(&self) -> bool {
        self.status.is_some() && self.pipes.is_empty()
    }

    /// Reads what one of its pipes has; `None`: it was for the runner and not for the log.
    pub fn read(&mut self, index: usize) -> Option<Vec<u8>> {
        let mut piece = [0; 65536];
        let (pipe, is_answer) = &mut self.pipes[index];
        let n = pipe.read(&mut piece).unwrap_or(0);
        if *is_answer {
            self.answer.extend(&piece[..n]);
        }
        let log = (!*is_answer).then(|| piece[..n].to_vec());
        if n == 0 {
            self.pipes.remove(index);
        }
        log
    }

    /// Reaps the driver, if it has ended.
    pub fn reap(&mut self) -> bool {
        if self.status.is_none()
            && let Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) =
                waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG))
        {
            self.status = Some(status);
            self.pidfd = None;
            return true;
        }
        false
    }

    /// To the group. The runner only warns if there is nobody in it any more, and waits all the same.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        killpg(Pid::from_raw(self.pid), signal)
    }

    /// When the next step of its kill is due.
    pub fn due(&self, plan: &Plan) -> Option<Instant> {
        match self.phase {
            Phase::Asked(at) => Some(at + plan.time(plan.timeouts.graceful_kill)),
            Phase::Killed(at) => Some(at + plan.time(plan.timeouts.force_kill)),
            Phase::Runs | Phase::Abandoned => None,
        }
    }
}
