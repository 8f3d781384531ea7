//! K3: three fork bombs. What counts is that nothing is left.

use super::Context;
use super::end::left_over;
use crate::Result;
use crate::contest::Contestant;
use crate::ground::loudly;
use crate::procs;
use crate::table::{Table, Target};
use std::process::Command;

/// The bombs' own user, so that RLIMIT_NPROC bounds them and nobody else. It has no name anywhere.
const UID: u32 = 64_998;

/// All three, at full strength when they are ended.
pub fn bombs(context: &Context<'_>) -> Result<Vec<Table>> {
    if !nix::unistd::geteuid().is_root() {
        loudly("SKIPPED K3: a fork bomb needs a user of its own, so this needs root");
        return Ok(Vec::new());
    }
    if procs::count("bomb", UID)? > 0 {
        return Err(format!("bombs of user {UID} are already running").into());
    }
    let kinds = [
        ("tree", "everyone forks"),
        ("hop", "fork, parent exits"),
        ("bare", "hop, setsid, empty environment"),
    ];
    let mut tables = Vec::new();
    for (kind, words) in kinds {
        tables.extend(one(context, kind, words)?);
    }
    Ok(tables)
}

fn one(context: &Context<'_>, kind: &str, words: &str) -> Result<Vec<Table>> {
    let tools = context.tools;
    let (limit, uid) = (context.options.size(2_000, 50).to_string(), UID.to_string());
    let job = ["bomb", kind, &limit, &uid];
    let mut floor = tools.floor("end", &[], &job)?;
    let mut contestants = vec![Contestant::needed("floor", move || {
        defused(context, &mut floor, "floor")
    })];
    if tools.has_jobcage() {
        let mut jobcage = tools.jobcage(&["--grace", "0s"], &job)?;
        contestants.push(Contestant::needed("jobcage", move || {
            defused(context, &mut jobcage, "jobcage")
        }));
    }
    let (mut measures, mut notes) = context.hold(&context.rules(20, 2), contestants)?;
    let left = measures.pop().unwrap_or_default();
    notes.push(left_over(&left.values));
    let title = format!("fork bomb of {limit}, {kind} ({words}): SIGTERM until all gone");
    let targets = vec![Target::ratio("K3", "jobcage", "floor", 1.5)];
    let table = |samples| {
        Table::new("K3", &title, "ms", "floor", samples)
            .note(&notes)
            .aim(targets.clone())
    };
    Ok(measures.into_iter().map(table).collect())
}

fn defused(context: &Context<'_>, command: &mut Command, group: &str) -> Result<Vec<f64>> {
    let (child, _pipe) = context.tools.start_ready(command)?;
    let passed = context.tools.time_end(child)?;
    let left = procs::count("bomb", UID)? + context.ground.left_below(group)?;
    if left > 0 {
        loudly(&format!("K3: {left} processes or cgroups left over in {group}"));
        // The next round must not find them.
        crate::ground::kill(&context.ground.cgroup.join(group))?;
    }
    procs::reap_strays();
    Ok(vec![passed, left as f64])
}
