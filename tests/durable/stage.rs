//! Where the change of hands is played: a world, and who owns the job.

use crate::support::call::to_end;
use crate::support::captured::{Captured, kill_all};
use crate::support::needs::{Need, met};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, programs};
use jobcage_job::Report;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::time::Instant;

/// Whose job it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Ours, with all our rights.
    Own,
    /// `--user nobody`, under jobcage of root.
    Other,
    /// nobody's jobcage, in a cgroup that was given to nobody.
    Rootless,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victims {
    /// The supervisor; the keeper and the watcher start the next.
    Supervisor,
    /// The keeper.
    Keeper,
    /// The supervisor and the watcher: the keeper alone starts the next.
    SupervisorAndWatcher,
    /// The keeper and the watcher: nobody would follow the supervisor.
    KeeperAndWatcher,
    /// The last two who hold the pipe.
    Both,
}

pub const ALL: [Victims; 5] = [
    Victims::Supervisor,
    Victims::Keeper,
    Victims::SupervisorAndWatcher,
    Victims::KeeperAndWatcher,
    Victims::Both,
];

/// The place.
pub struct Stage {
    pub world: World,
    who: Who,
}

const NOBODY: u32 = 65534;

impl Stage {
    /// `None`: it cannot be played here.
    pub fn new(test: &str, who: Who) -> Option<Self> {
        if who != Who::Own && !met(test, &[Need::Root]) {
            return None;
        }
        if who == Who::Rootless && !met(test, &[Need::Program("setpriv")]) {
            return None;
        }
        let world = World::new(test);
        // Whoever it is writes here.
        fs::set_permissions(&world.dir, Permissions::from_mode(0o777)).unwrap();
        for fifo in ["go", "go2"] {
            world.fifo(fifo);
            fs::set_permissions(world.dir.join(fifo), Permissions::from_mode(0o666)).unwrap();
        }
        if who == Who::Rootless {
            for dir in ["run", "state", "home"] {
                chown(world.dir.join(dir), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            // What a delegation gives (cgroup-v2, "Model of Delegation").
            for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
                chown(world.cgroup_root.join(file), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            fs::copy(programs::jobcage(), world.dir.join("jobcage")).unwrap();
        }
        Some(Self { world, who })
    }

    /// `jobcage run --detach options… -- sh -c script`.
    #[track_caller]
    pub fn detach(&self, options: &[&str], script: &str) -> Captured {
        let script = format!("exec 2> /dev/null; {script}");
        let argv = ["sh", "-c", &script];
        match self.who {
            Who::Own => self.world.detach(options, &argv),
            Who::Other => self
                .world
                .detach(&[&["--user", "nobody"], options].concat(), &argv),
            Who::Rootless => {
                let mut command = self.world.command("sh");
                // Born outside, it is moved in by root, as systemd would.
                command.args([
                    "-c",
                    "echo 0 > \"$JOBCAGE_CGROUP_ROOT/cgroup.procs\" && \
                     exec setpriv --reuid 65534 --regid 65534 --clear-groups ./jobcage run --detach \"$@\"",
                    "sh",
                ]);
                command.args(options).arg("--").args(argv);
                self.world.captured(&to_end(command, b"").expect(0).text())
            }
        }
    }

    /// Kills them at once. Nothing is waited for but their ends.
    #[track_caller]
    pub fn kill(&self, job: &Captured, victims: Victims) {
        let supervisor = job.supervisor(&self.world);
        let keeper = job.keeper();
        let watchers = self.watchers();
        let watchers: Vec<Process> = watchers.into_iter().map(Process::open).collect();
        let mut dead: Vec<&Process> = match victims {
            Victims::Supervisor | Victims::SupervisorAndWatcher => vec![&supervisor],
            Victims::Keeper | Victims::KeeperAndWatcher => vec![&keeper],
            Victims::Both => vec![&keeper, &supervisor],
        };
        if matches!(victims, Victims::SupervisorAndWatcher | Victims::KeeperAndWatcher) {
            dead.extend(&watchers);
        }
        kill_all(&dead);
    }

    /// The watcher, who may still be on its way into its leaf.
    #[track_caller]
    fn watchers(&self) -> Vec<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            let watchers = cgroup::pids(&self.world.cgroup_root.join("hold"));
            if !watchers.is_empty() {
                return watchers;
            }
            assert!(Instant::now() < end, "there is no watcher");
            std::thread::yield_now();
        }
    }

    /// The lines that an after phase has put into `after`.
    pub fn after(&self) -> String {
        fs::read_to_string(self.world.dir.join("after")).unwrap_or_default()
    }

    /// What every report says after these have died, and the proof that nothing is left.
    #[track_caller]
    pub fn look_behind(&mut self, job: &Captured, report: &Report, victims: Victims) {
        assert!(report.clean, "{report:#?}");
        let notes = report.notes.join("\n");
        let told = match victims {
            Victims::Supervisor | Victims::SupervisorAndWatcher => "its supervisor",
            Victims::Keeper | Victims::KeeperAndWatcher => "the keeper died",
            Victims::Both => "the tail may be missing",
        };
        assert!(notes.contains(told), "{victims:?}: {notes:?}");
        if victims == Victims::SupervisorAndWatcher {
            assert!(notes.contains("took over"), "{notes:?}");
        }
        self.world.assert_nobody_left();
        // Who closed a lost job is the watcher's child, and takes them away behind the report.
        let gone = |job: &Captured| {
            let files = job.files();
            !["phase.json", "keeper.sock", "reserve"]
                .iter()
                .any(|name| files.iter().any(|file| file == name))
        };
        assert!(job.wait(gone), "{:?}", job.files());
    }
}
