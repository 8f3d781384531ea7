//! A VM that is booted more than once from one disk of its own: for what has to outlive a boot.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file of the project.
pub fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Whether this machine can boot the VM; said, and a failure where everything is required.
pub fn has_vm() -> bool {
    let check = Command::new(here("tests/vm/image"))
        .arg("check")
        .output()
        .expect("tests/vm/image can be run");
    if check.status.success() {
        return true;
    }
    let missing = String::from_utf8_lossy(&check.stderr).trim().to_owned();
    let required = std::env::var("JOBCAGE_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|need| need == "all" || need == "vm"),
        "{missing}"
    );
    eprintln!("skipped: {missing}");
    false
}

/// A VM whose disk outlives its boots.
pub struct Machine {
    kernel: &'static str,
    place: PathBuf,
}

impl Machine {
    /// A fresh one. `files` are in its `/payload` by these names.
    pub fn new(test: &str, kernel: &'static str, files: &[(&str, &Path)]) -> Self {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{kernel}"));
        let _ = fs::remove_dir_all(&place);
        let payload = place.join("payload");
        fs::create_dir_all(&payload).unwrap();
        for (name, path) in files {
            fs::copy(path, payload.join(name)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        Self { kernel, place }
    }

    /// Boots the machine's disk for one script; its console.
    pub fn boot(&self, script: &str, more: &[&str]) -> String {
        let disk = self.place.join("disk.img");
        self.boot_from(script, &[&["--disk", disk.to_str().unwrap()], more].concat())
    }

    /// Boots it for one script from a disk that nobody needs again; its console.
    pub fn boot_once(&self, script: &str, more: &[&str]) -> String {
        self.boot_from(script, more)
    }

    fn boot_from(&self, script: &str, more: &[&str]) -> String {
        let out = self.place.join("out");
        // A file, since the guest's first line on the console repeats its command, marker and all.
        fs::write(self.place.join("payload/script"), script).unwrap();
        let Output { status, stderr, .. } = Command::new(here("tests/vm/run"))
            .args(["--kernel", self.kernel, "--timeout", "600"])
            .arg("--payload")
            .arg(self.place.join("payload"))
            .arg("--out")
            .arg(&out)
            .args(more)
            .args(["--", "bash", "/payload/script"])
            .output()
            .expect("tests/vm/run can be run");
        let console = fs::read(out.join("console.log")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        assert!(
            status.success(),
            "kernel {}: {}\n{console}",
            self.kernel,
            String::from_utf8_lossy(&stderr)
        );
        console
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // 2 GiB, of which a few hundred MiB are really there.
        let _ = fs::remove_file(self.place.join("disk.img"));
    }
}

/// What follows a word at the start of a line.
pub fn line<'t>(text: &'t str, word: &str) -> &'t str {
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    found
        .unwrap_or_else(|| panic!("no line {word:?} in:\n{text}"))
        .trim()
}

pub fn json(text: &str, word: &str) -> Value {
    let found = line(text, word);
    serde_json::from_str(found).unwrap_or_else(|e| panic!("{word}: {e}: {found}"))
}
