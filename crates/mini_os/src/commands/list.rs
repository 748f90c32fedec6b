//! `list`: the mini-OSes that have a name.

use super::StoreArguments;
use anyhow::Result;
use clap::Args;
use machine_spec::mini_os::MiniOs;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// List the mini-OSes in the store
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n    clear-mini-os list\n    clear-mini-os list --json | jq '.[].mini_os.release'"
)]
pub struct Arguments {
    /// Machine-readable, with every field of the manifests
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArguments,
}

#[derive(Serialize)]
struct Row {
    name: String,
    object: PathBuf,
    mini_os: MiniOs,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let store = arguments.store.open();
    let mut code = ExitCode::SUCCESS;
    let mut rows = Vec::new();
    for name in store.names()? {
        let object = store.resolve(&name)?;
        match store.read_manifest(&object) {
            Ok(mini_os) => rows.push(Row { name, object, mini_os }),
            // One that is damaged does not hide the others.
            Err(error) => {
                code = ExitCode::FAILURE;
                eprintln!("clear-mini-os: {name}: {error}");
            }
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(code);
    }
    if rows.is_empty() {
        eprintln!("no mini-OS in {} (make one with `clear-mini-os build`)", store.root().display());
        return Ok(code);
    }
    let key =
        |row: &Row| row.object.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    println!("{:<16} {:<18} {:<26} {:>9} {:<16} OBJECT", "NAME", "ORIGIN", "RELEASE", "KERNEL", "FORMS");
    for row in &rows {
        let kernel = format!("{:.1} MiB", row.mini_os.kernel.size as f64 / f64::from(1 << 20));
        let forms = forms(&row.mini_os);
        let (origin, release) = (&row.mini_os.origin, &row.mini_os.release);
        println!("{:<16} {origin:<18} {release:<26} {kernel:>9} {forms:<16} {:.12}", row.name, key(row));
    }
    Ok(code)
}

fn forms(mini_os: &MiniOs) -> String {
    let initramfs = mini_os.initramfs.iter().map(|_| "initramfs");
    initramfs.chain(mini_os.image.iter().map(|_| "image")).collect::<Vec<_>>().join(",")
}
