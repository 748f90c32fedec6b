//! Whether /dev/kvm runs real guests, decided by running one.
//!
//! Some KVM modules accept every call and then cannot boot a kernel: they interpret instructions and give up at the first
//! exception. So the probe guest, in 64-bit mode with its own page tables, takes an exception through its own interrupt
//! table and must come back from it:
//!
//! ```text
//!   CODE     int3 ──► gate 3 of the interrupt table ──► HANDLER  mov al, 0x5a
//!            mov edx, 0xe9  ◄──────────── iretq ◄───────────────┘
//!            out dx, al     ──► exit to us with 0x5a at port 0xe9 = usable
//! ```
//!
//! The vCPU runs in a thread of its own which a signal takes out of the guest when the deadline passes.

#![expect(unsafe_code, reason = "guest memory, a memory slot, signal masks: KVM's interface")]

use kvm_bindings::{
    KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use std::alloc::Layout;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How long the guest may take. It needs a millisecond; the rest is for a loaded host.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long the thread may take to end after the signal.
const GRACE: Duration = Duration::from_secs(1);

/// The signal that ends a run. Ignored by default, so a late one does no harm.
const KICK: libc::c_int = libc::SIGURG;

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no device.
    #[error("/dev/kvm does not exist")]
    Missing,
    /// The device is there, for others.
    #[error("this user has no permission to open /dev/kvm")]
    Permission,
    /// The device is there and does not open.
    #[error("opening /dev/kvm: {0}")]
    Open(#[source] io::Error),
    /// Another kind of file, or an interface of long ago.
    #[error("/dev/kvm is not the KVM device: interface version {0}, not 12")]
    NotKvm(i32),
    /// A call failed before the guest ran.
    #[error("{doing} through /dev/kvm: {source}")]
    SetUp {
        /// While doing what.
        doing: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// KVM_EXIT_INTERNAL_ERROR.
    #[error(
        "/dev/kvm cannot deliver interrupts to a guest (internal error of KVM at the probe's exception); it is not hardware virtualization"
    )]
    Internal,
    /// KVM left the guest in another way than by the port write.
    #[error("/dev/kvm does not run the probe guest as a processor would: {0}")]
    WrongExit(String),
    /// No exit in time.
    #[error("/dev/kvm did not finish the probe guest within {0:?}")]
    Deadline(Duration),
    /// The probe's thread could not be started or died.
    #[error("running the KVM probe: {0}")]
    Thread(#[source] io::Error),
}

impl ProbeError {
    fn set_up(doing: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::SetUp { doing, source: error.into() }
    }
}

/// Opens the device for reading and writing, which tells a missing one from a forbidden one.
///
/// # Errors
/// [`ProbeError::Missing`], [`ProbeError::Permission`] or [`ProbeError::Open`].
pub fn open(device: &Path) -> Result<File, ProbeError> {
    File::options().read(true).write(true).open(device).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ProbeError::Missing,
        io::ErrorKind::PermissionDenied => ProbeError::Permission,
        _ => ProbeError::Open(error),
    })
}

/// Runs the probe guest; `Ok` means that KVM runs real guests.
///
/// # Errors
/// The reason why not, in plain words. Never takes longer than three seconds.
pub fn run(device: &Path) -> Result<(), ProbeError> {
    run_code(device, &GUEST_CODE, DEADLINE)
}

/// A guest starts at this place of its memory.
const CODE: usize = 0x6000;
/// The handler of the breakpoint exception.
const HANDLER: usize = 0x6100;
const PML4: usize = 0x1000;
const PDPT: usize = 0x2000;
const DIRECTORY: usize = 0x3000;
const GDT: usize = 0x4000;
const IDT: usize = 0x5000;
const STACK_TOP: usize = 0x8000;
const MEMORY: usize = 0x10000;

/// The port written to, and what the handler leaves in `al`.
const PORT: u16 = 0xe9;
const PROOF: u8 = 0x5a;

/// int3; mov edx, 0xe9; out dx, al; hlt
const GUEST_CODE: [u8; 8] = [0xcc, 0xba, 0xe9, 0, 0, 0, 0xee, 0xf4];
/// mov al, 0x5a; iretq
const HANDLER_CODE: [u8; 4] = [0xb0, PROOF, 0x48, 0xcf];

fn run_code(device: &Path, code: &'static [u8], deadline: Duration) -> Result<(), ProbeError> {
    let path = CString::new(device.as_os_str().as_bytes()).map_err(|error| ProbeError::Open(error.into()))?;
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("kvm-probe".to_owned())
        .spawn(move || {
            // The receiver is gone if this took longer than the deadline.
            let _ = sender.send(run_here(&path, code));
        })
        .map_err(ProbeError::Thread)?;
    let result = match receiver.recv_timeout(deadline) {
        Err(RecvTimeoutError::Timeout) => {
            // SAFETY: the handle is neither joined nor dropped yet, so the thread's id is valid.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), KICK) };
            // A thread that the kernel does not let go is left alone: it owns all that its vCPU uses.
            receiver.recv_timeout(GRACE).unwrap_or(Err(ProbeError::Deadline(deadline)))
        }
        Err(RecvTimeoutError::Disconnected) => Err(ProbeError::Thread(io::Error::other("the thread died"))),
        Ok(result) => result,
    };
    match result {
        Err(ProbeError::Deadline(_)) => Err(ProbeError::Deadline(deadline)),
        other => other,
    }
}

/// The whole probe, in the thread that may be kicked.
fn run_here(path: &CString, code: &[u8]) -> Result<(), ProbeError> {
    let mask = block_kick();
    let kvm = Kvm::new_with_path(path).map_err(|error| ProbeError::Open(error.into()))?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION as i32 {
        return Err(ProbeError::NotKvm(version));
    }
    let memory = GuestMemory::new();
    memory.fill(code);
    let vm = kvm.create_vm().map_err(ProbeError::set_up("creating a virtual machine"))?;
    // Older Intel processors want a place for an internal task segment; just below 4 GiB is always free here.
    vm.set_tss_address(0xfffb_d000).map_err(ProbeError::set_up("placing the task segment"))?;
    // SAFETY: `memory` is as long as said, was declared before `vm` and so is freed after it.
    unsafe { vm.set_user_memory_region(memory.region()) }
        .map_err(ProbeError::set_up("giving memory to the machine"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(ProbeError::set_up("creating a virtual CPU"))?;
    // Without the long mode bit in its CPUID, KVM refuses to put a CPU into long mode.
    let features = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(ProbeError::set_up("asking for the processor's features"))?;
    vcpu.set_cpuid2(&features).map_err(ProbeError::set_up("giving features to the virtual CPU"))?;
    accept_kick(&vcpu, mask)
        .map_err(|source| ProbeError::SetUp { doing: "setting a signal mask", source })?;
    enter_long_mode(&vcpu).map_err(ProbeError::set_up("setting up the virtual CPU"))?;
    judge(vcpu.run())
}

fn judge(exit: Result<VcpuExit<'_>, kvm_ioctls::Error>) -> Result<(), ProbeError> {
    match exit {
        Ok(VcpuExit::IoOut(PORT, [PROOF])) => Ok(()),
        Ok(VcpuExit::InternalError) => Err(ProbeError::Internal),
        Ok(VcpuExit::Shutdown) => Err(ProbeError::WrongExit("it shut down (triple fault)".to_owned())),
        Ok(VcpuExit::FailEntry(reason, _)) => {
            Err(ProbeError::WrongExit(format!("the processor refused to enter it (reason {reason:#x})")))
        }
        Ok(VcpuExit::Intr) => Err(ProbeError::Deadline(DEADLINE)),
        Err(error) if error.errno() == libc::EINTR => Err(ProbeError::Deadline(DEADLINE)),
        Ok(other) => Err(ProbeError::WrongExit(format!("unexpected exit {other:?}"))),
        Err(error) => Err(ProbeError::SetUp { doing: "running the probe guest", source: error.into() }),
    }
}

/// Registers of a 64-bit kernel: flat segments, paging on, our tables.
fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    // Bits: Intel SDM volume 3A, 2.5 "Control registers" and 2.2.1 "Extended feature enable register".
    const CR0_PE_NE_PG: u64 = 1 | 1 << 5 | 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
    let mut sregs = vcpu.get_sregs()?;
    let data = kvm_segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let code = kvm_segment { selector: 8, type_: 11, db: 0, l: 1, ..data };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.gdt.base, sregs.gdt.limit) = (GDT as u64, 3 * 8 - 1);
    (sregs.idt.base, sregs.idt.limit) = (IDT as u64, 4 * 16 - 1);
    sregs.cr0 = CR0_PE_NE_PG;
    sregs.cr3 = PML4 as u64;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME_LMA;
    vcpu.set_sregs(&sregs)?;
    // Bit 1 of the flags is always set; interrupts stay off.
    vcpu.set_regs(&kvm_regs { rip: CODE as u64, rsp: STACK_TOP as u64, rflags: 2, ..kvm_regs::default() })
}

/// 64 KiB of page-aligned memory.
struct GuestMemory(*mut u8);

impl GuestMemory {
    const LAYOUT: Layout = match Layout::from_size_align(MEMORY, 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("4096 is a power of two"),
    };

    fn new() -> Self {
        // SAFETY: the layout's size is not zero.
        let start = unsafe { std::alloc::alloc_zeroed(Self::LAYOUT) };
        if start.is_null() {
            std::alloc::handle_alloc_error(Self::LAYOUT);
        }
        Self(start)
    }

    /// Writes tables and code. Page tables map the first 2 MiB one to one.
    fn fill(&self, code: &[u8]) {
        const PRESENT_WRITABLE: u64 = 3;
        const LARGE_PAGE: u64 = 1 << 7;
        const CODE_SEGMENT: u64 = 0x00af_9b00_0000_ffff;
        const DATA_SEGMENT: u64 = 0x00cf_9300_0000_ffff;
        /// Present, 64-bit interrupt gate, selector 8; the handler lies below 64 KiB.
        const GATE: u64 = 0x8e00 << 32 | 8 << 16 | HANDLER as u64;
        let words = [
            (PML4, PDPT as u64 | PRESENT_WRITABLE),
            (PDPT, DIRECTORY as u64 | PRESENT_WRITABLE),
            (DIRECTORY, LARGE_PAGE | PRESENT_WRITABLE),
            (GDT + 8, CODE_SEGMENT),
            (GDT + 16, DATA_SEGMENT),
            (IDT + 3 * 16, GATE),
        ];
        for (at, word) in words {
            self.write(at, &word.to_le_bytes());
        }
        self.write(CODE, code);
        self.write(HANDLER, &HANDLER_CODE);
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= MEMORY);
        // SAFETY: the assertion keeps it in bounds, and no guest uses the memory yet.
        unsafe { self.0.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn region(&self) -> kvm_userspace_memory_region {
        kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: self.0 as u64,
        }
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { std::alloc::dealloc(self.0, Self::LAYOUT) };
    }
}

/// Blocks the kick in this thread, where no handler shall see it, and returns the mask of before as the kernel's 64 bits.
fn block_kick() -> u64 {
    // SAFETY: both sets are plain data, initialised before use; the calls take valid pointers.
    unsafe {
        let (mut kick, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigemptyset(&mut kick);
        libc::sigaddset(&mut kick, KICK);
        libc::pthread_sigmask(libc::SIG_BLOCK, &kick, &mut before);
        (1..=64)
            .filter(|&signal| libc::sigismember(&before, signal) == 1)
            .fold(0, |mask, signal| mask | 1 << (signal - 1))
    }
}

/// Lets the kick through while, and only while, the vCPU is in KVM_RUN: a kick that came before ends the run at once.
fn accept_kick(vcpu: &VcpuFd, mask: u64) -> io::Result<()> {
    /// _IOW(KVMIO, 0x8b, struct kvm_signal_mask), linux/kvm.h
    const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;
    #[repr(C)]
    struct SignalMask {
        length: u32,
        set: [u8; 8],
    }
    let set = (mask & !(1 << (KICK - 1))).to_ne_bytes();
    // SAFETY: the kernel reads the struct, whose length field says how long the set is.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &SignalMask { length: 8, set }) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const DEVICE: &str = "/dev/kvm";

    /// Whether the real device can be opened here; if not, `run` must say so.
    fn device_opens() -> bool {
        open(Path::new(DEVICE)).is_ok()
    }

    #[test]
    fn the_real_device_gets_a_definite_answer() {
        let answer = run(Path::new(DEVICE));
        match &answer {
            Ok(()) => assert!(device_opens()),
            Err(ProbeError::Deadline(_) | ProbeError::Thread(_)) => panic!("no verdict: {answer:?}"),
            Err(error) => {
                assert!(error.to_string().contains("KVM") || error.to_string().contains("/dev/kvm"))
            }
        }
    }

    #[test]
    fn a_guest_that_never_stops_is_stopped() {
        if !device_opens() {
            return assert!(run(Path::new(DEVICE)).is_err());
        }
        // jmp to itself
        let limit = Duration::from_millis(50);
        let before = Instant::now();
        let answer = run_code(Path::new(DEVICE), &[0xeb, 0xfe], limit);
        assert!(matches!(answer, Err(ProbeError::Deadline(told)) if told == limit), "{answer:?}");
        assert!(before.elapsed() >= limit);
    }

    #[test]
    fn a_guest_that_does_something_else_is_no_proof() {
        if !device_opens() {
            return assert!(run(Path::new(DEVICE)).is_err());
        }
        // hlt; and: out dx, al without the handler having run
        for code in [&[0xf4][..], &[0xba, 0xe9, 0, 0, 0, 0xee]] {
            let answer = run_code(Path::new(DEVICE), code.to_vec().leak(), DEADLINE);
            assert!(matches!(answer, Err(ProbeError::WrongExit(_))), "{answer:?}");
        }
    }

    #[test]
    fn missing_and_wrong_devices_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvm");
        assert!(matches!(open(&path), Err(ProbeError::Missing)));
        std::fs::write(&path, "").unwrap();
        assert!(matches!(run(&path), Err(ProbeError::NotKvm(_))));
        assert!(matches!(open(directory.path()), Err(ProbeError::Open(_))));
    }
}
