//! `cor exec`: one more process in a container.

use super::create::{refuse_preserved, send_pidfd};
use crate::context::Context;
use anyhow::{Context as _, bail};
use sandbox::guest::{Io, TerminalSize};
use sandbox::bundle::parse_process;
use sandbox::exec::{Exec, exec};
use sandbox::lifecycle::read_plan;
use sandbox::{bundle, plan, terminal};
use serde_json::{Value, json};
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Run one more process in a container
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cor exec web ps\n  cor exec -t web sh\n  cor exec --process process.json --detach --pid-file p web")]
pub struct Args {
    /// UNIX socket that receives the master of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// UNIX socket that receives a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Environment variable, K=V
    #[arg(short, long, value_name = "K=V")]
    pub env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// User, UID[:GID]
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Supplementary group
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// File with the process as in config.json, `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Return as soon as it runs
    #[arg(short, long)]
    pub detach: bool,
    /// File for the pid that stands for the process on the host
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Accepted for runc's sake; the guest has no SELinux
    #[arg(long, hide = true, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// Accepted for runc's sake; the guest has no AppArmor
    #[arg(long, hide = true, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// Let it gain no privileges
    #[arg(long)]
    pub no_new_privs: bool,
    /// Add a capability to all sets
    #[arg(short, long, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Refused unless 0: a file descriptor of the host cannot be passed into a virtual machine
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Control group below the container's; only the container's own is supported
    #[arg(long, hide = true, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// Refused: nothing runs in a machine that stands still
    #[arg(long, hide = true)]
    pub ignore_paused: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    refuse_preserved(args.preserve_fds)?;
    if args.cgroup.as_deref().is_some_and(|path| !matches!(path, "" | "/" | ".")) {
        bail!("--cgroup: the processes of a container share one control group in its virtual machine");
    }
    let container = context.container(&args.id)?;
    let text = match &args.process {
        Some(path) => read(path)?,
        None => from_flags(&args, container.dir.id(), &container.file.bundle)?,
    };
    context.log.leave_stderr();
    let (given, mut warnings) = parse_process(&text)?;
    let (mut process, more) = plan::process_for_exec(&given, &read_plan(&container.dir)?, Io::default())?;
    warnings.extend(more);
    warnings.iter().for_each(|warning| context.log.warn(warning));
    if args.tty && process.terminal.is_none() {
        process.terminal = Some(TerminalSize { rows: 0, columns: 0 });
    }
    let console = match (&args.console_socket, process.terminal) {
        (Some(path), Some(_)) => Some(
            terminal::connect_console(path).with_context(|| format!("connecting to console socket {}", path.display()))?,
        ),
        (Some(_), None) => bail!("cannot use --console-socket without a terminal: add --tty"),
        (None, Some(_)) if args.detach => {
            bail!("cannot allocate tty if cor will detach without setting console socket: give --console-socket")
        }
        (None, Some(_)) if !rustix::termios::isatty(std::io::stdin().as_fd()) => {
            bail!("--tty: standard input is no terminal: leave out --tty, or give --console-socket")
        }
        (None, _) => None,
    };
    let code = exec(Exec {
        dir: container.dir,
        process,
        detach: args.detach,
        console,
        pid_file: args.pid_file.as_deref(),
    })?;
    if let (true, Some(file)) = (args.detach, &args.pid_file) {
        let pid = fs::read_to_string(file)?.trim().parse()?;
        send_pidfd(args.pidfd_socket.as_deref(), pid)?;
    }
    Ok(code)
}

fn read(path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    if path.as_os_str() == "-" {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut text)?;
        return Ok(text);
    }
    fs::read(path).with_context(|| format!("reading process file {}", path.display()))
}

/// The container's own process with what the flags change, as runc does it.
fn from_flags(args: &Args, id: &str, bundle: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    if args.command.is_empty() {
        bail!("no command: give a program to run in container {id:?}, or --process FILE");
    }
    let config = bundle.join("config.json");
    let text = fs::read(&config).with_context(|| format!("reading {}", config.display()))?;
    let (spec, _) = bundle::parse(&text)?;
    let mut process = serde_json::to_value(spec.process())?;
    if !process.is_object() {
        process = json!({ "cwd": "/" });
    }
    process["args"] = json!(args.command);
    process["terminal"] = json!(args.tty);
    process["consoleSize"] = Value::Null;
    if let Some(cwd) = &args.cwd {
        process["cwd"] = json!(cwd);
    }
    if args.no_new_privs {
        process["noNewPrivileges"] = json!(true);
    }
    append(&mut process["env"], &args.env);
    for set in ["bounding", "effective", "permitted", "ambient"] {
        if !args.cap.is_empty() {
            append(&mut process["capabilities"][set], &args.cap);
        }
    }
    if let Some(user) = &args.user {
        let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
        let number = |text: &str| text.parse::<u32>().with_context(|| format!("--user {user:?}: give UID[:GID] as numbers"));
        process["user"]["uid"] = json!(number(uid)?);
        if !gid.is_empty() {
            process["user"]["gid"] = json!(number(gid)?);
        }
    }
    if !args.additional_gids.is_empty() {
        process["user"]["additionalGids"] = json!(args.additional_gids);
    }
    Ok(serde_json::to_vec(&process)?)
}

fn append(list: &mut Value, items: &[String]) {
    let mut all: Vec<Value> = list.as_array().cloned().unwrap_or_default();
    all.extend(items.iter().filter(|item| !list.as_array().is_some_and(|l| l.contains(&json!(item)))).map(|item| json!(item)));
    *list = Value::Array(all);
}
