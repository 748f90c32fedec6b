//! FUSE requests to a shared directory full of ways out: nothing beside it is read or changed, whatever is asked for.
//!
//! A guest of root's, as a container's: it may make device nodes, and must not get to what is behind them.
#![no_main]

use fuzz::bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::LazyLock;
use vmm::virtio::device::Device;
use vmm::virtio::fs::wire::{Body, IN_HEADER, Opcode};
use vmm::virtio::mock::Driver;
use vmm::virtio::mock::devices::{Kind, bench};

/// What lies beside the shared directory; nobody can know it beforehand.
static SECRET: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let (near, far) = (Box::new(0_u8), std::time::Instant::now());
    format!("{near:p} {far:?} {}", std::process::id()).into_bytes()
});

/// Room for an answer, bytes.
const ROOM: u32 = 70_000;

const NAMES: [&str; 16] = [
    "a",
    "b",
    "d",
    "d2",
    "up",
    "root",
    "secret",
    "magic",
    "..",
    ".",
    "",
    "../secret",
    "/etc/passwd",
    "user.x",
    "security.capability",
    "system.posix_acl_access",
];

fuzz_target!(|bytes: &[u8]| {
    let outer = tempfile::tempdir().expect("a directory");
    let (share, secret) = (outer.path().join("share"), outer.path().join("secret"));
    prepare(&share, &secret).expect("a directory full of traps");
    let before = fs::metadata(&secret).expect("the secret");
    let mut bench = bench(Kind::Fs, &share).expect("a device");
    fuzz::bound_files();
    let mut driver = Driver::new(&mut *bench.device, u64::MAX);
    let (from, to) = (driver.alloc(128 << 10), driver.alloc(u64::from(ROOM)));
    let (mut bytes, mut unique) = (Bytes(bytes), 0);
    for name in ["a", "d", "up", "root", "secret", "magic"] {
        ask(
            &mut driver,
            &mut *bench.device,
            (from, to),
            &request(1, 1, 0, &[name.as_bytes(), b"\0"].concat()),
            ROOM,
        );
    }
    while let Some(opcode) = bytes.byte().filter(|_| unique < 100) {
        unique += 1;
        let how = bytes.byte().unwrap_or(0);
        let node = if how & 15 == 15 { bytes.word64() } else { u64::from(how & 15) };
        let request = request(u32::from(opcode % 64), node, unique, &body(&mut bytes));
        let room = if how & 0x80 == 0 { ROOM } else { u32::from(how) };
        let answer = ask(&mut driver, &mut *bench.device, (from, to), &request, room);
        let silent = Opcode::from_wire(u32::from(opcode % 64)).is_some_and(Opcode::is_silent);
        assert!(answer.len() <= room as usize && !(silent && !answer.is_empty()));
        assert!(!contains(&answer, &SECRET), "what lies beside the share was read");
    }
    bench.device.reset();
    let after = fs::metadata(&secret).expect("the secret");
    assert_eq!(fs::read(&secret).expect("the secret"), *SECRET);
    let state = |m: &fs::Metadata| (m.mode(), m.uid(), m.nlink(), m.ctime(), m.ctime_nsec());
    assert_eq!(state(&before), state(&after), "what lies beside the share was changed");
    assert_eq!(
        fs::read_dir(outer.path()).expect("the directory").count(),
        2,
        "something was made beside the share"
    );
});

fn prepare(share: &Path, secret: &Path) -> std::io::Result<()> {
    fs::write(secret, &*SECRET)?;
    fs::create_dir(share)?;
    fs::write(share.join("a"), "text")?;
    fs::create_dir(share.join("d"))?;
    symlink("..", share.join("up"))?;
    symlink("/", share.join("root"))?;
    symlink(secret, share.join("secret"))?;
    symlink("/proc/self/root", share.join("magic"))
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

fn request(opcode: u32, node: u64, unique: u64, body: &[u8]) -> Vec<u8> {
    let header = Body::default().u32((IN_HEADER + body.len()) as u32).u32(opcode).u64(unique).u64(node);
    [header.zeros(16).0.as_slice(), body].concat()
}

/// Fields that mean something more often than not: small numbers, names.
fn body(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..bytes.byte().unwrap_or(0) % 12 {
        let Some(kind) = bytes.byte() else { break };
        match kind % 8 {
            0 | 1 => body.extend(u64::from(bytes.byte().unwrap_or(0)).to_le_bytes()),
            2 | 3 => body.extend(u32::from(bytes.byte().unwrap_or(0)).to_le_bytes()),
            4 => body.extend(bytes.word32().to_le_bytes()),
            5 => body.extend(
                [NAMES[usize::from(bytes.byte().unwrap_or(0)) % NAMES.len()].as_bytes(), b"\0"].concat(),
            ),
            6 => body.extend(bytes.word64().to_le_bytes()),
            _ => body.extend(bytes.take(usize::from(kind >> 3))),
        }
    }
    body
}

fn ask(
    driver: &mut Driver,
    device: &mut dyn Device,
    (from, to): (u64, u64),
    request: &[u8],
    room: u32,
) -> Vec<u8> {
    driver.write(from, request);
    driver.add(1, &[(from, request.len() as u32, false), (to, room, true)]);
    driver.kick(device, 1).expect("a ring that is in order");
    loop {
        if let Some((_, length)) = driver.used(1).pop() {
            return driver.read(to, length as usize);
        }
        std::thread::yield_now();
    }
}
