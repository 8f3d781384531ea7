//! The programs that the blocks of ours name: are they there, and are they this jobcage?

use super::{Finding, Severity};
use crate::gitlab::install::runners::{self, CALLS, Reach, blocks, called, is_ours, reach, shown};
use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use toml_edit::{DocumentMut, TableLike};

/// What there is to say of them; nothing where all is well.
pub fn programs(document: &DocumentMut) -> Vec<Finding> {
    let mut findings = Vec::new();
    let blocks = blocks(document).unwrap_or_default();
    for (at, block) in blocks
        .into_iter()
        .enumerate()
        .filter(|(_, block)| is_ours(*block))
    {
        let about = called(block, at);
        let mut files = BTreeSet::new();
        for program in named(block) {
            match look(Path::new(&program)) {
                Ok(file) => {
                    files.insert(file);
                }
                Err((severity, why)) => findings.push(Finding::new(
                    severity,
                    &about,
                    format!("{} {why}", shown(&program)),
                )),
            }
        }
        if files.len() > 1 {
            let what = "its calls are different files: a job would have one jobcage to begin it and another to end it; name the \
                        same one in all four";
            findings.push(Finding::new(Severity::Warning, &about, what));
        } else if let Some(file) = files.first()
            && own().is_some_and(|own| own != *file)
        {
            let what = format!(
                "it calls another file than this jobcage ({}), of which nothing is known here; check with that one",
                env!("CARGO_PKG_VERSION")
            );
            findings.push(Finding::new(Severity::Warning, &about, what));
        }
    }
    findings
}

/// The absolute paths that the runner calls directly; each once.
fn named(block: &dyn TableLike) -> BTreeSet<String> {
    let Some(custom) = runners::custom(block) else {
        return BTreeSet::new();
    };
    CALLS
        .iter()
        .filter_map(|call| match reach(custom, call) {
            Reach::Direct(program) if program.starts_with('/') => Some(program),
            _ => None,
        })
        .collect()
}

/// A file, by device and number.
type File = (u64, u64);

fn own() -> Option<File> {
    let meta = std::fs::metadata("/proc/self/exe").ok()?;
    Some((meta.dev(), meta.ino()))
}

/// Which file a path leads to, if the runner can start it as jobcage.
fn look(path: &Path) -> Result<File, (Severity, String)> {
    let wrong = |why: String| (Severity::Error, why);
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err((Severity::Skipped, "cannot be looked at by this user".into()));
        }
        Err(e) => return Err(wrong(format!("cannot be called: {e}"))),
    };
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Err(wrong("is no program: a file with the right to execute".into()));
    }
    let mut begin = [0; 2];
    let is_script = std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut begin))
        .is_ok_and(|()| begin == *b"#!");
    if is_script {
        return Err(wrong(
            "is a script: what starts jobcage is taken for the runner, and the cage ends with it; name jobcage itself".into(),
        ));
    }
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    fn told(run: &Path, others: &Path) -> Vec<(Severity, String)> {
        let mut text = String::from("[[runners]]\nexecutor = 'custom'\n[runners.custom]\n");
        for call in CALLS {
            let path = if call == "run" { run } else { others };
            text += &format!("{call}_exec = {path:?}\n{call}_args = ['gitlab', '{call}']\n");
        }
        let found = programs(&runners::parse(&text).unwrap());
        found.into_iter().map(|f| (f.severity, f.what)).collect()
    }

    #[test]
    fn programs_are_there_the_same_and_no_scripts() {
        let own = std::env::current_exe().unwrap();
        assert_eq!(told(&own, &own), []);
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8], mode| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        };
        for (path, why) in [
            (dir.path().join("missing"), "cannot be called"),
            (dir.path().to_owned(), "is no program"),
            (file("plain", b"\x7fELF", 0o644), "is no program"),
            (file("script", b"#!/bin/sh\n", 0o755), "is a script"),
        ] {
            let found = told(&path, &own);
            assert!(
                matches!(&found[..], [(Severity::Error, what)] if what.contains(why)),
                "{path:?}: {found:?}"
            );
        }
        let other = file("other", b"\x7fELF", 0o755);
        let found = told(&other, &own);
        assert!(matches!(&found[..], [(Severity::Warning, what)] if what.contains("different files")));
        let found = told(&other, &other);
        assert!(matches!(&found[..], [(Severity::Warning, what)] if what.contains("another file")));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        assert_eq!(told(&link, &own), [], "a link to it is the same file");
    }
}
