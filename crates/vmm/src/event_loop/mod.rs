//! The thread that owns all devices: waits for files, and calls whoever they belong to.
//!
//! ```text
//!   epoll ─┬─ wake      a vCPU has ended, or has changed a device (activation, reset, configuration)
//!          ├─ signals   SIGTERM, SIGINT, SIGHUP
//!          ├─ console   bytes for the UART, and the UART's "I have read them all"
//!          ├─ sources   queue kicks and the files that devices watch
//!          └─ control   files of a [`Controller`], which may change all of this
//! ```
//!
//! While the machine is paused, neither sources nor the console are watched.
//!
//! vCPU threads reach a device's registers under its lock, which is held for one access or one event. After such an access
//! the vCPU marks the source dirty and wakes the loop, which then asks it again what it waits for.

mod console;
pub mod signals;
mod sources;

pub use console::Console;
pub use sources::{Interest, Ready, Source, SourceHandle};

use crate::vcpu::exit::ExitReason;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use vmm_sys_util::eventfd::EventFd;

/// Events taken at once.
const BATCH: usize = 32;

/// An event loop that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("event loop: {doing}: {source}")]
pub struct LoopError {
    /// What was tried.
    pub doing: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

fn doing<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> LoopError {
    move |source| LoopError { doing, source: source.into() }
}

/// What an event means. A controller has the numbers from [`CONTROL`] on, sources those from [`SOURCES`] on, with their slot in
/// the low half.
mod token {
    pub const WAKE: u64 = 0;
    pub const SIGNAL: u64 = 1;
    pub const CONSOLE_INPUT: u64 = 2;
    pub const CONSOLE_DRAINED: u64 = 3;
    pub const CONTROL: u64 = 1 << 16;
    pub const SOURCES: u64 = 1 << 32;
}

/// Wakes the loop from another thread.
#[derive(Debug, Clone)]
pub struct Waker {
    event: Arc<EventFd>,
    /// One bit for each source that has to be asked again.
    dirty: Arc<AtomicU64>,
}

impl Waker {
    /// Wakes it.
    pub fn wake(&self) {
        // Fails only when the counter is full, and then the loop is awake.
        let _ = self.event.write(1);
    }
}

/// Controls the machine from the loop's thread, for example on behalf of a socket.
pub trait Controller {
    /// The file is ready that it watches as `number`. A reason ends the machine.
    fn ready(&mut self, events: &mut EventLoop, number: u16) -> Option<ExitReason>;

    /// The loop was woken, by whomever.
    fn woken(&mut self, events: &mut EventLoop) -> Option<ExitReason>;
}

/// A machine that nobody controls.
impl Controller for () {
    fn ready(&mut self, _: &mut EventLoop, _: u16) -> Option<ExitReason> {
        None
    }

    fn woken(&mut self, _: &mut EventLoop) -> Option<ExitReason> {
        None
    }
}

/// What the loop can end with besides what vCPUs report.
enum Handled {
    Continue,
    Ended(ExitReason),
}

/// The loop.
pub struct EventLoop {
    epoll: OwnedFd,
    waker: Waker,
    signals: Option<OwnedFd>,
    console: Option<Console>,
    sources: sources::Sources,
    paused: bool,
}

impl EventLoop {
    /// A loop that watches nothing but its waker.
    ///
    /// # Errors
    /// When the host has no file descriptors left.
    pub fn new() -> Result<Self, LoopError> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(doing("creating an epoll instance"))?;
        let event =
            EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(doing("creating an eventfd"))?;
        let waker = Waker { event: Arc::new(event), dirty: Arc::new(AtomicU64::new(0)) };
        let sources = sources::Sources::default();
        let events = EventLoop { epoll, waker, signals: None, console: None, sources, paused: false };
        events.watch(&sources::Raw(std::os::fd::AsRawFd::as_raw_fd(&*events.waker.event)), token::WAKE)?;
        Ok(events)
    }

    /// Wakes this loop.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Ends the machine on the signals that [`signals::block`] has blocked.
    ///
    /// # Errors
    /// When the file cannot be watched.
    pub fn end_on_signals(&mut self, signals: OwnedFd) -> Result<(), LoopError> {
        self.watch(&signals, token::SIGNAL)?;
        self.signals = Some(signals);
        Ok(())
    }

    /// Feeds the UART.
    ///
    /// # Errors
    /// When the files cannot be watched.
    pub fn console(&mut self, console: Console) -> Result<(), LoopError> {
        self.watch(&sources::Raw(console.drained_fd()), token::CONSOLE_DRAINED)?;
        self.console = Some(console);
        self.console_input()
    }

    /// Adds a device; the handle tells the loop to ask it again. At most 64.
    pub fn add(&mut self, source: Arc<std::sync::Mutex<dyn Source>>) -> SourceHandle {
        self.sources.add(source, &self.waker)
    }

    /// Forgets a device.
    pub fn remove(&mut self, source: &SourceHandle) {
        self.sources.remove(&self.epoll, source);
    }

    /// Stops or goes on serving devices and the console. What happens meanwhile waits in their files.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        self.sources.set_suspended(&self.epoll, &self.waker, paused);
        // A console that cannot be watched is one without input.
        let _ = self.console_input();
    }

    /// Watches a controller's file as `number`, for what of reading and writing is wanted; for neither, forgets it.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn watch_control(
        &self,
        file: &impl AsFd,
        number: u16,
        read: bool,
        write: bool,
    ) -> Result<(), LoopError> {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, read);
        flags.set(EventFlags::OUT, write);
        // Whether it is watched now is not kept here: at most one of the two works.
        let _ = epoll::delete(&self.epoll, file);
        if flags.is_empty() {
            return Ok(());
        }
        let data = EventData::new_u64(token::CONTROL + u64::from(number));
        epoll::add(&self.epoll, file, data, flags).map_err(doing("watching a control socket"))
    }

    fn watch(&self, file: &impl AsFd, token: u64) -> Result<(), LoopError> {
        epoll::add(&self.epoll, file, EventData::new_u64(token), EventFlags::IN)
            .map_err(doing("watching a file"))
    }

    /// Works until `ended` says why the machine has ended; it is asked after each wake-up.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn run(
        &mut self,
        controller: &mut dyn Controller,
        ended: impl Fn() -> Option<ExitReason>,
    ) -> Result<ExitReason, LoopError> {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            if let Some(reason) = ended() {
                return Ok(reason);
            }
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(doing("waiting")(e)),
            }
            for event in &events {
                let epoll::Event { data, flags } = *event;
                if let Handled::Ended(reason) = self.handle(data.u64(), flags, controller)? {
                    return Ok(reason);
                }
            }
        }
    }

    fn handle(
        &mut self,
        token: u64,
        flags: EventFlags,
        controller: &mut dyn Controller,
    ) -> Result<Handled, LoopError> {
        match token {
            token::WAKE => {
                let _ = self.waker.event.read();
                self.sources.refresh(&self.epoll, &self.waker);
                return Ok(controller.woken(self).map_or(Handled::Continue, Handled::Ended));
            }
            token::CONTROL..token::SOURCES => {
                let number = (token - token::CONTROL) as u16;
                return Ok(controller.ready(self, number).map_or(Handled::Continue, Handled::Ended));
            }
            token::SIGNAL => {
                if let Some(number) = self.signals.as_ref().and_then(signals::take) {
                    return Ok(Handled::Ended(ExitReason::Signal(number)));
                }
            }
            token::CONSOLE_INPUT | token::CONSOLE_DRAINED => {
                let Some(console) = &mut self.console else { return Ok(Handled::Continue) };
                if token == token::CONSOLE_INPUT {
                    if let console::Input::Escape = console.input() {
                        return Ok(Handled::Ended(ExitReason::PowerOff));
                    }
                } else {
                    console.drained();
                }
                self.console_input()?;
            }
            other => self.sources.handle(&self.epoll, other, flags),
        }
        Ok(Handled::Continue)
    }

    /// Watches the console's input while there is room for it.
    fn console_input(&mut self) -> Result<(), LoopError> {
        let Some(console) = &mut self.console else { return Ok(()) };
        let (wanted, watched) = (console.wants_input() && !self.paused, console.watched);
        if let Some(input) = &console.input
            && wanted != watched
        {
            let changed = if wanted {
                epoll::add(&self.epoll, input, EventData::new_u64(token::CONSOLE_INPUT), EventFlags::IN)
            } else {
                epoll::delete(&self.epoll, input)
            };
            match changed {
                Ok(()) => console.watched = wanted,
                // A regular file or /dev/null: nothing to wait for.
                Err(Errno::PERM) => console.input = None,
                Err(e) => return Err(doing("watching the console")(e)),
            }
        }
        Ok(())
    }
}
