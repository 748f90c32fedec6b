//! A virtual function on the command line of `clear-vmm`.

use crate::adapter::{Adapter, HOST, OURS};
use vm_tests::{Machine, on_kvm, send_signal, until};

#[test]
fn the_guest_drives_a_function_and_gives_it_back_by_its_end() {
    let Some(sandbox) = on_kvm() else { return };
    let Some(adapter) = Adapter::new() else { return };
    let address = adapter.address();
    let command = Machine::command(&sandbox, "", &[]).args(["--vfio", &address]);
    command.run().refused("is not bound to vfio-pci; as root:");
    adapter.give_to_vfio();
    command.args(["--balloon"]).run().refused("do without --balloon");
    for last in [false, true] {
        let mut machine = Machine::start(&sandbox, &["--vfio", &address]);
        let device = machine.device("state", &address).expect("the function");
        assert_eq!((&device["kind"], &device["pci"]), (&"vfio".into(), &"0000:00:10.0".into()));
        machine.ctl(&["remove", &address]).run().refused("stays as long as the machine");
        machine.guest.run("until_ 'test -d /sys/bus/pci/devices/0000:00:10.0/net'");
        machine.guest.run("mv_=$(ls /sys/bus/pci/devices/0000:00:10.0/net); ip link set $mv_ up");
        machine.guest.run(&format!("ip address add {OURS}/24 dev $mv_"));
        machine.guest.run(&format!("until_ 'ping -c 1 -W 1 {HOST} > /dev/null'"));
        machine.guest.run(&format!("ping -c 300 -i 0.002 -s 1300 -W 5 {HOST} | grep -q ' 0% packet loss'"));
        // The driver can let go of it, and take it again.
        machine.guest.run("cd /sys/bus/pci/drivers/igbvf; echo 0000:00:10.0 > unbind");
        machine.guest.run("echo 0000:00:10.0 > bind; cd /; ip link set $mv_ up");
        machine.guest.run(&format!("ip address add {OURS}/24 dev $mv_"));
        machine.guest.run(&format!("until_ 'ping -c 1 -W 1 {HOST} > /dev/null'"));
        if last {
            // Killed while it works: the next opener finds it reset, and the host takes it back.
            let pid = machine.guest.pid();
            send_signal(pid, libc::SIGKILL);
            assert_eq!(machine.guest.wait().code, 137);
        } else {
            machine.end();
        }
    }
    let function = adapter.function();
    std::fs::write(function.join("driver/unbind"), &address).unwrap();
    std::fs::write(function.join("driver_override"), "\n").unwrap();
    std::fs::write("/sys/bus/pci/drivers_probe", &address).unwrap();
    until("the host's driver", || adapter.function_interface());
}
