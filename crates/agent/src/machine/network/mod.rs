//! The machine's network interfaces, as the host wants them.
//!
//! ```text
//!   Interface{device, ..} ─► found by the address that the VMM gave it, or by its place (a function of the host) ─► name, MAC, MTU ─► up ─► addresses ─► routes ─► neighbours
//!   a device that no Interface names ─► its driver lets go of it: nothing of it is seen in the machine
//! ```
//!
//! Loopback is brought up at boot, whatever the host wants.

mod devices;
mod requests;

use super::channel::wait_for;
use crate::error::{Doing, Result, failed, invalid};
use crate::log;
use devices::Link;
use guest_protocol::network::{Address, Interface, slot_of};
use netlink::{Message, Socket};
use rustix::io::Errno;

/// IFF_UP of Linux `include/uapi/linux/if.h`.
const UP: u32 = 1;

/// IFNAMSIZ without the NUL, in bytes.
const MAX_NAME: usize = 15;

/// What the interfaces are.
#[derive(Debug, Default)]
pub struct Network {
    interfaces: Vec<Interface>,
    /// Some devices have no driver.
    put_away: bool,
}

impl Network {
    /// Makes the interfaces those of `wanted`.
    ///
    /// # Errors
    /// When a device does not appear, or the kernel refuses a part of its configuration. What was done until then stays.
    pub fn set(&mut self, wanted: Vec<Interface>) -> Result<()> {
        let mut socket = Socket::open().doing(|| "open a netlink socket".into())?;
        // Whatever fails below, nothing is known any more to be set up.
        let old = std::mem::take(&mut self.interfaces);
        let new: Vec<&Interface> = wanted.iter().filter(|i| !old.contains(i)).collect();
        if !new.is_empty() && self.put_away {
            devices::bind_all();
        }
        for interface in new {
            let done = match old.iter().find(|old| is_same(old, interface)) {
                Some(old) => adapt(&mut socket, old, interface),
                None => set_up(&mut socket, interface, &wanted),
            };
            done.doing(|| format!("set up network interface {:?}", interface.name))?;
        }
        for link in devices::links(&mut socket)? {
            if link.device.is_some_and(|device| wanted.iter().all(|i| i.device != device)) {
                devices::unbind(&link.name);
                self.put_away = true;
            }
        }
        self.interfaces = wanted;
        Ok(())
    }
}

/// Whether an interface has changed in nothing but addresses, routes and neighbours.
fn is_same(old: &Interface, new: &Interface) -> bool {
    let identity = |i: &Interface| (i.device, i.name.clone(), i.mac, i.mtu, i.up);
    identity(old) == identity(new)
}

/// Changes what has changed, so that connections over the rest go on.
fn adapt(socket: &mut Socket, old: &Interface, new: &Interface) -> Result<()> {
    let link = find(socket, new.device)?;
    for route in old.routes.iter().filter(|route| !new.routes.contains(route)) {
        // It may have gone with its gateway.
        let _ = socket.request(requests::route(libc::RTM_DELROUTE, link.index, route));
    }
    for address in old.addresses.iter().filter(|address| !new.addresses.contains(address)) {
        // The container may have removed it itself.
        let _ = socket.request(requests::address(libc::RTM_DELADDR, link.index, address));
    }
    for neighbour in old.neighbours.iter().filter(|neighbour| !new.neighbours.contains(neighbour)) {
        let _ = socket.request(requests::neighbour(libc::RTM_DELNEIGH, link.index, neighbour));
    }
    populate(socket, link.index, new)
}

fn set_up(socket: &mut Socket, interface: &Interface, all: &[Interface]) -> Result<()> {
    if interface.name.is_empty() || interface.name.len() > MAX_NAME {
        return Err(invalid(format!("a name of an interface has 1 to {MAX_NAME} bytes")));
    }
    let link = find(socket, interface.device)?;
    free_name(socket, &interface.name, &link, all)?;
    // Its routes go with that, and its addresses of IPv6.
    ask(socket, requests::change(link.index, 0, UP), "take it down")?;
    for old in requests::old_addresses(socket, link.index).doing(|| "list its addresses".into())? {
        ask(socket, old, "remove an address")?;
    }
    ask(socket, requests::identify(link.index, interface), "set name, address and MTU")?;
    if let Err(e) = socket.request(requests::generate_link_local(link.index, generates(interface))) {
        // A kernel without IPv6 says so at the first address.
        log::debug(&format!("choose how {} gets its own addresses: {e}", interface.name));
    }
    if interface.up {
        ask(socket, requests::change(link.index, UP, UP), "bring it up")?;
    }
    populate(socket, link.index, interface)
}

/// Gives link `index` the addresses, routes and neighbours that it does not have yet.
fn populate(socket: &mut Socket, index: u32, interface: &Interface) -> Result<()> {
    for address in &interface.addresses {
        let what = || format!("add address {}/{}", address.address, address.prefix);
        existing_is_fine(socket.request(requests::address(libc::RTM_NEWADDR, index, address))).doing(what)?;
    }
    let mut routes: Vec<_> = interface.routes.iter().filter(|_| interface.up).collect();
    // A gateway has to be reachable before a route can lead through it.
    routes.sort_by_key(|route| route.gateway.is_some());
    for route in routes {
        let what = || format!("add the route to {}/{}", route.destination, route.prefix);
        existing_is_fine(socket.request(requests::route(libc::RTM_NEWROUTE, index, route))).doing(what)?;
    }
    for neighbour in &interface.neighbours {
        let what = || format!("add neighbour {}", neighbour.address);
        socket.request(requests::neighbour(libc::RTM_NEWNEIGH, index, neighbour)).doing(what)?;
    }
    Ok(())
}

/// Whether the kernel has to make a link-local address itself, because the host's interface has none though it has others.
fn generates(interface: &Interface) -> bool {
    let is_link_local =
        |a: &Address| matches!(a.address, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
    let mut of_ipv6 = interface.addresses.iter().filter(|a| a.address.is_ipv6()).peekable();
    of_ipv6.peek().is_some() && !of_ipv6.any(is_link_local)
}

/// The link of a device, whose driver may still be looking for it.
fn find(socket: &mut Socket, device: [u8; 6]) -> Result<Link> {
    let mut list = || devices::links(socket).ok()?.into_iter().find(|link| link.device == Some(device));
    wait_for(&mut list).ok_or_else(|| {
        failed(match slot_of(device) {
            Some(slot) => format!(
                "no network device at 0000:00:{slot:02x}.0, {}; the mini-OS needs the driver of that adapter: `clear-mini-os build --kernel source --profile devices` has many",
                devices::identity(slot)
            ),
            None => {
                format!("no network device with address {device:02x?}; the kernel needs its driver, virtio_net")
            }
        })
    })
}

/// Renames a device that has the `wanted` name by chance.
fn free_name(socket: &mut Socket, wanted: &str, owner: &Link, all: &[Interface]) -> Result<()> {
    let links = devices::links(socket)?;
    let Some(other) = links.iter().find(|link| link.name == wanted && link.index != owner.index) else {
        return Ok(());
    };
    if other.device.is_none() {
        return Err(failed(format!("the machine has another interface of that name, {}", other.index)));
    }
    let taken = |name: &String| links.iter().any(|l| l.name == *name) || all.iter().any(|i| i.name == *name);
    let name = (0..).map(|n| format!("clear{n}")).find(|name| !taken(name)).unwrap_or_default();
    ask(socket, requests::change(other.index, 0, UP), "take down the one that has its name")?;
    ask(socket, requests::rename(other.index, &name), "rename the one that has its name")
}

fn ask(socket: &mut Socket, message: Message, what: &str) -> Result<()> {
    socket.request(message).doing(|| what.into())
}

fn existing_is_fine(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    if result == Err(Errno::EXIST) { Ok(()) } else { result }
}
