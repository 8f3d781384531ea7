//! The runner's one loop: pipes, ends, signals, the words of the server, and every clock. Whoever waits for something calls
//! [`Hub::step`] until it is there, so that a call that was given up goes on being killed beside the next one.

use super::call::{Birth, Call, Phase};
use super::plan::{Generation, Plan};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What the server asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// `Job-Status: canceling`.
    Graceful,
    /// `Job-Status: canceled`, 403.
    Forced,
}

/// The loop and what it knows.
pub struct Hub {
    pub plan: Plan,
    calls: Vec<Call>,
    signals: SignalFd,
    server_is_there: bool,
    server_words: Vec<u8>,
    trace: File,
    log: File,
    line: Vec<u8>,
    terms: u32,
    stop_at: Option<Instant>,
    /// What the server was told to want; noticed at the next update.
    pub wanted: Option<Cancel>,
    noticed: Option<Cancel>,
    is_fresh: bool,
    next_update: Instant,
    last_send: Instant,
    /// When the job has had its time.
    pub job_deadline: Instant,
    /// When the script has.
    pub script_deadline: Option<Instant>,
}

impl Hub {
    pub fn new(plan: Plan) -> Self {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
            set.add(signal);
        }
        set.thread_block().unwrap();
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).unwrap();
        let append = |path| File::options().append(true).create(true).open(path).unwrap();
        let now = Instant::now();
        let timeout = plan.response["runner_info"]["timeout"].as_f64().unwrap_or(7200.0);
        Self {
            calls: Vec::new(),
            signals,
            server_is_there: true,
            server_words: Vec::new(),
            trace: append(&plan.trace),
            log: append(&plan.log),
            line: Vec::new(),
            terms: 0,
            stop_at: None,
            wanted: None,
            noticed: None,
            is_fresh: false,
            next_update: now + plan.time(plan.timeouts.update),
            last_send: now,
            job_deadline: now + plan.time(timeout),
            script_deadline: None,
            plan,
        }
    }

    /// A line of the trace, in one write: others append to it too.
    pub fn tell(&self, what: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let line = format!("{:.6} {what}\n", now.as_secs_f64());
        (&self.trace).write_all(line.as_bytes()).unwrap();
    }

    /// A timeout was waited out; all of it, or something between two bounds.
    pub fn waited(&self, what: &str, seconds: (f64, f64)) {
        self.tell(&format!("runner waited {what} {}-{}", seconds.0, seconds.1));
    }

    /// Into the job's log, where masked values are masked, line by line.
    pub fn log(&mut self, piece: &[u8]) {
        self.is_fresh |= !piece.is_empty();
        self.line.extend(piece);
        if let Some(end) = self.line.iter().rposition(|byte| *byte == b'\n') {
            let rest = self.line.split_off(end + 1);
            let whole = std::mem::replace(&mut self.line, rest);
            self.log_masked(&whole);
        }
    }

    /// What has no line end.
    pub fn log_rest(&mut self) {
        let rest = std::mem::take(&mut self.line);
        self.log_masked(&rest);
    }

    fn log_masked(&self, text: &[u8]) {
        let mut text = String::from_utf8_lossy(text).into_owned();
        let variables = self.plan.response["variables"].as_array().into_iter().flatten();
        for value in variables
            .filter(|one| one["masked"] == true)
            .filter_map(|one| one["value"].as_str())
        {
            text = text.replace(value, "[MASKED]");
        }
        (&self.log).write_all(text.as_bytes()).unwrap();
    }

    /// Starts a call: its index.
    pub fn start(&mut self, birth: &Birth<'_>) -> Option<usize> {
        let argv = birth.more.join(" ");
        self.tell(&format!(
            "runner {} START argc={} argv=[{argv}]",
            birth.name,
            birth.more.len()
        ));
        match Call::start(birth) {
            Ok(call) => self.calls.push(call),
            Err(why) => {
                self.log(format!("ERROR: {}: {why}\n", birth.words[0]).as_bytes());
                return None;
            }
        }
        Some(self.calls.len() - 1)
    }

    pub fn call(&self, index: usize) -> &Call {
        &self.calls[index]
    }

    /// What the last call has written to its stdout, if that was config.
    pub fn last_answer(&self) -> Vec<u8> {
        self.calls
            .last()
            .map_or_else(Vec::new, |call| call.answer.clone())
    }

    /// Begins to end a call: SIGTERM to its group.
    pub fn ask_to_end(&mut self, index: usize) {
        if self.calls[index].phase == Phase::Runs {
            self.signal(index, Signal::SIGTERM, "terminate");
            self.calls[index].phase = Phase::Asked(Instant::now());
        }
    }

    fn signal(&mut self, index: usize, signal: Signal, word: &str) {
        let call = &self.calls[index];
        self.tell(&format!(
            "runner {} SENT {signal} to group {}",
            call.name, call.pid
        ));
        if call.signal(signal).is_err() {
            self.log(format!("WARNING: Failed to {word}: no such process\n").as_bytes());
        }
    }

    /// Which cancel the runner knows of. 14.7 takes each for a plain one.
    pub fn cancel(&self) -> Option<Cancel> {
        match self.plan.generation {
            Generation::V14 => self.noticed.map(|_| Cancel::Forced),
            Generation::V18 => self.noticed,
        }
    }

    /// Whether the runner was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.terms > 0
    }

    /// Waits for the next thing to happen, at most until then, and does what is due.
    pub fn step(&mut self, until: Option<Instant>) {
        let dues = self.calls.iter().filter(|call| !call.is_over());
        let dues = dues.filter_map(|call| call.due(&self.plan));
        let clocks = [until, self.stop_at, Some(self.next_update)];
        let next = dues.chain(clocks.into_iter().flatten()).min();
        let timeout = next.map_or(PollTimeout::NONE, crate::support::left);
        for source in self.wait(timeout) {
            self.take(source);
        }
        self.pass_clocks();
    }

    fn wait(&self, timeout: PollTimeout) -> Vec<Source> {
        let mut sources = vec![(Source::Signals, self.signals.as_fd())];
        let stdin = std::io::stdin();
        // It lives as long as the process.
        if self.server_is_there {
            sources.push((Source::Server, stdin.as_fd()));
        }
        for (index, call) in self.calls.iter().enumerate() {
            if let Some(pidfd) = &call.pidfd {
                sources.push((Source::End(index), pidfd.as_fd()));
            }
            // From the last one: an end that was reached is removed.
            for (pipe, (reader, _)) in call.pipes.iter().enumerate().rev() {
                sources.push((Source::Pipe(index, pipe), reader.as_fd()));
            }
        }
        let fds: Vec<BorrowedFd<'_>> = sources.iter().map(|(_, fd)| *fd).collect();
        let mut fds: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        // EINTR: a stop and a continue.
        let _ = poll(&mut fds, timeout);
        let ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        sources
            .iter()
            .zip(ready)
            .filter(|(_, ready)| *ready)
            .map(|((source, _), _)| *source)
            .collect()
    }

    fn take(&mut self, source: Source) {
        match source {
            Source::Signals => self.take_signals(),
            Source::Server => self.take_words(),
            Source::End(index) => {
                if self.calls[index].reap() {
                    let call = &self.calls[index];
                    let end = match call.status {
                        Some(WaitStatus::Exited(_, code)) => format!("rc={code}"),
                        Some(WaitStatus::Signaled(_, signal, _)) => format!("{signal}"),
                        _ => unreachable!("it was reaped"),
                    };
                    self.tell(&format!("runner {} EXIT {end}", call.name));
                }
            }
            Source::Pipe(index, pipe) => {
                if let Some(piece) = self.calls[index].read(pipe) {
                    self.log(&piece);
                }
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = Signal::try_from(info.ssi_signo.cast_signed()).unwrap();
            self.tell(&format!("runner GOT {signal}"));
            if signal == Signal::SIGQUIT {
                continue;
            }
            self.terms += 1;
            if self.terms > 1 {
                Self::leave();
            }
            self.stop_at = Some(Instant::now() + self.plan.time(self.plan.timeouts.shutdown));
        }
    }

    /// Without a cleanup and without a word to the server (contract, fact 5).
    fn leave() -> ! {
        std::process::exit(1);
    }

    /// `cancel canceling`, `cancel canceled`, and jumps of the clock: `expire job`, `expire script`.
    fn take_words(&mut self) {
        let mut piece = [0; 256];
        let n = nix::unistd::read(std::io::stdin().as_fd(), &mut piece).unwrap_or(0);
        self.server_is_there = n > 0;
        self.server_words.extend(&piece[..n]);
        while let Some(end) = self.server_words.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.server_words.drain(..=end).collect();
            let now = Instant::now();
            match String::from_utf8_lossy(&line).trim() {
                "cancel canceling" => self.want(Cancel::Graceful, "canceling"),
                "cancel canceled" => self.want(Cancel::Forced, "canceled"),
                "expire job" => self.job_deadline = now,
                "expire script" => self.script_deadline = Some(now),
                other => panic!("the server has no word {other:?}"),
            }
        }
    }

    fn want(&mut self, cancel: Cancel, mode: &str) {
        self.tell(&format!("server server_cancel {{\"mode\": \"{mode}\"}}"));
        self.wanted = Some(cancel);
    }

    fn pass_clocks(&mut self) {
        let now = Instant::now();
        if self.stop_at.is_some_and(|at| now >= at) {
            let shutdown = self.plan.timeouts.shutdown;
            self.waited("shutdown_timeout", (shutdown, shutdown));
            Self::leave();
        }
        if now >= self.next_update {
            self.update(now);
        }
        for index in 0..self.calls.len() {
            let call = &self.calls[index];
            if !call.is_over() && call.due(&self.plan).is_some_and(|due| now >= due) {
                self.go_on_killing(index, now);
            }
        }
    }

    /// A cancel is seen in the answer to the next piece of the log, which is not sent as long as there is none.
    fn update(&mut self, now: Instant) {
        self.next_update = now + self.plan.time(self.plan.timeouts.update);
        let (update, force) = (self.plan.timeouts.update, self.plan.timeouts.force_send);
        if !self.is_fresh && now < self.last_send + self.plan.time(force) {
            return;
        }
        if self.noticed != self.wanted {
            let bounds = if self.is_fresh {
                (0.0, update)
            } else {
                (update, force)
            };
            self.waited("trace_update", bounds);
        }
        self.tell("runner sent the log");
        (self.is_fresh, self.last_send) = (false, now);
        self.noticed = self.wanted;
    }

    fn go_on_killing(&mut self, index: usize, now: Instant) {
        let (graceful, force) = (self.plan.timeouts.graceful_kill, self.plan.timeouts.force_kill);
        if let Phase::Asked(_) = self.calls[index].phase {
            self.waited("graceful_kill_timeout", (graceful, graceful));
            self.signal(index, Signal::SIGKILL, "force-kill");
            self.calls[index].phase = Phase::Killed(now);
        } else {
            self.waited("force_kill_timeout", (force, force));
            let pid = self.calls[index].pid;
            self.log(
                format!("ERROR: failed to kill process PID={pid}, likely process is dormant\n").as_bytes(),
            );
            self.calls[index].phase = Phase::Abandoned;
        }
    }

    /// Passes the time, whatever happens meanwhile.
    pub fn rest(&mut self, what: &str, bounds: (f64, f64), seconds: f64) {
        let end = Instant::now() + self.plan.time(seconds);
        while Instant::now() < end {
            self.step(Some(end));
        }
        self.waited(what, bounds);
    }
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Server,
    End(usize),
    Pipe(usize, usize),
}
