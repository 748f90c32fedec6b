//! Values of options: sizes, and names with properties behind commas.

use crate::memory::window::Sharing;
use crate::virtio::net::MAX_PAIRS;
use crate::virtio::rate_limit::PerSecond;
use std::path::PathBuf;
use std::str::FromStr;

/// `--pmem FILE[,ro|cow]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PmemOption {
    /// The image.
    pub path: PathBuf,
    /// Who sees writes.
    pub sharing: Sharing,
}

impl FromStr for PmemOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, sharing) = match text.rsplit_once(',') {
            Some((path, "ro")) => (path, Sharing::ReadOnly),
            Some((path, "cow")) => (path, Sharing::CopyOnWrite),
            _ => (text, Sharing::Shared),
        };
        Ok(PmemOption { path: path.into(), sharing })
    }
}

/// `--disk FILE[,ro][,bps=SIZE][,iops=N]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOption {
    /// File or block device.
    pub path: PathBuf,
    /// The guest cannot write it.
    pub readonly: bool,
    /// What it serves.
    pub limits: PerSecond,
}

impl FromStr for DiskOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut disk = DiskOption { path: text.into(), readonly: false, limits: PerSecond::default() };
        let mut rest = text;
        // A file's name may have commas: properties are what is known at the end.
        while let Some((path, property)) = rest.rsplit_once(',') {
            match property.split_once('=') {
                None if property == "ro" => disk.readonly = true,
                Some(("bps", size)) => disk.limits.bytes = Some(parse_bytes(size)?),
                Some(("iops", number)) => disk.limits.ops = Some(parse_count(number)?),
                _ => break,
            }
            rest = path;
        }
        disk.path = rest.into();
        Ok(disk)
    }
}

/// `--share DIRECTORY,tag=TAG[,ro][,dax=SIZE]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareOption {
    /// The directory.
    pub path: PathBuf,
    /// By which the guest mounts it.
    pub tag: String,
    /// The guest cannot change it.
    pub readonly: bool,
    /// MiB of its window, 0 for none.
    pub dax_mib: u64,
}

impl FromStr for ShareOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A directory's name may have commas: properties are what follows `,tag=`.
        let (path, properties) = text.rsplit_once(",tag=").ok_or("DIRECTORY,tag=TAG is expected")?;
        let mut parts = properties.split(',');
        let tag = parts.next().unwrap_or_default().to_string();
        let mut share = ShareOption { path: path.into(), tag, readonly: false, dax_mib: 0 };
        for part in parts {
            match part.split_once('=') {
                None if part == "ro" => share.readonly = true,
                Some(("dax", size)) => share.dax_mib = parse_mib(size)?,
                _ => return Err(format!("{part:?} is neither ro nor dax=SIZE")),
            }
        }
        Ok(share)
    }
}

/// `--net tap=NAME[,mac=ADDRESS][,queues=N][,rx-bps=SIZE][,tx-bps=SIZE][,rx-pps=N][,tx-pps=N]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetOption {
    /// The host's interface.
    pub tap: String,
    /// The guest's address.
    pub mac: [u8; 6],
    /// Pairs of queues, 1..=[`MAX_PAIRS`].
    pub queues: usize,
    /// What may come to the guest.
    pub rx: PerSecond,
    /// What may come from it.
    pub tx: PerSecond,
}

impl FromStr for NetOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut tap, mut mac, mut queues) = (None, None, 1);
        let (mut rx, mut tx) = (PerSecond::default(), PerSecond::default());
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("tap", name)) => tap = Some(name.to_string()),
                Some(("mac", address)) => mac = Some(parse_mac(address)?),
                Some(("queues", number)) => queues = parse_queues(number)?,
                Some(("rx-bps", size)) => rx.bytes = Some(parse_bytes(size)?),
                Some(("tx-bps", size)) => tx.bytes = Some(parse_bytes(size)?),
                Some(("rx-pps", number)) => rx.ops = Some(parse_count(number)?),
                Some(("tx-pps", number)) => tx.ops = Some(parse_count(number)?),
                _ => {
                    return Err(format!(
                        "{part:?} is none of tap=NAME, mac=ADDRESS, queues=N, rx-bps=SIZE, tx-bps=SIZE, rx-pps=N and tx-pps=N"
                    ));
                }
            }
        }
        let tap = tap.ok_or("tap=NAME is missing")?;
        let mac = mac.unwrap_or_else(|| mac_for(&tap));
        Ok(NetOption { tap, mac, queues, rx, tx })
    }
}

fn parse_queues(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_PAIRS).contains(number));
    number.ok_or_else(|| {
        format!(
            "{text:?} is no number of queues; write 1 to {MAX_PAIRS}, best as many as the machine has CPUs"
        )
    })
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)).collect();
    let mac: [u8; 6] = bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("{text:?} is no hardware address; write for example 02:00:00:00:00:01"))?;
    if mac[0] & 1 == 1 { Err(format!("{text:?} is a group's address, not an interface's")) } else { Ok(mac) }
}

/// An address that stays the same for a name: locally administered, the rest a hash (FNV-1a) of the name.
fn mac_for(name: &str) -> [u8; 6] {
    let hash = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let [a, b, c, d, e, ..] = hash.to_le_bytes();
    [2, a, b, c, d, e]
}

/// Bytes, from a number with K, M or G (powers of 1024); at least 1.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => Some(1),
        "K" | "k" => Some(1 << 10),
        "M" | "m" => Some(1 << 20),
        "G" | "g" => Some(1 << 30),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = unit.zip(number).and_then(|(unit, number)| number.checked_mul(unit));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("{text:?} is no number of bytes; write for example 10M"))
}

/// A number of requests or packets, at least 1.
fn parse_count(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{text:?} is no number of requests or packets; write for example 1000"))
}

/// A size in MiB, from a number with K, M, G or T (powers of 1024), M when it is left out.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size; write for example 256M"))?;
    let mib = match &text[digits.len()..] {
        "K" | "k" => number.is_multiple_of(1024).then_some(number / 1024),
        "" | "M" | "m" => Some(number),
        "G" | "g" => number.checked_mul(1 << 10),
        "T" | "t" => number.checked_mul(1 << 20),
        _ => None,
    };
    mib.filter(|mib| *mib < 1 << 34)
        .ok_or_else(|| format!("{text:?} is no size in whole MiB; write for example 256M or 2G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_mib("256M"), Ok(256));
        assert_eq!(parse_mib("256"), Ok(256));
        assert_eq!(parse_mib("2G"), Ok(2048));
        assert_eq!(parse_mib("2048K"), Ok(2));
        for bad in ["", "M", "1.5G", "3X", "1K", "-1", "99999999999T", "999999999999999999999"] {
            assert!(parse_mib(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_with_properties() {
        let pmem = |path: &str, sharing| PmemOption { path: path.into(), sharing };
        assert_eq!("a,b.img".parse(), Ok(pmem("a,b.img", Sharing::Shared)));
        assert_eq!("a.img,ro".parse(), Ok(pmem("a.img", Sharing::ReadOnly)));
        assert_eq!("a.img,cow".parse(), Ok(pmem("a.img", Sharing::CopyOnWrite)));
        let disk = |path: &str, readonly, bytes, ops| {
            Ok(DiskOption { path: path.into(), readonly, limits: PerSecond { bytes, ops } })
        };
        assert_eq!("d,ro".parse(), disk("d", true, None, None));
        assert_eq!("d,x=1,iops=5,ro,bps=2K".parse(), disk("d,x=1", true, Some(2048), Some(5)));
        for bad in ["d,bps=0", "d,bps=", "d,bps=1T", "d,iops=0", "d,iops=1K", "d,bps=99999999999G"] {
            assert!(bad.parse::<DiskOption>().is_err(), "{bad}");
        }
        let share =
            |readonly, dax_mib| ShareOption { path: "/a,b".into(), tag: "t".into(), readonly, dax_mib };
        assert_eq!("/a,b,tag=t".parse(), Ok(share(false, 0)));
        assert_eq!("/a,b,tag=t,ro,dax=1G".parse(), Ok(share(true, 1024)));
        for bad in ["/a", "/a,tag=t,rw", "/a,tag=t,dax", "/a,tag=t,dax=x"] {
            assert!(bad.parse::<ShareOption>().is_err(), "{bad}");
        }
        let net: NetOption = "tap=t0,mac=02:00:00:00:00:ff".parse().unwrap();
        assert_eq!((net.tap.as_str(), net.mac[5]), ("t0", 255));
        let net: NetOption = "tap=t0,rx-bps=1M,tx-pps=7".parse().unwrap();
        assert_eq!(
            (net.rx.bytes, net.rx.ops, net.tx.bytes, net.tx.ops),
            (Some(1 << 20), None, None, Some(7))
        );
        let net: NetOption = "tap=t0".parse().unwrap();
        assert_eq!((net.mac[0], net.queues, net), (2, 1, "tap=t0".parse().unwrap()));
        assert_eq!("tap=t0,queues=8".parse().map(|net: NetOption| net.queues), Ok(8));
        for bad in [
            "tap=t0,queues=0",
            "tap=t0,queues=9",
            "tap=t0,queues=",
            "t0",
            "mac=02:00:00:00:00:01",
            "tap=t,mac=01:00:00:00:00:01",
            "tap=t,mac=2",
            "tap=t,x=y",
        ] {
            assert!(bad.parse::<NetOption>().is_err(), "{bad}");
        }
    }
}
