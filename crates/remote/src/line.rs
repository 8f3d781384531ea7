//! The client: one job on another host, over as many lines as it takes. One thread, one poll loop; what follows from what is [`Course`]'s.

mod freight;

use crate::call::{Ended, Lost, Options, Outcome, What};
use crate::course::{Deed, Ends};
use crate::error::{RemoteError, Result};
use crate::frame::{Answer, Ask, Frames, Hello, PROTOCOL, PROTOCOLS, Welcome};
use crate::link::{Link, Ready};
use crate::pace::Pace;
use crate::wait::wait_for;
use freight::{Outgoing, pieces};
use jobcage_ledger::log::Outlet;
use jobcage_supervisor::foreground::random;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// So many times without an answer, and the line is broken.
const PATIENCE: u32 = 3;
/// How long a new line may take to the host's first word, where nobody is asked for a password.
const DOOR: Duration = Duration::from_secs(30);
/// What may wait for our own outlets before no more is taken off the line.
const WAITING: usize = 4 << 20;

/// What is told of a wish that nobody hears.
const NO_LINE: &str =
    "there is no line: the job will be stopped as soon as there is one; the same again gives up";

/// One call of jobcage.
pub struct Client<'t> {
    options: Options,
    what: What,
    tell: &'t dyn Fn(&str),
    out: Outlet,
    err: Outlet,
    /// Output that our outlets have not taken yet.
    waiting: VecDeque<(bool, Vec<u8>)>,
    waiting_bytes: usize,
    signals: SignalFd,
    pace: Pace,
    /// Since when there has been no line.
    down_since: Option<Instant>,
    /// Whether a host has ever answered.
    has_met: bool,
    last_words: String,
    /// What is to be said on the line that is there.
    unsaid: Option<Ask>,
    /// What is to be said as soon as the line takes it.
    outgoing: VecDeque<Outgoing>,
    /// Some line was told to start the job.
    is_asked: bool,
    /// How the job ended, while its files come.
    ended: Option<Ends>,
    /// What has come of the first file that is wanted.
    coming: Option<File>,
    missing: Vec<String>,
    end: Option<Outcome>,
}

/// When the line was last heard of, and asked.
struct Pulse {
    heard: Instant,
    asked: Instant,
    has_greeted: bool,
}

impl<'t> Client<'t> {
    /// A client that writes to our standard output and error, and tells a person by `tell`. Blocks SIGINT, SIGTERM and SIGHUP for good.
    ///
    /// # Errors
    /// If one of the two cannot be looked at.
    pub fn new(options: Options, what: What, tell: &'t dyn Fn(&str)) -> Result<Self> {
        let outlet = |fd| Outlet::new(fd).map_err(RemoteError::system("look at standard output"));
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        signals
            .thread_block()
            .map_err(RemoteError::system("block signals"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            out: outlet(std::io::stdout().as_fd())?,
            err: outlet(std::io::stderr().as_fd())?,
            signals: SignalFd::with_flags(&signals, flags).map_err(RemoteError::system("make a signalfd"))?,
            options,
            what,
            tell,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            pace: Pace::default(),
            down_since: None,
            has_met: false,
            last_words: String::new(),
            unsaid: None,
            outgoing: VecDeque::new(),
            is_asked: false,
            ended: None,
            coming: None,
            missing: Vec::new(),
            end: None,
        })
    }

    /// Does it, to its end.
    ///
    /// # Errors
    /// If the host cannot be reached in the first place, or something on this side fails.
    pub fn run(mut self) -> Result<Ended> {
        loop {
            let is_again = self.has_met;
            match Link::open(&self.options, is_again, random()) {
                Ok(link) => self.hold(link)?,
                Err(error) if !is_again => return Err(error),
                Err(error) => self.last_words = error.to_string(),
            }
            if self.end.is_none() && !self.has_met {
                return Err(RemoteError::Unreachable {
                    host: self.options.host.clone(),
                    why: self.last_words,
                });
            }
            if self.end.is_none() {
                self.rest()?;
            }
            if let Some(end) = self.end.take() {
                self.drain()?;
                return Ok(Ended {
                    outcome: end,
                    what: self.what,
                    is_output_gone: self.out.is_gone(),
                    missing: self.missing,
                });
            }
        }
    }

    /// Goes on with one line for as long as it holds.
    fn hold(&mut self, mut link: Link) -> Result<()> {
        // What the line before has not taken is said anew, once this one has been welcomed.
        self.outgoing.clear();
        let now = Instant::now();
        let mut pulse = Pulse {
            heard: now,
            asked: now,
            has_greeted: false,
        };
        while self.end.is_none() {
            match self.turn(&mut link, &mut pulse) {
                Ok(true) => {}
                Ok(false) => {
                    self.last_words = link.end();
                    break;
                }
                // The first time it is the host's own fault, for which no second try is of use.
                Err(error) if !self.has_met => return Err(error),
                Err(error @ (RemoteError::Garbled(_) | RemoteError::Unreachable { .. })) => {
                    self.last_words = error.to_string();
                    break;
                }
                // On this side: no other line is of use.
                Err(error) => return Err(error),
            }
        }
        if self.end.is_none() && self.has_met && self.down_since.is_none() {
            self.down_since = Some(Instant::now());
            // It was perhaps said to a line that nobody heard any more.
            if matches!(&self.what, What::Job { course, .. } if course.stops() > 0) {
                (self.tell)(NO_LINE);
            }
        }
        Ok(())
    }

    /// One turn of a line; `false`: it has broken.
    fn turn(&mut self, link: &mut Link, pulse: &mut Pulse) -> Result<bool> {
        let ready = self.wait(link, pulse)?;
        let turn = link.turn(ready)?;
        self.look_at_signals(Some(link));
        if link.is_open() && !pulse.has_greeted {
            pulse.has_greeted = true;
            self.greet(link);
        }
        if turn.has_come {
            pulse.heard = Instant::now();
        }
        let mut frames = link.take_frames();
        let heeded = self.heed(&mut frames, link);
        link.give_back(frames);
        heeded?;
        self.flush()?;
        self.say_unsaid(link);
        // A dead line takes no more of them after a while, and then it is silent.
        if self.pump(link)? {
            pulse.heard = Instant::now();
        }
        Ok(self.end.is_some() || !turn.is_broken && self.beat(link, pulse))
    }

    fn greet(&self, link: &mut Link) {
        if link.has_copied() {
            (self.tell)(&format!(
                "{} had no jobcage of this version: copied there",
                self.options.host
            ));
        }
        link.say(&Ask::Hello(Hello {
            protocol: PROTOCOL,
            keepalive: self.options.keepalive,
            agent_for: match &self.what {
                What::Job { course, .. } if self.options.forward_agent => Some(course.id().clone()),
                _ => None,
            },
        }));
    }

    /// Asks a silent line whether it is there; `false`: it has not answered for too long.
    fn beat(&self, link: &mut Link, pulse: &mut Pulse) -> bool {
        let now = Instant::now();
        if !link.is_open() {
            return !self.has_met || now.duration_since(pulse.heard) < DOOR;
        }
        // While we take nothing off it, it cannot be heard.
        if !self.is_hungry() {
            pulse.heard = now;
        }
        if now.duration_since(pulse.asked) >= self.options.keepalive {
            pulse.asked = now;
            if link.is_idle() {
                link.say(&Ask::Ping);
            }
        }
        now.duration_since(pulse.heard) < self.options.keepalive * PATIENCE
    }

    fn is_hungry(&self) -> bool {
        self.waiting_bytes < WAITING
    }

    /// Until something is to be done.
    fn wait(&mut self, link: &Link, pulse: &Pulse) -> Result<Ready> {
        let next =
            (pulse.asked + self.options.keepalive).min(pulse.heard + self.options.keepalive * PATIENCE);
        let next = if link.is_open() { next } else { pulse.heard + DOOR };
        let time = next.saturating_duration_since(Instant::now());
        let (ours, line) = wait_for(self.poll_fds(), link.fds(self.is_hungry()), Some(time))?;
        self.told(ours);
        let [stdin, stdout, stderr] = line.map(|events| !events.is_empty());
        Ok(Ready {
            stdin,
            stdout,
            stderr,
        })
    }

    /// What is waited for whether there is a line or not: signals, and our outlets.
    fn poll_fds(&self) -> [Option<PollFd<'_>>; 3] {
        let signals = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
        [Some(signals), self.out.poll_fd(), self.err.poll_fd()]
    }

    /// What was told of them; signals are looked at in any case.
    fn told(&mut self, [_, out, err]: [PollFlags; 3]) {
        self.out.told(out);
        self.err.told(err);
    }

    /// Heeds all answers that have come as a whole. What comes behind the last word is not for us.
    fn heed(&mut self, frames: &mut Frames, link: &mut Link) -> Result<()> {
        while self.end.is_none()
            && let Some((kind, text)) = frames.next()?
        {
            self.answer(Answer::decode(kind, text)?, link)?;
        }
        Ok(())
    }

    fn answer(&mut self, answer: Answer<'_>, link: &mut Link) -> Result<()> {
        if let Answer::Welcome(welcome) = answer {
            return self.welcomed(&welcome, link);
        }
        if let Some(ends) = self.ended.take() {
            return self.fetched(answer, ends, link);
        }
        match (&mut self.what, answer) {
            (What::Close { course, is_told }, answer) => match course.heard(answer) {
                Some(Deed::Started) => is_told.store(true, Ordering::Relaxed),
                Some(Deed::End(ends)) => self.end = Some(Outcome::Job(ends)),
                _ => {}
            },
            (What::Verb(_), Answer::Said { to_stderr, bytes }) => self.put(to_stderr, bytes)?,
            (What::Verb(_), Answer::Done(code)) => self.end = Some(Outcome::Done(code)),
            (What::Verb(_), _) => {}
            (What::Job { course, detach, .. }, answer) => {
                let is_leaving = *detach;
                match course.heard(answer) {
                    None => {}
                    Some(Deed::Started) if is_leaving => self.end = Some(Outcome::Started),
                    Some(Deed::Started) => {}
                    Some(Deed::Write { to_stderr, bytes }) => self.put(to_stderr, bytes)?,
                    Some(Deed::Missing { place, bytes }) => (self.tell)(&format!(
                        "{bytes} bytes of {} are left out here: they were dropped at the limit of the log",
                        jobcage_ledger::log::name(place.0, place.1)
                    )),
                    Some(Deed::End(ends)) => self.job_ended(ends, link),
                    Some(Deed::Break(why)) => return Err(RemoteError::Garbled(why.into())),
                }
            }
        }
        Ok(())
    }

    fn welcomed(&mut self, welcome: &Welcome, link: &mut Link) -> Result<()> {
        if !PROTOCOLS.contains(&welcome.protocol) {
            return Err(RemoteError::Unreachable {
                host: self.options.host.clone(),
                why: format!(
                    "its jobcage {} speaks the versions {:?} of what goes over the line, and this one {PROTOCOLS:?}: install a nearer one on either \
                     side, or give one with --remote-binary",
                    welcome.version, welcome.known
                ),
            });
        }
        self.has_met = true;
        self.pace.reset();
        if let Some(ends) = self.ended.take() {
            self.job_ended(ends, link);
            return Ok(());
        }
        match &mut self.what {
            What::Verb(words) => link.say(&Ask::Verb(words.clone())),
            What::Close { course, .. } => link.say(&course.close(welcome)),
            What::Job {
                course, input, send, ..
            } => {
                let asks = course.connected(welcome);
                if matches!(asks.first(), Some(Ask::Start(_))) {
                    for (dir, file) in send {
                        self.outgoing.push_back(Outgoing::Say(Ask::Put(dir.clone())));
                        self.outgoing.push_back(pieces(file, Ask::Piece)?);
                    }
                    if let Some(file) = input {
                        self.outgoing.push_back(pieces(file, Ask::Input)?);
                    }
                }
                if self.outgoing.is_empty() {
                    self.is_asked = true;
                    asks.iter().for_each(|ask| link.say(ask));
                } else {
                    self.outgoing.extend(asks.into_iter().map(Outgoing::Say));
                }
            }
        }
        self.tell_of_return();
        Ok(())
    }

    fn tell_of_return(&mut self) {
        let Some(since) = self.down_since.take() else {
            return;
        };
        // What a job had written is in the memory of its host before it is on the disk.
        let what = match &self.what {
            What::Job { course, .. } if course.has_rebooted() => {
                "but the host was started anew: the end of the output may be missing"
            }
            _ => "nothing is lost of the output",
        };
        (self.tell)(&format!(
            "the line to {} is there again, after {:.1} s; {what}",
            self.options.host,
            since.elapsed().as_secs_f64()
        ));
    }

    /// Has output written, or what is not taken of it wait.
    fn put(&mut self, to_stderr: bool, mut bytes: &[u8]) -> Result<()> {
        if self.waiting.is_empty() {
            let outlet = if to_stderr { &mut self.err } else { &mut self.out };
            let taken = outlet.offer(bytes).map_err(unwritten)?;
            bytes = &bytes[taken..];
        }
        if !bytes.is_empty() {
            self.waiting_bytes += bytes.len();
            self.waiting.push_back((to_stderr, bytes.to_vec()));
        }
        Ok(())
    }

    /// Gives our outlets what they take.
    fn flush(&mut self) -> Result<()> {
        while let Some((to_stderr, bytes)) = self.waiting.front_mut() {
            let outlet = if *to_stderr { &mut self.err } else { &mut self.out };
            if outlet.is_gone() {
                if !*to_stderr {
                    self.output_is_gone();
                }
                let gone = self.waiting.pop_front().map_or(0, |(_, bytes)| bytes.len());
                self.waiting_bytes -= gone;
                continue;
            }
            let taken = outlet.offer(bytes).map_err(unwritten)?;
            self.waiting_bytes -= taken;
            bytes.drain(..taken);
            if bytes.is_empty() {
                self.waiting.pop_front();
            } else if taken == 0 && !outlet.is_gone() {
                break;
            }
        }
        Ok(())
    }

    /// A job in the foreground would be ended by its next write. Its end is to be seen and told all the same.
    fn output_is_gone(&mut self) {
        match &mut self.what {
            What::Job {
                course, stops: true, ..
            } if self.end.is_none() => {
                if course.stops() == 0 {
                    self.unsaid = Some(course.stop());
                }
            }
            _ => self.end = self.end.take().or(Some(Outcome::OutputGone)),
        }
    }

    fn say_unsaid(&mut self, link: &mut Link) {
        // Without a line it is said on the next one.
        if let Some(ask) = self.unsaid.take().filter(|_| link.is_open()) {
            link.say(&ask);
        }
    }

    /// Before we end: what is written to nobody yet goes out.
    fn drain(&mut self) -> Result<()> {
        loop {
            self.flush()?;
            if self.waiting.is_empty() {
                return Ok(());
            }
            let ([out, err], []) = wait_for([self.out.poll_fd(), self.err.poll_fd()], [], None)?;
            self.out.told(out);
            self.err.told(err);
        }
    }

    /// Hears signals. `link`: the line, if there is one.
    fn look_at_signals(&mut self, mut link: Option<&mut Link>) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
            if Signal::try_from(signal).is_ok_and(jobcage_sys::signal::is_ignored) {
                continue;
            }
            if let Some(ends) = self.ended.take() {
                self.files_are_missing("a signal has ended it");
                self.end = Some(Outcome::Job(ends));
                return;
            }
            let is_open = link.as_ref().is_some_and(|link| link.is_open());
            match &mut self.what {
                What::Job {
                    course, stops: true, ..
                } if self.has_met && (self.is_asked || self.outgoing.is_empty()) => {
                    let ask = course.stop();
                    match &mut link {
                        Some(_) if is_open && !self.outgoing.is_empty() => {
                            self.outgoing.push_back(Outgoing::Say(ask));
                        }
                        Some(link) if is_open => link.say(&ask),
                        _ if course.stops() > 1 => self.end = Some(Outcome::Lost(self.lost())),
                        _ => (self.tell)(NO_LINE),
                    }
                }
                _ => self.end = Some(Outcome::Interrupted(signal)),
            }
        }
    }

    fn lost(&self) -> Lost {
        let (is_started, is_stopped) = match &self.what {
            What::Job { course, .. } => (course.is_started(), course.stops() > 0),
            What::Close { .. } | What::Verb(_) => (false, false),
        };
        Lost {
            why: self.last_words.clone(),
            tried: self.down_since.map(|since| since.elapsed()).unwrap_or_default(),
            is_started,
            is_stopped,
        }
    }

    /// Between two lines.
    fn rest(&mut self) -> Result<()> {
        let since = *self.down_since.get_or_insert_with(Instant::now);
        let give_up = since + self.options.reconnect_for;
        let is_verb = matches!(self.what, What::Verb(_));
        // What a verb has said already would be said again.
        if is_verb || Instant::now() >= give_up {
            if let Some(ends) = self.ended.take() {
                // Of the job all is known; only its files are missing.
                self.files_are_missing(&format!("there is no line any more: {}", self.last_words));
                self.end = Some(Outcome::Job(ends));
                return Ok(());
            }
            self.end = Some(Outcome::Lost(self.lost()));
            return Ok(());
        }
        let until = (Instant::now() + self.pace.next(random())).min(give_up);
        while self.end.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let (ours, []) = wait_for(self.poll_fds(), [], Some(left))?;
            self.told(ours);
            self.look_at_signals(None);
            self.flush()?;
        }
        Ok(())
    }
}

fn unwritten(errno: jobcage_sys::Errno) -> RemoteError {
    RemoteError::system("write the output")(errno)
}
