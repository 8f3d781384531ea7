//! The runner that runs: has it read this file, and does it think that its jobs run as somebody else?

use super::{Finding, Severity};
use crate::gitlab::install::runners::shown;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What the kernel calls it.
const NAME: &str = "gitlab-runner";

/// A runner.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Runner {
    pid: i32,
    /// Its `--config`; `None`: the usual file.
    config: Option<PathBuf>,
}

/// What there is to say of the runners of this user.
pub fn findings(config: &Path) -> Vec<Finding> {
    let found = runners();
    let mut findings = Vec::new();
    for runner in &found {
        let about = format!("the running gitlab-runner (pid {})", runner.pid);
        let finding = match &runner.config {
            Some(other) if !is_same(other, config) => {
                let other = shown(&other.to_string_lossy());
                let what =
                    format!("it reads {other}, not this file; name that one: jobcage gitlab check {other}");
                Finding::new(Severity::Warning, &about, what)
            }
            _ => Finding::new(Severity::Ok, &about, "it reads this file"),
        };
        findings.push(finding);
    }
    findings
}

fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    one == other || file(one).is_some_and(|one| Some(one) == file(other))
}

/// Those of our own user: another's have another usual file.
fn runners() -> Vec<Runner> {
    let own = nix::unistd::geteuid().as_raw();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<Runner> = entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let is_own = entry.metadata().ok()?.uid() == own;
            let dir = entry.path();
            let comm = fs::read(dir.join("comm")).ok()?;
            if !is_own || comm.trim_ascii_end() != NAME.as_bytes() {
                return None;
            }
            let line = fs::read(dir.join("cmdline")).ok()?;
            let config = config_of(&line)?;
            // A path is relative to where it stands.
            let from = dir.join("cwd");
            let from = fs::read_link(&from).unwrap_or(from);
            Some(Runner {
                pid,
                config: config.map(|config| from.join(config)),
            })
        })
        .collect();
    found.sort_by_key(|runner| runner.pid);
    found
}

/// The `--config` of a command line that runs jobs; `None`: it does something else.
fn config_of(line: &[u8]) -> Option<Option<PathBuf>> {
    let mut words = line.split(|byte| *byte == 0).skip_while(|word| *word != b"run");
    words.next()?;
    let mut config = None;
    while let Some(word) = words.next() {
        let given = match word {
            b"-c" | b"-config" | b"--config" => words.next(),
            _ => [&b"-c="[..], b"-config=", b"--config="]
                .iter()
                .find_map(|flag| word.strip_prefix(*flag)),
        };
        config = given
            .map(|path| PathBuf::from(OsStr::from_bytes(path)))
            .or(config);
    }
    Some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_a_command_line() {
        let of = |line: &str| config_of(line.replace(' ', "\0").as_bytes());
        let path = |path: &str| Some(Some(PathBuf::from(path)));
        for line in [
            "gitlab-runner run --config /x/c.toml --user build",
            "/usr/bin/gitlab-runner --debug run -c /x/c.toml",
            "gitlab-runner run --config=/x/c.toml --syslog",
            "/bin/sh /opt/gitlab-runner run --working-directory / -config /x/c.toml",
        ] {
            assert_eq!(of(line), path("/x/c.toml"), "{line}");
        }
        assert_eq!(of("gitlab-runner run --user config -s"), Some(None));
        assert_eq!(of("gitlab-runner run --config"), Some(None));
        assert_eq!(of("gitlab-runner artifacts-uploader --config x"), None);
        assert_eq!(of(""), None);
    }
}
