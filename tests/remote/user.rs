//! A host that a plain user logs in to: his cages are in a cgroup that is his, his records in his directories, and jobcage is never root there.

use crate::door::Break;
use crate::rig::{Rig, can};
use crate::support::cgroup;
use crate::support::needs::{Need, met};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, User, chown};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A user of the test's own, and what is his.
struct Guest {
    name: String,
    uid: Uid,
    home: PathBuf,
    cgroup: PathBuf,
}

impl Guest {
    /// Makes one whose home and cgroup are there already.
    fn add(home: &Path, cgroup: &Path) -> Self {
        let name = format!("jct{}", std::process::id());
        // Without a password, and not locked: sshd lets nobody in who is.
        let done = Command::new("useradd")
            .args([
                "--system",
                "--no-create-home",
                "--shell",
                "/bin/sh",
                "--password",
                "*",
                "--home-dir",
            ])
            .args([home.as_os_str(), name.as_ref()])
            .status();
        assert!(done.unwrap().success(), "useradd {name}");
        let uid = User::from_name(&name).unwrap().unwrap().uid;
        let guest = Self {
            name,
            uid,
            home: home.into(),
            cgroup: cgroup.into(),
        };
        for path in [home, cgroup] {
            guest.own(path);
        }
        for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            guest.own(&cgroup.join(file));
        }
        guest
    }

    fn own(&self, path: &Path) {
        chown(path, Some(self.uid), Some(Gid::from_raw(self.uid.as_raw()))).unwrap();
    }

    /// Nobody of his is left but who looks after jobs, whom the test ends.
    fn leave(&self) {
        for own in ["hold", "keepers", "supervisors"] {
            let dir = self.cgroup.join(own);
            if own != "hold" {
                assert!(
                    cgroup::wait_empty(&dir, crate::support::PATIENCE),
                    "{}",
                    cgroup::tree(&self.cgroup)
                );
            }
            for pid in cgroup::pids(&dir) {
                crate::support::process::Process::open(pid).signal(Signal::SIGKILL);
            }
        }
        assert!(
            cgroup::wait_empty(&self.cgroup, crate::support::PATIENCE),
            "{}",
            cgroup::tree(&self.cgroup)
        );
        let mut left = cgroup::below(&self.cgroup);
        left.retain(|dir| {
            !["hold", "keepers", "supervisors", "sshd"]
                .iter()
                .any(|own| dir.ends_with(own))
        });
        left.retain(|dir| *dir != self.cgroup);
        assert!(left.is_empty(), "{left:?}");
        cgroup::remove(&self.cgroup).unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Also while a process of his lives, as after a failure.
        let _ = Command::new("userdel").args(["--force", &self.name]).status();
    }
}

fn rig_of(test: &str) -> Option<(Rig, Guest)> {
    let needs = [Need::Program("useradd"), Need::Program("userdel")];
    if !can(test) || !met(test, &needs) {
        return None;
    }
    let mut guest = None;
    let rig = Rig::of_user("remote-user", |world| {
        let (home, cgroup) = (world.dir.join("their-home"), world.cgroup_root.join("theirs"));
        fs::create_dir(&home).unwrap();
        // A process of his can only be moved within what is his: so the server has to stand there.
        fs::create_dir_all(cgroup.join("sshd")).unwrap();
        let made = guest.insert(Guest::add(&home, &cgroup));
        (made.name.clone(), home, cgroup)
    });
    Some((rig, guest?))
}

#[test]
fn a_plain_user_has_all_of_it() {
    let Some((mut rig, guest)) = rig_of("user::a_plain_user_has_all_of_it") else {
        return;
    };
    let done = rig.run(
        &["--after", "echo after $JOBCAGE_EXIT_CODE"],
        &["sh", "-c", "id -u; echo err >&2; exit 7"],
    );
    let done = done.expect(7);
    assert_eq!(done.text(), format!("{}\nafter 7", guest.uid));
    let done = rig
        .run(&[], &["sh", "-c", "sleep 300 >/dev/null 2>&1 & exit 0"])
        .expect(0);
    assert!(
        done.told().contains("1 process was left and killed"),
        "{}",
        done.told()
    );
    // Files are his, whoever has sent them.
    let sent = rig.world.dir.join("sent");
    fs::write(&sent, "x").unwrap();
    let send = format!("--send={}", sent.display());
    let fetch = format!("--fetch=made:{}", rig.world.dir.join("back").display());
    rig.run(&[&send, &fetch], &["sh", "-c", "cp sent made"]).expect(0);
    let owner = |path: PathBuf| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
    assert_eq!(owner(guest.home.join("sent")), guest.uid.as_raw());
    assert_eq!(fs::read_to_string(rig.world.dir.join("back/made")).unwrap(), "x");
    // A line that breaks, and a cancel.
    let script = "trap 'echo asked; exit 9' TERM; echo one; while :; do sleep 0.05; done";
    let running = rig.start("run", &["--keepalive", "300ms", "--", "sh", "-c", script]);
    running.wait_for("one");
    rig.door.cut(Break::Reset);
    running.wait_told("is there again");
    running.process().signal(Signal::SIGTERM);
    assert_eq!(running.end().expect(143).text(), "one\nasked\n");
    // What he may not, nobody does for him.
    let refused = rig.run(&["--user", "root"], &["true"]).expect(125);
    assert!(
        refused.told().contains("Operation not permitted"),
        "{}",
        refused.told()
    );
    rig.end_server();
    guest.leave();
    rig.assert_nothing_left();
}
