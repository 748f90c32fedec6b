//! Mount attributes, and the few ioctls of the machine.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use super::{Result, check};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// mount_setattr(2) on the mount of `fd` itself, or with all mounts below it.
///
/// # Errors
/// Those of mount_setattr(2).
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let call = libc::SYS_mount_setattr;
    // SAFETY: path is an empty string and attr a structure of the size given.
    let result =
        unsafe { libc::syscall(call, fd.as_raw_fd(), c"".as_ptr(), flags, attr, size_of::<MountAttr>()) };
    check(result).map(drop)
}

/// `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
    /// One of MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE; 0 leaves it.
    pub propagation: u64,
    /// User namespace for MOUNT_ATTR_IDMAP.
    pub user_namespace: u64,
}

/// Mixes `bytes` into the kernel's random pool and credits them fully (RNDADDENTROPY).
///
/// # Errors
/// Those of the ioctl.
pub fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    let mut info = Vec::with_capacity(8 + bytes.len());
    info.extend_from_slice(&(bytes.len() as i32 * 8).to_ne_bytes());
    info.extend_from_slice(&(bytes.len() as i32).to_ne_bytes());
    info.extend_from_slice(bytes);
    /// `_IOW('R', 0x03, int[2])`, the same on every architecture with the generic ioctl numbers.
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    // SAFETY: info is a struct rand_pool_info: entropy count in bits, size in bytes, data.
    check(libc::c_long::from(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, info.as_ptr()) }))
        .map(drop)
}

/// The number of a socket's network namespace for BPF programs (SO_NETNS_COOKIE).
///
/// # Errors
/// Those of getsockopt(2).
pub fn network_cookie(socket: BorrowedFd<'_>) -> Result<u64> {
    /// `include/uapi/asm-generic/socket.h`
    const SO_NETNS_COOKIE: i32 = 71;
    let mut cookie = 0u64;
    let mut length: libc::socklen_t = 8;
    let to = (&raw mut cookie).cast();
    // SAFETY: there is room for the number that the kernel writes, of the length given.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, to, &raw mut length)
    };
    check(libc::c_long::from(result)).map(|_| cookie)
}

/// Microseconds since the machine began (CLOCK_BOOTTIME).
pub fn boottime_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists since Linux 2.6.39, and the time is written into `now`.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Sets IFF_UP on the network interface `name` through any socket.
///
/// # Errors
/// Those of the ioctls SIOCGIFFLAGS and SIOCSIFFLAGS.
pub fn interface_up(socket: BorrowedFd<'_>, name: &str) -> Result<()> {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    let fd = socket.as_raw_fd();
    // SAFETY: request is a struct ifreq with a terminated name.
    check(libc::c_long::from(unsafe { libc::ioctl(fd, libc::SIOCGIFFLAGS as _, &raw mut request) }))?;
    // SAFETY: the kernel has filled in the flags.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: as above.
    check(libc::c_long::from(unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &raw mut request) })).map(drop)
}

/// Connects to a vsock port of the host (vsock(7)); the connection is non-blocking from then on.
///
/// # Errors
/// Those of socket(2) and connect(2): ENODEV as long as there is no device.
pub fn connect_to_host(port: u32) -> Result<OwnedFd> {
    // SAFETY: plain numbers.
    let socket = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    let socket = check(libc::c_long::from(socket))? as RawFd;
    // SAFETY: the kernel has just made it for us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_HOST;
    address.svm_port = port;
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a struct sockaddr_vm of that size.
    check(libc::c_long::from(unsafe {
        libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size)
    }))?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Gives memory of more than 64 KiB back to the kernel when it is freed, whatever was freed before.
pub fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two tuning parameters of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
    }
}
