//! Runs test binaries of this project inside the test VM, on both kernels, as root and as an unprivileged user, and
//! gives back each of their tests as one of ours: `vm::6.12::tester::cage::NAME`. See README.md beside this file.

mod machine;
#[path = "../support/programs.rs"]
#[allow(dead_code, reason = "of the shared module, this test needs the zoo")]
mod programs;
mod suites;

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use machine::{Case, Machine};
use suites::Suite;

const KERNELS: [&str; 2] = ["6.1", "6.12"];
const USERS: [&str; 2] = ["root", "tester"];

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    if let Err(missing) = needs() {
        // Whatever was asked for cannot be had: a filter must not turn that into "0 tests, ok".
        (args.filter, args.skip, args.ignored) = (None, Vec::new(), false);
        return libtest_mimic::run(&args, vec![without_vm(missing)]).exit_code();
    }
    match run(&args) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("vm: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Arguments) -> Result<ExitCode, String> {
    let suites = suites::find()?;
    let sample = Sample::new(args);
    let machines = [0, 1].map(|at| Machine::new(KERNELS[at], cases(&suites, &sample, at)));
    let trials = machines.iter().flat_map(trials).collect::<Vec<_>>();
    let wanted = |name: &str| {
        trials
            .iter()
            .any(|trial| trial.name() == name && selected(args, trial))
    };
    machines.iter().for_each(|machine| machine.select(wanted));
    if !args.list {
        // Both boot at once, before the first test asks, and run only what was asked for.
        let files = Arc::new(files(&suites)?);
        machines
            .iter()
            .filter(|machine| machine.is_wanted())
            .for_each(|machine| machine.start(&files));
    }
    Ok(libtest_mimic::run(args, trials).exit_code())
}

/// Everything executable in the payload, by its name there.
fn files(suites: &[Suite]) -> Result<Vec<(String, PathBuf)>, String> {
    let suites = suites
        .iter()
        .map(|suite| (format!("suites/{}", suite.name), suite.path.clone()));
    Ok(suites.chain(suites::programs()?).collect())
}

fn selected(args: &Arguments, trial: &Trial) -> bool {
    !args.is_filtered_out(trial) && !args.is_ignored(trial)
}

/// Each animal of the zoo, and each change of hands, meets one of the two kernels, unless somebody asks for more: they take the longest, and are the same
/// on both but for a few.
struct Sample {
    seed: Option<u64>,
}

impl Sample {
    fn new(args: &Arguments) -> Self {
        let is_whole = std::env::var("JOBCAGE_SWEEP").is_ok_and(|sweep| sweep == "full");
        if is_whole || args.filter.is_some() {
            return Self { seed: None };
        }
        let given = std::env::var("JOBCAGE_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000);
        eprintln!(
            "vm: each test of the zoo and of the change of hands on one of the two kernels: seed {seed} (JOBCAGE_SEED={seed} repeats this choice, JOBCAGE_SWEEP=full takes all)"
        );
        Self { seed: Some(seed) }
    }

    /// Whether a test is to run on the kernel of this number.
    fn has(&self, kernel: usize, user: &str, suite: &str, test: &str) -> bool {
        let is_its = |seed: u64| {
            let mut hasher = DefaultHasher::new();
            (seed, user, test).hash(&mut hasher);
            hasher.finish() % 2 == kernel as u64
        };
        let is_sweep = suite == "zoo" || suite == "outlive" && test.starts_with("hands::played::");
        !is_sweep || self.seed.is_none_or(is_its)
    }
}

fn cases(suites: &[Suite], sample: &Sample, kernel: usize) -> Vec<Case> {
    let of_user = |user: &'static str| {
        suites.iter().flat_map(move |suite| {
            let tests = suite.tests.iter();
            let tests = tests.filter(move |test| sample.has(kernel, user, &suite.name, &test.name));
            tests.map(move |test| Case {
                user,
                suite: suite.name.clone(),
                test: test.name.clone(),
                ignored: test.ignored,
            })
        })
    };
    USERS.into_iter().flat_map(of_user).collect()
}

fn trials(machine: &Arc<Machine>) -> Vec<Trial> {
    let trial = |(index, case): (usize, &Case)| {
        let name = machine.name(case);
        let machine = Arc::clone(machine);
        Trial::ignorable_test(name, move || machine.result(index)).with_ignored_flag(case.ignored)
    };
    machine.cases().iter().enumerate().map(trial).collect()
}

/// What this machine lacks, in words; asked of the scripts, which know.
fn needs() -> Result<(), String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/image");
    let output = Command::new(script)
        .arg("check")
        .output()
        .map_err(|error| format!("{script}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn without_vm(missing: String) -> Trial {
    Trial::ignorable_test("vm", move || {
        let required = std::env::var("JOBCAGE_REQUIRE").unwrap_or_default();
        if required.split(',').any(|need| need == "all" || need == "vm") {
            return Err(Failed::from(missing));
        }
        eprintln!("skipped: {missing}");
        Ok(Completion::ignored_with(missing))
    })
}
