//! Starts a kernel without firmware or boot loader: finds out what the file is, puts it into guest memory, and writes down
//! what the kernel has to know about the machine.
//!
//! ```text
//!   kernel file ─► identify ─┬─ ELF ──► elf::Image ── Linux or no PVH note ─► 64-bit entry, zero page   (linux.rs)
//!                            │                    └── PVH note of another kernel ─► 32-bit entry, start info (pvh.rs)
//!                            └─ bzImage ► bzimage::Image ─► 64-bit entry behind the real-mode code, zero page
//!   mptable.rs, acpi.rs: CPUs, interrupt lines, the bus      layout.rs: where all of this lies in the first MiB
//! ```
//!
//! Everything that comes from a file is hostile: lengths are checked against the file and against RAM before use.

pub mod acpi;
pub mod bzimage;
pub mod cmdline;
pub mod elf;
pub mod initramfs;
pub mod layout;
pub mod linux;
pub mod mptable;
pub mod pvh;

use crate::memory::{self, MemoryError};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use vm_memory::GuestMemoryMmap;

/// Where and how the first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit mode, identity-mapped, `rsi` holds the address of the zero page (Documentation/arch/x86/boot.rst, "64-bit boot protocol").
    Linux64 {
        /// Instruction pointer.
        address: u64,
    },
    /// 32-bit protected mode without paging, `ebx` holds the address of the start info (Xen's `pvh.markdown`).
    Pvh {
        /// Instruction pointer.
        address: u32,
    },
}

/// What lies behind the kernel and is written to early: its first page tables.
const BEHIND_KERNEL: u64 = 4 << 20;

/// What was put into guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Where the first vCPU starts.
    pub entry: Entry,
    /// Where the parts of the kernel lie that are mapped from its file.
    pub kernel: Vec<Range<u64>>,
    /// Where the initramfs lies.
    pub initramfs: Option<Range<u64>>,
}

impl Loaded {
    /// Guest addresses behind which files may be mapped: never to be given back to the host as if they were RAM.
    pub fn files(&self) -> Vec<Range<u64>> {
        self.kernel.iter().chain(&self.initramfs).cloned().collect()
    }
}

/// A kernel that cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file cannot be read.
    #[error("reading the {what}: {source}")]
    Read {
        /// For example `kernel`.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Neither ELF nor bzImage.
    #[error("the kernel is neither a 64-bit x86 ELF file (vmlinux) nor a bzImage")]
    UnknownFormat,
    /// The file's own description of itself is wrong.
    #[error("the kernel file is damaged or cut off: {0}")]
    Damaged(String),
    /// A kernel that needs what this machine has not.
    #[error("the kernel cannot be started: {0}")]
    Unsupported(String),
    /// It does not fit.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The command line is too long for this kernel.
    #[error("the kernel command line has {length} bytes; this kernel accepts {max}")]
    Cmdline {
        /// Bytes.
        length: usize,
        /// What the kernel takes.
        max: usize,
    },
}

/// What is booted.
#[derive(Debug)]
pub struct Source<'a> {
    /// The kernel.
    pub kernel: &'a File,
    /// The initial RAM file system.
    pub initramfs: Option<&'a File>,
    /// The kernel's parameters.
    pub cmdline: &'a str,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Whether there is an IOAPIC.
    pub ioapic: bool,
    /// RAM in bytes.
    pub ram: u64,
}

/// A kernel file that was recognized.
#[derive(Debug)]
pub enum Image {
    /// Uncompressed.
    Elf(elf::Image),
    /// Linux' compressed format.
    BzImage(bzimage::Image),
}

/// What kind of file a kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Uncompressed.
    Elf,
    /// Linux' compressed format.
    BzImage,
}

/// Looks at the first bytes of a kernel; [`identify`] does more.
///
/// # Errors
/// When there are none.
pub fn format(kernel: &File) -> Result<Format, BootError> {
    let mut magic = [0; 4];
    kernel.read_exact_at(&mut magic, 0).map_err(|_| BootError::UnknownFormat)?;
    Ok(if magic == *b"\x7fELF" { Format::Elf } else { Format::BzImage })
}

/// Reads the headers of a kernel.
///
/// # Errors
/// When it is none that can be booted.
pub fn identify(kernel: &File) -> Result<Image, BootError> {
    match format(kernel)? {
        Format::Elf => elf::Image::read(kernel).map(Image::Elf),
        Format::BzImage => bzimage::Image::read(kernel).map(Image::BzImage),
    }
}

/// Looks whether kernel and initramfs can be booted with `ram` bytes of RAM, before any of that is there.
///
/// # Errors
/// When the kernel is none, or something does not fit.
pub fn check(kernel: &File, initramfs: Option<&File>, ram: u64) -> Result<(), BootError> {
    let end = match identify(kernel)? {
        Image::Elf(elf) => elf.fits(ram)?,
        Image::BzImage(bzimage) => bzimage.fits(ram)?,
    };
    initramfs.map_or(Ok(()), |file| initramfs::place(file, ram, end).map(drop))
}

/// Whether `size` bytes at guest address `address` are RAM; `what` they are, for the error.
fn in_ram(ram: u64, address: u64, size: u64, what: &'static str) -> Result<(), BootError> {
    let end = address.checked_add(size);
    let inside =
        |(start, length): (u64, u64)| address >= start && end.is_some_and(|end| end <= start + length);
    if memory::ram::ranges(ram).into_iter().any(inside) {
        return Ok(());
    }
    Err(MemoryError::Outside { what, size, address }.into())
}

/// Puts kernel, initramfs and boot structures into guest memory.
///
/// # Errors
/// When a file is damaged or does not fit.
pub fn load(memory: &GuestMemoryMmap, source: &Source<'_>) -> Result<Loaded, BootError> {
    let image = identify(source.kernel)?;
    memory::ram::favour_dense_parts(memory);
    let kernel = match &image {
        Image::Elf(elf) => elf.load(memory, source.kernel)?,
        Image::BzImage(bzimage) => bzimage.load(memory, source.kernel)?,
    };
    memory::ram::favour(memory, &(kernel.end - kernel.end % memory::HUGE_PAGE..kernel.end + BEHIND_KERNEL));
    let initramfs = match source.initramfs {
        Some(file) => initramfs::load(memory, file, source.ram, kernel.end)?,
        None => None,
    };
    cmdline::write(memory, source.cmdline)?;
    mptable::write(memory, source.vcpus, source.ioapic)?;
    acpi::write(memory, source)?;
    let entry = match &image {
        Image::Elf(elf) => match elf.pvh_entry.filter(|_| !elf.is_linux) {
            Some(address) => {
                pvh::write(memory, source, initramfs)?;
                Entry::Pvh { address }
            }
            None => {
                linux::write(memory, source, linux::SetupHeader::for_elf(), initramfs)?;
                Entry::Linux64 { address: elf.entry }
            }
        },
        Image::BzImage(bzimage) => {
            linux::write(memory, source, bzimage.header.clone(), initramfs)?;
            Entry::Linux64 { address: bzimage.entry() }
        }
    };
    let initramfs = initramfs.map(|loaded| loaded.address..loaded.address + loaded.size);
    let kernel = match &image {
        Image::Elf(elf) => elf.mapped().collect(),
        Image::BzImage(_) => vec![kernel],
    };
    Ok(Loaded { entry, kernel, initramfs })
}

/// The length of a file that is about to be loaded.
fn length(file: &File, what: &'static str) -> Result<u64, BootError> {
    file.metadata().map(|m| m.len()).map_err(|source| BootError::Read { what, source })
}

/// A boot structure that does not fit into the first MiB of RAM, because there is less.
fn outside(what: &'static str, address: u64) -> BootError {
    MemoryError::Outside { what, size: memory::PAGE, address }.into()
}
