//! `verify`: are the files still what was built?

use super::StoreArguments;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;

/// Compare every file of a mini-OS with the hash in its manifest
///
/// Exit code 1 and one line per problem when something does not match. `build` repairs it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n    clear-mini-os verify\n    clear-mini-os verify container debian")]
pub struct Arguments {
    /// Names to check [default: all]
    names: Vec<String>,
    #[command(flatten)]
    store: StoreArguments,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let store = arguments.store.open();
    let names = if arguments.names.is_empty() { store.names()? } else { arguments.names.clone() };
    let mut code = ExitCode::SUCCESS;
    for name in names {
        let problems = match store.resolve(&name) {
            Ok(object) => store.check(&object),
            Err(error) => vec![error],
        };
        if problems.is_empty() {
            println!("{name}: good");
        }
        for problem in problems {
            code = ExitCode::FAILURE;
            eprintln!("clear-mini-os: {name}: {problem}");
        }
    }
    Ok(code)
}
