//! `gc`: removes what nothing names any more.

use super::StoreArguments;
use crate::store::gc;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;

/// Remove mini-OSes that no name points to, kernels that no mini-OS uses, and what killed builds left
///
/// A build that is running is never touched.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n    clear-mini-os gc --dry-run")]
pub struct Arguments {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArguments,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let store = arguments.store.open();
    let removed = gc::collect(&store, arguments.dry_run)?;
    let verb = if arguments.dry_run { "would remove" } else { "removed" };
    for garbage in &removed {
        println!("{verb} {} ({} MiB)", garbage.path.display(), garbage.size.div_ceil(1 << 20));
    }
    if removed.is_empty() {
        println!("nothing to remove in {}", store.root().display());
    }
    Ok(ExitCode::SUCCESS)
}
