//! The bytes of a node: canonical whatever was done, and refused where they are not.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::block::Pointer;
use crate::tree::Key;
use crate::tree::node::{Child, Node};
use crate::tree::page::{HEADER_BYTES, NodeDefect, Page, SLOT_BYTES};

const NODE_BYTES: usize = 512;

/// The layout as the room's documentation states it, written a second time.
fn bytes_of(level: u8, items: &BTreeMap<Key, Vec<u8>>) -> Vec<u8> {
    let mut bytes = vec![0; NODE_BYTES];
    bytes[..4].copy_from_slice(&[b'S', b'N', level, 0]);
    bytes[4..8].copy_from_slice(&(items.len() as u32).to_le_bytes());
    let mut end = 0;
    for (i, (key, value)) in items.iter().enumerate() {
        end += value.len();
        let slot = HEADER_BYTES + i * SLOT_BYTES;
        bytes[slot..slot + 8].copy_from_slice(&key.object.to_be_bytes());
        bytes[slot + 8] = key.kind;
        bytes[slot + 9..slot + 17].copy_from_slice(&key.offset.to_be_bytes());
        bytes[slot + 17..slot + 19].copy_from_slice(&(end as u16).to_le_bytes());
        bytes[NODE_BYTES - end..NODE_BYTES - end + value.len()].copy_from_slice(value);
    }
    bytes
}

fn sample(level: u8, count: u64) -> BTreeMap<Key, Vec<u8>> {
    let pointer = |i: u64| {
        let mut bytes = vec![0; Pointer::BYTES];
        bytes[0] = i as u8 + 1; // address
        bytes[16] = 4; // blocks
        bytes[32..].fill(0x5a); // key and tag
        bytes
    };
    let value = |i| if level == 0 { vec![i as u8 | 1; i as usize * 5] } else { pointer(i) };
    (0..count).map(|i| (Key::new(9, 1, i * 10), value(i))).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Set(u64, usize),
    Remove(u64),
    SplitKeepLeft(usize),
    SplitKeepRight(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u64..30, 0usize..60).prop_map(|(k, l)| Op::Set(k, l)),
        4 => (0u64..30).prop_map(Op::Remove),
        1 => (0usize..10).prop_map(Op::SplitKeepLeft),
        1 => (0usize..10).prop_map(Op::SplitKeepRight),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// After any edits the bytes are those that the items alone decide: nothing removed stays.
    #[test]
    fn a_page_is_canonical_after_any_edits(ops in proptest::collection::vec(op(), 1..80)) {
        let mut page = Page::new(NODE_BYTES, 0);
        let mut model = BTreeMap::new();
        for (step, op) in ops.into_iter().enumerate() {
            match op {
                Op::Set(offset, length) => {
                    let (key, value) = (Key::new(1, 2, offset), vec![step as u8 | 1; length]);
                    match page.find(key) {
                        Ok(i) => {
                            if page.used() - page.value(i).len() + length > page.capacity() {
                                continue;
                            }
                            page.replace(i, &value);
                        }
                        Err(_) if !page.fits(length) => continue,
                        Err(i) => page.insert(i, key, &value),
                    }
                    model.insert(key, value);
                }
                Op::Remove(offset) => {
                    let key = Key::new(1, 2, offset);
                    if let Ok(i) = page.find(key) {
                        page.remove(i);
                    }
                    model.remove(&key);
                }
                Op::SplitKeepLeft(i) | Op::SplitKeepRight(i) => {
                    let i = i.min(page.count());
                    let right = page.split_off(i);
                    let keys: Vec<_> = model.keys().copied().collect();
                    let right_model = keys.get(i).map_or_else(BTreeMap::new, |k| model.split_off(k));
                    prop_assert_eq!(right.bytes(), bytes_of(0, &right_model));
                    if matches!(op, Op::SplitKeepRight(_)) {
                        (page, model) = (right, right_model);
                    }
                }
            }
            prop_assert_eq!(page.bytes(), bytes_of(0, &model));
            prop_assert_eq!(page.count() * SLOT_BYTES + model.values().map(Vec::len).sum::<usize>(), page.used());
        }
        match Page::decode(page.bytes(), NODE_BYTES) {
            Ok(back) => prop_assert_eq!(back.bytes(), page.bytes()),
            Err(defect) => prop_assert!(defect == NodeDefect::Count && model.is_empty()),
        }
    }

    /// Any bytes at all: an error or a node that can be used, and that says exactly these bytes.
    #[test]
    fn any_bytes_are_decoded_or_refused(
        level in 0u8..3,
        count in 1u64..6,
        changes in proptest::collection::vec((0usize..NODE_BYTES, any::<u8>()), 0..6),
        near in proptest::collection::vec((0usize..130, 0u8..6), 0..3),
        length in prop_oneof![9 => Just(NODE_BYTES), 1 => 0..NODE_BYTES + 9],
    ) {
        let mut bytes = bytes_of(level, &sample(level, if level == 0 { count } else { count.min(4) }));
        for (at, value) in changes.into_iter().chain(near) {
            bytes[at] = value;
        }
        bytes.resize(length, 0);
        if let Ok(node) = Node::decode(&bytes, NODE_BYTES) {
            prop_assert_eq!(node.page.bytes(), &bytes[..]);
            for i in 0..node.count() {
                prop_assert_eq!(node.page.find(node.key(i)), Ok(i));
                let value = node.value(i);
                prop_assert!(value.len() <= NODE_BYTES / 4);
                if node.level() > 0 {
                    let Child::Disk(pointer) = node.child(i) else { panic!("from disk") };
                    prop_assert_eq!(&pointer.to_bytes()[..], value);
                }
            }
            prop_assert!(node.used_bytes() <= node.capacity_bytes());
        }
    }
}

#[test]
fn each_way_to_be_wrong_is_refused_by_its_name() {
    let leaf = bytes_of(0, &sample(0, 5));
    let inner = bytes_of(1, &sample(1, 4));
    let defect = |bytes: &[u8]| Node::decode(bytes, NODE_BYTES).err();
    assert_eq!((defect(&leaf), defect(&inner)), (None, None));
    assert_eq!(defect(&leaf[1..]), Some(NodeDefect::Length));
    assert_eq!(defect(&[]), Some(NodeDefect::Length));
    let slot = |i| HEADER_BYTES + i * SLOT_BYTES;
    let used: usize = 5 * SLOT_BYTES + HEADER_BYTES;
    let changed = |bytes: &[u8], at: usize, value: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = value;
        defect(&bytes)
    };
    assert_eq!(changed(&leaf, 0, b'X'), Some(NodeDefect::Magic));
    assert_eq!(changed(&leaf, 2, 16), Some(NodeDefect::Level));
    assert_eq!(changed(&leaf, 3, 1), Some(NodeDefect::Flags));
    assert_eq!(changed(&leaf, 4, 0), Some(NodeDefect::Count));
    assert_eq!(changed(&leaf, 7, 0xff), Some(NodeDefect::Count));
    assert_eq!(changed(&leaf, slot(3) + 16, 20), Some(NodeDefect::Order), "a key twice");
    assert_eq!(changed(&leaf, slot(3) + 16, 19), Some(NodeDefect::Order));
    assert_eq!(changed(&leaf, slot(4) + 18, 1), Some(NodeDefect::Value), "past the slots");
    assert_eq!(changed(&leaf, slot(2) + 17, 200), Some(NodeDefect::Value), "longer than may be");
    assert_eq!(changed(&leaf, slot(2) + 17, 1), Some(NodeDefect::Value), "a negative length");
    assert_eq!(changed(&leaf, used, 1), Some(NodeDefect::Slack));
    assert_eq!(changed(&leaf, 4, 4), Some(NodeDefect::Slack), "an item less");
    let end = inner.len();
    assert_eq!(changed(&inner, end - Pointer::BYTES, 0), Some(NodeDefect::Pointer), "address 0");
    assert_eq!(changed(&inner, end - Pointer::BYTES + 20, 1), Some(NodeDefect::Pointer));
    assert_eq!(changed(&leaf, 2, 1), Some(NodeDefect::Pointer), "a leaf is no inner node");
}
