//! The directory of `JOBCAGE_ENV` is the job's user's, who may put anything there: no later step, and no cleanup, may
//! follow it, hang on it or believe it.

use crate::handed::{USER, state_dir, step};
use crate::support::PATIENCE;
use crate::support::needs::{self, Need};
use crate::support::world::World;
use crate::{create, words};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a step puts in the place of its file, and why a later step ignores it.
const FILES: [(&str, &str); 9] = [
    ("ln -sf /etc/shadow $JOBCAGE_ENV", "symbolic link"),
    ("ln -sf $PWD/secret $JOBCAGE_ENV", "symbolic link"),
    ("rm $JOBCAGE_ENV; mkfifo $JOBCAGE_ENV", "no regular file"),
    ("rm $JOBCAGE_ENV; mkdir $JOBCAGE_ENV", "no regular file"),
    (
        "head -c 10000000 /dev/zero | tr '\\0' '\\n' > $JOBCAGE_ENV",
        "larger than 1 MiB",
    ),
    ("truncate -s 1T $JOBCAGE_ENV", "larger than 1 MiB"),
    ("rm $JOBCAGE_ENV", "is gone"),
    ("rm -r ${JOBCAGE_ENV%/*}/*", "is gone"),
    (
        "rm -r ${JOBCAGE_ENV%/*}/* 2>&1; ln -s /etc ${JOBCAGE_ENV%/*}/path; cp secret $JOBCAGE_ENV",
        "JOBCAGE_PATH is ignored: it is a symbolic link",
    ),
];

#[test]
fn what_is_no_such_file_is_ignored_and_told() {
    let world = World::new("hostile-files");
    fs::write(world.dir.join("secret"), "SECRET=1\n").unwrap();
    let root = needs::met("what_is_no_such_file_is_ignored_and_told", &[Need::Root]);
    let user: &[&str] = if root { &["--user", USER] } else { &[] };
    for (put, why) in FILES {
        let id = create(&world, user);
        let dir = state_dir(&world, "state", &id);
        let run =
            |script: &str| world.call(&[&["run", "--job", &id], user, &["--", "sh", "-c", script]].concat());
        let began = Instant::now();
        // The step that did it is told, and the next one, which runs all the same.
        let told = [run(put).expect(0).told(), run("echo $SECRET").expect(0).told()];
        assert!(told.iter().all(|told| told.contains(why)), "{put}: {told:?}");
        assert!(!told.concat().contains("root:"), "{told:?}");
        world.call(&["cleanup", &id]).expect(0);
        assert!(!dir.exists(), "{put}");
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{put}: {:?}",
            began.elapsed()
        );
    }
    assert!(world.dir.join("secret").exists());
}

/// A hard link is a regular file; what makes it another's is its owner.
#[test]
fn a_file_of_somebody_else_is_not_read_for_the_job() {
    if !needs::met("a_file_of_somebody_else_is_not_read_for_the_job", &[Need::Root]) {
        return;
    }
    let world = World::new("hostile-owner");
    let id = create(&world, &["--user", USER]);
    let env = state_dir(&world, "state", &id).join("env");
    // As if the kernel let users link what they cannot read (fs.protected_hardlinks=0).
    fs::remove_file(&env).unwrap();
    fs::write(&env, "SECRET=1\n").unwrap();
    fs::set_permissions(&env, Permissions::from_mode(0o600)).unwrap();
    let done = world.call(&[
        "run",
        "--job",
        &id,
        "--user",
        USER,
        "--",
        "sh",
        "-c",
        "echo ${SECRET-none}",
    ]);
    let done = done.expect(0);
    assert_eq!(done.text(), "none");
    assert!(done.told().contains("belongs to uid 0"), "{}", done.told());
    world.call(&["cleanup", &id]).expect(0);
}

#[test]
fn whatever_is_put_there_goes_with_the_job_and_takes_nothing_along() {
    let world = World::new("hostile-tree");
    let outside = world.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    let root = needs::met("whatever_is_put_there_goes", &[Need::Root]);
    let user: &[&str] = if root { &["--user", USER] } else { &[] };
    let id = create(&world, user);
    let dir = state_dir(&world, "state", &id);
    let script = format!(
        "cd ${{JOBCAGE_ENV%/*}}; ln -s {0} link; ln -s {0} 1; mkdir -p 2/3/4 closed/inner; ln -s {0} closed/inner/link
         i=0; while [ $i -lt 1000 ]; do mkdir d && cd d || break; i=$((i+1)); done
         cd ${{JOBCAGE_ENV%/*}}; chmod 0 closed/inner closed .",
        outside.display()
    );
    let done = world.call(&[&["run", "--job", &id], user, &["--", "sh", "-c", &script]].concat());
    done.expect(0);
    world.call(&["cleanup", &id]).expect(0);
    assert!(!dir.exists());
    assert!(outside.join("kept").exists());
}

/// What cannot be removed is told, keeps nobody from the end of the job, and gc tries again with the record.
#[test]
fn a_mount_in_it_is_not_entered() {
    if !needs::met("a_mount_in_it_is_not_entered", &[Need::Root]) {
        return;
    }
    let mut world = World::new("hostile-mount");
    fs::write(world.dir.join("kept"), "").unwrap();
    let id = create(&world, &[]);
    let dir = state_dir(&world, "state", &id);
    mount_inside(&world, &dir);
    let done = world.call(&["cleanup", &id]).expect(0);
    assert!(done.told().contains("is still there"), "{}", done.told());
    is_swept_when_it_is_gone(&world, &dir);
    // The record of a `run` that ended well goes at once, but for this.
    world.fifo("go");
    let script = "echo up; read line < go";
    let mut job = world.run(&[], &words(&["--after", ":"]), &words(&["sh", "-c", script]));
    assert!(job.wait_line("up"), "{}", job.stderr());
    let id = world.cages()[0].file_name().unwrap().to_str().unwrap().to_owned();
    let dir = state_dir(&world, "run", &id);
    mount_inside(&world, &dir);
    let _held = world.say_into("go", "");
    assert_eq!(job.wait(PATIENCE), 0, "{}", job.stderr());
    assert!(job.stderr().contains("is still there"), "{}", job.stderr());
    is_swept_when_it_is_gone(&world, &dir);
}

fn mount_inside(world: &World, dir: &Path) {
    use nix::mount::{MsFlags, mount};
    let inside = dir.join("mounted");
    fs::create_dir(&inside).unwrap();
    mount(
        Some(&world.dir),
        &inside,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
}

fn is_swept_when_it_is_gone(world: &World, dir: &Path) {
    assert!(world.call(&["gc", "--json"]).expect(0).json() == serde_json::json!([]) && dir.exists());
    nix::mount::umount(&dir.join("mounted")).unwrap();
    world.call(&["gc"]).expect(0);
    assert!(!dir.exists());
    assert!(world.dir.join("kept").exists());
}

/// A place that somebody else has made first is not used, and the job goes on without.
#[test]
fn without_a_place_in_memory_jobs_run_and_say_so() {
    if !needs::met(
        "without_a_place_in_memory",
        &[Need::Root, Need::Program("unshare")],
    ) {
        return;
    }
    let world = World::new("hostile-place");
    // Where /dev/shm is a directory like any other.
    let shell = |script: &str| {
        world.shell(&format!(
            "exec unshare --mount sh -c 'mount --bind /etc /dev/shm && {script}'"
        ))
    };
    if nix::sys::statfs::statfs(&world.dir).unwrap().filesystem_type() == nix::sys::statfs::TMPFS_MAGIC {
        crate::support::say("not applicable: without_a_place_in_memory: the world is on a tmpfs");
        return;
    }
    let done = shell("exec \"$JOBCAGE\" run --after \"echo \\${JOBCAGE_ENV-none}\" -- true").expect(0);
    assert_eq!(done.text(), "none");
    assert!(
        done.told().contains("note: nothing is handed from step to step") && done.told().contains("no tmpfs"),
        "{}",
        done.told()
    );
    let done = shell("exec \"$JOBCAGE\" create").expect(0);
    assert!(
        done.told().contains("nothing is handed from step to step"),
        "{}",
        done.told()
    );
    let id = done.text();
    let done = world
        .call(&["run", "--job", &id, "--", "sh", "-c", "echo ${JOBCAGE_ENV-none}"])
        .expect(0);
    assert_eq!(done.text(), "none");
    assert!(
        done.told().contains("nothing is handed from step to step"),
        "{}",
        done.told()
    );
    world.call(&["cleanup", &id]).expect(0);
    // Here there is one again.
    let id = create(&world, &[]);
    assert_eq!(step(&world, &id, &[], "test -w $JOBCAGE_ENV && echo yes"), "yes");
    world.call(&["cleanup", &id]).expect(0);
}
