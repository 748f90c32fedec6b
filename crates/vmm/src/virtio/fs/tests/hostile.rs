//! Any bytes as requests: no panic, bounded memory, nothing outside of the directory.

use super::client::Client;
use crate::virtio::fs::Fs;
use crate::virtio::fs::share::Budget;
use crate::virtio::fs::share::{Share, ShareOptions};
use crate::virtio::fs::wire::{Body, IN_HEADER, Opcode};
use crate::virtio::mock;
use crate::virtio::workers::no_thread_start;
use proptest::prelude::*;
use std::sync::Arc;

/// Fields that mean something: small numbers, the limits, names.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![4 => 0..4u64, 1 => Just(u64::MAX), 1 => any::<u64>(), 1 => (0..40u32).prop_map(|bit| 1 << bit)];
    let name = prop_oneof![
        Just("a"),
        Just("b"),
        Just("d"),
        Just(".."),
        Just("../x"),
        Just("/etc/hosts"),
        Just("user.x")
    ];
    let part = prop_oneof![
        6 => number.prop_map(|number| number.to_le_bytes().to_vec()),
        3 => name.prop_map(|name| [name.as_bytes(), b"\0"].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

fn request() -> impl Strategy<Value = (u32, u64, Vec<u8>, i32, u32)> {
    let node = prop_oneof![3 => 1..5u64, 1 => any::<u64>()];
    let room = prop_oneof![3 => Just(70_000u32), 1 => 0..200u32];
    let lie = prop_oneof![9 => Just(0), 1 => -50..50i32];
    (0..60u32, node, body(), lie, room)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_requests(requests in prop::collection::vec(request(), 1..60)) {
        let outer = tempfile::tempdir().unwrap();
        let share = outer.path().join("share");
        std::fs::create_dir(&share).unwrap();
        std::fs::write(share.join("a"), "text").unwrap();
        std::fs::create_dir(share.join("d")).unwrap();
        let mut client = Client::new(&share, ShareOptions { budget: Some(Budget { nodes: 16, files: 16 }), ..ShareOptions::default() });
        for name in ["a", "d"] {
            client.lookup(1, name).unwrap();
        }
        for (opcode, node, body, lie, room) in requests {
            let length = (IN_HEADER + body.len()) as u32;
            let header = Body::default().u32(length.wrapping_add_signed(lie)).u32(opcode).u64(7).u64(node);
            // An unprivileged id and our own: both are asked for by guests.
            let header = header.u32(client.uid).u32(client.gid).zeros(8);
            let silent = Opcode::from_wire(opcode).is_some_and(Opcode::is_silent);
            let answer = client.raw(1, &[header.0, body].concat(), room);
            prop_assert!(answer.len() <= room as usize);
            prop_assert!(!silent || answer.is_empty());
        }
        prop_assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1);
    }

    #[test]
    fn any_bytes(request in prop::collection::vec(any::<u8>(), 2..300), room in 0..300u32) {
        let directory = tempfile::tempdir().unwrap();
        let mut client = Client::new(directory.path(), ShareOptions::default());
        client.raw(0, &request, room);
    }

    #[test]
    fn any_rings(steps in mock::steps()) {
        let directory = tempfile::tempdir().unwrap();
        let root = super::open_directory(directory.path());
        let share = Arc::new(Share::new(root, ShareOptions { readonly: true, ..ShareOptions::default() }).unwrap());
        let mut device = Fs::new("t", share, None, 2, &no_thread_start()).unwrap();
        mock::abuse(&mut device, u64::MAX, &steps);
    }
}
