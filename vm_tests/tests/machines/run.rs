//! What `clear-vmm run` offers on its command line.

use crate::{noise, sum, sum_in_guest, text};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use vm_tests::{Machine, PATIENCE, Sandbox, Tap, ctl, kernel_of, on_kvm, processes_with, until};

/// The guest's half of vsock.
const VSOCK_HALF: &str = env!("CARGO_BIN_EXE_vsock_half");

/// Names in a test's directory that look like sockets of `clear-vmm`.
fn sockets(sandbox: &Sandbox) -> Vec<String> {
    let entries = fs::read_dir(sandbox.path()).unwrap().flatten();
    let sockets = entries.filter(|entry| !entry.file_type().unwrap().is_file() && !entry.path().is_dir());
    let mut names: Vec<_> = sockets.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn disk_image_share_and_network_of_the_command_line_are_in_the_guest() {
    let Some(sandbox) = on_kvm() else { return };
    let (disk, image, tap) = (noise(&sandbox, "disk", 3), noise(&sandbox, "image", 4), Tap::new(&sandbox));
    let inside = noise(&sandbox, "share/file", 3);
    let share = sandbox.path().join("share");
    let mut machine = Machine::start(
        &sandbox,
        &[
            "--cpus",
            "2",
            "--rng",
            "--balloon",
            "--disk",
            &format!("{},ro", text(&disk)),
            "--pmem",
            &format!("{},ro", text(&image)),
            "--share",
            &format!("{},tag=home,dax=16M", text(&share)),
            "--net",
            &format!("tap={}", tap.name()),
        ],
    );
    assert_eq!(machine.guest.run("grep -c ^processor /proc/cpuinfo"), "2");
    machine.guest.run("until_ 'test -b /dev/vda -a -b /dev/pmem0'");
    assert_eq!(machine.guest.run(&sum_in_guest("/dev/vda")), sum(&disk));
    assert_eq!(machine.guest.run(&sum_in_guest("/dev/pmem0")), sum(&image));
    machine.guest.run("mount -t virtiofs -o dax=always home /mnt");
    assert_eq!(machine.guest.run(&sum_in_guest("/mnt/file")), sum(&inside));
    // A program is mapped from the window, and from nowhere else.
    machine.guest.run("cp /bin/busybox /mnt/; umount /mnt; mount -t virtiofs -o dax=always home /mnt");
    assert_eq!(machine.guest.run("/mnt/busybox echo runs"), "runs");
    assert!(machine.guest.run("grep ' /mnt ' /proc/mounts").contains("dax=always"));
    machine.guest.run(&tap.join());
    machine.guest.run(&format!("until_ 'ping -c 1 -W 1 {} > /dev/null'", tap.host()));
    machine.guest.run("test -c /dev/hwrng && test $(head -c 16 /dev/hwrng | wc -c) = 16");
    machine.end();
}

#[test]
fn a_virtio_console_takes_and_gives_every_byte() {
    let Some(sandbox) = on_kvm() else { return };
    let log = sandbox.path().join("said");
    let mut machine = Machine::start(&sandbox, &["--hvc", text(&log)]);
    // Held open: the driver forgets its settings with the last close (TTY_DRIVER_RESET_TERMIOS).
    machine.guest.run("exec 3<>/dev/hvc0; stty raw -echo <&3; seq 1 20000 >&3");
    let all: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    until("the console's file to be whole", || (fs::read_to_string(&log).unwrap() == all).then_some(()));
    machine.end();

    let (ours, its) = UnixStream::pair().unwrap();
    let donated = rustix::io::dup(&its).unwrap();
    rustix::io::fcntl_setfd(&donated, rustix::io::FdFlags::empty()).unwrap();
    let mut machine = Machine::start(&sandbox, &["--hvc", &format!("fd:{}", donated.as_raw_fd())]);
    drop((its, donated));
    machine
        .guest
        .run("exec 3<>/dev/hvc0; stty raw -echo <&3; (head -n 2 <&3 > /tmp/heard; echo heard >&3) &");
    (&ours).write_all(b"one\ntwo\n").unwrap();
    let mut line = String::new();
    BufReader::new(&ours).read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), machine.guest.run("cat /tmp/heard").as_str()), ("heard\n", "one\ntwo"));
    machine.end();
}

/// Pings the host from one CPU of the guest after the other, each of which sends through a queue of its own, by which the answer comes back.
const PING_FROM_EACH: &str = "for cpu in 1 2; do until_ 'taskset $cpu ping -c 3 -W 1 HOST > /dev/null'; done";

/// How many of a network device's queues have interrupted the guest.
const USED_QUEUES: &str = "awk '/virtio.*-(input|output)\\./ && $2 + $3 > 0' /proc/interrupts | wc -l";

#[test]
fn a_network_has_several_queues_and_each_carries_traffic() {
    let Some(sandbox) = on_kvm() else { return };
    let tap = Tap::of_queues(&sandbox);
    let net = format!("tap={},queues=2", tap.name());
    let queues = |machine: &mut Machine| machine.guest.run("echo $(ls /sys/class/net/eth0/queues)");
    let ping = PING_FROM_EACH.replace("HOST", &tap.host());
    let mut machine = Machine::start(&sandbox, &["--cpus", "2", "--net", &net]);
    machine.guest.run(&tap.join());
    assert_eq!(queues(&mut machine), "rx-0 rx-1 tx-0 tx-1");
    machine.guest.run(&ping);
    let used: u32 = machine.guest.run(USED_QUEUES).parse().unwrap();
    assert!(used >= 2, "{}", machine.guest.run("cat /proc/interrupts"));
    // The driver resets the device and starts it once more; and the host answers through all queues again.
    machine.guest.run(
        "cd /sys/bus/virtio/drivers/virtio_net; d=$(echo virtio*); echo $d > unbind; echo $d > bind; cd /",
    );
    machine.guest.run(&tap.join());
    machine.guest.run(&ping);
    machine.end();

    // The same for one that comes later, in the jail; a machine of one CPU uses one pair of it.
    for (cpus, seen) in [("2", "rx-0 rx-1 tx-0 tx-1"), ("1", "rx-0 tx-0")] {
        let mut machine = Machine::start(&sandbox, &["--cpus", cpus, "--hotplug", "net"]);
        machine.plug(&["add-net", &net, "--id", "later"]);
        machine.guest.run(&tap.join());
        assert_eq!(queues(&mut machine), seen);
        machine.guest.run(&format!("until_ 'ping -c 3 -W 1 {} > /dev/null'", tap.host()));
        let stats = machine.device("stats", "later").expect("statistics");
        assert!(stats["bytes_from_guest"].as_u64() > Some(0) && stats["errors"] == 0, "{stats}");
        machine.unplug("later");
        machine.end();
    }
}

#[test]
fn a_disk_and_a_network_do_no_more_than_they_are_allowed() {
    let Some(sandbox) = on_kvm() else { return };
    let (disk, tap) = (noise(&sandbox, "disk", 3), Tap::new(&sandbox));
    let slow = format!("{},ro,bps=1M,iops=20", text(&disk));
    let net = format!("tap={},rx-pps=20,tx-pps=20", tap.name());
    let mut machine = Machine::start(&sandbox, &["--disk", &slow, "--net", &net, "--hotplug", "disk,net"]);
    // The same for what comes later, in the jail.
    machine.plug(&["add-disk", &format!("{},ro,bps=1M", text(&disk)), "--id", "later"]);
    for device in ["vda", "vdb"] {
        machine.guest.run(&format!("until_ 'test -b /dev/{device}'"));
        assert_eq!(machine.guest.run(&sum_in_guest(&format!("/dev/{device}"))), sum(&disk));
    }
    machine.guest.run(&tap.join());
    machine.guest.run(&format!("until_ 'ping -c 1 -W 1 {} > /dev/null'", tap.host()));
    machine.guest.run(&format!("ping -c 30 -i 0.01 -W 5 {} > /dev/null", tap.host()));
    let stats = machine.ask(&["stats"]);
    for name in ["disk0", "later", tap.name()] {
        let device = stats["devices"].as_array().unwrap().iter().find(|device| device["id"] == name);
        let device = device.unwrap_or_else(|| panic!("no {name} in {stats}"));
        assert!(device["throttled"].as_u64().unwrap() > 0, "{device}");
    }
    machine.end();
}

#[test]
fn debians_stock_kernel_comes_to_a_shell_with_and_without_acpi() {
    let Some(sandbox) = on_kvm() else { return };
    let disk = format!("{},ro", text(&noise(&sandbox, "disk", 1)));
    for (parameter, tables) in [("acpi=force", "0"), ("", "1")] {
        let args = ["--cpus", "2", "--disk", &disk];
        let mut machine = Machine::start_kernel(&sandbox, &kernel_of("debian"), parameter, &args);
        assert!(machine.guest.run("uname -r").ends_with("-amd64"));
        assert_eq!(machine.guest.run("test -e /sys/firmware/acpi/tables/DSDT; echo $?"), tables);
        assert_eq!(machine.guest.run("grep -c ^processor /proc/cpuinfo"), "2");
        // VIRTIO_ID_BLOCK as a PCI device (virtio 1.2, 4.1.2); its driver is a module that is not here.
        assert_eq!(machine.guest.run("cat /sys/bus/pci/devices/*/device | grep -c 0x1042"), "1");
        let found = machine.guest.run("dmesg | grep -ciE 'BAR .*(failed|no compatible)' || true");
        assert_eq!(found, "0", "every BAR has its place: {}", machine.guest.run("dmesg | grep BAR"));
        machine.end();
    }
}

#[test]
fn vsock_leads_both_ways_and_its_names_go_with_the_machine() {
    let Some(sandbox) = on_kvm() else { return };
    let vsock = sandbox.path().join("vsock");
    let args = ["--vsock", text(&vsock)];
    let mut machine = Machine::start_with(&sandbox, "", &[VSOCK_HALF], &args);
    machine.guest.run("vsock_half echo 5000 & sleep 0");
    let mut stream = until("a listener in the guest", || connected(&vsock, 5000));
    let noise: Vec<u8> = (0..200_000_u32).map(|number| (number.wrapping_mul(number) >> 7) as u8).collect();
    let mut writer = stream.get_ref().try_clone().unwrap();
    let mut heard = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&noise).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut heard).unwrap();
    });
    assert!(heard == noise, "{} of {} bytes, or others", heard.len(), noise.len());
    let listener = UnixListener::bind(format!("{}_6000", text(&vsock))).unwrap();
    let host = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        write!(stream, "heard {text}").unwrap();
    });
    assert_eq!(machine.guest.run("echo a word | vsock_half tell 6000"), "heard a word");
    host.join().unwrap();
    assert_ne!(machine.guest.attempt("echo | vsock_half tell 7000 2> /dev/null").0, 0);
    assert_eq!(sockets(&sandbox), ["control", "vsock", "vsock_6000"]);
    machine.end();
    assert_eq!(sockets(&sandbox), ["vsock_6000"], "what the test made itself is left");
}

/// A connection to a port of the guest.
fn connected(path: &Path, port: u32) -> Option<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).ok()?;
    let (mut stream, mut line) = (BufReader::new(stream), String::new());
    stream.read_line(&mut line).ok()?;
    line.starts_with("OK ").then_some(stream)
}

/// What a guest counts into a file that the host sees.
fn count(share: &Path) -> u64 {
    fs::metadata(share.join("count")).map_or(0, |file| file.len())
}

#[test]
fn a_machine_is_paused_resumed_and_ended_by_its_control_socket() {
    let Some(sandbox) = on_kvm() else { return };
    let share = sandbox.path().join("share");
    fs::create_dir(&share).unwrap();
    let args = ["--cpus", "2", "--share", &format!("{},tag=home", text(&share))];
    let mut machine = Machine::start(&sandbox, &args);
    let state = machine.ask(&["state"]);
    assert_eq!((&state["state"], &state["vcpus"]), (&"running".into(), &2.into()));
    assert_eq!((&state["pid"], &state["memory"]), (&machine.guest.pid().into(), &(256_u64 << 20).into()));
    machine.guest.run("mount -t virtiofs home /mnt; (while :; do echo -n x >> /mnt/count; done) & sleep 0");
    until("the guest to count", || (count(&share) > 0).then_some(()));
    machine.ctl(&["pause"]).ok();
    assert_eq!(machine.ask(&["state"])["state"], "paused");
    // Requests that were under way end; then nothing comes any more, however often one looks.
    let mut before = count(&share);
    until("the last request to end", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = count(&share);
        (std::mem::replace(&mut before, now) == now).then_some(())
    });
    let exits = machine.ask(&["stats"])["vcpu_exits"].clone();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!((count(&share), &machine.ask(&["stats"])["vcpu_exits"]), (before, &exits));
    machine.ctl(&["resume"]).ok();
    assert_eq!(machine.ask(&["state"])["state"], "running");
    until("the guest to count on", || (count(&share) > before).then_some(()));
    assert_eq!(machine.guest.run("echo works"), "works");
    machine.ctl(&["shutdown"]).ok();
    let control = machine.control().to_path_buf();
    machine.guest.wait().expect(4);
    assert!(!control.exists());
}

#[test]
fn a_killed_machine_leaves_nothing_but_names() {
    let Some(sandbox) = on_kvm() else { return };
    let (disk, tap, vsock) = (noise(&sandbox, "disk", 1), Tap::new(&sandbox), sandbox.path().join("vsock"));
    let share = sandbox.path().join("share");
    fs::create_dir(&share).unwrap();
    let (disk, share) = (text(&disk).to_string(), format!("{},tag=home", text(&share)));
    let net = format!("tap={}", tap.name());
    let args = [
        ["--disk", &disk],
        ["--share", &share],
        ["--net", &net],
        ["--vsock", text(&vsock)],
        ["--hotplug", "disk,share"],
    ]
    .concat();
    let mut machine = Machine::start(&sandbox, &args);
    machine.guest.run("mount -t virtiofs home /mnt; (while echo x > /mnt/file; do :; done) & sleep 0");
    let control = machine.control().to_path_buf();
    machine.guest.signal(libc::SIGKILL);
    machine.guest.wait().expect(128 + libc::SIGKILL);
    assert_eq!(processes_with(sandbox.tag()), []);
    sandbox.assert_nothing_left_but(&[tap.name()]);
    assert_eq!(sockets(&sandbox), ["control", "vsock"]);
    ctl(&control, &["state"]).run().refused("control");
    // The next one says that the names are taken, and leaves them alone; without them, all is free again.
    let again = Machine::command(&sandbox, "", &[]).arg("--control").arg(&control).run();
    again.refused("control");
    assert_eq!(sockets(&sandbox), ["control", "vsock"]);
    fs::remove_file(&control).unwrap();
    fs::remove_file(&vsock).unwrap();
    Machine::start(&sandbox, &args).end();
    assert!(sockets(&sandbox).is_empty());
}
