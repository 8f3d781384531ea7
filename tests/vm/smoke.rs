//! Facts about the guest without which no other test in the VM means anything. Skipped outside the VM.

use std::fs;
use std::process::Command;

/// The kernel that `tests/vm/run` was asked for; `None`, said loudly, where this is not the VM.
fn asked_kernel() -> Option<String> {
    let kernel = std::env::var("JOBCAGE_VM").ok();
    if kernel.is_none() {
        let required = std::env::var("JOBCAGE_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|need| need == "all" || need == "vm"),
            "this is not the test VM"
        );
        eprintln!("skipped: not in the test VM; run `cargo test --test vm`");
    }
    kernel
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}

/// Which of the five controllers that jobcage uses are missing in this list.
fn missing(controllers: &str) -> Vec<&'static str> {
    let there: Vec<&str> = controllers.split_whitespace().collect();
    ["cpuset", "cpu", "io", "memory", "pids"]
        .into_iter()
        .filter(|name| !there.contains(name))
        .collect()
}

fn test_cgroup() -> String {
    std::env::var("JOBCAGE_TEST_CGROUP").expect("the guest's `leaf` sets JOBCAGE_TEST_CGROUP")
}

fn succeeds(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_kernel_is_the_one_asked_for() {
    let Some(asked) = asked_kernel() else { return };
    let release = read("/proc/sys/kernel/osrelease");
    assert!(
        release.starts_with(&format!("{asked}.")),
        "asked for {asked}, running {release}"
    );
}

#[test]
fn systemd_is_the_first_process() {
    let Some(_) = asked_kernel() else { return };
    assert_eq!(read("/proc/1/comm").trim(), "systemd");
    assert_eq!(
        succeeds("systemctl", &["list-units", "--failed", "--plain", "--no-legend"]),
        ""
    );
}

#[test]
fn only_cgroup2_is_mounted_and_has_every_controller() {
    let Some(_) = asked_kernel() else { return };
    let mounts = read("/proc/self/mounts");
    let cgroups: Vec<&str> = mounts.lines().filter(|line| line.contains(" cgroup")).collect();
    assert!(
        matches!(cgroups[..], [one] if one.contains(" /sys/fs/cgroup cgroup2 ")),
        "{cgroups:?}"
    );
    assert!(
        missing(&read("/sys/fs/cgroup/cgroup.controllers")).is_empty(),
        "root: {cgroups:?}"
    );
}

/// As root and as tester: a child of the cgroup that tests may use has all controllers, and its limits hold.
#[test]
fn the_test_cgroup_is_delegated() {
    let Some(_) = asked_kernel() else { return };
    let child = format!("{}/smoke", test_cgroup());
    fs::create_dir(&child).unwrap_or_else(|error| panic!("cannot make {child}: {error}"));
    let controllers = read(&format!("{child}/cgroup.controllers"));
    let limits = [
        ("memory.max", "33554432"),
        ("pids.max", "7"),
        ("cpuset.cpus", "0"),
        ("cpu.weight", "50"),
    ];
    let seen = limits.map(|(file, value)| {
        fs::write(format!("{child}/{file}"), value).map(|()| read(&format!("{child}/{file}")).trim() == value)
    });
    fs::remove_dir(&child).expect("an empty cgroup can be removed");
    assert!(missing(&controllers).is_empty(), "{child}: {controllers}");
    assert!(
        seen.iter().all(|limit| matches!(limit, Ok(true))),
        "{limits:?}: {seen:?}"
    );
}

#[test]
fn the_user_manager_of_tester_runs_and_has_all_controllers() {
    let Some(_) = asked_kernel() else { return };
    assert_eq!(
        succeeds("systemctl", &["is-active", "user@1000.service"]),
        "active"
    );
    let manager = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service";
    // Not its subtree_control: the manager enables a controller when a unit of its own first asks for it.
    let got = read(&format!("{manager}/cgroup.controllers"));
    assert!(missing(&got).is_empty(), "{manager} got: {got}");
    let my_uid = succeeds("id", &["--user"]);
    if my_uid == "1000" {
        assert!(
            test_cgroup().starts_with(manager),
            "{} is outside {manager}",
            test_cgroup()
        );
        assert_ne!(
            succeeds("systemctl", &["--user", "show", "--property=Version", "--value"]),
            ""
        );
    } else {
        assert_eq!(my_uid, "0");
    }
}

#[test]
fn the_services_of_the_escape_tests_are_there() {
    let Some(_) = asked_kernel() else { return };
    assert_eq!(succeeds("systemctl", &["is-active", "atd.service"]), "active");
    let sshd = Command::new("systemctl")
        .args(["is-active", "--quiet", "ssh.service"])
        .status()
        .expect("systemctl");
    assert!(
        !sshd.success(),
        "no test asked for an ssh server, so none may run"
    );
    for module in ["fuse", "veth", "overlay", "sch_netem"] {
        succeeds("/sbin/modprobe", &["--dry-run", module]);
    }
}

/// The rows that no other machine of ours can give: systemd-run, as root and by the user's own manager.
#[test]
fn the_benchmark_runs_beside_systemd_run() {
    let Some(_) = asked_kernel() else { return };
    let bench = std::env::var("JOBCAGE_BENCH").expect("the outer test sets JOBCAGE_BENCH");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let json = dir.path().join("tables.json");
    let json = json.to_str().expect("an ASCII path");
    let mut words = vec!["--smoke", "--only", "launch", "--only", "spaced"];
    let cgroup = test_cgroup();
    words.extend(["--cgroup-root", &cgroup, "--json", json]);
    succeeds(&bench, &words);
    let all: serde_json::Value = serde_json::from_str(&read(json)).expect("the benchmark's JSON");
    let tables = all["tables"].as_array().expect("tables");
    assert_eq!(tables.len(), 2, "{all:#}");
    for table in tables {
        let rows = table["rows"].as_array().expect("rows");
        for name in ["floor", "jobcage", "systemd-run --scope", "systemd-run --wait"] {
            assert!(rows.iter().any(|row| row["name"] == name), "no {name}: {table:#}");
        }
    }
}
