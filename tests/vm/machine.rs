//! One boot of one kernel that serves many tests.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::thread;

use libtest_mimic::{Completion, Failed};

/// One inner test, as one user.
pub struct Case {
    /// `root` or `tester`.
    pub user: &'static str,
    /// The suite that holds it.
    pub suite: String,
    /// Its path within the suite.
    pub test: String,
    /// Marked `#[ignore]`: runs only when asked for.
    pub ignored: bool,
}

/// A VM with one kernel, and what came out of its one boot.
pub struct Machine {
    kernel: &'static str,
    cases: Vec<Case>,
    selected: OnceLock<Vec<usize>>,
    /// The directory with the results, or why there is none.
    outcome: OnceLock<Result<PathBuf, String>>,
}

impl Machine {
    /// A machine that is off.
    pub fn new(kernel: &'static str, cases: Vec<Case>) -> Arc<Self> {
        Arc::new(Self {
            kernel,
            cases,
            selected: OnceLock::new(),
            outcome: OnceLock::new(),
        })
    }

    /// All tests that it could run.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// The outer name of a test.
    pub fn name(&self, case: &Case) -> String {
        format!(
            "vm::{}::{}::{}::{}",
            self.kernel, case.user, case.suite, case.test
        )
    }

    /// Says which tests, by outer name, the boot shall run.
    pub fn select(&self, wanted: impl Fn(&str) -> bool) {
        let selected = self
            .cases
            .iter()
            .enumerate()
            .filter(|(_, case)| wanted(&self.name(case)));
        let selected = selected.map(|(index, _)| index).collect();
        assert!(self.selected.set(selected).is_ok(), "select is called once");
    }

    /// Is there anything to run?
    pub fn is_wanted(&self) -> bool {
        !self.plan().is_empty()
    }

    /// Boots in the background. `files` are the executables for the payload, by their names in it.
    pub fn start(self: &Arc<Self>, files: &Arc<Vec<(String, PathBuf)>>) {
        let (machine, files) = (Arc::clone(self), Arc::clone(files));
        // Not joined: `result` waits for the outcome, and with no caller of it there is nothing to wait for.
        thread::spawn(move || {
            machine.outcome.get_or_init(|| machine.boot(&files));
        });
    }

    fn plan(&self) -> &[usize] {
        self.selected.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// The result of one test; waits for the VM.
    pub fn result(&self, index: usize) -> Result<Completion, Failed> {
        let results = self.outcome.wait().as_ref().map_err(Failed::from)?;
        let output = fs::read(results.join(format!("tests/{index}.out"))).unwrap_or_default();
        let output = String::from_utf8_lossy(&output);
        let status = fs::read_to_string(results.join(format!("tests/{index}.status"))).unwrap_or_default();
        // A binary that knows no such test also exits with 0.
        match status.trim() {
            "0" if output.contains("test result: ok. 1 passed") => {
                Ok(completion(&self.cases[index].test, &output))
            }
            "" => Err(format!("the guest did not come to this test\n{}", guest_log(results)).into()),
            "124" | "137" => Err(format!("killed after its time was up\n{output}").into()),
            code => Err(format!("exit code {code}\n{output}").into()),
        }
    }

    fn boot(&self, files: &[(String, PathBuf)]) -> Result<PathBuf, String> {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("vm-{}", self.kernel));
        let (payload, out) = (place.join("payload"), place.join("out"));
        self.fill(&place, &payload, files)?;
        let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/run"))
            .args(["--kernel", self.kernel, "--timeout", &timeout()])
            .arg("--payload")
            .arg(&payload)
            .arg("--out")
            .arg(&out)
            .args(["--", "env"])
            .args(environment(files))
            .arg("guest-main")
            .output()
            .map_err(|error| format!("tests/vm/run: {error}"))?;
        // With an exit-code file the guest spoke to the end, and each test has a status of its own.
        if out.join("exit-code").exists() {
            return Ok(out);
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Puts executables and plan into the payload.
    fn fill(&self, place: &Path, payload: &Path, files: &[(String, PathBuf)]) -> Result<(), String> {
        let context = |error: io::Error| format!("payload {}: {error}", payload.display());
        match fs::remove_dir_all(place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(context(error)),
            _ => fs::create_dir_all(payload.join("suites")).map_err(context)?,
        }
        for (name, path) in files {
            link(path, &payload.join(name))?;
        }
        fs::write(payload.join("plan"), self.plan_text()).map_err(context)
    }

    fn plan_text(&self) -> String {
        self.plan().iter().fold(String::new(), |mut text, &index| {
            let Case {
                user, suite, test, ..
            } = &self.cases[index];
            let _ = writeln!(text, "{index} {user} {suite} {test}");
            text
        })
    }
}

/// A passed test may have done nothing, and says so; that is not the same as passed.
fn completion(test: &str, output: &str) -> Completion {
    // libtest has not ended its own line when the test speaks for the first time.
    let begun = format!("test {test} ... ");
    let mut words = output
        .lines()
        .map(|line| line.strip_prefix(&begun).unwrap_or(line));
    let did_nothing = |line: &&str| line.starts_with("skipped:") || line.starts_with("not applicable:");
    match words.find(did_nothing) {
        Some(line) => Completion::ignored_with(line),
        None => Completion::Completed,
    }
}

/// What the tests in the guest find in their environment.
fn environment(files: &[(String, PathBuf)]) -> Vec<String> {
    let program = |(variable, name): (&str, &str)| {
        let there = files.iter().any(|(file, _)| file == name);
        there.then(|| format!("{variable}=/payload/{name}"))
    };
    let handed_on = |name: &str| Some(format!("{name}={}", std::env::var(name).ok()?));
    let programs = [
        ("JOBCAGE_BIN", "jobcage"),
        ("JOBCAGE_ZOO", "zoo"),
        ("JOBCAGE_BENCH", "jobcage-bench"),
    ];
    let programs = programs.into_iter().filter_map(program);
    let settings = ["JOBCAGE_REQUIRE", "JOBCAGE_TEST_TIMEOUT"]
        .into_iter()
        .filter_map(handed_on);
    programs
        .chain(settings)
        .chain(["RUST_BACKTRACE=1".to_owned()])
        .collect()
}

fn guest_log(results: &Path) -> String {
    fs::read_to_string(results.join("stdout")).unwrap_or_default()
}

/// Seconds for a whole boot. Emulation is slow, and two VMs may share the machine with other work.
fn timeout() -> String {
    std::env::var("JOBCAGE_VM_TIMEOUT").unwrap_or_else(|_| "1800".to_owned())
}

/// A hard link costs nothing; across file systems it has to be a copy.
fn link(from: &Path, to: &Path) -> Result<(), String> {
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(|_| ()))
        .map_err(|error| format!("{} to {}: {error}", from.display(), to.display()))
}
