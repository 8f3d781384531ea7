//! What podman and docker list, a line for each thing: what it is known by, its name, and what else was asked for.

use crate::Found;

/// Whether it is the whole id of a container or of a network. What they take for a part of one is a name, too.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a daemon gives a volume this name, which is all that it is known by. None is an option.
pub(crate) fn is_volume(text: &str) -> bool {
    text.len() <= 255
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// `ID NAME REST…`. Neither tool lets line ends or blanks into a name, and labels, which may have both, are not asked for.
pub(crate) fn found(text: &str, is_key: impl Fn(&str) -> bool) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for line in text.lines() {
        let (id, rest) = line.split_once(' ').unwrap_or((line, ""));
        if !is_key(id) || found.iter().any(|known| known.id == id) {
            continue;
        }
        let (name, state) = rest.split_once(' ').unwrap_or((rest, ""));
        found.push(Found {
            name: if name.is_empty() { id } else { name }.into(),
            id: id.into(),
            ran: state.starts_with("Up ").then(|| state.to_owned()),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_an_id_a_name_and_a_state() {
        let (a, b) = ("a".repeat(64), "0f".repeat(32));
        let text = format!("{a} web Up 3 minutes\n{b} idle Created\n{a} again Exited (0)\n{b}x no\nabc no\n");
        let told = found(&text, is_id);
        let told: Vec<_> = told
            .iter()
            .map(|f| (&*f.id, &*f.name, f.ran.as_deref()))
            .collect();
        assert_eq!(told, [(&*a, "web", Some("Up 3 minutes")), (&*b, "idle", None)]);
        assert_eq!(found(&a, is_id)[0].name, a);
    }

    #[test]
    fn no_option_is_a_volume() {
        assert!(is_volume("project_data") && is_volume(&"a".repeat(64)));
        for text in ["", "-f", "--force", "a b", "a/b", ".x", "a\n"] {
            assert!(!is_volume(text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_tool_prints_only_ids_come_out(text in "(?s).{0,400}", line in "[-a-f0-9A-Z \n\\r]{0,300}") {
            for text in [text, line] {
                prop_assert!(found(&text, is_id).iter().all(|one| one.id.len() == 64 && !one.id.contains(|c: char| !c.is_ascii_hexdigit())));
                prop_assert!(found(&text, is_volume).iter().all(|one| !one.id.starts_with('-') && !one.id.contains(char::is_whitespace)));
            }
        }
    }
}
