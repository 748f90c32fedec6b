//! Loads the kernel modules that the mini-OS names, in its order.

use crate::error::{Doing, Result};
use crate::log;
use rustix::fs::{Mode, OFlags};
use std::ffi::CString;

/// One module per line: absolute path of an uncompressed `.ko`, then, after a blank, its parameters.
pub const ORDER: &str = "/lib/modules/clear.order";

/// A line of [`ORDER`].
#[derive(Debug, PartialEq, Eq)]
struct Module<'a> {
    path: &'a str,
    parameters: &'a str,
}

/// Loads all modules of [`ORDER`]; without that file, none. Returns how many were named.
///
/// # Errors
/// When the file exists and cannot be read. A module that does not load is a warning: another device may still do.
pub fn load_all() -> Result<usize> {
    let order = match rustix::fs::open(ORDER, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => std::io::read_to_string(std::fs::File::from(file)).doing(|| format!("read {ORDER}"))?,
        Err(rustix::io::Errno::NOENT) => return Ok(0),
        Err(e) => return Err(e).doing(|| format!("read {ORDER}")),
    };
    let modules = parse(&order);
    for module in &modules {
        if let Err(e) = load(module) {
            log::warn(&e.message);
        }
    }
    Ok(modules.len())
}

fn parse(order: &str) -> Vec<Module<'_>> {
    let lines = order.lines().map(str::trim).filter(|line| line.starts_with('/'));
    lines
        .map(|line| {
            let (path, parameters) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            Module { path, parameters: parameters.trim() }
        })
        .collect()
}

fn load(module: &Module) -> Result<()> {
    let what = || format!("load kernel module {}", module.path);
    let file = rustix::fs::open(module.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(what)?;
    let parameters = CString::new(module.parameters).unwrap_or_default();
    match rustix::system::finit_module(&file, &parameters, 0) {
        // Built in, or loaded as another's dependency.
        Err(rustix::io::Errno::EXIST) => Ok(()),
        result => result.doing(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_gives_paths_and_parameters() {
        let order = "/lib/a.ko\n\n# a comment\n/lib/b.ko  x=1 y=\"2 3\" \nrelative.ko\n/lib/c.ko";
        let module = |path, parameters| Module { path, parameters };
        assert_eq!(
            parse(order),
            [module("/lib/a.ko", ""), module("/lib/b.ko", "x=1 y=\"2 3\""), module("/lib/c.ko", "")]
        );
        assert_eq!(parse(""), []);
    }
}
