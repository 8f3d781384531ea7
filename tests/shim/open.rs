//! Where no cage is to be had the stage runs as without the shim, and its log says so once.

use crate::runner::{Host, WAYS, Way, start};
use crate::support::needs::{Need, met};
use crate::support::programs;
use std::fs;
use std::process::Stdio;

/// What a caller leaves to a program. Told by the shell alone: while it waits for others it has its own signals.
const STATE: &str = "echo cage ${JOBCAGE_JOB-none}; while read -r name value; do case $name in Sig[BIC]*|Shd*) echo $name $value;; esac; \
                     done < /proc/$$/status; echo /proc/self/fd/*; exit 6";

/// What the same stage prints where there is no shim at all.
fn assert_open(host: &Host, way: Way, root: &str, why: &str) {
    let mut command = host.command(&host.path(true), &way.words());
    command
        .env("JOBCAGE_CGROUP_ROOT", root)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let ended = start(command, STATE.into()).end();
    let plain = host.start(way, false, STATE).end();
    let told: Vec<&str> = ended
        .log
        .lines()
        .filter(|line| line.starts_with("jobcage: "))
        .collect();
    assert_eq!(told.len(), 1, "{}", ended.log);
    assert!(
        told[0].starts_with("jobcage: warning: this stage runs without a cage") && told[0].contains(why),
        "{}",
        ended.log
    );
    let rest: Vec<&str> = ended
        .log
        .lines()
        .filter(|line| !line.starts_with("jobcage: "))
        .collect();
    assert_eq!((ended.code, rest), (6, plain.log.lines().collect()), "{way:?}");
    assert!(plain.log.starts_with("cage none\n"), "{}", plain.log);
}

#[test]
fn a_broken_place_for_cages_is_a_warning() {
    let Some(mut host) = Host::new("shim-open") else {
        return;
    };
    for way in WAYS {
        for (root, why) in [
            ("/sys/fs/cgroup/no/such/cgroup", "/sys/fs/cgroup/no/such/cgroup"),
            ("/proc", "/proc"),
        ] {
            assert_open(&host, way, root, why);
        }
    }
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

/// The last moment at which it can still be done without a cage: the kernel starts nothing in it. Of the cage nothing is left.
/// strace, which plays the kernel, is the shim's parent, and so the runner.
#[test]
fn a_command_that_cannot_be_started_in_its_cage_is_a_warning() {
    let test = "shim-no-start";
    if !met(test, &[Need::Program("strace")]) {
        return;
    }
    let Some(mut host) = Host::new(test) else { return };
    let strace = programs::which("strace").unwrap();
    host.configure_runner(&strace.canonicalize().unwrap(), "");
    // With a watcher that is there already: its start is another matter.
    host.world.call(&["run", "--", "true"]).expect(0);
    for (error, why) in [("EBUSY", "busy"), ("EAGAIN", "clone")] {
        let calls = host.world.dir.join("calls");
        let inject = format!("inject=clone3:error={error}");
        let path = host.path(true);
        let mut command = host.command(
            &path,
            &[
                "strace",
                "-o",
                calls.to_str().unwrap(),
                "-e",
                &inject,
                "bash",
                "--login",
            ],
        );
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended = start(command, STATE.into()).end();
        let lines: Vec<&str> = ended.log.lines().collect();
        assert_eq!(ended.code, 6, "{}", ended.log);
        assert!(
            lines[0].starts_with("jobcage: warning: this stage runs without a cage"),
            "{}",
            ended.log
        );
        assert!(lines[0].to_lowercase().contains(why), "{}", ended.log);
        assert_eq!(lines[1], "cage none", "{}", ended.log);
        let plain = host.start(Way::Bash, false, STATE).end();
        let signals = |log: &str| {
            log.lines()
                .filter(|line| line.starts_with("Sig"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(signals(&ended.log), signals(&plain.log));
        assert!(fs::read_to_string(calls).unwrap().contains("(INJECTED)"));
        host.world.assert_clean();
    }
    host.world.assert_nothing_left();
}

#[test]
fn a_wrong_configuration_is_a_warning() {
    let Some(mut host) = Host::new("shim-config") else {
        return;
    };
    for (text, why) in [
        ("[run]\ngrace = 'soon'\n", "line 4: grace"),
        ("[run]\nmemroy = 1\n", "unknown key \"memroy\""),
        ("[nonsense", "this is no TOML"),
    ] {
        host.configure(text);
        assert_open(&host, Way::Bash, host.world.cgroup_root.to_str().unwrap(), why);
    }
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

/// There is nothing to become.
#[test]
fn a_path_with_nothing_but_the_shim_is_an_error() {
    let Some(mut host) = Host::new("shim-alone") else {
        return;
    };
    let path = host.shims().display().to_string();
    for words in [&Way::Bash.words()[..], &["bash", "-c", "true"], &["su", "-"]] {
        let command = host.command(&path, words);
        let done = crate::support::call::to_end(command, b"echo ran").expect(127);
        let told = done.told();
        assert!(
            done.out.is_empty()
                && told.lines().count() == 1
                && told.starts_with(&format!(
                    "jobcage: there is no {} in PATH behind jobcage's own",
                    words[0]
                )),
            "{told}"
        );
    }
    // Not even by another copy of us that stands in the way.
    let other = host.world.dir.join("other");
    fs::create_dir(&other).unwrap();
    fs::copy(programs::jobcage(), other.join("jobcage")).unwrap();
    std::os::unix::fs::symlink("jobcage", other.join("bash")).unwrap();
    let path = format!("{path}:{}:{path}", other.display());
    let done = crate::support::call::to_end(host.command(&path, &["bash", "-c", "true"]), b"");
    done.expect(127);
    host.world.assert_nothing_left();
}
