//! A host made of files, good in every respect, for tests to spoil.

use crate::facts::HostFacts;
use crate::{Root, survey};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// File by file what the checks read on a good host.
const FILES: &[(&str, &str)] = &[
    ("/dev/kvm", ""),
    ("/dev/net/tun", ""),
    ("/dev/userfaultfd", ""),
    ("/dev/vhost-net", ""),
    ("/dev/vhost-vsock", ""),
    ("/etc/os-release", "ID=debian\nVERSION_CODENAME=trixie\n"),
    ("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse2 vmx lm\n"),
    ("/proc/filesystems", "nodev\tproc\nnodev\ttmpfs\nnodev\toverlay\n\text4\n\terofs\n"),
    (
        "/proc/self/net/route",
        "Iface\tDestination\tGateway\tFlags\neth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
    ),
    ("/proc/meminfo", "MemTotal: 16384000 kB\nMemFree: 1 kB\nMemAvailable: 12288000 kB\n"),
    (
        "/proc/self/limits",
        "Limit Soft Limit Hard Limit Units\nMax open files            524288               524288               files     \nMax locked memory         unlimited            unlimited            bytes     \n",
    ),
    (
        "/proc/self/mountinfo",
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /run rw,nosuid - tmpfs tmpfs rw,size=1g\n3 1 0:6 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    ),
    ("/proc/self/status", "Name:\tx\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-3\n"),
    ("/proc/sys/kernel/osrelease", "6.12.1-amd64\n"),
    ("/proc/sys/kernel/random/boot_id", "a-boot\n"),
    ("/proc/sys/kernel/random/entropy_avail", "256\n"),
    (
        "/proc/sys/kernel/seccomp/actions_avail",
        "kill_process kill_thread trap errno user_notif trace log allow\n",
    ),
    ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n"),
    ("/sys/kernel/mm/ksm/run", "0\n"),
    ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("/sys/module/kvm_intel/parameters/ept", "Y\n"),
    ("/var/lib/clear-containers/mini-os/refs/default/manifest.json", "{}"),
];

/// Held by a test that makes a program and runs it: a child forked meanwhile by another test would still have the new
/// program open for writing, and running it would fail (ETXTBSY).
static PROGRAMS_RUN: Mutex<()> = Mutex::new(());

pub(crate) struct FakeHost(tempfile::TempDir);

impl FakeHost {
    pub fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for (path, text) in FILES {
            host.write(path, text);
        }
        let record = "{\"boot_id\":\"a-boot\",\"modules\":[\"kvm_intel\"],\"found\":\"usable\"}";
        host.write("/run/clear-containers/kvm-probe.json", record);
        host.program(
            "/usr/bin/qemu-system-x86_64",
            &elf_with_rodata(b"..QEMU emulator version 10.0.2 (Debian)\0.."),
        );
        host.program("/usr/bin/pasta", b"");
        host
    }

    /// To be held where QEMU's version is asked by running a program.
    pub fn runs_programs() -> MutexGuard<'static, ()> {
        PROGRAMS_RUN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn root(&self) -> Root {
        Root::at(self.0.path()).with_arch("x86_64")
    }

    pub fn facts(&self) -> HostFacts {
        survey(&self.root())
    }

    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root().path(absolute)
    }

    pub fn write(&self, path: &str, text: &str) {
        self.write_mode(path, text.as_bytes(), 0o644);
    }

    pub fn program(&self, path: &str, content: &[u8]) {
        self.write_mode(path, content, 0o755);
    }

    fn write_mode(&self, path: &str, content: &[u8], mode: u32) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    /// Without the record, the fake /dev/kvm is really probed.
    pub fn forget_probe(&self) {
        self.remove("/run/clear-containers/kvm-probe.json");
    }
}

/// A minimal 64-bit ELF file: header, data, section names, table of three sections.
pub(crate) fn elf_with_rodata(data: &[u8]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.rodata\0.shstrtab\0";
    let names_at = 64 + data.len() as u64;
    let table_at = names_at + NAMES.len() as u64;
    let section = |name: u32, offset: u64, size: u64| {
        let mut entry = [0; 64];
        entry[..4].copy_from_slice(&name.to_le_bytes());
        entry[24..32].copy_from_slice(&offset.to_le_bytes());
        entry[32..40].copy_from_slice(&size.to_le_bytes());
        entry
    };
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(64, 0);
    file[40..48].copy_from_slice(&table_at.to_le_bytes());
    for (at, value) in [(58, 64_u16), (60, 3), (62, 2)] {
        file[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(data);
    file.extend_from_slice(NAMES);
    for entry in
        [section(0, 0, 0), section(1, 64, data.len() as u64), section(9, names_at, NAMES.len() as u64)]
    {
        file.extend_from_slice(&entry);
    }
    file
}
