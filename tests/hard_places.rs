//! Jobs whose very start is hard: a program or a directory on a file system that never answers, and a job that types
//! into the terminal of whoever started it.

mod support;

use nix::sys::signal::Signal;
use support::needs::{self, Need};
use support::process::Process;
use support::world::World;
use support::{PATIENCE, programs};

/// The job can neither start nor be killed. jobcage's clocks run all the same, it comes back, and it says who is left.
fn must_come_back(world: &mut World, server: &Process, options: &[&str], argv: &[&str]) {
    let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    let argv: Vec<String> = argv.iter().map(|a| (*a).to_owned()).collect();
    let mut job = world.run(&[], &options, &argv);
    let code = job.wait(2 * PATIENCE);
    assert_eq!(code, 125, "{}", job.stderr());
    let report = job.report();
    let quarantine = report
        .quarantine
        .as_ref()
        .unwrap_or_else(|| panic!("no quarantine: {report:#?}"));
    let survivor = quarantine.survivors.first().expect("somebody survived");
    assert_eq!(survivor.state, 'D', "{survivor:?}");
    assert!(
        job.stderr().contains(&survivor.pid.to_string()),
        "{} is not named: {}",
        survivor.pid,
        job.stderr()
    );
    // Its record is all that is known of it, so no limit takes it away.
    let gc = world.jobcage(&[], &["gc", "--keep", "0", "--keep-size", "0"]);
    assert_eq!(
        gc.status.code(),
        Some(125),
        "gc: {}",
        String::from_utf8_lossy(&gc.stderr)
    );
    assert_eq!(world.closed_reports().len(), 1);
    let held = Process::open(survivor.pid);
    server.signal(Signal::SIGTERM);
    assert!(server.wait_end(PATIENCE) && held.wait_end(PATIENCE));
    let gc = world.jobcage(&[], &["gc"]);
    assert!(gc.status.success(), "gc: {}", String::from_utf8_lossy(&gc.stderr));
    world.assert_nothing_left();
}

#[test]
fn program_on_a_file_system_that_never_answers() {
    if !needs::met("program_on_a_file_system_that_never_answers", &[Need::Fuse]) {
        return;
    }
    let mut world = World::new("fuse-main-exec");
    let (point, server) = world.dead_mount();
    let program = point.join("program").display().to_string();
    must_come_back(
        &mut world,
        &server,
        &["--timeout", "1s", "--grace", "300ms"],
        &[&program],
    );
}

#[test]
fn directory_on_a_file_system_that_never_answers() {
    if !needs::met("directory_on_a_file_system_that_never_answers", &[Need::Fuse]) {
        return;
    }
    let mut world = World::new("fuse-main-chdir");
    let (point, server) = world.dead_mount();
    let point = point.display().to_string();
    must_come_back(
        &mut world,
        &server,
        &["--timeout", "1s", "--grace", "300ms", "--dir", &point],
        &["true"],
    );
}

/// A job of another user on root's terminal must leave nothing in it for root's shell to read.
#[test]
fn another_user_cannot_type_into_our_terminal() {
    if !needs::met("another_user_cannot_type_into_our_terminal", &[Need::Root]) {
        return;
    }
    let world = World::new("tiocsti");
    let zoo = world.zoo.display().to_string();
    let jobcage = programs::jobcage().display().to_string();
    let mut command = world.command(&zoo);
    command.args([
        "pty", &jobcage, "run", "--user", "nobody", "--", &zoo, "tiocsti", "--exit", "5",
    ]);
    let made = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&made.stdout),
        String::from_utf8_lossy(&made.stderr),
    );
    assert_eq!(made.status.code(), Some(5), "{out}{err}");
    assert!(out.contains("tiocsti="), "it did not try: {out}{err}");
    assert!(
        err.contains("input-left=0"),
        "keys are left for the shell: {out}{err}"
    );
    assert!(
        !out.contains("tiocsti=pushed"),
        "the kernel took the keys: {out}{err}"
    );
}
