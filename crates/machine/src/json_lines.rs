//! A connected socket on which a VMM is spoken to: one JSON value a line, in both directions.

use crate::ControlError;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a VMM may take for one command.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest message accepted from a VMM, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// The host's end.
#[derive(Debug)]
pub struct JsonLines {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl JsonLines {
    /// Takes over a connected socket. Nothing is sent or read yet.
    pub fn new(socket: OwnedFd) -> Self {
        JsonLines { stream: socket.into(), buffer: Vec::new() }
    }

    /// When an answer to a command that is sent now is too late.
    pub fn deadline() -> Instant {
        Instant::now() + DEADLINE
    }

    /// Sends one message.
    pub fn send(&mut self, message: &Value) -> Result<(), ControlError> {
        let mut line = message.to_string();
        line.push('\n');
        Ok(self.stream.write_all(line.as_bytes())?)
    }

    /// The next message; `command` is what it is waited for, for the error.
    pub fn receive(&mut self, command: &str, deadline: Instant) -> Result<Value, ControlError> {
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
