//! Machines of KVM: QEMU's, and those of whatever else has one open (`Left::kvm`). They live in the cage and end with it, so there is no
//! tool and no place; what is to be done is to tell of them.

use crate::{Kind, Machine};
use jobcage_job::{Census, Death, GuestMode, GuestPlace, GuestReport, Left, Outcome};

pub struct Qemu;

impl Kind for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn modes(&self) -> &'static [GuestMode] {
        &[GuestMode::Isolate]
    }

    fn usual(&self) -> Option<GuestMode> {
        Some(GuestMode::Isolate)
    }

    /// Without it no machine of KVM can be.
    fn tools(&self) -> &'static [&'static str] {
        &["/dev/kvm"]
    }

    fn is_of_the_cage(&self) -> bool {
        true
    }

    fn variables(&self, _: &GuestPlace, _: GuestMode) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn ended(&self, census: &Census) -> Vec<GuestReport> {
        let killed = census.left.iter().filter(|left| left.died == Death::Killed);
        killed.filter_map(ended).collect()
    }

    fn registered(&self, _: &GuestPlace, processes: &[Left]) -> Vec<Machine> {
        let of = |left: &Left| {
            Some(Machine {
                kind: "qemu",
                name: left.kvm.clone()?,
                id: String::new(),
                pid: Some(left.pid),
            })
        };
        processes.iter().filter_map(of).collect()
    }
}

/// What became of the machine of a process that is dead.
fn ended(left: &Left) -> Option<GuestReport> {
    Some(GuestReport {
        kind: "qemu".into(),
        what: "vm".into(),
        name: left.kvm.clone()?,
        id: None,
        ran: Some(format!("pid {} ({})", left.pid, left.comm)),
        outcome: Outcome::Deleted,
        why: None,
        bytes: 0,
    })
}
