//! The sweep over crash points: jobcage is killed at every system call of a whole job, and every call fails once in
//! every way. Afterwards nothing of the job is left, and its record tells what happened (docs/reliability.md).
//!
//! `JOBCAGE_SWEEP=full` runs every point, and goes on where it was interrupted; otherwise a seeded choice of them.

mod support;
mod sweep;

use sweep::Kind;

macro_rules! rows {
    ($($scene:ident)*) => {
        mod killed {
            $(#[test] fn $scene() { crate::sweep::row(stringify!($scene), crate::Kind::Killed); })*
        }

        mod failing {
            $(#[test] fn $scene() { crate::sweep::row(stringify!($scene), crate::Kind::Failing); })*
        }

        #[test]
        fn every_scene_has_its_tests() {
            let tests = [$(stringify!($scene)),*];
            for scene in sweep::scenes::all() {
                assert!(tests.contains(&scene.name), "{} has none", scene.name);
            }
        }
    };
}

rows! { leftover report timeout cancel idle create lease step cleanup gc watcher }
