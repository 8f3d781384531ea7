//! Made, filled, frozen, looked at, killed, removed: `crates/cage` on real cgroups, without jobcage.

use crate::support::cgroup;
use crate::support::needs::{Need, met};
use crate::support::process::{Process, stat};
use crate::support::world::World;
use crate::support::{PATIENCE, say};
use crate::tools::{everybody, outside, run, settle};
use jobcage_cage::{Cage, Dir, EventsFile, Patience, count, empty, remove};
use jobcage_job::{CensusMethod, Death, FoundBy, JobId, Kill, StepKind};
use jobcage_sys::spawn::{Plan, spawn, spawn_moved};
use jobcage_sys::wait::{self, Change, Whom};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

/// Empties the cgroup `outside` of a world, and sees with its own eyes that it is empty.
fn must_empty(world: &World) -> jobcage_cage::Emptied {
    let emptied = empty(&outside(world), &Patience::default()).expect("it can be emptied");
    assert!(emptied.proven(), "{emptied:#?}");
    assert_eq!(cgroup::populated(&world.outside), Some(false));
    emptied
}

/// Removes it with everything below it.
fn must_remove(world: &World) {
    let parent = Dir::open(world.outside.parent().unwrap()).unwrap();
    remove(&parent, world.outside.file_name().unwrap()).unwrap_or_else(|e| panic!("{e}"));
    assert!(!world.outside.exists());
}

#[test]
fn leaves_get_their_own_numbers_from_many_at_once() {
    const CLIENTS: u32 = 8;
    const EACH: u32 = 6;
    for limited in [false, true] {
        let world = World::new("leaves");
        let id = JobId::generate("leaves", 7);
        let root = Dir::open(&world.cgroup_root).unwrap();
        let mut cage = Cage::create(root, &id, limited).unwrap();
        let path = cage.dir().path().to_owned();
        let client = |_| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut cage = Cage::open(&path, limited).unwrap().expect("it is there");
                (0..EACH)
                    .map(|_| cage.leaf(StepKind::Step).unwrap().number)
                    .collect::<Vec<u32>>()
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        let mut numbers: Vec<u32> = clients.into_iter().flat_map(|c| c.join().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=CLIENTS * EACH).collect::<Vec<u32>>());
        // The after phase has numbers of its own, and stands outside of steps/.
        let after = cage.leaf(StepKind::After).unwrap();
        assert_eq!(
            (after.number, after.dir.path()),
            (1, path.join("after/01-after").as_path())
        );
        let again = Cage::create(Dir::open(&world.cgroup_root).unwrap(), &id, limited);
        assert_eq!(again.unwrap_err().errno(), Some(Errno::EEXIST));
        cage.remove().unwrap();
        assert!(!path.exists() && Cage::open(&path, limited).unwrap().is_none());
    }
}

#[test]
fn kills_one_a_hundred_a_thousand() {
    for size in [1, 100, 1000] {
        let mut world = World::new("kill");
        let number = size.to_string();
        let animal: &[&str] = if size == 1 {
            &["double-fork"]
        } else {
            &["bomb", "tree", &number]
        };
        let (_job, _) = settle(&mut world, animal);
        let before = everybody(&world.outside);
        assert_eq!(count(&outside(&world)).unwrap(), before.len());
        let start = Instant::now();
        let emptied = must_empty(&world);
        say(&format!(
            "cage: {} processes are gone after {} ms",
            before.len(),
            start.elapsed().as_millis()
        ));
        assert!(before.len() >= size, "{}", before.len());
        assert_eq!(emptied.census.count, before.len() as u64);
        assert_eq!(emptied.proof.kill, Kill::CgroupKill);
        assert!(emptied.proof.empty_us.is_some());
        // A crowd is not frozen: it would cost a third of the kill.
        let exact = before.len() <= Patience::default().freeze_most;
        let method = if exact {
            CensusMethod::Frozen
        } else {
            CensusMethod::Running
        };
        assert_eq!(emptied.census.method, method);
        must_remove(&world);
    }
}

#[test]
fn census_names_everyone_and_where() {
    let mut world = World::new("census");
    let (_job, ready) = settle(&mut world, &["nested-cgroups"]);
    let before = everybody(&world.outside);
    let emptied = must_empty(&world);
    assert_eq!(emptied.census.method, CensusMethod::Frozen);
    let mut named: Vec<i32> = emptied.census.left.iter().map(|left| left.pid).collect();
    named.sort_unstable();
    assert_eq!(named, before);
    let deepest = emptied
        .census
        .left
        .iter()
        .find(|left| left.pid == ready.pids[5])
        .unwrap();
    assert_eq!(
        deepest.found,
        FoundBy::Cgroup("zoo-1/zoo-2/zoo-3/zoo-4/zoo-5".into())
    );
    assert!(
        emptied.census.left.iter().all(|left| left.died == Death::Killed
            && left.started.is_some()
            && left.command.contains("zoo")
            && left.uid == nix::unistd::getuid().as_raw()),
        "{:#?}",
        emptied.census
    );
    must_remove(&world);
}

#[test]
fn census_of_threads_counts_processes() {
    let mut world = World::new("threads");
    let (_job, ready) = settle(&mut world, &["threads", "100"]);
    let emptied = must_empty(&world);
    assert_eq!(emptied.census.count, 2, "{:?}", emptied.census);
    assert!(emptied.census.left.iter().any(|left| left.pid == ready.pids[1]));
}

#[test]
fn exited_leaders_are_the_stragglers() {
    let mut world = World::new("leader-exit");
    let (_job, _) = settle(&mut world, &["leader-exit"]);
    let emptied = must_empty(&world);
    // 1 on every kernel of the table in docs/kernel.md; a kernel without the bug needs none.
    say(&format!(
        "cage: exited leaders: {} straggler(s)",
        emptied.proof.stragglers
    ));
    assert_eq!(emptied.census.count, 2);
    must_remove(&world);
}

#[test]
fn nested_cgroups_of_any_name_go() {
    let mut world = World::new("nested");
    let (_job, _) = settle(&mut world, &["double-fork"]);
    for i in 0..100_u8 {
        // Each may hold everything but a slash and NUL; the kernel refuses a newline alone.
        let name = [b"w ", &[0xff, 0x80 + i % 64, i / 64 + 1][..], b"; rm -rf $HOME"].concat();
        let dir = world.outside.join(OsStr::from_bytes(&name));
        fs::create_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        fs::create_dir(dir.join("below")).unwrap();
    }
    let strange = world.outside.join(OsStr::from_bytes(b"\xfe\xff"));
    fs::create_dir(&strange).unwrap();
    let pid = everybody(&world.outside).pop().unwrap();
    fs::write(strange.join("cgroup.procs"), pid.to_string()).unwrap();
    let emptied = must_empty(&world);
    let moved = emptied.census.left.iter().find(|left| left.pid == pid).unwrap();
    // What is no UTF-8 is replaced, so that a report stays one.
    assert_eq!(moved.found, FoundBy::Cgroup("\u{fffd}\u{fffd}".into()));
    must_remove(&world);
}

#[test]
fn depth_costs_no_descriptors() {
    let mut world = World::new("deep");
    let zoo = world.zoo.display().to_string();
    let root = world.cgroup_root.display().to_string();
    // 200 deep with 40 descriptors; a process sits at the very bottom.
    let job = "d=$(ls -d \"$1\"/*/01-step); cd \"$d\"; i=0; while [ $i -lt 200 ]; do mkdir d; cd d; i=$((i+1)); done
        echo 0 > cgroup.procs; trap '' TERM; \"$2\" double-fork --exit 0; pwd; exit 0";
    let wrap = ["sh", "-c", "ulimit -n 40; exec \"$@\"", "sh"];
    let ran = run(&mut world, &wrap, &[], &["sh", "-c", job, "sh", &root, &zoo]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.trim_end().ends_with(&"/d".repeat(200)),
        "{}",
        ran.stdout
    );
    assert!(ran.report.clean, "{:#?}", ran.report);
    world.assert_nothing_left();
}

#[test]
fn what_lives_is_not_removed() {
    let mut world = World::new("busy");
    let (_job, ready) = settle(&mut world, &["double-fork"]);
    fs::create_dir_all(world.outside.join("a/b")).unwrap();
    let parent = Dir::open(world.outside.parent().unwrap()).unwrap();
    let name = world.outside.file_name().unwrap();
    assert_eq!(remove(&parent, name).unwrap_err().errno(), Some(Errno::EBUSY));
    assert!(ready.pids.iter().all(|pid| !Process::open(*pid).has_ended()));
    must_empty(&world);
    must_remove(&world);
    // Twice is as good as once.
    remove(&parent, name).unwrap();
}

#[test]
fn a_cgroup_that_is_gone_is_empty() {
    let world = World::new("gone");
    fs::create_dir(&world.outside).unwrap();
    let dir = outside(&world);
    let events = EventsFile::open(&dir).unwrap().expect("it is there");
    assert!(!events.read().unwrap().expect("it is there").populated);
    must_remove(&world);
    assert_eq!(events.read(), Ok(None));
    assert_eq!(
        events.wait(Instant::now() + PATIENCE, |now| now.populated),
        Ok(true)
    );
    assert!(EventsFile::open(&dir).unwrap().is_none());
    assert_eq!(dir.read("cgroup.procs"), Err(Errno::ENOENT));
    assert_eq!(dir.children(), Ok(Vec::new()));
    assert_eq!(count(&dir), Ok(0));
    assert!(empty(&dir, &Patience::default()).unwrap().proven());
}

#[test]
fn threaded_cgroups_die_from_above_and_from_within() {
    for from_within in [false, true] {
        let mut world = World::new("threaded");
        let (_job, ready) = settle(&mut world, &["threaded-cgroup"]);
        let victim = Process::open(ready.pids[1]);
        if from_within {
            // It can neither be listed nor killed as a whole: its threads name the process.
            let threaded = outside(&world).child("zoo-threaded").unwrap();
            assert_eq!(threaded.read("cgroup.procs"), Err(Errno::EOPNOTSUPP));
            let emptied = empty(&threaded, &Patience::default()).unwrap();
            assert!(emptied.proven(), "{emptied:#?}");
            assert_eq!(emptied.proof.kill, Kill::Walk);
            let named: Vec<i32> = emptied.census.left.iter().map(|left| left.pid).collect();
            assert_eq!(named, [ready.pids[1]]);
            assert!(victim.wait_end(PATIENCE));
            assert!(
                !Process::open(ready.pids[0]).has_ended(),
                "it is outside of that cgroup"
            );
        }
        must_empty(&world);
        assert!(victim.has_ended());
        must_remove(&world);
    }
}

/// Kernels differ in whether a child may be born into a cgroup that was once killed (docs/kernel.md). To move there is
/// always possible, and a start says which of the two it was.
#[test]
fn a_killed_cgroup_takes_those_who_move() {
    let world = World::new("killed");
    fs::create_dir(&world.outside).unwrap();
    let dir = outside(&world);
    dir.write("cgroup.kill", "1").unwrap();
    let plan = Plan {
        programs: vec![c"/bin/sh".into()],
        args: [c"sh", c"-c", c"exit 9"].map(Into::into).to_vec(),
        cgroup: Some(dir.fd()),
        ..Plan::default()
    };
    let mut killed_at_birth = 0;
    for _ in 0..4 {
        let child = spawn(&plan).unwrap();
        match wait::block(Whom::Pid(child.pid)).unwrap().1 {
            Change::Killed(9) if child.died_at_birth() => killed_at_birth += 1,
            other => assert_eq!(other, Change::Exited(9)),
        }
        let child = spawn_moved(&plan).unwrap();
        assert_eq!(wait::block(Whom::Pid(child.pid)).unwrap().1, Change::Exited(9));
        assert!(!child.died_at_birth());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    say(&format!(
        "cage: {}: {killed_at_birth} of 4 killed at birth",
        release.trim()
    ));
    assert!(killed_at_birth == 0 || killed_at_birth == 4, "{killed_at_birth}");
}

#[test]
fn a_freeze_that_hangs_has_a_deadline_and_ends_in_quarantine() {
    if !met("a_freeze_that_hangs", &[Need::Fuse]) {
        return;
    }
    let mut world = World::new("deadline");
    let point = world.dir.join("mnt");
    fs::create_dir(&point).unwrap();
    let point = point.to_str().unwrap().to_owned();
    let server = world.helper(&["fuse-server", &point]);
    // The helper lives in the same cgroup of the world, so the victim gets one of its own.
    let victims = world.cgroup_root.join("victims");
    let mut command = world.command(&world.zoo);
    command
        .arg("in-cgroup")
        .arg(&victims)
        .arg(&world.zoo)
        .args(["fuse-victim", &point, "stat"]);
    let mut job = crate::support::job::Job::start(command, world.dir.join("none"), world.dir.join("stderr"));
    let stuck = *job
        .wait_ready()
        .expect("the victim is stuck")
        .pids
        .last()
        .unwrap();
    let patience = Patience {
        freeze: Duration::from_millis(200),
        kill: Duration::from_millis(300),
        ..Patience::default()
    };
    let dir = Dir::open(&victims).unwrap();
    let start = Instant::now();
    let emptied = empty(&dir, &patience).unwrap();
    assert!(
        start.elapsed() >= Duration::from_millis(500) && start.elapsed() < PATIENCE,
        "{:?}",
        start.elapsed()
    );
    assert!(!emptied.proven());
    assert_eq!(emptied.proof.frozen_us, None, "{:?}", emptied.proof);
    assert_eq!(emptied.census.method, CensusMethod::Running);
    let survivors: Vec<(i32, char)> = emptied.survivors.iter().map(|s| (s.pid, s.state)).collect();
    assert_eq!(survivors, [(stuck, 'D')]);
    let told = emptied.census.left.iter().find(|left| left.pid == stuck).unwrap();
    assert_eq!(told.died, Death::Survived);
    assert_eq!(stat(stuck).unwrap().1, 'D');
    // Released from outside, it dies of the signal that it has had all the time; the second try proves it.
    server.signal(Signal::SIGTERM);
    assert!(Process::open(stuck).wait_end(PATIENCE));
    assert!(empty(&dir, &Patience::default()).unwrap().proven());
    remove(&Dir::open(&world.cgroup_root).unwrap(), "victims".as_ref()).unwrap();
}
