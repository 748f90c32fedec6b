//! QEMU: present and young enough.

use super::Context;
use crate::qemu::program_name;
use crate::report::Finding;

/// Oldest version whose `microvm` and 9p this is written for.
const NEEDED: u32 = 8;

/// The version this is tested with; older ones lose files that are open and unlinked on 9p.
const TESTED: u32 = 10;

pub(super) fn check(context: &Context<'_>) -> Finding {
    let program = program_name(context.root.arch());
    let why = "QEMU runs the virtual machines, by KVM or by emulation";
    let fix = || install_line(context);
    let Some(qemu) = &context.facts.qemu else {
        let what = match context.root.program(&program) {
            Some(path) => format!("{} does not tell its version: no working QEMU", path.display()),
            None => format!("{program} is not in the search path"),
        };
        return Finding::fail(what, why, fix());
    };
    let (major, minor) = qemu.version;
    let what = format!("QEMU {major}.{minor} ({})", qemu.path.display());
    match major {
        TESTED.. => Finding::pass(what, why),
        NEEDED..TESTED => Finding::warn(what, "before version 10, a file that is open and unlinked is lost on 9p", fix()),
        _ => Finding::fail(what, format!("version {NEEDED} or later is needed, {TESTED} is tested"), fix()),
    }
}

/// How to get a QEMU that is young enough on this distribution.
fn install_line(context: &Context<'_>) -> String {
    let release = context.root.read("/etc/os-release").unwrap_or_default();
    let is = |line: &str| release.lines().any(|candidate| candidate.replace('"', "") == line);
    if is("VERSION_CODENAME=bookworm") {
        let install = "apt-get install -t bookworm-backports qemu-system-x86";
        return format!("enable Debian's suite bookworm-backports (main) in apt, then: apt-get update && {install}");
    }
    if is("ID=debian") || is("ID_LIKE=debian") || is("ID=ubuntu") {
        return "apt-get install qemu-system-x86".to_owned();
    }
    format!("install QEMU {TESTED} with your distribution's package manager")
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::fake_host::{FakeHost, elf_with_rodata};
    use crate::Level;

    #[test]
    fn by_version() {
        let host = FakeHost::new();
        for (version, level) in [("10.0", Level::Pass), ("11.1", Level::Pass), ("8.2", Level::Warn), ("7.2", Level::Fail)] {
            let program = elf_with_rodata(format!("QEMU emulator version {version}\0").as_bytes());
            host.program("/usr/bin/qemu-system-x86_64", &program);
            assert_eq!(on(&host, check).level, level, "{version}");
        }
    }

    #[test]
    fn absent_or_broken() {
        let _alone = FakeHost::runs_programs();
        let host = FakeHost::new();
        host.program("/usr/bin/qemu-system-x86_64", b"");
        assert!(on(&host, check).what.contains("no working QEMU"));
        host.remove("/usr/bin/qemu-system-x86_64");
        host.write("/etc/os-release", "ID=debian\nVERSION_CODENAME=\"bookworm\"\n");
        let finding = on(&host, check);
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.fix.unwrap().contains("bookworm-backports"));
    }
}
