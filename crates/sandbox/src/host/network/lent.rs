//! An interface whose function is lent to a machine: what it was, and its way back into its namespace.

use super::function::{Bus, Function};
use super::{NetworkError, scan, socket_in};
use guest_protocol::network::Interface;
use netlink::Message;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The host's first network namespace, where drivers put interfaces. Ours may be the container's.
const FIRST: &str = "/proc/1/ns/net";

/// How long a driver may take until its interface is there: some make it in the background.
const PROBED: Duration = Duration::from_secs(10);

/// A function that is lent, and the interface that it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    function: Function,
    /// Where the interface was, if that outlives the keeper; else the kernel puts it into the host's first namespace anyway.
    namespace: Option<PathBuf>,
    name: String,
    mac: [u8; 6],
    mtu: u32,
}

impl Lent {
    /// What [`Lent::give_back`] needs to know, before anything is changed.
    pub fn new(function: Function, namespace: Option<PathBuf>, interface: &Interface) -> Self {
        Lent { function, namespace, name: interface.name.clone(), mac: interface.mac, mtu: interface.mtu }
    }

    /// Address of the function on the host.
    pub fn address(&self) -> &str {
        &self.function.address
    }

    /// Takes the function from the host.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lend(&self) -> Result<(), NetworkError> {
        Bus::host().lend(&self.function)
    }

    /// Gives it back: its driver makes an interface, which goes where the old one was. That it was never lent, or is back already, is no
    /// error; nor that it is gone, or the namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give_back(&self) -> Result<(), NetworkError> {
        let bus = Bus::host();
        let was_lent = bus.give_back(&self.function)?;
        if !bus.has(self.address()) {
            return Ok(());
        }
        let Some(mut first) = socket_in(Path::new(FIRST))? else { return Ok(()) };
        let there = match &self.namespace {
            Some(path) => socket_in(path)?.map(|socket| (path, socket)),
            None => None,
        };
        let Some((path, mut there)) = there else { return Ok(()) };
        let deadline = Instant::now() + PROBED;
        loop {
            if let Some(index) = scan::index_of_function(&mut first, self.address())? {
                let namespace = File::open(path).map_err(self.failed("opening the namespace of"))?;
                let descriptor = namespace.as_raw_fd().to_ne_bytes();
                let moved = link(index).attribute(libc::IFLA_NET_NS_FD, &descriptor);
                let moved = moved.text(libc::IFLA_IFNAME, &self.name);
                first.request(moved).map_err(self.failed("moving back"))?;
            }
            if let Some(index) = scan::index_of_function(&mut there, self.address())? {
                let same = link(index).attribute(libc::IFLA_ADDRESS, &self.mac);
                // An address that its owner on the host has fixed stays, and is the same then.
                let _ = there.request(same.attribute(libc::IFLA_MTU, &self.mtu.to_ne_bytes()));
                return Ok(());
            }
            if !was_lent {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let gone = std::io::Error::other("its driver makes no interface");
                return Err(self.failed("waiting for")(gone));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn failed<E: Into<std::io::Error>>(&self, doing: &str) -> impl FnOnce(E) -> NetworkError {
        NetworkError::kernel(format!("{doing} network interface {} ({})", self.name, self.address()))
    }
}

/// `struct ifinfomsg` that changes no flags.
fn link(index: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, 0, [0, index, 0, 0].map(u32::to_ne_bytes).as_flattened())
}
