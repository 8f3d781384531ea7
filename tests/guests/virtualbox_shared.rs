//! VirtualBox where all jobs of a user share its registry and its daemon: what is the job's goes, wherever it runs, and nothing else.

use crate::support::PATIENCE;
use crate::support::cgroup::wait_empty;
use crate::support::world::World;
use crate::vagrant::{FORGE, LOOK, MAKE_BOX, VAGRANTFILE};
use crate::virtualbox::{
    MANAGE, START, as_user, assert_given_back, configured, guests, ok, places, user_daemon_ends, world,
};
use jobcage_job::{GuestReport, Outcome};
use std::fs;

const SHARED: &str = "[run]\nguests = 'virtualbox=shared'\n";

fn outcome(guests: &[GuestReport], name: &str) -> Option<(Outcome, String)> {
    let found = guests.iter().find(|guest| guest.name.ends_with(name))?;
    Some((found.outcome, found.why.clone().unwrap_or_default()))
}

/// The user's daemon ends by itself, and the next job removes the empty cgroup in which tools have started it.
pub fn assert_tidied(world: &World) {
    user_daemon_ends();
    assert!(wait_empty(&world.cgroup_root.join("guests/shared"), PATIENCE));
    let id = world
        .call(&["create", "--user", "ci1", "--guests", "virtualbox=shared"])
        .expect(0)
        .text();
    world.call(&["cleanup", &id]).expect(0);
}

/// The daemon is outside of all cages, and so are the machines: that of the job is ended there, and a neighbour's runs on.
pub fn outside() {
    user_daemon_ends();
    let mut world = world("vbox-outside");
    let project = world.dir.join("project");
    as_user(&format!(
        "{START} $V createvm --name old --ostype Linux26_64 --basefolder {} --register >/dev/null
         make theirs $HOME/theirs.vdi; $V createmedium disk --filename $HOME/base.vdi --size 20 2>/dev/null >&2",
        project.display()
    ));
    {
        let runner = configured(&world, 700, SHARED);
        let script = format!(
            "{START} make inside $PWD/inside.vdi; make elsewhere $HOME/elsewhere.vdi
             $V createvm --name based --ostype Linux26_64 --basefolder $PWD/vms --register >/dev/null
             $V storagectl based --name 'a-b \"c\"' --add sata --portcount 1
             $V storageattach based --storagectl 'a-b \"c\"' --port 0 --device 0 --type hdd --medium $HOME/base.vdi
             $V createmedium disk --filename $PWD/orphan.vdi --size 20 2>/dev/null >&2; $V list runningvms"
        );
        let stage = runner.stage("build_script", &script);
        ok(&stage);
        assert_eq!(stage.log.matches(" {").count(), 3, "three run: {}", stage.log);
        let ended = runner.call("cleanup", &[]);
        ok(&ended);
        assert!(
            ended.log.contains("VirtualBox VM \"inside\" {")
                && ended.log.contains("not touched: it is older than the job"),
            "{}",
            ended.log
        );
    }
    let mut reports = world.closed_reports();
    let report = reports.remove(0);
    let warned =
        |note: &String| note.contains("VirtualBox's daemon of the user 2001 runs outside of this job");
    assert!(report.clean && report.notes.iter().any(warned), "{report:#?}");
    let told = |name: &str| outcome(&report.guests, name).map(|(outcome, _)| outcome);
    for (name, expected) in [
        ("inside", Some(Outcome::Deleted)),
        ("based", Some(Outcome::Deleted)),
        ("orphan.vdi", Some(Outcome::Deleted)),
        ("old", Some(Outcome::Spared)),
        ("theirs", None),
        ("elsewhere", None),
    ] {
        assert_eq!(told(name), expected, "{name}: {:#?}", report.guests);
    }
    for gone in ["inside.vdi", "orphan.vdi", "vms/based"] {
        assert!(!project.join(gone).exists(), "{gone} is there");
    }
    let mut listed: Vec<String> = as_user(&format!("{MANAGE} list vms"))
        .lines()
        .map(|line| line.split('"').nth(1).unwrap_or_default().to_owned())
        .collect();
    listed.sort_unstable();
    assert_eq!(listed, ["elsewhere", "old", "theirs"]);
    let running = as_user(&format!("{MANAGE} list runningvms; ls $HOME/base.vdi"));
    assert!(
        running.contains("\"theirs\"") && running.contains("base.vdi"),
        "{running}"
    );
    as_user(&format!(
        "{START} for name in theirs elsewhere; do $V startvm $name --type emergencystop; done
         while $V list runningvms | grep -q .; do sleep 0.1; done
         for name in theirs elsewhere old; do $V unregistervm $name --delete; done; rm $HOME/base.vdi"
    ));
    assert_tidied(&world);
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// The daemon is in the first job's cage, and so is the second one's machine: it dies with that, and stays what it is.
pub fn within() {
    user_daemon_ends();
    let mut world = world("vbox-within");
    {
        let [a, b] = [710, 711].map(|id| configured(&world, id, SHARED));
        ok(&a.stage("build_script", &format!("{START} make a $PWD/a.vdi")));
        ok(&b.stage("build_script", &format!("{START} make b $HOME/b.vdi")));
        let ended = a.call("cleanup", &[]);
        ok(&ended);
        assert!(
            ended
                .log
                .contains("running → not touched: nothing of it is in the job's directories"),
            "{}",
            ended.log
        );
        // What started in A's tools' cgroup is B's as well.
        let state = b.stage("step_look", &format!("{MANAGE} list vms"));
        ok(&state);
        assert!(
            state.log.contains("\"b\"") && !state.log.contains("\"a\""),
            "{}",
            state.log
        );
        ok(&b.call("cleanup", &[]));
    }
    assert!(!world.dir.join("project/a.vdi").exists());
    as_user(&format!("{MANAGE} unregistervm b --delete"));
    assert_tidied(&world);
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// While its process is being ended, nothing can be asked of a machine for a moment: whoever closes the job in that moment must not take it for
/// somebody else's. Several times, each a bit later in the closing, as the moment is short.
pub fn ending() {
    user_daemon_ends();
    let mut world = world("vbox-ending");
    as_user(&format!("{START} make theirs $HOME/theirs.vdi"));
    for round in 0..6 {
        let runner = configured(&world, 730 + round, SHARED);
        ok(&runner.stage("build_script", &format!("{START} make web $PWD/web.vdi")));
        let ended = std::thread::scope(|threads| {
            // It may find that the machine is gone.
            let stop = format!("sleep 0.{round}; {MANAGE} startvm web --type emergencystop || true");
            threads.spawn(move || as_user(&stop));
            runner.call("cleanup", &[])
        });
        ok(&ended);
        let listed = as_user(&format!("{MANAGE} list vms; {MANAGE} list hdds"));
        assert!(!listed.contains("web"), "round {round}: {}\n{listed}", ended.log);
        assert!(!world.dir.join("project/web.vdi").exists(), "round {round}");
    }
    as_user(&format!(
        "{START} $V startvm theirs --type emergencystop; while $V list runningvms | grep -q .; do sleep 0.1; done
         $V unregistervm theirs --delete"
    ));
    assert_tidied(&world);
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// Vagrant's machines lie where the user's do. Its note in the job's own index and the name it has given have to agree.
pub fn vagrant() {
    user_daemon_ends();
    // Vagrant reads a file of less than 20 MiB as text, to see if it is one that describes boxes.
    as_user(&MAKE_BOX.replace("157286400", "26214400"));
    let before = as_user(LOOK);
    let mut world = world("vbox-vagrant");
    {
        let project = world.dir.join("project");
        fs::write(project.join("Vagrantfile"), VAGRANTFILE).unwrap();
        let runner = configured(&world, 720, "[run]\nguests = 'isolate,virtualbox=shared'\n");
        // The second one is noted with the number of a machine that Vagrant has not made.
        let script = format!(
            "{START} {FORGE} vagrant up web || echo nobody can log in
             $V createvm --name theirs --ostype Linux26_64 --register | sed -n 's/UUID: //p' > uuid
             forge sql virtualbox $(cat uuid); $V list vms"
        );
        let stage = runner.stage("build_script", &script);
        ok(&stage);
        assert!(
            stage.log.contains("\"project_web_") && stage.log.contains("\"theirs\""),
            "{}",
            stage.log
        );
        let ended = runner.call("cleanup", &[]);
        ok(&ended);
        assert!(
            ended.log.contains("VirtualBox VM \"project_web_")
                && ended
                    .log
                    .contains("Vagrant has noted it for the job, but it has not the name"),
            "{}",
            ended.log
        );
    }
    let guests = guests(&world);
    let machines: Vec<Outcome> = guests
        .iter()
        .filter(|guest| guest.what == "vm")
        .map(|guest| guest.outcome)
        .collect();
    assert!(
        machines.len() == 2 && machines.contains(&Outcome::Deleted) && machines.contains(&Outcome::Spared),
        "{guests:#?}"
    );
    as_user(&format!("{MANAGE} unregistervm theirs --delete"));
    assert_eq!(as_user(LOOK), before);
    as_user("vagrant box remove noise >/dev/null");
    assert_tidied(&world);
    assert_eq!(places(&world), Vec::<std::path::PathBuf>::new());
    world.assert_nothing_left();
}
