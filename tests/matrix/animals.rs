//! The table of animals: how each is started, and what becomes of it.

use super::cell::Outcome;
use super::{Animal, Fate, Helper};
use crate::support::needs::Need;
use crate::support::programs;
use crate::support::world::World;
use jobcage_job::{CensusMethod, FoundBy, Kill};

/// `zoo NAME [--exit CODE --go FIFO] args…`.
fn zoo(world: &World, exit: Option<i32>, words: &[&str]) -> Vec<String> {
    let mut argv = vec![world.zoo.display().to_string(), words[0].to_owned()];
    if let Some(code) = exit {
        argv.extend([
            "--exit".into(),
            code.to_string(),
            "--go".into(),
            world.dir.join("go").display().to_string(),
        ]);
    }
    argv.extend(words[1..].iter().map(|w| (*w).to_owned()));
    argv
}

/// A shell script, which then waits for ever, or for the gate and exits.
fn script(world: &World, exit: Option<i32>, text: &str) -> Vec<String> {
    let dir = world.dir.display();
    let end = match exit {
        Some(code) => format!("read go < {dir}/go; exit {code}"),
        None => "exec sleep 300".into(),
    };
    let (zoo, jobcage) = (world.zoo.display(), programs::jobcage().display());
    let text = format!("zoo={zoo} jobcage={jobcage} dir={dir}\n{text}\n{end}");
    vec!["/bin/sh".into(), "-c".into(), text]
}

const PLAIN: Animal = Animal {
    name: "",
    argv: |_, _| Vec::new(),
    wrap: |_| Vec::new(),
    options: &[],
    needs: &[],
    helper: Helper::None,
    fate: Fate::Dies,
    named: &[1],
    also: |_| {},
    undo: || {},
};

/// An animal of the zoo: its name, then the words of its command where they are not just the name.
macro_rules! animal {
    ($name:literal $(, $key:ident: $value:expr)* $(,)?) => {
        animal!($name = [$name] $(, $key: $value)*)
    };
    ($name:literal = [$($words:expr),+] $(, $key:ident: $value:expr)* $(,)?) => {
        Animal { name: $name, argv: |w, exit| zoo(w, exit, &[$($words),+]), $($key: $value,)* ..PLAIN }
    };
}

fn hostile_is_shown_harmless(outcome: &Outcome) {
    let raw = |text: &str| text.bytes().any(|b| b < b' ' && b != b'\n');
    assert!(
        !raw(&outcome.stderr),
        "control characters reach the terminal: {:?}",
        outcome.stderr
    );
    for left in &outcome.report.census.left {
        let lines = |text: &str| text.contains('\n') || raw(text);
        assert!(!lines(&left.comm) && !lines(&left.command), "unescaped: {left:?}");
    }
    if outcome.ending.exit().is_some() {
        let hostile = outcome
            .report
            .census
            .left
            .iter()
            .find(|l| l.pid == outcome.ready.pids[1])
            .unwrap();
        assert!(hostile.comm.contains(") R 1 1 ("), "{hostile:?}");
        // Its true state and parent stand behind the last parenthesis; `R` stands behind the first.
        assert_ne!(
            hostile.state, 'R',
            "the name was taken for the fields behind it: {hostile:?}"
        );
    }
}

fn other_uid_is_named(outcome: &Outcome) {
    if outcome.ending.exit().is_some() {
        let left = outcome
            .report
            .census
            .left
            .iter()
            .find(|l| l.pid == outcome.ready.pids[1])
            .unwrap();
        assert_eq!(left.uid, 65534, "{left:?}");
    }
}

fn machine_is_named(outcome: &Outcome) {
    if outcome.ending.exit().is_some() {
        let left = &outcome.report.census.left;
        let machine = left.iter().find(|l| l.pid == outcome.ready.pids[1]).unwrap();
        assert_eq!(machine.kvm.as_deref(), Some("web"), "{machine:?}");
    }
}

fn limit_was_hit(outcome: &Outcome) {
    assert!(
        outcome.report.usage.forks_refused.is_some_and(|n| n > 0),
        "{:?}",
        outcome.report.usage
    );
    assert!(
        outcome.report.limits.contains_key("pids.max"),
        "{:?}",
        outcome.report.limits
    );
}

fn peak_was_measured(outcome: &Outcome) {
    if outcome.ending.exit().is_some() {
        let peak = outcome.report.usage.memory_peak.unwrap_or(0);
        assert!(peak >= 64 << 20, "64 MiB were touched, the peak is {peak}");
    }
}

fn unit_is_named(outcome: &Outcome) {
    let named = outcome
        .report
        .escaped
        .iter()
        .any(|e| matches!(&e.found, FoundBy::TransientUnit(unit) if unit.contains("zoo-unit")));
    assert!(named, "{:?}", outcome.report.escaped);
}

fn at_job_is_named(outcome: &Outcome) {
    let named = outcome
        .report
        .escaped
        .iter()
        .any(|e| matches!(&e.found, FoundBy::AtJob(_)));
    assert!(named, "{:?}", outcome.report.escaped);
}

fn run_quietly(program: &str, args: &[&str]) {
    // It may be gone already, and then there is nothing to undo.
    let _ = std::process::Command::new(program).args(args).output();
}

fn at_undo() {
    run_quietly(
        "/bin/sh",
        &["-c", "for job in $(atq -q z | cut -f1); do atrm $job; done"],
    );
}

fn fuse(world: &World, exit: Option<i32>, kind: &str) -> Vec<String> {
    let point = world.dir.join("mnt").display().to_string();
    zoo(world, exit, &["fuse-victim", &point, kind])
}

macro_rules! fuse {
    ($name:literal, $kind:literal, $named:expr) => {
        Animal {
            name: $name,
            argv: |w, exit| fuse(w, exit, $kind),
            needs: &[Need::Fuse],
            helper: Helper::FuseServer,
            fate: Fate::Quarantined,
            named: $named,
            ..PLAIN
        }
    };
}

/// The whole table.
pub fn all() -> Vec<Animal> {
    let mut all = contained();
    all.extend(of_another_user());
    all.extend(on_older_kernels());
    all.extend(limited());
    all.extend(nested());
    all.extend(stuck());
    all.extend(escaping());
    all
}

/// Those that a cgroup holds.
fn contained() -> Vec<Animal> {
    vec![
        animal!("double-fork"),
        animal!("setsid"),
        animal!("scrubbed"),
        animal!("hostile-name", also: hostile_is_shown_harmless),
        animal!("keep-stdout"),
        animal!("leader-exit"),
        animal!("ignore-term"),
        animal!("stopped"),
        animal!("vfork-wait", named: &[1, 2]),
        animal!("zombie"),
        animal!("non-dumpable"),
        animal!("threads"),
        animal!("hog"),
        animal!("cpu-spin"),
        animal!("rabbits", named: &[]),
        animal!("bomb-tree" = ["bomb", "tree", "1000"], named: &[]),
        animal!("bomb-hop" = ["bomb", "hop", "1000"], named: &[]),
        animal!("bomb-hop-setsid" = ["bomb", "hop-setsid", "1000"], named: &[]),
        animal!("threaded-cgroup"),
        animal!("nested-cgroups", named: &[1, 2, 3, 4, 5]),
        animal!("move-sibling"),
        animal!("ptrace-inside", named: &[1, 2]),
        animal!("setuid", needs: &[Need::Root], also: other_uid_is_named),
        animal!("kvm-vm" = ["kvm-vm", "-name", "guest=web"], needs: &[Need::Kvm], also: machine_is_named),
        Animal {
            name: "ssh-agent",
            argv: |w, exit| {
                let start = "eval \"$(ssh-agent -s)\" >&2; echo ready $$ $SSH_AGENT_PID";
                script(w, exit, start)
            },
            needs: &[Need::Program("ssh-agent")],
            ..PLAIN
        },
    ]
}

/// Jobs that are not root's.
fn of_another_user() -> Vec<Animal> {
    const OTHER: &[&str] = &["--user", "nobody"];
    vec![
        animal!("ignore-term-as-nobody" = ["ignore-term"], options: OTHER, needs: &[Need::Root]),
        animal!("scrubbed-as-nobody" = ["scrubbed"], options: OTHER, needs: &[Need::Root]),
        animal!("non-dumpable-as-nobody" = ["non-dumpable"], options: OTHER, needs: &[Need::Root]),
    ]
}

fn wrapper(world: &World, words: &[&str]) -> Vec<String> {
    std::iter::once(world.zoo.display().to_string())
        .chain(words.iter().map(|w| (*w).to_owned()))
        .chain(std::iter::once("--".to_owned()))
        .collect()
}

fn killed_by_walk(outcome: &Outcome) {
    if outcome.ending.exit().is_some() {
        let proof = outcome
            .report
            .proof
            .as_ref()
            .expect("there was something to kill");
        assert_eq!(proof.kill, Kill::Walk, "{proof:?}");
    }
}

fn looked_without_freezing(outcome: &Outcome) {
    if outcome.ending.exit().is_some() {
        assert_eq!(outcome.report.census.method, CensusMethod::Running);
    }
}

/// Kernels without something, as far as their answers go.
fn on_older_kernels() -> Vec<Animal> {
    const NO_KILL: [&str; 2] = ["mask-file", "cgroup.kill"];
    const NEITHER: [&str; 3] = ["mask-file", "cgroup.kill", "cgroup.freeze"];
    vec![
        animal!("without-clone3" = ["double-fork"], wrap: |w| wrapper(w, &["seccomp-enosys", "clone3"])),
        animal!("without-cgroup-kill" = ["ignore-term"], wrap: |w| wrapper(w, &NO_KILL), also: killed_by_walk),
        animal!(
            "bomb-without-cgroup-kill" = ["bomb", "tree", "500"],
            named: &[],
            wrap: |w| wrapper(w, &NO_KILL),
            also: killed_by_walk,
        ),
        animal!(
            "without-cgroup-freeze" = ["stopped"],
            wrap: |w| wrapper(w, &["mask-file", "cgroup.freeze"]),
            also: looked_without_freezing,
        ),
        animal!("without-kill-and-freeze" = ["leader-exit"], wrap: |w| wrapper(w, &NEITHER), also: killed_by_walk),
        animal!(
            "rabbits-without-kill-and-freeze" = ["rabbits"],
            named: &[],
            wrap: |w| wrapper(w, &NEITHER),
            also: killed_by_walk,
        ),
    ]
}

/// Those for whom there are limits.
fn limited() -> Vec<Animal> {
    vec![
        animal!(
            "bomb-limited" = ["bomb", "tree", "1000"],
            named: &[],
            options: &["--pids", "100"],
            needs: &[Need::Controller("pids")],
            also: limit_was_hit,
        ),
        animal!(
            "hog-measured" = ["hog", "64"],
            options: &["--memory", "256M"],
            needs: &[Need::Controller("memory")],
            also: peak_was_measured,
        ),
    ]
}

/// jobcage in strange places.
fn nested() -> Vec<Animal> {
    vec![
        Animal {
            name: "jobcage-inside-jobcage",
            // It inherits the configured root, which lies beside the outer cage, and must not go there.
            argv: |w, exit| {
                let inner = "mkfifo $dir/inner; JOBCAGE_RUNTIME_DIR=$dir/inner-run \
                    $jobcage run --name inner -- $zoo ignore-term > $dir/inner & \
                    read -r word pids < $dir/inner; echo ready $$ $! $pids";
                script(w, exit, inner)
            },
            named: &[1, 2, 3],
            ..PLAIN
        },
        animal!(
            "once-killed-launcher" = ["double-fork"],
            wrap: |w| {
                let launcher = w.outside.display().to_string();
                vec![w.zoo.display().to_string(), "once-killed-launcher".into(), launcher]
            },
        ),
    ]
}

/// Those that cannot die before somebody outside lets them.
fn stuck() -> Vec<Animal> {
    vec![
        fuse!("fuse-stat", "stat", &[1]),
        fuse!("fuse-open", "open", &[1]),
        fuse!("fuse-exec", "exec", &[1]),
        fuse!("fuse-chdir", "chdir", &[1]),
        // The waiting parent can be killed; the child that cannot reach its exec can't.
        fuse!("fuse-vfork-exec", "vfork-exec", &[2]),
        animal!("ptrace-outside" = ["double-fork"], helper: Helper::Tracer, fate: Fate::Quarantined),
    ]
}

const SYSTEMD: Animal = Animal {
    needs: &[Need::Root, Need::Systemd],
    fate: Fate::Escapes,
    ..PLAIN
};

/// Those that leave the cage.
fn escaping() -> Vec<Animal> {
    vec![
        Animal {
            name: "leave-by-itself",
            argv: |w, exit| {
                std::fs::create_dir_all(&w.outside).unwrap();
                zoo(w, exit, &["leave-by-itself", w.outside.to_str().unwrap()])
            },
            fate: Fate::Escapes,
            ..PLAIN
        },
        Animal {
            name: "su-with-pam-systemd",
            argv: |w, exit| {
                let words = zoo(w, exit, &["setsid"]).join(" ");
                ["su", "-s", "/bin/sh", "-c", &words, "nobody"]
                    .map(String::from)
                    .to_vec()
            },
            ..SYSTEMD
        },
        Animal {
            name: "systemd-run-scope",
            argv: |w, exit| {
                let mut argv = ["systemd-run", "--quiet", "--scope"].map(String::from).to_vec();
                argv.extend(zoo(w, exit, &["setsid"]));
                argv
            },
            ..SYSTEMD
        },
        Animal {
            name: "systemd-run-service",
            argv: |w, exit| {
                let start = "systemd-run --quiet --unit=zoo-unit sleep 290 && echo ready $$";
                script(w, exit, start)
            },
            named: &[],
            also: unit_is_named,
            undo: || run_quietly("systemctl", &["stop", "zoo-unit.service"]),
            ..SYSTEMD
        },
        Animal {
            name: "at-job",
            argv: |w, exit| {
                let start = "echo true | at -q z now + 10 minutes 2>&1 && echo ready $$";
                script(w, exit, start)
            },
            needs: &[Need::Root, Need::Systemd, Need::Program("at")],
            named: &[],
            also: at_job_is_named,
            undo: at_undo,
            ..SYSTEMD
        },
    ]
}
