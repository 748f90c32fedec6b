//! `cor keeper`: this program as keeper of one container. Started by `create`, not by people.

use crate::context::Context;
use sandbox::keeper::{self, Launch};
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Keep one container (internal)
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    pub plan: RawFd,
    #[arg(long)]
    pub status: RawFd,
    #[arg(long)]
    pub lock: RawFd,
    #[arg(long)]
    pub console: Option<RawFd>,
    #[arg(long)]
    pub start: u64,
    pub id: String,
}

#[expect(unsafe_code, reason = "descriptors donated by number over exec")]
pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    // SAFETY: `create` has put these descriptors here for this process, which uses each of them once.
    let take = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
    let launch = Launch {
        dir: context.dir(&args.id)?,
        plan: File::from(take(args.plan)),
        status: UnixStream::from(take(args.status)),
        lock: File::from(take(args.lock)),
        console: args.console.map(take),
        start_us: args.start,
    };
    Ok(keeper::run(launch))
}
