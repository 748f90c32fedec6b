//! FUSE as it is on the wire (Linux `include/uapi/linux/fuse.h`, protocol 7.31 and later minors as far as used): what a request
//! consists of and what an answer looks like. Nothing here touches a file.

use rustix::io::Errno;
use std::ffi::CStr;

/// Bytes of `struct fuse_in_header`.
pub const IN_HEADER: usize = 40;

/// Bytes of `struct fuse_out_header`.
pub const OUT_HEADER: usize = 16;

/// Bytes of `struct fuse_write_in`.
pub const WRITE_IN: usize = 40;

/// The root directory's node (FUSE_ROOT_ID).
pub const ROOT: u64 = 1;

/// Protocol that this server speaks; the minor is that of Linux 6.12.
pub const VERSION: (u32, u32) = (7, 40);

/// Oldest minor whose structures are those used here (`fuse_init_out` with `map_alignment`).
pub const OLDEST_MINOR: u32 = 31;

macro_rules! opcodes {
    ($($name:ident = $value:literal,)*) => {
        /// `enum fuse_opcode`, those that are answered.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names are those of fuse.h")]
        pub enum Opcode { $($name = $value,)* }

        impl Opcode {
            /// `None` for one that is not answered here.
            pub fn from_wire(value: u32) -> Option<Self> {
                match value { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

opcodes! {
    Lookup = 1, Forget = 2, Getattr = 3, Setattr = 4, Readlink = 5, Symlink = 6, Mknod = 8, Mkdir = 9, Unlink = 10,
    Rmdir = 11, Rename = 12, Link = 13, Open = 14, Read = 15, Write = 16, Statfs = 17, Release = 18, Fsync = 20,
    Setxattr = 21, Getxattr = 22, Listxattr = 23, Removexattr = 24, Init = 26, Opendir = 27, Readdir = 28,
    Releasedir = 29, Fsyncdir = 30, Create = 35, Interrupt = 36, Destroy = 38, Ioctl = 39, BatchForget = 42, Fallocate = 43,
    Readdirplus = 44, Rename2 = 45, Lseek = 46, CopyFileRange = 47, Setupmapping = 48, Removemapping = 49, Syncfs = 50,
    Tmpfile = 51,
}

impl Opcode {
    /// Whether a read-only share must refuse it whatever its arguments are.
    pub fn always_writes(self) -> bool {
        use Opcode as O;
        matches!(
            self,
            O::Setattr
                | O::Symlink
                | O::Mknod
                | O::Mkdir
                | O::Unlink
                | O::Rmdir
                | O::Rename
                | O::Rename2
                | O::Link
                | O::Write
                | O::Setxattr
                | O::Removexattr
                | O::Create
                | O::Fallocate
                | O::CopyFileRange
                | O::Tmpfile
        )
    }

    /// Whether the guest waits for no answer.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::Forget | Self::BatchForget | Self::Interrupt)
    }
}

/// `struct fuse_in_header`, what is used of it.
#[derive(Debug, Clone, Copy)]
pub struct InHeader {
    /// Bytes of the request with this header.
    pub len: u32,
    /// See [`Opcode`].
    pub opcode: u32,
    /// By which the guest knows the answer.
    pub unique: u64,
    /// Which node is meant.
    pub node: u64,
    /// Who asks.
    pub uid: u32,
    /// Of which group.
    pub gid: u32,
}

impl InHeader {
    /// Reads the wire form.
    pub fn parse(bytes: &[u8; IN_HEADER]) -> Self {
        let mut fields = Fields(bytes);
        let mut word = || fields.u32().unwrap_or_default();
        let (len, opcode) = (word(), word());
        let mut long = || u64::from(word()) | u64::from(word()) << 32;
        let (unique, node) = (long(), long());
        Self { len, opcode, unique, node, uid: word(), gid: word() }
    }
}

/// What follows the header of a request, taken from its front. A request that is too short is EINVAL.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next four bytes.
    pub fn u32(&mut self) -> Result<u32, Errno> {
        let (front, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*front))
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Result<u64, Errno> {
        let (front, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*front))
    }

    /// Leaves `count` bytes out.
    pub fn skip(&mut self, count: usize) -> Result<(), Errno> {
        self.0 = self.0.get(count..).ok_or(Errno::INVAL)?;
        Ok(())
    }

    /// A string up to its NUL.
    pub fn string(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.skip(text.count_bytes() + 1)?;
        Ok(text)
    }

    /// A name in a directory: one component, neither `.` nor `..`, so that it never leads out of its directory.
    pub fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.string()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > 255 => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }
}

/// An answer's body under construction.
#[derive(Debug, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    /// Adds four bytes.
    #[must_use]
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds two bytes.
    #[must_use]
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds eight bytes.
    #[must_use]
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds zeros.
    #[must_use]
    pub fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

/// `struct fuse_out_header`: all bytes of the answer, 0 or a negated error number, and the request's `unique`.
pub fn out_header(len: usize, error: Option<Errno>, unique: u64) -> [u8; OUT_HEADER] {
    let mut bytes = [0; OUT_HEADER];
    bytes[0..4].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&(-error.map_or(0, Errno::raw_os_error)).to_le_bytes());
    bytes[8..16].copy_from_slice(&unique.to_le_bytes());
    bytes
}

/// Flags of FUSE_INIT (`FUSE_*`), 64 bits with the second word.
pub mod init {
    /// Reads may be out of order.
    pub const ASYNC_READ: u64 = 1 << 0;
    /// O_TRUNC comes with open.
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    /// Writes of more than a page.
    pub const BIG_WRITES: u64 = 1 << 5;
    /// The server applies the umask: a default ACL goes before it.
    pub const DONT_MASK: u64 = 1 << 6;
    /// Cached data goes when size or time have changed.
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// Directories with attributes.
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    /// Only where it pays.
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Direct I/O in parallel.
    pub const ASYNC_DIO: u64 = 1 << 15;
    /// Lookups in one directory in parallel.
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    /// ACLs are checked by the guest's kernel.
    pub const POSIX_ACL: u64 = 1 << 20;
    /// `max_pages` counts.
    pub const MAX_PAGES: u64 = 1 << 22;
    /// Targets of symbolic links may be cached.
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    /// `map_alignment` counts.
    pub const MAP_ALIGNMENT: u64 = 1 << 26;
    /// Mount points are shown as such.
    pub const SUBMOUNTS: u64 = 1 << 27;
    /// The server takes set-user-id bits away, and when it has to.
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// `fuse_setxattr_in` has flags.
    pub const SETXATTR_EXT: u64 = 1 << 29;
    /// The second word of flags counts.
    pub const INIT_EXT: u64 = 1 << 30;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_directory() {
        let name = |bytes: &[u8]| Fields(bytes).name().map(|name| name.to_bytes().to_vec());
        assert_eq!(name(b"a.txt\0").unwrap(), b"a.txt");
        assert_eq!(name(b"...\0").unwrap(), b"...");
        for bad in [&b"\0"[..], b".\0", b"..\0", b"a/b\0", b"/\0", b"../x\0", b"no end"] {
            assert_eq!(name(bad), Err(Errno::INVAL), "{bad:?}");
        }
        assert_eq!(name(&[&[b'x'; 256][..], b"\0"].concat()), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn headers() {
        let mut bytes = [0; IN_HEADER];
        (bytes[0], bytes[4], bytes[8], bytes[16], bytes[24], bytes[28]) = (41, 3, 7, 1, 100, 200);
        let header = InHeader::parse(&bytes);
        assert_eq!((header.len, header.opcode, header.unique, header.node), (41, 3, 7, 1));
        assert_eq!((header.uid, header.gid), (100, 200));
        let out = out_header(16, Some(Errno::NOENT), 7);
        assert_eq!(out, [16, 0, 0, 0, 254, 255, 255, 255, 7, 0, 0, 0, 0, 0, 0, 0]);
    }
}
