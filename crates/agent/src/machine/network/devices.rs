//! Links and the devices behind them: virtio, or PCI functions of the host.

use crate::error::{Doing, Result};
use crate::log;
use guest_protocol::network::address_of_slot;
use netlink::{Attributes, Message, Socket, attributes};
use std::fs;

/// Devices on the virtio bus.
const DEVICES: &str = "/sys/bus/virtio/devices";

/// Their driver.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_net";

/// Kind of a network device on the virtio bus (virtio 1.2, 5), as sysfs shows it.
const NET: &str = "0x0001";

/// IFLA_PERM_ADDRESS of Linux `include/uapi/linux/if_link.h`
const PERMANENT_ADDRESS: u16 = 54;

/// IFLA_PARENT_DEV_NAME, IFLA_PARENT_DEV_BUS_NAME
const PARENT: u16 = 56;
const PARENT_BUS: u16 = 57;

/// Bytes of `struct ifinfomsg`.
const HEADER: usize = 16;

/// A network interface of the kernel.
#[derive(Debug)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    /// Address of the device behind it, or what stands for its place, if it has one.
    pub device: Option<[u8; 6]>,
}

/// All links.
pub(super) fn links(socket: &mut Socket) -> Result<Vec<Link>> {
    let all = socket
        .dump(&Message::new(libc::RTM_GETLINK, 0, &[0; HEADER]))
        .doing(|| "list network interfaces".into())?;
    Ok(all.iter().filter_map(|(_, body)| link(body)).collect())
}

fn link(body: &[u8]) -> Option<Link> {
    let index = body.get(4..8)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))?;
    let all = attributes(body.get(HEADER..)?);
    let own = || all.value(PERMANENT_ADDRESS).and_then(|value| value.try_into().ok());
    let device = slot(&all).map(address_of_slot).or_else(own);
    Some(Link { index, name: all.text(libc::IFLA_IFNAME)?, device })
}

/// The place of the PCI function that a link is, on the first bus: `0000:00:<slot>.0`. A virtio device is no PCI function itself.
fn slot(all: &Attributes<'_>) -> Option<u8> {
    let parent = all.text(PARENT).filter(|_| all.text(PARENT_BUS).as_deref() == Some("pci"))?;
    u8::from_str_radix(parent.strip_prefix("0000:00:")?.strip_suffix(".0")?, 16).ok()
}

/// What the PCI function at a place says that it is, for people.
pub(super) fn identity(slot: u8) -> String {
    let read = |name| fs::read_to_string(format!("/sys/bus/pci/devices/0000:00:{slot:02x}.0/{name}"));
    match (read("vendor"), read("device")) {
        (Ok(vendor), Ok(device)) => format!("where vendor {} device {} is", vendor.trim(), device.trim()),
        _ => "where nothing is".to_string(),
    }
}

/// Gives every network device that has none its driver.
pub(super) fn bind_all() {
    for entry in fs::read_dir(DEVICES).into_iter().flatten().flatten() {
        let kind = fs::read_to_string(entry.path().join("device")).unwrap_or_default();
        if kind.trim_end() == NET && !entry.path().join("driver").exists() {
            tell_driver("bind", &entry.file_name().to_string_lossy());
        }
    }
}

/// Takes the driver away from the device behind a link, and so the link out of the machine.
pub(super) fn unbind(link: &str) {
    let device = fs::read_link(format!("/sys/class/net/{link}/device")).unwrap_or_default();
    match device.file_name().and_then(|name| name.to_str()) {
        Some(device) => tell_driver("unbind", device),
        None => log::warn(&format!("network interface {link} belongs to no device")),
    }
}

/// A device that stays as it is does no harm: it is down and has no address.
fn tell_driver(what: &str, device: &str) {
    if let Err(e) = fs::write(format!("{DRIVER}/{what}"), device) {
        log::warn(&format!("{what} network device {device}: {e}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_without_a_device_is_told_from_one_with() {
        let mut socket = Socket::open().unwrap();
        let loopback = links(&mut socket).unwrap().into_iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((loopback.index, loopback.device), (1, None));
        let bytes = [0, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let name = [7, 0, 3, 0, b'e', b'0', 0, 0];
        let device = [10, 0, 54, 0, 2, 0, 0, 0, 0, 1, 0, 0];
        let found = link(&[&bytes[..], &name, &device].concat()).unwrap();
        assert_eq!((found.index, found.name.as_str()), (7, "e0"));
        assert_eq!(found.device, Some([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn a_function_of_the_host_is_known_by_its_place() {
        let with = |bus: &str, parent: &str| {
            let head = [0, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let message = Message::new(libc::RTM_NEWLINK, 0, &head).text(libc::IFLA_IFNAME, "e0");
            let message = message.attribute(PERMANENT_ADDRESS, &[2, 0, 0, 0, 0, 1]);
            link(message.text(PARENT, parent).text(PARENT_BUS, bus).body()).unwrap().device
        };
        assert_eq!(with("pci", "0000:00:10.0"), Some(address_of_slot(0x10)));
        for (bus, parent) in
            [("virtio", "virtio3"), ("pci", "0000:01:10.0"), ("pci", "0000:00:zz.0"), ("pci", "")]
        {
            assert_eq!(with(bus, parent), Some([2, 0, 0, 0, 0, 1]), "{bus} {parent}");
        }
    }
}
