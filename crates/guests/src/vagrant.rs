//! Vagrant: its machines are other kinds' machines. Its home is the job's own, so that its index is, too; `vagrant destroy` would run
//! the job's own code, and is never called.

use crate::place::Making;
use crate::{Kind, Result};
use jobcage_job::{GuestMode, GuestPlace};
use std::path::Path;

pub struct Vagrant;

/// What all jobs of a user may use of what is in his own Vagrant home: boxes that were loaded, and plugins that were installed.
const SHARED: [&str; 3] = ["boxes", "gems", "plugins.json"];

impl Kind for Vagrant {
    fn name(&self) -> &'static str {
        "vagrant"
    }

    fn modes(&self) -> &'static [GuestMode] {
        &[GuestMode::Isolate]
    }

    fn usual(&self) -> Option<GuestMode> {
        Some(GuestMode::Isolate)
    }

    fn tools(&self) -> &'static [&'static str] {
        &["/usr/bin/vagrant", "/opt/vagrant/bin/vagrant"]
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
}
