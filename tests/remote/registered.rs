//! The jobs that a job has on other hosts end with it: they are told, and where nobody can be told, their lease ends them.

use crate::rig::{Rig, can, children};
use crate::support::call::Done;
use crate::support::cgroup;
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use nix::sys::signal::Signal;
use std::fs;
use std::path::PathBuf;

/// A host, and beside it a cage here whose steps have jobs there.
struct Both {
    rig: Rig,
    here: World,
    id: String,
}

impl Both {
    fn new(test: &str) -> Self {
        let rig = Rig::new(test);
        let here = World::new(&format!("{test}-here"));
        let id = here.call(&["create"]).expect(0).text();
        Self { rig, here, id }
    }

    /// The words of a verb with this host.
    fn verb(&self, verb: &str) -> String {
        let (jobcage, conf) = (programs::jobcage(), self.rig.world.dir.join("ssh.conf"));
        format!(
            "{} {verb} --host there --ssh 'ssh -F {}'",
            jobcage.display(),
            conf.display()
        )
    }

    /// A step here, by a shell.
    fn step(&self, script: &str) -> Done {
        let id = format!("--job={}", self.id);
        self.here.call(&["run", &id, "--", "bash", "-c", script])
    }

    /// The end of the cage here: what it told, and what came of the jobs there.
    fn end(&self, code: i32) -> (String, Vec<(String, Option<String>)>) {
        let report = self.here.dir.join("report.json");
        let words = ["cleanup", "--report", report.to_str().unwrap(), &self.id];
        let done = self.here.call(&words).expect(code);
        let report = crate::support::job::read_report(&report);
        let fates = report.guests.iter().filter(|guest| guest.kind == "remote");
        let fates = fates.map(|guest| (serde_json::to_value(guest.outcome).unwrap(), guest.why.clone()));
        let fates = fates.map(|(outcome, why)| (outcome.as_str().unwrap().to_owned(), why));
        (done.told(), fates.collect())
    }

    fn cages_there(&self) -> Vec<PathBuf> {
        self.rig.world.cages()
    }

    fn assert_nothing_left(self) {
        let Self { rig, mut here, .. } = self;
        here.assert_clean_after_gc();
        here.assert_nothing_left();
        rig.assert_nothing_left();
    }
}

#[test]
fn a_cage_there_ends_with_the_cage_here() {
    if !can("registered::a_cage_there_ends_with_the_cage_here") {
        return;
    }
    let both = Both::new("remote-registered");
    let script = format!(
        "id=$({}) && {} --job $id -- sh -c 'sleep 300 >/dev/null 2>&1 & echo deployed'",
        both.verb("create --name site"),
        both.verb("run")
    );
    assert_eq!(both.step(&script).expect(0).text(), "deployed");
    let [cage] = &both.cages_there()[..] else {
        panic!("{:?}", both.cages_there())
    };
    let (told, fates) = both.end(0);
    assert_eq!(fates, [("deleted".to_owned(), None)], "{told}");
    assert!(
        told.contains("the job site-") && told.contains(" on there: ended"),
        "{told}"
    );
    assert!(!cage.exists());
    both.assert_nothing_left();
}

#[test]
fn a_job_there_whose_client_was_killed_ends_with_the_cage_here() {
    if !can("registered::a_job_there_whose_client_was_killed_ends_with_the_cage_here") {
        return;
    }
    let both = Both::new("remote-orphaned");
    let script = format!(
        "{} -- sleep 300 & echo $!; while :; do sleep 0.05; done",
        both.verb("run")
    );
    let out = both.here.dir.join("out");
    let id = format!("--job={}", both.id);
    let mut command = both.here.command(programs::jobcage());
    command.args(["run", &id, "--", "bash", "-c", &script]);
    let mut step = command.stdout(fs::File::create(&out).unwrap()).spawn().unwrap();
    let since = std::time::Instant::now();
    while both.cages_there().is_empty() {
        assert!(since.elapsed() < PATIENCE, "no job begins there");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let client: i32 = fs::read_to_string(&out).unwrap().trim().parse().unwrap();
    for pid in children(client).into_iter().chain([client]) {
        Process::open(pid).signal(Signal::SIGKILL);
    }
    Process::open(i32::try_from(step.id()).unwrap()).signal(Signal::SIGTERM);
    step.wait().unwrap();
    assert_eq!(both.cages_there().len(), 1);
    let (told, fates) = both.end(0);
    assert_eq!(fates, [("deleted".to_owned(), None)], "{told}");
    assert!(both.cages_there().is_empty());
    both.assert_nothing_left();
}

/// A job that is over there is not told of, and nobody is asked for it.
#[test]
fn what_is_over_is_not_asked_for() {
    if !can("registered::what_is_over_is_not_asked_for") {
        return;
    }
    let both = Both::new("remote-over");
    let script = format!(
        "{run} -- true; id=$({create}) && {cleanup} $id; {create} --grace never; {} run --host there --ssh false -- true; true",
        programs::jobcage().display(),
        run = both.verb("run"),
        create = both.verb("create"),
        cleanup = both.verb("cleanup"),
    );
    both.step(&script).expect(0);
    both.rig.door.shut();
    let (told, fates) = both.end(0);
    assert!(fates.is_empty(), "{fates:?} {told}");
    both.rig.door.unshut();
    both.assert_nothing_left();
}

#[test]
fn where_nobody_can_be_told_the_lease_ends_it() {
    if !can("registered::where_nobody_can_be_told_the_lease_ends_it") {
        return;
    }
    let both = Both::new("remote-unreached");
    let script = format!(
        "id=$({}) && {} --job $id -- sh -c 'sleep 300 >/dev/null 2>&1 &'; {} -- sleep 300",
        both.verb("create --lease 3s"),
        both.verb("run"),
        both.verb("run --lease 3s --detach"),
    );
    both.step(&script).expect(0);
    let cages = both.cages_there();
    assert_eq!(cages.len(), 2, "{cages:?}");
    both.rig.door.shut();
    let (told, fates) = both.end(0);
    assert_eq!(fates.len(), 2, "{told}");
    for (outcome, why) in &fates {
        let why = why.as_deref().unwrap();
        assert!(
            outcome == "leased" && why.contains("its lease of 3.0 s ends it there"),
            "{why}"
        );
    }
    for cage in &cages {
        assert!(
            cgroup::wait_gone(cage, PATIENCE),
            "its lease does not end {cage:?}"
        );
    }
    both.rig.door.unshut();
    both.assert_nothing_left();
}

/// Without a lease it is named, nobody calls the job clean, and gc tries again.
#[test]
fn what_has_no_lease_is_left_until_gc_can_tell_it() {
    if !can("registered::what_has_no_lease_is_left_until_gc_can_tell_it") {
        return;
    }
    let both = Both::new("remote-left");
    both.step(&both.verb("create --lease 0")).expect(0);
    both.rig.door.shut();
    let (told, fates) = both.end(125);
    assert!(fates[0].0 == "left" && told.contains("LEFT: "), "{told}");
    assert_eq!(both.cages_there().len(), 1);
    both.here.call(&["gc", "--guests"]).expect(125);
    both.rig.door.unshut();
    both.here.call(&["gc"]).expect(0);
    assert!(both.cages_there().is_empty());
    both.assert_nothing_left();
}

/// What stands in the notes is the job's word: nothing of it is a path or an option, and a FIFO holds nobody up.
#[test]
fn hostile_notes_are_read_by_nobody() {
    if !can("registered::hostile_notes_are_read_by_nobody") {
        return;
    }
    for put in [
        "mkfifo remotes",
        "ln -s /etc/passwd remotes",
        "mkdir remotes",
        "head -c 3000000 /dev/zero >remotes",
    ] {
        let both = Both::new("remote-hostile");
        both.step(&format!("cd ${{JOBCAGE_ENV%/*}} && {put}")).expect(0);
        let (told, fates) = both.end(0);
        assert!(told.contains("their notes are ignored: "), "{put}: {told}");
        assert!(fates.is_empty(), "{fates:?}");
        both.assert_nothing_left();
    }
    let both = Both::new("remote-odd");
    both.step("printf 'x\\n{\\n' >${JOBCAGE_ENV%/*}/remotes")
        .expect(0);
    let (told, _) = both.end(0);
    assert!(
        told.contains("2 lines about jobs on other hosts are skipped"),
        "{told}"
    );
    both.assert_nothing_left();
}
