//! Inputs for the targets of clear-vmm: kernels that boot, drivers that behave, clients that ask for what there is.

use super::put;
use machine_spec::{Accelerator, Chassis, Device, Kernel, MachineSpec, VERSION};
use std::io::Result;
use std::path::Path;

pub fn write(root: &Path) -> Result<()> {
    put(root, "kernel_image", "linux", &fuzz::kernel(true))?;
    put(root, "kernel_image", "pvh", &fuzz::kernel(false))?;
    put(root, "kernel_image", "bzimage", &bzimage())?;
    put(root, "boot_parameters", "linux", b"\x00\x02\x00\x10\x40\x00console=hvc0 quiet -- panic=7")?;
    put(root, "boot_parameters", "pvh", b"\x07\xff\x00\x10\x00\x01reboot=t 8250.nr_uarts=1")?;
    put(root, "machine_spec", "all-devices", serde_json::to_string_pretty(&spec())?.as_bytes())?;
    put(root, "control_commands", "all", &[b"\x09", COMMANDS].concat())?;
    put(root, "control_commands", "pieces", &[b"\x01", COMMANDS].concat())?;
    put(root, "virtqueue", "chains", &queue())?;
    put(root, "pci_bus", "driver", &driver())?;
    put(root, "fs_requests", "session", &session())?;
    for (number, (name, requests)) in devices().into_iter().enumerate() {
        let requests = requests.iter().flat_map(|(queue, bytes, room)| request(*queue, bytes, *room));
        // And at the end: the host says something, the device looks at its files.
        let input: Vec<u8> =
            [number as u8].into_iter().chain(requests).chain(*b"\x0d\x04ping\x0e\0\x0e\0").collect();
        put(root, "virtio_device", name, &input)?;
    }
    Ok(())
}

fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1F1, &[3]);
    put(0x201, &[0x6A]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x236, &[1]);
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x10_0000_u32.to_le_bytes());
    file
}

fn spec() -> MachineSpec {
    MachineSpec {
        version: VERSION,
        name: "web".into(),
        accelerator: Accelerator::Kvm,
        chassis: Chassis::Clear,
        vcpus: 2,
        memory_mib: 256,
        kernel: Kernel {
            path: "/store/vmlinux".into(),
            cmdline: vec!["quiet".into(), "root=/dev/pmem0".into()],
            initramfs: Some("/store/initramfs.cpio".into()),
        },
        console: true,
        devices: vec![
            Device::Vsock { agent_port: 1024 },
            Device::AgentChannel { port: "agent".into() },
            Device::Block { serial: "root".into(), path: "/disk".into(), readonly: true },
            Device::Pmem { path: "/image".into(), size: 4 << 20 },
            Device::Share { tag: "rootfs".into(), path: "/share".into(), readonly: false },
        ],
    }
}

const COMMANDS: &[u8] = br#"{"version":1,"command":"state"}
{"version":1,"command":"stats"}
{"version":1,"command":"pause"}
{"version":1,"command":"memory","arguments":{"size":1073741824}}
{"version":1,"command":"add-disk","arguments":{"id":"data","readonly":true}}
{"version":1,"command":"add-pmem","arguments":{"id":"image","access":"cow"}}
{"version":1,"command":"add-share","arguments":{"id":"s","readonly":false,"dax":2097152}}
{"version":1,"command":"add-net","arguments":{"id":"net0","mac":[2,0,0,0,0,1]}}
{"version":1,"command":"add-net","arguments":{"id":"net1","mac":[2,0,0,0,0,2],"queues":2}}
{"version":1,"command":"remove","arguments":{"id":"data","force":true}}
{"version":2,"command":"dance"}
{"version":1,"command":"resume"}
{"version":1,"command":"shutdown"}
"#;

/// A queue of 16: two descriptors to read and write, one indirect table, all offered.
fn queue() -> Vec<u8> {
    let mut bytes = vec![2];
    for word in [16_u16, 0, 0x100, 0x200] {
        bytes.extend(word.to_le_bytes());
    }
    let descriptor = |address: u64, len: u32, flags: u16, next: u16| {
        [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
    };
    let mut memory = [
        descriptor(0x1000, 64, 1, 1),
        descriptor(0x2000, 128, 2, 0),
        descriptor(0x180, 32, 4, 0),
        descriptor(0x2_0000, 16, 2, 0),
    ]
    .concat();
    memory.resize(0x100, 0);
    // Flags, index, ring.
    memory.extend([0_u16, 3, 0, 2, 3].iter().flat_map(|word| word.to_le_bytes()));
    memory.resize(0x180, 0);
    memory.extend(descriptor(0x3000, 8, 1, 1));
    memory.extend(descriptor(0x3000, 8, 2, 0));
    [bytes, memory].concat()
}

/// Writes to the registers of the device in slot 1 as its driver does, up to a request and its answer.
fn driver() -> Vec<u8> {
    let mut input = Vec::new();
    let write = |input: &mut Vec<u8>, offset: u8, size: u8, value: u64| {
        input.extend([4 | size, offset]);
        input.extend(value.to_le_bytes());
    };
    // Command: ports, memory, bus master. Then MSI-X on, vector 0 unmasked.
    for (register, value) in [(4_u16, 7_u64), (0x40, 0x8000_0000)] {
        input.push(0x46);
        input.extend((1 << 11 | register).to_le_bytes());
        input.extend(value.to_le_bytes());
    }
    input.extend([0x86, 0x0C, 0]);
    input.extend([0; 8]);
    for (offset, size, value) in [
        (20, 0, 3),
        (8, 2, 1),
        (12, 2, 1),
        (20, 0, 11),
        (22, 1, 0),
        (24, 1, 8),
        (26, 1, 0),
        (32, 2, 0x1000),
        (40, 2, 0x2000),
        (48, 2, 0x3000),
    ] {
        write(&mut input, offset, size, value);
    }
    // One descriptor of 48 bytes to write, offered.
    input.extend([0xC4, 0, 0x10]);
    input.extend([0, 0x40, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0, 2, 0, 0, 0]);
    input.extend([0xC2, 0, 0x20]);
    input.extend([0, 0, 1, 0, 0, 0, 0, 0]);
    for (offset, size, value) in [(28, 1, 1), (20, 0, 15), (0x40, 1, 0)] {
        write(&mut input, offset, size, value);
    }
    input.push(0xE0);
    // Read status, ISR and a device's configuration; reset.
    for offset in [20, 0xFC, 0x80] {
        input.extend([2, offset]);
        input.extend([0; 8]);
    }
    write(&mut input, 20, 0, 0);
    input
}

/// One request of a driver to a queue, as `fuzz::guest` reads it.
fn request(queue: u8, bytes: &[u8], room: u8) -> Vec<u8> {
    [&[6, queue, bytes.len() as u8, 16, room][..], bytes].concat()
}

type Requests = Vec<(u8, Vec<u8>, u8)>;

/// Requests that each device answers, in the order of `KINDS`.
fn devices() -> [(&'static str, Requests); 10] {
    let block =
        |kind: u32, data: &[u8]| [&kind.to_le_bytes()[..], &[0; 4], &1_u64.to_le_bytes(), data].concat();
    let extent = [&8_u64.to_le_bytes()[..], &8_u32.to_le_bytes(), &[0; 4]].concat();
    let mem = |kind: u8, count: u8| {
        [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &(1_u64 << 32).to_le_bytes(), &[count, 0, 0, 0, 0, 0, 0, 0]]
            .concat()
    };
    let fuse = |opcode: u32, body: &[u8]| {
        let mut all = (40 + body.len() as u32).to_le_bytes().to_vec();
        all.extend(opcode.to_le_bytes());
        all.extend([1, 0, 0, 0, 0, 0, 0, 0, 1]);
        all.extend([0; 23]);
        [all.as_slice(), body].concat()
    };
    let vsock = |op: u8, data: &[u8]| {
        let mut header = [3_u64, 2].iter().flat_map(|cid| cid.to_le_bytes()).collect::<Vec<u8>>();
        header.extend([1000_u32, 9, data.len() as u32].iter().flat_map(|word| word.to_le_bytes()));
        header.extend([1, 0, op, 0]);
        header.extend([0_u32, 65536, 0].iter().flat_map(|word| word.to_le_bytes()));
        [header.as_slice(), data].concat()
    };
    let pages = [0x200_u32, 0x201, 0x203].iter().flat_map(|page| page.to_le_bytes()).collect::<Vec<u8>>();
    [
        (
            "balloon",
            vec![
                (0, pages.clone(), 0),
                (1, pages, 0),
                (2, vec![4, 0, 1, 2, 3, 4, 5, 6, 7, 8], 0),
                (4, vec![], 200),
            ],
        ),
        (
            "block",
            vec![
                (0, block(0, &[]), 201),
                (0, block(1, &[7; 200]), 1),
                (0, block(4, &[]), 1),
                (0, block(8, &[]), 21),
                (0, block(11, &extent), 1),
                (0, block(13, &extent), 1),
            ],
        ),
        ("console", vec![(0, vec![], 100), (1, b"hello\n".to_vec(), 0)]),
        (
            "fs",
            vec![
                (1, fuse(26, &[7, 0, 0, 0, 40, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0]), 80),
                (1, fuse(17, &[]), 96),
            ],
        ),
        ("mem", vec![(0, mem(0, 2), 10), (0, mem(3, 4), 10), (0, mem(1, 1), 10), (0, mem(2, 0), 10)]),
        ("net", vec![(0, vec![], 200), (1, [[0; 12].as_slice(), &[0x55; 60]].concat(), 0)]),
        ("pmem", vec![(0, vec![0; 4], 4), (0, vec![1; 4], 4)]),
        ("rng", vec![(0, vec![], 64)]),
        (
            "vsock",
            vec![
                (0, vec![], 200),
                (0, vec![], 200),
                (1, vsock(1, &[]), 0),
                (1, vsock(5, b"data"), 0),
                (1, vsock(4, &[]), 0),
            ],
        ),
        (
            "net-queues",
            vec![
                (6, vec![4, 0, 3, 0], 1),
                (2, vec![], 200),
                (5, [[0; 12].as_slice(), &[0x55; 60]].concat(), 0),
                (6, vec![4, 0, 1, 0], 1),
                (3, [[0; 12].as_slice(), &[0x55; 60]].concat(), 0),
                (6, vec![0, 0, 1, 0], 1),
            ],
        ),
    ]
}

/// FUSE requests as `fs_requests` reads them: opcode, node, and fields; `n`: 64 bits, `w`: 32 bits, `s`: a name of its list.
fn session() -> Vec<u8> {
    let mut input = Vec::new();
    let mut ask = |opcode: u8, node: u8, fields: &[(char, u8)]| {
        input.extend([opcode, node, fields.len() as u8]);
        for (kind, value) in fields {
            input.extend([
                match kind {
                    'n' => 0,
                    'w' => 2,
                    _ => 5,
                },
                *value,
            ]);
        }
    };
    ask(26, 0, &[('w', 7), ('w', 40), ('w', 0), ('w', 0), ('w', 0)]);
    ask(14, 2, &[('w', 2), ('w', 0)]);
    ask(16, 2, &[('n', 1), ('n', 0), ('w', 4), ('w', 0), ('n', 0), ('w', 0), ('w', 0), ('w', 1)]);
    ask(15, 2, &[('n', 1), ('n', 0), ('w', 9), ('w', 0), ('n', 0), ('w', 0), ('w', 0)]);
    ask(46, 2, &[('n', 1), ('n', 0), ('w', 3), ('w', 0)]);
    ask(43, 2, &[('n', 1), ('n', 0), ('n', 64), ('w', 0), ('w', 0)]);
    ask(20, 2, &[('n', 1), ('w', 0), ('w', 0)]);
    ask(27, 1, &[('w', 0), ('w', 0)]);
    ask(28, 1, &[('n', 2), ('n', 0), ('w', 255), ('w', 0), ('n', 0), ('w', 0), ('w', 0)]);
    ask(44, 1, &[('n', 2), ('n', 0), ('w', 255), ('w', 0), ('n', 0), ('w', 0), ('w', 0)]);
    ask(9, 1, &[('w', 255), ('w', 0), ('s', 3)]);
    ask(8, 1, &[('w', 128), ('w', 5), ('w', 0), ('w', 0), ('s', 1)]);
    ask(35, 3, &[('w', 66), ('w', 255), ('w', 0), ('w', 0), ('s', 1)]);
    ask(6, 1, &[('s', 11), ('s', 1)]);
    ask(13, 3, &[('n', 2), ('s', 6)]);
    ask(12, 1, &[('n', 3), ('s', 0), ('s', 2)]);
    ask(45, 1, &[('n', 4), ('w', 2), ('w', 0), ('s', 0), ('s', 1)]);
    ask(
        4,
        2,
        &[
            ('w', 8),
            ('w', 0),
            ('n', 0),
            ('n', 9),
            ('n', 0),
            ('n', 0),
            ('n', 0),
            ('n', 0),
            ('n', 0),
            ('n', 0),
            ('n', 0),
        ],
    );
    ask(21, 2, &[('w', 1), ('w', 0), ('w', 0), ('w', 0), ('s', 13), ('w', 65)]);
    ask(22, 2, &[('w', 64), ('w', 0), ('s', 13)]);
    ask(5, 6, &[]);
    ask(10, 1, &[('s', 1)]);
    ask(11, 1, &[('s', 3)]);
    ask(18, 2, &[('n', 1), ('w', 0), ('w', 0), ('n', 0)]);
    ask(2, 2, &[('n', 1)]);
    ask(38, 0, &[]);
    input
}
