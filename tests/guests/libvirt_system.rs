//! libvirt of the system, whose machines are in no cage: those of a job are told by Vagrant's files and by their own descriptions.

use crate::libvirt::{assert_given_back, defined, outcome};
use crate::peers::start_libvirt;
use crate::vagrant::FORGE;
use crate::virtualbox::{configured, guests, ok, world};
use jobcage_job::Outcome;
use std::fs;
use std::process::Command;

/// Words for the system's libvirt. `machine NAME WHERE`: a machine that runs, described as vagrant-libvirt describes those of the directory WHERE.
const SYSTEM: &str = r#"s() { virsh -q -c qemu:///system "$@"; }
machine() { sed "s,</name>,</name><description>Source: $2/Vagrantfile</description>," $1.xml > d.xml; s define d.xml; s start $1; }
"#;

/// Without a box there is nothing to boot, and without the network that vagrant-libvirt makes it does not wait for an address.
const VAGRANTFILE: &str = r#"Vagrant.configure("2") do |c|
  c.vm.synced_folder ".", "/vagrant", disabled: true
  c.vm.define "web"
  c.vm.provider :libvirt do |l|
    l.driver = "qemu"; l.cpu_mode = "custom"; l.cpu_model = "qemu64"; l.memory = 16; l.cpus = 1
    l.mgmt_attach = false; l.graphics_type = "none"; l.storage_pool_name = "jobs"
    l.storage :file, size: "10M"
    l.storage :file, path: "all.img", allow_existing: true
  end
end
"#;

/// Only what both say, Vagrant's file and the machine's own description, is the job's.
pub fn two_witnesses() {
    let mut world = world("libvirt-system");
    start_libvirt();
    let pool = world.dir.join("pool");
    let root = |words: &str| {
        let done = Command::new("virsh")
            .args(["-q", "-c", "qemu:///system"])
            .args(words.split(' '))
            .output()
            .unwrap();
        assert!(done.status.success(), "{words}: {done:?}");
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    };
    fs::create_dir(&pool).unwrap();
    root(&format!("pool-create-as jobs dir --target {}", pool.display()));
    root("vol-create-as jobs all.img 10M --format qcow2");
    let volumes = ["project_web-vda.qcow2", "all.img"].map(|volume| pool.join(volume));
    {
        fs::write(world.dir.join("project/Vagrantfile"), VAGRANTFILE).unwrap();
        for name in ["proj_lost", "neighbour"] {
            defined(&world, &format!("project/{name}.xml"), name, "");
        }
        let runner = configured(&world, 650, "[run]\nguests = 'libvirt=shared'\n");
        let script = format!(
            "{SYSTEM} {FORGE} export LC_ALL=C.UTF-8; vagrant up --provider=libvirt; s domblklist project_web
             machine proj_lost $PWD; machine neighbour /home/ci2/other; forge forged libvirt $(s domuuid neighbour)"
        );
        let stage = runner.stage("build_script", &script);
        ok(&stage);
        // It has made the one, and uses the other.
        for volume in &volumes {
            assert!(
                stage.log.contains(volume.to_str().unwrap()) && volume.exists(),
                "{}",
                stage.log
            );
        }
        let ended = runner.call("cleanup", &[]);
        ok(&ended);
        for told in [
            "libvirt VM \"project_web\" {",
            "}: running → deleted",
            "}: running → not touched: its description names no Vagrantfile beside the id file that names it",
            "}: running → not touched: no id file that Vagrant has written in this job names it",
        ] {
            assert!(ended.log.contains(told), "{told}: {}", ended.log);
        }
    }
    let guests = guests(&world);
    for (name, expected) in [
        ("project_web", Outcome::Deleted),
        ("neighbour", Outcome::Spared),
        ("proj_lost", Outcome::Spared),
    ] {
        assert_eq!(outcome(&guests, "vm", name), Some(expected), "{guests:#?}");
    }
    let mut running: Vec<String> = root("list --all --name").lines().map(Into::into).collect();
    running.sort_unstable();
    assert_eq!(running, ["neighbour", "proj_lost"]);
    assert_eq!(root("domstate neighbour"), "running");
    assert_eq!(volumes.map(|volume| volume.exists()), [false, true]);
    for name in ["neighbour", "proj_lost"] {
        root(&format!("destroy {name}"));
        root(&format!("undefine {name}"));
    }
    root("pool-destroy jobs");
    assert_given_back(&world);
    world.assert_nothing_left();
}
