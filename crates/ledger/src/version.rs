//! The version of a file of a record.

use serde::Deserialize;

/// The version of a file of a record; 0: it has none, as a list never has.
pub(crate) fn version_of(text: &[u8]) -> serde_json::Result<u64> {
    #[derive(Deserialize)]
    struct Versioned {
        #[serde(default)]
        version: u64,
    }
    if !text.trim_ascii_start().starts_with(b"{") {
        return Ok(0);
    }
    match version_in_front(text) {
        Some(version) => Ok(version),
        None => serde_json::from_slice(text).map(|Versioned { version }| version),
    }
}

/// Where we have written it ourselves: then the rest need not be read for it.
fn version_in_front(text: &[u8]) -> Option<u64> {
    let rest = text.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
    let rest = rest.strip_prefix(b"\"version\"")?.trim_ascii_start();
    let rest = rest.strip_prefix(b":")?.trim_ascii_start();
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = rest.split_at(digits);
    let is_whole = matches!(rest.trim_ascii_start().first(), Some(b',' | b'}'));
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| is_whole)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// The members of a file: the version anywhere among others, or nowhere.
    fn members() -> impl Strategy<Value = (Option<Value>, Vec<(String, Value)>)> {
        let version = prop_oneof![
            any::<u64>().prop_map(Value::from),
            Just(json!("1")),
            Just(json!(-1)),
            Just(json!(1.5)),
            Just(json!([1])),
        ];
        let others = prop::collection::vec(("[a-z]{1,5}", any::<u32>().prop_map(Value::from)), 0..4);
        (prop::option::of(version), others, 0..5_usize).prop_map(|(version, mut members, at)| {
            if let Some(version) = version.clone() {
                members.insert(at.min(members.len()), ("version".into(), version));
            }
            (version, members)
        })
    }

    proptest! {
        #[test]
        fn it_is_what_stands_there_wherever_that_is((version, members) in members(), space in "[ \n]{0,3}") {
            let members: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("{space}\"{name}\"{space}:{space}{value}{space}"))
                .collect();
            let text = format!("{space}{{{}}}{space}", members.join(","));
            let there = version.map_or(Some(0), |version| version.as_u64());
            prop_assert_eq!(version_of(text.as_bytes()).ok(), there, "{}", text);
        }

        #[test]
        fn what_is_no_json_has_none_and_panics_nowhere(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = version_of(&text);
            let _ = version_of(&[b"{\"version\": 1", &text[..]].concat());
        }
    }

    #[test]
    fn in_front_of_a_file_that_is_cut_off_it_is_known_as_soon_as_it_is_whole() {
        assert_eq!(version_of(b"{\n  \"version\": 12,\n  \"id").unwrap(), 12);
        for cut in ["{", "{\n  \"ver", "{\n  \"version\":", "{\n  \"version\": 12"] {
            assert!(version_of(cut.as_bytes()).is_err(), "{cut}");
        }
        assert_eq!(version_of(b"[]").unwrap(), 0);
        assert_eq!(version_of(b"{}").unwrap(), 0);
    }
}
