//! The network: which devices the machine has is known only where its network namespace is, so the plan just says how.

use super::size::Size;
use super::{HostStep, Inputs, Piece, machine, pods};
use crate::configuration::{NetworkModel, Passthrough};
use machine_spec::Chassis;

pub(super) fn network(inputs: &Inputs, size: &Size) -> Piece {
    let network = &inputs.configuration.network;
    let host = match network.model {
        model @ (NetworkModel::Tc | NetworkModel::Bridge | NetworkModel::Macvtap) => vec![HostStep::Taps {
            model,
            least: network.min_devices,
            // More queues than CPUs that use them are of no use.
            queues: network.queues.min(size.vcpus),
            take_over: pods::joins(inputs),
            // The pod's container takes the network over, and could not get a function from another machine.
            passthrough: if pods::is_sandbox(inputs) { Passthrough::None } else { network.passthrough },
            insist: is_asked_for(inputs),
        }],
        NetworkModel::None => Vec::new(),
    };
    Piece { host, warnings: warning(inputs).into_iter().collect(), ..Piece::default() }
}

/// By default functions are passed where that works; who asks for it is told where it does not.
fn is_asked_for(inputs: &Inputs) -> bool {
    let configuration = inputs.configuration;
    configuration.origins.contains_key("network.passthrough")
        && configuration.network.passthrough != Passthrough::None
}

fn warning(inputs: &Inputs) -> Option<String> {
    let asked = is_asked_for(inputs);
    let without_pci = matches!(machine::chassis(inputs), Ok(Chassis::Microvm));
    (asked && without_pci).then(|| {
        "network.passthrough has no effect: chassis microvm has no PCI, so the packets of virtual functions are redirected; machine.chassis = \"q35\" passes them".to_string()
    })
}
