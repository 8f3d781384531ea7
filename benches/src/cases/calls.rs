//! L3: the system calls of a whole run, job included, and the writes to `cgroup.procs` among them.

use super::Context;
use crate::Result;
use crate::contest::Contestant;
use crate::peers::bwrap;
use crate::table::{Table, Target};
use crate::tools::{Tools, on_path};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

const JOB: [&str; 2] = ["busybox", "true"];

/// Counts them from a trace. The watcher runs already: it is started once a boot, not once a job.
pub fn calls(context: &Context<'_>) -> Result<Vec<Table>> {
    let tools = context.tools;
    let strace = on_path("strace").map_err(|why| format!("{why}; install strace"))?;
    let trace = context.ground.temp.join("trace");
    let mut commands = vec![("floor", tools.floor("run", &[], &JOB))];
    if tools.has_jobcage() {
        commands.push(("jobcage", tools.jobcage(&[], &JOB)));
    }
    commands.push(("bwrap-pid", bwrap(tools, true, &JOB)));
    let mut contestants = Vec::new();
    for (name, command) in commands {
        let needed = name != "bwrap-pid";
        let mut command = match command {
            Err(why) if needed => return Err(why),
            other => other
                .and_then(|command| traced(tools, &strace, &trace, &command))
                .map_err(|why| why.to_string()),
        };
        let trace = trace.clone();
        let run = move || {
            tools.time(command.as_mut().map_err(|why| why.clone())?)?;
            let count = Count::of(&fs::read_to_string(&trace)?);
            Ok(vec![count.all as f64, count.moves as f64])
        };
        contestants.push(if needed {
            Contestant::needed(name, run)
        } else {
            Contestant::peer(name, run)
        });
    }
    let (mut measures, mut notes) = context.hold(&context.rules(3, 2), contestants)?;
    notes.extend(by_name(context, &strace, &trace)?);
    let moves = measures.pop().unwrap_or_default();
    let all = measures.pop().unwrap_or_default();
    let title = "system calls of `busybox true`, all processes";
    Ok(vec![
        Table::new("L3", title, "calls", "floor", all)
            .note(&notes)
            .aim(vec![Target::value("L3", "jobcage", 120.0)]),
        Table::new("L3", "of them writes to cgroup.procs", "calls", "floor", moves)
            .aim(vec![Target::value("L3", "jobcage", 0.0)]),
    ])
}

/// For whoever wants fewer of them: which they are.
fn by_name(context: &Context<'_>, strace: &Path, trace: &Path) -> Result<Option<String>> {
    if !context.tools.has_jobcage() {
        return Ok(None);
    }
    let command = context.tools.jobcage(&[], &JOB)?;
    context
        .tools
        .time(&mut traced(context.tools, strace, trace, &command)?)?;
    let mut names: Vec<_> = Count::of(&fs::read_to_string(trace)?).names.into_iter().collect();
    names.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let list: Vec<_> = names
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    Ok(Some(format!("jobcage and its job: {}", list.join(", "))))
}

/// The command under strace.
fn traced(tools: &Tools, strace: &Path, trace: &Path, command: &Command) -> Result<Command> {
    let mut traced = tools.command(strace)?;
    traced
        .args(["-f", "-y", "-qq", "-s", "16", "-o"])
        .arg(trace)
        .arg("--");
    traced.arg(command.get_program()).args(command.get_args());
    Ok(traced)
}

/// What a trace says.
#[derive(Debug, Default, PartialEq)]
struct Count {
    all: usize,
    moves: usize,
    names: BTreeMap<String, usize>,
}

impl Count {
    /// Each call has one line, or two: `… <unfinished ...>` and `<... resumed>`, of which the first counts. Signals and
    /// ends (`---`, `+++`) are none.
    fn of(trace: &str) -> Self {
        let mut count = Self::default();
        for line in trace.lines() {
            let call = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
            let Some((name, rest)) = call.split_once('(') else {
                continue;
            };
            if call.starts_with(['<', '-', '+']) || name.is_empty() {
                continue;
            }
            count.all += 1;
            *count.names.entry(name.to_string()).or_default() += 1;
            let file = rest.split(',').next().unwrap_or_default();
            if name.contains("write")
                && (file.ends_with("/cgroup.procs>") || file.ends_with("/cgroup.threads>"))
            {
                count.moves += 1;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_counts_once() {
        let trace = "\
7 execve(\"/bin/x\", [\"x\"], 0x7f) = 0
7 clone3({flags=CLONE_VM} <unfinished ...>
8 write(4</sys/fs/cgroup/a/cgroup.procs>, \"0\", 1) = 1
8 write(1</tmp/cgroup.procs.txt>, \"0\", 1) = 1
7 <... clone3 resumed> => {parent_tid=[0]}, 88) = 8
8 --- SIGCHLD {si_signo=SIGCHLD} ---
8 exit_group(0) = ?
8 +++ exited with 0 +++
";
        let count = Count::of(trace);
        assert_eq!((count.all, count.moves), (5, 1));
        assert_eq!(count.names["write"], 2);
    }
}
