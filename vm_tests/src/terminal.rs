//! Pseudo-terminals: one with a program on it, as a user has it, and the console socket on which an engine gets one.

use crate::command::Command;
use crate::wait::{PATIENCE, until};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The master of a pseudo-terminal, with everything that was read from it.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    seen: Arc<Mutex<Vec<u8>>>,
    child: Option<Child>,
}

impl Terminal {
    /// Runs a command on a new terminal of the given size, as its session leader.
    ///
    /// # Panics
    /// When that fails.
    #[expect(unsafe_code, reason = "the child takes its terminal between fork and exec")]
    pub fn run(command: &Command, rows: u16, columns: u16) -> Self {
        let (master, slave) = open().expect("opening a pseudo-terminal");
        set_size(&master, rows, columns);
        let copy = || slave.try_clone().expect("duplicating a descriptor");
        let mut child = command.std();
        child.stdin(copy()).stdout(copy()).stderr(copy());
        // SAFETY: setsid and ioctl are async-signal-safe; the closure allocates nothing.
        unsafe {
            child.pre_exec(|| {
                rustix::process::setsid()?;
                Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
            });
        }
        let child = child.spawn().expect("starting a command on a terminal");
        let mut terminal = Self::of(master);
        terminal.child = Some(child);
        terminal
    }

    /// Reads from a master.
    fn of(master: File) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, sink) = (master.try_clone().expect("duplicating a descriptor"), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO is a terminal's end of file.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                sink.lock().expect("no reader panics").extend_from_slice(&buffer[..count]);
            }
        });
        Terminal { master, seen, child: None }
    }

    /// Everything that was shown.
    ///
    /// # Panics
    /// Never.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("no reader panics")).into_owned()
    }

    /// Waits until `text` was shown after what the last call of this has found.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn expect(&self, text: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let mut seen = self.seen.lock().expect("no reader panics");
            let shown = String::from_utf8_lossy(&seen).into_owned();
            if let Some(at) = shown.find(text) {
                *seen = shown.as_bytes()[at + text.len()..].to_vec();
                return;
            }
            drop(seen);
            assert!(
                std::time::Instant::now() < deadline,
                "waited for {text:?} on the terminal; it shows:\n{shown}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn write(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("writing to the terminal");
    }

    /// Changes its size.
    pub fn resize(&self, rows: u16, columns: u16) {
        set_size(&self.master, rows, columns);
    }

    /// Whether its line discipline is raw: no echo, no line editing, no signals.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn is_raw(&self) -> bool {
        use rustix::termios::LocalModes;
        let modes = tcgetattr(&self.master).expect("modes of a terminal").local_modes;
        !modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Waits for the end of the command and returns its exit code.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let seen = Arc::clone(&self.seen);
        let child = self.child.as_mut().expect("a terminal with a command");
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("waiting for a child") {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            let shown = || String::from_utf8_lossy(&seen.lock().expect("no reader panics")).into_owned();
            assert!(
                std::time::Instant::now() < deadline,
                "the command on the terminal did not end; it shows:\n{}",
                shown()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn open() -> rustix::io::Result<(File, File)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let path = name.to_string_lossy().into_owned();
    let slave = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    let slave = slave.map_err(|_| rustix::io::Errno::IO)?;
    Ok((File::from(master), slave))
}

fn set_size(master: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).expect("setting a terminal's size");
}

/// What an engine listens on for a container's terminal.
#[derive(Debug)]
pub struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Listens on a socket in `directory`.
    ///
    /// # Panics
    /// When that fails.
    pub fn new(directory: &Path) -> Self {
        let path = directory.join("console.sock");
        let listener = UnixListener::bind(&path).expect("binding a console socket");
        listener.set_nonblocking(true).expect("a socket");
        ConsoleSocket { path, listener }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Receives the terminal.
    ///
    /// # Panics
    /// When none comes.
    pub fn terminal(&self) -> Terminal {
        let stream = until("a connection to the console socket", || self.listener.accept().ok()).0;
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut name = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .expect("a message on the console socket");
        let fd: Option<OwnedFd> = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Terminal::of(File::from(fd.expect("a descriptor on the console socket")))
    }
}

/// Sends a signal to a process; one that is gone is no error.
pub fn send_signal(pid: u32, signal: i32) {
    if let (Some(pid), Some(signal)) = (Pid::from_raw(pid as i32), Signal::from_named_raw(signal)) {
        let _ = kill_process(pid, signal);
    }
}
