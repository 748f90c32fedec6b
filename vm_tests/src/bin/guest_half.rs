//! The guest's half of tests that no shell can do: each argument names a check, which prints `ok NAME` or panics.

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, XattrFlags};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

type Check = fn(&Path) -> std::io::Result<()>;

const CHECKS: &[(&str, Check)] = &[
    ("sockets", sockets),
    ("open-unlinked", open_unlinked),
    ("hard-links", hard_links),
    ("xattrs", xattrs),
    ("mmap-write", mmap_write),
    ("rename", rename),
    ("locks", locks),
    ("large-directory", large_directory),
    ("sparse", sparse),
    ("times", times),
];

/// `guest_half DIRECTORY CHECK...`; `guest_half eat MEGABYTES`: takes memory and holds it until its input ends; `guest_half frames INTERFACE PORT
/// ADDRESS...`: sends a datagram and the first packet of a connection to each of the addresses, whatever the kernel thinks of them.
fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args[1] == "eat" {
        return eat(args[2].parse().expect("a number of megabytes"));
    }
    if args[1] == "frames" {
        let port = args[3].parse().expect("a port");
        args[4..]
            .iter()
            .for_each(|to| frames(&args[2], port, to.parse().expect("an address")).expect("sending"));
        return;
    }
    for name in &args[2..] {
        let (_, check) =
            CHECKS.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no check {name}"));
        let directory = Path::new(&args[1]).join(name);
        fs::create_dir(&directory).expect("making a directory");
        check(&directory).unwrap_or_else(|e| panic!("{name}: {e}"));
        println!("ok {name}");
    }
}

fn eat(megabytes: usize) {
    // In pieces: one of the whole size could be refused where these are killed for.
    let mut memory = Vec::new();
    for _ in 0..megabytes {
        memory.push(vec![1_u8; 1 << 20]);
    }
    println!("full");
    let _ = std::io::stdin().read(&mut [0]);
    assert_eq!(memory.iter().map(|piece| u64::from(piece[piece.len() / 2])).sum::<u64>(), megabytes as u64);
}

/// Of the machine in its user-space network.
const SOURCE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 0, 2, 15), Ipv6Addr::new(0xfdc1, 0xea00, 0, 0, 0, 0, 0, 0x15));

/// Sends UDP and TCP (SYN) to an address in frames of its own making.
fn frames(interface: &str, port: u16, to: IpAddr) -> std::io::Result<()> {
    let number = |file: &str| fs::read_to_string(format!("/sys/class/net/{interface}/{file}"));
    let index: i32 = number("ifindex")?.trim().parse().expect("a number");
    let mac: Vec<u8> = number("address")?
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("a byte"))
        .collect();
    let from_port = 40_000_u16;
    let ports = [from_port.to_be_bytes(), port.to_be_bytes()].concat();
    // Length of header and data, checksum; sequence, acknowledgement, header of 20 bytes, SYN, window, checksum, no urgent data.
    let udp = [&ports[..], &[0, 12, 0, 0], b"word"].concat();
    let tcp = [&ports[..], &[0; 8], &[0x50, 2, 0x20, 0, 0, 0, 0, 0]].concat();
    for (protocol, mut segment, sum_at) in [(17, udp, 6), (6, tcp, 16)] {
        let length = segment.len() as u16;
        let (kind, header, addresses): (u16, Vec<u8>, Vec<u8>) = match to {
            IpAddr::V4(to) => {
                let addresses = [SOURCE.0.octets(), to.octets()].concat();
                let total = (length + 20).to_be_bytes();
                let mut header = vec![0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, protocol, 0, 0];
                header.extend(&addresses);
                let sum = checksum(&header).to_be_bytes();
                header[10..12].copy_from_slice(&sum);
                (0x0800, header, addresses)
            }
            IpAddr::V6(to) => {
                let addresses = [SOURCE.1.octets(), to.octets()].concat();
                let length = length.to_be_bytes();
                let header = [&[0x60, 0, 0, 0, length[0], length[1], protocol, 64], &addresses[..]].concat();
                (0x86dd, header, addresses)
            }
        };
        let pseudo = [&addresses[..], &[0, protocol], &length.to_be_bytes(), &segment].concat();
        let sum = checksum(&pseudo).to_be_bytes();
        segment[sum_at..sum_at + 2].copy_from_slice(&sum);
        let frame = [&[0xff; 6], &mac[..], &kind.to_be_bytes(), &header, &segment].concat();
        send_frame(index, &frame)?;
    }
    Ok(())
}

/// RFC 1071
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[expect(unsafe_code, reason = "packet(7) is not in the standard library")]
fn send_frame(index: i32, frame: &[u8]) -> std::io::Result<()> {
    // SAFETY: all bytes of the address may be zero; the frame and the address are live and as long as is said.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let socket = std::os::fd::OwnedFd::from_raw_fd(socket);
        let mut to: libc::sockaddr_ll = std::mem::zeroed();
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = index;
        let size = size_of_val(&to) as u32;
        let sent = libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size,
        );
        if sent == frame.len() as isize { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

fn sockets(dir: &Path) -> std::io::Result<()> {
    let path = dir.join("socket");
    let listener = UnixListener::bind(&path)?;
    assert!(fs::symlink_metadata(&path)?.file_type().is_socket());
    let mut client = UnixStream::connect(&path)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"through a socket")?;
    let mut bytes = [0; 16];
    server.read_exact(&mut bytes)?;
    assert_eq!(&bytes, b"through a socket");
    Ok(())
}

fn open_unlinked(dir: &Path) -> std::io::Result<()> {
    let path = dir.join("file");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    file.write_all(b"before")?;
    fs::remove_file(&path)?;
    assert!(!path.exists());
    file.write_all(b" after")?;
    file.seek(SeekFrom::Start(0))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    assert_eq!(text, "before after");
    let length = file.metadata().expect("fstat(2) of an unlinked file").len();
    assert_eq!(length, 12);
    Ok(())
}

fn hard_links(dir: &Path) -> std::io::Result<()> {
    let (one, two) = (dir.join("one"), dir.join("two"));
    fs::write(&one, "1")?;
    fs::hard_link(&one, &two)?;
    assert_eq!(fs::metadata(&one)?.ino(), fs::metadata(&two)?.ino());
    assert_eq!(fs::metadata(&one)?.nlink(), 2);
    fs::write(&two, "written through the other")?;
    assert_eq!(fs::read_to_string(&one)?, "written through the other");
    fs::remove_file(&one)?;
    assert_eq!(fs::metadata(&two)?.nlink(), 1);
    Ok(())
}

fn xattrs(dir: &Path) -> std::io::Result<()> {
    let path = dir.join("file");
    fs::write(&path, "")?;
    rustix::fs::setxattr(&path, "user.colour", b"blue", XattrFlags::CREATE)?;
    let mut value = [0; 16];
    let count = rustix::fs::getxattr(&path, "user.colour", &mut value)?;
    assert_eq!(&value[..count], b"blue");
    let mut names = [0; 256];
    let count = rustix::fs::listxattr(&path, &mut names)?;
    assert!(String::from_utf8_lossy(&names[..count]).contains("user.colour"));
    rustix::fs::removexattr(&path, "user.colour")?;
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut value), Err(rustix::io::Errno::NODATA));
    fs::write(dir.join("kept"), "")?;
    Ok(rustix::fs::setxattr(dir.join("kept"), "user.kept", b"for the host", XattrFlags::CREATE)?)
}

#[expect(unsafe_code, reason = "mmap")]
fn mmap_write(dir: &Path) -> std::io::Result<()> {
    let path = dir.join("mapped");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    file.set_len(8192)?;
    // SAFETY: a fresh shared mapping of a file that nobody truncates, used within its length and unmapped once.
    unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let base = libc::mmap(std::ptr::null_mut(), 8192, access, libc::MAP_SHARED, file.as_raw_fd(), 0);
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let words = b"written through a mapping";
        std::ptr::copy_nonoverlapping(words.as_ptr(), base.cast::<u8>().add(4096), words.len());
        assert_eq!((libc::msync(base, 8192, libc::MS_SYNC), libc::munmap(base, 8192)), (0, 0));
    }
    let text = fs::read(&path)?;
    assert!(text[4096..].starts_with(b"written through a mapping"));
    Ok(())
}

fn rename(dir: &Path) -> std::io::Result<()> {
    let (one, two) = (dir.join("one"), dir.join("two"));
    fs::write(&one, "1")?;
    fs::write(&two, "2")?;
    let open = File::open(&two)?;
    fs::rename(&one, &two)?;
    assert_eq!(fs::read_to_string(&two)?, "1");
    let mut old = String::new();
    (&open).read_to_string(&mut old)?;
    assert_eq!(old, "2", "a replaced file lives on while it is open");
    fs::create_dir(dir.join("d"))?;
    fs::write(dir.join("d/inside"), "")?;
    fs::rename(dir.join("d"), dir.join("e"))?;
    assert!(dir.join("e/inside").exists() && !dir.join("d").exists());
    let exclusive = rustix::fs::renameat_with(CWD, dir.join("e"), CWD, &two, RenameFlags::NOREPLACE);
    assert!(exclusive.is_err(), "rename onto an existing name with NOREPLACE");
    Ok(())
}

fn locks(dir: &Path) -> std::io::Result<()> {
    let path = dir.join("lock");
    let (one, two) = (File::create(&path)?, OpenOptions::new().write(true).open(&path)?);
    rustix::fs::flock(&one, FlockOperation::LockExclusive)?;
    let second = rustix::fs::flock(&two, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(second, Err(rustix::io::Errno::WOULDBLOCK));
    rustix::fs::flock(&one, FlockOperation::Unlock)?;
    Ok(rustix::fs::flock(&two, FlockOperation::NonBlockingLockExclusive)?)
}

fn large_directory(dir: &Path) -> std::io::Result<()> {
    for number in 0..500 {
        fs::write(dir.join(format!("a-file-with-quite-a-long-name-{number}")), "")?;
    }
    let mut names: Vec<_> = fs::read_dir(dir)?.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 500);
    names.iter().try_for_each(|name| fs::remove_file(dir.join(name)))?;
    assert_eq!(fs::read_dir(dir)?.count(), 0);
    Ok(())
}

fn sparse(dir: &Path) -> std::io::Result<()> {
    let mut file = File::create(dir.join("sparse"))?;
    file.seek(SeekFrom::Start(5 << 30))?;
    file.write_all(b"end")?;
    let m = file.metadata()?;
    assert_eq!(m.len(), (5 << 30) + 3, "offsets beyond 4 GiB");
    assert!(m.blocks() < 1 << 20, "a hole takes no room");
    Ok(())
}

fn times(dir: &Path) -> std::io::Result<()> {
    use rustix::fs::{Timespec, Timestamps, statat, utimensat};
    let file = rustix::fs::open(dir.join("file"), OFlags::CREATE | OFlags::WRONLY, Mode::RUSR)?;
    drop(file);
    let at = |s| Timespec { tv_sec: s, tv_nsec: 5 };
    let times = Timestamps { last_access: at(1_000_000), last_modification: at(2_000_000) };
    utimensat(CWD, dir.join("file"), &times, AtFlags::empty())?;
    let stat = statat(CWD, dir.join("file"), AtFlags::empty())?;
    // 9p keeps whole seconds of times that are set.
    assert_eq!((stat.st_mtime as i64, stat.st_atime as i64), (2_000_000, 1_000_000));
    Ok(())
}
