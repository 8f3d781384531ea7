//! Names, places and limits: what jobcage makes on disk and in the cgroup tree, and what it does where it cannot.

use crate::support::cgroup;
use crate::support::needs::{self, Need};
use crate::support::world::World;
use std::fs;

#[test]
fn a_name_is_only_an_ornament() {
    let world = World::new("names");
    let long = "n".repeat(200);
    for name in [
        "build",
        "../../x",
        "/etc/passwd",
        "..",
        ".",
        "-rf",
        "--",
        "a b",
        "%s%n$HOME`id`",
        "über-ß",
        "hold",
        "keepers",
        &long,
        "JOB",
        "*",
    ] {
        let script = "find \"$RUN\" \"$CAGES\" -mindepth 1 -maxdepth 1 -type d; echo $JOBCAGE_JOB";
        let run = format!("RUN={}", world.dir.join("run").display());
        let cages = format!("CAGES={}", world.cgroup_root.display());
        let done = world
            .finish(
                &[&format!("--name={name}"), "--env", &run, "--env", &cages],
                &["sh", "-c", script],
            )
            .expect(0);
        let report = done.report();
        assert_eq!(report.name.as_deref(), Some(name));
        let id = report.job.as_str();
        assert!(id.len() <= 63 && report.job.is_generated(), "{id}");
        let text = done.text();
        assert!(text.ends_with(id), "{text}");
        for place in [world.dir.join("run").join(id), world.cgroup_root.join(id)] {
            assert!(
                text.lines().any(|l| l == place.display().to_string()),
                "{}: {text}",
                place.display()
            );
        }
        assert!(done.err.is_empty(), "{}", done.told());
    }
    for name in ["", " ", "a\nb", "\u{1b}[31m", &"n".repeat(201)] {
        let told = world.finish(&["--name", name], &["true"]).refused();
        assert!(!told.contains('\u{1b}') && told.contains("is no name"), "{told}");
    }
    let done = world.finish(&["--name", "../../x"], &["true"]).expect(0);
    assert!(
        done.report().job.as_str().starts_with("x-"),
        "{}",
        done.report().job
    );
    // Without a name it is the program's.
    let done = world.finish(&[], &["/bin/sh", "-c", ":"]).expect(0);
    assert!(
        done.report().job.as_str().starts_with("sh-"),
        "{}",
        done.report().job
    );
    world.assert_clean();
}

#[test]
fn directories_of_records_are_for_their_owner_alone() {
    let world = World::new("modes");
    fs::remove_dir(world.dir.join("run")).unwrap();
    let script = "stat -c '%a %n' \"$RUN\" \"$RUN\"/*/ \"$RUN\"/*/* \"$RUN\"/watch.sock";
    let run = format!("RUN={}", world.dir.join("run").display());
    let text = world
        .finish_with(&["--env", &run], &["sh", "-c", script], b"", |_| {})
        .expect(0)
        .text();
    assert!(text.lines().count() >= 4, "{text}");
    for line in text.lines() {
        let (mode, name) = line.split_once(' ').unwrap();
        // The socket's own mode does not count below a directory of 0700.
        let private = u32::from_str_radix(mode, 8).unwrap() & 0o077 == 0;
        assert!(private || name.ends_with(".sock"), "{line}");
    }
}

/// A config file can hold what no argument can: a NUL byte, which would cut the text off.
#[test]
fn a_nul_byte_is_refused_wherever_it_stands() {
    let world = World::new("nul");
    for line in [
        "env = [\"A=b\\u0000c\"]",
        "env = [\"A\\u0000=c\"]",
        "dir = \"/tmp\\u0000x\"",
        "after = \"touch ran; true\\u0000\"",
        "user = \"root\\u0000x\"",
        "group = \"root\\u0000x\"",
    ] {
        fs::write(world.dir.join("config.toml"), format!("[run]\n{line}\n")).unwrap();
        let done = world.finish(&[], &["sh", "-c", "touch ran"]);
        let told = done.refused();
        assert!(
            !told.contains("b\0c") && !told.contains("ran"),
            "a value is told: {told}"
        );
        assert!(!world.dir.join("ran").exists(), "{line}: it ran");
    }
    fs::write(world.dir.join("config.toml"), "cgroup_root = \"/sys\\u0000/x\"\n").unwrap();
    let mut command = world.command(crate::support::programs::jobcage());
    command
        .env_remove("JOBCAGE_CGROUP_ROOT")
        .args(["run", "--", "true"]);
    crate::support::call::to_end(command, b"").refused();
    world.assert_clean();
}

/// Runs `jobcage run` in a mount namespace whose runtime directory is a tmpfs with these options.
fn on_small_disk(world: &World, options: &str, fill: &str) -> crate::support::call::Done {
    world.shell(&format!(
        "exec unshare --mount sh -c 'mount -t tmpfs -o {options} none run && {fill}; \
         \"$JOBCAGE\" run -- sh -c \"touch ran\"; code=$?; ls -A run | grep -v -e filler -e watch.sock > listed; exit $code'"
    ))
}

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_nothing() {
    if !needs::met("full-disk", &[Need::Root, Need::Program("unshare")]) {
        return;
    }
    let world = World::new("full-disk");
    for (options, fill) in [
        // No block for the spec; no inode for the record; none for the files in it.
        (
            "size=8k,mode=700",
            "head -c 100000 /dev/zero > run/filler 2> /dev/null || true",
        ),
        ("nr_inodes=1,mode=700", ":"),
        ("nr_inodes=2,mode=700", ":"),
        ("nr_inodes=3,mode=700", ":"),
    ] {
        let done = on_small_disk(&world, options, fill);
        let told = done.refused();
        assert!(told.contains("No space left"), "{options}: {told}");
        assert!(
            told.contains(&world.dir.join("run").display().to_string()),
            "{options}: {told}"
        );
        assert!(!world.dir.join("ran").exists(), "it ran without a record");
        assert_eq!(
            fs::read_to_string(world.dir.join("listed")).unwrap(),
            "",
            "{options}"
        );
        world.assert_clean();
    }
    // Room for the record, but none for the watcher's socket: the job runs, and it is told.
    let done = on_small_disk(&world, "nr_inodes=4,mode=700", ":").expect(0);
    assert!(done.told().contains("no watcher"), "{}", done.told());
    assert!(world.dir.join("ran").exists());
    world.assert_clean();
}

#[test]
fn places_that_cannot_be_used_are_named() {
    let world = World::new("bad-places");
    fs::write(world.dir.join("file"), "").unwrap();
    let file = world.dir.join("file").display().to_string();
    for (variable, value, text) in [
        ("JOBCAGE_RUNTIME_DIR", file.as_str(), file.as_str()),
        ("JOBCAGE_RUNTIME_DIR", "/proc/nowhere", "/proc/nowhere"),
        ("JOBCAGE_CGROUP_ROOT", &file, &file),
        ("JOBCAGE_CGROUP_ROOT", "/tmp", "/tmp is no cgroup2"),
        ("JOBCAGE_CGROUP_ROOT", "/no/such", "/no/such"),
    ] {
        let done = world.finish_with(&[], &["sh", "-c", "touch ran"], b"", |c| {
            c.env(variable, value);
        });
        let told = done.refused();
        assert!(told.contains(text), "{variable}={value}: {told}");
        assert!(!world.dir.join("ran").exists());
    }
    world.assert_clean();
}

#[test]
fn a_root_that_is_not_there_is_made() {
    let world = World::new("new-root");
    let root = world.cgroup_root.join("below");
    let done = world
        .finish(&["--cgroup-root", root.to_str().unwrap()], &["true"])
        .expect(0);
    let found = done.report().root.unwrap();
    assert_eq!(
        (found.kind.as_str(), found.path),
        ("configured", root.display().to_string())
    );
    assert!(root.exists());
}

/// Where the controller is not there (a hybrid host), a limit is an error, and with `--best-effort` a note.
#[test]
fn limits_that_cannot_be_had() {
    let world = World::new("no-limits");
    for (controller, option, value, file) in [
        ("memory", "--memory", "256M", "memory.max"),
        ("memory", "--memory-high", "200M", "memory.high"),
        ("memory", "--swap", "0", "memory.swap.max"),
        ("pids", "--pids", "100", "pids.max"),
        ("cpu", "--cpu", "1.5", "cpu.max"),
        ("cpuset", "--cpus", "0", "cpuset.cpus"),
    ] {
        if cgroup::has_controller(controller) {
            crate::support::say(&format!(
                "not applicable: {controller} is there, so {option} is enforced"
            ));
            continue;
        }
        let done = world.finish(&[option, value], &["sh", "-c", "touch ran"]);
        let told = done.refused();
        assert!(told.contains(controller), "{told}");
        assert!(!world.dir.join("ran").exists());
        let done = world
            .finish(&[option, value, "--best-effort"], &["true"])
            .expect(0);
        assert!(
            done.told().contains(&format!("not enforced: {file}")),
            "{}",
            done.told()
        );
        let limits = done.report().limits;
        assert!(
            limits[file].error.is_some() && limits[file].enforced.is_none(),
            "{limits:?}"
        );
        let quiet = world
            .finish(&[option, value, "--best-effort", "--quiet"], &["true"])
            .expect(0);
        assert_eq!(quiet.told(), "");
    }
    world.assert_clean();
}

/// And where it is there, the kernel has what was asked for.
#[test]
fn limits_are_read_back() {
    let world = World::new("limits");
    for (controller, option, value, file, asked) in [
        ("memory", "--memory", "256M", "memory.max", "268435456"),
        ("memory", "--memory-high", "200M", "memory.high", "209715200"),
        ("pids", "--pids", "100", "pids.max", "100"),
        ("cpu", "--cpu", "1.5", "cpu.max", "150000 100000"),
        ("cpuset", "--cpus", "0", "cpuset.cpus", "0"),
    ] {
        if !needs::met(
            "limits_are_read_back",
            &[Need::Controller(match controller {
                "memory" => "memory",
                "pids" => "pids",
                "cpu" => "cpu",
                _ => "cpuset",
            })],
        ) {
            continue;
        }
        let script = format!("cg=$(sed -n 's/^0:://p' /proc/self/cgroup); cat \"$MOUNT${{cg%/*}}/{file}\"");
        let mount = format!("MOUNT={}", cgroup::mount().unwrap().display());
        let done = world
            .finish(&[option, value, "--env", &mount], &["sh", "-c", &script])
            .expect(0);
        assert_eq!(done.text(), asked, "{option}");
        let limits = done.report().limits;
        assert_eq!(limits[file].enforced.as_deref(), Some(asked), "{limits:?}");
        assert_eq!(limits[file].error, None);
    }
    world.assert_clean();
}
