//! VirtualBox: a registry, a daemon and a socket of the job's own; or those that all jobs of its user share.
//!
//! `VBOX_USER_HOME` alone isolates nothing, and `VBOX_IPC_SOCKETID` alone loses data: each job has both. The tools' only key for a machine is
//! its error code on stderr; names may hold anything, so machines are known by their UUIDs.

use crate::place::Making;
use crate::tools::{LISTING, Pass, REMOVING};
use crate::virtualbox_disks::{forgotten, forgotten_machines, has_note, is_noted, note, unremoved};
use crate::virtualbox_shared as shared;
use crate::{Fate, Found, GuestError, Kind, Machine, Result, Work, fate};
use jobcage_job::{Census, GuestMode, GuestPlace, GuestReport, Left};
use jobcage_sys::file::{open_dir, open_distrusted};
use nix::fcntl::OFlag;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub struct VirtualBox;

pub(crate) const KIND: &str = "virtualbox";

/// `/usr/bin/VBoxManage` is a script that prints warnings among the answers.
pub(crate) const MANAGE: &str = "/usr/lib/virtualbox/VBoxManage";

impl Kind for VirtualBox {
    fn name(&self) -> &'static str {
        KIND
    }

    fn modes(&self) -> &'static [GuestMode] {
        &[GuestMode::Isolate, GuestMode::Shared]
    }

    fn usual(&self) -> Option<GuestMode> {
        Some(GuestMode::Isolate)
    }

    fn tools(&self) -> &'static [&'static str] {
        &[MANAGE]
    }

    fn variables(&self, place: &GuestPlace, mode: GuestMode) -> Vec<(&'static str, String)> {
        if mode == GuestMode::Shared {
            return Vec::new();
        }
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

    /// Machines first: their disks go with them.
    fn lists(&self) -> &'static [&'static str] {
        &["vm", "disk"]
    }

    /// A registry with something in it, or a process of VirtualBox when the job ended. A registry that VirtualBox has not written, such as a
    /// FIFO, is not for its tools to read: they would wait for ever.
    fn is_used(&self, work: &Work<'_>) -> bool {
        if work.mode == GuestMode::Shared {
            return shared::is_used(work);
        }
        let Some(text) = registry(work.place) else {
            return false;
        };
        text.contains("<MachineEntry")
            || text.contains("<HardDisk")
            || work.census.left.iter().any(is_ours)
            || is_noted(work.place)
    }

    /// Those of a job that has dropped its environment are in the user's own registry, where a neighbour's may be, too.
    fn strays(&self, work: &Work<'_>) -> Vec<String> {
        let known = known(work.place, work.mode);
        let is_known = |id: &str| known.iter().any(|entry| entry.id == id);
        let mut told = Vec::new();
        for left in work.census.left.iter().filter(|left| is_ours(left)) {
            if let Some(id) = started(&left.command).filter(|id| !is_known(id)) {
                told.push(format!(
                    "a VirtualBox machine {{{id}}} was run by process {}, and is not in {}: it does not run any more, and is \
                     left where it is registered",
                    left.pid,
                    match work.mode {
                        GuestMode::Shared => "the user's registry",
                        _ => "the job's place",
                    }
                ));
            }
        }
        told
    }

    fn registry(&self, work: &Work<'_>) -> String {
        match work.mode {
            GuestMode::Shared => format!("{}/{}", work.place.home, shared::REGISTRY),
            _ => format!("{}/vbox", work.place.dir),
        }
    }

    fn inventory(&self, what: &str, work: &Work<'_>, pass: &Pass<'_>) -> Result<Vec<Found>> {
        match (work.mode, what) {
            (GuestMode::Shared, "vm") => return shared::machines_of(work, pass),
            (GuestMode::Shared, _) => return shared::disks_of(work, pass),
            _ => {}
        }
        let list = |what| pass.call(&[MANAGE, "list", what], LISTING);
        if what == "vm" {
            recall(work.place, &known(work.place, work.mode), pass);
            let found = machines(&list("vms")?);
            if !found.is_empty() && !has_note(work.place) {
                let text = registry(work.place).unwrap_or_default();
                let machines = entries(&text);
                let of_machines = machines.iter().flat_map(|entry| disks_of(entry, work.spec.uid));
                let disks: Vec<Disk> = of_machines.chain(media(&text, &work.place.dir)).collect();
                // Who cannot note them gives them back all the same.
                let _ = note(work.place, &disks, &machines);
            }
            let told = found.into_iter().map(|machine| Found {
                ran: ran(work.census, &machine.id),
                name: machine.name,
                id: machine.id,
            });
            return Ok(told.collect());
        }
        let listed = disks(&list("hdds")?);
        let _ = note(work.place, &listed, &[]);
        let forgotten = forgotten(work.place, &listed);
        let told = children_first(listed).into_iter().map(|disk| Found {
            name: disk.location,
            id: disk.id,
            ran: None,
        });
        Ok(told.chain(forgotten).collect())
    }

    fn noted(&self, work: &Work<'_>) -> Vec<GuestReport> {
        unremoved(work.place)
    }

    fn destroy(&self, what: &str, found: &Found, work: &Work<'_>, pass: &Pass<'_>) -> Fate {
        let words = match what {
            "vm" if work.mode == GuestMode::Shared => return shared::destroy_machine(found, work, pass),
            "vm" => vec![MANAGE, "unregistervm", &found.id, "--delete"],
            _ => vec![MANAGE, "closemedium", "disk", &found.id, "--delete"],
        };
        match fate(pass.call(&words, REMOVING), &["VBOX_E_OBJECT_NOT_FOUND"]) {
            // By its path alone: it is in no registry any more. What is damaged is so for each daemon.
            Fate::Retry(why @ GuestError::Tool { .. }) if !is_uuid(&found.id) => Fate::Failed(why),
            other => other,
        }
    }

    fn registered(&self, place: &GuestPlace, processes: &[Left]) -> Vec<Machine> {
        if place.kinds.get(KIND) == Some(&GuestMode::Shared) {
            return shared::registered(place, processes);
        }
        let found = known(place, GuestMode::Isolate).into_iter();
        found.map(|entry| entry.machine(processes)).collect()
    }

    /// The first of a user's jobs that calls VirtualBox has the machines of all of them in its cage, and whoever has called it before has this job's.
    fn forewarns(&self, uid: u32, mode: GuestMode) -> Option<String> {
        let pid = (mode == GuestMode::Shared)
            .then(|| shared::daemon(uid))
            .flatten()?;
        Some(format!(
            "VirtualBox's daemon of the user {uid} runs outside of this job (process {pid}): the machines of this job run there, too, and are not in its \
             cage"
        ))
    }
}

/// Has VirtualBox know again what it has forgotten before it had removed the files, so that it can remove them. Where it does not, they are named in the end.
pub(crate) fn recall(place: &GuestPlace, known: &[Entry], pass: &Pass<'_>) {
    for settings in forgotten_machines(place, known) {
        let _ = pass.call(&[MANAGE, "registervm", &settings], REMOVING);
    }
}

/// The machines of the registry that a job uses.
fn known(place: &GuestPlace, mode: GuestMode) -> Vec<Entry> {
    match mode {
        GuestMode::Shared => shared::known(place),
        _ => entries(&registry(place).unwrap_or_default()),
    }
}

/// For the value of an attribute in XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

pub(crate) fn is_ours(left: &Left) -> bool {
    left.comm.starts_with("VBox") || left.comm.starts_with("VirtualBox")
}

fn registry(place: &GuestPlace) -> Option<String> {
    read_registry(Path::new(&place.dir), "vbox/VirtualBox.xml", None)
}

/// A registry's text; `None`: it is not what VirtualBox has written, and may be anything; or not the file of this user (`of`).
pub(crate) fn read_registry(dir: &Path, name: &str, of: Option<u32>) -> Option<String> {
    const MOST: u64 = 16 << 20;
    let dir = open_dir(dir).ok()?;
    let file = File::from(open_distrusted(dir.as_fd(), name, OFlag::O_RDONLY).ok()?);
    let found = file.metadata().ok()?;
    if !found.is_file() || of.is_some_and(|uid| uid != found.uid()) {
        return None;
    }
    let mut text = String::new();
    file.take(MOST + 1).read_to_string(&mut text).ok()?;
    (text.len() as u64 <= MOST).then_some(text)
}

/// The process that ran a machine when the job ended.
pub(crate) fn ran(census: &Census, id: &str) -> Option<String> {
    process_of(&census.left, id).map(|pid| format!("pid {pid}"))
}

/// The machine that a process says to run.
fn started(command: &str) -> Option<&str> {
    let (_, rest) = command.split_once(" --startvm ")?;
    rest.split(' ').next().filter(|id| is_uuid(id))
}

fn process_of(processes: &[Left], id: &str) -> Option<i32> {
    let runs = |left: &&Left| is_ours(left) && left.command.contains(id);
    processes.iter().find(runs).map(|left| left.pid)
}

/// A disk that another one is based on can only go after it.
pub(crate) fn children_first(mut disks: Vec<Disk>) -> Vec<Disk> {
    let mut ordered = Vec::new();
    let is_leaf = |disk: &Disk, all: &[Disk]| !all.iter().any(|other| other.parent == disk.id);
    while let Some(at) = disks.iter().position(|disk| is_leaf(disk, &disks)) {
        ordered.push(disks.remove(at));
    }
    // A ring, which only a forged list has.
    ordered.extend(disks);
    ordered
}

/// The value of an attribute of an element, of which this is the text behind its name.
pub(crate) fn attribute(element: &str, name: &str) -> Option<String> {
    let value = element.split_once(&format!(" {name}=\""))?.1.split_once('"')?.0;
    Some(
        value
            .replace("&quot;", "\"")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&"),
    )
}

/// `<MachineEntry uuid="{…}" src="…/NAME.vbox"/>`, in any order of the two.
pub(crate) fn entries(text: &str) -> Vec<Entry> {
    let found = text.split("<MachineEntry").skip(1).filter_map(|entry| {
        let entry = entry.split_once("/>").map_or(entry, |(entry, _)| entry);
        let id = attribute(entry, "uuid")?;
        let src = attribute(entry, "src")?;
        Some(Entry {
            name: Path::new(&src).file_stem()?.to_str()?.to_owned(),
            id: id.trim_matches(['{', '}']).to_owned(),
            src,
        })
    });
    found.filter(|machine| is_uuid(&machine.id)).collect()
}

/// `<HardDisk uuid="{…}" location="PATH" …>` of a registry or of a machine's settings, those that are based on others inside of these; `dir`: where a path
/// that is relative begins.
pub(crate) fn media(text: &str, dir: &str) -> Vec<Disk> {
    let found = text.split("<HardDisk ").skip(1).filter_map(|entry| {
        let entry = [" ", entry.split_once('>').map_or(entry, |(entry, _)| entry)].concat();
        let id = attribute(&entry, "uuid")?;
        let location = Path::new(dir).join(attribute(&entry, "location")?);
        Some(Disk {
            id: id.trim_matches(['{', '}']).to_owned(),
            location: location.to_str()?.to_owned(),
            ..Disk::default()
        })
    });
    found.filter(|disk| is_uuid(&disk.id)).collect()
}

/// The disks that a machine has, by its settings: no tool is asked, which a FIFO in the place of a disk would hold. Settings that are not this user's
/// are somebody else's, whom a registry of the job's own may name.
pub(crate) fn disks_of(entry: &Entry, uid: u32) -> Vec<Disk> {
    let src = Path::new(&entry.src);
    let (Some(dir), Some(name)) = (src.parent(), src.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let text = read_registry(dir, name, Some(uid)).unwrap_or_default();
    media(&text, dir.to_str().unwrap_or_default())
}

/// A line of `list vms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub name: String,
    pub id: String,
}

/// A machine in the text of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub name: String,
    pub id: String,
    /// Its settings file, as the registry has it.
    pub src: String,
}

impl Entry {
    /// With the process that runs it.
    pub(crate) fn machine(self, processes: &[Left]) -> Machine {
        Machine {
            kind: KIND,
            pid: process_of(processes, &self.id),
            name: self.name,
            id: self.id,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Disk {
    pub id: String,
    pub parent: String,
    pub location: String,
}

/// Whether it is a UUID and nothing else: no option, no path, no second line.
pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// `"name" {uuid}`: a name may hold quotes and line ends, so a line counts by its end.
pub(crate) fn machines(text: &str) -> Vec<Listed> {
    let mut found: Vec<Listed> = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line.rsplit_once(" {") else {
            continue;
        };
        let Some(id) = rest.strip_suffix('}').filter(|id| is_uuid(id)) else {
            continue;
        };
        let name = name.strip_suffix('"').unwrap_or(name);
        let machine = Listed {
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
pub(crate) fn disks(text: &str) -> Vec<Disk> {
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
        let order = |found: Vec<Disk>| {
            children_first(found)
                .into_iter()
                .map(|disk| disk.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(order(found.clone()), [B, A]);
        let mut ring = found;
        ring[0].parent = B.into();
        assert_eq!(order(ring).len(), 2);
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
