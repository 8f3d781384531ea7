//! A host in a network namespace of its own, behind a link that goes down: nobody sends a FIN or a RST then.

use crate::rig::{Sshd, can, command, configure, wait_servers, write_client_config};
use crate::support::call::to_end;
use crate::support::needs::{Need, met};
use crate::support::world::World;
use std::process::{Command, Stdio};

/// A namespace, and the pair of links that leads there.
struct Space {
    name: String,
    link: String,
}

const HERE: &str = "10.213.77.1";
const THERE: &str = "10.213.77.2";

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

impl Space {
    fn new() -> Self {
        let number = std::process::id() % 100_000;
        let space = Self {
            name: format!("jobcage-test-{number}"),
            link: format!("jct{number}"),
        };
        let (name, link) = (&space.name, &space.link);
        ip(&format!("netns add {name}"));
        ip(&format!(
            "link add {link} type veth peer name {link}p netns {name}"
        ));
        ip(&format!("addr add {HERE}/30 dev {link}"));
        ip(&format!("link set {link} up"));
        ip(&format!("-n {name} addr add {THERE}/30 dev {link}p"));
        ip(&format!("-n {name} link set {link}p up"));
        space
    }

    fn set(&self, state: &str) {
        ip(&format!("link set {} {state}", self.link));
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // The links go with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

#[test]
fn a_link_that_goes_down_costs_nothing_but_time() {
    let name = "space::a_link_that_goes_down_costs_nothing_but_time";
    if !can(name) || !met(name, &[Need::Program("ip")]) {
        return;
    }
    let space = Space::new();
    let mut world = World::new("remote-space");
    let file = configure(&world, &format!("ListenAddress {THERE}:22"), &[]);
    // Not by `ip netns exec`, which mounts a /sys without cgroups.
    let mut server = world.command("nsenter");
    server.args([&format!("--net=/run/netns/{}", space.name), "/usr/sbin/sshd"]);
    let sshd = Sshd::start(server, &file);
    write_client_config(&world, THERE, 22);
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
