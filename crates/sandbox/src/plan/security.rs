//! Hidden and read-only paths, host name, and kernel parameters.
//!
//! A sysctl is the container's when the kernel has it per namespace; everything else sets the machine's kernel, which
//! runs this container alone. So more than runc's short list is possible here.

use super::{Inputs, Piece, PlanError, pods};
use guest_protocol::message::Step;
use oci_spec::runtime::LinuxNamespaceType;

/// Longest name the kernel takes (`__NEW_UTS_LEN`).
const MAX_NAME: usize = 64;

/// Sysctls of the ipc and uts namespaces, which are the container's own.
const NAMESPACED: [&str; 9] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
    "kernel/domainname",
];

pub(super) fn names(inputs: &Inputs) -> Result<Piece, PlanError> {
    let mut guest = Vec::new();
    let given = inputs.bundle.spec.hostname().clone().filter(|name| !name.is_empty());
    let hostname = given.or_else(|| pods::hostname(inputs)).or_else(|| shared_name(inputs));
    let given = [("hostname", &hostname), ("domainname", inputs.bundle.spec.domainname())];
    for (field, name) in given {
        let Some(name) = name.clone().filter(|name| !name.is_empty()) else { continue };
        if name.len() > MAX_NAME || name.contains('\0') {
            return Err(PlanError::invalid(field, format!("must have at most {MAX_NAME} bytes and no NUL")));
        }
        guest.push(if field == "hostname" { Step::Hostname(name) } else { Step::Domainname(name) });
    }
    Ok(Piece { guest, ..Piece::default() })
}

/// The host's name, for a container that shares the host's UTS namespace: a copy, as the machine has one of its own.
fn shared_name(inputs: &Inputs) -> Option<String> {
    let linux = inputs.bundle.spec.linux().as_ref();
    let own = linux.and_then(|linux| linux.namespaces().as_ref());
    let own = own.is_some_and(|list| list.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Uts));
    (!own).then(|| inputs.facts.hostname.clone())
}

pub(super) fn paths(inputs: &Inputs) -> Result<Piece, PlanError> {
    let mut piece = Piece::default();
    let Some(linux) = inputs.bundle.spec.linux() else { return Ok(piece) };
    let check = |field: &str, index: usize, path: &String| {
        if path.starts_with('/') && !path.contains('\0') {
            return Ok(path.clone());
        }
        Err(PlanError::invalid(format!("linux.{field}[{index}]"), "must be an absolute path"))
    };
    for (index, path) in linux.readonly_paths().iter().flatten().enumerate() {
        piece.guest.push(Step::ReadonlyPath(check("readonlyPaths", index, path)?));
    }
    for (index, path) in linux.masked_paths().iter().flatten().enumerate() {
        piece.guest.push(Step::MaskedPath(check("maskedPaths", index, path)?));
    }
    if linux.mount_label().as_deref().is_some_and(|label| !label.is_empty()) {
        piece.warnings.push("linux.mountLabel: the machine has no SELinux policy; left out".into());
    }
    Ok(piece)
}

pub(super) fn sysctls(inputs: &Inputs) -> Result<Piece, PlanError> {
    let mut piece = Piece::default();
    let linux = inputs.bundle.spec.linux().as_ref();
    let mut all: Vec<_> = linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten().collect();
    all.sort();
    for (name, value) in all {
        let path = sysctl_path(name)?;
        if value.contains('\0') {
            return Err(PlanError::invalid(format!("linux.sysctl.{name}"), "contains a NUL byte"));
        }
        let value = value.clone();
        let own = NAMESPACED.contains(&path.as_str()) || path.starts_with("fs/mqueue/");
        piece.guest.push(if own {
            Step::Sysctl { path, value }
        } else {
            Step::MachineSysctl { path, value }
        });
    }
    Ok(piece)
}

/// The path below /proc/sys. Names may be written with dots or with slashes; the first separator says which, and the
/// other one is then part of a component (`net.ipv4.conf.eth0/1.forwarding`).
fn sysctl_path(name: &str) -> Result<String, PlanError> {
    let field = format!("linux.sysctl.{name}");
    let dotted = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'.');
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let path: String = if dotted { name.chars().map(swap).collect() } else { name.to_string() };
    if path == "kernel/hostname" {
        return Err(PlanError::refused(field, "the host name is set twice over", "use hostname instead"));
    }
    let good = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if path.contains('/') && path.split('/').all(good) {
        return Ok(path);
    }
    Err(PlanError::invalid(field, "must be the name of a kernel parameter, such as net.ipv4.ip_forward"))
}

#[cfg(test)]
mod tests {
    use super::sysctl_path;

    #[test]
    fn sysctls_are_written_with_dots_or_slashes() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/x").unwrap(), "net/ipv4/conf/eth0.1/x");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.x").unwrap(), "net/ipv4/conf/eth0.1/x");
        for bad in
            ["", "kernel", "net..x", "../../etc/passwd", "net/../../x", "a/./b", "kernel.hostname", "/x"]
        {
            assert!(sysctl_path(bad).is_err(), "{bad}");
        }
    }
}
