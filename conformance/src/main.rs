//! `conformance`: an OCI runtime test suite from the sentences of the runtime-spec (1.3), against any runtime with runc's command line.
//!
//! ```text
//!   cases/*    one function per sentence ─► Case { id, section, sentence, check }
//!                 │ uses
//!   Lab        one test: private --root and directory; on drop: delete --force, directories
//!      ├─ Bundle     rootfs with a static busybox, config.json changed by the test
//!      └─ Container  create, start, wait, state, kill, delete; each command has a deadline
//!   Expected   expected/RUNTIME.toml: deviations that are known, each with its reason
//!   Report     a line per test, a summary
//! ```
//!
//! Tests run one after another, in a mount namespace of their own, so what they mount is gone when they end. How to run:
//! `docs/conformance.md`.

mod bundle;
mod case;
mod cases;
mod command;
mod container;
mod expected;
mod host;
mod lab;
mod report;

use anyhow::{Context, Result};
use case::{Case, Outcome};
use clap::Parser;
use expected::Expected;
use lab::Runtime;
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;

/// Tests an OCI runtime against the sentences of the runtime-spec.
#[derive(Parser)]
#[command(name = "conformance")]
struct Arguments {
    /// The runtime: a path, or a name to find in PATH
    #[arg(long, value_name = "PATH", required_unless_present = "list")]
    runtime: Option<PathBuf>,
    /// A word for the runtime's command line before the command, such as --global-arg=--debug; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    global_arg: Vec<String>,
    /// Run only tests whose id contains one of these texts; may be repeated
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// Show the tests with their sentences and run none
    #[arg(long)]
    list: bool,
    /// Print one JSON object per test, and one for the summary
    #[arg(long)]
    json: bool,
    /// File of known deviations [default: the one of this suite that has the runtime's name, if any]
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs the tests; whether all went as expected.
fn run(arguments: &Arguments) -> Result<bool> {
    let wanted = |case: &&Case| {
        arguments.filter.is_empty() || arguments.filter.iter().any(|text| case.id.contains(text.as_str()))
    };
    let selected: Vec<&Case> = cases::all().filter(wanted).collect();
    let mut report = Report::new(arguments.json);
    let (Some(runtime), false) = (&arguments.runtime, arguments.list) else {
        selected.iter().for_each(|case| report.list(case));
        return Ok(true);
    };
    let runtime = Runtime::new(runtime, &arguments.global_arg)?;
    let expected = match &arguments.expected {
        Some(file) => Expected::read(file)?,
        None => Expected::of(&runtime.name())?,
    };
    expected.check(cases::all()).context("reading the list of known deviations")?;
    let _host = host::Preparations::make()?;
    for case in selected {
        let outcome = Outcome::of(case, &runtime);
        report.add(case, outcome, expected.reason(case.id));
    }
    Ok(report.end())
}
