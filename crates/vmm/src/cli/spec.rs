//! `--spec`, and descriptors that a launcher donates by number.
#![expect(unsafe_code, reason = "takes over descriptors that were inherited")]

use crate::plain_text::plain;
use anyhow::bail;
use machine_spec::MachineSpec;
use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;

/// Longest spec in bytes.
const MAX_SPEC: u64 = 1 << 20;

/// Most characters of what is wrong with a spec: the reason may repeat any of its text.
const MAX_REASON: usize = 500;

/// Descriptors that were taken: a number that is named twice is a mistake.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// `fd:N`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fd(RawFd);

impl FromStr for Fd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix("fd:").and_then(|number| number.parse().ok());
        number
            .filter(|fd| *fd > 2)
            .map(Fd)
            .ok_or_else(|| format!("{text:?} is no donated descriptor; write fd:N with N above 2"))
    }
}

impl Fd {
    /// Makes it ours.
    ///
    /// # Errors
    /// When it is not open, or was taken before.
    pub fn take(&self) -> anyhow::Result<OwnedFd> {
        let mut taken = crate::bus::lock(&TAKEN);
        // SAFETY: F_SETFD changes nothing but a flag of a descriptor, if there is one of that number.
        let open = unsafe { libc::fcntl(self.0, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
        if !open || taken.contains(&self.0) {
            bail!("descriptor fd:{} is not open, or was given twice", self.0);
        }
        taken.push(self.0);
        // SAFETY: open, and nobody else owns it: options are parsed before this program opens files that it keeps, each
        // number is taken once, and 0 to 2 are refused.
        Ok(unsafe { OwnedFd::from_raw_fd(self.0) })
    }
}

/// `NAME=fd:N`, and for a tap with several queues `NAME=fd:N:M...`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    name: String,
    fds: Vec<Fd>,
}

impl FromStr for Tap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, fds) = text.split_once("=fd:").ok_or("NAME=fd:N is expected")?;
        let fds = fds.split(':').map(|number| format!("fd:{number}").parse()).collect::<Result<_, _>>()?;
        Ok(Tap { name: name.to_string(), fds })
    }
}

impl Tap {
    /// Makes it ours.
    ///
    /// # Errors
    /// See [`Fd::take`].
    pub fn take(&self) -> anyhow::Result<(String, Vec<OwnedFd>)> {
        Ok((self.name.clone(), self.fds.iter().map(Fd::take).collect::<Result<_, _>>()?))
    }
}

/// Where a spec comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    Path(PathBuf),
    /// A donated descriptor.
    Fd(Fd),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("fd:") { text.parse().map(Source::Fd) } else { Ok(Source::Path(text.into())) }
    }
}

/// Reads a spec; whether it makes sense is not looked at.
///
/// # Errors
/// When it cannot be read or is no spec.
pub fn read(source: &Source) -> anyhow::Result<MachineSpec> {
    let file = match source {
        Source::Path(path) => {
            File::open(path).map_err(|e| anyhow::anyhow!("opening the spec {}: {e}", path.display()))?
        }
        Source::Fd(fd) => File::from(fd.take()?),
    };
    let mut text = String::new();
    file.take(MAX_SPEC + 1)
        .read_to_string(&mut text)
        .map_err(|e| anyhow::anyhow!("reading the spec: {e}"))?;
    if text.len() as u64 > MAX_SPEC {
        bail!("the spec has more than {MAX_SPEC} bytes");
    }
    parse(&text)
}

/// Reads a spec's text; whether it makes sense is not looked at.
///
/// # Errors
/// Another version, or no spec.
pub fn parse(text: &str) -> anyhow::Result<MachineSpec> {
    // A newer spec has fields that we do not know: say that it is newer rather than that a field is strange.
    let version =
        serde_json::from_str::<serde_json::Value>(text).ok().and_then(|value| value["version"].as_u64());
    if let Some(version) = version.filter(|version| *version != u64::from(machine_spec::VERSION)) {
        bail!(
            "machine spec version {version} is not supported; this program speaks version {}",
            machine_spec::VERSION
        );
    }
    serde_json::from_str(text).map_err(|e| anyhow::anyhow!("reading the spec: {}", plain(&e, MAX_REASON)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn descriptors_are_taken_once() {
        let fd: Fd = format!("fd:{}", tempfile::tempfile().unwrap().into_raw_fd()).parse().unwrap();
        fd.take().unwrap();
        assert!(fd.take().is_err());
        for bad in ["fd:0", "fd:2", "fd:", "fd:-1", "3"] {
            assert!(bad.parse::<Fd>().is_err(), "{bad}");
        }
        let taps = |text: &str| text.parse::<Tap>().map(|tap| (tap.name, tap.fds));
        assert_eq!(taps("n=fd:7"), Ok(("n".to_string(), vec![Fd(7)])));
        assert_eq!(taps("n=fd:7:9"), Ok(("n".to_string(), vec![Fd(7), Fd(9)])));
        for bad in ["n", "n=7", "n=fd:", "n=fd:7:", "n=fd:7:1", "n=fd:7:fd:8"] {
            assert!(bad.parse::<Tap>().is_err(), "{bad}");
        }
        assert!("fd:987654".parse::<Fd>().unwrap().take().is_err());
    }

    #[test]
    fn a_newer_spec_is_refused_by_its_version() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, br#"{"version":2,"news":true}"#).unwrap();
        let error = read(&Source::Path(file.path().into())).unwrap_err().to_string();
        assert!(error.contains("version 2 is not supported"), "{error}");
    }

    #[test]
    fn a_refusal_is_one_line_of_plain_text() {
        for text in ["{\"a\\nb\":1}", "{\"\\u001b[2J\":1}", "{\"version\":\"\\u007f\"}", "\u{1b}"] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}
