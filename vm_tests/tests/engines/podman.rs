//! What Podman and Buildah have alone: pods, builds, users that are not root.

use crate::tests;
use serde_json::json;
use std::fs;
use std::path::Path;
use vm_tests::Command;
use vm_tests::engine::{Container, Engine, image, is_ours};

tests![
    a_runtime_is_named_by_its_path,
    a_pod_of_one_container_is_played,
    a_second_container_of_a_pod_is_refused,
    an_image_is_built,
    buildah_runs_and_commits,
    an_image_without_anything_runs,
    users_that_are_not_root_are_told_why,
];

fn a_runtime_is_named_by_its_path(engine: &Engine) {
    if is_ours() {
        let run =
            ["--runtime", "/usr/local/bin/cor", "run", "--rm", "--network=none", image::NAME, "uname", "-r"];
        assert!(engine.command(&run).ok().contains("clear"));
    }
}

/// A pod as Kubernetes describes it.
fn pod(name: &str, containers: usize) -> String {
    let containers: Vec<_> = (0..containers)
        .map(|index| {
            let script = "echo page > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
            let mut one =
                json!({ "name": format!("c{index}"), "image": image::NAME, "command": ["sh", "-c", script] });
            // Only of a pod that is alone on the host: tests run side by side.
            if containers == 1 {
                one["ports"] = json!([{ "containerPort": 80, "hostPort": 18080 }]);
            }
            one
        })
        .collect();
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": { "containers": containers } })
        .to_string()
}

/// A pod, removed when this is dropped.
struct Pod<'engine>(&'engine Engine, String);

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let output = self.0.command(&["pod", "rm", "--force", &self.1]).run();
        if !std::thread::panicking() {
            output.expect(0);
        }
    }
}

fn play(engine: &Engine, containers: usize) -> (Pod<'_>, vm_tests::Output) {
    let name = engine.new_name();
    let guard = Pod(engine, name.clone());
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), pod(&name, containers)).expect("a description");
    let output = engine.command(&["play", "kube"]).arg(file.path()).run();
    (guard, output)
}

fn a_pod_of_one_container_is_played(engine: &Engine) {
    if !vm_tests::on_podmans_pods() {
        return;
    }
    let (pod, output) = play(engine, 1);
    output.expect(0);
    let page = vm_tests::until("an answer", || get("127.0.0.1:18080"));
    assert!(page.ends_with("page\n"));
    let name = format!("{}-c0", pod.1);
    let exec = engine.command(&["exec", &name, "sh", "-c", "hostname; ip -o -4 addr | grep -c eth0"]);
    assert_eq!(exec.ok().lines().collect::<Vec<_>>(), [pod.1.as_str(), "1"]);
}

fn a_second_container_of_a_pod_is_refused(engine: &Engine) {
    if is_ours() && vm_tests::on_podmans_pods() {
        let (_pod, output) = play(engine, 2);
        assert!(output.errors().contains("each has a machine of its own so far"), "{output}");
    }
}

fn get(place: &str) -> Option<String> {
    crate::users::network::get(place)
}

fn an_image_is_built(engine: &Engine) {
    let directory = tempfile::tempdir().expect("a directory");
    context(directory.path());
    let name = format!("localhost/{}", engine.new_name());
    engine
        .command(&["build", "--network=none", "--isolation=oci", "--tag", &name])
        .arg(directory.path())
        .ok();
    let run = engine.command(&["run", "--rm", "--network=none", &name]).run().expect(0);
    assert_eq!(run.lines(), ["copied", "made by 1000", "argument"]);
    engine.command(&["rmi", &name]).ok();
}

/// What is built from: steps that copy, run as root, and run as somebody else.
fn context(directory: &Path) {
    fs::write(directory.join("file"), "copied\n").expect("a file");
    let text = format!(
        "FROM {}\nCOPY file /file\nARG WHAT=argument\nRUN echo $WHAT > /argument && mkdir -m 777 /there\n\
         USER app\nRUN echo made by $(id -u) > /there/made\nCMD cat /file /there/made /argument\n",
        image::NAME
    );
    fs::write(directory.join("Containerfile"), text).expect("a Containerfile");
}

fn buildah_runs_and_commits(engine: &Engine) {
    // Podman's set-up has the image and the storage that Buildah uses too.
    engine.command(&["image", "exists", image::NAME]).ok();
    let runtime = vm_tests::engine::runtime();
    let path = if is_ours() { "/usr/local/bin/cor".to_string() } else { format!("/usr/sbin/{runtime}") };
    let buildah = |args: &[&str]| Command::new("buildah").args(args);
    let container = buildah(&["from", image::NAME]).ok();
    let limits = ["--ulimit=nproc=900:900", "--ulimit=nofile=900:900"];
    let from = buildah(&["from"]).args(limits).arg(image::NAME).ok();
    let run = buildah(&["run", "--runtime", &path, "--isolation=oci", "--network=none", &from, "--"]);
    let output = run.clone().args(["sh", "-c", "echo x > /made; cat /etc/from-image"]).run().expect(0);
    assert_eq!(output.text(), "from the image");
    run.args(["sh", "-c", "exit 5"]).run().expect(5);
    let name = format!("localhost/{}", engine.new_name());
    buildah(&["commit", "--rm", &from, &name]).ok();
    buildah(&["rm", &container]).ok();
    assert_eq!(engine.command(&["run", "--rm", "--network=none", &name, "cat", "/made"]).ok(), "x");
    engine.command(&["rmi", &name]).ok();
}

fn an_image_without_anything_runs(engine: &Engine) {
    let directory = tempfile::tempdir().expect("a directory");
    let name = format!("localhost/{}:latest", engine.new_name());
    let archive = image::bare_archive(directory.path(), &name);
    engine.command(&["load", "--input"]).arg(archive).ok();
    let output = engine.command(&["run", "--rm", "--network=none", &name, "echo", "runs"]).run().expect(0);
    assert_eq!(output.text(), "runs");
    let container = Container::named(engine, &engine.new_name());
    engine.command(&["run", "-d", "--network=none", "--name", container.name(), &name, "sleep", "1000"]).ok();
    assert_eq!(container.exec(&[], &["/busybox", "echo", "there"]).ok(), "there");
    drop(container);
    engine.command(&["rmi", &name]).ok();
}

fn users_that_are_not_root_are_told_why(_: &Engine) {
    if is_ours() {
        let directory = tempfile::tempdir().expect("a directory");
        Command::new("cor").args(["spec", "--bundle"]).arg(directory.path()).ok();
        let path = directory.path().join("config.json");
        let text = fs::read_to_string(&path).expect("a configuration");
        fs::write(path, text.replace("\"terminal\": true", "\"terminal\": false")).expect("a configuration");
        fs::create_dir(directory.path().join("rootfs")).expect("a directory");
        Command::new("chmod").args(["-R", "a+rX"]).arg(directory.path()).ok();
        let run = ["--reuid=1000", "--regid=1000", "--clear-groups", "cor", "create", "x"];
        let user = Command::new("setpriv").args(run).in_directory(directory.path());
        // Root of a user namespace, as under a rootless engine.
        let namespaced = Command::new("unshare").args(["--user", "--map-root-user", "cor", "create", "x"]);
        for command in [user, namespaced.in_directory(directory.path())] {
            let output = command.run().expect(1);
            assert!(output.errors().contains("rootless containers are not supported yet"), "{output}");
        }
    }
}
