//! `vagrant destroy` for machines of providers that nobody else knows: the job's own code runs then, whatever it is.

use crate::support::process::Process;
use crate::support::world::World;
use crate::virtualbox::{UID, configured, guests, ok, places, world};
use jobcage_job::Outcome;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A provider of the Vagrantfile's own, whose machine is a file that lies outside of everything that is the job's.
pub const PROVIDER: &str = r#"
class Toy < Vagrant.plugin("2", :provider)
  def initialize(machine); @machine = machine; end
  def state
    word = File.exist?("/home/ci1/toys/#{@machine.name}") ? :running : :not_created
    Vagrant::MachineState.new(word, word.to_s, word.to_s)
  end
  def action(name)
    path = "/home/ci1/toys/#{@machine.name}"
    Vagrant::Action::Builder.new.tap do |b|
      b.use lambda { |env| File.write(path, "x"); env[:machine].id = "toy" } if name == :up
      b.use lambda { |env| File.delete(path) if File.exist?(path); env[:machine].id = nil } if name == :destroy
    end
  end
end
class ToyPlugin < Vagrant.plugin("2")
  name "toy"
  provider("toy", box_optional: true) { Toy }
end
Vagrant.configure("2") do |c|
  c.vm.synced_folder ".", "/vagrant", disabled: true
  c.vm.define "web"
  TRIGGER
end
"#;

/// What the end of a job with a machine of such a provider tells. `trigger`: what the Vagrantfile does before one is destroyed.
fn ended(world: &World, id: u64, config: &str, trigger: &str) -> (i32, String) {
    let project = world.dir.join("project");
    let text = format!("c.trigger.before(:destroy) {{ |t| t.ruby {{ |e, m| {trigger} }} }}");
    fs::write(project.join("Vagrantfile"), PROVIDER.replace("TRIGGER", &text)).unwrap();
    let runner = configured(world, id, config);
    let stage = runner.stage(
        "build_script",
        "mkdir -p ~/toys && vagrant up --provider=toy && ls ~/toys",
    );
    ok(&stage);
    assert!(stage.log.lines().any(|line| line == "web"), "{}", stage.log);
    let ended = runner.call("cleanup", &[]);
    (ended.code, ended.log)
}

fn machine() -> &'static Path {
    Path::new("/home/ci1/toys/web")
}

/// Its code runs as the job's user, in the cgroup of tools, and what it starts ends with that.
pub fn wanted() {
    let mut world = world("vagrant-wanted");
    let trigger = r#"
      root = Process.uid == 0 || (Process::Sys.setuid(0); true) rescue false
      child = Process.spawn("setsid sleep 1000", [:out, :err, :in] => "/dev/null")
      File.write(File.join(__dir__, "seen"), [root, child, File.read("/proc/self/cgroup").lines.grep(/^0::/).first.strip, ENV.keys.sort.join(",")].join("\n"))"#;
    let (code, log) = ended(
        &world,
        730,
        "[run]\nguests = 'isolate,vagrant=destroy'\n",
        trigger,
    );
    assert_eq!(code, 0, "{log}");
    let told = format!(
        "Vagrant machine \"web of {} (toy)\"",
        world.dir.join("project").display()
    );
    assert!(log.contains(&told) && log.contains(": deleted"), "{log}");
    assert!(!machine().exists());
    let seen = world.dir.join("project/seen");
    let text = fs::read_to_string(&seen).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "false", "it is root: {text}");
    assert_eq!(fs::metadata(&seen).unwrap().uid(), UID);
    assert!(
        Process::open(lines[1].parse().unwrap()).has_ended(),
        "what it has started lives"
    );
    assert!(lines[2].contains("/guests/gitlab-730-"), "{text}");
    assert!(
        !lines[3].contains("KEY") && lines[3].contains("VAGRANT_HOME"),
        "{text}"
    );
    let deleted = guests(&world)
        .iter()
        .any(|g| g.kind == "vagrant" && g.outcome == Outcome::Deleted);
    assert!(deleted);
    assert_eq!(places(&world), Vec::<std::path::PathBuf>::new());
    world.assert_nothing_left();
}

/// Code that fails, or has no end, leaves the machine: it is named, the slot does not wait, and `gc` tries again.
pub fn hostile() {
    for (round, trigger, why) in [
        (0, "raise 'never'", "vagrant destroy --force"),
        (1, "sleep 1000", "has not ended within"),
    ] {
        let mut world = world("vagrant-hostile");
        let config = "[run]\nguests = 'isolate,vagrant=destroy'\nguest_timeout = '5s'\n";
        let (code, log) = ended(&world, 740 + round, config, trigger);
        assert_ne!(code, 0, "{log}");
        assert!(log.contains(why) && log.contains("LEFT"), "{log}");
        assert!(machine().exists());
        // The next try needs what Vagrant knows.
        assert_eq!(places(&world).len(), 1);
        let file = world.dir.join("project/Vagrantfile");
        let text = fs::read_to_string(&file).unwrap().replace(trigger, "nil");
        fs::write(&file, text).unwrap();
        world.call(&["gc", "--guests"]).expect(0);
        assert!(!machine().exists());
        guests(&world);
        assert_eq!(places(&world), Vec::<std::path::PathBuf>::new());
        world.assert_nothing_left();
    }
}

/// Nobody has asked for it, so no code of the job runs when the job is over.
pub fn unasked() {
    let mut world = world("vagrant-unasked");
    let (code, log) = ended(&world, 750, "", "File.write(File.join(__dir__, 'seen'), '')");
    assert_eq!(code, 0, "{log}");
    assert!(machine().exists() && !world.dir.join("project/seen").exists());
    fs::remove_file(machine()).unwrap();
    assert_eq!(places(&world), Vec::<std::path::PathBuf>::new());
    world.assert_nothing_left();
}
