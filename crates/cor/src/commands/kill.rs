//! `cor kill`: send a signal.

use crate::context::Context;
use anyhow::bail;

/// Send a signal to the container's program
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cor kill web            SIGTERM\n  cor kill web KILL\n  cor kill --all web 9    every process of the container")]
pub struct Args {
    /// Send it to all processes of the container
    #[arg(short, long)]
    pub all: bool,
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Name (TERM, SIGTERM, RTMIN+3) or number
    #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
    pub signal: String,
}

pub fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let dir = context.dir(&args.id)?;
    sandbox::lifecycle::kill(&dir, parse(&args.signal)?, args.all)?;
    Ok(0)
}

/// A signal's number.
fn parse(text: &str) -> anyhow::Result<i32> {
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: &str, sign: i32, from: i32| {
        let rest = name.strip_prefix(base)?;
        let offset: i32 = if rest.is_empty() { 0 } else { rest.get(1..)?.parse().ok()? };
        (0..=30).contains(&offset).then_some(from + sign * offset)
    };
    let number = upper.parse::<i32>().ok();
    // SIGRTMIN of user space is 34: glibc keeps 32 and 33.
    let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let found = number.or(named).or_else(|| real_time("RTMIN", 1, 34)).or_else(|| real_time("RTMAX", -1, 64));
    match found {
        Some(signal @ 1..=64) => Ok(signal),
        _ => bail!("unknown signal {text:?}: give a name like TERM or SIGHUP, or a number from 1 to 64"),
    }
}

/// signal(7), with the usual aliases.
const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP), ("INT", libc::SIGINT), ("QUIT", libc::SIGQUIT), ("ILL", libc::SIGILL), ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT), ("IOT", libc::SIGIOT), ("BUS", libc::SIGBUS), ("FPE", libc::SIGFPE), ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1), ("SEGV", libc::SIGSEGV), ("USR2", libc::SIGUSR2), ("PIPE", libc::SIGPIPE), ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM), ("STKFLT", libc::SIGSTKFLT), ("CHLD", libc::SIGCHLD), ("CLD", libc::SIGCHLD), ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP), ("TSTP", libc::SIGTSTP), ("TTIN", libc::SIGTTIN), ("TTOU", libc::SIGTTOU), ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU), ("XFSZ", libc::SIGXFSZ), ("VTALRM", libc::SIGVTALRM), ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH), ("IO", libc::SIGIO), ("POLL", libc::SIGPOLL), ("PWR", libc::SIGPWR), ("SYS", libc::SIGSYS),
];

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [("TERM", 15), ("SIGKILL", 9), ("hup", 1), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63), ("64", 64)] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "-1", "NOPE", "RTMIN+31", "RTMIN3x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
