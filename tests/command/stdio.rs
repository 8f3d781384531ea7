//! stdin, stdout, stderr and the other descriptors: the command has those of its caller, and none of ours.

use crate::support::world::World;
use std::fs;

const LINKS: &str = "for fd in 0 1 2; do all=\"$all$(stat -L -c '%d:%i:%f' /proc/$$/fd/$fd)\n\"; done; printf \"$all\" > seen";

/// Runs a script that writes `seen`, once as it is and once in a job, and gives both.
fn both(world: &World, redirect: &str, script: &str) -> (String, String) {
    fs::write(world.dir.join("script"), script).unwrap();
    fs::write(world.dir.join("in"), "one\ntwo\n").unwrap();
    let seen = || {
        let text = fs::read_to_string(world.dir.join("seen")).unwrap();
        fs::remove_file(world.dir.join("seen")).unwrap();
        text
    };
    world.shell(&format!("sh script {redirect}")).expect(0);
    let bare = seen();
    world
        .shell(&format!("\"$JOBCAGE\" run -- sh script {redirect}"))
        .expect(0);
    (bare, seen())
}

#[test]
fn the_three_files_are_the_callers_own() {
    let world = World::new("stdio-inodes");
    let (bare, job) = both(&world, "< in > out 2> err", LINKS);
    assert_eq!(bare, job);
    assert_eq!(bare.lines().count(), 3);
    let (bare, job) = both(&world, "< /dev/null >> out 2>&1", LINKS);
    assert_eq!(bare, job);
}

#[test]
fn position_and_mode_of_a_file_are_shared() {
    let world = World::new("stdio-position");
    fs::write(world.dir.join("in"), "one\ntwo\nthree\n").unwrap();
    // read(1) of the shell takes a line and no more from a file that can seek.
    let script =
        "{ read a; \"$JOBCAGE\" run -- sh -c 'read b; echo job $b'; read c; echo $a $c; } < in > out";
    world.shell(script).expect(0);
    assert_eq!(
        fs::read_to_string(world.dir.join("out")).unwrap(),
        "job two\none three\n"
    );
    world
        .shell("echo start > out; \"$JOBCAGE\" run -- echo more >> out")
        .expect(0);
    assert_eq!(
        fs::read_to_string(world.dir.join("out")).unwrap(),
        "start\nmore\n"
    );
}

#[test]
fn no_descriptor_of_ours_comes_to_the_command_and_those_of_the_caller_do() {
    let world = World::new("stdio-extra");
    let script = "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> \\(.*\\)/\\1 \\2/p' | grep -v ' /proc/' | \
                  sed 's/ pipe:.*/ pipe/' > seen";
    for options in ["", "--timeout 1h --report report.json --after :"] {
        fs::write(world.dir.join("script"), script).unwrap();
        fs::write(world.dir.join("in"), "x").unwrap();
        let redirect = "< in 5< in 7>> seven 9> nine 2> err";
        world.shell(&format!("sh script {redirect}")).expect(0);
        let bare = fs::read_to_string(world.dir.join("seen")).unwrap();
        world
            .shell(&format!("\"$JOBCAGE\" run {options} -- sh script {redirect}"))
            .expect(0);
        let job = fs::read_to_string(world.dir.join("seen")).unwrap();
        let fds = |text: &str| {
            text.lines()
                .map(|l| l.split(' ').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(fds(&bare), fds(&job), "{options}: {job}");
        assert_eq!(bare, job, "{options}");
        assert!(job.contains("7 ") && job.contains("/seven"), "{job}");
    }
}

#[test]
fn closed_descriptors_are_no_trap() {
    let world = World::new("stdio-closed");
    // Whatever jobcage opens would get the numbers 0, 1 and 2, and the command would write into it.
    for options in ["", "--idle-timeout 1h", "--report report.json"] {
        let done = world.shell(&format!(
            "exec \"$JOBCAGE\" run {options} -- sh -c 'echo x; echo y >&2; ls -l /proc/self/fd > seen; exit 3' 0<&- 1>&- 2>&-"
        ));
        assert_eq!(done.code, 3, "{options}");
        let seen = fs::read_to_string(world.dir.join("seen")).unwrap();
        for ours in ["signalfd", "cgroup", "watch", "timerfd", "lock", "spec.json"] {
            assert!(!seen.contains(ours), "{options}: {seen}");
        }
    }
    world.assert_clean_after_gc();
}

#[test]
fn a_script_of_ten_megabytes_on_stdin() {
    let world = World::new("stdin-10m");
    let mut script = String::with_capacity(10_500_000);
    script.push_str("n=0\n");
    while script.len() < 10_400_000 {
        script.push_str(": '");
        script.extend(std::iter::repeat_n('x', 8000));
        script.push_str("'; n=$((n+1))\n");
    }
    script.push_str("echo $n\n");
    for options in [&[][..], &["--idle-timeout", "1h"]] {
        let done = world
            .finish_with(options, &["sh"], script.as_bytes(), |_| {})
            .expect(0);
        assert_eq!(done.text(), "1298");
    }
    // And one that nobody reads: jobcage does not wait for it.
    world
        .finish_with(&[], &["true"], script.as_bytes(), |_| {})
        .expect(0);
}

#[test]
fn a_big_output_passes() {
    let world = World::new("stdout-big");
    let done = world
        .finish(&[], &["head", "-c", "30000000", "/dev/zero"])
        .expect(0);
    assert_eq!(done.out.len(), 30_000_000);
}

#[test]
fn pipelines_work_on_both_sides() {
    let world = World::new("pipeline");
    let done = world
        .shell("seq 1 1000 | \"$JOBCAGE\" run -- grep 7 | \"$JOBCAGE\" run --idle-timeout 1h -- wc -l")
        .expect(0);
    assert_eq!(done.text(), "271");
    world.assert_clean_after_gc();
}
