//! Finds the way to the host: a virtio-serial port, or vsock when the kernel's command line says so.

use super::files::{self, CommandLine};
use crate::error::{Doing, Result, failed, invalid};
use crate::sys;
use guest_protocol::{CHANNEL_NAME, VSOCK_PARAMETER};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PORTS: &str = "/sys/class/virtio-ports";

/// What the kernel calls the first port of the first controller; port 0 is for a console.
const FIRST_PORT: &str = "vport0p1";

/// More than the name of a port can have.
const NAME_SIZE: usize = 128;

/// How long the port may take to appear, and the host to connect.
const DEADLINE: Duration = Duration::from_secs(30);

/// Opens the channel to the host, non-blocking, once the host is connected to it.
///
/// # Errors
/// When there is no such way, or no host, in time.
pub fn open(parameters: &CommandLine) -> Result<OwnedFd> {
    match parameters.value(VSOCK_PARAMETER) {
        Some(port) => {
            let port = port.parse().map_err(|_| invalid(format!("{VSOCK_PARAMETER}={port} is no port")))?;
            vsock(port)
        }
        None => serial_port(),
    }
}

/// The driver may still be probing, and refuses until it has found its device.
fn vsock(port: u32) -> Result<OwnedFd> {
    let mut last = Errno::NODEV;
    let connected = wait_for(|| sys::connect_to_host(port).inspect_err(|e| last = *e).ok());
    connected.ok_or(last).doing(|| format!("call the host at vsock port {port}"))
}

fn serial_port() -> Result<OwnedFd> {
    let device = wait_for(find).ok_or_else(|| {
        failed(format!(
            "no virtio-serial port named {CHANNEL_NAME} within {} s; give the machine one and its driver",
            DEADLINE.as_secs()
        ))
    })?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    // devtmpfs makes the node a moment after sysfs shows the port.
    let port = wait_for(|| rustix::fs::open(device.as_str(), flags, Mode::empty()).ok())
        .ok_or_else(|| failed(format!("cannot open {device}")))?;
    let connected = || {
        let mut fds = [PollFd::new(&port, PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec::default())).ok()?;
        (!fds[0].revents().contains(PollFlags::HUP)).then_some(())
    };
    wait_for(connected).ok_or_else(|| {
        failed(format!("nobody on the host connected to {CHANNEL_NAME} within {} s", DEADLINE.as_secs()))
    })?;
    Ok(port)
}

/// The port of our name; mostly it is the first one, which saves reading the directory.
fn find() -> Option<String> {
    if is_ours(FIRST_PORT) {
        return Some(format!("/dev/{FIRST_PORT}"));
    }
    let mut ports = std::fs::read_dir(PORTS).ok()?.flatten();
    let port = ports.find_map(|entry| entry.file_name().into_string().ok().filter(|port| is_ours(port)))?;
    Some(format!("/dev/{port}"))
}

fn is_ours(port: &str) -> bool {
    let mut name = [0; NAME_SIZE];
    files::read(&format!("{PORTS}/{port}/name"), &mut name)
        .is_ok_and(|name| name.trim_ascii_end() == CHANNEL_NAME)
}

/// Asks until there is an answer or [`DEADLINE`] has passed. Drivers probe in the background for some milliseconds.
pub fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if start.elapsed() > DEADLINE {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Release of the running kernel.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Waits like for a port, for a file of the machine (a disk's node).
///
/// # Errors
/// When it does not appear in time.
pub fn wait_for_device(what: &str, ask: impl FnMut() -> Option<PathBuf>) -> Result<PathBuf> {
    wait_for(ask).ok_or(Errno::NODEV).doing(|| format!("wait for {what}"))
}
