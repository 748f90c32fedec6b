//! `cor ps`: the processes of a container.

use super::list::Format;
use crate::context::Context;
use crate::table;
use anyhow::bail;
use sandbox::guest::ProcessInfo;
use sandbox::client;
use sandbox::keeper::protocol::{Reply, Request};

/// List the processes of a container
///
/// The table shows the processes in the guest. The JSON form is for engines, which look the numbers up on the host: it has
/// the pids of the host's processes that stand for the container.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the output
    #[arg(short, long, default_value = "table")]
    pub format: Format,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Accepted for runc's sake: options of ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub options: Vec<String>,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let container = context.container(&args.id)?;
    if args.format == Format::Json {
        let pids: Vec<u32> = std::iter::once(container.pid()).filter(|pid| *pid > 0).collect();
        if pids.is_empty() {
            bail!("container not running");
        }
        println!("{}", serde_json::to_string(&pids)?);
        return Ok(0);
    }
    let Reply::Processes(processes) = client::ask(&container.dir, &Request::Processes)? else {
        bail!(client::ClientError::Mismatch);
    };
    table::print(&["UID", "PID", "PPID", "TIME", "CMD"], &processes.iter().map(row).collect::<Vec<_>>());
    Ok(0)
}

fn row(process: &ProcessInfo) -> Vec<String> {
    let seconds = process.cpu_ms / 1000;
    let clean: String = process.command.chars().filter(|c| !c.is_control()).collect();
    vec![
        process.uid.to_string(),
        process.pid.to_string(),
        process.parent.to_string(),
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        clean,
    ]
}
