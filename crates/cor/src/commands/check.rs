//! `cor check`: can this host run containers in virtual machines, and what to do if not.

use crate::context::Context;
use host_check::{Finding, Level, Root};
use std::io::IsTerminal;

/// Check each requirement of this host, with the fix for what is missing. Exit code 1 if containers cannot run
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For programs
    #[arg(long)]
    pub json: bool,
    /// Only what is not as it should be
    #[arg(short, long)]
    pub quiet: bool,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let configuration = context.configuration()?;
    let manifest = sandbox::mini_os::manifest(&sandbox::mini_os::store(), &configuration.mini_os.name);
    let root = Root::host();
    let facts = context.facts();
    let report = host_check::check(&host_check::Context { root: &root, facts: &facts, mini_os: &manifest });
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for finding in report.findings.iter().filter(|f| !args.quiet || f.level != Level::Pass) {
            print(finding);
        }
        let (warn, fail) = (report.count(Level::Warn), report.count(Level::Fail));
        let verdict = if fail > 0 { "containers cannot run here" } else { "containers can run here" };
        println!("{verdict}: {} passed, {warn} warnings, {fail} failed", report.count(Level::Pass));
    }
    Ok(u8::from(report.level == Level::Fail))
}

fn print(finding: &Finding) {
    let (word, colour) = match finding.level {
        Level::Pass => ("pass", "\x1b[32m"),
        Level::Warn => ("warn", "\x1b[33m"),
        Level::Fail => ("FAIL", "\x1b[31m"),
    };
    let (on, off) = if std::io::stdout().is_terminal() { (colour, "\x1b[0m") } else { ("", "") };
    println!("{on}{word}{off}  {:<16} {}", finding.name, finding.what);
    if finding.level != Level::Pass {
        println!("      {:<16} why: {}", "", finding.why);
        if let Some(fix) = &finding.fix {
            println!("      {:<16} fix: {fix}", "");
        }
    }
}
