//! Everything that is no stage of the runner is as if there were no shim.

use crate::runner::{BUILD_USER, Host, WAYS, Way};
use crate::support::call::{Done, to_end};
use crate::support::programs;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Says whether it is in a cage, and what it was called with.
const TELL: &str = "echo cage ${JOBCAGE_JOB-none} $0 $#; id -un; exit 3";

fn assert_same(with: &Done, without: &Done) {
    assert_eq!(
        (with.code, with.signal, with.text(), with.told()),
        (without.code, without.signal, without.text(), without.told())
    );
}

#[test]
fn calls_with_other_words_are_passed_on() {
    let Some(mut host) = Host::new("shim-other-words") else {
        return;
    };
    fs::write(host.project().join("script"), TELL).unwrap();
    let script = host.project().join("script").display().to_string();
    let calls: &[&[&str]] = &[
        &["bash", "-c", TELL, "name", "a b", ""],
        &["bash", "-l", "-c", TELL],
        &["bash", "--login", &script, "x"],
        &["bash", &script],
        &["bash"],
        &["bash", "-s", "a"],
        &["bash", "--no-such-option"],
        &["bash", "--version"],
        &["su", "-", BUILD_USER, "-s", "/bin/bash", "-c", TELL],
        &["su", "-s", "/bin/bash", BUILD_USER],
        &["su", "-s", "/bin/bash", BUILD_USER, "-c", TELL],
        &["su", BUILD_USER, "-s", "/bin/bash", "-c", "bash -l"],
        &["su", "no-such-user-here", "-c", "true"],
        &["su", "--help"],
    ];
    for words in calls {
        let (with, without) = (host.call(true, words, TELL), host.call(false, words, TELL));
        assert!(
            !with.text().contains("cage bash") && !with.text().contains("cage su"),
            "{words:?}"
        );
        assert_same(&with, &without);
    }
    // So that the comparison means something: these do run.
    let told = host
        .call(true, &["bash", "-c", TELL, "name", "a b", ""], "")
        .expect(3)
        .text();
    assert_eq!(told, "cage none name 2\nroot");
    let told = host.call(true, calls[10], "").expect(3).text();
    assert!(
        told.starts_with("cage none ") && told.ends_with(BUILD_USER),
        "{told}"
    );
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

/// The first word is the program's own business, and tells a login shell.
#[test]
fn the_first_word_is_kept() {
    let Some(mut host) = Host::new("shim-first-word") else {
        return;
    };
    for first in ["bash", "-bash", "/else/where/bash", "another", "-", ""] {
        let of = |shims: bool| {
            let mut command = host.command(
                &host.path(shims),
                &["bash", "-c", "cat /proc/$$/cmdline; shopt login_shell"],
            );
            command.arg0(first);
            to_end(command, b"")
        };
        let (with, without) = (of(true), of(false));
        assert!(
            with.text().starts_with(&format!("{first}\0-c\0")),
            "{first:?}: {}",
            with.text()
        );
        assert_same(&with, &without);
    }
    host.world.assert_nothing_left();
}

/// Environment and files, to the byte.
#[test]
fn environment_and_files_are_kept() {
    let Some(mut host) = Host::new("shim-kept") else {
        return;
    };
    let path = host.path(true);
    let of = |program: &str| {
        let mut command = host.world.command("/bin/sh");
        let words = "exec \"$0\" -c 'cat /proc/$$/environ; cat <&7; ls /proc/$$/fd; pwd; umask' 7< marked";
        fs::write(host.world.dir.join("marked"), "marked").unwrap();
        command
            .args(["-c", words, program])
            .env("PATH", &path)
            .env("JOBCAGE_GRACE", "1s")
            .env("AWKWARD", "a'b\n\u{1b}\"")
            .env_remove("OLDPWD")
            .env_remove("_");
        to_end(command, b"").expect(0)
    };
    let (with, without) = (of("bash"), of("/usr/bin/bash"));
    assert!(
        with.text().contains("JOBCAGE_GRACE=1s")
            && with.text().contains("shims")
            && with.text().contains("marked")
    );
    assert_same(&with, &without);
    host.world.assert_nothing_left();
}

/// The words of a stage, but no pipe.
#[test]
fn a_terminal_or_a_file_as_standard_input_is_no_stage() {
    let Some(mut host) = Host::new("shim-stdin") else {
        return;
    };
    let script = host.world.dir.join("script");
    fs::write(&script, TELL).unwrap();
    let output = |mut command: Command, stdin: Stdio| {
        let done = command.stdin(stdin).output().unwrap();
        (
            done.status.code(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
        )
    };
    for (way, user) in [(Way::Bash, "root\n"), (Way::Su, "nobody\n")] {
        let command = || host.command(&host.path(true), &way.words());
        let (code, told) = output(command(), File::open(&script).unwrap().into());
        assert!(
            code == Some(3) && told.starts_with("cage none ") && told.ends_with(user),
            "{told}"
        );
        let (code, told) = output(command(), Stdio::null());
        assert_eq!((code, told.as_str()), (Some(0), ""));
    }
    // Nobody else shall inherit it.
    let mut keyboard = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let terminal = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(ptsname_r(&keyboard).unwrap())
        .unwrap();
    // An interactive shell, which reads its line from the terminal.
    let mut command = host.command(&host.path(true), &["bash", "--login"]);
    command
        .stdin(terminal)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    keyboard
        .write_all(b"echo cage ${JOBCAGE_JOB-none}; exit 4\n")
        .unwrap();
    let mut told = String::new();
    child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(
        (child.wait().unwrap().code(), told.as_str()),
        (Some(4), "cage none\n")
    );
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

/// The words and the pipe of a stage, but from somebody else.
#[test]
fn another_parent_is_no_runner() {
    let Some(mut host) = Host::new("shim-parent") else {
        return;
    };
    for way in WAYS {
        let words: Vec<String> = way.words().iter().map(|word| format!("'{word}'")).collect();
        let words = format!("echo '{TELL}' | {}; echo $?", words.join(" "));
        let mut command = host.world.command("/bin/sh");
        command.args(["-c", &words]).env("PATH", host.path(true));
        let told = to_end(command, b"").expect(0).text();
        assert!(told.starts_with("cage none ") && told.ends_with("\n3"), "{told}");
    }
    // Nor is a program that only has the runner's name.
    let named = host.world.dir.join("gitlab-runner");
    fs::copy("/bin/bash", &named).unwrap();
    let mut command = host.world.command(&named);
    let words = format!("echo '{TELL}' | bash --login; true");
    command.args(["-c", &words]).env("PATH", host.path(true));
    assert!(to_end(command, b"").expect(0).text().starts_with("cage none "));
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

/// What a job calls by itself is the job's, wherever it finds us.
#[test]
fn a_login_shell_inside_of_a_stage_gets_no_cage_of_its_own() {
    let Some(mut host) = Host::new("shim-nested") else {
        return;
    };
    let shims = host.shims();
    let inner = "echo inner $JOBCAGE_JOB; exit 5";
    let script = format!(
        "echo outer $JOBCAGE_JOB; export PATH={}:$PATH; echo '{inner}' | bash --login; echo $?; type -P bash; exit 0\n",
        shims.display()
    );
    for way in WAYS {
        let ended = host.start(way, true, script.clone()).end();
        let lines: Vec<&str> = ended.log.lines().collect();
        assert_eq!(lines.len(), 4, "{}", ended.log);
        assert_eq!(
            lines[0].strip_prefix("outer "),
            lines[1].strip_prefix("inner "),
            "{}",
            ended.log
        );
        assert!(lines[0].len() > "outer ".len());
        assert_eq!(
            lines[2..],
            ["5", shims.join("bash").to_str().unwrap()],
            "{}",
            ended.log
        );
    }
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

/// jobcage under its own name, and under one that is neither, is jobcage.
#[test]
fn jobcage_by_its_own_name_is_no_shell() {
    let Some(mut host) = Host::new("shim-own-name") else {
        return;
    };
    let other = host.world.dir.join("cage");
    std::os::unix::fs::symlink(programs::jobcage(), &other).unwrap();
    for program in [programs::jobcage(), &other] {
        let mut command = host.world.command(program);
        command.arg("--version");
        assert!(to_end(command, b"").expect(0).text().starts_with("jobcage "));
    }
    host.world.assert_nothing_left();
}
