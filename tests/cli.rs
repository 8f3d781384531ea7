//! Words, variables and config files in; exit codes and messages out. Nothing here starts a job: every call
//! asks for a text, or must be refused before anything is done.

use assert_cmd::Command;
use std::fs;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

/// A home of its own, so that no file and no variable of the caller is read.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn with_config(text: &str) -> Self {
        let home = Self::new();
        fs::create_dir(home.path().join("jobcage")).unwrap();
        fs::write(home.config(), text).unwrap();
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn config(&self) -> std::path::PathBuf {
        self.path().join("jobcage/config.toml")
    }

    fn jobcage(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jobcage"));
        command
            .env_clear()
            .env("HOME", self.path())
            .env("XDG_CONFIG_HOME", self.path());
        command.env("JOBCAGE_RUNTIME_DIR", self.path().join("run"));
        command.env("JOBCAGE_STATE_DIR", self.path().join("state"));
        command.args(words);
        command
    }
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

/// The message of a call that must be refused: 125, nothing on stdout, one line in jobcage's voice.
fn refusal(mut command: Command) -> String {
    let output = command.output().unwrap();
    let told = told(&output);
    assert_eq!(output.status.code(), Some(125), "{told}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(
        told.starts_with("jobcage: ") && told.lines().count() == 1,
        "{told}"
    );
    told
}

fn refused(words: &[&str]) -> String {
    refusal(Home::new().jobcage(words))
}

/// The text of a call that only asks for one.
fn text(words: &[&str]) -> String {
    let output = Home::new().jobcage(words).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn wrong_words_end_with_125_and_say_what_to_do() {
    for (words, expected) in [
        (&[][..], "no verb"),
        (&["runn"], "unknown verb \"runn\" (did you mean run?)"),
        (&["run"], "no command: it stands behind --"),
        (&["run", "--"], "no command: it stands behind --"),
        (&["run", "true"], "the command stands behind --"),
        (
            &["run", "--memroy", "1", "--", "true"],
            "unknown option --memroy (did you mean --memory?)",
        ),
        (&["run", "--memory", "--", "true"], "--memory needs a value"),
        (
            &["run", "--memory", "lots", "--", "true"],
            "--memory: \"lots\" is no size",
        ),
        (
            &["run", "--timeout", "0", "--", "true"],
            "--timeout: \"0\" leaves no time at all",
        ),
        (
            &["run", "--timeout", "1", "--timeout", "2", "--", "true"],
            "--timeout is given twice",
        ),
        (
            &["run", "--signal", "NOPE", "--", "true"],
            "--signal: \"NOPE\" is no signal",
        ),
        (
            &["run", "--cpus", "3-1", "--", "true"],
            "--cpus: \"3-1\" is no list of processors",
        ),
        (
            &["run", "--nice", "-21", "--", "true"],
            "--nice: \"-21\" is no niceness",
        ),
        (
            &["run", "--nice=20", "--", "true"],
            "--nice: \"20\" is no niceness",
        ),
        (
            &["run", "--rlimit", "files=1", "--", "true"],
            "\"files\" is no resource: write one of cpu,",
        ),
        (
            &["run", "--io", "sda", "--", "true"],
            "--io: \"sda\" is no IO limit",
        ),
        (
            &["run", "--cgroup-root", "here", "--", "true"],
            "--cgroup-root: \"here\" is no absolute path",
        ),
        (
            &["run", "--job", "a", "--name", "b", "--", "true"],
            "--job does not go with --name",
        ),
        (
            &["run", "-q", "-v", "--", "true"],
            "--quiet does not go with --verbose",
        ),
        (
            &["create", "--lease-pid", "0"],
            "--lease-pid: \"0\" is no process id",
        ),
        (&["gc", "--x\n\x1b[2J"], "unknown option --x\\n\\u{1b}"),
        (&["cleanup"], "<ID> is missing"),
        (&["show", "../x"], "ID: \"../x\" is no job id"),
        (
            &["stop", "a", "--signal", "TERM", "--now"],
            "does not go with --now",
        ),
        (&["stop", "a", "--grace", "1s", "--now"], "does not go with --now"),
        (&["stop", "a", "--grace", "soon"], "--grace: \"soon\" is no time"),
        (&["wait"], "<ID>... is missing"),
        (&["wait", "a", "../x"], "ID: \"../x\" is no job id"),
        (&["exec", "a"], "no command: it stands behind --"),
        (&["exec", "a", "ps"], "the command stands behind --"),
        (&["exec", "--", "ps"], "<ID> is missing"),
        (&["gc", "--keep-size", "much"], "--keep-size: \"much\" is no size"),
        (&["completions", "tcsh"], "<SHELL> is one of bash"),
    ] {
        let told = refused(words);
        assert!(told.contains(expected), "{words:?}: {told}");
    }
}

#[test]
fn values_of_variables_and_pieces_of_scripts_are_not_shown() {
    for words in [
        &["run", "--env", "A", "B=hunter2", "--", "true"][..],
        &["run", "--env=hunter2 =x", "--", "true"],
        &["run", "--env", "=hunter2", "--", "true"],
        &["run", "--after", "echo", "hunter2", "--", "true"],
        &["run", "--envv=A=hunter2", "--", "true"],
        &["run", "-e", "A=hunter2", "--", "true"],
        &["run", "-eA=hunter2", "--", "true"],
        &["exec", "a", "--env", "=hunter2", "--", "true"],
        &["exec", "a", "B=hunter2", "--", "true"],
    ] {
        let told = refused(words);
        assert!(!told.contains("hunter2"), "{words:?}: {told}");
    }
}

#[test]
fn help_and_version_are_texts() {
    for words in [&["--help"][..], &["-h"], &["help"]] {
        let help = text(words);
        assert!(
            help.contains("Usage: jobcage <COMMAND>") && help.contains("  doctor "),
            "{help}"
        );
    }
    for words in [&["run", "--help"][..], &["help", "run"]] {
        let help = text(words);
        assert!(
            help.contains("Usage: jobcage run [OPTIONS] -- <COMMAND>..."),
            "{help}"
        );
        assert!(
            help.contains("--memory-high <SIZE>") && help.contains("124    it ran out of time"),
            "{help}"
        );
    }
    for verb in [
        "create", "cleanup", "list", "show", "guests", "stop", "wait", "exec", "gc", "doctor",
    ] {
        assert!(text(&[verb, "--help"]).contains("--cgroup-root <DIR>"), "{verb}");
    }
    for verb in ["list", "show", "guests", "stop", "wait", "gc", "doctor"] {
        assert!(text(&[verb, "--help"]).contains("--json"), "{verb}");
    }
    assert_eq!(
        text(&["--version"]),
        format!("jobcage {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn help_needs_no_config() {
    let home = Home::with_config("nonsense");
    home.jobcage(&["run", "--help"])
        .env("JOBCAGE_TIMEOUT", "soon")
        .assert()
        .code(0);
}

#[test]
fn a_config_error_names_file_line_key_and_what_is_allowed() {
    for (text, expected) in [
        (
            "# one\n# two\nmemroy = 1\n",
            "line 3: unknown key \"memroy\" at the top of the file; allowed are cgroup_root,",
        ),
        (
            "[run]\nmemroy = 1\n",
            "line 2: unknown key \"memroy\" in [run]; allowed are name,",
        ),
        (
            "[run]\n\ntimeout = 'soon'\n",
            "line 3: timeout: \"soon\" is no time",
        ),
        (
            "[run]\nbest_effort = 'perhaps'\n",
            "line 2: best_effort: \"perhaps\" is neither true nor false",
        ),
        (
            "cgroup_root = 'here'\n",
            "line 1: cgroup_root: \"here\" is no absolute path",
        ),
        ("[run\n", "line 1: this is no TOML"),
    ] {
        let home = Home::with_config(text);
        let told = refusal(home.jobcage(&["run", "--timeout", "5m", "--", "true"]));
        assert!(
            told.starts_with(&format!("jobcage: {}, {expected}", home.config().display())),
            "{told}"
        );
    }
}

#[test]
fn a_named_config_file_replaces_the_others_and_must_be_there() {
    let home = Home::with_config("[run]\nnice = 'wrong'\n");
    let named = home.path().join("named.toml");
    let call = || {
        let mut command = home.jobcage(&["run", "--", "true"]);
        command.env("JOBCAGE_CONFIG", &named);
        command
    };
    let told = refusal(call());
    assert!(
        told.contains("cannot read the config file") && told.contains("named.toml"),
        "{told}"
    );
    fs::write(&named, "[run]\npids = 'many'\n").unwrap();
    let told = refusal(call());
    assert!(
        told.contains("named.toml, line 2: pids: \"many\""),
        "the other file is not read: {told}"
    );
}

#[test]
fn a_mistake_for_jobs_does_not_stop_the_other_verbs() {
    let home = Home::with_config("[run]\nmemroy = 1\n");
    let told = refusal(home.jobcage(&["show", "not-there"]));
    assert!(!told.contains("memroy"), "{told}");
    let home = Home::with_config("cgroup_rot = '/x'\n");
    let told = refusal(home.jobcage(&["show", "not-there"]));
    assert!(told.contains("unknown key \"cgroup_rot\""), "{told}");
}

#[test]
fn a_wrong_value_of_a_variable_names_the_variable() {
    let home = Home::new();
    for (name, value, expected) in [
        ("JOBCAGE_TIMEOUT", "soon", "JOBCAGE_TIMEOUT: \"soon\" is no time"),
        (
            "JOBCAGE_RLIMIT",
            "core=0 nofile",
            "JOBCAGE_RLIMIT: \"nofile\" is no rlimit",
        ),
        (
            "JOBCAGE_QUIET",
            "very",
            "JOBCAGE_QUIET: \"very\" is neither true nor false",
        ),
        (
            "JOBCAGE_CGROUP_ROOT",
            "here",
            "JOBCAGE_CGROUP_ROOT: \"here\" is no absolute path",
        ),
    ] {
        let mut command = home.jobcage(&["run", "--timeout", "5m", "--", "true"]);
        command.env(name, value);
        let told = refusal(command);
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn an_unknown_variable_is_one_line_and_no_error() {
    let home = Home::new();
    let output = |quiet: &[&str], name: &str| {
        let mut words = vec!["show", "not-there"];
        words.extend(quiet);
        told(&home.jobcage(&words).env(name, "hunter2").output().unwrap())
    };
    let told = output(&[], "JOBCAGE_TIMEUOT");
    assert!(
        told.starts_with("jobcage: warning: JOBCAGE_TIMEUOT is no option of this version; it is ignored\n")
    );
    assert!(!told.contains("hunter2"));
    assert!(!output(&["-q"], "JOBCAGE_TIMEUOT").contains("TIMEUOT"));
    for ours in [
        "JOBCAGE_JOB",
        "JOBCAGE_SIGNAL",
        "JOBCAGE_ENV",
        "JOBCAGE_VM_X",
        "JOBCAGE_MEMORY",
    ] {
        assert!(!output(&[], ours).contains("warning"), "{ours}");
    }
}

#[test]
fn completions_know_verbs_and_options() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&["completions", shell]);
        assert!(
            script.contains("memory-high") && script.contains("cleanup"),
            "{shell}"
        );
    }
}

#[test]
fn manual_pages_are_written_for_every_verb_of_people() {
    let home = Home::new();
    let dir = home.path().join("man");
    let told = refusal(home.jobcage(&["man", dir.to_str().unwrap()]));
    assert!(told.contains("name a directory that exists"), "{told}");
    fs::create_dir(&dir).unwrap();
    home.jobcage(&["man", dir.to_str().unwrap()]).assert().code(0);
    for page in [
        "", "-run", "-create", "-cleanup", "-list", "-show", "-stop", "-wait", "-exec", "-gc", "-doctor",
        "-env", "-env-set", "-logs", "-attach",
    ] {
        let page = fs::read_to_string(dir.join(format!("jobcage{page}.1"))).expect(page);
        assert!(page.contains(".TH jobcage"), "{page}");
    }
    let run = fs::read_to_string(dir.join("jobcage-run.1")).unwrap();
    assert!(run.contains("idle") && run.contains("128+N"), "{run}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_jobcage"));
    let status = command.arg("--help").stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

/// `link/order.ld` names functions. Were they called something else by now, a launch would be slower and nobody would notice.
#[test]
fn the_functions_of_a_launch_lie_side_by_side() {
    let mut readelf = std::process::Command::new("readelf");
    let output = readelf
        .args(["--section-headers", "--wide", env!("CARGO_BIN_EXE_jobcage")])
        .output()
        .expect("readelf, of binutils");
    let sections = String::from_utf8(output.stdout).unwrap();
    let size = |name: &str| {
        let line = sections.lines().find(|line| line.contains(&format!(" {name} ")));
        // Name, type, address, offset, size.
        let words: Option<Vec<&str>> = line.map(|line| line.split_whitespace().rev().collect());
        words.and_then(|words| u64::from_str_radix(words.get(5)?, 16).ok())
    };
    let (first, rest) = (size(".text.first").unwrap(), size(".text").unwrap());
    assert!(
        (200_000..rest / 2).contains(&first),
        "{first} bytes of functions are in the list's order, {rest} are not: run benches/order"
    );
}
