//! A job on another host over a cable that is slow, loses packets, is cut, and has a firewall that resets lines.

use crate::cable::{LINK, Space, feed, harm_each};
use crate::support::needs::Need;
use crate::support::say;
use std::process::Command;

#[test]
fn a_bad_cable_costs_nothing_but_time() {
    let test = "bad-cable";
    // Not each host's kernel can make one, and one kernel of the VM is enough.
    if !std::env::var("JOBCAGE_VM").is_ok_and(|kernel| kernel == "6.12") {
        say(&format!("not applicable: {test}: it runs in the VM, on 6.12"));
        return;
    }
    let Some(space) = Space::new(test, &[Need::Program("tc"), Need::Program("nft")]) else {
        return;
    };
    spoil(&space, "delay 20ms 5ms loss 6% rate 4mbit");
    let lines = harm_each(&space, &[Space::reset, Space::cut]);
    let lost = lost_packets(&space);
    assert!(lost > 0, "the cable was a good one");
    say(&format!(
        "{lines} lines, {lost} packets lost: no byte lost, none doubled"
    ));
    space.assert_nothing_left();
}

fn tc(space: &str, words: &[&str]) -> Command {
    let mut tc = Command::new("tc");
    tc.args(["-n", space]).args(words);
    tc
}

/// Makes the cable slow, in both directions, and has it lose packets.
fn spoil(space: &Space, how: &str) {
    for space in [space.here(), space.there()] {
        let rule = format!("qdisc add dev {LINK} root netem {how}\n");
        feed(tc(&space, &["-b", "-"]), &rule);
    }
}

/// So many packets were lost.
fn lost_packets(space: &Space) -> u64 {
    let count = |space: String| {
        let told = tc(&space, &["-s", "-j", "qdisc", "show", "dev", LINK])
            .output()
            .unwrap();
        let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
        told[0]["drops"].as_u64().unwrap_or_else(|| panic!("{told:#}"))
    };
    count(space.here()) + count(space.there())
}
