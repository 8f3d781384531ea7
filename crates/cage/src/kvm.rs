//! Whose processes run a virtual machine of KVM: they hold a descriptor that the kernel calls so, whatever they are called themselves.
//!
//! Documentation/virt/kvm/api.rst: `KVM_CREATE_VM` returns it, and the machine lives for as long as somebody has it open.

use crate::census::{escape, read};

/// What the kernel calls the descriptor of a machine.
const LINK: &str = "anon_inode:kvm-vm";

/// So many descriptors of a process are looked at. A machine is made before its disks, so its descriptor has a low number.
const MOST: usize = 1024;

/// The name of the machine that a process runs: as its arguments give it, or else the process's own. `None`: it runs none, or may not be
/// looked at.
pub(crate) fn machine(pid: i32, comm: &str) -> Option<String> {
    let listed = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut links = listed
        .take(MOST)
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.find(|link| link.as_os_str() == LINK)?;
    let words = read(pid, "cmdline").unwrap_or_default();
    let named = name(&words).map(|name| escape(&name, 64));
    Some(named.unwrap_or_else(|| escape(comm.as_bytes(), 15)))
}

/// What QEMU's `-name X` or `-name guest=X,…` says, where two commas stand for one.
fn name(words: &[u8]) -> Option<Vec<u8>> {
    let mut words = words.split(|byte| *byte == 0);
    words.find(|word| matches!(*word, b"-name" | b"--name"))?;
    let options = words.next()?;
    let mut name = Vec::new();
    let mut at = 0;
    while at < options.len() {
        match (options[at], options.get(at + 1)) {
            (b',', Some(b',')) => at += 1,
            (b',', _) => break,
            _ => {}
        }
        name.push(options[at]);
        at += 1;
    }
    let name = name.strip_prefix(b"guest=").unwrap_or(&name);
    (!name.is_empty()).then(|| name.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(words: &[&str]) -> Option<String> {
        name(words.join("\0").as_bytes()).map(|name| String::from_utf8(name).unwrap())
    }

    #[test]
    fn the_name_is_what_qemu_takes_it_for() {
        assert_eq!(named(&["qemu", "-name", "web"]).as_deref(), Some("web"));
        assert_eq!(
            named(&["qemu", "--name", "guest=web,debug-threads=on"]).as_deref(),
            Some("web")
        );
        assert_eq!(
            named(&["qemu", "-name", "a,,b,process=c"]).as_deref(),
            Some("a,b")
        );
        for none in [
            &["qemu"][..],
            &["qemu", "-name"],
            &["qemu", "-name", ",process=c"],
        ] {
            assert_eq!(named(none), None, "{none:?}");
        }
    }

    #[test]
    fn who_has_no_machine_open_has_none() {
        let own = std::process::id().cast_signed();
        assert_eq!(machine(own, "test"), None);
        assert_eq!(machine(i32::MAX, "nobody"), None);
    }

    proptest! {
        #[test]
        fn no_words_are_too_odd(words: Vec<u8>) {
            let found = name(&words);
            prop_assert!(found.is_none_or(|name| !name.is_empty() && name.len() <= words.len()));
        }
    }
}
