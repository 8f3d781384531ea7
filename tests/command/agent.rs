//! `--ssh-agent` and `--ssh-key`: an agent of the job's own, from its first step to its after phase.

use crate::secrets::holding;
use crate::support::captured::wait_written;
use crate::support::job::Job;
use crate::support::needs::{self, Need};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, programs};
use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

const UP: &str = "echo up; sleep 300 & wait";
const LIST: &str = "ssh-add -l";

pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// A world with a key that only its owner may read, and that key's fingerprint.
pub fn world_with_key(test: &str) -> Option<(World, String)> {
    let needs = ["ssh-agent", "ssh-add", "ssh-keygen"].map(Need::Program);
    if !needs::met(test, &needs) {
        return None;
    }
    let world = World::new(test);
    make_key(&world, "key", "");
    let told = Command::new("ssh-keygen")
        .arg("-lf")
        .arg(world.dir.join("key"))
        .output()
        .unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let print = told.split_whitespace().nth(1).unwrap().to_owned();
    assert!(print.starts_with("SHA256:"), "{told}");
    Some((world, print))
}

fn make_key(world: &World, name: &str, passphrase: &str) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-C", "test", "-N", passphrase, "-f"])
        .arg(world.dir.join(name))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let mode = fs::metadata(world.dir.join(name)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// A job that says `up` and goes on.
pub fn start(world: &mut World, options: &[&str], script: &str) -> Job {
    let mut job = world.run(&[], &words(options), &words(&["sh", "-c", script]));
    assert!(job.wait_line("up"), "{}\n{}", job.stdout(), job.stderr());
    job
}

/// How often a text is said.
pub fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

fn only_cage(world: &World) -> PathBuf {
    let cages = world.cages();
    assert_eq!(cages.len(), 1, "{cages:?}");
    cages[0].clone()
}

/// The id of the only job.
fn only_job(world: &World) -> String {
    only_cage(world).file_name().unwrap().to_str().unwrap().to_owned()
}

/// The only agent of jobcage's own in the only cage.
fn agent(world: &World) -> Process {
    let pids = cgroup::pids(&only_cage(world).join("kept/agent"));
    assert_eq!(pids.len(), 1, "{pids:?}");
    Process::open(pids[0])
}

#[test]
fn step_exec_and_after_phase_have_it_also_when_the_step_is_stopped() {
    let Some((mut world, print)) = world_with_key("agent-run") else {
        return;
    };
    for more in [&[][..], &["--best-effort", "--pids", "500"]] {
        let mut options = vec!["--ssh-agent", "--ssh-key", "key", "--after", LIST];
        options.extend(more);
        let mut job = start(&mut world, &options, &format!("{LIST}; {UP}"));
        assert_eq!(count(&job.stdout(), &print), 1, "{}", job.stdout());
        let agent = agent(&world);
        let id = only_job(&world);
        let beside = world.call(&["exec", &id, "--", "ssh-add", "-l"]).expect(0);
        assert_eq!(count(&beside.text(), &print), 1);
        job.signal(Signal::SIGTERM);
        assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
        assert!(job.output_ended(PATIENCE));
        assert_eq!(
            count(&job.stdout(), &print),
            2,
            "{}\n{}",
            job.stdout(),
            job.stderr()
        );
        assert!(agent.wait_end(PATIENCE), "it outlives its job");
        // It is jobcage's own, and nothing that the job has left.
        let report = job.report();
        assert_eq!((report.census.count, report.clean), (0, true), "{report:#?}");
        world.assert_nothing_left();
        world.assert_clean();
    }
}

#[test]
fn an_agent_of_the_caller_is_not_mixed_up_with_it() {
    let Some((mut world, print)) = world_with_key("agent-plain") else {
        return;
    };
    let foreign = |command: &mut Command| {
        command.env("SSH_AUTH_SOCK", "/no/such").env("SSH_AGENT_PID", "1");
    };
    let script = "ssh-add -l; echo $JOBCAGE_ENV:$SSH_AGENT_PID; exit 3";
    let options = ["--ssh-key", "key", "--env", "SSH_AUTH_SOCK"];
    let done = world.finish_with(&options, &["sh", "-c", script], b"", foreign);
    let done = done.expect(3);
    assert_eq!(count(&done.text(), &print), 1, "{}", done.text());
    // Without an after phase nobody could read what is handed on.
    assert!(done.text().ends_with("\n:"), "{}", done.text());
    assert_eq!(done.report().census.count, 0);
    // Without a key: an agent that has none.
    let done = world.finish(&["--ssh-agent"], &["ssh-add", "-l"]).expect(1);
    assert!(done.text().contains("no identities"), "{}", done.text());
    // Where somebody says that there is to be none, a key does not ask for one.
    let options = ["--ssh-agent=false", "--ssh-key", "key"];
    let done = world.finish_with(&options, &["sh", "-c", "echo $SSH_AUTH_SOCK"], b"", foreign);
    assert_eq!(done.expect(0).text(), "/no/such");
    world.assert_nothing_left();
    world.assert_clean();
}

/// Its user may not read the file: the caller reads it.
#[test]
fn a_job_of_another_user_can_use_a_key_of_root() {
    if !needs::met("agent-user", &[Need::Root]) {
        return;
    }
    let Some((mut world, print)) = world_with_key("agent-user") else {
        return;
    };
    let script = "id -u; cat key; ssh-add -l; stat -c %a:%u ${SSH_AUTH_SOCK%/*}";
    let dir = world.dir.display().to_string();
    for how in [&["--ssh-key", "key"][..], &["--detach", "--ssh-key", "key"]] {
        let mut options = vec!["--user", "61234", "--dir", &dir];
        options.extend(how);
        let mut done = world.finish(&options, &["sh", "-c", script]).expect(0);
        if how[0] == "--detach" {
            let id = done.text();
            world.call(&["wait", &id]).expect(0);
            done = world.call(&["logs", &id]).expect(0);
        }
        let text = done.text();
        assert!(
            text.starts_with("61234\n") && text.ends_with("700:61234"),
            "{text}"
        );
        assert_eq!(count(&text, &print), 1, "{text}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
    world.assert_nothing_left();
}

#[test]
fn a_key_comes_from_standard_input_and_reaches_no_file() {
    let Some((mut world, print)) = world_with_key("agent-stdin") else {
        return;
    };
    let key = fs::read_to_string(world.dir.join("key")).unwrap();
    let secret = key.lines().nth(3).unwrap();
    assert!(secret.len() > 60);
    // What is there while it runs: the records, and what others see of the agent.
    let kept = format!("{}/$JOBCAGE_JOB/kept/agent", world.cgroup_root.display());
    let script = format!(
        "ssh-add -l; echo $(wc -c) left; for p in $(cat {kept}/cgroup.procs); do cat /proc/$p/cmdline /proc/$p/environ; \
         done; grep -r -a . run state"
    );
    let dir = world.dir.display().to_string();
    for how in [
        &["--dir", &dir, "--ssh-key", "-"][..],
        &["--detach", "--dir", &dir, "--ssh-key", "-"],
    ] {
        let done = world.finish_with(how, &["sh", "-c", &script], key.as_bytes(), |_| {});
        let mut done = done.expect(0);
        if how[0] == "--detach" {
            let id = done.text();
            world.call(&["wait", &id]).expect(0);
            done = world.call(&["logs", &id]).expect(0);
        }
        let text = done.text();
        assert!(text.contains(&print) && text.contains("0 left"), "{text}");
        assert!(text.contains("ssh-agent\0-D\0-a\0"), "{text}");
        assert!(text.contains("spec.json") && !text.contains(secret), "{text}");
        for place in ["run", "state"] {
            assert_eq!(holding(&world.dir.join(place), secret), Vec::<String>::new());
        }
    }
    world.assert_nothing_left();
}

#[test]
fn a_job_of_several_steps_has_one_agent() {
    let Some((mut world, print)) = world_with_key("agent-create") else {
        return;
    };
    let id = world.call(&["create", "--ssh-key", "key"]).expect(0).text();
    let agent = agent(&world);
    for _ in 0..2 {
        let step = world
            .call(&["run", "--job", &id, "--", "ssh-add", "-l"])
            .expect(0);
        assert_eq!(count(&step.text(), &print), 1);
    }
    let beside = world.call(&["exec", &id, "--", "ssh-add", "-l"]).expect(0);
    assert_eq!(count(&beside.text(), &print), 1);
    let told = world.call(&["run", "--job", &id, "--ssh-agent", "--", "true"]);
    assert_eq!(told.code, 125, "{}", told.told());
    world.call(&["cleanup", &id]).expect(0);
    assert!(agent.wait_end(PATIENCE));
    assert_eq!(world.closed_reports()[0].census.count, 0);
    world.assert_nothing_left();
}

#[test]
fn what_is_no_key_is_an_error_before_the_command_and_leaves_nothing() {
    let Some((mut world, _)) = world_with_key("agent-wrong") else {
        return;
    };
    make_key(&world, "locked", "a passphrase");
    fs::write(world.dir.join("wrong"), "no key\n").unwrap();
    for (file, why) in [
        ("wrong", "did not take the key wrong"),
        ("locked", "without a passphrase"),
        ("/no/such", "No such file"),
        ("-", "there is nothing in it"),
    ] {
        for verb in [&["run"][..], &["run", "--detach"], &["create"]] {
            let mut line = verb.to_vec();
            line.extend(["--ssh-key", "key", "--ssh-key", file]);
            if verb[0] == "run" {
                line.extend(["--after", "touch ran", "--", "touch", "ran"]);
            }
            let told = world.call(&line).refused();
            assert!(
                told.contains(why) && told.contains("--ssh-key"),
                "{line:?}: {told}"
            );
        }
    }
    // Without the programs.
    let bare = |command: &mut Command| {
        command.env("PATH", "/no/such");
    };
    let told = world.finish_with(&["--ssh-agent"], &["/bin/true"], b"", bare);
    let told = told.refused();
    assert!(
        told.contains("ssh-agent cannot be started") && told.contains("OpenSSH"),
        "{told}"
    );
    assert!(!world.dir.join("ran").exists());
    world.assert_nothing_left();
    world.assert_clean();
}

#[test]
fn it_ends_when_the_supervisor_is_killed() {
    let Some((mut world, print)) = world_with_key("agent-killed") else {
        return;
    };
    let mut job = start(&mut world, &["--ssh-key", "key"], UP);
    let (cage, agent) = (only_cage(&world), agent(&world));
    job.signal(Signal::SIGKILL);
    assert_eq!(job.wait(PATIENCE), 137);
    assert!(cgroup::wait_gone(&cage, PATIENCE), "nobody closes it");
    assert!(agent.wait_end(PATIENCE));
    // With an after phase, which somebody else runs: it has the agent.
    let mut job = start(&mut world, &["--ssh-key", "key", "--after", LIST], UP);
    let cage = only_cage(&world);
    job.signal(Signal::SIGKILL);
    assert_eq!(job.wait(PATIENCE), 137);
    assert!(cgroup::wait_gone(&cage, PATIENCE), "nobody closes it");
    assert!(job.output_ended(PATIENCE));
    assert_eq!(count(&job.stdout(), &print), 1, "{}", job.stdout());
    world.assert_nothing_left();
}

/// One that says that it listens after we have found that out by ourselves, and have gone on.
#[test]
fn it_does_not_die_of_words_that_nobody_hears() {
    if !needs::met("agent-late", &[Need::Program("python3")]) {
        return;
    }
    let mut world = World::new("agent-late");
    let slow = "#!/usr/bin/env python3
import os, signal, socket, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
door = socket.socket(socket.AF_UNIX)
door.bind(sys.argv[sys.argv.index('-a') + 1])
door.listen()
door.accept()
open('late', 'w').close()
# Whoever has started us is gone on when the command is there.
while not os.path.exists('begun'):
    signal.sigtimedwait([signal.SIGUSR1], 0.01)
try:
    os.write(1, b'I listen')
except BrokenPipeError:
    pass
open('spoken', 'w').close()
signal.pause()
";
    let bin = world.dir.join("bin");
    fs::create_dir(&bin).unwrap();
    let here = world.dir.display();
    let slow = slow.replace("'late'", &format!("'{here}/late'"));
    let slow = slow.replace("'begun'", &format!("'{here}/begun'"));
    fs::write(
        bin.join("ssh-agent"),
        slow.replace("'spoken'", &format!("'{here}/spoken'")),
    )
    .unwrap();
    fs::set_permissions(bin.join("ssh-agent"), Permissions::from_mode(0o755)).unwrap();
    let path = format!("PATH={}:/usr/bin:/bin", bin.display());
    let script = format!("touch {here}/begun; until [ -e {here}/spoken ]; do sleep 0.01; done");
    let done = world.finish(
        &["--env", &path, "--timeout", "20s", "--ssh-agent"],
        &["sh", "-c", &script],
    );
    done.expect(0);
    world.assert_nothing_left();
}

#[test]
fn it_outlives_a_supervisor_that_is_followed_by_another() {
    let Some((mut world, print)) = world_with_key("agent-handed") else {
        return;
    };
    world.fifo("go");
    let script = "read line < go; ssh-add -l; sleep 300 & wait";
    let dir = world.dir.display().to_string();
    let options = ["--detach", "--dir", &dir, "--ssh-key", "key", "--after", LIST];
    let id = world.finish(&options, &["sh", "-c", script]).expect(0).text();
    let agent = agent(&world);
    let supervisors = cgroup::pids(&world.cgroup_root.join("supervisors"));
    assert_eq!(supervisors.len(), 1);
    let first = Process::open(supervisors[0]);
    first.signal(Signal::SIGKILL);
    assert!(first.wait_end(PATIENCE));
    let _held = world.say_into("go", "");
    let record = world.dir.join("state").join(&id);
    let said = || fs::read_to_string(record.join("log-01")).is_ok_and(|text| text.contains(&print));
    assert!(wait_written(&record, said));
    world.call(&["stop", &id]).expect(0);
    let text = world.call(&["logs", &id]).expect(0).text();
    assert_eq!(count(&text, &print), 2, "{text}");
    assert!(agent.wait_end(PATIENCE));
    let report = &world.closed_reports()[0];
    assert!(
        report.notes.iter().any(|note| note.contains("took over")),
        "{report:#?}"
    );
    assert_eq!(report.census.count, 0, "{report:#?}");
    world.assert_nothing_left();
}

/// The agent of the cage must not be taken for somebody who has yet to leave.
#[test]
fn a_stop_waits_for_the_step_and_what_runs_beside_it_alone() {
    let Some((mut world, _)) = world_with_key("agent-beside") else {
        return;
    };
    let options = ["--ssh-agent", "--after", "ssh-add -l; true", "--grace", "1h"];
    let mut job = start(&mut world, &options, UP);
    let id = only_job(&world);
    let mut command = world.command(programs::jobcage());
    command.args(["exec", &id, "--", "sh", "-c", "echo in; exec sleep 300"]);
    let mut beside = Job::start(command, PathBuf::new(), world.dir.join("stderr-exec"));
    assert!(beside.wait_line("in"), "{}", beside.stderr());
    job.signal(Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    beside.wait(PATIENCE);
    assert!(job.output_ended(PATIENCE));
    assert!(job.stdout().contains("no identities"), "{}", job.stdout());
    assert_eq!(job.report().census.count, 0, "{:#?}", job.report());
    world.assert_nothing_left();
}
