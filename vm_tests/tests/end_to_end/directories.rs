//! Directories of the host in the guest: everything a file system does, with the effect on the host.

use crate::GUEST_HALF;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use vm_tests::{Bundle, Sandbox, mount};

const CHECKS: [&str; 10] = [
    "sockets",
    "open-unlinked",
    "hard-links",
    "xattrs",
    "mmap-write",
    "rename",
    "locks",
    "large-directory",
    "sparse",
    "times",
];

/// Runs the guest's half in `inside` and looks at what the host has of it in `outside`.
fn check(sandbox: &Sandbox, bundle: &Bundle, inside: &str, outside: &Path) {
    bundle.host_program(GUEST_HALF, "guest_half").program(&[&["guest_half", inside], &CHECKS[..]].concat());
    let output = sandbox.run(bundle).expect(0);
    assert_eq!(output.lines(), CHECKS.map(|name| format!("ok {name}")));
    let metadata =
        |path: &str| fs::symlink_metadata(outside.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert!(metadata("sockets/socket").file_type().is_socket());
    assert!(
        fs::read(outside.join("mmap-write/mapped")).unwrap()[4096..]
            .starts_with(b"written through a mapping")
    );
    assert_eq!(
        fs::read_dir(outside.join("open-unlinked")).unwrap().count(),
        0,
        "nothing of the unlinked file is left"
    );
    let mut value = [0; 64];
    let count =
        rustix::fs::getxattr(outside.join("xattrs/kept"), "user.kept", &mut value).expect("an attribute");
    assert_eq!(&value[..count], b"for the host");
    assert_eq!(metadata("sparse/sparse").len(), (5 << 30) + 3);
    assert_eq!(metadata("times/file").mtime(), 2_000_000);
    fs::remove_dir_all(outside.join("sparse")).unwrap();
}

#[test]
fn a_volume_does_all_that_a_file_system_does() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let volume = sandbox.path().join("volume");
    fs::create_dir(&volume).unwrap();
    bundle.change(|spec| mount(spec, "/volume", "bind", &volume, &["rbind"]));
    check(&sandbox, &bundle, "/volume", &volume);
}

#[test]
fn the_root_does_all_that_a_file_system_does() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let outside = bundle.rootfs("/tmp");
    check(&sandbox, &bundle, "/tmp", &outside);
}

#[test]
fn owners_modes_links_and_pipes_reach_the_host() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.script(
        "cd /tmp; echo x > f; chown 1234:567 f; chmod 4751 f; ln -s /no/where link; mkfifo pipe; mkdir d; chmod 2775 d; \
         ln f hard; (echo through > pipe &); cat pipe; touch 'odd name\n\t\"é'; mkdir -p a/b/c; mv a/b/c c; truncate -s 100 f; \
         stat -c '%a %u %g %h %s' f",
    );
    assert_eq!(sandbox.run(&bundle).expect(0).text(), "through\n4751 1234 567 2 100");
    let at = |name: &str| fs::symlink_metadata(bundle.rootfs("/tmp").join(name)).unwrap();
    let f = at("f");
    assert_eq!((f.uid(), f.gid(), f.mode() & 0o7777, f.nlink(), f.len()), (1234, 567, 0o4751, 2, 100));
    assert_eq!(fs::read_link(bundle.rootfs("/tmp/link")).unwrap(), Path::new("/no/where"));
    assert!(at("pipe").file_type().is_fifo());
    assert_eq!(at("d").mode() & 0o7777, 0o2775);
    assert!(at("c").is_dir() && !bundle.rootfs("/tmp/a/b/c").exists());
}

#[test]
fn a_process_without_rights_has_none_on_the_hosts_files() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    bundle.file("/private", "secret", 0o600);
    let container = sandbox.start(&bundle);
    let output = container.exec_with(&["-u", "1000:1000"], &["cat", "/private"]).run().expect(1);
    assert!(output.errors().contains("ermission denied"), "{output}");
    let made = container.exec_with(
        &["-u", "1000:1000"],
        &["sh", "-c", "echo mine > /home/user/f; stat -c '%u %g' /home/user/f"],
    );
    assert_eq!(made.ok(), "1000 1000");
    assert_eq!(fs::metadata(bundle.rootfs("/home/user/f")).unwrap().uid(), 1000);
}

#[test]
fn a_link_in_a_volume_does_not_lead_out_of_the_machine() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let volume = sandbox.path().join("volume");
    fs::create_dir(&volume).unwrap();
    std::os::unix::fs::symlink(sandbox.path().join("host-secret"), volume.join("link")).unwrap();
    fs::write(sandbox.path().join("host-secret"), "secret").unwrap();
    bundle
        .script("cat /v/link; cat /v/../../../host-secret; ls /v/.. | grep -c rootfs; echo end")
        .change(|spec| mount(spec, "/v", "bind", &volume, &["bind"]));
    let output = sandbox.run(&bundle).expect(0);
    assert_eq!(output.lines(), ["0", "end"]);
}

#[test]
fn a_large_copy_arrives_whole() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle();
    let volume = sandbox.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let mut state = 7_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(8 << 20)
    .flatten()
    .collect();
    fs::write(volume.join("from"), &bytes).unwrap();
    bundle.program(&["cp", "/v/from", "/v/to"]).change(|spec| mount(spec, "/v", "bind", &volume, &["bind"]));
    sandbox.run(&bundle).expect(0);
    assert!(fs::read(volume.join("to")).unwrap() == bytes, "64 MiB arrive unchanged");
}
