//! `cor config --show`: the configuration in force, each value with where it comes from.

use super::{Configuration, Origin};
use std::fmt::Write;

impl Configuration {
    /// All values as TOML text with a comment that names each value's origin.
    pub fn show(&self) -> String {
        let mut text = String::new();
        let mut section = String::new();
        for (key, value) in self.values() {
            let (head, name) = key.split_once('.').unwrap_or(("", &key));
            if head != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}[{head}]");
                section = head.to_string();
            }
            let line = format!("{name} = {value}");
            let _ = writeln!(text, "{line:<40} # {}", self.origin(&key));
        }
        for (name, value) in self.container_values() {
            let _ = writeln!(
                text,
                "# this container: {name} = {value} # {}",
                self.origin(&format!("container.{name}"))
            );
        }
        text
    }

    /// Every key of the file with its value, in the file's order of sections.
    pub(super) fn values(&self) -> Vec<(String, toml::Value)> {
        // A table of plain values always has a TOML form.
        let Ok(table) = toml::Table::try_from(self) else { return Vec::new() };
        let keys = |(section, keys): (String, toml::Value)| match keys {
            toml::Value::Table(keys) => {
                keys.into_iter().map(|(k, v)| (format!("{section}.{k}"), v)).collect()
            }
            value => vec![(section, value)],
        };
        table.into_iter().flat_map(keys).collect()
    }

    fn container_values(&self) -> Vec<(&'static str, String)> {
        let container = &self.container;
        let parameters =
            Some(&container.kernel_parameters).filter(|p| !p.is_empty()).map(|p| format!("{p:?}"));
        let all = [
            ("vcpus", container.vcpus.map(|n| n.to_string())),
            ("memory_mib", container.memory_mib.map(|n| n.to_string())),
            ("kernel_parameters", parameters),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn origin(&self, key: &str) -> String {
        match self.origins.get(key) {
            None => "built in".into(),
            Some(Origin::File(path)) => path.display().to_string(),
            Some(Origin::Annotation(key)) => format!("annotation {key}"),
            Some(Origin::VmSection(path)) => format!("config.json: {path}"),
            Some(Origin::Option(name)) => format!("option {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_is_shown_can_be_read_and_names_origins() {
        let mut c = Configuration::parse("[machine]\ndefault_vcpus = 2\n", Path::new("/c.toml")).unwrap();
        c.container.vcpus = Some(4);
        c.origins.insert("container.vcpus".into(), Origin::Annotation("io.clearcontainers.vcpus".into()));
        let shown = c.show();
        assert_eq!(Configuration::parse(&shown, Path::new("/c.toml")).unwrap().machine, c.machine);
        assert!(
            shown.lines().any(|l| l.starts_with("default_vcpus = 2 ") && l.ends_with("# /c.toml")),
            "{shown}"
        );
        assert!(shown.lines().any(|l| l.starts_with("max_vcpus = 0 ") && l.ends_with("# built in")));
        assert!(shown.contains("# this container: vcpus = 4 # annotation io.clearcontainers.vcpus"));
    }
}
