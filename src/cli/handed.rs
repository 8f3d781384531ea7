//! `jobcage env`: from what was typed to what is meant. It asks no layer: all that it needs stands in the job's own
//! environment.

use jobcage_job::handed::check_name;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::error::Error;
use super::request::{HandedRequest, HandedVerb, Secret};
use super::words::EnvWords;
use crate::config::environ::Environ;

/// The request of these words.
///
/// # Errors
/// If a name is none, or is jobcage's own. Of what is no name nothing is shown: it may be a piece of a value.
pub fn request(words: EnvWords, environ: &Environ) -> Result<HandedRequest, Error> {
    let verb = match words {
        EnvWords::Set(w) => assignment(&w.variable)?,
        EnvWords::Get(w) => HandedVerb::Get(name(&w.name)?),
        EnvWords::Unset(w) => HandedVerb::Unset(
            w.names
                .iter()
                .map(|given| name(given))
                .collect::<Result<_, _>>()?,
        ),
        EnvWords::List => HandedVerb::List,
    };
    let file = environ
        .get(OsStr::new("JOBCAGE_ENV"))
        .filter(|file| !file.is_empty());
    let file = file.map(PathBuf::from);
    if file.as_ref().is_some_and(|file| !file.is_absolute()) {
        return Err(Error::value(
            "JOBCAGE_ENV",
            "it is no absolute path, so jobcage has not set it",
        ));
    }
    Ok(HandedRequest { file, verb })
}

fn assignment(given: &OsStr) -> Result<HandedVerb, Error> {
    let bytes = given.as_bytes();
    let (before, value) = match bytes.iter().position(|b| *b == b'=') {
        Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]))),
        None => (bytes, None),
    };
    Ok(HandedVerb::Set {
        name: name(OsStr::from_bytes(before))?,
        value: value.map(|value| Secret::from(value.to_owned())),
    })
}

fn name(given: &OsStr) -> Result<OsString, Error> {
    match check_name(given.as_bytes()) {
        Ok(()) => Ok(given.to_owned()),
        Err(why) => Err(Error::value("env", why.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{parse, request::Request};

    fn meant(words: &[&str], file: Option<&str>) -> Result<HandedRequest, String> {
        let words = ["jobcage", "env"]
            .iter()
            .chain(words)
            .map(OsString::from)
            .collect();
        let environ = file.into_iter().map(|file| ("JOBCAGE_ENV", file)).collect();
        match parse(words, environ, 0).map_err(|e| e.to_string())?.request {
            Request::Handed(request) => Ok(request),
            other => panic!("{other:?}"),
        }
    }

    fn set(name: &str, value: Option<&str>) -> HandedVerb {
        HandedVerb::Set {
            name: name.into(),
            value: value.map(|value| Secret::from(OsString::from(value))),
        }
    }

    #[test]
    fn each_form_is_meant() {
        for (words, verb) in [
            (&["set", "A=1"][..], set("A", Some("1"))),
            (&["set", "A="], set("A", Some(""))),
            (&["set", "A=b=-c\nd"], set("A", Some("b=-c\nd"))),
            (&["set", "A"], set("A", None)),
            (&["get", "A_1"], HandedVerb::Get("A_1".into())),
            (
                &["unset", "A", "B"],
                HandedVerb::Unset(vec!["A".into(), "B".into()]),
            ),
            (&["list"], HandedVerb::List),
        ] {
            let request = meant(words, Some("/run/x/env")).unwrap();
            assert_eq!(request.verb, verb, "{words:?}");
            assert_eq!(request.file, Some("/run/x/env".into()));
        }
        assert_eq!(meant(&["list"], None).unwrap().file, None);
        assert_eq!(meant(&["list"], Some("")).unwrap().file, None);
    }

    #[test]
    fn what_is_no_name_is_refused_and_not_shown() {
        for words in [
            &["set", "hunter-2=1"][..],
            &["set", "hunter 2"],
            &["set", "=hunter2"],
            &["set", "A=1", "hunter2"],
            &["set", "JOBCAGE_hunter2=1"],
            &["get", "1hunter2"],
            &["get", "A", "hunter2"],
            &["unset", "A", "hunter-2"],
            &["unset", "JOBCAGE_ENV"],
            &["set"],
            &["get"],
            &["unset"],
            &["list", "hunter2"],
            &["hunter2"],
            &[],
        ] {
            let told = meant(words, Some("/x")).unwrap_err();
            let shown = words != ["hunter2"] && told.contains("hunter");
            assert!(!shown && !told.is_empty(), "{words:?}: {told}");
        }
        assert!(meant(&["list"], Some("env")).unwrap_err().contains("absolute"));
    }
}
