//! The other verbs do there what they do here.

use crate::rig::{Rig, can};
use nix::sys::signal::Signal;

#[test]
fn verbs_do_there_what_they_do_here() {
    if !can("verbs::verbs_do_there_what_they_do_here") {
        return;
    }
    let rig = Rig::new("remote-verbs");
    let id = rig
        .run(
            &["--detach", "--name", "far"],
            &["sh", "-c", "echo one; sleep 300"],
        )
        .expect(0)
        .text();
    assert!(id.starts_with("far-"), "{id}");
    assert!(rig.call("list", &[]).expect(0).text().contains(&id));
    let shown = rig.call("show", &["--json", &id]).expect(0).json();
    assert_eq!(shown["job"], id.as_str(), "{shown}");
    assert_eq!(rig.call("logs", &[&id]).expect(0).text(), "one");
    rig.call("wait", &["--timeout", "100ms", &id]).expect(124);
    rig.call("stop", &["--now", &id]).expect(0);
    rig.call("wait", &["--quiet", &id]).expect(143);
    let missing = rig.call("show", &["none-00000000"]).expect(125);
    assert!(missing.told().contains("none-00000000"), "{}", missing.told());
    rig.assert_nothing_left();
}

#[test]
fn steps_of_several_calls_share_a_cage_there() {
    if !can("verbs::steps_of_several_calls_share_a_cage_there") {
        return;
    }
    let mut rig = Rig::new("remote-steps");
    let id = rig.call("create", &["--name", "pipeline"]).expect(0).text();
    let script = "sleep 300 >/dev/null 2>&1 & jobcage=x; echo TOKEN=abc >>$JOBCAGE_ENV; echo before";
    assert_eq!(
        rig.run(&["--job", &id], &["sh", "-c", script]).expect(0).text(),
        "before"
    );
    let done = rig
        .run(
            &["--job", &id, "--env", "WORD=w o"],
            &["sh", "-c", "echo $TOKEN $WORD; exit 6"],
        )
        .expect(6);
    assert_eq!(done.text(), "abc w o");
    // A step that is cancelled, by a line that breaks meanwhile.
    let words = [
        "--keepalive",
        "300ms",
        "--job",
        &id,
        "--",
        "sh",
        "-c",
        "trap 'echo asked; exit 9' TERM; echo one; while :; do sleep 0.05; done",
    ];
    let running = rig.start("run", &words);
    running.wait_for("one");
    rig.door.cut(crate::door::Break::Reset);
    running.wait_told("is there again");
    running.process().signal(Signal::SIGTERM);
    let ended = running.end();
    assert!(ended.code != 0 && ended.text() == "one\nasked\n", "{ended:?}");
    let done = rig.call("cleanup", &[&id]).expect(0);
    assert!(
        done.told().contains("1 process was left and killed"),
        "{}",
        done.told()
    );
    rig.assert_nothing_left();
}

#[test]
fn options_of_a_host_need_one() {
    if !can("verbs::options_of_a_host_need_one") {
        return;
    }
    let rig = Rig::new("remote-options");
    for options in [
        ["run", "--lease", "5s"],
        ["run", "--keepalive", "5s"],
        ["run", "--ssh", "ssh"],
    ] {
        let told = rig
            .world
            .call(&[&options[..], &["--", "true"]].concat())
            .refused();
        assert!(told.contains("give --host as well"), "{told}");
    }
    for host in ["-oProxyCommand=x", "a b", "h:0"] {
        let told = rig
            .world
            .call(&["run", &format!("--host={host}"), "--", "true"])
            .refused();
        assert!(told.contains("--host"), "{told}");
    }
    let told = rig.run(&["--timeout", "never"], &["true"]).expect(125);
    assert!(told.told().contains("--timeout"), "{}", told.told());
    rig.assert_nothing_left();
}
