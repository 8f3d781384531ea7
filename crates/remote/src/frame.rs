//! What client and host say to each other: `kind` (one byte), `length` (4 bytes, little-endian), and so many bytes. Words, environment and
//! output are bytes, all else is JSON. Whoever reads is as careful as with any stranger's input.

use crate::buffer::Buffer;
use jobcage_job::{JobId, Stream};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

/// The version of what is said here. Each one also speaks the one before.
pub const PROTOCOL: u32 = 1;
/// Those that this program speaks.
pub const PROTOCOLS: &[u32] = &[1];

/// The longest frame: words and environment of a job, which the kernel gives a program at most 6 MiB of.
const MOST: usize = 16 << 20;
/// The longest piece of output in one frame.
pub(crate) const PIECE: usize = 1 << 17;

/// A log of a job: its step and its stream.
pub(crate) type Place = (u32, Stream);

/// The job to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Made by the client, so that asking twice starts one.
    pub id: JobId,
    /// How long it may live unheard of; `None`: for ever.
    pub lease: Option<Duration>,
    /// The words of `jobcage run` behind the verb.
    pub words: Vec<OsString>,
    /// Variables that the client gives it.
    pub env: Vec<(OsString, OsString)>,
}

#[derive(Serialize, Deserialize)]
struct StartHead {
    id: JobId,
    lease: Option<Duration>,
    words: usize,
}

/// Where a client stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resume {
    pub id: JobId,
    /// The next byte of each log that it has met.
    pub points: Vec<(u32, Stream, u64)>,
}

/// The first word of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The version that it speaks.
    pub protocol: u32,
    /// How often it will say that it is there.
    pub keepalive: Duration,
    /// The job that is to have the agent which this line forwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_for: Option<JobId>,
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    Hello(Hello),
    /// A part of the job's standard input, before `Start`.
    Input(Vec<u8>),
    Start(Start),
    /// Goes on with a job that was started.
    Resume(Resume),
    /// The line is there, and so is the client.
    Ping,
    /// The job is to be stopped: so often was it asked. From the second time on without the grace.
    Stop(u8),
    /// A job is to end, whoever has begun it: its end, and how it was.
    Close(JobId),
    /// Files for the job, before `Start`: into this directory. [`Ask::Piece`]s of a tar archive follow.
    Put(OsString),
    /// A part of such an archive.
    Piece(Vec<u8>),
    /// Files of a job that is over.
    Fetch(Fetch),
    /// Another verb, with its words.
    Verb(Vec<OsString>),
}

/// Files that are to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetch {
    /// Which.
    pub path: OsString,
    /// The words of the job, for its user and its directory.
    pub words: Vec<OsString>,
}

/// What a host says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer<'t> {
    Welcome(Welcome),
    /// The job runs, or has run.
    Started,
    /// It does not, and why: the host's jobcage has failed.
    Refused(String),
    Data {
        place: Place,
        offset: u64,
        bytes: &'t [u8],
    },
    /// So many bytes of a log were dropped before they could be read.
    Dropped {
        place: Place,
        bytes: u64,
    },
    Pong,
    /// The job is over: its report, as the host has it.
    Over(String),
    /// The job is over or never was, and there is no report.
    Gone(String),
    /// A part of the archive that was asked for.
    Piece(&'t [u8]),
    /// That was all of it, or there is none.
    Packed(Packed),
    /// What another verb has written.
    Said {
        to_stderr: bool,
        bytes: &'t [u8],
    },
    /// How it ended.
    Done(u8),
}

/// What came of the packing of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packed {
    /// So many were neither file, directory nor link.
    pub skipped: u64,
    /// Why there is no archive.
    pub why: Option<String>,
}

/// The first word of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// The version that is spoken from here on; 0: there is none.
    pub protocol: u32,
    /// Those that it knows, for the error.
    pub known: Vec<u32>,
    /// The version of its jobcage.
    pub version: String,
    pub boot_id: String,
}

/// Why a frame cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Garbled(String);

fn garbled(why: impl Into<String>) -> Garbled {
    Garbled(why.into())
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 5);
    frame.push(kind);
    frame.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn from_json<'t, T: Deserialize<'t>>(text: &'t [u8]) -> Result<T, Garbled> {
    serde_json::from_slice(text).map_err(|error| garbled(error.to_string()))
}

/// Strings, each ended by a NUL byte.
fn strings<'s>(strings: impl Iterator<Item = &'s OsString>, into: &mut Vec<u8>) {
    for string in strings {
        into.extend_from_slice(string.as_bytes());
        into.push(0);
    }
}

fn from_strings(text: &[u8]) -> Result<Vec<OsString>, Garbled> {
    let pieces = text.split_inclusive(|byte| *byte == 0);
    pieces
        .map(|piece| match piece.split_last() {
            Some((0, string)) => Ok(OsString::from_vec(string.to_vec())),
            _ => Err(garbled("a string without an end")),
        })
        .collect()
}

impl Start {
    fn encode(&self) -> Vec<u8> {
        let mut text = json(&StartHead {
            id: self.id.clone(),
            lease: self.lease,
            words: self.words.len(),
        });
        text.push(b'\n');
        strings(self.words.iter(), &mut text);
        strings(self.env.iter().flat_map(|(name, value)| [name, value]), &mut text);
        text
    }

    fn decode(text: &[u8]) -> Result<Self, Garbled> {
        let end = text.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| garbled("a job without a head"))?;
        let head: StartHead = from_json(&text[..end])?;
        let mut words = from_strings(&text[end + 1..])?;
        if head.words > words.len() {
            return Err(garbled("a job with too few words"));
        }
        let mut env = words.split_off(head.words).into_iter();
        let mut pairs = Vec::new();
        while let Some(name) = env.next() {
            let value = env.next().ok_or_else(|| garbled("a variable without a value"))?;
            pairs.push((name, value));
        }
        Ok(Self {
            id: head.id,
            lease: head.lease,
            words,
            env: pairs,
        })
    }
}

impl Ask {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => frame(b'H', &json(hello)),
            Self::Input(bytes) => frame(b'I', bytes),
            Self::Start(start) => frame(b'S', &start.encode()),
            Self::Resume(resume) => frame(b'R', &json(resume)),
            Self::Ping => frame(b'P', &[]),
            Self::Stop(times) => frame(b'C', &[*times]),
            Self::Close(id) => frame(b'E', id.as_str().as_bytes()),
            Self::Put(dir) => frame(b'F', dir.as_bytes()),
            Self::Piece(bytes) => frame(b'D', bytes),
            Self::Fetch(fetch) => {
                let mut text = Vec::new();
                strings(std::iter::once(&fetch.path).chain(&fetch.words), &mut text);
                frame(b'G', &text)
            }
            Self::Verb(words) => {
                let mut text = Vec::new();
                strings(words.iter(), &mut text);
                frame(b'V', &text)
            }
        }
    }

    pub(crate) fn decode(kind: u8, text: &[u8]) -> Result<Self, Garbled> {
        Ok(match kind {
            b'H' => Self::Hello(from_json(text)?),
            b'I' => Self::Input(text.to_vec()),
            b'S' => Self::Start(Start::decode(text)?),
            b'R' => Self::Resume(from_json(text)?),
            b'P' => Self::Ping,
            b'C' => Self::Stop(text.first().copied().unwrap_or(1)),
            b'E' => Self::Close(
                String::from_utf8_lossy(text)
                    .parse()
                    .map_err(|error| garbled(format!("a job's name ({error})")))?,
            ),
            b'F' => Self::Put(OsString::from_vec(text.to_vec())),
            b'D' => Self::Piece(text.to_vec()),
            b'G' => {
                let mut words = from_strings(text)?;
                if words.is_empty() {
                    return Err(garbled("files without a name"));
                }
                Self::Fetch(Fetch {
                    path: words.remove(0),
                    words,
                })
            }
            b'V' => Self::Verb(from_strings(text)?),
            other => return Err(garbled(format!("a frame of the kind {other}"))),
        })
    }
}

fn stream_number(stream: Stream) -> u8 {
    match stream {
        Stream::Merged => 0,
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    }
}

/// Step, stream, and a number.
fn encode_place((step, stream): Place, number: u64) -> Vec<u8> {
    let mut head = step.to_le_bytes().to_vec();
    head.push(stream_number(stream));
    head.extend_from_slice(&number.to_le_bytes());
    head
}

/// How long step, stream and number are.
const HEAD: usize = 13;

/// How long what [`data_head`] gives is.
pub(crate) const DATA_HEAD: usize = 5 + HEAD;

/// What stands before so many bytes of [`Answer::Data`].
pub(crate) fn data_head(place: Place, offset: u64, bytes: usize) -> Vec<u8> {
    let length = u32::try_from(HEAD + bytes).unwrap_or(u32::MAX);
    let mut head = vec![b'd'];
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&encode_place(place, offset));
    head
}

fn decode_place(text: &[u8]) -> Result<(Place, u64, &[u8]), Garbled> {
    let (head, rest) = text
        .split_at_checked(HEAD)
        .ok_or_else(|| garbled("a short piece"))?;
    let stream = match head[4] {
        0 => Stream::Merged,
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        other => return Err(garbled(format!("the stream {other}"))),
    };
    let step = head[..4].try_into().map(u32::from_le_bytes).unwrap_or_default();
    let number = head[5..].try_into().map(u64::from_le_bytes).unwrap_or_default();
    Ok(((step, stream), number, rest))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl<'t> Answer<'t> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Welcome(welcome) => frame(b'w', &json(welcome)),
            Self::Started => frame(b's', &[]),
            Self::Refused(why) => frame(b'r', why.as_bytes()),
            Self::Data { place, offset, bytes } => {
                let mut whole = data_head(*place, *offset, bytes.len());
                whole.extend_from_slice(bytes);
                whole
            }
            Self::Dropped { place, bytes } => frame(b'l', &encode_place(*place, *bytes)),
            Self::Pong => frame(b'p', &[]),
            Self::Over(report) => frame(b'o', report.as_bytes()),
            Self::Gone(why) => frame(b'g', why.as_bytes()),
            Self::Piece(bytes) => frame(b'f', bytes),
            Self::Packed(packed) => frame(b'k', &json(packed)),
            Self::Said { to_stderr, bytes } => frame(if *to_stderr { b'e' } else { b'u' }, bytes),
            Self::Done(code) => frame(b'x', &[*code]),
        }
    }

    pub(crate) fn decode(kind: u8, bytes: &'t [u8]) -> Result<Self, Garbled> {
        Ok(match kind {
            b'w' => Self::Welcome(from_json(bytes)?),
            b's' => Self::Started,
            b'r' => Self::Refused(text(bytes)),
            b'd' => {
                let (place, offset, bytes) = decode_place(bytes)?;
                Self::Data { place, offset, bytes }
            }
            b'l' => {
                let (place, bytes, _) = decode_place(bytes)?;
                Self::Dropped { place, bytes }
            }
            b'p' => Self::Pong,
            b'o' => Self::Over(text(bytes)),
            b'g' => Self::Gone(text(bytes)),
            b'f' => Self::Piece(bytes),
            b'k' => Self::Packed(from_json(bytes)?),
            b'u' | b'e' => Self::Said {
                to_stderr: kind == b'e',
                bytes,
            },
            b'x' => Self::Done(bytes.first().copied().unwrap_or(125)),
            other => return Err(garbled(format!("a frame of the kind {other}"))),
        })
    }
}

/// Puts frames together from whatever pieces they come in.
#[derive(Debug, Default)]
pub(crate) struct Frames(Buffer);

impl Frames {
    /// Where so much more can be put; [`Frames::filled`] says how much was.
    pub(crate) fn room(&mut self, size: usize) -> &mut [u8] {
        self.0.room(size)
    }

    pub(crate) fn filled(&mut self, size: usize) {
        self.0.filled(size);
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// The next whole frame: its kind and what is in it.
    pub(crate) fn next(&mut self) -> Result<Option<(u8, &[u8])>, Garbled> {
        let Some((head, rest)) = self.0.front().split_at_checked(5) else {
            return Ok(None);
        };
        let length = head[1..].try_into().map(u32::from_le_bytes).unwrap_or_default() as usize;
        if length > MOST {
            return Err(garbled(format!("a frame of {length} bytes")));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let kind = head[0];
        Ok(Some((kind, &self.0.take(5 + length)[5..])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word() -> impl Strategy<Value = OsString> {
        prop::collection::vec(1..=255_u8, 0..20).prop_map(OsString::from_vec)
    }

    fn place() -> impl Strategy<Value = Place> {
        let stream = prop::sample::select(vec![Stream::Merged, Stream::Stdout, Stream::Stderr]);
        (any::<u32>(), stream)
    }

    fn ask() -> impl Strategy<Value = Ask> {
        let id = || any::<u64>().prop_map(|random| JobId::generate("a", random));
        let start = (
            id(),
            prop::option::of(any::<u32>()),
            prop::collection::vec(word(), 0..5),
            prop::collection::vec((word(), word()), 0..5),
        )
            .prop_map(|(id, lease, words, env)| Start {
                id,
                lease: lease.map(|seconds| Duration::from_secs(seconds.into())),
                words,
                env,
            });
        let resume =
            (id(), prop::collection::vec((place(), any::<u64>()), 0..4)).prop_map(|(id, points)| Resume {
                id,
                points: points
                    .into_iter()
                    .map(|((step, stream), at)| (step, stream, at))
                    .collect(),
            });
        prop_oneof![
            (any::<u32>(), any::<u32>(), prop::option::of(id())).prop_map(
                |(protocol, seconds, agent_for)| Ask::Hello(Hello {
                    protocol,
                    keepalive: Duration::from_secs(seconds.into()),
                    agent_for,
                })
            ),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Ask::Input),
            start.prop_map(Ask::Start),
            resume.prop_map(Ask::Resume),
            Just(Ask::Ping),
            any::<u8>().prop_map(Ask::Stop),
            id().prop_map(Ask::Close),
            word().prop_map(Ask::Put),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Ask::Piece),
            (word(), prop::collection::vec(word(), 0..5))
                .prop_map(|(path, words)| Ask::Fetch(Fetch { path, words })),
            prop::collection::vec(word(), 0..5).prop_map(Ask::Verb),
        ]
    }

    fn answer() -> impl Strategy<Value = Answer<'static>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| &*bytes.leak());
        prop_oneof![
            (any::<u32>(), ".{0,9}", ".{0,9}").prop_map(|(protocol, version, boot_id)| Answer::Welcome(
                Welcome {
                    protocol,
                    known: vec![protocol],
                    version,
                    boot_id,
                }
            )),
            Just(Answer::Started),
            ".{0,40}".prop_map(Answer::Refused),
            (place(), any::<u64>(), bytes()).prop_map(|(place, offset, bytes)| Answer::Data {
                place,
                offset,
                bytes,
            }),
            (place(), any::<u64>()).prop_map(|(place, bytes)| Answer::Dropped { place, bytes }),
            Just(Answer::Pong),
            ".{0,40}".prop_map(Answer::Over),
            bytes().prop_map(Answer::Piece),
            (any::<u64>(), prop::option::of(".{0,40}"))
                .prop_map(|(skipped, why)| Answer::Packed(Packed { skipped, why })),
            ".{0,40}".prop_map(Answer::Gone),
            (any::<bool>(), bytes()).prop_map(|(to_stderr, bytes)| Answer::Said { to_stderr, bytes }),
            any::<u8>().prop_map(Answer::Done),
        ]
    }

    /// Pushes bytes in pieces of a size, and takes out what is whole.
    fn through(bytes: &[u8], size: usize) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Frames::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(size) {
            frames.push(piece);
            while let Some((kind, text)) = frames.next().unwrap() {
                out.push((kind, text.to_vec()));
            }
        }
        out
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard_in_whatever_pieces_it_comes(
            asks in prop::collection::vec(ask(), 0..6), answers in prop::collection::vec(answer(), 0..6), size in 1..400_usize
        ) {
            let said: Vec<u8> = asks.iter().flat_map(Ask::encode).collect();
            let heard: Vec<Ask> = through(&said, size).iter().map(|(kind, text)| Ask::decode(*kind, text).unwrap()).collect();
            prop_assert_eq!(heard, asks);
            let said: Vec<u8> = answers.iter().flat_map(Answer::encode).collect();
            let frames = through(&said, size);
            let heard: Vec<Answer> = frames.iter().map(|(kind, text)| Answer::decode(*kind, text).unwrap()).collect();
            prop_assert_eq!(heard, answers);
        }

        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            frames.push(&bytes);
            while let Ok(Some((kind, text))) = frames.next() {
                let _ = (Ask::decode(kind, text), Answer::decode(kind, text));
            }
        }
    }
}
