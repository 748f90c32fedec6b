//! The container's network namespace and the machine's network devices.
//!
//! ```text
//!   scan      links, addresses, routes, neighbours of the namespace ─► guest_protocol::network::Interface
//!   tap       /dev/net/tun ─► a tap in the namespace; it goes when its last descriptor is closed
//!   redirect  eth0 ingress ──► tap egress ──► VMM       each frame, before the host's protocols see it
//!             eth0 egress  ◄── tap ingress ◄── VMM
//!   bridge    eth0 and the tap are the two ports of a bridge
//!   macvtap   a macvtap on eth0, whose device is the VMM's
//!   link      what all that we make there is called, and how it comes up
//!   local_ports  which ports sockets of the namespace get that ask for none
//!   user      an interface for a namespace that has none, served by pasta
//!   function, lent  an interface that is a PCI function goes to the machine itself, and comes back
//! ```
//!
//! The addresses stay on the host's interface, where engines look for them; its frames never reach the host's own stack.

pub mod bridge;
pub mod function;
pub mod lent;
pub mod link;
pub mod local_ports;
pub mod macvtap;
pub mod redirect;
pub mod scan;
pub mod tap;
pub mod user;

use netlink::Socket;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Why the container's network could not be connected with its machine.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A request to the kernel failed.
    #[error("{doing}: {source}")]
    Kernel {
        /// What was being done.
        doing: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody else takes the packets of an interface.
    #[error(
        "network interface {0:?} has an ingress queueing discipline already: another machine uses it, or a program such as a CNI plugin; give the container a network namespace of its own, or remove it with `tc qdisc delete dev {0} ingress`"
    )]
    Taken(String),
    /// More interfaces than devices.
    #[error(
        "network interface {name:?} has come after the machine was started, which has {devices} network device(s), all in use; set network.min_devices to at least {wanted} in the configuration"
    )]
    NoDevice {
        /// The interface.
        name: String,
        /// Devices that the machine has.
        devices: usize,
        /// Interfaces that there are.
        wanted: usize,
    },
    /// A function that cannot be lent.
    #[error("network interface {name:?} (PCI function {address}) cannot be passed to the machine: {source}")]
    NotLent {
        /// The interface.
        name: String,
        /// Its function.
        address: String,
        /// Why.
        source: function::FunctionError,
    },
    /// The program that serves a user-space network has given up.
    #[error(
        "pasta, the user-space network, could not start: {0}; do without it (cor try --network none, network.user = false)"
    )]
    Pasta(String),
    /// More interfaces than a machine may have.
    #[error("the network namespace has {0} interfaces; a machine gets at most {MAX_DEVICES}")]
    TooMany(usize),
}

/// Most network devices of a machine. Each is a slot of its board: microvm has 24 in all (`VIRTIO_NUM_TRANSPORTS` of QEMU).
pub const MAX_DEVICES: usize = 8;

impl NetworkError {
    /// An error of `doing` something.
    pub(crate) fn kernel<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> NetworkError {
        let doing = doing.into();
        move |source| NetworkError::Kernel { doing, source: source.into() }
    }
}

/// A netlink socket in the network namespace `path`; `None` when it is no network namespace any more.
///
/// # Errors
/// When the kernel refuses.
pub fn socket_in(path: &Path) -> Result<Option<Socket>, NetworkError> {
    let doing = format!("opening a netlink socket in network namespace {}", path.display());
    run_in(path, Socket::open)?.transpose().map_err(NetworkError::kernel(doing))
}

/// Does something in the network namespace `path`; `None` when it is no network namespace any more.
///
/// # Errors
/// When the kernel does not let us in.
pub fn run_in<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<Option<T>, NetworkError> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let doing = |what| format!("{what} network namespace {}", path.display());
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(NetworkError::kernel(doing("opening")))?,
    };
    // A thread of its own: which namespace one is in belongs to the thread, a socket stays in that where it was opened.
    let done = std::thread::scope(|scope| {
        let join = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        scope.spawn(join).join().unwrap_or(Err(rustix::io::Errno::IO))
    });
    match done {
        // The name is a file of a file system again.
        Err(rustix::io::Errno::INVAL) => Ok(None),
        done => done.map(Some).map_err(NetworkError::kernel(doing("joining"))),
    }
}
