//! The command line of `clear-vmm`. Pure: the machine itself goes as JSON through a descriptor.

use crate::process::numbers;

/// Numbers that the donated file descriptors have in clear-vmm.
#[derive(Debug, Clone)]
pub struct FdNumbers<'a> {
    /// The [`machine_spec::MachineSpec`] as JSON.
    pub spec: i32,
    /// Agent channel.
    pub link: i32,
    /// Control socket.
    pub control: i32,
    /// Guest console, if the machine has one.
    pub console: Option<i32>,
    /// Taps by the names of their devices, a descriptor for each pair of queues.
    pub taps: Vec<(&'a str, Vec<i32>)>,
}

/// The arguments after the program's name.
pub fn args(fds: &FdNumbers<'_>) -> Vec<String> {
    let mut args = vec!["run".to_string()];
    let mut add = |flag: &str, fd: i32| args.extend([flag.to_string(), format!("fd:{fd}")]);
    add("--spec", fds.spec);
    add("--agent", fds.link);
    add("--control", fds.control);
    if let Some(console) = fds.console {
        add("--console", console);
    }
    for (name, tap) in &fds.taps {
        args.extend(["--tap".to_string(), format!("{name}=fd:{}", numbers(tap))]);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_named_by_number() {
        let line =
            |console| args(&FdNumbers { spec: 5, link: 6, control: 8, console, taps: vec![] }).join(" ");
        assert_eq!(line(Some(7)), "run --spec fd:5 --agent fd:6 --control fd:8 --console fd:7");
        assert_eq!(line(None), "run --spec fd:5 --agent fd:6 --control fd:8");
        let taps = vec![("net0", vec![9]), ("net1", vec![10, 11])];
        let line = args(&FdNumbers { spec: 5, link: 6, control: 8, console: None, taps }).join(" ");
        assert!(line.ends_with(" --tap net0=fd:9 --tap net1=fd:10:11"), "{line}");
    }
}
