//! A host in a network namespace of its own, behind a link that goes down: nobody sends a FIN or a RST then.

use crate::netns::Space;
use crate::rig::{Sshd, can, command, wait_servers};
use crate::support::call::to_end;
use crate::support::needs::{Need, met};
use crate::support::world::World;
use std::process::Stdio;

#[test]
fn a_link_that_goes_down_costs_nothing_but_time() {
    let name = "space::a_link_that_goes_down_costs_nothing_but_time";
    if !can(name) || !met(name, &[Need::Program("ip")]) {
        return;
    }
    let space = Space::new(0);
    let mut world = World::new("remote-space");
    let sshd = Sshd::start_in(&world, &space);
    to_end(command(&world, "run", &["--", "true"]), b"").expect(0);
    let script = "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 4";
    let mut child = command(&world, "run", &["--keepalive", "300ms", "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 2];
    std::io::Read::read_exact(&mut out, &mut first).unwrap();
    space.set("down");
    // Longer than the client's patience of 0.9 s, with the job's whole time in it.
    std::thread::sleep(std::time::Duration::from_secs(3));
    space.set("up");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
    let done = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    let whole: String = (1..=100).map(|i| format!("{i}\n")).collect();
    assert_eq!(
        [&String::from_utf8_lossy(&first), rest.as_str()].concat(),
        whole,
        "{told}"
    );
    assert_eq!(done.status.code(), Some(4), "{told}");
    assert!(told.contains("is there again"), "{told}");
    drop(sshd);
    wait_servers(&world);
    world.assert_clean_after_gc();
    world.assert_nothing_left();
}
