//! A job that deploys to another host: a host in a network namespace, whose key only the job's own agent has.

use super::payload;
use super::plan::Generation;
use super::player::{Live, Played, Player, left};
use crate::cable::{Space, entering};
use crate::runner;
use crate::support::needs::Need;
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, programs};
use jobcage_job::{GuestReport, Outcome};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// Deploys in two steps: the second one leaves a server there and goes on, and here are its agent and its client.
fn job(here: &World, there: &Space, lease: &str, more: &str) -> Value {
    // Where the build user may execute it, wherever it was built.
    let program = here.dir.join("jobcage");
    fs::copy(programs::jobcage(), &program).unwrap();
    let ssh = format!(
        "--host there --ssh 'ssh -F {}/ssh.conf'",
        there.world.dir.display()
    );
    let (jobcage, project) = (program.display(), here.dir.join("project"));
    let mut job = payload::job(
        4242,
        &[
            "eval $(ssh-agent -s) >/dev/null",
            "printf '%s\\n' \"$(cat \"$DEPLOY_KEY\")\" | ssh-add -q -",
            "rm \"$DEPLOY_KEY\"",
            &format!("id=$({jobcage} create {ssh} --lease {lease} --name site)"),
            &format!("{jobcage} run {ssh} --job $id -- sh -c 'sleep 300 >/dev/null 2>&1 & echo deployed'"),
            &more
                .replace("JOBCAGE", &format!("{jobcage} run {ssh} --lease {lease}"))
                .replace("PROJECT", &project.display().to_string()),
        ],
    );
    let told = format!("echo \"$CI_JOB_STATUS\" >> '{}/after'", project.display());
    payload::step(&mut job, "after_script", &[&told]);
    let key = fs::read_to_string(there.world.dir.join("userkey")).unwrap();
    // A client without a line is not ended by a signal: it would tell the host, as soon as it can.
    payload::set(&mut job, "JOBCAGE_GRACE", "1s");
    let variable = json!({"key": "DEPLOY_KEY", "value": key, "public": false, "masked": false, "file": true});
    job["variables"].as_array_mut().unwrap().push(variable);
    job
}

/// Plays it; what is told of the jobs there, in the report of the job.
fn played(
    generation: Generation,
    test: &str,
    lease: &str,
    more: &str,
    act: impl FnOnce(&mut Live<'_>, &Space),
    look: impl FnOnce(&Played, Vec<GuestReport>, Vec<PathBuf>),
) {
    let test = format!("{test}-{}", generation.name());
    let Some(there) = Space::new(&test, &[Need::Program("ssh-agent")]) else {
        return;
    };
    let Some(mut here) = runner::world(&test) else {
        return;
    };
    let mut player = Player::new(&here, generation, job(&here, &there, lease, more));
    // The client's end of the cable is the whole runner's.
    player.around = entering(&there.here()).into();
    player.plan.timeouts.graceful_kill = 300.0;
    let mut live = player.start();
    act(&mut live, &there);
    let done = live.end();
    let after = fs::read_to_string(here.dir.join("project/after")).unwrap_or_default();
    assert_eq!(
        after.lines().count(),
        1,
        "after_script ran: {after:?} {}",
        done.log
    );
    assert!(!done.tmp_is_left, "{:#?}", done.lines);
    let told = here.closed_reports().into_iter().flat_map(|report| report.guests);
    let told = told.filter(|guest| guest.kind == "remote").collect();
    look(&done, told, there.world.cages());
    assert!(left(&here).is_empty(), "{:?}", left(&here));
    here.assert_nobody_left();
    for cage in there.world.cages() {
        assert!(cgroup::wait_gone(&cage, PATIENCE), "{cage:?} is left there");
    }
    there.assert_nothing_left();
}

/// The job forgets what it has there; jobcage does not, and has its keys while the agent lives.
pub fn success(generation: Generation) {
    played(
        generation,
        "deploy-success",
        "10m",
        "true",
        |_, _| {},
        |done, told, cages| {
            assert_eq!(done.state(), json!({"state": "success"}), "{}", done.log);
            assert!(done.log.contains("\ndeployed\n"), "{}", done.log);
            let [site] = &told[..] else { panic!("{told:#?}") };
            assert_eq!((site.outcome, &site.why), (Outcome::Deleted, &None));
            assert_eq!(cages, Vec::<PathBuf>::new());
        },
    );
}

/// Nobody can tell the host anything: what is there ends by its lease, and that is told.
pub fn cancel_without_a_line(generation: Generation) {
    let more = "JOBCAGE --keepalive 300ms -- sh -c 'echo going; exec sleep 300' | while read -r line; do echo \"$line\" >PROJECT/$line; done";
    played(
        generation,
        "deploy-cancel",
        "5s",
        more,
        |live, there| {
            live.wait_file("project/going");
            assert_eq!(there.world.cages().len(), 2);
            there.set("down");
            let cancel = match generation {
                Generation::V14 => "cancel canceled",
                Generation::V18 => "cancel canceling",
            };
            live.say(cancel);
        },
        |done, told, _| {
            assert_eq!(done.state()["failure_reason"], "job_canceled", "{}", done.log);
            let mut told: Vec<_> = told
                .iter()
                .map(|guest| (guest.outcome, guest.why.as_deref()))
                .collect();
            told.retain(|(outcome, why)| {
                *outcome == Outcome::Leased
                    && why.is_some_and(|why| why.contains("its lease of 5.0 s ends it there"))
            });
            assert_eq!(told.len(), 2, "{told:#?}");
        },
    );
}
