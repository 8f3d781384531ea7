//! Which test binaries go into the VM, which tests they hold, and where the programs under test are: asked of cargo.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A test binary that runs where cargo is not.
pub struct Suite {
    /// The name of its cargo target.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its tests, in its own order.
    pub tests: Vec<Test>,
}

/// One `#[test]`.
pub struct Test {
    /// The path that libtest prints.
    pub name: String,
    /// Marked `#[ignore]`.
    pub ignored: bool,
}

/// The suites of JOBCAGE_VM_TESTS (paths, joined by colons), or else those that `[package.metadata.vm]` names.
pub fn find() -> Result<Vec<Suite>, String> {
    let given = std::env::var("JOBCAGE_VM_TESTS").unwrap_or_default();
    let binaries = if given.is_empty() {
        build_named_suites()?
    } else {
        given
            .split(':')
            .map(PathBuf::from)
            .map(|path| (name_of(&path), path))
            .collect()
    };
    binaries
        .into_iter()
        .map(|(name, path)| {
            Ok(Suite {
                tests: list(&path)?,
                name,
                path,
            })
        })
        .collect()
}

/// The programs that the tests in the VM run: the release builds of every binary of the workspace, and the zoo.
pub fn programs() -> Result<Vec<(String, PathBuf)>, String> {
    let mut programs = executables(&["build", "--release", "--workspace", "--bins"], "bin")?;
    programs.push(("zoo".to_owned(), crate::programs::zoo().to_owned()));
    Ok(programs)
}

fn build_named_suites() -> Result<Vec<(String, PathBuf)>, String> {
    let metadata = cargo(&["metadata", "--no-deps", "--format-version=1"])?;
    let metadata: Value =
        serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let names: Vec<&str> = array(&metadata, "/packages")
        .flat_map(|package| array(package, "/metadata/vm/suites"))
        .filter_map(Value::as_str)
        .collect();
    if names.is_empty() {
        return Err("no package names suites in [package.metadata.vm]".to_owned());
    }
    let mut args = vec!["test", "--no-run", "--workspace"];
    args.extend(names.iter().flat_map(|name| ["--test", name]));
    executables(&args, "test")
}

/// Builds, and picks the executables of one kind out of cargo's messages.
fn executables(args: &[&str], kind: &str) -> Result<Vec<(String, PathBuf)>, String> {
    let args: Vec<&str> = args
        .iter()
        .copied()
        .chain(["--message-format=json-render-diagnostics"])
        .collect();
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let of_kind = array(&message, "/target/kind").any(|found| found == kind);
        let name = message.pointer("/target/name")?.as_str()?;
        let path = message.pointer("/executable")?.as_str()?;
        of_kind.then(|| (name.to_owned(), PathBuf::from(path)))
    };
    Ok(cargo(&args)?.lines().filter_map(executable).collect())
}

fn array<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// Cargo holds no lock while it runs tests, so it can be called from one.
fn cargo(args: &[&str]) -> Result<String, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("`cargo {}` failed: {}", args.join(" "), output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("cargo's output: {error}"))
}

/// `target/…/deps/cage-0123456789abcdef` is the suite `cage`.
fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    match file.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            name.to_owned()
        }
        _ => file.into_owned(),
    }
}

/// A static binary can be asked for its tests right here.
fn list(path: &Path) -> Result<Vec<Test>, String> {
    let names = |more: &[&str]| -> Result<Vec<String>, String> {
        let output = Command::new(path)
            .args(["--list", "--format=terse"])
            .args(more)
            .output()
            .map_err(|error| format!("cannot run {}: {error}", path.display()))?;
        if !output.status.success() {
            return Err(format!("{} --list: {}", path.display(), output.status));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .map(str::to_owned)
            .collect())
    };
    let ignored = names(&["--ignored"])?;
    let all = names(&[])?;
    if all.is_empty() {
        return Err(format!("{} lists no tests", path.display()));
    }
    Ok(all
        .into_iter()
        .map(|name| Test {
            ignored: ignored.contains(&name),
            name,
        })
        .collect())
}
