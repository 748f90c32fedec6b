//! clear-vmm's control protocol, as much of it as is needed. Connected from birth, spoken to only on demand.

use crate::json_lines::JsonLines;
use crate::{ControlError, Pause};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;

/// The version of the protocol that is spoken here.
const VERSION: u64 = 1;

/// The host's end of the control socket.
#[derive(Debug)]
pub struct Control(JsonLines);

impl Control {
    /// Takes over a connected socket. Nothing is sent or read yet.
    pub fn new(socket: OwnedFd) -> Self {
        Control(JsonLines::new(socket))
    }

    /// Runs a command without arguments.
    fn execute(&mut self, command: &str) -> Result<Value, ControlError> {
        self.0.send(&json!({ "version": VERSION, "command": command }))?;
        let mut answer = self.0.receive(command, JsonLines::deadline())?;
        let refused =
            |reason: &str| ControlError::Refused { command: command.to_string(), reason: reason.to_string() };
        match (answer.get_mut("ok").map(Value::take), answer.get("error").and_then(Value::as_str)) {
            (Some(result), _) => Ok(result),
            (None, reason) => Err(refused(reason.unwrap_or("no reason given"))),
        }
    }
}

impl Pause for Control {
    fn pause(&mut self) -> Result<(), ControlError> {
        self.execute("pause").map(drop)
    }

    fn resume(&mut self) -> Result<(), ControlError> {
        self.execute("resume").map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    /// Answers one line; says what it was.
    fn peer(answer: &'static str) -> (Control, std::thread::JoinHandle<String>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(theirs.try_clone().unwrap()).read_line(&mut line).unwrap();
            theirs.write_all(answer.as_bytes()).unwrap();
            line
        });
        (Control::new(ours.into()), thread)
    }

    #[test]
    fn commands_and_answers() {
        let (mut control, peer_thread) = peer("{\"version\":1,\"ok\":{}}\n");
        control.pause().unwrap();
        assert_eq!(peer_thread.join().unwrap(), "{\"command\":\"pause\",\"version\":1}\n");
        let (mut control, _) = peer("{\"version\":1,\"error\":\"not now\"}\n");
        assert!(control.resume().unwrap_err().to_string().contains("not now"));
        let (mut control, _) = peer("");
        assert!(matches!(control.resume(), Err(ControlError::Io(_))));
    }
}
