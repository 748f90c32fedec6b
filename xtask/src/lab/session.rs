//! One run of the lab: the process, the threads that move its streams, the clock.
//!
//! ```text
//!   threads: console, QEMU's errors ─► Tail          stdout, stderr ─► ours ─┐
//!            control ─► Report ──────────────────────────────► Event ────────┴─► this thread, with a deadline
//!            our stdin ─► stdin
//!   Booting ── Started ─► Running ── Exited ─► Draining ── all bytes are here ─► kill QEMU, return the code
//!                            └── no report for a minute ─► the machine stands still: a failure of the lab
//! ```
//! The process is tied to this thread: whatever ends us ends it, so no signal needs a handler.

use super::direct::TIME_IS_UP;
use super::machine::{Channel, Machine};
use super::sys;
use super::tail::Tail;
use super::wire::{self, Job, Report};
use anyhow::{Context, Result, anyhow, bail};
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PROGRAM: &str = "qemu-system-x86_64";

/// How long it may take until the command runs. It needs some seconds; the rest is for a loaded host.
const BOOT: Duration = Duration::from_secs(90);

/// How often PID 1 is missed, and how often in a row makes a machine that stands still. Not one long wait: whoever stopped and continued
/// us stopped the machine too.
const BEAT: Duration = Duration::from_secs(10);
const MISSED: u32 = 6;

/// How long a machine that stands still is watched.
const WATCHED: u32 = 3;

/// How long PID 1 has to say what it is doing when the time is up.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// One read of a stream.
const CHUNK: usize = 256 << 10;

/// What a thread has to say.
enum Event {
    /// From PID 1.
    Report(Report),
    /// So many bytes more of a stream are on our own output.
    Written(Channel, u64),
    /// Our own output does not take more of a stream.
    Broken(Channel, io::Error),
    /// The control channel ended.
    Gone(io::Error),
}

/// A run that did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Fault {
    /// The lab's own; what its machine said last helps.
    #[error("{0}")]
    Machine(String),
    /// No beat.
    #[error("the lab's machine stands still")]
    StandsStill,
    /// Ours: whoever reads our output went away.
    #[error("passing on the command's {name}: {1}", name = .0.name())]
    Output(Channel, io::Error),
}

/// Boots the machine, runs the job in it and returns its exit code.
///
/// # Errors
/// A machine that does not start or ends too early, with the last that it said; an output of ours that broke.
pub fn run(machine: &Machine, archive: Option<File>, job: Job, time: Duration, console: bool) -> Result<u8> {
    let deadline = Instant::now() + time;
    let said = Tail::default();
    let (mut process, mut ends) = start(machine, archive)?;
    let mut monitor = ends.take(Channel::Monitor)?;
    let talking = overhear(&mut process, &mut ends, &said, console)?;
    let (sender, events) = mpsc::channel();
    listen(&mut ends, &sender)?;
    let (open, control) = give(ends, job)?;
    let result = attend(&events, deadline);
    let mut where_it_stands = String::new();
    match &result {
        Ok(None) => ask(control, &events),
        Err(Fault::StandsStill) => where_it_stands = look(&mut monitor).unwrap_or_default(),
        _ => {}
    }
    // There is nothing in it to save.
    let _ = process.kill();
    process.wait().context("waiting for the end of QEMU")?;
    drop(open);
    match result {
        Ok(Some(code)) => Ok(code),
        Ok(None) => {
            talking.into_iter().for_each(|thread| drop(thread.join()));
            eprintln!("lab: the command did not end within {} s{}", time.as_secs(), said.lines());
            Ok(TIME_IS_UP)
        }
        Err(Fault::StandsStill) => bail!(
            "the lab's machine has stood still for {} s{}",
            BEAT.as_secs() * u64::from(MISSED),
            said.lines() + &where_it_stands
        ),
        Err(Fault::Machine(what)) => {
            // With the process dead these come to their end.
            talking.into_iter().for_each(|thread| drop(thread.join()));
            bail!("{what}{}", said.lines())
        }
        Err(fault) => Err(fault.into()),
    }
}

/// Takes events until the run is over; `None` when its time is.
fn attend(events: &Receiver<Event>, deadline: Instant) -> Result<Option<u8>, Fault> {
    let mut progress = Progress::default();
    let booted = Instant::now() + BOOT;
    let mut missed = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left.min(BEAT)) {
            Ok(event) => {
                missed = 0;
                if let Some(code) = progress.take(event)? {
                    return Ok(Some(code));
                }
            }
            Err(_) if Instant::now() >= deadline => return Ok(None),
            Err(_) if !progress.started && Instant::now() >= booted => {
                return Err(Fault::Machine(format!("the lab did not boot within {} s", BOOT.as_secs())));
            }
            Err(_) if progress.started => missed += 1,
            Err(_) => {}
        }
        if missed == MISSED {
            return Err(Fault::StandsStill);
        }
    }
}

/// Asks PID 1 what it is doing, and gives it time to answer on the console.
fn ask(control: Option<UnixStream>, events: &Receiver<Event>) {
    let asked = control.is_some_and(|mut control| control.write_all(&[0]).is_ok());
    let until = Instant::now() + LAST_WORDS;
    while asked && events.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() {}
}

/// Has QEMU say some times, a second apart, where its processors are: an emulator that goes round in circles is known by it.
fn look(monitor: &mut UnixStream) -> io::Result<String> {
    monitor.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut answer = Vec::new();
    for _ in 0..WATCHED {
        monitor.write_all(b"info registers -a\n")?;
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = monitor.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..count]);
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let lines = answer
        .lines()
        .filter(|line| ["RIP", "CPU#", "CR0", "EFER"].iter().any(|name| line.starts_with(name)));
    Ok(lines.map(|line| format!("\n    {}", line.trim_end())).collect())
}

/// How far the run is.
#[derive(Debug, Default)]
struct Progress {
    started: bool,
    ended: Option<(u8, [u64; 2])>,
    written: [u64; 2],
}

impl Progress {
    /// Takes an event in; returns the exit code when everything is here.
    fn take(&mut self, event: Event) -> Result<Option<u8>, Fault> {
        match event {
            Event::Report(Report::Started) => self.started = true,
            Event::Report(Report::Alive) => {}
            Event::Report(Report::Failed(why)) => {
                return Err(Fault::Machine(format!("setting up the lab: {why}")));
            }
            Event::Report(Report::Exited { code, stdout, stderr }) => {
                self.ended = Some((code, [stdout, stderr]))
            }
            Event::Written(Channel::Stdout, count) => self.written[0] += count,
            Event::Written(_, count) => self.written[1] += count,
            Event::Broken(channel, error) => return Err(Fault::Output(channel, error)),
            Event::Gone(error) if error.kind() == ErrorKind::InvalidData => {
                return Err(Fault::Machine(format!("the lab's first program sent no report: {error}")));
            }
            Event::Gone(_) => {
                return Err(Fault::Machine("the lab's machine ended before the command did".into()));
            }
        }
        Ok(self.ended.filter(|(_, expected)| *expected == self.written).map(|(code, _)| code))
    }
}

/// Our ends of the channels, in the order of [`Channel::ALL`].
struct Ends([Option<UnixStream>; Channel::ALL.len()]);

impl Ends {
    fn take(&mut self, channel: Channel) -> Result<UnixStream> {
        self.0[channel as usize].take().with_context(|| format!("channel {} is in use", channel.name()))
    }
}

fn start(machine: &Machine, archive: Option<File>) -> Result<(Child, Ends)> {
    let mut ours = [const { None }; Channel::ALL.len()];
    let mut theirs = Vec::new();
    for channel in Channel::ALL {
        let (our, their) =
            UnixStream::pair().with_context(|| format!("making channel {}", channel.name()))?;
        ours[channel as usize] = Some(our);
        theirs.push((channel, their));
    }
    let fds: Vec<_> = theirs.iter().map(|(channel, socket)| (*channel, socket.as_raw_fd())).collect();
    let mut command = Command::new(PROGRAM);
    let archive = archive.as_ref().map(File::as_raw_fd);
    command.args(machine.arguments(&fds, archive)?);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    sys::tie(&mut command, fds.iter().map(|(_, fd)| *fd).chain(archive).collect());
    let process = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!("{PROGRAM} is not installed (scripts/install-deps demo)"),
        _ => anyhow!("starting {PROGRAM}: {error}"),
    })?;
    Ok((process, Ends(ours)))
}

/// Starts the threads that keep what kernel and QEMU say.
fn overhear(process: &mut Child, ends: &mut Ends, said: &Tail, console: bool) -> Result<[JoinHandle<()>; 2]> {
    let mut socket = ends.take(Channel::Console)?;
    let kernel = said.clone();
    let kernel = thread::spawn(move || {
        let _ = read(&mut socket, |bytes| {
            kernel.add(bytes);
            if console { io::stderr().write_all(bytes) } else { Ok(()) }
        });
    });
    let errors = process.stderr.take().context("QEMU's standard error is no pipe")?;
    let said = said.clone();
    let emulator = thread::spawn(move || {
        for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
            // The processor's model has features that the emulator has not; nothing here needs them.
            if !String::from_utf8_lossy(&line).contains("TCG doesn't support requested feature") {
                said.add(&[&line[..], b"\n"].concat());
            }
        }
    });
    Ok([kernel, emulator])
}

/// Starts the threads for what comes from the command and from PID 1.
fn listen(ends: &mut Ends, sender: &Sender<Event>) -> Result<()> {
    for (channel, ours) in [(Channel::Stdout, io::stdout().as_fd()), (Channel::Stderr, io::stderr().as_fd())]
    {
        // Not through the library's buffers, which look for lines.
        let ours = ours.try_clone_to_owned().with_context(|| format!("using {}", channel.name()))?;
        let (mut output, mut socket, sender) = (File::from(ours), ends.take(channel)?, sender.clone());
        thread::spawn(move || {
            let copied = read(&mut socket, |bytes| {
                output.write_all(bytes)?;
                // The receiver is gone when the run is over.
                let _ = sender.send(Event::Written(channel, bytes.len() as u64));
                Ok(())
            });
            copied.map_err(|error| sender.send(Event::Broken(channel, error)))
        });
    }
    let mut control =
        ends.0[Channel::Control as usize].as_ref().context("no control channel")?.try_clone()?;
    let sender = sender.clone();
    thread::spawn(move || {
        loop {
            match wire::receive(&mut control) {
                Ok(report) => sender.send(Event::Report(report))?,
                Err(error) => return sender.send(Event::Gone(error)),
            }
        }
    });
    Ok(())
}

/// Starts the threads for what goes to the lab. The first socket returned, that of the input, must stay open: QEMU drops what it has not
/// yet read from one that is closed, and reads everything from one that is shut down. The second is that of control.
fn give(mut ends: Ends, job: Job) -> Result<(UnixStream, Option<UnixStream>)> {
    let stdin = job.stdin;
    let mut control = ends.take(Channel::Control)?;
    let ours = control.try_clone().ok();
    // A machine that does not take it will be missed by its own end or by the deadline.
    thread::spawn(move || wire::send(&mut control, &job).map(|()| control));
    let mut socket = ends.take(Channel::Stdin)?;
    let open = socket.try_clone().context("using the channel stdin")?;
    if stdin {
        let mut input = File::from(io::stdin().as_fd().try_clone_to_owned().context("using standard input")?);
        thread::spawn(move || {
            let _ = read(&mut input, |bytes| socket.write_all(bytes));
            // QEMU tells the guest of the end.
            socket.shutdown(Shutdown::Write)
        });
    }
    Ok((open, ours))
}

/// Hands everything that comes to `each`, until the end or the first error.
fn read(from: &mut impl Read, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => each(&buffer[..count])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether to read our standard input: not a terminal that another job has, which would stop us.
pub fn stdin_is_ours() -> bool {
    let stdin = io::stdin();
    match rustix::termios::tcgetpgrp(&stdin) {
        Ok(foreground) => foreground == rustix::process::getpgrp(),
        // No terminal, or none of ours.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: u8, stdout: u64, stderr: u64) -> Event {
        Event::Report(Report::Exited { code, stdout, stderr })
    }

    #[test]
    fn the_end_waits_for_the_last_byte() {
        let mut progress = Progress::default();
        assert_eq!(progress.take(Event::Report(Report::Started)).unwrap(), None);
        assert_eq!(progress.take(Event::Written(Channel::Stdout, 3)).unwrap(), None);
        assert_eq!(progress.take(exited(7, 5, 1)).unwrap(), None);
        assert_eq!(progress.take(Event::Written(Channel::Stdout, 2)).unwrap(), None);
        assert_eq!(progress.take(Event::Written(Channel::Stderr, 1)).unwrap(), Some(7));
        assert_eq!(Progress::default().take(exited(0, 0, 0)).unwrap(), Some(0));
    }

    #[test]
    fn whose_fault_it_is() {
        let gone = Progress::default().take(Event::Gone(ErrorKind::UnexpectedEof.into())).unwrap_err();
        assert!(matches!(gone, Fault::Machine(_)));
        let broken = Progress::default()
            .take(Event::Broken(Channel::Stdout, ErrorKind::BrokenPipe.into()))
            .unwrap_err();
        assert_eq!(broken.to_string(), "passing on the command's stdout: broken pipe");
    }

    #[test]
    fn time_that_is_up_is_no_fault() {
        let (_sender, events) = mpsc::channel();
        assert_eq!(attend(&events, Instant::now()).unwrap(), None);
    }
}
