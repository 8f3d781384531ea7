//! Vagrant: most of its machines are other kinds' machines. Its home is the job's own, so that its index is, too. `vagrant destroy` runs
//! the job's own code, so it is called for nothing that another kind knows, and only where the host wants it.

use crate::place::Making;
use crate::tools::{Pass, REMOVING};
use crate::vagrant_index::{Noted, noted};
use crate::{Fate, Found, GuestError, Kind, Machine, Result, Work};
use jobcage_job::{GuestMode, GuestPlace, Left};
use std::path::Path;

pub struct Vagrant;

const KIND: &str = "vagrant";

const TOOLS: [&str; 2] = ["/usr/bin/vagrant", "/opt/vagrant/bin/vagrant"];

/// What all jobs of a user may use of what is in his own Vagrant home: boxes that were loaded, and plugins that were installed.
const SHARED: [&str; 3] = ["boxes", "gems", "plugins.json"];

/// The providers whose machines another kind gives back, or none can.
const KNOWN: [&str; 3] = ["virtualbox", "libvirt", "docker"];

impl Kind for Vagrant {
    fn name(&self) -> &'static str {
        KIND
    }

    fn modes(&self) -> &'static [GuestMode] {
        &[GuestMode::Isolate, GuestMode::Destroy]
    }

    fn usual(&self) -> Option<GuestMode> {
        Some(GuestMode::Isolate)
    }

    fn tools(&self) -> &'static [&'static str] {
        &TOOLS
    }

    fn variables(&self, place: &GuestPlace, _: GuestMode) -> Vec<(&'static str, String)> {
        vec![
            ("VAGRANT_HOME", format!("{}/vagrant", place.dir)),
            ("VAGRANT_CHECKPOINT_DISABLE", "1".into()),
        ]
    }

    fn prepare(&self, dir: &Making<'_>) -> Result<()> {
        dir.dir("vagrant")?;
        let home = Path::new(&dir.place.home).join(".vagrant.d");
        for name in SHARED {
            let shared = home.join(name);
            if shared.exists() {
                dir.link(&format!("vagrant/{name}"), &shared)?;
            }
        }
        Ok(())
    }

    fn lists(&self) -> &'static [&'static str] {
        &["machine"]
    }

    fn is_used(&self, work: &Work<'_>) -> bool {
        work.mode == GuestMode::Destroy && !unknown(work.place).is_empty()
    }

    fn registry(&self, work: &Work<'_>) -> String {
        format!("{}/vagrant", work.place.dir)
    }

    /// From the index itself: `global-status` says less, and takes half a second.
    fn inventory(&self, _: &str, work: &Work<'_>, _: &Pass<'_>) -> Result<Vec<Found>> {
        let found = unknown(work.place).into_iter().map(|noted| Found {
            name: told(&noted),
            id: noted.id,
            ran: None,
        });
        Ok(found.collect())
    }

    /// Once: what the job's own code does not do, or not in time, it does not do at the second try. `gc` comes again.
    fn destroy(&self, _: &str, found: &Found, _: &Work<'_>, pass: &Pass<'_>) -> Fate {
        let Some(tool) = TOOLS.iter().find(|tool| Path::new(tool).exists()) else {
            return Fate::Failed(GuestError::Tool {
                tool: KIND.into(),
                said: "it is not on this host".into(),
            });
        };
        match pass.call(&[tool, "destroy", "--force", &found.id], REMOVING) {
            Ok(_) => Fate::Done,
            Err(why) => Fate::Failed(why),
        }
    }

    fn registered(&self, place: &GuestPlace, _: &[Left]) -> Vec<Machine> {
        let found = unknown(place).into_iter().map(|noted| Machine {
            kind: KIND,
            name: told(&noted),
            id: noted.id,
            pid: None,
        });
        found.collect()
    }
}

fn unknown(place: &GuestPlace) -> Vec<Noted> {
    let mut noted = noted(place);
    noted.retain(|noted| !KNOWN.contains(&noted.provider.as_str()));
    noted
}

fn told(noted: &Noted) -> String {
    format!("{} of {} ({})", noted.name, noted.project, noted.provider)
}
