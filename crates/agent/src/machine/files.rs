//! Small files of the kernel (procfs, sysfs, cgroup), with as few system calls as they need.

use rustix::fs::{Mode, OFlags};
use std::str::from_utf8;

/// Most bytes of the kernel's command line that are looked at: twice COMMAND_LINE_SIZE of x86 and arm64.
const COMMAND_LINE_SIZE: usize = 4096;

/// Reads a file of at most the buffer's size in one read(2), which is how the kernel gives its small files.
///
/// # Errors
/// Those of open(2) and read(2); EILSEQ when it is no text.
pub fn read<'a>(path: &str, buffer: &'a mut [u8]) -> rustix::io::Result<&'a str> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let count = rustix::io::read(&file, &mut *buffer)?;
    from_utf8(&buffer[..count]).map_err(|_| rustix::io::Errno::ILSEQ)
}

/// Writes `text` in one write(2) to a file that exists.
///
/// # Errors
/// Those of open(2) and write(2).
pub fn write(path: &str, text: &str) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

/// The kernel's command line.
pub struct CommandLine(String);

impl CommandLine {
    /// That of the running kernel; empty without /proc.
    pub fn of_kernel() -> CommandLine {
        let mut buffer = [0; COMMAND_LINE_SIZE];
        CommandLine(read("/proc/cmdline", &mut buffer).unwrap_or_default().to_owned())
    }

    /// Whether it holds this word.
    pub fn has(&self, word: &str) -> bool {
        self.0.split_ascii_whitespace().any(|w| w == word)
    }

    /// The value of a parameter `name=value`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_whole_words() {
        let line = CommandLine("quiet clear.debugging clear.vsock clear.vsock=1024 clear.debug\n".into());
        assert_eq!(line.value("clear.vsock"), Some("1024"));
        assert_eq!((line.value("clear.debug"), line.value("clear")), (None, None));
        assert!(line.has("clear.debug"));
        assert!(!line.has("clear.debuggin"));
        assert!(CommandLine::of_kernel().0.len() < COMMAND_LINE_SIZE);
    }

    #[test]
    fn a_file_is_read_as_far_as_the_buffer_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let path = path.to_str().unwrap();
        assert_eq!(write(path, "x"), Err(rustix::io::Errno::NOENT));
        std::fs::write(path, "four\nfive").unwrap();
        assert_eq!(read(path, &mut [0; 4]), Ok("four"));
        assert_eq!(read(path, &mut [0; 64]), Ok("four\nfive"));
        write(path, "FOUR").unwrap();
        assert_eq!(read(path, &mut [0; 64]), Ok("FOUR\nfive"));
        std::fs::write(path, b"\xff").unwrap();
        assert_eq!(read(path, &mut [0; 64]), Err(rustix::io::Errno::ILSEQ));
    }
}
