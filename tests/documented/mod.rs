//! A report and a spec in which everything is set. A new field does not compile here until it is given a value, and
//! then its key has to be documented.

use jobcage_job::{
    Account, AfterReboot, CaptureSpec, Cause, Census, CensusMethod, Clock, CreatedBy, Death, Ending,
    EnforcedLimit, Escape, ExitStatus, FoundBy, Guarantee, GuestMode, GuestPlace, GuestReport, JobSpec, Kill,
    LeaseHolder, Left, Limits, LogFull, LogGap, LogReport, Login, NeverStarted, Outcome, Proof, Quarantine,
    Report, Root, Stall, StepKind, StepReport, StopRequest, Stream, Streams, Usage,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Every variant that has keys of its own.
fn endings() -> Vec<Ending> {
    let signal = Cause::Signal {
        signal: 15,
        pid: 1,
        uid: 0,
    };
    let never = NeverStarted {
        stage: "exec".into(),
        errno: 2,
        what: "x".into(),
    };
    vec![
        Ending::Exited { code: 0 },
        Ending::Signalled { signal: 9 },
        Ending::TimedOut { clock: Clock::Wall },
        Ending::OutOfMemory,
        Ending::LogFull { errno: Some(28) },
        Ending::Cancelled(signal),
        Ending::Cancelled(Cause::Cleanup),
        Ending::Cancelled(Cause::Stop { pid: 1, uid: 0 }),
        Ending::NeverStarted(never),
        Ending::Lost { why: String::new() },
        Ending::ConnectionLost {
            host: String::new(),
            why: String::new(),
            attach: String::new(),
        },
        Ending::HostLost { host: String::new() },
    ]
}

fn ways_of_finding() -> Vec<FoundBy> {
    let place = String::new;
    vec![
        FoundBy::Cgroup(place()),
        FoundBy::Descendant(place()),
        FoundBy::Environment(place()),
        FoundBy::TransientUnit(place()),
        FoundBy::AtJob(place()),
    ]
}

fn left() -> Left {
    Left {
        pid: 7,
        ppid: 1,
        comm: "x".into(),
        command: "x".into(),
        uid: 0,
        user: Some("root".into()),
        started: Some(String::new()),
        state: 'S',
        tracer: Some(8),
        wchan: Some("x".into()),
        kvm: Some("x".into()),
        found: FoundBy::Cgroup("01-step".into()),
        died: Death::Killed,
    }
}

fn usage() -> Usage {
    let stall = Stall {
        some_us: 1,
        full_us: Some(1),
    };
    Usage {
        cpu_us: Some(1),
        user_us: Some(1),
        system_us: Some(1),
        throttled_us: Some(1),
        memory_peak: Some(1),
        swap_peak: Some(1),
        oom_kills: Some(1),
        pids_peak: Some(1),
        forks_refused: Some(1),
        io_read: Some(1),
        io_written: Some(1),
        stalled: BTreeMap::from([("cpu".into(), stall)]),
    }
}

fn step() -> StepReport {
    StepReport {
        number: 1,
        name: "main".into(),
        kind: StepKind::Step,
        ending: Ending::OutOfMemory,
        status: Some(ExitStatus::Code(0)),
        started: String::new(),
        ended: Some(String::new()),
        logs: vec![LogReport {
            stream: Stream::Merged,
            bytes: 1,
            at_exit: Some(1),
            dropped: Some(LogGap { from: 0, to: 1 }),
            whole: true,
        }],
    }
}

fn report() -> Report {
    let limit = EnforcedLimit {
        asked: "1".into(),
        enforced: Some("1".into()),
        error: Some(String::new()),
    };
    Report {
        version: 1,
        jobcage: String::new(),
        job: "main-00000000".parse().unwrap(),
        host: Some(String::new()),
        name: Some(String::new()),
        ending: Ending::OutOfMemory,
        status: Some(ExitStatus::Code(0)),
        exit_code: 0,
        notes: vec![String::new()],
        clean: true,
        closed_by: String::new(),
        started: String::new(),
        ended: String::new(),
        wall_seconds: 0.0,
        boot_id: String::new(),
        cage: String::new(),
        guarantee: Guarantee::Guarded,
        root: Some(Root {
            kind: String::new(),
            path: String::new(),
            why: String::new(),
        }),
        steps: vec![step()],
        census: Census {
            method: CensusMethod::Frozen,
            count: 1,
            left: vec![left()],
        },
        escaped: vec![Escape {
            found: left().found,
            process: Some(left()),
            died: Death::Killed,
        }],
        guests: vec![GuestReport {
            kind: String::new(),
            what: String::new(),
            name: String::new(),
            id: Some(String::new()),
            ran: Some(String::new()),
            outcome: Outcome::Left,
            why: Some(String::new()),
            bytes: 0,
        }],
        proof: Some(Proof {
            populated: Some(false),
            removed: true,
            frozen_us: Some(1),
            empty_us: Some(1),
            kill: Kill::CgroupKill,
            stragglers: 0,
        }),
        quarantine: Some(Quarantine {
            cage: String::new(),
            survivors: vec![left()],
            why: String::new(),
        }),
        limits: BTreeMap::from([("memory.max".into(), limit)]),
        usage: usage(),
    }
}

fn spec() -> JobSpec {
    let limits = Limits {
        pids: Some(1),
        ..Limits::default()
    };
    JobSpec {
        version: 1,
        id: "main-00000000".parse().unwrap(),
        name: Some(String::new()),
        created_by: CreatedBy::Run,
        program: Some(String::new()),
        cage: String::new(),
        limited: true,
        boot_id: String::new(),
        owner: 0,
        uid: 0,
        created_ns: 0,
        grace: std::time::Duration::ZERO,
        limits,
        lease: Some(LeaseHolder {
            pid: 1,
            start_ticks: 1,
        }),
        silence: Some(std::time::Duration::ZERO),
        after: true,
        after_reboot: Some(AfterReboot {
            argv: vec![String::new()],
            dir: String::new(),
            user: Some(Account {
                uid: 0,
                gid: 0,
                groups: vec![0],
            }),
            env_file: Some(String::new()),
            timeout: std::time::Duration::ZERO,
            cgroup_root: Some(String::new()),
        }),
        guard: true,
        capture: Some(CaptureSpec {
            streams: Streams::Merged,
            log_max: Some(1),
            log_full: LogFull::Middle,
            sync: true,
        }),
        ssh_agent: true,
        state_dir: Some(String::new()),
        labels: [("NAME".to_owned(), String::new())].into(),
        guests: Some(GuestPlace {
            dir: String::new(),
            socket: String::new(),
            timeout: std::time::Duration::ZERO,
            gid: 0,
            groups: vec![0],
            home: String::new(),
            project: Some(String::new()),
            kinds: [("NAME".to_owned(), GuestMode::Shared)].into(),
            hook: vec![String::new()],
        }),
        login: Some(Login {
            user: String::new(),
            group: Some(String::new()),
            account: Account {
                uid: 0,
                gid: 0,
                groups: vec![0],
            },
            name: String::new(),
            home: String::new(),
            shell: String::new(),
        }),
    }
}

/// Where other rows tell the keys below.
const TOLD_ELSEWHERE: [&str; 6] = [
    "steps[].ending",
    "steps[].status",
    "escaped[].process",
    "escaped[].found",
    "quarantine.survivors[]",
    "census.left[].found",
];

/// Maps whose keys are data.
const MAPS: [&str; 3] = ["labels", "limits", "usage.stalled"];

fn collect(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
    if TOLD_ELSEWHERE.contains(&path) {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if MAPS.contains(&path) { "*" } else { key };
                let below = if path.is_empty() {
                    key.to_owned()
                } else {
                    format!("{path}.{key}")
                };
                if key != "*" {
                    keys.insert(below.clone());
                }
                collect(value, &below, keys);
            }
        }
        Value::Array(list) => list
            .iter()
            .for_each(|item| collect(item, &format!("{path}[]"), keys)),
        _ => {}
    }
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

/// Every key of `report.json`, with `[]` for lists and `*` for what is data.
pub fn keys_of_the_report() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    collect(&json(&report()), "", &mut keys);
    for ending in endings() {
        collect(&json(&ending), "ending", &mut keys);
    }
    for status in [ExitStatus::Code(0), ExitStatus::Signal(9)] {
        collect(&json(&status), "status", &mut keys);
    }
    for found in ways_of_finding() {
        collect(&json(&found), "found", &mut keys);
    }
    keys
}

/// The top keys of `spec.json`.
pub fn keys_of_a_spec() -> BTreeSet<String> {
    serde_json::to_value(spec())
        .unwrap()
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

/// The keys of `stop.json`, as the documentation writes them.
pub fn keys_of_a_stop() -> BTreeSet<String> {
    let stop = StopRequest {
        version: 1,
        signal: Some(15),
        grace: Some(std::time::Duration::ZERO),
        now: true,
        finished: Some(Ending::OutOfMemory),
        pid: 1,
        uid: 0,
    };
    let keys = json(&stop);
    let keys = keys.as_object().unwrap().keys();
    keys.map(|key| format!("stop.{key}")).collect()
}

/// First cells of the other tables of `docs/outcomes.md`: the kinds of endings, and the variables.
pub fn words() -> BTreeSet<String> {
    let variables =
        ["RESULT", "EXIT_CODE", "SIGNAL", "ENDING", "CAUSE"].map(|name| format!("JOBCAGE_{name}"));
    endings()
        .iter()
        .map(|ending| ending.kind().to_owned())
        .chain(variables)
        .collect()
}
