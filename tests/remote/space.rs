//! A cable that goes down, which nobody is told of, and a firewall that resets what goes over it.

use crate::cable::{Space, harm_each};
use crate::support::needs::Need;

#[test]
fn a_cable_that_goes_down_costs_nothing_but_time() {
    let Some(space) = Space::new("space::a_cable_that_goes_down_costs_nothing_but_time", &[]) else {
        return;
    };
    harm_each(&space, &[Space::cut, Space::cut]);
    space.assert_nothing_left();
}

#[test]
fn a_firewall_that_resets_lines_costs_nothing_but_time() {
    let test = "space::a_firewall_that_resets_lines_costs_nothing_but_time";
    let Some(space) = Space::new(test, &[Need::Program("nft")]) else {
        return;
    };
    harm_each(&space, &[Space::reset, Space::reset]);
    space.assert_nothing_left();
}
