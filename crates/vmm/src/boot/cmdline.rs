//! The kernel's command line, and what this machine adds to it.

use super::{BootError, Format, layout};
use machine_spec::MAX_CMDLINE;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// What a kernel should know about this machine, each unless the user says otherwise:
///
/// - `pci=conf1,noearly`: configuration space is reached by ports 0xCF8 and 0xCFC, and no chip needs an early quirk.
/// - `reboot=k,panic_warm`: reset is the keyboard controller's line; a panic says so in the BIOS data area, see [`layout::WARM_REBOOT_FLAG`].
/// - `panic=-1`: reset at once after a panic.
/// - `acpi=off`, for an ELF file: [`super::mptable`] says the same without an interpreter. A bzImage is a distribution's kernel, which may
///   know ACPI alone and has the drivers that find COM1 that way.
/// - `noreplace-smp`: with one vCPU the kernel would take the lock prefixes out of its text. They are everywhere, and each page that it
///   writes to is copied: some MiB of text that all machines share otherwise.
const DEFAULTS: &[(&str, &str)] =
    &[("pci=", "pci=conf1,noearly"), ("panic=", "panic=-1"), ("noreplace-smp", "noreplace-smp")];

/// See [`DEFAULTS`].
const NO_ACPI: (&str, &str) = ("acpi=", "acpi=off");

/// Always there: a `reboot=` of the user changes the way, but not what a panic says.
const REBOOT: &str = "reboot=k,panic_warm";

/// Without a UART, nobody has to look for one.
const NO_UART: &str = "8250.nr_uarts=0";

/// The user's parameters with the machine's own in front, so that the user's win.
///
/// Parameters behind `--` belong to init and do not count.
pub fn complete(user: &str, uart: bool, format: Format) -> String {
    let kernel_part = user.split(" -- ").next().unwrap_or(user);
    let given = |prefix: &str| kernel_part.split_ascii_whitespace().any(|p| p.starts_with(prefix));
    let mut line = vec![REBOOT];
    line.extend(DEFAULTS.iter().filter(|(prefix, _)| !given(prefix)).map(|(_, parameter)| *parameter));
    if format == Format::Elf && !given(NO_ACPI.0) {
        line.push(NO_ACPI.1);
    }
    if !uart && !given("8250.nr_uarts=") {
        line.push(NO_UART);
    }
    if !user.trim().is_empty() {
        line.push(user.trim());
    }
    line.join(" ")
}

/// Whether the kernel reboots by a triple fault (`reboot=t`), so that one is no sign of a crash.
pub fn reboots_by_triple_fault(line: &str) -> bool {
    let methods = line.split_ascii_whitespace().filter_map(|parameter| parameter.strip_prefix("reboot="));
    methods.flat_map(|list| list.split(',')).any(|method| method.starts_with('t'))
}

/// Writes the command line with its terminating NUL to [`layout::CMDLINE`].
///
/// # Errors
/// When it is longer than kernels accept.
pub fn write(memory: &GuestMemoryMmap, cmdline: &str) -> Result<(), BootError> {
    if cmdline.len() > MAX_CMDLINE {
        return Err(BootError::Cmdline { length: cmdline.len(), max: MAX_CMDLINE });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    memory
        .write_slice(&bytes, GuestAddress(layout::CMDLINE))
        .map_err(|_| super::outside("command line", layout::CMDLINE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_parameters_win() {
        assert_eq!(
            complete("", true, Format::BzImage),
            "reboot=k,panic_warm pci=conf1,noearly panic=-1 noreplace-smp"
        );
        assert_eq!(
            complete(" quiet panic=5 reboot=t", true, Format::Elf),
            "reboot=k,panic_warm pci=conf1,noearly noreplace-smp acpi=off quiet panic=5 reboot=t"
        );
        assert!(!complete("acpi=force", true, Format::Elf).contains("acpi=off"));
        assert!(complete("quiet", false, Format::BzImage).ends_with("8250.nr_uarts=0 quiet"));
        assert!(
            reboots_by_triple_fault(&complete("reboot=t", true, Format::Elf))
                && !reboots_by_triple_fault(&complete("", true, Format::BzImage))
        );
        assert!(
            complete("quiet -- panic=7", true, Format::Elf).contains("panic=-1"),
            "init's own parameters are not the kernel's"
        );
    }
}
