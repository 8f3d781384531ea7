//! The job's `after_script`, for the case that the runner does not run it: on a job timeout, a forced cancel, a crash of the
//! runner. It is made of the job response and of the variables that the runner has expanded for this job.

use super::contract::{OF_THE_JOB, Response};
use super::{GitlabError, cage::say};
use crate::verbs::VerbError;
use jobcage_job::parse_duration;
use jobcage_ledger::Record;
use jobcage_supervisor::Failure;
use jobcage_supervisor::session::{self, AfterPhase};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// The stage in which the runner runs it, and the name of its step in the response.
pub const STAGE: &str = "after_script";

/// What it is told of the job's end, in GitLab's words. A job whose runner is gone has failed, whoever was to blame.
const STATUS: &str = "case \"$JOBCAGE_RESULT:$JOBCAGE_CAUSE\" in
success:*) export CI_JOB_STATUS=success ;;
timedout:*) export CI_JOB_STATUS=timedout ;;
canceled:lease) export CI_JOB_STATUS=failed ;;
canceled:*) export CI_JOB_STATUS=canceled ;;
*) export CI_JOB_STATUS=failed ;;
esac
";

/// Whether a stage is the job's script: from its start on there is something to clean up after.
#[must_use]
pub fn is_due_after(stage: &str) -> bool {
    stage == "build_script" || stage.starts_with("step_")
}

/// Hands it to the session's supervisor, which runs it once, whatever becomes of us and of the runner, unless somebody takes
/// it back.
///
/// # Errors
/// If the session has nobody who looks after it.
pub fn give(record: &Record, response: &Response, most: Duration) -> Result<(), VerbError> {
    if response.script_of(STAGE).is_none() {
        return Ok(());
    }
    let variables: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter_map(|(name, value)| {
            let name = name.as_bytes().strip_prefix(OF_THE_JOB)?;
            Some((OsStr::from_bytes(name).to_owned(), value))
        })
        .collect();
    let Some(script) = script(response, &variables) else {
        return Ok(());
    };
    let failed = |errno| GitlabError::Script {
        path: STAGE.into(),
        source: std::io::Error::from(errno),
    };
    let file = jobcage_sys::file::sealed(c"after_script", &script).map_err(failed)?;
    session::give_after(record, file.as_fd(), time(&variables, most))?;
    Ok(())
}

/// Takes it back, since the runner runs it. `false`: it has run already, and is not run again.
///
/// # Errors
/// If the session has nobody who looks after it.
pub fn take(record: &Record) -> Result<bool, Failure> {
    Ok(match session::take_after(record)? {
        // One that was never given is the runner's alone.
        AfterPhase::Ours | AfterPhase::NeverGiven => true,
        AfterPhase::Gone => !has_begun(record),
    })
}

/// Whether jobcage has run it, or is at it.
#[must_use]
pub fn has_begun(record: &Record) -> bool {
    let steps = record.steps().unwrap_or_default();
    steps.iter().any(|step| step.kind == jobcage_job::StepKind::After)
}

/// The job's own time for it, which the host's bounds: `jobcage gitlab check` reckons with that.
fn time(variables: &[(OsString, OsString)], most: Duration) -> Duration {
    const NAME: &str = "RUNNER_AFTER_SCRIPT_TIMEOUT";
    let Some((_, value)) = variables.iter().find(|(name, _)| name == NAME) else {
        return most;
    };
    let told = value.to_str().and_then(|text| parse_duration(text).ok());
    let told = told.filter(|time| !time.is_zero()).unwrap_or_else(|| {
        let seconds = most.as_secs();
        say(&format!(
            "note: {NAME} is no time: after_script gets {seconds} s where jobcage runs it"
        ));
        most
    });
    told.min(most)
}

/// The text for the standard input of a login shell; `None`: the job has no `after_script`.
fn script(response: &Response, variables: &[(OsString, OsString)]) -> Option<Vec<u8>> {
    let commands = response.script_of(STAGE)?;
    let value = |wanted: &str| {
        let found = variables.iter().find(|(name, _)| name == wanted);
        found.map_or(&b""[..], |(_, value)| value.as_bytes())
    };
    let mut text = b"trap 'exit 1' TERM\n".to_vec();
    // Where the runner keeps the files of such variables itself.
    let files = [value("CI_PROJECT_DIR"), b".tmp"].concat();
    for (name, value) in variables.iter().filter(|(name, _)| is_name(name)) {
        let name = name.as_bytes();
        if response.is_file(name) {
            let path = word(&[&files[..], b"/", name].concat());
            let make = [&b"mkdir -p "[..], &word(&files), b" && (umask 077; printf %s "];
            text.extend(make.concat());
            text.extend([&word(value.as_bytes())[..], b" > ", &path, b")\nexport "].concat());
            text.extend([name, b"=", &path, b"\n"].concat());
        } else {
            text.extend([b"export ", name, b"=", &word(value.as_bytes()), b"\n"].concat());
        }
    }
    text.extend(STATUS.as_bytes());
    let handed = word(&[&files[..], b"/gitlab_runner_env"].concat());
    text.extend([b"[ ! -r ", &handed[..], b" ] || . ", &handed, b"\n"].concat());
    text.extend([b"cd ", &word(value("CI_PROJECT_DIR"))[..], b" || exit 1\n"].concat());
    // As the runner runs it: the commands cannot eat the script, and the first that fails ends it.
    text.extend(b"set -eo pipefail\nset +o noclobber\n: | eval ");
    text.extend(word(&told(commands)));
    text.extend(b"\nexit 0\n");
    Some(text)
}

/// The commands, each shown before it runs.
fn told(commands: &[String]) -> Vec<u8> {
    let mut text = Vec::new();
    for command in commands {
        let first = command.lines().next().unwrap_or_default();
        let more = if command.lines().nth(1).is_some() {
            " # collapsed multi-line command"
        } else {
            ""
        };
        let shown = format!("\u{1b}[32;1m$ {first}{more}\u{1b}[0;m");
        text.extend(
            [
                b"echo ",
                &word(shown.as_bytes())[..],
                b"\n",
                command.as_bytes(),
                b"\n",
            ]
            .concat(),
        );
    }
    text
}

/// Whether bash can export it.
fn is_name(name: &OsStr) -> bool {
    let mut bytes = name.as_bytes().iter();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// Any bytes as one word of bash.
fn word(bytes: &[u8]) -> Vec<u8> {
    let mut word = b"$'".to_vec();
    for byte in bytes {
        match byte {
            b'\'' | b'\\' => word.extend([b'\\', *byte]),
            b'\n' => word.extend(b"\\n"),
            b' ' => word.push(b' '),
            byte if byte.is_ascii_graphic() => word.push(*byte),
            byte => word.extend(format!("\\x{byte:02x}").into_bytes()),
        }
    }
    word.push(b'\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::os::unix::ffi::OsStringExt;
    use std::process::{Command, Output, Stdio};

    fn bash(script: &[u8]) -> Output {
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "-l"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin");
        bash.env("JOBCAGE_RESULT", "timedout").env("JOBCAGE_CAUSE", "");
        let mut child = bash
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script).unwrap();
        child.wait_with_output().unwrap()
    }

    fn response(json: serde_json::Value) -> Response {
        serde_json::from_value(json).unwrap()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_word_comes_out_of_bash_as_it_went_in(bytes in prop::collection::vec(1..=255_u8, 0..200)) {
            let done = bash(&[&b"printf %s "[..], &word(&bytes)].concat());
            prop_assert!(done.status.success());
            prop_assert_eq!(done.stdout, bytes);
        }
    }

    #[test]
    fn a_word_after_an_escape_is_not_taken_for_part_of_it() {
        // bash reads up to two digits behind \x, and each escape of ours has two.
        let done = bash(&[&b"printf %s "[..], &word("\u{1b}1\u{e9}f0".as_bytes())].concat());
        assert_eq!(done.stdout, "\u{1b}1\u{e9}f0".as_bytes());
    }

    #[test]
    fn it_has_the_variables_the_files_and_the_true_status() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path().join("pro ject");
        std::fs::create_dir(&project).unwrap();
        let response = response(serde_json::json!({
            "id": 1,
            "steps": [{"name": "script", "script": ["true"]},
                      {"name": "after_script", "script": ["echo \"$AWKWARD\"", "cat \"$KEY\"", "echo\n echo $CI_JOB_STATUS; cat", "false", "echo never"]}],
            "variables": [{"key": "KEY", "file": true}, {"key": "AWKWARD"}, {"key": "none", "value": null}],
        }));
        let awkward = "a'b\"c $(touch x) `id` \\ 100% \u{e9}";
        let variables = pairs(&[
            ("CI_PROJECT_DIR", project.to_str().unwrap()),
            ("AWKWARD", awkward),
            ("KEY", "se\ncret\n"),
            ("no name", "x"),
            ("CI_JOB_STATUS", "running"),
        ]);
        let done = bash(&script(&response, &variables).unwrap());
        let told = String::from_utf8(done.stdout).unwrap();
        let err = String::from_utf8(done.stderr).unwrap();
        assert_eq!(err, "");
        assert_eq!(done.status.code(), Some(1));
        let lines: Vec<&str> = told.lines().filter(|line| !line.starts_with('\u{1b}')).collect();
        assert_eq!(lines, [awkward, "se", "cret", "", "timedout"], "{told}");
        assert!(told.contains("$ echo # collapsed multi-line command"), "{told}");
        use std::os::unix::fs::PermissionsExt as _;
        let file = dir.path().join("pro ject.tmp/KEY");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::fs::read_dir(project).unwrap().next().is_none());
    }

    #[test]
    fn a_job_without_one_has_none() {
        for steps in [
            serde_json::json!([]),
            serde_json::json!([{"name": "script", "script": ["true"]}]),
            serde_json::json!([{"name": "after_script", "script": []}]),
            serde_json::json!([{"name": "after_script", "script": null}]),
        ] {
            let response = response(serde_json::json!({"id": 1, "steps": steps}));
            assert_eq!(script(&response, &[]), None, "{steps}");
        }
    }

    #[test]
    fn its_time_is_the_hosts_unless_the_job_says_less() {
        const MOST: Duration = Duration::from_secs(300);
        for (told, time_told) in [("4m", 240), ("1h30m", 300), ("90s", 90), ("x", 300), ("0s", 300)] {
            let variables = pairs(&[("RUNNER_AFTER_SCRIPT_TIMEOUT", told)]);
            assert_eq!(time(&variables, MOST), Duration::from_secs(time_told), "{told}");
        }
        assert_eq!(time(&[], MOST), MOST);
    }

    #[test]
    fn a_name_is_one_that_bash_can_export() {
        for (name, is) in [
            ("A", true),
            ("_a1", true),
            ("1a", false),
            ("a-b", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(is_name(OsStr::new(name)), is, "{name}");
        }
        assert!(!is_name(&OsString::from_vec(vec![b'a', 0xff])));
    }
}
