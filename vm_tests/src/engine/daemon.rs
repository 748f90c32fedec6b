//! An engine's daemon.

use crate::command::Command;
use crate::wait::{PATIENCE, until};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Instant;

/// A running daemon; what it says goes to a file.
#[derive(Debug)]
pub struct Daemon {
    command: Command,
    socket: PathBuf,
    log: PathBuf,
    process: Child,
}

impl Daemon {
    /// Starts it and waits until `ready`, a command that talks to it, succeeds.
    ///
    /// # Panics
    /// With its log when it does not come up.
    pub fn start(command: Command, socket: &str, log: &str, ready: &Command) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log");
        let both = (file.try_clone().expect("a descriptor"), file);
        let spawn = command.std().stdin(Stdio::null()).stdout(both.0).stderr(both.1).spawn();
        let process = spawn.unwrap_or_else(|error| panic!("starting {command}: {error}"));
        let mut daemon = Daemon { command, socket: socket.into(), log: log.into(), process };
        let deadline = Instant::now() + PATIENCE;
        while !daemon.socket.exists() || ready.run().code != 0 {
            let ended = daemon.process.try_wait().expect("waiting for a daemon");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{} is not there: {}",
                daemon.command,
                daemon.said()
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        daemon
    }

    /// Its log.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(mut self, signal: i32) {
        crate::terminal::send_signal(self.process.id(), signal);
        until("the end of a daemon", || self.process.try_wait().expect("waiting for a daemon"));
    }
}
