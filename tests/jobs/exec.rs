//! `jobcage exec`: a further command in the cage of a job that is there.

use crate::support::call::Done;
use crate::support::job::Job;
use crate::support::needs::{self, Need};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup};
use crate::{create, leave_process, listed, words};
use jobcage_job::FoundBy;
use nix::sys::signal::Signal;
use std::path::PathBuf;

fn exec(world: &World, id: &str, options: &[&str], argv: &[&str]) -> Done {
    let mut words = vec!["exec", id];
    words.extend(options);
    words.push("--");
    words.extend(argv);
    world.call(&words)
}

/// A job that runs until it is told to end, with this code.
fn running(world: &mut World, options: &[&str], code: u8) -> (Job, String) {
    world.fifo("end");
    // For jobs of other users, too.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(world.dir.join("end"), open).unwrap();
    let script = format!(
        "echo up; read line < {}; exit {code}",
        world.dir.join("end").display()
    );
    let mut job = world.run(&[], &words(options), &words(&["sh", "-c", &script]));
    assert!(job.wait_line("up"), "{}", job.stderr());
    (job, listed(world)[0].0.clone())
}

/// A command beside a job, under way.
fn beside(world: &World, id: &str, script: &str) -> Job {
    let mut command = world.shell_command(&format!("exec \"$JOBCAGE\" exec {id} -- sh -c \"$0\""));
    command.arg(script);
    let mut job = Job::start(command, PathBuf::new(), world.dir.join("stderr-exec"));
    assert!(job.wait_line("in"), "{}", job.stderr());
    job
}

#[test]
fn it_has_the_jobs_cage_environment_and_directory() {
    let mut world = World::new("exec-run");
    let options = ["--env", "A=from the job", "--env", "B=x", "--dir", "/usr"];
    let (mut job, id) = running(&mut world, &options, 0);
    let script = "echo \"$A|$B|$JOBCAGE_JOB|$(pwd)\"; sed -n 's/^0:://p' /proc/self/cgroup; exit 7";
    let done = exec(&world, &id, &[], &["sh", "-c", script]).expect(7);
    assert_eq!(done.told(), "");
    let text = done.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("from the job|x|{id}|/usr"));
    assert!(lines[1].ends_with(&format!("/{id}/exec-01")), "{text}");
    // What jobcage itself was told by variables is not the job's.
    let done = exec(&world, &id, &[], &["sh", "-c", "echo $JOBCAGE_TIMEOUT"]).expect(0);
    assert_eq!(done.text(), "");
    let done = exec(
        &world,
        &id,
        &["--env", "B=y", "--dir", "/etc"],
        &["sh", "-c", "echo $A $B $PWD"],
    )
    .expect(0);
    assert_eq!(done.text(), "from the job y /etc");
    // The caller's own stdin and stdout, binary and whole.
    let script = format!("printf 'a\\000b' | \"$JOBCAGE\" exec {id} -- cat | od -An -c");
    assert_eq!(
        world
            .shell(&script)
            .expect(0)
            .text()
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["a", "\\0", "b"]
    );
    let done = exec(&world, &id, &[], &["sh", "-c", "kill -SEGV $$"]).expect(139);
    assert_eq!(done.told(), "");
    let told = exec(&world, &id, &[], &["no-such-command"]).expect(127).told();
    assert!(told.contains("the command never started"), "{told}");
    exec(&world, &id, &["-q", "--dir", "/no/such"], &["true"]).expect(125);
    // Nothing of it is left, and the job has not noticed.
    let leaves = cgroup::below(&world.cages()[0]);
    assert_eq!(leaves.len(), 2, "{leaves:?}");
    let _held = world.say_into("end", "now");
    assert_eq!(job.wait(PATIENCE), 0, "{}", job.stderr());
    let report = job.report();
    assert_eq!((report.steps.len(), report.census.count), (1, 0));
    world.assert_nothing_left();
    world.assert_clean();
    let told = exec(&world, &id, &[], &["true"]).refused();
    assert!(told.contains("there is no job"), "{told}");
}

/// Limits stand on the cgroup above the steps, so that is where it has to be.
#[test]
fn the_limits_of_the_job_hold_for_it() {
    let mut world = World::new("exec-limits");
    let (mut job, id) = running(&mut world, &["--pids", "50", "--best-effort"], 0);
    let done = exec(&world, &id, &[], &["sed", "-n", "s/^0:://p", "/proc/self/cgroup"]).expect(0);
    assert!(
        done.text().ends_with(&format!("/{id}/steps/exec-01")),
        "{}",
        done.text()
    );
    let mut other = beside(&world, &id, "echo in; exec sleep 300");
    let _held = world.say_into("end", "now");
    assert_eq!(job.wait(PATIENCE), 0, "{}", job.stderr());
    assert_eq!(other.wait(PATIENCE), 137, "{}", other.stderr());
    assert_eq!(
        job.report().census.left[0].found,
        FoundBy::Cgroup("steps/exec-01".into())
    );
    world.assert_clean();
}

#[test]
fn it_runs_as_the_jobs_user() {
    if !needs::met("it_runs_as_the_jobs_user", &[Need::Root]) {
        return;
    }
    let mut world = World::new("exec-user");
    let (mut job, id) = running(&mut world, &["--user", "61234", "--group", "61239"], 0);
    let who = "echo $(id -u) $(id -g) $(id -G); grep -E '^(Uid|Gid):' /proc/self/status | tr -s '\\t' ' '";
    let done = exec(&world, &id, &[], &["sh", "-c", who]).expect(0);
    assert_eq!(
        done.text(),
        "61234 61239 61239\nUid: 61234 61234 61234 61234\nGid: 61239 61239 61239 61239"
    );
    let _held = world.say_into("end", "now");
    assert_eq!(job.wait(PATIENCE), 0, "{}", job.stderr());
    // A job of `create` has an account and no process to look at; the environment is the caller's.
    let id = create(&world, &["--user", "61234"]);
    let done = world
        .shell(&format!(
            "MINE=yes \"$JOBCAGE\" exec {id} -- sh -c 'echo $(id -u) $(id -g) $MINE $JOBCAGE_JOB $PWD'"
        ))
        .expect(0);
    assert_eq!(
        done.text(),
        format!("61234 61234 yes {id} {}", world.dir.display())
    );
    world.call(&["cleanup", &id]).expect(0);
    world.assert_nothing_left();
}

#[test]
fn another_user_may_not_enter() {
    if !needs::met(
        "another_user_may_not_enter",
        &[Need::Root, Need::Program("setpriv")],
    ) {
        return;
    }
    let mut world = World::new("exec-foreign");
    let (mut job, id) = running(&mut world, &[], 0);
    let other = "setpriv --reuid 61234 --regid 61234 --clear-groups \"$JOBCAGE\"";
    let told = world.shell(&format!("{other} exec {id} -- true")).refused();
    assert!(told.contains("another user"), "{told}");
    let _held = world.say_into("end", "now");
    assert_eq!(job.wait(PATIENCE), 0, "{}", job.stderr());
    world.assert_clean();
}

#[test]
fn it_dies_with_the_job_which_names_it() {
    let mut world = World::new("exec-dies");
    let (mut job, id) = running(&mut world, &[], 9);
    let mut other = beside(&world, &id, "echo $$; echo in; exec sleep 300");
    let pid: i32 = other.stdout().lines().next().unwrap().parse().unwrap();
    let _held = world.say_into("end", "now");
    assert_eq!(job.wait(PATIENCE), 9, "{}", job.stderr());
    assert_eq!(other.wait(PATIENCE), 137, "{}", other.stderr());
    assert!(
        other.stderr().contains(&format!("{id}: the job has ended")),
        "{}",
        other.stderr()
    );
    let report = job.report();
    assert!(report.clean && report.census.count == 1, "{report:#?}");
    let left = &report.census.left[0];
    assert_eq!((left.pid, &left.found), (pid, &FoundBy::Cgroup("exec-01".into())));
    world.assert_nothing_left();
    world.assert_clean();
}

/// A stop is for all of the job: the command beside the step is asked as well, gets the same time, and the after phase
/// never runs beside it.
#[test]
fn a_stop_asks_it_too_and_the_after_phase_is_alone() {
    let mut world = World::new("exec-stop");
    let after = "cat \"$(sed -n 's,^0::,,p' /proc/self/cgroup | sed 's,/after/.*,,' | sed \"s,^,$MOUNT,\")\"/exec-01/cgroup.procs | wc -l";
    let mount = cgroup::mount().unwrap().display().to_string();
    let options = [
        "--grace",
        "1s",
        "--env",
        &format!("MOUNT={mount}"),
        "--after",
        after,
    ];
    let (mut job, id) = running(&mut world, &options, 0);
    let script = "trap 'echo asked; trap - TERM' TERM; echo in; while :; do sleep 0.02; done";
    let mut other = beside(&world, &id, script);
    world.call(&["stop", &id]).expect(0);
    assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    assert_eq!(other.wait(PATIENCE), 137, "{}", other.stderr());
    assert!(other.output_ended(PATIENCE) && job.output_ended(PATIENCE));
    assert!(other.stdout().contains("asked"), "{}", other.stdout());
    assert_eq!(
        job.stdout().trim_end().lines().last(),
        Some("0"),
        "{}",
        job.stdout()
    );
    let report = job.report();
    let places: Vec<_> = report.census.left.iter().map(|left| left.found.clone()).collect();
    assert!(places.contains(&FoundBy::Cgroup("exec-01".into())), "{places:?}");
    world.assert_nothing_left();
    world.assert_clean();
}

#[test]
fn a_signal_to_the_client_ends_its_command_alone() {
    let mut world = World::new("exec-signal");
    let (mut job, id) = running(&mut world, &[], 0);
    let mut other = beside(&world, &id, "echo $$; echo in; exec sleep 300");
    let inside = Process::open(other.stdout().lines().next().unwrap().parse().unwrap());
    other.signal(Signal::SIGTERM);
    assert_eq!(other.wait(PATIENCE), 143, "{}", other.stderr());
    assert!(inside.has_ended() && !job.jobcage.has_ended());
    // One that a person kills is no end of the job.
    let mut other = beside(&world, &id, "echo $$; echo in; exec sleep 300");
    Process::open(other.stdout().lines().next().unwrap().parse().unwrap()).signal(Signal::SIGKILL);
    assert_eq!(other.wait(PATIENCE), 137);
    assert!(!other.stderr().contains("has ended"), "{}", other.stderr());
    let _held = world.say_into("end", "now");
    assert_eq!(job.wait(PATIENCE), 0, "{}", job.stderr());
    world.assert_clean();
}

/// What it leaves is the job's, and the numbers of steps are their own.
#[test]
fn what_it_leaves_stays_until_the_job_ends() {
    let world = World::new("exec-leaves");
    let id = create(&world, &[]);
    let left = exec(
        &world,
        &id,
        &[],
        &["sh", "-c", "sleep 300 > /dev/null 2>&1 & echo $!"],
    )
    .expect(0);
    let left = Process::open(left.text().parse().unwrap());
    let place = "sed -n 's/^0:://p' /proc/self/cgroup";
    let second = exec(&world, &id, &[], &["sh", "-c", place]).expect(0).text();
    assert!(second.ends_with("/exec-02"), "{second}");
    let step = world
        .call(&["run", "--job", &id, "--", "sh", "-c", place])
        .expect(0)
        .text();
    assert!(step.ends_with("/01-step"), "{step}");
    let also = leave_process(&world, &id);
    assert!(!left.has_ended());
    world.call(&["cleanup", &id]).expect(0);
    assert!(left.has_ended() && also.has_ended());
    let report = world.call(&["show", &id, "--json"]).expect(0).json()["report"].clone();
    assert_eq!(report["steps"].as_array().unwrap().len(), 2, "{report:#}");
    let told = exec(&world, &id, &[], &["true"]).refused();
    assert!(told.contains("is over"), "{told}");
    assert!(world.cages().is_empty());
}

#[test]
fn a_cleanup_ends_it() {
    let mut world = World::new("exec-cleanup");
    let id = create(&world, &[]);
    let mut other = beside(&world, &id, "echo in; exec sleep 300");
    world.call(&["cleanup", &id]).expect(0);
    assert_eq!(other.wait(PATIENCE), 137, "{}", other.stderr());
    assert!(other.stderr().contains("the job has ended"), "{}", other.stderr());
    world.assert_nothing_left();
}

/// Whoever keeps entering does not keep a job from its end.
#[test]
fn a_crowd_at_the_door_does_not_keep_the_cage() {
    let mut world = World::new("exec-crowd");
    for _ in 0..5 {
        let (mut job, id) = running(&mut world, &[], 0);
        let enter = format!("while \"$JOBCAGE\" exec -q {id} -- true 2> /dev/null; do :; done");
        let mut crowd: Vec<_> = (0..3)
            .map(|_| world.shell_command(&enter).spawn().unwrap())
            .collect();
        let cage = world.cages()[0].clone();
        assert!(cgroup::wait_change(&cage, PATIENCE, || cage
            .join("exec-01")
            .exists()));
        let _held = world.say_into("end", "now");
        assert_eq!(job.wait(PATIENCE), 0, "{}", job.stderr());
        assert!(job.report().clean);
        for one in &mut crowd {
            assert!(crate::support::call::wait(one, PATIENCE).is_some());
        }
        std::fs::remove_file(world.dir.join("end")).unwrap();
    }
    world.assert_nothing_left();
    world.assert_clean();
}
