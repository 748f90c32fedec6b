//! `clear-vmm serve`: a device of ours for another VMM.

use crate::cli::options::ShareOption;
use crate::control::socket;
use crate::event_loop::signals;
use crate::jail::{Jail, Needs, Role, Violation};
use crate::machine::devices::{self, OpenDevice, Threads};
use crate::machine::files;
use crate::vhost_user::{self, peer};
use crate::virtio::fs::share::ShareOptions;
use anyhow::{Context, bail};
use clap::Subcommand;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;

/// Shown below `serve --help`.
const EXAMPLES: &str = "\
Example:
  A directory for a guest of QEMU, which has KVM and memory that can be shared; `mount -t virtiofs home DIR` in the guest:
    clear-vmm serve fs --socket /run/fs.sock --share /home,tag=home &
    qemu-system-x86_64 -accel kvm -M q35,memory-backend=ram -m 1G -object memory-backend-memfd,id=ram,size=1G,share=on \\
      -chardev socket,id=fs,path=/run/fs.sock -device vhost-user-fs-pci,chardev=fs,tag=home ...

It ends with its one client: with exit code 0, with 128+N by signal N, with 1 when the client cannot be served.";

/// Options of `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    device: Device,
}

/// What is served.
#[derive(Debug, Subcommand)]
enum Device {
    /// A directory of this host, by vhost-user, to one client whose guest runs by KVM (virtio-fs without DAX)
    Fs(Fs),
}

/// Options of `serve fs`.
#[derive(Debug, clap::Args)]
struct Fs {
    /// UNIX socket for the client: made, for this user alone, and removed at the end
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The directory. `ro`: the guest changes nothing, whatever it does. The tag that the guest mounts is the client's to say; this
    /// one is for messages
    #[arg(long, value_name = "DIR,tag=TAG[,ro]")]
    share: ShareOption,
    /// Do without the jail: a guest that takes over this program then has all that its user has
    #[arg(long)]
    no_jail: bool,
    /// What a system call does that the jail forbids
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Violation::Kill, conflicts_with = "no_jail")]
    seccomp: Violation,
    /// Take it upon you that the client's guest runs by KVM where that cannot be seen: with an emulated one, programs in the guest crash
    #[arg(long)]
    no_kvm_check: bool,
}

/// Serves until the client has gone.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Device::Fs(args) = args.device;
    if args.share.dax_mib > 0 {
        bail!("--share: dax= is not possible by vhost-user; leave it out");
    }
    let (share, signals) = (&args.share, signals::block()?);
    let device = files::share(&share.path, &share.tag, share.readonly, 0)?;
    let (listener, mut name) = socket::bind(&args.socket)?;
    super::run::raise_descriptor_limit();
    let Some(client) = accept(listener.into(), &signals)? else { return Ok(ExitCode::from(ENDED)) };
    match args.no_kvm_check {
        true => eprintln!(
            "clear-vmm: warning: --no-kvm-check: if the client's guest is emulated, its programs crash"
        ),
        false => peer::check(&client)?,
    }
    let mut devices = [device];
    let jail = if args.no_jail {
        eprintln!("clear-vmm: warning: --no-jail: a guest that breaks out has all that this user has");
        Jail::none()
    } else {
        super::run::warn_of_log(args.seccomp);
        let needs = Needs { violation: args.seccomp, ..Needs::default() };
        Jail::enter(&mut devices, &mut [name.directory()], &needs)?
    };
    let [OpenDevice::Share { root, proc, tag, readonly, .. }] = devices else { bail!("a share is no share") };
    let options = ShareOptions { readonly, proc, ..ShareOptions::default() };
    let fs = devices::share(root, &tag, options, None, &Threads::New(jail.clone()))?;
    let ended = vhost_user::serve(fs, client, signals, || {
        jail.main_thread(Role::VhostUser);
        match jail.all_in() {
            true => Ok(()),
            false => jail.failure().map_or(Ok(()), Err),
        }
    })?;
    drop(name);
    Ok(ended.map_or(ExitCode::SUCCESS, |signal| ExitCode::from(128 + signal as u8)))
}

/// Ended by a signal before there was a client: SIGTERM's code.
const ENDED: u8 = 128 + libc::SIGTERM as u8;

/// Waits for the client and its first word; `None` when a signal ends that.
fn accept(listener: UnixListener, signals: &OwnedFd) -> anyhow::Result<Option<UnixStream>> {
    if !wait(&listener, signals)? {
        return Ok(None);
    }
    let (client, _) = listener.accept().context("accepting the client")?;
    drop(listener);
    client.set_nonblocking(false).context("setting up the connection")?;
    Ok(wait(&client, signals)?.then_some(client))
}

/// Whether `file` was ready before a signal came.
fn wait(file: impl AsFd, signals: &OwnedFd) -> anyhow::Result<bool> {
    loop {
        let mut files = [PollFd::new(&file, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut files, None) {
            Ok(_) if !files[1].revents().is_empty() => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("waiting for the client"),
        }
    }
}
