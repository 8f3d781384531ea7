//! libvirt of the system: its machines are in no cage, and all users of this libvirt have them in one list. Those that vagrant-libvirt has made for a
//! job are told by two things at once: a file that Vagrant has written while the job ran, and the machine's description, which
//! vagrant-libvirt has given to libvirt, and which names the directory that this file is in.

use crate::libvirt::{Disk, GONE, VIRSH, domains, undefine};
use crate::tools::{LISTING, Pass};
use crate::vagrant_index::{Machine, machines};
use crate::{Fate, Found, GuestError, Result, Work, fate};
use std::path::Path;

pub(crate) const SYSTEM: &str = "-cqemu:///system";

/// What Vagrant calls it.
const PROVIDER: &str = "libvirt";

/// Whether Vagrant has noted any in the job's own home.
pub(crate) fn is_used(work: &Work<'_>) -> bool {
    !machines(work.place, PROVIDER).is_empty()
}

/// The machines for which at least one of the two speaks.
pub(crate) fn inventory(work: &Work<'_>, pass: &Pass<'_>) -> Result<Vec<Found>> {
    let noted = machines(work.place, PROVIDER);
    let list = |which: &str| pass.call(&[VIRSH, SYSTEM, "list", which, "--uuid", "--name"], LISTING);
    let listed = domains(&list("--all")?);
    let running = domains(&list("--state-running")?);
    let mut found = Vec::new();
    for machine in listed {
        let evidence = Evidence::of(&machine.id, &noted, work, pass)?;
        if evidence.is_noted || evidence.is_described {
            let runs = running.iter().any(|other| other.id == machine.id);
            found.push(Found {
                ran: runs.then(|| "qemu:///system".to_owned()),
                ..machine
            });
        }
    }
    Ok(found)
}

/// Looks once more, and gives it back if both speak for it.
pub(crate) fn destroy(found: &Found, work: &Work<'_>, pass: &Pass<'_>) -> Fate {
    match Evidence::of(&found.id, &machines(work.place, PROVIDER), work, pass) {
        Ok(evidence) if evidence.is_both => {
            undefine(SYSTEM, &found.id, pass, |disk| is_vagrants(&found.name, disk))
        }
        Ok(evidence) if evidence.is_noted => {
            Fate::Spared("its description names no Vagrantfile beside the id file that names it".into())
        }
        Ok(_) => Fate::Spared("no id file that Vagrant has written in this job names it".into()),
        Err(why) => fate(Err(why), &[]),
    }
}

#[derive(Debug, Default)]
struct Evidence {
    /// An id file of the job's names it.
    is_noted: bool,
    /// Its description names a directory that the job has had a machine in.
    is_described: bool,
    /// Both, with the same directory.
    is_both: bool,
}

impl Evidence {
    fn of(id: &str, noted: &[Machine], work: &Work<'_>, pass: &Pass<'_>) -> Result<Self> {
        let described = match pass.call(&[VIRSH, SYSTEM, "desc", id], LISTING) {
            Ok(text) => text,
            Err(GuestError::Tool { said, .. }) if said.contains(GONE) => return Ok(Self::default()),
            Err(why) => return Err(why),
        };
        let source = source(&described);
        let mut evidence = Self::default();
        for machine in noted {
            let is_noted = machine
                .id(PROVIDER, work.spec.uid, work.spec.created_ns)
                .is_some_and(|noted| noted == id);
            let is_described = source == Some(machine.project.as_path());
            evidence.is_noted |= is_noted;
            evidence.is_described |= is_described;
            evidence.is_both |= is_noted && is_described;
        }
        Ok(evidence)
    }
}

/// `Source: DIR/Vagrantfile`, and not a word more.
fn source(described: &str) -> Option<&Path> {
    let path = Path::new(described.trim_end_matches('\n').strip_prefix("Source: ")?);
    let is_one = path.is_absolute() && !described.trim_end_matches('\n').contains('\n');
    path.parent().filter(|_| is_one)
}

/// By the names that vagrant-libvirt gives: `NAME.img`, `NAME_1.img`, and `NAME-vdb.qcow2`. Anything else may be somebody's who has attached it, too.
fn is_vagrants(name: &str, disk: &Disk) -> bool {
    let rest = || {
        let file = Path::new(&disk.source).file_name()?.to_str()?;
        file.strip_prefix(name)
    };
    rest().is_some_and(|rest| {
        let number = rest.strip_prefix('_').and_then(|rest| rest.strip_suffix(".img"));
        let is_number = number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        rest == ".img" || is_number || rest.starts_with(&format!("-{}.", disk.target))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_one_line_with_a_path() {
        assert_eq!(
            source("Source: /home/ci1/v p/Vagrantfile\n"),
            Some(Path::new("/home/ci1/v p"))
        );
        for text in [
            "",
            "No description for domain: x\n",
            "Source: Vagrantfile",
            "x\nSource: /a/Vagrantfile",
            "Source: /a/Vagrantfile\nSource: /b/Vagrantfile\n",
            "Source: /",
        ] {
            assert_eq!(source(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_what_vagrant_names_is_vagrants() {
        let is = |source: &str| {
            let disk = Disk {
                target: "vdb".into(),
                source: source.into(),
            };
            is_vagrants("p_web", &disk)
        };
        assert!(is("/pool/p_web.img") && is("/pool/p_web_1.img") && is("/pool/p_web-vdb.qcow2"));
        assert!(!is("/pool/box.img") && !is("/p_web.img/data.qcow2") && !is("/pool/p_web_x.img"));
        assert!(
            !is("/pool/p_web-vdc.qcow2") && !is("/pool/p_web_.img") && !is("/pool/p_web2.img") && !is("-")
        );
    }
}
