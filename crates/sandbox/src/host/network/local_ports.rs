//! Which ports sockets of a network namespace get that ask for none (Linux `Documentation/networking/ip-sysctl.rst`, ip_local_port_range).

use super::NetworkError;
use std::fs;
use std::io;
use std::path::Path;

/// Those of the calling thread's namespace.
pub const FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// First and last.
pub type Ports = (u16, u16);

/// What `file` says.
///
/// # Errors
/// When it cannot be read, or says something else.
pub fn get(file: &Path) -> Result<Ports, NetworkError> {
    let ports = |text: String| {
        let mut words = text.split_whitespace().map(str::parse);
        Some((words.next()?.ok()?, words.next()?.ok()?))
    };
    let text = fs::read_to_string(file);
    text.and_then(|text| ports(text).ok_or_else(|| io::ErrorKind::InvalidData.into()))
        .map_err(NetworkError::kernel(format!("reading {}", file.display())))
}

/// Has `file` say `ports`.
///
/// # Errors
/// When the kernel refuses.
pub fn set(file: &Path, (first, last): Ports) -> Result<(), NetworkError> {
    fs::write(file, format!("{first} {last}"))
        .map_err(NetworkError::kernel(format!("writing {}", file.display())))
}

/// Has `file` say `before` again, if it says `ours`: else somebody else has changed it meanwhile.
///
/// # Errors
/// When the kernel refuses.
pub fn put_back(file: &Path, ours: Ports, before: Ports) -> Result<(), NetworkError> {
    if get(file)? == ours { set(file, before) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_before_comes_back_unless_somebody_has_changed_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = file.path();
        let ours = (64512, 65535);
        fs::write(file, "32768\t60999\n").unwrap();
        let before = get(file).unwrap();
        assert_eq!(before, (32768, 60999));
        set(file, ours).unwrap();
        put_back(file, ours, before).unwrap();
        assert_eq!(get(file).unwrap(), before);
        fs::write(file, "1024\t2048\n").unwrap();
        put_back(file, ours, before).unwrap();
        assert_eq!(get(file).unwrap(), (1024, 2048));
        fs::write(file, "1024\n").unwrap();
        assert!(get(file).unwrap_err().to_string().starts_with("reading "));
    }
}
