//! Network model `macvtap`: a macvtap on an interface, in mode passthru, which lets it have the interface's own MAC.
//!
//! ```text
//!   eth0 ── frames for one station ──► macvtap ──► VMM
//!        ── frames for a group ── ingress discipline ──► macvtap       macvlan gives these to the host's stack too: it would answer them
//!        ◄── all of the guest's frames ── macvtap ◄── VMM
//! ```
//!
//! Its descriptors are those of a character device whose number the namespace's sysfs says. That file system is mounted for the keeper alone,
//! at no path, and so is the one with the device's node: neither `/sys` nor `/dev` of the host shows the namespace's devices.

use super::NetworkError;
use super::link::request;
use super::redirect::{self, Cookie};
use super::scan::index_of;
use super::tap::{self, Tap};
use netlink::{CREATE, EXCLUSIVE, Message, Socket};
use rustix::fs::{FileType, Mode, OFlags, mknodat, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

/// IFLA_MACVLAN_MODE of Linux `include/uapi/linux/if_link.h`, MACVLAN_MODE_PASSTHRU
const MODE: u16 = 1;
const PASSTHRU: u32 = 8;

/// Most bytes that sysfs says of a number: `4294967295:4294967295`.
const MAX_NUMBER: u64 = 32;

/// Makes macvtap `name`, down, on interface `index`, which is called `of`; returns it with a descriptor for each of its queues.
///
/// From now on nobody gets the interface's frames, until the macvtap is up. The ingress discipline keeps other machines away.
///
/// # Errors
/// When somebody else takes the interface's packets, or the kernel has no macvtaps, or none on this kind of interface.
pub fn make(
    socket: &mut Socket,
    name: String,
    (index, of): (u32, &str),
    cookie: &Cookie,
    queues: u32,
) -> Result<(Tap, Vec<File>), NetworkError> {
    redirect::claim(socket, of, index)?;
    socket.request(new_macvtap(&name, index)).map_err(NetworkError::kernel(format!(
        "making a macvtap on {of} (CONFIG_MACVTAP; none can be on a macvlan or a bridge's port; network.model = \"tc\" takes any interface)"
    )))?;
    let own = index_of(socket, &name)?;
    redirect::hand_groups(socket, of, index, own, cookie)?;
    let opened = open(&name, own, queues);
    let files =
        opened.map_err(NetworkError::kernel(format!("opening the device of macvtap {name} on {of}")))?;
    Ok((Tap { name, index: own }, files))
}

fn new_macvtap(name: &str, on: u32) -> Message {
    request(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, 0, 0)
        .text(libc::IFLA_IFNAME, name)
        .attribute(libc::IFLA_LINK, &on.to_ne_bytes())
        .nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "macvtap")
                .nested(libc::IFLA_INFO_DATA, |data| data.attribute(MODE, &PASSTHRU.to_ne_bytes()))
        })
}

/// Opens the device once for each queue.
fn open(name: &str, index: u32, queues: u32) -> io::Result<Vec<File>> {
    let device = number(name, index)?;
    let dev = private("tmpfs")?;
    mknodat(&dev, "tap", FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, device)?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |_| {
        let file = File::from(openat(&dev, "tap", flags, Mode::empty())?);
        tap::set_up(&file, "", tap::several(queues))?;
        Ok(file)
    };
    (0..queues).map(open).collect()
}

/// The device's number, from the sysfs of the calling thread's network namespace.
fn number(name: &str, index: u32) -> io::Result<u64> {
    let sys = private("sysfs")?;
    let open = |path| openat(&sys, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let file = match open(format!("class/net/{name}/macvtap/tap{index}/dev")) {
        // Kernels whose class of macvtaps knows no namespaces.
        Err(Errno::NOENT) => open(format!("class/net/{name}/tap{index}/dev")),
        file => file,
    }?;
    let mut text = String::new();
    File::from(file).take(MAX_NUMBER).read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::other(format!("sysfs says {text:?} for its number")))
}

fn parse(text: &str) -> Option<u64> {
    let (major, minor) = text.trim_end().split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// A file system that is mounted nowhere, and goes with its descriptor.
fn private(kind: &str) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink::attributes;

    #[test]
    fn a_macvtap_passes_all_through() {
        let message = new_macvtap("clearv0", 7);
        let all = attributes(&message.body()[16..]);
        assert_eq!(
            (all.text(libc::IFLA_IFNAME).as_deref(), all.number(libc::IFLA_LINK)),
            (Some("clearv0"), Some(7))
        );
        let info = attributes(all.value(libc::IFLA_LINKINFO).unwrap());
        assert_eq!(info.text(libc::IFLA_INFO_KIND).as_deref(), Some("macvtap"));
        assert_eq!(attributes(info.value(libc::IFLA_INFO_DATA).unwrap()).number(MODE), Some(PASSTHRU));
    }

    #[test]
    fn numbers_are_those_of_sysfs() {
        assert_eq!(parse("243:1\n"), Some(rustix::fs::makedev(243, 1)));
        for other in ["", "243", "243:", "a:b", "-1:2"] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }
}
