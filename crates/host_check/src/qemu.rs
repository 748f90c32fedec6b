//! Which QEMU is installed, and its version, without running it: starting QEMU costs tens of milliseconds of dynamic
//! linking, and this is on the path of every `cor create`.
//!
//! The text that `--version` prints is one literal in the program's read-only data, so that section is searched. A
//! program that is no such ELF file (a wrapper script, a packed program) is run with `--version` instead.

use crate::Root;
use crate::facts::Qemu;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// What stands before the version.
const LABEL: &[u8] = b"QEMU emulator version ";

/// Bytes read at once; the section is about 2 MiB.
const CHUNK: usize = 256 << 10;

/// Longest section that is searched.
const LARGEST_SECTION: u64 = 64 << 20;

/// Most that `--version` may print.
const LONGEST_OUTPUT: u64 = 4096;

/// How long `--version` may take: a cold disk takes seconds.
const RUN_DEADLINE: Duration = Duration::from_secs(10);

/// Finds the system emulator for the host's architecture. One whose version cannot be told counts as absent.
pub(crate) fn find(root: &Root) -> Option<Qemu> {
    let path = root.program(&program_name(root.arch()))?;
    let version = version(&path)?;
    Some(Qemu { path, version })
}

/// QEMU names programs after its own targets, which differ from GNU names for a few.
pub(crate) fn program_name(arch: &str) -> String {
    let target = match arch {
        "powerpc64" => "ppc64",
        other => other,
    };
    format!("qemu-system-{target}")
}

fn version(path: &Path) -> Option<(u32, u32)> {
    let literal = File::open(path).and_then(|file| literal_version(&file)).ok().flatten();
    literal.or_else(|| parse_version(&run(path)?))
}

/// Searches the section of read-only data.
fn literal_version(file: &File) -> io::Result<Option<(u32, u32)>> {
    let Some((start, length)) = read_only_data(file)? else { return Ok(None) };
    let finder = memchr::memmem::Finder::new(LABEL);
    let overlap = LABEL.len() + 16;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length.min(LARGEST_SECTION) {
        let count = read_up_to(file, &mut buffer, start + at)?;
        let chunk = &buffer[..count];
        let found = finder.find_iter(chunk).find_map(|index| parse_version(&chunk[index..]));
        if found.is_some() || count <= overlap {
            return Ok(found);
        }
        at += (count - overlap) as u64;
    }
    Ok(None)
}

/// Offset and length of `.rodata` in a 64-bit little-endian ELF file (System V ABI, chapter 4: section header table).
fn read_only_data(file: &File) -> io::Result<Option<(u64, u64)>> {
    const ENTRY: usize = 64;
    const LONGEST_TABLE: usize = 256 * ENTRY;
    let mut header = [0; 64];
    if read_up_to(file, &mut header, 0)? < header.len() || &header[..6] != b"\x7fELF\x02\x01" {
        return Ok(None);
    }
    let (entry, count, names) = (u16_at(&header, 58), u16_at(&header, 60), usize::from(u16_at(&header, 62)));
    let mut table = vec![0; usize::from(count) * ENTRY];
    if usize::from(entry) != ENTRY || table.len() > LONGEST_TABLE || names >= usize::from(count) {
        return Ok(None);
    }
    if read_up_to(file, &mut table, u64_at(&header, 40))? < table.len() {
        return Ok(None);
    }
    let sections: Vec<&[u8]> = table.chunks_exact(ENTRY).collect();
    for section in &sections {
        let mut name = [0; 8];
        let offset = u64_at(sections[names], 24).saturating_add(u64::from(u32_at(section, 0)));
        if read_up_to(file, &mut name, offset)? == name.len() && &name == b".rodata\0" {
            return Ok(Some((u64_at(section, 24), u64_at(section, 32))));
        }
    }
    Ok(None)
}

/// Reads until the buffer is full or the file ends.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// `QEMU emulator version 10.0.2 (..)` -> (10, 0)
fn parse_version(text: &[u8]) -> Option<(u32, u32)> {
    let rest = text.strip_prefix(LABEL)?;
    let mut parts = rest.split(|byte| !byte.is_ascii_digit());
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse().ok();
    Some((number()?, number()?))
}

/// What the program prints for `--version`, unless it takes too long.
fn run(path: &Path) -> Option<Vec<u8>> {
    let mut child = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = Vec::new();
        let done = stdout.take(LONGEST_OUTPUT).read_to_end(&mut output);
        // Nobody listens any more when the deadline has passed.
        let _ = sender.send(done.map(|_| output));
    });
    let output = receiver.recv_timeout(RUN_DEADLINE).ok().and_then(Result::ok);
    // It has closed its output or is late: in both cases it must not stay.
    let _ = child.kill();
    let _ = child.wait();
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_host::{FakeHost, elf_with_rodata};

    #[test]
    fn versions() {
        assert_eq!(parse_version(b"QEMU emulator version 10.0.2 (Debian 1:10)\0"), Some((10, 0)));
        assert_eq!(parse_version(b"QEMU emulator version 8.2\0"), Some((8, 2)));
        assert_eq!(parse_version(b"QEMU emulator version %s\0"), None);
        assert_eq!(parse_version(b"qemu-img version 7.2"), None);
    }

    #[test]
    fn found_in_read_only_data_across_chunks() {
        let host = FakeHost::new();
        for place in [0, CHUNK - 30, CHUNK - 10, CHUNK, 3 * CHUNK + 5] {
            let mut data = vec![b'x'; place];
            data.extend_from_slice(b"QEMU emulator version 9.1.0\0");
            data.extend_from_slice(&[b'y'; 100]);
            host.program("/usr/bin/qemu-system-x86_64", &elf_with_rodata(&data));
            assert_eq!(find(&host.root()).map(|qemu| qemu.version), Some((9, 1)), "literal at {place}");
        }
    }

    #[test]
    fn a_wrapper_script_is_run() {
        let _alone = FakeHost::runs_programs();
        let host = FakeHost::new();
        let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version 8.2.1'\n";
        host.program("/usr/bin/qemu-system-x86_64", script.as_bytes());
        assert_eq!(find(&host.root()).map(|qemu| qemu.version), Some((8, 2)));
    }

    #[test]
    fn a_program_without_a_version_is_no_qemu() {
        let _alone = FakeHost::runs_programs();
        let host = FakeHost::new();
        host.program("/usr/bin/qemu-system-x86_64", b"#!/bin/sh\necho hello\n");
        assert_eq!(find(&host.root()), None);
        host.program("/usr/bin/qemu-system-x86_64", &elf_with_rodata(b"nothing here")[..70]);
        assert_eq!(find(&host.root()), None);
    }
}
