//! Interfaces of the namespace that are PCI functions, which the machine drives itself: lent before it starts, given back when it has ended.

use crate::configuration::Passthrough;
use crate::host::HostError;
use crate::host::network::NetworkError;
use crate::host::network::function::Bus;
use crate::host::network::lent::Lent;
use crate::host::network::scan::Found;
use crate::host::undo::{self, Undo};
use crate::state::StateDir;
use guest_protocol::network::{Interface, address_of_slot};
use machine_spec::{Device, VFIO_SLOTS};
use std::path::Path;

/// The functions that a machine has.
#[derive(Debug, Default)]
pub(super) struct Functions {
    lent: Vec<Lent>,
    /// What they were in the namespace, and are in the guest.
    interfaces: Vec<Interface>,
}

impl Functions {
    /// Takes those that `which` says from the host, those that can be lent or, with `insist`, all. The interfaces are gone from the namespace
    /// `namespace` then.
    ///
    /// # Errors
    /// When one cannot be lent; then none was taken, or what was is on the undo list.
    pub fn take(
        dir: &StateDir,
        namespace: Option<&Path>,
        found: &[Found],
        which: Passthrough,
        insist: bool,
    ) -> Result<Self, HostError> {
        let bus = Bus::host();
        let mut functions = Functions::default();
        // All are looked at before one is taken.
        for Found { interface, function, .. } in found {
            let Some(address) = function else { continue };
            let chosen = bus.choose(address, which, insist).map_err(|source| NetworkError::NotLent {
                name: interface.name.clone(),
                address: address.clone(),
                source,
            })?;
            if let Some(function) = chosen {
                functions.lent.push(Lent::new(function, namespace.map(Path::to_path_buf), interface));
                functions.interfaces.push(interface.clone());
            }
        }
        for ((lent, interface), slot) in functions.lent.iter().zip(&mut functions.interfaces).zip(VFIO_SLOTS)
        {
            interface.device = address_of_slot(slot);
            undo::note(dir, &Undo::Function(lent.clone()))?;
            lent.lend()?;
        }
        Ok(functions)
    }

    /// The machine's devices.
    pub fn devices(&self) -> Vec<Device> {
        let device = |(lent, slot): (&Lent, u8)| Device::Vfio { host: lent.address().to_string(), slot };
        self.lent.iter().zip(VFIO_SLOTS).map(device).collect()
    }

    /// The guest's interfaces.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Gives all back, when the machine has ended. What fails is left to `delete`, which tries again and says why.
    pub fn give_back(&mut self, dir: &StateDir) {
        for lent in self.lent.drain(..) {
            if lent.give_back().is_ok() {
                let _ = undo::note(dir, &Undo::Returned { address: lent.address().to_string() });
            }
        }
    }
}
