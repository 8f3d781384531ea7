//! Detached jobs of another user: their output by name, and what they cannot do to those who look after them.

use crate::support::needs::{Need, met};
use crate::support::world::World;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

const NOBODY: [&str; 2] = ["--user", "nobody"];

#[test]
fn output_can_be_opened_by_name() {
    if !met("detach_by_name", &[Need::Root]) {
        return;
    }
    let mut world = World::new("user-by-name");
    let script = "echo one > /dev/stderr; echo two > /proc/self/fd/1; echo three >> /dev/stdout; id -un";
    let job = world.detach(&NOBODY, &["sh", "-c", script]);
    assert_eq!(job.wait_over().exit_code, 0);
    assert_eq!(job.text("log-01"), "one\ntwo\nthree\nnobody\n");
    let job = world.detach(
        &[&NOBODY[..], &["--streams", "split"]].concat(),
        &["sh", "-c", script],
    );
    assert_eq!(job.wait_over().exit_code, 0);
    assert_eq!(job.text("log-01.stdout"), "two\nthree\nnobody\n");
    assert_eq!(job.text("log-01.stderr"), "one\n");
    world.assert_nobody_left();
}

#[test]
fn output_cannot_be_taken_back() {
    if !met("detach_steal", &[Need::Root]) {
        return;
    }
    let mut world = World::new("user-steal");
    let script = "exec 5>&1 6>&2; echo precious; \
                  for fd in 5 6; do (exec 3< /proc/self/fd/$fd) > /dev/null 2>&1 && echo stolen; done; echo end";
    let job = world.detach(&NOBODY, &["sh", "-c", script]);
    assert_eq!(job.wait_over().exit_code, 0);
    assert_eq!(job.text("log-01"), "precious\nend\n");
    world.assert_nobody_left();
}

/// Kill, look into, move: all refused. The record is private.
#[test]
fn those_who_look_after_it_are_out_of_its_reach() {
    if !met("detach_reach", &[Need::Root]) {
        return;
    }
    let mut world = World::new("user-reach");
    world.fifo("go");
    fs::set_permissions(world.dir.join("go"), fs::Permissions::from_mode(0o666)).unwrap();
    let script = "read pids < go; for pid in $pids; do \
                    kill -9 $pid 2> /dev/null && echo killed; kill -STOP $pid 2> /dev/null && echo stopped; \
                    cat /proc/$pid/environ > /dev/null 2>&1 && echo read; ls /proc/$pid/fd > /dev/null 2>&1 && echo listed; \
                  done; \
                  ls \"$RECORD\" > /dev/null 2>&1 && echo entered; echo tried $(echo $pids | wc -w)";
    let record = format!("RECORD={}", world.dir.join("state").display());
    let options = [&NOBODY[..], &["--env", &record]].concat();
    let job = world.detach(&options, &["sh", "-c", script]);
    let pids = format!("{} {}", job.supervisor(&world).pid, job.keeper().pid);
    let _held = world.say_into("go", &pids);
    let report = job.wait_over();
    assert_eq!(report.exit_code, 0);
    assert_eq!(job.text("log-01"), "tried 2\n");
    assert!(report.notes.is_empty(), "{:#?}", report.notes);
    for name in ["log-01", "spec.json", "report.json"] {
        let mode = fs::metadata(job.record.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
    world.assert_nobody_left();
}
