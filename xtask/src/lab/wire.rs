//! What the host and PID 1 of the lab say to each other over the control port. Output never rides in these messages: each
//! stream has a port of its own.
//!
//! ```text
//!   host ── Job ──► init          once, as soon as the machine runs
//!   host ◄─ Report ── init        Started, Alive every second, then Exited; or Failed
//!   host ── a byte ─► init        say on the console what you are doing
//!   frame: length (4 bytes, little endian), message (postcard)
//! ```

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// Longest message: arguments and environment of a command, which Linux limits to a quarter of the stack (2 MiB).
const MAX_FRAME: u32 = 4 << 20;

/// A byte string that need not be UTF-8: a path, an argument.
pub type Bytes = Vec<u8>;

/// What to run, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Program and arguments; not empty.
    pub arguments: Vec<Bytes>,
    /// The whole environment.
    pub environment: Vec<(Bytes, Bytes)>,
    /// Working directory.
    pub directory: Bytes,
    /// Paths that shall show what the host has there, also where the lab has a fresh /tmp or /run.
    pub keep: Vec<Bytes>,
    /// 9p tags and the paths where they are mounted writable.
    pub shares: Vec<(String, Bytes)>,
    /// Whether the command's standard input comes from the host.
    pub stdin: bool,
    /// The host's clock: seconds and nanoseconds since 1970.
    pub now: (i64, u32),
}

/// How it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The command runs.
    Started,
    /// The machine runs.
    Alive,
    /// The command ended and all it wrote was handed to the ports.
    Exited {
        /// As a shell counts: 128 + signal when one ended it, 127 when there is no such program.
        code: u8,
        /// Bytes written to the port of standard output.
        stdout: u64,
        /// Bytes written to the port of standard error.
        stderr: u64,
    },
    /// The lab could not be set up; why.
    Failed(String),
}

/// Writes one message.
///
/// # Errors
/// Those of the writer; `InvalidInput` when the message is longer than 4 MiB.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_FRAME);
    let Some(length) = length else {
        let what = format!("arguments and environment of {} bytes are too long", body.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    };
    // One write, so that a port carries it in one piece.
    to.write_all(&[&length.to_le_bytes()[..], &body].concat())
}

/// Reads one message.
///
/// # Errors
/// Those of the reader, `UnexpectedEof` at the end; `InvalidData` for what is no message.
pub fn receive<M: DeserializeOwned>(from: &mut impl Read) -> io::Result<M> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_in_order() {
        let job = Job {
            arguments: vec![b"printf".to_vec(), vec![0xff, 0xfe]],
            environment: vec![(b"A".to_vec(), b"b=c".to_vec())],
            directory: b"/".to_vec(),
            keep: vec![b"/tmp/x".to_vec()],
            shares: vec![("share0".into(), b"/srv".to_vec())],
            stdin: true,
            now: (1, 2),
        };
        let report = Report::Exited { code: 3, stdout: 1 << 40, stderr: 0 };
        let mut wire = Vec::new();
        send(&mut wire, &job).unwrap();
        send(&mut wire, &report).unwrap();
        let mut wire = wire.as_slice();
        assert_eq!(receive::<Job>(&mut wire).unwrap(), job);
        assert_eq!(receive::<Report>(&mut wire).unwrap(), report);
        assert_eq!(receive::<Report>(&mut wire).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn lengths_are_bounded() {
        let error = send(&mut Vec::new(), &vec![0u8; MAX_FRAME as usize + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = receive::<Report>(&mut [0xff; 8].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
