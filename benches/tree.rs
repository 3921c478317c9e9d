//! How fast the tree is in memory, without encryption or device:
//! `cargo test --release --bench tree -- --ignored --nocapture --test-threads 1`.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use strongroom::base::{Generation, SegmentId};
use strongroom::block::memory::MemoryStore;
use strongroom::sys::clock;
use strongroom::tree::{Key, NodeKills, Nodes, Tree, Twice, shape};

const ITEMS: u64 = 1_000_000;
const NODE_BYTES: usize = 16 * 1024;

/// A permutation of 64-bit numbers: random order without randomness.
fn mix(i: u64) -> u64 {
    let x = (i ^ (i >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn timed(what: &str, count: u64, f: impl FnOnce()) -> Duration {
    let start = clock::monotonic();
    f();
    let took = clock::monotonic().saturating_sub(start);
    println!("{what:<44} {:>7} ns each", took.as_nanos() / u128::from(count.max(1)));
    took
}

fn run(name: &str, value_bytes: usize, order: fn(u64) -> u64) {
    let store = Arc::new(MemoryStore::new(NODE_BYTES));
    let nodes = Nodes::new(store.clone(), 1 << 30).unwrap();
    let (mut tree, mut kills) = (Tree::empty(), NodeKills::new());
    let value = vec![7; value_bytes];
    let key = |i| Key::new(1, 4, order(i));
    println!("{name}, values of {value_bytes} bytes");
    timed("  put", ITEMS, || {
        for i in 0..ITEMS {
            tree.put(&nodes, Generation(1), key(i), &value, &mut kills).unwrap();
        }
    });
    println!("  {:?}", shape::measure(&tree, &nodes).unwrap());
    let dirty = tree.dirty_nodes() as u64;
    timed("  write, per node", dirty, || {
        tree.write(&nodes, Generation(1), SegmentId(1), Twice::Inner).unwrap();
    });
    timed("  settle, per node", dirty, || tree.settle());
    timed("  get, from the cache", ITEMS, || {
        for i in 0..ITEMS {
            let found = tree.get_with(&nodes, key(mix(i) % ITEMS), |v| v[0]).unwrap();
            assert_eq!(found, Some(7));
        }
    });
    timed("  range, per item", ITEMS, || {
        let mut seen = 0;
        tree.range(&nodes, Key::MIN, Key::MAX, &mut |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(seen, ITEMS);
    });
    let replaced = ITEMS / 10;
    timed("  replace at random in the next interval", replaced, || {
        for i in 0..replaced {
            tree.put(&nodes, Generation(2), key(mix(i) % ITEMS), &value, &mut kills).unwrap();
        }
    });
    timed("  remove", ITEMS, || {
        for i in 0..ITEMS {
            assert!(tree.remove(&nodes, Generation(2), key(i), &mut kills).unwrap().is_some());
        }
    });
    assert!(tree.is_empty());
}

#[test]
#[ignore = "measures; takes some seconds in a release build"]
fn in_order_and_at_random() {
    // 56 bytes: an extent of one block; 1544: one of 32 blocks.
    run("in order", 56, |i| i * 4096);
    run("at random", 56, mix);
    run("at random", 1544, mix);
}
