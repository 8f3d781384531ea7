//! jobcage under the name of `bash` or `su`, first in the `PATH` of a runner that stays on `executor = "shell"`.
//!
//! A stage of a job is known by its words, by a pipe on standard input, and by its parent. It gets a cage that ends with it.
//! Everything else, and a stage for which no cage is to be had, becomes the real program, as if we had not been there.

mod form;
mod real;
mod runner;
mod stage;

pub use form::called_as;

use crate::complain;
use form::Name;
use real::Real;
use stage::Played;
use std::ffi::OsString;
use std::process::ExitCode;

/// What a shell returns where it finds no program.
const NOT_FOUND: u8 = 127;

/// Does what the real program would be asked for.
pub fn perform(name: Name, words: &[OsString]) -> ExitCode {
    let real = match Real::find(name) {
        Ok(real) => real,
        Err(missing) => {
            complain(&missing);
            return ExitCode::from(NOT_FOUND);
        }
    };
    if form::is_stage(name, words) && stage::script_comes_by_a_pipe() {
        match stage::play(&real, words) {
            Played::Ended(code) => return ExitCode::from(code),
            Played::NotOurs => {}
            Played::NoCage(why) => complain(&format_args!(
                "warning: this stage runs without a cage, so what it leaves behind lives on: {why}"
            )),
        }
    }
    let failure = real.become_it(words);
    complain(&failure);
    ExitCode::from(failure.exit_code())
}
