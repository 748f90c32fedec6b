//! `cor trace`: the timeline of a container's start.

use crate::context::Context;
use crate::table;
use anyhow::bail;
use sandbox::history;

/// Show when what happened while a container came up and ended
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For programs
    #[arg(long)]
    pub json: bool,
    /// Name of the container, also one that is gone [default: the last one]
    #[arg(value_name = "CONTAINER-ID")]
    pub id: Option<String>,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    if let Some(id) = &args.id {
        sandbox::state::check_id(id)?;
    }
    let Some(record) = history::find(&context.root()?, args.id.as_deref(), |r| !r.timeline.is_empty()) else {
        bail!("no timeline is known{}: run a container first", args.id.map(|id| format!(" of {id:?}")).unwrap_or_default());
    };
    if args.json {
        println!("{}", serde_json::to_string(&record)?);
        return Ok(0);
    }
    let mut before = 0;
    let row = |stamp: &history::Stamp| {
        let step = stamp.at_us.saturating_sub(before);
        before = stamp.at_us;
        let ms = |us: u64| format!("{:>9.1}", us as f64 / 1000.0);
        vec![ms(stamp.at_us), ms(step), stamp.name.clone()]
    };
    let rows: Vec<Vec<String>> = record.timeline.iter().map(row).collect();
    println!("container {}", record.id);
    table::print(&["  at (ms)", "   + (ms)", "what"], &rows);
    Ok(0)
}
