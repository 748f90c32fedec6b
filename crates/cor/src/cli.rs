//! What can be typed. Names and meanings of runc's commands and flags are runc's.

use crate::commands;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Try it without an engine or a bundle:
  cor check                              can this host run it, and what to do if not
  cor try -- uname -a                    one command in its own virtual machine
  cor try -it --rootfs ./debian -- bash  a shell in a root directory of yours

Use it with an engine:
  podman --runtime cor run --rm alpine uname -r
  docker run --runtime cor ...           after adding it to \"runtimes\" in /etc/docker/daemon.json

When something fails:
  cor why [ID]                           phase, guest console and VMM log of the last failure
  cor trace [ID]                         where the time went";

/// OCI runtime that runs every container in its own light virtual machine.
///
/// The commands and flags of runc mean the same here, so Docker, Podman, containerd, CRI-O and Buildah can call it.
#[derive(Debug, Parser)]
#[command(name = "cor", version = version(), styles = STYLES, after_help = EXAMPLES, max_term_width = 110)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: commands::Command,
}

/// Flags before the command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Log debugging messages too
    #[arg(long, global = true)]
    pub debug: bool,
    /// File for log messages, in addition to standard error for errors
    #[arg(long, global = true, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Form of log messages
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Directory for the state of containers, on a tmpfs [default: /run/cor]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Configuration file [default: /etc/clear-containers/configuration.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Refuse to run a container without hardware virtualization instead of emulating it
    #[arg(long, global = true)]
    pub require_kvm: bool,
    /// linux.cgroupsPath has systemd's form SLICE:PREFIX:NAME
    #[arg(long, global = true)]
    pub systemd_cgroup: bool,
    /// Accepted for runc's sake: true, false or auto. Only root can run cor
    #[arg(long, value_name = "BOOL", default_value = "auto", hide = true)]
    pub rootless: String,
    /// Accepted for runc's sake; virtual machines are not checkpointed with CRIU
    #[arg(long, value_name = "PATH", hide = true)]
    pub criu: Option<PathBuf>,
}

/// Form of log messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One object per line
    Json,
}

/// Several lines, as engines parse runc's.
fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0")
}

/// Help and version go to standard output with exit code 0; everything else is one kind of error, exit code 1 as runc's.
pub fn usage_error(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::from(error.use_stderr()))
}
