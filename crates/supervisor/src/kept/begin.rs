//! The beginning of a captured job: what the client does, and what the supervisor that it starts does.

use super::phase::Phase;
use super::{Kept, Whole};
use crate::agent::{self, Key};
use crate::closing;
use crate::error::{Failure, Result};
use crate::foreground::{make_cage, make_place, make_record, new_spec, uid_of};
use crate::gc;
use crate::hand::{self, Hand};
use crate::host;
use crate::job::{Job, Target};
use crate::journal;
use crate::keeper::{KEEPERS, Keeper};
use crate::machine::{Event, Machine};
use crate::package;
use crate::signals::Signals;
use crate::step;
use crate::watcher::{self, Watch};
use crate::wish::Wish;
use crate::witness;
use jobcage_cage::{Cage, Dir, Found, oom_kills};
use jobcage_job::{JobId, JobSpec, Root, StepKind};
use jobcage_ledger::handed::HandedPlace;
use jobcage_ledger::{Lock, Places, Record, boot_id};
use jobcage_sys::clock::boot_time;
use jobcage_sys::file::Durability;
use jobcage_sys::spawn::{Child, Plan, spawn, spawn_moved};
use jobcage_sys::{file, socket, wait};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The leaf of all supervisors, below the root.
pub const SUPERVISORS: &str = "supervisors";

/// What a new supervisor tells its client.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// There is a record of it.
    Begun(JobId),
    /// The job runs. The last word.
    Started(JobId),
    /// It does not, and why. The last word.
    Failed(String),
}

/// Starts a captured job, which from here on needs nobody: its id. `stdin` becomes that of the command.
///
/// # Errors
/// If it cannot be started. A command that cannot be started is no error: it is how the job ends.
pub fn detach(job: &Job, stdin: BorrowedFd<'_>) -> Result<JobId> {
    wait::expect_children().map_err(Failure::system("reset SIGCHLD"))?;
    host::while_root_lasts(|| {
        let found = host::lasting_root(job.cgroup_root.as_deref(), &job.places)?;
        if matches!(&job.target, Target::New { limits, .. } if !limits.is_empty()) {
            host::step_aside(&found)?;
        }
        start_supervisor(job, &found, stdin)
    })
}

fn start_supervisor(job: &Job, found: &Found, stdin: BorrowedFd<'_>) -> Result<JobId> {
    let package = package::seal_job(job, &found.root())?;
    let leaf = found.dir.create_or_open(SUPERVISORS)?;
    let (ours, theirs) = socket::pair().map_err(Failure::system("make a socket"))?;
    let null = file::open_null().map_err(Failure::system("open /dev/null"))?;
    let plan = Plan {
        cgroup: Some(leaf.fd()),
        ..host::helper(
            vec![c"__supervise".into()],
            [theirs.as_fd(), null.as_fd(), null.as_fd()],
        )
    };
    let keys = job.agent.as_deref().unwrap_or_default();
    let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    let fds: Vec<BorrowedFd<'_>> = [package.as_fd(), stdin]
        .into_iter()
        .chain(keys.iter().map(|key| key.content.as_fd()))
        .collect();
    // The keys are not in the package, which is kept for as long as the job runs.
    let text = serde_json::to_vec(&names).unwrap_or_default();
    socket::send(ours.as_fd(), &text, &fds).map_err(Failure::system("hand the job over"))?;
    let mut child = spawn(&plan).map_err(Failure::system("start the supervisor"))?;
    // A kernel with the bug of kernel-facts 3 kills it at birth where our own cgroup was once killed as a whole.
    if has_died_at_birth(&child) {
        child = spawn_moved(&plan).map_err(Failure::system("start the supervisor"))?;
    }
    drop(theirs);
    let mut begun = None;
    loop {
        let heard = socket::receive(ours.as_fd(), 64 * 1024);
        let (text, _) = heard.map_err(Failure::system("hear from the supervisor"))?;
        match serde_json::from_slice(&text) {
            Ok(Word::Begun(id)) => begun = Some(id),
            Ok(Word::Started(id)) => return Ok(id),
            Ok(Word::Failed(why)) => return Err(Failure::Refused(why)),
            Err(_) => return Err(cut_off(&child, begun)),
        }
    }
}

/// What is known of a job whose supervisor was killed before its last word. Its successor may have it: it may run.
fn cut_off(child: &Child, begun: Option<JobId>) -> Failure {
    let how = match wait::block(wait::Whom::Pid(child.pid)) {
        Ok(change) => format!("{change:?}"),
        Err(errno) => errno.to_string(),
    };
    Failure::Refused(match begun {
        Some(id) => format!(
            "the supervisor of the job {id} ended while it started it ({how}); \"jobcage show {id}\" tells whether it runs \
             all the same, \"jobcage stop {id}\" ends it"
        ),
        None => format!("the supervisor ended before it had begun the job ({how})"),
    })
}

/// Whether the kernel has killed a child before its first instruction: it is dead as soon as it is born.
fn has_died_at_birth(child: &Child) -> bool {
    matches!(wait::peek(wait::Whom::Pid(child.pid)), Ok(Some(_))) && child.died_at_birth()
}

/// The supervisor of a captured job, from its start to its end. Standard input is the connection with its client.
///
/// # Errors
/// If jobcage itself fails.
pub fn supervise() -> Result<()> {
    let client = file::take_stdin();
    file::close_from(3);
    let signals = Signals::block()?;
    wait::expect_children().map_err(Failure::system("reset SIGCHLD"))?;
    match begin(&client, signals) {
        Ok(mut kept) => {
            tell(&client, &Word::Started(kept.whole.spec.id.clone()));
            drop(client);
            if kept.is_session() {
                kept.settle_late();
            }
            kept.run()
        }
        Err(failure) => {
            tell(&client, &Word::Failed(failure.to_string()));
            Err(failure)
        }
    }
}

impl Kept {
    /// Whoever opens a session gains nothing by a wait for the disk: a host that goes down takes both.
    fn settle_late(&mut self) {
        if let Err(error) = self.whole.record.settle() {
            self.note(format!("its record may not be there after a power cut: {error}"));
        }
    }
}

/// A client that is gone does not hear it, and the job goes on.
fn tell(client: &OwnedFd, word: &Word) {
    let text = serde_json::to_vec(word).unwrap_or_default();
    let _ = socket::send(client.as_fd(), &text, &[]);
}

fn begin(client: &OwnedFd, signals: Signals) -> Result<Kept> {
    let (names, fds) =
        socket::receive(client.as_fd(), 64 * 1024).map_err(Failure::system("hear from the client"))?;
    let mut fds = fds.into_iter();
    let (Some(package), Some(stdin)) = (fds.next(), fds.next()) else {
        return Err(Failure::Refused("the client has handed over no job".into()));
    };
    let (mut job, root) = package::open_job(package.as_fd())?;
    let names: Vec<String> = serde_json::from_slice(&names).unwrap_or_default();
    if let Some(keys) = &mut job.agent {
        let given = names.into_iter().zip(fds);
        keys.extend(given.map(|(name, content)| Key { name, content }));
    }
    let found = Found::again(&root)?;
    // Made by the keeper; here it is only asked for.
    host::guard(&job.command)?;
    let keepers = found.dir.create_or_open(KEEPERS)?;
    let mut notes = Vec::new();
    let place = hand::choose(&job.places, uid_of(&job.command), &mut notes);
    agent::check_place(job.agent.is_some(), place.is_some(), &notes)?;
    let (spec, record, lock) = new_record(&job, &found, place.as_ref())?;
    let hand = Hand::make(place.as_ref(), &spec, &mut notes);
    let id = spec.id.clone();
    tell(client, &Word::Begun(id.clone()));
    let prepared = Prepared {
        package,
        stdin,
        root,
        keepers,
        spec,
        hand,
        notes,
    };
    let places = job.places.clone();
    let mut hold = Hold {
        lock: Some(lock),
        watch: None,
    };
    furnish(job, found, record, prepared, signals, &mut hold).inspect_err(|_| give_up(&places, &id, &hold))
}

/// What keeps others away from the job. Whoever gives it up lets go of these last: a watcher that hears of the end sooner closes the job, as one whose
/// supervisor has died.
struct Hold {
    lock: Option<Lock>,
    watch: Option<Watch>,
}

/// What there is of a job before its cage.
struct Prepared {
    package: OwnedFd,
    stdin: OwnedFd,
    root: Root,
    keepers: Dir,
    spec: JobSpec,
    hand: Option<Hand>,
    notes: Vec<String>,
}

fn furnish(
    mut job: Job,
    found: Found,
    record: Record,
    prepared: Prepared,
    signals: Signals,
    hold: &mut Hold,
) -> Result<Kept> {
    let Prepared {
        spec,
        package,
        stdin,
        mut notes,
        ..
    } = prepared;
    make_place(&spec, &mut notes)?;
    // A log can fill a disk, and how the job ended is to be told all the same.
    record.reserve()?;
    if spec.silence.is_some() {
        record.hear(boot_time())?;
    }
    // Before the cage, so that it starts while that is made.
    let mut keeper = Keeper::start(&record, &job.places, &prepared.keepers)?;
    // Where the watcher's socket is.
    jobcage_ledger::open_base(&job.places.runtime)?;
    hold.watch = watcher::register_or_note(&job.places, &found.dir, &spec.id, &mut notes);
    // Where the keeper dies, its children are ours, and with them the statuses. Only now, as in the foreground.
    wait::become_subreaper().map_err(Failure::system("become a subreaper"))?;
    let best_effort = matches!(
        job.target,
        Target::New {
            best_effort: true,
            ..
        }
    );
    let (cage, limits) = make_cage(found, &spec, best_effort)?;
    let dir = (prepared.hand.is_some(), &notes[..]);
    agent::start_if(job.agent.take().as_ref(), &cage, &spec, &job.command, dir)?;
    keeper.furnish(&[("package", package.as_fd()), ("stdin", stdin.as_fd())])?;
    let phase = new_phase(&job, &cage, spec.limited, prepared.root, notes);
    let Some(lock) = hold.lock.take() else {
        return Err(Failure::Refused("the lock of its record was let go of".into()));
    };
    let mut kept = Kept::new(Whole {
        job,
        spec,
        record,
        lock,
        cage: Some(cage),
        watch: hold.watch.take(),
        limits,
        signals,
        keeper: Some(keeper),
        stdin: Some(stdin),
        given: None,
        hand: prepared.hand,
        phase,
    });
    match kept.go() {
        Ok(()) => Ok(kept),
        Err(failure) => {
            hold.lock = Some(kept.whole.lock);
            hold.watch = kept.whole.watch;
            Err(failure)
        }
    }
}

fn new_record(job: &Job, found: &Found, place: Option<&HandedPlace>) -> Result<(JobSpec, Record, Lock)> {
    let Target::New {
        name, limits, after, ..
    } = &job.target
    else {
        return Err(Failure::Refused(
            "only a job with a cage of its own can be captured".into(),
        ));
    };
    let boot = boot_id()?;
    let make_spec = || new_spec(job, name.as_deref(), limits, after.is_some(), &boot, place);
    // On the disk only when the command has been started, and before the client hears of it (see `Record::settle`).
    make_record(&job.places.state, found, make_spec, Durability::Kernel)
}

/// Takes back what was made of a job that could not be begun; the failure is what to tell.
fn give_up(places: &Places, id: &JobId, hold: &Hold) {
    let Ok(record) = places.open(id) else { return };
    if let Ok(Some(keeper)) = Keeper::find(&record) {
        keeper.leave();
    }
    if hold.lock.is_none() {
        return;
    }
    if let Ok(Some(spec)) = record.spec()
        && let Ok(Some(cage)) = Cage::open(spec.cage.as_ref(), spec.limited)
        && !closing::end_cage(Some(&cage), false, &mut witness::nobody)
            .is_ok_and(|closed| closed.quarantine.is_none())
    {
        // Something lives in it: the record stays, for gc.
        return;
    }
    if let Ok(Some(spec)) = record.spec() {
        jobcage_guests::remove_unused(&spec);
    }
    gc::forget(&record);
    let _ = record.remove();
}

fn new_phase(job: &Job, cage: &Cage, limited: bool, root: Root, notes: Vec<String>) -> Phase {
    let has_after = matches!(job.target, Target::New { after: Some(_), .. });
    let began = boot_time();
    Phase {
        timeout_at: job.timeout.map(|timeout| began + timeout),
        oom_before: oom_kills(cage.dir()).filter(|_| limited).unwrap_or(0),
        notes,
        ..Phase::new(
            Machine::new(has_after),
            began,
            Some(root),
            Wish::new(job.signal, job.grace),
        )
    }
}

impl Kept {
    /// Starts the command, or opens the session.
    fn go(&mut self) -> Result<()> {
        let spec = &self.whole.spec;
        let is_for_later =
            spec.after_reboot.is_some() || spec.guests.as_ref().is_some_and(jobcage_guests::is_for_later);
        if is_for_later {
            // What a later boot owes has to be there before the command does anything.
            self.whole.record.settle()?;
        }
        if self.is_session() {
            self.open_door()?;
            self.persist();
        } else {
            self.start_main()?;
        }
        if !is_for_later && !self.is_session() {
            self.whole.record.settle()?;
        }
        journal::began(&self.whole.spec);
        Ok(())
    }

    /// Starts the command. The keeper does, whose child it is.
    fn start_main(&mut self) -> Result<()> {
        let Some(cage) = &mut self.whole.cage else {
            return Ok(());
        };
        let leaf = cage.leaf(StepKind::Step)?;
        self.leaf = Some(leaf.dir);
        let step = step::begun(leaf.number, StepKind::Step);
        let command = self.whole.job.command.clone();
        let stdin = self.whole.stdin.as_ref().and_then(|fd| fd.try_clone().ok());
        // Where it stands is written down before there is anything to lose.
        self.write_step(&step)?;
        self.persist();
        match self.start(step, &command, Vec::new(), stdin)? {
            Ok(step) => self.main = Some(step),
            Err((step, errno)) => {
                self.steps.push(step);
                let why = command.never_started("clone", errno as i32);
                self.event(Event::StartFailed(why))?;
            }
        }
        Ok(())
    }
}
