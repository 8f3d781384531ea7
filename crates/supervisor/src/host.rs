//! Finding the root of the cages, and having systemd make it where it is systemd's to make.

use crate::error::{Failure, Result};
use crate::job::Command;
use crate::keeper::KEEPERS;
use crate::watcher;
use jobcage_cage::{
    Bus, Dir, Found, HOLD, Kind, Search, enable, find, host_scope, is_in_slurm_step, own_place,
};
use jobcage_job::{Controller, JobId};
use jobcage_ledger::Places;
use jobcage_sys::spawn::{Child, Plan, spawn};
use jobcage_sys::wait::{self, Change, Whom};
use jobcage_sys::{Errno, file, landlock, pidfd};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// This program, whatever became of its file.
pub const SELF: &std::ffi::CStr = c"/proc/self/exe";

/// Finds the root; asks systemd for a scope where there has to be one and there is none yet.
///
/// # Errors
/// If there is no place for cages on this host.
pub fn root(configured: Option<&Path>, places: &Places) -> Result<Found> {
    let missing = || {
        Failure::Refused(
            "systemd has started a scope for the cages, but it is not where it should be (run \"jobcage doctor\")".into(),
        )
    };
    match find(configured)? {
        Search::Found(found) => {
            if found.kind == Kind::Slurm && nix::unistd::geteuid().is_root() {
                have_host_scope(places)?;
            }
            Ok(*found)
        }
        Search::NeedsScope(Bus::System) => {
            have_host_scope(places)?;
            match find(configured)? {
                Search::Found(found) => Ok(*found),
                Search::NeedsScope(_) => Err(missing()),
            }
        }
        Search::NeedsScope(Bus::User) => {
            let kind = ask_for_scope(c"user", None).map_err(|_| {
                Failure::Refused(
                    "there is no cgroup for this user: see the line above; run jobcage as root, from a delegated scope, or \
                     as a user whose manager runs (run \"jobcage doctor\")"
                        .into(),
                )
            })?;
            Ok(own_place(kind)?)
        }
    }
}

/// Does something below the root, once more from the start if the root itself went away meanwhile: systemd removes a scope,
/// with a delay, whose last process has been killed, and another one may be had.
///
/// # Errors
/// Those of `make`.
pub(crate) fn while_root_lasts<T>(make: impl Fn() -> Result<T>) -> Result<T> {
    const TRIES: usize = 3;
    let went_away = |failure: &Failure| matches!(failure, Failure::Cage(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)));
    for _ in 1..TRIES {
        match make() {
            Err(failure) if went_away(&failure) => {}
            other => return other,
        }
    }
    make()
}

/// [`root`] for a job that is to outlast its caller, or that needs keepers for its life.
///
/// # Errors
/// As [`root`]; and in a step of Slurm's, which would be over before it or end it at any moment.
pub(crate) fn lasting_root(configured: Option<&Path>, places: &Places) -> Result<Found> {
    let found = root(configured, places)?;
    if found.kind == Kind::Slurm {
        return Err(Failure::Refused(
            "a job in a step of Slurm's ends with the step, so it cannot be detached, captured, or made of several steps: use \
             \"jobcage run -- COMMAND\", and sbatch and --output of Slurm's for the rest (docs/fleets.md)"
                .into(),
        ));
    }
    Ok(found)
}

/// A leaf for a process of ours: below the root, and beside the cages. Where the root is a step of Slurm's, below the host's
/// scope, if we may: the step is removed with its task, and who looks after the job has to outlive that.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn leaf(root: &Dir, name: &str) -> Result<Dir> {
    let beside = if is_in_slurm_step(root.path()) {
        host_scope()?
    } else {
        None
    };
    Ok(beside.as_ref().unwrap_or(root).create_or_open(name)?)
}

/// Takes away the leaves of ours in a step of Slurm's, which would keep Slurm from removing the step: nobody else ever does.
/// The watcher that was started for this job ends; whoever else has registered with it starts another.
pub(crate) fn leave_step(root: &Path, watcher: Option<&Child>) {
    if !is_in_slurm_step(root) {
        return;
    }
    let Ok(root) = Dir::open(root) else { return };
    // Of root's, both are in the host's scope, where the watcher stays.
    if root.child(HOLD).is_ok()
        && let Some(watcher) = watcher
    {
        let _ = pidfd::signal_pid(watcher.pid, Signal::SIGKILL as i32);
        let _ = wait::block(Whom::Pid(watcher.pid));
    }
    for leaf in [HOLD, KEEPERS] {
        // Somebody else's process may be in it: then it is theirs to remove.
        let _ = root.remove_child(leaf);
    }
}

/// Starts the scope of all cages, unless it is there or somebody else starts it at this moment: then it waits for that one.
fn have_host_scope(places: &Places) -> Result<()> {
    let runtime = jobcage_ledger::open_base(&places.runtime)?;
    let _first = Flock::lock(runtime, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Failure::system("lock the runtime directory")(errno))?;
    if host_scope()?.is_none() {
        watcher::start_scope_holder(places)?;
    }
    Ok(())
}

/// What the helper returns where no scope is needed.
pub const DELEGATED: u8 = 3;

/// Has the manager of the system or of the user move this process into a delegated scope; the user's does not where this
/// process is in a delegated unit already. The talking is done by a process of its own, since the D-Bus library starts
/// threads and takes memory.
///
/// # Errors
/// If that did not work; the helper has said why on its stderr, which is `stderr` or ours.
pub(crate) fn ask_for_scope(whose: &CStr, stderr: Option<BorrowedFd<'_>>) -> Result<Kind> {
    let plan = Plan {
        programs: vec![SELF.into()],
        args: vec![c"jobcage".into(), c"__scope".into(), whose.into()],
        env: environment(&["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"]),
        stdio: [None, None, stderr],
        ..Plan::default()
    };
    let child = spawn(&plan).map_err(Failure::system("start the helper that talks to systemd"))?;
    match wait::block(Whom::Pid(child.pid))
        .map_err(Failure::system("wait for the helper that talks to systemd"))?
    {
        (_, Change::Exited(0)) => Ok(Kind::UserScope),
        (_, Change::Exited(code)) if code == i32::from(DELEGATED) => Ok(Kind::Delegated),
        _ => Err(Failure::Refused("systemd gave no scope".into())),
    }
}

/// Limits need a cgroup without processes, and Slurm looks for ours in the task's own.
///
/// # Errors
/// In a step of Slurm's, unless they may be left out.
pub(crate) fn check_limits(found: &Found, best_effort: bool) -> Result<()> {
    if found.kind != Kind::Slurm || best_effort {
        return Ok(());
    }
    Err(Failure::Refused(
        "the limits of a step of Slurm's are set by Slurm: give them to srun or sbatch (--mem, --cpus-per-task), whose limits hold \
         for this job as well; with --best-effort the job runs without its own"
            .into(),
    ))
}

/// Moves this process out of the way of controllers: no process may be where they are enabled, and in a delegated cgroup we
/// are. Before anything is started, since what is born of us is born beside us.
///
/// # Errors
/// If that cannot be.
pub fn step_aside(found: &Found) -> Result<()> {
    if matches!(found.kind, Kind::Delegated | Kind::UserScope) {
        let leaf = found.dir.create_or_open("supervisors")?;
        leaf.write("cgroup.procs", "0")
            .map_err(Failure::system("move into <root>/supervisors"))?;
    }
    Ok(())
}

/// Enables controllers on the way from the root to the children of `<root>/<job>`, but for the cage itself.
///
/// # Errors
/// The first controller that cannot be enabled.
pub fn enable_below(found: &Found, controllers: &[Controller]) -> Result<()> {
    // Without systemd the top of the tree is nobody else's, and processes may stay in it.
    if found.kind == Kind::Plain {
        enable(&Dir::open(&found.mount.point)?, controllers)?;
    }
    Ok(enable(&found.dir, controllers)?)
}

/// Starts the process that closes a job, or takes it over where its keeper lives: the record's lock decides between several.
/// It outlives us.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn start_closer(places: &Places, id: &JobId) -> jobcage_sys::Result<Child> {
    let null = file::open_null()?;
    let words = words_of_job(c"__close", places, id);
    spawn(&helper(words, [null.as_fd(), null.as_fd(), null.as_fd()]))
}

/// A process of ours that outlives whoever starts it: in no session, process group or terminal of theirs, and with nothing
/// of the environment, where secrets are.
pub(crate) fn helper<'p>(words: Vec<CString>, stdio: [BorrowedFd<'p>; 3]) -> Plan<'p> {
    Plan {
        programs: vec![SELF.into()],
        args: [c"jobcage".into()].into_iter().chain(words).collect(),
        env: environment(&["XDG_RUNTIME_DIR"]),
        stdio: stdio.map(Some),
        dir: Some(c"/".into()),
        new_session: true,
        signal_mask: Some(SigSet::empty()),
        ..Plan::default()
    }
}

/// The words of a helper that is about one job.
pub(crate) fn words_of_job(word: &CStr, places: &Places, id: &JobId) -> Vec<CString> {
    let [runtime, state] = words_of_places(places);
    vec![word.into(), runtime, state, cstring(id.as_str().as_ref())]
}

/// The two directories as words.
pub(crate) fn words_of_places(places: &Places) -> [CString; 2] {
    [&places.runtime, &places.state].map(|path| cstring(path.as_os_str()))
}

/// The fence around a job that asks for one.
///
/// # Errors
/// If this kernel has none.
pub(crate) fn guard(command: &Command) -> Result<Option<OwnedFd>> {
    let fence = command.guard.then(landlock::signal_fence).transpose();
    fence.map_err(|errno| {
        Failure::Refused(format!(
            "cannot guard what is outside of the job (--guard): {}: it needs Linux 6.12 or newer with Landlock; leave it out, \
             or give the job a user of its own (--user)",
            errno.desc()
        ))
    })
}

/// The named variables of our own environment, where they are set.
pub(crate) fn environment(names: &[&str]) -> Vec<CString> {
    let set = names.iter().filter_map(|name| {
        let mut text = format!("{name}=").into_bytes();
        text.extend(std::env::var_os(name)?.into_vec());
        CString::new(text).ok()
    });
    set.collect()
}

/// Text as a C string; what follows a NUL byte cannot be passed to any program and is refused before it comes here.
pub(crate) fn cstring(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).unwrap_or_default()
}
