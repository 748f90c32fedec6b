//! The packet header of virtio 1.2, section 5.10.6: 44 bytes, little endian, before every packet.

/// Bytes of a header.
pub const HEADER_LENGTH: usize = 44;

/// The host's context id (5.10.4).
pub const HOST_CID: u64 = 2;

/// The socket type of a byte stream (5.10.6, VIRTIO_VSOCK_TYPE_STREAM).
pub const STREAM: u16 = 1;

/// In the flags of [`Op::Shutdown`]: the sender receives no more (VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE).
pub const SHUTDOWN_RECEIVE: u32 = 1;

/// In the flags of [`Op::Shutdown`]: the sender sends no more (VIRTIO_VSOCK_SHUTDOWN_F_SEND).
pub const SHUTDOWN_SEND: u32 = 2;

/// Both directions.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for (5.10.6, VIRTIO_VSOCK_OP_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Opens a connection.
    Request = 1,
    /// Accepts it.
    Response = 2,
    /// Refuses or ends it.
    Reset = 3,
    /// Ends one direction or both.
    Shutdown = 4,
    /// Carries bytes.
    Data = 5,
    /// States the sender's room.
    CreditUpdate = 6,
    /// Asks for the receiver's room.
    CreditRequest = 7,
}

impl Op {
    /// `None` for a value that the standard does not name.
    pub fn from_wire(value: u16) -> Option<Self> {
        use Op::{CreditRequest, CreditUpdate, Data, Request, Reset, Response, Shutdown};
        let all = [Request, Response, Reset, Shutdown, Data, CreditUpdate, CreditRequest];
        all.into_iter().find(|op| *op as u16 == value)
    }
}

/// One packet's header, as the sender wrote it: any value may stand in any field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Context id of the sender.
    pub src_cid: u64,
    /// Context id of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Payload bytes after the header.
    pub len: u32,
    /// [`STREAM`] is the only type here.
    pub kind: u16,
    /// See [`Op`].
    pub op: u16,
    /// Of [`Op::Shutdown`].
    pub flags: u32,
    /// Size of the sender's receive buffer for this connection, in bytes.
    pub buf_alloc: u32,
    /// Bytes that the sender's receiver has consumed so far, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads the wire form.
    pub fn from_bytes(bytes: &[u8; HEADER_LENGTH]) -> Self {
        let mut rest = &bytes[..];
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// Makes the wire form.
    pub fn to_bytes(self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (front, back) =
        rest.split_first_chunk().expect("a header has 44 bytes, and the fields add up to that");
    *rest = back;
    *front
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout() {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 0x0102_0304,
            len: 7,
            kind: 1,
            op: 5,
            ..Header::default()
        };
        let bytes = Header { fwd_cnt: 0xaabb_ccdd, ..header }.to_bytes();
        assert_eq!(bytes[0..16], [3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..32], [4, 3, 2, 1, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 5, 0]);
        assert_eq!(bytes[32..44], [0, 0, 0, 0, 0, 0, 0, 0, 0xdd, 0xcc, 0xbb, 0xaa]);
    }

    #[test]
    fn ops() {
        let named: Vec<_> = (0..=9).filter_map(Op::from_wire).map(|op| op as u16).collect();
        assert_eq!(named, [1, 2, 3, 4, 5, 6, 7]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header(bytes in any::<[u8; 32]>(), more in any::<[u8; 12]>()) {
            let mut all = [0; HEADER_LENGTH];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&more);
            prop_assert_eq!(Header::from_bytes(&all).to_bytes(), all);
        }
    }
}
