//! What the command finds in itself: environment, arguments, directory, niceness, limits of setrlimit(2).

use crate::support::world::World;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;

/// The environment of the command, without what the world sets.
fn environ(world: &World, options: &[&str], change: impl FnOnce(&mut std::process::Command)) -> Vec<String> {
    let done = world
        .finish_with(options, &["cat", "/proc/self/environ"], b"", |command| {
            command.env("INHERITED", "yes");
            change(command);
        })
        .expect(0);
    let text = String::from_utf8_lossy(&done.out).into_owned();
    text.split_terminator('\0').map(str::to_owned).collect()
}

fn has(env: &[String], entry: &str) -> bool {
    env.iter().any(|e| e == entry)
}

#[test]
fn variables_are_set_taken_over_and_cleared() {
    let world = World::new("env");
    let options = [
        "--env",
        "A=1",
        "--env",
        "A=2",
        "--env",
        "EMPTY=",
        "--env",
        "EQUAL=a=b",
        "--env",
        "LINES=a\nb",
    ];
    let env = environ(&world, &options, |_| {});
    for entry in ["A=2", "EMPTY=", "EQUAL=a=b", "LINES=a\nb", "INHERITED=yes"] {
        assert!(has(&env, entry), "{entry:?} is not in {env:?}");
    }
    assert_eq!(
        env.iter().filter(|e| e.starts_with("A=")).count(),
        1,
        "each name once"
    );
    let mut env = environ(
        &world,
        &["--clear-env", "--env", "INHERITED", "--env", "A=1"],
        |_| {},
    );
    env.sort();
    assert_eq!(env.len(), 3, "{env:?}");
    assert_eq!(env[..2], ["A=1", "INHERITED=yes"]);
    assert!(env[2].starts_with("JOBCAGE_JOB=cat-"), "{env:?}");
    let told = world.finish(&["--env", "NOT_SET_ANYWHERE"], &["true"]).refused();
    assert!(told.contains("NOT_SET_ANYWHERE"), "{told}");
}

#[test]
fn bytes_that_are_no_text_pass() {
    let world = World::new("env-bytes");
    let raw = OsString::from_vec(b"RAW=\xff\xfe\x01".to_vec());
    let arg = OsString::from_vec(b"\xff\n\x1b[m".to_vec());
    let done = world
        .finish_with(
            &["--env", "A=1"],
            &["sh", "-c", "printf '%s|%s|%s' \"$RAW\" \"$1\" \"$2\"", "sh"],
            b"",
            |c| {
                c.arg(&arg)
                    .arg("")
                    .env("RAW", OsString::from_vec(b"\xff\xfe\x01".to_vec()));
            },
        )
        .expect(0);
    assert_eq!(done.out, b"\xff\xfe\x01|\xff\n\x1b[m|");
    let mut command = world.command(crate::support::programs::jobcage());
    command
        .arg("run")
        .arg("--env")
        .arg(&raw)
        .args(["--", "sh", "-c", "printf %s \"$RAW\""]);
    let done = crate::support::call::to_end(command, b"").expect(0);
    assert_eq!(done.out, b"\xff\xfe\x01");
}

#[test]
fn options_in_variables_are_for_this_call_only() {
    let world = World::new("env-options");
    let env = environ(&world, &[], |command| {
        command
            .env("JOBCAGE_TIMEOUT", "1h")
            .env("JOBCAGE_AFTER", ":")
            .env("JOBCAGE_JOB", "someone-elses");
        // Nobody else may become somebody.
        if nix::unistd::geteuid().is_root() {
            command.env("JOBCAGE_USER", "root");
        }
    });
    for name in [
        "JOBCAGE_TIMEOUT=",
        "JOBCAGE_AFTER=",
        "JOBCAGE_USER=",
        "JOBCAGE_JOB=someone",
    ] {
        assert!(!env.iter().any(|e| e.starts_with(name)), "{name} in {env:?}");
    }
    assert_eq!(
        env.iter().filter(|e| e.starts_with("JOBCAGE_JOB=cat-")).count(),
        1,
        "{env:?}"
    );
    for name in [
        "JOBCAGE_JOB",
        "JOBCAGE_RESULT",
        "JOBCAGE_EXIT_CODE",
        "JOBCAGE_SIGNAL",
        "JOBCAGE_ENDING",
        "JOBCAGE_CAUSE",
    ] {
        let told = world
            .finish(&["--env", &format!("{name}=x")], &["true"])
            .refused();
        assert!(told.contains(name), "{told}");
    }
}

#[test]
fn arguments_arrive_as_they_are() {
    let world = World::new("args");
    let done = world
        .finish(
            &[],
            &[
                "sh",
                "-c",
                "for a; do printf '[%s]' \"$a\"; done",
                "sh",
                "",
                " ",
                "--",
                "-x",
                "--timeout",
                "$HOME",
                "a\nb",
                "*",
            ],
        )
        .expect(0);
    assert_eq!(done.text(), "[][ ][--][-x][--timeout][$HOME][a\nb][*]");
    // The name as it was given, though the program was found in PATH.
    let done = world
        .finish(&[], &["sh", "-c", "tr '\\0' '|' < /proc/$$/cmdline"])
        .expect(0);
    assert!(done.text().starts_with("sh|-c|"), "{}", done.text());
}

#[test]
fn the_directory_is_where_it_starts() {
    let world = World::new("dir");
    let there = world.dir.join("there it is");
    fs::create_dir(&there).unwrap();
    fs::write(there.join("tool"), "#!/bin/sh\necho here\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(there.join("tool"), mode).unwrap();
    let there = there.display().to_string();
    assert_eq!(
        world.finish(&["--dir", &there], &["pwd", "-P"]).expect(0).text(),
        there
    );
    assert_eq!(
        world
            .finish(&["--dir", "there it is"], &["pwd", "-P"])
            .expect(0)
            .text(),
        there
    );
    // As with `cd there && ./tool`.
    assert_eq!(
        world.finish(&["--dir", &there], &["./tool"]).expect(0).text(),
        "here"
    );
    let done = world
        .finish(&["--dir", &there, "--env", "PATH=.:/usr/bin:/bin"], &["tool"])
        .expect(0);
    assert_eq!(done.text(), "here");
}

#[test]
fn a_program_is_looked_for_as_a_shell_would() {
    let world = World::new("path");
    let make = |dir: &str, text: &str, mode: u32| {
        let dir = world.dir.join(dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("tool"), text).unwrap();
        fs::set_permissions(
            dir.join("tool"),
            std::os::unix::fs::PermissionsExt::from_mode(mode),
        )
        .unwrap();
        dir.display().to_string()
    };
    let closed = make("closed", "#!/bin/sh\necho closed\n", 0o644);
    let open = make("open", "#!/bin/sh\necho open\n", 0o755);
    let path = |dirs: &str| format!("PATH={dirs}:/usr/bin:/bin");
    // One that may not be run is passed over, but remembered.
    let both = path(&format!("/no/such:{closed}:{open}"));
    assert_eq!(
        world.finish(&["--env", &both], &["tool"]).expect(0).text(),
        "open"
    );
    world.finish(&["--env", &path(&closed)], &["tool"]).expect(126);
    world.finish(&["--env", "PATH="], &["no-such-tool"]).expect(127);
    // Without any PATH there is the default one.
    let done = world
        .finish(&["--clear-env"], &["sh", "-c", "echo found"])
        .expect(0);
    assert_eq!(done.text(), "found");
}

#[test]
fn a_script_without_shebang_goes_to_the_shell() {
    let world = World::new("no-shebang");
    let script = world.dir.join("script");
    fs::write(&script, "echo \"$0|$1|$2\"; exit 5\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = script.display().to_string();
    let done = world.finish(&[], &[&script, "a b", ""]).expect(5);
    assert_eq!(done.text(), format!("{script}|a b|"));
}

#[test]
fn niceness_and_limits_are_the_ones_asked_for() {
    let world = World::new("rlimit");
    let own = fs::read_to_string("/proc/self/limits").unwrap();
    let line = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let done = world
        .finish(
            &[
                "--nice",
                "7",
                "--rlimit",
                "nofile=100:200",
                "--rlimit",
                "core=0",
                "--rlimit",
                "fsize=1M",
                "--rlimit",
                "cpu=1h",
            ],
            &[
                "sh",
                "-c",
                "cut -d' ' -f19 /proc/self/stat; cat /proc/self/limits",
            ],
        )
        .expect(0);
    let text = done.text();
    assert_eq!(text.lines().next(), Some("7"));
    assert_eq!(line(&text, "Max open files"), "Max open files 100 200 files");
    assert_eq!(line(&text, "Max core"), "Max core file size 0 0 bytes");
    assert_eq!(
        line(&text, "Max file size"),
        "Max file size 1048576 1048576 bytes"
    );
    assert_eq!(line(&text, "Max cpu"), "Max cpu time 3600 3600 seconds");
    assert_eq!(
        line(&text, "Max stack"),
        line(&own, "Max stack"),
        "the others are as they were"
    );
    // jobcage itself raises none: what the job has is what its caller has.
    let plain = world.finish(&[], &["cat", "/proc/self/limits"]).expect(0).text();
    assert_eq!(line(&plain, "Max open files"), line(&own, "Max open files"));
}

#[test]
fn a_limit_that_may_not_be_raised_is_an_error_that_names_it() {
    let world = World::new("rlimit-refused");
    // fs.nr_open bounds nofile even for root.
    let most: u64 = fs::read_to_string("/proc/sys/fs/nr_open")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let done = world
        .finish(&["--rlimit", &format!("nofile={}", most + 1)], &["true"])
        .expect(125);
    assert!(done.told().contains("never started: rlimit"), "{}", done.told());
    assert!(done.told().contains("not permitted"), "{}", done.told());
    world.assert_clean();
}
