//! What a client knows of its job on the other host, and what follows from what it hears. It does no I/O: the lines come and go around it.

use crate::frame::{Answer, Ask, Place, Resume, Start, Welcome};
use jobcage_job::{JobId, Stream};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// How a job on another host ended for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ends {
    /// It is over.
    Over {
        /// The report as the host wrote it.
        report: String,
        /// The boot of the host that handed it out, which may not be the one that the job ran in.
        boot_id: String,
    },
    /// The host went down meanwhile, and the job's record is gone as well.
    HostLost,
    /// It was never begun, and why.
    Refused(String),
    /// It is gone with its record.
    Gone(String),
}

/// What is to be done about an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed<'t> {
    /// Output of the job.
    Write { to_stderr: bool, bytes: &'t [u8] },
    /// So much of a log is missing.
    Missing { place: Place, bytes: u64 },
    /// The job runs.
    Started,
    /// It is over for us.
    End(Ends),
    /// This line cannot be right: a new one shall go on where we are.
    Break(&'static str),
}

/// A job, from its client's side.
#[derive(Debug, Clone)]
pub struct Course {
    id: JobId,
    /// `None`: somebody else has started it.
    start: Option<Start>,
    is_started: bool,
    /// The boot that it was started in.
    boot_id: Option<String>,
    /// The boot of the line that is there.
    now: Option<String>,
    /// The next byte of each log.
    points: BTreeMap<Place, u64>,
    stops: u8,
}

impl Course {
    /// A job that is to be started.
    #[must_use]
    pub fn start(start: Start) -> Self {
        Self::new(start.id.clone(), Some(start), 0)
    }

    /// One that is there, from this byte of its first step on.
    #[must_use]
    pub fn attach_to(id: JobId, offset: u64) -> Self {
        Self::new(id, None, offset)
    }

    fn new(id: JobId, start: Option<Start>, offset: u64) -> Self {
        let streams = [Stream::Merged, Stream::Stdout, Stream::Stderr];
        let points = streams.map(|stream| ((1, stream), offset));
        Self {
            id,
            start,
            is_started: false,
            boot_id: None,
            now: None,
            points: points.into_iter().filter(|(_, at)| *at > 0).collect(),
            stops: 0,
        }
    }

    /// Which job it is.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// The words that it is started with; none, if somebody else has done that.
    pub(crate) fn words(&self) -> &[OsString] {
        self.start.as_ref().map_or(&[], |start| &start.words)
    }

    /// Whether the host has said that it was started.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.is_started
    }

    /// How often it was asked to stop.
    pub(crate) fn stops(&self) -> u8 {
        self.stops
    }

    /// A line is there: what to say on it. `input` is said before a job is started.
    pub(crate) fn connected(&mut self, welcome: &Welcome) -> Vec<Ask> {
        self.now = Some(welcome.boot_id.clone());
        let mut asks = Vec::new();
        match &self.start {
            Some(start) if !self.is_started => asks.push(Ask::Start(start.clone())),
            _ => {
                let points = self.points.iter();
                asks.push(Ask::Resume(Resume {
                    id: self.id.clone(),
                    points: points.map(|((step, stream), at)| (*step, *stream, *at)).collect(),
                }));
            }
        }
        asks.extend((self.stops > 0).then_some(Ask::Stop(self.stops)));
        asks
    }

    /// A line is there: what to say on it so that the job ends, whoever looks after it.
    pub(crate) fn close(&mut self, welcome: &Welcome) -> Ask {
        self.now = Some(welcome.boot_id.clone());
        Ask::Close(self.id.clone())
    }

    /// Somebody wants it to end.
    pub(crate) fn stop(&mut self) -> Ask {
        self.stops = self.stops.saturating_add(1);
        Ask::Stop(self.stops)
    }

    /// What an answer means.
    pub(crate) fn heard<'t>(&mut self, answer: Answer<'t>) -> Option<Deed<'t>> {
        Some(match answer {
            Answer::Started => {
                let is_news = !self.is_started;
                self.is_started = true;
                if self.boot_id.is_none() {
                    self.boot_id.clone_from(&self.now);
                }
                return is_news.then_some(Deed::Started);
            }
            Answer::Data { place, offset, bytes } => return self.piece(place, offset, bytes),
            Answer::Dropped { place, bytes } => {
                *self.points.entry(place).or_default() += bytes;
                Deed::Missing { place, bytes }
            }
            Answer::Refused(why) => Deed::End(Ends::Refused(why)),
            Answer::Over(report) => Deed::End(Ends::Over {
                report,
                boot_id: self.now.clone().unwrap_or_default(),
            }),
            Answer::Gone(_) if self.has_rebooted() => Deed::End(Ends::HostLost),
            Answer::Gone(why) => Deed::End(Ends::Gone(why)),
            Answer::Welcome(_)
            | Answer::Piece(_)
            | Answer::Packed(_)
            | Answer::Said { .. }
            | Answer::Done(_) => Deed::Break("a word out of place"),
            Answer::Pong => return None,
        })
    }

    /// Whether the line that is there leads to another boot than that in which the job was started.
    pub(crate) fn has_rebooted(&self) -> bool {
        self.boot_id.is_some() && self.boot_id != self.now
    }

    /// Each byte counts once, whatever the line repeats.
    fn piece<'t>(&mut self, place: Place, offset: u64, bytes: &'t [u8]) -> Option<Deed<'t>> {
        let point = self.points.entry(place).or_default();
        let Some(known) = point.checked_sub(offset) else {
            return Some(Deed::Break("a piece of the output is missing"));
        };
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = &bytes[known..];
        *point += bytes.len() as u64;
        let to_stderr = place.1 == Stream::Stderr;
        (!bytes.is_empty()).then_some(Deed::Write { to_stderr, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn welcome(boot: &str) -> Welcome {
        Welcome {
            protocol: 1,
            known: vec![1],
            version: String::new(),
            boot_id: boot.into(),
        }
    }

    fn course() -> Course {
        Course::start(Start {
            id: JobId::generate("a", 1),
            lease: None,
            words: Vec::new(),
            env: Vec::new(),
        })
    }

    #[test]
    fn a_job_is_started_until_the_host_says_that_it_was() {
        let mut course = course();
        for _ in 0..3 {
            assert!(matches!(course.connected(&welcome("a"))[..], [Ask::Start(_)]));
        }
        assert_eq!(course.heard(Answer::Started), Some(Deed::Started));
        assert_eq!(course.heard(Answer::Started), None);
        assert!(matches!(course.connected(&welcome("a"))[..], [Ask::Resume(_)]));
    }

    #[test]
    fn a_stop_is_said_on_each_line_with_its_number() {
        let mut course = course();
        course.heard(Answer::Started);
        assert_eq!(course.stop(), Ask::Stop(1));
        assert_eq!(course.connected(&welcome("a")).last(), Some(&Ask::Stop(1)));
        assert_eq!(course.stop(), Ask::Stop(2));
        assert_eq!(course.connected(&welcome("a")).last(), Some(&Ask::Stop(2)));
    }

    #[test]
    fn a_report_comes_with_the_boot_that_hands_it_out() {
        let mut course = course();
        course.connected(&welcome("a"));
        course.heard(Answer::Started);
        for boot in ["a", "b"] {
            course.connected(&welcome(boot));
            assert_eq!(course.has_rebooted(), boot == "b");
            let ends = Ends::Over {
                report: "r".into(),
                boot_id: boot.into(),
            };
            assert_eq!(course.heard(Answer::Over("r".into())), Some(Deed::End(ends)));
        }
    }

    #[test]
    fn a_record_that_is_gone_after_another_boot_is_another_end() {
        let mut course = course();
        course.connected(&welcome("a"));
        course.heard(Answer::Started);
        let gone = || Answer::Gone("w".into());
        assert_eq!(course.heard(gone()), Some(Deed::End(Ends::Gone("w".into()))));
        course.connected(&welcome("b"));
        assert_eq!(course.heard(gone()), Some(Deed::End(Ends::HostLost)));
    }

    proptest! {
        /// The host's side of each line: it goes on at the client's point, perhaps a bit before, in pieces, and is cut anywhere.
        #[test]
        fn each_byte_is_written_once_whatever_lines_do(
            output in prop::collection::vec(any::<u8>(), 0..500),
            lines in prop::collection::vec((0..60_usize, 1..40_usize, 0..30_u64), 1..30),
        ) {
            let mut course = course();
            course.heard(Answer::Started);
            let mut written = Vec::<u8>::new();
            let whole = (0, 1, 0);
            let last = (usize::MAX, 100, 0);
            for (cut, size, back) in lines.into_iter().chain([whole, last]) {
                let asks = course.connected(&welcome("a"));
                let [Ask::Resume(resume)] = &asks[..] else { panic!("{asks:?}") };
                let point = resume.points.first().map_or(0, |(_, _, at)| *at);
                prop_assert_eq!(point, written.len() as u64);
                let begin = point.saturating_sub(back) as usize;
                let mut offset = begin as u64;
                for piece in output[begin..].chunks(size).take(cut) {
                    if let Some(Deed::Write { bytes, to_stderr }) = course.heard(Answer::Data { place: (1, Stream::Stdout), offset, bytes: piece }) {
                        prop_assert!(!to_stderr);
                        written.extend(bytes);
                    }
                    offset += piece.len() as u64;
                }
            }
            prop_assert_eq!(written, output);
        }

        #[test]
        fn a_hole_is_never_passed_over(before in 0..100_u64, hole in 1..100_u64) {
            let mut course = Course::attach_to(JobId::generate("a", 1), before);
            let place = (1, Stream::Merged);
            let deed = course.heard(Answer::Data { place, offset: before + hole, bytes: &[0; 3] });
            prop_assert!(matches!(deed, Some(Deed::Break(_))));
            course.heard(Answer::Dropped { place, bytes: hole });
            let deed = course.heard(Answer::Data { place, offset: before + hole, bytes: &[0; 3] });
            let is_written = matches!(deed, Some(Deed::Write { .. }));
            prop_assert!(is_written);
        }
    }
}
