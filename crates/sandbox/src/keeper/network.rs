//! The machine's network devices, and which interface of the network namespace each one has.
//!
//! ```text
//!   before the VMM   prepare: a tap for each interface, and spare ones
//!   hooks have run   update: redirect each interface to a tap of its own ─► Interfaces, then Setup
//!   start            update: what has come or changed meanwhile         ─► Interfaces, then Start
//!   later            the kernel tells of a change ─► settle ─► update   ─► Interfaces
//! ```
//!
//! Interfaces that are PCI functions and go to the machine itself are [`Functions`]: they have no tap.
//!
//! How interface and tap are joined is the matter of [`models`].
//!
//! The VMM alone keeps a tap alive: with it goes the tap, and with that all it was connected to but the interface's ingress discipline.
//! Both, and which ports the namespace's sockets get, are on the undo list where the namespace outlives the keeper.

mod models;

use super::agent_client::DEADLINE;
use super::control::ConnectionId;
use super::functions::Functions;
use super::running::{Keeper, Phase, Waiting};
use crate::configuration::{NetworkModel, Passthrough};
use crate::entropy;
use crate::host::HostError;
use crate::host::network::local_ports;
use crate::host::network::redirect::{self, Cookie};
use crate::host::network::scan::{Found, scan};
use crate::host::network::tap::Tap;
use crate::host::network::user::UserNetwork;
use crate::host::network::{MAX_DEVICES, NetworkError};
use crate::host::undo::{self, Undo};
use crate::plan::net_device;
use crate::state::StateDir;
use crate::state::Status;
use guest_protocol::message::{AgentError, ErrorKind, RequestBody};
use guest_protocol::network::Interface;
use machine_spec::Device;
use models::{Join, Owner};
use netlink::Socket;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// RTMGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE of Linux `include/uapi/linux/rtnetlink.h`.
const CHANGES: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;

/// How long a change may go on until it is looked at: an engine adds link, addresses and routes one after another.
const SETTLE: Duration = Duration::from_millis(100);

/// A device of the machine.
#[derive(Debug)]
struct Port {
    tap: Tap,
    /// Address by which the guest finds it.
    device: [u8; 6],
    /// Number of the interface that it has.
    interface: Option<u32>,
    /// By which it has it.
    join: Option<Join>,
    /// Of a macvtap: the only interface that it can have.
    on: Option<u32>,
}

/// The network of one machine.
#[derive(Debug)]
pub(super) struct Network {
    dir: StateDir,
    /// A namespace that outlives the keeper.
    namespace: Option<PathBuf>,
    cookie: Cookie,
    model: NetworkModel,
    /// Whether to take interfaces that another machine has.
    take_over: bool,
    socket: Socket,
    changes: Socket,
    ports: Vec<Port>,
    functions: Functions,
    /// Whether answers of name servers come to the namespace itself.
    answers: bool,
    /// Serves the namespace's interface; its end is that of the network.
    user: Option<UserNetwork>,
    /// What the guest was told last.
    told: Vec<Interface>,
    /// What is not as was asked for, and has not been said.
    warnings: Vec<String>,
    /// When to look at what has changed.
    due: Option<Instant>,
}

/// What a machine is started with.
#[derive(Debug)]
pub(super) struct Prepared {
    pub network: Network,
    pub devices: Vec<Device>,
    pub taps: BTreeMap<String, Vec<OwnedFd>>,
}

impl Network {
    /// Frames go to pasta, which must not connect to the host's loopback for them.
    pub fn served_by(self, user: Option<UserNetwork>) -> Self {
        Network { user, ..self }
    }

    /// Takes the functions that go to the machine itself and makes taps, each with so many `queues`, for the other interfaces, in the calling
    /// thread's network namespace, which is the file `namespace` unless it is the keeper's own. Takes interfaces that another machine has, if
    /// `take_over`.
    ///
    /// # Errors
    /// When there are too many interfaces, or the kernel refuses.
    pub fn prepare(
        dir: &StateDir,
        namespace: Option<PathBuf>,
        least: usize,
        queues: u32,
        (model, take_over): (NetworkModel, bool),
        (passthrough, insist): (Passthrough, bool),
    ) -> Result<Prepared, HostError> {
        let failed = |what| NetworkError::kernel(what);
        let mut socket = Socket::open().map_err(failed("opening a netlink socket"))?;
        let changes = Socket::listen(CHANGES).map_err(failed("opening a netlink socket"))?;
        let mut found = scan(&mut socket)?;
        let interfaces = found.len();
        if interfaces > MAX_DEVICES {
            return Err(NetworkError::TooMany(interfaces).into());
        }
        let functions = Functions::take(dir, namespace.as_deref(), &found, passthrough, insist)?;
        let (mut ports, mut devices, mut taps) = (Vec::new(), functions.devices(), BTreeMap::new());
        found.retain(|one| functions.interfaces().iter().all(|lent| lent.name != one.interface.name));
        let cookie = entropy();
        for index in 0..interfaces.max(least) - devices.len() {
            let spec = net_device(index, queues);
            let Device::Net { name, mac, .. } = &spec else { continue };
            let on = found.get(index).filter(|_| model == NetworkModel::Macvtap);
            let owner = Owner { dir, namespace: &namespace, cookie: &cookie };
            let (tap, files) = owner.make(&mut socket, index, (on, take_over), queues)?;
            taps.insert(name.clone(), files.into_iter().map(OwnedFd::from).collect());
            let on = on.map(|found| found.index);
            ports.push(Port { tap, device: *mac, interface: None, join: None, on });
            devices.push(spec);
        }
        let dir = dir.clone();
        let (told, due, answers, warnings) = (Vec::new(), None, false, Vec::new());
        let network = Network {
            dir,
            namespace,
            cookie,
            model,
            take_over,
            socket,
            changes,
            ports,
            functions,
            answers,
            user: None,
            told,
            warnings,
            due,
        };
        Ok(Prepared { network, devices, taps })
    }

    /// Readable when something of the namespace has changed.
    pub fn changes(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }

    /// Something has changed.
    pub fn changed(&mut self) {
        if self.changes.drain() && self.due.is_none() {
            self.due = Some(Instant::now() + SETTLE);
        }
    }

    /// When to call [`Network::update`] for what has changed.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Connects each interface of the namespace with a device. Returns what the guest is to have, if it has something else.
    ///
    /// # Errors
    /// When there are more interfaces than devices, somebody else takes the packets of one, or the kernel refuses.
    pub fn update(&mut self) -> Result<Option<Vec<Interface>>, HostError> {
        self.due = None;
        let mut found = scan(&mut self.socket)?;
        self.disconnect(&found)?;
        let wanted = found.len();
        for Found { index, interface, .. } in &mut found {
            let port = match self.ports.iter().position(|port| port.interface == Some(*index)) {
                Some(port) => {
                    self.follow(port, interface)?;
                    port
                }
                None => self.connect(*index, interface, wanted)?,
            };
            interface.device = self.ports[port].device;
        }
        let redirected = found.into_iter().map(|one| one.interface);
        let interfaces: Vec<Interface> =
            self.functions.interfaces().iter().cloned().chain(redirected).collect();
        if interfaces == self.told {
            return Ok(None);
        }
        self.told.clone_from(&interfaces);
        Ok(Some(interfaces))
    }

    /// Whether the guest has any.
    pub fn has_interfaces(&self) -> bool {
        !self.functions.interfaces().is_empty() || self.ports.iter().any(|port| port.interface.is_some())
    }

    /// The machine has ended: its functions are the host's again.
    pub fn give_back(&mut self) {
        self.functions.give_back(&self.dir);
    }

    /// From now on what name servers answer to ports from [`redirect::ANSWER_PORTS`] on is for the namespace, whose sockets get such ports.
    /// Called in the namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn let_answers_in(&mut self) -> Result<(), HostError> {
        let (file, ours) = (Path::new(local_ports::FILE), redirect::ANSWERED);
        let before = local_ports::get(file)?;
        if before != ours {
            if let Some(namespace) = self.namespace.clone() {
                undo::note(&self.dir, &Undo::LocalPorts { namespace, before })?;
            }
            local_ports::set(file, ours)?;
        }
        for port in 0..self.ports.len() {
            self.let_answers_in_at(port)?;
        }
        // Interfaces that come later do not fail where this kernel has no such filters.
        self.answers = true;
        Ok(())
    }

    /// Frees the devices of interfaces that are gone. A macvtap has gone with its own: nothing is left of that device but what the guest sees.
    fn disconnect(&mut self, found: &[Found]) -> Result<(), HostError> {
        let gone = |index: Option<u32>| index.is_some_and(|index| found.iter().all(|one| one.index != index));
        self.ports.retain(|port| !gone(port.on));
        for port in self.ports.iter_mut().filter(|port| gone(port.interface)) {
            if let Some(Join::Bridge(bridge)) = port.join.take() {
                bridge.remove(&mut self.socket)?;
            }
            redirect::remove(&mut self.socket, port.tap.index, &self.cookie)?;
            port.interface = None;
        }
        Ok(())
    }

    /// Gives an interface the first free device.
    fn connect(&mut self, index: u32, interface: &Interface, wanted: usize) -> Result<usize, HostError> {
        let devices = self.ports.len();
        let Some(free) = self.free(index) else {
            return Err(NetworkError::NoDevice { name: interface.name.clone(), devices, wanted }.into());
        };
        // A macvtap has taken it already.
        if self.take_over && self.ports[free].on.is_none() {
            redirect::take(&mut self.socket, index)?;
        }
        let join = self.join(free, index, interface)?;
        // It is connected, whatever becomes of the answers.
        let port = &mut self.ports[free];
        (port.interface, port.join) = (Some(index), Some(join));
        if self.answers {
            self.let_answers_in_at(free)?;
        }
        Ok(free)
    }
}

impl Keeper {
    /// Tells the guest of the interfaces that are there before it is set up. False when that failed, and the machine is to end.
    pub(super) fn send_interfaces(&mut self) -> bool {
        let Some(network) = &mut self.network else { return true };
        let sent = match network.update() {
            // Also when there are none: then the guest puts its devices away.
            Ok(interfaces) => self
                .send(RequestBody::Interfaces(interfaces.unwrap_or_default()), Waiting::Interfaces, DEADLINE)
                .map_err(|e| e.message),
            Err(error) => Err(error.to_string()),
        };
        match sent {
            Ok(()) => {
                self.offer_names();
                self.warn_of_models();
                true
            }
            Err(message) => {
                self.fail("setting up the network", &message);
                false
            }
        }
    }

    /// Tells the guest of interfaces that have come since it was set up. True when the program has to wait for its answer.
    pub(super) fn plug(&mut self, id: ConnectionId) -> Result<bool, AgentError> {
        let Some(network) = &mut self.network else { return Ok(false) };
        let interfaces = network.update().map_err(|error| {
            AgentError::new(ErrorKind::Failed, format!("setting up the network: {error}"))
        })?;
        self.offer_names();
        self.warn_of_models();
        let Some(interfaces) = interfaces else { return Ok(false) };
        self.send(RequestBody::Interfaces(interfaces), Waiting::Plugged(id), DEADLINE).map(|()| true)
    }

    /// Whether changes of the network namespace are the guest's too: the program runs, and the guest can answer.
    pub(super) fn follows_network(&self) -> bool {
        matches!(self.phase, Phase::Alive) && self.state.status == Status::Running
    }

    /// Tells the guest what has changed while the program runs. A failure does not end it.
    pub(super) fn follow_network(&mut self) {
        if !self.follows_network() {
            return;
        }
        let Some(network) = &mut self.network else { return };
        let sent = match network.update() {
            Ok(None) => Ok(()),
            Ok(Some(interfaces)) => self
                .send(RequestBody::Interfaces(interfaces), Waiting::Replugged, DEADLINE)
                .map_err(|e| e.message),
            Err(error) => Err(error.to_string()),
        };
        if let Err(message) = sent {
            self.warn_of_network(&message);
        }
        self.offer_names();
        self.warn_of_models();
    }

    /// `cor why` shows it.
    pub(super) fn warn_of_network(&mut self, message: &str) {
        self.console_tail.push(format!("cor: changing the network: {message}\n").as_bytes());
    }
}
