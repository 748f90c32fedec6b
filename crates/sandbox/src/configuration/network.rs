//! `[network]`: how the container's interfaces reach its machine.

use serde::{Deserialize, Serialize};

/// `[network]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "configuration.toml documents every key, and a test checks that it does")]
pub struct Network {
    pub model: NetworkModel,
    pub min_devices: usize,
    pub passthrough: Passthrough,
    pub queues: u32,
    pub user: bool,
}

impl Default for Network {
    fn default() -> Self {
        let (model, passthrough) = (NetworkModel::Tc, Passthrough::Virtual);
        Network { model, min_devices: 2, passthrough, queues: 1, user: false }
    }
}

/// How frames go between the interfaces of the network namespace and the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
#[expect(missing_docs, reason = "configuration.toml documents every value")]
pub enum NetworkModel {
    #[default]
    Tc,
    Bridge,
    Macvtap,
    None,
}

/// Which interfaces that are PCI functions the machine drives itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "configuration.toml documents every value")]
pub enum Passthrough {
    #[default]
    Virtual,
    All,
    None,
}

impl TryFrom<String> for NetworkModel {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "tc" => Ok(NetworkModel::Tc),
            "bridge" => Ok(NetworkModel::Bridge),
            "macvtap" => Ok(NetworkModel::Macvtap),
            "none" => Ok(NetworkModel::None),
            _ => Err(format!(
                "unknown network model {name:?}: use \"tc\", \"bridge\" or \"macvtap\", or \"none\" for loopback only"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::configuration::Configuration;
    use std::path::Path;

    #[test]
    fn models_and_numbers_that_are_not_there_are_refused_in_a_sentence() {
        let parse = |text: &str| Configuration::parse(text, Path::new("/c.toml"));
        let models = ["tc", "bridge", "macvtap", "none"];
        for model in models {
            assert!(parse(&format!("[network]\nmodel = {model:?}\n")).is_ok());
        }
        let line = parse("[network]\nmodel = \"bridgd\"\n").unwrap_err().to_string();
        assert!(line.starts_with("configuration /c.toml:2: unknown network model \"bridgd\""), "{line}");
        assert!(models.iter().all(|model| line.contains(&format!("{model:?}"))), "{line}");
        let line = parse("[network]\nmin_devices = 9\n").unwrap_err().to_string();
        assert!(line.contains("network.min_devices must be 0 to 8"), "{line}");
        for queues in [0, 9] {
            let line = parse(&format!("[network]\nqueues = {queues}\n")).unwrap_err().to_string();
            assert!(line.contains("network.queues must be 1 to 8"), "{line}");
        }
        assert_eq!(parse("[network]\nqueues = 8\n").unwrap().network.queues, 8);
    }
}
