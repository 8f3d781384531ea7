//! What a record tells of the steps of its job.

use crate::error::{LedgerError, Result};
use crate::record::{Record, Way};
use jobcage_job::StepReport;
use jobcage_sys::file::{self, Durability};
use nix::sys::stat::fstat;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

pub(crate) const BEGUN: &str = "begun-";
const STEP: &str = "step-";

/// The file of a step that runs, for its end.
#[derive(Debug)]
pub struct EndFile {
    file: OwnedFd,
    step: u32,
}

impl Record {
    /// Writes what is known of a step that begins and will end by [`Record::end_step`]. A file of its own, since to replace one
    /// costs several times as much as to make one, and nobody waits for it.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn begin_step(&self, step: &StepReport) -> Result<()> {
        self.write(&format!("{BEGUN}{:02}.json", step.number), step)
    }

    /// Makes the file for [`Record::end_step`] while the step runs. Empty it says no more than [`Record::begin_step`] has told.
    /// `None`: it is to be made at the end, as everything that has to be on a disk.
    #[must_use]
    pub fn prepare_end(&self, number: u32) -> Option<EndFile> {
        let is_for_now = self.durability == Durability::Kernel;
        // What is there already is somebody's word, and is not emptied.
        let file = is_for_now.then(|| file::create_new(self.dir.as_fd(), &step_name(number)).ok())??;
        Some(EndFile { file, step: number })
    }

    /// Writes how a step has ended of which [`Record::begin_step`] has told: whoever finds this cut off still has that.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn end_step(&self, step: &StepReport, prepared: Option<EndFile>) -> Result<()> {
        let name = step_name(step.number);
        let is_its = |prepared: &EndFile| {
            let is_there = || fstat(&prepared.file).is_ok_and(|stat| stat.st_nlink > 0);
            prepared.step == step.number && is_there()
        };
        if let Some(prepared) = prepared.filter(is_its)
            && file::write_all(prepared.file.as_fd(), &self.text_of(&name, step)?).is_ok()
        {
            return Ok(());
        }
        self.write_by(Way::Anew, &name, step, self.durability)
    }

    /// Writes or replaces what is known of a step.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn write_step(&self, step: &StepReport) -> Result<()> {
        self.write(&step_name(step.number), step)
    }

    /// What is known of one step; `None`: there is none such, or its file is damaged, which is the trace of a crash.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn step(&self, number: u32) -> Result<Option<StepReport>> {
        for kind in [STEP, BEGUN] {
            match self.read(&format!("{kind}{number:02}.json"), u32::MAX) {
                Ok(None) | Err(LedgerError::Damaged { .. }) => {}
                other => return other,
            }
        }
        Ok(None)
    }

    /// What is known of all steps, in order.
    ///
    /// # Errors
    /// If the directory cannot be read. A damaged file is passed over: it is the trace of a crash.
    pub fn steps(&self) -> Result<Vec<StepReport>> {
        let mut steps = BTreeMap::new();
        let names = self.names()?;
        // What was written at the end is the last word.
        for kind in [BEGUN, STEP] {
            let of_kind = names
                .iter()
                .filter(|name| name.starts_with(kind) && name.ends_with(".json"));
            let read = of_kind.filter_map(|name| self.read::<StepReport>(name, u32::MAX).ok().flatten());
            steps.extend(read.map(|step| (step.number, step)));
        }
        Ok(steps.into_values().collect())
    }
}

fn step_name(number: u32) -> String {
    format!("{STEP}{number:02}.json")
}
