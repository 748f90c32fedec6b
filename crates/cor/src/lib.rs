//! `cor`: an OCI runtime whose command line is runc's, with a virtual machine around every container.
//!
//! ```text
//!   argv ─► cli::Cli (what was typed) ─► commands/<name>.rs ─► sandbox
//!                                          └ error: one line on stderr and in the log, exit code 1
//! ```
//!
//! The library is there for the program and for the generator of the man pages; nothing else may use it.
#![expect(missing_docs, reason = "arguments are documented for `--help`, which is what people read")]

pub mod cli;
pub mod commands;
pub mod context;
pub mod log;
mod table;

use clap::Parser;
use std::process::ExitCode;

/// The program.
pub fn main() -> ExitCode {
    let start_us = sandbox::keeper::timeline::now_us();
    // Whatever an engine left open must reach neither VMM nor hooks.
    sandbox::signals::close_on_exec_from(3);
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::usage_error(&error),
    };
    let log = match log::Log::open(&cli.global) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("cor: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let context = context::Context { global: cli.global, log, start_us };
    match commands::run(cli.command, &context) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            context.log.error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
