//! What a step hands on by `JOBCAGE_ENV` and `JOBCAGE_PATH`: who has it, and who has not.

use crate::create;
use crate::support::needs::{self, Need};
use crate::support::programs;
use crate::support::world::World;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A user that needs no account.
pub const USER: &str = "61234";

/// A program that everybody can run, as the word for `sh`.
pub fn copy_of_jobcage(world: &World) -> String {
    let copy = world.dir.join("jobcage");
    fs::copy(programs::jobcage(), &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    copy.display().to_string()
}

/// Where a job's directory is, by its record in this place.
pub fn state_dir(world: &World, place: &str, id: &str) -> PathBuf {
    let spec = fs::read(world.dir.join(place).join(id).join("spec.json")).unwrap();
    let spec: serde_json::Value = serde_json::from_slice(&spec).unwrap();
    PathBuf::from(
        spec["state_dir"]
            .as_str()
            .expect("the job has no state directory"),
    )
}

/// A step `sh -c script` of a job: what it printed.
#[track_caller]
pub fn step(world: &World, id: &str, options: &[&str], script: &str) -> String {
    let done = world.call(&[&["run", "--job", id], options, &["--", "sh", "-c", script]].concat());
    let done = done.expect(0);
    assert_eq!(done.told(), "");
    done.text()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Everything that steps can do, as a job of this user.
fn steps_hand_on(world: &World, who: &[&str], uid: u32) {
    let id = create(world, who);
    let dir = state_dir(world, "state", &id);
    assert_eq!((mode(&dir), fs::metadata(&dir).unwrap().uid()), (0o700, uid));
    for file in ["env", "path"] {
        let path = dir.join(file);
        assert_eq!(
            (mode(&path), fs::metadata(&path).unwrap().uid()),
            (0o600, uid),
            "{file}"
        );
    }
    let bin = world.dir.join(format!("bin-{uid}"));
    fs::create_dir(&bin).unwrap();
    fs::set_permissions(&bin, Permissions::from_mode(0o777)).unwrap();
    let step = |options: &[&str], script: &str| step(world, &id, &[who, options].concat(), script);
    assert_eq!(
        step(&[], "echo $JOBCAGE_ENV $JOBCAGE_PATH"),
        format!("{0}/env {0}/path", dir.display())
    );
    step(
        &["--env", "FROM=outside", "--env", "TAKEN=x"],
        "echo FROM=step >> $JOBCAGE_ENV; echo GONE=1 >> $JOBCAGE_ENV; echo TWICE=1 >> $JOBCAGE_ENV
         printf 'TWICE=2\\nLINES<<END\\n one\\n\\nEND \\n\\nEND\\nTAKEN=step' >> $JOBCAGE_ENV",
    );
    // Also over what is inherited, but not over what this step is given.
    let script = "echo $FROM,$GONE,$TWICE,$TAKEN; printf '%s|' \"$LINES\"; printenv | grep -c ^FROM=";
    assert_eq!(
        step(&["--env", "TAKEN=mine"], script),
        "step,1,2,mine\n one\n\nEND \n|1"
    );
    step(
        &[],
        &format!(
            "echo unset GONE >> $JOBCAGE_ENV; echo unset HOME >> $JOBCAGE_ENV; echo {} >> $JOBCAGE_PATH",
            bin.display()
        ),
    );
    assert_eq!(step(&[], "echo ${GONE-unset} ${HOME-unset}"), "unset unset");
    assert_eq!(step(&["--env", "HOME=/x"], "echo $HOME"), "/x");
    step(
        &[],
        &format!(
            "printf '#!/bin/sh\\necho found $PATH' > {0}/ours; chmod +x {0}/ours",
            bin.display()
        ),
    );
    let run = |more: &[&str]| world.call(&[&["run", "--job", &id], who, more, &["--", "ours"]].concat());
    let found = run(&[]).expect(0).text();
    assert!(found.starts_with(&format!("found {}:", bin.display())), "{found}");
    // By --env the whole PATH is this step's.
    run(&["--env", "PATH=/bin"]).expect(127);
    assert_eq!(
        step(&["--clear-env"], "echo $FROM $PATH"),
        format!("step {}:/usr/local/bin:/usr/bin:/bin", bin.display())
    );
    world.call(&["cleanup", &id]).expect(0);
    assert!(!dir.exists());
}

#[test]
fn steps_of_the_caller_hand_on() {
    let world = World::new("hand-on");
    steps_hand_on(&world, &[], nix::unistd::geteuid().as_raw());
}

#[test]
fn steps_of_another_user_hand_on() {
    if needs::met("steps_of_another_user_hand_on", &[Need::Root]) {
        let world = World::new("hand-on-user");
        steps_hand_on(&world, &["--user", USER], 61234);
    }
}

#[test]
fn the_after_phase_has_it_and_a_plain_run_has_none() {
    let mut world = World::new("hand-after");
    let write = "echo A=command >> $JOBCAGE_ENV; echo $PWD >> $JOBCAGE_PATH; echo $JOBCAGE_ENV; exit 3";
    let done = world.finish(
        &[
            "--env",
            "A=option",
            "--after",
            "echo $A $JOBCAGE_RESULT; echo $PATH; ls $JOBCAGE_ENV; echo B=2 >> $JOBCAGE_ENV",
        ],
        &["sh", "-c", write],
    );
    let done = done.expect(3);
    let lines: Vec<String> = done.text().lines().map(str::to_owned).collect();
    assert_eq!(lines[1], "command failed");
    assert!(
        lines[2].starts_with(&format!("{}:", world.dir.display())),
        "{lines:?}"
    );
    assert_eq!(lines[3], lines[0]);
    let file = Path::new(&lines[0]);
    assert!(!file.exists() && !file.parent().unwrap().exists(), "{lines:?}");
    // Also where the command ran out of time, and was killed.
    let options = ["--timeout", "300ms", "--grace", "0", "--after", "echo $A > told"];
    world
        .finish(&options, &["sh", "-c", "echo A=late >> $JOBCAGE_ENV; sleep 300"])
        .expect(124);
    assert_eq!(fs::read_to_string(world.dir.join("told")).unwrap(), "late\n");
    let done = world.finish(
        &[],
        &["sh", "-c", "echo ${JOBCAGE_ENV-none} ${JOBCAGE_PATH-none}"],
    );
    assert_eq!(done.expect(0).text(), "none none");
    world.assert_nothing_left();
    world.assert_clean();
}

/// The after phase is guaranteed, what was handed on to it is not.
#[test]
fn an_after_phase_that_was_handed_too_much_runs_without() {
    let world = World::new("hand-too-much");
    let script =
        "for i in 1 2 3 4; do printf V$i=; head -c 100000 /dev/zero | tr '\\0' x; echo; done >> $JOBCAGE_ENV";
    // A quarter of the stack is for arguments and environment, and 128 KiB at least.
    let options = [
        "--rlimit",
        "stack=512K",
        "--after",
        "echo after ${V1-none} >> told",
    ];
    let done = world.finish(&options, &["sh", "-c", script]).expect(0);
    assert_eq!(
        fs::read_to_string(world.dir.join("told")).unwrap(),
        "after none\n"
    );
    let report = done.report();
    assert!(
        report.notes.len() == 1 && report.notes[0].contains("has nothing of what was handed on"),
        "{:?}",
        report.notes
    );
    let after = &report.steps[1];
    assert_eq!(after.ending, jobcage_job::Ending::Exited { code: 0 });
}

#[test]
fn the_verb_does_it_from_inside() {
    let world = World::new("hand-verb");
    let jobcage = copy_of_jobcage(&world);
    let user: &[&str] = if nix::unistd::geteuid().is_root() {
        &["--user", USER]
    } else {
        &[]
    };
    let id = create(&world, user);
    let run = |script: &str| {
        let all = [
            &["run", "--job", &id, "--env", &format!("J={jobcage}")],
            user,
            &["--", "sh", "-c", script],
        ];
        world.call(&all.concat())
    };
    let set = "$J env set A=1 && $J env set 'B=two words' && printf 'x\\n\\nEND0\\n' | $J env set C && $J env set GONE=1 &&
               printf '' | $J env set EMPTY && $J env unset GONE NEVER";
    assert_eq!(run(set).expect(0).told(), "");
    let seen =
        "echo \"$A,$B,$EMPTY,${GONE-unset}\"; printf '%s|' \"$C\"; $J env get B; $J env list; $J env get C";
    let expected = "1,two words,,unset\nx\n\nEND0|two words\nA\nB\nC\nEMPTY\nx\n\nEND0";
    assert_eq!(run(seen).expect(0).text(), expected);
    let told = run("$J env get GONE").expect(1).told();
    assert!(told.contains("GONE is not handed on"), "{told}");
    for wrong in [
        "env set JOBCAGE_JOB=hunter2",
        "env set 1A=hunter2",
        "env set A-B=hunter2",
        "env unset JOBCAGE_ENV",
    ] {
        let told = run(&format!("$J {wrong}")).refused();
        assert!(!told.contains("hunter2"), "{told}");
    }
    run("head -c 200000 /dev/zero | tr '\\0' x | $J env set LONG").refused();
    run("printf 'a\\0b' | $J env set NUL").refused();
    // Many at once, and a plain writer that leaves its line open between them.
    let many = "for w in 1 2 3; do for n in $(seq 30); do $J env set W${w}_$n=$n; done & done
                for n in $(seq 30); do echo P_$n=$n >> $JOBCAGE_ENV; done; wait; printf OPEN=1 >> $JOBCAGE_ENV; $J env set LAST=1";
    run(many).expect(0);
    assert_eq!(
        run("$J env list | grep -c _; echo $OPEN$LAST $W3_30")
            .expect(0)
            .text(),
        "120\n11 30"
    );
    world.call(&["cleanup", &id]).expect(0);
    let outside = world.call(&["env", "list"]).refused();
    assert!(outside.contains("JOBCAGE_ENV is not set"), "{outside}");
}

#[test]
fn a_job_inside_of_a_job_has_its_own() {
    let world = World::new("hand-nested");
    let id = create(&world, &[]);
    let jobcage = copy_of_jobcage(&world);
    let inner = "echo OUTER=1 >> $JOBCAGE_ENV; echo $JOBCAGE_ENV
        $J run -- sh -c 'echo ${JOBCAGE_ENV-none} ${JOBCAGE_PATH-none}'
        $J run --after 'echo $INNER' -- sh -c 'echo INNER=1 >> $JOBCAGE_ENV; echo $JOBCAGE_ENV'";
    let env = format!("J={jobcage}");
    let done = world
        .call(&["run", "--job", &id, "--env", &env, "--", "sh", "-c", inner])
        .expect(0);
    let lines: Vec<String> = done.text().lines().map(str::to_owned).collect();
    assert_eq!(
        (lines[1].as_str(), lines[3].as_str()),
        ("none none", "1"),
        "{lines:?} {}",
        done.told()
    );
    assert!(lines[2].ends_with("/env") && lines[2] != lines[0], "{lines:?}");
    assert_eq!(
        step(&world, &id, &[], "echo ${OUTER-none} ${INNER-none}"),
        "1 none"
    );
    for option in ["JOBCAGE_ENV=/x", "JOBCAGE_PATH=/x"] {
        let told = world.finish(&["--env", option], &["true"]).refused();
        assert!(told.contains("set by jobcage itself"), "{told}");
    }
    world.call(&["cleanup", &id]).expect(0);
}

/// Whoever may write there decides what a later step runs: a step of root has nothing of it.
#[test]
fn a_step_of_another_user_than_the_jobs_has_nothing_of_it() {
    if !needs::met(
        "a_step_of_another_user_than_the_jobs_has_nothing_of_it",
        &[Need::Root],
    ) {
        return;
    }
    let world = World::new("hand-other-user");
    let id = create(&world, &["--user", USER]);
    let evil =
        "echo LD_PRELOAD=/evil.so >> $JOBCAGE_ENV; echo A=1 >> $JOBCAGE_ENV; echo /evil >> $JOBCAGE_PATH";
    step(&world, &id, &["--user", USER], evil);
    let script = "echo ${LD_PRELOAD-none} ${A-none} ${JOBCAGE_ENV-none} ${JOBCAGE_PATH-none} $PATH";
    for other in [&["--user", "0"][..], &[], &["--user", "61235"]] {
        let done = world
            .call(&[&["run", "--job", &id], other, &["--", "sh", "-c", script]].concat())
            .expect(0);
        assert!(
            done.text().starts_with("none none none none ") && !done.text().contains("evil"),
            "{}",
            done.text()
        );
        assert!(
            done.told().contains("this step has no JOBCAGE_ENV"),
            "{}",
            done.told()
        );
    }
    assert!(step(&world, &id, &["--user", USER, "--env", "LD_PRELOAD="], script).starts_with("1 /"));
    world.call(&["cleanup", &id]).expect(0);
}
