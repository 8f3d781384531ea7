//! What Vagrant has noted of a job's machines: in the index of the job's own Vagrant home, which names the directory of each, and in that directory.

use crate::listed::is_id as is_container;
use crate::virtualbox::is_uuid;
use jobcage_job::GuestPlace;
use jobcage_sys::file::{open_dir, open_distrusted};
use nix::fcntl::OFlag;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The provider whose machines are containers.
pub(crate) const DOCKER: &str = "docker";

/// Of a thing for which only one of the two witnesses speaks.
pub(crate) const ONLY_NOTED: &str =
    "Vagrant has noted it for the job, but it has not the name that Vagrant gives there";

/// A machine in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The directory that has `.vagrant` in it, and in that its id file.
    pub project: PathBuf,
    name: String,
}

/// The machines of this provider in the index of the job's own Vagrant home. Without one nothing is known.
pub(crate) fn machines(place: &GuestPlace, provider: &str) -> Vec<Machine> {
    noted(place)
        .into_iter()
        .filter_map(|noted| noted.machine(provider))
        .collect()
}

/// All that is in the index of the job's own Vagrant home.
pub(crate) fn noted(place: &GuestPlace) -> Vec<Noted> {
    const MOST: u64 = 4 << 20;
    let read = || {
        let dir = open_dir(Path::new(&place.dir)).ok()?;
        text(&dir, "vagrant/data/machine-index/index", MOST)
    };
    read().map_or_else(Vec::new, |(text, _)| parsed(&text))
}

/// An entry of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    /// What Vagrant knows it by, from whatever directory: hexadecimal.
    pub id: String,
    pub name: String,
    pub provider: String,
    /// The directory of its Vagrantfile.
    pub project: String,
    /// The directory of its id file, and of others.
    data: String,
}

fn parsed(text: &str) -> Vec<Noted> {
    const MOST: usize = 200;
    let Ok(index) = serde_json::from_str::<Value>(text) else {
        return Vec::new();
    };
    let entries = index["machines"].as_object().into_iter().flatten();
    let of = |(id, entry): (&String, &Value)| {
        let word = |key: &str| Some(entry[key].as_str()?.to_owned());
        let is_id = !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
        is_id.then_some(())?;
        Some(Noted {
            id: id.clone(),
            name: word("name")?,
            provider: word("provider")?,
            project: word("vagrantfile_path").unwrap_or_default(),
            data: word("local_data_path")?,
        })
    };
    entries.filter_map(of).take(MOST).collect()
}

impl Noted {
    fn machine(self, provider: &str) -> Option<Machine> {
        let data = Path::new(&self.data);
        let is_name =
            !self.name.is_empty() && self.name != "." && self.name != ".." && !self.name.contains('/');
        // Elsewhere, by VAGRANT_DOTFILE_PATH, it says nothing of a project.
        let is_beside = data.is_absolute() && data.file_name() == Some(OsStr::new(".vagrant"));
        (self.provider == provider && is_name && is_beside).then_some(Machine {
            project: data.parent()?.to_owned(),
            name: self.name,
        })
    }
}

impl Machine {
    /// When Vagrant has made it, if this is a name that it gives to this machine of this directory: `DIRECTORY_MACHINE_TIME`, each without the characters
    /// that it leaves out, and perhaps a number behind.
    pub(crate) fn made(&self, name: &str) -> Option<i64> {
        let kept = |text: &str| -> String {
            text.chars()
                .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
                .collect()
        };
        let base = self.project.file_name().and_then(OsStr::to_str)?;
        let rest = name.strip_prefix(&kept(&format!("{base}_{}_", self.name)))?;
        let mut numbers = rest.split('_').map(|number| {
            let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            number.parse::<i64>().ok().filter(|_| is_number)
        });
        let made = numbers.next()??;
        let random = numbers.next();
        let is_one = random.is_none_or(|number| number.is_some()) && numbers.next().is_none();
        is_one.then_some(made)
    }

    /// What the provider knows it by, if Vagrant has written that for this job: the file belongs to the job's user, and nobody has written it since
    /// before the job.
    pub(crate) fn id(&self, provider: &str, uid: u32, since_ns: i64) -> Option<String> {
        // A file's time is that of the last tick of the kernel's clock.
        const TICK: i64 = 1_000_000_000;
        let is_id = if provider == DOCKER { is_container } else { is_uuid };
        let dir = open_dir(&self.project).ok()?;
        let (id, meta) = text(
            &dir,
            &format!(".vagrant/machines/{}/{provider}/id", self.name),
            128,
        )?;
        let changed = meta
            .ctime()
            .saturating_mul(1_000_000_000)
            .saturating_add(meta.ctime_nsec());
        let is_the_jobs = meta.uid() == uid && changed.saturating_add(TICK) >= since_ns;
        let id = id.trim();
        (is_the_jobs && is_id(id)).then(|| id.to_ascii_lowercase())
    }
}

/// A regular file that is not larger than this.
fn text(dir: &OwnedFd, name: &str, most: u64) -> Option<(String, std::fs::Metadata)> {
    let file = File::from(open_distrusted(dir.as_fd(), name, OFlag::O_RDONLY).ok()?);
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text).ok()?;
    (text.len() as u64 <= most).then_some((text, meta))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_names_a_directory() {
        let entry = |provider: &str, name: &str, data: &str| {
            serde_json::json!({"local_data_path": data, "name": name, "provider": provider, "vagrantfile_name": null,
                "vagrantfile_path": "/home/ci1/v"})
        };
        let index = serde_json::json!({"version": 1, "machines": {
            "a": entry("libvirt", "web", "/home/ci1/v/.vagrant"),
            "b": entry("virtualbox", "web", "/home/ci1/v/.vagrant"),
            "c": entry("libvirt", "../web", "/home/ci1/v/.vagrant"),
            "d": entry("libvirt", "..", "/home/ci1/v/.vagrant"),
            "e": entry("libvirt", "web", ".vagrant"),
            "9": entry("libvirt", "web", "/home/ci1/v/elsewhere"), "--all": entry("libvirt", "web", "/home/ci1/w/.vagrant"),
            "f": {"provider": "libvirt"}, "0": 1,
        }});
        let of = |text: &str, provider: &str| -> Vec<Machine> {
            parsed(text)
                .into_iter()
                .filter_map(|noted| noted.machine(provider))
                .collect()
        };
        let found = of(&index.to_string(), "libvirt");
        let expected = Machine {
            project: "/home/ci1/v".into(),
            name: "web".into(),
        };
        assert_eq!(found, [expected]);
        for text in [
            "",
            "[]",
            "{",
            "{\"machines\": []}",
            "{\"machines\": {\"a\": null}}",
        ] {
            assert!(parsed(text).is_empty());
        }
    }

    #[test]
    fn an_id_is_in_a_file_of_the_user_that_is_as_new_as_the_job() {
        const ID: &str = "6b844bab-4a07-4e3d-ba81-9bfd3accc755";
        let project = tempfile::tempdir().unwrap();
        let dir = project.path().join(".vagrant/machines/web/libvirt");
        std::fs::create_dir_all(&dir).unwrap();
        let machine = Machine {
            project: project.path().into(),
            name: "web".into(),
        };
        let uid = nix::unistd::geteuid().as_raw();
        let file = dir.join("id");
        assert_eq!(machine.id("libvirt", uid, 0), None);
        std::fs::write(&file, ID).unwrap();
        let meta = std::fs::metadata(&file).unwrap();
        let changed = meta.ctime() * 1_000_000_000 + meta.ctime_nsec();
        assert_eq!(machine.id("libvirt", uid, changed).as_deref(), Some(ID));
        assert_eq!(machine.id("libvirt", uid, changed + 2_000_000_000), None);
        assert_eq!(machine.id("libvirt", uid + 1, changed), None);
        assert_eq!(machine.id("other", uid, changed), None);
        std::fs::write(&file, ID.repeat(2)).unwrap();
        assert_eq!(machine.id("libvirt", uid, 0), None);
        std::fs::write(dir.join("other"), ID).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("other", &file).unwrap();
        assert_eq!(machine.id("libvirt", uid, 0), None);
        std::fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(machine.id("libvirt", uid, 0), None);
    }

    #[test]
    fn a_name_that_vagrant_gives_tells_directory_machine_and_time() {
        let machine = Machine {
            project: "/builds/my proj.x".into(),
            name: "web".into(),
        };
        assert_eq!(
            machine.made("myprojx_web_1795279397376_82306"),
            Some(1_795_279_397_376)
        );
        assert_eq!(machine.made("myprojx_web_1795279397"), Some(1_795_279_397));
        for name in [
            "myprojx_sql_1795279397376_82306",
            "proj_web_1795279397376_82306",
            "myprojx_web_",
            "myprojx_web_1795279397376_",
            "myprojx_web_1795279397376_8x",
            "myprojx_web_1795279397376_8_8",
            "myprojx_web_-1",
            "web",
        ] {
            assert_eq!(machine.made(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_elsewhere(name in "[./a]{0,6}") {
            let index = serde_json::json!({"machines": {"a": {"local_data_path": "/d/.vagrant", "name": name, "provider": "p", "vagrantfile_path": "/"}}});
            for found in parsed(&index.to_string()).into_iter().filter_map(|noted| noted.machine("p")) {
                prop_assert!(Path::new(&found.name).components().count() == 1 && found.name != ".." && found.name != ".");
            }
        }
    }
}
