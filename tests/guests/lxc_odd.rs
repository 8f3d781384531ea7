//! LXC, where something is odd: what could be another's or do harm is named and not touched, and what does not answer is tried again.

use crate::lxc::{Running, SYSTEM, create, id_of, lonely, names, prepared, root, start, sudo, told};
use crate::podman::{end, guests, job_in, says};
use crate::virtualbox::places;
use jobcage_job::{GuestReport, Outcome};
use nix::sys::signal::Signal;

/// Root's tools read nothing that others could have written: each is named, with the reason, and nothing is done.
pub fn distrusted() {
    let mut world = lonely("lxc-open");
    let hook = world.dir.join("hooked");
    {
        let job = prepared(&world, 720);
        let id = id_of(&job);
        let damage = |name: &str, script: &str| {
            let config = format!("{SYSTEM}/{id}.{name}/config");
            let hook = format!(
                "echo 'lxc.hook.destroy = /usr/bin/touch {}' >>{config}\n",
                hook.display()
            );
            create(&format!("{id}.{name}")) + &hook + &script.replace("CONFIG", &config) + "\n"
        };
        let script = [
            start(&format!("{id}.config")) + &format!("chmod 666 {SYSTEM}/{id}.config/config\n"),
            damage("owner", "chown 100000 $(dirname CONFIG)"),
            damage("group", "chgrp 2001 $(dirname CONFIG)"),
            damage(
                "type",
                "mv CONFIG /tmp/config; chown 2001 /tmp/config; ln -s /tmp/config CONFIG",
            ),
            damage("none", "rm CONFIG"),
            create("real") + &format!("ln -s {SYSTEM}/real {SYSTEM}/{id}.link\n"),
            create(&format!("{id}.bind")) + &format!("mount --bind /srv {SYSTEM}/{id}.bind/rootfs/mnt\n"),
            damage(
                "path",
                "mv $(dirname CONFIG)/rootfs /srv/root; sed -i 's,^lxc.rootfs.path.*,lxc.rootfs.path = dir:/srv/root,' CONFIG",
            ),
        ];
        root(&script.concat());
        let left = Running::find(&format!("{id}.config"));
        let log = end(&job);
        for (name, why) in [
            (
                "config",
                "/config may be written by others than root (mode 0666, group 0)",
            ),
            ("owner", ".owner belongs to the user 100000, not to root"),
            (
                "group",
                ".group may be written by others than root (mode 0770, group 2001)",
            ),
            ("type", "/config is of another type than LXC makes it"),
            ("none", "LXC does not know it: it has no config"),
            ("bind", "something is mounted at /var/lib/lxc/ID.bind/rootfs/mnt"),
            ("path", "its files are not in its own directory: /srv/root"),
            ("link", ".link cannot be opened: Not a directory"),
        ] {
            let told = told(&log, &format!("{id}.{name}"));
            assert!(
                told.starts_with("not touched: ") && told.ends_with(&why.replace("ID", &id)),
                "{name}: {told}"
            );
        }
        assert!(left.is_alive() && names().len() == 9, "{:?}", names());
        root(&format!(
            "lxc-destroy -f -n {id}.config; umount {SYSTEM}/{id}.bind/rootfs/mnt; ls /srv/root/bin/sh
             rm -r {SYSTEM}/* /tmp/config /srv/root"
        ));
        left.assert_gone();

        let job = prepared(&world, 721);
        let id = id_of(&job);
        root(&(create(&format!("{id}.web")) + &format!("chmod 777 {SYSTEM}")));
        let log = end(&job);
        let why = "not touched: /var/lib/lxc may be written by others than root (mode 0777, group 0)";
        assert_eq!(told(&log, &format!("{id}.web")), why);
        root(&format!("chmod 755 {SYSTEM}; lxc-destroy -n {id}.web"));
    }
    assert!(!hook.exists() && guests(&world, "container").iter().all(is_spared));
    world.assert_nothing_left();
}

fn is_spared(guest: &GuestReport) -> bool {
    guest.outcome == Outcome::Spared
}

/// A container goes after its own clones. One that a neighbour's clone stands on is left, until that is gone.
pub fn clones() {
    let mut world = lonely("lxc-clones");
    // An overlay of our own is no place for another one; and a file system of its own for containers is usual.
    root(&format!("mount -t tmpfs -o mode=755 lxc {SYSTEM}"));
    {
        let job = prepared(&world, 730);
        let id = id_of(&job);
        let copy = |clone: &str| format!("lxc-copy -n {id}.base -N {clone} -B overlayfs -s\n");
        root(&(create(&format!("{id}.base")) + &copy(&format!("{id}.clone")) + &copy("other")));
        let ended = job.call("cleanup", &[]);
        let log = ended.log;
        assert_eq!(told(&log, &format!("{id}.clone")), "deleted");
        assert!(
            told(&log, &format!("{id}.base")).contains("has clones; \"jobcage gc\" tries again"),
            "{log}"
        );
        assert_eq!(names(), [format!("{id}.base"), "other".into()]);
        root("lxc-start -n other; lxc-destroy -f -n other");
        world.call(&["gc"]).expect(0);
        assert_eq!((names(), places(&world).len()), (Vec::new(), 0));
    }
    root(&format!("umount {SYSTEM}"));
    world.assert_nothing_left();
}

/// A container whose monitor does not answer is left, and gc tries again when it does.
pub fn silent() {
    let mut world = lonely("lxc-silent");
    {
        let job = job_in(&world, 760, "lxc=shared", "guest_timeout = '3s'");
        let name = format!("{}.web", id_of(&job));
        says(&job, &sudo(&start(&name)));
        let web = Running::find(&name);
        web.monitor.signal(Signal::SIGSTOP);
        let ended = job.call("cleanup", &[]);
        assert!(
            told(&ended.log, &name).contains("LEFT, "),
            "{} {}",
            ended.code,
            ended.log
        );
        assert_eq!((names().len(), places(&world).len()), (1, 1));
        web.monitor.signal(Signal::SIGCONT);
        assert!(web.is_alive());
        world.call(&["gc"]).expect(0);
        web.assert_gone();
    }
    assert_eq!((names(), places(&world).len()), (Vec::new(), 0));
    assert_eq!(guests(&world, "container").len(), 1);
    world.assert_nothing_left();
}
