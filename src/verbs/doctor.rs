//! `jobcage doctor`: what this host gives, what is missing, and how to get it.

use super::{Outcome, pages, places, print_json};
use crate::cli::request::DoctorRequest;
use crate::render;
use jobcage_cage::{Mount, SelfTest, available, own_cgroup, selftest};
use jobcage_job::Controller;
use jobcage_supervisor::host;
use serde_json::{Value, json};

/// `jobcage doctor`. Exit code 0 if jobs can run here, else 125.
///
/// # Errors
/// If the answer cannot be printed.
pub fn doctor(request: DoctorRequest) -> Outcome {
    let (findings, usable) = examine(&request);
    if request.json {
        print_json(&findings)?;
    } else {
        pages::print(render::doctor(&findings).as_bytes())?;
    }
    Ok(if usable { 0 } else { 125 })
}

fn examine(request: &DoctorRequest) -> (Value, bool) {
    let uname = nix::sys::utsname::uname();
    let kernel = uname
        .as_ref()
        .map(|u| u.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let mount = Mount::find();
    let hierarchy = match &mount {
        Ok(mount) if mount.hybrid => "hybrid: cgroup2 beside cgroup v1, so controllers may be bound to v1",
        Ok(_) => "unified: cgroup2 alone",
        Err(_) => "none",
    };
    let mut findings = json!({
        "jobcage": env!("CARGO_PKG_VERSION"),
        "kernel": kernel,
        "uid": nix::unistd::geteuid().as_raw(),
        "hierarchy": hierarchy,
        "mount": mount.as_ref().ok().map(|m| m.point.display().to_string()),
        "own_cgroup": own_cgroup().ok(),
        "systemd": std::path::Path::new("/run/systemd/system").exists(),
        "pidfd": jobcage_sys::pidfd::open(std::process::id().cast_signed()).is_ok(),
        "missing": [],
    });
    let root = host::root(
        request.common.places.cgroup_root.as_deref(),
        &places(&request.common.places),
    );
    let mut missing: Vec<String> = Vec::new();
    let usable = match root {
        Err(failure) => {
            missing.push(failure.to_string());
            false
        }
        Ok(found) => {
            let controllers = available(&found.dir);
            let has = |file: &str| found.dir.read(file).is_ok();
            findings["root"] = json!({
                "kind": found.kind.name(), "path": found.dir.path(), "why": found.why, "controllers": controllers,
            });
            // These stand in every cgroup but the topmost one, so a child is asked.
            let probe = format!("doctor-{}", std::process::id());
            if let Ok(child) = found.dir.create(&probe) {
                findings["kill"] = json!(child.write("cgroup.kill", "1").is_ok());
                findings["freeze"] = json!(child.read("cgroup.freeze").is_ok());
                findings["pressure"] = json!(child.read("cpu.pressure").is_ok());
                let _ = found.dir.remove_child(&probe);
            } else {
                findings["kill"] = json!(has("cgroup.kill"));
            }
            let bugs = bugs(&found);
            findings["exited_leader_survives_kill"] = json!(bugs.exited_leader_survives);
            findings["killed_at_birth"] = json!(bugs.killed_at_birth);
            for controller in Controller::ALL
                .iter()
                .filter(|c| !controllers.iter().any(|have| have == c.name()))
            {
                missing.push(missing_controller(
                    *controller,
                    mount.as_ref().is_ok_and(|m| m.hybrid),
                ));
            }
            true
        }
    };
    findings["missing"] = json!(missing);
    (findings, usable)
}

fn bugs(found: &jobcage_cage::Found) -> SelfTest {
    let leader = [c"jobcage".into(), c"__leader".into()];
    selftest(&found.dir, &host::SELF.into(), &leader).unwrap_or_default()
}

fn missing_controller(controller: Controller, hybrid: bool) -> String {
    let name = controller.name();
    let limits = match controller {
        Controller::Cpu => "--cpu",
        Controller::Cpuset => "--cpus",
        Controller::Io => "--io",
        Controller::Memory => "--memory, --memory-high and --swap",
        Controller::Pids => "--pids",
    };
    let how = if hybrid {
        "boot with systemd.unified_cgroup_hierarchy=1, or unbind it from cgroup v1"
    } else {
        "delegate it (systemd: Delegate=yes on the unit; for a user: a drop-in for user@.service)"
    };
    format!("controller {name}: {limits} cannot be enforced; {how}")
}
