//! `Setup`: the agent's own steps, then the container's first process.

use super::cgroup::Cgroup;
use super::child::{self, Trees, bind_of};
use super::mount::{attr, clone_tree};
use super::namespaces::{clone_flags, in_time_namespace, user_namespace, write_maps};
use super::status::{self, GO};
use super::task::{Newborn, Task};
use super::{Container, stdio};
use crate::error::{Doing, Result, failed, invalid};
use crate::log;
use crate::machine::{clock, shares};
use crate::streams::TaskKey;
use crate::sys::{self, Cloned, MountAttr, Namespace};
use guest_protocol::message::{INIT_PROCESS, Namespaces, Process, Setup, Step};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::process::{WaitOptions, waitpid};

/// Longest container id, in bytes.
const MAX_ID: usize = 1024;

/// Does the agent's steps and starts the first process, which does the others and reports.
///
/// # Errors
/// When a step of the agent fails. Nothing of the container is left then, except shares and disks.
pub fn begin(setup: &Setup, key: TaskKey, request: u32) -> Result<(Container, Task)> {
    let (namespaces, process) = check(setup)?;
    for problem in [clock::set(setup.wall_clock_ns), clock::add_entropy(&setup.entropy)] {
        // Both make the guest better and neither makes it wrong.
        problem.unwrap_or_else(|e| log::warn(&e.message));
    }
    let mut cgroup = Cgroup::new(&format!("container-{key}"))?;
    for step in &setup.steps {
        machine_step(step, &mut cgroup)?;
    }
    let trees = detached_mounts(&setup.steps)?;
    let born = first_process(setup, namespaces, process, &cgroup, &trees)?;
    let (cgroup, namespaces, kept) = (Some(cgroup), namespaces.clone(), kept_namespaces(&born));
    let container = Container { cgroup, namespaces, kept, oom_kills: 0 };
    Ok((container, Task::new(key, &setup.container, INIT_PROCESS, request, process, born)))
}

/// The namespaces whose end is work: all mounts and message queues. Not with a disk, which is only clean once its last
/// mount is gone.
fn kept_namespaces(born: &Newborn) -> Vec<OwnedFd> {
    if shares::has_disks() {
        return Vec::new();
    }
    // An older kernel gives none.
    [Namespace::Mount, Namespace::Ipc]
        .iter()
        .map_while(|n| sys::namespace(born.pidfd.as_fd(), *n).ok())
        .collect()
}

fn check(setup: &Setup) -> Result<(&Namespaces, &Process)> {
    if setup.container.is_empty() || setup.container.len() > MAX_ID {
        return Err(invalid("a container id has 1 to 1024 bytes"));
    }
    let count = |want: fn(&Step) -> bool| setup.steps.iter().filter(|s| want(s)).count();
    if count(|s| matches!(s, Step::Rootfs(_))) != 1 {
        return Err(invalid("a set-up needs exactly one root file system"));
    }
    let mut namespaces =
        setup.steps.iter().filter_map(|s| if let Step::Namespaces(n) = s { Some(n) } else { None });
    let mut processes =
        setup.steps.iter().filter_map(|s| if let Step::Process(p) = s { Some(&**p) } else { None });
    match (namespaces.next(), namespaces.next(), processes.next(), processes.next()) {
        (Some(namespaces), None, Some(process), None) => Ok((namespaces, process)),
        _ => Err(invalid("a set-up needs exactly one set of namespaces and one process")),
    }
}

fn machine_step(step: &Step, cgroup: &mut Cgroup) -> Result<()> {
    match step {
        Step::Share(share) => shares::mount_share(share),
        Step::Disk(disk) => shares::mount_disk(disk),
        Step::MachineSysctl { path, value } => {
            if path.split('/').any(|name| name == "..") {
                return Err(invalid(format!("{path:?} is no sysctl")));
            }
            std::fs::write(format!("/proc/sys/{path}"), value).doing(|| format!("write sysctl {path:?}"))
        }
        Step::Cgroup(limits) => cgroup.apply(limits),
        _ => Ok(()),
    }
}

/// Clones what bind mounts and the root need, while the machine's own rights and paths are at hand.
fn detached_mounts(steps: &[Step]) -> Result<Trees> {
    let mut trees = Trees::new();
    for (index, step) in steps.iter().enumerate() {
        if let Step::Rootfs(rootfs) = step {
            let source = shares::open_source(&rootfs.source)?;
            trees.insert(
                index,
                clone_tree(source.as_fd(), true).doing(|| "clone the root file system".into())?,
            );
        }
        let Some(mount) = bind_of(step).filter(|m| m.flags & libc::MS_REMOUNT == 0) else { continue };
        let what = || format!("prepare the mount at {:?}", mount.destination);
        let source = shares::open_source(&mount.source).doing(what)?;
        let tree = clone_tree(source.as_fd(), mount.flags & libc::MS_REC != 0).doing(what)?;
        if let Some(maps) = &mount.id_map {
            let user = user_namespace(maps).doing(what)?;
            let attributes = MountAttr {
                set: attr::IDMAP,
                user_namespace: user.as_raw_fd() as u64,
                ..MountAttr::default()
            };
            sys::mount_setattr(tree.as_fd(), mount.flags & libc::MS_REC != 0, &attributes).doing(what)?;
        }
        trees.insert(index, tree);
    }
    Ok(trees)
}

fn first_process(
    setup: &Setup,
    namespaces: &Namespaces,
    process: &Process,
    cgroup: &Cgroup,
    trees: &Trees,
) -> Result<Newborn> {
    let user = namespaces.user.as_ref();
    let (files, ends) = match process.terminal {
        Some(_) => (None, Vec::new()),
        None => stdio::pipes(process, user).map(|(files, ends)| (Some(files), ends))?,
    };
    let (status, theirs) = status::pair().doing(|| "make the status socket".into())?;
    let cloned = in_time_namespace(&namespaces.time_offsets, || {
        sys::clone_process(clone_flags(namespaces), Some(cgroup.as_fd()))
            .doing(|| "clone the container's first process".into())
            .inspect(|cloned| {
                if let Cloned::Child = cloned {
                    child::first(&setup.steps, user.is_some(), trees, files.as_ref(), &theirs)
                }
            })
    })?;
    let Cloned::Parent { pid, pidfd } = cloned else { return Err(failed("the child came back")) };
    let maps = user.map_or(Ok(()), |maps| write_maps(pid, maps));
    if let Err(e) = maps.and_then(|()| status.tell(GO).doing(|| "let the first process go".into())) {
        // Waited for, so that its cgroup can be removed.
        let _ = sys::send_signal(pidfd.as_fd(), libc::SIGKILL);
        let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
        return Err(e);
    }
    Ok(Newborn { pid, pidfd, status, ends })
}
