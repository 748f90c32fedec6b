//! File systems of the host's kernel that images use.

use super::Context;
use crate::report::Finding;

const WANTED: [&str; 2] = ["erofs", "overlay"];

pub(super) fn check(context: &Context<'_>) -> Finding {
    let why = "engines stack image layers with overlay; erofs lets the host look into a mini-OS";
    let missing: Vec<_> = WANTED.into_iter().filter(|name| !registered(context, name) && !module(context, name)).collect();
    if missing.is_empty() {
        return Finding::pass(format!("{} are there", WANTED.join(" and ")), why);
    }
    let fix = "use a kernel with these file systems (every distribution's own has them)";
    Finding::warn(format!("the kernel lacks {}", missing.join(" and ")), why, fix)
}

fn registered(context: &Context<'_>, name: &str) -> bool {
    let list = context.root.read("/proc/filesystems").unwrap_or_default();
    list.lines().any(|line| line.split_whitespace().last() == Some(name))
}

/// Whether the running kernel could load it: `kernel/fs/erofs/erofs.ko: ..` in modules.dep.
fn module(context: &Context<'_>, name: &str) -> bool {
    let release = context.root.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let list = context.root.read(&format!("/lib/modules/{}/modules.dep", release.trim())).unwrap_or_default();
    list.lines().any(|line| line.contains(&format!("/{name}.ko")))
}

#[cfg(test)]
mod tests {
    use super::super::on;
    use super::*;
    use crate::{Level, fake_host::FakeHost};

    #[test]
    fn built_in_loadable_or_missing() {
        let host = FakeHost::new();
        assert_eq!(on(&host, check).level, Level::Pass);
        host.write("/proc/filesystems", "nodev\toverlay\n\text4\n");
        assert_eq!(on(&host, check).what, "the kernel lacks erofs");
        host.write("/lib/modules/6.12.1-amd64/modules.dep", "kernel/fs/erofs/erofs.ko.xz: kernel/lib/crc.ko\n");
        assert_eq!(on(&host, check).level, Level::Pass);
    }
}
