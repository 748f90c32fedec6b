//! Memory that comes and goes (virtio-mem).

use std::ops::RangeInclusive;
use vm_tests::{Machine, on_kvm, until};

const MIB: u64 = 1 << 20;

/// KiB of RAM that the guest's kernel has.
const TOTAL: &str = "sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo";

fn total(machine: &mut Machine) -> u64 {
    machine.guest.run(TOTAL).parse::<u64>().expect("a number of KiB") << 10
}

/// Waits until the guest's kernel uses what it has plugged, or uses no more what it has unplugged.
fn until_total(machine: &mut Machine, range: RangeInclusive<u64>) {
    until(&format!("a MemTotal within {range:?}"), || range.contains(&total(machine)).then_some(()));
}

/// Bytes of the host's memory that the machine takes.
fn resident(machine: &Machine) -> u64 {
    machine.ask(&["stats"])["memory"]["rss"].as_u64().expect("bytes")
}

/// Has the guest use so many MiB, until it unmounts `/mnt`.
fn fill(mib: u64) -> String {
    format!(
        "mount -t tmpfs -o size={mib}m full /mnt; dd if=/dev/zero of=/mnt/file bs=1M count={mib} 2> /dev/null"
    )
}

/// Asks for memory and waits until the guest has just that much.
fn resize(machine: &Machine, mib: u64) {
    let answer = machine.ask(&["memory", &format!("{mib}M")]);
    assert_eq!((&answer["wanted"], &answer["max"]), (&(mib * MIB).into(), &(640 * MIB).into()));
    until("the guest to have what it was told to", || {
        (machine.ask(&["state"])["memory_size"]["now"] == mib * MIB).then_some(())
    });
}

#[test]
fn a_guest_gets_memory_and_the_host_gets_it_back() {
    let Some(sandbox) = on_kvm() else { return };
    let args = ["--memory", "128M", "--memory-max", "640M"];
    let mut machine = Machine::start_with(&sandbox, "memhp_default_state=online_movable", &[], &args);
    let small = total(&mut machine);
    machine.ctl(&["memory", "64M"]).run().refused("128 to 640 MiB");
    machine.ctl(&["memory", "641M"]).run().refused("128 to 640 MiB");
    resize(&machine, 512);
    // Blocks of 384 MiB came; their page descriptors are not from them.
    until_total(&mut machine, small + 360 * MIB..=small + 384 * MIB);
    let before = resident(&machine);
    machine.guest.run(&fill(200));
    let full = resident(&machine);
    assert!(full > before + 190 * MIB, "{before} to {full}");
    machine.guest.run("umount /mnt");
    resize(&machine, 128);
    until_total(&mut machine, small - 16 * MIB..=small + 16 * MIB);
    let after = resident(&machine);
    assert!(after + 150 * MIB < full, "{full} to {after}");
    resize(&machine, 640);
    until_total(&mut machine, small + 480 * MIB..=small + 512 * MIB);
    machine.guest.run(&fill(200));
    machine.end();
}

#[test]
fn a_balloon_gives_back_what_came_later() {
    let Some(sandbox) = on_kvm() else { return };
    let args = ["--memory", "128M", "--memory-max", "640M", "--balloon"];
    let mut machine = Machine::start_with(&sandbox, "memhp_default_state=online_movable", &[], &args);
    let small = total(&mut machine);
    resize(&machine, 640);
    until_total(&mut machine, small + 480 * MIB..=small + 512 * MIB);
    machine.guest.run(&fill(200));
    let full = resident(&machine);
    machine.guest.run("umount /mnt");
    until("the host to have free memory back", || (resident(&machine) + 150 * MIB < full).then_some(()));
    assert_eq!(machine.ask(&["state"])["memory_size"]["now"], 640 * MIB);
    machine.end();
}

#[test]
fn a_machine_without_a_most_keeps_its_memory() {
    let Some(sandbox) = on_kvm() else { return };
    let machine = Machine::start(&sandbox, &[]);
    machine.ctl(&["memory", "512M"]).run().refused("--memory-max");
    assert_eq!(machine.ask(&["state"])["memory_size"], serde_json::Value::Null);
    machine.end();
}
