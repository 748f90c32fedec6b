//! QEMU's monitor protocol, as much of it as is needed. Connected from birth, spoken to only on demand.

use crate::json_lines::JsonLines;
use crate::{ControlError, Pause};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;

/// The host's end of a QMP connection.
#[derive(Debug)]
pub struct Monitor {
    lines: JsonLines,
    negotiated: bool,
}

impl Monitor {
    /// Takes over a connected socket. Nothing is sent or read yet.
    pub fn new(socket: OwnedFd) -> Self {
        Monitor { lines: JsonLines::new(socket), negotiated: false }
    }

    /// Runs a command without arguments.
    fn execute(&mut self, command: &str) -> Result<Value, ControlError> {
        if !self.negotiated {
            // Until capabilities are negotiated QEMU sends no events, so an unused monitor fills no buffer.
            self.request("qmp_capabilities")?;
            self.negotiated = true;
        }
        self.request(command)
    }

    fn request(&mut self, command: &str) -> Result<Value, ControlError> {
        self.lines.send(&json!({ "execute": command }))?;
        let deadline = JsonLines::deadline();
        loop {
            // Greetings and events pass through here too.
            let message = self.lines.receive(command, deadline)?;
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
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

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
