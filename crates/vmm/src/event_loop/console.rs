//! Input for the serial console.

use crate::bus::lock;
use crate::legacy::uart::Uart;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// Ctrl-A: what follows is for the VMM.
const ESCAPE: u8 = 1;

/// What input has led to.
pub enum Input {
    /// Nothing special.
    Continue,
    /// The user wants to end the machine (Ctrl-A x).
    Escape,
}

/// Where the UART's input comes from.
pub struct Console {
    uart: Arc<Mutex<Uart>>,
    pub(super) input: Option<OwnedFd>,
    pub(super) watched: bool,
    drained: EventFd,
    is_terminal: bool,
    escaped: bool,
}

impl Console {
    /// Input from `input`, if any; `drained` is what the UART signals.
    pub fn new(uart: Arc<Mutex<Uart>>, input: Option<OwnedFd>, drained: EventFd) -> Self {
        let is_terminal = input.as_ref().is_some_and(rustix::termios::isatty);
        Console { uart, input, watched: false, drained, is_terminal, escaped: false }
    }

    pub(super) fn drained_fd(&self) -> RawFd {
        self.drained.as_raw_fd()
    }

    pub(super) fn drained(&self) {
        let _ = self.drained.read();
    }

    pub(super) fn wants_input(&self) -> bool {
        self.input.is_some() && lock(&self.uart).room() > 0
    }

    /// Moves what fits; forgets an input that has ended.
    pub(super) fn input(&mut self) -> Input {
        let room = lock(&self.uart).room();
        let mut bytes = [0; 64];
        let Some(input) = &self.input else { return Input::Continue };
        let wanted = room.min(bytes.len());
        if wanted == 0 {
            return Input::Continue;
        }
        match rustix::io::read(input, &mut bytes[..wanted]) {
            Ok(0) => self.end(),
            Ok(length) => return self.forward(&bytes[..length]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.end(),
        }
        Input::Continue
    }

    /// Closing the file also takes it out of the epoll set, but only if nobody else has it open; see `Drop` of `OwnedFd`.
    fn end(&mut self) {
        self.input = None;
        self.watched = false;
    }

    fn forward(&mut self, bytes: &[u8]) -> Input {
        let mut plain = Vec::with_capacity(bytes.len());
        for byte in bytes {
            match (*byte, std::mem::take(&mut self.escaped)) {
                (b'x', true) => return Input::Escape,
                (ESCAPE, false) if self.is_terminal => self.escaped = true,
                (other, _) => plain.push(other),
            }
        }
        lock(&self.uart).input(&plain);
        Input::Continue
    }
}
