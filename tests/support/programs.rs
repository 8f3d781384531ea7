//! Where the programs under test come from.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `jobcage` under test: `JOBCAGE_BIN`, or the one that cargo built for this test.
pub fn jobcage() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = std::env::var_os("JOBCAGE_BIN")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_jobcage")), PathBuf::from);
        assert!(
            path.is_file(),
            "there is no jobcage at {}: set JOBCAGE_BIN",
            path.display()
        );
        path
    })
}

/// Where cargo or rustup lives: a world has a HOME of its own, they live in ours.
pub fn home_of(variable: &str, default: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(default);
    std::env::var_os(variable).map_or_else(home, PathBuf::from)
}

/// The zoo: `JOBCAGE_ZOO`, or built once from `tests/zoo/*.c` into `target/zoo/`, by the content of the sources.
pub fn zoo() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| std::env::var_os("JOBCAGE_ZOO").map_or_else(build_zoo, PathBuf::from))
}

fn build_zoo() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo");
    let listed = fs::read_dir(&source)
        .unwrap_or_else(|e| panic!("{}: {e}; set JOBCAGE_ZOO to a built zoo", source.display()));
    let mut files: Vec<PathBuf> = listed.map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "c" || e == "h"));
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in &files {
        fs::read(file).unwrap().hash(&mut hasher);
    }
    // Beside cargo's own results, wherever these are: OUT/TRIPLE/PROFILE/jobcage.
    let target = Path::new(env!("CARGO_BIN_EXE_jobcage"))
        .ancestors()
        .nth(3)
        .unwrap()
        .join("zoo");
    let built = target.join(format!("zoo-{:016x}", hasher.finish()));
    if !built.exists() {
        fs::create_dir_all(&target).unwrap();
        compile(&files, &built);
    }
    built
}

fn compile(files: &[PathBuf], to: &Path) {
    // Test binaries run side by side: each builds under a name of its own and renames.
    let part = to.with_extension(std::process::id().to_string());
    let made = Command::new("cc")
        .args(["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&part)
        .args(files.iter().filter(|f| f.extension().is_some_and(|e| e == "c")))
        .output()
        .unwrap_or_else(|e| {
            panic!("the animals need a C compiler: cc: {e}; or set JOBCAGE_ZOO to a built zoo")
        });
    assert!(
        made.status.success(),
        "cc: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    fs::rename(&part, to).unwrap();
}

/// Finds a program in `PATH`.
pub fn which(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
