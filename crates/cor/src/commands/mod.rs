//! One command, one file, one name.
//!
//! Each file has the command's arguments (`Args`) and what it does (`run`, which gives the exit code).

use crate::context::Context;
use anyhow::Context as _;
use clap::Subcommand;

/// Declares the commands: the module is the file, the variant its name in the help.
macro_rules! commands {
    ($($(#[$attribute:meta])* $variant:ident = $module:ident,)*) => {
        $(mod $module;)*

        /// Every command.
        #[derive(Debug, Subcommand)]
        pub enum Command {
            $($(#[$attribute])* $variant($module::Args),)*
        }

        /// Does what was asked for; gives the exit code.
        pub fn run(command: Command, context: &Context) -> anyhow::Result<u8> {
            match command {
                $(Command::$variant(args) => $module::run(args, context),)*
            }
        }
    };
}

commands! {
    Create = create,
    Start = start,
    State = state,
    Kill = kill,
    Delete = delete,
    Run = run,
    Exec = exec,
    List = list,
    Ps = ps,
    Pause = pause,
    Resume = resume,
    Update = update,
    Events = events,
    Spec = spec,
    Features = features,
    Try = try_,
    Check = check,
    Env = env,
    Plan = plan,
    Trace = trace,
    Why = why,
    Config = config,
    Completion = completion,
    Checkpoint = checkpoint,
    Restore = restore,
    #[command(hide = true)]
    Keeper = keeper,
    #[command(hide = true)]
    ExhaustMemory = exhaust_memory,
    #[command(hide = true)]
    UserNetwork = user_network,
}

/// A number of bytes with an optional unit (k, m, g, powers of 1024); -1 for no limit.
fn parse_bytes(text: &str) -> anyhow::Result<i64> {
    let lower = text.trim().to_lowercase();
    let digits = lower.trim_end_matches(['b', 'i']);
    let (number, shift) = match digits.chars().last() {
        Some('k') => (&digits[..digits.len() - 1], 10),
        Some('m') => (&digits[..digits.len() - 1], 20),
        Some('g') => (&digits[..digits.len() - 1], 30),
        _ => (digits, 0),
    };
    let value: i64 =
        number.parse().context("give a number of bytes, with k, m or g behind it if you like")?;
    let shifted = value.checked_mul(1 << shift).filter(|bytes| *bytes >= 0 || value == -1);
    shifted.context("too large, or negative")
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn units() {
        for (text, value) in
            [("5", 5), ("1k", 1024), ("2M", 2 << 20), ("3GiB", 3 << 30), ("-1", -1), ("10mb", 10 << 20)]
        {
            assert_eq!(parse_bytes(text).unwrap(), value, "{text}");
        }
        for text in ["", "k", "x", "-5", "9999999999g", "1t"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
