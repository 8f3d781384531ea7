//! What a stage finds, and what the runner hears of it: the same as without the shim.

use crate::runner::{BUILD_USER, Host, WAYS, Way, pass_on, start};
use crate::support::PATIENCE;
use std::fs;
use std::process::Stdio;
use std::sync::mpsc::channel;

#[test]
fn a_stage_is_in_a_cage_and_knows_nothing_of_the_shim() {
    let Some(mut host) = Host::new("shim-surroundings") else {
        return;
    };
    // In a process group of its own: no signal comes twice.
    let script = "[ $(cut -d ' ' -f 5 /proc/$$/stat) = $$ ] || echo together; id -un; shopt -q login_shell && echo login; tr '\\0' ' ' < /proc/$$/cmdline; echo; echo ${JOBCAGE_JOB%-*}; \
                  tr '\\0' '\\n' < /proc/$$/environ | grep ^PATH=; sed -n 's/^0:://p' /proc/self/cgroup; ls -1 /proc/$$/fd";
    for (way, user) in [(Way::Bash, "root"), (Way::Su, BUILD_USER)] {
        let ended = host.start(way, true, script).end();
        let plain = host.start(way, false, script).end();
        assert_eq!((ended.code, plain.code), (0, 0), "{} {}", ended.log, plain.log);
        let lines: Vec<&str> = ended.log.lines().collect();
        let words = if way == Way::Bash {
            "bash --login "
        } else {
            "bash -l "
        };
        let name = way.words()[0];
        assert_eq!(lines[..4], [user, "login", words, name], "{}", ended.log);
        assert!(
            lines[4].contains("/usr/bin") && !lines[4].contains("shims"),
            "{}",
            ended.log
        );
        let cages = host.world.cgroup_root.file_name().unwrap().to_str().unwrap();
        let place = format!("{cages}/{name}-");
        assert!(
            lines[5].contains(&place) && lines[5].ends_with("/01-step"),
            "{}",
            ended.log
        );
        // No more files than without us.
        assert_eq!(lines[6..], plain.log.lines().skip(6).collect::<Vec<_>>());
        assert!(lines.len() >= 6 + 3, "{}", ended.log);
    }
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

/// The service's drop-in has the `PATH` that all of this is tested with.
#[test]
fn the_drop_in_puts_the_shims_first() {
    let Some(host) = Host::new("shim-drop-in") else {
        return;
    };
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/shim/gitlab-runner.conf");
    let Ok(text) = fs::read_to_string(file) else {
        // A test that was carried to another machine.
        return;
    };
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("Environment=PATH="));
    let shims = host.shims().display().to_string();
    assert_eq!(
        path.unwrap(),
        host.path(true).replace(&shims, "/usr/lib/jobcage/shims")
    );
}

/// The environment is the runner's own, but for what jobcage is told and tells.
#[test]
fn the_environment_is_the_runners() {
    let Some(mut host) = Host::new("shim-environment") else {
        return;
    };
    let script = "cat /proc/$$/environ";
    let of = |shims: bool| {
        let path = host.path(shims);
        let mut command = host.command(&path, &Way::Bash.words());
        command
            .env("AWKWARD", "a'b\"c $(x)\n\u{1b}[31m")
            .env("EMPTY", "")
            .env("JOBCAGE_GRACE", "2s")
            .env("JOBCAGE_JOB", "another")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (code, log) = start(command, script.into()).end_in_bytes();
        assert_eq!(code, 0);
        let text = String::from_utf8(log).unwrap();
        let mut all: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
        all.sort();
        all
    };
    let (with, mut without) = (of(true), of(false));
    let is_ours =
        |entry: &String| entry.starts_with("JOBCAGE_GRACE=") || entry.starts_with("JOBCAGE_CGROUP_ROOT=");
    // An option of a run was for that run; where cages are is for all.
    without.retain(|entry| !entry.starts_with("JOBCAGE_GRACE="));
    assert!(without.iter().any(is_ours));
    let job: Vec<&String> = with
        .iter()
        .filter(|entry| entry.starts_with("JOBCAGE_JOB="))
        .collect();
    assert!(
        job.len() == 1 && job[0].starts_with("JOBCAGE_JOB=bash-"),
        "{job:?}"
    );
    let rest = |all: &[String]| -> Vec<String> {
        let others = all.iter().filter(|entry| !entry.starts_with("JOBCAGE_JOB="));
        others.cloned().collect()
    };
    assert_eq!(rest(&with), rest(&without));
    host.world.assert_nothing_left();
}

/// By signal the runner sees 128 + n, as a shell would show it.
#[test]
fn exit_codes_are_those_of_the_shell() {
    let Some(mut host) = Host::new("shim-codes") else {
        return;
    };
    for way in WAYS {
        for (commands, code) in [
            ("true", 0),
            ("exit 1", 1),
            ("exit 2", 2),
            ("exit 42", 42),
            ("exit 125", 125),
            ("no-such-program", 127),
            ("exit 255", 255),
            ("kill -KILL $$", 137),
            ("kill -SEGV $$", 139),
        ] {
            let with = host.start(way, true, format!("{commands}\nexit $?\n")).end();
            let without = host.start(way, false, format!("{commands}\nexit $?\n")).end();
            assert_eq!(
                (with.code, without.code),
                (code, code),
                "{way:?} {commands}: {}",
                with.log
            );
            assert_eq!(with.log, without.log, "{way:?} {commands}");
        }
    }
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

#[test]
fn a_script_of_ten_megabytes_is_a_script() {
    let Some(mut host) = Host::new("shim-large") else {
        return;
    };
    let line = format!(": '{}'\n", "x".repeat(8000));
    let script = format!("{}echo whole\nexit 7\n", line.repeat(1400));
    assert!(script.len() > 10 << 20);
    // A shell takes a pipe byte by byte, so that whoever it starts can read the rest.
    let ended = host.start(Way::Su, true, script.clone()).end_within(4 * PATIENCE);
    assert_eq!((ended.code, ended.log.as_str()), (7, "whole\n"));
    // Who does not read it to its end does not hang the runner.
    let ended = host.start(Way::Bash, true, format!("exit 5\n{script}")).end();
    assert_eq!(ended.code, 5);
    host.world.assert_nothing_left();
}

#[test]
fn output_is_passed_on_byte_by_byte() {
    let Some(mut host) = Host::new("shim-binary") else {
        return;
    };
    for way in WAYS {
        let script = format!(
            "cd {}; head -c 3000000 /dev/urandom > noise 2>&1; cat noise",
            host.project().display()
        );
        let (code, log) = host.start(way, true, script).end_in_bytes();
        let noise = fs::read(host.project().join("noise")).unwrap();
        assert!(
            code == 0 && noise.len() == 3_000_000 && log == noise,
            "{way:?}: {} bytes",
            log.len()
        );
        fs::remove_file(host.project().join("noise")).unwrap();
    }
    host.world.assert_nothing_left();
}

/// What the runner waits for is held by nobody but the shim: not even by whoever outlives it or its cage.
#[test]
fn no_process_of_a_stage_holds_the_runners_pipes() {
    let Some(mut host) = Host::new("shim-pipes") else {
        return;
    };
    let script = "readlink /proc/$$/fd/1 /proc/$$/fd/2";
    for way in WAYS {
        for shims in [true, false] {
            let (read, write) = std::io::pipe().unwrap();
            let runners = format!("pipe:[{}]", nix::sys::stat::fstat(&read).unwrap().st_ino);
            let mut command = host.command(&host.path(shims), &way.words());
            command.stdout(write.try_clone().unwrap()).stderr(write);
            let (send, pieces) = channel();
            let mut stage = start(command, script.into());
            pass_on(read, send);
            assert_eq!(stage.end_of_process(), 0);
            let log = String::from_utf8(pieces.iter().flatten().collect()).unwrap();
            let held = log.lines().filter(|pipe| *pipe == runners).count();
            assert_eq!(
                (log.lines().count(), held),
                (2, if shims { 0 } else { 2 }),
                "{way:?}: {log}"
            );
        }
    }
    host.world.assert_nothing_left();
}

/// One pipe for both stays one, so their order stays (runner 14.7); two stay two (since 16.7).
#[test]
fn streams_stay_as_they_are() {
    let Some(mut host) = Host::new("shim-streams") else {
        return;
    };
    let script = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done";
    for way in WAYS {
        let command = || host.command(&host.path(true), &way.words());
        let (read, write) = std::io::pipe().unwrap();
        let mut merged = command();
        merged.stdout(write.try_clone().unwrap()).stderr(write);
        let (send, pieces) = channel();
        let mut stage = start(merged, script.into());
        pass_on(read, send);
        assert_eq!(stage.end_of_process(), 0);
        let log: Vec<u8> = pieces.iter().flatten().collect();
        let wanted: String = (1..=5).map(|i| format!("out {i}\nerr {i}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&log), wanted, "{way:?}");

        let (read, write) = std::io::pipe().unwrap();
        let mut split = command();
        split.stdout(Stdio::piped()).stderr(write);
        let (send, errors) = channel();
        let stage = start(split, script.into());
        pass_on(read, send);
        let ended = stage.end();
        let wanted = |word: &str| -> String { (1..=5).map(|i| format!("{word} {i}\n")).collect() };
        let errors: Vec<u8> = errors.iter().flatten().collect();
        assert_eq!((ended.code, ended.log), (0, wanted("out")), "{way:?}");
        assert_eq!(String::from_utf8_lossy(&errors), wanted("err"), "{way:?}");
    }
    host.world.assert_nothing_left();
}
