//! What a job has started outside of its own processes, for people.

use super::harmless;
use jobcage_job::{GuestReport, Outcome, format_bytes};
use serde_json::Value;
use std::fmt::Write;

/// The machines of jobs, as `jobcage guests` has them.
pub fn table(jobs: &[Value]) -> String {
    let mut text = String::new();
    for job in jobs {
        let bytes = format_bytes(job["bytes"].as_u64().unwrap_or(0));
        let id = job["job"].as_str().unwrap_or_default();
        let _ = match job["place"].as_str() {
            Some(place) => writeln!(text, "{id}: {place}, {bytes}"),
            None => writeln!(text, "{id}:"),
        };
        for machine in job["machines"].as_array().into_iter().flatten() {
            let state = match machine["pid"].as_i64() {
                Some(pid) => format!("running, pid {pid}"),
                None => "not running".into(),
            };
            let (name, id) = (machine["name"].as_str(), machine["id"].as_str());
            let what = machine_word(machine["kind"].as_str().unwrap_or_default());
            let id = id.filter(|id| !id.is_empty());
            let id = id.map(|id| format!(" {{{id}}}")).unwrap_or_default();
            let _ = writeln!(text, "  {what} {:?}{id}: {state}", name.unwrap_or_default());
        }
    }
    text
}

/// What a machine of a kind is called.
fn machine_word(kind: &str) -> &'static str {
    match kind {
        "qemu" => "KVM machine",
        "libvirt" => "libvirt VM",
        "vagrant" => "Vagrant machine",
        _ => "VirtualBox VM",
    }
}

/// What became of a machine, a disk or the place of both.
pub fn one(guest: &GuestReport) -> String {
    if guest.kind == "qemu" {
        let ran = harmless(guest.ran.as_deref().unwrap_or_default());
        return format!(
            "{} {:?}, {ran}: running → ended",
            machine_word("qemu"),
            guest.name
        );
    }
    if guest.kind == "exec" {
        return of_the_hook(guest);
    }
    if guest.kind == "remote" {
        return on_another_host(guest);
    }
    let what = match (guest.kind.as_str(), guest.what.as_str()) {
        (kind @ ("virtualbox" | "libvirt"), "vm") => machine_word(kind),
        ("virtualbox", "disk") => "VirtualBox disk",
        ("virtualbox", "settings") => "settings of a VirtualBox VM",
        ("virtualbox", _) => "the registry of VirtualBox",
        ("vagrant", "machine") => machine_word("vagrant"),
        ("vagrant", _) => "what Vagrant has noted in",
        ("libvirt", "disk") => "libvirt disk",
        ("libvirt", _) => "what libvirt keeps in",
        ("podman", "container") => "podman container",
        ("podman", "storage") => "the storage of podman in",
        ("podman", _) => "what podman keeps in",
        ("docker", "container") => "docker container",
        ("docker", "network") => "docker network",
        ("docker", "volume") => "docker volume",
        ("docker", _) => "what docker has, by its socket",
        ("lxc", "container") => "LXC container",
        ("lxc", _) => "what LXC keeps in",
        _ => "machines and files in",
    };
    let id = guest
        .id
        .as_ref()
        .filter(|id| **id != guest.name)
        .map(|id| format!(" {{{id}}}"))
        .unwrap_or_default();
    let was = if guest.ran.is_some() { "running → " } else { "" };
    let bytes = format_bytes(guest.bytes);
    let fate = match (guest.outcome, &guest.why) {
        (Outcome::Deleted, None) => deleted(guest.bytes),
        (Outcome::Deleted, Some(why)) => format!(
            "gone with the job's place; its tool had failed: {}",
            harmless(why)
        ),
        (Outcome::Spared | Outcome::Leased, why) => {
            format!("not touched: {}", harmless(why.as_deref().unwrap_or_default()))
        }
        (Outcome::Left, why) => format!(
            "LEFT, {bytes}: {}; \"jobcage gc\" tries again",
            harmless(why.as_deref().unwrap_or_default())
        ),
    };
    format!("{what} {:?}{id}: {was}{fate}", guest.name)
}

/// What lies elsewhere than in the place is not counted.
fn deleted(bytes: u64) -> String {
    match bytes {
        0 => "deleted".to_owned(),
        bytes => format!("deleted, {} freed", format_bytes(bytes)),
    }
}

/// A job that the job had elsewhere.
fn on_another_host(guest: &GuestReport) -> String {
    let id = harmless(guest.id.as_deref().unwrap_or_default());
    let why = guest.why.as_deref().map(harmless);
    let fate = match (guest.outcome, why) {
        (Outcome::Deleted, None) => "ended".to_owned(),
        (Outcome::Deleted, Some(why)) => format!("ended: {why}"),
        (Outcome::Leased | Outcome::Spared, why) => format!("not ended: {}", why.unwrap_or_default()),
        (Outcome::Left, why) => format!("LEFT: {}; \"jobcage gc\" tries again", why.unwrap_or_default()),
    };
    format!("the job {id} on {}: {fate}", harmless(&guest.name))
}

/// What the site's own hook tells, in its words.
fn of_the_hook(guest: &GuestReport) -> String {
    let id = guest.id.as_ref();
    let id = id.map(|id| format!(" {{{}}}", harmless(id))).unwrap_or_default();
    let bytes = format_bytes(guest.bytes);
    let why = harmless(guest.why.as_deref().unwrap_or_default());
    let fate = match guest.outcome {
        Outcome::Deleted => deleted(guest.bytes),
        Outcome::Spared | Outcome::Leased => format!("not touched: {why}"),
        Outcome::Left if guest.bytes == 0 => format!("LEFT: {why}; \"jobcage gc\" tries again"),
        Outcome::Left => format!("LEFT, {bytes}: {why}; \"jobcage gc\" tries again"),
    };
    if guest.what == "hook" {
        return format!("the guest hook {:?}: {fate}", guest.name);
    }
    format!(
        "guest hook: {} {:?}{id}: {fate}",
        harmless(&guest.what),
        guest.name
    )
}
