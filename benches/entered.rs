//! Which functions of a program are entered, in the order in which they are entered first: what the linker needs to lay those
//! side by side that run together (`benches/order`).
//!
//!     entered PROGRAM COMMAND [ARGUMENT…]
//!
//! Runs the command and takes every process of it that executes PROGRAM, a static program with symbols, through it one
//! instruction at a time (ptrace(2), `PTRACE_SINGLESTEP`): some thousand times slower, and it misses nothing.

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// `PTRACE_EVENT_STOP`: a newborn process, or one that a signal has stopped.
const STOPPED: i32 = 128;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [program, command @ ..] = &words[..] else {
        eprintln!("entered: usage: entered PROGRAM COMMAND [ARGUMENT...]");
        return ExitCode::from(2);
    };
    let names = entered(Path::new(program), command);
    match names.and_then(|names| Ok(writeln!(io::stdout(), "{}", names.join("\n"))?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("entered: {error}");
            ExitCode::FAILURE
        }
    }
}

fn entered(program: &Path, command: &[String]) -> Result<Vec<String>> {
    let symbols = Symbols::of(program)?;
    let mut tracer = Tracer {
        program: fs::metadata(program)?.ino(),
        symbols,
        stepped: HashSet::new(),
        seen: HashSet::new(),
        names: Vec::new(),
    };
    tracer.follow(stopped(command)?)?;
    Ok(tracer.names)
}

/// The functions of a program by their addresses.
struct Symbols(Vec<(u64, String)>);

impl Symbols {
    fn of(program: &Path) -> Result<Self> {
        let listed = Command::new("nm")
            .args(["--numeric-sort", "--defined-only"])
            .arg(program)
            .output()?;
        let text = String::from_utf8(listed.stdout)?;
        let function = |line: &str| {
            let [address, kind, name] = line.split(' ').collect::<Vec<_>>()[..] else {
                return None;
            };
            let address = u64::from_str_radix(address, 16).ok()?;
            "tTwW".contains(kind).then(|| (address, name.to_owned()))
        };
        let all: Vec<_> = text.lines().filter_map(function).collect();
        if all.is_empty() {
            return Err(format!("{} has no symbols", program.display()).into());
        }
        Ok(Self(all))
    }

    /// All names of a function: which of them its section has, where equal functions were made one, cannot be seen.
    fn names(&self, at: usize) -> impl Iterator<Item = &str> {
        let address = self.0[at].0;
        let same = self.0[..=at]
            .iter()
            .rev()
            .take_while(move |(start, _)| *start == address);
        same.map(|(_, name)| &**name)
    }

    /// The place of the function in which an address is. What is beyond the last one is not the program's.
    fn at(&self, address: u64) -> Option<usize> {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        (after < self.0.len()).then(|| after.checked_sub(1)).flatten()
    }
}

/// A process that waits, stopped, to become the command.
fn stopped(command: &[String]) -> Result<Pid> {
    let child = Command::new("sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .args(command)
        .spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
    Ok(pid)
}

struct Tracer {
    program: u64,
    symbols: Symbols,
    /// Those that go on by single steps.
    stepped: HashSet<Pid>,
    seen: HashSet<usize>,
    names: Vec<String>,
}

impl Tracer {
    /// Until nobody is left.
    fn follow(&mut self, first: Pid) -> Result<()> {
        let options = Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC;
        ptrace::seize(first, options)?;
        nix::sys::signal::kill(first, Signal::SIGCONT)?;
        loop {
            match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => self.heed(status)?,
                Err(Errno::ECHILD) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn heed(&mut self, status: WaitStatus) -> Result<()> {
        match status {
            WaitStatus::PtraceEvent(pid, _, what) => {
                if what == STOPPED || what == ptrace::Event::PTRACE_EVENT_EXEC as i32 {
                    self.look_at(pid);
                }
                self.go_on(pid, None)
            }
            WaitStatus::Stopped(pid, Signal::SIGTRAP) => self.go_on(pid, None),
            WaitStatus::Stopped(pid, signal) => self.go_on(pid, Some(signal)),
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                self.stepped.remove(&pid);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether it is the program that this process executes.
    fn look_at(&mut self, pid: Pid) {
        let file = PathBuf::from(format!("/proc/{pid}/exe"));
        if fs::metadata(file).is_ok_and(|file| file.ino() == self.program) {
            self.stepped.insert(pid);
        } else {
            self.stepped.remove(&pid);
        }
    }

    fn go_on(&mut self, pid: Pid, signal: Option<Signal>) -> Result<()> {
        let done = if self.stepped.contains(&pid) {
            ptrace::getregs(pid).and_then(|registers| {
                self.note(registers.rip);
                ptrace::step(pid, signal)
            })
        } else {
            ptrace::cont(pid, signal)
        };
        match done {
            // It was killed; its end is told.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn note(&mut self, address: u64) {
        if let Some(at) = self.symbols.at(address)
            && self.seen.insert(at)
        {
            self.names.extend(self.symbols.names(at).map(str::to_owned));
        }
    }
}
