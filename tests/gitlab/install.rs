//! `jobcage gitlab template`, `convert` and `check`: from a runner with shell executors to one that calls us.

use crate::support::call::{Done, to_end};
use crate::support::needs::{Need, met};
use crate::support::programs;
use crate::support::world::World;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The build user of these tests: an account in a mount namespace of its own, whose home is in the world.
const BUILDER: u32 = 61310;
const NOBODY: u32 = 65534;

/// A runner's file of a usual shape.
const SHELL: &str = r#"concurrent = 2 # two cores

[[runners]]
  name = "build-1"
  url = "https://gitlab.example.com/"
  token = "glrt-hunter2" # from the vault: glrt-hunter2
  executor = "shell"
  environment = ["A=hunter2"]
  [runners.cache]
    Type = "s3"

[[runners]]
  name = "boxes"
  token = "glrt-hunter2"
  executor = "docker"
"#;

/// A host with a runner.
struct Host {
    world: World,
}

impl Host {
    fn new(test: &str) -> Option<Self> {
        let needs = [Need::Root, Need::Program("unshare"), Need::Program("bash")];
        if !met(test, &needs) {
            return None;
        }
        let world = World::new(test);
        let home = world.dir.join("builder");
        fs::create_dir(&home).unwrap();
        chown(&home, Some(BUILDER), Some(BUILDER)).unwrap();
        let passwd = format!(
            "root:x:0:0:root:/root:/bin/sh\nbuilder:x:{BUILDER}:{BUILDER}::{}:/bin/bash\n",
            home.display()
        );
        fs::write(world.dir.join("passwd"), passwd).unwrap();
        fs::write(
            world.dir.join("group"),
            format!("root:x:0:\nbuilder:x:{BUILDER}:\n"),
        )
        .unwrap();
        fs::write(
            world.dir.join("config.toml"),
            "[run]\nuser = \"builder\"\nafter_timeout = \"1m\"\n",
        )
        .unwrap();
        Some(Self { world })
    }

    /// A file of the build user's home.
    fn at_home(&self, name: &str, text: &str) {
        let path = self.world.dir.join("builder").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    /// The build user finds gitlab-runner, as it should.
    fn with_runner_in_path(self) -> Self {
        self.at_home("bin/gitlab-runner", "#!/bin/sh\n");
        self.at_home(".bash_profile", "PATH=$HOME/bin:$PATH\n");
        self
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.world.dir.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// `jobcage gitlab words…` where the accounts are these.
    fn call(&self, words: &str) -> Done {
        self.world.shell(&format!(
            "exec unshare --mount sh -c 'mount --bind passwd /etc/passwd && mount --bind group /etc/group && \
             exec \"$JOBCAGE\" gitlab {words}'"
        ))
    }

    /// What `template` prints, put where it says that it belongs.
    fn template(&self) -> String {
        let text = self.call("template").expect(0).text();
        text.replace("\n#shutdown_timeout", "\nshutdown_timeout")
            .replace("\n#log_level", "\nlog_level")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.world.dir).unwrap().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|name| name.starts_with("runner.toml") || name.starts_with(".runner.toml"))
            .collect();
        names.sort();
        names
    }
}

#[test]
fn what_the_template_prints_passes_the_check() {
    let Some(host) = Host::new("install-template") else {
        return;
    };
    let mut host = host.with_runner_in_path();
    let text = host.template();
    let own = fs::canonicalize(programs::jobcage()).unwrap();
    assert_eq!(text.matches(&format!("_exec = {own:?}")).count(), 4, "{text}");
    host.file("runner.toml", &text);
    let told = host.call("check runner.toml").expect(0).text();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(
        lines,
        [
            "ok: runner 1 of the file, which has no name: grace 10 s + after phase 60 s + 10 s = 80 s < graceful_kill_timeout 85 s \
             < shutdown_timeout 120 s",
            "ok: the build user \"builder\": its login shell ends well",
            "ok: the build user \"builder\": gitlab-runner is in the PATH of its login shell",
        ]
    );
    assert_eq!(host.call("check --quiet runner.toml").expect(0).text(), "");
    // The budget of the host is in it: with another one it does not fit any more.
    let longer = host.world.dir.join("config.toml");
    fs::write(longer, "[run]\nuser = \"builder\"\nafter_timeout = \"2m\"\n").unwrap();
    let told = host.call("check --quiet runner.toml").expect(1).text();
    assert!(told.contains("= 140 s: the runner would kill a call"), "{told}");
    let other = host.call("template --binary /opt/jobcage").expect(0).text();
    assert_eq!(other.matches("_exec = \"/opt/jobcage\"").count(), 4, "{other}");
    host.world.assert_nothing_left();
}

#[test]
fn a_login_shell_is_tried_and_nothing_of_it_is_left() {
    let Some(mut host) = Host::new("install-login") else {
        return;
    };
    let text = host.template();
    host.file("runner.toml", &text);
    // It leaves a process, says something hostile, and fails as Debian's does without a terminal.
    host.at_home(".bash_profile", "setsid sleep 300 > /dev/null 2>&1 &\n");
    host.at_home(".bash_logout", "printf 'clear\\033[2J\\n' >&2\nfalse\ntrue\n");
    let done = host.call("check runner.toml").expect(1);
    let told = done.text();
    for words in [
        "error: the build user \"builder\": its login shell ends with 1 after \"exit 0\", and its last line is \"clear\\u{1b}[2J\"",
        "warning: the build user \"builder\": gitlab-runner is not in the PATH",
    ] {
        assert!(
            told.lines().any(|line| line.starts_with(words)),
            "{words}\n{told}"
        );
    }
    let json: serde_json::Value = host.call("check --json runner.toml").expect(1).json();
    let severities: Vec<_> = json
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["severity"].as_str().unwrap())
        .collect();
    assert_eq!(severities, ["ok", "error", "warning"], "{json}");
    // One that does not end is ended, and what it writes is not kept.
    host.at_home(".bash_logout", "");
    host.at_home(".bash_profile", "head -c 16M /dev/zero >&2; exec sleep 300\n");
    let told = host.call("check --quiet runner.toml").expect(1).text();
    assert!(told.contains("its login shell does not end within"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    host.world.assert_nothing_left();
}

#[test]
fn check_finds_no_build_user_and_skips_that_of_others() {
    let Some(host) = Host::new("install-users") else {
        return;
    };
    host.file("runner.toml", &host.template());
    fs::write(
        host.world.dir.join("config.toml"),
        "[run]\nuser = \"nobody-of-this-name\"\nafter_timeout = \"1m\"\n",
    )
    .unwrap();
    let told = host.call("check --quiet runner.toml").expect(1).text();
    assert!(
        told.starts_with("error: the build user: there is no user \"nobody-of-this-name\""),
        "{told}"
    );
    fs::write(
        host.world.dir.join("config.toml"),
        "[run]\nuser = \"root\"\nafter_timeout = \"1m\"\n",
    )
    .unwrap();
    let done = as_nobody(&host, "check runner.toml").expect(0).text();
    assert!(
        done.contains("skipped: the build user \"root\": only root or that user can try"),
        "{done}"
    );
}

/// `jobcage gitlab words…` as a user who is nobody here.
fn as_nobody(host: &Host, words: &str) -> Done {
    let mut command = host.world.command(programs::jobcage());
    command
        .arg("gitlab")
        .args(words.split(' '))
        .uid(NOBODY)
        .gid(NOBODY)
        .env_remove("JOBCAGE_RUNTIME_DIR")
        .env_remove("JOBCAGE_STATE_DIR");
    to_end(command, b"")
}

#[test]
fn a_conversion_is_shown_and_then_done() {
    let Some(host) = Host::new("install-convert") else {
        return;
    };
    let host = host.with_runner_in_path();
    let path = host.file("runner.toml", SHELL);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    chown(&path, Some(BUILDER), Some(NOBODY)).unwrap();
    let shown = host.call("convert runner.toml").expect(0);
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        SHELL,
        "nothing is written unasked"
    );
    assert_eq!(host.names(), ["runner.toml"]);
    let difference = shown.text();
    for line in [
        "+shutdown_timeout = 120",
        "-  executor = \"shell\"",
        "+  executor = \"custom\"",
        "+    graceful_kill_timeout = 85",
        "   name = \"build-1\"",
    ] {
        assert!(difference.lines().any(|l| l == line), "{line}\n{difference}");
    }
    let told = shown.told();
    for words in [
        "runner \"build-1\": a shell executor, which becomes ours",
        "runner \"boxes\": stays; its executor is \"docker\"",
        "web terminal",
        "17.9",
        "nothing was changed",
    ] {
        assert!(told.contains(words), "{words}\n{told}");
    }
    let before = fs::metadata(&path).unwrap();
    let done = host.call("convert runner.toml --write").expect(0);
    assert_eq!(done.text(), difference, "what is done is what was shown");
    for text in [&told, &difference, &done.told()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    let backup = host.world.dir.join("runner.toml.jobcage-backup");
    assert_eq!(fs::read_to_string(&backup).unwrap(), SHELL);
    for file in [&path, &backup] {
        let meta = fs::metadata(file).unwrap();
        let of = |meta: &fs::Metadata| (meta.mode(), meta.uid(), meta.gid());
        assert_eq!(of(&meta), of(&before), "{}", file.display());
    }
    host.call("check runner.toml").expect(0);
    host.file("other.toml", SHELL);
    // Without a word of the host, all fits; what jobs of other hosts have for their after phase takes longer than the runner waits.
    host.file("config.toml", "");
    let told = host.call("convert other.toml").expect(0).told();
    assert!(!told.contains("warning"), "{told}");
    host.file("config.toml", "[run]\nafter_timeout = \"5m\"\n");
    let told = host.call("convert other.toml").expect(0).told();
    assert!(told.contains("warning: grace 10 s + after phase 300 s"), "{told}");
    let again = host.call("convert runner.toml --write").expect(0);
    assert_eq!(again.text(), "");
    assert!(
        again.told().contains("nothing is to be converted"),
        "{}",
        again.told()
    );
    assert_eq!(host.names(), ["runner.toml", "runner.toml.jobcage-backup"]);
    assert_eq!(host.call("convert runner.toml --quiet").expect(0).told(), "");
}

#[test]
fn one_runner_is_converted_by_its_name_and_the_others_stay() {
    let Some(host) = Host::new("install-name") else {
        return;
    };
    let two = format!("{SHELL}\n[[runners]]\n  name = \"build-2\"\n  executor = \"shell\"\n");
    let path = host.file("runner.toml", &two);
    host.call("convert runner.toml --name build-2 --write").expect(0);
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.matches("\"shell\"").count() == 1 && text.matches("\"custom\"").count() == 1,
        "{text}"
    );
    for (name, why) in [
        ("no-such", "no runner has the name \"no-such\""),
        (
            "boxes",
            "runner \"boxes\" cannot be converted: its executor is \"docker\"",
        ),
    ] {
        let refused = host
            .call(&format!("convert runner.toml --write --name {name}"))
            .refused();
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn what_cannot_be_replaced_stays_whole() {
    let Some(host) = Host::new("install-refused") else {
        return;
    };
    let path = host.file("runner.toml", SHELL);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let link = host.world.dir.join("link.toml");
    symlink(&path, &link).unwrap();
    let refused = host.call("convert link.toml --write").refused();
    assert!(refused.contains("symbolic link to"), "{refused}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    // In a directory of somebody else.
    let refused = as_nobody(&host, "convert runner.toml --write --quiet").expect(125);
    assert!(
        refused.told().contains("Permission denied") && refused.told().contains("nothing was changed"),
        "{}",
        refused.told()
    );
    // And where the file could be replaced, but not by one with the same owner.
    fs::set_permissions(&host.world.dir, Permissions::from_mode(0o777)).unwrap();
    let refused = as_nobody(&host, "convert runner.toml --write --quiet").expect(125);
    assert!(
        refused.told().contains("Operation not permitted"),
        "{}",
        refused.told()
    );
    let read_only = host.world.shell(
        "exec unshare --mount sh -c 'mount --bind . . && mount -o remount,ro,bind . && cd \"$PWD\" && \
         exec \"$JOBCAGE\" gitlab convert --quiet runner.toml --write'",
    );
    let told = read_only.expect(125).told();
    assert!(told.contains("Read-only file system"), "{told}");
    assert_eq!(fs::read_to_string(&path).unwrap(), SHELL);
    assert_eq!(host.names(), ["runner.toml"]);
}

#[test]
fn wrong_files_are_one_clear_error_without_a_secret() {
    let Some(host) = Host::new("install-wrong") else {
        return;
    };
    host.file("runner.toml", "concurrent = 1\ntoken = \"hunter2\n");
    let refused = host.call("convert runner.toml").refused();
    assert!(refused.contains("line 2: this is no TOML"), "{refused}");
    let told = host.call("check runner.toml").expect(1).text();
    assert!(
        told.starts_with("error: the file: line 2: this is no TOML"),
        "{told}"
    );
    assert!(
        !told.contains("hunter2") && !refused.contains("hunter2"),
        "{told}{refused}"
    );
    for words in [
        "convert missing.toml",
        "check missing.toml",
        "convert /",
        "check .",
    ] {
        let refused = host.call(words).refused();
        assert!(refused.starts_with("jobcage: gitlab: cannot read "), "{refused}");
    }
    host.file("runner.toml", "runners = 7\n");
    let told = host.call("check runner.toml").expect(1).text();
    assert!(
        told.contains("runners is integer; the runner wants blocks"),
        "{told}"
    );
    host.call("template --binary jobcage").refused();
    host.call("convert").refused();
}

#[test]
fn a_runner_that_reads_another_file_is_named() {
    let Some(host) = Host::new("install-running") else {
        return;
    };
    let usual = host.world.dir.join("home/.gitlab-runner");
    fs::create_dir(&usual).unwrap();
    fs::write(usual.join("config.toml"), host.template()).unwrap();
    host.file("other.toml", "");
    host.at_home("gitlab-runner", "#!/bin/sh\nread line\n");
    let program = host.world.dir.join("builder/gitlab-runner");
    let run = |config: &str| {
        let mut command = host.world.command(&program);
        command
            .args(["run", "--config", config])
            .uid(NOBODY)
            .gid(NOBODY)
            .stdin(Stdio::piped());
        let mut running = spawn(command);
        let pid = running.id();
        let told = as_nobody(&host, "check").text();
        drop(running.stdin.take());
        running.wait().unwrap();
        let about = format!("the running gitlab-runner (pid {pid}): ");
        let line = told.lines().find(|line| line.contains(&about));
        line.unwrap_or_else(|| panic!("{pid}: {told}")).to_owned()
    };
    let other = host.world.dir.join("other.toml");
    let told = run("other.toml");
    assert!(
        told.starts_with("warning: ") && told.contains(&format!("it reads {other:?}, not this file")),
        "{told}"
    );
    let told = run(usual.join("config.toml").to_str().unwrap());
    assert!(
        told.starts_with("ok: ") && told.ends_with("it reads this file"),
        "{told}"
    );
}

fn spawn(mut command: Command) -> std::process::Child {
    command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}
