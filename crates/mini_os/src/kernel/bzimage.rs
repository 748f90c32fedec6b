//! Finds the compressed ELF kernel in a bzImage.
//!
//! ```text
//!   sector 0 .. setup_sects | protected-mode code: decompressor, payload at payload_offset | ...
//! ```
//! Offsets are those of the kernel's `Documentation/arch/x86/boot.rst`.

/// A file that is no bzImage, or one we cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BzImageError {
    /// no boot protocol header
    #[error("not a bzImage: no boot protocol header")]
    NoHeader,
    /// boot protocol before 2.08 does not say where the payload is
    #[error("boot protocol {0:#x} is too old: needs 2.08")]
    Protocol(u16),
    /// payload outside the file
    #[error("damaged bzImage: the payload lies outside the file")]
    Damaged,
    /// compressed with something we do not know
    #[error("unknown compression: the payload begins with {0:02x?}")]
    Compression(Vec<u8>),
}

/// Program that unpacks a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd
    Zstd,
    /// xz
    Xz,
    /// gzip
    Gzip,
}

/// The compressed kernel in a bzImage.
#[derive(Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// How it is compressed.
    pub compression: Compression,
    /// The compressed stream, without the length that the kernel's build appends.
    pub stream: &'a [u8],
    /// Length of the kernel in bytes.
    pub size: u32,
}

impl Compression {
    /// Name of the program.
    pub fn program(self) -> &'static str {
        match self {
            Compression::Zstd => "zstd",
            Compression::Xz => "xz",
            Compression::Gzip => "gzip",
        }
    }
}

/// Finds the payload.
///
/// # Errors
/// [`BzImageError`].
pub fn payload(image: &[u8]) -> Result<Payload<'_>, BzImageError> {
    // Everything that is read from the header lies in the first two sectors.
    if image.len() < 1024 || image[0x202..0x206] != *b"HdrS" {
        return Err(BzImageError::NoHeader);
    }
    let word = |at: usize| u32::from_le_bytes([image[at], image[at + 1], image[at + 2], image[at + 3]]);
    let version = u16::from_le_bytes([image[0x206], image[0x207]]);
    if version < 0x208 {
        return Err(BzImageError::Protocol(version));
    }
    // "For backwards compatibility, if the setup_sects field contains 0, the real value is 4."
    let sectors = if image[0x1f1] == 0 { 4 } else { usize::from(image[0x1f1]) };
    let offset = word(0x248) as usize;
    let length = word(0x24c) as usize;
    let start = (sectors + 1) * 512 + offset;
    let payload = image.get(start..start + length).ok_or(BzImageError::Damaged)?;
    let (stream, size) = payload.split_last_chunk::<4>().ok_or(BzImageError::Damaged)?;
    let size = u32::from_le_bytes(*size);
    // The last four bytes are the length: gzip's own trailer, appended by the kernel's build after the others.
    let (compression, stream) = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => (Compression::Zstd, stream),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => (Compression::Xz, stream),
        [0x1f, 0x8b, ..] => (Compression::Gzip, payload),
        other => return Err(BzImageError::Compression(other.iter().take(6).copied().collect())),
    };
    Ok(Payload { compression, stream, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(payload: &[u8], sectors: u8) -> Vec<u8> {
        let setup = (usize::from(if sectors == 0 { 4 } else { sectors }) + 1) * 512;
        let mut image = vec![0; setup + 100];
        image[0x1f1] = sectors;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&100_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn payloads_are_found() {
        let zstd = b"\x28\xb5\x2f\xfdDATA\x10\0\0\0";
        for sectors in [0, 1, 39] {
            let expected = Payload { compression: Compression::Zstd, stream: &zstd[..8], size: 16 };
            assert_eq!(payload(&image(zstd, sectors)), Ok(expected));
        }
        let xz = image(b"\xfd7zXZ\0\x01\x02\0\0", 1);
        assert_eq!(payload(&xz).unwrap().compression, Compression::Xz);
        let gzip = image(b"\x1f\x8bDATA\x05\0\0\0", 1);
        assert_eq!(payload(&gzip).unwrap().stream.len(), 10);
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(payload(b"\x7fELF"), Err(BzImageError::NoHeader));
        assert!(matches!(payload(&image(b"LZ4!1234", 1)), Err(BzImageError::Compression(_))));
        let mut old = image(b"\x1f\x8b1234", 1);
        old[0x206] = 7;
        assert_eq!(payload(&old), Err(BzImageError::Protocol(0x207)));
        // Ends in the middle of the header.
        assert_eq!(payload(&image(b"\x1f\x8b1234", 1)[..0x206]), Err(BzImageError::NoHeader));
        let mut cut = image(b"\x1f\x8b1234", 1);
        cut.pop();
        assert_eq!(payload(&cut), Err(BzImageError::Damaged));
    }

    proptest! {
        #[test]
        fn damaged_images_do_not_panic(at in 0x1f0_usize..0x260, bytes: [u8; 4], cut in 0_usize..1200) {
            let mut image = image(b"\x28\xb5\x2f\xfdDATA\x10\0\0\0", 1);
            image[at..at + 4].copy_from_slice(&bytes);
            image.truncate(cut.max(1));
            let _ = payload(&image);
        }
    }
}
