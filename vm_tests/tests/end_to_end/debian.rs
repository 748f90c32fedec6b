//! As a newcomer tries it: a Debian root file system made by debootstrap.

use std::path::Path;
use vm_tests::{Command, Sandbox, on_network};

/// A quarter of a GiB written, copied and compared.
const COPY: &str = "head -c 268435456 /dev/urandom > /root/a && cp /root/a /root/b && cmp /root/a /root/b && stat -c %s /root/b";

#[test]
fn a_debian_root_has_working_packages_interpreters_and_files() {
    if !on_network() {
        return;
    }
    let sandbox = Sandbox::new();
    let root = sandbox.path().join("debian");
    debootstrap(&root);
    let run = |script: &str| {
        let command = sandbox.cor(&["try", "--memory", "700m", "--rootfs"]).arg(&root);
        command.args(["--", "sh", "-ec", script]).patience(300).run()
    };
    let said = run(
        "apt-get --version | head -n1; dpkg -l | grep -c ^ii; apt-get check; python3 -c 'import sys; print(sys.version_info[0])'",
    );
    let lines = said.expect(0).lines();
    assert!(lines[0].starts_with("apt "), "{lines:?}");
    assert!(lines[1].parse::<u32>().unwrap() > 50, "{lines:?}");
    assert_eq!(lines.last().unwrap(), "3");
    // A package is built, installed, used and removed with Debian's own tools.
    let package = "mkdir -p /p/DEBIAN /p/usr/bin; printf 'Package: hi\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y>\\nDescription: hi\\n' > /p/DEBIAN/control; \
        printf '#!/bin/sh\\necho hi from the package\\n' > /p/usr/bin/hi; chmod 755 /p/usr/bin/hi; dpkg-deb -b /p /hi.deb >/dev/null; apt-get install -y /hi.deb >/dev/null 2>&1; hi; \
        dpkg -r hi >/dev/null; test -e /usr/bin/hi || echo gone";
    assert_eq!(run(package).expect(0).text(), "hi from the package\ngone");
    assert_eq!(run(COPY).expect(0).text(), "268435456");
    assert_eq!(std::fs::metadata(root.join("root/b")).unwrap().len(), 268_435_456, "it is on the host too");
    sandbox.assert_nothing_left();
}

fn debootstrap(root: &Path) {
    let output = Command::new("debootstrap")
        .args(["--variant=minbase", "--include=python3-minimal", "bookworm"])
        .arg(root)
        .patience(400)
        .run();
    assert_eq!(output.code, 0, "debootstrap (scripts/install-deps test installs it): {output}");
}
