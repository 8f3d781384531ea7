//! VirtualBox where all jobs of a user have one registry and one daemon: a machine in the job's cage may be a neighbour's, and one of the job's
//! may run in a neighbour's cage. What a process is or says proves nothing here. A machine is the job's if it was made since the job
//! began, and lies in the job's directories, or is one that Vagrant has noted for the job and has named after its directory.

use crate::tools::{LISTING, Pass, REMOVING};
use crate::vagrant_index;
use crate::virtualbox::{
    self, Disk, Entry, MANAGE, children_first, disks, entries, is_ours, machines, media, ran, read_registry,
    recall,
};
use crate::virtualbox_disks::{forgotten, is_noted, note};
use crate::{Fate, Found, GuestError, Machine, Result, Work, fate};
use jobcage_job::{GuestPlace, Left};
use jobcage_sys::file::{birth_ns, open_dir, open_distrusted};
use jobcage_sys::lock;
use nix::fcntl::OFlag;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};
use std::time::Duration;

/// What Vagrant calls it.
const PROVIDER: &str = "virtualbox";

/// A machine whose process is just being ended is locked for up to 0.2 s, and for a part of that nothing can be asked of it
/// (`VBOX_E_VM_ERROR`); nobody tells when it is free.
const UNLOCKING: (u32, Duration) = (10, Duration::from_millis(100));

/// The user's registry, which is not looked for behind links and in mounts.
pub(crate) const REGISTRY: &str = ".config/VirtualBox";

/// A daemon that lives writes it anew beside it, moves the old one away, and the new one to its place: in between there is none.
fn registry(place: &GuestPlace) -> Option<String> {
    let read = |name: &str| read_registry(Path::new(&place.home), &format!("{REGISTRY}/{name}"), None);
    read("VirtualBox.xml")
        .or_else(|| read("VirtualBox.xml-tmp"))
        .or_else(|| read("VirtualBox.xml"))
}

/// Something was made since the job began, or a process of VirtualBox was in the cage.
pub(crate) fn is_used(work: &Work<'_>) -> bool {
    let Some(text) = registry(work.place) else {
        return false;
    };
    let since = work.spec.created_ns;
    entries(&text).iter().any(|entry| is_new(folder(entry), since))
        || unattached(&text)
            .iter()
            .any(|disk| is_jobs_disk(&disk.location, work))
        || work.census.left.iter().any(is_ours)
        || is_noted(work.place)
}

/// Who ran in the cage and is in no registry.
pub(crate) fn known(place: &GuestPlace) -> Vec<Entry> {
    entries(&registry(place).unwrap_or_default())
}

/// Those of a job that runs, by path alone: no tool is asked for their disks.
pub(crate) fn registered(place: &GuestPlace, processes: &[Left]) -> Vec<Machine> {
    let found = known(place).into_iter();
    let below = found.filter(|entry| is_below(&entry.src, place));
    let told = below.map(|entry| entry.machine(processes));
    told.collect()
}

/// The machines that anything speaks for.
pub(crate) fn machines_of(work: &Work<'_>, pass: &Pass<'_>) -> Result<Vec<Found>> {
    recall(work.place, &known(work.place), pass);
    let text = registry(work.place).unwrap_or_default();
    let listed = machines(&pass.call(&[MANAGE, "list", "vms"], LISTING)?);
    let mut found = Vec::new();
    for mut entry in entries(&text) {
        let Some(known) = listed.iter().find(|known| known.id == entry.id) else {
            continue;
        };
        entry.name.clone_from(&known.name);
        let mut ran = ran(work.census, &entry.id);
        let speaks = Evidence::of(&entry, work, pass)?.speaks();
        if speaks || ran.is_some() {
            if ran.is_none() && Info::of(&entry.id, pass)?.is_locked {
                ran = Some("outside of the cage".into());
            }
            found.push(Found {
                name: entry.name,
                id: entry.id,
                ran,
            });
        }
    }
    Ok(found)
}

/// Looks once more, and gives it back if it is the job's.
pub(crate) fn destroy_machine(found: &Found, work: &Work<'_>, pass: &Pass<'_>) -> Fate {
    let text = registry(work.place).unwrap_or_default();
    let Some(mut entry) = entries(&text).into_iter().find(|entry| entry.id == found.id) else {
        return Fate::Gone;
    };
    entry.name.clone_from(&found.name);
    match Evidence::of(&entry, work, pass) {
        Ok(evidence) => match evidence.against() {
            Some(why) => Fate::Spared(why.into()),
            None => unregister(&entry, work, pass),
        },
        Err(why) => Fate::Retry(why),
    }
}

/// Disks that no machine has, made for the job and in its directories.
pub(crate) fn disks_of(work: &Work<'_>, pass: &Pass<'_>) -> Result<Vec<Found>> {
    let orphans = unattached(&registry(work.place).unwrap_or_default());
    let listed = disks(&pass.call(&[MANAGE, "list", "hdds"], LISTING)?);
    let forgotten = forgotten(work.place, &listed);
    let listed = children_first(listed);
    let ours: Vec<Disk> = listed
        .into_iter()
        .filter(|disk| {
            orphans.iter().any(|orphan| orphan.id == disk.id) && is_jobs_disk(&disk.location, work)
        })
        .collect();
    let _ = note(work.place, &ours, &[]);
    let told = ours.into_iter().map(|disk| Found {
        name: disk.location,
        id: disk.id,
        ran: None,
    });
    Ok(told.chain(forgotten).collect())
}

#[derive(Debug, Default, Clone, Copy)]
struct Evidence {
    /// Its directory was made since the job began.
    is_new: bool,
    /// Its settings or a disk of it lie in the job's directories.
    is_below: bool,
    /// Vagrant has noted its number for the job.
    is_noted: bool,
    /// And it has the name that Vagrant gives to a machine of that directory.
    is_named: bool,
}

impl Evidence {
    fn of(entry: &Entry, work: &Work<'_>, pass: &Pass<'_>) -> Result<Self> {
        let since = work.spec.created_ns;
        let mut evidence = Self {
            is_new: is_new(folder(entry), since),
            is_below: is_below(&entry.src, work.place),
            ..Self::default()
        };
        for machine in vagrant_index::machines(work.place, PROVIDER) {
            let noted = machine.id(PROVIDER, work.spec.uid, since);
            if noted.is_some_and(|noted| noted == entry.id) {
                evidence.is_noted = true;
                // In milliseconds.
                let made = machine.made(&entry.name);
                evidence.is_named |= made.is_some_and(|made| made.saturating_add(1000) >= since / 1_000_000);
            }
        }
        // Only of what may be the job's is a tool asked: there may be hundreds that are not.
        if evidence.is_new && !evidence.is_below {
            let info = Info::of(&entry.id, pass)?;
            let mut attached = info.attached.iter();
            evidence.is_below = attached.any(|at| is_below(&at.path, work.place));
        }
        Ok(evidence)
    }

    fn speaks(self) -> bool {
        self.is_below || self.is_noted
    }

    /// Why it is not to be given back.
    fn against(self) -> Option<&'static str> {
        match self {
            Self { is_new: false, .. } => Some("it is older than the job"),
            Self { is_below: true, .. } | Self { is_named: true, .. } => None,
            Self { is_noted: true, .. } => Some(vagrant_index::ONLY_NOTED),
            _ => Some("nothing of it is in the job's directories, though its process was in the job's cage"),
        }
    }
}

/// Nothing will ever be known of it: it is gone, or its settings cannot be read. Any other error only says that it could not be asked now.
fn is_unknown(said: &str) -> bool {
    said.contains("VBOX_E_OBJECT_NOT_FOUND") || is_unreadable(said)
}

/// VirtualBox has a machine whose settings it cannot read. It says the same of one that has lost its process between two of the tool's questions, but then
/// of the session's half of it.
fn is_unreadable(said: &str) -> bool {
    said.contains("is not ready") && !said.contains("component SessionMachine")
}

/// What is attached to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attached {
    controller: String,
    port: String,
    device: String,
    path: String,
}

/// What `showvminfo --machinereadable` says of a machine.
#[derive(Debug, Default)]
struct Info {
    attached: Vec<Attached>,
    /// A process has it.
    is_locked: bool,
}

impl Info {
    /// What is told of a machine, once its process is not just on its way out.
    fn of(id: &str, pass: &Pass<'_>) -> Result<Self> {
        let (times, pause) = UNLOCKING;
        for _ in 1..times {
            match Self::asked(id, pass) {
                Err(GuestError::Tool { .. }) => std::thread::sleep(pause),
                answer => return answer,
            }
        }
        Self::asked(id, pass)
    }

    fn asked(id: &str, pass: &Pass<'_>) -> Result<Self> {
        match pass.call(&[MANAGE, "showvminfo", id, "--machinereadable"], LISTING) {
            Ok(text) => Ok(Self::parsed(&text)),
            Err(GuestError::Tool { said, .. }) if is_unknown(&said) => Ok(Self::default()),
            Err(why) => Err(why),
        }
    }

    /// A name may hold line ends, so a line may be forged by whoever has made the machine.
    fn parsed(text: &str) -> Self {
        Self {
            attached: text.lines().filter_map(Attached::parsed).collect(),
            is_locked: text.lines().any(|line| line.starts_with("SessionName=")),
        }
    }
}

impl Attached {
    /// `"CONTROLLER-PORT-DEVICE"="PATH"`, a path that is absolute.
    fn parsed(line: &str) -> Option<Self> {
        let (slot, rest) = quoted(line)?;
        let (path, _) = quoted(rest.strip_prefix('=')?)?;
        let mut parts = slot.rsplitn(3, '-');
        let mut number = || {
            let part = parts.next()?;
            let is_number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| part.to_owned())
        };
        let (device, port) = (number()?, number()?);
        let controller = parts.next()?.to_owned();
        path.starts_with('/').then_some(Self {
            controller,
            port,
            device,
            path,
        })
    }
}

/// What is in quotes at the beginning, in which a quote and a backslash have a backslash before them; and what comes after.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?.chars();
    let mut value = String::new();
    loop {
        match rest.next()? {
            '"' => return Some((value, rest.as_str())),
            '\\' => value.push(rest.next()?),
            other => value.push(other),
        }
    }
}

/// Ends it, takes from it what is not the job's, and removes the rest. `--delete` would remove disks wherever they lie.
fn unregister(entry: &Entry, work: &Work<'_>, pass: &Pass<'_>) -> Fate {
    let step = || {
        let info = unlocked(&entry.id, pass)?;
        let is_its = |path: &str| Path::new(path).starts_with(folder(entry)) && is_plain(path);
        let foreign = info
            .attached
            .iter()
            .filter(|at| !is_its(&at.path) && !is_below(&at.path, work.place));
        for at in foreign {
            let slot = ["--port", &at.port, "--device", &at.device, "--medium", "none"];
            let words = [MANAGE, "storageattach", &entry.id, "--storagectl", &at.controller];
            pass.call(&[&words[..], &slot].concat(), REMOVING)?;
        }
        let mut going = virtualbox::disks_of(entry, work.spec.uid);
        let is_attached = |path: &str| info.attached.iter().any(|at| at.path == path);
        going.retain(|disk| {
            is_its(&disk.location) || is_attached(&disk.location) && is_below(&disk.location, work.place)
        });
        // Who cannot note them gives them back all the same.
        let _ = note(work.place, &going, std::slice::from_ref(entry));
        pass.call(&[MANAGE, "unregistervm", &entry.id, "--delete"], REMOVING)
    };
    match step() {
        Err(GuestError::Tool { said, .. }) if is_unreadable(&said) => Fate::Spared(
            "its settings cannot be read: VirtualBox has forgotten it, and its files stay".into(),
        ),
        answer => fate(answer, &["VBOX_E_OBJECT_NOT_FOUND"]),
    }
}

/// Ends the process that runs a machine, in whose cage ever it is. Not by `controlvm poweroff`, for which one that is stopped lets us wait for ever.
fn unlocked(id: &str, pass: &Pass<'_>) -> Result<Info> {
    let mut info = Info::of(id, pass)?;
    if !info.is_locked {
        return Ok(info);
    }
    // It fails if the machine was faster.
    let _ = pass.call(&[MANAGE, "startvm", id, "--type", "emergencystop"], REMOVING);
    let (times, pause) = UNLOCKING;
    for _ in 0..times {
        info = Info::of(id, pass)?;
        if !info.is_locked {
            break;
        }
        std::thread::sleep(pause);
    }
    Ok(info)
}

fn folder(entry: &Entry) -> &Path {
    Path::new(&entry.src).parent().unwrap_or(Path::new(""))
}

/// Whether a file or directory is as new as the job: by its time of birth, which nobody can set. Settings are written anew at each change, so
/// theirs tells nothing; their directory's does.
fn is_new(path: &Path, since_ns: i64) -> bool {
    // A file's time is that of the last tick of the kernel's clock.
    const TICK: i64 = 100_000_000;
    birth_ns(path).is_ok_and(|born| born.saturating_add(TICK) >= since_ns)
}

fn is_jobs_disk(path: &str, work: &Work<'_>) -> bool {
    is_below(path, work.place) && is_new(Path::new(path), work.spec.created_ns)
}

/// Whether it lies in the job's project or place, by the words of the path.
fn is_below(path: &str, place: &GuestPlace) -> bool {
    let dirs = place.project.iter().chain([&place.dir]);
    is_plain(path) && dirs.into_iter().any(|dir| Path::new(path).starts_with(dir))
}

/// An absolute path that leads nowhere else.
fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    path.starts_with('/') && parts.all(|part| part != Component::ParentDir)
}

/// The disks that the registry itself has: one that a machine has is in that machine's settings.
fn unattached(text: &str) -> Vec<Disk> {
    media(text, "/")
}

/// Who has the daemon of this user, before the job begins: its machines will run in that process's cgroup. VirtualBox's own lock tells, since
/// it is the kernel's (fcntl(2)) and ends with the process.
pub(crate) fn daemon(uid: u32) -> Option<i32> {
    let user = nix::unistd::User::from_uid(uid.into()).ok()??;
    let tmp = open_dir(Path::new("/tmp")).ok()?;
    let name = format!(".vbox-{}-ipc/lock", user.name);
    let file = File::from(open_distrusted(tmp.as_fd(), name, OFlag::O_RDWR).ok()?);
    if file.metadata().ok()?.uid() != uid {
        return None;
    }
    Some(lock::holder(file.as_fd()).ok()??.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtualbox::is_uuid;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const A: &str = "6b844bab-4a07-4e3d-ba81-9bfd3accc755";

    fn place() -> GuestPlace {
        GuestPlace {
            dir: "/places/job".into(),
            socket: String::new(),
            timeout: Duration::ZERO,
            gid: 0,
            groups: Vec::new(),
            home: "/home/ci1".into(),
            project: Some("/builds/a".into()),
            kinds: BTreeMap::new(),
            hook: Vec::new(),
        }
    }

    /// As 7.2 says it.
    #[test]
    fn a_machine_that_has_just_lost_its_process_is_known() {
        let said = |component: &str| {
            format!(
                "VBoxManage: error: The object is not ready; VBoxManage: error: Details: code E_ACCESSDENIED (0x80070005), component {component}, \
                 interface IMachine, callee nsISupports"
            )
        };
        assert!(is_unknown(&said("MachineWrap")) && is_unreadable(&said("MachineWrap")));
        assert!(!is_unknown(&said("SessionMachine")) && !is_unreadable(&said("SessionMachine")));
    }

    #[test]
    fn a_path_is_below_by_its_words() {
        for path in ["/builds/a/vm/vm.vbox", "/builds/a/x.vdi", "/places/job/vms/x"] {
            assert!(is_below(path, &place()), "{path}");
        }
        for path in [
            "/builds/ab/x",
            "/builds/a/../b/x",
            "builds/a/x",
            "",
            "/builds",
            "/places/job2",
        ] {
            assert!(!is_below(path, &place()), "{path}");
        }
        let nobody = GuestPlace {
            project: None,
            ..place()
        };
        assert!(!is_below("/builds/a/x", &nobody));
    }

    #[test]
    fn nobody_makes_a_file_older_or_newer_than_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.vdi");
        assert!(!is_new(&file, 0), "it is not there");
        std::fs::write(&file, "").unwrap();
        let born = birth_ns(&file).unwrap();
        let later = born + 1_000_000_000;
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(std::time::SystemTime::now() + Duration::from_secs(3600))
            .unwrap();
        assert!(is_new(&file, born) && !is_new(&file, later));
        // A link is not what it leads to.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(is_new(&link, born));
    }

    #[test]
    fn what_is_attached_is_read_as_it_is_written() {
        let text = "name=\"vm\"\nCfgFile=\"/d/vm.vbox\"\n\"sata-0-0\"=\"/d/a b.vdi\"\n\"sata-ImageUUID-0-0\"=\"6b84\"\n\
             \"sata-1-0\"=\"none\"\n\"a-b \\\"c\\\\-12-1\"=\"/x\\\"y.vdi\"\nSessionName=\"headless\"\n";
        let info = Info::parsed(text);
        let told: Vec<_> = info
            .attached
            .iter()
            .map(|at| (&at.controller[..], &at.port[..], &at.device[..], &at.path[..]))
            .collect();
        assert_eq!(
            told,
            [
                ("sata", "0", "0", "/d/a b.vdi"),
                ("a-b \"c\\", "12", "1", "/x\"y.vdi")
            ]
        );
        assert!(info.is_locked && !Info::parsed("VMState=\"poweroff\"\n").is_locked);
    }

    #[test]
    fn a_disk_of_nobody_is_in_the_registry_itself() {
        let text = format!(
            "<HardDisks>\n<HardDisk uuid=\"{{{A}}}\" location=\"/b/a &amp; b.vdi\" format=\"VDI\" type=\"Normal\"/>\n\
             <HardDisk uuid=\"{{x}}\" location=\"/b/x.vdi\"/></HardDisks>"
        );
        let told: Vec<_> = unattached(&text)
            .into_iter()
            .map(|disk| (disk.id, disk.location))
            .collect();
        assert_eq!(told, [(A.to_owned(), "/b/a & b.vdi".to_owned())]);
    }

    proptest! {
        #[test]
        fn whatever_a_tool_prints_nothing_breaks(text in "(?s).{0,300}", line in "[-\"=\\\\/a-b0-9\n]{0,120}") {
            for text in [text, line] {
                prop_assert!(Info::parsed(&text).attached.iter().all(|at| at.path.starts_with('/')));
                let entry = ["<HardDisk ", &text].concat();
                prop_assert!(unattached(&entry).iter().all(|disk| is_uuid(&disk.id)));
            }
        }

        #[test]
        fn what_is_in_quotes_comes_back(text in "[\"\\\\a-c/ ]{0,20}", rest in "[\"a=]{0,5}") {
            let written = text.replace('\\', "\\\\").replace('"', "\\\"");
            let whole = format!("\"{written}\"{rest}");
            prop_assert_eq!(quoted(&whole), Some((text, &rest[..])));
        }
    }
}
