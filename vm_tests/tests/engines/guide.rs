//! Every block of commands in `docs/engines.md`, run as it stands: on a machine that has what Debian's packages bring, `cor` installed, and an
//! image under the name that the block uses.

use crate::tests;
use std::path::Path;
use vm_tests::Command;
use vm_tests::engine::{Engine, image, is_ours};

tests![buildah_as_documented, containerd_as_documented, docker_as_documented, podman_as_documented];

/// The guide.
const GUIDE: &str = include_str!("../../../docs/engines.md");

/// Before every block: directories and a network that no other test uses, and a service manager that starts daemons, as there is none here.
/// `/etc` loses what the set-up of other tests has written.
const BEFORE: &str = r#"
for place in /run /var/lib/docker /var/lib/containerd /var/lib/containers; do mount -t tmpfs -o mode=755 none $place; done
for place in /etc/docker /etc/containers; do
    mkdir -p $place; cp -a $place "$WORK"; mount -t tmpfs -o mode=755 none $place; cp -a "$WORK/${place##*/}/." $place
done
rm -f /etc/docker/daemon.json
printf '%s\n' '[containers]' 'default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]' '[engine]' \
    'cgroup_manager = "cgroupfs"' 'events_logger = "file"' > /etc/containers/containers.conf
ip link set lo up
mkdir "$WORK/bin"
cat > "$WORK/bin/systemctl" <<'END'
#!/bin/sh
set -e
test "$1 $2" = "restart docker"
if [ -e /run/docker.pid ]; then
    kill "$(cat /run/docker.pid)"
    while [ -e /run/docker.pid ]; do sleep 0.1; done
fi
dockerd > /run/dockerd.log 2>&1 &
for _ in $(seq 300); do ! docker version > /dev/null 2>&1 || exit 0; sleep 0.1; done
cat /run/dockerd.log >&2
exit 1
END
chmod +x "$WORK/bin/systemctl"
PATH=$WORK/bin:$PATH
"#;

/// What is behind the words "sh NAME" of a block's first line.
fn block(name: &str) -> &'static str {
    let start = format!("```sh {name}\n");
    let text = GUIDE.split_once(&start).unwrap_or_else(|| panic!("no block {name:?} in the guide")).1;
    text.split_once("```").expect("an end of the block").0
}

/// Runs a block behind what brings the image there; its last line of output must be the release of a machine's kernel.
#[track_caller]
fn run(name: &str, image: &str, after: &str) {
    if !is_ours() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let archive = image::archive(directory.path());
    let script = format!("{BEFORE}\n{image}\n{}\n{after}", block(name));
    let unshare =
        Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let shell =
        unshare.args(["sh", "-e", "-u", "-c", &script]).env("WORK", directory.path()).env("ARCHIVE", archive);
    let output = shell.in_directory(Path::new("/")).patience(180).run().expect(0);
    assert!(output.lines().iter().any(|line| line.contains("-clear")), "{output}");
}

fn podman_as_documented(_: &Engine) {
    let image = format!("podman load -q -i $ARCHIVE; podman tag {} docker.io/library/debian", image::NAME);
    run("podman", &image, "");
}

fn docker_as_documented(_: &Engine) {
    let image =
        format!("systemctl restart docker; docker load -q -i $ARCHIVE; docker tag {} debian", image::NAME);
    run("docker", &image, "kill $(cat /run/docker.pid); while [ -e /run/docker.pid ]; do sleep 0.1; done");
}

fn containerd_as_documented(_: &Engine) {
    let image = format!(
        "containerd > /run/log 2>&1 &\nfor _ in $(seq 300); do ! ctr version > /dev/null 2>&1 || break; sleep 0.1; done\n\
         ctr images import $ARCHIVE; ctr images tag {} docker.io/library/debian:latest",
        image::NAME
    );
    run("containerd", &image, "");
}

fn buildah_as_documented(_: &Engine) {
    let image = format!("podman load -q -i $ARCHIVE; podman tag {} docker.io/library/debian", image::NAME);
    run("buildah", &image, "");
}
