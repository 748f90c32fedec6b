//! QEMU's monitor protocol, as much of it as is needed. Connected from birth, spoken to only on demand.

use crate::{ControlError, Pause};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long QEMU may take for one command.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest message accepted from QEMU, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// The host's end of a QMP connection.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    buffer: Vec<u8>,
    negotiated: bool,
}

impl Monitor {
    /// Takes over a connected socket. Nothing is sent or read yet.
    pub fn new(socket: OwnedFd) -> Self {
        Monitor { stream: socket.into(), buffer: Vec::new(), negotiated: false }
    }

    /// Runs a command without arguments.
    fn execute(&mut self, command: &str) -> Result<Value, ControlError> {
        let deadline = Instant::now() + DEADLINE;
        if !self.negotiated {
            // Until capabilities are negotiated QEMU sends no events, so an unused monitor fills no buffer.
            self.request("qmp_capabilities", deadline)?;
            self.negotiated = true;
        }
        self.request(command, deadline)
    }

    fn request(&mut self, command: &str, deadline: Instant) -> Result<Value, ControlError> {
        let mut line = json!({ "execute": command }).to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes())?;
        loop {
            let message = self.message(command, deadline)?;
            if let Some(result) = message.get("return") {
                return Ok(result.clone());
            }
            if let Some(error) = message.get("error") {
                let reason =
                    error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_string();
                return Err(ControlError::Refused { command: command.to_string(), reason });
            }
        }
    }

    /// The next message; greetings and events pass through here too.
    fn message(&mut self, command: &str, deadline: Instant) -> Result<Value, ControlError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line).map_err(io::Error::from)?);
            }
            if self.buffer.len() > MAX_MESSAGE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "message without end").into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ControlError::Timeout {
                    command: command.to_string(),
                    seconds: DEADLINE.as_secs(),
                });
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut part = [0; 4096];
            match self.stream.read(&mut part) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => self.buffer.extend_from_slice(&part[..count]),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Pause for Monitor {
    fn pause(&mut self) -> Result<(), ControlError> {
        self.execute("stop").map(drop)
    }

    fn resume(&mut self) -> Result<(), ControlError> {
        self.execute("cont").map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    /// Answers each line with the next of `answers`.
    fn peer(answers: &'static [&'static str]) -> Monitor {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(theirs.try_clone().unwrap()).lines();
            let mut theirs = theirs;
            theirs.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            for answer in answers {
                lines.next();
                theirs.write_all(answer.as_bytes()).unwrap();
            }
        });
        Monitor::new(ours.into())
    }

    #[test]
    fn events_before_an_answer_are_passed_over() {
        let mut monitor = peer(&["{\"return\": {}}\r\n", "{\"event\": \"STOP\"}\r\n{\"return\": {}}\r\n"]);
        monitor.pause().unwrap();
    }

    #[test]
    fn a_refusal_carries_qemus_words() {
        let mut monitor = peer(&["{\"return\": {}}\r\n", "{\"error\": {\"desc\": \"not now\"}}\r\n"]);
        assert!(monitor.resume().unwrap_err().to_string().contains("not now"));
    }

    #[test]
    fn a_monitor_that_goes_away_is_an_error() {
        assert!(matches!(peer(&[]).pause(), Err(ControlError::Io(_))));
    }
}
