//! `clear-agent`: PID 1 of the guest. Sets up a container, starts and supervises its processes.
//!
//! ```text
//!   kernel ─► machine::boot, modules, channel ─► link (Mux, Hello) ─► server: one poll(2) loop
//!                                                                      requests ─► container::{setup, exec} ─► children
//!                                                                      reaper ─► Exited       streams ◄─► pipes, terminals
//!   any end of the loop, any panic ─► machine::power: sync, reboot
//! ```
//!
//! One thread, no runtime: that makes clone3(2) safe, and the agent small. The agent trusts the host, and nothing that
//! a container can reach.

#![cfg_attr(not(test), no_main)]

mod container;
#[cfg(not(test))]
mod entry;
mod error;
mod link;
mod log;
mod machine;
mod names;
mod reaper;
mod requests;
mod server;
mod streams;
mod sys;

use error::Result;
use guest_protocol::VERSION;
use guest_protocol::message::{FromAgent, Hello};
use machine::files::CommandLine;
use machine::{boot, channel, modules, power};

const HELP: &str = "\
clear-agent: PID 1 of a Clear Containers guest

It is started by the guest's kernel (init=/init) and talks to the host over the virtio-serial port clear.agent,
or over vsock.
Elsewhere it does nothing.

  --version   print the version and end
  --help      print this text and end

Kernel parameters:
  clear.debug       say more in the kernel's log
  clear.vsock=PORT  call the host at this vsock port, not over the virtio-serial port";

/// The whole program; gives its exit code.
#[cfg_attr(test, expect(dead_code, reason = "the test harness has a main function of its own"))]
fn run() -> i32 {
    sys::ignore_sigpipe();
    if std::process::id() == 1 {
        power::on_panic();
        sys::keep_heap_small();
        match serve() {
            Ok(never) => match never {},
            Err(error) => power::fail(&error.message),
        }
    }
    match std::env::args().nth(1).as_deref() {
        Some("--version" | "-V") => {
            println!("clear-agent {} (protocol {VERSION})", env!("CARGO_PKG_VERSION"))
        }
        Some("--help" | "-h") => println!("{HELP}"),
        _ => {
            eprintln!("clear-agent: it runs as PID 1 of a guest, not here; see clear-agent --help");
            return libc::EXIT_FAILURE;
        }
    }
    libc::EXIT_SUCCESS
}

fn serve() -> Result<std::convert::Infallible> {
    let mut stamps = vec![boot::stamp("init")];
    // Children inherit it: nothing in a container may look into one of them before its program runs.
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, [0; 4]);
    sys::block_signals(sys::SignalSet::Child);
    boot::mount_all()?;
    boot::null_stdio()?;
    let parameters = CommandLine::of_kernel();
    if parameters.has("clear.debug") {
        log::be_talkative();
    }
    if modules::load_all()? > 0 {
        stamps.push(boot::stamp("modules"));
    }
    let mut link = link::Link::new(channel::open(&parameters)?);
    stamps.push(boot::stamp("ready"));
    link.send(&FromAgent::Hello(Hello {
        version: VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: channel::kernel_release(),
        stamps,
    }))?;
    link.write()?;
    // Everything that the host need not wait for is done while it answers.
    boot::loopback_up();
    boot::raise_file_limit();
    let mut server = server::Server::new(link)?;
    server.run().inspect_err(|error| {
        log::debug(&format!("the end: {}", error.message));
    })
}
