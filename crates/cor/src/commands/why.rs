//! `cor why`: why a container failed.

use crate::context::Context;
use anyhow::bail;
use sandbox::history;

/// Show why a container failed: phase, reason, end of the guest's console, messages of the VMM
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For programs
    #[arg(long)]
    pub json: bool,
    /// Name of the container, also one that is gone [default: the last that failed]
    #[arg(value_name = "CONTAINER-ID")]
    pub id: Option<String>,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    if let Some(id) = &args.id {
        sandbox::state::check_id(id)?;
    }
    let record = history::find(&context.root()?, args.id.as_deref(), |r| r.failure.is_some());
    let Some((record, failure)) = record.and_then(|r| r.failure.clone().map(|failure| (r, failure))) else {
        bail!("no failure is known{}", args.id.map(|id| format!(" of container {id:?}")).unwrap_or_default());
    };
    if args.json {
        println!("{}", serde_json::to_string(&record)?);
        return Ok(0);
    }
    println!("container: {}\nphase:     {}\nreason:    {}", record.id, failure.phase, failure.message);
    for (title, text) in [("guest console", &failure.console), ("VMM log", &failure.vmm_log)] {
        println!("\n{title} (end):");
        let mut lines = text.lines().filter(|l| !l.trim().is_empty()).peekable();
        if lines.peek().is_none() {
            println!("  (nothing)");
        }
        lines.for_each(|line| println!("  {line}"));
    }
    Ok(0)
}
