use super::*;
use jobcage_job::JobId;
use proptest::prelude::*;
use std::os::unix::fs::{PermissionsExt, symlink};

#[test]
fn a_name_is_the_jobs_id_and_perhaps_a_dot_and_more() {
    let id = "build-abcdefgh";
    for name in [
        "build-abcdefgh",
        "build-abcdefgh.",
        "build-abcdefgh.web",
        "build-abcdefgh.a.b",
    ] {
        assert_eq!(job_of(name), id, "{name}");
    }
    for name in [
        "",
        ".",
        "build",
        "build-abcdefg",
        "build-abcdefgh-web",
        "build-abcdefghi.web",
        "Build-abcdefgh.web",
        "x.build-abcdefgh",
        ".build-abcdefgh",
        "build-abcdefgh x",
        "-build-abcdefgh",
    ] {
        assert_ne!(job_of(name), id, "{name}");
    }
}

proptest! {
    /// Also where one job is called as another one's id, and more: a job that starts jobs may name them like that.
    #[test]
    fn no_generated_ids_names_are_another_generated_ids(name in ".{0,80}", more in ".{0,40}", [a, b]: [u64; 2]) {
        let first = JobId::generate(&name, a);
        for called in [name, format!("{first}{more}"), format!("{first}.{more}"), format!("{first}-{more}")] {
            let second = JobId::generate(&called, b);
            for [one, other] in [[&first, &second], [&second, &first]] {
                for name in [one.to_string(), format!("{one}.{more}"), format!("{one}.{other}"), format!("{one}.-{other}.x")] {
                    prop_assert_eq!(job_of(&name), one.as_str());
                    prop_assert!(one == other || job_of(&name) != other.as_str());
                }
            }
        }
    }
}

#[test]
fn names_are_those_of_directories_and_of_what_is_odd() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["j-a.b", "j-a", "j-ab", "j-a-b", "other"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("j-a.file"), "").unwrap();
    symlink("/", dir.path().join("j-a.link")).unwrap();
    let told = names(open_dir(dir.path()).unwrap(), "j-a");
    // Those are told of, and given to no tool.
    assert_eq!(told, ["j-a", "j-a.b", "j-a.file", "j-a.link"]);
}

#[test]
fn a_root_file_system_is_the_containers_own_or_not() {
    for own in [
        "/l/a/rootfs",
        "dir:/l/a/rootfs",
        "/l/b/rootfs:/l/a/overlay/delta",
        "overlay:/x:/l/a/...",
    ] {
        assert!(is_in("/l/a", own), "{own}");
    }
    for other in [
        "/l/a",
        "/l/ab/rootfs",
        "/l/a/../b/rootfs",
        "/l/a/rootfs:/l/b/delta",
        "/dev/lxc/a",
        "pool/a",
        "/",
        "x/l/a/b",
    ] {
        assert!(!is_in("/l/a", other), "{other}");
    }
}

#[test]
fn what_others_may_write_is_not_roots() {
    let dir = tempfile::tempdir().unwrap();
    let of = |uid, gid, mode| {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let mut of = fstat(open_dir(dir.path()).unwrap()).unwrap();
        (of.st_uid, of.st_gid) = (uid, gid);
        not_roots("x", &of, SFlag::S_IFDIR)
    };
    for (uid, gid, mode) in [(0, 0, 0o700), (0, 0, 0o770), (0, 5, 0o755)] {
        assert_eq!(of(uid, gid, mode), None, "{uid} {gid} {mode:o}");
    }
    for (uid, gid, mode) in [
        (1, 0, 0o700),
        (0, 5, 0o770),
        (0, 0, 0o777),
        (0, 0, 0o702),
        (100_000, 0, 0o770),
    ] {
        assert!(of(uid, gid, mode).is_some(), "{uid} {gid} {mode:o}");
    }
    let of = fstat(open_dir(dir.path()).unwrap()).unwrap();
    assert!(
        not_roots("x", &of, SFlag::S_IFREG)
            .unwrap()
            .contains("another type")
    );
}

#[test]
fn only_a_directory_without_anything_in_it_is_bare() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("bare")).unwrap();
    std::fs::create_dir_all(at("full/rootfs")).unwrap();
    std::fs::write(at("file"), "").unwrap();
    symlink(at("full/rootfs"), at("link")).unwrap();
    let registry = open_dir(dir.path()).unwrap();
    let removed = ["bare", "full", "file", "link", "none"].map(|name| remove_bare(registry.as_fd(), name));
    assert_eq!(removed, [true, false, false, false, false]);
    assert!(!at("bare").exists() && at("link").exists() && at("file").exists());
}
