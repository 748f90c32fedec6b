//! Devices that come to a running machine in its jail, and go.

use crate::{noise, sum, sum_in_guest, text};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vm_tests::{Machine, Tap, on_kvm, until};

#[test]
fn a_disk_comes_is_read_and_written_and_goes() {
    let Some(sandbox) = on_kvm() else { return };
    let disk = noise(&sandbox, "disk.img", 4);
    let mut machine = Machine::start(&sandbox, &["--hotplug", "disk"]);
    assert_eq!(machine.room("disk"), Some(1));
    machine.plug(&["add-disk", text(&disk), "--id", "data"]);
    machine.ctl(&["add-disk", text(&disk), "--id", "more"]).run().refused("all slots of kind disk are taken");
    machine.ctl(&["add-pmem", text(&disk)]).run().refused("--hotplug pmem");
    machine.guest.run("until_ 'test -b /dev/vda'");
    assert_eq!(machine.guest.run("cat /sys/block/vda/serial"), "data");
    assert_eq!(machine.guest.run(&sum_in_guest("/dev/vda")), sum(&disk));
    machine.guest.run("echo hello | dd of=/dev/vda bs=512 seek=3 conv=sync,fsync 2> /dev/null");
    assert!(fs::read(&disk).unwrap()[3 * 512..].starts_with(b"hello\n"));
    machine.unplug("data");
    assert_eq!(machine.room("disk"), Some(1));
    machine.plug(&["add-disk", &format!("{},ro", text(&disk)), "--id", "again"]);
    machine.guest.run("until_ 'test -b /dev/vda'");
    assert_eq!(machine.guest.run(&sum_in_guest("/dev/vda")), sum(&disk));
    assert_ne!(machine.guest.attempt("echo no | dd of=/dev/vda conv=fsync").0, 0);
    machine.end();
}

#[test]
fn an_image_comes_is_written_through_and_goes() {
    let Some(sandbox) = on_kvm() else { return };
    let image = noise(&sandbox, "image", 4);
    let mut machine = Machine::start(&sandbox, &["--hotplug", "pmem"]);
    machine.plug(&["add-pmem", text(&image), "--id", "image"]);
    machine.guest.run("until_ 'test -b /dev/pmem0'");
    assert_eq!(machine.guest.run(&sum_in_guest("/dev/pmem0")), sum(&image));
    machine.guest.run("echo hello | dd of=/dev/pmem0 bs=4096 conv=sync,fsync 2> /dev/null");
    assert!(fs::read(&image).unwrap().starts_with(b"hello\n"));
    machine.unplug("image");
    let before = sum(&image);
    machine.plug(&["add-pmem", &format!("{},cow", text(&image)), "--id", "copy"]);
    machine.guest.run("until_ 'test -b /dev/pmem0'");
    machine.guest.run("echo mine | dd of=/dev/pmem0 bs=4096 conv=sync,fsync 2> /dev/null");
    assert_eq!(machine.guest.run("head -c 4 /dev/pmem0"), "mine");
    assert_eq!(sum(&image), before, "writes to a copy stay in the guest");
    machine.unplug("copy");
    machine.end();
}

/// A file system in memory, unmounted when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn directories_come_to_be_written_or_only_read_and_go() {
    let Some(sandbox) = on_kvm() else { return };
    let big = noise(&sandbox, "share/big", 3);
    let (share, fixed) = (sandbox.path().join("share"), sandbox.path().join("fixed"));
    fs::create_dir(&fixed).unwrap();
    fs::write(fixed.join("file"), "as it was").unwrap();
    fs::create_dir(share.join("below")).unwrap();
    mount("none", share.join("below"), "tmpfs", MountFlags::empty(), None).unwrap();
    let _below = Mounted(share.join("below"));
    fs::write(share.join("below/file"), "below").unwrap();
    let mut machine = Machine::start(&sandbox, &["--hotplug", "share,share-ro"]);
    machine.plug(&["add-share", &format!("{},tag=rw,dax=16M", text(&share))]);
    machine.plug(&["add-share", &format!("{},tag=ro,ro", text(&fixed))]);
    machine.guest.run("mkdir /mnt/rw /mnt/ro; mount -t virtiofs -o dax=always rw /mnt/rw");
    machine.guest.run("mount -t virtiofs ro /mnt/ro");
    assert_eq!(machine.guest.run(&sum_in_guest("/mnt/rw/big")), sum(&big));
    assert_eq!(machine.guest.run("cat /mnt/rw/below/file"), "below");
    machine.guest.run("mkdir /mnt/rw/new; echo guest > /mnt/rw/file; mv /mnt/rw/file /mnt/rw/new/");
    machine.guest.run("chown 5:6 /mnt/rw/new/file; cp /bin/busybox /mnt/rw/new/; sync");
    let file = fs::metadata(share.join("new/file")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.len()), (5, 6, 6));
    assert_eq!(sum(&share.join("new/busybox")), sum("/bin/busybox".as_ref()));
    assert_eq!(machine.guest.run("/mnt/rw/new/busybox echo runs"), "runs");
    assert_eq!(machine.guest.run("cat /mnt/ro/file"), "as it was");
    machine.guest.run("mount -o remount,rw /mnt/ro");
    assert_ne!(machine.guest.attempt("echo no > /mnt/ro/file").0, 0);
    assert_ne!(machine.guest.attempt("rm /mnt/ro/file").0, 0);
    assert_eq!(fs::read_to_string(fixed.join("file")).unwrap(), "as it was");
    machine.guest.run("umount /mnt/rw /mnt/ro");
    machine.unplug("rw");
    machine.unplug("ro");
    assert_eq!((machine.room("share"), machine.room("share-ro")), (Some(1), Some(1)));
    machine.plug(&["add-share", &format!("{},tag=rw", text(&share))]);
    machine.guest.run("mount -t virtiofs rw /mnt/rw");
    assert_eq!(machine.guest.run("cat /mnt/rw/new/file"), "guest");
    machine.end();
}

#[test]
fn a_network_comes_is_used_and_goes() {
    let Some(sandbox) = on_kvm() else { return };
    let tap = Tap::new(&sandbox);
    let mut machine = Machine::start(&sandbox, &["--hotplug", "net"]);
    for id in ["first", "second"] {
        let net = format!("tap={},mac=02:00:00:00:00:07", tap.name());
        machine.plug(&["add-net", &net, "--id", id]);
        machine.guest.run(&tap.join());
        assert_eq!(machine.guest.run("cat /sys/class/net/eth0/address"), "02:00:00:00:00:07");
        machine.guest.run(&format!("until_ 'ping -c 1 -W 1 {} > /dev/null'", tap.host()));
        let taken = machine.device("stats", id).expect("statistics");
        assert!(taken["bytes_from_guest"].as_u64() > Some(0), "{taken}");
        machine.unplug(id);
    }
    machine.end();
}

/// Uses everything without end.
const BUSY: &str = "\
    (while dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2> /tmp/reader.err; do :; done; : > /tmp/reader) & \
    (while echo x > /mnt/file; do :; done 2> /dev/null; : > /tmp/writer) & \
    (while :; do ping -c 1 -W 1 HOST > /dev/null 2>&1; done) &";

#[test]
fn what_is_behind_devices_goes_at_once_when_they_are_removed_by_force() {
    let Some(sandbox) = on_kvm() else { return };
    let (disk, image, tap) =
        (noise(&sandbox, "disk.img", 4), noise(&sandbox, "image", 2), Tap::new(&sandbox));
    let share = sandbox.path().join("share");
    fs::create_dir(&share).unwrap();
    let mut machine = Machine::start(&sandbox, &["--hotplug", "disk,pmem,share,net"]);
    machine.plug(&["add-disk", text(&disk), "--id", "disk"]);
    machine.plug(&["add-pmem", text(&image), "--id", "image"]);
    machine.plug(&["add-share", &format!("{},tag=share", text(&share))]);
    machine.plug(&["add-net", &format!("tap={}", tap.name()), "--id", "net"]);
    machine.guest.run("mount -t virtiofs share /mnt; until_ 'test -b /dev/vda -a -b /dev/pmem0'");
    machine.guest.run(&tap.join());
    machine.guest.run(&BUSY.replace("HOST", &tap.host()));
    for id in ["disk", "share", "net"] {
        let done = |machine: &Machine| machine.device("stats", id).and_then(|d| d["requests"].as_u64());
        let before = done(&machine);
        until("requests under way", || (done(&machine) > before).then_some(()));
    }
    let file = share.join("file");
    let behind = [&disk, &image, &share, &file, Path::new("/dev/net/tun")];
    until("all to be in use", || (held(machine.guest.pid(), &behind) == behind).then_some(()));
    let all = ["disk", "image", "share", "net"];
    for id in all {
        machine.ctl(&["remove", id, "--force"]).ok();
        assert_eq!(machine.device("state", id).expect("its place on the bus")["leaving"], true, "{id}");
    }
    assert_eq!(held(machine.guest.pid(), &behind), [] as [&Path; 0]);
    machine.ctl(&["remove", "disk", "--force"]).run().refused("its place on the bus");
    machine.ctl(&["add-disk", text(&disk), "--id", "disk"]).run().refused("already");
    machine.guest.run("until_ 'test -e /tmp/reader -a -e /tmp/writer'");
    assert!(machine.guest.run("cat /tmp/reader.err").contains("Input/output error"));
    machine.guest.run("umount -l /mnt");
    all.iter().for_each(|id| machine.let_go(id));
    assert_eq!(machine.ask(&["state"])["devices"], serde_json::json!([]));
    machine.plug(&["add-disk", text(&disk), "--id", "disk"]);
    machine.guest.run("until_ 'test -b /dev/vda'");
    assert_eq!(machine.guest.run(&sum_in_guest("/dev/vda")), sum(&disk));
    machine.end();
}

/// Which of these files a process has open or mapped. By their inodes: in a jail they have other names.
fn held<'f>(pid: u32, files: &[&'f Path]) -> Vec<&'f Path> {
    let inode = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors of the machine");
    let open: Vec<_> = entries.flatten().filter_map(|entry| inode(&entry.path())).collect();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("mappings of the machine");
    let is_held =
        |file: &&&Path| inode(file).is_some_and(|inode| open.contains(&inode)) || maps.contains(text(file));
    files.iter().filter(is_held).copied().collect()
}
