//! Each test works in a child process, which the jail or a filter may end.

use super::{Doors, Jail, JailError, Needs, Role, Rules, Violation, seccomp};
use crate::machine::devices::{OpenDevice, Workshop, make};
use crate::machine::hotplug::slots::Slots;
use crate::memory::WindowAllocator;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use std::os::fd::{AsFd, OwnedFd};

const ROLES: [Role; 7] = [
    Role::EventLoop,
    Role::VhostUser,
    Role::Vcpu,
    Role::Disk,
    Role::Flush,
    Role::Share { readonly: true },
    Role::Share { readonly: false },
];

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Exited(i32),
    Signal(i32),
}

/// Runs `work` in a child; what it returns is its exit code.
#[expect(unsafe_code, reason = "forks, which std does not")]
fn in_child(work: impl FnOnce() -> i32) -> End {
    // SAFETY: the child is a copy with one thread; it ends by _exit without unwinding (panic = abort), and glibc's allocator works in it.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: setrlimit reads the structure; _exit does not return.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            libc::_exit(work());
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    if libc::WIFEXITED(status) {
        End::Exited(libc::WEXITSTATUS(status))
    } else {
        End::Signal(libc::WTERMSIG(status))
    }
}

/// The same of a machine without a control socket.
fn after_filter(role: Role, sockets: bool, violation: Violation, call: (i64, [u64; 4])) -> End {
    after_filter_of(role, Doors { sockets, control: false, hotplug: false, vfio: false }, violation, call)
}

/// The raw system call with these arguments, after the filter of `role`; exits with 0 if it comes back.
fn after_filter_of(role: Role, doors: Doors, violation: Violation, call: (i64, [u64; 4])) -> End {
    in_child(|| {
        if seccomp::install(role, doors, violation).is_err() {
            return 9;
        }
        raw(call);
        0
    })
}

#[expect(unsafe_code, reason = "makes system calls that are to be refused")]
fn raw((number, [a, b, c, d]): (i64, [u64; 4])) {
    // SAFETY: the calls that are made here have arguments with which the kernel refuses them, when the filter does not, or ask for memory
    // that nobody uses.
    unsafe { libc::syscall(number, a, b, c, d, 0, 0) };
}

const KILLED: End = End::Signal(libc::SIGSYS);
const BAD_FD: u64 = u64::MAX;

/// Refused to all.
const NEVER: [(i64, [u64; 4]); 16] = [
    (libc::SYS_execve, [0; 4]),
    (libc::SYS_execveat, [BAD_FD, 0, 0, 0]),
    (libc::SYS_open, [0; 4]),
    (libc::SYS_open_by_handle_at, [BAD_FD, 0, 0, 0]),
    (libc::SYS_ptrace, [u64::MAX, 0, 0, 0]),
    (libc::SYS_process_vm_writev, [0; 4]),
    (libc::SYS_kill, [0, 0, 0, 0]),
    (libc::SYS_clone3, [0; 4]),
    (libc::SYS_unshare, [0; 4]),
    (libc::SYS_mount, [0; 4]),
    (libc::SYS_bpf, [u64::MAX, 0, 0, 0]),
    (libc::SYS_io_uring_setup, [0; 4]),
    (libc::SYS_prctl, [u64::MAX, 0, 0, 0]),
    (libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0]),
    // TIOCSTI: types on the user's terminal.
    (libc::SYS_ioctl, [BAD_FD, libc::TIOCSTI, 0, 0]),
    // KVM_CREATE_VM.
    (libc::SYS_ioctl, [BAD_FD, 0xAE01, 0, 0]),
];

#[test]
fn forbidden_system_calls_end_the_process() {
    for role in ROLES {
        for (sockets, call) in NEVER.iter().flat_map(|call| [(false, *call), (true, *call)]) {
            let doors = Doors { sockets, control: sockets, hotplug: sockets, vfio: sockets };
            let end = after_filter_of(role, doors, Violation::Kill, call);
            assert_eq!(end, KILLED, "{role:?} with {doors:?}: {call:?}");
        }
    }
}

#[test]
fn memory_is_never_made_executable() {
    let (length, private) = (4096, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64);
    let map = |protection: i32| (libc::SYS_mmap, [0, length, protection as u64, private]);
    for role in ROLES {
        let (plain, executable) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
        assert_eq!(after_filter(role, false, Violation::Kill, map(plain)), End::Exited(0), "{role:?}");
        assert_eq!(after_filter(role, false, Violation::Kill, map(executable)), KILLED, "{role:?}");
        let protect = (libc::SYS_mprotect, [0, length, executable as u64, 0]);
        assert_eq!(after_filter(role, false, Violation::Kill, protect), KILLED, "{role:?}");
    }
}

#[test]
fn only_shares_open_files_and_only_writable_ones_for_writing() {
    let open = |flags: i32| (libc::SYS_openat, [BAD_FD, 0, flags as u64, 0]);
    for role in ROLES {
        let (reads, writes) = match role {
            Role::Share { readonly } => (End::Exited(0), if readonly { KILLED } else { End::Exited(0) }),
            _ => (KILLED, KILLED),
        };
        assert_eq!(after_filter(role, true, Violation::Kill, open(libc::O_PATH)), reads, "{role:?}");
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC] {
            assert_eq!(after_filter(role, true, Violation::Kill, open(flags)), writes, "{role:?} {flags:o}");
        }
        let unlink = (libc::SYS_unlinkat, [BAD_FD, 0, 0, 0]);
        let always = role == Role::VhostUser || writes == End::Exited(0);
        let without = if always { End::Exited(0) } else { KILLED };
        assert_eq!(after_filter(role, false, Violation::Kill, unlink), without, "{role:?}");
        // The event loop takes the names of sockets away at the end.
        let with_names =
            if matches!(role, Role::EventLoop | Role::VhostUser) { End::Exited(0) } else { writes };
        assert_eq!(after_filter(role, true, Violation::Kill, unlink), with_names, "{role:?}");
    }
}

#[test]
fn sockets_are_for_machines_that_were_given_a_path() {
    let unix = (libc::SYS_socket, [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, 0]);
    let connect = (libc::SYS_connect, [BAD_FD, 0, 0, 0]);
    for role in ROLES {
        for call in [unix, connect] {
            let device = matches!(role, Role::EventLoop | Role::Vcpu);
            let with = if device { End::Exited(0) } else { KILLED };
            assert_eq!(after_filter(role, true, Violation::Kill, call), with, "{role:?} {call:?}");
            assert_eq!(after_filter(role, false, Violation::Kill, call), KILLED, "{role:?} {call:?}");
        }
    }
}

#[test]
fn signals_are_for_the_own_vcpus() {
    let doors = Doors { sockets: true, control: true, hotplug: true, vfio: true };
    // The process is the child's own only within it: here a thread id that no thread of it has, so nobody gets the signal.
    let to = |own: bool, signal: u64| {
        in_child(|| {
            let process = if own { std::process::id() } else { 1 };
            let call = (libc::SYS_tgkill, [process.into(), 1, signal, 0]);
            seccomp::install(Role::EventLoop, doors, Violation::Kill).unwrap();
            raw(call);
            0
        })
    };
    assert_eq!(to(true, 34), End::Exited(0));
    assert_eq!(to(false, 34), KILLED);
    assert_eq!(to(true, libc::SIGKILL as u64), KILLED);
}

#[test]
fn only_vcpus_run_the_guest() {
    let run = (libc::SYS_ioctl, [BAD_FD, 0xAE80, 0, 0]);
    for role in ROLES {
        let expected = if role == Role::Vcpu { End::Exited(0) } else { KILLED };
        assert_eq!(after_filter(role, false, Violation::Kill, run), expected, "{role:?}");
    }
}

#[test]
fn only_the_event_loop_attaches_queues_of_a_tap() {
    let call = (libc::SYS_ioctl, [BAD_FD, libc::TUNSETQUEUE, 0, 0]);
    for role in ROLES {
        let expected = if role == Role::EventLoop { End::Exited(0) } else { KILLED };
        assert_eq!(after_filter(role, false, Violation::Kill, call), expected, "{role:?}");
    }
}

#[test]
fn logging_lets_calls_through() {
    for role in ROLES {
        let call = (libc::SYS_ptrace, [u64::MAX, 0, 0, 0]);
        assert_eq!(after_filter(role, false, Violation::Log, call), End::Exited(0), "{role:?}");
    }
}

/// A share as the machine's files have it.
fn share(directory: &std::path::Path, readonly: bool) -> OpenDevice {
    crate::machine::files::share(directory, "t", readonly, 0).unwrap()
}

/// Enters the jail with a share; exit code 77 where the host allows no namespaces at all.
fn jailed(mut device: OpenDevice, look: impl FnOnce(&OwnedFd, &OwnedFd, Jail) -> i32) -> End {
    let end = in_child(|| match Jail::enter(std::slice::from_mut(&mut device), &mut [], &Needs::default()) {
        Ok(jail) => match &device {
            OpenDevice::Share { root, proc: Some(proc), .. } => look(root, proc, jail),
            _ => 1,
        },
        Err(JailError::Namespaces(_)) => 77,
        Err(error) => {
            eprintln!("{error}");
            2
        }
    });
    if end == End::Exited(77) {
        eprintln!("not looked at: this host allows no namespaces");
        return End::Exited(0);
    }
    end
}

fn opens(directory: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, path, flags | OFlags::CLOEXEC, Mode::RWXU)
}

#[test]
fn nothing_of_the_host_is_left_but_the_share() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(inside.join("file"), "x").unwrap();
    std::fs::write(directory.path().join("beside"), "x").unwrap();
    let device = share(&inside, false);
    // Without the jail the way is open.
    assert!(
        matches!(&device, OpenDevice::Share { root, .. } if opens(root, "../beside", OFlags::PATH).is_ok())
    );
    let end = jailed(device, |root, proc, _| {
        let entries = |path| {
            let directory = rustix::fs::Dir::new(opens(CWD, path, OFlags::DIRECTORY).unwrap()).unwrap();
            directory.map(|entry| entry.unwrap().file_name().to_owned()).collect::<Vec<_>>()
        };
        let mut all = entries("/");
        all.sort();
        let only_the_share = all == [c".".to_owned(), c"..".to_owned(), c"0".to_owned()];
        let outside = ["../beside", "../../etc/passwd", "../../../../../../etc/passwd", "/etc/passwd"];
        let closed = outside.iter().all(|path| opens(root, path, OFlags::PATH).is_err())
            && ["../status", "../../self", "/proc"]
                .iter()
                .all(|path| opens(proc, path, OFlags::PATH).is_err());
        let no_new_names = rustix::fs::mkdirat(CWD, "/new", Mode::RWXU) == Err(Errno::ROFS);
        // What a share does for a living: from a descriptor of the object itself to one that reads and writes.
        let pinned = opens(root, "file", OFlags::PATH).unwrap();
        let number = rustix::path::DecInt::from_fd(&pinned);
        let works = rustix::fs::openat(proc, number, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).is_ok()
            && opens(root, "new", OFlags::CREATE | OFlags::WRONLY).is_ok();
        i32::from(!(only_the_share && closed && no_new_names && works))
    });
    assert_eq!(end, End::Exited(0));
}

#[test]
fn the_control_sockets_directory_leads_nowhere_else() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let (_socket, mut bound) = crate::control::socket::bind(&inside.join("c")).unwrap();
    std::fs::write(directory.path().join("beside"), "x").unwrap();
    let end = in_child(|| {
        match Jail::enter(&mut [], &mut [bound.directory()], &Needs { control: true, ..Needs::default() }) {
            Ok(_) => {
                let up = rustix::fs::unlinkat(bound.directory(), "../beside", rustix::fs::AtFlags::empty());
                drop(bound);
                i32::from(up != Err(Errno::NOENT))
            }
            Err(JailError::Namespaces(_)) => 77,
            Err(_) => 2,
        }
    });
    if end == End::Exited(77) {
        eprintln!("not looked at: this host allows no namespaces");
        return;
    }
    assert_eq!(end, End::Exited(0));
    assert!(directory.path().join("beside").exists());
    assert!(!inside.join("c").exists(), "its own name goes");
}

#[test]
fn a_read_only_share_is_read_only_for_the_whole_process() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "x").unwrap();
    let end = jailed(share(directory.path(), true), |root, proc, _| {
        let pinned = opens(root, "file", OFlags::PATH).unwrap();
        let number = rustix::path::DecInt::from_fd(&pinned);
        let again = rustix::fs::openat(proc, number, OFlags::RDWR, Mode::empty()).map(drop);
        let refused = [
            opens(root, "file", OFlags::WRONLY).map(drop),
            opens(root, "new", OFlags::CREATE | OFlags::WRONLY).map(drop),
            rustix::fs::unlinkat(root, "file", rustix::fs::AtFlags::empty()),
            again,
        ];
        i32::from(refused != [Err(Errno::ROFS); 4])
    });
    assert_eq!(end, End::Exited(0));
}

#[test]
fn capabilities_are_gone_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let privileged = rustix::process::geteuid().is_root();
    let end = jailed(share(directory.path(), false), |_, _, jail| {
        let now = || rustix::thread::capabilities(None).unwrap();
        let before = now();
        let share = super::capabilities::of_role(Role::Share { readonly: false });
        let within = share.contains(before.permitted) && before.inheritable.is_empty();
        let bounding = rustix::thread::capability_is_in_bounding_set(CapabilitySet::SYS_ADMIN) == Ok(false)
            || !privileged;
        let quiet = rustix::thread::no_new_privs() == Ok(true);
        jail.main_thread(Role::EventLoop);
        // From here on most calls are forbidden; capget is one of them.
        i32::from(!(within && bounding && quiet && jail.all_in()))
    });
    assert_eq!(end, End::Exited(0));
}

#[test]
fn a_thread_gives_up_what_its_role_does_not_need() {
    let end = in_child(|| {
        let rules = Rules {
            violation: Violation::Log,
            doors: Doors { sockets: false, control: false, hotplug: false, vfio: false },
            capabilities: super::capabilities::keep(CapabilitySet::CHOWN | CapabilitySet::DAC_READ_SEARCH)
                .unwrap(),
        };
        let left = |role| {
            rules.restrict(role, "t").unwrap();
            rustix::thread::capabilities(None).unwrap().permitted
        };
        let reads = left(Role::Share { readonly: true });
        let none = left(Role::Vcpu);
        i32::from(reads != CapabilitySet::DAC_READ_SEARCH & rules.capabilities || !none.is_empty())
    });
    assert_eq!(end, End::Exited(0));
}

#[test]
fn a_directory_that_was_replaced_meanwhile_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (shared, other) = (directory.path().join("shared"), directory.path().join("other"));
    std::fs::create_dir(&shared).unwrap();
    let device = share(&shared, false);
    std::fs::rename(&shared, &other).unwrap();
    std::fs::create_dir(&shared).unwrap();
    // Its path is told by the kernel, so a rename does no harm ...
    assert_eq!(jailed(device, |_, _, _| 0), End::Exited(0));
    let device = share(&shared, false);
    std::fs::remove_dir(&shared).unwrap();
    // ... and one that has gone is refused.
    let mut device = device;
    let end = in_child(|| match Jail::enter(std::slice::from_mut(&mut device), &mut [], &Needs::default()) {
        Err(JailError::Moved(_) | JailError::Namespaces(_)) => 0,
        _ => 1,
    });
    assert_eq!(end, End::Exited(0));
}

#[test]
fn devices_come_to_a_machine_in_its_jail() {
    let outer = tempfile::tempdir().unwrap();
    let inside = outer.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let image = outer.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(2 << 20).unwrap();
    let needs =
        Needs { control: true, slots: "disk,pmem,share,share-ro=0".parse().unwrap(), ..Needs::default() };
    let end = in_child(|| {
        let root =
            rustix::fs::open(&inside, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .unwrap();
        let Ok(own) = super::own_mount(&root, false) else { return 77 };
        let share =
            |root| OpenDevice::Share { root, proc: None, tag: "t".into(), readonly: false, dax: 2 << 20 };
        let plain = share(root);
        let mut devices = vec![
            crate::machine::files::disk(&image, "d", false, Default::default()).unwrap(),
            crate::machine::files::pmem(&image, None, crate::memory::window::Sharing::Shared).unwrap(),
            share(own),
        ];
        let jail = match Jail::enter(&mut [], &mut [], &needs) {
            Ok(jail) => jail,
            Err(JailError::Namespaces(_)) => return 77,
            Err(_) => return 2,
        };
        let slots = Slots::new(&needs.slots, &jail).unwrap();
        jail.main_thread(Role::EventLoop);
        if !jail.all_in() {
            return 3;
        }
        come_and_go(&slots, &mut devices, plain)
    });
    if end == End::Exited(77) {
        eprintln!("not looked at: this host allows no namespaces");
        return;
    }
    assert_eq!(end, End::Exited(0));
}

/// Each of `devices` comes, so that its slot is taken, and goes, as the jailed main thread does it; a directory that is no mount is refused.
fn come_and_go(slots: &Slots, devices: &mut Vec<OpenDevice>, mut plain: OpenDevice) -> i32 {
    let mut windows = WindowAllocator::new(64 << 20);
    while let Some(mut device) = devices.pop() {
        let Ok((slot, threads)) = slots.take(&mut device) else { return 4 };
        let full = slots.free().unwrap().values().sum::<usize>();
        let mut workshop = Workshop { windows: &mut windows, ram: Vec::new(), threads };
        let Ok(made) = make(device, &mut workshop) else { return 5 };
        drop((made, slot));
        if full != 2 || slots.free().unwrap().values().sum::<usize>() != 3 {
            return 6;
        }
    }
    i32::from(!slots.take(&mut plain).is_err_and(|reason| reason.contains("no mount of its own")))
}
