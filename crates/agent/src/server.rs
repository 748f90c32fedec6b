//! The agent's one loop: everything that can happen is a file descriptor in one poll(2).
//!
//! ```text
//!   port readable ──► requests.rs ──► new tasks            SIGCHLD ──► reaper.rs ──► exits
//!   status sockets ──► progress ──► replies                memory.events ──► OutOfMemory
//!   pipes and terminals ◄──► streams.rs ◄──► Mux ◄──► port
//!   questions to a name server ◄──► names/ ◄──► Mux
//! ```

use crate::container::task::{Progress, Task};
use crate::container::{Container, Remains};
use crate::error::{Doing, Result};
use crate::link::Link;
use crate::machine::network::Network;
use crate::names::Names;
use crate::streams::{Direction, Streams, TaskKey};
use crate::sys;
use guest_protocol::message::{AgentError, Event, FromAgent, INIT_PROCESS, Reply};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes that are moved at a time.
const BUFFER: usize = 32 << 10;

/// The agent, once it is connected.
pub struct Server {
    /// The host.
    pub link: Link,
    /// Containers by id, ended ones included.
    pub containers: BTreeMap<String, Container>,
    /// Their processes, until everything about them was told.
    pub tasks: BTreeMap<TaskKey, Task>,
    /// What ended containers leave, removed when the next container comes.
    pub ended: Vec<Remains>,
    /// Their standard files.
    pub streams: Streams,
    /// The key of the last task.
    pub last_key: TaskKey,
    /// The machine's network interfaces.
    pub network: Network,
    /// What takes questions to a name server to the host, if it has one.
    pub names: Option<Names>,
    signals: OwnedFd,
}

/// What poll(2) found.
#[derive(Default)]
struct Happened {
    port: bool,
    children: bool,
    memory: bool,
    broken: Vec<i32>,
}

impl Server {
    /// Serves the host at the other end of `link`. SIGCHLD has to be blocked.
    ///
    /// # Errors
    /// When there is no signalfd.
    pub fn new(link: Link) -> Result<Server> {
        let signals = sys::signal_fd(sys::SignalSet::Child).doing(|| "watch for SIGCHLD".into())?;
        let (containers, tasks, ended, streams) = Default::default();
        let network = Network::default();
        Ok(Server { link, containers, tasks, ended, streams, last_key: 0, network, names: None, signals })
    }

    /// Runs until the host is gone.
    ///
    /// # Errors
    /// Always: why it ended.
    pub fn run(&mut self) -> Result<std::convert::Infallible> {
        let mut buffer = vec![0; BUFFER];
        loop {
            self.streams.turn(&mut self.link.mux, &mut buffer);
            if let Some(names) = &mut self.names {
                names.turn(&mut self.link.mux, &mut buffer);
            }
            self.tell_exits()?;
            self.link.write()?;
            let happened = self.wait()?;
            for file in happened.broken {
                self.streams.broken(&mut self.link.mux, file);
            }
            self.take_progress()?;
            if happened.children {
                while sys::next_signal(&self.signals).is_some() {}
                self.reap()?;
            }
            if happened.memory {
                self.tell_lack_of_memory()?;
            }
            if happened.port {
                self.link.read(&mut buffer)?;
            }
            while let Some(event) = self.link.next_event() {
                self.streams.on_event(event);
                self.names.iter_mut().for_each(|names| names.on_event(event));
            }
            while let Some(request) = self.link.next_request()? {
                self.serve(request)?;
            }
        }
    }

    fn wait(&self) -> Result<Happened> {
        let mux = &self.link.mux;
        let port_events =
            PollFlags::IN | if self.link.has_output() { PollFlags::OUT } else { PollFlags::empty() };
        let mut fds: Vec<PollFd> = vec![
            PollFd::from_borrowed_fd(self.link.port(), port_events),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        let statuses = self.tasks.values().filter_map(|t| t.status.as_ref());
        fds.extend(statuses.map(|status| PollFd::new(status, PollFlags::IN)));
        let memory = fds.len();
        let groups = self.containers.values().filter_map(|c| c.cgroup.as_ref()?.events());
        fds.extend(groups.map(|events: BorrowedFd| PollFd::from_borrowed_fd(events, PollFlags::PRI)));
        let streams = fds.len();
        fds.extend(self.streams.interests(mux).map(|(file, events)| PollFd::from_borrowed_fd(file, events)));
        let names = fds.len();
        let questions = self.names.iter().flat_map(|names| names.interests(mux));
        fds.extend(questions.map(|(file, events)| PollFd::from_borrowed_fd(file, events)));
        // What an ended process left in its pipe has to be looked for: nothing will report that there is no more.
        let now = Timespec::default();
        let timeout = self.streams.unsettled(mux).then_some(&now);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).doing(|| "poll".into()),
        }
        let reader_gone = |fd: &&PollFd| fd.revents().intersects(PollFlags::ERR | PollFlags::NVAL);
        Ok(Happened {
            port: fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            children: !fds[1].revents().is_empty(),
            memory: fds[memory..streams].iter().any(|fd| !fd.revents().is_empty()),
            broken: fds[streams..names].iter().filter(reader_gone).map(|fd| fd.as_fd().as_raw_fd()).collect(),
        })
    }

    /// Sends an event.
    ///
    /// # Errors
    /// When the host does not read.
    pub fn tell(&mut self, event: Event) -> Result<()> {
        self.link.send(&FromAgent::Event(event))
    }

    /// Answers a request.
    ///
    /// # Errors
    /// When the host does not read.
    pub fn answer(&mut self, id: u32, result: std::result::Result<Reply, AgentError>) -> Result<()> {
        let result = result.map_err(|mut e| {
            e.message = crate::error::cut(&e.message, crate::error::MAX_MESSAGE).to_owned();
            e
        });
        self.link.send(&FromAgent::Reply { id, result })
    }

    fn take_progress(&mut self) -> Result<()> {
        let keys: Vec<TaskKey> = self.tasks.values().filter(|t| t.status.is_some()).map(|t| t.key).collect();
        keys.into_iter().try_for_each(|key| self.progress_of(key))
    }

    /// Takes all reports of one task.
    ///
    /// # Errors
    /// When the host does not read.
    pub fn progress_of(&mut self, key: TaskKey) -> Result<()> {
        loop {
            let Some(task) = self.tasks.get_mut(&key) else { return Ok(()) };
            let pid = task.pid.as_raw_nonzero().get() as u32;
            let first = task.process_id == INIT_PROCESS;
            match task.next_progress() {
                None => return Ok(()),
                Some(Progress::Nothing) => {}
                Some(Progress::Ready { request }) if first => {
                    self.open_streams(key);
                    self.answer(request, Ok(Reply::Created { pid }))?;
                }
                Some(Progress::Ready { request }) => {
                    if let Err(error) = task.start(request) {
                        task.phase = crate::container::task::Phase::Preparing { request };
                        task.failure = Some(error);
                        task.status = None;
                    }
                }
                Some(Progress::Executed { request }) if first => self.answer(request, Ok(Reply::Done))?,
                Some(Progress::Executed { request }) => {
                    self.open_streams(key);
                    self.answer(request, Ok(Reply::Created { pid }))?;
                }
            }
        }
    }

    fn open_streams(&mut self, key: TaskKey) {
        let Some(task) = self.tasks.get_mut(&key) else { return };
        let mux = &mut self.link.mux;
        if let Some(master) = &task.terminal {
            let ports = [(Direction::In, task.io.stdin), (Direction::Out, task.io.stdout)];
            for (direction, port) in ports {
                if let Some(port) = port {
                    self.streams.add(mux, key, direction, port, Rc::clone(master), true);
                }
            }
        }
        for (direction, port, file) in task.ends.drain(..) {
            self.streams.add(mux, key, direction, port, Rc::new(file), false);
        }
    }
}
