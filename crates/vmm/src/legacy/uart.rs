//! The serial console: a 16550A at the place of COM1 (`ttyS0`), made of `vm_superio`.
//!
//! A byte that the guest writes goes out at once, on the vCPU's own thread: when nobody reads, only the guest that writes
//! waits. Bytes for the guest come from the event loop, as many as fit into the FIFO.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Interrupt line of COM1.
pub const IRQ: usize = 4;

/// COM1's first port.
pub const PORT: u16 = 0x3F8;

/// Number of its ports.
pub const PORTS: u16 = 8;

/// Raises the UART's interrupt.
pub trait Line: Send + Sync {
    /// One edge.
    fn pulse(&self);
}

/// A line as `vm_superio` wants it.
#[derive(Clone)]
pub struct LineTrigger(Arc<dyn Line>);

impl Trigger for LineTrigger {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.pulse();
        Ok(())
    }
}

/// Tells the event loop that the guest has emptied the FIFO.
#[derive(Debug)]
pub struct Drained(EventFd);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // Fails only when the counter is full, and then the loop is awake.
        let _ = self.0.write(1);
    }
}

/// Where the guest's bytes go: a file that may be non-blocking, because it is shared with others.
#[derive(Debug)]
pub struct Output(File);

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(data) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let mut fds = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::OUT)];
                    rustix::event::poll(&mut fds, None)?;
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The UART.
pub struct Uart {
    serial: Serial<LineTrigger, Drained, Output>,
}

impl Uart {
    /// Writes to `output`; signals `drained` when the guest has read all input.
    pub fn new(line: Arc<dyn Line>, output: File, drained: EventFd) -> Self {
        Uart { serial: Serial::with_events(LineTrigger(line), Drained(drained), Output(output)) }
    }

    /// Register `offset`, 0 to 7.
    pub fn read(&mut self, offset: u8) -> u8 {
        self.serial.read(offset)
    }

    /// Register `offset`, 0 to 7. A byte that cannot be written, because its reader has gone, is lost.
    pub fn write(&mut self, offset: u8, value: u8) {
        let _ = self.serial.write(offset, value);
    }

    /// How many bytes of input fit now.
    pub fn room(&self) -> usize {
        self.serial.fifo_capacity()
    }

    /// Input for the guest; what does not fit is lost, see [`Uart::room`].
    pub fn input(&mut self, bytes: &[u8]) {
        let _ = self.serial.enqueue_raw_bytes(bytes);
    }

    /// Where output goes.
    pub fn output(&self) -> std::os::fd::BorrowedFd<'_> {
        self.serial.writer().0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    struct Silent;
    impl Line for Silent {
        fn pulse(&self) {}
    }

    #[test]
    fn bytes_go_out_and_come_in() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let drained = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let mut uart = Uart::new(Arc::new(Silent), File::from(writer), drained.try_clone().unwrap());
        for byte in b"hi" {
            uart.write(0, *byte);
        }
        let mut got = [0; 2];
        File::from(reader).read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hi");
        let room = uart.room();
        uart.input(&vec![b'x'; room]);
        assert_eq!(uart.room(), 0);
        assert!(drained.read().is_err());
        for _ in 0..room {
            assert_eq!(uart.read(0), b'x');
        }
        assert_eq!(drained.read().unwrap(), 1);
    }
}
