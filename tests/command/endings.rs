//! How a command can end, and what jobcage makes of it: exit codes, signals, clocks, stops, commands that cannot start.

use crate::support::PATIENCE;
use crate::support::call::{self, Done};
use crate::support::process::Process;
use crate::support::world::World;
use jobcage_job::{Cause, Clock, Ending, ExitStatus};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

#[test]
fn every_exit_code_is_passed_on() {
    let world = World::new("codes");
    for code in 0..=255 {
        let exit = format!("exit {code}");
        let done = world
            .call(&["run", "--quiet", "--", "sh", "-c", &exit])
            .expect(code);
        assert!(done.out.is_empty() && done.err.is_empty(), "{}", done.told());
    }
    world.assert_clean();
}

#[test]
fn every_signal_that_ends_the_command_is_128_and_its_number() {
    let world = World::new("signals");
    let stays = [
        Signal::SIGCHLD,
        Signal::SIGCONT,
        Signal::SIGSTOP,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGURG,
        Signal::SIGWINCH,
    ];
    for signal in Signal::iterator().filter(|s| !stays.contains(s)) {
        let number = signal as i32;
        let done = world
            .finish(
                &["--rlimit", "core=0"],
                &["sh", "-c", &format!("kill -{number} $$")],
            )
            .expect(128 + number);
        let report = done.report();
        assert_eq!(report.ending, Ending::Signalled { signal: number });
        assert_eq!(report.status, Some(ExitStatus::Signal(number)));
        assert_eq!(report.exit_code, 128 + number);
        assert!(done.err.is_empty(), "{signal}: {}", done.told());
    }
    // The last real-time signal.
    world.finish(&[], &["sh", "-c", "kill -64 $$"]).expect(192);
    world.assert_clean();
}

fn never_started(done: Done, code: i32, stage: &str, text: &str) {
    let done = done.expect(code);
    let told = done.told();
    assert!(
        told.lines().count() == 1 && told.starts_with("jobcage: ") && told.contains(text),
        "{text:?} is not in {told}"
    );
    let report = done.report();
    assert!(
        matches!(&report.ending, Ending::NeverStarted(n) if n.stage == stage),
        "{:?}",
        report.ending
    );
    assert_eq!(
        (report.exit_code, report.status, report.clean),
        (code, None, true)
    );
}

#[test]
fn commands_that_cannot_start() {
    let world = World::new("never-started");
    let file = |name: &str, text: &str, mode: u32| {
        let path = world.dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let plain = file("plain", "exit 0", 0o644);
    let lost = file("lost", "#!/no/such/interpreter\n", 0o755);
    let inside = format!("{plain}/inside");
    let dir = world.dir.display().to_string();
    let none = format!("{dir}/none");
    never_started(
        world.finish(&[], &["no-such-command"]),
        127,
        "exec",
        "no-such-command",
    );
    never_started(world.finish(&[], &[&none]), 127, "exec", "none");
    never_started(world.finish(&[], &[&lost]), 127, "exec", "lost");
    never_started(world.finish(&[], &[&plain]), 126, "exec", "Permission denied");
    never_started(world.finish(&[], &[&dir]), 126, "exec", "Permission denied");
    never_started(world.finish(&[], &[&inside]), 126, "exec", "Not a directory");
    never_started(
        world.finish(&["--dir", "/no/such/place"], &["true"]),
        125,
        "chdir",
        "/no/such/place",
    );
    // The kernel counts arguments against a quarter of the stack limit (execve(2)).
    let long = "x".repeat(100_000);
    never_started(
        world.finish(&["--rlimit", "stack=300K"], &["true", &long, &long]),
        126,
        "exec",
        "Argument list too long",
    );
    world.assert_clean();
}

#[test]
fn an_environment_that_is_too_big_is_a_clear_error() {
    let world = World::new("big-environment");
    // One string may have 128 KiB (execve(2)); only a config file can ask for more than our own caller could give.
    let secret = "s3cret".repeat(30_000);
    fs::write(
        world.dir.join("config.toml"),
        format!("[run]\nenv = [\"BIG={secret}\"]\n"),
    )
    .unwrap();
    let done = world.finish(&[], &["true"]);
    assert!(!done.told().contains("s3cret"), "the value is told");
    never_started(done, 126, "exec", "Argument list too long");
    world.assert_clean();
}

#[test]
fn huge_arguments_and_environments_pass() {
    let world = World::new("huge");
    let long = "x".repeat(120_000);
    let done = world
        .finish(
            &["--env", &format!("LONG={long}")],
            &["sh", "-c", "echo ${#LONG} ${#1} ${#2}", "sh", &long, &long],
        )
        .expect(0);
    assert_eq!(done.text(), "120000 120000 120000");
}

#[test]
fn a_timeout_ends_the_job_with_124() {
    let mut world = World::new("timeout");
    let done = world
        .finish(&["--timeout", "200ms"], &["sleep", "60"])
        .expect(124);
    assert!(done.told().contains("ran out of time after"), "{}", done.told());
    let report = done.report();
    assert_eq!(report.ending, Ending::TimedOut { clock: Clock::Wall });
    assert_eq!(
        report.status,
        Some(ExitStatus::Signal(15)),
        "the polite signal was enough"
    );
    assert!(
        (0.2..10.0).contains(&report.wall_seconds),
        "{}",
        report.wall_seconds
    );
    // A command that ends well on the polite signal has still run out of time.
    let polite = "trap 'echo asked; exit 0' TERM; while :; do sleep 0.02; done";
    let done = world
        .finish(&["--timeout", "1s"], &["sh", "-c", polite])
        .expect(124);
    assert_eq!(done.text(), "asked");
    assert_eq!(done.report().status, Some(ExitStatus::Code(0)));
    // One that is quick enough has not.
    world.finish(&["--timeout", "1h"], &["true"]).expect(0);
    world.assert_nothing_left();
}

#[test]
fn the_whole_step_gets_the_signal_that_was_asked_for_even_the_stopped() {
    let world = World::new("signal");
    let script = "trap 'echo main; exit 3' USR1
        sh -c 'trap \"echo child; exit\" USR1; : > ready-1; while :; do sleep 0.02; done' &
        sh -c 'trap \"echo stopped; exit\" USR1; : > ready-2; kill -STOP $$; while :; do sleep 0.02; done' &
        while ! [ -e ready-1 ] || ! [ -e ready-2 ]; do sleep 0.02; done
        echo up; while :; do sleep 0.02; done";
    let done = world
        .finish(
            &["--timeout", "3s", "--signal", "USR1", "--grace", "20s"],
            &["sh", "-c", script],
        )
        .expect(124);
    let text = done.text();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["child", "main", "stopped", "up"], "{}", done.told());
    assert_eq!(done.report().census.count, 0, "nobody had to be killed");
}

#[test]
fn who_ignores_the_signal_is_killed_after_the_grace() {
    let world = World::new("grace");
    let stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 0.02; done"];
    for (grace, least, most) in [("0s", 1.0, 8.0), ("600ms", 1.6, 12.0)] {
        let done = world
            .finish(&["--timeout", "1s", "--grace", grace], &stubborn)
            .expect(124);
        let report = done.report();
        assert!(
            (least..most).contains(&report.wall_seconds),
            "grace {grace}: {}",
            report.wall_seconds
        );
        assert_eq!(report.status, Some(ExitStatus::Signal(9)));
        assert!(report.census.count >= 1 && done.told().contains("left and killed"));
    }
    world.assert_clean();
}

#[test]
fn a_signal_to_jobcage_cancels_the_job() {
    let mut world = World::new("cancel");
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        let script = "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.02; done";
        let mut job = world.run(&[], &[], &words(&["sh", "-c", script]));
        assert!(job.wait_line("up"));
        job.signal(signal);
        assert_eq!(job.wait(PATIENCE), 128 + signal as i32, "{}", job.stderr());
        assert!(
            job.wait_line("asked"),
            "--signal is what the job gets, whatever we got"
        );
        let Ending::Cancelled(Cause::Signal {
            signal: told,
            pid,
            uid,
        }) = job.report().ending
        else {
            panic!("{:?}", job.report().ending)
        };
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(
            (told, pid, uid),
            (signal as i32, me, nix::unistd::getuid().as_raw())
        );
        assert!(job.stderr().contains("was stopped by signal"), "{}", job.stderr());
    }
    world.assert_nothing_left();
}

#[test]
fn a_second_signal_skips_the_grace() {
    let mut world = World::new("twice");
    let script = "trap 'echo asked' TERM; echo up; while :; do sleep 0.02; done";
    let mut job = world.run(&[], &words(&["--grace", "1h"]), &words(&["sh", "-c", script]));
    assert!(job.wait_line("up"));
    job.signal(Signal::SIGTERM);
    assert!(job.wait_line("asked"));
    job.signal(Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    let notes = job.report().notes;
    assert!(
        notes.iter().any(|n| n.contains("grace time was cut short")),
        "{notes:?}"
    );
    world.assert_nothing_left();
}

#[test]
fn user_signals_are_handed_on() {
    let mut world = World::new("forward");
    let script = "trap 'echo one' USR1; trap 'echo two; exit 0' USR2; echo up; while :; do sleep 0.02; done";
    let mut job = world.run(&[], &[], &words(&["sh", "-c", script]));
    assert!(job.wait_line("up"));
    job.signal(Signal::SIGUSR1);
    assert!(job.wait_line("one"));
    job.signal(Signal::SIGUSR2);
    assert_eq!(job.wait(PATIENCE), 0, "{}", job.stderr());
}

#[test]
fn what_the_command_leaves_is_killed_and_told_and_its_exit_code_kept() {
    let mut world = World::new("left");
    let done = world
        .finish(&[], &["sh", "-c", "sleep 1000 & setsid sleep 1001 & exit 42"])
        .expect(42);
    let told = done.told();
    assert!(told.contains("2 processes were left and killed"), "{told}");
    assert!(
        told.contains("sleep 1000") && told.contains("sleep 1001"),
        "{told}"
    );
    world.assert_nothing_left();
}

#[test]
fn a_timeout_holds_while_jobcage_is_stopped() {
    let mut world = World::new("stopped");
    let mut job = world.run(
        &[],
        &words(&["--timeout", "500ms"]),
        &words(&["sh", "-c", "echo up; sleep 60"]),
    );
    assert!(job.wait_line("up"));
    let began = Instant::now();
    job.stop();
    assert_eq!(job.wait(PATIENCE), 124, "{}", job.stderr());
    assert!(began.elapsed() < PATIENCE / 2, "it ended by itself");
    world.assert_nothing_left();
}

/// `server & exec jobcage run -- test`: what was started before is a child of the same process, and not of the job.
#[test]
fn children_from_before_the_exec_are_not_the_jobs() {
    let world = World::new("children-before");
    let mut command = world.shell_command(
        "sleep 300 & echo $! > pid; sh -c 'sleep 0.1; exit 9' & exec \"$JOBCAGE\" run -- sleep 0.3",
    );
    // It outlives the call, so it must not hold the output.
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null());
    command.stderr(fs::File::create(world.dir.join("stderr")).unwrap());
    let mut child = command.spawn().unwrap();
    let status = call::wait(&mut child, PATIENCE).expect("it ends");
    let told = fs::read_to_string(world.dir.join("stderr")).unwrap();
    let pid: i32 = fs::read_to_string(world.dir.join("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let sleeper = Process::open(pid);
    let lives = !sleeper.has_ended();
    sleeper.signal(Signal::SIGKILL);
    assert_eq!(status.code(), Some(0), "{told}");
    assert!(lives, "jobcage killed a process that is not the job's: {told}");
    assert_eq!(told, "");
}
