//! Where clients come from: a path that this program binds, or a socket that its launcher donates.
#![expect(unsafe_code, reason = "two socket options have no safe wrapper here")]

use rustix::fs::{AtFlags, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// A control socket that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// It exists.
    #[error(
        "binding the socket {}: it exists; another machine has it, or one that was killed has left it: remove it then", .0.display()
    )]
    Exists(PathBuf),
    /// It cannot be bound.
    #[error("binding the socket {}: {source}", path.display())]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was donated is none.
    #[error("the descriptor for the control socket is no UNIX socket: {0}")]
    NoSocket(io::Error),
}

/// A control socket.
#[derive(Debug)]
pub enum Socket {
    /// Clients connect to it.
    Listening(OwnedFd),
    /// The one client.
    Connected(OwnedFd),
}

impl Socket {
    /// Takes over a donated socket: listening, or connected and then the only client.
    ///
    /// # Errors
    /// When it is no UNIX socket.
    pub fn donated(socket: OwnedFd) -> Result<Self, SocketError> {
        let option = |name| option(&socket, name).map_err(SocketError::NoSocket);
        if option(libc::SO_DOMAIN)? != libc::AF_UNIX || option(libc::SO_TYPE)? == libc::SOCK_DGRAM {
            return Err(SocketError::NoSocket(io::ErrorKind::InvalidInput.into()));
        }
        let listens = option(libc::SO_ACCEPTCONN)? != 0;
        rustix::io::ioctl_fionbio(&socket, true).map_err(|e| SocketError::NoSocket(e.into()))?;
        Ok(if listens { Socket::Listening(socket) } else { Socket::Connected(socket) })
    }
}

fn option(socket: &OwnedFd, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let place = (&raw mut value).cast();
    // SAFETY: the option is an int, for which there is room as stated.
    match unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, place, &raw mut length) } {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The path of a bound socket; it is removed when this is dropped.
#[derive(Debug)]
pub struct BoundPath {
    /// Opened before the jail, in which the path does not exist.
    directory: OwnedFd,
    name: OsString,
    identity: (u64, u64),
}

/// Binds and listens at `path`, which only its owner may connect to. The socket does not block.
///
/// # Errors
/// When it exists or cannot be made.
pub fn bind(path: &Path) -> Result<(OwnedFd, BoundPath), SocketError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => SocketError::Exists(path.to_path_buf()),
        _ => SocketError::Bind { path: path.to_path_buf(), source },
    };
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?.to_os_string();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = OwnedFd::from(File::open(parent).map_err(failed)?);
    let address = SocketAddrUnix::new(path).map_err(|e| failed(e.into()))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|e| failed(e.into()))?;
    // Before it has a name, so that it never has another mode (bind takes the socket's own).
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
    rustix::net::bind(&socket, &address).map_err(|e| failed(e.into()))?;
    let stat =
        rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed(e.into()))?;
    let bound = BoundPath { directory, name, identity: (stat.st_dev, stat.st_ino) };
    rustix::net::listen(&socket, BACKLOG).map_err(|e| failed(e.into()))?;
    Ok((socket, bound))
}

impl BoundPath {
    /// The same directory, for somebody else.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn directory_again(&self) -> io::Result<OwnedFd> {
        self.directory.try_clone()
    }

    /// The directory in which the name is, for the jail to replace by one that leads nowhere else.
    pub fn directory(&mut self) -> &mut OwnedFd {
        &mut self.directory
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        // Somebody may have put something else there.
        let stat = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.identity) {
            let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_bound_path_is_private_and_goes_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c");
        let (socket, bound) = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert!(matches!(bind(&path), Err(SocketError::Exists(_))));
        assert!(path.exists(), "that of another is left alone");
        drop((socket, bound));
        assert!(!path.exists());
        let (_socket, bound) = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        drop(bound);
        assert!(path.exists(), "what somebody else put there stays");
        assert!(bind(&directory.path().join("none/c")).is_err());
        assert!(bind(&directory.path().join("x".repeat(200))).is_err());
    }

    #[test]
    fn donated_sockets_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(directory.path().join("l")).unwrap();
        assert!(matches!(Socket::donated(listener.into()), Ok(Socket::Listening(_))));
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(matches!(Socket::donated(one.into()), Ok(Socket::Connected(_))));
        let (datagram, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
        assert!(Socket::donated(datagram.into()).is_err());
        assert!(Socket::donated(tempfile::tempfile().unwrap().into()).is_err());
    }
}
