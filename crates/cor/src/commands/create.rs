//! `cor create`: make a container whose program waits for `start`.

use crate::context::Context;
use anyhow::{Context as _, bail};
use sandbox::lifecycle::{self, Create};
use sandbox::plan::SandboxPlan;
use sandbox::terminal;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Create a container: boot its virtual machine and prepare its program, which `start` then runs
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub make: Make,
    /// Name of the container, unique on this host
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

/// Flags that `create` and `run` share.
#[derive(Debug, clap::Args)]
pub struct Make {
    /// Directory with config.json and the root file system
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// UNIX socket that receives the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// UNIX socket that receives a pidfd of the container's process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// File for the container's pid
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Accepted for runc's sake: the guest always pivots
    #[arg(long, hide = true)]
    pub no_pivot: bool,
    /// Accepted for runc's sake: keyrings are the guest's own
    #[arg(long, hide = true)]
    pub no_new_keyring: bool,
    /// Refused unless 0: a file descriptor of the host cannot be passed into a virtual machine
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    context.log.leave_stderr();
    let plan = plan(&args.id, &args.make, context)?;
    let console = console(&plan, &args.make, true)?;
    let pid = lifecycle::create(Create {
        dir: context.dir(&args.id)?,
        plan,
        console,
        pid_file: args.make.pid_file.as_deref(),
        start_us: context.start_us,
    })?;
    send_pidfd(args.make.pidfd_socket.as_deref(), pid)?;
    Ok(0)
}

/// Checks the flags and plans the container.
pub fn plan(id: &str, make: &Make, context: &Context) -> anyhow::Result<SandboxPlan> {
    refuse_preserved(make.preserve_fds)?;
    let dir = context.dir(id)?;
    if dir.exists() {
        return Err(sandbox::state::StateError::Exists(id.to_string()).into());
    }
    context.plan(id, &make.bundle)
}

/// Open files cannot cross the wall.
pub fn refuse_preserved(count: u32) -> anyhow::Result<()> {
    if count > 0 {
        bail!(
            "--preserve-fds {count}: a file descriptor of the host cannot be passed into a virtual machine; \
             use a volume or a UNIX socket in a volume instead"
        );
    }
    Ok(())
}

/// Connects the console socket; its presence must fit the container's terminal, as with runc.
pub fn console(plan: &SandboxPlan, make: &Make, detach: bool) -> anyhow::Result<Option<OwnedFd>> {
    match (&make.console_socket, plan.terminal) {
        (Some(path), true) => {
            let socket = terminal::connect_console(path);
            Ok(Some(socket.with_context(|| format!("connecting to console socket {}", path.display()))?))
        }
        (Some(_), false) => bail!("cannot use --console-socket when process.terminal is false in config.json"),
        (None, true) if detach => bail!(
            "cannot allocate tty if cor will detach without setting console socket: \
             give --console-socket, or set process.terminal to false"
        ),
        (None, _) => Ok(None),
    }
}

/// Sends a pidfd of the container's process to an engine.
pub fn send_pidfd(socket: Option<&Path>, pid: u32) -> anyhow::Result<()> {
    let Some(path) = socket else { return Ok(()) };
    terminal::send_pidfd(path, pid).with_context(|| format!("sending a pidfd to {}", path.display()))
}
