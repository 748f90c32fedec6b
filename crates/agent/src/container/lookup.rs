//! Finds a program as execvp(3) would, with the words that engines know from runc.
//!
//! ```text
//!   "foo"   ─► each directory of PATH ─► exec: "foo": executable file not found in $PATH      CommandNotFound
//!   "/x"    ─► itself                 ─► exec: "/x": stat /x: no such file or directory       CommandNotFound
//!                                        exec: "/x": permission denied | is a directory       NotExecutable
//! ```

use crate::error::cause;
use guest_protocol::message::{AgentError, ErrorKind};
use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

/// What the lookup needs from a file system. One that is not the process's own serves the tests.
pub trait Files {
    /// Whether the path is a directory.
    ///
    /// # Errors
    /// Those of stat(2).
    fn is_directory(&self, path: &str) -> Result<bool, Errno>;
    /// Whether the process may execute it.
    ///
    /// # Errors
    /// Those of faccessat(2).
    fn executable(&self, path: &str) -> Result<(), Errno>;
}

/// The file system that the process sees, with its present user and capabilities.
pub struct OwnFiles;

impl Files for OwnFiles {
    fn is_directory(&self, path: &str) -> Result<bool, Errno> {
        let stat = rustix::fs::statat(CWD, path, AtFlags::empty())?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    fn executable(&self, path: &str) -> Result<(), Errno> {
        rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
    }
}

enum Refusal {
    Stat(Errno),
    Exec(Errno),
}

/// Finds `program`, searching the PATH of `env` if it has no slash.
///
/// # Errors
/// See the module.
pub fn find(program: &str, env: &[String], files: &impl Files) -> Result<String, AgentError> {
    if program.contains('/') {
        return match check(program, files) {
            Ok(()) => Ok(program.to_owned()),
            Err(Refusal::Stat(e)) => {
                let kind =
                    if e == Errno::ACCESS { ErrorKind::NotExecutable } else { ErrorKind::CommandNotFound };
                Err(refuse(kind, program, &format!("stat {program}: {}", cause(e))))
            }
            Err(Refusal::Exec(e)) => Err(refuse(ErrorKind::NotExecutable, program, &cause(e))),
        };
    }
    // The first of several wins, as in libc.
    let path = env.iter().find_map(|v| v.strip_prefix("PATH=")).unwrap_or("");
    for directory in path.split(':').filter(|_| !program.is_empty() && !path.is_empty()) {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{}/{program}", directory.trim_end_matches('/'));
        if check(&candidate, files).is_ok() {
            if !candidate.starts_with('/') {
                let why = "cannot run executable found relative to current directory";
                return Err(refuse(ErrorKind::NotExecutable, program, why));
            }
            return Ok(candidate);
        }
    }
    Err(refuse(ErrorKind::CommandNotFound, program, "executable file not found in $PATH"))
}

fn refuse(kind: ErrorKind, program: &str, why: &str) -> AgentError {
    AgentError::new(kind, format!("exec: {program:?}: {why}"))
}

fn check(path: &str, files: &impl Files) -> Result<(), Refusal> {
    if files.is_directory(path).map_err(Refusal::Stat)? {
        return Err(Refusal::Exec(Errno::ISDIR));
    }
    files.executable(path).map_err(Refusal::Exec)
}

/// The error of a failed execve(2), in runc's words.
pub fn execute_error(program: &str, errno: Errno) -> AgentError {
    let kind = match errno {
        Errno::NOENT | Errno::NOTDIR => ErrorKind::CommandNotFound,
        _ => ErrorKind::NotExecutable,
    };
    AgentError::new(kind, format!("exec {program}: {}", cause(errno)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Path and what is there: `d` directory, `x` program, `-` other file, `!` nothing that we may look at.
    struct Fake(&'static [(&'static str, char)]);

    impl Files for Fake {
        fn is_directory(&self, path: &str) -> Result<bool, Errno> {
            match self.0.iter().find(|(p, _)| *p == path) {
                Some((_, '!')) => Err(Errno::ACCESS),
                Some((_, kind)) => Ok(*kind == 'd'),
                None => Err(Errno::NOENT),
            }
        }

        fn executable(&self, path: &str) -> Result<(), Errno> {
            let program = self.0.iter().any(|(p, kind)| *p == path && *kind == 'x');
            if program { Ok(()) } else { Err(Errno::ACCESS) }
        }
    }

    const FILES: Fake = Fake(&[
        ("/bin/sh", 'x'),
        ("/usr/bin/sh", 'x'),
        ("/usr/bin/data", '-'),
        ("/bin/dir", 'd'),
        ("./here", 'x'),
        ("/secret/p", '!'),
    ]);

    fn find_in(program: &str, path: &str) -> Result<String, AgentError> {
        find(program, &["A=b".into(), format!("PATH={path}")], &FILES)
    }

    #[track_caller]
    fn refused(program: &str, path: &str, kind: ErrorKind, message: &str) {
        assert_eq!(find_in(program, path), Err(AgentError::new(kind, message)));
    }

    #[test]
    fn the_first_directory_with_a_program_wins() {
        assert_eq!(find_in("sh", "/none:/usr/bin/:/bin").as_deref(), Ok("/usr/bin/sh"));
        assert_eq!(find_in("/bin/sh", "").as_deref(), Ok("/bin/sh"));
    }

    #[test]
    fn refusals_have_runcs_words() {
        let not_found = "executable file not found in $PATH";
        refused("foo", "/bin", ErrorKind::CommandNotFound, &format!("exec: \"foo\": {not_found}"));
        refused("data", "/usr/bin", ErrorKind::CommandNotFound, &format!("exec: \"data\": {not_found}"));
        refused("sh", "", ErrorKind::CommandNotFound, &format!("exec: \"sh\": {not_found}"));
        refused("", "/bin", ErrorKind::CommandNotFound, &format!("exec: \"\": {not_found}"));
        let gone = "exec: \"/x\": stat /x: no such file or directory";
        refused("/x", "/bin", ErrorKind::CommandNotFound, gone);
        refused("/usr/bin/data", "", ErrorKind::NotExecutable, "exec: \"/usr/bin/data\": permission denied");
        refused("/bin/dir", "", ErrorKind::NotExecutable, "exec: \"/bin/dir\": is a directory");
        let secret = "exec: \"/secret/p\": stat /secret/p: permission denied";
        refused("/secret/p", "", ErrorKind::NotExecutable, secret);
        let relative = "exec: \"here\": cannot run executable found relative to current directory";
        refused("here", ":/bin", ErrorKind::NotExecutable, relative);
        assert!(find("sh", &[], &FILES).is_err());
    }

    #[test]
    fn execve_errors_tell_missing_from_unusable() {
        let error = execute_error("/bin/x", Errno::NOEXEC);
        assert_eq!(
            (error.kind, error.message.as_str()),
            (ErrorKind::NotExecutable, "exec /bin/x: exec format error")
        );
        assert_eq!(execute_error("/bin/x", Errno::NOENT).kind, ErrorKind::CommandNotFound);
    }
}
