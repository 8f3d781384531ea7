//! Two hosts in network namespaces of their own, with a cable between them, and what can become of a line over it. Shared with the test VM, whose
//! kernels can make a cable slow.

use crate::rig::{Running, Sshd, can, command, configure, wait_servers, write_client_config};
use crate::support::needs::{Need, met};
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const HERE: &str = "10.213.77.1";
const THERE: &str = "10.213.77.2";
/// The cable's ends, each in its own namespace.
pub const LINK: &str = "cable";

/// Two namespaces, and a server in one of them.
pub struct Space {
    name: String,
    pub world: World,
    sshd: Option<Sshd>,
}

/// A PATH with jobcage in it: it need not go over the cable.
fn with_jobcage(world: &World) -> String {
    let bin = world.dir.join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(programs::jobcage(), bin.join("jobcage")).unwrap();
    format!("{}:/usr/bin:/bin", bin.display())
}

/// The words before those of a program in a namespace. Not `ip netns exec`, which mounts a /sys without cgroups.
pub fn entering(space: &str) -> [String; 2] {
    ["nsenter".into(), format!("--net=/run/netns/{space}")]
}

fn inside(space: &str, command: &Command) -> Command {
    let [nsenter, net] = entering(space);
    let mut inside = Command::new(nsenter);
    inside.arg(net);
    inside.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        inside.current_dir(dir);
    }
    inside
}

/// Gives a program its input.
#[track_caller]
pub fn feed(mut command: Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}: {input}");
}

impl Space {
    /// `None`: this machine lacks something, which was said.
    pub fn new(test: &str, needs: &[Need]) -> Option<Self> {
        if !can(test) || !met(test, &[Need::Program("ip")]) || !met(test, needs) {
            return None;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("jobcage-test-{}-{number}", std::process::id());
        // From here on they go when this does.
        let mut space = Self {
            world: World::new(&format!("remote-space-{number}")),
            name,
            sshd: None,
        };
        let (here, there) = (space.here(), space.there());
        let both = format!(
            "netns add {here}\nnetns add {there}\nlink add {LINK} netns {here} type veth peer name {LINK} netns {there}\n"
        );
        feed(batch(&[]), &both);
        for (space, address) in [(&here, HERE), (&there, THERE)] {
            let end = format!("addr add {address}/30 dev {LINK}\nlink set {LINK} up\n");
            feed(batch(&["-n", space]), &end);
        }
        let path = with_jobcage(&space.world);
        let file = configure(
            &space.world,
            &format!("ListenAddress {THERE}:22"),
            &[("PATH", &path)],
        );
        let server = inside(&there, &space.world.command("/usr/sbin/sshd"));
        space.sshd = Some(Sshd::start(server, &file));
        write_client_config(&space.world, THERE, 22);
        Some(space)
    }

    pub fn here(&self) -> String {
        format!("{}-here", self.name)
    }

    pub fn there(&self) -> String {
        format!("{}-there", self.name)
    }

    /// `jobcage run --host there …`, here.
    fn command(&self, words: &[&str]) -> Command {
        inside(&self.here(), &command(&self.world, "run", words))
    }

    fn start(&self, script: &str) -> Running {
        let words = ["--keepalive", "1s", "--", "sh", "-c", script];
        Running::start(&self.world, self.command(&words), "1")
    }

    /// Nobody is told of it.
    pub fn cut(&self, running: &Running) {
        lose_line(running, || self.set("down"));
        self.set("up");
    }

    /// Sets the client's end of the cable up or down.
    pub fn set(&self, state: &str) {
        let link = format!("link set {LINK} {state}\n");
        feed(batch(&["-n", &self.here()]), &link);
    }

    /// A firewall before the server answers everything with a RST.
    pub fn reset(&self, running: &Running) {
        lose_line(running, || {
            self.filter(
                "add table inet wall; add chain inet wall door { type filter hook input priority 0; }
                 add rule inet wall door tcp dport 22 reject with tcp reset",
            );
        });
        self.filter("delete table inet wall");
    }

    fn filter(&self, rules: &str) {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]);
        feed(inside(&self.there(), &nft), rules);
    }

    pub fn assert_nothing_left(mut self) {
        drop(self.sshd.take());
        wait_servers(&self.world);
        self.world.assert_clean_after_gc();
        self.world.assert_nothing_left();
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.sshd.take());
        for space in [self.here(), self.there()] {
            // The cable goes with it.
            let mut ip = Command::new("ip");
            let _ = ip.args(["netns", "del", &space]).stderr(Stdio::null()).status();
        }
    }
}

fn batch(words: &[&str]) -> Command {
    let mut ip = Command::new("ip");
    ip.args(words).args(["-batch", "-"]);
    ip
}

/// Returns when the line that there is has ended by this harm: its ssh has gone, since it was told, or since the client has heard nothing.
fn lose_line(running: &Running, harm: impl FnOnce()) {
    let ssh = running.wait_ssh();
    harm();
    assert!(ssh.wait_end(PATIENCE), "the line holds");
}

/// A job in parts: each says its number, waits until it may go on, and says much, all of it numbered. At its end it waits once more, so that no harm
/// comes to a line that is over.
fn parts(world: &World, parts: usize) -> String {
    world.fifo("gate");
    let gate = world.dir.join("gate");
    let wait = format!("read x <{}", gate.display());
    format!(
        "i=0; while [ $i -lt {parts} ]; do i=$((i+1)); echo part $i; {wait}; seq 1 {LINES}; done; echo end; {wait}; exit 4"
    )
}

/// Of a part: more than a slow cable takes at once.
const LINES: u32 = 20_000;

/// How a line is harmed.
pub type Harm = fn(&Space, &Running);

/// Harms the line of a job in the middle of each of its parts: all of it is said, once and in its order, and the end is the job's own. How many lines
/// it took.
pub fn harm_each(space: &Space, harms: &[Harm]) -> usize {
    let running = space.start(&parts(&space.world, harms.len()));
    // Held to the end: the job may not have read it yet.
    let mut gates = Vec::new();
    let mut let_go_on = |word: &str| {
        running.wait_for(word);
        gates.push(space.world.say_into("gate", "go"));
    };
    for (number, harm) in (1..).zip(harms) {
        let_go_on(&format!("part {number}\n"));
        harm(space, &running);
        running.wait_told_times("is there again", number);
    }
    let_go_on("end\n");
    let ended = running.end().expect(4);
    let lines: String = (1..=LINES).map(|i| format!("{i}\n")).collect();
    let parts = 1..=harms.len();
    let whole: String = parts.map(|part| format!("part {part}\n{lines}")).collect();
    assert!(ended.text() == format!("{whole}end\n"), "{}", ended.err);
    ended.err.matches("is there again").count() + 1
}
