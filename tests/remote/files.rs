//! Files that go with a job: there before it, and back after it.

use crate::door::Break;
use crate::rig::{Rig, can};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;

/// A directory with what one may meet.
fn site(dir: &Path) {
    fs::create_dir_all(dir.join("conf.d")).unwrap();
    fs::write(dir.join("run.sh"), "#!/bin/sh\necho \"runs $1\"\n").unwrap();
    fs::set_permissions(dir.join("run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(dir.join("conf.d/a b"), vec![b'x'; 300_000]).unwrap();
    fs::set_permissions(dir.join("conf.d"), fs::Permissions::from_mode(0o500)).unwrap();
    symlink("run.sh", dir.join("link")).unwrap();
    chown(dir.join("run.sh"), Some(1234), Some(4321)).unwrap();
}

#[test]
fn files_go_there_before_the_job_and_come_back_after_it() {
    if !can("files::files_go_there_before_the_job_and_come_back_after_it") {
        return;
    }
    let rig = Rig::new("remote-files");
    let (here, there) = (rig.world.dir.join("here"), rig.world.dir.join("there"));
    site(&here.join("site"));
    fs::create_dir_all(&there).unwrap();
    let words = |word: &str| {
        word.replace("@HERE", here.to_str().unwrap())
            .replace("@THERE", there.to_str().unwrap())
    };
    let options = [
        words("--dir=@THERE"),
        words("--send=@HERE/site"),
        words("--send=@HERE/site/.:sub/dir"),
        words("--fetch=out:@HERE/back"),
        words("--fetch=sub/dir/.:@HERE/again"),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let script =
        "site/link now && cmp site/run.sh sub/dir/run.sh && mkdir out && echo made >out/file && exit 3";
    let done = rig.run(&options, &["sh", "-c", script]).expect(3);
    assert_eq!(done.text(), "runs now");
    let meta = fs::metadata(there.join("site/run.sh")).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o750, 1234, 4321)
    );
    assert_eq!(
        fs::metadata(there.join("site/conf.d")).unwrap().mode() & 0o7777,
        0o500
    );
    assert_eq!(fs::read_to_string(here.join("back/out/file")).unwrap(), "made\n");
    let back = fs::metadata(here.join("again/run.sh")).unwrap();
    assert_eq!((back.mode() & 0o7777, back.uid()), (0o750, 1234));
    assert_eq!(fs::read(here.join("again/conf.d/a b")).unwrap().len(), 300_000);
    assert_eq!(
        fs::read_link(here.join("again/link")).unwrap(),
        Path::new("run.sh")
    );
    rig.assert_nothing_left();
}

#[test]
fn what_cannot_be_sent_or_fetched_is_told() {
    if !can("files::what_cannot_be_sent_or_fetched_is_told") {
        return;
    }
    let rig = Rig::new("remote-no-files");
    let here = rig.world.dir.join("here");
    site(&here);
    let from = format!("--send={}", here.display());
    let missing = rig.run(&["--send", "/none/such"], &["true"]).refused();
    assert!(
        missing.contains("cannot send /none/such (--send)") && missing.contains("No such file"),
        "{missing}"
    );
    let refused = rig
        .run(&[&format!("{from}:/proc/none")], &["echo", "ran"])
        .expect(125);
    assert!(
        refused.told().contains("cannot put files into /proc/none"),
        "{}",
        refused.told()
    );
    assert_eq!(refused.text(), "");
    let refused = rig.run(&["--dir=/none", &from], &["echo", "ran"]).expect(125);
    assert!(
        refused.told().contains("in /none: No such file"),
        "{}",
        refused.told()
    );
    // The job was well, and its file is not there: that is no success. The job's own failure says more.
    let to = format!("--fetch=/none/such:{}", here.display());
    let done = rig.run(&[&to], &["true"]).expect(125);
    assert!(
        done.told().contains("\"/none/such\" is not fetched: ") && done.told().contains("No such file"),
        "{}",
        done.told()
    );
    rig.run(&[&to], &["sh", "-c", "exit 4"]).expect(4);
    let options = rig.world.call(&["run", "--send", "x", "--", "true"]).refused();
    assert!(options.contains("give --host as well"), "{options}");
    rig.run(&["--detach", &to], &["true"]).refused();
    rig.assert_nothing_left();
}

/// What lies there is the job's: whoever packs it has the rights of the job's user, wherever a link leads.
#[test]
fn a_hostile_job_gets_nothing_that_its_user_may_not_read() {
    if !can("files::a_hostile_job_gets_nothing_that_its_user_may_not_read") {
        return;
    }
    let rig = Rig::new("remote-hostile-files");
    let (there, here) = (rig.world.dir.join("theirs"), rig.world.dir.join("here"));
    fs::create_dir_all(&there).unwrap();
    chown(&there, Some(65534), Some(65534)).unwrap();
    let private = rig.world.dir.join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(private.join("secret"), "s3cr3t").unwrap();
    let options = [
        "--user=nobody".to_owned(),
        format!("--dir={}", there.display()),
        format!("--fetch=way/secret:{}", here.display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let script = format!("ln -s {} way", private.display());
    let done = rig.run(&options, &["sh", "-c", &script]).expect(125);
    assert!(done.told().contains("Permission denied"), "{}", done.told());
    assert!(!here.join("secret").exists());
    rig.assert_nothing_left();
}

/// Each line that breaks on the way there and back costs only time, and a job that was begun once is not begun again.
#[test]
fn broken_lines_cost_files_only_time() {
    if !can("files::broken_lines_cost_files_only_time") {
        return;
    }
    let mut rig = Rig::new("remote-files-broken");
    let (here, there) = (rig.world.dir.join("here"), rig.world.dir.join("there"));
    for dir in [&here, &there] {
        fs::create_dir_all(dir).unwrap();
    }
    let bytes: Vec<u8> = (0..8_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(here.join("big"), &bytes).unwrap();
    let send = format!("--send={}", here.join("big").display());
    let dir = format!("--dir={}", there.display());
    let fetch = format!("--fetch=big2:{}", here.display());
    let words = [
        "--keepalive",
        "300ms",
        &dir,
        &send,
        &fetch,
        "--",
        "sh",
        "-c",
        "echo run >>runs; cp big big2",
    ];
    // The copy of jobcage is there before: it is not what is to be broken.
    rig.run(&[], &["true"]).expect(0);
    rig.door.cut_after(4_500, Break::Reset);
    let running = rig.start("run", &words);
    running.wait_told("is there again");
    rig.door.cut_after(3_000_000, Break::Close);
    let ended = running.end().expect(0);
    assert_eq!(fs::read_to_string(there.join("runs")).unwrap(), "run\n");
    assert!(fs::read(here.join("big2")).unwrap() == bytes, "{}", ended.err);
    rig.assert_nothing_left();
}

/// Side by side, what comes from each host has a place of its own.
#[test]
fn several_hosts_have_a_directory_each() {
    if !can("files::several_hosts_have_a_directory_each") {
        return;
    }
    let rig = Rig::new("remote-files-many");
    let here = rig.world.dir.join("here");
    let there = rig.world.dir.join("there");
    fs::create_dir_all(&there).unwrap();
    let (fetch, dir) = (
        format!("--fetch=who:{}", here.display()),
        format!("--dir={}", there.display()),
    );
    // One host under two names, one after the other by a lock: the file is what the last one has written.
    let words = ["--host=there2", &dir, &fetch, "--", "sh", "-c", "echo x >who"];
    rig.call("run", &words).expect(0);
    for host in ["there", "there2"] {
        assert_eq!(fs::read_to_string(here.join(host).join("who")).unwrap(), "x\n");
    }
    rig.assert_nothing_left();
}
