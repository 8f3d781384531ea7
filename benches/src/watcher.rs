//! `jobcage watch`, started once before anything is measured, as it is on a host where jobs run.

use crate::Result;
use crate::ground::loudly;
use crate::tools::{Tools, terminate};
use std::cell::RefCell;
use std::process::Child;

/// The running watcher; ended with the benchmark.
#[derive(Debug)]
pub struct Watcher(RefCell<Child>);

impl Watcher {
    /// Starts it.
    pub fn start(tools: &Tools) -> Result<Self> {
        let mut command = tools.command(tools.path("jobcage"))?;
        Ok(Self(RefCell::new(command.arg("watch").spawn()?)))
    }

    /// Its pid, so that it is not counted as part of a job.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.borrow().id().cast_signed()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut child = self.0.borrow_mut();
        match child.try_wait() {
            Ok(None) => {
                let ended = terminate(&child).and_then(|()| Ok(child.wait()?));
                if let Err(why) = ended {
                    loudly(&format!("the watcher: {why}"));
                }
            }
            Ok(Some(status)) => loudly(&format!("the watcher ended before the benchmark did: {status}")),
            Err(why) => loudly(&format!("the watcher: {why}")),
        }
    }
}
