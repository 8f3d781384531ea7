//! The job that jobcage's predecessor was made for: Vagrant starts machine after machine, and somebody cancels it.

use crate::runner::Runner;
use crate::support::PATIENCE;
use crate::support::cgroup::wait_change;
use crate::support::process::Process;
use crate::support::seed::{SplitMix, full_sweep, seed};
use crate::virtualbox::{as_user, assert_given_back, configured, guests, ok, runner, world};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A box as one makes it for Vagrant, in the user's own home, where all of his jobs find it: a machine with a disk of noise, so that its
/// import takes a while.
pub const MAKE_BOX: &str = "set -e; V=/usr/lib/virtualbox/VBoxManage; cd; mkdir box; cd box
$V createvm --name base --ostype Linux26_64 --register >/dev/null
$V modifyvm base --memory 16 --audio-driver none --paravirt-provider none --vm-execution-engine=interpreter
head -c 157286400 /dev/urandom > noise; $V convertfromraw noise noise.vdi >/dev/null; rm noise
$V storagectl base --name sata --add sata --portcount 1
$V storageattach base --storagectl sata --port 0 --device 0 --type hdd --medium $PWD/noise.vdi
$V export base --output box.ovf >/dev/null 2>&1
$V unregistervm base --delete >/dev/null 2>&1
echo '{\"provider\": \"virtualbox\"}' > metadata.json; echo 'Vagrant.configure(\"2\") { |c| c.vm.base_mac = \"080027000001\" }' > Vagrantfile
tar -cf ../noise.box *; cd ..; rm -r box
vagrant box add --name noise noise.box >/dev/null; rm noise.box";

/// No name here is hexadecimal: Vagrant takes `db` for the machine whose number begins so, if there is one.
pub const VAGRANTFILE: &str = r#"Vagrant.configure("2") do |config|
  config.vm.box = "noise"
  config.vm.boot_timeout = 1
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.vm.provider "virtualbox" do |v|
    v.check_guest_additions = false
    v.memory = 16
    v.customize ["modifyvm", :id, "--vm-execution-engine=interpreter", "--paravirt-provider", "none", "--audio-driver", "none"]
  end
  %w[web sql app].each { |name| config.vm.define name }
end
"#;

/// `forge NAME PROVIDER ID`: what Vagrant would note of a machine of the project, beside that of `web`.
pub const FORGE: &str = r#"forge() { mkdir -p .vagrant/machines/$1/$2; printf %s "$3" > .vagrant/machines/$1/$2/id
 sed -i "s,\"machines\":{,&\"f0f0\":{\"local_data_path\":\"$PWD/.vagrant\"\,\"name\":\"$1\"\,\"provider\":\"$2\"\,\"vagrantfile_path\":\"$PWD\"}\,," \
 $VAGRANT_HOME/data/machine-index/index; grep -c '"f0f0".*"web"' $VAGRANT_HOME/data/machine-index/index; }
"#;

pub const LOOK: &str = "vagrant global-status; /usr/lib/virtualbox/VBoxManage list vms; /usr/lib/virtualbox/VBoxManage list hdds; ls -A ~/.vagrant.d/tmp";

/// The machines in the place of the job that runs.
fn machines(world: &crate::support::world::World) -> usize {
    let places = fs::read_dir(world.dir.join("state-guests"))
        .into_iter()
        .flatten()
        .flatten();
    let disks = places.flat_map(|place| fs::read_dir(place.path().join("vms")).into_iter().flatten());
    disks.count()
}

/// Cancelled during the import of the third machine; a build server lives on.
pub fn beaker() {
    let mut world = world("vagrant-beaker");
    as_user(MAKE_BOX);
    let before = as_user(LOOK);
    {
        let runner: Runner<'_> = runner(&world, 300);
        let project = world.dir.join("project");
        fs::write(project.join("Vagrantfile"), VAGRANTFILE).unwrap();
        let script =
            "mkdir -p .vagrant/beaker_vagrant_files; cp Vagrantfile .vagrant/beaker_vagrant_files/default.yml
setsid sh -c 'echo $$ > server; exec sleep 1000' </dev/null >/dev/null 2>&1 &
for name in web sql; do vagrant up $name || echo \"$name: nobody can log in\"; done
/usr/lib/virtualbox/VBoxManage list runningvms
echo third; vagrant up app";
        let mut stage = runner.start_stage("build_script", script);
        let log = stage.wait_for_line("third", 4 * PATIENCE);
        assert_eq!(log.matches(" {").count(), 2, "two machines run: {log}");
        let vms = world.dir.join("state-guests");
        assert!(
            wait_change(Path::new(&vms), PATIENCE, || machines(&world) == 3),
            "no third import"
        );
        let server = Process::open(
            fs::read_to_string(project.join("server"))
                .unwrap()
                .trim()
                .parse()
                .unwrap(),
        );
        stage.signal(Signal::SIGTERM);
        let ended = stage.end();
        assert_eq!(ended.code, 1, "{}", ended.log);
        let cleanup = runner.call("cleanup", &[]);
        ok(&cleanup);
        assert!(server.has_ended());
        let told = cleanup
            .log
            .lines()
            .filter(|line| line.contains("deleted, "))
            .count();
        assert!(told >= 3, "{}", cleanup.log);
    }
    let vms = guests(&world).iter().filter(|guest| guest.what == "vm").count();
    assert!((2..=3).contains(&vms), "{vms}");
    assert_eq!(as_user(LOOK), before);
    as_user("vagrant box remove noise >/dev/null");
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// Cancelled without a grace at a random moment of `vagrant up`: what it was about to make is nowhere, and Vagrant does not know of it.
pub fn cut() {
    let rounds = if full_sweep() { 30 } else { 3 };
    let mut chance = SplitMix(seed());
    // Vagrant reads a file of less than 20 MiB as text, to see if it is one that describes boxes.
    as_user(&MAKE_BOX.replace("157286400", "26214400"));
    let before = as_user(LOOK);
    for round in 0..rounds {
        // It takes 0.6 s to begin, and some seconds to the end.
        let wait = Duration::from_millis(300 + chance.next() % 4700);
        let mut world = world("vagrant-cut");
        {
            let runner = configured(&world, 800 + round, "[run]\ngrace = '0s'\n");
            fs::write(world.dir.join("project/Vagrantfile"), VAGRANTFILE).unwrap();
            let mut stage = runner.start_stage(
                "build_script",
                "echo begun; while :; do vagrant up; vagrant destroy -f; done",
            );
            stage.wait_line("begun");
            std::thread::sleep(wait);
            stage.signal(Signal::SIGTERM);
            assert_eq!(stage.end().code, 1);
            ok(&runner.call("cleanup", &[]));
        }
        guests(&world);
        assert_eq!(as_user(LOOK), before, "round {round}, {} ms", wait.as_millis());
        assert_given_back(&world);
        world.assert_nothing_left();
    }
    as_user("vagrant box remove noise >/dev/null");
}
