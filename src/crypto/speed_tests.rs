//! Speed of the construction on one core, beside the `xts-mode` crate:
//!
//! ```text
//! cargo test --release --lib crypto::speed -- --ignored --nocapture
//! ```

use std::hint::black_box;
use std::time::Duration;

use aes::Aes256;
use aes::cipher::KeyInit;
use xts_mode::{Xts128, get_tweak_default};

use crate::crypto::xts::Xts;
use crate::crypto::{BlockKey, BlockKind, decrypt_block, encrypt_block, new_block_key, open, seal};
use crate::sys::{AlignedBuf, clock};

/// Calls `run` for a fifth of a second, five times; the least processor time of one call in
/// nanoseconds.
fn best_ns(mut run: impl FnMut()) -> f64 {
    run();
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let (start, mut calls) = (clock::thread_cpu_time(), 0u32);
        while clock::thread_cpu_time() - start < Duration::from_millis(200) {
            (0..64).for_each(|_| run());
            calls += 64;
        }
        let ns = (clock::thread_cpu_time() - start).as_secs_f64() * 1e9 / f64::from(calls);
        best = best.min(ns);
    }
    best
}

/// Prints one line and returns GB/s.
fn report(name: &str, bytes: usize, ns: f64) -> f64 {
    let rate = bytes as f64 / ns;
    println!("{name:<48} {rate:>7.2} GB/s {ns:>9.0} ns");
    rate
}

#[test]
#[ignore = "a measurement: run it in a release build, on a quiet machine"]
fn ours_beside_xts_mode() {
    let mut page = AlignedBuf::new(4096);
    let mut node = AlignedBuf::new(16_384);
    let mut counter = 0u64;
    let mut next = || {
        counter += 1;
        let mut key = [7; 32];
        key[..8].copy_from_slice(&counter.to_le_bytes());
        key
    };
    println!("4 KiB, a fresh key each unless said otherwise; one core");
    let ours = report(
        "XTS-AES-256, ours",
        4096,
        best_ns(|| {
            Xts::new(&next(), &[9; 32]).encrypt(0, black_box(&mut page));
        }),
    );
    report(
        "XTS-AES-256, ours, decryption",
        4096,
        best_ns(|| {
            Xts::new(&next(), &[9; 32]).decrypt(0, black_box(&mut page));
        }),
    );
    let theirs = report(
        "XTS-AES-256, xts-mode",
        4096,
        best_ns(|| {
            let (data, tweak) = (Aes256::new(&next().into()), Aes256::new(&[9; 32].into()));
            Xts128::new(data, tweak).encrypt_sector(black_box(&mut page), get_tweak_default(0));
        }),
    );
    println!("{:<48} {:>7.1} times", "ours to xts-mode", ours / theirs);
    report(
        "BLAKE3, keyed",
        4096,
        best_ns(|| {
            black_box(blake3::keyed_hash(&next(), black_box(&page)));
        }),
    );
    report(
        "block: derive, encrypt, tag",
        4096,
        best_ns(|| {
            black_box(encrypt_block(&BlockKey(next()), BlockKind::Data, &mut page));
        }),
    );
    report(
        "block: derive, encrypt, tag, 16 KiB",
        16_384,
        best_ns(|| {
            black_box(encrypt_block(&BlockKey(next()), BlockKind::Node, &mut node));
        }),
    );
    reading_and_sealing();
    assert!(ours > theirs, "batches must pay");
}

fn reading_and_sealing() {
    let key = new_block_key();
    let (plain, mut work) = (AlignedBuf::new(4096), AlignedBuf::new(4096));
    let mut sealed = plain.clone();
    let tag = encrypt_block(&key, BlockKind::Data, &mut sealed);
    report(
        "block: derive, check, decrypt",
        4096,
        best_ns(|| {
            work.copy_from_slice(&sealed);
            decrypt_block(&key, BlockKind::Data, &mut work, &tag).unwrap();
        }),
    );
    report("a fresh key", 32, best_ns(|| drop(black_box(new_block_key()))));
    report("seal, 64 bytes", 64, best_ns(|| drop(black_box(seal(&[1; 32], "t", b"", &[2; 64])))));
    let record = seal(&[1; 32], "t", b"", &[2; 8192]);
    report("open, 8 KiB", 8192, best_ns(|| drop(black_box(open(&[1; 32], "t", b"", &record)))));
}
