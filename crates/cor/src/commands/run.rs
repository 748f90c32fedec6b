//! `cor run`: create, start, wait, delete.

use super::create::{Make, console, plan, send_pidfd};
use crate::context::Context;
use sandbox::lifecycle::{self, Create};
use sandbox::run::foreground;

/// Create a container and run it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub make: Make,
    /// Return as soon as the program runs
    #[arg(short, long)]
    pub detach: bool,
    /// Do not delete the container when it has ended
    #[arg(long)]
    pub keep: bool,
    /// Accepted for runc's sake: orphans are the guest's
    #[arg(long, hide = true)]
    pub no_subreaper: bool,
    /// Name of the container, unique on this host
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let plan = plan(&args.id, &args.make, context)?;
    let dir = context.dir(&args.id)?;
    let console = console(&plan, &args.make, args.detach)?;
    let pid_file = args.make.pid_file.as_deref();
    let create = Create { dir: dir.clone(), plan, console, pid_file, start_us: context.start_us };
    if !args.detach {
        let (code, warnings) = foreground(create, args.keep)?;
        warnings.iter().for_each(|warning| context.log.warn(warning));
        return Ok(code);
    }
    let pid = lifecycle::create(create)?;
    let started = send_pidfd(args.make.pidfd_socket.as_deref(), pid).and_then(|()| Ok(lifecycle::start(&dir)?));
    if started.is_err() {
        let _ = lifecycle::delete(&dir, true);
    }
    started.map(|()| 0)
}
