//! Whoever gives things back is killed at the entry of a system call, at one after the other; whoever comes next finishes it: what the job had
//! is gone by its own tool's word, and a neighbour's thing of the same kind is what it was.

mod progress;
pub mod scenes;
pub mod traced;

use crate::support::call::to_end;
use crate::support::process::{Process, connected_to};
use crate::support::seed::{Random, full_sweep};
use crate::support::world::World;
use crate::support::{cgroup, programs, say};
use crate::virtualbox::{UID, USER, guests, places};
use jobcage_job::{GuestReport, Outcome};
use progress::Progress;
use scenes::Scene;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A job of several steps: `jobcage create`, and what is run in it.
pub struct Job<'w> {
    world: &'w World,
    /// The directory that it was made in, and that its steps begin in.
    project: PathBuf,
    pub id: String,
}

impl<'w> Job<'w> {
    /// Makes one that has the scene's things, under this name.
    fn made(world: &'w World, scene: &Scene, name: &str) -> Self {
        let project = world.dir.join("project").join(name);
        fs::create_dir(&project).unwrap();
        chown(&project, Some(UID), Some(UID)).unwrap();
        let mut job = Self {
            world,
            project,
            id: String::new(),
        };
        let options = (scene.options)(world);
        let words = options.iter().map(String::as_str);
        let own = job.project.display().to_string();
        let create = ["create", "--user", USER, "--project", &own];
        let words: Vec<&str> = create.into_iter().chain(words).collect();
        job.id = job.call(&words);
        job.says(&(scene.make)(world, name));
        job
    }

    /// What a call from its directory prints, which must succeed.
    fn call(&self, words: &[&str]) -> String {
        let mut command = self.world.command(programs::jobcage());
        command.args(words).current_dir(&self.project);
        to_end(command, b"").expect(0).text()
    }

    /// What a step says, which must succeed.
    pub fn says(&self, script: &str) -> String {
        let login = [
            "run", "--job", &self.id, "--user", USER, "--login", "--", "bash", "-ec", script,
        ];
        self.call(&login)
    }
}

/// What there is besides the job, which must be the same before and after it.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    /// By the tool.
    listed: Vec<String>,
    places: BTreeSet<PathBuf>,
    /// Directories of sockets.
    sockets: BTreeSet<PathBuf>,
    cages: BTreeSet<PathBuf>,
    processes: BTreeSet<i32>,
}

impl Rest {
    fn look(world: &World, scene: &Scene, neighbour: &Job<'_>) -> Self {
        let listed = listed(scene, neighbour);
        let sockets = fs::read_dir("/tmp").unwrap().map(|entry| entry.unwrap().path());
        let is_ours = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("jc-") || name.starts_with(".vbox-jc-")
        };
        // What a neighbour's tools were told may be in their cgroup for a while yet, until the next job's have looked.
        let shared = world.cgroup_root.join("guests");
        let is_cage = |dir: &PathBuf| !(scene.shares_tools && *dir == shared);
        Self {
            listed,
            places: places(world).into_iter().collect(),
            sockets: sockets.filter(is_ours).collect(),
            cages: world.cages().into_iter().filter(is_cage).collect(),
            processes: processes(world, neighbour),
        }
    }
}

/// The lines of a job's list, of which no tool promises an order.
fn listed(scene: &Scene, job: &Job<'_>) -> Vec<String> {
    let mut lines: Vec<String> = (scene.list)(job).lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// Those of this world, and whoever is in one of its cgroups; not the watcher, and not what the neighbour's cage has: daemons end in it and begin
/// anew as he looks. Whether his things run on is told by the list.
fn processes(world: &World, neighbour: &Job<'_>) -> BTreeSet<i32> {
    let below = |dir: &Path| {
        let dirs = cgroup::below(dir);
        dirs.iter().flat_map(|dir| cgroup::pids(dir)).collect::<Vec<_>>()
    };
    let his = || below(&world.cgroup_root.join(&neighbour.id));
    let before = his();
    let all = [connected_to(&world.dir), below(&world.cgroup_root)].concat();
    // One that he has killed is in his cage for a moment yet, and one that has just begun was not there before.
    let not_ours = [before, his(), world.watchers()].concat();
    let mut ours: BTreeSet<i32> = all.into_iter().filter(|pid| !not_ours.contains(pid)).collect();
    ours.retain(|pid| !Process::open(*pid).has_ended());
    ours
}

/// Kills whoever cleans up, once for each round, and has the others come.
pub fn sweep(scene: &Scene) {
    let mut world = (scene.world)();
    let rounds = if full_sweep() { scene.full } else { scene.sample };
    let mut progress = Progress::open(scene.name);
    let most = {
        let neighbour = Job::made(&world, scene, "theirs");
        let rest = Rest::look(&world, scene, &neighbour);
        // The first one is not killed, and tells how many calls there are. The next may be over sooner, as it polls less.
        let (mut most, _) = one_round(&world, scene, &neighbour, &rest, None);
        for round in progress.done()..rounds {
            let mut chance = Random::of(&format!("{} {round}", scene.name));
            // One of each part, so that the few of a sample are everywhere.
            let at = 1 + (round * most + chance.next() % most) / rounds;
            let kill = Kill {
                at,
                gc_first: *chance.pick(&[false, true]),
                tool_has: Duration::from_millis(chance.next() % TOOL_HAS_MS),
            };
            let (calls, was_killed) = one_round(&world, scene, &neighbour, &rest, Some(&kill));
            most = most.max(calls);
            progress.note(calls, was_killed);
        }
        neighbour.call(&["cleanup", &neighbour.id]);
        guests(&world);
        most
    };
    (scene.end)(&world);
    assert!(places(&world).is_empty(), "{:?}", places(&world));
    world.assert_nothing_left();
    progress.tell(most);
}

/// Where whoever cleans up is killed, and who comes then.
#[derive(Debug)]
struct Kill {
    at: u64,
    gc_first: bool,
    /// A tool that the dead one has started goes on for so long, until the next one kills it in the middle of something.
    tool_has: Duration,
}

/// As long as most of them take.
const TOOL_HAS_MS: u64 = 150;

/// A job from its beginning to the removal of its record: how many system calls its cleanup made, and whether it was killed there.
fn one_round(
    world: &World,
    scene: &Scene,
    neighbour: &Job<'_>,
    rest: &Rest,
    kill: Option<&Kill>,
) -> (u64, bool) {
    let job = Job::made(world, scene, "web");
    let had = listed(scene, &job);
    assert!(had != rest.listed && !had.is_empty(), "it has nothing: {had:?}");
    let told = ToldOnPanic(format!("{}: {kill:?}, {}", scene.name, job.id));
    let (calls, was_killed) =
        traced::cleaned_up(world, &job.id, |call| kill.is_some_and(|kill| kill.at == call));
    if let Some(kill) = kill.filter(|_| was_killed) {
        let tools = world.cgroup_root.join("guests").join(&job.id);
        let _ = cgroup::wait_empty(&tools, kill.tool_has);
    }
    // Who is first finds half of it done, and who is second finds nothing to do. Before the mark that the job is being ended gc leaves it alone.
    let mut heirs = [&["cleanup", job.id.as_str()][..], &["gc"]];
    if kill.is_some_and(|kill| kill.gc_first) {
        heirs.reverse();
    }
    for words in heirs {
        world.call(words).expect(0);
    }
    (scene.wait)(world, &job.id);
    let told_of = guests(world);
    assert!(was_killed || !told_of.is_empty(), "it tells of nothing");
    for guest in &told_of {
        assert!(
            guest.outcome == Outcome::Deleted && guest.why.is_none() && !guest.name.contains("theirs"),
            "{guest:?}"
        );
    }
    assert_eq!(Rest::look(world, scene, neighbour), *rest);
    assert_project(&job, scene, &told_of);
    world.call(&["gc", "--keep", "0s"]).expect(0);
    assert!(world.closed_reports().is_empty(), "its record is kept");
    drop(told);
    (calls, was_killed)
}

/// No file that was to go is in its directory, which goes now.
fn assert_project(job: &Job<'_>, scene: &Scene, told_of: &[GuestReport]) {
    let dirs = cgroup::below(&job.project).into_iter();
    let entries = dirs.flat_map(|dir| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()));
    let stays = |path: &Path| {
        scene
            .stays
            .iter()
            .any(|name| path.starts_with(job.project.join(name)))
    };
    let left: Vec<PathBuf> = entries.filter(|path| !path.is_dir() && !stays(path)).collect();
    assert!(left.is_empty(), "{left:?} {told_of:#?}");
    fs::remove_dir_all(&job.project).unwrap();
}

/// Says where a round was, should it fail.
struct ToldOnPanic(String);

impl Drop for ToldOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("--- {}", self.0));
        }
    }
}
