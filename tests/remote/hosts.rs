//! Hosts that are not as one would wish: a clear error each, or no difference.

use crate::rig::{Rig, can};
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn what_shells_print_is_no_trouble() {
    if !can("hosts::what_shells_print_is_no_trouble") {
        return;
    }
    let noise = std::env::temp_dir().join(format!("jobcage-test-{}-noise", std::process::id()));
    fs::write(
        &noise,
        "printf 'Welcome to there!\\n\\0\\377 no line end'; echo 'and on stderr' >&2\n",
    )
    .unwrap();
    let banner = std::env::temp_dir().join(format!("jobcage-test-{}-banner", std::process::id()));
    fs::write(&banner, "Only for those who may.\n").unwrap();
    let config = format!("Banner {}", banner.display());
    let rig = Rig::with("remote-noise", &[("BASH_ENV", noise.to_str().unwrap())], &config);
    for _ in 0..2 {
        let done = rig.run(&[], &["sh", "-c", "echo out; echo err >&2"]).expect(0);
        assert_eq!(done.text(), "out");
        assert!(
            done.told().ends_with("err\n") && !done.told().contains("Welcome"),
            "{}",
            done.told()
        );
    }
    fs::remove_file(&noise).unwrap();
    fs::remove_file(&banner).unwrap();
    rig.assert_nothing_left();
}

#[test]
fn hosts_that_cannot_be_reached_are_told_of() {
    if !can("hosts::hosts_that_cannot_be_reached_are_told_of") {
        return;
    }
    let rig = Rig::new("remote-unreachable");
    let known = fs::read_to_string(rig.world.dir.join("known")).unwrap();
    let key = fs::read_to_string(rig.world.dir.join("userkey.pub")).unwrap();
    // A key of another host, as after an attack or a new installation.
    fs::write(rig.world.dir.join("known"), format!("there {key}")).unwrap();
    let told = rig.run(&[], &["true"]).refused();
    assert!(
        told.contains("cannot reach there") && told.contains("Host key verification failed"),
        "{told}"
    );
    fs::write(rig.world.dir.join("known"), known).unwrap();
    // Nobody who may log in.
    fs::write(rig.world.dir.join("userkey.pub"), "").unwrap();
    let told = rig.run(&[], &["true"]).refused();
    assert!(told.contains("Permission denied"), "{told}");
    fs::write(rig.world.dir.join("userkey.pub"), key).unwrap();
    rig.door.shut();
    let told = rig.run(&[], &["true"]).refused();
    assert!(told.contains("cannot reach there"), "{told}");
    rig.door.unshut();
    let told = rig
        .world
        .call(&[
            "run",
            "--host",
            "there",
            "--ssh",
            "/nonexistent/ssh",
            "--",
            "true",
        ])
        .refused();
    assert!(told.contains("--ssh"), "{told}");
    // Its output ends a while before it does.
    let slow = rig.world.dir.join("slow");
    fs::write(&slow, "exec >&-; sleep 0.2; echo its reason >&2; exit 255").unwrap();
    let slow = format!("sh {}", slow.display());
    let told = rig
        .world
        .call(&["run", "--host", "there", "--ssh", &slow, "--", "true"])
        .refused();
    assert!(told.contains("its reason"), "{told}");
    rig.run(&[], &["true"]).expect(0);
    rig.assert_nothing_left();
}

#[test]
fn a_host_without_room_for_a_copy_is_told_of() {
    if !can("hosts::a_host_without_room_for_a_copy_is_told_of") {
        return;
    }
    // Nobody may write there, not even root.
    let rig = Rig::with("remote-read-only", &[("XDG_CACHE_HOME", "/proc/nowhere")], "");
    let told = rig.run(&[], &["true"]).refused();
    assert!(
        told.contains("cannot reach there") && told.contains("mkdir"),
        "{told}"
    );
    rig.assert_nothing_left();
}

#[test]
fn a_full_disk_takes_no_half_of_a_copy() {
    if !can("hosts::a_full_disk_takes_no_half_of_a_copy") {
        return;
    }
    let rig = Rig::new("remote-full");
    let cache = rig.world.dir.join("cache");
    fs::create_dir(&cache).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), &cache, Some("tmpfs"), flags, Some("size=1m")).unwrap();
    let told = rig.run(&[], &["true"]).refused();
    assert!(
        told.contains("cannot reach there") && told.contains("No space left"),
        "{told}"
    );
    assert_eq!(
        fs::read_dir(cache.join("jobcage")).unwrap().count(),
        0,
        "a half of it stays"
    );
    nix::mount::umount(&cache).unwrap();
    rig.assert_nothing_left();
}

#[test]
fn programs_for_other_hosts_are_refused() {
    if !can("hosts::programs_for_other_hosts_are_refused") {
        return;
    }
    let rig = Rig::new("remote-arch");
    let other = rig.world.dir.join("other");
    // As far as anybody looks, one for aarch64.
    let mut bytes = fs::read(crate::support::programs::jobcage()).unwrap();
    bytes[18..20].copy_from_slice(&[183, 0]);
    fs::write(&other, bytes).unwrap();
    let told = rig
        .run(&["--remote-binary", other.to_str().unwrap()], &["true"])
        .refused();
    assert!(told.contains("is for aarch64, not for x86_64"), "{told}");
    fs::write(&other, "#!/bin/sh\n").unwrap();
    let told = rig
        .run(&["--remote-binary", other.to_str().unwrap()], &["true"])
        .refused();
    assert!(told.contains("is no program for Linux"), "{told}");
    // The right one, under another name.
    fs::copy(crate::support::programs::jobcage(), &other).unwrap();
    rig.run(&["--remote-binary", other.to_str().unwrap()], &["true"])
        .expect(0);
    rig.assert_nothing_left();
}

/// A jobcage of another time: it says which versions it speaks, and this one's is not among them.
#[test]
fn versions_that_do_not_meet_are_refused() {
    if !can("hosts::versions_that_do_not_meet_are_refused") {
        return;
    }
    let bin = std::env::temp_dir().join(format!("jobcage-test-{}-other", std::process::id()));
    fs::create_dir_all(&bin).unwrap();
    let welcome = r#"{"protocol":0,"known":[7,8],"version":"9.0","boot_id":"x"}"#;
    let script = format!(
        "#!/bin/sh\nif [ $1 = __protocols ]; then echo 'jobcage  1 '; exit; fi\nprintf '\\n%s here\\nw\\{:03o}\\0\\0\\0%s' $2 '{welcome}'\nexec cat >/dev/null\n",
        welcome.len()
    );
    fs::write(bin.join("jobcage"), script).unwrap();
    fs::set_permissions(bin.join("jobcage"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let rig = Rig::with("remote-version", &[("PATH", &path)], "");
    let told = rig.run(&[], &["true"]).refused();
    assert!(
        told.contains("its jobcage 9.0 speaks the versions [7, 8]"),
        "{told}"
    );
    fs::remove_dir_all(&bin).unwrap();
    rig.assert_nothing_left();
}
