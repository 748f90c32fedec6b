//! The network: which devices the machine has is known only where its network namespace is, so the plan just says how.

use super::size::Size;
use super::{HostStep, Inputs, Piece, pods};
use crate::configuration::NetworkModel;

pub(super) fn network(inputs: &Inputs, size: &Size) -> Piece {
    let network = &inputs.configuration.network;
    let host = match network.model {
        NetworkModel::Tc => {
            // More queues than CPUs that use them are of no use.
            let queues = network.queues.min(size.vcpus);
            vec![HostStep::Taps { least: network.min_devices, queues, take_over: pods::joins(inputs) }]
        }
        NetworkModel::None => Vec::new(),
    };
    Piece { host, ..Piece::default() }
}
