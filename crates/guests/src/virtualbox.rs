//! VirtualBox: a registry, a daemon and a socket of the job's own.
//!
//! `VBOX_USER_HOME` alone isolates nothing, and `VBOX_IPC_SOCKETID` alone loses data: each job has both. The tools' only key for a machine is
//! its error code on stderr; names may hold anything, so machines are known by their UUIDs.

use crate::place::{self, Making};
use crate::tools::Pass;
use crate::{GuestError, Kind, Result, Work, left};
use jobcage_job::{Census, GuestPlace, GuestReport, Left, Outcome};
use jobcage_sys::file::{open_dir, open_distrusted};
use nix::fcntl::OFlag;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

pub struct VirtualBox;

const KIND: &str = "virtualbox";

/// `/usr/bin/VBoxManage` is a script that prints warnings among the answers.
pub(crate) const MANAGE: &str = "/usr/lib/virtualbox/VBoxManage";

/// A list takes 40 ms; the first one starts the daemon.
const LISTING: Duration = Duration::from_secs(15);
const REMOVING: Duration = Duration::from_secs(120);

/// What one daemon does not give back, a fresh one may: it believes what it has in its memory.
const PASSES: u32 = 4;

impl Kind for VirtualBox {
    fn variables(&self, place: &GuestPlace) -> Vec<(&'static str, String)> {
        vec![
            ("VBOX_USER_HOME", format!("{}/vbox", place.dir)),
            ("VBOX_IPC_SOCKETID", place.socket.clone()),
        ]
    }

    /// The registry says where machines live, and that cannot be said by a variable.
    fn prepare(&self, dir: &Making<'_>) -> Result<()> {
        dir.dir("vbox")?;
        dir.dir("vms")?;
        let machines = escaped(&format!("{}/vms", dir.place.dir));
        dir.file(
            "vbox/VirtualBox.xml",
            &format!(
                "<?xml version=\"1.0\"?>\n<VirtualBox xmlns=\"http://www.virtualbox.org/\" version=\"1.12-linux\"><Global><MachineRegistry/>\n\
                 <SystemProperties defaultMachineFolder=\"{machines}\"/></Global></VirtualBox>\n"
            ),
        )
    }

    fn give_back(&self, work: &Work<'_>) -> Vec<GuestReport> {
        if !Path::new(MANAGE).exists() || !is_used(work) {
            return Vec::new();
        }
        let mut reports = Vec::new();
        for pass in 1..=PASSES {
            match one_pass(work, &mut reports) {
                Ok(true) => return reports,
                Ok(false) => {}
                // It may be faster with another daemon, once. What is damaged goes with the place.
                Err(GuestError::Slow { .. }) if pass == 1 => {}
                Err(why) => {
                    reports.push(left(
                        KIND,
                        "registry",
                        &format!("{}/vbox", work.place.dir),
                        &why,
                        0,
                    ));
                    return reports;
                }
            }
        }
        reports.push(left(
            KIND,
            "registry",
            &format!("{}/vbox", work.place.dir),
            &format!("machines or disks are in it after {PASSES} passes"),
            0,
        ));
        reports
    }
}

/// For the value of an attribute in XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

/// Whether there is anything to ask for: a registry with something in it, or a process of VirtualBox when the job ended. No tool is
/// started to find out. A registry that VirtualBox has not written, such as a FIFO, is not for its tools to read: they would wait for ever.
fn is_used(work: &Work<'_>) -> bool {
    let Some(text) = registry(work.place) else {
        return false;
    };
    let is_ours = |left: &Left| left.comm.starts_with("VBox") || left.comm.starts_with("VirtualBox");
    text.contains("<MachineEntry") || text.contains("<HardDisk") || work.census.left.iter().any(is_ours)
}

/// The registry's text; `None`: it is not what VirtualBox has written, and may be anything.
fn registry(place: &GuestPlace) -> Option<String> {
    const MOST: u64 = 16 << 20;
    let dir = open_dir(Path::new(&place.dir)).ok()?;
    let file = File::from(open_distrusted(dir.as_fd(), "vbox/VirtualBox.xml", OFlag::O_RDONLY).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MOST + 1).read_to_string(&mut text).ok()?;
    (text.len() as u64 <= MOST).then_some(text)
}

/// Unregisters what is listed, with a daemon of its own. `true`: nothing was.
fn one_pass(work: &Work<'_>, reports: &mut Vec<GuestReport>) -> Result<bool> {
    let pass = work.tools.pass()?;
    let done = empty_registry(work, &pass, reports);
    pass.end()?;
    done
}

fn empty_registry(work: &Work<'_>, pass: &Pass<'_>, reports: &mut Vec<GuestReport>) -> Result<bool> {
    let machines = machines(&list(pass, "vms")?);
    for machine in &machines {
        let before = place::size(work.place);
        let done = manage(pass, &["unregistervm", &machine.id, "--delete"]);
        let bytes = before.saturating_sub(place::size(work.place));
        note(
            reports,
            "vm",
            &machine.name,
            &machine.id,
            ran(work.census, &machine.id),
            bytes,
            done,
        );
    }
    let mut disks = disks(&list(pass, "hdds")?);
    let any = !(machines.is_empty() && disks.is_empty());
    while let Some(at) = disks
        .iter()
        .position(|disk| !disks.iter().any(|other| other.parent == disk.id))
    {
        let disk = disks.remove(at);
        let before = place::size(work.place);
        let done = manage(pass, &["closemedium", "disk", &disk.id, "--delete"]);
        let bytes = before.saturating_sub(place::size(work.place));
        note(reports, "disk", &disk.location, &disk.id, None, bytes, done);
    }
    Ok(!any)
}

/// One line for each machine or disk, the last word about it.
fn note(
    reports: &mut Vec<GuestReport>,
    what: &str,
    name: &str,
    id: &str,
    ran: Option<String>,
    bytes: u64,
    done: Result<String>,
) {
    let mut report = GuestReport {
        id: Some(id.into()),
        ran,
        ..left(KIND, what, name, &"", bytes)
    };
    match done {
        Ok(_) => (report.outcome, report.why) = (Outcome::Deleted, None),
        Err(why) => report.why = Some(why.to_string()),
    }
    // A later pass: what failed before may have been done, or be gone.
    if let Some(known) = reports.iter_mut().find(|known| known.id == report.id) {
        report.bytes += known.bytes;
        *known = report;
    } else {
        reports.push(report);
    }
}

/// The process that ran a machine when the job ended.
fn ran(census: &Census, id: &str) -> Option<String> {
    process_of(&census.left, id).map(|pid| format!("pid {pid}"))
}

fn process_of(processes: &[Left], id: &str) -> Option<i32> {
    let runs = |left: &&Left| {
        (left.comm.starts_with("VBox") || left.comm.starts_with("VirtualBox")) && left.command.contains(id)
    };
    processes.iter().find(runs).map(|left| left.pid)
}

fn list(pass: &Pass<'_>, what: &str) -> Result<String> {
    pass.call(&[MANAGE, "list", what], LISTING)
}

fn manage(pass: &Pass<'_>, words: &[&str]) -> Result<String> {
    match pass.call(&[&[MANAGE], words].concat(), REMOVING) {
        // Somebody was faster.
        Err(GuestError::Tool { said, .. }) if said.contains("VBOX_E_OBJECT_NOT_FOUND") => Ok(said),
        other => other,
    }
}

/// The machines of a registry, by its text: no tool is started.
pub(crate) fn registered(place: &GuestPlace, processes: &[Left]) -> Vec<crate::Machine> {
    let found = entries(&registry(place).unwrap_or_default());
    let told = found.into_iter().map(|machine| crate::Machine {
        kind: KIND,
        pid: process_of(processes, &machine.id),
        name: machine.name,
        id: machine.id,
    });
    told.collect()
}

/// `<MachineEntry uuid="{…}" src="…/NAME.vbox"/>`, in any order of the two.
fn entries(text: &str) -> Vec<Machine> {
    let attribute = |entry: &str, name: &str| {
        let value = entry.split_once(&format!(" {name}=\""))?.1.split_once('"')?.0;
        Some(
            value
                .replace("&quot;", "\"")
                .replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&amp;", "&"),
        )
    };
    let found = text.split("<MachineEntry").skip(1).filter_map(|entry| {
        let entry = entry.split_once("/>").map_or(entry, |(entry, _)| entry);
        let id = attribute(entry, "uuid")?;
        let src = attribute(entry, "src")?;
        Some(Machine {
            name: Path::new(&src).file_stem()?.to_str()?.to_owned(),
            id: id.trim_matches(['{', '}']).to_owned(),
        })
    });
    found.filter(|machine| is_uuid(&machine.id)).collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Machine {
    name: String,
    id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Disk {
    id: String,
    parent: String,
    location: String,
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// `"name" {uuid}`: a name may hold quotes and line ends, so a line counts by its end.
fn machines(text: &str) -> Vec<Machine> {
    let mut found: Vec<Machine> = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line.rsplit_once(" {") else {
            continue;
        };
        let Some(id) = rest.strip_suffix('}').filter(|id| is_uuid(id)) else {
            continue;
        };
        let name = name.strip_suffix('"').unwrap_or(name);
        let machine = Machine {
            name: name.strip_prefix('"').unwrap_or(name).into(),
            id: id.into(),
        };
        if !found.iter().any(|known| known.id == machine.id) {
            found.push(machine);
        }
    }
    found
}

/// Blocks of `Key:   value`, an empty line between them.
fn disks(text: &str) -> Vec<Disk> {
    let mut found: Vec<Disk> = Vec::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match key {
            "UUID" if is_uuid(value) && !found.iter().any(|known| known.id == value) => found.push(Disk {
                id: value.into(),
                ..Disk::default()
            }),
            "Parent UUID" => found
                .iter_mut()
                .rev()
                .take(1)
                .for_each(|disk| disk.parent = value.into()),
            "Location" => found
                .iter_mut()
                .rev()
                .take(1)
                .for_each(|disk| disk.location = value.into()),
            _ => {}
        }
    }
    // A disk that says to be its own parent would be nobody's leaf.
    for disk in &mut found {
        if disk.parent == disk.id {
            disk.parent.clear();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "6b844bab-4a07-4e3d-ba81-9bfd3accc755";
    const B: &str = "9f2f5d6c-04de-4973-b879-5d99f3e81167";

    #[test]
    fn machines_are_known_by_their_uuids_whatever_they_are_called() {
        let text = format!(
            "WARNING: no device\n\"vm A\" {{{A}}}\n\"new\nline\" {{x}} {{{B}}}\n\"again\" {{{A}}}\n\"no\" {{{A}x}}\n"
        );
        let found = machines(&text);
        assert_eq!(found.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), [A, B]);
        assert_eq!(found[0].name, "vm A");
    }

    #[test]
    fn disks_have_their_parents() {
        let text = format!(
            "UUID:           {A}\nParent UUID:    base\nState:          created\nLocation:       /a: b.vdi\n\n\
             UUID:           {B}\nParent UUID:    {A}\nLocation:       /b.vdi\n"
        );
        let found = disks(&text);
        assert_eq!(found[0].location, "/a: b.vdi");
        assert_eq!((found[1].id.as_str(), found[1].parent.as_str()), (B, A));
    }

    #[test]
    fn entries_of_a_registry_are_read_as_they_are_written() {
        let text = format!(
            "<MachineRegistry>\n<MachineEntry uuid=\"{{{A}}}\" src=\"/d/a &quot;b&quot; &amp; c.vbox\"/>\n\
             <MachineEntry src=\"x.vbox\" uuid=\"{{{B}}}\"/><MachineEntry uuid=\"{{x}}\" src=\"y\"/></MachineRegistry>"
        );
        let found = entries(&text);
        let told: Vec<_> = found.iter().map(|m| (m.name.as_str(), m.id.as_str())).collect();
        assert_eq!(told, [("a \"b\" & c", A), ("x", B)]);
    }

    proptest! {
        #[test]
        fn whatever_a_tool_prints_only_uuids_come_out(text in "(?s).{0,400}", line in "[-\"{}a-f0-9 :\n]{0,200}") {
            for text in [text, line] {
                prop_assert!(machines(&text).iter().all(|m| is_uuid(&m.id)));
                prop_assert!(disks(&text).iter().all(|d| is_uuid(&d.id)));
                let entry = ["<MachineEntry ", &text].concat();
                prop_assert!(entries(&entry).iter().all(|m| is_uuid(&m.id)));
            }
        }
    }
}
