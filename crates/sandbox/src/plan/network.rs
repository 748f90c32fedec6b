//! The network: which devices the machine has is known only where its network namespace is, so the plan just says how.

use super::{HostStep, Inputs, Piece, pods};
use crate::configuration::NetworkModel;

pub(super) fn network(inputs: &Inputs) -> Piece {
    let network = &inputs.configuration.network;
    let host = match network.model {
        NetworkModel::Tc => {
            vec![HostStep::Taps { least: network.min_devices, take_over: pods::joins(inputs) }]
        }
        NetworkModel::None => Vec::new(),
    };
    Piece { host, ..Piece::default() }
}
