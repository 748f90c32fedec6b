//! Where the host is read: the real one, or a tree that a test made.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// More than any file in /proc or /sys that is read here; bounds what a strange host can make us hold.
const LARGEST_FILE: u64 = 1 << 20;

/// Search path when the environment has none.
const DEFAULT_SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// File below the root that keeps the KVM verdict until the next boot.
const PROBE_RECORDS: &str = "/run/clear-containers";

/// A view of a host: file system root, search path and architecture.
#[derive(Debug, Clone)]
pub struct Root {
    base: PathBuf,
    search_path: OsString,
    /// Directory of the running program, when this is its host.
    own_directory: Option<PathBuf>,
    arch: String,
    keep_probe: bool,
}

impl Root {
    /// The host this program runs on, with the PATH of its environment.
    #[must_use]
    pub fn host() -> Self {
        Self {
            base: PathBuf::from("/"),
            search_path: std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_SEARCH_PATH.into()),
            own_directory: std::env::current_exe()
                .ok()
                .and_then(|program| program.parent().map(Path::to_owned)),
            arch: std::env::consts::ARCH.to_owned(),
            keep_probe: true,
        }
    }

    /// A host whose files are below `base`, with the default search path and this program's architecture.
    #[must_use]
    pub fn at(base: &Path) -> Self {
        let search_path = DEFAULT_SEARCH_PATH.into();
        Self { base: base.to_owned(), search_path, own_directory: None, ..Self::host() }
    }

    /// The same host, on another CPU architecture (GNU name).
    #[must_use]
    pub fn with_arch(self, arch: &str) -> Self {
        Self { arch: arch.to_owned(), ..self }
    }

    /// The same host, but what has to be tried is tried each time, and not written down.
    #[must_use]
    pub fn without_probe_record(self) -> Self {
        Self { keep_probe: false, ..self }
    }

    /// GNU name of the CPU architecture.
    #[must_use]
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// Where is kept what was found by trying, if it is.
    pub(crate) fn probe_record(&self, name: &str) -> Option<PathBuf> {
        self.keep_probe.then(|| self.path(PROBE_RECORDS).join(name).with_extension("json"))
    }

    /// The place of an absolute path of that host.
    #[must_use]
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.base.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// Whether an absolute path of that host exists.
    pub(crate) fn exists(&self, absolute: &str) -> bool {
        self.path(absolute).exists()
    }

    /// Reads a small text file, at most 1 MiB of it; bytes that are no UTF-8 are replaced.
    ///
    /// # Errors
    /// Those of opening and reading the file.
    pub(crate) fn read(&self, absolute: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(self.path(absolute))?.take(LARGEST_FILE).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The first word of a file that holds a number.
    pub(crate) fn number(&self, absolute: &str) -> Option<u64> {
        self.read(absolute).ok()?.split_whitespace().next()?.parse().ok()
    }

    /// The rest of the first line that starts with `key`, trimmed: for files like /proc/self/status.
    pub(crate) fn field(&self, absolute: &str, key: &str) -> Option<String> {
        let text = self.read(absolute).ok()?;
        text.lines().find_map(|line| line.strip_prefix(key)).map(|rest| rest.trim().to_owned())
    }

    /// Finds a program that was installed together with the running one, in the same directory.
    pub(crate) fn companion(&self, name: &str) -> Option<PathBuf> {
        self.own_directory.as_ref().map(|directory| directory.join(name)).filter(|path| is_program(path))
    }

    /// Finds an executable file in the search path. Entries that are not absolute are left out: what is run
    /// must not depend on the directory a caller happens to be in.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.search_path)
            .filter(|directory| directory.is_absolute())
            .map(|directory| self.path(directory).join(name))
            .find(|path| is_program(path))
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_base() {
        let root = Root::at(Path::new("/fake"));
        assert_eq!(root.path("/proc/meminfo"), Path::new("/fake/proc/meminfo"));
        assert_eq!(root.path("relative"), Path::new("/fake/relative"));
    }

    #[test]
    fn a_program_must_be_executable_and_its_directory_absolute() {
        let host = crate::fake_host::FakeHost::new();
        assert!(host.root().program("qemu-system-x86_64").is_some());
        host.write("/usr/bin/not-executable", "");
        assert_eq!(host.root().program("not-executable"), None);
        let relative = Root { search_path: "usr/bin:.".into(), ..host.root() };
        assert_eq!(relative.program("qemu-system-x86_64"), None);
    }

    #[test]
    fn numbers_and_fields() {
        let host = crate::fake_host::FakeHost::new();
        host.write("/proc/a", "12 34\n");
        host.write("/proc/b", "MemTotal:   9 kB\nMemFree: 3 kB\n");
        assert_eq!(host.root().number("/proc/a"), Some(12));
        assert_eq!(host.root().number("/proc/missing"), None);
        assert_eq!(host.root().field("/proc/b", "MemFree:").as_deref(), Some("3 kB"));
    }
}
