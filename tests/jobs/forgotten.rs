//! What a step hands on is gone with the job, however it ends, and is never on a disk or in a message.

use crate::handed::{state_dir, step};
use crate::support::PATIENCE;
use crate::support::cgroup;
use crate::support::world::World;
use crate::{create, words};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn it_is_gone_after_every_end() {
    let mut world = World::new("hand-gone");
    let fill = "cd ${JOBCAGE_ENV%/*} && mkdir -p a/b/c && echo SECRET > a/b/c/d && mkfifo f && ln -s / root && cd - && ";
    // The supervisor killed: the watcher closes the job.
    let script = format!("{fill} echo up; sleep 300");
    let mut job = world.run(&[], &words(&["--after", ":"]), &words(&["sh", "-c", &script]));
    assert!(job.wait_line("up"), "{}", job.stderr());
    let id = world.cages()[0].file_name().unwrap().to_str().unwrap().to_owned();
    let dir = state_dir(&world, "run", &id);
    assert!(dir.join("a/b/c/d").exists());
    job.signal(Signal::SIGKILL);
    assert_eq!(job.wait(PATIENCE), 137);
    let record = world.dir.join("run").join(&id);
    assert!(cgroup::wait_change(&record, PATIENCE, || record
        .join("report.json")
        .exists()));
    assert!(!dir.exists(), "the watcher has left it");
    // The same without a watcher: gc.
    let mut job = world.run(&[], &words(&["--after", ":"]), &words(&["sh", "-c", &script]));
    assert!(job.wait_line("up"), "{}", job.stderr());
    let id = world.cages()[0].file_name().unwrap().to_str().unwrap().to_owned();
    let dir = state_dir(&world, "run", &id);
    job.stop();
    world.kill_watchers();
    job.signal(Signal::SIGKILL);
    assert_eq!(job.wait(PATIENCE), 137);
    assert!(dir.exists());
    world.call(&["gc"]).expect(0);
    assert!(!dir.exists(), "gc has left it");
    // A job of steps: stop, cleanup by two at once, and gc after a reboot.
    for end in ["stop", "cleanup", "reboot"] {
        let id = create(&world, &[]);
        step(&world, &id, &[], &format!("{fill} :"));
        let dir = state_dir(&world, "state", &id);
        assert!(dir.join("a/b/c/d").exists());
        match end {
            "stop" => drop(world.call(&["stop", &id]).expect(0)),
            "cleanup" => {
                drop(world.shell(&format!(
                    "\"$JOBCAGE\" cleanup {id} & \"$JOBCAGE\" cleanup {id}; wait"
                )));
            }
            _ => {
                let spec = world.dir.join("state").join(&id).join("spec.json");
                let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
                let text = fs::read_to_string(&spec).unwrap();
                fs::write(
                    &spec,
                    text.replace(boot.trim(), "00000000-0000-4000-8000-000000000000"),
                )
                .unwrap();
                world.call(&["gc"]).expect(0);
            }
        }
        assert!(!dir.exists(), "{end} has left it");
    }
    assert!(Path::new("/bin").exists());
}

/// Files below a directory that hold the word.
fn holding(dir: &Path, word: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(holding(&entry.path(), word));
        } else if kind.is_file()
            && fs::read(entry.path()).is_ok_and(|c| c.windows(word.len()).any(|w| w == word.as_bytes()))
        {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn nothing_of_it_is_on_a_disk_or_in_a_message() {
    let world = World::new("hand-secret");
    let id = create(&world, &[]);
    let dir = state_dir(&world, "state", &id);
    let kind = nix::sys::statfs::statfs(&dir).unwrap().filesystem_type();
    assert_eq!(kind, nix::sys::statfs::TMPFS_MAGIC);
    let script = "printf 'A=SENTINEL\\nSENTINEL line\\nSENTINEL=<<x\\nB<<END\\nSENTINEL\\n' >> $JOBCAGE_ENV";
    let done = world
        .call(&["run", "--job", &id, "--", "sh", "-c", script])
        .expect(0);
    // Whoever has written wrong lines is told at once, and each later step again.
    let (second, fourth) = (
        "line 2 of JOBCAGE_ENV is skipped",
        "line 4 of JOBCAGE_ENV is skipped",
    );
    let report = world.dir.join("step.json");
    let report = report.to_str().unwrap();
    let later = world.call(&[
        "run",
        "--job",
        &id,
        "--report",
        report,
        "--",
        "sh",
        "-c",
        "test $A = SENTINEL",
    ]);
    let shown = world.call(&["show", &id]).expect(0);
    for told in [
        done.told(),
        later.expect(0).told(),
        fs::read_to_string(report).unwrap(),
    ] {
        assert!(told.contains(second) && told.contains(fourth), "{told}");
        assert!(
            !told.contains("SENTINEL") && told.matches("skipped").count() == 3,
            "{told}"
        );
    }
    assert!(!shown.text().contains("SENTINEL"));
    let on_disk = |when: &str| {
        let found: Vec<_> = holding(&world.dir, "SENTINEL")
            .into_iter()
            .filter(|path| !path.starts_with(&dir))
            .collect();
        assert!(found.is_empty(), "{when}: {found:?}");
    };
    on_disk("while the job is open");
    world.call(&["cleanup", &id]).expect(0);
    on_disk("after it");
}
