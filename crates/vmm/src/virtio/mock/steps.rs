//! What hostile guests do, for property tests: each sequence is a way through [`super::abuse`].

use super::{DATA, Descriptor, IMAGE, IMAGE_SIZE, RAM_SIZE, Step, WINDOW};
use proptest::prelude::*;

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => DATA..DATA + 4096,
        2 => DATA..RAM_SIZE,
        1 => RAM_SIZE - 64..RAM_SIZE + 64,
        1 => WINDOW - 64..WINDOW + 64,
        1 => IMAGE - 64..IMAGE + 64,
        1 => IMAGE + IMAGE_SIZE - 64..IMAGE + IMAGE_SIZE + 64,
        1 => u64::MAX - 64..=u64::MAX,
        1 => any::<u64>(),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..64_u32, 2 => Just(512_u32), 2 => 0..8192_u32, 1 => any::<u32>(), 1 => u32::MAX - 16..=u32::MAX]
}

fn piece() -> impl Strategy<Value = (u64, u32, bool)> {
    let inside = (DATA..DATA + 65536, prop_oneof![4 => 0..64_u32, 2 => Just(512_u32), 1 => 0..8192_u32]);
    (inside, any::<bool>()).prop_map(|((address, len), write)| (address, len, write))
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 0..8_usize;
    prop_oneof![
        4 => (queue.clone(), 0..8_u16, address(), length(), 0..8_u16, 0..9_u16).prop_map(|(queue, index, address, len, flags, next)|
            Step::Descriptor(queue, Descriptor { index, address, len, flags, next })),
        1 => (0..8_u16, address(), length(), 0..8_u16, 0..9_u16).prop_map(|(index, address, len, flags, next)|
            Step::Indirect(Descriptor { index, address, len, flags, next })),
        2 => (0..4096_u64, prop::collection::vec(prop_oneof![3 => 0..20_u8, 1 => any::<u8>()], 1..64)).prop_map(|(offset, bytes)| Step::Data(offset, bytes)),
        3 => (queue.clone(), prop_oneof![6 => 0..8_u16, 1 => any::<u16>()]).prop_map(|(queue, head)| Step::Offer(queue, head)),
        1 => (queue.clone(), any::<u16>()).prop_map(|(queue, index)| Step::Index(queue, index)),
        6 => (queue, prop::collection::vec(piece(), 1..6)).prop_map(|(queue, mut pieces)| {
            pieces.sort_by_key(|piece| piece.2);
            Step::Chain(queue, pieces)
        }),
        5 => (0..9_u16).prop_map(Step::Kick),
        1 => (prop_oneof![0..80_u64, any::<u64>()], 0..80_usize).prop_map(|(offset, len)| Step::ReadConfig(offset, len)),
        1 => (prop_oneof![0..80_u64, any::<u64>()], prop::collection::vec(any::<u8>(), 0..16)).prop_map(|(offset, bytes)| Step::WriteConfig(offset, bytes)),
        1 => Just(Step::Pump),
        1 => Just(Step::Reset),
    ]
}

/// What a hostile guest may do, in any order.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..60)
}
