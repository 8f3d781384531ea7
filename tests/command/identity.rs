//! Who runs the command: `--user`, `--group`, `--login`.

use crate::support::needs::{self, Need};
use crate::support::world::World;
use std::fs;

const WHO: &str =
    "echo $(id -u) $(id -g) $(id -G); grep -E '^(Uid|Gid):' /proc/self/status | tr -s '\\t' ' '";

/// A world whose accounts are its own: bind mounts in a mount namespace hide the host's files.
struct Accounts {
    world: World,
}

impl Accounts {
    fn new(test: &str) -> Option<Self> {
        if !needs::met(test, &[Need::Root, Need::Program("unshare")]) {
            return None;
        }
        let world = World::new(test);
        let home = world.dir.display().to_string();
        let passwd = format!(
            "root:x:0:0:root:/root:/bin/sh\nwren:x:61234:61235:,,,:{home}/nest:/bin/special\nbare:x:61240:61240::/:\n"
        );
        fs::write(world.dir.join("passwd"), passwd).unwrap();
        let group = "root:x:0:\nwren:x:61235:\nbirds:x:61236:robin,wren\nsingers:x:61237:wren\nothers:x:61238:robin\n";
        fs::write(world.dir.join("group"), group).unwrap();
        Some(Self { world })
    }

    /// The output of `jobcage run words…` where the accounts are these.
    fn run(&self, words: &str) -> crate::support::call::Done {
        self.world.shell(&format!(
            "exec unshare --mount sh -c 'mount --bind passwd /etc/passwd && mount --bind group /etc/group && \
             exec \"$JOBCAGE\" run {words}'"
        ))
    }
}

#[test]
fn user_comes_with_its_groups() {
    let Some(accounts) = Accounts::new("user-groups") else {
        return;
    };
    fs::write(accounts.world.dir.join("who"), WHO).unwrap();
    for name in ["wren", "61234"] {
        let told = accounts.run(&format!("--user {name} -- sh who")).expect(0).text();
        let mut lines = told.lines();
        let ids: Vec<u32> = lines
            .next()
            .unwrap()
            .split(' ')
            .map(|id| id.parse().unwrap())
            .collect();
        assert_eq!(ids[..2], [61234, 61235], "{told}");
        let mut groups = ids[2..].to_vec();
        groups.sort_unstable();
        assert_eq!(
            groups,
            [61235, 61236, 61237],
            "initgroups(3) as for a login: {told}"
        );
        // Real, effective, saved and file system ids: nothing of root to go back to.
        assert_eq!(lines.next(), Some("Uid: 61234 61234 61234 61234"));
        assert_eq!(lines.next(), Some("Gid: 61235 61235 61235 61235"));
    }
    accounts.world.assert_clean();
}

#[test]
fn group_replaces_the_primary_one() {
    let Some(accounts) = Accounts::new("group") else {
        return;
    };
    fs::write(accounts.world.dir.join("who"), WHO).unwrap();
    let told = accounts
        .run("--user wren --group others -- sh who")
        .expect(0)
        .text();
    let ids: Vec<&str> = told.lines().next().unwrap().split(' ').collect();
    assert_eq!(ids[..2], ["61234", "61238"], "{told}");
    for group in ["61236", "61237", "61238"] {
        assert!(ids[2..].contains(&group), "{group} is missing: {told}");
    }
    // A number needs no entry, neither as user nor as group; then there are no further groups.
    let told = accounts
        .run("--user 71000 --group 71001 -- sh who")
        .expect(0)
        .text();
    assert!(told.starts_with("71000 71001 71001\n"), "{told}");
    let told = accounts.run("--user 71000 -- sh who").expect(0).text();
    assert!(told.starts_with("71000 71000 71000\n"), "{told}");
    // The group alone: still our own user.
    let told = accounts.run("--group birds -- sh who").expect(0).text();
    assert!(told.starts_with("0 61236 61236\n"), "{told}");
}

#[test]
fn login_gives_the_environment_of_the_account() {
    let Some(accounts) = Accounts::new("login") else {
        return;
    };
    fs::write(
        accounts.world.dir.join("show"),
        "echo \"$HOME|$USER|$LOGNAME|$SHELL|$PATH|$OTHER\"",
    )
    .unwrap();
    let dir = accounts.world.dir.display();
    let told = accounts
        .run("--login --user wren --env OTHER=kept -- sh show")
        .expect(0)
        .text();
    assert_eq!(
        told,
        format!("{dir}/nest|wren|wren|/bin/special|/usr/local/bin:/usr/bin:/bin|kept")
    );
    // What is given by name is stronger than the login's.
    let told = accounts
        .run("--login --user wren --env HOME=/elsewhere -- sh show")
        .expect(0)
        .text();
    assert!(told.starts_with("/elsewhere|wren|"), "{told}");
    // passwd(5): an empty shell field means /bin/sh.
    let told = accounts.run("--login --user bare -- sh show").expect(0).text();
    assert!(told.starts_with("/|bare|bare|/bin/sh|"), "{told}");
    // Without --login the environment is the caller's.
    let told = accounts.run("--user wren -- sh show").expect(0).text();
    assert!(told.starts_with(&format!("{dir}/home|")), "{told}");
    let told = accounts.run("--login --user 71000 -- sh show").refused();
    assert!(told.contains("--login needs an account"), "{told}");
}

#[test]
fn unknown_accounts_are_refused_before_anything_is_made() {
    let world = World::new("unknown-accounts");
    for (option, name) in [
        ("--user", "no-such-user"),
        ("--group", "no-such-group"),
        ("--user", ""),
        ("--user", "-1"),
        ("--group", "4294967296"),
    ] {
        let told = world.finish(&[option, name], &["true"]).refused();
        assert!(told.contains(option) || told.contains(name), "{told}");
    }
    world.assert_clean();
}

#[test]
fn a_user_that_we_may_not_become_is_an_error_that_names_it() {
    if !needs::met("setuid-refused", &[Need::Root, Need::Program("setpriv")]) {
        return;
    }
    let world = World::new("setuid-refused");
    // Root without CAP_SETUID and CAP_SETGID stands for an ordinary user, who could not use this cgroup root.
    let done = world.shell(
        "exec setpriv --bounding-set -setuid,-setgid --inh-caps -setuid,-setgid \"$JOBCAGE\" run --user 61234 -- true",
    );
    let told = done.expect(125).told();
    assert!(told.contains("never started: groups"), "{told}");
    assert!(told.to_lowercase().contains("not permitted"), "{told}");
    world.assert_clean();
}

#[test]
fn whoever_asks_for_what_he_is_gets_it() {
    let world = World::new("myself");
    let me = nix::unistd::getuid();
    let group = nix::unistd::getgid();
    for user in [
        Some(me.to_string()),
        nix::unistd::User::from_uid(me).unwrap().map(|user| user.name),
    ] {
        let Some(user) = user else { continue };
        let done = world
            .finish(&["--user", &user, "--group", &group.to_string()], &["id", "-u"])
            .expect(0);
        assert_eq!(done.text(), me.to_string(), "{user}");
    }
    world.assert_clean();
}
