//! Root file system, volumes, copies.

use crate::tests;
use std::fs;
use vm_tests::engine::Engine;

tests![
    a_root_can_be_read_only,
    tmpfs_is_mounted_with_its_size,
    directories_files_and_named_volumes_are_mounted,
    copies_go_both_ways,
    changes_are_seen_and_committed,
    names_are_resolved_as_told,
];

fn a_root_can_be_read_only(engine: &Engine) {
    let output = engine
        .script(
            &["--read-only", "--tmpfs=/scratch"],
            "echo x > /scratch/file && cat /scratch/file; echo x > /file",
        )
        .expect(1);
    assert!(output.text() == "x" && output.errors().contains("Read-only"), "{output}");
}

fn tmpfs_is_mounted_with_its_size(engine: &Engine) {
    let output = engine
        .script(
            &["--tmpfs=/small:size=1m,mode=700", "--shm-size=3m"],
            "df -k /small /dev/shm; stat -c %a /small",
        )
        .expect(0);
    let lines = output.lines();
    assert!(lines[1].contains(" 1024 ") && lines[2].contains(" 3072 ") && lines[3] == "700", "{output}");
}

fn directories_files_and_named_volumes_are_mounted(engine: &Engine) {
    let host = tempfile::tempdir().expect("a directory");
    let at = |name: &str| host.path().join(name).display().to_string();
    fs::create_dir(at("dir")).expect("a directory");
    fs::write(at("file"), "one\n").expect("a file");
    let volume = engine.new_name();
    let options = [
        format!("--volume={}:/dir", at("dir")),
        format!("--volume={}:/etc/file", at("file")),
        format!("--volume={}:/ro:ro", at("dir")),
        format!("--volume={volume}:/var/www"),
    ];
    let options = options.each_ref().map(String::as_str);
    let script = "cat /etc/file; echo two > /dir/new; cat /ro/new; echo x > /ro/no; echo three >> /etc/file; echo kept > /var/www/file";
    let output = engine.script(&options, script).expect(0);
    assert_eq!(output.lines(), ["one", "two"]);
    assert!(output.errors().contains("Read-only"), "{output}");
    assert_eq!(fs::read_to_string(at("dir/new")).expect("a file"), "two\n");
    assert_eq!(fs::read_to_string(at("file")).expect("a file"), "one\nthree\n");
    assert_eq!(engine.script(&[options[3]], "cat /var/www/file").expect(0).text(), "kept");
    engine.command(&["volume", "rm", &volume]).ok();
}

fn copies_go_both_ways(engine: &Engine) {
    let host = tempfile::tempdir().expect("a directory");
    let file = host.path().join("file");
    fs::write(&file, "from the host\n").expect("a file");
    let file = file.display().to_string();
    let container = engine.sleeping(&[]);
    let inside = |path: &str| format!("{}:{path}", container.name());
    engine.command(&["cp", &file, &inside("/tmp/there")]).ok();
    assert_eq!(container.sh("cat /tmp/there; echo changed > /root/back"), "from the host");
    let back = host.path().join("back").display().to_string();
    engine.command(&["cp", &inside("/root/back"), &back]).ok();
    assert_eq!(fs::read_to_string(&back).expect("a copy"), "changed\n");
    // A path of the container, not of the host.
    engine.command(&["cp", &inside("/etc/from-image"), &back]).ok();
    assert_eq!(fs::read_to_string(&back).expect("a copy"), "from the image\n");
    engine.command(&["cp", &inside("/none"), &back]).run().expect(if engine.is_docker() { 1 } else { 125 });
}

fn changes_are_seen_and_committed(engine: &Engine) {
    let container = engine.start(&[], &["sh", "-c", "echo new > /added; rm /etc/from-image; sleep 1000"]);
    vm_tests::until("the container's changes", || {
        let changes = container.command(&["diff"]).ok();
        (changes.contains("A /added") && changes.contains("D /etc/from-image")).then_some(())
    });
    let image = format!("localhost/{}", container.name());
    container.command(&["commit"]).arg(&image).ok();
    let run = engine.command(&[
        "run",
        "--rm",
        "--network=none",
        &image,
        "sh",
        "-c",
        "cat /added; ls /etc/from-image",
    ]);
    let output = run.run().expect(1);
    assert_eq!(output.text(), "new");
    engine.command(&["rmi", &image]).ok();
}

fn names_are_resolved_as_told(engine: &Engine) {
    let options =
        ["--network=bridge", "--dns=192.0.2.53", "--dns-search=of.it", "--add-host=other:192.0.2.7"];
    let output = engine.script(&options, "cat /etc/resolv.conf; grep other /etc/hosts").expect(0);
    let text = output.text();
    assert!(text.contains("nameserver 192.0.2.53") && text.contains("search of.it"), "{output}");
    assert!(text.lines().any(|line| line.split_whitespace().eq(["192.0.2.7", "other"])), "{output}");
}
