//! L1, L2, L4: the time of a whole command whose job does nothing.

use super::Context;
use crate::Result;
use crate::contest::{Contestant, Rules};
use crate::ground::Ground;
use crate::peers::{Bundle, View, bwrap, systemd_run};
use crate::table::{Table, Target};
use crate::tools::{Tools, milliseconds};
use std::process::Command;
use std::time::{Duration, Instant};

const JOB: [&str; 2] = ["busybox", "true"];
const SCOPE: &str = "systemd-run --scope";
const WAIT: &str = "systemd-run --wait";

/// Back to back, with all peers.
pub fn launch(context: &Context<'_>) -> Result<Vec<Table>> {
    let tools = context.tools;
    let view = View::open(context.ground).map_err(|why| why.to_string());
    let mut contestants = ours(tools)?;
    contestants.push(timed(tools, "bwrap", bwrap(tools, false, &JOB)));
    contestants.push(timed(tools, "bwrap-pid", bwrap(tools, true, &JOB)));
    for runtime in ["crun", "runc"] {
        contestants.push(bundled(context.ground, tools, &view, runtime));
    }
    contestants.extend(systemd(tools));
    let (measures, notes) = context.hold(&context.rules(100, 1), contestants)?;
    let table = |samples| {
        Table::new(
            "L1, L2",
            "launch of `busybox true`, back to back",
            "ms",
            "floor",
            samples,
        )
        .note(&notes)
        .aim(vec![
            Target::ratio("L1", "jobcage", "floor", 1.5),
            Target::ratio("L1 (stretch)", "jobcage", "floor", 1.25),
            Target::ratio("L2", "jobcage", "bwrap-pid", 0.5),
            Target::ratio("L2", "jobcage", "runc", 0.08),
            Target::beside("L2", "jobcage", SCOPE),
            Target::beside("L2", "jobcage", WAIT),
        ])
    };
    Ok(measures.into_iter().map(table).collect())
}

/// As on a CI host, where jobs come seldom: whoever then waits for an RCU grace period waits long.
pub fn spaced(context: &Context<'_>) -> Result<Vec<Table>> {
    let rules = Rules {
        rounds: context.options.rounds(40),
        pause: Duration::from_millis(100),
        measures: 1,
    };
    let mut contestants = ours(context.tools)?;
    contestants.extend(systemd(context.tools));
    let (measures, notes) = context.hold(&rules, contestants)?;
    let title = "launch of `busybox true`, 100 ms apart";
    let targets = [
        Target::ratio("L4", "jobcage", "floor", 1.5),
        Target::beside("L4", "jobcage", SCOPE),
        Target::beside("L4", "jobcage", WAIT),
    ];
    let table = |samples| {
        Table::new("L4", title, "ms", "floor", samples)
            .note(&notes)
            .aim(targets.to_vec())
    };
    Ok(measures.into_iter().map(table).collect())
}

fn ours(tools: &Tools) -> Result<Vec<Contestant<'_>>> {
    let mut bare = tools.command(tools.path("busybox"))?;
    bare.arg("true");
    let mut floor = tools.floor("run", &[], &JOB)?;
    let mut contestants = vec![timed(tools, "bare spawn", Ok(bare))];
    contestants.push(Contestant::needed("floor", move || {
        Ok(vec![tools.time(&mut floor)?])
    }));
    if tools.has_jobcage() {
        let mut jobcage = tools.jobcage(&[], &JOB)?;
        contestants.push(Contestant::needed("jobcage", move || {
            Ok(vec![tools.time(&mut jobcage)?])
        }));
    }
    Ok(contestants)
}

/// The scope holds the job and nothing more: what it leaves behind stays alive. `--wait` waits for a service, of which
/// systemd kills the rest.
fn systemd(tools: &Tools) -> [Contestant<'_>; 2] {
    [(SCOPE, "--scope"), (WAIT, "--wait")]
        .map(|(name, how)| timed(tools, name, systemd_run(tools, &[how], &JOB)))
}

fn timed<'a>(tools: &'a Tools, name: &str, command: Result<Command>) -> Contestant<'a> {
    let mut command = command.map_err(|why| why.to_string());
    Contestant::peer(name, move || {
        Ok(vec![tools.time(command.as_mut().map_err(|why| why.clone())?)?])
    })
}

fn bundled<'a>(
    ground: &Ground,
    tools: &'a Tools,
    view: &'a std::result::Result<View, String>,
    runtime: &'static str,
) -> Contestant<'a> {
    let mut bundle = Bundle::make(ground, tools, runtime, &JOB).map_err(|why| why.to_string());
    Contestant::peer(runtime, move || {
        let view = view.as_ref().map_err(String::clone)?;
        let command = bundle.as_mut().map_err(|why| why.clone())?.run(tools)?;
        let start = Instant::now();
        let status = view.spawn(command)?.wait()?;
        let passed = milliseconds(start);
        if !status.success() {
            return Err(format!("{status}{}", tools.last_error()).into());
        }
        Ok(vec![passed])
    })
}
