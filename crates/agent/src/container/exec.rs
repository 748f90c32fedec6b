//! `Exec`: one more process in a container.

use super::cgroup::Cgroup;
use super::namespaces::in_pid_namespace;
use super::task::{Newborn, Task};
use super::{Container, child, status, stdio};
use crate::error::{Doing, Result, failed};
use crate::streams::TaskKey;
use crate::sys::{self, Cloned};
use guest_protocol::message::Process;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Who is to be executed where.
pub struct Exec<'a> {
    /// Container id.
    pub id: &'a str,
    /// The host's name for the process.
    pub process_id: u32,
    /// The process.
    pub process: &'a Process,
    /// Its container.
    pub container: &'a Container,
    /// The container's first process.
    pub first: &'a Task,
}

/// Clones a process into the container; it joins the namespaces itself and reports.
///
/// # Errors
/// When the container is ending.
pub fn begin(exec: &Exec, key: TaskKey, request: u32) -> Result<Task> {
    let namespaces = &exec.container.namespaces;
    let (files, ends) = match exec.process.terminal {
        Some(_) => (None, Vec::new()),
        None => {
            stdio::pipes(exec.process, namespaces.user.as_ref()).map(|(files, ends)| (Some(files), ends))?
        }
    };
    let (status, theirs) = status::pair().doing(|| "make the status socket".into())?;
    let cgroup = exec.container.cgroup.as_ref().ok_or_else(|| failed("the container has ended"))?;
    let first = &exec.first.pidfd;
    let cloned = in_pid_namespace(first, || {
        clone_into(cgroup, exec.first).inspect(|cloned| {
            if let Cloned::Child = cloned {
                child::joining(exec.process, first, namespaces, files.as_ref(), &theirs)
            }
        })
    })?;
    let Cloned::Parent { pid, pidfd } = cloned else { return Err(failed("the child came back")) };
    let born = Newborn { pid, pidfd, status, ends };
    Ok(Task::new(key, exec.id, exec.process_id, request, exec.process, born))
}

fn clone_into(cgroup: &Cgroup, first: &Task) -> Result<Cloned> {
    let what = || "clone a process into the container".to_owned();
    match sys::clone_process(0, Some(cgroup.as_fd())) {
        // The container has made groups of its own, and processes may only be in the innermost: go where its first one is.
        Err(Errno::BUSY | Errno::OPNOTSUPP) => {
            let inner = cgroup_of(first).doing(what)?;
            sys::clone_process(0, Some(inner.as_fd())).doing(what)
        }
        result => result.doing(what),
    }
}

fn cgroup_of(task: &Task) -> Result<OwnedFd> {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", task.pid.as_raw_nonzero()))
        .doing(|| "find the cgroup of the container's first process".into())?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let path = format!("{}{path}", crate::machine::boot::CGROUP);
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open {path}"))
}
