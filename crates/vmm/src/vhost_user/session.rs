//! What a client has said so far, and what follows from it.
//!
//! ```text
//!   memory table, features, rings' sizes and addresses, doorbells ─► a ring with all of it, enabled ─► Fs::start
//!   GET_VRING_BASE (the guest's driver or the machine stops)      ─► Fs::stop: where to go on
//! ```
//!
//! Messages are read and checked by the `vhost` crate; what they ask for that a directory does not need is refused.
#![expect(unsafe_code, reason = "doorbells come as descriptors")]

use super::memory::Memory;
use crate::bus::lock;
use crate::event_loop::{Interest, Ready, Source};
use crate::virtio::device::{ActiveQueue, Device, Interrupt};
use crate::virtio::fs::Fs;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

/// VHOST_USER_F_PROTOCOL_FEATURES (QEMU `docs/interop/vhost-user.rst`, "Feature negotiation").
const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// VIRTIO_F_VERSION_1.
const F_VERSION_1: u64 = 1 << 32;

/// Most entries of a queue: what QEMU may be told by `queue-size=`, which is 128 for all queues without (`VIRTQUEUE_MAX_SIZE`).
const MAX_QUEUE: u16 = 1024;

/// How long a client may take from the first byte of a message to its last.
const MESSAGE_LIMIT: Duration = Duration::from_secs(10);

/// A connection.
pub struct Session {
    handler: BackendReqHandler<Mutex<Back>>,
    back: Arc<Mutex<Back>>,
    socket: RawFd,
    over: bool,
    failure: Option<String>,
}

impl Session {
    /// Begins with what the client says first.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn new(device: Fs, socket: UnixStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(MESSAGE_LIMIT))?;
        socket.set_write_timeout(Some(MESSAGE_LIMIT))?;
        let number = socket.as_raw_fd();
        let back = Arc::new(Mutex::new(Back::new(device)));
        let handler = BackendReqHandler::from_stream(socket, Arc::clone(&back));
        Ok(Session { handler, back, socket: number, over: false, failure: None })
    }

    /// Whether the client has gone, or cannot be served any more.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// What ended it, if it was no hanging up.
    pub fn failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    fn message(&mut self) {
        let result = self.handler.handle_request();
        let reason = lock(&self.back).failure.take();
        let Err(error) = result else { return };
        // Whoever asks for what cannot be is told so where it wants to know, and not served any more: the two do not agree on the state.
        self.over = true;
        self.failure = match error {
            Error::Disconnected | Error::SocketBroken(_) => None,
            other => Some(reason.unwrap_or_else(|| other.to_string())),
        };
    }
}

impl Source for Session {
    fn interests(&self) -> Vec<Interest> {
        if self.over {
            return Vec::new();
        }
        let interest = |fd, ready| Interest { fd, ready, readable: true, writable: false };
        let back = lock(&self.back);
        let kicks = back.rings.iter().enumerate().filter(|(_, ring)| ring.running);
        let kicks = kicks.filter_map(|(index, ring)| {
            Some(interest(ring.kick.as_ref()?.as_raw_fd(), Ready::Kick(index as u16)))
        });
        std::iter::once(interest(self.socket, Ready::File(0))).chain(kicks).collect()
    }

    fn ready(&mut self, ready: Ready) {
        match ready {
            Ready::File(_) => self.message(),
            Ready::Kick(index) => {
                let kicked = lock(&self.back).kicked(index);
                if let Err(reason) = kicked {
                    (self.over, self.failure) = (true, Some(reason));
                }
            }
        }
    }
}

/// Interrupts, as eventfds that KVM turns into messages.
#[derive(Default)]
struct Calls(Mutex<Vec<Option<EventFd>>>);

impl Interrupt for Calls {
    fn queue(&self, index: u16) {
        if let Some(Some(call)) = lock(&self.0).get(usize::from(index)) {
            // It fails only when the counter is full, and then the guest is interrupted anyway.
            let _ = call.write(1);
        }
    }

    /// The configuration is the client's.
    fn config(&self) {}
}

/// A ring, as far as the client has described it.
#[derive(Default)]
struct RingSetup {
    size: u16,
    /// Next request.
    base: u16,
    /// Guest addresses of descriptor table, available and used ring.
    addresses: Option<[u64; 3]>,
    kick: Option<EventFd>,
    enabled: bool,
    running: bool,
}

/// The device and its state; answers messages.
struct Back {
    device: Fs,
    memory: Option<Memory>,
    features: u64,
    rings: Vec<RingSetup>,
    calls: Arc<Calls>,
    /// Why the last message was refused.
    failure: Option<String>,
}

/// Descriptors of doorbells become ours.
fn eventfd(file: File) -> EventFd {
    // SAFETY: the file is owned, and given up with this.
    unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }
}

impl Back {
    fn new(device: Fs) -> Self {
        let count = device.queue_sizes().len();
        let rings = (0..count).map(|_| RingSetup::default()).collect();
        let calls = Arc::new(Calls(Mutex::new((0..count).map(|_| None).collect())));
        Back { device, memory: None, features: 0, rings, calls, failure: None }
    }

    fn refuse<T>(&mut self, reason: impl ToString) -> Result<T> {
        self.failure = Some(reason.to_string());
        Err(Error::InvalidParam)
    }

    fn ring(&mut self, index: impl Into<u32>) -> Result<&mut RingSetup> {
        self.rings.get_mut(index.into() as usize).ok_or(Error::InvalidParam)
    }

    fn kicked(&mut self, index: u16) -> std::result::Result<(), String> {
        if let Some(kick) = self.rings.get(usize::from(index)).and_then(|ring| ring.kick.as_ref()) {
            let _ = kick.read();
        }
        self.device.kick(index).map_err(|e| e.to_string())
    }

    /// Starts a ring when all is there.
    fn start(&mut self, index: usize) -> Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let ring = &mut self.rings[index];
        let (Some([descriptors, available, used]), Some(kick)) = (ring.addresses, &ring.kick) else {
            return Ok(());
        };
        // Without protocol features a ring is enabled from its beginning.
        if ring.running || !(ring.enabled || self.features & F_PROTOCOL_FEATURES == 0) {
            return Ok(());
        }
        let mut queue = Queue::new(MAX_QUEUE).map_err(|_| Error::InvalidParam)?;
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        queue.set_size(ring.size);
        let (low, high) = halves(descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(available);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(used);
        queue.set_used_ring_address(low, high);
        queue.set_ready(true);
        queue.set_next_avail(ring.base);
        // The used ring goes on where it was left (virtio 1.2, 2.7.8: `idx` behind `flags`).
        let done: u16 = memory.guest.read_obj(GuestAddress(used.wrapping_add(2))).unwrap_or(0);
        queue.set_next_used(u16::from_le(done));
        let kick = kick.try_clone().map_err(Error::ReqHandlerError)?;
        let queue = ActiveQueue { index: index as u16, queue, kick };
        let calls: Arc<dyn Interrupt> = self.calls.clone();
        ring.running = true;
        match self.device.start(queue, self.features, &memory.guest, &calls) {
            Ok(()) => Ok(()),
            Err(error) => self.refuse(error),
        }
    }

    fn stop(&mut self, index: usize) {
        let ring = &mut self.rings[index];
        if std::mem::take(&mut ring.running)
            && let Some(base) = self.device.stop(index as u16)
        {
            ring.base = base;
        }
    }
}

impl VhostUserBackendReqHandlerMut for Back {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        (0..self.rings.len()).for_each(|index| self.stop(index));
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.reset_owner()?;
        self.device.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.features() | F_VERSION_1 | F_PROTOCOL_FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.get_features()? != 0 {
            return self.refuse(format!("features {features:#x} were not offered"));
        }
        self.features = features;
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let memory = match Memory::map(regions, files) {
            Ok(memory) => memory,
            Err(reason) => return self.refuse(reason),
        };
        if let Err(error) = self.device.set_memory(&memory.guest) {
            return self.refuse(error);
        }
        self.memory = Some(memory);
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        let ring = self.ring(index)?;
        match u16::try_from(size).ok().filter(|size| size.is_power_of_two() && *size <= MAX_QUEUE) {
            Some(size) => ring.size = size,
            None => {
                let reason =
                    format!("queue {index} of {size} entries; {MAX_QUEUE} are possible (queue-size=)");
                return self.refuse(reason);
            }
        }
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _: u64,
    ) -> Result<()> {
        let guest = |address| self.memory.as_ref().and_then(|memory| memory.guest_address(address));
        let (Some(descriptors), Some(available), Some(used)) =
            (guest(descriptors), guest(available), guest(used))
        else {
            return self.refuse(format!("queue {index} is not in guest memory; is that shared (share=on)?"));
        };
        self.ring(index)?.addresses = Some([descriptors, available, used]);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.ring(index)?.base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.ring(index)?;
        self.stop(index as usize);
        let ring = self.ring(index)?;
        // Its doorbell comes anew with the next start.
        ring.kick = None;
        Ok(VhostUserVringState::new(index, ring.base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let Some(file) = file else { return self.refuse("a queue without a doorbell") };
        self.ring(index)?.kick = Some(eventfd(file));
        self.start(usize::from(index))
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.ring(index)?;
        lock(&self.calls.0)[usize::from(index)] = file.map(eventfd);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _: Option<File>) -> Result<()> {
        self.ring(index).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        // The configuration space is QEMU's: it has the tag.
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE)
    }

    fn set_protocol_features(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        if enable {
            return self.start(index as usize);
        }
        self.stop(index as usize);
        Ok(())
    }

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Err(Error::InvalidOperation("GET_CONFIG"))
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(Error::InvalidOperation("SET_CONFIG"))
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(Error::InvalidOperation("GPU_SET_SOCKET"))
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidOperation("GET_SHARED_OBJECT"))
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(Error::InvalidOperation("GET_INFLIGHT_FD"))
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        Err(Error::InvalidOperation("SET_INFLIGHT_FD"))
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(Error::InvalidOperation("GET_MAX_MEM_SLOTS"))
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        Err(Error::InvalidOperation("ADD_MEM_REG"))
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(Error::InvalidOperation("REM_MEM_REG"))
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidOperation("SET_DEVICE_STATE_FD"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("CHECK_DEVICE_STATE"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidOperation("GET_SHMEM_CONFIG"))
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        Err(Error::InvalidOperation("SET_LOG_BASE"))
    }
}
