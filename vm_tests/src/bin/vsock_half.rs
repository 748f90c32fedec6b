//! The guest's half of tests of vsock: busybox knows no such sockets.
#![expect(unsafe_code, reason = "the standard library knows no vsock addresses")]

use std::fs::File;
use std::io::{Read, Write, copy, stdin, stdout};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `vsock_half echo PORT` sends one client all that it says; `vsock_half tell PORT` tells the host what it reads, and prints the answer.
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let port = args[2].parse().expect("a port");
    match args[1].as_str() {
        "echo" => echo(port),
        "tell" => tell(port),
        other => panic!("no mode {other}"),
    }
    .unwrap_or_else(|e| panic!("{} {port}: {e}", args[1]));
}

fn echo(port: u32) -> std::io::Result<()> {
    let listener = socket()?;
    let address = address(libc::VMADDR_CID_ANY, port);
    // SAFETY: the address is one of vsock, of the length that is given.
    checked(unsafe { libc::bind(listener.as_raw_fd(), (&raw const address).cast(), LENGTH) })?;
    // SAFETY: plain numbers.
    checked(unsafe { libc::listen(listener.as_raw_fd(), 1) })?;
    // SAFETY: no address is asked for.
    let client = checked(unsafe {
        libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
    })?;
    // SAFETY: new, and nobody else's.
    let mut client = File::from(unsafe { OwnedFd::from_raw_fd(client) });
    let mut output = client.try_clone()?;
    let mut buffer = [0; 4096];
    loop {
        match client.read(&mut buffer)? {
            0 => return Ok(()),
            count => output.write_all(&buffer[..count])?,
        }
    }
}

fn tell(port: u32) -> std::io::Result<()> {
    let socket = socket()?;
    let address = address(libc::VMADDR_CID_HOST, port);
    // SAFETY: the address is one of vsock, of the length that is given.
    checked(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), LENGTH) })?;
    let mut host = File::from(socket);
    copy(&mut stdin(), &mut host)?;
    // SAFETY: plain numbers.
    checked(unsafe { libc::shutdown(host.as_raw_fd(), libc::SHUT_WR) })?;
    copy(&mut host, &mut stdout())?;
    stdout().flush()
}

const LENGTH: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    libc::sockaddr_vm {
        svm_family: libc::AF_VSOCK as libc::sa_family_t,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: cid,
        svm_zero: [0; 4],
    }
}

fn socket() -> std::io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = checked(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn checked(result: i32) -> std::io::Result<i32> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}
