//! `--after-reboot`: the after phase as it stands in the record, for when the host went down, or keeper and supervisor both
//! died, and with them what was in memory. It is marked on the disk before it is started, so that it is once at most.

use super::output::{self, Output};
use crate::closing::{self, Closed, Outside};
use crate::error::{Failure, Result};
use crate::foreground::{merge_cut, result_variables};
use crate::hand;
use crate::host::{self, cstring};
use crate::job::Command;
use crate::keeper::{self, Start};
use crate::package;
use crate::step::{self, exit_status};
use crate::witness;
use jobcage_cage::{Cage, Leaf};
use jobcage_job::handed::{DEFAULT_PATH, Handed, MAX_TOTAL, wrong_lines};
use jobcage_job::{AFTER_VERSION, AfterMark, AfterReboot, Clock, Ending, JobSpec, StepKind, StepReport};
use jobcage_ledger::{Places, Record, boot_id};
use jobcage_sys::spawn::{Child, Identity};
use jobcage_sys::wait::{self, Change, Whom};
use jobcage_sys::{Errno, file};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Reads `--after-env-file`: its variables, and a note for each line that is none, without its text.
///
/// # Errors
/// Why it cannot be read, as a sentence without a path.
pub fn read_env_file(path: &Path) -> std::result::Result<(Handed, Vec<String>), String> {
    // Whoever owns a directory on its way may have put a link there since: its reader would be led to other secrets.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| e.to_string())?;
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err("it is no regular file".into());
    }
    let really = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if really.map_err(|e| e.to_string())? != path {
        return Err("there is a symbolic link on its path".into());
    }
    let mut text = Vec::new();
    let limit = MAX_TOTAL as u64;
    file.by_ref()
        .take(limit + 1)
        .read_to_end(&mut text)
        .map_err(|e| e.to_string())?;
    if text.len() as u64 > limit {
        return Err("it has more than 1 MiB, which no program can be given".into());
    }
    let (handed, wrong) = Handed::parse(&text, b"");
    let notes = wrong_lines(&wrong);
    let notes = notes
        .into_iter()
        .map(|note| note.replace("JOBCAGE_ENV", "the --after-env-file"));
    Ok((handed, notes.collect()))
}

/// What is to be told of the recorded after phase of a job.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Its step, if there is one that nobody else has written down.
    pub(crate) step: Option<StepReport>,
    /// For the report.
    pub(crate) notes: Vec<String>,
}

/// Runs the recorded after phase of a job that has ended so, unless it was started before, and ends what it leaves. The
/// caller has the lock, and `closed` is the end of the job's own cage.
pub(crate) fn run(
    places: &Places,
    record: &Record,
    spec: &JobSpec,
    ending: &Ending,
    closed: &mut Closed,
) -> Told {
    let mut told = Told::default();
    let Some(after) = &spec.after_reboot else {
        return told;
    };
    let mark = match record.after_mark() {
        Ok(mark) => mark,
        // What cannot be read may say that it ran.
        Err(error) => {
            told.notes.push(format!("its after phase was not run: {error}"));
            return told;
        }
    };
    let done = match &mark {
        Some(mark) => cut_short(record, spec, mark, closed, &mut told),
        None => start(places, record, spec, after, ending, closed, &mut told),
    };
    if let Err(failure) = done {
        told.notes.push(format!("its after phase: {failure}"));
    }
    told
}

/// It was started before, by whoever was cut off.
fn cut_short(
    record: &Record,
    spec: &JobSpec,
    mark: &AfterMark,
    closed: &mut Closed,
    told: &mut Told,
) -> Result<()> {
    // Whoever started it in this boot may have left it running.
    if mark.boot_id == boot_id()? && closed.quarantine.is_none() {
        let cage = Cage::open(Path::new(&mark.cage), false)?;
        end(record, spec, cage.as_ref(), closed)?;
    }
    let known = record.step(mark.step).ok().flatten();
    if known.as_ref().is_some_and(|step| step.status.is_some()) {
        return Ok(());
    }
    let by = if mark.boot_id == boot_id()? {
        "the death of who had started it"
    } else {
        "the host's going down"
    };
    told.notes.push(format!(
        "its after phase was started at {} and interrupted by {by}; it is not repeated",
        mark.at
    ));
    let mut step = known.unwrap_or_else(|| StepReport {
        started: mark.at.clone(),
        ..step::begun(mark.step, StepKind::After)
    });
    step.ending = Ending::Lost {
        why: format!("it was interrupted by {by}"),
    };
    told.step = Some(step);
    Ok(())
}

fn start(
    places: &Places,
    record: &Record,
    spec: &JobSpec,
    after: &AfterReboot,
    ending: &Ending,
    closed: &mut Closed,
    told: &mut Told,
) -> Result<()> {
    let refused = |why: &str| Err(Failure::Refused(why.into()));
    if !record.is_ours() || spec.owner != nix::unistd::geteuid().as_raw() {
        return refused("it was not run: the record is another user's");
    }
    if closed.quarantine.is_some() {
        return refused("it was not run: something of the job is still alive");
    }
    let (cage, leaf) = host::while_root_lasts(|| make_cage(places, spec, after))?;
    let number = 1 + record.steps()?.last().map_or(1, |step| step.number);
    let mark = AfterMark {
        version: AFTER_VERSION,
        boot_id: boot_id()?,
        cage: cage.dir().path().display().to_string(),
        step: number,
        at: closing::now(),
    };
    let mut step = StepReport {
        started: mark.at.clone(),
        ..step::begun(number, StepKind::After)
    };
    let marked = record.mark_after(&mark).and_then(|()| record.write_step(&step));
    let ran = match marked {
        Ok(()) => watch(record, spec, after, ending, &leaf, &mut step, told),
        Err(error) => Err(error.into()),
    };
    let mut outputs = match ran {
        Ok(outputs) => outputs,
        Err(failure) => {
            let _ = end(record, spec, Some(&cage), closed);
            return Err(failure);
        }
    };
    end(record, spec, Some(&cage), closed)?;
    for output in &mut outputs {
        output.drain_to_end();
        output.close();
    }
    step.logs = outputs.iter().map(|output| output.report(true)).collect();
    step.ended.get_or_insert_with(closing::now);
    record.write_step(&step)?;
    let how = match &step.ending {
        Ending::Exited { code } => format!("exit code {code}"),
        other => other.to_string(),
    };
    told.notes.push(format!(
        "its after phase ran afterwards, without the environment of the job, since that was gone: {how}"
    ));
    told.step = Some(step);
    Ok(())
}

/// A cage of its own, under the name of the job, whose own one is gone.
fn make_cage(places: &Places, spec: &JobSpec, after: &AfterReboot) -> Result<(Cage, Leaf)> {
    let configured = after.cgroup_root.as_deref().map(Path::new);
    let found = match host::root(configured, places) {
        // What was configured then may not be there now.
        Err(_) if configured.is_some() => host::root(None, places)?,
        other => other?,
    };
    let mut cage = Cage::create(found.dir, &spec.id, false)?;
    let leaf = cage.leaf(StepKind::After)?;
    Ok((cage, leaf))
}

/// Ends what is in a cage, and adds that to what is known of the job's end.
fn end(record: &Record, spec: &JobSpec, cage: Option<&Cage>, closed: &mut Closed) -> Result<()> {
    let mut later = closing::end_cage(cage, false, &mut witness::of(record, spec))?;
    closing::look_outside(spec, Outside::Unknown, &mut later);
    let before = std::mem::take(closed);
    if cage.is_some() {
        // What was there before it had its own end; where the host went down there was nothing to prove.
        merge_cut(&mut later, before.emptied);
    } else {
        later.emptied = before.emptied;
    }
    later.usage = before.usage;
    later.escaped.splice(..0, before.escaped);
    later.guests.splice(..0, before.guests);
    later.notes.splice(..0, before.notes);
    later.quarantine = before.quarantine.or(later.quarantine);
    *closed = later;
    Ok(())
}

/// Starts it, and moves its output into its log until it ends or its time is over.
fn watch(
    record: &Record,
    spec: &JobSpec,
    after: &AfterReboot,
    ending: &Ending,
    leaf: &Leaf,
    step: &mut StepReport,
    told: &mut Told,
) -> Result<Vec<Output>> {
    wait::expect_children().map_err(Failure::system("reset SIGCHLD"))?;
    let command = command(spec, after, ending, &mut told.notes);
    let Some(capture) = &spec.capture else {
        return Err(Failure::Refused(
            "the record does not say how its output is kept".into(),
        ));
    };
    let start = Start {
        step: step.number,
        output: capture.streams.into(),
        stdin: false,
        owner: command.identity.as_ref().map(|identity| identity.uid),
        // It has a session of its own, and no terminal.
        no_keystrokes: false,
    };
    let mut outputs = output::open(record.dir(), step.number, capture)?;
    let package = package::seal_command(&command)?;
    let null = file::open_null().map_err(Failure::system("open /dev/null"))?;
    let until = Instant::now() + after.timeout;
    let (child, pipes) = keeper::start_main(&start, &[package.as_fd(), leaf.dir.fd()], null.as_fd(), None)
        .map_err(Failure::system("start it"))?;
    for (output, pipe) in outputs.iter_mut().zip(pipes) {
        output.connect(pipe);
    }
    match move_until_end(&child, &mut outputs, until)? {
        None => step.ending = Ending::TimedOut { clock: Clock::Wall },
        Some(change) => {
            let end = keeper::end(step.number, &child, exit_status(change));
            let _ = record.write_status(&end);
            step.status = end.status;
            step.ended = Some(end.at);
            if let Some(status) = end.status {
                step.ending = status.into();
            }
            if let Some((stage, errno)) = end.never_started {
                let errno = Errno::from_raw(errno);
                step.ending = Ending::Lost {
                    why: format!("it never started: {stage}: {}", errno.desc()),
                };
            }
        }
    }
    for output in &mut outputs {
        output.drain_to_exit();
    }
    Ok(outputs)
}

/// `None`: its time is over.
fn move_until_end(child: &Child, outputs: &mut [Output], until: Instant) -> Result<Option<Change>> {
    /// How often to look at a child on a kernel without pidfds.
    const LOOK: Duration = Duration::from_millis(100);
    let mut last = None;
    loop {
        if let Ok(Some((_, change))) = wait::poll(Whom::Pid(child.pid), false) {
            return Ok(Some(change));
        }
        let now = Instant::now();
        if now >= until {
            return Ok(None);
        }
        let rest = outputs.iter().filter_map(Output::rests_until).min();
        let look = child.pidfd.is_none().then(|| now + LOOK);
        let wake = [Some(until), rest, look].into_iter().flatten().min();
        let patience = wake.map(|wake| TimeSpec::from_duration(wake.saturating_duration_since(now)));
        let waiting: Vec<usize> = (0..outputs.len())
            .filter(|i| outputs[*i].waiting(now).is_some())
            .collect();
        let ready: Vec<usize> = {
            let pipes = waiting.iter().filter_map(|i| outputs[*i].waiting(now));
            let mut fds: Vec<PollFd<'_>> = pipes
                .chain(child.pidfd.as_ref().map(AsFd::as_fd))
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            match ppoll(&mut fds, patience, None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Failure::system("wait for the after phase")(errno)),
            }
            let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            let fds = waiting.iter().zip(&fds);
            fds.filter(|(_, fd)| is_ready(fd)).map(|(i, _)| *i).collect()
        };
        for i in ready {
            outputs[i].step(&mut last);
        }
    }
}

fn command(spec: &JobSpec, after: &AfterReboot, ending: &Ending, notes: &mut Vec<String>) -> Command {
    let mut env = vec![cstring(format!("PATH={DEFAULT_PATH}").as_ref())];
    if let Some(path) = &after.env_file {
        match read_env_file(Path::new(path)) {
            Ok((handed, wrong)) => {
                handed.apply(&mut env, &[]);
                notes.extend(wrong);
            }
            Err(why) => notes.push(format!(
                "its after phase had none of the variables of {path} (--after-env-file): {why}"
            )),
        }
    }
    env.push(cstring(format!("JOBCAGE_JOB={}", spec.id).as_ref()));
    env.extend(result_variables(ending));
    let uid = after.user.as_ref().map_or(spec.owner, |user| user.uid);
    hand::name_place(&mut env, spec, uid);
    let args: Vec<_> = after.argv.iter().map(|word| cstring(word.as_ref())).collect();
    Command {
        programs: args.first().cloned().into_iter().collect(),
        args,
        env,
        identity: after.user.as_ref().map(|user| Identity {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        }),
        dir: Some(cstring(after.dir.as_ref())),
        guard: spec.guard,
        ..Command::default()
    }
}
