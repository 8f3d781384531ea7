//! Virtual machines of KVM that a job leaves: known by what they have open, ended with the cage, and told of.

use crate::create;
use crate::support::needs::{Need, met};
use crate::support::process::Process;
use crate::support::world::World;
use serde_json::{Value, json};

/// A command that leaves a process with a machine called `web`, and says its pid.
const LEAVE: &str =
    "./zoo kvm-vm --exit 0 -name guest=web,debug-threads=on > ready 2>&1; read -r _ _ pid < ready; echo $pid";

#[test]
fn a_machine_is_named_and_has_ended() {
    if !met("a_machine_is_named_and_has_ended", &[Need::Kvm]) {
        return;
    }
    let mut world = World::new("kvm");
    let done = world
        .finish(&["--guests", "qemu=isolate"], &["sh", "-c", LEAVE])
        .expect(0);
    let pid: i32 = done.text().parse().unwrap();
    let report = done.report();
    let left = report.census.left.iter().find(|left| left.pid == pid).unwrap();
    assert_eq!(left.kvm.as_deref(), Some("web"));
    let told = serde_json::to_value(&report.guests).unwrap();
    let entry = json!({"kind": "qemu", "what": "vm", "name": "web", "ran": format!("pid {pid} (zoo)"),
                       "outcome": "deleted", "bytes": 0});
    assert_eq!(told, json!([entry]));
    assert!(report.clean && Process::open(pid).has_ended());
    let line = format!("KVM machine \"web\", pid {pid} (zoo): running → ended");
    assert!(done.told().contains(&line), "{}", done.told());
    world.assert_nothing_left();
    world.assert_clean();
    assert!(
        !world.dir.join("state-guests").exists(),
        "a place was made for it"
    );
}

#[test]
fn where_nothing_is_looked_after_the_census_marks_it() {
    if !met("where_nothing_is_looked_after_the_census_marks_it", &[Need::Kvm]) {
        return;
    }
    let mut world = World::new("kvm-off");
    let nameless = "./zoo kvm-vm --exit 0 > ready 2>&1; read -r _ _ pid < ready; echo $pid";
    for options in [&[][..], &["--guests", "off"]] {
        let done = world.finish(options, &["sh", "-c", nameless]).expect(0);
        let pid: i32 = done.text().parse().unwrap();
        let report = done.report();
        let marked = report.census.left.iter().filter(|left| left.kvm.is_some());
        let marked: Vec<_> = marked.map(|left| (left.pid, left.kvm.as_deref())).collect();
        assert_eq!(marked, [(pid, Some("zoo"))], "{report:#?}");
        assert!(report.guests.is_empty(), "{report:#?}");
        assert!(done.told().contains("KVM machine \"zoo\""), "{}", done.told());
    }
    world.assert_nothing_left();
}

#[test]
fn one_of_an_open_job_is_listed_while_it_runs() {
    if !met("one_of_an_open_job_is_listed_while_it_runs", &[Need::Kvm]) {
        return;
    }
    let mut world = World::new("kvm-open");
    let id = create(&world, &[]);
    let step = world
        .call(&["run", "--job", &id, "--", "sh", "-c", LEAVE])
        .expect(0);
    let pid: i32 = step.text().parse().unwrap();
    let machines = |world: &World| -> Value { world.call(&["guests", &id, "--json"]).expect(0).json() };
    assert_eq!(
        machines(&world)[0]["machines"],
        json!([{"kind": "qemu", "name": "web", "id": "", "pid": pid}])
    );
    let text = world.call(&["guests"]).expect(0).text();
    assert!(
        text.contains(&format!("KVM machine \"web\": running, pid {pid}")),
        "{text}"
    );
    world.call(&["cleanup", &id]).expect(0);
    assert_eq!(machines(&world), json!([]));
    let shown = world.call(&["show", &id, "--json"]).expect(0).json();
    assert_eq!(shown["report"]["guests"][0]["name"], json!("web"), "{shown:#}");
    let marked = world.call(&["show", &id]).expect(0).text();
    assert!(marked.contains("kvm: web"), "{marked}");
    world.assert_nothing_left();
}
