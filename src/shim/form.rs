//! The words by which GitLab Runner starts a stage, and no others.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The programs that we stand before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// `bash`: jobs run as the runner's own user.
    Bash,
    /// `su`: the runner is root's, and jobs have a user of their own.
    Su,
}

impl Name {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Bash, Self::Su];

    /// The program's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Su => "su",
        }
    }

    fn of(text: &OsStr) -> Option<Self> {
        // A login shell is told by a dash before its name.
        let text = text.to_str()?;
        let text = text.strip_prefix('-').unwrap_or(text);
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

/// Which program we stand before in this call, if any. A caller may write anything into the first word (`exec -a`), and the
/// kernel knows by which file we were started.
pub fn called_as(words: &[OsString]) -> Option<Name> {
    let first = words.first().map(|word| Path::new(word).file_name());
    match first.flatten() {
        // By far the most calls, and those that jobcage makes of itself.
        Some(own) if own == "jobcage" => None,
        Some(other) => Name::of(other).or_else(by_file),
        None => by_file(),
    }
}

fn by_file() -> Option<Name> {
    let file = nix::sys::prctl::get_name().ok()?;
    Name::of(OsStr::new(file.to_str().ok()?))
}

/// Whether these are the words of a stage: `bash -l`, or `su -s /bin/bash USER -c "bash -l"`; the older runners write
/// `--login`.
pub fn is_stage(name: Name, words: &[OsString]) -> bool {
    let words: Option<Vec<&str>> = words.iter().skip(1).map(|word| word.to_str()).collect();
    match (name, words.as_deref()) {
        (Name::Bash, Some([login])) => is_login(login),
        (Name::Su, Some(["-s", file, user, "-c", command])) => {
            let shell = file.strip_prefix("/bin/").filter(|shell| SHELLS.contains(shell));
            let parts = command.split_once(' ');
            let is_user = !user.is_empty() && !user.starts_with('-');
            is_user
                && shell
                    .is_some_and(|shell| parts.is_some_and(|(word, login)| word == shell && is_login(login)))
        }
        _ => false,
    }
}

/// What `shell` may be in a runner's `config.toml` on this kind of host.
const SHELLS: [&str; 2] = ["bash", "sh"];

fn is_login(word: &str) -> bool {
    matches!(word, "-l" | "--login")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(Into::into).collect()
    }

    #[test]
    fn stages_have_exactly_these_words() {
        for line in [
            &["bash", "-l"][..],
            &["bash", "--login"],
            &["/usr/lib/jobcage/shims/bash", "--login"],
        ] {
            assert!(is_stage(Name::Bash, &words(line)), "{line:?}");
        }
        for command in ["bash -l", "bash --login"] {
            let line = ["su", "-s", "/bin/bash", "gitlab-runner", "-c", command];
            assert!(is_stage(Name::Su, &words(&line)), "{line:?}");
        }
        assert!(is_stage(
            Name::Su,
            &words(&["su", "-s", "/bin/sh", "ci", "-c", "sh -l"])
        ));
    }

    #[test]
    fn nothing_else_is_a_stage() {
        for line in [
            &["bash"][..],
            &["bash", "-c", "true"],
            &["bash", "script"],
            &["bash", "-l", "-i"],
            &["bash", "-l", ""],
            &["bash", "-li"],
            &["bash", "--login", "script"],
            &[],
        ] {
            assert!(!is_stage(Name::Bash, &words(line)), "{line:?}");
        }
        for line in [
            &["su"][..],
            &["su", "-"],
            &["su", "-l"],
            &["su", "--login"],
            &["su", "-s", "/bin/bash", "ci"],
            &["su", "-s", "/bin/bash", "-", "-c", "bash -l"],
            &["su", "-s", "/bin/bash", "", "-c", "bash -l"],
            &["su", "-s", "/bin/bash", "ci", "-c", "bash"],
            &["su", "-s", "/bin/bash", "ci", "-c", "bash -l -c true"],
            &["su", "-s", "/bin/bash", "ci", "-c", "bash  -l"],
            &["su", "-s", "/bin/bash", "ci", "-c", "sh -l"],
            &["su", "-s", "/bin/zsh", "ci", "-c", "zsh -l"],
            &["su", "-s", "bash", "ci", "-c", "bash -l"],
            &["su", "-s", "/bin/bash", "ci", "-c", "bash -l", "more"],
            &["su", "ci", "-s", "/bin/bash", "-c", "bash -l"],
        ] {
            assert!(!is_stage(Name::Su, &words(line)), "{line:?}");
        }
    }

    #[test]
    fn the_name_is_the_last_part_of_the_first_word() {
        for (line, name) in [
            (&["bash"][..], Some(Name::Bash)),
            (&["-bash"], Some(Name::Bash)),
            (&["/x/bash", "-c", "jobcage"], Some(Name::Bash)),
            (&["/x/su"], Some(Name::Su)),
            (&["-su"], Some(Name::Su)),
            (&["jobcage", "bash"], None),
            (&["/usr/bin/jobcage"], None),
            // The file of a test is none of the two.
            (&["bash2"], None),
            (&["..", "bash"], None),
            (&[], None),
        ] {
            assert_eq!(called_as(&words(line)), name, "{line:?}");
        }
    }
}
