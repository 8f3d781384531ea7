//! The agent of this side, there: over each line anew, and for the job always at the same place.

use crate::door::Break;
use crate::rig::{Rig, can};
use crate::support::PATIENCE;
use crate::support::call::to_end;
use crate::support::needs::{Need, met};
use std::fs;
use std::process::{Child, Command, Stdio};

/// An agent with the key of the rig's user.
struct Agent(Child, String);

impl Agent {
    fn start(rig: &Rig) -> Self {
        let socket = rig.world.dir.join("agent.sock").display().to_string();
        let child = rig
            .world
            .command("ssh-agent")
            .args(["-D", "-a", &socket])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let dir = &rig.world.dir;
        let is_there = || fs::exists(&socket).unwrap();
        assert!(crate::support::captured::wait_written(dir, is_there));
        let mut add = Command::new("ssh-add");
        add.arg("-q")
            .arg(dir.join("userkey"))
            .env("SSH_AUTH_SOCK", &socket);
        assert!(add.status().unwrap().success());
        Self(child, socket)
    }

    fn give(&self, mut command: Command) -> Command {
        command.env("SSH_AUTH_SOCK", &self.1);
        command
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn can_with_agent(name: &str) -> bool {
    can(name) && met(name, &[Need::Program("ssh-agent"), Need::Program("ssh-add")])
}

fn links(rig: &Rig) -> Vec<String> {
    let listed = fs::read_dir(rig.world.dir.join("cache/jobcage"))
        .into_iter()
        .flatten()
        .flatten();
    let names = listed.map(|entry| entry.file_name().into_string().unwrap());
    names
        .filter(|name| name.starts_with("agent-") || name.starts_with("new."))
        .collect()
}

#[test]
fn a_job_has_the_agent_also_after_a_break() {
    let name = "agent::a_job_has_the_agent_also_after_a_break";
    if !can_with_agent(name) {
        return;
    }
    let mut rig = Rig::new("remote-agent");
    let agent = Agent::start(&rig);
    let script = "ssh-add -l && echo one && until [ -e go ]; do sleep 0.02; done; ssh-add -l && echo two";
    let dir = format!("--dir={}", rig.world.dir.display());
    let words = [
        "--forward-agent",
        "--keepalive",
        "300ms",
        &dir,
        "--",
        "sh",
        "-c",
        script,
    ];
    let running = rig.start_with("run", &words, |command| agent.give(command));
    running.wait_for("one");
    assert_eq!(links(&rig).len(), 1);
    rig.door.cut(Break::Reset);
    running.wait_told("is there again");
    fs::write(rig.world.dir.join("go"), "").unwrap();
    let ended = running.end().expect(0);
    assert_eq!(ended.text().matches("ED25519").count(), 2, "{ended:?}");
    assert!(ended.text().ends_with("two\n"), "{ended:?}");
    // The other side tidies up when its line has ended.
    let since = std::time::Instant::now();
    while !links(&rig).is_empty() {
        assert!(since.elapsed() < PATIENCE, "{:?} are left", links(&rig));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    drop(agent);
    rig.assert_nothing_left();
}

/// A step of a cage there has it, too; a job without the option has not, and one that cannot have it does not begin.
#[test]
fn who_gets_the_agent() {
    if !can_with_agent("agent::who_gets_the_agent") {
        return;
    }
    let rig = Rig::new("remote-agent-who");
    let agent = Agent::start(&rig);
    let id = rig.call("create", &[]).expect(0).text();
    let with = |words: &[&str]| to_end(agent.give(rig.command("run", words)), b"");
    let job = format!("--job={id}");
    assert!(
        with(&["--forward-agent", &job, "--", "ssh-add", "-l"])
            .expect(0)
            .text()
            .contains("ED25519")
    );
    rig.call("cleanup", &[&id]).expect(0);
    assert_eq!(
        with(&["--", "sh", "-c", "echo \"[$SSH_AUTH_SOCK]\""])
            .expect(0)
            .text(),
        "[]"
    );
    let refused = with(&["--forward-agent", "--user", "nobody", "--", "true"]).expect(125);
    assert!(
        refused
            .told()
            .contains("--forward-agent is for jobs of the user who logs in"),
        "{}",
        refused.told()
    );
    let mut without = rig.command("run", &["--forward-agent", "--", "echo", "ran"]);
    without.env_remove("SSH_AUTH_SOCK");
    let refused = to_end(without, b"").expect(125);
    assert!(
        refused.told().contains("no ssh-agent is forwarded") && refused.text().is_empty(),
        "{}",
        refused.told()
    );
    drop(agent);
    rig.assert_nothing_left();
}

/// What nobody has used for a month goes, and what is in use does not.
#[test]
fn old_copies_go() {
    if !can("agent::old_copies_go") {
        return;
    }
    let rig = Rig::new("remote-old-copies");
    rig.run(&[], &["true"]).expect(0);
    let dir = rig.world.dir.join("cache/jobcage");
    let [own] = &fs::read_dir(&dir)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect::<Vec<_>>()[..]
    else {
        panic!("one copy")
    };
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(40 * 86400);
    for path in [
        own.clone(),
        dir.join("jobcage-0.0.1-x"),
        dir.join("new.x"),
        dir.join("mine"),
    ] {
        let file = fs::File::options()
            .append(true)
            .create(true)
            .open(&path)
            .unwrap_or_else(|_| fs::File::open(&path).unwrap());
        file.set_modified(old).unwrap();
    }
    rig.run(&[], &["true"]).expect(0);
    let mut left: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    left.sort();
    assert_eq!(left, [own.clone(), dir.join("mine")]);
    rig.assert_nothing_left();
}
