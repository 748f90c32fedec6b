//! What runs in a container's processes before their program.
//!
//! ```text
//!   first process:  GO ─► root user ─► rootfs ─► mounts, devices, links, createContainer hooks, console
//!                   ─► masks, read-only ─► pivot_root ─► names, sysctls ─► process::run
//!   exec'd process: join the namespaces ─► root user ─► terminal ─► process::run
//! ```

use super::root::Root;
use super::status::{ChildEnd, GO};
use super::stdio::ChildStdio;
use super::{device, hide, hook, mount, namespaces, process, terminal};
use crate::error::{Doing, Result, failed};
use crate::machine::{boot, power};
use crate::sys;
use guest_protocol::message::{Hook, Mount, Process, Step};
use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Detached mounts that the agent made, by the index of their step.
pub type Trees = BTreeMap<usize, OwnedFd>;

/// The first process of a container. Ends with the program or with a report to the agent.
pub fn first(
    steps: &[Step],
    user_namespace: bool,
    trees: &Trees,
    stdio: Option<&ChildStdio>,
    status: &ChildEnd,
) -> ! {
    enter(status, trees.values(), stdio);
    let result = set_up(steps, user_namespace, trees, stdio, status);
    report(result, status)
}

/// An exec'd process, born in the container's pid namespace.
pub fn joining(
    process: &Process,
    container: &OwnedFd,
    namespaces: &guest_protocol::message::Namespaces,
    stdio: Option<&ChildStdio>,
    status: &ChildEnd,
) -> ! {
    enter(status, [container], stdio);
    let result = join(process, container, namespaces, stdio, status);
    report(result, status)
}

/// From here on this process is no longer the agent: its end is its own, and only these files stay open.
fn enter<'a>(status: &ChildEnd, more: impl IntoIterator<Item = &'a OwnedFd>, stdio: Option<&ChildStdio>) {
    power::this_is_a_child();
    let mut keep: Vec<RawFd> = vec![0, 1, 2, status.as_fd().as_raw_fd()];
    keep.extend(more.into_iter().map(AsRawFd::as_raw_fd));
    keep.extend(stdio.iter().flat_map(|s| s.files()).map(|file| file.as_raw_fd()));
    sys::close_all_except(&mut keep);
    let (soft, hard) = boot::CHILD_FILES;
    // Lowers only, so it cannot fail.
    let _ = sys::set_limit(rustix::process::getpid(), libc::RLIMIT_NOFILE, soft, hard);
    // No process of the container may look into this one or use its files before the program runs.
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, [0; 4]);
}

fn report(result: Result<Infallible>, status: &ChildEnd) -> ! {
    let Err(error) = result;
    status.failed(&error);
    sys::exit_now(1)
}

fn set_up(
    steps: &[Step],
    user_namespace: bool,
    trees: &Trees,
    stdio: Option<&ChildStdio>,
    status: &ChildEnd,
) -> Result<Infallible> {
    if status.word().doing(|| "wait for the agent".into())? != Some(GO) {
        sys::exit_now(1);
    }
    if user_namespace {
        namespaces::become_root()?;
    }
    sys::unshare(libc::CLONE_NEWCGROUP).doing(|| "make the cgroup namespace".into())?;
    rustix::process::umask(Mode::empty());
    rustix::process::setsid().doing(|| "start a session".into())?;
    let process = steps.iter().find_map(|s| if let Step::Process(p) = s { Some(&**p) } else { None });
    let process = process.ok_or_else(|| failed("the set-up names no process"))?;

    let root = root_file_system(steps, trees)?;
    let mut late_readonly = Vec::new();
    let mut hooks = 0;
    for (index, step) in steps.iter().enumerate() {
        before(step, index, &root, trees, user_namespace, &mut late_readonly, &mut hooks)?;
    }
    let slave = process.terminal.map(|size| terminal::open(&root, size, status)).transpose()?;
    if let Some(slave) = &slave {
        terminal::bind_console(&root, slave.as_fd())?;
    }
    root.make_directory(&process.cwd).doing(|| format!("make the working directory {:?}", process.cwd))?;
    for mount in late_readonly {
        mount::make_readonly(mount.as_fd()).doing(|| "make a tmpfs read-only".into())?;
    }
    for step in steps {
        match step {
            Step::MaskedPath(path) => hide::mask(&root, path)?,
            Step::ReadonlyPath(path) => hide::readonly(&root, path)?,
            Step::ReadonlyRoot => hide::readonly_root(&root)?,
            _ => {}
        }
    }
    // Namespaced sysctls through the machine's /proc: that of the container may be anything.
    let sysctls = Root::at("/proc/sys")?;
    pivot(&root)?;
    share_root(steps)?;
    let start_hooks = after(steps, &sysctls)?;
    standard_files(slave, stdio, process)?;
    process::run(process, &start_hooks, status)
}

fn root_file_system(steps: &[Step], trees: &Trees) -> Result<Root> {
    let what = || "mount the root file system".to_owned();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).doing(what)?;
    let found = steps.iter().enumerate().find_map(|(index, step)| match step {
        Step::Rootfs(rootfs) => trees.get(&index).map(|tree| (rootfs.propagation, tree)),
        _ => None,
    });
    let (propagation, tree) = found.ok_or_else(|| failed("the set-up names no root file system"))?;
    let at = Root::at(boot::ROOT)?;
    mount::attach(tree.as_fd(), at.as_fd()).doing(what)?;
    if propagation & libc::MS_SHARED == 0 {
        mount::propagate(tree.as_fd(), &[propagation]).doing(what)?;
    }
    Root::at(boot::ROOT)
}

/// Shares the container's root if that is asked for: only now, because pivot_root(2) moves no shared mount.
fn share_root(steps: &[Step]) -> Result<()> {
    let shared = steps.iter().find_map(|step| match step {
        Step::Rootfs(rootfs) if rootfs.propagation & libc::MS_SHARED != 0 => Some(rootfs.propagation),
        _ => None,
    });
    let Some(propagation) = shared else { return Ok(()) };
    let root = Root::at("/")?;
    mount::propagate(root.as_fd(), &[propagation]).doing(|| "share the root file system".into())
}

fn before(
    step: &Step,
    index: usize,
    root: &Root,
    trees: &Trees,
    user_namespace: bool,
    late_readonly: &mut Vec<OwnedFd>,
    hooks: &mut usize,
) -> Result<()> {
    match step {
        Step::Mount(mount) => late_readonly.extend(mount::perform(root, mount, trees.get(&index))?),
        Step::Device(device) => device::make(root, device, user_namespace)?,
        Step::Symlink { target, path } => device::symlink(root, target, path)?,
        Step::CreateHook(hook) => {
            hook::run(hook, "createContainer", *hooks, Some(root))?;
            *hooks += 1;
        }
        _ => {}
    }
    Ok(())
}

fn pivot(root: &Root) -> Result<()> {
    let what = || "pivot_root".to_owned();
    rustix::process::fchdir(root.as_fd()).doing(what)?;
    // The old root lands on top of the new one, and is taken off again: no directory of the container is needed for it.
    rustix::process::pivot_root(".", ".").doing(what)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).doing(what)?;
    rustix::process::chdir("/").doing(what)
}

/// Steps in the container's root; returns the hooks for its start.
fn after<'a>(steps: &'a [Step], sysctls: &Root) -> Result<Vec<&'a Hook>> {
    let mut start_hooks = Vec::new();
    for step in steps {
        match step {
            Step::Hostname(name) => {
                rustix::system::sethostname(name.as_bytes()).doing(|| "set the host name".into())?;
            }
            Step::Domainname(name) => {
                rustix::system::setdomainname(name.as_bytes()).doing(|| "set the domain name".into())?;
            }
            Step::Sysctl { path, value } => write_sysctl(sysctls, path, value)?,
            Step::StartHook(hook) => start_hooks.push(hook),
            _ => {}
        }
    }
    Ok(start_hooks)
}

fn write_sysctl(sysctls: &Root, path: &str, value: &str) -> Result<()> {
    let what = || format!("write sysctl {path:?}");
    let resolve = rustix::fs::ResolveFlags::BENEATH;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(sysctls, path, flags, Mode::empty(), resolve).doing(what)?;
    rustix::io::write(&file, value.as_bytes()).doing(what).map(drop)
}

fn standard_files(slave: Option<OwnedFd>, stdio: Option<&ChildStdio>, process: &Process) -> Result<()> {
    match (slave, stdio) {
        (Some(slave), _) => terminal::control(slave, process.uid),
        (None, Some(stdio)) => stdio.put_in_place(),
        (None, None) => Ok(()),
    }
}

fn join(
    process: &Process,
    container: &OwnedFd,
    namespaces: &guest_protocol::message::Namespaces,
    stdio: Option<&ChildStdio>,
    status: &ChildEnd,
) -> Result<Infallible> {
    // By pidfd: should the container end now, this fails instead of finding another process of the same number.
    sys::set_namespaces(container.as_fd(), namespaces::join_flags(namespaces))
        .doing(|| "enter the container's namespaces".into())?;
    if namespaces.user.is_some() {
        namespaces::become_root()?;
    }
    rustix::process::umask(Mode::empty());
    rustix::process::setsid().doing(|| "start a session".into())?;
    let root = Root::at("/")?;
    let slave = process.terminal.map(|size| terminal::open(&root, size, status)).transpose()?;
    standard_files(slave, stdio, process)?;
    process::run(process, &[], status)
}

/// Whether a step is a mount with a path as source, which the agent prepares.
pub fn bind_of(step: &Step) -> Option<&Mount> {
    match step {
        Step::Mount(mount) if !matches!(mount.source, guest_protocol::message::Source::Virtual(_)) => {
            Some(mount)
        }
        _ => None,
    }
}
