//! `cor list`: all containers of a root.

use super::state::State;
use crate::context::Context;
use crate::table;
use clap::ValueEnum;
use sandbox::state;

/// List containers
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the output
    #[arg(short, long, default_value = "table")]
    pub format: Format,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let containers = state::list(&context.root()?);
    if args.quiet {
        containers.iter().for_each(|container| println!("{}", container.file.id));
        return Ok(0);
    }
    if args.format == Format::Json {
        let states: Vec<State> = containers.into_iter().map(State::of).collect();
        println!("{}", serde_json::to_string(&states)?);
        return Ok(0);
    }
    let row = |container: &state::Container| {
        let file = &container.file;
        let machine = format!("{:?}", file.machine.accelerator).to_lowercase();
        vec![
            file.id.clone(),
            container.pid().to_string(),
            container.status().to_string(),
            file.bundle.display().to_string(),
            file.created.clone(),
            format!("{} {machine} {}cpu {}MiB", file.machine.vmm, file.machine.vcpus, file.machine.memory_mib),
        ]
    };
    let rows: Vec<Vec<String>> = containers.iter().map(row).collect();
    table::print(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "MACHINE"], &rows);
    Ok(0)
}
