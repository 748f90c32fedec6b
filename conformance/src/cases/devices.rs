//! `linux.devices`, default devices and links, rules of access.

use crate::case::{cases, same};
use crate::lab::Lab;
use anyhow::Result;
use serde_json::{Value, json};

cases! {
    "devices.character" => character, "config-linux.md#devices",
        "devices lists devices that MUST be available in the container: a character device with mode and owner";
    "devices.works" => works, "config-linux.md#devices", "devices lists devices that MUST be available: it can be written to";
    "devices.fifo" => fifo, "config-linux.md#devices", "type of device: p, without major and minor";
    "devices.outside-of-dev" => outside_of_dev, "config-linux.md#devices",
        "The path MAY be anywhere in the container filesystem, notably outside of /dev";
    "devices.block" => block, "config-linux.md#devices", "type of device: b";
    "devices.other-file-in-place" => other_file, "config-linux.md#devices",
        "If a file already exists at path that does not match the requested device, the runtime MUST generate an error";
    "devices.default" => default, "config-linux.md#default-devices",
        "The runtime MUST also supply /dev/null, zero, full, random, urandom, tty";
    "devices.default-work" => default_work, "config-linux.md#default-devices",
        "The default devices are those of null(4), full(4), random(4): they do what they say";
    "devices.default-mode" => default_mode, "config-linux.md#default-devices", "The default devices are there for every user";
    "devices.ptmx" => ptmx, "config-linux.md#default-devices",
        "/dev/ptmx is a bind-mount or symlink of the container's /dev/pts/ptmx";
    "devices.links" => links, "runtime-linux.md#dev-symbolic-links",
        "After the container's mounts are processed, /dev/fd, stdin, stdout, stderr MUST be symlinks to /proc/self/fd";
    "devices.host-devices-are-absent" => host_devices, "config-linux.md#devices",
        "Devices of the container are those listed and the default ones: none else of the host";
    "devices.denied" => denied, "config-linux.md#allowed-device-list", "allow: whether the entry is allowed or denied: denied";
    "devices.allowed" => allowed, "config-linux.md#allowed-device-list",
        "The runtime MUST apply entries in the listed order: what is allowed after all was denied";
    "devices.mknod-denied" => mknod_denied, "config-linux.md#allowed-device-list",
        "access: a composition of r, w and m (mknod): without m no node is made";
}

fn with_device(lab: &Lab, device: Value, script: &str) -> Result<String> {
    lab.script(script, |bundle| {
        bundle.push("/linux/devices", device);
        Ok(())
    })
}

/// The device of /dev/null.
fn null(path: &str) -> Value {
    json!({"path": path, "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6})
}

fn character(lab: &Lab) -> Result<()> {
    let output = with_device(lab, null("/dev/own"), "stat -c '%F %t %T %a %u %g' /dev/own")?;
    same("the device", "character special file 1 3 640 5 6", &output)
}

fn works(lab: &Lab) -> Result<()> {
    let device = json!({"path": "/dev/own", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 0, "gid": 0});
    same("bytes", "0000", &with_device(lab, device, "head -c 2 /dev/own | od -An -tx1 | tr -d ' '")?)
}

fn fifo(lab: &Lab) -> Result<()> {
    let device = json!({"path": "/dev/pipe", "type": "p", "fileMode": 0o600, "uid": 0, "gid": 0});
    same("the device", "fifo 600", &with_device(lab, device, "stat -c '%F %a' /dev/pipe")?)
}

fn outside_of_dev(lab: &Lab) -> Result<()> {
    let output = with_device(lab, null("/srv/below/own"), "stat -c '%F %t %T' /srv/below/own")?;
    same("the device", "character special file 1 3", &output)
}

fn block(lab: &Lab) -> Result<()> {
    let device = json!({"path": "/dev/own", "type": "b", "major": 7, "minor": 3, "fileMode": 0o600, "uid": 0, "gid": 0});
    same("the device", "block special file 7 3", &with_device(lab, device, "stat -c '%F %t %T' /dev/own")?)
}

fn other_file(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.file("srv/own", "a file", 0o644)?.push("/linux/devices", null("/srv/own"));
    lab.create_refused(&bundle)?;
    same("the file", "a file", &std::fs::read_to_string(bundle.rootfs("srv/own"))?)
}

fn default(lab: &Lab) -> Result<()> {
    let output =
        lab.script("cd /dev; stat -c '%n %F %t %T' null zero full random urandom tty", |_| Ok(()))?;
    let device = |(name, numbers): (&str, &str)| format!("{name} character special file {numbers}");
    let devices = [
        ("null", "1 3"),
        ("zero", "1 5"),
        ("full", "1 7"),
        ("random", "1 8"),
        ("urandom", "1 9"),
        ("tty", "5 0"),
    ];
    same("devices", &devices.map(device).join("\n"), &output)
}

fn default_work(lab: &Lab) -> Result<()> {
    let script = "echo x >/dev/null && cat /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; \
        head -c 3 /dev/random | wc -c; (echo x >/dev/full) 2>/dev/null || echo full";
    same("output", "3\n3\n3\nfull", &lab.script(script, |_| Ok(()))?)
}

fn default_mode(lab: &Lab) -> Result<()> {
    let output = lab.script("cd /dev; stat -c %a null zero full random urandom tty | uniq", |_| Ok(()))?;
    same("modes", "666", &output)
}

fn ptmx(lab: &Lab) -> Result<()> {
    let output = lab.script(
        "stat -L -c '%F %t %T' /dev/ptmx /dev/pts/ptmx | uniq; : <>/dev/ptmx && echo opened",
        |_| Ok(()),
    )?;
    same("/dev/ptmx", "character special file 5 2\nopened", &output)
}

fn links(lab: &Lab) -> Result<()> {
    let output =
        lab.script("cd /dev; for name in fd stdin stdout stderr; do readlink $name; done", |_| Ok(()))?;
    same("links", "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2", &output)
}

fn host_devices(lab: &Lab) -> Result<()> {
    let output = lab.script("cd /dev; ls", |_| Ok(()))?;
    let known = [
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
        "tty", "urandom", "zero",
    ];
    let others: Vec<_> = output.lines().filter(|name| !known.contains(name)).collect();
    same("other entries of /dev", &Vec::<&str>::new(), &others)
}

/// Tries to open a node of /dev/fuse under rules that follow one that denies everything.
fn with_rules(lab: &Lab, rules: &[Value], script: &str) -> Result<String> {
    lab.script(script, |bundle| {
        let device = json!({"path": "/dev/own", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0});
        bundle.push("/linux/devices", device).capabilities(&["CAP_MKNOD"]);
        bundle.push("/linux/resources/devices", json!({"allow": false, "access": "rwm"}));
        for rule in rules {
            bundle.push("/linux/resources/devices", rule.clone());
        }
        Ok(())
    })
}

const OPEN: &str = "(: </dev/own) 2>&1 | grep -q 'not permitted' && echo denied || echo allowed";

fn denied(lab: &Lab) -> Result<()> {
    same("opening it", "denied", &with_rules(lab, &[], OPEN)?)
}

fn allowed(lab: &Lab) -> Result<()> {
    let rule = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"});
    same("opening it", "allowed", &with_rules(lab, &[rule], OPEN)?)
}

fn mknod_denied(lab: &Lab) -> Result<()> {
    let script = "mknod /tmp/other b 8 1 2>/dev/null && echo made || echo denied";
    let rule = json!({"allow": true, "type": "b", "major": 8, "minor": 1, "access": "rw"});
    // Runtimes let every node be made that nobody may open; a rule that denies comes last here.
    let deny = json!({"allow": false, "type": "b", "access": "m"});
    same("making a node", "denied", &with_rules(lab, &[rule, deny], script)?)
}
