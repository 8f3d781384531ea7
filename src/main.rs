//! `jobcage`: runs a command so that nothing of it outlives it.

mod cli;
mod config;
mod gitlab;
mod inner;
mod render;
mod shim;
mod verbs;

use cli::request::Request;
use config::environ::Environ;
use std::io::Write;
use std::process::ExitCode;

/// jobcage itself failed; no command ends with it by chance.
const FAILED: u8 = 125;

/// musl's own allocator makes a system call for nearly every small group of sizes; this one makes a few in all.
#[global_allocator]
static ALLOCATOR: jobcage_sys::memory::Allocator = jobcage_sys::memory::Allocator {
    last_words: "jobcage: out of memory (if a job was running: its watcher closes it, or \"jobcage gc\")\n",
    exit_code: FAILED as i32,
};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(name) = shim::called_as(&words) {
        return shim::perform(name, &words);
    }
    let failed: fn(&dyn std::fmt::Display) -> ExitCode = if gitlab::is_called(&words) {
        failed_for_the_runner
    } else {
        failed
    };
    match inner::perform(&words) {
        None => {}
        Some(Ok(code)) => return ExitCode::from(code),
        Some(Err(e)) => return failed(&e),
    }
    let parsed = match cli::parse(words, Environ::capture(), nix::unistd::geteuid().as_raw()) {
        Ok(parsed) => parsed,
        Err(e) => return failed(&e),
    };
    for warning in &parsed.warnings {
        complain(&format_args!("warning: {warning}"));
    }
    match perform(parsed.request) {
        Ok(code) => ExitCode::from(code),
        Err(e) => failed(&e),
    }
}

fn perform(request: Request) -> verbs::Outcome {
    match request {
        Request::Run(request) => verbs::run(*request),
        Request::Create(request) => verbs::create(*request),
        Request::Gitlab(request) => gitlab::perform(*request),
        Request::Cleanup(request) => verbs::cleanup(request),
        Request::List(request) => verbs::list(request),
        Request::Guests(request) => verbs::guests(request),
        Request::Show(request) => verbs::show(request),
        Request::Stop(request) => verbs::stop(request),
        Request::Wait(request) => verbs::wait(request),
        Request::Exec(request) => verbs::exec(*request),
        Request::Logs(request) => verbs::logs(request),
        Request::Attach(request) => verbs::attach(request),
        Request::Gc(request) => verbs::gc(request),
        Request::Doctor(request) => verbs::doctor(request),
        Request::Handed(request) => verbs::env(request),
        Request::Man(request) => verbs::pages::man(&request),
        Request::Completions(request) => verbs::pages::completions(request),
        Request::Remote(request) => verbs::remote(*request),
        Request::Hosts(request) => verbs::hosts(*request),
        Request::Print(text) => verbs::pages::print(text.as_bytes()),
    }
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    complain(error);
    ExitCode::from(FAILED)
}

/// The runner knows three exit codes, and ours is none of them.
fn failed_for_the_runner(error: &dyn std::fmt::Display) -> ExitCode {
    complain(error);
    gitlab::failed()
}

/// One line on stderr, in one write. If stderr is gone there is nobody to tell.
fn complain(text: &dyn std::fmt::Display) {
    let _ = std::io::stderr().write_all(format!("jobcage: {text}\n").as_bytes());
}
