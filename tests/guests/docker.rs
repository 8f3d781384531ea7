//! docker: what has the job's label or is of its compose project goes, and nothing else.

use crate::peers::start_docker;
use crate::podman::{end, guests, job, job_in, says};
use crate::runner::Runner;
use crate::support::cgroup;
use crate::support::world::World;
use crate::vagrant::FORGE;
use crate::virtualbox::{places, world};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What docker says to root.
fn docker(words: &[&str]) -> String {
    let done = Command::new("docker").args(words).output().unwrap();
    assert!(done.status.success(), "{words:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

fn names(what: &str) -> Vec<String> {
    let format = if what == "container" {
        "{{.Names}}"
    } else {
        "{{.Name}}"
    };
    let words = [what, "ls", "--format", format];
    let all = if what == "container" { &["--all"][..] } else { &[] };
    let mut names: Vec<String> = docker(&[&words[..], all].concat())
        .lines()
        .map(str::to_owned)
        .collect();
    names.retain(|name| !["bridge", "host", "none"].contains(&name.as_str()));
    names.sort_unstable();
    names
}

/// Starts a container with this label; further words for `docker run`.
fn run(name: &str, label: &str, more: &str) -> String {
    format!(
        "docker run -d --network none {more} --name {name} --label {label} busybox sleep 1000 >/dev/null\n"
    )
}

fn prepared(world: &World) -> Runner<'_> {
    start_docker();
    job(world, 650, "docker=shared")
}

/// Of the job are its containers, networks and volumes by label, and those of its compose project.
pub fn given_back() {
    let mut world = world("docker-back");
    let log = {
        let job = prepared(&world);
        let (label, project) = (
            "jobcage.job=$JOBCAGE_JOB",
            "com.docker.compose.project=$COMPOSE_PROJECT_NAME",
        );
        let script = run("one", label, "-v one-named:/a -v /b")
            + &run("composed", project, "")
            + &format!(
                "docker create --network none --name idle --label {label} busybox true >/dev/null
                 docker volume create --label {label} one-volume; docker volume create --label {project} composed-volume
                 docker network create --label {label} one-net; docker network create --label {project} composed-net
                 docker volume ls -q | wc -l; test $COMPOSE_PROJECT_NAME = $JOBCAGE_JOB"
            );
        assert!(says(&job, &script).contains("\n4\n"));
        assert_eq!(names("container"), ["composed", "idle", "one"]);
        end(&job)
    };
    for (name, fate) in [
        ("one", "running → deleted"),
        ("composed", "running → deleted"),
        ("idle", ": deleted"),
    ] {
        let of = format!("docker container \"{name}\" {{");
        let line = log.lines().find(|line| line.contains(&of));
        assert!(line.is_some_and(|line| line.ends_with(fate)), "{name}: {log}");
    }
    assert!(log.contains("docker volume \"one-volume\": deleted"), "{log}");
    let counts = ["container", "network", "volume"].map(|what| guests(&world, what).len());
    assert_eq!(counts, [3, 2, 2], "{log}");
    assert_eq!(names("container"), Vec::<String>::new());
    assert_eq!(names("network"), Vec::<String>::new());
    // It has a name and no label: it may be meant to stay.
    assert_eq!(names("volume"), ["one-named"]);
    docker(&["volume", "rm", "one-named"]);
    assert_eq!(places(&world).len(), 0);
    world.assert_nothing_left();
}

/// Whose label is nearly the job's, or has its id somewhere, stays.
pub fn neighbour() {
    let mut world = world("docker-next");
    {
        let job = prepared(&world);
        let id = says(&job, "echo id=$JOBCAGE_JOB")
            .trim()
            .rsplit_once("id=")
            .unwrap()
            .1
            .to_owned();
        let labels = [
            format!("jobcage.job={id}x"),
            format!("jobcage.job=x{id}"),
            format!("jobcage.job={id}\n{id}"),
            format!("other=\"jobcage.job={id}\""),
            format!("com.docker.compose.project={}", id.to_uppercase()),
            "jobcage.job=".into(),
        ];
        for (at, label) in labels.iter().enumerate() {
            docker(&[
                "run",
                "-d",
                "--network",
                "none",
                "--name",
                &format!("n{at}"),
                "--label",
                label,
                "busybox",
                "sleep",
                "1000",
            ]);
            docker(&["volume", "create", "--label", label, &format!("v{at}")]);
        }
        // Its own name is an id of a neighbour's, as far as docker allows.
        let other = docker(&["inspect", "-f", "{{.Id}}", "n0"]);
        says(&job, &run(&format!("{other}0"), "jobcage.job=$JOBCAGE_JOB", ""));
        let log = end(&job);
        assert_eq!(log.matches("docker container ").count(), 1, "{log}");
    }
    assert_eq!(names("container"), ["n0", "n1", "n2", "n3", "n4", "n5"]);
    let states = docker(&["ps", "-a", "--format", "{{.State}}"]);
    assert!(states.lines().all(|state| state == "running"), "{states}");
    assert_eq!(names("volume").len(), 6);
    for at in 0..6 {
        docker(&["rm", "-f", &format!("n{at}")]);
        docker(&["volume", "rm", &format!("v{at}")]);
    }
    world.assert_nothing_left();
}

/// What could not be given back keeps the job's record, and gc tries again when the daemon answers.
pub fn silent() {
    let mut world = world("docker-silent");
    start_docker();
    {
        let job = job_in(&world, 670, "docker=shared", "guest_timeout = '3s'");
        says(&job, &run("late", "jobcage.job=$JOBCAGE_JOB", ""));
        let daemon = cgroup::pids(Path::new("/sys/fs/cgroup/dockerd"));
        let signal = |what| {
            daemon
                .iter()
                .for_each(|pid| kill(Pid::from_raw(*pid), what).unwrap())
        };
        signal(Signal::SIGSTOP);
        let ended = job.call("cleanup", &[]);
        signal(Signal::SIGCONT);
        let told = "what docker has, by its socket \"/var/run/docker.sock\": LEFT";
        assert!(ended.log.contains(told), "{} {}", ended.code, ended.log);
    }
    assert_eq!(
        (names("container"), places(&world).len()),
        (vec!["late".into()], 1)
    );
    world.call(&["gc"]).expect(0);
    assert_eq!(
        (names("container"), places(&world).len()),
        (Vec::<String>::new(), 0)
    );
    assert_eq!(guests(&world, "container").len(), 1);
    world.assert_nothing_left();
}

/// Where nobody asks for it nothing is done, and jobs have no variable.
pub fn off() {
    let mut world = world("docker-off");
    {
        start_docker();
        let job = job(&world, 660, "isolate");
        let script = run("kept", "jobcage.job=$JOBCAGE_JOB", "") + "echo project=$COMPOSE_PROJECT_NAME.";
        assert!(says(&job, &script).ends_with("project=.\n"));
        end(&job);
    }
    assert_eq!(names("container"), ["kept"]);
    docker(&["rm", "-f", "kept"]);
    world.assert_nothing_left();
}

const VAGRANTFILE: &str = r#"Vagrant.configure("2") do |c|
  c.vm.synced_folder ".", "/vagrant", disabled: true
  %w[web named].each do |name|
    c.vm.define name do |m|
      m.vm.provider "docker" do |d|
        d.image = "busybox"; d.cmd = ["sleep", "1000"]; d.create_args = ["--network", "none"]
        d.name = "by_itself" if name == "named"
      end
    end
  end
end
"#;

/// A container without a label is the job's if Vagrant has noted it and named it: one that has another name stays, and so does a neighbour's whose id is noted.
pub fn of_vagrant() {
    let mut world = world("docker-vagrant");
    {
        let job = prepared(&world);
        fs::write(world.dir.join("project/Vagrantfile"), VAGRANTFILE).unwrap();
        let other = docker(&[
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            "theirs",
            "busybox",
            "sleep",
            "1000",
        ]);
        let script = format!(
            "{FORGE} export LC_ALL=C.UTF-8; vagrant up --provider=docker; forge forged docker {other}"
        );
        says(&job, &script);
        let all = names("container");
        assert!(
            all.len() == 3 && all.iter().any(|name| name.starts_with("project_web_")),
            "{all:?}"
        );
        let log = end(&job);
        let told = |name: &str, fate: &str| {
            let of = format!("docker container \"{name}");
            log.lines().any(|line| line.contains(&of) && line.contains(fate))
        };
        assert!(told("project_web_", "running → deleted"), "{log}");
        for name in ["by_itself", "theirs"] {
            assert!(
                told(name, "not touched: Vagrant has noted it for the job"),
                "{log}"
            );
        }
    }
    assert_eq!(names("container"), ["by_itself", "theirs"]);
    docker(&["rm", "-f", "by_itself", "theirs"]);
    assert_eq!(places(&world).len(), 0);
    world.assert_nothing_left();
}
