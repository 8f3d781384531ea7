//! Measures jobcage side by side with `floor`, a bare program of our own, and with its peers.
//!
//! Everything runs in one go, paired and shuffled, because absolute times drift by a factor of two on a busy machine while
//! ratios within a round do not. It prints medians, quartiles and ratios, and whether a target was met; it never fails
//! because of a time. See docs/performance.md.

#![allow(clippy::print_stdout, reason = "its tables are what this program is for")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and times far below the limits of a double"
)]

mod captured;
mod cases;
mod contest;
mod drivers;
mod ground;
mod guard;
mod options;
mod peers;
mod procs;
mod stats;
mod table;
mod talk;
mod tools;
mod watcher;

use cases::{CASES, Context};
use ground::{Ground, loudly};
use options::{Options, USAGE};
use serde_json::json;
use stats::Dice;
use std::cell::RefCell;
use std::fs;
use std::process::ExitCode;
use table::Table;
use tools::Tools;

/// Errors are for a person to read.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) if options.help => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(options) => options,
        Err(why) => {
            eprint!("jobcage-bench: {why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let done = match options.inner {
        None => guard::stand(&options),
        Some(pid) => Ground::of(&options, pid).and_then(|ground| measure(&options, &ground)),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            loudly(&why.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Runs the cases; the exit code.
fn measure(options: &Options, ground: &Ground) -> Result<u8> {
    for word in &options.only {
        if !CASES.iter().any(|case| case.is_called(word)) {
            return Err(format!("--only {word}: no such case").into());
        }
    }
    nix::sys::prctl::set_child_subreaper(true)?;
    guard::end_if_stuck();
    ground.make()?;
    let helpers = CASES.iter().any(|case| case.helpers && case.is_asked(options));
    let tools = Tools::gather(ground, options, helpers)?;
    if tools.has_jobcage() {
        watcher::wake(&tools)?;
    }
    let dice = RefCell::new(Dice::new(options.seed));
    let context = Context {
        options,
        ground,
        tools: &tools,
        dice,
    };
    let machine = machine(options, &tools);
    println!("{}", machine.join("\n"));
    let (mut tables, mut failed) = (Vec::new(), 0);
    for case in CASES.iter().filter(|case| case.is_asked(options)) {
        eprintln!("jobcage-bench: {}", case.name);
        match (case.run)(&context) {
            Ok(found) => {
                for table in &found {
                    println!("\n{}", table.render(options.markdown).trim_end());
                }
                tables.extend(found);
            }
            Err(why) => {
                failed += 1;
                loudly(&format!("case {} FAILED: {why}", case.name));
                // The next case must not find what this one could not end.
                procs::kill_descendants(&watcher::pids(ground));
            }
        }
        procs::reap_strays();
    }
    if let Some(file) = &options.json {
        let tables: Vec<_> = tables.iter().map(Table::to_json).collect();
        let all = json!({"version": 1, "seed": options.seed, "machine": machine, "tables": tables});
        fs::write(file, all.to_string()).map_err(|why| format!("{}: {why}", file.display()))?;
    }
    if failed > 0 {
        loudly(&format!("{failed} cases failed"));
    }
    Ok(u8::from(failed > 0))
}

/// What a reader of the numbers has to know about the machine.
fn machine(options: &Options, tools: &Tools) -> Vec<String> {
    let line = |file: &str| fs::read_to_string(file).unwrap_or_default().trim().to_string();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = line("/proc/meminfo")
        .lines()
        .next()
        .unwrap_or_default()
        .replace("MemTotal:", "")
        .trim()
        .to_string();
    let user = if nix::unistd::geteuid().is_root() {
        "root"
    } else {
        "not root"
    };
    let load = line("/proc/loadavg")
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_string();
    let words: Vec<_> = std::env::args()
        .skip(1)
        .take_while(|word| word != "--inner")
        .collect();
    vec![
        format!(
            "Command: `jobcage-bench {}`; {}.",
            words.join(" "),
            tools.version()
        ),
        format!(
            "Linux {}, {cpus} CPUs, {memory}, {user}, load {load} at the start.",
            line("/proc/sys/kernel/osrelease")
        ),
        format!(
            "Seed {}{}.",
            options.seed,
            if options.smoke {
                ", smoke run: the numbers mean nothing"
            } else {
                ""
            }
        ),
    ]
}
