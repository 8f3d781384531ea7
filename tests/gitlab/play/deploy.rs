//! A job that deploys to another host: a host in a network namespace, whose key only the job's own agent has.

use super::payload;
use super::plan::Generation;
use super::player::{Live, Played, Player, left};
use crate::netns::Space;
use crate::rig::{NEEDS, Sshd, configure, wait_servers, write_client_config};
use crate::runner;
use crate::support::needs::{Need, met};
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, programs};
use jobcage_job::{GuestReport, Outcome};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The host, and how it is reached.
struct There {
    space: Space,
    world: World,
    sshd: Sshd,
}

impl There {
    fn new(test: &str, number: u8) -> Self {
        let (space, world) = (Space::new(number), World::new(&format!("{test}-there")));
        let file = configure(&world, &format!("ListenAddress {}:22", space.there()), &[]);
        let mut server = world.command("nsenter");
        server.args([space.enter().as_str(), "/usr/sbin/sshd"]);
        let sshd = Sshd::start(server, &file);
        write_client_config(&world, &space.there(), 22);
        Self { space, world, sshd }
    }

    /// Nothing of the job is there, nor of the lines that led there.
    fn assert_nothing_left(self) {
        let Self {
            space,
            mut world,
            sshd,
        } = self;
        for cage in world.cages() {
            assert!(cgroup::wait_gone(&cage, PATIENCE), "{cage:?} is left there");
        }
        drop((sshd, space));
        wait_servers(&world);
        world.assert_clean_after_gc();
        world.assert_nothing_left();
    }
}

/// Deploys in two steps: the second one leaves a server there and goes on, and here are its agent and its client.
fn job(here: &World, there: &There, lease: &str, more: &str) -> Value {
    // Under its own name there, as this very file would be: its time and size are what the copy is called by.
    let program = here.dir.join("jobcage");
    let copied = Command::new("cp")
        .arg("-p")
        .arg(programs::jobcage())
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
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
    act: impl FnOnce(&mut Live<'_>, &There),
    look: impl FnOnce(&Played, Vec<GuestReport>, Vec<PathBuf>),
) {
    let needs = [NEEDS, &[Need::Program("ip"), Need::Program("ssh-agent")]].concat();
    let test = format!("{test}-{}", generation.name());
    if !met(&test, &needs) {
        return;
    }
    let Some(mut here) = runner::world(&test) else {
        return;
    };
    // Two of them at a time are two networks.
    let number = generation as u8 * 2 + u8::from(lease == "10m");
    let there = There::new(&test, number);
    let mut player = Player::new(&here, generation, job(&here, &there, lease, more));
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
            there.space.set("down");
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
