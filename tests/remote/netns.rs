//! A network namespace, and the pair of links that leads there.

use std::process::Command;

/// Goes with its links when it is dropped.
pub struct Space {
    name: String,
    link: String,
    number: u8,
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

impl Space {
    /// Makes one; those of one process at a time have numbers of their own.
    pub fn new(number: u8) -> Self {
        let process = std::process::id() % 100_000;
        let space = Self {
            name: format!("jobcage-test-{process}-{number}"),
            link: format!("jct{process}-{number}"),
            number,
        };
        let (name, link) = (&space.name, &space.link);
        let (here, there) = (space.address(1), space.there());
        ip(&format!("netns add {name}"));
        ip(&format!(
            "link add {link} type veth peer name {link}p netns {name}"
        ));
        ip(&format!("addr add {here}/30 dev {link}"));
        ip(&format!("link set {link} up"));
        ip(&format!("-n {name} addr add {there}/30 dev {link}p"));
        ip(&format!("-n {name} link set {link}p up"));
        space
    }

    fn address(&self, last: u8) -> String {
        format!("10.213.{}.{last}", 77 + self.number)
    }

    /// The address of its other end.
    pub fn there(&self) -> String {
        self.address(2)
    }

    /// `nsenter`'s words to be in it. Not by `ip netns exec`, which mounts a /sys without cgroups.
    pub fn enter(&self) -> String {
        format!("--net=/run/netns/{}", self.name)
    }

    /// Sets the link up or down.
    pub fn set(&self, state: &str) {
        ip(&format!("link set {} {state}", self.link));
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // The links go with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
