//! The container's root file system.
//!
//! Host: bound into the stage. Guest: the share's directory becomes the root; read-only at the very end.

use super::machine::backend;
use super::mount_options::propagation_of;
use super::{HostStep, Inputs, Piece, PlanError, SHARE_TAG};
use crate::bundle::Bundle;
use crate::configuration::Backend;
use guest_protocol::message::{Rootfs, Share, ShareTransport, Source, Step};
use libc::{MS_REC, MS_SLAVE};

/// Name of the root below the stage.
pub(super) const STAGED: &str = "rootfs";

pub(super) fn rootfs(inputs: &Inputs) -> Result<Piece, PlanError> {
    let bundle = inputs.bundle;
    let stage = HostStep::Stage {
        name: STAGED.into(),
        source: bundle.rootfs.clone(),
        directory: true,
        // Mount points are created in it while the container is set up, as with runc; only then does the guest
        // make its view read-only. The engine's own copy is an overlay or snapshot of this container.
        readonly: inputs.configuration.container.sealed_root,
        readonly_below: false,
        recursive: true,
    };
    let source = Source::Share { tag: SHARE_TAG.into(), path: STAGED.into() };
    let transport = match backend(inputs) {
        Backend::ClearVmm => ShareTransport::Virtiofs,
        Backend::Auto | Backend::Qemu => ShareTransport::NineP,
    };
    let share = Share { tag: SHARE_TAG.into(), transport };
    let guest = vec![Step::Share(share), Step::Rootfs(Rootfs { source, propagation: propagation(bundle)? })];
    Ok(Piece { host: vec![stage], guest, ..Piece::default() })
}

/// Comes after everything else that writes to the root.
pub(super) fn readonly_root(inputs: &Inputs) -> Piece {
    let readonly = inputs.bundle.spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    Piece { guest: if readonly { vec![Step::ReadonlyRoot] } else { Vec::new() }, ..Piece::default() }
}

/// Without a wish runc makes the root a slave, so that mounts of the machine arrive but none leave.
fn propagation(bundle: &Bundle) -> Result<u64, PlanError> {
    let wish =
        bundle.spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or("");
    if wish.is_empty() {
        return Ok(MS_SLAVE | MS_REC);
    }
    propagation_of(wish).ok_or_else(|| {
        let known = "private, slave, shared or unbindable, each also with an r in front";
        PlanError::invalid(
            "linux.rootfsPropagation",
            format!("{wish:?} is not supported; it must be {known}"),
        )
    })
}
