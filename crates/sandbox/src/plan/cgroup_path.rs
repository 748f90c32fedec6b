//! Where the machine stands among the host's control groups.

use super::{Inputs, PlanError};
use crate::bundle::lexically_clean;
use std::path::{Path, PathBuf};

/// Parent of containers that name no control group.
const PARENT: &str = "/clear-containers";

/// Path below each hierarchy's root. `..` cannot leave it.
pub(super) fn cgroup_path(inputs: &Inputs) -> Result<PathBuf, PlanError> {
    let linux = inputs.bundle.spec.linux().as_ref();
    let given = linux.and_then(|linux| linux.cgroups_path().clone()).unwrap_or_default();
    if inputs.options.systemd_cgroup {
        return systemd(given.to_str().unwrap_or_default(), inputs.id)
            .map_err(|problem| PlanError::invalid("linux.cgroupsPath", problem));
    }
    if given.as_os_str().is_empty() {
        return Ok(Path::new(PARENT).join(inputs.id));
    }
    let clean = lexically_clean(&given);
    if clean.as_os_str() == "/" || clean.to_str().is_none_or(|path| path.contains('\0')) {
        return Err(PlanError::invalid("linux.cgroupsPath", "must name a control group below the root"));
    }
    Ok(clean)
}

/// `slice:prefix:name` as systemd would nest it: `a-b.slice` lies in `a.slice`.
fn systemd(given: &str, id: &str) -> Result<PathBuf, String> {
    let (slice, prefix, name) = match given.split(':').collect::<Vec<_>>()[..] {
        [""] => ("system.slice", "cor", id),
        [slice, prefix, name] => (if slice.is_empty() { "system.slice" } else { slice }, prefix, name),
        _ => return Err(format!("{given:?} must have the form slice:prefix:name with --systemd-cgroup")),
    };
    let plain = |text: &str| !text.contains('/') && !text.contains('\0') && text != ".." && text != ".";
    if name.is_empty() || !plain(name) || !plain(prefix) {
        return Err(format!("{given:?} has no usable name"));
    }
    let unit = match (prefix, name.ends_with(".slice")) {
        (_, true) => name.to_string(),
        ("", false) => format!("{name}.scope"),
        (prefix, false) => format!("{prefix}-{name}.scope"),
    };
    Ok(slices(slice)?.join(unit))
}

fn slices(slice: &str) -> Result<PathBuf, String> {
    let mut path = PathBuf::from("/");
    if slice == "-.slice" {
        return Ok(path);
    }
    let stem = slice.strip_suffix(".slice").filter(|stem| stem.split('-').all(|part| !part.is_empty()));
    let Some(stem) = stem.filter(|stem| !stem.contains(['/', '\0'])) else {
        return Err(format!("{slice:?} is not the name of a slice, such as system.slice"));
    };
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    path.extend(ends.map(|end| format!("{}.slice", &stem[..end])));
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemds_names_are_nested() {
        let path = |given: &str| systemd(given, "id").map(|p| p.display().to_string());
        assert_eq!(path("").unwrap(), "/system.slice/cor-id.scope");
        assert_eq!(path("machine.slice:libpod:abc").unwrap(), "/machine.slice/libpod-abc.scope");
        assert_eq!(path("a-b-c.slice:cri:x").unwrap(), "/a.slice/a-b.slice/a-b-c.slice/cri-x.scope");
        assert_eq!(path(":docker:x").unwrap(), "/system.slice/docker-x.scope");
        assert_eq!(path("-.slice::x.slice").unwrap(), "/x.slice");
        for bad in [
            "a",
            "a:b",
            "a:b:c",
            "a--b.slice:p:n",
            "-a.slice:p:n",
            "../x.slice:p:n",
            "a.slice:p:../n",
            "a.slice:p:",
        ] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
