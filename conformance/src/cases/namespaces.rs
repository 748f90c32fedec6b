//! `linux.namespaces`, `uidMappings`, `gidMappings`, `timeOffsets`.

use crate::bundle::Bundle;
use crate::case::{cases, holds, same, skip};
use crate::command::until;
use crate::lab::Lab;
use anyhow::{Context, Result};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

cases! {
    "namespaces.pid" => pid, "config-linux.md#namespaces",
        "pid: processes inside the container will only be able to see other processes inside the same container";
    "namespaces.network" => network, "config-linux.md#namespaces", "network: the container will have its own network stack";
    "namespaces.mount" => mount, "config-linux.md#namespaces", "mount: the container will have an isolated mount table";
    "namespaces.ipc" => ipc, "config-linux.md#namespaces",
        "ipc: processes inside the container will only be able to communicate to others inside by system level IPC";
    "namespaces.uts" => uts, "config-linux.md#namespaces", "uts: the container will be able to have its own hostname and domain name";
    "namespaces.cgroup" => cgroup, "config-linux.md#namespaces",
        "cgroup: the container will have an isolated view of the cgroup hierarchy";
    "namespaces.user" => user, "config-linux.md#user-namespace-mappings",
        "uidMappings and gidMappings describe the user namespace mappings from the host to the container";
    "namespaces.time" => time, "config-linux.md#offset-for-time-namespace", "timeOffsets sets the offset for the time namespace";
    "namespaces.network-path" => network_path, "config-linux.md#namespaces",
        "The runtime MUST place the container process in the namespace associated with that path: network";
    "namespaces.uts-path" => uts_path, "config-linux.md#namespaces",
        "The runtime MUST place the container process in the namespace associated with that path: uts";
    "namespaces.missing-path" => missing_path, "config-linux.md#namespaces",
        "The runtime MUST place the container process in the namespace associated with that path: there is none";
    "namespaces.path-of-another-type" => wrong_path, "config-linux.md#namespaces",
        "The runtime MUST generate an error if path is not associated with a namespace of type type";
    "namespaces.duplicate" => duplicate, "config-linux.md#namespaces",
        "If a namespaces field contains duplicated namespaces with same type, the runtime MUST generate an error";
    "namespaces.inherit-uts" => inherit_uts, "config-linux.md#namespaces",
        "If a namespace type is not specified, the container MUST inherit the runtime namespace of that type: uts";
    "namespaces.inherit-network" => inherit_network, "config-linux.md#namespaces",
        "If a namespace type is not specified, the container MUST inherit the runtime namespace of that type: network";
    "namespaces.inherit-pid" => inherit_pid, "config-linux.md#namespaces",
        "If a namespace type is not specified, the container MUST inherit the runtime namespace of that type: pid";
    "namespaces.inherit-ipc" => inherit_ipc, "config-linux.md#namespaces",
        "If a namespace type is not specified, the container MUST inherit the runtime namespace of that type: ipc";
}

/// A process of the host in namespaces of its own; killed when dropped.
struct Holder(Child);

impl Holder {
    /// Starts it with flags of unshare(1), and waits until its script has printed something.
    fn new(lab: &Lab, flags: &[&str], script: &str) -> Result<Self> {
        let ready = lab.path().join("holder");
        let script = format!("{script} && echo ready >'{}' && exec sleep 1000", ready.display());
        let mut command = Command::new("unshare");
        command.args(flags).args(["sh", "-ec", &script]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut holder = Self(command.spawn().context("starting unshare")?);
        until("a process in its own namespaces", || {
            if let Some(status) = holder.0.try_wait()? {
                return Err(skip(format!("this host cannot make the namespaces: {status}")));
            }
            Ok(fs::read_to_string(&ready).is_ok_and(|text| !text.is_empty()).then_some(()))
        })?;
        Ok(holder)
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pid(lab: &Lab) -> Result<()> {
    let script = format!("echo $$; test -d /proc/{} && echo seen || echo hidden", std::process::id());
    same("own ID, and a process of the host", "1\nhidden", &lab.script(&script, |_| Ok(()))?)
}

fn network(lab: &Lab) -> Result<()> {
    same("interfaces", "lo", &lab.script("ls /sys/class/net | tr '\\n' ' '", |_| Ok(()))?)
}

fn mount(lab: &Lab) -> Result<()> {
    let output = lab.script("mount -t tmpfs tmpfs /mnt && grep -c ' /mnt ' /proc/mounts", |bundle| {
        bundle.capabilities(&["CAP_SYS_ADMIN"]);
        Ok(())
    })?;
    same("mounts in the container", "1", &output)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let path = lab.path().to_string_lossy().into_owned();
    holds("none on the host", !mounts.contains(&path), mounts)
}

/// A System V message queue of the host; removed when dropped.
struct Queue(String);

impl Queue {
    fn new() -> Result<Self> {
        let output = Command::new("ipcmk").arg("--queue").output().context("starting ipcmk")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let id = text.split_whitespace().last().filter(|id| id.parse::<u32>().is_ok());
        Ok(Self(id.with_context(|| format!("ipcmk made no queue: {text}"))?.to_owned()))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let removed = Command::new("ipcrm").args(["--queue-id", &self.0]).status();
        if !removed.is_ok_and(|status| status.success()) {
            eprintln!("conformance: message queue {} is left", self.0);
        }
    }
}

fn ipc(lab: &Lab) -> Result<()> {
    // A queue in the namespace that the runtime is started in, so the container must not see it.
    let _queue = Queue::new()?;
    let queues = lab.script("tail -n +2 /proc/sysvipc/msg | wc -l", |_| Ok(()))?;
    same("message queues in the container", "0", &queues)
}

fn uts(lab: &Lab) -> Result<()> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let output = lab.script("hostname other-name; hostname", |bundle| {
        bundle.capabilities(&["CAP_SYS_ADMIN"]);
        Ok(())
    })?;
    same("hostname in the container", "other-name", &output)?;
    same("hostname of the host", &host, &fs::read_to_string("/proc/sys/kernel/hostname")?)
}

fn cgroup(lab: &Lab) -> Result<()> {
    let output = lab.script("cut -d : -f 3 /proc/self/cgroup | sort -u", |bundle| {
        bundle.namespace(&json!({"type": "cgroup"}));
        Ok(())
    })?;
    same("path of the control group, as seen inside", "/", &output)
}

fn with_user_namespace(bundle: &mut Bundle) -> Result<()> {
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 5000}]);
    bundle.namespace(&json!({"type": "user"}));
    bundle.set("/linux/uidMappings", mapping.clone()).set("/linux/gidMappings", mapping);
    // A root of another owner: what is mounted in it can be made by its own root only.
    std::os::unix::fs::chown(bundle.rootfs("/"), Some(100_000), Some(100_000))?;
    Ok(())
}

fn user(lab: &Lab) -> Result<()> {
    let output = lab.script(
        "for map in uid gid; do echo $(cat /proc/self/${map}_map); done; id -u",
        with_user_namespace,
    )?;
    same("mappings and uid", "0 100000 5000\n0 100000 5000\n0", &output)
}

fn time(lab: &Lab) -> Result<()> {
    if !Path::new("/proc/self/ns/time").exists() {
        return Err(skip("this host's kernel has no time namespaces"));
    }
    let output = lab.script("echo $(cat /proc/self/timens_offsets)", |bundle| {
        bundle.namespace(&json!({"type": "time"}));
        bundle.set(
            "/linux/timeOffsets",
            json!({"monotonic": {"secs": 7200, "nanosecs": 5}, "boottime": {"secs": 3600}}),
        );
        Ok(())
    })?;
    same("offsets", "monotonic 7200 5 boottime 3600 0", &output)
}

fn network_path(lab: &Lab) -> Result<()> {
    let make = "ip link add conf0 type veth peer name conf1 && ip addr add 10.213.7.1/24 dev conf0 && ip link set conf0 up && ip link set conf1 up";
    let holder = Holder::new(lab, &["--net"], make)?;
    let output = lab.script("ip -o -4 addr show conf0 | grep -o 'inet [^ ]*'", |bundle| {
        bundle.namespace(&json!({"type": "network", "path": holder.path("net")}));
        Ok(())
    })?;
    same("address of the namespace's interface", "inet 10.213.7.1/24", &output)
}

fn uts_path(lab: &Lab) -> Result<()> {
    let holder = Holder::new(lab, &["--uts"], "hostname of-the-namespace")?;
    let output = lab.script("hostname", |bundle| {
        bundle.config.as_object_mut().map(|config| config.remove("hostname"));
        bundle.namespace(&json!({"type": "uts", "path": holder.path("uts")}));
        Ok(())
    })?;
    same("hostname", "of-the-namespace", &output)
}

fn missing_path(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    lab.create_refused(bundle.namespace(&json!({"type": "network", "path": "/no/such/namespace"}))).map(drop)
}

fn wrong_path(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    lab.create_refused(bundle.namespace(&json!({"type": "network", "path": "/proc/self/ns/uts"}))).map(drop)
}

fn duplicate(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    lab.create_refused(bundle.push("/linux/namespaces", json!({"type": "pid"}))).map(drop)
}

fn inherit_uts(lab: &Lab) -> Result<()> {
    let output = lab.script("hostname", |bundle| {
        bundle.config.as_object_mut().map(|config| config.remove("hostname"));
        bundle.without_namespace("uts");
        Ok(())
    })?;
    same("hostname", fs::read_to_string("/proc/sys/kernel/hostname")?.trim(), &output)
}

fn inherit_network(lab: &Lab) -> Result<()> {
    let output = lab.script("cut -d : -f 1 /proc/net/dev | tail -n +3 | tr -d ' ' | sort", |bundle| {
        bundle.without_namespace("network");
        Ok(())
    })?;
    let host = fs::read_to_string("/proc/self/net/dev")?;
    let mut host: Vec<_> =
        host.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    host.sort_unstable();
    same("interfaces", &host, &output.lines().map(str::trim).collect())
}

fn inherit_pid(lab: &Lab) -> Result<()> {
    let output =
        lab.script(&format!("test -d /proc/{} && echo seen || echo hidden", std::process::id()), |bundle| {
            bundle.without_namespace("pid");
            Ok(())
        })?;
    same("this process of the host", "seen", &output)
}

fn inherit_ipc(lab: &Lab) -> Result<()> {
    let link = fs::read_link("/proc/self/ns/ipc")?;
    let output = lab.script("readlink /proc/self/ns/ipc", |bundle| {
        bundle.without_namespace("ipc");
        Ok(())
    })?;
    same("namespace", &*link.to_string_lossy(), &output)
}
