//! How a jobcage is found on the other host, or brought there: one command for the login shell, whichever that is, and one line of text for
//! each of its steps, behind a random word, since shells and their start-up files may print what they like before.

use crate::error::{RemoteError, Result};
use crate::frame::PROTOCOL;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The version of jobcage.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");

/// For sh(1), as one word of the login shell's: so there is no quote of this kind in it, and no line end, which csh would refuse. Its words: the
/// random one, the name of the copy, the version that we speak, and whether an installed jobcage will do.
const SCRIPT: &[&str] = &[
    r#"t=$1 d=${XDG_CACHE_HOME:-$HOME/.cache}/jobcage; b=$d/$2"#,
    r#"if [ -x "$b" ]; then exec "$b" __remote "$t"; fi"#,
    r#"if [ "$4" = any ]; then case $(jobcage __protocols 2>/dev/null) in "jobcage "*" $3 "*) exec jobcage __remote "$t";; esac; fi"#,
    r#"printf "\n%s need %s\n" "$t" "$(uname -m)""#,
    r#"read -r n s || exit 1"#,
    r#"umask 077; mkdir -p "$d" && f=$(mktemp "$d/new.XXXXXX") || exit 1"#,
    r#"printf "%s send\n" "$t""#,
    r#"if head -c "$n" >"$f" && [ "$(sha256sum <"$f" | cut -c1-64)" = "$s" ] && chmod 700 "$f" && mv -f "$f" "$b"; then exec "$b" __remote "$t"; fi"#,
    r#"rm -f "$f"; echo "the copy of jobcage did not arrive whole in $d" >&2; exit 1"#,
];

/// The jobcage that goes to the host if there is none.
#[derive(Debug, Clone)]
pub struct Binary {
    path: PathBuf,
    /// The name of its copy there: of this very file.
    name: String,
    /// Somebody has chosen it: an installed one will not do.
    is_chosen: bool,
}

impl Binary {
    /// Our own, or the one that was given (`--remote-binary`).
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn find(given: Option<&Path>) -> Result<Self> {
        let path = given.unwrap_or(Path::new("/proc/self/exe"));
        let meta = std::fs::metadata(path).map_err(|source| RemoteError::Binary {
            path: path.into(),
            source,
        })?;
        let time = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Ok(Self {
            path: path.into(),
            name: format!("jobcage-{BUILD}-{:x}-{time:x}", meta.len()),
            is_chosen: given.is_some(),
        })
    }

    /// The one word that ssh gives to the login shell.
    pub(crate) fn command(&self, token: &str) -> OsString {
        let installed = if self.is_chosen { "none" } else { "any" };
        let script = SCRIPT.join("; ");
        format!(
            "exec sh -c '{script}' sh {token} {} {PROTOCOL} {installed}",
            self.name
        )
        .into()
    }

    /// Its bytes for a host of this architecture, with the line that goes before them.
    pub(crate) fn bytes(&self, host: &str, arch: &str) -> Result<(String, Vec<u8>)> {
        let bytes = std::fs::read(&self.path).map_err(|source| RemoteError::Binary {
            path: self.path.clone(),
            source,
        })?;
        let is_for = architecture(&bytes);
        if is_for != Some(arch) {
            let unreachable = |why| RemoteError::Unreachable {
                host: host.into(),
                why,
            };
            return Err(unreachable(match is_for {
                Some(ours) => format!(
                    "there is no jobcage that speaks the version {PROTOCOL}, and this one is for {ours}, not for {arch}: install one \
                     there, or give one with --remote-binary"
                ),
                None => format!(
                    "{} is no program for Linux (--remote-binary)",
                    self.path.display()
                ),
            }));
        }
        let mut sum = String::new();
        for byte in Sha256::digest(&bytes) {
            let _ = write!(sum, "{byte:02x}");
        }
        Ok((format!("{} {sum}\n", bytes.len()), bytes))
    }
}

/// What an ELF file is for, as uname(1) says it.
fn architecture(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    match bytes.get(18..20)? {
        [62, 0] => Some("x86_64"),
        [183, 0] => Some("aarch64"),
        _ => Some("something else"),
    }
}

/// A word of the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// There is no jobcage, and this is the architecture.
    Need(String),
    /// The bytes of one may come.
    Send,
    /// It is there, and frames follow.
    Here,
}

/// The first word of the door in what has come so far, and where it ends.
pub(crate) fn find(bytes: &[u8], token: &str) -> Option<(Said, usize)> {
    let at = bytes
        .windows(token.len())
        .position(|window| window == token.as_bytes())?;
    let rest = &bytes[at + token.len()..];
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8_lossy(&rest[..end]);
    let said = match line.trim().split_once(' ') {
        Some(("need", arch)) => Said::Need(arch.into()),
        _ if line.trim() == "send" => Said::Send,
        _ => Said::Here,
    };
    Some((said, at + token.len() + end + 1))
}

/// What a host says when it has come to our word.
pub(crate) fn here(token: &str) -> String {
    format!("\n{token} here\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_one_word_of_every_shell() {
        for line in SCRIPT {
            assert!(!line.contains(['\'', '\n', '!']), "{line}");
        }
    }

    #[test]
    fn noise_is_passed_over() {
        let said = |text: &str| find(text.as_bytes(), "T0K").map(|(said, _)| said);
        assert_eq!(
            said("Welcome!\n\nT0K need x86_64\n"),
            Some(Said::Need("x86_64".into()))
        );
        assert_eq!(said("no line end: T0K send\nrest"), Some(Said::Send));
        assert_eq!(said("\nT0K here\n"), Some(Said::Here));
        assert_eq!(said("\nT0K he"), None);
        assert_eq!(said("nothing"), None);
        assert_eq!(find(b"x\nT0K here\nframe", "T0K"), Some((Said::Here, 11)));
    }

    #[test]
    fn only_programs_for_the_host_go_there() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(architecture(&own), Some(std::env::consts::ARCH));
        assert_eq!(architecture(b"#!/bin/sh\n"), None);
        let binary = Binary::find(None).unwrap();
        let (line, bytes) = binary.bytes("h", std::env::consts::ARCH).unwrap();
        assert_eq!(line.split(' ').next(), Some(bytes.len().to_string().as_str()));
        let told = binary.bytes("h", "riscv64").unwrap_err().to_string();
        assert!(told.contains("not for riscv64"), "{told}");
    }
}
