//! The launch once more as a user who owns a cgroup and nothing else. Printed beside root's; it has no target.

use super::Context;
use crate::Result;
use crate::ground::{kill, loudly, remove_tree};
use crate::table::Table;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

/// nobody: it has a name on every system.
const UID: u32 = 65_534;

/// Starts this program again as that user, inside a cgroup that is his.
pub fn rootless(context: &Context<'_>) -> Result<Vec<Table>> {
    if context.options.worker {
        return Ok(Vec::new());
    }
    if !nix::unistd::geteuid().is_root() {
        loudly("SKIPPED rootless: not started by root, so every case has been rootless");
        return Ok(Vec::new());
    }
    let group = context.ground.cgroup.join("user");
    let temp = context.ground.temp.join("user");
    // `worker` holds ourselves: who starts a process in a cgroup must be allowed to write to the common ancestor.
    fs::create_dir_all(group.join("worker"))?;
    fs::create_dir_all(&temp)?;
    for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        chown(group.join(file), Some(UID), Some(UID))?;
    }
    chown(&temp, Some(UID), Some(UID))?;
    let done = work(context, &group, &temp);
    kill(&group)?;
    remove_tree(&group)?;
    done
}

fn work(context: &Context<'_>, group: &std::path::Path, temp: &std::path::Path) -> Result<Vec<Table>> {
    let (bin, json) = (context.tools.bin(), temp.join("result.json"));
    let mut command = context.tools.command(bin.join("jobcage-bench"))?;
    command.args(["--worker", "--only", "launch", "--only", "spaced"]);
    command
        .arg("--cgroup-root")
        .arg(group)
        .arg("--temp")
        .arg(temp)
        .arg("--json")
        .arg(&json);
    command.arg("--seed").arg(context.options.seed.to_string());
    command.args(context.options.smoke.then_some("--smoke"));
    command.args((!context.tools.has_jobcage()).then_some("--without-jobcage"));
    if let Some(rounds) = context.options.rounds {
        command.arg("--rounds").arg(rounds.to_string());
    }
    for name in [
        "JOBCAGE_CGROUP_ROOT",
        "JOBCAGE_RUNTIME_DIR",
        "JOBCAGE_STATE_DIR",
        "XDG_RUNTIME_DIR",
    ] {
        command.env_remove(name);
    }
    command
        .env("HOME", temp)
        .stdin(Stdio::piped())
        .stderr(Stdio::inherit())
        .uid(UID)
        .gid(UID);
    let mut child = command.spawn()?;
    // Moved before it does anything: it waits for this line.
    fs::write(group.join("worker/cgroup.procs"), child.id().to_string())?;
    child
        .stdin
        .take()
        .ok_or("the worker has no standard input")?
        .write_all(b"go\n")?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("as user {UID}: {status}").into());
    }
    let result: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let mut tables = Vec::new();
    for table in result["tables"]
        .as_array()
        .ok_or("no tables in the worker's result")?
    {
        let mut table = Table::from_json(table)?;
        table.id = format!("{} rootless", table.id);
        table.targets.clear();
        tables.push(table);
    }
    Ok(tables)
}
