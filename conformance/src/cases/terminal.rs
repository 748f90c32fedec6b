//! `process.terminal`, `process.consoleSize`.

use crate::bundle::Bundle;
use crate::case::{cases, holds, same};
use crate::command::{self, until};
use crate::container::Container;
use crate::lab::Lab;
use anyhow::{Context, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

cases! {
    "terminal.is-a-terminal" => is_a_terminal, "config.md#process",
        "terminal: if true, a pseudoterminal pair is allocated and its pty is duplicated on the process's standard streams";
    "terminal.console" => console, "config-linux.md#default-devices",
        "/dev/console is set up if terminal is enabled, by bind mounting the pty to /dev/console";
    "terminal.no-console" => no_console, "config-linux.md#default-devices",
        "/dev/console is set up if terminal is enabled: and not otherwise";
    "terminal.size" => size, "config.md#process", "consoleSize specifies the console size in characters of the terminal";
    "terminal.input" => input, "config.md#process", "terminal: what is written to the pseudoterminal is the process's input";
    "terminal.controlling" => controlling, "config.md#process", "terminal: /dev/tty is the process's controlling terminal";
}

/// The other side of a container's terminal, and the container.
fn start<'a>(lab: &'a Lab<'a>, bundle: &mut Bundle) -> Result<(Container<'a>, File)> {
    bundle.set("/process/terminal", json!(true));
    let path = lab.path().join("console.sock");
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    let words = ["--console-socket", &path.to_string_lossy()];
    let (output, container) = Container::create(lab, bundle, &lab.id(), &words)?;
    output.ok()?;
    let terminal = until("the terminal on the console socket", || receive(&listener))?;
    container.start()?.ok()?;
    Ok((container, terminal.into()))
}

/// Takes the descriptor out of the one message that a runtime sends.
fn receive(listener: &UnixListener) -> Result<Option<OwnedFd>> {
    let Ok((stream, _)) = listener.accept() else { return Ok(None) };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(command::PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::empty())?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.map(Some).context("the console socket got a message without a descriptor")
}

/// All that comes from a terminal until its other side is closed.
fn read_all(mut terminal: &File) -> String {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    // A terminal without another side gives EIO.
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

/// What a script prints to its terminal.
fn script(lab: &Lab, script: &str, change: impl FnOnce(&mut Bundle)) -> Result<String> {
    let mut bundle = lab.bundle()?;
    change(bundle.script(script));
    let (container, terminal) = start(lab, &mut bundle)?;
    container.wait()?;
    Ok(read_all(&terminal).trim().to_owned())
}

fn is_a_terminal(lab: &Lab) -> Result<()> {
    let output = script(lab, "for fd in 0 1 2; do test -t $fd && echo $fd; done; true", |_| ())?;
    same("streams that are terminals", "0\n1\n2", &output)
}

fn console(lab: &Lab) -> Result<()> {
    let output = script(lab, "test -c /dev/console && echo to the console >/dev/console", |_| ())?;
    same("output", "to the console", &output)
}

fn no_console(lab: &Lab) -> Result<()> {
    let output = lab.script("test -e /dev/console && echo there || echo absent", |_| Ok(()))?;
    same("/dev/console", "absent", &output)
}

fn size(lab: &Lab) -> Result<()> {
    let output = script(lab, "stty size", |bundle| {
        bundle.set("/process/consoleSize", json!({"height": 33, "width": 111}));
    })?;
    same("rows and columns", "33 111", &output)
}

fn input(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.script("stty -echo; echo ready; read -r line; echo \"got $line\"");
    let (container, mut terminal) = start(lab, &mut bundle)?;
    terminal.write_all(b"words\n")?;
    same("exit code", &0, &container.wait()?)?;
    let output = read_all(&terminal);
    holds("what was written", output.contains("got words\n"), output)
}

fn controlling(lab: &Lab) -> Result<()> {
    same("output", "to the terminal", &script(lab, "echo to the terminal >/dev/tty", |_| ())?)
}
