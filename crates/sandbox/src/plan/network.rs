//! The network: which devices the machine has is known only where its network namespace is, so the plan just says how.

use super::size::Size;
use super::{HostStep, Inputs, Piece, PlanError, machine, namespaces, pods};
use crate::configuration::{NetworkModel, Passthrough};
use machine_spec::Chassis;

pub(super) fn network(inputs: &Inputs, size: &Size) -> Result<Piece, PlanError> {
    let network = &inputs.configuration.network;
    let user = network.user && network.model != NetworkModel::None && namespaces::has_new_network(inputs);
    let mut host = match network.model {
        model @ (NetworkModel::Tc | NetworkModel::Bridge | NetworkModel::Macvtap) => vec![HostStep::Taps {
            // What keeps a machine from the host's loopback are filters of this model.
            model: if user { NetworkModel::Tc } else { model },
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
    if user {
        host.push(user_network(inputs)?);
    }
    Ok(Piece { host, warnings: warning(inputs).into_iter().collect(), ..Piece::default() })
}

fn user_network(inputs: &Inputs) -> Result<HostStep, PlanError> {
    let refused = |why, fix| PlanError::host("a user-space network", why, fix);
    let Some(program) = inputs.facts.pasta.clone() else {
        let fix = "install it (Debian: apt-get install passt), or do without (cor try --network none, network.user = false)";
        return Err(refused("the program pasta is not in the search path", fix));
    };
    if !inputs.facts.default_route {
        let fix = "connect the host, or do without (cor try --network none, network.user = false)";
        return Err(refused("this host has no default route, and pasta no way out", fix));
    }
    Ok(HostStep::UserNetwork { program })
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
