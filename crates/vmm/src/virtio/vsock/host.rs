//! The host's side of the device: where a guest's connection goes, and how a program of the host asks for one.
//!
//! ```text
//!   guest connects to port P ─► first time, P is the agent's ─► the donated socket
//!                            └► a socket path was given      ─► connect to "<path>_<P>"
//!   program connects to "<path>", sends "CONNECT <port>\n" ─► greeting ─► "OK <host port>\n", then bytes
//! ```

use rustix::net::RecvFlags;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Mutex;

/// Longest first line of a program that asks for a connection, in bytes: `CONNECT 4294967295\n` has 19.
const MAX_GREETING: usize = 32;

/// The working directory belongs to the whole process.
static WORKING_DIRECTORY: Mutex<()> = Mutex::new(());

/// Where connections of the guest go and those of the host come from. By default nothing is reachable.
#[derive(Debug, Default)]
pub struct HostSide {
    /// The already connected socket of the agent.
    pub agent: Option<AgentSocket>,
    /// UNIX sockets by name.
    pub sockets: Option<Sockets>,
}

/// A connected stream socket that the launcher donated.
#[derive(Debug)]
pub struct AgentSocket {
    /// The guest's first connection to this port gets it; later ones are refused.
    pub port: u32,
    /// `None` once it is in use.
    pub socket: Option<OwnedFd>,
}

/// UNIX sockets of one name, as with `--vsock PATH`.
#[derive(Debug)]
pub struct Sockets {
    /// Directory of `name`. Opened by the launcher, so that a jailed VMM still reaches the sockets in it.
    pub directory: OwnedFd,
    /// Last part of the path; the guest's port P is the socket `<name>_<P>`.
    pub name: std::ffi::OsString,
    /// Bound to the path itself, where programs ask for connections to the guest.
    pub listener: UnixListener,
}

impl HostSide {
    /// The host's end for the guest's connection to `port`.
    ///
    /// # Errors
    /// When there is nothing at that port, or nobody accepts.
    pub fn connect(&mut self, port: u32) -> io::Result<OwnedFd> {
        if let Some(agent) = self.agent.as_mut().filter(|agent| agent.port == port) {
            return agent.socket.take().ok_or_else(|| ErrorKind::ConnectionRefused.into());
        }
        let sockets = self.sockets.as_ref().ok_or(ErrorKind::ConnectionRefused)?;
        sockets.connect(port)
    }
}

impl Sockets {
    /// Never waits: a listener whose backlog is full refuses.
    fn connect(&self, port: u32) -> io::Result<OwnedFd> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let mut name = self.name.clone();
        name.push(format!("_{port}"));
        let address = SocketAddrUnix::new(name.as_bytes())?;
        // A relative name has no trouble with the 108 bytes of an address, and needs no path from the root.
        let _only_one = WORKING_DIRECTORY.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        rustix::process::fchdir(&self.directory)?;
        rustix::net::connect(&socket, &address)?;
        Ok(socket)
    }
}

/// What a program of the host has said so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The line is not complete.
    Incomplete,
    /// It wants this port of the guest. The line has been consumed, and nothing after it.
    Port(u32),
    /// It left, or speaks something else.
    Refused,
}

/// Reads `CONNECT <port>\n` without waiting.
pub fn greeting(stream: &UnixStream) -> Greeting {
    let mut bytes = [0; MAX_GREETING];
    // What follows the line belongs to the connection and stays in the socket.
    let peeked = match rustix::net::recv(stream, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((0, _)) => return Greeting::Refused,
        Ok((count, _)) => count,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Greeting::Incomplete,
        Err(_) => return Greeting::Refused,
    };
    let Some(end) = bytes[..peeked].iter().position(|byte| *byte == b'\n') else {
        return if peeked == MAX_GREETING { Greeting::Refused } else { Greeting::Incomplete };
    };
    let port = parse(&bytes[..end]);
    let consumed = rustix::net::recv(stream, &mut bytes[..=end], RecvFlags::DONTWAIT);
    match (port, consumed) {
        (Some(port), Ok((count, _))) if count == end + 1 => Greeting::Port(port),
        _ => Greeting::Refused,
    }
}

fn parse(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(b"CONNECT ")?;
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| all_digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn greetings() {
        let said = |text: &str| {
            let (mut client, server) = UnixStream::pair().unwrap();
            client.write_all(text.as_bytes()).unwrap();
            let result = greeting(&server);
            server.set_nonblocking(true).unwrap();
            let mut rest = String::new();
            let _ = (&server).read_to_string(&mut rest);
            (result, rest)
        };
        assert_eq!(said("CONNECT 5000\nhello"), (Greeting::Port(5000), "hello".into()));
        assert_eq!(said("CONNECT 4294967295\n").0, Greeting::Port(u32::MAX));
        assert_eq!(said("CONNECT 1").0, Greeting::Incomplete);
        for bad in ["CONNECT 4294967296\n", "CONNECT \n", "CONNECT +1\n", "connect 1\n", "\n"] {
            assert_eq!(said(bad).0, Greeting::Refused, "{bad:?}");
        }
        assert_eq!(said(&"CONNECT ".repeat(4)).0, Greeting::Refused);
        let (client, server) = UnixStream::pair().unwrap();
        drop(client);
        assert_eq!(greeting(&server), Greeting::Refused);
    }

    #[test]
    fn the_agent_socket_is_given_once() {
        let (_host, agent) = UnixStream::pair().unwrap();
        let socket = Some(agent.into());
        let mut host = HostSide { agent: Some(AgentSocket { port: 7, socket }), sockets: None };
        assert!(host.connect(8).is_err());
        assert!(host.connect(7).is_ok());
        assert_eq!(host.connect(7).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_full_backlog_refuses_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("v")).unwrap();
        let target = UnixListener::bind(directory.path().join("v_9")).unwrap();
        let handle = std::fs::File::open(directory.path()).unwrap();
        let mut host = HostSide {
            agent: None,
            sockets: Some(Sockets { directory: handle.into(), name: "v".into(), listener }),
        };
        rustix::net::listen(&target, 0).unwrap();
        let kept: Vec<_> = (0..10).map_while(|_| host.connect(9).ok()).collect();
        assert!(!kept.is_empty() && kept.len() < 10);
        assert_eq!(host.connect(10).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
