//! `mounts`.

use crate::bundle::write;
use crate::case::{cases, holds, same};
use crate::container::Container;
use crate::lab::Lab;
use anyhow::{Context, Result};
use std::fs;

cases! {
    "mounts.order" => order, "config.md#mounts", "The runtime MUST mount entries in the listed order";
    "mounts.destination-is-made" => destination_is_made, "config-linux.md#mounts",
        "A destination that does not exist is made";
    "mounts.relative-destination" => relative_destination, "config.md#mounts",
        "destination SHOULD be absolute; a relative one MUST be interpreted as relative to \"/\"";
    "mounts.bind-directory" => bind_directory, "config.md#mounts", "For bind mounts source is a file or directory name: a directory";
    "mounts.bind-file" => bind_file, "config.md#mounts", "For bind mounts source is a file or directory name: a file";
    "mounts.bind-relative-source" => bind_relative_source, "config.md#mounts",
        "source: path values for bind mounts are either absolute or relative to the bundle";
    "mounts.bind-by-option" => bind_by_option, "config.md#linux-mount-options",
        "Runtimes MUST support the options bind and rbind, whatever the type says";
    "mounts.bind-ro" => bind_ro, "config.md#linux-mount-options", "Runtimes MUST support the option ro";
    "mounts.bind-is-not-recursive" => bind_is_not_recursive, "config.md#linux-mount-options",
        "bind is a bind mount without those below it (MS_BIND)";
    "mounts.rbind" => rbind, "config.md#linux-mount-options", "rbind is a recursive bind mount (MS_BIND and MS_REC)";
    "mounts.rro" => rro, "config.md#linux-mount-options", "Runtimes SHOULD support rro: read-only with the mounts below it";
    "mounts.missing-source" => missing_source, "config.md#mounts", "A bind mount of nothing cannot be applied: error";
    "mounts.tmpfs-size" => tmpfs_size, "config.md#mounts", "options: those of the file system, size of a tmpfs";
    "mounts.tmpfs-mode" => tmpfs_mode, "config.md#mounts", "options: those of the file system, mode of a tmpfs";
    "mounts.tmpfs-flags" => tmpfs_flags, "config.md#linux-mount-options",
        "Runtimes MUST support the options nosuid, nodev, noexec, noatime";
    "mounts.noexec" => noexec, "config.md#linux-mount-options", "noexec does not permit direct execution of binaries on the mount";
    "mounts.tmpcopyup" => tmpcopyup, "config.md#linux-mount-options",
        "tmpcopyup copies up the contents of the destination to a tmpfs";
    "mounts.unknown-option" => unknown_option, "config.md#linux-mount-options",
        "Runtimes pass options that they do not know to the file system, which refuses what it does not know";
    "mounts.default-filesystems" => default_filesystems, "config-linux.md#default-filesystems",
        "/proc, /sys, /dev/pts and /dev/shm SHOULD be made available in each container's filesystem";
    "mounts.mqueue" => mqueue, "config.md#mounts", "type is a file system of the kernel: mqueue";
    "mounts.two-on-one-place" => two_on_one_place, "config.md#mounts",
        "The runtime MUST mount entries in the listed order: the last one is on top";
    "mounts.symlink-stays-inside" => symlink_stays_inside, "config.md#mounts",
        "destination is a path inside the container: a symbolic link in the root does not lead out of it";
}

fn order(lab: &Lab) -> Result<()> {
    let source = lab.path().join("source");
    write(&source.join("below/file"), "hidden", 0o644)?;
    let output = lab.script("ls /mnt /mnt/below", |bundle| {
        let source = source.to_string_lossy();
        bundle.mount("/mnt", "bind", &source, &["bind"]).mount("/mnt/below", "tmpfs", "tmpfs", &[]);
        Ok(())
    })?;
    same("what is mounted", "/mnt:\nbelow\n\n/mnt/below:", &output)
}

fn destination_is_made(lab: &Lab) -> Result<()> {
    let output = lab.script("mount | grep -c ' /not/there/yet '", |bundle| {
        bundle.mount("/not/there/yet", "tmpfs", "tmpfs", &[]);
        Ok(())
    })?;
    same("mounts", "1", &output)
}

fn relative_destination(lab: &Lab) -> Result<()> {
    let output = lab.script("cd /mnt; mount | grep -c ' /mnt/relative '", |bundle| {
        bundle.mount("mnt/relative", "tmpfs", "tmpfs", &[]);
        Ok(())
    })?;
    same("mounts", "1", &output)
}

/// Runs a script with this mounted from the test's directory; `files` are in it.
fn with_bind(lab: &Lab, script: &str, source: &str, destination: &str, options: &[&str]) -> Result<String> {
    write(&lab.path().join("source/file"), "content", 0o644)?;
    lab.script(script, |bundle| {
        bundle.mount(destination, "bind", &lab.path().join(source).to_string_lossy(), options);
        Ok(())
    })
}

fn bind_directory(lab: &Lab) -> Result<()> {
    let output = with_bind(lab, "cat /mnt/file; echo new >/mnt/new", "source", "/mnt", &["bind", "rw"])?;
    same("the file", "content", &output)?;
    same("what was written", "new\n", &fs::read_to_string(lab.path().join("source/new"))?)
}

fn bind_file(lab: &Lab) -> Result<()> {
    let output =
        with_bind(lab, "cat /etc/bound; echo new >/etc/bound", "source/file", "/etc/bound", &["bind", "rw"])?;
    same("the file", "content", &output)?;
    same("what was written", "new\n", &fs::read_to_string(lab.path().join("source/file"))?)
}

fn bind_relative_source(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    write(&bundle.path().join("beside/file"), "content", 0o644)?;
    bundle.mount("/mnt", "bind", "beside", &["bind"]).script("cat /mnt/file");
    same("the file", "content", &lab.run(&bundle)?.ok()?.stdout)
}

fn bind_by_option(lab: &Lab) -> Result<()> {
    let source = lab.path().join("source");
    write(&source.join("file"), "content", 0o644)?;
    let output = lab.script("cat /mnt/file", |bundle| {
        bundle.mount("/mnt", "none", &source.to_string_lossy(), &["rbind"]);
        Ok(())
    })?;
    same("the file", "content", &output)
}

fn bind_ro(lab: &Lab) -> Result<()> {
    let script = "touch /mnt/new 2>/dev/null && echo writable || echo read-only";
    same("the mount", "read-only", &with_bind(lab, script, "source", "/mnt", &["rbind", "ro"])?)
}

/// Runs a script with a bind mount of a directory that has a tmpfs with a file below it.
fn with_nested_mount(lab: &Lab, script: &str, options: &[&str]) -> Result<String> {
    let below = lab.path().join("source/below");
    fs::create_dir_all(&below)?;
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &below, "tmpfs", flags, None).context("mounting a tmpfs")?;
    fs::write(below.join("nested"), "")?;
    let output = with_bind(lab, script, "source", "/mnt", options);
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).context("unmounting a tmpfs")?;
    output
}

fn bind_is_not_recursive(lab: &Lab) -> Result<()> {
    same("what is below", "", &with_nested_mount(lab, "ls /mnt/below", &["bind"])?)
}

fn rbind(lab: &Lab) -> Result<()> {
    same("what is below", "nested", &with_nested_mount(lab, "ls /mnt/below", &["rbind"])?)
}

fn rro(lab: &Lab) -> Result<()> {
    let script = "touch /mnt/below/new 2>/dev/null && echo writable || echo read-only";
    same("the mount below", "read-only", &with_nested_mount(lab, script, &["rbind", "rro"])?)
}

fn missing_source(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    lab.create_refused(bundle.mount("/mnt", "bind", "/no/such/file", &["bind"])).map(drop)
}

fn with_tmpfs(lab: &Lab, script: &str, options: &[&str]) -> Result<String> {
    lab.script(script, |bundle| {
        bundle.mount("/mnt", "tmpfs", "tmpfs", options);
        Ok(())
    })
}

fn tmpfs_size(lab: &Lab) -> Result<()> {
    let script = "df -k /mnt | tail -n 1 | { read -r _ size _; echo $size; }";
    same("KiB", "1024", &with_tmpfs(lab, script, &["size=1024k"])?)
}

fn tmpfs_mode(lab: &Lab) -> Result<()> {
    same("mode", "751", &with_tmpfs(lab, "stat -c %a /mnt", &["mode=751"])?)
}

fn tmpfs_flags(lab: &Lab) -> Result<()> {
    let script = "grep ' /mnt ' /proc/mounts | cut -d ' ' -f 4";
    let flags = with_tmpfs(lab, script, &["nosuid", "nodev", "noexec", "noatime"])?;
    let has = |flag: &str| flags.split(',').any(|word| word == flag);
    holds(
        "nosuid, nodev, noexec, noatime",
        ["nosuid", "nodev", "noexec", "noatime"].iter().all(|flag| has(flag)),
        &flags,
    )
}

fn noexec(lab: &Lab) -> Result<()> {
    let script = "cp /bin/busybox /mnt/true; /mnt/true 2>/dev/null && echo executed || echo refused";
    same("the program", "refused", &with_tmpfs(lab, script, &["noexec"])?)
}

fn tmpcopyup(lab: &Lab) -> Result<()> {
    let output = lab.script("cat /etc/below/file; mount | grep -c ' /etc '; touch /etc/new", |bundle| {
        bundle.file("etc/below/file", "copied\n", 0o644)?.mount("/etc", "tmpfs", "tmpfs", &["tmpcopyup"]);
        Ok(())
    })?;
    same("file and mounts", "copied\n1", &output)
}

fn unknown_option(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    lab.create_refused(bundle.mount("/mnt", "tmpfs", "tmpfs", &["no-such-option=1"])).map(drop)
}

fn default_filesystems(lab: &Lab) -> Result<()> {
    let script = "for m in '/proc proc' '/sys sysfs' '/dev/pts devpts' '/dev/shm tmpfs'; do grep -c \" $m \" /proc/mounts; done";
    same("mounts of each", "1\n1\n1\n1", &lab.script(script, |_| Ok(()))?)
}

fn mqueue(lab: &Lab) -> Result<()> {
    let output = lab.script("grep -c ' /dev/mqueue mqueue ' /proc/mounts", |bundle| {
        bundle.mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]);
        Ok(())
    })?;
    same("mounts", "1", &output)
}

fn two_on_one_place(lab: &Lab) -> Result<()> {
    let output = lab.script("stat -c %a /mnt", |bundle| {
        bundle.mount("/mnt", "tmpfs", "tmpfs", &["mode=700"]).mount("/mnt", "tmpfs", "tmpfs", &["mode=755"]);
        Ok(())
    })?;
    same("mode of the upper one", "755", &output)
}

fn symlink_stays_inside(lab: &Lab) -> Result<()> {
    let outside = lab.path().join("outside");
    fs::create_dir_all(&outside)?;
    let mut bundle = lab.bundle()?;
    std::os::unix::fs::symlink(&outside, bundle.rootfs("link"))?;
    bundle.mount("/link/made", "tmpfs", "tmpfs", &[]).script("echo ran");
    // Refused or made inside: both are well.
    let (output, container) = Container::create(lab, &bundle, &lab.id(), &[])?;
    if output.code == 0 {
        container.start()?.ok()?;
        same("exit code", &0, &container.wait()?)?;
    }
    same("whether a directory was made on the host", &false, &outside.join("made").exists())
}
