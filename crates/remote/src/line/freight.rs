//! What goes over a line in pieces: files for the job before it begins, and its files when it is over.

use super::Client;
use crate::call::{Outcome, Wanted, What};
use crate::course::Ends;
use crate::error::{RemoteError, Result};
use crate::frame::{Answer, Ask, Fetch, PIECE, Packed};
use crate::link::Link;
use crate::spool::{add, rewound, spool};
use std::fs::File;
use std::io::{Read, Seek};

/// Something that goes out.
pub(super) enum Outgoing {
    Say(Ask),
    /// A file in pieces, from its beginning: a line before this one may have taken a part with it.
    Pieces(File, fn(Vec<u8>) -> Ask),
}

impl Client<'_> {
    /// Says what is to be said, no faster than the line takes it: files may be larger than memory. Whether a piece of one was among it.
    pub(super) fn pump(&mut self, link: &mut Link) -> Result<bool> {
        let mut has_piece = false;
        let failed = |error: std::io::Error| RemoteError::System {
            what: "read what is to be sent",
            errno: jobcage_sys::Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        };
        while link.is_open()
            && link.is_idle()
            && let Some(next) = self.outgoing.front_mut()
        {
            let said = match next {
                Outgoing::Say(ask) => {
                    self.is_asked |= matches!(ask, Ask::Start(_));
                    link.say(ask);
                    true
                }
                Outgoing::Pieces(file, ask) => {
                    let mut piece = vec![0; PIECE];
                    let n = file.read(&mut piece).map_err(failed)?;
                    piece.truncate(n);
                    if n > 0 {
                        has_piece = true;
                        link.say(&ask(piece));
                    }
                    n == 0
                }
            };
            if said {
                self.outgoing.pop_front();
            }
        }
        Ok(has_piece)
    }

    /// The job is over; its files are asked for, one after the other.
    pub(super) fn job_ended(&mut self, ends: Ends, link: &mut Link) {
        let has_files = matches!(ends, Ends::Over { .. } | Ends::HostLost);
        let What::Job { fetch, course, .. } = &mut self.what else {
            return;
        };
        if matches!(ends, Ends::Refused(_)) {
            fetch.clear();
        }
        let Some(wanted) = fetch.first().filter(|_| has_files) else {
            self.files_are_missing("the job has no end of its own");
            self.end = Some(Outcome::Job(ends));
            return;
        };
        self.coming = None;
        self.ended = Some(ends);
        link.say(&Ask::Fetch(Fetch {
            path: wanted.path.clone(),
            words: course.words().to_vec(),
        }));
    }

    pub(super) fn files_are_missing(&mut self, why: &str) {
        if let What::Job { fetch, .. } = &mut self.what {
            let paths = fetch.drain(..).map(|wanted| wanted.path);
            self.missing
                .extend(paths.map(|path| format!("{path:?} is not fetched: {why}")));
        }
    }

    /// Takes what comes of a file.
    pub(super) fn fetched(&mut self, answer: Answer<'_>, ends: Ends, link: &mut Link) -> Result<()> {
        let What::Job { fetch, .. } = &mut self.what else {
            return Ok(());
        };
        match answer {
            Answer::Piece(bytes) => {
                let came = match &mut self.coming {
                    Some(file) => add(file, bytes),
                    None => spool().and_then(|mut file| {
                        add(&mut file, bytes)?;
                        self.coming = Some(file);
                        Ok(())
                    }),
                };
                if let Err(why) = came {
                    // On this side, and no other line would do better.
                    self.files_are_missing(&why);
                    self.end = Some(Outcome::Job(ends));
                    return Ok(());
                }
            }
            Answer::Packed(packed) => {
                let wanted = fetch.remove(0);
                match take(self.coming.take(), &packed, &wanted) {
                    Ok(None) => {}
                    Ok(Some(told)) => (self.tell)(&told),
                    Err(why) => self
                        .missing
                        .push(format!("{:?} is not fetched: {why}", wanted.path)),
                }
                self.job_ended(ends, link);
                return Ok(());
            }
            _ => {}
        }
        self.ended = Some(ends);
        Ok(())
    }
}

pub(super) fn pieces(file: &mut File, ask: fn(Vec<u8>) -> Ask) -> Result<Outgoing> {
    let failed = |error: std::io::Error| RemoteError::System {
        what: "read what is to be sent",
        errno: jobcage_sys::Errno::from_raw(error.raw_os_error().unwrap_or(0)),
    };
    file.rewind().map_err(failed)?;
    Ok(Outgoing::Pieces(file.try_clone().map_err(failed)?, ask))
}

/// Unpacks what has come; a word for a person.
fn take(came: Option<File>, packed: &Packed, wanted: &Wanted) -> std::result::Result<Option<String>, String> {
    if let Some(why) = &packed.why {
        return Err(why.clone());
    }
    let file = came
        .ok_or_else(|| "nothing has come of it".to_owned())
        .and_then(rewound)?;
    crate::files::unpack(file, &wanted.to).map_err(|error| error.to_string())?;
    Ok((packed.skipped > 0).then(|| {
        format!(
            "{} in {:?} are neither file, directory nor link: they are left out",
            packed.skipped, wanted.path
        )
    }))
}
